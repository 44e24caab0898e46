"""BM25 over latents in the engines that people already run.

The score is an inner product of what a document has, w(d) (k1 + 1) / (w(d) + k1 (1 - b + b |d| / avgdl)), and what a
query has, w(q) * idf. Every engine is given these numbers and told to multiply and add, nothing else: no idf, no
saturation and no length of its own. N, df and avgdl are those of the index at the time of the export: documents that
are added to the engine later, with the impacts of another index, do not fit the old ones. Export again instead.

Engines leave out documents that share no latent with the query; an index ranks them last, with score 0.
"""
