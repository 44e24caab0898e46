"""Figures and sentences of the studies, from tables made by hand."""

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from lib.report.beyond import beyond_figure, beyond_in_words
from lib.report.features import contribution_figure, families_in_words
from lib.report.limit import limit_figure, limit_in_words, limit_table
from lib.report.pruning import pruning_figure, pruning_in_words
from lib.report.zipf import cost_figure, zipf_figure, zipf_in_words
from lib.studies.names import MEAN
from lib.studies.published import PUBLISHED_LIMIT


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def zipf_tables() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    common = {"collection": "c/test", "n_docs": 100, "heaps": 0.1, "postings": 500, "query_terms": 3.0}
    latents = {"n_terms": 80, "n_tail": 20, "xmin": 9, "exponent": 1.0, "low": 0.9, "high": 1.1, "p": 0.5, "n_once": 8}
    words = {
        "n_terms": 1000,
        "n_tail": 50,
        "xmin": 5,
        "exponent": 1.5,
        "low": 1.4,
        "high": 1.6,
        "p": 0.02,
        "n_once": 500,
    }
    costs = {"query_share": 0.1, "share_low": 0.09, "share_high": 0.11, "query_postings": 50.0, "tail_share": 0.75}
    rows = [common | costs | {"vocabulary": "latents", "n_frequent": 7} | latents]
    rows.append(common | costs | {"vocabulary": "words", "n_frequent": 0, "query_share": 0.01} | words)
    ranks = np.arange(1, 81)
    curves = [
        pd.DataFrame({"rank": ranks, "frequency": 900 // ranks, "df_share": 1 / ranks}).assign(vocabulary=name)
        for name in ("latents", "words")
    ]
    growth = [
        pd.DataFrame({"n_docs": [1, 10, 100], "n_terms": [5, 40, 80]}).assign(vocabulary=name)
        for name in ("latents", "words")
    ]
    return pd.DataFrame(rows), *(pd.concat(frames).assign(collection="c/test") for frames in (curves, growth))


def test_zipf_is_drawn_and_described():
    fits, curves, growth = zipf_tables()
    left, right = zipf_figure(fits, curves, "c/test").axes
    np.testing.assert_array_equal(left.lines[0].get_ydata(), 900 // np.arange(1, 81))
    law = left.lines[1]  # from xmin at the tail's last rank
    assert (law.get_xdata()[0], law.get_ydata()[0]) == (20, 9)
    assert {"latents (80)", "words (1,000)"} <= {text.get_text() for text in left.texts}
    assert [marks.get_offsets()[0][0] for marks in right.collections[1::2]] == [1.0, 1.5]
    assert len(cost_figure(fits, curves, growth, "c/test").axes) == 3
    words = zipf_in_words(fits)
    assert "latents: exponent 1.00 (0.90 to 1.10) over the 20 most frequent of 80 terms (75%" in words
    assert "compatible with a power law (p = 0.50)" in words and "not a power law (p = 0.02)" in words
    assert "In 1 of 1 collections" in words
    assert "in 0 the interval" in zipf_in_words(fits.assign(high=0.99))


def pruning_table() -> pd.DataFrame:
    rows = [
        ("none", 1, 0.50, np.nan, np.nan, 1.0, 1.0),
        ("document top", 100, 0.40, -0.10, 0.001, 0.3, 0.4),
        ("document top", 400, 0.49, -0.01, 0.4, 0.8, 0.9),
        ("query top", 10, 0.55, 0.05, 0.01, 1.0, 0.2),
    ]
    columns = ["kind", "value", "mean", "difference", "p_holm", "postings_share", "query_share"]
    table = pd.DataFrame(rows, columns=columns).assign(collection="c/test")
    bounds = {"low": table["mean"] - 0.1, "high": table["mean"] + 0.1}
    return table.assign(**bounds, difference_low=table["difference"] - 0.02, difference_high=table["difference"] + 0.02)


def test_pruning_is_drawn_and_described():
    lengths = pd.DataFrame(
        {"collection": "c/test", "kind": "none", "value": 1, "rank": range(1, 11), "df": range(10, 0, -1)}
    )
    stored, read, lists = pruning_figure(pruning_table(), lengths, "c/test").axes
    assert stored.lines[0].get_xdata().tolist() == [30, 80, 100]  # the unpruned ends each line
    assert stored.lines[0].get_ydata().tolist() == [0.4, 0.49, 0.5]
    assert len(read.lines) == len(stored.lines) + 1  # queries' pruning stores what it stored
    assert lists.lines[0].get_ydata().tolist() == list(range(10, 0, -1))
    words = pruning_in_words(pruning_table())
    assert "c/test (nDCG@10 0.500 (0.400 to 0.600))" in words
    assert "fewest postings stored without a significant loss are 80% (document top 400: -0.010" in words
    assert "read without a significant loss are 20% (query top 10: +0.050" in words
    assert words.endswith("significantly better than no pruning: query top 10 (+0.050).")


def limit_rows() -> pd.DataFrame:
    rows = []
    for n_docs, factor in ((46, 1.0), (1000, 0.5)):
        for measure in ("R@10", "R@20", "R@100", "R@1000"):
            for system, mean in (
                ("lexical BM25", 0.9),
                ("dense", 0.1),
                ("latent terms", 0.4),
                ("latent terms, tuned", 0.42),
            ):
                rows.append((n_docs, measure, system, mean * factor))
    table = pd.DataFrame(rows, columns=["n_docs", "measure", "system", "mean"])
    table = table.assign(low=table["mean"] - 0.01, high=table["mean"] + 0.01, difference=0.3, p_holm=0.001)
    table = table.assign(kept=0.5, kept_low=0.4, kept_high=0.6)
    return table.assign(difference_low=0.2, difference_high=0.4)


def test_limit_is_drawn_and_described():
    table = limit_rows()
    left, right = limit_figure(table).axes
    assert left.lines[0].get_ydata().tolist() == [0.9, 0.45]
    assert right.lines[0].get_ydata().tolist() == [0.45]  # among 46 it is 1 by counting
    heights = sorted(text.xy[1] for text in left.texts)
    assert min(np.diff(heights)) > 0.07  # labels do not stand on each other
    assert {text.get_text() for text in right.texts} == set(table["system"])
    wide = limit_table(table)
    assert wide.loc[0].tolist()[:3] == [46, "lexical BM25", "0.900 (0.890 to 0.910)"]
    assert wide["n_docs"].tolist() == [46] * 4 + [1000] * 4
    words = limit_in_words(table)
    assert (
        "R@10, dense: 0.100 (0.090 to 0.110) among 46, 0.050 (0.040 to 0.060) among 1,000; 0.50 (0.40 to 0.60) kept."
        in words
    )
    assert "R@100, dense: 0.050 (0.040 to 0.060) among 1,000." in words  # among 46 it would be 1 by counting
    assert "latent terms, tuned differs from dense by +0.300 (+0.200 to +0.400), significantly (p = 0.001)" in words
    assert PUBLISHED_LIMIT.set_index(PUBLISHED_LIMIT.columns[0]).loc["BM25", "R@1000"] == 0.995


def test_families_are_drawn_and_described():
    rows = [("c/test", "all", "all", 100, 0.5, np.nan, np.nan)]
    for family, difference in (("lexical", -0.2), ("narrow", 0.0), ("broad", -0.1)):
        rows += [
            ("c/test", "only", family, 30, 0.3, difference, 0.5),
            ("c/test", "without", family, 70, 0.3, difference, 0.001),
            ("c/test", "without as many", family, 70, 0.48, -0.02, 0.5),
        ]
    columns = ["collection", "kind", "family", "n_latents", "mean", "difference", "p_holm"]
    table = pd.DataFrame(rows, columns=columns).assign(low=0.2, high=0.6, difference_low=-0.3, difference_high=0.3)
    panels = contribution_figure(table).axes
    assert [axes.get_title() for axes in panels] == ["lexical", "narrow", "broad"]
    assert [marks.get_offsets()[0][0] for marks in panels[0].collections[1::2]] == [-0.2, -0.2, -0.02]
    row = {"half": 0.5, "n_latents": 90, "n_rare": 10, "agreement": 0.8, "kappa": 0.6, "low": 0.5, "high": 0.7}
    row |= {
        f"{family}_{rule}": share
        for family, share in zip(["lexical", "narrow", "broad"], (0.2, 0.3, 0.5), strict=True)
        for rule in ("first", "second")
    }
    words = families_in_words(pd.DataFrame([row | {"kappa_lexical": 0.75}]), table)
    assert "Of 90 latents with enough evidence, by the first rule (by the second): lexical 20% (20%)" in words
    assert "kappa 0.60 (0.50 to 0.70)" in words
    assert "without lexical -0.200 (-0.300 to +0.300)*, without as many others -0.020 (" in words


def test_beyond_is_drawn_and_described():
    rows = []
    for collection in ("a/test", "b/test", MEAN):
        rows.append((collection, "as tuned", 0.5, np.nan, np.nan, np.nan, np.nan))
        p = np.nan if collection == MEAN else 0.01
        rows.append((collection, "with words", 0.55, 0.05, 0.02, 0.08, p))
        rows.append((collection, "pruned queries", 0.5, 0.0, -0.02, 0.02, p and 0.9))
    columns = ["collection", "system", "mean", "difference", "difference_low", "difference_high", "p_holm"]
    table = pd.DataFrame(rows, columns=columns)
    (axes,) = beyond_figure(table).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["with words", "pruned queries"]
    helps, nothing = beyond_in_words(table).splitlines()
    assert helps.startswith(
        "with words helps: +0.050 (+0.020 to +0.080) on average; significantly better on 2 and worse on 0"
    )
    assert nothing.startswith("pruned queries makes no clear difference: +0.000 (-0.020 to +0.020)")
    costs = table.assign(query_ms=12.34, state_bytes=[np.nan, 40_400.0, np.nan] * 3)
    helps, nothing = beyond_in_words(costs).splitlines()
    assert "12.3 ms a query and 40 kB" in helps
    assert nothing.endswith("12.3 ms a query.")
