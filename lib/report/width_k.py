"""Figure and sentences of `41_width_k`."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from lib.report.common import STYLE
from lib.report.sweeps import PALETTE, band, comparisons, estimate, label_ends


def width_k_figure(summary: pd.DataFrame) -> Figure:
    """Draw nDCG@10 (above) and FVU (below) against the width (left) and k (right), a line a collection."""
    names = list(dict.fromkeys(summary["collection"]))
    baseline = summary[summary["difference"].isna()].iloc[0]
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(2, 2, figsize=(6.4, 4.4), sharex="col", sharey="row")
        for column, (field, other) in enumerate((("width", "k"), ("k", "width"))):
            above, below = panels[:, column]
            rows = summary[summary[other] == baseline[other]].sort_values(field)
            ends = []
            for name, colour in zip(names, PALETTE, strict=False):
                own = rows[rows["collection"] == name]
                ends.append((band(above, own, field, colour), name, colour))
                below.plot(own[field], own["fvu"], marker=".", color=colour)
            _log2_ticks(below, rows[field])
            if column:
                label_ends(above, ends)
            above.set_title(f"{other} = {baseline[other]:,}", fontsize=9)
            below.set_xlabel({"width": "width (latents)", "k": "k (latents a token)"}[field])
        panels[0, 0].set(ylabel="nDCG@10, 95 % interval", ylim=(0, None))
        panels[1, 0].set(ylabel="FVU of the documents", ylim=(0, None))
    return figure


def width_k_in_words(summary: pd.DataFrame, trend: pd.DataFrame) -> str:
    """Say by how much nDCG@10 changes with each doubling of the width and of k, and which sizes are told apart."""
    lines, nouns = [], {"width": "the width", "k": "k"}
    for name, rows in summary.groupby("collection", sort=False):
        baseline = rows[rows["difference"].isna()].iloc[0]
        parts = [f"{name}: nDCG@10 is {estimate(baseline)} at width {baseline['width']:,}, k {baseline['k']}."]
        for field, other in (("width", "k"), ("k", "width")):
            slope = trend[(trend["collection"] == name) & (trend["field"] == field)].iloc[0]
            verdict = "no trend is told" if slope["low"] <= 0 <= slope["high"] else "a trend"
            parts.append(
                f"Each doubling of {nouns[field]}, from {slope['smallest']:,} to {slope['largest']:,}, changes it by "
                f"{slope['slope']:+.4f} [{slope['low']:+.4f}, {slope['high']:+.4f}]: {verdict}."
            )
            own = rows[rows[other] == baseline[other]].set_index(field)
            parts.append(comparisons(own, {"width": "Widths", "k": "Values of k"}[field]))
        lines.append(" ".join(parts))
    return "\n".join(lines)


def _log2_ticks(axes: Axes, values: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    ticks = sorted(set(values))
    axes.set_xticks(ticks, [f"{tick // 1024}k" if tick >= 1024 and tick % 1024 == 0 else str(tick) for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
