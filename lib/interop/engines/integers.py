"""Impacts as integers, for Lucene by way of Anserini and Pyserini, and what the rounding costs.

Anserini's `JsonVectorCollection` takes one JSON object a line, `{"id": ..., "contents": ..., "vector": {term: count}}`,
repeats each term as often as its count says and, told `-impact -pretokenized`, scores sum_j weight_j * count_j:
https://github.com/castorini/anserini/blob/master/src/main/java/io/anserini/collection/JsonVectorCollection.java
Counts are impacts times a scale, rounded. Queries keep their float32 weights, by
`lib.interop.engines.files.query_weights`:
Pyserini's `LuceneImpactSearcher` hands {term: weight} to Lucene. Scores found are ours times the scale.

What a scale costs, here for the packaged model; the README has the figures:

    collection, model = load_collection("pydoc/2000/test"), LatentTerms.load()
    index = model.index(model.encode_documents(collection.doc_texts), collection.doc_ids)
    queries = model.encode_queries(collection.query_texts)
    for scale in (10, 100, 1_000):
        print(scale, rounding_loss(index, queries, scale, k=100))

The Common Index File Format (CIFF) is not written: ciff-toolkit 0.2.2, the writer there is for Python, needs protobuf
below 5, and pymilvus 3 one above.
"""

import json
import math
from numbers import Real
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from lib.bm25.index import BM25Index
from lib.interop.engines.vectors import Document, documents, query_vectors
from lib.support.checks import check_count
from lib.support.folders import replacing

SCALE = 100.0
_MAX_COUNT = 2**31 - 1  # Java's int


class RoundingLoss(NamedTuple):
    """What a scale costs, over some queries.

    Attributes
    ----------
    score_error : float
        Largest difference of a score from ours, over all documents, in units of our score.
    relative_error : float
        The same as a part of the query's best score.
    overlap : float
        Part of our k best documents, of those with a score above 0, that are among the k best of the integers, as a
        mean over queries that find any.
    """

    score_error: float
    relative_error: float
    overlap: float


def write_anserini(index: BM25Index, path: str | Path, scale: float = SCALE) -> None:
    """Write an index as JSON lines for Anserini, streamed, and in place of `path` in one step when it is done.

    Anserini indexes a folder of such files with `-collection JsonVectorCollection -impact -pretokenized`; Lucene
    holds the sum of a document's counts as words, so a scale of 1,000 is ten times the work of 100.

    Parameters
    ----------
    index : BM25Index
    path : str or Path
        Such as "impacts.jsonl".
    scale : float
        Above 0: an impact of 1 becomes this count.

    Raises
    ------
    TypeError, ValueError
        For a scale that is not above 0, under which an impact becomes 0 or does not fit 31 bits, or for which a
        document's counts do not.
    """
    scale = _check_scale(scale)
    limits = (0.5 / scale, _MAX_COUNT / scale)
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as file:
        for document in documents(index, f"Anserini at scale {scale:g}", limits, "give another scale"):
            file.write(_line(document, scale))


def _line(document: Document, scale: float) -> str:
    counts = counted(document.impacts, scale)
    if counts.sum() > _MAX_COUNT:
        raise ValueError(
            f"document {document.doc_id!r} has {counts.sum()} words at scale {scale:g}; Lucene takes {_MAX_COUNT} at "
            "most. Give a smaller scale."
        )
    vector = ",".join(f'"{j}":{count}' for j, count in zip(document.latents.tolist(), counts.tolist(), strict=True))
    return f'{{"id":{json.dumps(document.doc_id)},"contents":"","vector":{{{vector}}}}}\n'


def counted(impacts: np.ndarray, scale: float) -> np.ndarray:
    """Return impacts times scale, rounded, halves up, int64."""
    return np.floor(impacts.astype(np.float64) * scale + 0.5).astype(np.int64)


def rounding_loss(index: BM25Index, queries: csr_array, scale: float = SCALE, k: int = 100) -> RoundingLoss:
    """Return what is lost when the impacts of an index become integers at a scale.

    Every document is scored, a block at a time, with exact and with rounded impacts: some hundred queries are enough
    for a choice, and what fits the memory: float32 [n_queries, 16,384], a few times.

    Parameters
    ----------
    index : BM25Index
    queries : csr_array, float32 [n_queries, width]
    scale : float
    k : int

    Raises
    ------
    TypeError, ValueError
        As `write_anserini` and `BM25Index.search`, and if no query shares a latent with a document.
    """
    scale, k = _check_scale(scale), check_count(k, "k")
    vectors = query_vectors(index, queries)
    kept = [(np.empty((vectors.shape[0], 0)), np.empty((vectors.shape[0], 0), np.int64)) for _ in range(2)]
    error, first = np.zeros(vectors.shape[0]), 0
    for rows in index.impact_rows():
        rounded = csr_array((counted(rows.data, scale) / scale, rows.indices, rows.indptr), shape=rows.shape)
        scores = [(vectors @ impacts.T).toarray() for impacts in (rows.astype(np.float64), rounded)]
        error = np.maximum(error, np.abs(scores[0] - scores[1]).max(axis=1))
        kept = [_best(*best, new, first, k) for best, new in zip(kept, scores, strict=True)]
        first += rows.shape[0]
    (exact, exact_docs), (_, rounded_docs) = kept
    answered = np.flatnonzero(exact[:, 0] > 0)
    if not len(answered):
        raise ValueError("No query shares a latent of idf above 0 with a document; give queries that find something.")
    ours = [set(exact_docs[row][exact[row] > 0].tolist()) for row in answered]
    theirs = [set(rounded_docs[row].tolist()) for row in answered]
    overlaps = [len(a & b) / len(a) for a, b in zip(ours, theirs, strict=True)]
    relative = error[answered] / exact[answered, 0]
    return RoundingLoss(float(error.max()), float(relative.max()), float(np.mean(overlaps)))


def _best(scores: np.ndarray, docs: np.ndarray, new: np.ndarray, first: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k best of those kept and of a block's, [n_queries, k], best first, ties in the documents' order."""
    scores = np.hstack([scores, new])
    docs = np.hstack([docs, np.broadcast_to(np.arange(first, first + new.shape[1]), new.shape)])
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(docs, order, axis=1)


def _check_scale(scale: float) -> float:
    if not isinstance(scale, Real) or isinstance(scale, bool):
        raise TypeError(f"scale is {scale!r} ({type(scale).__name__}); it must be a number above 0, such as {SCALE}.")
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"scale is {scale}; it must be above 0 and finite, such as {SCALE}.")
    return float(scale)
