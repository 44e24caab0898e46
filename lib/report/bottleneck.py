"""Figure and sentences of `71_bottleneck`."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from lib.report.common import STYLE, change, colours_of, interval
from lib.report.trained import contrasts_in_words, means_of
from lib.studies.names import MEASURE


def bottleneck_figure(table: pd.DataFrame, ablation: pd.DataFrame) -> Figure:
    """Draw each system's nDCG@10 against what a query reads (left), and what each change makes of it (right)."""
    rows, changed = means_of(table).fillna({"reads": 0}), means_of(ablation)
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.4))
        for (system, colour), row in zip(colours_of(rows["system"]).items(), rows.itertuples(), strict=True):
            left.vlines(row.reads, row.low, row.high, color=colour, linewidth=1)
            left.scatter(row.reads, row.mean, s=22, color=colour, label=system)
        left.set(xscale="symlog", xlabel="postings that a query reads (dense: 0)", ylabel=MEASURE)
        left.legend(fontsize=6, loc="lower left")
        for y, row in enumerate(changed.itertuples()):
            right.hlines(y, row.low, row.high, color="black", linewidth=1.2)
            right.scatter(row.mean, y, s=20, color="black", zorder=3)
        right.set_yticks(range(len(changed)), changed["system"], fontsize=7.5)
        right.set_ylim(len(changed) - 0.5, -0.5)
        right.set_xlabel(f"{MEASURE}, 95 %")
    return figure


def bottleneck_in_words(table: pd.DataFrame, contrasts: pd.DataFrame, ablation: pd.DataFrame) -> str:
    """Say how each system ranks and what it costs, what the pairs differ by, and what each change does."""
    lines = [contrasts_in_words(contrasts)]
    for _, row in means_of(table).iterrows():
        cost = "" if pd.isna(row["dead"]) else f", {row['reads']:,.0f} postings a query, {row['dead']:.1%} dead"
        lines.append(f"{row['system']}: {MEASURE} {interval(row)}{cost}.")
    for _, row in means_of(ablation).dropna(subset="difference").iterrows():
        lines.append(f"{row['system']}: {change(row)}.")
    return "\n".join(lines)
