"""The latent vocabulary studied as a vocabulary: how often its terms occur, and which words share one."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.special import gammaln, zeta

from lib.evaluation.baselines import Words
from lib.support.checks import check_count, check_integer, check_iterable, check_texts

LEAST_TAIL = 50  # terms that a power law is fitted to, at least
_CANDIDATES = 100  # values of xmin that are tried, at most
_ALPHAS = (1.001, 20.0)  # where the exponent of the frequencies' distribution is sought
_EXACT_BELOW = 32  # from here on the series of `_zeta` is exact to 1e-7 for any of these exponents, 1e-11 below 6
_WORD = re.compile(r"\w+")


class ZipfFit(NamedTuple):
    """A power law fitted to the frequent terms of a vocabulary; see `fit_zipf`."""

    exponent: float
    low: float
    high: float
    xmin: int
    n_tail: int
    p: float


class _Tail(NamedTuple):
    """P(f) ~ f^-alpha for f >= xmin: n_tail terms at the Kolmogorov-Smirnov distance `distance`."""

    alpha: float
    xmin: int
    n_tail: int
    distance: float


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
    """Return each latent's summed activation by each token of the tokenizer, float32 [width, n_tokens].

    `indices` and `values`, integer and float32 [n, k], are codes of n tokens, `token_ids`, int64 [n], their ids.
    """
    active = values > 0
    ids = np.broadcast_to(token_ids[:, None], indices.shape)[active]
    return coo_array((values[active], (indices[active], ids)), shape=(width, n_tokens)).tocsr()


def top_tokens(matrix: csr_array, latent: int, vocabulary: Sequence[str], n: int = 5) -> list[tuple[str, float]]:
    """Return the `n` tokens that make up most of a latent's activation, with their shares of it, largest first.

    `matrix` is that of `latent_token_matrix`, `vocabulary` the token of each id. TypeError or ValueError for a latent
    that is no integer from 0 to width - 1.
    """
    latent, n = check_integer(latent, "latent", 0, matrix.shape[0] - 1), check_count(n, "n")
    row = slice(matrix.indptr[latent], matrix.indptr[latent + 1])
    tokens, weights = matrix.indices[row], matrix.data[row]
    best = np.argsort(-weights, kind="stable")[:n]
    return [(vocabulary[tokens[i]], float(weights[i] / weights.sum())) for i in best]


def word_terms(documents: Sequence[Sequence[str]], queries: Sequence[Sequence[str]]) -> tuple[csr_array, csr_array]:
    """Return how often each document and each query has each word that a document has, float32 [n_texts, n_words].

    Each text is a list of words, as `baselines.analyze` returns it; columns are in order of first appearance.
    A TypeError for a text that is a `str`, of which each letter would be a word.
    """
    for what, texts in (("documents", documents), ("queries", queries)):
        for position, words in enumerate(check_iterable(texts, what)):
            check_iterable(words, f"{what}[{position}]")
    vocabulary = Words(list(dict.fromkeys(chain.from_iterable(documents))))
    return vocabulary.count(documents), vocabulary.count(queries)


def growth(df: np.ndarray, n_docs: int, sizes: Sequence[int]) -> np.ndarray:
    """Return how many terms `n` documents have, on average over all samples of n, for each n of `sizes`, float64.

    V(n) = sum_j 1 - C(N - df_j, n) / C(N, n), the rarefaction curve (Hurlbert, Ecology 52, 1971), which is Heaps' curve
    freed from the order of the documents. Its slope at the end on logarithmic axes, Heaps' exponent there, is the
    share of the terms that one document has.

    Parameters
    ----------
    df : np.ndarray, integer [n_terms]
        In how many documents each term occurs.
    n_docs : int
        N.
    sizes : sequence of int
        From 0 to N; a ValueError for others, and for such a df.
    """
    samples = np.asarray(sizes)
    for what, values in (("df", np.asarray(df)), ("sizes", samples)):
        if len(values) and not 0 <= values.min() <= values.max() <= n_docs:
            raise ValueError(f"{what} runs from {values.min()} to {values.max()}; with {n_docs} documents, 0 to that.")
    df, n_terms = np.unique(df, return_counts=True)
    left = np.subtract.outer(n_docs - df, samples)  # documents without the term and outside the sample
    log_absent = gammaln(n_docs - df + 1)[:, None] - gammaln(np.maximum(left, 0) + 1)
    log_absent += gammaln(n_docs - samples + 1) - gammaln(n_docs + 1)
    return n_terms @ np.where(left < 0, 1.0, -np.expm1(np.minimum(log_absent, 0)))


def spaced_ranks(n: int, n_points: int = 400) -> np.ndarray:
    """Return at most `n_points` of the ranks 1 to n, evenly spaced in the logarithm, both ends among them, int64."""
    return np.unique(np.geomspace(1, check_count(n, "n"), n_points).round().astype(np.int64))


def fit_zipf(frequencies: np.ndarray, n_resamples: int = 250, seed: int = 0) -> ZipfFit:
    """Fit Zipf's law, frequency ~ rank^-exponent, to a vocabulary's frequent terms, and test it.

    If the frequency at rank r goes as r^-s, then the share of terms of frequency f goes as f^-alpha with
    s = 1 / (alpha - 1) (Clauset, Shalizi and Newman, "Power-law distributions in empirical data", SIAM Review 51,
    2009, section 3). alpha is found by maximum likelihood for integers (their eq. 3.5), and xmin, the least frequency
    that counts as the tail, where the Kolmogorov-Smirnov distance is smallest (3.3). The interval refits resampled
    terms, xmin included, and is widened to hold the exponent: where the tail is small, resamples end it elsewhere. p is
    the share of synthetic vocabularies (a power law above xmin, the observed terms below it) that lie farther from
    their fit than this one does (section 4). A p below 0.1 speaks against the power law; a large one does not prove it.
    The packages powerlaw and igraph find the same fit (tests); powerlaw has no p, igraph's varies from run to run.

    At most 100 values of xmin are tried, evenly spaced in the logarithm of their rank, such that 50 terms are left.

    Raises TypeError or ValueError for frequencies that are not integers, negative or all equal, and if fewer than 50
    terms occur.

    Parameters
    ----------
    frequencies : np.ndarray, integer [n_terms]
        How often each term occurs; 0 is left out.
    n_resamples : int
        Resamples for the interval, and synthetic vocabularies for p; 250 make p exact to about 0.03.
    seed : int
        Seed of both.

    Returns
    -------
    ZipfFit
        exponent s with its 95 % interval (low, high), xmin, the number of terms in the tail, and p.
    """
    frequencies = np.asarray(frequencies)
    if not np.issubdtype(frequencies.dtype, np.integer):
        raise TypeError(f"frequencies are {frequencies.dtype}; give integers: how often each term occurs.")
    if frequencies.size and frequencies.min() < 0:
        raise ValueError(f"a frequency is {frequencies.min()}; it must be at least 0.")
    frequencies, n_resamples = frequencies[frequencies > 0], check_count(n_resamples, "n_resamples")
    if len(frequencies) < LEAST_TAIL or np.ptp(frequencies) == 0:
        raise ValueError(
            f"{len(frequencies)} terms occur, with {len(np.unique(frequencies))} different frequencies; a fit takes "
            f"at least {LEAST_TAIL} terms that are not all equally frequent. Give a larger collection."
        )
    rng, n = np.random.default_rng(seed), len(frequencies)
    tail = _fit_tail(frequencies)
    below = frequencies[frequencies < tail.xmin]
    alphas, n_farther = [], 0
    for _ in range(n_resamples):
        alphas.append(_fit_tail(rng.choice(frequencies, n)).alpha)
        n_tail = rng.binomial(n, tail.n_tail / n) if len(below) else n
        drawn = [_draw(rng, n_tail, tail), rng.choice(below, n - n_tail)] if n_tail < n else [_draw(rng, n, tail)]
        n_farther += _fit_tail(np.concatenate(drawn)).distance >= tail.distance
    exponent, refitted = 1 / (tail.alpha - 1), 1 / (np.array(alphas) - 1)
    low, high = (float(end) for end in np.quantile(refitted, [0.025, 0.975]))
    return ZipfFit(exponent, min(low, exponent), max(high, exponent), tail.xmin, tail.n_tail, n_farther / n_resamples)


def _fit_tail(frequencies: np.ndarray) -> _Tail:
    """Fit alpha and xmin, distances taken at every integer and not only at those that occur."""
    values, counts = np.unique(frequencies, return_counts=True)
    tails = np.cumsum(counts[::-1])[::-1]  # terms as frequent as each value, or more so
    log_sums = np.cumsum((counts * np.log(values))[::-1])[::-1]
    starts = spaced_ranks(max(1, int(np.count_nonzero(tails[:-1] >= LEAST_TAIL))), _CANDIDATES) - 1
    alphas = _likeliest(log_sums[starts] / tails[starts], values[starts])
    best = _Tail(0.0, 0, 0, np.inf)
    for start, alpha in zip(starts, alphas, strict=True):
        above = np.append(tails[start + 1 :], 0) / tails[start]  # P(X > x), constant up to the next value - 1
        points = np.concatenate([values[start:] + 1, values[start + 1 :]])
        law = _zeta(alpha, points) / _zeta(alpha, values[start : start + 1])
        distance = float(np.abs(np.concatenate([above, above[:-1]]) - law).max())
        if distance < best.distance:
            best = _Tail(float(alpha), int(values[start]), int(tails[start]), distance)
    return best


def _likeliest(mean_logs: np.ndarray, xmins: np.ndarray) -> np.ndarray:
    """Return the alphas that minimise alpha * mean(ln x) + ln zeta(alpha, xmin), by golden section."""
    ratio = (np.sqrt(5) - 1) / 2
    low, high = (np.full(len(xmins), bound) for bound in _ALPHAS)
    for _ in range(45):  # ratio^45 of the range: 1e-8
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        at_left, at_right = (alpha * mean_logs + np.log(_zeta(alpha, xmins)) for alpha in (left, right))
        low, high = np.where(at_left < at_right, low, left), np.where(at_left < at_right, right, high)
    return (low + high) / 2


def _zeta(alpha: float | np.ndarray, q: np.ndarray) -> np.ndarray:
    """Return Hurwitz' zeta, sum_k (q + k)^-alpha: scipy's for small q, Euler and Maclaurin's series above."""
    q = q.astype(np.float64)
    alpha, inverse = np.broadcast_to(alpha, q.shape), 1 / q
    series = 1 / (alpha - 1) + inverse / 2 + alpha * inverse**2 / 12
    series -= alpha * (alpha + 1) * (alpha + 2) * inverse**4 / 720
    result = np.exp((1 - alpha) * np.log(q)) * series
    small = q < _EXACT_BELOW
    result[small] = zeta(alpha[small], q[small])
    return result


def _draw(rng: np.random.Generator, n: int, law: _Tail) -> np.ndarray:
    """Draw frequencies from a power law, int64 [n]: by its distribution function up to 10,000 values, then smoothly."""
    alpha, table = law.alpha, np.arange(law.xmin, law.xmin + 10_000)
    survival = _zeta(alpha, table) / _zeta(alpha, table[:1])
    uniform = 1 - rng.random(n)
    drawn = table[np.searchsorted(-survival, -uniform, side="right") - 1]
    far = uniform < survival[-1]
    smooth = 0.5 + (table[-1] - 0.5) * (uniform[far] / survival[-1]) ** (-1 / (alpha - 1))
    drawn[far] = np.minimum(smooth, 2.0**53).astype(np.int64)
    return drawn
