"""Fewer postings: the largest weights of each text, or no latents that nearly every text has."""

import numpy as np
from numba import njit
from scipy.sparse import csr_array

from lib.bm25.pooling import check_weights
from lib.support.checks import check_count


def prune(matrix: csr_array, *, top: int | None = None, mass: float | None = None) -> csr_array:
    """Return the largest weights of each row; of equal ones those of the smaller latents.

    `top` is the Top-K pooling of SPLARE (arXiv 2603.13277), there 40 for queries and 400 for documents. With both
    given, a weight stays that both would keep.

    Parameters
    ----------
    matrix : csr_array, float32 [n_texts, width]
        Term weights of documents or of queries.
    top : int, optional
        How many weights a row keeps, at most.
    mass : float, optional
        Above 0 and at most 1: a row keeps the fewest weights that make up this share of its sum. That is a share of
        term weight, not of what the weights add to a score; and of documents that are indexed pruned, |d| is the sum
        of what was kept.

    Returns
    -------
    csr_array, float32 [n_texts, width]

    Raises
    ------
    TypeError, ValueError
        For weights that are NaN, infinite or negative, `top` below 1, `mass` out of range, and neither given.
    """
    if top is None and mass is None:
        raise ValueError("Neither top nor mass is given; say how much of a row is to stay, such as top=400.")
    if mass is not None and not 0 < mass <= 1:
        raise ValueError(f"mass is {mass!r}; it must be above 0 and at most 1, such as 0.9.")
    matrix = check_weights(matrix)
    counts = np.diff(matrix.indptr)
    rows = np.repeat(np.arange(matrix.shape[0]), counts)
    order = np.lexsort((-matrix.data, rows))  # stable: equal weights stay in the order of their latents
    kept = np.ones(len(order), bool)
    if top is not None:
        kept &= np.arange(len(order)) - np.repeat(matrix.indptr[:-1], counts) < check_count(top, "top")
    if mass is not None and mass < 1:
        kept &= _within(matrix.data[order], matrix.indptr, mass)
    stays = np.zeros(len(order), bool)
    stays[order[kept]] = True
    return _only(matrix, stays)


@njit(cache=True, nogil=True)
def _within(weights, indptr, mass):
    """Say of which weights, descending in each row, those before them in the row are less than `mass` of its sum."""
    kept = np.zeros(len(weights), np.bool_)
    for row in range(len(indptr) - 1):
        total = 0.0
        for at in range(indptr[row], indptr[row + 1]):
            total += weights[at]
        least = mass * total * (1 - 1e-12)  # 0.6 of 10 is 6, whatever the rounding
        before = 0.0
        for at in range(indptr[row], indptr[row + 1]):
            kept[at] = before < least
            before += weights[at]
    return kept


def drop_frequent(matrix: csr_array, max_share: float) -> csr_array:
    """Return documents without the latents that more than a share `max_share` of them has, float32 [n_docs, width].

    Raises
    ------
    TypeError, ValueError
        For weights that are NaN, infinite or negative, and `max_share` that is not above 0 and at most 1.
    """
    if not 0 < max_share <= 1:
        raise ValueError(f"max_share is {max_share!r}; it must be above 0 and at most 1, such as 0.5.")
    matrix = check_weights(matrix)
    df = np.bincount(matrix.indices, minlength=matrix.shape[1])
    return _only(matrix, (df <= max_share * matrix.shape[0])[matrix.indices])


def _only(matrix: csr_array, stays: np.ndarray) -> csr_array:
    indptr = np.concatenate([[0], np.cumsum(stays)])[matrix.indptr]
    return csr_array((matrix.data[stays], matrix.indices[stays], indptr), shape=matrix.shape)
