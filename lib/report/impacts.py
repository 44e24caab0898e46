"""Impacts in eight bits beside exact ones (44_impacts)."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from lib.report.common import COLOURS, STYLE
from lib.studies.names import EXACT_IMPACTS, LATENT, MEAN, ROUNDED, UNCHANGED


def impacts_figure(table: pd.DataFrame) -> Figure:
    """Draw, by collection, how nDCG@10 changes with impacts in eight bits, and the index's bytes by document."""
    rows = table[table["impacts"] == ROUNDED][::-1].reset_index(drop=True)
    sizes = table.pivot(index="collection", columns="impacts", values="bytes_per_document").loc[rows["collection"]]
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(6.8, 2.8), sharey=True)
        errors = [rows["difference"] - rows["difference_low"], rows["difference_high"] - rows["difference"]]
        left.axvspan(-UNCHANGED, UNCHANGED, color="#EEEEEE", zorder=0)
        left.axvline(0, color="#999999", linewidth=0.8)
        left.errorbar(rows["difference"], rows.index, xerr=errors, fmt="o", color=COLOURS[LATENT], markersize=4)
        left.set(xlabel="change of nDCG@10, 95 % interval")
        left.set_yticks(rows.index, rows["collection"])
        for form, colour in ((EXACT_IMPACTS, "#999999"), (ROUNDED, COLOURS[LATENT])):
            right.plot(sizes[form] / 1e3, rows.index, "o", color=colour, markersize=5, label=form)
        right.set(xlabel="kB a document, on disk", xlim=(0, None))
        right.legend(loc="best", fontsize=8)
    return figure


def impacts_in_words(table: pd.DataFrame) -> str:
    """Answer what eight bits change and save."""
    exact, rounded = (table[table["impacts"] == form].set_index("collection") for form in (EXACT_IMPACTS, ROUNDED))
    single = rounded.drop(index=MEAN)
    furthest = single["difference"].abs().idxmax()
    mean, before = rounded.loc[MEAN], exact.loc[MEAN]
    above = single.index[single["difference"].abs() > UNCHANGED]
    over = f"more than {UNCHANGED} on {', '.join(above)}" if len(above) else f"nowhere more than {UNCHANGED}"
    return "\n".join(
        [
            f"In eight bits nDCG@10 changes by {mean['difference']:+.4f} ({mean['difference_low']:+.4f} to "
            f"{mean['difference_high']:+.4f}) on average, {over}; most on {furthest}, by "
            f"{single.loc[furthest, 'difference']:+.4f}.",
            f"On average over collections {mean['same_best']:.0%} of the queries have the same ten best documents in "
            f"the same order. A score is off by {mean['off']:.2%} of the query's best at most; the index promises "
            f"{mean['bound']:.1%}.",
            f"A posting takes {mean['bytes_per_posting']:.2f} bytes on disk ({before['bytes_per_posting']:.2f} in "
            f"float32), a document {mean['bytes_per_document']:,.0f} ({before['bytes_per_document']:,.0f}).",
        ]
    )
