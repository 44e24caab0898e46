"""The latent vocabulary studied as a vocabulary: how often its terms occur, and which words share one."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from scipy.sparse import coo_array, csr_array

from lib.checks import check_count, check_texts

_WORD = re.compile(r"\w+")


def rank_frequency(counts: Iterable[int]) -> np.ndarray:
    """Return the frequencies of the terms that occur, most frequent first (Zipf's curve), int64 [n_terms]."""
    counts = np.fromiter(counts, np.int64)
    return np.sort(counts[counts > 0])[::-1]


def word_counts(texts: Iterable[str]) -> Counter[str]:
    r"""Return how often each word occurs in `texts`: lower case, `\w+`, neither stemmed nor stopped."""
    counts: Counter[str] = Counter()
    for text in check_texts(texts):
        counts.update(_WORD.findall(text.lower()))
    return counts


def latent_token_matrix(
    indices: np.ndarray, values: np.ndarray, token_ids: np.ndarray, width: int, n_tokens: int
) -> csr_array:
    """Sum each latent's activations over the tokens that had it, by kind of token.

    Parameters
    ----------
    indices, values : np.ndarray, integer and float32 [n, k]
        Codes of n tokens.
    token_ids : np.ndarray, int64 [n]
        The tokenizer's id of each.
    width, n_tokens : int
        Latents, and size of the tokenizer's vocabulary.

    Returns
    -------
    csr_array, float32 [width, n_tokens]
    """
    active = values > 0
    owners = np.broadcast_to(token_ids[:, None], indices.shape)[active]
    return coo_array((values[active], (indices[active], owners)), shape=(width, n_tokens)).tocsr()


def top_tokens(matrix: csr_array, latent: int, vocabulary: Sequence[str], n: int = 5) -> list[tuple[str, float]]:
    """Return the `n` tokens that make up most of a latent's activation, with their shares of it, largest first.

    Parameters
    ----------
    matrix : csr_array, float32 [width, n_tokens]
        As `latent_token_matrix` gives it.
    latent : int
    vocabulary : sequence of str
        The token of each id.
    """
    check_count(n, "n")
    row = slice(matrix.indptr[latent], matrix.indptr[latent + 1])
    tokens, weights = matrix.indices[row], matrix.data[row]
    best = np.argsort(-weights, kind="stable")[:n]
    return [(vocabulary[tokens[i]], float(weights[i] / weights.sum())) for i in best]
