"""What silencing the latents of one topic does to a query that asks for two (32_steering)."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lib.report.common import STYLE, change, collections_of, interval
from lib.studies import names

COLOURS = {
    names.SILENCED: "#D55E00",
    names.AS_FREQUENT: "#999999",
    names.AS_HEAVY: "#56B4E9",
    names.LESS: "#009E73",
    names.KEPT_ALONE: "#000000",
}
ACROSS = "all"  # the place on the axis of the latents where all of a topic's are silenced


def steering_figure(table: pd.DataFrame) -> Figure:
    """Draw gap and nDCG@10 of the kept topic: by the number of latents, by collection, and by vocabulary.

    Curves and vocabularies are of the mean over collections; collections and vocabularies at the main number.
    """
    with plt.rc_context(STYLE):
        height = 4.4 + 0.5 * table["collection"].nunique()
        figure, axes = plt.subplots(3, 2, figsize=(7.2, height), width_ratios=(3, 4), height_ratios=(3, 3, 2))
        tokens, mean = table[table["vocabulary"] == names.LATENTS], table[table["collection"] == mean_of(table)]
        measures = {"gap": "gap, doublings of rank", "difference": f"change in {names.MEASURE}\nof the kept topic"}
        for (curve, marks), vocabularies, (column, label) in zip(axes[:2], axes[2], measures.items(), strict=True):
            _curves(curve, mean[mean["vocabulary"] == names.LATENTS], column)
            curve.set(ylabel=label, xlabel="latents that are silenced")
            _marks(marks, tokens, column, "collection", collections_of(tokens))
            _marks(vocabularies, mean, column, "vocabulary", list(dict.fromkeys(mean["vocabulary"])))
            for of_marks in (marks, vocabularies):
                of_marks.set_xlabel(label.replace("\n", " "))
        axes[2, 1].tick_params(labelleft=False)
        axes[0, 0].set_title(mean_of(table), fontsize=9)
        axes[0, 1].set_title(f"{names.STEERED_MAIN} latents of each query", fontsize=9)
        axes[2, 0].set_title(f"{names.STEERED_MAIN} latents, {mean_of(table)}", fontsize=9)
        key = [Line2D([], [], color=colour, marker="o", markersize=3, label=name) for name, colour in COLOURS.items()]
        figure.legend(handles=key, loc="outside lower center", ncols=len(key), fontsize=8)
    return figure


def mean_of(table: pd.DataFrame) -> str:
    """Return what stands for all collections: their mean, or the last one where there is none."""
    return collections_of(table)[-1]


def _curves(axes: Axes, rows: pd.DataFrame, column: str) -> None:
    """Draw a column against the number of latents; where no number is chosen, across."""
    steered = rows[rows["system"].isin([names.SILENCED, names.AS_FREQUENT, names.AS_HEAVY])]
    ticks = [f"{n:.0f}" if n == n else ACROSS for n in steered["n"].drop_duplicates()]
    for name, colour in COLOURS.items():
        of_system = rows[rows["system"] == name]
        if len(of_system) == 1:  # LESS, KEPT_ALONE
            axes.axhline(of_system[column].iloc[0], color=colour, linewidth=1, linestyle=":")
            continue
        ends = (of_system[f"{column}_{end}"] for end in ("low", "high"))
        axes.fill_between(range(len(ticks)), *ends, color=colour, alpha=0.2, lw=0)
        axes.plot(range(len(ticks)), of_system[column], "o-", markersize=3, color=colour)
    axes.set_xticks(range(len(ticks)), ticks)


def _marks(axes: Axes, table: pd.DataFrame, column: str, by: str, order: Sequence[str]) -> None:
    """Draw a column of each collection, or vocabulary, in that order, with its interval, a mark a system."""
    rows = main_rows(table)
    for number, (name, colour) in enumerate(COLOURS.items()):
        of_system = rows[rows["system"] == name].set_index(by).loc[order]
        y = np.arange(len(order)) + 0.15 * (number - (len(COLOURS) - 1) / 2)
        axes.hlines(y, of_system[f"{column}_low"], of_system[f"{column}_high"], color=colour, linewidth=1.2)
        axes.scatter(of_system[column], y, s=10, color=colour)
    axes.axvline(0, color="black", linewidth=0.7)
    axes.set_yticks(range(len(order)), order, fontsize=8)
    axes.set_ylim(len(order) - 0.4, -0.6)


def main_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows at the main number of latents, and those of systems for which none is chosen."""
    numbered = table["system"].isin([names.SILENCED, names.AS_FREQUENT, names.AS_HEAVY])
    return table[~numbered | (table["n"] == names.STEERED_MAIN)]


def steering_in_words(table: pd.DataFrame, rankings: pd.DataFrame) -> str:
    """Answer by the rule of the study whether steering works, and whether the kept topic survives."""
    rows = main_rows(table)
    tokens = rows[rows["vocabulary"] == names.LATENTS]
    lines = [_in_words(name, part) for name, part in tokens.groupby("collection", sort=False)]
    others = rows[(rows["vocabulary"] != names.LATENTS) & (rows["collection"] == mean_of(table))]
    lines += [
        _in_words(f"{name[0].upper()}{name[1:]}, {mean_of(table)}", part)
        for name, part in others.groupby("vocabulary", sort=False)
    ]
    mean = rankings[rankings["collection"] == mean_of(rankings)].set_index("system")
    changes = [f"{system} {change(mean.loc[system])}" for system in mean.index.drop(names.DENSE)]
    lines.append(
        f"Queries as they are, {mean_of(rankings)}: {names.MEASURE} of the embeddings is "
        f"{mean.loc[names.DENSE, 'mean']:.3f}; from it differ {', '.join(changes)}."
    )
    return "\n".join(lines)


def _in_words(what: str, rows: pd.DataFrame) -> str:
    rows = rows.set_index("system")
    row, ndcg = rows.loc[names.SILENCED], rows["ndcg"]
    works = min(row["over_frequent_low"], row["over_heavy_low"]) > 0
    survives = row["difference_low"] > names.SURVIVES
    controls = [
        f"{control} {interval(rows.loc[control], 'gap', 'gap_low', 'gap_high', 2)}"
        for control in (names.AS_FREQUENT, names.AS_HEAVY)
    ]
    return (
        f"{what}, {row['n_pairs']:,} pairs. With {names.STEERED_MAIN} latents of one topic silenced "
        f"({row['share']:.0%} of the query) its documents fall by {row['fall']:.2f} doublings of their rank, those "
        f"of the other by {row['kept_fall']:.2f}; the gap is {interval(row, 'gap', 'gap_low', 'gap_high', 2)} "
        f"({', '.join(controls)}): steering {'works' if works else 'is not shown to work'}. {names.MEASURE} of the "
        f"kept topic is {ndcg[names.TWO_TOPICS]:.3f} before and {ndcg[names.SILENCED]:.3f} after, a change of "
        f"{interval(row, 'difference', 'difference_low', 'difference_high')}: it "
        f"{'survives' if survives else 'is not shown to survive'}. Asked for alone it has "
        f"{ndcg[names.KEPT_ALONE]:.3f}, and with less of the other's text {ndcg[names.LESS]:.3f}."
    )
