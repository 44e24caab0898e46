"""Figure, table and sentences of `53_variants`."""

from collections.abc import Mapping
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.report.common import PALETTE, SIGNIFICANT, STYLE, change, interval, significant
from lib.studies.names import AS_TUNED, MATCHED, MATRYOSHKA_WAY, MEASURE, PAPERS, SAME, TOPK

PANELS = (("fvu", "FVU of the documents"), ("doc_postings", "postings of a document"))
MARKERS = ("o", "s", "^", "D")


def measured(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the ways that were trained, not those left out."""
    return table[table["mean"].notna()].astype({"matched": bool, "scaled": bool})


def clear(table: pd.DataFrame) -> pd.Series:
    """Return which ways differ from Top-K by the study's rule: significantly, and by more than seeds do."""
    return significant(table) & (table["difference"].abs() > table["reach"])


def variants_table(table: pd.DataFrame, by_collection: pd.DataFrame) -> pd.DataFrame:
    """Return a row a way, in text; nDCG@10 of each collection is with the paper's constants / tuned."""
    rows = measured(table)
    shown = pd.DataFrame(
        {"way": rows["variant"], "k": rows["k"].map("{:.0f}".format), "L0": rows["l0"].map("{:.1f}".format)}
    )
    shown["L0"] += np.where(rows["matched"], "", " (not matched)")
    shown["FVU"] = rows["fvu"].map("{:.3f}".format) + np.where(rows["scaled"], " (scaled)", "")
    shown["dead"] = rows["dead"].map(lambda share: "unknown" if np.isnan(share) else f"{share:.1%}")
    shown["median density"] = rows["density_median"].map("{:.2%}".format)
    shown["distinct"] = rows["distinct"].map("{:.1%}".format)
    both = zip(rows["agreement"], rows["active_agreement"], strict=True)
    shown["agreement of seeds"] = ["one seed" if np.isnan(a) else f"{a:.2f} / {b:.2f}" for a, b in both]
    shown["postings a document"] = rows["doc_postings"].map("{:,.0f}".format)
    shown["a query"] = rows["query_postings"].map("{:,.0f}".format)
    shown["k1, b"] = [f"{k1:g}, {b:g}" for k1, b in zip(rows["k1"], rows["b"], strict=True)]
    cells = by_collection.set_index(["constants", "collection", "variant"])["mean"].sort_index()
    for name in dict.fromkeys(by_collection["collection"]):
        both = [cells.loc[kind, name].reindex(rows["variant"]) for kind in (PAPERS, AS_TUNED)]
        shown[name] = [f"{paper:.3f} / {tuned:.3f}" for paper, tuned in zip(*both, strict=True)]
    shown["difference to topk"] = ["" if row["variant"] == TOPK else change(row) for _, row in rows.iterrows()]
    shown["p, Holm"] = rows["p_holm"].map(lambda p: "" if np.isnan(p) else f"{p:.3f}")
    shown["note"] = rows["note"].fillna("")
    left_out = table.loc[table["mean"].isna(), ["variant", "note"]].rename(columns={"variant": "way"})
    return pd.concat([shown, left_out], ignore_index=True).fillna("").set_index("way")


def described_table(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return a row a way, in text, of what is described of it, and a row of the words of the same documents."""
    probes = tables["variants_probes"]
    shown = pd.DataFrame(index=pd.Index(dict.fromkeys(probes["terms"]), name="terms"))
    for attribute, rows in probes.groupby("attribute", sort=False):
        auc = rows.pivot(index="terms", columns="k", values="auc").reindex(shown.index)
        label = f"AUC of {attribute} by {', '.join(map(str, auc))}"
        shown[label] = [", ".join(f"{value:.2f}" for value in row) for row in auc.to_numpy()]
    shares = tables["variants_absorption"].dropna(subset=["share"])
    absorbed = shares.groupby("variant")["share"].mean().map("{:.1%}".format)
    families = tables["variants_families"].set_index("variant")
    times = tables["variants_times"].set_index("variant")
    columns = {
        f"absorbed, {shares['label'].nunique()} classes": absorbed,
        "families": families["families"].map("{:,.0f}".format),
        "latents in one": families["latents"].map("{:.0%}".format),
        "inside / outside": families["inside"].map("{:.2f}".format) + families["outside"].map(" / {:.3f}".format),
        "ms a query": times["median_ms"].map("{:.2f}".format),
        f"beside {TOPK}": times["times_topk"].map("{:.2f}".format),
    }
    return shown.join(pd.DataFrame(columns, dtype=object)).fillna("")


def tokens_in_words(table: pd.DataFrame) -> str:
    """Say whether seeds agree more after more tokens."""
    parts = [f"{row.tokens:,}: {row.agreement:.2f}, {row.shared:.0%}" for row in table.itertuples()]
    return f"Agreement of two seeds of {TOPK} (mean cosine, share of at least {SAME}) by tokens: {'; '.join(parts)}."


def variants_figure(table: pd.DataFrame) -> Figure:
    """Draw nDCG@10 less Top-K's, with its interval, against the FVU (left) and the size of an index (right).

    Filled where a way differs by the rule, crossed where its L0 is not Top-K's; ways of scaled states, whose FVU is
    another, are on the right only. The band is what seeds alone make of a difference, at most.
    """
    rows = measured(table)
    rows = rows.assign(clear=clear(rows)).fillna(
        dict.fromkeys(("difference", "difference_low", "difference_high"), 0.0)
    )
    styles = dict(zip(rows["variant"], zip(cycle(PALETTE), np.repeat(MARKERS, len(PALETTE))), strict=False))
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, 2, figsize=(9.2, 4.0), sharey=True)
        for axes, (field, label) in zip(panels, PANELS, strict=True):
            axes.axhspan(-rows["reach"].max(), rows["reach"].max(), color="#eeeeee", zorder=0)
            axes.axhline(0, color="#999999", linewidth=0.8, zorder=0)
            for row in rows.itertuples():
                if field == "fvu" and row.scaled:
                    continue
                colour, marker = styles[row.variant]
                x = getattr(row, field)
                axes.vlines(x, row.difference_low, row.difference_high, color=colour, linewidth=0.9)
                face = colour if row.clear else "white"
                axes.scatter(x, row.difference, s=26, marker=marker, color=face, edgecolor=colour, zorder=3)
                if not row.matched:
                    axes.scatter(x, row.difference, s=18, marker="x", color="black", linewidth=0.7, zorder=4)
            axes.set_xlabel(label)
        panels[0].set_ylabel(f"{MEASURE} less that of {TOPK}, mean, 95 %")
        handles = [
            plt.Line2D([], [], color=colour, marker=marker, linestyle="", markersize=4, label=name)
            for name, (colour, marker) in styles.items()
        ]
        figure.legend(handles=handles, loc="outside right upper", fontsize=7)
    return figure


def variants_in_words(table: pd.DataFrame, correlation: pd.DataFrame) -> str:
    """Say by the study's rule which way to use, and whether better reconstruction means better ranking."""
    rows = measured(table)
    others, topk = rows[rows["variant"] != TOPK], rows[rows["variant"] == TOPK].iloc[0]
    differs = clear(others)
    lines = [_answer(others[differs & (others["difference"] > 0)], topk, len(others))]
    worse = others[differs & (others["difference"] < 0)].sort_values("difference")
    if len(worse):
        listed = ", ".join(f"{row['variant']} {change(row)}" for _, row in worse.iterrows())
        lines.append(f"Worse than {TOPK}, significantly and by more than seeds differ: {listed}.")
    lines.append(
        f"Seeds alone move a difference to {TOPK} by up to {rows['reach'].max():.4f} in 95 of 100 cases; what is less "
        f"counts as none."
    )
    off = rows[~rows["matched"]]
    if len(off):
        listed = ", ".join(f"{row['variant']} ({row['l0']:.1f})" for _, row in off.iterrows())
        lines.append(f"Not matched in latents a token, {topk['l0']:.1f}, and never recommended: {listed}.")
    return "\n".join([*lines, _correlation(correlation)])


def _answer(better: pd.DataFrame, topk: pd.Series, n_others: int) -> str:
    ranked = f"Of {n_others} ways beside {TOPK}, whose {MEASURE} is {interval(topk)},"
    matched = better[better["matched"]]
    if better.empty:
        return f"{ranked} none ranks better by more than chance and seeds: use {TOPK}."
    listed = ", ".join(
        f"{row['variant']} {change(row)}" for _, row in better.sort_values("difference").iloc[::-1].iterrows()
    )
    best = matched.sort_values("mean")["variant"].iloc[-1] if len(matched) else TOPK
    why = (
        "the best of them at equally many latents a token"
        if len(matched)
        else "as none of these has as many latents a token"
    )
    return (
        f"{ranked} {len(better)} rank better, p < {SIGNIFICANT} after Holm's correction: {listed}. Use {best}, {why}."
    )


def _correlation(correlation: pd.DataFrame) -> str:
    row = correlation.set_index("ways").loc[MATCHED]
    text = f"Over the {row['n']:.0f} ways that are matched, FVU and {MEASURE} have a rank correlation of "
    text += f"{row['value']:+.2f} ({row['low']:+.2f} to {row['high']:+.2f}): "
    if row["high"] < 0:
        return text + "what reconstructs better ranks better."
    if row["low"] > 0:
        return text + "what reconstructs better ranks worse."
    return text + "that better reconstruction means better ranking is not shown, nor that it does not."


def prefixes_in_words(prefixes: pd.DataFrame) -> str:
    """Say what is left of nDCG@10 where an index keeps the first latents only."""
    lines = []
    for way in (MATRYOSHKA_WAY, TOPK):
        rows = prefixes[(prefixes["variant"] == way) & prefixes["difference"].notna()]
        cuts = [f"{row['latents']:,}: {change(row)}" for _, row in rows.iterrows()]
        lines.append(f"{way}, cut to its first latents, {MEASURE} less that of all: {'; '.join(cuts)}.")
    return "\n".join(lines)
