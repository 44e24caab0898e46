"""Our figures for the claims of `90_claims`, each a value with its interval, out of the tables that studies wrote."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from lib.evaluation.measures import bootstrap_interval, deviation_interval, resampled_means, wilson_interval
from lib.studies import names
from lib.studies.results import NotMeasured, Results, mean_of, without_limit

NORMAL = stats.norm.ppf(0.975)  # half the width of a 95 % interval in standard deviations
EXACT_ENOUGH = 0.97  # recall of an approximate search that is compared with an exact one
TUNED_ON = "pydoc|beir/scifact"  # whose training queries chose all-MiniLM-L6-v2's constants (its card)
CLASSES = 5  # of words, whose latents a probe finds; with fewer, what is absorbed depends on which they are
DIFFERENCE = ["difference", "difference_low", "difference_high"]
MEAN, KEPT = ["mean", "low", "high"], ["kept", "kept_low", "kept_high"]


class Measured(NamedTuple):
    """A figure of ours: the value, its 95 % interval (nan where there is none), and what it was measured on."""

    value: float
    low: float
    high: float
    on: str


def _where(rows: pd.DataFrame) -> str:
    collections = rows["collection"].unique()
    return collections[0] if len(collections) == 1 else f"mean of {len(collections)} collections"


def _mean(rows: pd.DataFrame, *columns: str) -> Measured:
    return Measured(*mean_of(rows, *columns), _where(rows))


def _negated(figure: Measured) -> Measured:
    return figure._replace(value=-figure.value, low=-figure.high, high=-figure.low)


def _ndcg(results: Results, system: str) -> pd.DataFrame:
    return without_limit(results["retrieval"].query("measure == @names.MEASURE and system == @system"))


def against_dense(results: Results) -> list[Measured]:
    """Return latent terms, with the paper's constants of BM25, less dense search."""
    return [_mean(_ndcg(results, names.LATENT))]


def tuned_against_dense(results: Results) -> list[Measured]:
    """Return latent terms with tuned constants less dense search, on the two groups of collections of `tuned`."""
    return _by_tuning(_ndcg(results, names.TUNED))


def tuned(results: Results) -> list[Measured]:
    """Return nDCG@10 with the tuned constants of BM25 less that with the paper's, on test queries.

    First on collections that nothing was tuned on, then on those whose other queries were tuned on.
    """
    rows = without_limit(results["beyond"].query("system == @names.PAPERS and p.notna()"))  # rows of means have no test
    return [_negated(figure) for figure in _by_tuning(rows)]


def _by_tuning(rows: pd.DataFrame) -> list[Measured]:
    tuned_on = rows["collection"].str.match(f"({TUNED_ON})(/|$)")
    parts = ((rows[~tuned_on], "not tuned on"), (rows[tuned_on], "tuned on, by other queries"))
    return [_mean(part)._replace(on=f"{_where(part)} {note}") for part, note in parts if len(part)]


def extreme(results: Results, lowest: bool) -> list[Measured]:
    """Return latent terms less dense search where the interval reaches lowest, else where it begins highest.

    Since the collection is chosen by its interval, the intervals are widened for their number (Bonferroni).
    """
    return [_extreme(_ndcg(results, names.LATENT), lowest)]


def _extreme(rows: pd.DataFrame, lowest: bool) -> Measured:
    factor = stats.norm.ppf(1 - 0.025 / len(rows)) / NORMAL
    centre = rows["difference"]
    low, high = (centre + factor * (rows[end] - centre) for end in DIFFERENCE[1:])
    row = low.idxmin() if lowest else low.idxmax()
    on = f"{rows.loc[row, 'collection']}, the {'lowest' if lowest else 'clearest'} of {len(rows)}"
    return Measured(centre[row], low[row], high[row], on)


def _retrievers(results: Results) -> pd.DataFrame:
    """Return the rows of latent terms of the retrievers of one vector a text, `reach` what seeds are off by at 95 %."""
    table = results["backbones"].query("measure == @names.MEASURE")
    dense = table.loc[table["system"] == names.DENSE, "backbone"]
    rows = table[(table["system"] == names.LATENT) & table["backbone"].isin(dense)]
    if rows["backbone"].nunique() < 2:
        raise NotMeasured("one dense retriever in backbones.csv")
    return without_limit(rows).assign(reach=NORMAL * rows["seed_sd"] / np.sqrt(rows["seeds"]))


def lowest_of_retrievers(results: Results) -> list[Measured]:
    """Return latent terms less dense search where the interval reaches lowest, as `extreme` does, of all retrievers."""
    rows = _retrievers(results)
    low, high = _wider(*(rows[column] for column in DIFFERENCE), rows["reach"])
    pairs = rows["collection"] + " with " + rows["backbone"]
    return [_extreme(rows.assign(difference_low=low, difference_high=high, collection=pairs), lowest=True)]


def weakest_less_strongest(results: Results) -> list[Measured]:
    """Return what latent terms add to the first retriever less what they add to the last, query by query.

    A seed is taken to be off by as much on every collection, which is wider.
    """
    rows = _retrievers(results)
    first, last = rows["backbone"].unique()[[0, -1]]
    table = without_limit(results["backbones_per_query"].query("measure == @names.MEASURE"))
    table["gain"] = table[names.LATENT] - table[names.DENSE]
    gains = table.pivot(index=["collection", "query_id"], columns="backbone", values="gain").reset_index()
    value, low, high, on = _paired(gains, first, last)
    reach = rows.groupby("backbone")["reach"].mean()
    return [Measured(value, *_wider(value, low, high, np.hypot(reach[first], reach[last])), f"{on}, {first}, {last}")]


def against_late(results: Results) -> list[Measured]:
    """Return latent terms less late interaction over the same token states."""
    figure = _less(results, names.LATENT, names.LATE)
    return [figure._replace(on=f"{figure.on}, retriever not trained for it")]


def more_than_dense_and_words(results: Results, system: str) -> list[Measured]:
    """Return a system of the retrieval table less the weighted sum of dense search and words."""
    return [_less(results, system, names.DENSE_WORDS)]


def _less(results: Results, system: str, reference: str) -> Measured:
    """Return one system of the retrieval table less another, query by query."""
    table = results["retrieval_per_query"]
    if missing := [name for name in (system, reference) if name not in table]:
        raise NotMeasured(f"no {missing[0]} among the systems")
    return _paired(without_limit(table[table["measure"] == names.MEASURE]), system, reference)


def _paired(values: pd.DataFrame, column: str, reference: str) -> Measured:
    """Return one column of the values of queries less another, a mean over collections."""
    differences = (values[column] - values[reference]).groupby(values["collection"], sort=False)
    rows = [(name, group.mean(), *bootstrap_interval(group.to_numpy())) for name, group in differences]
    return _mean(pd.DataFrame(rows, columns=["collection", *DIFFERENCE]))


def limit(
    results: Results, measure: str = names.RECALL, system: str = names.LATENT, columns: list[str] = DIFFERENCE
) -> list[Measured]:
    """Return three columns, a value and its interval, of a system on the largest LIMIT."""
    rows = results["limit"].query("n_docs == n_docs.max() and measure == @measure").set_index("system")
    return [Measured(*rows.loc[system, columns], f"{rows['n_docs'].iloc[0]:,} documents")]


def limit_less(results: Results, system: str, columns: list[str]) -> list[Measured]:
    """Return a column of latent terms less that of another system, R@10 on the largest LIMIT.

    The table has no interval of the difference: it is from the lowest less the highest to the highest less the lowest,
    which is wider.
    """
    ours, theirs = (limit(results, system=name, columns=columns)[0] for name in (names.LATENT, system))
    return [Measured(ours.value - theirs.value, ours.low - theirs.high, ours.high - theirs.low, ours.on)]


def zipf(results: Results) -> list[Measured]:
    """Return the median exponent of the latents; the interval holds those of all collections."""
    rows = without_limit(results["zipf"].query("vocabulary == @names.LATENTS"))
    return [Measured(rows["exponent"].median(), rows["low"].min(), rows["high"].max(), f"{len(rows)} collections")]


def power_law(results: Results) -> list[Measured]:
    """Return the share of collections in which a power law is not rejected, with its Wilson interval."""
    passed = without_limit(results["zipf"].query("vocabulary == @names.LATENTS"))["p"] >= names.PLAUSIBLE
    return [Measured(passed.mean(), *wilson_interval(passed.sum(), len(passed)), f"{len(passed)} collections")]


def family(results: Results, name: str) -> list[Measured]:
    """Return a family's share of the latents by the first rule at its middle limit.

    The interval holds the Wilson intervals of both rules at each of the limits: the published rule is not known.
    """
    table = results["families"]
    shares, n_latents = table[[f"{name}_first", f"{name}_second"]].to_numpy(), table["n_latents"].iloc[0]
    ends = [wilson_interval(round(n_latents * share), n_latents) for share in shares.ravel()]
    middle = shares[np.isclose(table["half"], 0.5)][0, 0]
    on = f"{n_latents:,} latents, two rules, limits {table['half'].min():g} to {table['half'].max():g}"
    return [Measured(middle, np.min(ends), np.max(ends), on)]


def change(results: Results, table: str, variant: str, trained: bool = False) -> list[Measured]:
    """Return the nDCG@10 of a variant less that of its study's baseline.

    Of a variant that was `trained` once, as the baseline was, the interval also holds what two seeds differ by.
    """
    rows = results[table].query("variant == @variant")
    if rows.empty:
        raise NotMeasured(f"no {variant!r} in {table}.csv")
    figure = _mean(without_limit(rows))
    return [_trained_once(results, figure) if trained else figure]


def lost(results: Results, variant: str) -> list[Measured]:
    """Return by how much the nDCG@10 of a model that was not trained to retrieve is below the retriever's."""
    return [_negated(figure) for figure in change(results, "retrieval_training", variant, trained=True)]


def _trained_once(results: Results, figure: Measured) -> Measured:
    """Widen the interval of a difference between two that were trained once, by what two seeds differ by."""
    reach = NORMAL * np.sqrt(2) * _by_seed(results).std()
    return Measured(figure.value, *_wider(*figure[:3], reach), f"{figure.on}, one run each")


def _wider(value, low, high, reach):
    """Return the ends of an interval, or of a column of them, that also holds an independent error of `reach`."""
    return value - np.hypot(value - low, reach), value + np.hypot(high - value, reach)


def _by_seed(results: Results) -> pd.Series:
    """Return nDCG@10 of each seed of seeds.csv, a mean over collections."""
    return without_limit(results["seeds"]).query("seed.notna()").groupby("seed")["mean"].mean()


def activation(results: Results, name: str) -> list[Measured]:
    """Return the nDCG@10 of an activation less that of Top-K: first both with states of one norm, then as they are.

    Where states differ in norm, a threshold gives the long ones most of the latents (`latents_a_token`).
    """
    variant = f"activation: {name}, per-token"
    values = results["ablations_per_query"]
    if missing := {variant, names.PER_TOKEN} - set(values):
        raise NotMeasured(f"no {min(missing)!r} in ablations_per_query.csv")
    figure = _paired(without_limit(values), variant, names.PER_TOKEN)
    alike = _trained_once(results, figure._replace(on=f"{figure.on}, states of one norm"))
    return [alike, *change(results, "ablations", f"activation: {name}", trained=True)]


def of_way(
    results: Results, way: str, column: str, relative: bool = False, reference: str = names.TOPK
) -> list[Measured]:
    """Return a column of variants_runs.csv of a way to train less that of another, or as a share of the other's.

    The interval is what seeds differ by, pooled over the ways that have several. NotMeasured where the other cannot be
    changed in the claim's direction, and for FVU of more latents a token than the other has.
    """
    table = without_limit(results["variants_runs"])
    by_seed = table.groupby(["variant", "seed"])[column].mean().groupby("variant")
    means, n, variances = by_seed.mean(), by_seed.size(), by_seed.var().fillna(0)
    if not {way, reference} <= set(means.index) or means[[way, reference]].isna().any():
        raise NotMeasured(f"no {column!r} of {way!r} and {reference!r} in variants_runs.csv")
    if means[reference] == (1 if column == "distinct" else 0):
        raise NotMeasured(f"{column!r} of {reference!r} is {means[reference]:g} already")
    if column == "fvu":
        latents = table.groupby("variant")["l0"].mean()
        if latents[way] > 1.1 * latents[reference]:
            raise NotMeasured(f"{way!r} has {latents[way]:.1f} latents a token, {reference!r} {latents[reference]:.1f}")
    deviation = np.sqrt((variances * (n - 1)).sum() / max((n - 1).sum(), 1))
    reach = NORMAL * deviation * np.sqrt(1 / n[way] + 1 / n[reference])
    ends = np.array([0, -reach, reach]) + means[way] - means[reference]
    return [
        Measured(*(ends / means[reference] if relative else ends), f"{_where(table)}, {n[way]} and {n[reference]} runs")
    ]


def absorbed(results: Results, way: str) -> list[Measured]:
    """Return how much fewer words are absorbed by a way to train than by Top-K, as a share; Katz's interval.

    NotMeasured where one of the two absorbs none, and with fewer classes of words than CLASSES.
    """
    table = results["variants_absorption"]
    if (n_classes := table.loc[table["n"].notna(), "label"].nunique()) < CLASSES:
        raise NotMeasured(f"{n_classes} classes of words that a probe finds; at least {CLASSES} are needed")
    counts = table.groupby("variant")[["absorbed", "n"]].sum()
    (ours, n), (of_topk, m) = (counts.loc[name] for name in (way, names.TOPK))
    if not ours or not of_topk:
        raise NotMeasured(f"{way!r} absorbs {ours:.0f} words, {names.TOPK!r} {of_topk:.0f}")
    ratio, reach = (ours / n) / (of_topk / m), NORMAL * np.sqrt(1 / ours - 1 / n + 1 / of_topk - 1 / m)
    ends = (ratio - 1, ratio * np.exp(-reach) - 1, ratio * np.exp(reach) - 1)
    return [Measured(*ends, f"{m:.0f} words, {of_topk:.0f} of them absorbed by {names.TOPK}, one run each")]


def kept_by_prefix(results: Results) -> list[Measured]:
    """Return the nDCG@10 of the first half of Matryoshka's latents less that of all."""
    rows = results["variants_prefixes"].query("variant == @names.MATRYOSHKA_WAY").set_index("latents")
    half = rows.loc[rows.index.max() // 2]
    return [Measured(*half[DIFFERENCE], f"{rows.index.max() // 2:,} of {rows.index.max():,} latents")]


def reconstruction_and_ranking(results: Results) -> list[Measured]:
    """Return Spearman's correlation of FVU and nDCG@10 over the ways to train that are matched in latents a token."""
    row = results["variants_correlation"].set_index("ways").loc[names.MATCHED]
    return [Measured(row["value"], row["low"], row["high"], f"{row['n']:.0f} ways to train")]


def trend(results: Results, field: str) -> list[Measured]:
    """Return what a doubling of "width" or "k" changes."""
    rows = without_limit(results["width_k_trend"].query("field == @field"))
    figure = _mean(rows, "slope", "low", "high")
    sizes = f"{rows['smallest'].min():,} to {rows['largest'].max():,}"
    return [figure._replace(on=f"{figure.on}, {sizes}, one run each")]


def seeds(results: Results) -> list[Measured]:
    """Return the standard deviation over seeds of nDCG@10, a mean of collections, with its chi-squared interval."""
    means = _by_seed(results)
    on = f"{_where(without_limit(results['seeds']))}, {len(means)} seeds"
    return [Measured(means.std(), *deviation_interval(means.std(), len(means)), on)]


def matched(results: Results, column: str) -> list[Measured]:
    """Return the mean over pairs of seeds of a column of seeds_matched.csv: "mean" (of the cosines) or "share".

    Pairs that have a run in common are not independent: the interval is the jackknife's over runs, with Student's t.
    """
    table = results["seeds_matched"]
    runs = sorted({*table["first"], *table["second"]})
    value, n = table[column].mean(), len(runs)
    without = [table.loc[(table["first"] != run) & (table["second"] != run), column].mean() for run in runs]
    half = stats.t.ppf(0.975, n - 1) * np.sqrt((n - 1) * np.var(without))  # nan for two runs
    on = f"{len(table)} pairs of {n} seeds, {table['width'].max():,} latents"
    return [Measured(value, value - half, value + half, on)]


def peak(results: Results, readout: str) -> list[Measured]:
    """Return the depth of the best layer by the mean of the collections, 1 the final one; queries are resampled."""
    summary = without_limit(results["layers"])
    layers = summary[summary["readout"] == readout].drop_duplicates("variant").sort_values("layer")
    groups = _groups(results["layers_per_query"], layers["variant"], summary["collection"].unique())
    return [_peak(groups, layers["layer"].to_numpy() / layers["layer"].max(), _where(summary))]


def _groups(values: pd.DataFrame, columns: Iterable[str], collections: Iterable[str]) -> list[np.ndarray]:
    """Return the values of these columns, float64 [n_queries, n_columns], a collection each."""
    by_collection = values.set_index("collection")
    return [by_collection.loc[name, list(columns)].to_numpy() for name in collections]


def _peak(groups: list[np.ndarray], depths: np.ndarray, on: str) -> Measured:
    best = np.mean([group.mean(axis=0) for group in groups], axis=0).argmax()
    draws = depths[resampled_means(groups).argmax(axis=1)]
    return Measured(depths[best], *np.quantile(draws, [0.025, 0.975], method="inverted_cdf"), on)


def _trained_by(results: Results, field: str, kind: str) -> tuple[pd.Series, list[np.ndarray], str]:
    """Return layers or widths of a kind of SPLARE's models by system, their values, and where they were measured."""
    table = results[f"splare_{field}s"].query("kind == @kind")
    rows = without_limit(table[table["collection"] != names.MEAN])
    sizes = rows.drop_duplicates("system").set_index("system")[field].sort_values()
    return sizes, _groups(results["splare_per_query"], sizes.index, rows["collection"].unique()), _where(rows)


def trained_peak(results: Results) -> list[Measured]:
    """Return the depth of the best layer of trained models, as `peak`."""
    layers, groups, on = _trained_by(results, "layer", names.TRAINED_SPLARE)
    depths = layers.to_numpy() / results.origin("splare")["config"]["retriever"]["layer"]
    return [_peak(groups, depths, f"{on}, layers {layers.min()} to {layers.max()}, one run each")]


def splare_trend(results: Results, kind: str) -> list[Measured]:
    """Return what a doubling of the width changes, by SPLARE's readout; NotMeasured with one width."""
    widths, groups, on = _trained_by(results, "width", kind)
    if len(widths) < 2:
        raise NotMeasured("one width in splare_widths.csv")
    doublings = np.log2(widths.to_numpy()) - np.log2(widths.to_numpy()).mean()
    slopes = [group @ doublings / (doublings @ doublings) for group in groups]
    ends = np.quantile(resampled_means(slopes), [0.025, 0.975])
    on = f"{on}, {widths.min():,} to {widths.max():,}, one run each"
    return [Measured(float(np.mean([slope.mean() for slope in slopes])), *ends, on)]


def contrast(results: Results, table: str, system: str, reference: str) -> list[Measured]:
    """Return the difference of a named pair of systems, the mean over collections; NotMeasured if it is not there."""
    rows = results[table].query("system == @system and reference == @reference")
    if rows.empty:
        raise NotMeasured(f"no {system!r} less {reference!r} in {table}.csv")
    mean = rows[rows["collection"] == names.MEAN].iloc[0]
    return [Measured(*mean[DIFFERENCE], _where(rows[rows["collection"] != names.MEAN]))]


def splare_pruned(results: Results, kind: str, top: int) -> list[Measured]:
    """Return the change when documents keep their largest weights only, by SPLARE's readout, as a share of nDCG@10."""
    rows = results["splare_pruning"].query("kind == @kind and collection == @names.MEAN")
    pruned, whole = rows[rows["doc_top"] == top], rows[rows["doc_top"].isna()]["mean"].iloc[0]
    if pruned.empty:
        raise NotMeasured(f"no documents pruned to {top} latents")
    return [Measured(*pruned.iloc[0][DIFFERENCE] / whole, "mean of the collections, one seed")]


def gain_of_csr(results: Results, k: int) -> list[Measured]:
    """Return CSRv2 less CSR at a k, as a share of CSR's nDCG@10."""
    (figure,) = contrast(results, "csr_contrasts", f"{names.CSRV2}, {k}", f"{names.CSR_FROZEN}, {k}")
    table = results["csr"].query("collection == @names.MEAN").set_index("system")
    values = np.array(figure[:3]) / table.loc[f"{names.CSR_FROZEN}, {k}", "mean"]
    return [Measured(*values, figure.on)]


def dead_of_csr(results: Results, k: int) -> list[Measured]:
    """Return the share of CSRv2's latents that no document and no text of the pairs has, with its Wilson interval."""
    table = results["csr"].query("collection == @names.MEAN").set_index("system")
    name, width = f"{names.CSRV2}, {k}", results.origin("csr")["config"]["size"]["width"]
    if name not in table.index:
        raise NotMeasured(f"no {name!r} in csr.csv")
    share = table.loc[name, "dead"]
    return [Measured(share, *wilson_interval(round(share * width), width), f"{width:,} latents, documents and pairs")]


def pruned(results: Results, top: int) -> list[Measured]:
    """Return the change when documents keep their largest weights only, as a share of the unpruned nDCG@10."""
    table = without_limit(results["pruning"])
    unpruned = table[table["kind"] == names.NOTHING_PRUNED].set_index("collection")["mean"]
    rows = table.query("kind == @names.DOCUMENT_TOP and value == @top")
    if rows.empty:
        raise NotMeasured(f"no documents pruned to {top} latents")
    return [_mean(rows.assign(**rows[DIFFERENCE].div(rows["collection"].map(unpruned), axis=0)))]


def speedup(results: Results) -> list[Measured]:
    """Return how many times faster Seismic is than an exact search, at its fastest with a recall of EXACT_ENOUGH.

    The interval is from the lowest time over the highest to the highest over the lowest, which is wider.
    """
    table, n_docs = results["latency"], results.origin("latency")["config"]["n_docs"]
    rows = table[(table["kind"] == names.SEISMIC) & (table["recall"] >= EXACT_ENOUGH)].sort_values("median_ms")
    if rows.empty:
        raise NotMeasured(f"no {names.SEISMIC} with a recall of {EXACT_ENOUGH} in latency.csv")
    columns = ["median_ms", "ms_low", "ms_high"]  # the last two are missing in tables that have no interval
    exact, seismic = (frame.reindex(columns=columns).iloc[0] for frame in (table[table["kind"] == names.EXACT], rows))
    ratios = exact.to_numpy() / seismic[["median_ms", "ms_high", "ms_low"]].to_numpy()
    return [Measured(*ratios, f"{n_docs:,} documents, recall {rows['recall'].iloc[0]:.2f}")]


def steered(results: Results, column: str) -> list[Measured]:
    """Return a column of steering.csv where the main number of latents is silenced, of the mean over collections."""
    rows = results["steering"].query("vocabulary == @names.LATENTS and system == @names.SILENCED")
    rows = rows[rows["n"] == names.STEERED_MAIN]
    row = rows[rows["collection"] == names.MEAN]
    if row.empty:
        raise NotMeasured("no mean of several collections in steering.csv")
    columns = [column, f"{column}_low", f"{column}_high"]
    return [Measured(*row[columns].iloc[0], f"{_where(without_limit(rows[:-1]))}, {row['n_pairs'].iloc[0]:,} pairs")]


def labelled(results: Results) -> list[Measured]:
    """Return how much better labels predict where their latents fire than random labels do, on each of the corpora."""
    rows = results["corpora"].query("vocabulary == @names.LATENTS and label_gain.notna()")
    if rows.empty:
        raise NotMeasured("no labels that were measured in corpora.csv")
    columns = ["label_gain", "label_gain_low", "label_gain_high"]
    return [Measured(*values, on) for *values, on in rows[[*columns, "corpora"]].itertuples(index=False)]


def confirmed(results: Results) -> list[Measured]:
    """Return the share of latents that words confirm, less that with labels dealt anew, of each of the corpora.

    The interval is from the lowest less the highest to the highest less the lowest, which is wider.
    """
    rows = results["corpora"].query("vocabulary == @names.LATENTS and agree.notna()")
    if rows.empty:
        raise NotMeasured("no latents that differ in corpora.csv")
    ends = (rows["agree"] - rows["control"], rows["agree_low"] - rows["control_high"])
    ends += (rows["agree_high"] - rows["control_low"],)
    return [Measured(*values, on) for *values, on in zip(*ends, rows["corpora"], strict=True)]
