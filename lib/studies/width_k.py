"""Study `41_width_k`: autoencoders of several widths, and of several numbers of latents per token."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lib.evaluation.measures import bootstrap_interval
from lib.studies.inputs import Setting
from lib.studies.sweeps import Swept, Variant, study_recipe, sweep
from lib.support.store import Store


def width_k_study(setting: Setting, store: Store | None = None) -> tuple[Swept, pd.DataFrame]:
    """Vary the width at one k, and k at one width, which the summary has as columns; return the trend as well.

    Its columns: collection; field ("width" or "k"), the other field's value (at), smallest and largest; by how much
    nDCG@10 rises with each doubling, as the least-squares slope of a query's values, mean over queries with its 95 %
    bootstrap interval (slope, low, high).
    """
    size = setting.size
    series = {"width": [(width, size.k) for width in size.widths], "k": [(size.width, k) for k in size.ks]}
    pairs = dict.fromkeys([(size.width, size.k), *series["width"], *series["k"]])  # the baseline is the first
    names = {(width, k): f"width {width}, k {k}" for width, k in pairs}
    labels = {name: {"width": width, "k": k} for (width, k), name in names.items()}
    variants = {name: Variant(study_recipe(setting, **pair), labels=pair) for name, pair in labels.items()}
    swept = sweep(variants, next(iter(variants)), setting.collections, store)
    rows = []
    for collection, values in swept.values.groupby("collection", sort=False):
        for field, fixed, sizes in (("width", size.k, size.widths), ("k", size.width, size.ks)):
            slopes = slope_a_doubling(values[[names[pair] for pair in series[field]]].to_numpy(), sizes)
            interval = bootstrap_interval(slopes)
            rows.append((collection, field, fixed, min(sizes), max(sizes), slopes.mean(), *interval))
    columns = ["collection", "field", "at", "smallest", "largest", "slope", "low", "high"]
    return swept, pd.DataFrame(rows, columns=columns)


def slope_a_doubling(values: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """Return the least-squares slope of each row of `values` [n, len(sizes)] on log2 of the sizes, float64 [n]."""
    x = np.log2(sizes) - np.log2(sizes).mean()
    return values @ x / (x @ x)
