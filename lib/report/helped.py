"""Sentences of `73_helped`."""

import pandas as pd

from lib.report.common import interval
from lib.report.trained import contrasts_in_words, means_of
from lib.studies.names import MEASURE


def helped_in_words(table: pd.DataFrame, contrasts: pd.DataFrame) -> str:
    """Say what each pair of systems differs by, then how each ranks and how many of its latents are dead."""
    lines = [contrasts_in_words(contrasts)]
    for _, row in means_of(table).iterrows():
        dead = "" if pd.isna(row["dead"]) else f", {row['dead']:.1%} dead"
        lines.append(f"{row['system']}: {MEASURE} {interval(row)}{dead}.")
    return "\n".join(lines)
