"""Figure and sentences of `40_layers`."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from lib.report.common import COLOURS, STYLE, collections_of, colours_of, interval
from lib.report.sweeps import comparison, comparisons, draw_lines, label_ends
from lib.studies.names import DENSE, LATENT, SPLADE_STYLE

READOUTS = {SPLADE_STYLE: COLOURS[DENSE], LATENT: COLOURS[LATENT]}


def layers_figure(summary: pd.DataFrame) -> Figure:
    """Draw nDCG@10 of each layer in both readouts, one panel per collection; below it FVU and Zipf's exponent."""
    colours = colours_of(collections_of(summary))
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(7.2, 4.6))
        above, below = figure.subfigures(2, 1)
        ranked = above.subplots(1, len(colours), sharey=True, squeeze=False)[0]
        for axes, name in zip(ranked, colours, strict=True):
            ends = draw_lines(axes, summary[summary["collection"] == name], "readout", READOUTS, "layer")
            axes.set_title(name)
        ranked[0].set(ylabel="nDCG@10, 95 % interval", ylim=(0, None))
        label_ends(ranked[-1], ends)
        latent = summary[summary["readout"] == LATENT]
        reconstruction, zipf = below.subplots(1, 2)
        exponent_ends = "exponent_low", "exponent_high"
        for axes, column, band in ((reconstruction, "fvu", None), (zipf, "exponent", exponent_ends)):
            ends = draw_lines(axes, latent, "collection", colours, "layer", column, band)
            axes.set(xlabel="layer", ylim=(0, None))
            label_ends(axes, ends)
        reconstruction.set(title="reconstruction", ylabel="FVU of the documents")
        zipf.set(title="Zipf's law", ylabel="exponent, 95 % interval")
        for axes in figure.axes:
            axes.set_xticks(sorted(set(summary["layer"])))
            axes.title.set_fontsize(9)
    return figure


def layers_in_words(summary: pd.DataFrame) -> str:
    """Say, of each collection, which layer is best in either readout and which differ from the final one."""
    lines = []
    for name, rows in summary.groupby("collection", sort=False):
        final = rows[rows["difference"].isna()].iloc[0]
        latent, splade = (rows[rows["readout"] == readout].set_index("layer") for readout in (LATENT, SPLADE_STYLE))
        best, best_splade = latent["mean"].idxmax(), splade["mean"].idxmax()
        lines.append(
            f"{name}: latent terms of the final layer ({final['layer']}) have nDCG@10 {interval(final)}. The best "
            f"layer is {best} with {interval(latent.loc[best])}. {comparisons(latent, 'Layers')} "
            f"Read as SPLARE does, the best layer is {best_splade} with {interval(splade.loc[best_splade])}, and the "
            f"final layer is {comparison(splade.loc[final['layer']])}. The lowest FVU has layer "
            f"{latent['fvu'].idxmin()}. Zipf's exponent is {latent['exponent'].min():.2f} to "
            f"{latent['exponent'].max():.2f} over the layers, "
            f"{interval(final, 'exponent', 'exponent_low', 'exponent_high', 2)} at the final one."
        )
    return "\n".join(lines)
