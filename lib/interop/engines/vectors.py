"""What an engine is given: the impacts of documents and the weights of queries, row by row."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from lib.bm25.index import BM25Index
from lib.bm25.weighting import FLOAT32_MAX, check_query_weights

FLOAT32 = (float(np.finfo(np.float32).tiny), FLOAT32_MAX)


class Document(NamedTuple):
    """A document's position in the index and its id, its latents, int64, ascending, and their impacts, float32."""

    position: int
    doc_id: str
    latents: np.ndarray
    impacts: np.ndarray


def documents(index: BM25Index, target: str, limits: tuple[float, float] = FLOAT32) -> Iterator[Document]:
    """Yield the documents of an index, a block in memory at a time; ValueError for impacts beyond the `limits`."""
    position = 0
    for rows in index.impact_rows():
        _check_limits(rows.data, "impact", target, limits, "prune what is below, or lower k1")
        for latents, impacts in _pairs(rows):
            yield Document(position, index.doc_ids[position], latents, impacts)
            position += 1


def batches(stream: Iterable[Document]) -> Iterator[list[Document]]:
    """Yield the documents of a stream in lists of 500, some megabytes: what a client sends at once."""
    stream = iter(stream)
    while batch := list(islice(stream, 500)):
        yield batch


def query_vectors(index: BM25Index, queries: csr_array) -> csr_array:
    """Return w_j(q) * idf_j, float32 [n_queries, width], without those that are 0.

    TypeError or ValueError for another width, weights that are NaN, infinite, negative or so large that scores could
    overflow, and an idf below 0.
    """
    queries = check_query_weights(queries, index.largest_k1)
    if queries.shape[1] != index.width:
        raise ValueError(f"the query matrix has {queries.shape[1]} latents, the index {index.width}; use one model.")
    weights = queries.data * index.idf[queries.indices]
    if (weights < 0).any():
        latent = queries.indices[weights.argmin()]
        raise ValueError(f"latent {latent} has idf {index.idf[latent]}; use idf 'lucene' or 'robertson-clipped'.")
    vectors = csr_array((weights, queries.indices, queries.indptr), shape=queries.shape, copy=True)
    vectors.eliminate_zeros()
    return vectors


def each_query(
    index: BM25Index, queries: csr_array, target: str, limits: tuple[float, float] = FLOAT32
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the latents, int64, and weights, float32, of each row of `query_vectors`, all within `limits`."""
    vectors = query_vectors(index, queries)
    _check_limits(vectors.data, "query weight", target, limits, "multiply the query matrix by a constant")
    yield from _pairs(vectors)


def _pairs(rows: csr_array) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start, end in zip(rows.indptr[:-1], rows.indptr[1:], strict=True):
        yield rows.indices[start:end].astype(np.int64), rows.data[start:end]


def _check_limits(values: np.ndarray, noun: str, target: str, limits: tuple[float, float], remedy: str) -> None:
    smallest, largest = limits
    outside = values[~((values >= smallest) & (values <= largest))]
    if len(outside):
        raise ValueError(f"{noun} {outside[0]:.9g} does not fit {target}: {smallest:.9g} to {largest:.9g}; {remedy}.")
