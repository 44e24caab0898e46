"""Figures and sentences of `70_splare`."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from lib.report.common import STYLE, change, colours_of
from lib.report.trained import contrasts_in_words, draw_means, means_of
from lib.studies.names import MEASURE


def splare_figure(
    layers: pd.DataFrame, widths: pd.DataFrame, pairs: pd.DataFrame, pruning: pd.DataFrame, lengths: pd.DataFrame
) -> Figure:
    """Draw nDCG@10 by layer, width, pairs and latents of a document, and the lengths of posting lists.

    A system has one colour in all panels.
    """
    by_number = means_of(pairs).dropna(subset="n_pairs")
    by_top = means_of(pruning).dropna(subset="doc_top")
    colours = colours_of(pd.concat([table["kind"] for table in (layers, widths, by_top, by_number)]))
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(2, 3, figsize=(10.4, 5.2))
        for axes, rows, field, label in (
            (panels[0, 0], means_of(layers), "layer", "layer"),
            (panels[0, 1], means_of(widths), "width", "width"),
            (panels[0, 2], by_number, "n_pairs", "pairs"),
            (panels[1, 0], by_top, "doc_top", "weights of a document that are kept"),
        ):
            for kind, of_kind in rows.groupby("kind", sort=False):
                draw_means(axes, of_kind, field, kind, colours[kind])
            axes.set(xlabel=label, ylabel=MEASURE)
        panels[0, 0].set_xticks(sorted(set(layers["layer"])))
        for axes, sizes in ((panels[0, 1], widths["width"].unique()), (panels[0, 2], by_number["n_pairs"].unique())):
            axes.set_xscale("log", base=2)
            axes.set_xticks(sizes, [f"{size:,.0f}" for size in sizes])
            axes.xaxis.set_minor_locator(NullLocator())
        first = lengths[lengths["collection"] == lengths["collection"].iloc[0]]
        for system, curve in first.groupby("system", sort=False):
            panels[1, 1].plot(curve["rank"], curve["df"], color=colours[system])
        panels[1, 1].set(xscale="log", yscale="log", xlabel="rank of the posting list", ylabel="documents in it")
        panels[1, 1].set_title(first["collection"].iloc[0], fontsize=8)
        panels[0, 0].legend(fontsize=6.5)
        panels[1, 0].legend(fontsize=6.5)
        panels[1, 2].axis("off")
        panels[1, 2].legend(*panels[0, 2].get_legend_handles_labels(), fontsize=6.5, title="by pairs", loc="center")
    return figure


def latency_figure(latency: pd.DataFrame, table: pd.DataFrame) -> Figure:
    """Draw nDCG@10, the mean over collections, against the time of a search."""
    quality = means_of(table).set_index("system")
    rows = latency[latency["system"].isin(quality.index)]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(5.4, 3.2))
        for (system, colour), row in zip(colours_of(rows["system"]).items(), rows.itertuples(), strict=True):
            mean = quality.loc[system]
            axes.hlines(mean["mean"], row.ms_low, row.ms_high, color=colour, linewidth=1)
            axes.vlines(row.median_ms, mean["low"], mean["high"], color=colour, linewidth=1)
            axes.scatter(row.median_ms, mean["mean"], s=22, color=colour, label=system)
        axes.set(xscale="log", ylabel=MEASURE)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("{x:g}")
        axes.set_xlabel(f"ms a query, {rows['n_docs'].iloc[0]:,} grown documents, one thread")
        axes.legend(fontsize=6.5)
    return figure


def splare_in_words(
    contrasts: pd.DataFrame, by_pairs: pd.DataFrame, pruning: pd.DataFrame, latency: pd.DataFrame
) -> str:
    """Say what each named pair of systems differs by, what pruning costs and how long a search takes."""
    lines = [contrasts_in_words(contrasts), contrasts_in_words(by_pairs)]
    for row in means_of(pruning).dropna(subset="doc_top").itertuples():
        fields = pd.Series(row._asdict())
        lines.append(f"{row.kind}, {row.doc_top:.0f} weights of a document: {change(fields)} beside all of them.")
    for row in latency.itertuples():
        lines.append(f"{row.system}: {row.median_ms:.2f} ms, {row.reads:,.0f} postings a query.")
    return "\n".join(lines)
