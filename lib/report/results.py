"""Our figures for the papers' claims, each a value with its interval, read from the tables that the studies wrote."""

import json
from math import nan
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from lib.measures import bootstrap_interval
from lib.report.model import PLAUSIBLE

NDCG = "nDCG@10"
LATENT, TUNED, LATE, DENSE = "latent terms", "latent terms, tuned", "late interaction", "dense"


class NotMeasured(LookupError):
    """The table is there, but what is asked for is not in it."""


class Results:
    """The tables of a folder by name: `results["limit"]` is limit.csv. `used` holds the names of those read so far.

    Raises
    ------
    FileNotFoundError
        Where a table is asked for that is not there.
    """

    def __init__(self, folder: str | Path):
        self.folder, self.used = Path(folder), set()

    def __getitem__(self, name: str) -> pd.DataFrame:
        """Return a table."""
        table = pd.read_csv(self.folder / f"{name}.csv")
        self.used.add(name)
        return table

    def origin(self, name: str) -> dict:
        """Return where a table comes from, as `experiments.provenance` gives it."""
        return json.loads((self.folder / f"{name}.json").read_text("utf-8"))


class Found(NamedTuple):
    """Our figure: the value, its 95 % interval (nan where there is none), and what it was measured on."""

    value: float
    low: float
    high: float
    on: str


def mean_of(
    rows: pd.DataFrame, value: str = "difference", low: str = "difference_low", high: str = "difference_high"
) -> tuple[float, float, float]:
    """Return the mean of a column over collections, and its interval (low, high).

    The queries of collections are independent samples, so the half-widths of their intervals add up in quadrature.
    """
    centre = rows[value].to_numpy()
    below, above = (np.hypot.reduce(rows[end].to_numpy() - centre) / len(rows) for end in (low, high))
    return float(centre.mean()), float(centre.mean() - below), float(centre.mean() + above)


def real(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of all collections but `limit`, which is made for one question and has claims of its own.

    Raises
    ------
    NotMeasured
        If there is none.
    """
    rows = table[~table["collection"].str.startswith("limit")]
    if rows.empty:
        raise NotMeasured("no such row of a collection other than limit")
    return rows


def _on(rows: pd.DataFrame) -> str:
    names = list(dict.fromkeys(rows["collection"]))
    return names[0] if len(names) == 1 else f"mean of {len(names)} collections"


def _negated(value: float, low: float, high: float) -> tuple[float, float, float]:
    return -value, -high, -low


def _ndcg(results: Results, system: str) -> pd.DataFrame:
    table = results["retrieval"]
    return real(table[(table["measure"] == NDCG) & (table["system"] == system)])


def against_dense(results: Results, system: str = LATENT) -> list[Found]:
    """Return latent terms less dense search: LATENT has the paper's constants of BM25, TUNED the model's own."""
    rows = _ndcg(results, system)
    return [Found(*mean_of(rows), _on(rows))]


def on_each(results: Results) -> list[Found]:
    """Return latent terms less dense search on each collection."""
    rows = _ndcg(results, LATENT)
    return [Found(r.difference, r.difference_low, r.difference_high, r.collection) for r in rows.itertuples()]


def at_best(results: Results) -> list[Found]:
    """Return the difference whose interval has the highest lower end, each widened for their number (Bonferroni)."""
    rows = _ndcg(results, LATENT)
    wider = stats.norm.ppf(1 - 0.025 / len(rows)) / stats.norm.ppf(0.975)
    low, high = (rows["difference"] + wider * (rows[f"difference_{e}"] - rows["difference"]) for e in ("low", "high"))
    best = low.idxmax()
    on = f"{rows.loc[best, 'collection']}, the clearest of {len(rows)}"
    return [Found(rows.loc[best, "difference"], low[best], high[best], on)]


def against_late(results: Results) -> list[Found]:
    """Return latent terms less late interaction over the same token states."""
    table = results["retrieval_per_query"]
    if LATE not in table:
        raise NotMeasured(f"no {LATE} among the systems")
    rows = []
    for name, own in real(table[table["measure"] == NDCG]).groupby("collection", sort=False):
        differences = (own[LATENT] - own[LATE]).to_numpy()
        rows.append((name, differences.mean(), *bootstrap_interval(differences)))
    table = pd.DataFrame(rows, columns=["collection", "mean", "low", "high"])
    return [Found(*mean_of(table, "mean", "low", "high"), f"{_on(table)}, retriever not trained for it")]


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
    table = results["zipf"]
    rows = real(table[table["vocabulary"] == "latents"])
    on = f"{_on(rows).removeprefix('mean of ')} (a power law rejected in {(rows['p'] < PLAUSIBLE).sum()})"
    return [Found(rows["exponent"].median(), rows["low"].min(), rows["high"].max(), on)]


def family(results: Results, name: str) -> list[Found]:
    """Return a family's share of the latents by the first rule; the interval holds the Wilson intervals of both."""
    table = results["families"]
    row = table[np.isclose(table["half"], 0.5)].iloc[0]
    n, ends = int(row["n_latents"]), []
    for rule in ("first", "second"):
        ends += stats.binomtest(round(n * row[f"{name}_{rule}"]), n).proportion_ci(method="wilson")
    return [Found(row[f"{name}_first"], min(ends), max(ends), f"{n:,} latents, by two rules")]


def change(results: Results, table: str, variant: str, lost: bool = False) -> list[Found]:
    """Return the nDCG@10 of a variant less that of its study's baseline; `lost` is the reverse."""
    whole = results[table]
    if variant not in set(whole["variant"]):
        raise NotMeasured(f"no {variant!r} in {table}.csv")
    rows = real(whole[whole["variant"] == variant])
    found = mean_of(rows)
    return [Found(*(_negated(*found) if lost else found), _on(rows))]


def trend(results: Results, field: str) -> list[Found]:
    """Return what a doubling of "width" or "k" changes."""
    table = results["width_k_trend"]
    rows = real(table[table["field"] == field])
    on = f"{_on(rows)}, {rows['smallest'].min():,} to {rows['largest'].max():,}"
    return [Found(*mean_of(rows, "slope", "low", "high"), on)]


def seeds(results: Results) -> list[Found]:
    """Return the standard deviation over seeds of nDCG@10, a mean of collections, with its chi-squared interval."""
    table = real(results["seeds"])
    means = table[table["seed"].notna()].groupby("seed")["mean"].mean()
    n, deviation = len(means), means.std()
    low, high = deviation * np.sqrt((n - 1) / stats.chi2.ppf([0.975, 0.025], n - 1))
    return [Found(deviation, low, high, f"{_on(table)}, {n} seeds")]


def peak(results: Results, readout: str, n_resamples: int = 2_000, seed: int = 0) -> list[Found]:
    """Return the depth of the best layer by the mean of the collections, 1 the final one; queries are resampled."""
    summary, values = real(results["layers"]), results["layers_per_query"]
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
    table = real(results["pruning"])
    whole = table[table["kind"] == "none"].set_index("collection")["mean"]
    rows = table[(table["kind"] == "document top") & (table["value"] == top)]
    if rows.empty:
        raise NotMeasured(f"no documents pruned to {top} latents")
    columns = ["difference", "difference_low", "difference_high"]
    rows = rows.assign(**rows[columns].div(rows["collection"].map(whole), axis=0))
    return [Found(*mean_of(rows), _on(rows))]


def latency(results: Results) -> list[Found]:
    """Return the milliseconds of an exact search; it has no interval, and the corpus is far smaller than SPLARE's."""
    table, n_docs = results["latency"], results.origin("latency")["config"]["n_docs"]
    exact = table[table["kind"] == "exact"].iloc[0]
    return [Found(exact["median_ms"], nan, nan, f"exact search of {n_docs:,} documents")]


def tuned(results: Results) -> list[Found]:
    """Return nDCG@10 with the tuned constants of BM25 less that with the paper's, on test queries."""
    table = results["beyond"]
    rows = table[(table["system"] == "the paper's constants") & table["p"].notna()]  # that of the mean has no test
    return [Found(*_negated(*mean_of(real(rows))), _on(real(rows)))]
