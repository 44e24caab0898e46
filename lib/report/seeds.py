"""Figure and sentences of `52_seeds`."""

from collections.abc import Iterable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.report.common import STYLE, collections_of, colours_of, interval, significant
from lib.report.sweeps import comparison
from lib.studies import names

KINDS = {
    names.SHARE_OF_FIRINGS: ("all firings", "#E69F00"),
    names.SHARE_OF_LATENTS: ("latents", "#D55E00"),
    names.IN_EVERY_RUN: ("in every run", "#009E73"),
    names.BY_CHANCE: ("by chance", "#999999"),
}
PAIRS = {names.TWO_SEEDS: ("o", "#D55E00"), names.SEED_AND_WORDS: ("s", "#999999")}


def seeds_figure(summary: pd.DataFrame, recurring: pd.DataFrame, agreement: pd.DataFrame) -> Figure:
    """Draw nDCG@10 of seeds and of several joined, the share of latents that recur, and how far rankings agree."""
    colours = colours_of(collections_of(summary))
    places = np.arange(len(colours))
    with plt.rc_context(STYLE):
        figure, (quality, latents, rankings) = plt.subplots(1, 3, figsize=(8.4, 2.8))
        for column, ends, marker, size in (("seed", (-0.32, 0.12), "o", 3), ("joined", (0.25, 0.38), "D", 3.5)):
            runs = summary[summary[column].notna()]
            for place, (name, colour) in enumerate(colours.items()):
                rows = runs[runs["collection"] == name]
                x = place + np.linspace(*ends, len(rows))
                quality.vlines(x, rows["low"], rows["high"], color=colour, linewidth=0.9)
                quality.plot(x, rows["mean"], marker, markersize=size, color=colour)
        quality.set(ylabel="nDCG@10, 95 % interval", ylim=(0, None), title="a dot a seed, a diamond several joined")
        for kind, (_, colour) in KINDS.items():
            curve = recurring[recurring["kind"] == kind]
            latents.plot(curve["cosine"], curve["share"], color=colour)
            latents.fill_between(curve["cosine"], curve["lowest"], curve["highest"], color=colour, alpha=0.2, lw=0)
        _key(latents, KINDS.values())
        latents.axvline(names.SAME, ymax=0.65, color="#999999", linewidth=0.8, linestyle=":")
        latents.set(xlabel="least cosine of decoder rows", ylabel="share that recurs", ylim=(0, 1.02), xlim=(0, 1))
        latents.set_title("latents in another run")
        for pair, (marker, colour) in PAIRS.items():
            rows = agreement[agreement["pair"] == pair].set_index("collection").loc[list(colours)]
            rankings.vlines(places, rows["low"], rows["high"], color=colour, linewidth=1.2)
            rankings.plot(places, rows["mean"], marker, color=colour, markersize=5)
        _key(rankings, [(pair, colour) for pair, (_, colour) in PAIRS.items()])
        rankings.set(ylabel="rank-biased overlap, top 10", ylim=(0, 1.05), title="rankings")
        for axes in (quality, rankings):
            axes.set_xticks(places, [name.replace("/test", "").replace("/", "/\n") for name in colours], fontsize=7.5)
            axes.set_xlim(-0.5, len(colours) - 0.5)
        for axes in figure.axes:
            axes.title.set_fontsize(9)
    return figure


def _key(axes: Axes, entries: Iterable[tuple[str, str]]) -> None:
    """Write names in their colours, one below the other, in the upper right corner."""
    style = {"fontsize": 8, "ha": "right", "va": "top", "transform": axes.transAxes}
    for row, (name, colour) in enumerate(entries):
        axes.text(0.98, 0.97 - 0.08 * row, name, color=colour, **style)


def seeds_in_words(
    summary: pd.DataFrame, recurring: pd.DataFrame, matched: pd.DataFrame, agreement: pd.DataFrame
) -> str:
    """Say how far runs that differ in the seed only agree in quality, latents and rankings, and what joining gives."""
    shares = recurring[np.isclose(recurring["cosine"], names.SAME)].set_index("kind")
    text = {kind: "{share:.1%} ({lowest:.1%} to {highest:.1%})".format(**row) for kind, row in shares.iterrows()}
    lines = [
        f"At a cosine of {names.SAME} or more, {text[names.SHARE_OF_LATENTS]} of the latents of a run recur in "
        f"another (pairs of runs: lowest and highest), {text[names.IN_EVERY_RUN]} in every other run, and "
        f"{text[names.SHARE_OF_FIRINGS]} of the firings are of latents that recur; with random directions "
        f"instead of the other run it would be {shares.loc[names.BY_CHANCE, 'share']:.1%}.",
        f"Matched one to one over {len(matched)} pairs of runs, {matched['share'].mean():.1%} of the latents have a "
        f"counterpart at that cosine, and the mean cosine of the matched is {matched['mean'].mean():.2f} "
        f"({matched['mean'].min():.2f} to {matched['mean'].max():.2f}).",
    ]
    pairs = agreement.set_index(["collection", "pair"])
    for name, rows in summary.groupby("collection", sort=False):
        runs = rows[rows["seed"].notna()]
        half = (runs["high"] - runs["low"]).mean() / 2
        seeds, words = (pairs.loc[(name, pair)] for pair in PAIRS)
        lines.append(
            f"{name}: nDCG@10 over {len(runs)} seeds is {runs['mean'].mean():.3f}, standard deviation "
            f"{runs['mean'].std():.4f}, from {runs['mean'].min():.3f} to {runs['mean'].max():.3f} (the choice of "
            f"queries alone leaves ±{half:.3f}); {significant(runs).sum()} of {len(runs) - 1} seeds differ "
            f"significantly from seed 0. The top tens of two seeds have a rank-biased overlap of {interval(seeds)}, "
            f"those of a seed and lexical BM25 of {interval(words)}."
        )
        for _, row in rows[rows["joined"].notna()].iterrows():
            lines.append(f"{name}, {row['variant']}: nDCG@10 {interval(row)}, beside seed 0 {comparison(row)}.")
    return "\n".join(lines)
