"""What each family of latents contributes (31_features)."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.report.common import STYLE, change, collections_of, interval, significant
from lib.studies.names import ALL, CONTROL, FAMILIES, ONLY, WITHOUT

FAMILY_COLOURS = dict(zip(FAMILIES, ("#0072B2", "#009E73", "#D55E00"), strict=True))
KINDS = {ONLY: "only", WITHOUT: "without", CONTROL: "without as many\nof the others"}


def contribution_figure(table: pd.DataFrame) -> Figure:
    """Draw the change in nDCG@10 with one family of latents only, without it, and without as many others."""
    names = collections_of(table)
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
    """Answer what kinds of latents there are and which the ranking needs, out of the tables of `studies.features`."""
    row = agreement[agreement["half"] == 0.5].iloc[0]
    shares = [f"{family} {row[f'{family}_first']:.0%} ({row[f'{family}_second']:.0%})" for family in FAMILIES]
    lines = [
        f"Of {row['n_latents']:,.0f} latents with enough evidence, by the first rule (by the second): "
        f"{', '.join(shares)}; {row['n_rare']:,.0f} are too rare to say. The rules agree on {row['agreement']:.0%}, "
        f"kappa {interval(row, 'kappa', 'low', 'high', 2)}; on lexical against the rest kappa is "
        f"{row['kappa_lexical']:.2f}. A star marks p < 0.05."
    ]
    for name, rows in table.groupby("collection", sort=False):
        of = rows.assign(star=np.where(significant(rows), "*", "")).set_index(["kind", "family"])
        text = {index: change(each) + each["star"] for index, each in of.iterrows()}
        parts = [
            f"without {family} {text[WITHOUT, family]}, without as many others {text[CONTROL, family]}, "
            f"{family} alone {of.loc[(ONLY, family), 'mean']:.3f}"
            for family in FAMILIES
        ]
        lines.append(f"{name}, nDCG@10 {interval(of.loc[(ALL, ALL)], 'mean', 'low', 'high')}: {'; '.join(parts)}.")
    return "\n".join(lines)
