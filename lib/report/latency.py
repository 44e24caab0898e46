"""Latency against quality (43_latency)."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.report.common import COLOURS, STYLE, change, check_drawn, interval, latents_and_splade
from lib.studies import names

LOSS = 0.01  # of nDCG@10: what pruning may cost
RIGHT, LEFT = {"ha": "left", "va": "top"}, {"ha": "right", "va": "top"}
# Of each line: colour, marker, the column that its label names, where the label stands from the line's end, alignment.
LINES = {
    names.PRUNED_DOCUMENTS: (COLOURS[names.TUNED], "o", "doc_top", (6, 18), RIGHT),
    names.PRUNED_QUERIES: (COLOURS[names.LATENT_FUSED], "s", "query_top", (5, -3), RIGHT),
    names.PRUNED_BOTH: (COLOURS[names.LATENT], "D", "doc_top", (6, 3), RIGHT),
    names.SEISMIC: ("#CC79A7", "^", None, (-8, -3), LEFT),
}
POINTS = {
    names.FLAT: (COLOURS[names.DENSE], (0, 7), "center"),
    names.HNSW: (COLOURS[names.DENSE_FUSED], (-7, -15), "center"),
    names.LEXICAL: (COLOURS[names.LEXICAL], (0, 7), "center"),
}


def latency_figure(table: pd.DataFrame, n_docs: int) -> Figure:
    """Draw nDCG@10 against milliseconds a query: a line from exact search for each pruning, points for others.

    Searches of SPLADE's terms, where the table has them, are the same lines, dashed.
    """
    table, splade = latents_and_splade(table)
    check_drawn([*table["kind"], *splade["kind"]], {names.EXACT, *LINES, *POINTS}, "LINES or POINTS of this module")
    exact = table[table["kind"] == names.EXACT].iloc[0]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(5.2, 3.6))
        for kind, (colour, marker, named, offset, alignment) in LINES.items():
            rows = table[table["kind"] == kind]
            if rows.empty:
                continue
            x, y = ([*([exact[column]] if named else []), *rows[column]] for column in ("median_ms", names.MEASURE))
            axes.plot(x, y, color=colour, linewidth=1.2)
            _mark(axes, rows, marker, colour, 4.5)
            text = f"{kind}\n(down to {rows[named].iloc[-1]})" if named else kind
            label = {"textcoords": "offset points", "color": colour, "fontsize": 7.5, **alignment}
            axes.annotate(text, (x[-1], y[-1]), offset, **label)
        place = exact["median_ms"], exact[names.MEASURE]
        axes.plot(*place, "*", color="black", markersize=11)
        axes.annotate("latent terms, exact", place, (4, 7), textcoords="offset points", fontsize=8, ha="center")
        if len(splade):
            start = splade[splade["kind"] == names.EXACT].iloc[0]
            for kind in (names.PRUNED_DOCUMENTS, names.PRUNED_QUERIES, names.PRUNED_BOTH):
                (colour, marker, *_), rows = LINES[kind], splade[splade["kind"] == kind]
                x, y = ([start[column], *rows[column]] for column in ("median_ms", names.MEASURE))
                axes.plot(x, y, "--", color=colour, linewidth=1)
                _mark(axes, rows, marker, colour, 3.5)
            _mark(axes, splade[splade["kind"] == names.EXACT], "*", COLOURS[names.SPLADE], 9)
            place, label = (start["median_ms"], start[names.MEASURE]), f"{names.SPLADE}, exact\n(pruned: dashed)"
            axes.annotate(label, place, (-9, -27), textcoords="offset points", fontsize=7.5, **LEFT)
        for kind, (colour, offset, side) in POINTS.items():
            _mark(axes, table[table["kind"] == kind], "P", colour, 8)
            for _, row in table[table["kind"] == kind].iterrows():
                label = {"textcoords": "offset points", "color": colour, "fontsize": 8, "ha": side}
                axes.annotate(kind, (row["median_ms"], row[names.MEASURE]), offset, **label)
        axes.margins(x=0.18, y=0.17)
        label = f"milliseconds a query, {n_docs:,} documents, one thread"
        axes.set(xscale="log", xlabel=label, ylabel="nDCG@10, mean of the collections")
        axes.set_title("hollow: ranks worse than exact search (95 % interval)", fontsize=8)
    return figure


def _mark(axes: Axes, rows: pd.DataFrame, marker: str, colour: str, size: float) -> None:
    for _, row in rows.iterrows():
        face = "white" if row["difference_high"] < 0 else colour
        axes.plot(row["median_ms"], row[names.MEASURE], marker, color=colour, markersize=size, markerfacecolor=face)


def latency_in_words(table: pd.DataFrame) -> str:
    """Answer what pruning saves and costs, and how exact search compares with dense search."""
    table, splade = latents_and_splade(table)
    of_kind = table.drop_duplicates("kind").set_index("kind")
    exact, dense = of_kind.loc[names.EXACT], of_kind.loc[names.FLAT]
    lines = [
        f"Exact search takes {exact['median_ms']:.2f} ms, reading every embedding {dense['median_ms']:.2f}; nDCG@10 is "
        f"{interval(exact, names.MEASURE, 'low', 'high')} and {interval(dense, names.MEASURE, 'low', 'high')}."
    ]
    for _, row in splade[splade["kind"] == names.EXACT].iterrows():
        quality = interval(row, names.MEASURE, "low", "high")
        lines.append(f"Exact search of {names.SPLADE}'s terms takes {row['median_ms']:.2f} ms; nDCG@10 is {quality}.")
    for row in table[table["recall"].notna()].itertuples():
        cut = f", query_cut {row.query_top or 'all'}" if row.kind == names.SEISMIC else ""
        lines.append(f"{row.kind}{cut} finds {row.recall:.1%} of the best documents in {row.median_ms:.2f} ms.")
    within = table[table["kind"].str.endswith("pruned") & (table["difference_low"] > -LOSS)]
    if within.empty:
        return "\n".join([*lines, f"No pruning that was tried is sure to cost less than {LOSS}."])
    best = within.loc[within["median_ms"].idxmin()]
    lines.append(
        f"The fastest pruning whose whole interval is within {LOSS} is '{best['kind']}' ({best['doc_top'] or 'all'} "
        f"latents a document, {best['query_top'] or 'all'} a query): {best['median_ms']:.2f} ms, {change(best)}."
    )
    return "\n".join(lines)
