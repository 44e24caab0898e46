"""BM25 over latents in the engines that people already run.

    write(index, folder, "elasticsearch")                              # files that load the index into a server
    request(index, queries[[0]], "elasticsearch", k=100)               # the body of a search
    ENGINES["qdrant"](index, client).search(queries, query_ids, 100)   # an engine in this process

The score is an inner product of what a document has, w(d) (k1 + 1) / (w(d) + k1 (1 - b + b |d| / avgdl)), and what a
query has, w(q) * idf. Every engine is given these numbers and multiplies and adds, nothing else: it applies no idf,
saturation or length normalisation of its own. N, df and avgdl are those of the index at the time of the export:
documents that are added to the engine later, with the impacts of another index, do not fit the old ones. Export again
instead.

Engines leave out documents that share no latent with the query; an index ranks them last, with score 0.
"""

from lib.interop.engines.anserini import RoundingLoss, rounding_loss
from lib.interop.engines.files import TARGETS, Target, request, write
from lib.interop.engines.local import ENGINES, Engine

__all__ = ["ENGINES", "TARGETS", "Engine", "RoundingLoss", "Target", "request", "rounding_loss", "write"]
