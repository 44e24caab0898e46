"""Our figures for the papers' claims, each a value with its interval, read from the tables that the studies wrote."""

import re
from math import nan
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from lib.evaluation.measures import bootstrap_interval
from lib.report.zipf import PLAUSIBLE
from lib.studies.results import NotMeasured, Results, mean_of, without_limit

NDCG = "nDCG@10"
LATENT, TUNED, LATE, DENSE = "latent terms", "latent terms, tuned", "late interaction", "dense"


class Found(NamedTuple):
    """Our figure: the value, its 95 % interval (else nan, and why it tests nothing), and what it was measured on."""

    value: float
    low: float
    high: float
    on: str
    untested: str = ""


def _on(rows: pd.DataFrame) -> str:
    names = list(dict.fromkeys(rows["collection"]))
    return names[0] if len(names) == 1 else f"mean of {len(names)} collections"


def _ndcg(results: Results, system: str) -> pd.DataFrame:
    table = results["retrieval"]
    return without_limit(table[(table["measure"] == NDCG) & (table["system"] == system)])


def against_dense(results: Results) -> list[Found]:
    """Return latent terms, with the paper's constants of BM25, less dense search."""
    rows = _ndcg(results, LATENT)
    return [Found(*mean_of(rows), _on(rows))]


def tuned_against_dense(results: Results) -> list[Found]:
    """Return latent terms with tuned constants less dense search, as `tuned` does."""
    return _apart_from_tuning(results, _ndcg(results, TUNED))


def tuned(results: Results) -> list[Found]:
    """Return nDCG@10 with the tuned constants of BM25 less that with the paper's, on test queries.

    First on collections that nothing was tuned on, then on those whose other queries were tuned on.
    """
    table = results["beyond"]
    rows = without_limit(table[(table["system"] == "the paper's constants") & table["p"].notna()])  # means have no test
    ends = {"difference_low": -rows["difference_high"], "difference_high": -rows["difference_low"]}
    return _apart_from_tuning(results, rows.assign(difference=-rows["difference"], **ends))


def _apart_from_tuning(results: Results, rows: pd.DataFrame) -> list[Found]:
    names = {f"{own['name']}/{own['split']}" for own in results.origin("beyond")["config"]["training"]}
    seen = rows["collection"].map(lambda name: any(_collection(name) == _collection(own) for own in names))
    parts = ((rows[~seen], "not tuned on"), (rows[seen], "tuned on, by other queries"))
    return [Found(*mean_of(own), f"{_on(own)} {how}") for own, how in parts if len(own)]


def _collection(name: str) -> str:
    """Return a full name without its split: "beir/scifact" of "beir/scifact/test"."""
    return re.sub(r"/(train|dev|test)$", "", name)


def on_each(results: Results) -> list[Found]:
    """Return latent terms less dense search where they do worst: the difference whose interval reaches lowest."""
    return [_extreme(results, "low", "the lowest")]


def at_best(results: Results) -> list[Found]:
    """Return latent terms less dense search where they do best: the difference whose interval begins highest."""
    return [_extreme(results, "high", "the clearest")]


def _extreme(results: Results, which: str, word: str) -> Found:
    """Return the difference with the lowest lower end, or the highest; all widened for their number (Bonferroni)."""
    rows = _ndcg(results, LATENT)
    wider = stats.norm.ppf(1 - 0.025 / len(rows)) / stats.norm.ppf(0.975)
    low, high = (rows["difference"] + wider * (rows[f"difference_{e}"] - rows["difference"]) for e in ("low", "high"))
    at = low.idxmin() if which == "low" else low.idxmax()
    on = f"{rows.loc[at, 'collection']}, {word} of {len(rows)}"
    return Found(rows.loc[at, "difference"], low[at], high[at], on)


def against_late(results: Results) -> list[Found]:
    """Return latent terms less late interaction over the same token states."""
    table = results["retrieval_per_query"]
    if LATE not in table:
        raise NotMeasured(f"no {LATE} among the systems")
    value, low, high, on, _ = _apart(without_limit(table[table["measure"] == NDCG]), LATENT, LATE)
    return [Found(value, low, high, f"{on}, retriever not trained for it")]


def _apart(values: pd.DataFrame, one: str, other: str) -> Found:
    """Return one column of values, a row a collection and query, less another."""
    rows = []
    for name, own in values.groupby("collection", sort=False):
        differences = (own[one] - own[other]).to_numpy()
        rows.append((name, differences.mean(), *bootstrap_interval(differences)))
    table = pd.DataFrame(rows, columns=["collection", "mean", "low", "high"])
    return Found(*mean_of(table, "mean", "low", "high"), _on(table))


def _largest(results: Results, measure: str) -> tuple[pd.DataFrame, str]:
    """Return the rows of the largest LIMIT by system, and its size in words."""
    table = results["limit"]
    n_docs = table["n_docs"].max()
    rows = table[(table["n_docs"] == n_docs) & (table["measure"] == measure)].set_index("system")
    return rows, f"{n_docs:,} documents"


def limit_gain(results: Results, measure: str) -> list[Found]:
    """Return recall of latent terms less that of dense search on the largest LIMIT."""
    rows, on = _largest(results, measure)
    return [Found(*rows.loc[LATENT, ["difference", "difference_low", "difference_high"]], on)]


def limit_dense(results: Results) -> list[Found]:
    """Return R@10 of dense search on the largest LIMIT."""
    rows, on = _largest(results, "R@10")
    return [Found(*rows.loc[DENSE, ["mean", "low", "high"]], on)]


def limit_apart(results: Results, other: str, columns: tuple[str, str, str] = ("mean", "low", "high")) -> list[Found]:
    """Return a column of latent terms less that of another system, R@10 on the largest LIMIT.

    The table has no interval of the difference: it is from the lowest less the highest to the highest less the lowest,
    which is wider.
    """
    rows, on = _largest(results, "R@10")
    value, low, high = columns
    own, theirs = rows.loc[LATENT], rows.loc[other]
    return [Found(own[value] - theirs[value], own[low] - theirs[high], own[high] - theirs[low], on)]


def zipf(results: Results) -> list[Found]:
    """Return the median exponent of the latents; the interval holds those of all collections."""
    rows = _exponents(results)
    return [Found(rows["exponent"].median(), rows["low"].min(), rows["high"].max(), f"{len(rows)} collections")]


def power_law(results: Results) -> list[Found]:
    """Return the share of collections in which a power law is not rejected, with its Wilson interval."""
    passed = _exponents(results)["p"] >= PLAUSIBLE
    return [Found(passed.mean(), *_wilson(passed.sum(), len(passed)), f"{len(passed)} collections")]


def _exponents(results: Results) -> pd.DataFrame:
    table = results["zipf"]
    return without_limit(table[table["vocabulary"] == "latents"])


def _wilson(count: int, n: int) -> tuple[float, float]:
    interval = stats.binomtest(int(count), n).proportion_ci(method="wilson")
    return interval.low, interval.high


def family(results: Results, name: str) -> list[Found]:
    """Return a family's share of the latents by the first rule at its middle limit.

    The interval holds the Wilson intervals of both rules at each of the limits: the published rule is not known.
    """
    table, ends = results["families"], []
    for row in table.to_dict("records"):
        for rule in ("first", "second"):
            ends += _wilson(round(row["n_latents"] * row[f"{name}_{rule}"]), row["n_latents"])
    row = table[np.isclose(table["half"], 0.5)].iloc[0]
    on = f"{int(row['n_latents']):,} latents, two rules, limits {table['half'].min():g} to {table['half'].max():g}"
    return [Found(row[f"{name}_first"], min(ends), max(ends), on)]


def change(results: Results, table: str, variant: str, lost: bool = False, trained: bool = False) -> list[Found]:
    """Return the nDCG@10 of a variant less that of its study's baseline; `lost` is the reverse.

    Of a variant that is `trained`, once as the baseline is, the interval also holds what two seeds differ by.
    """
    whole = results[table]
    if variant not in set(whole["variant"]):
        raise NotMeasured(f"no {variant!r} in {table}.csv")
    rows = without_limit(whole[whole["variant"] == variant])
    found = Found(*mean_of(rows), _on(rows))
    value, low, high, on, _ = _once(results, found) if trained else found
    return [Found(-value, -high, -low, on) if lost else Found(value, low, high, on)]


def _once(results: Results, found: Found) -> Found:
    """Widen the interval of a difference between two that were trained once, by what two seeds differ by."""
    (deviation, *_), reach = seeds(results)[0], stats.norm.ppf(0.975) * np.sqrt(2)
    value, low, high, on, _ = found
    low, high = value - np.hypot(value - low, reach * deviation), value + np.hypot(high - value, reach * deviation)
    return Found(value, low, high, f"{on}, one run each")


def activation(results: Results, name: str) -> list[Found]:
    """Return the nDCG@10 of an activation less that of Top-K: first both with states of one norm, then as they are.

    Where states differ in norm, a threshold gives the long ones most of the latents (`latents_a_token`).
    """
    own, top_k = f"activation: {name}, per-token", "normalisation: per-token"
    values = results["ablations_per_query"]
    if missing := {own, top_k} - set(values):
        raise NotMeasured(f"no {sorted(missing)[0]!r} in ablations_per_query.csv")
    alike = _apart(without_limit(values), own, top_k)
    alike = _once(results, alike._replace(on=f"{alike.on}, states of one norm"))
    return [alike, *change(results, "ablations", f"activation: {name}", trained=True)]


def trend(results: Results, field: str) -> list[Found]:
    """Return what a doubling of "width" or "k" changes."""
    table = results["width_k_trend"]
    rows = without_limit(table[table["field"] == field])
    on = f"{_on(rows)}, {rows['smallest'].min():,} to {rows['largest'].max():,}, one run each"
    return [Found(*mean_of(rows, "slope", "low", "high"), on)]


def seeds(results: Results) -> list[Found]:
    """Return the standard deviation over seeds of nDCG@10, a mean of collections, with its chi-squared interval."""
    table = without_limit(results["seeds"])
    means = table[table["seed"].notna()].groupby("seed")["mean"].mean()
    n, deviation = len(means), means.std()
    low, high = deviation * np.sqrt((n - 1) / stats.chi2.ppf([0.975, 0.025], n - 1))
    return [Found(deviation, low, high, f"{_on(table)}, {n} seeds")]


def peak(results: Results, readout: str, n_resamples: int = 2_000, seed: int = 0) -> list[Found]:
    """Return the depth of the best layer by the mean of the collections, 1 the final one; queries are resampled."""
    summary, values = without_limit(results["layers"]), results["layers_per_query"]
    own = summary[summary["readout"] == readout].drop_duplicates("variant").sort_values("layer")
    depths = own["layer"].to_numpy() / own["layer"].max()
    rng, mean, drawn = np.random.default_rng(seed), 0.0, 0.0
    for name in dict.fromkeys(summary["collection"]):
        matrix = values.loc[values["collection"] == name, list(own["variant"])].to_numpy()
        picks = rng.integers(len(matrix), size=(n_resamples, len(matrix)))
        mean, drawn = mean + matrix.mean(axis=0), drawn + matrix[picks].mean(axis=1)
    low, high = np.quantile(depths[drawn.argmax(axis=1)], [0.025, 0.975], method="inverted_cdf")
    return [Found(depths[mean.argmax()], low, high, _on(summary))]


def pruned(results: Results, top: int) -> list[Found]:
    """Return the change when documents keep their largest weights only, as a share of the unpruned nDCG@10."""
    table = without_limit(results["pruning"])
    whole = table[table["kind"] == "none"].set_index("collection")["mean"]
    rows = table[(table["kind"] == "document top") & (table["value"] == top)]
    if rows.empty:
        raise NotMeasured(f"no documents pruned to {top} latents")
    columns = ["difference", "difference_low", "difference_high"]
    rows = rows.assign(**rows[columns].div(rows["collection"].map(whole), axis=0))
    return [Found(*mean_of(rows), _on(rows))]


def latency(results: Results) -> list[Found]:
    """Return the milliseconds of an exact search, which test nothing: SPLARE's corpus is of another size."""
    table, n_docs = results["latency"], results.origin("latency")["config"]["n_docs"]
    exact = table[table["kind"] == "exact"].iloc[0]
    return [Found(exact["median_ms"], nan, nan, f"exact search of {n_docs:,} documents", "a corpus of another size")]
