"""Fewer postings: the largest weights of each text, or no latents that nearly every text has."""

from collections.abc import Callable

import numpy as np
from scipy.sparse import csr_array

from lib.bm25.pooling import check_weights, with_data
from lib.support.checks import check_count
from lib.support.compiled import compiled


def keep_top(matrix: csr_array, n: int, by: np.ndarray | None = None) -> csr_array:
    """Return the `n` largest weights of each row; of equal ones those of the smaller latents.

    The Top-K pooling of SPLARE (arXiv 2603.13277), there 40 for queries and 400 for documents. `matrix`, float32
    [n_texts, width], are term weights. With `by`, floats [width], the largest products of weight and `by` are kept: of
    a query's with an index's `idf`, k1 + 1 times each bounds what the latent adds to a score.

    TypeError or ValueError for weights that are NaN, infinite or negative, for an `n` that is not an integer of at
    least 1, and for a `by` that is of another length or not finite.
    """
    check_count(n, "n")
    matrix = check_weights(matrix)
    worth = matrix
    if by is not None:
        by = np.asarray(by)
        if by.shape != matrix.shape[1:]:
            raise ValueError(f"by has the shape {by.shape}; it must be {matrix.shape[1:]}, a number a latent.")
        if not np.isfinite(by).all():
            raise ValueError(f"by is {by[~np.isfinite(by)][0]} for a latent; it must be finite, as an index's idf is.")
        worth = with_data(matrix, matrix.data * by[matrix.indices])
    order, counts = _descending(worth), np.diff(matrix.indptr)
    rank = np.arange(matrix.nnz) - np.repeat(matrix.indptr[:-1], counts)
    return _only(matrix, order[rank < n])


def keep_mass(matrix: csr_array, share: float) -> csr_array:
    """Return the fewest weights of each row that make up a share of its sum; of equal ones those of smaller latents.

    That is a share of term weight, not of what the weights add to a score; and the length |d| of a pruned document is
    the sum of the weights that it keeps. `matrix`, float32 [n_texts, width], are term weights. TypeError or ValueError
    for weights that are NaN, infinite or negative, and for a `share` that is not above 0 and at most 1.
    """
    _check_share(share)
    matrix = check_weights(matrix)
    if share == 1:
        return matrix
    order = _descending(matrix)
    return _only(matrix, order[_within(matrix.data[order], matrix.indptr, share)])


def drop_frequent(matrix: csr_array, share: float) -> csr_array:
    """Return documents without the latents that more than a share of them has, float32 [n_docs, width].

    TypeError or ValueError as `keep_mass`.
    """
    _check_share(share)
    matrix = check_weights(matrix)
    df = np.bincount(matrix.indices, minlength=matrix.shape[1])
    return _only(matrix, np.flatnonzero((df <= share * matrix.shape[0])[matrix.indices]))


PRUNINGS: dict[str, Callable[..., csr_array]] = {
    "top": keep_top,
    "mass": keep_mass,
    "frequency": drop_frequent,
}


def _check_share(share: float) -> None:
    if not 0 < share <= 1:
        raise ValueError(f"share is {share!r}; it must be above 0 and at most 1, such as 0.5.")


def _descending(matrix: csr_array) -> np.ndarray:
    """Return the positions of the weights, row by row and in each from the largest, of equal ones the first, int64."""
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    return np.lexsort((-matrix.data, rows))


@compiled()
def _within(weights, indptr, share):
    """Say of which weights, descending in each row, those before them in the row are less than `share` of its sum."""
    stays = np.zeros(len(weights), np.bool_)
    for row in range(len(indptr) - 1):
        total = 0.0
        for position in range(indptr[row], indptr[row + 1]):
            total += weights[position]
        least = share * total * (1 - 1e-12)  # 0.6 of 10 is 6, whatever the rounding
        before = 0.0
        for position in range(indptr[row], indptr[row + 1]):
            stays[position] = before < least
            before += weights[position]
    return stays


def _only(matrix: csr_array, positions: np.ndarray) -> csr_array:
    """Return the matrix with only the weights at these positions of its `data`."""
    stays = np.zeros(matrix.nnz, bool)
    stays[positions] = True
    indptr = np.concatenate([[0], np.cumsum(stays)])[matrix.indptr]
    return csr_array((matrix.data[stays], matrix.indices[stays], indptr), shape=matrix.shape)
