"""Figures of the studies that train autoencoders, from the tables that they wrote; it computes nothing."""

from collections.abc import Iterable, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from lib.report.common import COLOURS, SIGNIFICANT, STYLE

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito
READOUTS = {"latent terms": COLOURS["latent terms"], "SPLADE-style": COLOURS["dense"]}
SAME = 0.7  # least cosine at which two latents are called the same, as in Paulo and Belrose (arXiv 2501.16615)
_FAR = 0.2  # a difference that is not drawn to scale
KINDS = {
    "firings": ("all firings", "#E69F00"),
    "latents": ("latents", "#D55E00"),
    "every run": ("in every run", "#009E73"),
    "chance": ("by chance", "#999999"),
}


def layers_figure(summary: pd.DataFrame) -> Figure:
    """Draw nDCG@10 of each layer in both readouts, a panel a collection; below it FVU and Zipf's exponent."""
    names = list(dict.fromkeys(summary["collection"]))
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(7.2, 4.6))
        above, below = figure.subfigures(2, 1)
        ranked = above.subplots(1, len(names), sharey=True, squeeze=False)[0]
        for axes, name in zip(ranked, names, strict=True):
            rows = summary[summary["collection"] == name]
            ends = [_band(axes, own, "layer", READOUTS[readout]) for readout, own in rows.groupby("readout")]
            axes.set_title(name)
        ranked[0].set(ylabel="nDCG@10, 95 % interval", ylim=(0, None))
        _label(axes, [(y, readout, READOUTS[readout]) for y, readout in zip(ends, sorted(READOUTS), strict=True)])
        latent, (reconstruction, zipf) = summary[summary["readout"] == "latent terms"], below.subplots(1, 2)
        for axes, column in ((reconstruction, "fvu"), (zipf, "exponent")):
            ends = []
            for name, colour in zip(names, PALETTE, strict=False):
                rows = latent[latent["collection"] == name]
                axes.plot(rows["layer"], rows[column], marker=".", color=colour)
                if column == "exponent":
                    low, high = rows["exponent_low"], rows["exponent_high"]
                    axes.fill_between(rows["layer"], low, high, color=colour, alpha=0.15, linewidth=0)
                ends.append((rows[column].iloc[-1], name, colour))
            axes.set(xlabel="layer", ylim=(0, None))
            _label(axes, ends)
        reconstruction.set(title="reconstruction", ylabel="FVU of the documents")
        zipf.set(title="Zipf's law", ylabel="exponent, 95 % interval")
        for axes in figure.axes:
            axes.set_xticks(sorted(set(summary["layer"])))
            axes.title.set_fontsize(9)
    return figure


def width_k_figure(summary: pd.DataFrame) -> Figure:
    """Draw nDCG@10 (above) and FVU (below) against the width (left) and k (right), a line a collection."""
    names = list(dict.fromkeys(summary["collection"]))
    baseline = summary[summary["difference"].isna()].iloc[0]
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(2, 2, figsize=(6.4, 4.4), sharex="col", sharey="row")
        for column, (field, other) in enumerate((("width", "k"), ("k", "width"))):
            above, below = panels[:, column]
            rows = summary[summary[other] == baseline[other]].sort_values(field)
            ends = []
            for name, colour in zip(names, PALETTE, strict=False):
                own = rows[rows["collection"] == name]
                ends.append((_band(above, own, field, colour), name, colour))
                below.plot(own[field], own["fvu"], marker=".", color=colour)
            _log2_ticks(below, rows[field])
            if column:
                _label(above, ends)
            above.set_title(f"{other} = {baseline[other]:,}", fontsize=9)
            below.set_xlabel({"width": "width (latents)", "k": "k (latents a token)"}[field])
        panels[0, 0].set(ylabel="nDCG@10, 95 % interval", ylim=(0, None))
        panels[1, 0].set(ylabel="FVU of the documents", ylim=(0, None))
    return figure


def ablations_figure(summary: pd.DataFrame) -> Figure:
    """Draw by how much each change moves nDCG@10, with its 95 % interval; filled where it is told apart from 0.

    Differences beyond _FAR are written at the edge: beside their bars the others would all look alike.
    """
    changed = summary[summary["difference"].notna()]
    far, variants = changed["difference"].abs() > _FAR, list(dict.fromkeys(changed["variant"]))
    title = "difference in nDCG@10 to the baseline"
    figure = _forest(changed[~far], variants, "difference", ("difference_low", "difference_high"), title)
    for axes in figure.axes:
        written = changed[far & (changed["collection"] == axes.get_title())]
        for variant, difference in zip(written["variant"], written["difference"], strict=True):
            below = difference < 0
            text = f"← {difference:+.2f}" if below else f"{difference:+.2f} →"
            at, side = (0.02, "left") if below else (0.98, "right")
            place = {"transform": axes.get_yaxis_transform(), "ha": side, "va": "center", "fontsize": 7.5}
            axes.text(at, variants.index(variant), text, **place)
    return figure


def retrieval_training_figure(summary: pd.DataFrame) -> Figure:
    """Draw nDCG@10 of each model with its 95 % interval; filled where it is told apart from the retriever."""
    variants = list(dict.fromkeys(summary["variant"]))
    return _forest(summary, variants, "mean", ("low", "high"), "nDCG@10, 95 % interval")


def _forest(table: pd.DataFrame, variants: list[str], value: str, ends: tuple[str, str], title: str) -> Figure:
    """Draw a row for each of `variants` and a panel a collection, all of one scale."""
    names = list(dict.fromkeys(table["collection"]))
    places = dict(zip(variants, range(len(variants)), strict=True))
    with plt.rc_context(STYLE):
        size = (1.7 + 2.0 * len(names), 0.9 + 0.2 * len(variants))
        figure, panels = plt.subplots(1, len(names), figsize=size, sharex=True, sharey=True, squeeze=False)
        for axes, name, colour in zip(panels[0], names, PALETTE, strict=False):
            rows = table[table["collection"] == name]
            y, told = rows["variant"].map(places), rows["p_holm"] < SIGNIFICANT
            axes.hlines(y, rows[ends[0]], rows[ends[1]], color=colour, linewidth=1.2)
            axes.scatter(rows[value], y, s=22, color=np.where(told, colour, "white"), edgecolor=colour, zorder=3)
            if value == "difference":
                axes.axvline(0, color="#999999", linewidth=0.8, zorder=0)
            axes.set_title(name, fontsize=9)
            axes.grid(axis="y", color="#eeeeee")
            axes.set_axisbelow(True)
        if value != "difference":
            panels[0, 0].set_xlim(0, None)
        panels[0, 0].set_yticks(range(len(variants)), variants, fontsize=8)
        panels[0, 0].set_ylim(len(variants) - 0.5, -0.5)
        figure.supxlabel(f"{title} (filled: p < {SIGNIFICANT}, Holm-corrected)", fontsize=8.5)
    return figure


def surface_figure(surface: pd.DataFrame) -> Figure:
    """Draw nDCG@10 over k1 and b less that of the paper's constants, a panel a collection; the best is framed."""
    names = list(dict.fromkeys(surface["collection"]))
    most = max(1e-9, surface["difference"].abs().max())
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, len(names), figsize=(1.4 + 2.4 * len(names), 2.9), squeeze=False)
        for axes, name in zip(panels[0], names, strict=True):
            rows = surface[surface["collection"] == name]
            table = rows.pivot(index="k1", columns="b", values="difference")
            image = axes.imshow(table, cmap="PuOr", vmin=-most, vmax=most, origin="lower", aspect="auto")
            axes.set_xticks(range(len(table.columns)), [f"{b:g}" for b in table.columns])
            axes.set_yticks(range(len(table.index)), [f"{k1:g}" for k1 in table.index])
            for (i, j), value in np.ndenumerate(table.to_numpy()):
                text = f"{1000 * value:+.0f}" if round(1000 * value) else "0"
                colour = "white" if abs(value) > 0.6 * most else "black"
                axes.text(j, i, text, ha="center", va="center", fontsize=6.5, color=colour)
            best = np.unravel_index(table.to_numpy().argmax(), table.shape)
            axes.add_patch(plt.Rectangle((best[1] - 0.5, best[0] - 0.5), 1, 1, fill=False, linewidth=1.6))
            axes.set_title(name, fontsize=9)
            axes.set_xlabel("b")
            axes.spines[:].set_visible(False)
        panels[0, 0].set_ylabel("k1")
        bar = figure.colorbar(image, ax=panels, shrink=0.8, pad=0.02)
        bar.set_label("nDCG@10 less that at\nk1 = 8, b = 0.7 (× 1000 inside)", fontsize=8)
    return figure


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


def _band(axes: Axes, rows: pd.DataFrame, field: str, colour: str) -> float:
    """Draw means against `field` with their intervals as a band; return the last mean."""
    axes.plot(rows[field], rows["mean"], marker=".", color=colour)
    axes.fill_between(rows[field], rows["low"], rows["high"], color=colour, alpha=0.15, linewidth=0)
    return rows["mean"].iloc[-1]


def _label(axes: Axes, ends: Iterable[tuple[float, str, str]]) -> None:
    """Write the name of each line (end, name, colour) beside its end, moved apart where two would overlap."""
    low, high = axes.get_ylim()
    step, before = 0.09 * (high - low), -np.inf
    for y, name, colour in sorted(ends):
        before = max(y, before + step)
        axes.annotate(
            name,
            (1.0, before),
            xycoords=axes.get_yaxis_transform(),
            xytext=(4, 0),
            textcoords="offset points",
            color=colour,
            fontsize=8,
            va="center",
            annotation_clip=False,
        )


def _key(axes: Axes, entries: Iterable[tuple[str, str]]) -> None:
    """Write names in their colours, one below the other, in the upper right corner."""
    for row, (name, colour) in enumerate(entries):
        axes.text(
            0.98, 0.97 - 0.08 * row, name, color=colour, fontsize=8, ha="right", va="top", transform=axes.transAxes
        )


def _log2_ticks(axes: Axes, values: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    ticks = sorted(set(values))
    axes.set_xticks(ticks, [f"{tick // 1024}k" if tick >= 1024 and tick % 1024 == 0 else str(tick) for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
