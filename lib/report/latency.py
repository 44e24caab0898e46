"""The figure of latency against quality, and what it says in words; it reads a table and computes nothing."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from lib.report.common import COLOURS, STYLE

LOSS = 0.01  # of nDCG@10: what pruning may cost
LINES = {
    "documents pruned": (COLOURS["latent terms, tuned"], "o", "doc_top"),
    "queries pruned": (COLOURS["latent terms + lexical"], "s", "query_top"),
    "both pruned": (COLOURS["latent terms"], "D", "doc_top"),
    "Seismic": ("#CC79A7", "^", None),
}
POINTS = {  # with where the name stands: typographic points to the right of the point and above it, and its alignment
    "dense, every document": (COLOURS["dense"], (0, 7), "center"),
    "dense, HNSW": (COLOURS["dense + lexical"], (0, 7), "center"),
    "lexical BM25": (COLOURS["lexical BM25"], (5, -15), "right"),
}


def latency_figure(table: pd.DataFrame, n_docs: int) -> Figure:
    """Draw nDCG@10 against milliseconds a query: a line from exact search along each way of pruning, points for others.

    Parameters
    ----------
    table : DataFrame
        As `latency.latency_study` gives it.
    n_docs : int
        Documents of the corpus that was timed.
    """
    exact = table[table["kind"] == "exact"].iloc[0]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(5.2, 3.6))
        for kind, (colour, marker, named) in LINES.items():
            rows = table[table["kind"] == kind]
            if rows.empty:
                continue
            x, y = ([*([exact[c]] if named else []), *rows[c]] for c in ("median_ms", "nDCG@10"))
            axes.plot(x, y, color=colour, linewidth=1.2)
            for _, row in rows.iterrows():
                face = "white" if row["difference_high"] < 0 else colour
                axes.plot(row["median_ms"], row["nDCG@10"], marker, color=colour, markersize=4.5, markerfacecolor=face)
            last = rows.iloc[-1]
            text = f"{kind}\n(down to {last[named]})" if named else kind
            right = kind in ("documents pruned", "both pruned")  # the other ends further to the left
            axes.annotate(
                text,
                (x[-1], y[-1]),
                (6, 3) if right else (-8, 16 if named else -3),
                textcoords="offset points",
                color=colour,
                fontsize=7.5,
                ha="left" if right else "right",
                va="top",
            )
        axes.plot(exact["median_ms"], exact["nDCG@10"], "*", color="black", markersize=11)
        axes.annotate(
            "latent terms, exact",
            (exact["median_ms"], exact["nDCG@10"]),
            (4, 7),
            textcoords="offset points",
            fontsize=8,
            ha="center",
        )
        for kind, (colour, offset, side) in POINTS.items():
            for _, row in table[table["kind"] == kind].iterrows():
                face = "white" if row["difference_high"] < 0 else colour
                axes.plot(row["median_ms"], row["nDCG@10"], "P", color=colour, markersize=8, markerfacecolor=face)
                axes.annotate(
                    kind,
                    (row["median_ms"], row["nDCG@10"]),
                    offset,
                    textcoords="offset points",
                    color=colour,
                    fontsize=8,
                    ha=side,
                )
        axes.set_xscale("log")
        axes.margins(x=0.18, y=0.17)
        axes.set_xlabel(f"milliseconds a query, {n_docs:,} documents, one thread")
        axes.set_ylabel("nDCG@10, mean of the collections")
        axes.set_title("hollow: ranks worse than exact search (95 % interval)", fontsize=8)
    return figure


def latency_in_words(table: pd.DataFrame) -> str:
    """Say what pruning saves and costs, and how exact search compares with dense search."""
    exact = table[table["kind"] == "exact"].iloc[0]
    dense = table[table["kind"] == "dense, every document"].iloc[0]
    lines = [
        f"Exact search takes {exact['median_ms']:.2f} ms, reading every embedding {dense['median_ms']:.2f}; nDCG@10 is "
        f"{exact['nDCG@10']:.3f} ({exact['low']:.3f} to {exact['high']:.3f}) and {dense['nDCG@10']:.3f} "
        f"({dense['low']:.3f} to {dense['high']:.3f})."
    ]
    for row in table[table["recall"].notna()].itertuples():
        cut = f", query_cut {row.query_top or 'all'}" if row.kind == "Seismic" else ""
        lines.append(f"{row.kind}{cut} finds {row.recall:.1%} of what is there in {row.median_ms:.2f} ms.")
    within = table[table["kind"].str.endswith("pruned") & (table["difference_low"] > -LOSS)]
    if len(within):
        best = within.loc[within["median_ms"].idxmin()]
        lines.append(
            f"The fastest pruning that costs less than {LOSS} by its whole interval is '{best['kind']}' "
            f"({best['doc_top'] or 'all'} latents a document, {best['query_top'] or 'all'} a query): "
            f"{best['median_ms']:.2f} ms, {best['difference']:+.3f} ({best['difference_low']:+.3f} to "
            f"{best['difference_high']:+.3f})."
        )
    else:
        lines.append(f"No pruning that was tried is sure to cost less than {LOSS}.")
    return "\n".join(lines)
