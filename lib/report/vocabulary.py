"""Latents and words as vocabularies: their curves, fits and costs."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.report.common import COLOURS, STYLE


def rank_frequency_figure(curves: pd.DataFrame) -> Figure:
    """Draw rank against frequency, log-log, a line a vocabulary, labelled with its number of terms.

    Parameters
    ----------
    curves : DataFrame
        Columns vocabulary, rank and frequency.
    """
    colours = {"latents": COLOURS["latent terms"], "words": COLOURS["lexical BM25"]}
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(4.5, 3.2))
        for name, curve in curves.groupby("vocabulary", sort=False):
            axes.loglog(curve["rank"], curve["frequency"], color=colours[name], linewidth=1.6)
            n_terms = curve["rank"].iloc[-1]
            at = curve.iloc[np.searchsorted(curve["rank"], np.sqrt(n_terms))]
            side = (
                {"xytext": (6, 6), "va": "bottom"}
                if name == "latents"
                else {"xytext": (-6, -6), "va": "top", "ha": "right"}
            )
            axes.annotate(
                f"{name} ({n_terms:,})",
                (at["rank"], at["frequency"]),
                textcoords="offset points",
                color=colours[name],
                **side,
            )
        axes.set_xlabel("rank")
        axes.set_ylabel("occurrences in the documents")
    return figure


def thin(frequencies: np.ndarray, vocabulary: str, n_points: int = 400) -> pd.DataFrame:
    """Return a rank-frequency curve at ranks evenly spaced in the logarithm, first and last among them.

    Parameters
    ----------
    frequencies : np.ndarray, integer [n_terms]
        Descending.
    """
    ranks = np.unique(np.geomspace(1, len(frequencies), n_points).round().astype(int))
    return pd.DataFrame({"vocabulary": vocabulary, "rank": ranks, "frequency": frequencies[ranks - 1]})
