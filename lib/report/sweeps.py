"""What the reports of the studies that train autoencoders share: panels, lines with labels, and comparisons in words.

Every difference is to the table's baseline; it is significant if Holm's correction leaves p below SIGNIFICANT.
"""

from collections.abc import Iterable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.report.common import SIGNIFICANT, STYLE, change, collections_of, colours_of, interval, significant


def forest(table: pd.DataFrame, variants: list[str], value: str, ends: tuple[str, str], title: str) -> Figure:
    """Draw one row per variant and one panel per collection, all on one scale."""
    colours = colours_of(collections_of(table))
    places = dict(zip(variants, range(len(variants)), strict=True))
    with plt.rc_context(STYLE):
        size = (1.7 + 2.0 * len(colours), 0.9 + 0.2 * len(variants))
        figure, panels = plt.subplots(1, len(colours), figsize=size, sharex=True, sharey=True, squeeze=False)
        for axes, (name, colour) in zip(panels[0], colours.items(), strict=True):
            rows = table[table["collection"] == name]
            y = rows["variant"].map(places)
            faces = [colour if filled else "white" for filled in significant(rows)]
            axes.hlines(y, rows[ends[0]], rows[ends[1]], color=colour, linewidth=1.2)
            axes.scatter(rows[value], y, s=22, color=faces, edgecolor=colour, zorder=3)
            if value == "difference":
                axes.axvline(0, color="#999999", linewidth=0.8, zorder=0)
            axes.set_title(name, fontsize=9)
            axes.grid(axis="y", color="#eeeeee")
            axes.set_axisbelow(True)
        if value != "difference":
            panels[0, 0].set_xlim(0, None)
        panels[0, 0].set_yticks(range(len(variants)), variants, fontsize=8)
        panels[0, 0].set_ylim(len(variants) - 0.5, -0.5)
        figure.supxlabel(f"{title} (filled: p < {SIGNIFICANT}, Holm-corrected)", fontsize=8.5)
    return figure


def band(axes: Axes, rows: pd.DataFrame, field: str, colour: str) -> float:
    """Draw means against `field` with their intervals as a band; return the last mean."""
    axes.plot(rows[field], rows["mean"], marker=".", color=colour)
    axes.fill_between(rows[field], rows["low"], rows["high"], color=colour, alpha=0.15, linewidth=0)
    return rows["mean"].iloc[-1]


def label_ends(axes: Axes, ends: Iterable[tuple[float, str, str]]) -> None:
    """Write the name of each line (end, name, colour) beside its end, moved up where two would overlap."""
    low, high = axes.get_ylim()
    step, height = 0.09 * (high - low), -np.inf
    style = {"xytext": (4, 0), "textcoords": "offset points", "fontsize": 8, "va": "center", "annotation_clip": False}
    for end, name, colour in sorted(ends, key=lambda line: line[:2]):
        height = max(end, height + step)
        axes.annotate(name, (1.0, height), xycoords=axes.get_yaxis_transform(), color=colour, **style)


def comparisons(rows: pd.DataFrame, noun: str) -> str:
    """Name the rows, by their index, that are worse or better than the baseline, or not significantly different."""
    compared = rows[rows["difference"].notna()].sort_index()
    differs, worse = significant(compared), compared["difference"] < 0
    groups = {
        "worse than the baseline": compared[differs & worse],
        "better than the baseline": compared[differs & ~worse],
        "not significantly different": compared[~differs],
    }
    parts = [
        f"{verdict}: {', '.join(f'{x:,}' for x in group.index)}" for verdict, group in groups.items() if len(group)
    ]
    return f"{noun} {'; '.join(parts)}."


def estimate(row: pd.Series) -> str:
    """Return a row's nDCG@10 with its interval."""
    return interval(row, "mean", "low", "high")


def comparison(row: pd.Series) -> str:
    """Return whether a row is better or worse than the baseline, with the difference."""
    if not row["p_holm"] < SIGNIFICANT:
        return f"not significantly different, {change(row)}"
    return f"{'better' if row['difference'] > 0 else 'worse'}, {change(row)}"
