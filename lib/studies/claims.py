"""Study `90_claims`: the papers' claims beside our results, each with a verdict that follows by one rule.

**The rule** (`judge`). A claim says which values agree with it, and which of these are of the published size or beyond.
Our figure comes with a 95 % interval.

- *holds*: the interval lies wholly among the values that agree, and reaches the published size if one is known.
- *holds weaker*: it lies wholly among the values that agree, but below the published size.
- *does not hold here*: it does not lie wholly among the values that agree. The claim is *contradicted* if it lies
  wholly outside, *undecided* if it lies on both sides: our data are too few to say, and that supports no claim.
- *not tested*: there is no result, or one without an interval, or (of 2026-11-30, after results) it could not have
  come out otherwise: the reference is at its best already, the other way has over a tenth more latents a token, or
  fewer than five classes of words are compared.

That something makes no difference is a claim like any other: the interval must lie within `NEGLIGIBLE`, so a wide one
does not pass for a proof. Each row is judged by itself, at 95 %, without a correction for the number of rows.

The claims are those of Latent Terms (arXiv 2605.29384), known at second hand, of SPLARE (arXiv 2603.13277), and of
papers on parts of ours; what is marked as ours nobody else claimed. A published figure is a number of theirs; "no gain"
is a claim, but no number. Figures of ours are read by `lib.studies.measured`; the rule for claims over retrievers
stands in `lib.studies.backbones`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf, isnan, nan
from pathlib import Path

import numpy as np
import pandas as pd

from lib.studies import measured as ours
from lib.studies import names
from lib.studies.measured import Measured
from lib.studies.published import DENSEON, PUBLISHED, PUBLISHED_LIMIT, PW_MCC, SEISMIC_SPEEDUP, SHARED
from lib.studies.results import NotMeasured, Results
from lib.support.folders import digest_file

# What the claims of a source are tested with here.
TESTED = {
    names.LATENT_TERMS: "the method, with our retriever and autoencoders",
    names.SPLARE: "its readout of a frozen retriever, not with its model as trained",
    names.SPLARE_TRAINED: "our retriever, trained on our pairs",
    names.CSR_SECOND: "our retriever and pairs, finetuned before the autoencoder",
    names.OTHERS: "our retriever, autoencoders and machine",
    names.OURS: "our retriever and autoencoders",
}

NEGLIGIBLE = 0.02  # of nDCG@10: what is smaller is called no difference
A_DOUBLING = 0.01  # of nDCG@10 a doubling: a trend that is smaller is called none
SLIGHT = 0.05  # of nDCG@10: what is larger is not called slight
NEAR_ZERO = 0.1  # of recall
TENTH = 0.1  # of the latents, on either side of a published share; below a published cosine
FIFTH = 0.2  # on either side of an exponent of 1

Bounds = tuple[float, float]


@dataclass(frozen=True)
class Claim:
    """What somebody claims, and where our figure for it comes from.

    Raises ValueError for values that agree with nothing between them, and for a published figure that does not agree.
    """

    key: str
    text: str
    source: str  # whose claim it is
    quantity: str
    agrees: Bounds  # values between which the claim is true, ends excluded
    published: float | None  # one of these values or at their end; None if none is known
    form: str  # how values are written, a format specification
    notebook: str  # writes the results
    read: Callable[[Results], list[Measured]]  # raises FileNotFoundError for a table, NotMeasured for what it lacks

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

    The ends of the interval are nan where there is none; `agrees` and `size` are those of `Claim`. Raises ValueError
    for an interval whose ends are the wrong way round.
    """
    if isnan(low) or isnan(high):
        return names.UNTESTED, names.NO_INTERVAL
    if low > high:
        raise ValueError(f"The interval is from {low} to {high}; give its lower end first.")
    if not (agrees[0] < low and high < agrees[1]):
        return names.FAILS, names.CONTRADICTED if high <= agrees[0] or low >= agrees[1] else names.UNDECIDED
    if size == agrees:
        return names.HOLDS, names.UNSIZED
    return (names.HOLDS, names.REACHED) if low <= size[1] and high >= size[0] else (names.WEAKER, names.SHORT)


def _gain(retriever: str) -> np.ndarray:
    """Return by how much latent terms raise a retriever's published nDCG@10, on each collection."""
    table = PUBLISHED.set_index("published")
    return (table.loc[f"{retriever} + latent terms"] - table.loc[retriever]).to_numpy(float)


VECTORS = np.concatenate([_gain("Contriever"), _gain("Nomic")])  # the published retrievers of one vector a text
LIMIT = PUBLISHED_LIMIT.set_index(PUBLISHED_LIMIT.columns[0])
_LIMIT_GAIN = LIMIT.loc["Contriever + latent terms"] - LIMIT.loc["Contriever"]
MORE, LESS = (0.0, inf), (-inf, 0.0)


def _share(published: float) -> Bounds:
    return published - TENTH, published + TENTH


# fmt: off
CLAIMS = tuple(Claim(key, text, source, *fields) for source, claims in {
    # key, claim, quantity,
    #     values that agree, published, how it is written, notebook, where our figure is read
    names.LATENT_TERMS: (
        ("dense", "latent terms rank better than dense search", "nDCG@10 less dense",
            MORE, VECTORS.mean(), "+.3f", "20_retrieval", ours.against_dense),
        ("each", "on no collection do latent terms rank much worse", "nDCG@10 less dense",
            (-SLIGHT, inf), VECTORS.min(), "+.3f", "20_retrieval", partial(ours.extreme, lowest=True)),
        ("best", "latent terms rank far better on some collections", "nDCG@10 less dense",
            MORE, VECTORS.max(), "+.3f", "20_retrieval", partial(ours.extreme, lowest=False)),
        ("each-retriever", "with no retriever do they rank much worse on any collection", "nDCG@10 less dense",
            (-SLIGHT, inf), VECTORS.min(), "+.3f", "22_backbones", ours.lowest_of_retrievers),
        ("weak", "latent terms help weak retrievers most", "nDCG@10 gained, weakest less strongest",
            MORE, (_gain("Contriever") - _gain("Nomic")).mean(), "+.3f", "22_backbones", ours.weakest_less_strongest),
        ("late", "latent terms rank below late interaction", "nDCG@10 less MaxSim",
            LESS, _gain("GTE-ModernColBERT").mean(), "+.3f", "20_retrieval", ours.against_late),
        ("limit-r10", "on LIMIT latent terms find far more than dense search", "R@10 less dense",
            MORE, _LIMIT_GAIN["R@10"], "+.3f", "21_limit", partial(ours.limit, measure="R@10")),
        ("limit-r100", "on LIMIT they find far more down to rank 100, too", "R@100 less dense",
            MORE, _LIMIT_GAIN["R@100"], "+.3f", "21_limit", partial(ours.limit, measure="R@100")),
        ("limit-dense", "on LIMIT dense search finds next to nothing", "R@10 of dense", (-inf, NEAR_ZERO),
            LIMIT["R@10"]["Contriever"], ".3f", "21_limit", partial(ours.limit, system=names.DENSE, columns=ours.MEAN)),
        ("limit-words", "on LIMIT latent terms find less than words do", "R@10 less lexical BM25",
            LESS, LIMIT["R@10"]["Contriever + latent terms"] - LIMIT["R@10"]["BM25"], "+.3f", "21_limit",
            partial(ours.limit_less, system=names.LEXICAL, columns=ours.MEAN)),
        ("zipf", "Zipf's exponent of the latents is near 1", "exponent",
            (1 - FIFTH, 1 + FIFTH), None, ".2f", "30_zipf", ours.zipf),
        ("power-law", "frequencies of latents follow a power law", "collections that do not reject it",
            (0.5, inf), None, ".0%", "30_zipf", ours.power_law),
        ("lexical", "a third of the latents are lexical", "share of the latents",
            _share(0.33), 0.33, ".0%", "31_features", partial(ours.family, name="lexical")),
        ("narrow", "a tenth of the latents are narrow", "share of the latents",
            _share(0.10), 0.10, ".0%", "31_features", partial(ours.family, name="narrow")),
        ("broad", "the rest of the latents are broad", "share of the latents",
            _share(0.57), 0.57, ".0%", "31_features", partial(ours.family, name="broad")),
        ("max", "pooling by maximum is slightly worse than by sum", "nDCG@10 less sum", (-SLIGHT, 0.0), None, "+.3f",
            "50_ablations", partial(ours.change, table="ablations", variant="pooling: max")),
        ("batchtopk", "BatchTopK gives no gain", "nDCG@10 less Top-K",
            (-inf, NEGLIGIBLE), None, "+.3f", "50_ablations", partial(ours.activation, name="BatchTopK")),
        ("jumprelu", "JumpReLU gives no gain", "nDCG@10 less Top-K",
            (-inf, NEGLIGIBLE), None, "+.3f", "50_ablations", partial(ours.activation, name="JumpReLU")),
        ("width", "retrieval is robust to the width", "nDCG@10 a doubling",
            (-A_DOUBLING, A_DOUBLING), None, "+.4f", "41_width_k", partial(ours.trend, field="width")),
        ("k", "retrieval is robust to k", "nDCG@10 a doubling",
            (-A_DOUBLING, A_DOUBLING), None, "+.4f", "41_width_k", partial(ours.trend, field="k")),
        ("plain", "a plain language model gives worse terms", "nDCG@10 lost",
            MORE, None, "+.3f", "51_retrieval_training", partial(ours.lost, variant=names.PLAIN)),
    ),
    names.SPLARE: (
        ("peak", "the best layer is near two thirds of the depth", "its depth, read by maximum and log",
            (0.49, 0.84), 2 / 3, ".2f", "40_layers", partial(ours.peak, readout=names.SPLADE_STYLE)),
        ("log-width", "quality rises with the logarithm of the width (there 16k to 1M)", "nDCG@10, one doubling",
            MORE, None, "+.4f", "70_splare", partial(ours.splare_trend, kind=names.UNTRAINED_SPLARE)),
        ("splare-pruned", "100 latents a document cost about 2 %", "relative nDCG@10", (-0.06, inf), -0.02, "+.1%",
            "70_splare", partial(ours.splare_pruned, kind=names.UNTRAINED_SPLARE, top=100)),
    ),
    names.SPLARE_TRAINED: (
        ("vocabulary", "latents rank better than the trained vocabulary", "nDCG@10 less vocabulary head",
            MORE, None, "+.3f", "70_splare", partial(ours.contrast, table="splare_contrasts",
                system=names.TRAINED_SPLARE, reference=names.TRAINED_WORDS)),
        ("vocabulary-pruned", "the same with the 40 largest weights of a query, 400 of a document",
            "nDCG@10 less vocabulary head", MORE, None, "+.3f", "70_splare",
            partial(ours.contrast, table="splare_contrasts", system=names.pruned(names.TRAINED_SPLARE, 40, 400),
                reference=names.pruned(names.TRAINED_WORDS, 40, 400))),
        ("trained-peak", "the best layer is near two thirds of the depth", "its depth",
            (0.49, 0.84), 2 / 3, ".2f", "70_splare", ours.trained_peak),
        ("trained-width", "quality rises with the logarithm of the width (there 16k to 1M)", "nDCG@10, one doubling",
            MORE, None, "+.4f", "70_splare", partial(ours.splare_trend, kind=names.TRAINED_SPLARE)),
        ("trained-pruned", "100 latents a document cost about 2 %", "relative nDCG@10", (-0.06, inf), -0.02, "+.1%",
            "70_splare", partial(ours.splare_pruned, kind=names.TRAINED_SPLARE, top=100)),
    ),
    names.CSR_SECOND: (
        ("csrv2-2", "CSRv2 ranks better than CSR at k = 2", "relative nDCG@10",
            MORE, 0.14, "+.0%", "72_csr", partial(ours.gain_of_csr, k=2)),
        ("csrv2-4", "CSRv2 ranks better than CSR at k = 4", "relative nDCG@10",
            MORE, 0.07, "+.0%", "72_csr", partial(ours.gain_of_csr, k=4)),
        ("csrv2-dead", "at k = 2 a fifth of the latents are dead, no longer most", "share of the latents",
            (-inf, 0.5), 0.2, ".0%", "72_csr", partial(ours.dead_of_csr, k=2)),
        ("csrv2-8", "CSRv2 at k = 2 ranks as well as CSR at k = 8", "nDCG@10 less CSR",
            (-NEGLIGIBLE, inf), None, "+.3f", "72_csr", partial(ours.contrast, table="csr_contrasts",
                system=f"{names.CSRV2}, 2", reference=f"{names.CSR_FROZEN}, 8")),
    ),
    names.OTHERS: (
        ("denseon", "latent terms rank below dense search (sentence-transformers, 3796)", "nDCG@10 less dense",
            LESS, DENSEON[1] - DENSEON[0], "+.3f", "20_retrieval", ours.against_dense),
        ("shared", "seeds share under half of their latents (Paulo and Belrose)", "share matched at a cosine of 0.7",
            (-inf, 0.5), SHARED, ".0%", "52_seeds", partial(ours.matched, column="share")),
        ("pw-mcc", "dictionaries of two Top-K seeds agree (Song et al.)", "mean cosine of matched latents (PW-MCC)",
            (PW_MCC - TENTH, inf), PW_MCC, ".2f", "52_seeds", partial(ours.matched, column="mean")),
        ("seismic", "Seismic is 10 times as fast as other indices (Bruch et al.)",
            "time of our exact search / Seismic's", (1.0, inf), SEISMIC_SPEEDUP, ".2f", "43_latency", ours.speedup),
        ("batchtopk-fvu", "BatchTopK reconstructs better than Top-K (Bussmann et al.)", "FVU less Top-K",
            LESS, None, "+.3f", "53_variants", partial(ours.of_way, way="batchtopk", column="fvu")),
        ("jumprelu-fvu", "JumpReLU reconstructs better than Top-K (Rajamanoharan et al.)", "FVU less Top-K",
            LESS, None, "+.3f", "53_variants", partial(ours.of_way, way="jumprelu", column="fvu")),
        ("abstopk-fvu", "AbsTopK reconstructs better than Top-K (Zhu et al.)", "FVU less Top-K",
            LESS, None, "+.3f", "53_variants", partial(ours.of_way, way="abstopk", column="fvu")),
        ("ortsae", "OrtSAE's latents are more distinct than Top-K's (Korznikov et al.)", "distinct, relative to Top-K",
            MORE, 0.09, "+.1%", "53_variants", partial(ours.of_way, way="ortsae", column="distinct", relative=True)),
        ("ortsae-absorption", "OrtSAE absorbs less than Top-K (Korznikov et al.)", "absorbed, relative to Top-K",
            LESS, -0.65, "+.0%", "53_variants", partial(ours.absorbed, way="ortsae")),
        ("matryoshka-absorption", "Matryoshka absorbs less than Top-K (Bussmann et al.)",
            "absorbed, relative to Top-K", LESS, None, "+.0%", "53_variants", partial(ours.absorbed, way="matryoshka")),
        ("prefix", "half of Matryoshka's latents are of use alone (Bussmann et al.)", "nDCG@10 less all latents",
            (-NEGLIGIBLE, inf), None, "+.3f", "53_variants", ours.kept_by_prefix),
        ("subspace", "latents that start in the states' leading directions do not die (Wang et al.)",
            "dead share less Top-K's", LESS, 0.01 - 0.87, "+.2f", "53_variants",
            partial(ours.of_way, way="subspace", column="dead")),
        ("kron", "KronSAE reconstructs as well as Top-K (Kurochkin et al.)", "FVU less Top-K",
            (-inf, NEGLIGIBLE), None, "+.3f", "53_variants", partial(ours.of_way, way="kron", column="fvu")),
        ("itda", "a dictionary of states reconstructs as well as a trained one (Leask et al.)",
            "FVU less the trained one's, both by pursuit", (-inf, NEGLIGIBLE), None, "+.3f", "53_variants",
            partial(ours.of_way, way="itda", column="fvu", reference="pursuit")),
        ("variational", "variational training reconstructs worse than Top-K (Baker and Li)", "FVU less Top-K",
            MORE, None, "+.3f", "53_variants", partial(ours.of_way, way="variational", column="fvu")),
        ("gradient", "selection by gradients leaves fewer latents dead than Top-K (Olmo et al.)",
            "dead share less Top-K's", LESS, None, "+.2f", "53_variants",
            partial(ours.of_way, way="gradient", column="dead", reference=names.WHOLE_TEXTS)),
    ),
    names.OURS: (
        ("untrained", "an untrained model gives worse terms", "nDCG@10 lost",
            MORE, None, "+.3f", "51_retrieval_training", partial(ours.lost, variant=names.UNTRAINED)),
        ("embeddings", "token embeddings give worse terms", "nDCG@10 lost",
            MORE, None, "+.3f", "51_retrieval_training", partial(ours.lost, variant=names.TOKEN_EMBEDDINGS)),
        ("abstopk", "AbsTopK gives no gain", "nDCG@10 less Top-K", (-inf, NEGLIGIBLE), None, "+.3f",
            "50_ablations", partial(ours.change, table="ablations", variant="activation: AbsTopK", trained=True)),
        ("seeds", "seeds agree in quality", "nDCG@10, standard deviation",
            (-inf, NEGLIGIBLE / 2), None, ".4f", "52_seeds", ours.seeds),
        ("joined", "two seeds joined, half of k each, rank better than one", "nDCG@10 less seed 0", MORE, None, "+.3f",
            "52_seeds", partial(ours.change, table="seeds", variant="2 seeds joined", trained=True)),
        ("reconstruction", "what reconstructs better ranks better", "rank correlation of FVU and nDCG@10", LESS, None,
            "+.2f", "53_variants", ours.reconstruction_and_ranking),
        ("peak-terms", "the best layer for latent terms is near two thirds, too", "its depth, read by sum and BM25",
            (0.49, 0.84), 2 / 3, ".2f", "40_layers", partial(ours.peak, readout=names.LATENT)),
        ("decay", "on LIMIT latent terms keep more of their recall than dense", "share of R@10 kept, less dense",
            MORE, None, "+.2f", "21_limit", partial(ours.limit_less, system=names.DENSE, columns=ours.KEPT)),
        ("dense-tuned", "tuned latent terms rank better than dense search", "nDCG@10 less dense",
            MORE, None, "+.3f", "20_retrieval", ours.tuned_against_dense),
        ("one-index", "latents and words in one index rank better than dense and words", "nDCG@10 less dense + words",
            MORE, None, "+.3f", "20_retrieval", partial(ours.more_than_dense_and_words, system=names.LATENT_WORDS)),
        ("one-pass", "all of one pass ranks better than dense and words", "nDCG@10 less dense + words",
            MORE, None, "+.3f", "20_retrieval", partial(ours.more_than_dense_and_words, system=names.ONE_PASS)),
        ("pruned", "100 latents a document cost latent terms a few per cent", "relative nDCG@10",
            (-0.06, inf), None, "+.1%", "42_pruning", partial(ours.pruned, top=100)),
        ("tuned", "tuned constants of BM25 rank better than k1 = 8, b = 0.7", "nDCG@10 less k1 = 8, b = 0.7",
            MORE, None, "+.3f", "60_beyond", ours.tuned),
        ("joint", "joint training ranks better than CSR", "nDCG@10 less CSR", MORE, None, "+.3f", "71_bottleneck",
            partial(ours.contrast, table="bottleneck_contrasts", system=names.JOINT, reference=names.CSR_FROZEN)),
        ("joint-dense", "joint training ranks as well as the finetuned dense retriever", "nDCG@10 less dense",
            (-NEGLIGIBLE, inf), None, "+.3f", "71_bottleneck", partial(ours.contrast, table="bottleneck_contrasts",
                system=names.JOINT, reference=names.TRAINED_DENSE)),
        ("steered", "16 latents of one of a query's two topics silence it, more than random ones of the query",
            "gap in doublings of rank, less random", MORE, None, "+.2f", "32_steering",
            partial(ours.steered, column="over_heavy")),
        ("steered-kept", "the topic that is not silenced is found as well as before", "nDCG@10 less that before",
            (-NEGLIGIBLE, inf), None, "+.3f", "32_steering", partial(ours.steered, column="difference")),
        ("labels", "labels predict where their latents fire, better than random ones", "AUC less random labels'",
            MORE, None, "+.2f", "33_corpora", ours.labelled),
        ("corpora", "words confirm what labels say of the latents in which corpora differ",
            "share confirmed, less that of labels dealt anew", MORE, None, "+.2f", "33_corpora", ours.confirmed),
    ),
}.items() for key, text, *fields in claims)
# fmt: on


def claims_study(folder: str | Path) -> tuple[pd.DataFrame, dict]:
    """Judge every claim by the tables in a folder; a claim whose table is missing is not tested.

    The table has one row per figure of ours: key, claim, source, tested_with, quantity, on, published and ours (as
    text), verdict, why, notebook; and the numbers behind them: value, low, high, agrees_low, agrees_high, size_low,
    size_high. With it come the sha256 of the tables that were read, for its provenance.
    """
    results = Results(folder)
    rows = [row for claim in CLAIMS for row in _rows(claim, results)]
    digests = {name: digest_file(results.folder / f"{name}.csv") for name in sorted(results.used)}
    return pd.DataFrame(rows), {"results": digests}


def _rows(claim: Claim, results: Results) -> list[dict]:
    untested = Measured(nan, nan, nan, "")
    try:
        return [_row(claim, figure) for figure in claim.read(results)]
    except FileNotFoundError:
        return [_row(claim, untested, f"run {claim.notebook}")]
    except NotMeasured as error:
        return [_row(claim, untested, str(error))]


def _row(claim: Claim, figure: Measured, missing: str = "") -> dict:
    value, low, high, on = figure
    verdict, why = judge(low, high, claim.agrees, claim.size)
    text = "–" if isnan(value) else format(value, claim.form)
    if verdict != names.UNTESTED:
        text += f" [{low:{claim.form}}, {high:{claim.form}}]"
    row = {"key": claim.key, "claim": claim.text, "source": claim.source, "tested_with": TESTED[claim.source]}
    row |= {"quantity": claim.quantity, "on": on}
    row |= {"published": "–" if claim.published is None else format(claim.published, claim.form), "ours": text}
    row |= {"verdict": verdict, "why": missing or why, "notebook": claim.notebook}
    row |= {"value": value, "low": low, "high": high}
    ends = ("agrees_low", "agrees_high", "size_low", "size_high")
    return row | dict(zip(ends, (*claim.agrees, *claim.size), strict=True))
