"""Figure and sentences of `51_retrieval_training`."""

import pandas as pd
from matplotlib.figure import Figure

from lib.report.common import interval
from lib.report.sweeps import comparison, forest
from lib.studies.names import RETRIEVER


def retrieval_training_figure(summary: pd.DataFrame) -> Figure:
    """Draw nDCG@10 of each model with its 95 % interval; filled where it differs significantly."""
    return forest(summary, list(dict.fromkeys(summary["variant"])), "mean", ("low", "high"), "nDCG@10, 95 % interval")


def retrieval_training_in_words(summary: pd.DataFrame) -> str:
    """Say how far the models that never learned to retrieve, and words, are from the retriever."""
    lines = []
    for name, rows in summary.groupby("collection", sort=False):
        rows = rows.set_index("variant")
        compared = rows.drop(index=RETRIEVER).iterrows()
        parts = [f"{variant} {interval(row)}, {comparison(row)}" for variant, row in compared]
        lines.append(f"{name}: the retriever has nDCG@10 {interval(rows.loc[RETRIEVER])}; {'; '.join(parts)}.")
    return "\n".join(lines)
