"""Fewer postings: the largest weights of each text, or no latents that nearly every text has."""

import numpy as np
from scipy.sparse import csr_array

from lib.checks import check_count
from lib.terms import check_weights


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
        Above 0 and at most 1: a row keeps the fewest weights that make up this share of its sum.

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
    if mass is not None:
        before = np.cumsum(matrix.data[order], dtype=np.float64) - matrix.data[order]
        firsts = np.minimum(matrix.indptr[:-1], max(0, len(order) - 1))
        sums = matrix.sum(axis=1, dtype=np.float64)
        start = before[firsts] if len(order) else np.zeros(len(counts))
        kept &= before - np.repeat(start, counts) < mass * np.repeat(sums, counts) * (1 - 1e-12)
    stays = np.zeros(len(order), bool)
    stays[order[kept]] = True
    return _only(matrix, stays)


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
