"""Figure and sentences of `52_seeds`."""

from collections.abc import Iterable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.report.common import SIGNIFICANT, STYLE
from lib.report.sweeps import PALETTE, comparison, estimate

SAME = 0.7  # least cosine at which two latents are called the same, as in Paulo and Belrose (arXiv 2501.16615)
KINDS = {
    "firings": ("all firings", "#E69F00"),
    "latents": ("latents", "#D55E00"),
    "every run": ("in every run", "#009E73"),
    "chance": ("by chance", "#999999"),
}


def seeds_figure(summary: pd.DataFrame, recurring: pd.DataFrame, agreement: pd.DataFrame) -> Figure:
    """Draw nDCG@10 of seeds and of several joined, the share of latents that recur, and how far rankings agree."""
    names = list(dict.fromkeys(summary["collection"]))
    places = np.arange(len(names))
    with plt.rc_context(STYLE):
        figure, (quality, latents, rankings) = plt.subplots(1, 3, figsize=(8.4, 2.8))
        for column, ends, marker, size in (("seed", (-0.32, 0.12), "o", 3), ("joined", (0.25, 0.38), "D", 3.5)):
            runs = summary[summary[column].notna()]
            for at, (name, colour) in enumerate(zip(names, PALETTE, strict=False)):
                rows = runs[runs["collection"] == name]
                x = at + np.linspace(*ends, len(rows))
                quality.vlines(x, rows["low"], rows["high"], color=colour, linewidth=0.9)
                quality.plot(x, rows["mean"], marker, markersize=size, color=colour)
        quality.set(ylabel="nDCG@10, 95 % interval", ylim=(0, None), title="a dot a seed, a diamond several joined")
        for kind, (_, colour) in KINDS.items():
            curve = recurring[recurring["kind"] == kind]
            latents.plot(curve["cosine"], curve["share"], color=colour)
            latents.fill_between(curve["cosine"], curve["lowest"], curve["highest"], color=colour, alpha=0.2, lw=0)
        _key(latents, KINDS.values())
        latents.axvline(SAME, ymax=0.65, color="#999999", linewidth=0.8, linestyle=":")
        latents.set(xlabel="least cosine of decoder rows", ylabel="share that recurs", ylim=(0, 1.02), xlim=(0, 1))
        latents.set_title("latents in another run")
        pairs = (("two seeds", "#D55E00"), ("seed 0 and lexical BM25", "#999999"))
        for (pair, colour), marker in zip(pairs, "os", strict=True):
            rows = agreement[agreement["pair"] == pair].set_index("collection").loc[names]
            rankings.vlines(places, rows["low"], rows["high"], color=colour, linewidth=1.2)
            rankings.plot(places, rows["mean"], marker, color=colour, markersize=5)
        _key(rankings, pairs)
        rankings.set(ylabel="rank-biased overlap, top 10", ylim=(0, 1.05), title="rankings")
        for axes in (quality, rankings):
            axes.set_xticks(places, [name.replace("/test", "").replace("/", "/\n") for name in names], fontsize=7.5)
            axes.set_xlim(-0.5, len(names) - 0.5)
        for axes in (quality, latents, rankings):
            axes.title.set_fontsize(9)
    return figure


def seeds_in_words(summary: pd.DataFrame, recurring: pd.DataFrame, agreement: pd.DataFrame) -> str:
    """Say how far runs that differ in the seed only agree in quality, latents and rankings, and what joining gives."""
    shares = recurring[np.isclose(recurring["cosine"], SAME)].set_index("kind")
    lines = [
        f"At a cosine of {SAME} or more, {_share(shares.loc['latents'])} of the latents of a run recur in another "
        f"(pairs of runs: lowest and highest), {_share(shares.loc['every run'])} in every other run, and "
        f"{_share(shares.loc['firings'])} of the firings are of latents that recur; with random directions in the "
        f"place of the other run it would be {shares.loc['chance', 'share']:.1%}."
    ]
    pairs = agreement.set_index(["collection", "pair"])
    for name, rows in summary.groupby("collection", sort=False):
        runs = rows[rows["seed"].notna()]
        told = int((runs["p_holm"] < SIGNIFICANT).sum())
        half = (runs["high"] - runs["low"]).mean() / 2
        both = [pairs.loc[(name, pair)] for pair in ("two seeds", "seed 0 and lexical BM25")]
        lines.append(
            f"{name}: nDCG@10 over {len(runs)} seeds is {runs['mean'].mean():.3f}, standard deviation "
            f"{runs['mean'].std():.4f}, from {runs['mean'].min():.3f} to {runs['mean'].max():.3f} (the choice of "
            f"queries alone leaves ±{half:.3f}); {told} of {len(runs) - 1} seeds are told apart from seed 0. The "
            f"top tens of two seeds have a rank-biased overlap of {estimate(both[0])}, those of a seed and lexical "
            f"BM25 of {estimate(both[1])}."
        )
        for _, row in rows[rows["joined"].notna()].iterrows():
            lines.append(f"{name}, {row['variant']}: nDCG@10 {estimate(row)}, beside seed 0 {comparison(row)}.")
    return "\n".join(lines)


def _key(axes: Axes, entries: Iterable[tuple[str, str]]) -> None:
    """Write names in their colours, one below the other, in the upper right corner."""
    for row, (name, colour) in enumerate(entries):
        axes.text(
            0.98, 0.97 - 0.08 * row, name, color=colour, fontsize=8, ha="right", va="top", transform=axes.transAxes
        )


def _share(row: pd.Series) -> str:
    return f"{row['share']:.1%} ({row['lowest']:.1%} to {row['highest']:.1%})"
