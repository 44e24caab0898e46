"""Sparse codes of tokens to a document-term matrix: latents are the words, their summed activations the counts."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_array

from lib.support.checks import check_choice


class Cells(NamedTuple):
    """Reduces activations, sorted by cell, within each cell: the pair of a text and a latent that its tokens have.

    `starts` is where each cell begins, `xp` the package whose functions apply to the activations.
    `lib.interop.modules.token_pooling` has the same for torch.
    """

    starts: np.ndarray
    xp: Any = np

    def sum(self, z: np.ndarray) -> np.ndarray:
        """Return the sum of each cell, [n_cells]."""
        return np.add.reduceat(z, self.starts)

    def max(self, z: np.ndarray) -> np.ndarray:
        """Return the largest activation of each cell, [n_cells]."""
        return np.maximum.reduceat(z, self.starts)


def pool_sum(z: np.ndarray, cells: Cells) -> np.ndarray:
    """Return w_j = sum_t z_tj, that of Latent Terms (arXiv 2605.29384)."""
    return cells.sum(z)


def pool_max(z: np.ndarray, cells: Cells) -> np.ndarray:
    """Return w_j = max_t z_tj, that of SPLARE (arXiv 2603.13277)."""
    return cells.max(z)


def pool_count(z: np.ndarray, cells: Cells) -> np.ndarray:
    """Return w_j = |{t : z_tj > 0}|."""
    return cells.sum(cells.xp.ones_like(z))


POOLINGS: dict[str, Callable[[Any, Any], Any]] = {"sum": pool_sum, "max": pool_max, "count": pool_count}


class Phi(NamedTuple):
    """A rising function of weights, 0 at 0, and its inverse; both take an array and its package, numpy or torch."""

    apply: Callable[[Any, Any], Any]
    inverse: Callable[[Any, Any], Any]


PHIS = {
    "sqrt": Phi(lambda w, xp: xp.sqrt(w), lambda w, xp: xp.square(w)),
    "log1p": Phi(lambda w, xp: xp.log1p(w), lambda w, xp: xp.expm1(w)),
    "identity": Phi(lambda w, xp: w, lambda w, xp: w),
}


def pool(indices: np.ndarray, values: np.ndarray, offsets: np.ndarray, width: int, pooling: str = "sum") -> csr_array:
    """Pool token codes into one row of latent weights a text (Latent Terms, arXiv 2605.29384).

    Raises ValueError for another pooling, offsets that do not end at n_tokens, a latent outside 0..width-1 and an
    activation NaN.

    Parameters
    ----------
    indices, values : np.ndarray, integer and float32 [n_tokens, k]
        Each token's latents and activations; those that are not above 0 are left out.
    offsets : np.ndarray, int64 [n_texts + 1]
        Text i owns tokens `offsets[i]:offsets[i + 1]`; a text may own none.
    width : int
        Number of latents.
    pooling : {"sum", "max", "count"}
        A name in `POOLINGS`, which has the equations.

    Returns
    -------
    csr_array, float32 [n_texts, width]
        Latents ascending within a row, no stored zeros.
    """
    check_choice(pooling, POOLINGS, "pooling")
    if offsets[-1] != len(indices):
        raise ValueError(f"offsets end at {offsets[-1]}, there are {len(indices)} tokens; they must agree.")
    if indices.size and not 0 <= indices.min() <= indices.max() < width:
        raise ValueError(f"indices run from {indices.min()} to {indices.max()}; latents are 0 to {width - 1}.")
    if np.isnan(values).any():
        raise ValueError("values hold NaN: the states that were encoded do. Use an encoder dtype of wider range.")
    n_texts = len(offsets) - 1
    text_of_token = np.repeat(np.arange(n_texts, dtype=np.int64), np.diff(offsets))
    active = values > 0
    cell_numbers = (text_of_token[:, None] * width + indices)[active]
    order = np.argsort(cell_numbers, kind="stable")
    cell_numbers = cell_numbers[order]
    starts = np.flatnonzero(np.diff(cell_numbers, prepend=-1))
    weights = POOLINGS[pooling](values[active][order].astype(np.float32, copy=False), Cells(starts))
    rows, columns = np.divmod(cell_numbers[starts], width)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=n_texts))])
    return csr_array((weights, columns, indptr), shape=(n_texts, width))


def apply_phi(matrix: csr_array, phi: str = "sqrt") -> csr_array:
    """Return phi of every weight of a term matrix: sqrt (the paper's), log1p or identity.

    Each is 0 at 0, so an absent latent stays absent. Raises a ValueError for another phi, and errors as
    `check_weights`.
    """
    check_choice(phi, PHIS, "phi")
    matrix = check_weights(matrix)
    return with_data(matrix, PHIS[phi].apply(matrix.data, np))


def undo_phi(matrix: csr_array, phi: str) -> csr_array:
    """Return the term matrix of which `apply_phi` makes `matrix`, but for rounding; raises the same errors."""
    check_choice(phi, PHIS, "phi")
    matrix = check_weights(matrix)
    return with_data(matrix, PHIS[phi].inverse(matrix.data, np))


def with_data(matrix: csr_array, data: np.ndarray) -> csr_array:
    """Return a matrix with other values in the same places; `data` is in the order of `matrix.data`."""
    return csr_array((data, matrix.indices, matrix.indptr), shape=matrix.shape)


def check_weights(matrix: csr_array, what: str = "the term matrix") -> csr_array:
    """Return `matrix` as a float32 `csr_array` of term weights: latents ascending in a row, no stored zeros.

    Raises TypeError if it is not a scipy sparse matrix or array; ValueError if a weight is NaN, infinite or negative
    (its row is named).
    """
    if not hasattr(matrix, "tocsr"):
        raise TypeError(
            f"{what} is a {type(matrix).__name__}; pass a scipy.sparse array [n_texts, width], "
            "for example what encode_documents returns."
        )
    matrix = csr_array(matrix.reshape(1, -1) if matrix.ndim == 1 else matrix, dtype=np.float32)  # 1-D: one row
    if not matrix.has_canonical_format or not matrix.data.all():
        matrix = matrix.copy()  # the caller's stays as it is
        matrix.sum_duplicates()
        matrix.eliminate_zeros()
    if not 0 <= matrix.data.min(initial=0) <= matrix.data.max(initial=0) < np.inf:  # of a NaN, both are NaN
        wrong = np.flatnonzero(~(np.isfinite(matrix.data) & (matrix.data >= 0)))
        row = int(np.searchsorted(matrix.indptr, wrong[0], side="right") - 1)
        raise ValueError(
            f"{what} holds {matrix.data[wrong[0]]} in row {row}; term weights are finite and at least 0. "
            "Apply ReLU before pooling."
        )
    return matrix
