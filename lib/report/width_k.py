"""Figure and sentences of `41_width_k`."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from lib.report.common import STYLE, collections_of, colours_of, interval
from lib.report.sweeps import comparisons, draw_lines, label_ends

# What varies, what is fixed, the label of an axis, and what varies as a noun and in the plural.
FIELDS = (
    ("width", "k", "width (latents)", "the width", "Widths"),
    ("k", "width", "k (latents a token)", "k", "Values of k"),
)


def width_k_figure(summary: pd.DataFrame) -> Figure:
    """Draw nDCG@10 (above) and FVU (below) against the width (left) and k (right), one line per collection."""
    colours = colours_of(collections_of(summary))
    baseline = summary[summary["difference"].isna()].iloc[0]
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(2, 2, figsize=(6.4, 4.4), sharex="col", sharey="row")
        for column, (field, fixed, label, _, _) in enumerate(FIELDS):
            above, below = panels[:, column]
            rows = summary[summary[fixed] == baseline[fixed]].sort_values(field)
            ends = draw_lines(above, rows, "collection", colours, field)
            draw_lines(below, rows, "collection", colours, field, "fvu", None)
            ticks = sorted(set(rows[field]))
            below.set_xscale("log", base=2)
            below.set_xticks(ticks, [f"{x // 1024}k" if x >= 1024 and x % 1024 == 0 else str(x) for x in ticks])
            below.xaxis.set_minor_locator(NullLocator())
            if column:
                label_ends(above, ends)
            above.set_title(f"{fixed} = {baseline[fixed]:,}", fontsize=9)
            below.set_xlabel(label)
        panels[0, 0].set(ylabel="nDCG@10, 95 % interval", ylim=(0, None))
        panels[1, 0].set(ylabel="FVU of the documents", ylim=(0, None))
    return figure


def width_k_in_words(summary: pd.DataFrame, trend: pd.DataFrame) -> str:
    """Say by how much nDCG@10 changes with each doubling of the width and of k, and which sizes differ."""
    lines = []
    for name, rows in summary.groupby("collection", sort=False):
        baseline = rows[rows["difference"].isna()].iloc[0]
        parts = [f"{name}: nDCG@10 is {interval(baseline)} at width {baseline['width']:,}, k {baseline['k']}."]
        for field, fixed, _, noun, plural in FIELDS:
            slope = trend[(trend["collection"] == name) & (trend["field"] == field)].iloc[0]
            verdict = "no significant trend" if slope["low"] <= 0 <= slope["high"] else "a trend"
            parts.append(
                f"Each doubling of {noun}, from {slope['smallest']:,} to {slope['largest']:,}, changes it "
                f"by {slope['slope']:+.4f} ({slope['low']:+.4f} to {slope['high']:+.4f}): {verdict}."
            )
            parts.append(comparisons(rows[rows[fixed] == baseline[fixed]].set_index(field), plural))
        lines.append(" ".join(parts))
    return "\n".join(lines)
