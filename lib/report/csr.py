"""Figure and sentences of `72_csr`."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from lib.report.common import STYLE, colours_of
from lib.report.trained import contrasts_in_words, draw_means, means_of
from lib.studies.names import CSR_FROZEN, CSRV2, DENSE, MATRYOSHKA, MEASURE, TRUNCATED

LINES = (CSR_FROZEN, CSRV2, TRUNCATED, MATRYOSHKA)


def csr_figure(table: pd.DataFrame) -> Figure:
    """Draw nDCG@10 against the bytes of a document (left), and the share of dead latents against k (right)."""
    rows = means_of(table)
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(8.0, 3.2))
        for kind, colour in colours_of(LINES).items():
            of_kind = rows[rows["kind"] == kind]
            draw_means(left, of_kind, "bytes", kind, colour)
            if of_kind["dead"].notna().any():
                right.plot(of_kind["k"], of_kind["dead"], marker=".", color=colour, label=kind)
        whole = rows[rows["kind"] == DENSE].iloc[0]
        left.axhline(whole["mean"], color="black", linewidth=0.8, linestyle=":")
        left.set(xlabel="bytes of a document (dotted: the whole embedding)", ylabel=MEASURE)
        right.set(xlabel="k", ylabel="share of the latents that are dead", ylim=(0, 1))
        for axes in (left, right):
            axes.set_xscale("log", base=2)
            axes.xaxis.set_minor_locator(NullLocator())
            axes.legend(fontsize=7)
    return figure


def csr_in_words(table: pd.DataFrame, contrasts: pd.DataFrame) -> str:
    """Say what the named pairs differ by, and how each size ranks, what it takes and how many latents are dead."""
    lines = [contrasts_in_words(contrasts)]
    rows = means_of(table)
    for row in rows[rows["kind"].isin([CSR_FROZEN, CSRV2])].itertuples():
        lines.append(
            f"{row.system}: {MEASURE} {row.mean:.3f} ({row.low:.3f} to {row.high:.3f}), {row.bytes} bytes a document, "
            f"{row.median_ms:.2f} ms a query, {row.dead:.1%} of the latents dead."
        )
    return "\n".join(lines)
