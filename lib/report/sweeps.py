"""What the reports of the studies that train autoencoders share.

Every difference is to the table's baseline. One that Holm's correction leaves at p >= 0.05 is "not told apart".
"""

from collections.abc import Iterable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.report.common import SIGNIFICANT, STYLE

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito


def forest(table: pd.DataFrame, variants: list[str], value: str, ends: tuple[str, str], title: str) -> Figure:
    """Draw a row for each of `variants` and a panel a collection, all of one scale."""
    names = list(dict.fromkeys(table["collection"]))
    places = dict(zip(variants, range(len(variants)), strict=True))
    with plt.rc_context(STYLE):
        size = (1.7 + 2.0 * len(names), 0.9 + 0.2 * len(variants))
        figure, panels = plt.subplots(1, len(names), figsize=size, sharex=True, sharey=True, squeeze=False)
        for axes, name, colour in zip(panels[0], names, PALETTE, strict=False):
            rows = table[table["collection"] == name]
            y, told = rows["variant"].map(places), rows["p_holm"] < SIGNIFICANT
            axes.hlines(y, rows[ends[0]], rows[ends[1]], color=colour, linewidth=1.2)
            axes.scatter(rows[value], y, s=22, color=np.where(told, colour, "white"), edgecolor=colour, zorder=3)
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
    """Write the name of each line (end, name, colour) beside its end, moved apart where two would overlap."""
    low, high = axes.get_ylim()
    step, before = 0.09 * (high - low), -np.inf
    for y, name, colour in sorted(ends):
        before = max(y, before + step)
        axes.annotate(
            name,
            (1.0, before),
            xycoords=axes.get_yaxis_transform(),
            xytext=(4, 0),
            textcoords="offset points",
            color=colour,
            fontsize=8,
            va="center",
            annotation_clip=False,
        )


def comparisons(rows: pd.DataFrame, what: str) -> str:
    """Say which rows, named by their index, differ from the baseline in which direction."""
    others = rows[rows["difference"].notna()].sort_index()
    told = others["p_holm"] < SIGNIFICANT
    kinds = {
        "worse than the baseline": others[told & (others["difference"] < 0)],
        "better than the baseline": others[told & (others["difference"] > 0)],
        "not told apart from the baseline": others[~told],
    }
    parts = [f"{kind}: {', '.join(f'{at:,}' for at in own.index)}" for kind, own in kinds.items() if len(own)]
    return f"{what} {'; '.join(parts)}."


def estimate(row: pd.Series) -> str:
    """Return a row's nDCG@10 with its interval."""
    return f"{row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def change(row: pd.Series) -> str:
    """Return a row's difference from the baseline with its interval."""
    return f"{row['difference']:+.3f} [{row['difference_low']:+.3f}, {row['difference_high']:+.3f}]"


def comparison(row: pd.Series) -> str:
    """Say what the test against the baseline says of a row."""
    if not row["p_holm"] < SIGNIFICANT:
        return f"not told apart from it ({change(row)})"
    return f"{'better' if row['difference'] > 0 else 'worse'} ({change(row)})"
