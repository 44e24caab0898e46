"""What the reports of the studies that train autoencoders share: panels, lines with labels, and comparisons in words.

Every difference is to the table's baseline; it is significant if Holm's correction leaves p below SIGNIFICANT.
"""

from collections.abc import Iterable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.report.common import SIGNIFICANT, STYLE, change, collections_of, colours_of, significant

LOW_HIGH = ("low", "high")


def forest(table: pd.DataFrame, variants: list[str], value: str, ends: tuple[str, str], title: str) -> Figure:
    """Draw one row per variant and one panel per collection, all on one scale."""
    colours = colours_of(collections_of(table))
    with plt.rc_context(STYLE):
        size = (1.7 + 2.0 * len(colours), 0.9 + 0.2 * len(variants))
        figure, panels = plt.subplots(1, len(colours), figsize=size, sharex=True, sharey=True, squeeze=False)
        for axes, (name, colour) in zip(panels[0], colours.items(), strict=True):
            rows = table[table["collection"] == name]
            y = rows["variant"].map(variants.index)
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


def draw_lines(
    axes: Axes, table: pd.DataFrame, by: str, colours: dict[str, str], field: str, value: str = "mean", ends=LOW_HIGH
) -> list[tuple[float, str, str]]:
    """Draw a line of `value` against `field` for each colour, with any interval as a band; return the lines' ends."""
    lines = []
    for name, colour in colours.items():
        rows = table[table[by] == name]
        axes.plot(rows[field], rows[value], marker=".", color=colour)
        if ends:
            axes.fill_between(rows[field], rows[ends[0]], rows[ends[1]], color=colour, alpha=0.15, linewidth=0)
        lines.append((rows[value].iloc[-1], name, colour))
    return lines


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
    groups = {"worse than the baseline": differs & worse, "better than the baseline": differs & ~worse}
    groups |= {"not significantly different": ~differs}
    parts = [
        f"{text}: {', '.join(map('{:,}'.format, mask[mask].index))}" for text, mask in groups.items() if mask.any()
    ]
    return f"{noun} {'; '.join(parts)}."


def comparison(row: pd.Series) -> str:
    """Return whether a row is better or worse than the baseline, with the difference."""
    if not row["p_holm"] < SIGNIFICANT:
        return f"not significantly different, {change(row)}"
    return f"{'better' if row['difference'] > 0 else 'worse'}, {change(row)}"
