"""Study `52_seeds`: how far runs that differ in the seed only agree, in quality, in latents and in rankings."""

from collections.abc import Sequence
from itertools import combinations, permutations

import numpy as np
import pandas as pd

from lib.bm25.ranking import Ranking
from lib.evaluation.measures import bootstrap_interval
from lib.studies.inputs import Setting
from lib.studies.sweeps import LEXICAL, Swept, Variant, lexical, study_recipe, sweep, with_labels
from lib.support.store import Store

JOINED = (2, 4)  # seeds, as far as there are so many and they divide k
_CHUNK = 2**25  # cosines held at once: 128 MB of float32
PERSISTENCE = 0.9  # of rank-biased overlap: the first ten ranks have 86 % of its weight


def seeds_study(setting: Setting, store: Store | None = None) -> tuple[Swept, pd.DataFrame, pd.DataFrame]:
    """Train the same autoencoder from other random weights, in another order of the states; and join several of them.

    Returns
    -------
    Swept
        The baseline is seed 0; the summary's columns beyond it are seed, and joined for variants that divide the k
        latents of a token among the first so many seeds.
    recurring : DataFrame
        As `agreement.recurrence`, by the firings in the documents of all collections.
    agreement : DataFrame
        A row a collection and pair: rank-biased overlap of the ten best documents of two seeds ("two seeds"), and of
        seed 0 and lexical BM25 for scale; mean, low, high as in `agreement.ranking_agreement`.
    """
    numbers = range(setting.size.n_seeds)
    recipes = [study_recipe(setting, seed=seed) for seed in numbers]
    runs_of = {f"seed {seed}": Variant(recipe) for seed, recipe in zip(numbers, recipes, strict=True)}
    labels: dict[str, dict] = {f"seed {seed}": {"seed": seed} for seed in numbers}
    joined = [n for n in JOINED if n <= len(recipes) and setting.size.k % n == 0]
    labels |= {f"{n} seeds joined": {"joined": n} for n in joined}
    variants = runs_of | {f"{n} seeds joined": Variant(recipes[0], tuple(recipes[1:n])) for n in joined}
    swept = sweep(variants, "seed 0", setting.collections, store, lexical)
    names = [collection.full_name for collection in setting.collections]
    decoders = [swept.autoencoders[run].W_dec.numpy() for run in runs_of]
    firings = [sum(swept.documents[name, run].firings for name in names) for run in runs_of]
    rows = []
    for name in names:
        runs = [swept.rankings[name, run] for run in runs_of]
        rows.append({"collection": name, "pair": "two seeds", **ranking_agreement(runs)})
        pair = [runs[0], swept.rankings[name, LEXICAL]]
        rows.append({"collection": name, "pair": f"seed 0 and {LEXICAL}", **ranking_agreement(pair)})
    return with_labels(swept, labels), recurrence(decoders, firings), pd.DataFrame(rows)


def best_cosines(directions: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the cosine of each direction with the most similar one of others, float32 [width].

    Parameters
    ----------
    directions, others : np.ndarray, float32 [width, d] and [other_width, d]
        Rows of decoders; of any length above 0.

    Raises
    ------
    ValueError
        If the two have another d, or a row is 0.
    """
    if directions.shape[1] != others.shape[1]:
        raise ValueError(f"The directions have d = {directions.shape[1]} and {others.shape[1]}; compare equal layers.")
    unit, other_unit = _unit(directions), _unit(others)
    size = max(1, _CHUNK // len(others))
    chunks = (unit[start : start + size] @ other_unit.T for start in range(0, len(unit), size))
    return np.concatenate([chunk.max(axis=1) for chunk in chunks])


def _unit(rows: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not norms.all():
        raise ValueError(f"Row {int(np.argmin(norms))} of the directions is 0 and has no cosine; leave it out.")
    return rows / norms


def recurrence(decoders: Sequence[np.ndarray], firings: Sequence[np.ndarray], seed: int = 0) -> pd.DataFrame:
    """Return the share of latents that recur in another run, for each least cosine that counts as the same latent.

    A latent's counterpart is the one of most similar decoder row (mean max cosine similarity: Sharkey, Braun and
    Millidge 2022; Paulo and Belrose, arXiv 2501.16615, match one to one instead and count cosines above 0.7). Latents
    that never fire have no meaning and are left out of the run whose share it is.

    Parameters
    ----------
    decoders : sequence of np.ndarray, float32 [width, d]
        One a run, at least two.
    firings : sequence of np.ndarray, int64 [width]
        In how many tokens each latent of a run is active.
    seed : int
        Of the random directions.

    Returns
    -------
    DataFrame
        kind, cosine (the threshold, 0 to 1), share (mean over the ordered pairs of runs), lowest, highest (of a pair).
        The kinds: "latents" counts each latent once, "firings" as often as it fires, "every run" counts latents that
        recur in all other runs, "chance" is the share where the other run is as many random directions.
    """
    thresholds = np.linspace(0, 1, 101)
    rng = np.random.default_rng(seed)
    alive = [fired > 0 for fired in firings]
    best = {(a, b): best_cosines(decoders[a][alive[a]], decoders[b]) for a, b in permutations(range(len(decoders)), 2)}
    random = [rng.standard_normal(decoder.shape, np.float32) for decoder in decoders]
    by_kind = {
        "latents": [_shares(cosines, thresholds) for cosines in best.values()],
        "firings": [_shares(cosines, thresholds, firings[a][alive[a]]) for (a, _), cosines in best.items()],
        "every run": [
            _shares(np.min([cosines for (run, _), cosines in best.items() if run == a], axis=0), thresholds)
            for a in range(len(decoders))
        ],
        "chance": [
            _shares(best_cosines(decoder[living], other), thresholds)
            for decoder, living, other in zip(decoders, alive, random, strict=True)
        ],
    }
    parts = [
        pd.DataFrame(
            {
                "kind": kind,
                "cosine": thresholds,
                "share": np.mean(shares, axis=0),
                "lowest": np.min(shares, axis=0),
                "highest": np.max(shares, axis=0),
            }
        )
        for kind, shares in by_kind.items()
    ]
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

    Raises
    ------
    ValueError
        For rankings that are empty or of different lengths, and p not between 0 and 1.
    """
    k = len(first)
    if not k or len(second) != k:
        raise ValueError(f"The rankings have {k} and {len(second)} documents; compare equally many, at least one.")
    if not 0 < p < 1:
        raise ValueError(f"p is {p!r}; it must be between 0 and 1, such as 0.9.")
    seen_first, seen_second, agreement = set(), set(), []
    for depth, (a, b) in enumerate(zip(first, second, strict=True), 1):
        seen_first.add(a)
        seen_second.add(b)
        agreement.append(len(seen_first & seen_second) / depth)
    weights = p ** np.arange(1, k + 1)
    return float(agreement[-1] * p**k + (1 - p) / p * (weights * agreement).sum())


def ranking_agreement(runs: Sequence[Ranking], seed: int = 0) -> dict[str, float]:
    """Return the rank-biased overlap of the runs: mean over pairs and queries, and its interval over queries.

    Parameters
    ----------
    runs : sequence of Ranking
        Over the same queries in the same order, each with equally many documents; at least two.
    seed : int
        Of the bootstrap.

    Returns
    -------
    dict
        mean, low, high (95 % bootstrap over queries, each query's value being its mean over the pairs of runs).

    Raises
    ------
    ValueError
        For fewer than two runs, and for runs of other queries.
    """
    if len(runs) < 2 or any(run.query_ids != runs[0].query_ids for run in runs):
        raise ValueError("Agreement takes at least two runs over the same queries in the same order.")
    pairs = list(combinations(runs, 2))
    values = np.array(
        [[rank_biased_overlap(a.doc_ids[i], b.doc_ids[i]) for a, b in pairs] for i in range(len(runs[0].query_ids))]
    ).mean(axis=1)
    low, high = bootstrap_interval(values, seed=seed)
    return {"mean": float(values.mean()), "low": low, "high": high}
