"""Study `41_width_k`: autoencoders of several widths, and of several numbers of latents a token."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lib.evaluation.measures import bootstrap_interval
from lib.studies.inputs import Setting
from lib.studies.sweeps import Swept, Variant, study_recipe, sweep, with_labels
from lib.support.store import Store


def width_k_study(setting: Setting, store: Store | None = None) -> tuple[Swept, pd.DataFrame]:
    """Vary the width at one k, and k at one width.

    The summary's columns beyond `Swept` are width and k.

    Returns
    -------
    Swept
    DataFrame
        The trend: collection; field ("width" or "k"), the other field's value (at), smallest and largest; by how much
        nDCG@10 rises with each doubling, as the least-squares slope of a query's values, mean over queries with its
        95 % bootstrap interval (slope, low, high).
    """
    size = setting.size
    variants, labels = {}, {}
    pairs = [(width, size.k) for width in size.widths] + [(size.width, k) for k in size.ks]
    for width, k in dict.fromkeys([(size.width, size.k), *pairs]):
        name = f"width {width}, k {k}"
        variants[name] = Variant(study_recipe(setting, width=width, k=k))
        labels[name] = {"width": width, "k": k}
    swept = with_labels(sweep(variants, next(iter(variants)), setting.collections, store), labels)
    rows = []
    for collection, values in swept.values.groupby("collection", sort=False):
        for field, at, tried in (("width", size.k, size.widths), ("k", size.width, size.ks)):
            names = [f"width {x}, k {at}" if field == "width" else f"width {at}, k {x}" for x in tried]
            slopes = slope_a_doubling(values[names].to_numpy(), tried)
            low, high = bootstrap_interval(slopes)
            rows.append((collection, field, at, min(tried), max(tried), slopes.mean(), low, high))
    columns = ["collection", "field", "at", "smallest", "largest", "slope", "low", "high"]
    return swept, pd.DataFrame(rows, columns=columns)


def slope_a_doubling(values: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """Return the least-squares slope of each row of `values` [n, len(sizes)] on log2 of the sizes, float64 [n]."""
    x = np.log2(sizes) - np.log2(sizes).mean()
    return values @ x / (x @ x)
