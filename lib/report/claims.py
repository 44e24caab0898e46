"""The papers' claims beside our results: each with our figure, its interval, and a verdict that follows by one rule.

**The rule** (`judge`). A claim says which values agree with it, and which of these are of the published size or beyond.
Our figure comes with a 95 % interval.

- *holds*: the interval lies wholly among the values that agree, and not told from the published size if one is known.
- *holds weaker*: it lies wholly among the values that agree, but below the published size.
- *does not hold here*: it does not lie wholly among the values that agree. The claim is *contradicted* if it lies
  wholly outside, *undecided* if it lies on both sides: our data are too few to tell, and that supports no claim.
- *not tested*: there is no result, or one without an interval.

That something makes no difference is a claim like any other: the interval must lie within `NEGLIGIBLE`, so a wide one
does not pass for a proof. Each row is judged by itself, at 95 %, without a correction for the number of rows.

The claims are those of Latent Terms (arXiv 2605.29384), known at second hand, and of SPLARE (arXiv 2603.13277); what
is marked as ours nobody else claimed. A published figure is a number of theirs; "no gain" is a claim, but no number.
"""

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf, isnan, nan
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.report import results as ours
from lib.report.common import STYLE
from lib.report.results import Found
from lib.studies.published import PUBLISHED, PUBLISHED_LIMIT
from lib.studies.results import NotMeasured, Results
from lib.support.folders import digest_file

HOLDS, WEAKER, FAILS, UNTESTED = VERDICTS = ("holds", "holds weaker", "does not hold here", "not tested")
VERDICT_COLOURS = dict(zip(VERDICTS, ("#009E73", "#E69F00", "#D55E00", "#777777"), strict=True))
REACHED, UNSIZED, SHORT = "not told from the published size", "no size is published", "below the published size"
CONTRADICTED, UNDECIDED = "contradicted", "undecided"
LATENT_TERMS, SPLARE, OURS = "Latent Terms", "SPLARE", "ours"

NEGLIGIBLE = 0.02  # of nDCG@10: what is smaller is called no difference
A_DOUBLING = 0.01  # of nDCG@10 a doubling: a trend that is smaller is called none
SLIGHT = 0.05  # of nDCG@10: what is larger is not called slight
NEAR_ZERO = 0.1  # of recall
TENTH = 0.1  # of the latents, on either side of a published share
FIFTH = 0.2  # on either side of an exponent of 1

Bounds = tuple[float, float]


@dataclass(frozen=True)
class Claim:
    """What somebody claims, and where our figure for it comes from.

    Attributes
    ----------
    key, text, source : str
        A short name, the claim, whose it is.
    quantity : str
        What is measured.
    agrees : (float, float)
        The values between which the claim is true, its ends excluded.
    published : float, optional
        The published figure, one of these values or at their end; None if none is known.
    form : str
        How values are written, as `format` knows it.
    notebook : str
        The one that makes the results.
    read : callable
        Of `Results`, gives a list of `Found`. Raises FileNotFoundError for a missing table and `NotMeasured` for what
        a table lacks.

    Raises
    ------
    ValueError
        For values that agree with nothing between them, and a published figure that does not agree.
    """

    key: str
    text: str
    source: str
    quantity: str
    agrees: Bounds
    published: float | None
    form: str
    notebook: str
    read: Callable[[Results], list[Found]]

    def __post_init__(self):
        low, high = self.agrees
        if not low < high:
            raise ValueError(f"Claim {self.key!r} agrees with {self.agrees}; give the lower end first.")
        if self.published is not None and not low <= self.published <= high:
            raise ValueError(f"Claim {self.key!r}: {self.published} is published, but {self.agrees} agree.")

    @property
    def size(self) -> Bounds:
        """The values of the published size or beyond, ends included: beyond is where the values that agree go on."""
        if self.published is None:
            return self.agrees
        low, high = self.agrees
        return (low if low == -inf else self.published, high if high == inf else self.published)


def judge(low: float, high: float, agrees: Bounds, size: Bounds) -> tuple[str, str]:
    """Return the verdict on a claim and a word on why, by the rule at the top of this module.

    Parameters
    ----------
    low, high : float
        The ends of the interval; nan for none.
    agrees, size : (float, float)
        As in `Claim`.

    Raises
    ------
    ValueError
        For an interval whose ends are the wrong way round.
    """
    if isnan(low) or isnan(high):
        return UNTESTED, "no interval"
    if low > high:
        raise ValueError(f"The interval is from {low} to {high}; give its lower end first.")
    if not (agrees[0] < low and high < agrees[1]):
        return FAILS, CONTRADICTED if high <= agrees[0] or low >= agrees[1] else UNDECIDED
    if size == agrees:
        return HOLDS, UNSIZED
    return (HOLDS, REACHED) if low <= size[1] and high >= size[0] else (WEAKER, SHORT)


def _gain(retriever: str) -> np.ndarray:
    """Return by how much latent terms raise a retriever's published nDCG@10, on each collection."""
    table = PUBLISHED.set_index("published")
    return (table.loc[f"{retriever} + latent terms"] - table.loc[retriever]).to_numpy(float)


VECTORS = np.concatenate([_gain("Contriever"), _gain("Nomic")])  # the published retrievers of one vector a text
LIMIT = PUBLISHED_LIMIT.set_index(PUBLISHED_LIMIT.columns[0])
_LIMIT_GAIN = LIMIT.loc["Contriever + latent terms"] - LIMIT.loc["Contriever"]
KEPT = ("kept", "kept_low", "kept_high")
MORE, LESS = (0.0, inf), (-inf, 0.0)


def _share(published: float) -> Bounds:
    return published - TENTH, published + TENTH


# fmt: off
CLAIMS = tuple(Claim(*fields) for fields in (
    # key, claim, whose, quantity,
    #     values that agree, published, how it is written, notebook, where our figure is read
    ("dense", "latent terms rank better than dense search", LATENT_TERMS, "nDCG@10 less dense",
        MORE, VECTORS.mean(), "+.3f", "20_retrieval", ours.against_dense),
    ("each", "on no collection do latent terms rank much worse", LATENT_TERMS, "nDCG@10 less dense",
        (-SLIGHT, inf), VECTORS.min(), "+.3f", "20_retrieval", ours.on_each),
    ("best", "latent terms rank far better on some collections", LATENT_TERMS, "nDCG@10 less dense",
        MORE, VECTORS.max(), "+.3f", "20_retrieval", ours.at_best),
    ("late", "latent terms rank below late interaction", LATENT_TERMS, "nDCG@10 less MaxSim",
        LESS, _gain("GTE-ModernColBERT").mean(), "+.3f", "20_retrieval", ours.against_late),
    ("limit-r10", "on LIMIT latent terms find far more than dense search", LATENT_TERMS, "R@10 less dense",
        MORE, _LIMIT_GAIN["R@10"], "+.3f", "21_limit", partial(ours.limit_gain, measure="R@10")),
    ("limit-r100", "on LIMIT they find far more down to rank 100, too", LATENT_TERMS, "R@100 less dense",
        MORE, _LIMIT_GAIN["R@100"], "+.3f", "21_limit", partial(ours.limit_gain, measure="R@100")),
    ("limit-dense", "on LIMIT dense search finds next to nothing", LATENT_TERMS, "R@10 of dense",
        (-inf, NEAR_ZERO), LIMIT.loc["Contriever", "R@10"], ".3f", "21_limit", ours.limit_dense),
    ("limit-words", "on LIMIT latent terms find less than words do", LATENT_TERMS, "R@10 less lexical BM25",
        LESS, LIMIT.loc["Contriever + latent terms", "R@10"] - LIMIT.loc["BM25", "R@10"], "+.3f", "21_limit",
        partial(ours.limit_apart, other="lexical BM25")),
    ("zipf", "Zipf's exponent of the latents is near 1", LATENT_TERMS, "exponent",
        (1 - FIFTH, 1 + FIFTH), None, ".2f", "30_zipf", ours.zipf),
    ("power-law", "frequencies of latents follow a power law", LATENT_TERMS, "collections that do not reject it",
        (0.5, inf), None, ".0%", "30_zipf", ours.power_law),
    ("lexical", "a third of the latents are lexical", LATENT_TERMS, "share of the latents",
        _share(0.33), 0.33, ".0%", "31_features", partial(ours.family, name="lexical")),
    ("narrow", "a tenth of the latents are narrow", LATENT_TERMS, "share of the latents",
        _share(0.10), 0.10, ".0%", "31_features", partial(ours.family, name="narrow")),
    ("broad", "the rest of the latents are broad", LATENT_TERMS, "share of the latents",
        _share(0.57), 0.57, ".0%", "31_features", partial(ours.family, name="broad")),
    ("max", "pooling by maximum is slightly worse than by sum", LATENT_TERMS, "nDCG@10 less sum",
        (-SLIGHT, 0.0), None, "+.3f", "50_ablations", partial(ours.change, table="ablations", variant="pooling: max")),
    ("batchtopk", "BatchTopK gives no gain", LATENT_TERMS, "nDCG@10 less Top-K", (-inf, NEGLIGIBLE), None, "+.3f",
        "50_ablations", partial(ours.activation, name="BatchTopK")),
    ("jumprelu", "JumpReLU gives no gain", LATENT_TERMS, "nDCG@10 less Top-K", (-inf, NEGLIGIBLE), None, "+.3f",
        "50_ablations", partial(ours.activation, name="JumpReLU")),
    ("width", "retrieval is robust to the width", LATENT_TERMS, "nDCG@10 a doubling",
        (-A_DOUBLING, A_DOUBLING), None, "+.4f", "41_width_k", partial(ours.trend, field="width")),
    ("k", "retrieval is robust to k", LATENT_TERMS, "nDCG@10 a doubling",
        (-A_DOUBLING, A_DOUBLING), None, "+.4f", "41_width_k", partial(ours.trend, field="k")),
    ("plain", "a plain language model gives worse terms", LATENT_TERMS, "nDCG@10 lost",
        MORE, None, "+.3f", "51_retrieval_training",
        partial(ours.change, table="retrieval_training", variant="plain language model", lost=True, trained=True)),
    ("peak", "the best layer is near two thirds of the depth", SPLARE, "its depth, read by maximum and log",
        (0.49, 0.84), 2 / 3, ".2f", "40_layers", partial(ours.peak, readout="SPLADE-style")),
    ("log-width", "quality rises with the logarithm of the width (there 16k to 1M)", SPLARE, "nDCG@10 a doubling",
        MORE, None, "+.4f", "41_width_k", partial(ours.trend, field="width")),
    ("pruned", "100 latents a document cost about 2 %", SPLARE, "relative nDCG@10",
        (-0.06, inf), -0.02, "+.1%", "42_pruning", partial(ours.pruned, top=100)),
    ("latency", "a query takes about 5 ms among 8.8 million documents", SPLARE, "milliseconds",
        (0.0, 50.0), 5.0, ".1f", "43_latency", ours.latency),
    ("untrained", "an untrained model gives worse terms", OURS, "nDCG@10 lost",
        MORE, None, "+.3f", "51_retrieval_training",
        partial(ours.change, table="retrieval_training", variant="the same, untrained", lost=True, trained=True)),
    ("embeddings", "token embeddings give worse terms", OURS, "nDCG@10 lost",
        MORE, None, "+.3f", "51_retrieval_training",
        partial(ours.change, table="retrieval_training", variant="its token embeddings", lost=True, trained=True)),
    ("seeds", "seeds agree in quality", OURS, "nDCG@10, standard deviation",
        (-inf, NEGLIGIBLE / 2), None, ".4f", "52_seeds", ours.seeds),
    ("joined", "two seeds joined, half of k each, rank better than one", OURS, "nDCG@10 less seed 0",
        MORE, None, "+.3f", "52_seeds", partial(ours.change, table="seeds", variant="2 seeds joined", trained=True)),
    ("peak-terms", "the best layer for latent terms is near two thirds, too", OURS, "its depth, read by sum and BM25",
        (0.49, 0.84), 2 / 3, ".2f", "40_layers", partial(ours.peak, readout="latent terms")),
    ("decay", "on LIMIT latent terms keep more of their recall than dense", OURS, "share of R@10 kept, less dense",
        MORE, None, "+.2f", "21_limit", partial(ours.limit_apart, other="dense", columns=KEPT)),
    ("dense-tuned", "tuned latent terms rank better than dense search", OURS,
        "nDCG@10 less dense", MORE, None, "+.3f", "20_retrieval", ours.tuned_against_dense),
    ("tuned", "tuned constants of BM25 rank better than k1 = 8, b = 0.7", OURS, "nDCG@10 less k1 = 8, b = 0.7",
        MORE, None, "+.3f", "60_beyond", ours.tuned),
))
# fmt: on


def claims_table(folder: str | Path) -> tuple[pd.DataFrame, dict]:
    """Judge every claim by the tables in a folder, one row a figure of ours; a missing table is not tested.

    Returns
    -------
    DataFrame
        key, claim, source, quantity, on, published and ours (as text), verdict, why, notebook; and the numbers behind
        them: value, low, high, agrees_low, agrees_high, size_low, size_high.
    dict
        What its provenance should state: the sha256 of each table that was read.
    """
    results = Results(folder)
    rows = [row for claim in CLAIMS for row in _rows(claim, results)]
    digests = {name: digest_file(results.folder / f"{name}.csv") for name in sorted(results.used)}
    return pd.DataFrame(rows), {"results": digests}


def _rows(claim: Claim, results: Results) -> list[dict]:
    missing = ""
    try:
        found = claim.read(results)
    except FileNotFoundError:
        found, missing = [Found(nan, nan, nan, "")], f"run {claim.notebook}"
    except NotMeasured as error:
        found, missing = [Found(nan, nan, nan, "")], str(error)
    return [_row(claim, own, missing) for own in found]


def _row(claim: Claim, found: Found, missing: str) -> dict:
    verdict, why = judge(found.low, found.high, claim.agrees, claim.size)
    shown = "–" if isnan(found.value) else format(found.value, claim.form)
    if verdict != UNTESTED:
        shown += f" [{found.low:{claim.form}}, {found.high:{claim.form}}]"
    return {
        "key": claim.key,
        "claim": claim.text,
        "source": claim.source,
        "quantity": claim.quantity,
        "on": found.on,
        "published": "–" if claim.published is None else format(claim.published, claim.form),
        "ours": shown,
        "verdict": verdict,
        "why": missing or found.untested or why,
        "notebook": claim.notebook,
        "value": found.value,
        "low": found.low,
        "high": found.high,
        **dict(zip(("agrees_low", "agrees_high", "size_low", "size_high"), (*claim.agrees, *claim.size), strict=True)),
    }


def claims_figure(table: pd.DataFrame) -> Figure:
    """Draw each claim on a scale of its own: what agrees is shaded, what is published dotted.

    Parameters
    ----------
    table : DataFrame
        Of `claims_table`.
    """
    sources = list(dict.fromkeys(table["source"]))
    places = np.arange(len(table)) + 1 + table["source"].map(sources.index)  # a line is left for each heading
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7.6, 0.5 + 0.265 * (len(table) + len(sources))))
        for y, row in zip(places, table.itertuples(), strict=True):
            _draw(axes, y, row)
        for source in sources:
            at = places[table["source"] == source].min() - 1
            axes.text(-0.02, at, source, fontsize=8, fontweight="bold", ha="right", va="center")
        axes.set_yticks(places, [_label(row) for row in table.itertuples()], fontsize=6.5)
        axes.set(ylim=(places.max() + 0.6, -0.6), xlim=(0, 1))
        axes.set_xticks([])
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        axes.set_title("shaded: agrees with the claim; dotted: published; each row on its own scale", fontsize=7.5)
    return figure


def _label(row) -> str:
    on = row.on if isinstance(row.on, str) and row.on else ""
    return textwrap.shorten(row.claim, 66) + (f"\n{textwrap.shorten(f'{row.quantity}; {on}', 84)}" if on else "")


def _draw(axes: Axes, y: int, row) -> None:
    colour = VERDICT_COLOURS[row.verdict]
    axes.text(1.02, y, f"{row.ours}   {row.verdict}" + (f" ({row.why})" if row.verdict in (FAILS, UNTESTED) else ""),
              fontsize=6.5, color=colour, va="center")  # fmt: skip
    ends = [row.low, row.high, row.agrees_low, row.agrees_high, row.size_low, row.size_high]
    finite = [end for end in ends if np.isfinite(end)]
    low, span = min(finite), max(max(finite) - min(finite), 1e-9)

    def place(value: float) -> float:
        return float(np.clip(0.06 + 0.88 * (value - low) / span, 0, 1))

    left, right = place(row.agrees_low), place(row.agrees_high)
    axes.barh(y, right - left, 0.7, left, color="#EEEEEE", zorder=0)
    published = [end for end in {row.size_low, row.size_high} - {row.agrees_low, row.agrees_high} if np.isfinite(end)]
    axes.vlines([place(end) for end in published], y - 0.35, y + 0.35, color="black", linewidth=0.9, linestyle=":")
    if row.verdict != UNTESTED:
        axes.hlines(y, place(row.low), place(row.high), color=colour, linewidth=1.8)
        face = "white" if row.why == UNDECIDED else colour
        axes.scatter(place(row.value), y, s=16, color=face, edgecolors=colour, linewidths=1, zorder=3)


def claims_in_words(table: pd.DataFrame) -> str:
    """Say which claims hold, hold weaker, do not hold, and what is missing for those that are not tested."""
    lines = []
    for verdict in VERDICTS:
        rows = table[table["verdict"] == verdict]
        lines.append(f"{verdict.capitalize()}: {len(rows)} of {len(table)}.")
        for row in rows.itertuples():
            on = f" ({row.on})" if isinstance(row.on, str) and row.on else ""
            lines.append(f"- {row.source}: {row.claim}{on}: {row.quantity} {row.ours}; {row.why}.")
    return "\n".join(lines)
