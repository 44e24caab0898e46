"""Figures and sentences of the sweeps: that they show and say what stands in the tables, and nothing else."""

import json

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from lib.report.ablations import (
    ablations_figure,
    ablations_in_words,
    latents_a_token_in_words,
    surface_figure,
    tokens_in_words,
)
from lib.report.common import save_study
from lib.report.layers import layers_figure, layers_in_words
from lib.report.retrieval_training import retrieval_training_figure, retrieval_training_in_words
from lib.report.seeds import seeds_figure, seeds_in_words
from lib.report.width_k import width_k_figure, width_k_in_words

NAMES = ("little/test", "other/test")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def summary_of(rows: list[dict]) -> pd.DataFrame:
    """A summary of two collections: `rows` give mean, difference (None: the baseline) and p_holm; the rest follows."""
    table = pd.DataFrame([row | {"collection": name} for name in NAMES for row in rows]).astype({"difference": float})
    ends = {"low": table["mean"] - 0.1, "high": table["mean"] + 0.1, "fvu": 1 - table["mean"]}
    ends |= {f"difference_{end}": table["difference"] + by for end, by in (("low", -0.02), ("high", 0.02))}
    return table.assign(**ends)


@pytest.fixture
def of_layers():
    rows = [
        ("latent terms", 0, 0.2, -0.3, 0.001),
        ("latent terms", 3, 0.52, 0.02, 0.4),
        ("latent terms", 6, 0.5, None, None),
        ("SPLADE-style", 0, 0.1, -0.4, 0.001),
        ("SPLADE-style", 3, 0.45, -0.05, 0.04),
        ("SPLADE-style", 6, 0.47, -0.03, 0.6),
    ]
    summary = summary_of(
        [
            {"variant": f"{r}, layer {x}", "readout": r, "layer": x, "mean": m, "difference": d, "p_holm": p}
            for r, x, m, d, p in rows
        ]
    )
    exponent = 0.8 + 0.1 * summary["layer"]
    return summary.assign(exponent=exponent, exponent_low=exponent - 0.05, exponent_high=exponent + 0.05)


def test_layers(of_layers):
    figure = layers_figure(of_layers)
    assert [axes.get_title() for axes in figure.axes] == [*NAMES, "reconstruction", "Zipf's law"]
    drawn = {tuple(np.round(line.get_ydata(), 6)) for line in figure.axes[0].lines}
    assert drawn == {(0.2, 0.52, 0.5), (0.1, 0.45, 0.47)}
    labels = {text.get_text(): text.get_color() for text in figure.axes[1].texts}  # of the last collection, for all
    colours = {line.get_ydata()[-1]: line.get_color() for line in figure.axes[0].lines}
    assert labels == {"latent terms": colours[0.5], "SPLADE-style": colours[0.47]}  # each label beside its own line
    words = layers_in_words(of_layers).splitlines()
    for value in (
        *("layer (6)", "0.500 (0.400 to 0.600)", "3 with 0.520 (0.420 to 0.620)", "6 with 0.470 (0.370 to 0.570)"),
        *("worse than the baseline: 0; not significantly different: 3", "different, -0.030 (-0.050 to -0.010)"),
        *("lowest FVU has layer 3", "0.80 to 1.40", "1.40 (1.35 to 1.45)"),
    ):
        assert value in words[0]
    assert len(words) == 2


def test_widths_and_ks():
    rows = [(64, 4, 0.5, None, None), (32, 4, 0.4, -0.1, 0.01), (128, 4, 0.6, 0.1, 0.02), (64, 8, 0.5, 0.0, 1.0)]
    summary = summary_of(
        [
            {"variant": f"width {w}, k {k}", "width": w, "k": k, "mean": m, "difference": d, "p_holm": p}
            for w, k, m, d, p in rows
        ]
    )
    trend = pd.DataFrame(
        [
            (name, field, fixed, low, high, slope, slope - 0.05, slope + 0.05)
            for name in NAMES
            for field, fixed, low, high, slope in (("width", 4, 32, 128, 0.1), ("k", 64, 4, 8, 0.0))
        ],
        columns=["collection", "field", "at", "smallest", "largest", "slope", "low", "high"],
    )
    figure = width_k_figure(summary)
    above = figure.axes[0].lines[0]
    assert above.get_xydata().tolist() == [[32, 0.4], [64, 0.5], [128, 0.6]]  # in order, and of k = 4 only
    words = width_k_in_words(summary, trend)
    assert "Each doubling of the width, from 32 to 128, changes it by +0.1000 (+0.0500 to +0.1500): a trend." in words
    assert "Each doubling of k, from 4 to 8, changes it by +0.0000 (-0.0500 to +0.0500): no significant trend." in words
    assert "Widths worse than the baseline: 32; better than the baseline: 128." in words


@pytest.fixture
def of_ablations():
    rows = [("baseline", 0.5, None, None), ("pooling: max", 0.4, -0.1, 0.01), ("φ: log1p", 0.55, 0.05, 0.03)]
    rows += [("seed: 1", 0.51, 0.01, 0.7)]
    return summary_of([{"variant": v, "mean": m, "difference": d, "p_holm": p} for v, m, d, p in rows])


@pytest.fixture
def surface():
    cells = [(k1, b, 0.4 + 0.01 * k1 - 0.1 * b) for k1 in (1, 8) for b in (0.0, 0.7)]
    paper = 0.4 + 0.08 - 0.07
    return pd.DataFrame(
        [(n, k1, b, m, m - paper, m - paper - 0.01, m - paper + 0.01) for n in NAMES for k1, b, m in cells],
        columns=["collection", "k1", "b", "mean", "difference", "low", "high"],
    )


def test_ablations(of_ablations, surface):
    axes = ablations_figure(of_ablations).axes[0]
    points = axes.collections[-1]
    assert points.get_offsets()[:, 0].tolist() == [-0.1, 0.05, 0.01]
    white = [tuple(colour[:3]) == (1, 1, 1) for colour in points.get_facecolors()]
    assert white == [False, False, True]  # filled where p < 0.05
    assert [label.get_text() for label in axes.get_yticklabels()] == ["pooling: max", "φ: log1p", "seed: 1"]
    far = of_ablations.assign(difference=of_ablations["difference"].replace(-0.1, -0.4))
    axes = ablations_figure(far).axes[0]
    assert axes.collections[-1].get_offsets()[:, 0].tolist() == [0.05, 0.01]
    assert [(text.get_text(), text.get_position()[1]) for text in axes.texts] == [("← -0.40", 0)]
    assert len(axes.get_yticklabels()) == 3
    words = ablations_in_words(of_ablations, surface).splitlines()[0]
    assert "2 of 3 changes differ significantly from the baseline, 0.500 (0.400 to 0.600)" in words
    assert "Worse: pooling: max -0.100 (-0.120 to -0.080). Better: φ: log1p +0.050 (+0.030 to +0.070)." in words
    assert "Another seed alone: +0.010" in words
    assert "Without any effect" not in words
    nothing = {"difference": 0.0, "difference_low": 0.0, "difference_high": 0.0}
    idle = of_ablations[of_ablations["variant"] == "seed: 1"].assign(variant="AuxK: none", p_holm=1.0, **nothing)
    words = ablations_in_words(pd.concat([of_ablations, idle]), surface)
    assert "Without any effect on a query: AuxK: none. Another seed alone" in words
    # best of the four cells: k1 8, b 0: 0.48, which is 0.07 more than 0.41
    assert "is 0.340 to 0.480; the best of the 4 points, k1 = 8, b = 0, is +0.070 (+0.060 to +0.080)" in words


def test_tokens_in_words():
    rows = [("", "baseline", 0.5, None, None), ("seed", "1", 0.5, 0.01, 1), ("tokens", "25", 0.4, -0.1, 0.01)]
    rows += [("tokens", "1,000", 0.5, 0.0, 1), ("tokens", "9,000 (all)", 0.51, 0.01, 1)]
    columns = ["factor", "level", "mean", "difference", "p_holm"]
    summary = summary_of([dict(zip(columns, row, strict=True)) for row in rows])  # fvu is 1 - mean there
    words = tokens_in_words(summary).splitlines()[0]
    assert "25 to 9,000 (all) tokens leave 0.600 to 0.490" in words and "the baseline 0.500" in words
    assert "worse, -0.100 (-0.120 to -0.080)" in words and "different, +0.010 (-0.010 to +0.030)" in words


def test_latents_a_token_in_words():
    rows = [("baseline", 16, 16, 16, 16, None), ("activation: BatchTopK", 23.34, 0, 3.5, 127.2, 0.904)]
    counted = pd.DataFrame(rows, columns=["variant", "mean", "low", "median", "high", "correlation"]).assign(
        collection="one/test", n_tokens=12_000
    )
    assert latents_a_token_in_words(counted).splitlines() == [
        "Of the 12,000 tokens of the first documents of one/test:",
        "baseline: 16.0 latents each.",
        "activation: BatchTopK: 23.3 latents on average, 4 in the median, nine tenths of the tokens have 0 to 127; the "
        "correlation with a state's distance from the mean is 0.90.",
    ]


def test_surface_marks_the_best_cell(surface):
    axes = surface_figure(surface).axes[0]
    (frame,) = axes.patches
    assert (frame.get_x(), frame.get_y()) == (-0.5, 0.5)  # first b, second k1
    assert {text.get_text() for text in axes.texts} == {"0", "+70", "-70"}  # 0.34, 0.41, 0.48 less 0.41


def test_retrieval_training():
    rows = [("retriever", 0.5, None, None), ("the same, untrained", 0.2, -0.3, 0.001)]
    summary = summary_of([{"variant": v, "mean": m, "difference": d, "p_holm": p} for v, m, d, p in rows])
    axes = retrieval_training_figure(summary).axes[0]
    assert axes.collections[-1].get_offsets()[:, 0].tolist() == [0.5, 0.2]
    words = retrieval_training_in_words(summary).splitlines()[0]
    assert "0.500 (0.400 to 0.600)" in words
    assert "the same, untrained 0.200 (0.100 to 0.300), worse, -0.300 (-0.320 to -0.280)" in words


def test_seeds():
    columns = ["variant", "seed", "joined", "mean", "difference", "p_holm"]
    rows = [
        ("seed 0", 0, None, 0.5, None, None),
        ("seed 1", 1, None, 0.52, 0.02, 0.04),
        ("2 seeds joined", None, 2, 0.6, 0.1, 0.01),
        ("lexical BM25", None, None, 0.9, 0.4, 0.001),
    ]
    summary = summary_of([dict(zip(columns, row, strict=True)) for row in rows])
    cosines = np.linspace(0, 1, 101)
    recurring = pd.DataFrame(
        [
            (kind, cosine, share, share - 0.01, share + 0.01)
            for kind, end in (("latents", 0.5), ("firings", 0.2), ("every run", 0.8), ("chance", 1.0))
            for cosine, share in zip(cosines, 1 - end * cosines, strict=True)
        ],
        columns=["kind", "cosine", "share", "lowest", "highest"],
    )
    agreement = pd.DataFrame(
        [(name, pair, mean, mean - 0.1, mean + 0.1) for name in NAMES for pair, mean in
         (("two seeds", 0.7), ("seed 0 and lexical BM25", 0.3))],
        columns=["collection", "pair", "mean", "low", "high"],
    )  # fmt: skip
    matched = pd.DataFrame({"mean": [0.5, 0.7], "share": [0.25, 0.35]})
    quality, latents, rankings = seeds_figure(summary, recurring, agreement).axes
    assert quality.lines[0].get_ydata().tolist() == [0.5, 0.52]  # words are not a seed
    assert quality.lines[2].get_ydata().tolist() == [0.6]
    assert rankings.lines[0].get_ydata().tolist() == [0.7, 0.7]
    colours = {line.get_ydata()[-1].round(6): line.get_color() for line in latents.lines if len(line.get_ydata()) > 2}
    labels = {text.get_text(): text.get_color() for text in latents.texts}
    assert labels["latents"] == colours[0.5] and labels["in every run"] == colours[0.2]
    words = seeds_in_words(summary, recurring, matched, agreement)
    assert "30.0% of the latents have a counterpart" in words and "is 0.60 (0.50 to 0.70)" in words
    # at 0.7: 1 - 0.5 * 0.7 = 65 %, 1 - 0.8 * 0.7 = 44 %, 1 - 0.2 * 0.7 = 86 %, 30 % by chance
    assert "65.0% (64.0% to 66.0%) of the latents" in words and "44.0% (43.0% to 45.0%) in every other run" in words
    assert "86.0% (85.0% to 87.0%) of the firings" in words and "it would be 30.0%" in words
    # the standard deviation of 0.5 and 0.52 is 0.02 / sqrt(2)
    assert "over 2 seeds is 0.510, standard deviation 0.0141, from 0.500 to 0.520" in words
    assert "1 of 1 seeds differ significantly from seed 0" in words
    assert (
        "little/test, 2 seeds joined: nDCG@10 0.600 (0.500 to 0.700), beside seed 0 better, +0.100 (+0.080 to +0.120)"
        in words
    )


@pytest.mark.slow
def test_a_study_is_written_whole(of_layers, tmp_path):
    values = pd.DataFrame({"collection": ["little/test"], "query_id": ["q"], "a": [0.25]})
    tables = {"layers": of_layers, "second": of_layers.head(2)}
    save_study(tmp_path, {"profile": "smoke"}, tables, {"layers": layers_figure(of_layers)}, values)
    names = {"layers.csv", "layers.json", "layers.png", "layers.pdf", "layers_per_query.csv"}
    assert {path.name for path in tmp_path.iterdir()} == names | {"second.csv", "second.json"}
    read = pd.read_csv(tmp_path / "layers.csv")
    assert layers_in_words(read) == layers_in_words(of_layers)  # what is written is enough
    assert json.loads((tmp_path / "second.json").read_text()) == {"profile": "smoke"}
