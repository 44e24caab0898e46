"""Quality against the size of the index (42_pruning)."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.report.common import STYLE, change, check_drawn, interval, latents_and_splade, significant
from lib.studies.names import (
    DOCUMENT_FREQUENCY,
    DOCUMENT_MASS,
    DOCUMENT_TOP,
    NOTHING_PRUNED,
    QUERY_MASS,
    QUERY_TOP,
    QUERY_TOP_BY_IDF,
    SPLADE,
)

STYLES = {
    DOCUMENT_TOP: ("#0072B2", "o", "largest weights of a document"),
    DOCUMENT_MASS: ("#009E73", "s", "share of a document's mass"),
    DOCUMENT_FREQUENCY: ("#D55E00", "^", "no frequent latents"),
    QUERY_TOP: ("#CC79A7", "v", "largest weights of a query"),
    QUERY_TOP_BY_IDF: ("#56B4E9", "P", "largest of a query by weight times idf"),
    QUERY_MASS: ("#E69F00", "D", "share of a query's mass"),
}
LIST_COLOURS = {1: "#000000", 100: "#56B4E9", 400: "#0072B2"}
COSTS = {"postings_share": "stored", "query_share": "read"}


def pruning_figure(table: pd.DataFrame, lengths: pd.DataFrame, collection: str) -> Figure:
    """Draw nDCG@10 of a collection against postings stored and postings read, and the lengths of the posting lists.

    SPLADE's terms, where the tables have them, are dashed; postings are a share of their own.
    """
    table, lengths = (frame[frame["collection"] == collection] for frame in (table, lengths))
    (table, splade), (lengths, splade_lengths) = latents_and_splade(table), latents_and_splade(lengths)
    unpruned = table[table["kind"] == NOTHING_PRUNED].iloc[0]
    with plt.rc_context(STYLE):
        figure, (*panels, lists) = plt.subplots(1, 3, figsize=(7.2, 2.9))
        for axes, (cost, verb) in zip(panels, COSTS.items(), strict=True):
            _curves(axes, table, cost)
            if len(splade):
                _curves(axes, splade, cost, linestyle="--")
                end = splade.loc[splade["kind"] == NOTHING_PRUNED, "mean"].iloc[0]
                label = {"textcoords": "offset points", "fontsize": 7.5, "ha": "right", "va": "top"}
                axes.annotate(SPLADE, (100, end), (0, -4), **label)
            axes.axhspan(unpruned["low"], unpruned["high"], color="#EEEEEE", zorder=0)
            axes.axhline(unpruned["mean"], color="black", linewidth=0.7, linestyle=":")
            axes.set(xlabel=f"% of postings {verb}", ylabel="nDCG@10")
        axes.set_title(collection)
        for number, ((kind, value), rows) in enumerate(lengths.groupby(["kind", "value"], sort=False)):
            colour, name = LIST_COLOURS[int(value)], "all" if kind == NOTHING_PRUNED else f"top {value:.0f}"
            lists.loglog(rows["rank"], rows["df"], linewidth=1.4, color=colour)
            lists.text(0.04, 0.04 + 0.1 * number, name, color=colour, transform=lists.transAxes)
        for _, rows in splade_lengths[splade_lengths["kind"] == NOTHING_PRUNED].groupby("kind"):
            lists.loglog(rows["rank"], rows["df"], "--", linewidth=1.4, color="black")
            lists.text(0.04, 0.34, f"{SPLADE} (dashed)", fontsize=8, transform=lists.transAxes)
        lists.set(xlabel="latent, by rank", ylabel="documents in its list")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=7.5)
    return figure


def _curves(axes: Axes, table: pd.DataFrame, cost: str, linestyle: str = "-") -> None:
    """Draw a line for each kind of pruning that makes the cost smaller, up to no pruning; dashed ones have no label."""
    check_drawn(table["kind"], {NOTHING_PRUNED, *STYLES}, "STYLES of this module")
    unpruned = table.loc[table["kind"] == NOTHING_PRUNED, "mean"].iloc[0]
    for kind, (colour, marker, name) in STYLES.items():
        rows = table[table["kind"] == kind].sort_values(cost)
        if len(rows) and (rows[cost] < 1).any():
            x, y = 100 * np.append(rows[cost], 1), np.append(rows["mean"], unpruned)
            axes.plot(x, y, color=colour, linewidth=1, linestyle=linestyle)
            style = {"marker": marker, "color": colour, "zorder": 3, "label": name if linestyle == "-" else None}
            axes.scatter(100 * rows[cost], rows["mean"], s=16, **style)


def pruning_in_words(table: pd.DataFrame) -> str:
    """Answer what can be left out without a significant loss, in words out of the table of `pruning_study`."""
    latents, splade = latents_and_splade(table)
    lines, of_latents = [], latents[latents["kind"] == NOTHING_PRUNED].set_index("collection")
    groups = [*latents.groupby("collection", sort=False), *splade.groupby("collection", sort=False)]
    for number, (name, rows) in enumerate(groups):
        pruned, unpruned = rows[rows["kind"] != NOTHING_PRUNED], rows[rows["kind"] == NOTHING_PRUNED].iloc[0]
        if number >= len(of_latents):
            size = unpruned["postings"] / of_latents.loc[name, "postings"]
            name = f"{SPLADE} on {name}, with {size:.0%} of the postings of latent terms"
        free = pruned[~(significant(pruned) & (pruned["difference"] < 0))]
        parts = []
        for cost, verb in COSTS.items() if len(free) else ():
            best = free.loc[free[cost].idxmin()]
            parts.append(
                f"the fewest postings {verb} without a significant loss are {best[cost]:.0%} ({best['kind']} "
                f"{best['value']:g}: {change(best)})"
            )
        better = pruned[significant(pruned) & (pruned["difference"] > 0)]
        gains = "; ".join(f"{row.kind} {row.value:g} ({row.difference:+.3f})" for row in better.itertuples())
        parts.append(f"significantly better than no pruning: {gains or 'none'}")
        lines.append(f"{name} (nDCG@10 {interval(unpruned, 'mean', 'low', 'high')}): {'; '.join(parts)}.")
    return "\n".join(lines)
