"""In which latents corpora differ, whether words say the same, and clusters against known groups (33_corpora)."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.report.common import COLOURS, STYLE, interval
from lib.studies import names

OF_TERMS = {names.LATENTS: COLOURS[names.LATENT], names.WORDS: COLOURS[names.LEXICAL], names.BEYOND: "#009E73"}
OF_LABELS = {"agree": COLOURS[names.LATENT], "control": COLOURS[names.LEXICAL]}
LABELS = {"agree": "agree with words", "control": "labels dealt anew"}
OF_CLUSTERS = OF_TERMS | {names.WELL_LABELLED: "#E69F00", names.DENSE: COLOURS[names.DENSE]}
del OF_CLUSTERS[names.BEYOND]


def corpora_figure(corpora: pd.DataFrame, clusters: pd.DataFrame) -> Figure:
    """Draw how well differences tell held-out documents apart, which share words confirm, and the clusters' ARI."""
    places = {name: place for place, name in enumerate(dict.fromkeys(corpora["corpora"]))}
    with plt.rc_context(STYLE):
        figure, (auc, agree, ari) = plt.subplots(1, 3, figsize=(7.2, 1.9 + 0.45 * len(places)), sharey=True)
        for rank, (name, colour) in enumerate(OF_TERMS.items()):
            _marks(auc, corpora[corpora["vocabulary"] == name], "auc", places, rank, len(OF_TERMS), colour)
        for rank, (column, colour) in enumerate(OF_LABELS.items()):
            rows = corpora[corpora["vocabulary"] == names.LATENTS]
            _marks(agree, rows, column, places, rank, len(OF_LABELS), colour)
        for rank, (name, colour) in enumerate(OF_CLUSTERS.items()):
            _marks(ari, clusters[clusters["system"] == name], "ari", places, rank, len(OF_CLUSTERS), colour)
        auc.axvline(0.5, color="black", linewidth=0.7, linestyle=":")
        auc.set_yticks(range(len(places)), [name.replace(" and ", "\nand ") for name in places], fontsize=8)
        auc.set_ylim(len(places) - 0.5, -0.5)
        auc.set_xlabel("held-out AUC\nof what differs")
        agree.set_xlabel("share of the latents\nthat differ")
        ari.set_xlabel("adjusted Rand index\nof clusters")
        _key(auc, OF_TERMS)
        _key(agree, {LABELS[column]: colour for column, colour in OF_LABELS.items()})
        _key(ari, OF_CLUSTERS)
    return figure


def _marks(axes: Axes, rows: pd.DataFrame, column: str, places: dict, rank: int, n: int, colour: str) -> None:
    """Draw a column of some rows with its intervals, the mark number `rank` of `n` at the place of each corpora."""
    y = np.array([places[name] for name in rows["corpora"]]) + 0.6 * (rank - (n - 1) / 2) / n
    axes.hlines(y, rows[f"{column}_low"], rows[f"{column}_high"], color=colour, linewidth=1.2)
    axes.scatter(rows[column], y, s=12, color=colour)


def _key(axes: Axes, colours: dict[str, str]) -> None:
    """Write the names of marks above the axes, in their colours."""
    axes.set_title("\n" * (len(OF_CLUSTERS) - 1), fontsize=9)  # keeps the place
    for row, (name, colour) in enumerate(reversed(colours.items())):
        style = {"xycoords": "axes fraction", "textcoords": "offset points", "fontsize": 8, "color": colour}
        axes.annotate(name, (0, 1), (0, 5 + 11 * row), **style)


def corpora_in_words(corpora: pd.DataFrame, together: pd.DataFrame, clusters: pd.DataFrame) -> str:
    """Answer by the rule of the study whether latents agree with words, find more, go together, and cluster."""
    lines = []
    for name, rows in corpora.groupby("corpora", sort=False):
        rows = rows.set_index("vocabulary")
        latents, words, beyond = (rows.loc[kind] for kind in OF_TERMS)
        line = (
            f"{name}, {latents['n_docs']:,} documents, contrasts: {latents['n_contrasts']}. {latents['terms']:.0f} "
            f"latents and {words['terms']:.0f} words differ in a contrast; they tell held-out documents apart with an "
            f"AUC of {_auc(latents)} and {_auc(words)}. Labels predict where their latents fire with an AUC of "
            f"{latents['label_auc']:.2f}, random ones with {latents['label_control']:.2f} (medians). "
        )
        if np.isfinite(latents["agree"]):
            shares = [interval(latents, column, f"{column}_low", f"{column}_high", 2) for column in OF_LABELS]
            agrees = latents["agree_low"] > latents["control_high"]
            line += (
                f"A word of its label confirms {shares[0]} of the latents, {shares[1]} with labels dealt anew: latents "
                f"{'agree' if agrees else 'are not shown to agree'} with words. "
            )
        if beyond["terms"] > 0:
            finds = beyond["auc_low"] > 0.5
            line += (
                f"{beyond['terms']:.0f} latents a contrast are beyond words, {beyond['recurs']:.0%} of them recur, and "
                f"their AUC is {_auc(beyond)}: latents {'find' if finds else 'are not shown to find'} what words do "
                "not. "
            )
        pairs = together[together["corpora"] == name]
        if len(pairs):
            recur, control = (np.mean(pairs[f"{column}_npmi"] > 0) for column in ("held_out", "control"))
            line += (
                f"Of the {len(pairs)} pairs of latents that go together the most {recur:.0%} recur, {control:.0%} of "
                "the same latents paired anew. "
            )
        of_systems = clusters[clusters["corpora"] == name].set_index("system")
        parts = [f"{system} {interval(row, 'ari', 'ari_low', 'ari_high', 2)}" for system, row in of_systems.iterrows()]
        lines.append(f"{line}Adjusted Rand index of {of_systems['k'].iloc[0]} clusters: {', '.join(parts)}.")
    return "\n".join(lines)


def _auc(row: pd.Series) -> str:
    """Return an AUC, with its interval if it has one: of one contrast there is none."""
    return interval(row, "auc", "auc_low", "auc_high", 2) if np.isfinite(row["auc_low"]) else f"{row['auc']:.2f}"
