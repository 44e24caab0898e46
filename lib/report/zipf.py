"""Latents and words as vocabularies: their curves, fitted tails, growth, and what a query costs (30_zipf, 00_tour)."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.report.common import COLOURS, STYLE, collections_of, interval
from lib.studies.names import DENSE, LATENT, LATENTS, LEXICAL, PLAUSIBLE, SPLADE, WORDS

VOCABULARY_COLOURS = {LATENTS: COLOURS[LATENT], WORDS: "#555555", SPLADE: COLOURS[DENSE]}
# Behind which share of a curve's points the name of its vocabulary stands, and how many points of print beside it.
RANK_LABELS = {LATENTS: (0.4, (5, 4)), WORDS: (0.6, (-5, -5)), SPLADE: (0.3, (-5, -5))}
GROWTH_LABELS = {LATENTS: (1 / 3, (-5, 4)), WORDS: (1 / 3, (5, -5)), SPLADE: (0.7, (5, -5))}
HEAD_LABELS = {LATENTS: (0.5, (5, 4)), WORDS: (0.3, (-5, -5)), SPLADE: (0.2, (-5, -5))}


def rank_frequency_figure(curves: pd.DataFrame) -> Figure:
    """Draw the curves of `zipf.rank_frequency_curves`, log-log, labelled with the number of terms."""
    colours = {LATENTS: COLOURS[LATENT], WORDS: COLOURS[LEXICAL]}
    sides = {LATENTS: {"xytext": (6, 6), "va": "bottom"}, WORDS: {"xytext": (-6, -6), "va": "top", "ha": "right"}}
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(4.5, 3.2))
        for name, curve in curves.groupby("vocabulary", sort=False):
            axes.loglog(curve["rank"], curve["frequency"], color=colours[name], linewidth=1.6)
            n_terms = curve["rank"].iloc[-1]
            middle = curve.iloc[np.searchsorted(curve["rank"], np.sqrt(n_terms))]
            label = {"textcoords": "offset points", "color": colours[name], **sides[name]}
            axes.annotate(f"{name} ({n_terms:,})", (middle["rank"], middle["frequency"]), **label)
        axes.set(xlabel="rank", ylabel="occurrences in the documents")
    return figure


def zipf_figure(fits: pd.DataFrame, curves: pd.DataFrame, collection: str) -> Figure:
    """Draw one collection's rank-frequency curves with the fitted tails, and in their colours every one's exponents."""
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.0), width_ratios=(3, 2))
        fit_of = fits[fits["collection"] == collection].set_index("vocabulary")
        for name, curve in curves[curves["collection"] == collection].groupby("vocabulary", sort=False):
            fit = fit_of.loc[name]
            left.loglog(curve["rank"], curve["frequency"], color=VOCABULARY_COLOURS[name], linewidth=1.6)
            f = np.geomspace(fit["xmin"], curve["frequency"].max(), 50)
            law = ((f - 0.5) / (fit["xmin"] - 0.5)) ** (-1 / fit["exponent"])  # P(X >= f)
            left.loglog(fit["n_tail"] * law, f, "--", color="black", lw=0.9)
            _label(left, name, curve["rank"], curve["frequency"], RANK_LABELS, f" ({fit['n_terms']:,})")
        left.set(xlim=(0.8, None), xlabel="rank", ylabel="occurrences", title=f"{collection}; dashed: the fitted tail")
        left.title.set_fontsize(8.5)
        names = collections_of(fits)
        middle = (fits["vocabulary"].nunique() - 1) / 2
        for number, (vocabulary, rows) in enumerate(fits.groupby("vocabulary", sort=False)):
            rows, colour = rows.set_index("collection").loc[names], VOCABULARY_COLOURS[vocabulary]
            y = np.arange(len(names)) + 0.24 * (number - middle)
            right.hlines(y, rows["low"], rows["high"], color=colour, linewidth=1.4)
            faces = [colour if p >= PLAUSIBLE else "white" for p in rows["p"]]
            right.scatter(rows["exponent"], y, s=26, color=faces, edgecolors=colour, zorder=3)
        right.axvline(1, color="black", linewidth=0.8, linestyle=":")
        right.text(1, -0.55, " Zipf's law", fontsize=7.5, va="center")
        right.set_yticks(np.arange(len(names)), names, fontsize=8)
        right.set_ylim(len(names) - 0.5, -0.7)
        right.set_xlabel("Zipf exponent, 95 % interval\n(hollow: power law rejected)")
        right.margins(x=0.2)
    return figure


def _label(axes: Axes, name: str, x: pd.Series, y: pd.Series, labels: dict, suffix: str = "") -> None:
    """Write the name of a vocabulary beside a point of its curve."""
    share, (right, up) = labels[name]
    point = int(share * len(x))
    sides = {"ha": "left" if right > 0 else "right", "va": "baseline" if up > 0 else "top"}
    style = {"textcoords": "offset points", "color": VOCABULARY_COLOURS[name], "fontsize": 8.5, **sides}
    axes.annotate(f"{name}{suffix}", (x.iloc[point], y.iloc[point]), (right, up), **style)


def cost_figure(fits: pd.DataFrame, curves: pd.DataFrame, growth: pd.DataFrame, collection: str) -> Figure:
    """Draw vocabulary growth and document frequency of one collection, and the postings a query reads of each."""
    with plt.rc_context(STYLE):
        figure, (heaps, head, cost) = plt.subplots(1, 3, figsize=(7.2, 2.6))
        for name, rows in growth[growth["collection"] == collection].groupby("vocabulary", sort=False):
            heaps.loglog(rows["n_docs"], rows["n_terms"], color=VOCABULARY_COLOURS[name])
            _label(heaps, name, rows["n_docs"], rows["n_terms"], GROWTH_LABELS)
        heaps.set(xlabel="documents", ylabel="terms that occur", title=collection)
        for name, rows in curves[curves["collection"] == collection].groupby("vocabulary", sort=False):
            head.plot(rows["rank"], 100 * rows["df_share"], color=VOCABULARY_COLOURS[name])
            _label(head, name, rows["rank"], 100 * rows["df_share"], HEAD_LABELS)
        head.set(xlabel="rank", ylabel="% of the documents", xscale="log", ylim=(0, None), title=collection)
        names = collections_of(fits)
        y = np.arange(len(names))
        for number, (name, rows) in enumerate(fits.groupby("vocabulary", sort=False)):
            rows, colour = rows.set_index("collection").loc[names], VOCABULARY_COLOURS[name]
            label = {"transform": cost.transAxes, "ha": "right", "fontsize": 8, "color": colour}
            cost.text(1, 1.03 + 0.09 * number, name, **label)
            cost.scatter(100 * rows["query_share"], y, color=colour, s=22)
            cost.hlines(y, 100 * rows["share_low"], 100 * rows["share_high"], color=colour)
        cost.set_yticks(y, names, fontsize=7.5)
        cost.set_ylim(len(names) - 0.5, -0.5)
        cost.set(xlabel="% of all postings\nthat a query reads", xlim=(0, None))
    return figure


def zipf_in_words(fits: pd.DataFrame) -> str:
    """Answer whether the latents are a Zipfian vocabulary, in words out of the table "zipf"."""
    lines = []
    for name, rows in fits.groupby("collection", sort=False):
        tails = [
            f"{vocabulary}: exponent {interval(row, 'exponent', 'low', 'high', 2)} over the {row['n_tail']:,} most "
            f"frequent of {row['n_terms']:,} terms ({row['tail_share']:.0%} of all occurrences), "
            f"{'compatible with' if row['p'] >= PLAUSIBLE else 'not'} a power law (p = {row['p']:.2f}); "
            f"{row['n_once'] / row['n_terms']:.1%} of the terms occur in one document, {row['n_frequent']:,} terms in "
            f"more than half of the documents; a query reads {row['query_share']:.1%} of the postings"
            for vocabulary, row in rows.set_index("vocabulary").iterrows()
        ]
        lines.append(f"{name}. {'. '.join(tails)}.")
    latents = fits[fits["vocabulary"] == LATENTS]
    covers = (latents["low"] <= 1) & (latents["high"] >= 1)
    share = (latents["n_tail"] / latents["n_terms"]).median()
    lines.append(
        f"In {(latents['p'] >= PLAUSIBLE).sum()} of {len(latents)} collections the frequent latents (a median of "
        f"{share:.0%} of them) are compatible with a power law; in {covers.sum()} the interval of its exponent holds 1."
    )
    return "\n".join(lines)
