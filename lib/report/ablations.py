"""Figures and sentences of `50_ablations`."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.report.common import STYLE, change, collections_of, interval, significant
from lib.report.sweeps import comparison, forest

FAR = 0.2  # a larger difference is not drawn to scale


def ablations_figure(summary: pd.DataFrame) -> Figure:
    """Draw by how much each change moves nDCG@10, with its 95 % interval; filled where it is significant.

    Differences beyond FAR are written at the edge: beside their bars all others would look alike.
    """
    changed = summary[summary["difference"].notna()]
    far, variants = changed["difference"].abs() > FAR, list(dict.fromkeys(changed["variant"]))
    title = "difference in nDCG@10 to the baseline"
    figure = forest(changed[~far], variants, "difference", ("difference_low", "difference_high"), title)
    for axes in figure.axes:
        written = changed[far & (changed["collection"] == axes.get_title())]
        for variant, difference in zip(written["variant"], written["difference"], strict=True):
            form, x, side = ("← {:+.2f}", 0.02, "left") if difference < 0 else ("{:+.2f} →", 0.98, "right")
            style = {"transform": axes.get_yaxis_transform(), "ha": side, "va": "center", "fontsize": 7.5}
            axes.text(x, variants.index(variant), form.format(difference), **style)
    return figure


def surface_figure(surface: pd.DataFrame) -> Figure:
    """Draw nDCG@10 over k1 and b less that of the paper's constants, one panel per collection; the best is framed."""
    names = collections_of(surface)
    most = max(1e-9, surface["difference"].abs().max())
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, len(names), figsize=(1.4 + 2.4 * len(names), 2.9), squeeze=False)
        for axes, name in zip(panels[0], names, strict=True):
            rows = surface[surface["collection"] == name]
            table = rows.pivot(index="k1", columns="b", values="difference")
            image = axes.imshow(table, cmap="PuOr", vmin=-most, vmax=most, origin="lower", aspect="auto")
            axes.set_xticks(range(len(table.columns)), [f"{b:g}" for b in table.columns])
            axes.set_yticks(range(len(table.index)), [f"{k1:g}" for k1 in table.index])
            for (i, j), value in np.ndenumerate(table.to_numpy()):
                text = f"{1000 * value:+.0f}" if round(1000 * value) else "0"
                colour = "white" if abs(value) > 0.6 * most else "black"
                axes.text(j, i, text, ha="center", va="center", fontsize=6.5, color=colour)
            best = np.unravel_index(table.to_numpy().argmax(), table.shape)
            axes.add_patch(plt.Rectangle((best[1] - 0.5, best[0] - 0.5), 1, 1, fill=False, linewidth=1.6))
            axes.set_title(name, fontsize=9)
            axes.set_xlabel("b")
            axes.spines[:].set_visible(False)
        panels[0, 0].set_ylabel("k1")
        bar = figure.colorbar(image, ax=panels, shrink=0.8, pad=0.02)
        bar.set_label("nDCG@10 less that at\nk1 = 8, b = 0.7 (× 1000 inside)", fontsize=8)
    return figure


def ablations_in_words(summary: pd.DataFrame, surface: pd.DataFrame) -> str:
    """Say which changes differ significantly from the baseline, what another seed does, and what k1 and b move."""
    lines = []
    for name, rows in summary.groupby("collection", sort=False):
        changed = rows[rows["difference"].notna()].set_index("variant")
        differing = changed[significant(changed)].sort_values("difference")
        worse = [f"{variant} {change(row)}" for variant, row in differing.iterrows() if row["difference"] < 0]
        better = [f"{variant} {change(row)}" for variant, row in differing[::-1].iterrows() if row["difference"] > 0]
        idle = changed[(changed["difference_low"] == 0) & (changed["difference_high"] == 0)].index
        without = f"Without any effect on a query: {', '.join(idle)}. " if len(idle) else ""
        grid = surface[surface["collection"] == name].sort_values("mean")
        best = grid.iloc[-1]
        gain = f"{best['difference']:+.3f} ({best['low']:+.3f} to {best['high']:+.3f})"
        lines.append(
            f"{name}: {len(differing)} of {len(changed)} changes differ significantly from the baseline, "
            f"{interval(rows[rows['difference'].isna()].iloc[0])}. Worse: {', '.join(worse) or 'none'}. Better: "
            f"{', '.join(better) or 'none'}. {without}Another seed alone: {change(changed.loc['seed: 1'])}. Over k1 "
            f"and b nDCG@10 is {grid['mean'].iloc[0]:.3f} to {best['mean']:.3f}; the best of the {len(grid)} points, "
            f"k1 = {best['k1']:g}, b = {best['b']:g}, is {gain} from the paper's, but it was chosen on these queries."
        )
    return "\n".join(lines)


def tokens_in_words(summary: pd.DataFrame) -> str:
    """Say what the fewest and the most tokens to train on give: the variance left unexplained, and nDCG@10."""
    lines = []
    for name, rows in summary.groupby("collection", sort=False):
        counts, baseline = rows[rows["factor"] == "tokens"], rows[rows["difference"].isna()].iloc[0]
        fewest, most = counts.iloc[0], counts.iloc[-1]
        lines.append(
            f"{name}: autoencoders trained on {fewest['level']} to {most['level']} tokens leave {fewest['fvu']:.3f} to "
            f"{most['fvu']:.3f} of the variance unexplained, the baseline {baseline['fvu']:.3f}. In nDCG@10 the one of "
            f"the fewest is {comparison(fewest)}, the one of the most {comparison(most)}."
        )
    return "\n".join(lines)


def latents_a_token_in_words(counted: pd.DataFrame) -> str:
    """Say how unevenly the latents of each activation are spread over tokens, and whether long states have more."""
    first = counted.iloc[0]
    lines = [f"Of the {first['n_tokens']:,} tokens of the first documents of {first['collection']}:"]
    for row in counted.itertuples():
        if np.isnan(row.correlation):
            lines.append(f"{row.variant}: {row.mean:.1f} latents each.")
            continue
        lines.append(
            f"{row.variant}: {row.mean:.1f} latents on average, {row.median:.0f} in the median, nine tenths of the "
            f"tokens have {row.low:.0f} to {row.high:.0f}; the correlation with a state's distance from the mean is "
            f"{row.correlation:.2f}."
        )
    return "\n".join(lines)
