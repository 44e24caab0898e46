"""Families of latents: lexical ones stand for a word, narrow ones for a few, broad ones for many."""

from collections.abc import Sequence

import numpy as np
import Stemmer
from scipy.sparse import csr_array

from lib.support.checks import check_count

FAMILIES = ("lexical", "narrow", "broad")
UNSEEN = "rare"
FEW = 5  # how many words a narrow latent may stand for
HALF = 0.5  # the share of a latent that its word, or its few words, must make up


def group_words(tokens: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Put the forms of a word together: lower case, without WordPiece's "##", stemmed (Snowball English).

    Parameters
    ----------
    tokens : sequence of str
        The tokenizer's vocabulary, in order of its ids.

    Returns
    -------
    np.ndarray, int64 [n_tokens]
        The word of each token.
    list of str
        The words.
    """
    stems = Stemmer.Stemmer("english").stemWords([token.lower().removeprefix("##") for token in tokens])
    words = {stem: number for number, stem in enumerate(dict.fromkeys(stems))}
    return np.array([words[stem] for stem in stems], np.int64), list(words)


def by_word(matrix: csr_array, word_of: np.ndarray, n_words: int) -> csr_array:
    """Sum a latent-by-token matrix over the tokens of each word, float32 [width, n_words]."""
    n_tokens = len(word_of)
    indicator = csr_array((np.ones(n_tokens, np.float32), (np.arange(n_tokens), word_of)), shape=(n_tokens, n_words))
    return csr_array(matrix @ indicator)


def concentration(matrix: csr_array, n: int) -> np.ndarray:
    """Return the share of each row's sum that its `n` largest weights make up, float64 [n_rows]; 0 for an empty row."""
    n = check_count(n, "n")
    shares = np.zeros(matrix.shape[0])
    for row, (start, end) in enumerate(zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True)):
        weights = matrix.data[start:end].astype(np.float64)
        if len(weights):
            largest = np.partition(weights, len(weights) - n)[-n:] if len(weights) > n else weights
            shares[row] = largest.sum() / weights.sum()
    return shares


def families(matrix: csr_array, seen: np.ndarray, half: float = HALF) -> np.ndarray:
    """Sort latents into families by how few words make up half of them.

    lexical: one word makes up `half` of the row's sum; narrow: five words do; broad: they do not. It is a rule about
    words, so it can be applied to any evidence of which words a latent belongs to.

    Parameters
    ----------
    matrix : csr_array, float32 [width, n_words]
        Evidence that a latent belongs to a word, at least 0: activation, or a number of contexts.
    seen : np.ndarray, bool [width]
        Whether there is enough evidence; the others are "rare".
    half : float
        Above 0 and at most 1.

    Returns
    -------
    np.ndarray, str [width]
        "lexical", "narrow", "broad" or "rare".

    Raises
    ------
    ValueError
        For `half` out of range, and a mask of another length.
    """
    if not 0 < half <= 1:
        raise ValueError(f"half is {half!r}; it must be above 0 and at most 1, such as 0.5.")
    if seen.shape != (matrix.shape[0],):
        raise ValueError(f"seen has shape {seen.shape}; it must be ({matrix.shape[0]},), one for each latent.")
    one, few = (concentration(matrix, n) >= half for n in (1, FEW))
    return np.select([~seen, one, few], [UNSEEN, *FAMILIES[:2]], FAMILIES[2])


def strongest(latents: np.ndarray, texts: np.ndarray, values: np.ndarray, n: int) -> np.ndarray:
    """Return the places of each latent's strongest occurrence in each text, for its `n` strongest texts.

    Parameters
    ----------
    latents, texts, values : np.ndarray, integer, integer and float32 [n_occurrences]
    n : int
        Texts of a latent, at most.

    Returns
    -------
    np.ndarray, int64
        Latents ascending, each one's occurrences from strong to weak; of equal ones the first in order.
    """
    order = np.lexsort((-values, texts, latents))
    starts = np.flatnonzero(np.diff(latents[order], prepend=-1) | np.diff(texts[order], prepend=-1))
    best = order[starts]  # one of each text
    best = best[np.lexsort((-values[best], latents[best]))]
    first = np.flatnonzero(np.diff(latents[best], prepend=-1))
    place = np.arange(len(best)) - np.repeat(first, np.diff(first, append=len(best)))
    return best[place < check_count(n, "n")]


def kappa(first: np.ndarray, second: np.ndarray, n_resamples: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """Return Cohen's kappa of two labellings with its 95 % percentile bootstrap interval over the labelled.

    kappa = (p_o - p_e) / (1 - p_e): the agreement beyond that of chance, as a share of what chance leaves (Cohen,
    Educational and Psychological Measurement 20, 1960).

    Parameters
    ----------
    first, second : np.ndarray, str or integer [n]
    n_resamples, seed : int
        Of the interval.

    Raises
    ------
    ValueError
        For labellings that are empty or differ in length.
    """
    if len(first) != len(second) or not len(first):
        raise ValueError(f"there are {len(first)} and {len(second)} labels; give two for each of one thing or more.")
    labels, codes = np.unique(np.concatenate([first, second]), return_inverse=True)
    size = len(labels)
    table = np.bincount(codes[: len(first)] * size + codes[len(first) :], minlength=size**2)
    draws = np.random.default_rng(seed).multinomial(
        len(first), table / len(first), check_count(n_resamples, "n_resamples")
    )
    low, high = np.quantile(_kappa(draws.reshape(-1, size, size)), [0.025, 0.975])
    return float(_kappa(table.reshape(1, size, size))[0]), float(low), float(high)


def _kappa(tables: np.ndarray) -> np.ndarray:
    """Return kappa of each contingency table, [n, size, size]; 1 where all labels are one and the same."""
    shares = tables / tables.sum(axis=(1, 2), keepdims=True)
    observed = np.trace(shares, axis1=1, axis2=2)
    chance = (shares.sum(axis=1) * shares.sum(axis=2)).sum(axis=1)
    return np.divide(observed - chance, 1 - chance, out=np.ones_like(observed), where=chance < 1)
