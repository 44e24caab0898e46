"""Recall on LIMIT as the haystack grows (21_limit)."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from lib.report.common import STYLE, change, colours_of, interval, significant
from lib.studies.names import DEEP_RECALL, LATENT, RECALL, TUNED


def limit_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return recall on LIMIT with its interval, one row a size and system, one column a measure, as text."""
    cells = table.assign(cell=[interval(row, "mean", "low", "high") for _, row in table.iterrows()])
    wide = cells.pivot(index=["n_docs", "system"], columns="measure", values="cell")
    order = table[["n_docs", "system"]].drop_duplicates()
    return wide.loc[pd.MultiIndex.from_frame(order), list(dict.fromkeys(table["measure"]))].reset_index()


def limit_figure(table: pd.DataFrame) -> Figure:
    """Draw recall against the number of documents, a panel for R@10 and R@100, lines labelled at their ends."""
    colours = colours_of(table["system"])
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, 2, figsize=(7.2, 2.9), sharey=True)
        for axes, measure in zip(panels, (RECALL, DEEP_RECALL), strict=True):
            ends = {}
            shown = table[(table["measure"] == measure) & (table["n_docs"] > int(measure[2:]))]  # else 1 by counting
            for system, rows in shown.groupby("system", sort=False):
                axes.plot(rows["n_docs"], rows["mean"], marker="o", markersize=3.5, color=colours[system])
                axes.fill_between(rows["n_docs"], rows["low"], rows["high"], color=colours[system], alpha=0.2, lw=0)
                ends[system] = rows["mean"].iloc[-1]
            height = -1.0
            for system in sorted(ends, key=ends.__getitem__):  # moved up where two labels would overlap
                height = max(ends[system], height + 0.075)
                place = {"xy": (1.02, height), "xycoords": ("axes fraction", "data"), "va": "center"}
                axes.annotate(system, color=colours[system], fontsize=8, **place)
            axes.set(xscale="log", xlabel="documents", ylabel=measure, ylim=(0, 1.03))
            sizes = sorted(set(shown["n_docs"]))
            axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
            axes.minorticks_off()
            axes.yaxis.set_tick_params(labelleft=True)
    return figure


def limit_in_words(table: pd.DataFrame) -> str:
    """Answer how recall on LIMIT decays, in words out of the table of `limit_study`."""
    sizes, lines = sorted(set(table["n_docs"])), []
    rows = table.set_index(["n_docs", "measure", "system"])
    for measure in (RECALL, DEEP_RECALL):
        first = next(size for size in sizes if size > int(measure[2:]))
        for system in dict.fromkeys(table["system"]):
            start, end = rows.loc[(first, measure, system)], rows.loc[(sizes[-1], measure, system)]
            later = f", {interval(end, 'mean', 'low', 'high')} among {sizes[-1]:,}" if first < sizes[-1] else ""
            share = f"; {interval(end, 'kept', 'kept_low', 'kept_high', 2)} kept" if first == sizes[0] else ""
            lines.append(
                f"{measure}, {system}: {interval(start, 'mean', 'low', 'high')} among {first:,}{later}{share}."
            )
    last = table[(table["n_docs"] == sizes[-1]) & (table["measure"] == DEEP_RECALL)]
    for (_, row), clear in zip(last.iterrows(), significant(last), strict=True):
        if row["system"] in (LATENT, TUNED):
            lines.append(
                f"Among {sizes[-1]:,} documents {DEEP_RECALL} of {row['system']} differs from dense by {change(row)}, "
                f"{'' if clear else 'not '}significantly (p = {row['p_holm']:.2g})."
            )
    return "\n".join(lines)
