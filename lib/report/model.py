"""Figures and sentences of the studies, out of the tables that they wrote; nothing is computed here but a look-up."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.report.common import COLOURS, SIGNIFICANT, STYLE, interval

LATENT, WORD = COLOURS["latent terms"], COLOURS["lexical BM25"]
VOCABULARY_COLOURS = {"latents": LATENT, "words": "#555555", "SPLADE": COLOURS["dense"]}
# Behind which share of a curve's points the name of its vocabulary stands, and where.
RANK_LABELS = {"latents": (0.4, "above right"), "words": (0.6, "below left"), "SPLADE": (0.3, "below left")}
GROWTH_LABELS = {"latents": (1 / 3, "above left"), "words": (1 / 3, "below right"), "SPLADE": (0.7, "below right")}
HEAD_LABELS = {"latents": (0.5, "above right"), "words": (0.3, "below left"), "SPLADE": (0.2, "below left")}
PLAUSIBLE = 0.1  # Clauset et al. (2009) rule a power law out below this p


def zipf_figure(fits: pd.DataFrame, curves: pd.DataFrame, collection: str) -> Figure:
    """Draw one collection's rank-frequency curves with the fitted tails, and every collection's exponents.

    Parameters
    ----------
    fits, curves : DataFrame
        "zipf" and "zipf_curves" of `studies.zipf_study`.
    collection : str
        The one whose curves are drawn.
    """
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.0), width_ratios=(3, 2))
        own = fits[fits["collection"] == collection].set_index("vocabulary")
        for name, curve in curves[curves["collection"] == collection].groupby("vocabulary", sort=False):
            fit, colour = own.loc[name], VOCABULARY_COLOURS[name]
            left.loglog(curve["rank"], curve["frequency"], color=colour, linewidth=1.6)
            f = np.geomspace(fit["xmin"], curve["frequency"].max(), 50)
            law = ((f - 0.5) / (fit["xmin"] - 0.5)) ** (-1 / fit["exponent"])  # P(X >= f)
            left.loglog(fit["n_tail"] * law, f, "--", color="black", lw=0.9)
            at, place = _label(curve, RANK_LABELS[name])
            _beside(left, f"{name} ({fit['n_terms']:,})", at["rank"], at["frequency"], colour, place)
        left.set(xlim=(0.8, None), xlabel="rank", ylabel="occurrences", title=f"{collection}; dashed: the fitted tail")
        left.title.set_fontsize(8.5)
        _exponents(right, fits)
    return figure


PLACES = {
    "above right": {"xytext": (5, 4)},
    "above left": {"xytext": (-5, 4), "ha": "right"},
    "below left": {"xytext": (-5, -5), "ha": "right", "va": "top"},
    "below right": {"xytext": (5, -5), "va": "top"},
}


def _label(curve: pd.DataFrame, label: tuple[float, str]) -> tuple[pd.Series, str]:
    """Return the point of a curve that a label stands beside, and on which side of it."""
    return curve.iloc[int(label[0] * len(curve))], label[1]


def _beside(axes: Axes, text: str, x: float, y: float, colour: str, place: str) -> None:
    """Label a line beside a point of it."""
    axes.annotate(text, (x, y), textcoords="offset points", color=colour, fontsize=8.5, **PLACES[place])


def _exponents(axes: Axes, fits: pd.DataFrame) -> None:
    names = list(dict.fromkeys(fits["collection"]))
    middle = (fits["vocabulary"].nunique() - 1) / 2
    for number, (vocabulary, rows) in enumerate(fits.groupby("vocabulary", sort=False)):
        rows, colour = rows.set_index("collection").loc[names], VOCABULARY_COLOURS[vocabulary]
        y = np.arange(len(names)) + 0.24 * (number - middle)
        axes.hlines(y, rows["low"], rows["high"], color=colour, linewidth=1.4)
        faces = [colour if p >= PLAUSIBLE else "white" for p in rows["p"]]
        axes.scatter(rows["exponent"], y, s=26, color=faces, edgecolors=colour, zorder=3, label=vocabulary)
        axes.annotate(
            vocabulary,
            (rows["high"].iloc[0], y[0]),
            (4, 0),
            textcoords="offset points",
            color=colour,
            va="center",
            fontsize=8,
        )
    axes.axvline(1, color="black", linewidth=0.8, linestyle=":")
    axes.text(1, -0.55, " Zipf's law", fontsize=7.5, va="center")
    axes.set_yticks(np.arange(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.5, -0.7)
    axes.set_xlabel("Zipf exponent, 95 % interval\n(hollow: power law rejected)")
    axes.margins(x=0.2)


def cost_figure(fits: pd.DataFrame, curves: pd.DataFrame, growth: pd.DataFrame, collection: str) -> Figure:
    """Draw vocabulary growth and document frequency of one collection, and the postings a query reads of each.

    Parameters are the tables of `studies.zipf_study`, as in `zipf_figure`.
    """
    with plt.rc_context(STYLE):
        figure, (heaps, head, cost) = plt.subplots(1, 3, figsize=(7.2, 2.6))
        for name, rows in growth[growth["collection"] == collection].groupby("vocabulary", sort=False):
            colour, (at, place) = VOCABULARY_COLOURS[name], _label(rows, GROWTH_LABELS[name])
            heaps.loglog(rows["n_docs"], rows["n_terms"], color=colour)
            _beside(heaps, name, at["n_docs"], at["n_terms"], colour, place)
        heaps.set(xlabel="documents", ylabel="terms that occur", title=collection)
        for name, rows in curves[curves["collection"] == collection].groupby("vocabulary", sort=False):
            colour, (at, place) = VOCABULARY_COLOURS[name], _label(rows, HEAD_LABELS[name])
            head.plot(rows["rank"], 100 * rows["df_share"], color=colour)
            _beside(head, name, at["rank"], 100 * at["df_share"], colour, place)
        head.set(xlabel="rank", ylabel="% of the documents", xscale="log", ylim=(0, None), title=collection)
        names = list(dict.fromkeys(fits["collection"]))
        for number, (name, rows) in enumerate(fits.groupby("vocabulary", sort=False)):
            rows, y = rows.set_index("collection").loc[names], np.arange(len(names))
            colour, at = VOCABULARY_COLOURS[name], {"transform": cost.transAxes, "ha": "right", "fontsize": 8}
            cost.text(1, 1.03 + 0.09 * number, name, color=colour, **at)
            cost.scatter(100 * rows["query_share"], y, color=VOCABULARY_COLOURS[name], s=22)
            cost.hlines(y, 100 * rows["share_low"], 100 * rows["share_high"], color=VOCABULARY_COLOURS[name])
        cost.set_yticks(np.arange(len(names)), names, fontsize=7.5)
        cost.set_ylim(len(names) - 0.5, -0.5)
        cost.set(xlabel="% of all postings\nthat a query reads", xlim=(0, None))
    return figure


def zipf_in_words(fits: pd.DataFrame) -> str:
    """Answer whether the latents are a Zipfian vocabulary, in words out of the table "zipf"."""
    lines = []
    for name, rows in fits.groupby("collection", sort=False):
        rows = rows.set_index("vocabulary")
        latents, words = rows.loc["latents"], rows.loc["words"]
        lines.append(
            f"{name}: latents' exponent {interval(latents, 'exponent', 'low', 'high', 2)} over the "
            f"{latents['n_tail']:,} most frequent of {latents['n_terms']:,} ({latents['tail_share']:.0%} of all "
            f"occurrences), {_law(latents['p'])}; words' {interval(words, 'exponent', 'low', 'high', 2)} over "
            f"{words['n_tail']:,} of {words['n_terms']:,}, {_law(words['p'])}. In one document only are "
            f"{latents['n_once'] / latents['n_terms']:.1%} of the latents and {words['n_once'] / words['n_terms']:.0%} "
            f"of the words; in more than half of them {latents['n_frequent']:,} latents and {words['n_frequent']:,} "
            f"words. A query reads {latents['query_share']:.1%} of the latents' postings, "
            f"{words['query_share']:.1%} of the words'."
        )
        if "SPLADE" in rows.index:
            learned = rows.loc["SPLADE"]
            lines[-1] += (
                f" SPLADE's exponent is {interval(learned, 'exponent', 'low', 'high', 2)}, {_law(learned['p'])}; of "
                f"its {learned['n_terms']:,} terms {learned['n_frequent']:,} are in more than half of the documents, "
                f"and a query reads {learned['query_share']:.1%} of their postings."
            )
    latents = fits[fits["vocabulary"] == "latents"]
    kept = latents["p"] >= PLAUSIBLE
    covers = (latents["low"] <= 1) & (latents["high"] >= 1)
    lines.append(
        f"In {kept.sum()} of {len(latents)} collections the frequent latents are compatible with a power law, in "
        f"{covers.sum()} the interval of its exponent holds 1; the law is one of the "
        f"frequent latents only, a median of {(latents['n_tail'] / latents['n_terms']).median():.0%} of them."
    )
    return "\n".join(lines)


def _law(p: float) -> str:
    return f"{'compatible with' if p >= PLAUSIBLE else 'not'} a power law (p = {p:.2f})"


PRUNING_STYLES = {
    "document top": ("#0072B2", "o", "largest weights of a document"),
    "document mass": ("#009E73", "s", "share of a document's mass"),
    "document frequency": ("#D55E00", "^", "no frequent latents"),
    "query top": ("#CC79A7", "v", "largest weights of a query"),
    "query mass": ("#E69F00", "D", "share of a query's mass"),
}


def pruning_figure(table: pd.DataFrame, lengths: pd.DataFrame, collection: str) -> Figure:
    """Draw nDCG@10 against postings stored and against postings read, and the lengths of the posting lists.

    Parameters
    ----------
    table, lengths : DataFrame
        As `studies.pruning_study` returns them.
    collection : str
        The one that is drawn.
    """
    own = table[table["collection"] == collection]
    whole = own[own["kind"] == "none"].iloc[0]
    with plt.rc_context(STYLE):
        figure, (stored, read, lists) = plt.subplots(1, 3, figsize=(7.2, 2.9))
        for axes, x, label in (
            (stored, "postings_share", "% of postings stored"),
            (read, "query_share", "% of postings read"),
        ):
            for kind, (colour, marker, name) in PRUNING_STYLES.items():
                rows = own[own["kind"] == kind].sort_values(x)
                if len(rows) and (rows[x] < 1).any():
                    x_values = 100 * np.append(rows[x], 1)
                    axes.plot(x_values, np.append(rows["mean"], whole["mean"]), color=colour, linewidth=1)
                    axes.scatter(100 * rows[x], rows["mean"], s=16, marker=marker, color=colour, label=name, zorder=3)
            axes.axhspan(whole["low"], whole["high"], color="#EEEEEE", zorder=0)
            axes.axhline(whole["mean"], color="black", linewidth=0.7, linestyle=":")
            axes.set(xlabel=label, ylabel="nDCG@10")
        read.set_title(collection)
        kept = lengths[lengths["collection"] == collection].groupby(["kind", "value"], sort=False)
        for number, ((kind, value), rows) in enumerate(kept):
            colour, name = _shade(value, kind), "all" if kind == "none" else f"top {value:.0f}"
            lists.loglog(rows["rank"], rows["df"], linewidth=1.4, color=colour)
            lists.text(0.04, 0.04 + 0.1 * number, name, color=colour, transform=lists.transAxes)
        lists.set(xlabel="latent, by rank", ylabel="documents in its list")
        handles, labels = read.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=3, fontsize=7.5)
    return figure


def _shade(value: float, kind: str) -> str:
    return "#000000" if kind == "none" else {100: "#56B4E9", 400: "#0072B2"}[int(value)]


def pruning_in_words(table: pd.DataFrame) -> str:
    """Answer what can be left out at no significant loss, in words out of the table of `studies.pruning_study`."""
    lines = []
    for name, own in table.groupby("collection", sort=False):
        pruned, parts = own[own["kind"] != "none"], []
        free = pruned[~((pruned["difference"] < 0) & (pruned["p_holm"] < SIGNIFICANT))]
        for cost, what in (("postings_share", "stored"), ("query_share", "read by a query")):
            if len(free):
                best = free.loc[free[cost].idxmin()]
                parts.append(
                    f"the fewest postings {what} without a significant loss are {best[cost]:.0%} "
                    f"({best['kind']} {best['value']:g}: {best['difference']:+.3f}, "
                    f"{best['difference_low']:+.3f} to {best['difference_high']:+.3f})"
                )
        better = pruned[(pruned["difference"] > 0) & (pruned["p_holm"] < SIGNIFICANT)]
        gain = "; ".join(f"{row.kind} {row.value:g} ({row.difference:+.3f})" for row in better.itertuples())
        parts.append(f"significantly better than no pruning: {gain or 'none'}")
        whole = own[own["kind"] == "none"].iloc[0]
        lines.append(f"{name} (nDCG@10 {interval(whole, 'mean', 'low', 'high')}): {'; '.join(parts)}.")
    return "\n".join(lines)


FAMILY_COLOURS = {"lexical": "#0072B2", "narrow": "#009E73", "broad": "#D55E00"}
KINDS = {"only": "only", "without": "without", "without as many": "without as many\nof the others"}


def contribution_figure(table: pd.DataFrame) -> Figure:
    """Draw the change in nDCG@10 with one family of latents only, without it, and without as many others.

    Parameters
    ----------
    table : DataFrame
        Of `features.family_study`: a mark is a collection, a bar its 95 % interval.
    """
    names = list(dict.fromkeys(table["collection"]))
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, 3, figsize=(7.2, 2.2 + 0.12 * len(names)), sharex=True, sharey=True)
        for axes, (family, colour) in zip(panels, FAMILY_COLOURS.items(), strict=True):
            for number, kind in enumerate(KINDS):
                rows = table[(table["family"] == family) & (table["kind"] == kind)].set_index("collection").loc[names]
                y = number + (np.arange(len(names)) - (len(names) - 1) / 2) * 0.7 / len(names)
                axes.hlines(y, rows["difference_low"], rows["difference_high"], color=colour, linewidth=1)
                axes.scatter(rows["difference"], y, s=10, color=colour)
            axes.axvline(0, color="black", linewidth=0.7)
            axes.set_title(family, color=colour, fontsize=9)
            axes.set_yticks(range(len(KINDS)), KINDS.values(), fontsize=8)
            axes.set_ylim(len(KINDS) - 0.4, -0.6)
        panels[1].set_xlabel("change in nDCG@10, a mark a collection")
    return figure


def families_in_words(agreement: pd.DataFrame, table: pd.DataFrame) -> str:
    """Answer what kinds of latents there are and which the ranking needs, out of the tables of `features`."""
    row = agreement[agreement["half"] == 0.5].iloc[0]
    shares = ", ".join(
        f"{family} {row[f'{family}_first']:.0%} ({row[f'{family}_second']:.0%})" for family in FAMILY_COLOURS
    )
    lines = [
        f"Of {row['n_latents']:,.0f} latents with enough evidence, by the first rule (by the second): {shares}; "
        f"{row['n_rare']:,.0f} are too rare to say. The rules agree on {row['agreement']:.0%}, kappa "
        f"{interval(row, 'kappa', 'low', 'high', 2)}; on lexical against the rest kappa is {row['kappa_lexical']:.2f}."
    ]
    for name, own in table.groupby("collection", sort=False):
        rows = own.set_index(["kind", "family"])
        parts = [
            f"without {family} {_change(rows.loc[('without', family)])}, without as many others "
            f"{_change(rows.loc[('without as many', family)])}, {family} alone {rows.loc[('only', family), 'mean']:.3f}"
            for family in FAMILY_COLOURS
        ]
        lines.append(
            f"{name}, nDCG@10 {interval(rows.loc[('all', 'all')], 'mean', 'low', 'high')}: {'; '.join(parts)}."
        )
    return "\n".join(lines)


def _change(row: pd.Series) -> str:
    star = "*" if row["p_holm"] < SIGNIFICANT else ""
    return f"{row['difference']:+.3f}{star} ({row['difference_low']:+.3f} to {row['difference_high']:+.3f})"


MEAN = "mean, limit left out"  # as studies.beyond writes it


def beyond_figure(table: pd.DataFrame) -> Figure:
    """Draw each system's difference from the tuned constants: the mean without `limit`, and every collection.

    Parameters
    ----------
    table : DataFrame
        Of `beyond.beyond_study`.
    """
    own = table[table["difference"].notna()]
    systems = list(dict.fromkeys(own["system"]))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(5.4, 0.9 + 0.36 * len(systems)))
        for y, system in enumerate(systems):
            rows = own[own["system"] == system].set_index("collection")
            single, mean = rows.drop(index=MEAN), rows.loc[MEAN]
            limit = single.index.str.startswith("limit")
            for marker, those in (("o", single[~limit]), ("D", single[limit])):
                above = np.full(len(those), y + 0.18)
                axes.scatter(those["difference"], above, s=12, marker=marker, color="#999999", zorder=2)
            axes.hlines(y - 0.1, mean["difference_low"], mean["difference_high"], color=LATENT, linewidth=2)
            axes.scatter(mean["difference"], y - 0.1, s=30, color=LATENT, zorder=3)
        axes.axvline(0, color="black", linewidth=0.7)
        axes.set_yticks(range(len(systems)), systems, fontsize=8)
        axes.set_ylim(len(systems) - 0.5, -0.5)
        axes.set_xlabel(
            "change in nDCG@10 from the tuned constants\n(large: mean without limit; grey: each, limit a diamond)"
        )
    return figure


def beyond_in_words(table: pd.DataFrame) -> str:
    """Answer what improves on the tuned constants, in words out of the table of `beyond.beyond_study`."""
    lines, singles = [], table[table["collection"] != MEAN]
    for row in table[(table["collection"] == MEAN) & table["difference"].notna()].itertuples():
        own = singles[singles["system"] == row.system]
        told = own["p_holm"] < SIGNIFICANT
        better, worse = (told & (own["difference"] > 0)).sum(), (told & (own["difference"] < 0)).sum()
        verdict = (
            "helps" if row.difference_low > 0 else "hurts" if row.difference_high < 0 else "makes no clear difference"
        )
        lines.append(
            f"{row.system} {verdict}: {row.difference:+.3f} ({row.difference_low:+.3f} to {row.difference_high:+.3f}) "
            f"on average; significantly better on {better} and worse on {worse} of {len(own)} collections."
        )
    return "\n".join(lines)
