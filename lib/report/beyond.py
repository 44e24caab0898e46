"""Which changes to the ranking help (60_beyond)."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.report.common import COLOURS, STYLE, change, significant
from lib.studies.names import LATENT, MEAN, is_limit


def beyond_figure(table: pd.DataFrame) -> Figure:
    """Draw each system's difference from the tuned constants in the mean without `limit`, and on every collection."""
    compared = table[table["difference"].notna()]
    systems = list(dict.fromkeys(compared["system"]))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(5.4, 0.9 + 0.36 * len(systems)))
        for y, system in enumerate(systems):
            rows = compared[compared["system"] == system].set_index("collection")
            single, mean = rows.drop(index=MEAN), rows.loc[MEAN]
            limit = single.index.map(is_limit).astype(bool)
            for marker, marks in (("o", single[~limit]), ("D", single[limit])):
                above = np.full(len(marks), y + 0.18)
                axes.scatter(marks["difference"], above, s=12, marker=marker, color="#999999", zorder=2)
            axes.hlines(y - 0.1, mean["difference_low"], mean["difference_high"], color=COLOURS[LATENT], linewidth=2)
            axes.scatter(mean["difference"], y - 0.1, s=30, color=COLOURS[LATENT], zorder=3)
        axes.axvline(0, color="black", linewidth=0.7)
        axes.set_yticks(range(len(systems)), systems, fontsize=8)
        axes.set_ylim(len(systems) - 0.5, -0.5)
        label = "change in nDCG@10 from the tuned constants\n(large: mean without limit; grey: each, limit a diamond)"
        axes.set_xlabel(label)
    return figure


def beyond_in_words(table: pd.DataFrame) -> str:
    """Answer what improves on the tuned constants, in words out of the table of `beyond_study`."""
    lines, singles = [], table[table["collection"] != MEAN]
    for _, mean in table[(table["collection"] == MEAN) & table["difference"].notna()].iterrows():
        rows = singles[singles["system"] == mean["system"]]
        better, worse = ((significant(rows) & (sign * rows["difference"] > 0)).sum() for sign in (1, -1))
        helps, hurts = mean["difference_low"] > 0, mean["difference_high"] < 0
        verdict = "helps" if helps else "hurts" if hurts else "makes no clear difference"
        lines.append(
            f"{mean['system']} {verdict}: {change(mean)} on average; significantly better on {better} and worse on "
            f"{worse} of {len(rows)} collections." + _cost(mean)
        )
    return "\n".join(lines)


def _cost(mean: pd.Series) -> str:
    """Return in words what a system costs; nothing where the table does not say."""
    time, states = mean.get("query_ms"), mean.get("state_bytes")
    stored = f" and {states / 1000:.0f} kB of token states a document" if pd.notna(states) else ""
    return f" It takes {time:.1f} ms a query{stored}." if pd.notna(time) else ""
