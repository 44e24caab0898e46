"""Study `52_seeds`: how far runs that differ in the seed only agree, in quality, in latents and in rankings."""

from collections.abc import Sequence
from itertools import combinations, permutations

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array

from lib.bm25.ranking import Ranking
from lib.evaluation.measures import bootstrap_interval
from lib.studies import names
from lib.studies.inputs import Setting
from lib.studies.sweeps import Swept, Variant, study_recipe, sweep
from lib.support.store import Store

JOINED = (2, 4)  # numbers of seeds that are joined, as far as there are so many and they divide k
PERSISTENCE = 0.9  # of rank-biased overlap: the first ten ranks have 86 % of its weight
_CHUNK = 2**25  # cosines held at once: 128 MB of float32


def seeds_study(setting: Setting, store: Store | None = None) -> tuple[Swept, pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Train an autoencoder from other random weights, in another order of the states; and join several of them.

    The baseline is seed 0; the summary also has the columns seed, and joined for variants that divide the k latents of
    a token among the first so many seeds. The second and third table are those of `recurrence` and `matches`, for
    latents that fire in the documents. The last has one row per collection and pair of rankings: two seeds, and seed 0
    and lexical BM25 for scale; mean, low, high as `ranking_agreement` returns them.
    """
    numbers = range(setting.size.n_seeds)
    recipes = [study_recipe(setting, seed=seed) for seed in numbers]
    runs = {f"seed {seed}": Variant(recipes[seed], labels={"seed": seed}) for seed in numbers}
    joined = {
        f"{n} seeds joined": Variant(recipes[0], tuple(recipes[1:n]), labels={"joined": n})
        for n in JOINED
        if n <= len(recipes) and setting.size.k % n == 0
    }
    swept = sweep(runs | joined, "seed 0", setting.collections, store, words=True)
    collections = [collection.full_name for collection in setting.collections]
    decoders = [swept.autoencoders[run].W_dec.numpy() for run in runs]
    firings = [sum(swept.documents[name, run].firings for name in collections) for run in runs]
    rows = []
    for name in collections:
        rankings = [swept.rankings[name, run] for run in runs]
        seed_and_words = rankings[0], swept.rankings[name, names.LEXICAL]
        for pair, compared in ((names.TWO_SEEDS, rankings), (names.SEED_AND_WORDS, seed_and_words)):
            rows.append({"collection": name, "pair": pair, **ranking_agreement(compared)})
    return swept, recurrence(decoders, firings), matches(decoders, firings), pd.DataFrame(rows)


def best_cosines(directions: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the cosine of each direction [width, d] with the most similar of others [n, d], float32 [width].

    Raises ValueError if the two differ in d, and for a row that is 0, which has no cosine.
    """
    unit, other_unit = _unit_rows(directions, others)
    size = max(1, _CHUNK // len(others))
    chunks = (unit[start : start + size] @ other_unit.T for start in range(0, len(unit), size))
    return np.concatenate([chunk.max(axis=1) for chunk in chunks])


def _unit_rows(*matrices: np.ndarray) -> list[np.ndarray]:
    first, second = (matrix.shape[1] for matrix in matrices)
    if first != second:
        raise ValueError(f"The directions have d = {first} and {second}; compare equal layers.")
    norms = [np.linalg.norm(matrix, axis=1, keepdims=True) for matrix in matrices]
    for norm in norms:
        if not norm.all():
            raise ValueError(f"Row {int(np.argmin(norm))} of the directions is 0 and has no cosine; leave it out.")
    return [matrix / norm for matrix, norm in zip(matrices, norms, strict=True)]


def matches(decoders: Sequence[np.ndarray], firings: Sequence[np.ndarray]) -> pd.DataFrame:
    """Match the latents of every pair of runs one to one by their decoder rows, those left out that never fire.

    The mean of the matched cosines is the pairwise dictionary mean correlation coefficient (PW-MCC, Song et al., arXiv
    2505.20254), here of signed cosines: latents are not negative, so opposite directions are two meanings. Paulo and
    Belrose (arXiv 2501.16615) count the pairs of at least SAME, and ask the same of the encoders. The Hungarian
    algorithm takes 12 bytes per pair of latents and time by the cube of the width: seconds at 2,048 latents, 13 GB at
    32,768.

    Parameters are those of `recurrence`. The table has one row per pair of runs: first, second (their positions), width
    (latents of the first that fire), pairs, mean (of the matched cosines) and share (of pairs of at least SAME).
    """
    living = [decoder[fired > 0] for decoder, fired in zip(decoders, firings, strict=True)]
    rows = []
    for first, second in combinations(range(len(living)), 2):
        unit, other_unit = _unit_rows(living[first], living[second])
        cosines = unit @ other_unit.T
        matched = cosines[linear_sum_assignment(cosines, maximize=True)]
        shared = (matched >= names.SAME).mean()
        rows.append((first, second, len(unit), len(matched), matched.mean(), shared))
    return pd.DataFrame(rows, columns=["first", "second", "width", "pairs", "mean", "share"])


def activation_agreement(first: csr_array, second: csr_array, block: int = 1_024) -> float:
    """Return the mean correlation of the latents of two runs, matched one to one by what they are active in.

    `first` and `second` are term weights of the same texts, float32 [n_texts, width]; correlations are Pearson's over
    the texts, and latents that are equal in all of them are left out. NaN if a run has none left.
    """
    sides = first, second
    means = [side.mean(axis=0) for side in sides]
    deviations = [
        np.sqrt(np.maximum(side.power(2).mean(axis=0) - mean**2, 0)) for side, mean in zip(sides, means, strict=True)
    ]
    alive = [deviation > 1e-6 * deviation.max(initial=0) for deviation in deviations]
    product = np.zeros((first.shape[1], second.shape[1]))
    for start in range(0, first.shape[0], block):
        product += first[start : start + block].toarray().T @ second[start : start + block].toarray()
    correlations = (product / first.shape[0] - np.outer(*means)) / np.maximum(np.outer(*deviations), 1e-12)
    correlations = correlations[np.ix_(*alive)]
    return (
        float(correlations[linear_sum_assignment(correlations, maximize=True)].mean()) if correlations.size else np.nan
    )


def recurrence(decoders: Sequence[np.ndarray], firings: Sequence[np.ndarray], seed: int = 0) -> pd.DataFrame:
    """Return the share of latents that recur in another run, for each least cosine that counts as the same latent.

    A latent's counterpart is the one of most similar decoder row, which several latents may share (mean max cosine
    similarity: Sharkey, Braun and Millidge 2022); `matches` is one to one. Latents that never fire have no meaning and
    are left out of the run whose share it is.

    A run has a decoder, float32 [width, d], and the number of tokens in which each latent is active, int64 [width]. The
    table has kind, cosine (the threshold, 0 to 1), share (mean over the ordered pairs of runs), lowest, highest (of a
    pair). The kinds: "latents" counts each latent once, "firings" as often as it fires, "every run" counts latents that
    recur in all other runs, "chance" is the share where the other run is as many random directions by `seed`.
    """
    thresholds = np.linspace(0, 1, 101)
    rng = np.random.default_rng(seed)
    alive = [fired > 0 for fired in firings]
    best = {(a, b): best_cosines(decoders[a][alive[a]], decoders[b]) for a, b in permutations(range(len(decoders)), 2)}
    random = [rng.standard_normal(decoder.shape, np.float32) for decoder in decoders]
    runs = range(len(decoders))
    least = [np.min([best[run, other] for other in runs if other != run], axis=0) for run in runs]
    chance = [best_cosines(decoders[run][alive[run]], random[run]) for run in runs]
    by_kind = {
        names.SHARE_OF_LATENTS: [_shares(cosines, thresholds) for cosines in best.values()],
        names.SHARE_OF_FIRINGS: [_shares(best[pair], thresholds, firings[pair[0]][alive[pair[0]]]) for pair in best],
        names.IN_EVERY_RUN: [_shares(cosines, thresholds) for cosines in least],
        names.BY_CHANCE: [_shares(cosines, thresholds) for cosines in chance],
    }
    parts = []
    for kind, shares in by_kind.items():
        ends = {"share": np.mean(shares, axis=0), "lowest": np.min(shares, axis=0), "highest": np.max(shares, axis=0)}
        parts.append(pd.DataFrame({"kind": kind, "cosine": thresholds} | ends))
    return pd.concat(parts, ignore_index=True)


def _shares(cosines: np.ndarray, thresholds: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Return the share of cosines, or of their weights, at or above each threshold."""
    weights = np.ones(len(cosines)) if weights is None else weights.astype(np.float64)
    return ((cosines[:, None] >= thresholds) * weights[:, None]).sum(axis=0) / weights.sum()


def rank_biased_overlap(first: Sequence[str], second: Sequence[str], p: float = PERSISTENCE) -> float:
    """Return how similar two rankings of equal length k are, from 0 (nothing in common) to 1 (the same).

    RBO_ext = X_k / k p^k + (1 - p) / p sum_{d=1..k} X_d / d p^d, X_d the number of documents that the first d of both
    have in common (Webber, Moffat and Zobel, TOIS 2010, for lists of equal length): what is below rank k is taken to
    agree as far as the first k do.

    Raises ValueError for rankings that are empty or of different lengths, and for p not between 0 and 1.
    """
    k = len(first)
    if not k or len(second) != k:
        raise ValueError(f"The rankings have {k} and {len(second)} documents; compare equally many, at least one.")
    if not 0 < p < 1:
        raise ValueError(f"p is {p!r}; it must be between 0 and 1, such as 0.9.")
    agreement = [len(set(first[:depth]) & set(second[:depth])) / depth for depth in range(1, k + 1)]
    weights = p ** np.arange(1, k + 1)
    return float(agreement[-1] * p**k + (1 - p) / p * (weights * agreement).sum())


def ranking_agreement(runs: Sequence[Ranking]) -> dict[str, float]:
    """Return the rank-biased overlap of at least two runs over the same queries in the same order.

    A query's value is its mean over the pairs of runs; mean, low and high are those of the queries, with the 95 %
    bootstrap interval. Raises ValueError for fewer than two runs, and for runs of different queries.
    """
    if len(runs) < 2 or any(run.query_ids != runs[0].query_ids for run in runs):
        raise ValueError("Agreement takes at least two runs over the same queries in the same order.")
    pairs = list(combinations(runs, 2))
    overlaps = [
        [rank_biased_overlap(a.doc_ids[i], b.doc_ids[i]) for a, b in pairs] for i in range(len(runs[0].query_ids))
    ]
    values = np.mean(overlaps, axis=1)
    low, high = bootstrap_interval(values)
    return {"mean": float(values.mean()), "low": low, "high": high}
