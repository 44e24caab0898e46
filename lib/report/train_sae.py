"""A training run as a figure."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.report.common import COLOURS, STYLE


def plot_training(log: str | Path | list[dict]) -> Figure:
    """Draw a training run: FVU, dead latents, and at its end how many latents are active in which share of the tokens.

    `log` is a `training_log.jsonl`, or the rows that `trainer.train` gives to its `log`. Without a row, ValueError.
    """
    if not isinstance(log, list):
        log = [json.loads(line) for line in Path(log).read_text("utf-8").splitlines()]
    if not log:
        raise ValueError("The log has no row; a run writes one every 50 steps and at its end.")
    frame = pd.DataFrame(log).astype({"dead": float})  # None, not known yet, is a gap
    millions = frame["tokens"] / 1e6
    density = log[-1]["density"]
    edges = np.linspace(-len(density) / 2, 0, len(density) + 1)  # half decades, as logarithms
    with plt.rc_context(STYLE):
        figure, (loss, dead, histogram) = plt.subplots(1, 3, figsize=(8.2, 2.5))
        loss.plot(millions, frame["fvu"], marker=".", color=COLOURS["latent terms"])
        loss.set(xlabel="million tokens", ylabel="variance unexplained (FVU)", ylim=(0, None))
        loss.set_title(f"FVU {frame['fvu'].iloc[-1]:.3f}, {frame['l0'].iloc[-1]:.1f} latents a token", fontsize=9)
        dead.plot(millions, 100 * frame["dead"], marker=".", color=COLOURS["dense"])
        dead.set(
            xlabel="million tokens", ylabel="dead latents, %", ylim=(0, max(1, 105 * frame["dead"].fillna(0).max()))
        )
        last = frame["dead"].iloc[-1]
        dead.set_title("not known how many are dead" if np.isnan(last) else f"{last:.1%} dead at the end", fontsize=9)
        histogram.stairs(density, edges, fill=True, color=COLOURS["lexical BM25"])
        histogram.set(xlabel="share of tokens with the latent", ylabel="latents")
        ticks = np.arange(edges[0], 1)
        labels = [f"$10^{{{tick:.0f}}}$" for tick in ticks]
        histogram.set_xticks(ticks, [f"≤{labels[0]}", *labels[1:]])
        histogram.set_title("the last steps", fontsize=9)
    return figure
