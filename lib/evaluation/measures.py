"""Measures: ranking and relevance judgements to values per query, means, intervals and paired significance tests."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from itertools import product

import ir_measures
import numpy as np
import pandas as pd
from scipy import stats

from lib.bm25.ranking import Ranking
from lib.support.checks import (
    check_choice,
    check_count,
    check_grade,
    check_id,
    check_iterable,
    check_mapping,
    check_texts,
)

Qrels = Mapping[str, Mapping[str, int]]

# The providers that compute in this process; ir_measures' own default also starts Perl, which reads ids as numbers.
_PROVIDERS = ir_measures.providers.FallbackProvider(
    [ir_measures.pytrec_eval, ir_measures.judged, ir_measures.msmarco, ir_measures.compat]
)
_EXAMPLES = "for example 'nDCG@10', 'R@100', 'RR@10', 'AP', 'P@5', 'Success@1' or 'AP(rel=2)@100'"


def evaluate(ranking: Ranking, qrels: Qrels, measures: Iterable[str]) -> dict[str, float]:
    """Return each measure's mean over all judged queries; see `per_query`."""
    means = per_query(ranking, qrels, measures).groupby("measure", sort=False)["value"].mean()
    return {str(name): float(value) for name, value in means.items()}


def per_query(ranking: Ranking, qrels: Qrels, measures: Iterable[str]) -> pd.DataFrame:
    """Return one row per measure and judged query, with columns query_id, measure, value.

    Every key of `qrels` counts, even one with zero grades only; a judged query that the ranking lacks or that has no
    documents has value 0. Ranked queries without judgements are ignored. Documents of equal score keep the ranking's
    order: ir_measures is given values derived from the ranks, since it would re-sort equal scores by document id.

    Raises TypeError or ValueError for no measure, an unknown measure (named), empty qrels or none of the form, ids
    that are not `str`, a grade that is no integer, and a ranking none of whose queries is judged. A `UserWarning` says
    how many judged queries are not ranked, and that no judged document was retrieved for any query, with examples.

    Parameters
    ----------
    ranking : Ranking
        The documents retrieved for each query.
    qrels : dict
        Query id → document id → grade: an integer, or 1.0, of at most 10,000; above 0 is relevant.
    measures : list of str
        Names in the notation of ir_measures (https://ir-measur.es).
    """
    parsed, qrels = _parse(measures), _check_qrels(qrels)
    _compare_ids(ranking, qrels)
    run = {
        query_id: {doc_id: float(len(docs) - rank) for rank, doc_id in enumerate(docs)}
        for query_id, docs in zip(ranking.query_ids, ranking.doc_ids, strict=True)
        if query_id in qrels and docs
    }
    metrics = _PROVIDERS.iter_calc(set(parsed.values()), qrels, run)
    values = {(metric.measure, metric.query_id): float(metric.value) for metric in metrics}
    rows = [(query, name, values.get((measure, query), 0.0)) for name, measure in parsed.items() for query in qrels]
    return pd.DataFrame(rows, columns=["query_id", "measure", "value"])


def bootstrap_interval(
    values: np.ndarray, confidence: float = 0.95, n_resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean over queries (Efron & Tibshirani 1993, chapter 13).

    Parameters
    ----------
    values : array (n_queries,)
        One value per query, finite.
    confidence : float
        Probability that the interval holds the mean, strictly between 0 and 1.
    n_resamples, seed : int
        Number of resamples, and their seed; the same seed gives the same interval.

    A ValueError for values that are empty, not one-dimensional or not finite, and for a confidence outside (0, 1).
    """
    _check_confidence(confidence)
    draws = resampled_means([_check_values(values, "values")], n_resamples, seed)
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def resampled_means(groups: Sequence[np.ndarray], n_resamples: int = 2_000, seed: int = 0) -> np.ndarray:
    """Return bootstrap resamples of the mean over groups of each group's mean, float64 [n_resamples, ...].

    Queries are resampled within each group. For groups of the same sizes the same seed draws the same queries, so the
    resamples of two systems are paired: subtract or divide them, and take quantiles.

    Parameters
    ----------
    groups : list of array [n_queries, ...]
        One array per collection, a row a query; further axes, such as systems, are resampled together.
    n_resamples, seed : int
        Number of resamples, and their seed.
    """
    n_resamples, rng = check_count(n_resamples, "n_resamples"), np.random.default_rng(seed)
    groups = list(check_iterable(groups, "groups", rows=True))
    if not len(groups) or not all(len(group) for group in groups):
        raise ValueError(f"groups has the sizes {[len(group) for group in groups]}; give at least one query in each.")
    means = []
    for group in map(np.asarray, groups):
        draws = np.empty((n_resamples, *group.shape[1:]))
        block = max(1, 2**20 // group.size)  # about a million values at a time bound the memory to a few megabytes
        for start in range(0, n_resamples, block):
            part = draws[start : start + block]
            part[:] = group[rng.integers(len(group), size=(len(part), len(group)))].mean(axis=1)
        means.append(draws)
    return np.mean(means, axis=0)


def wilson_interval(count: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the score interval of a share, `count` of `n` (Wilson, JASA 22, 1927)."""
    _check_confidence(confidence)
    interval = stats.binomtest(int(count), int(n)).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def deviation_interval(deviation: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the interval of a standard deviation of n >= 2 normal values: s sqrt((n - 1) / chi2_{n-1}(1 -+ a / 2))."""
    _check_confidence(confidence)
    if n < 2:
        raise ValueError(f"n is {n}; the deviation of fewer than 2 values has no interval.")
    quantiles = stats.chi2.ppf([(1 + confidence) / 2, (1 - confidence) / 2], n - 1)
    low, high = deviation * np.sqrt((n - 1) / quantiles)
    return float(low), float(high)


def compare(
    frames: Mapping[str, pd.DataFrame], baseline: str, measure: str, n_resamples: int = 10_000, seed: int = 0
) -> pd.DataFrame:
    """Test each other system against the baseline, paired by query, with Holm's correction over the systems.

    The test is the two-sided randomisation test of the mean difference under random signs (Smucker, Allan and
    Carterette, CIKM 2007), exact when 2**n_queries <= n_resamples.

    Raises ValueError for an unknown baseline or measure, no other system, fewer than two queries, a query given twice,
    values that are not finite, and systems that do not share the same queries.

    Parameters
    ----------
    frames : dict of str to DataFrame
        Each system's values as `per_query` returns them.
    baseline : str
        Name of the system to compare with.
    measure : str
        One of the frames' measures.
    n_resamples, seed : int
        Number of resamples of the test and of the bootstrap interval, and their seed.

    Returns
    -------
    DataFrame
        One row per other system: system, mean, baseline_mean, difference (system - baseline), low, high (95 %
        bootstrap interval of the difference), p, p_holm. A system identical to the baseline has p = 1.
    """
    check_mapping(frames, "frames", "{'BM25': per_query(...), 'ours': per_query(...)}")
    check_choice(baseline, frames, "baseline")
    n_resamples = check_count(n_resamples, "n_resamples")
    if len(frames) < 2:
        raise ValueError(f"frames holds only {baseline!r}; add at least one system to compare it with.")
    values = {system: _measure_values(frame, system, measure) for system, frame in frames.items()}
    reference = values.pop(baseline)
    if len(reference) < 2:
        raise ValueError(f"frames hold {len(reference)} query; a paired test needs at least 2 queries.")
    rows = []
    for system, series in values.items():
        if unpaired := sorted(set(series.index) ^ set(reference.index)):
            raise ValueError(f"{system!r} and {baseline!r} differ in queries {unpaired[:3]}; use equal qrels for both.")
        difference = (series.loc[reference.index] - reference).to_numpy()
        p = _sign_test(difference, n_resamples, np.random.default_rng(seed))
        interval = bootstrap_interval(difference, n_resamples=n_resamples, seed=seed)
        rows.append((system, series.mean(), reference.mean(), difference.mean(), *interval, p))
    table = pd.DataFrame(rows, columns=["system", "mean", "baseline_mean", "difference", "low", "high", "p"])
    return table.assign(p_holm=holm(table["p"].to_numpy()))


def _sign_test(difference: np.ndarray, n_resamples: int, rng: np.random.Generator) -> float:
    """Return p of the mean under random signs, to the bit what `scipy.stats.permutation_test` gives of one sample.

    That one shuffles a value and its negative by one random bit, in a loop over queries that takes four times as long.
    """
    values = difference[:, None]
    flips: Iterable[np.ndarray]
    if exact := 2 ** len(values) <= n_resamples:
        n_resamples = 2 ** len(values)
        flips = [np.array(list(product((False, True), repeat=len(values))))]
    else:
        size = min(max(1, 2**20 // len(values)), n_resamples), len(values)
        flips = (rng.integers(2**32, size=size, dtype=np.uint32) & 1 == 0 for _ in range(0, n_resamples, size[0]))
    means = np.concatenate([np.where(flip.T, -values, values).mean(axis=0) for flip in flips])[:n_resamples]
    observed, rounding = difference.mean(), 100 * np.finfo(np.float64).eps * abs(difference.mean())
    fewer = min(np.count_nonzero(means <= observed + rounding), np.count_nonzero(means >= observed - rounding))
    return float(min(1.0, 2 * (fewer + (not exact)) / (n_resamples + (not exact))))


def summarise(frames: Mapping[str, pd.DataFrame], baseline: str, measure: str, seed: int = 0) -> pd.DataFrame:
    """Return each system's mean with its interval, and the paired test against the baseline, of one measure.

    Parameters and errors are those of `compare`.

    Returns
    -------
    DataFrame
        One row a system: system; mean, low, high (95 % bootstrap interval over queries); and difference,
        difference_low, difference_high, p and p_holm as in `compare`, missing for the baseline.
    """
    tests = compare(frames, baseline, measure, seed=seed).set_index("system").drop(columns=["mean", "baseline_mean"])
    tests = tests.rename(columns={"low": "difference_low", "high": "difference_high"})
    rows = []
    for system, frame in frames.items():
        values = frame.loc[frame["measure"] == measure, "value"].to_numpy()
        rows.append((system, values.mean(), *bootstrap_interval(values, seed=seed)))
    return pd.DataFrame(rows, columns=["system", "mean", "low", "high"]).join(tests, on="system")


def holm(p: np.ndarray) -> np.ndarray:
    """Return Holm's step-down adjusted p-values (m,), `max_{j <= i} min(1, (m - j + 1) p_(j))`, in the order of `p`.

    Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statistics 6, 1979.
    """
    p = np.asarray(p, dtype=float)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, (len(p) - np.arange(len(p))) * p[order]))
    return adjusted


def _parse(measures: Iterable[str]) -> dict[str, ir_measures.Measure]:
    names = list(check_texts(measures, "measures", remedy="Pass its name."))
    if not names:
        raise ValueError(f"measures is empty; name at least one, {_EXAMPLES}.")
    parsed = {}
    for name in names:
        try:
            parsed[name] = ir_measures.parse_measure(name)
            known = _PROVIDERS.supports(parsed[name]) and parsed[name].params.get("cutoff", 1) >= 1
        except (NameError, ValueError, KeyError, AssertionError) as error:  # how ir_measures reports names, parameters
            raise ValueError(f"measure {name!r} is unknown ({error}); use one of ir_measures', {_EXAMPLES}.") from error
        if not known:
            raise ValueError(f"measure {name!r} cannot be computed here; use another of ir_measures', {_EXAMPLES}.")
    return parsed


def _check_qrels(qrels: Qrels) -> dict[str, dict[str, int]]:
    example = "{query_id: {doc_id: grade}}"
    if not check_mapping(qrels, "qrels", example):
        raise ValueError("qrels is empty; a mean over no judged query is undefined. Check the collection and split.")
    checked = {}
    for query_id, grades in qrels.items():
        what = f"qrels[{check_id(query_id, 'a query id of qrels')!r}]"
        check_mapping(grades, what, example)
        checked[query_id] = {
            check_id(doc_id, f"a document id of {what}"): check_grade(grade, f"{what}[{doc_id!r}]")
            for doc_id, grade in grades.items()
        }
    return checked


def _compare_ids(ranking: Ranking, qrels: dict[str, dict[str, int]]) -> None:
    """Raise or warn where a ranking and qrels have few ids in common: values of 0 look like those of a bad ranking."""
    retrieved = dict(zip(ranking.query_ids, ranking.doc_ids, strict=True))
    unranked = [query_id for query_id in qrels if query_id not in retrieved]
    remedy = "Use the ids of one collection in both."
    if retrieved and len(unranked) == len(qrels):
        raise ValueError(
            f"None of the {len(qrels)} judged queries is ranked: they start with {unranked[:3]}, the {len(retrieved)} "
            f"ranked ones with {ranking.query_ids[:3]}. {remedy}"
        )
    if unranked:
        warnings.warn(
            f"{len(unranked)} of the {len(qrels)} judged queries are not ranked and count 0, such as {unranked[:3]}. "
            "Rank them, or leave them out of qrels.",
            stacklevel=3,
        )
    shared = [query_id for query_id in qrels if query_id in retrieved]
    if shared and not any(doc in qrels[query_id] for query_id in shared for doc in retrieved[query_id]):
        query_id = shared[0]
        warnings.warn(
            f"No judged document was retrieved for any of {len(shared)} queries: for {query_id!r} the ranking starts "
            f"with {retrieved[query_id][:3]}, the qrels with {list(qrels[query_id])[:3]}. {remedy}",
            stacklevel=3,
        )


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it must lie strictly between 0 and 1, for example 0.95.")


def _check_values(values: np.ndarray, what: str) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or not values.size:
        raise ValueError(f"{what} has shape {values.shape}; pass one value for each query, at least one in all.")
    if not np.isfinite(values).all():
        raise ValueError(f"{what} holds NaN or infinity; an unanswered query counts 0, as per_query gives it.")
    return values


def _measure_values(frame: pd.DataFrame, system: str, measure: str) -> pd.Series:
    """Return one system's values of one measure, indexed by query id."""
    missing = {"query_id", "measure", "value"} - set(getattr(frame, "columns", ()))
    if missing:
        raise ValueError(f"frames[{system!r}] lacks the columns {sorted(missing)}; pass the frame of per_query.")
    check_choice(measure, frame["measure"].unique(), f"measure, for system {system!r},")
    series = frame[frame["measure"] == measure].set_index("query_id")["value"]
    if not series.index.is_unique:
        repeated = series.index[series.index.duplicated()][0]
        raise ValueError(f"frames[{system!r}] repeats query {repeated!r}; pass one collection's frame at a time.")
    _check_values(series.to_numpy(), f"frames[{system!r}]")
    return series
