"""The tables that studies wrote, read again by name; nothing here needs torch."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from lib.studies.names import is_limit
from lib.support.files import user_path


class NotMeasured(LookupError):
    """The table is there, but what is asked for is not in it."""


class Results:
    """The tables of a folder by name: `results["limit"]` is limit.csv, and FileNotFoundError where it is not there.

    `used` holds the names of those read so far.
    """

    def __init__(self, folder: str | Path):
        self.folder, self.used = user_path(folder), set()

    def __getitem__(self, name: str) -> pd.DataFrame:
        """Return a table."""
        table = pd.read_csv(self.folder / f"{name}.csv")
        self.used.add(name)
        return table

    def origin(self, name: str) -> dict:
        """Return where a table comes from, as `lib.studies.provenance` gives it."""
        return json.loads((self.folder / f"{name}.json").read_text("utf-8"))


def without_limit(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of all collections but `limit`, which has claims of its own; NotMeasured if there is none."""
    rows = table[~table["collection"].map(is_limit)]
    if rows.empty:
        raise NotMeasured("no such row of a collection other than limit")
    return rows


def mean_of(
    rows: pd.DataFrame, value: str = "difference", low: str = "difference_low", high: str = "difference_high"
) -> tuple[float, float, float]:
    """Return the mean of a column over collections, and its interval (low, high).

    The queries of collections are independent samples, so the half-widths of their intervals add up in quadrature.
    """
    centre = rows[value].to_numpy()
    below, above = (np.hypot.reduce(rows[end].to_numpy() - centre) / len(rows) for end in (low, high))
    return float(centre.mean()), float(centre.mean() - below), float(centre.mean() + above)
