"""Figure and sentences of `90_claims`."""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.report.common import STYLE
from lib.studies.names import FAILS, UNDECIDED, UNTESTED, VERDICTS

VERDICT_COLOURS = dict(zip(VERDICTS, ("#009E73", "#E69F00", "#D55E00", "#777777"), strict=True))


def claims_figure(table: pd.DataFrame) -> Figure:
    """Draw each claim of `claims_study`'s table on a scale of its own: shaded what agrees, dotted what is published."""
    sources = list(dict.fromkeys(table["source"]))
    places = np.arange(len(table)) + 1 + table["source"].map(sources.index)  # a line is left for each heading
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7.6, 0.5 + 0.265 * (len(table) + len(sources))))
        for y, row in zip(places, table.itertuples(), strict=True):
            _draw(axes, y, row)
        for source, rows in table.groupby("source", sort=False):
            place = places[rows.index].min() - 1
            axes.text(-0.02, place, source, fontsize=8, fontweight="bold", ha="right", va="center")
            note = axes.text(0, place, f"tested with {rows['tested_with'].iloc[0]}", fontsize=6.5, va="center")
            note.set_in_layout(False)  # it may reach over the column of figures
        axes.set_yticks(places, [_label(row) for row in table.itertuples()], fontsize=6.5)
        axes.set(ylim=(places.max() + 0.6, -0.6), xlim=(0, 1))
        axes.set_xticks([])
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        axes.set_title("shaded: agrees with the claim; dotted: published; each row on its own scale", fontsize=7.5)
    return figure


def _label(row) -> str:
    on = row.on if isinstance(row.on, str) and row.on else ""
    return textwrap.shorten(row.claim, 66) + (f"\n{textwrap.shorten(f'{row.quantity}; {on}', 84)}" if on else "")


def _draw(axes: Axes, y: int, row) -> None:
    colour = VERDICT_COLOURS[row.verdict]
    axes.text(1.02, y, f"{row.ours}   {row.verdict}" + (f" ({row.why})" if row.verdict in (FAILS, UNTESTED) else ""),
              fontsize=6.5, color=colour, va="center")  # fmt: skip
    ends = [row.low, row.high, row.agrees_low, row.agrees_high, row.size_low, row.size_high]
    finite = [end for end in ends if np.isfinite(end)]
    low, span = min(finite), max(max(finite) - min(finite), 1e-9)

    def place(value: float) -> float:
        return float(np.clip(0.06 + 0.88 * (value - low) / span, 0, 1))

    left, right = place(row.agrees_low), place(row.agrees_high)
    axes.barh(y, right - left, 0.7, left, color="#EEEEEE", zorder=0)
    published = [end for end in {row.size_low, row.size_high} - {row.agrees_low, row.agrees_high} if np.isfinite(end)]
    axes.vlines([place(end) for end in published], y - 0.35, y + 0.35, color="black", linewidth=0.9, linestyle=":")
    if row.verdict != UNTESTED:
        axes.hlines(y, place(row.low), place(row.high), color=colour, linewidth=1.8)
        face = "white" if row.why == UNDECIDED else colour
        axes.scatter(place(row.value), y, s=16, color=face, edgecolors=colour, linewidths=1, zorder=3)


def claims_in_words(table: pd.DataFrame) -> str:
    """List the claims by verdict, with our figures or what is missing for them, and what they were tested with."""
    lines = []
    for verdict in VERDICTS:
        rows = table[table["verdict"] == verdict]
        lines.append(f"{verdict.capitalize()}: {len(rows)} of {len(table)}.")
        for row in rows.itertuples():
            on = f" ({row.on})" if isinstance(row.on, str) and row.on else ""
            lines.append(f"- {row.source}: {row.claim}{on}: {row.quantity} {row.ours}; {row.why}.")
    sources = table.drop_duplicates("source").itertuples()
    return "\n".join([*lines, "Tested with:", *(f"- {row.source}: {row.tested_with}." for row in sources)])
