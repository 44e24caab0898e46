"""Recall on LIMIT as the haystack grows: table, figure, and what they say in words."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from lib.report.common import COLOURS, SIGNIFICANT, STYLE, interval


def limit_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return recall on LIMIT with its interval, one row a size and system, one column a measure, as text."""
    cells = table.assign(cell=[interval(row, "mean", "low", "high") for _, row in table.iterrows()])
    wide = cells.pivot(index=["n_docs", "system"], columns="measure", values="cell")
    order = table[["n_docs", "system"]].drop_duplicates()
    return wide.loc[pd.MultiIndex.from_frame(order), list(dict.fromkeys(table["measure"]))].reset_index()


def limit_figure(table: pd.DataFrame) -> Figure:
    """Draw recall against the number of documents, a panel for R@10 and R@100, lines labelled at their ends."""
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, 2, figsize=(7.2, 2.9), sharey=True)
        for axes, measure in zip(panels, ("R@10", "R@100"), strict=True):
            ends = {}
            shown = table[(table["measure"] == measure) & (table["n_docs"] > int(measure[2:]))]  # else 1 by counting
            for system, rows in shown.groupby("system", sort=False):
                axes.plot(rows["n_docs"], rows["mean"], marker="o", markersize=3.5, color=COLOURS[system])
                axes.fill_between(rows["n_docs"], rows["low"], rows["high"], color=COLOURS[system], alpha=0.2, lw=0)
                ends[system] = rows["mean"].iloc[-1]
            for system, y in _apart(ends, 0.075).items():
                at = {"xy": (1.02, y), "xycoords": ("axes fraction", "data"), "va": "center"}
                axes.annotate(system, color=COLOURS[system], fontsize=8, **at)
            axes.set(xscale="log", xlabel="documents", ylabel=measure, ylim=(0, 1.03))
            sizes = sorted(set(shown["n_docs"]))
            axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
            axes.minorticks_off()
            axes.yaxis.set_tick_params(labelleft=True)
    return figure


def _apart(heights: dict[str, float], least: float) -> dict[str, float]:
    """Return the heights of labels, moved up where two would stand on each other."""
    placed: dict[str, float] = {}
    for name in sorted(heights, key=heights.__getitem__):
        placed[name] = max(heights[name], max(placed.values(), default=-least) + least)
    return placed


def limit_in_words(table: pd.DataFrame) -> str:
    """Answer how recall on LIMIT decays, in words out of the table of `studies.limit_study`."""
    sizes, lines = sorted(set(table["n_docs"])), []
    rows = table.set_index(["n_docs", "measure", "system"])
    for measure in ("R@10", "R@100"):
        first = next(size for size in sizes if size > int(measure[2:]))
        for system in dict.fromkeys(table["system"]):
            start, end = rows.loc[(first, measure, system)], rows.loc[(sizes[-1], measure, system)]
            later = f", {interval(end, 'mean', 'low', 'high')} among {sizes[-1]:,}" if first < sizes[-1] else ""
            share = f"; {interval(end, 'kept', 'kept_low', 'kept_high', 2)} kept" if first == sizes[0] else ""
            lines.append(
                f"{measure}, {system}: {interval(start, 'mean', 'low', 'high')} among {first:,}{later}{share}."
            )
    for name in ("latent terms", "latent terms, tuned"):
        row = rows.loc[(sizes[-1], "R@100", name)]
        told = "significantly" if row["p_holm"] < SIGNIFICANT else "not significantly"
        lines.append(
            f"Among {sizes[-1]:,} documents R@100 of {name} differs from dense by {row['difference']:+.3f} "
            f"({row['difference_low']:+.3f} to {row['difference_high']:+.3f}), {told} (p = {row['p_holm']:.2g})."
        )
    return "\n".join(lines)
