"""What the reports of 70 to 73 share: pairs of systems that were named beforehand, as a figure and in words."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lib.report.common import COLOURS, STYLE, change, colours_of, significant
from lib.studies.names import LATENT, MEAN, MEASURE


def contrasts_figure(contrasts: pd.DataFrame) -> Figure:
    """Draw the difference of each pair of systems, of the mean and, in grey, on every collection (near: hollow)."""
    pairs = list(dict.fromkeys(zip(contrasts["system"], contrasts["reference"], strict=True)))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.4, 0.8 + 0.34 * len(pairs)))
        for y, (system, reference) in enumerate(pairs):
            rows = contrasts[(contrasts["system"] == system) & (contrasts["reference"] == reference)]
            mean, single = rows[rows["collection"] == MEAN].iloc[0], rows[rows["collection"] != MEAN]
            axes.scatter(single["difference"], [y - 0.18] * len(single), s=11, color="#999999", zorder=2)
            axes.hlines(y + 0.08, mean["difference_low"], mean["difference_high"], color=COLOURS[LATENT], linewidth=2)
            axes.scatter(mean["difference"], y + 0.08, s=28, color=COLOURS[LATENT], zorder=3)
        axes.axvline(0, color="black", linewidth=0.7)
        axes.set_yticks(range(len(pairs)), [f"{system}\nless {reference}" for system, reference in pairs], fontsize=6.5)
        axes.set_ylim(len(pairs) - 0.5, -0.5)
        axes.set_xlabel(f"difference in {MEASURE} (large: mean, 95 %; grey: each collection)", fontsize=8, loc="right")
    return figure


def contrasts_in_words(contrasts: pd.DataFrame) -> str:
    """Say of each pair of systems by how much the first is better, and on how many collections significantly."""
    lines = []
    for (system, reference), rows in contrasts.groupby(["system", "reference"], sort=False):
        mean, single = rows[rows["collection"] == MEAN].iloc[0], rows[rows["collection"] != MEAN]
        better, worse = ((significant(single) & (sign * single["difference"] > 0)).sum() for sign in (1, -1))
        lines.append(
            f"{system} less {reference}: {change(mean)} {MEASURE} on average; significantly better on {better} and "
            f"worse on {worse} of {len(single)} collection(s)."
        )
    return "\n".join(lines)


def losses_figure(losses: pd.DataFrame) -> Figure:
    """Draw the parts of the loss of `lib.learned.log.losses` against the steps, on a logarithmic scale.

    With a column system, of several runs side by side. ValueError if there are none.
    """
    if losses.empty:
        raise ValueError("The log has no loss; a run writes one ten times in `FinetuneConfig.every` steps.")
    runs = list(losses.groupby("system", sort=False)) if "system" in losses else [("", losses)]
    colours = colours_of(dict.fromkeys(losses["part"]))
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, len(runs), figsize=(2.2 + 2.6 * len(runs), 3.0), sharey=True, squeeze=False)
        for axes, (system, run) in zip(panels[0], runs, strict=True):
            for part, rows in run.groupby("part", sort=False):
                axes.plot(rows["step"], rows["value"], color=colours[part])
            axes.set(xlabel="step", yscale="log", title=system)
        panels[0, 0].set_ylabel("loss")
        lines = [Line2D([], [], color=colour, label=part) for part, colour in colours.items()]
        figure.legend(handles=lines, fontsize=6.5, loc="outside right center")
    return figure


def means_of(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the mean over collections, which are the last."""
    return table[table["collection"] == MEAN]


def draw_means(axes: Axes, rows: pd.DataFrame, field: str, label: str, colour: str) -> None:
    """Draw nDCG@10 with its interval against a column, as a line."""
    rows = rows.sort_values(field)
    axes.plot(rows[field], rows["mean"], marker=".", color=colour, label=label)
    axes.fill_between(rows[field], rows["low"], rows["high"], color=colour, alpha=0.15, linewidth=0)
