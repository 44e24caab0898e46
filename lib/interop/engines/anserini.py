"""Impacts as integers, for Lucene by way of Anserini and Pyserini, and what the rounding costs.

Anserini's `JsonVectorCollection` takes one JSON object a line, `{"id": ..., "contents": ..., "vector": {term: count}}`,
and repeats each term as often as its count says. Indexed with `-impact -pretokenized`, it scores
sum_j weight_j * count_j:
https://github.com/castorini/anserini/blob/master/src/main/java/io/anserini/collection/JsonVectorCollection.java
Counts are impacts times a scale, rounded, so scores are ours times the scale. What a scale costs:

    for scale in (10, 100, 1_000):
        print(scale, rounding_loss(index, queries, scale, k=100))

Pyserini's `LuceneImpactSearcher` hands {term: weight} to Lucene. Some versions keep the float, others (`JInt(weight)`)
cut it to an integer: look at yours, and multiply the weights by a constant, such as 1,000, before where it does.

The Common Index File Format (CIFF) is not written: ciff-toolkit 0.2.2, the writer for Python, needs protobuf below 5,
and pymilvus 3 needs one above.
"""

import json
import math
from collections.abc import Iterator
from numbers import Real
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from lib.bm25.index import BM25Index
from lib.interop.engines.vectors import Document, query_vectors
from lib.support.checks import check_count

SCALE = 100.0
_MAX_COUNT = 2**31 - 1  # Java's int


def json_vectors(stream: Iterator[Document], scale: float = SCALE) -> Iterator[str]:
    """Return the lines of a JsonVectorCollection, in which an impact of 1 is the count `scale`.

    Lucene holds the sum of a document's counts as words, so a scale of 1,000 is ten times the work of 100. TypeError or
    ValueError for a scale that is not above 0, and ValueError for a document with a count that is 0 or too large.
    """
    scale = _check_scale(scale)
    return (_line(document, scale) for document in stream)


def _line(document: Document, scale: float) -> str:
    counts = counted(document.impacts, scale)
    if len(counts) and not (counts.min() >= 1 and counts.sum() <= _MAX_COUNT):
        sizes = f"counts from {counts.min():.0f}, {counts.sum():.0f} in all, at scale {scale:g}"
        raise ValueError(f"document {document.doc_id!r} has {sizes}; Lucene takes 1 to {_MAX_COUNT}. Give another.")
    pairs = zip(document.latents.tolist(), counts.astype(np.int64).tolist(), strict=True)
    vector = ",".join(f'"{latent}":{count}' for latent, count in pairs)
    return f'{{"id":{json.dumps(document.doc_id)},"contents":"","vector":{{{vector}}}}}\n'


def counted(impacts: np.ndarray, scale: float) -> np.ndarray:
    """Return impacts times scale, rounded to whole numbers, halves up, float64."""
    return np.floor(impacts.astype(np.float64) * scale + 0.5)


def impact_query(weights: dict[str, float], k: int) -> dict:
    """Return the weights of a query by term, for a query encoder of Pyserini's `LuceneImpactSearcher`, and k."""
    return {"query": weights, "k": k}


class RoundingLoss(NamedTuple):
    """What a scale costs, over some queries."""

    score_error: float  # largest difference of a score from ours, over all documents
    relative_error: float  # the same as a part of the query's best score
    overlap: float  # part of our k best that are among the k best by integers, as a mean over queries that find any


def rounding_loss(index: BM25Index, queries: csr_array, scale: float = SCALE, k: int = 100) -> RoundingLoss:
    """Return what is lost when the impacts of an index become integers at a scale.

    All documents are scored, a block at a time; memory holds a few arrays [n_queries, 16,384].

    Raises TypeError or ValueError for a scale that is not above 0, as `BM25Index.search`, and if no query shares a
    latent with a document.

    Parameters
    ----------
    index : BM25Index
    queries : csr_array, float32 [n_queries, width]
    scale : float
        The count that an impact of 1 becomes, above 0.
    k : int
        Depth of the two rankings that are compared.
    """
    scale, k = _check_scale(scale), check_count(k, "k")
    vectors = query_vectors(index, queries)
    n_queries = vectors.shape[0]
    exact = rounded = (np.empty((n_queries, 0)), np.empty((n_queries, 0), np.int64))
    errors, first = np.zeros(n_queries), 0
    for rows in index.impact_rows():
        integers = csr_array((counted(rows.data, scale) / scale, rows.indices, rows.indptr), shape=rows.shape)
        exact_scores, rounded_scores = ((vectors @ m.T).toarray() for m in (rows.astype(np.float64), integers))
        errors = np.maximum(errors, np.abs(exact_scores - rounded_scores).max(axis=1))
        exact = _best(*exact, exact_scores, first, k)
        rounded = _best(*rounded, rounded_scores, first, k)
        first += rows.shape[0]
    scores, docs = exact
    answered = np.flatnonzero(scores[:, 0] > 0)
    if not len(answered):
        raise ValueError("No query shares a latent of idf above 0 with a document; give queries that find something.")
    overlaps = [np.isin(docs[row][scores[row] > 0], rounded[1][row]).mean() for row in answered]
    relative = errors[answered] / scores[answered, 0]
    return RoundingLoss(float(errors.max()), float(relative.max()), float(np.mean(overlaps)))


def _best(scores: np.ndarray, docs: np.ndarray, new: np.ndarray, first: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k best of the best so far and of a block, [n_queries, k], best first, ties in the documents' order."""
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
