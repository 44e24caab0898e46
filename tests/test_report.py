"""Tables and figures from frames, and that what is committed is what the committed results give."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from lib.report.backbones import retrievers_in_words, retrievers_table
from lib.report.common import COLOURS, check_drawn, colours_of, latex_table, markdown_table, save_figure, save_results
from lib.report.retrieval import (
    BEGIN,
    END,
    readme_results,
    results_in_words,
    retrieval_figure,
    update_readme,
    wide_table,
    without_ranks,
)
from lib.report.train_sae import plot_training
from lib.report.zipf import rank_frequency_figure
from lib.studies.results import Results
from lib.studies.zipf import rank_frequency_curves

ROOT = Path(__file__).parent.parent
CHANGE = ["difference", "difference_low", "difference_high"]


@pytest.fixture
def summary():
    rows = []
    for collection in ("little", "big_one"):
        for system, mean, p in (("lexical BM25", 0.5, 0.2), ("dense", 0.4, np.nan), ("latent terms", 0.6, 0.01)):
            rows.append((collection, 1200, 30, "nDCG@10", system, mean, mean - 0.1, mean + 0.1, p))
    columns = ["collection", "n_docs", "n_queries", "measure", "system", "mean", "low", "high", "p_holm"]
    table = pd.DataFrame(rows, columns=columns)
    difference = table["mean"] - 0.4
    return table.assign(difference=difference, difference_low=difference - 0.03, difference_high=difference + 0.03)


def test_wide_table_keeps_the_order_and_marks_what_is_significant(summary):
    table = wide_table(summary)
    assert list(table["collection"]) == ["little", "big_one"]
    assert list(table.columns) == ["collection", "documents", "queries", "lexical BM25", "dense", "latent terms"]
    assert table.loc[0].tolist() == ["little", "1,200", "30", "0.5000", "0.4000", "0.6000↑"]
    assert wide_table(summary.assign(difference=-0.2)).loc[0, "latent terms"] == "0.6000↓"


def test_markdown_and_latex(summary):
    markdown = markdown_table(wide_table(summary)).splitlines()
    assert markdown[0] == "| collection | documents | queries | lexical BM25 | dense | latent terms |"
    assert markdown[3] == "| big_one | 1,200 | 30 | 0.5000 | 0.4000 | 0.6000↑ |"
    latex = latex_table(wide_table(summary))
    assert r"big\_one & 1,200 & 30 & 0.5000 & 0.4000 & 0.6000$^\uparrow$ \\" in latex


def test_retrieval_figure_draws_each_mean_at_its_height(summary):
    figure = retrieval_figure(summary)
    heights = sorted(round(bar.get_height(), 6) for bar in figure.axes[0].patches)
    assert heights == [0.4, 0.4, 0.5, 0.5, 0.6, 0.6]
    plt.close(figure)


def test_rank_frequency_curves_keep_first_and_last_rank():
    curves = rank_frequency_curves({"words": range(1, 5001), "latents": range(1, 10)})
    words = curves[curves["vocabulary"] == "words"]
    assert words["rank"].iloc[[0, -1]].tolist() == [1, 5000]
    assert (words["frequency"] == 5001 - words["rank"]).all()
    figure = rank_frequency_figure(curves)
    assert len(figure.axes[0].lines) == 2
    assert {text.get_text() for text in figure.axes[0].texts} == {"words (5,000)", "latents (9)"}
    plt.close(figure)


def test_no_system_or_collection_goes_without_a_colour(summary):
    unknown = summary.assign(system=summary["system"].replace("latent terms", "my system"))
    assert "my system" in wide_table(unknown)
    figure = retrieval_figure(unknown)
    assert len(figure.axes[0].patches) == len(unknown)
    plt.close(figure)
    colours = colours_of(["dense", *(f"c{i}" for i in range(9))])
    assert colours["dense"] == COLOURS["dense"] and len(set(colours.values())) == 10
    with pytest.raises(ValueError, match="PALETTE"):
        colours_of(f"c{i}" for i in range(20))


@pytest.mark.slow
def test_nothing_is_left_out_of_a_figure_in_silence():
    check_drawn(["a", "b", "a"], {"a", "b"}, "LINES")
    with pytest.raises(ValueError, match=r"'c'.*LINES"):
        check_drawn(["a", "c"], {"a", "b"}, "LINES")


def test_equal_figures_are_equal_files(tmp_path, summary):
    for folder in ("a", "b"):
        figure = retrieval_figure(summary)
        save_figure(figure, tmp_path / folder, "x")
        plt.close(figure)
    for ending in ("png", "pdf"):
        assert (tmp_path / "a" / f"x.{ending}").read_bytes() == (tmp_path / "b" / f"x.{ending}").read_bytes()


def test_saved_results_come_back(tmp_path, summary):
    save_results(summary, tmp_path, "retrieval", {"profile": "smoke", "date": "2026-01-01"})
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "retrieval.csv"), summary)
    assert json.loads((tmp_path / "retrieval.json").read_text())["profile"] == "smoke"


def test_results_in_words_are_those_of_the_table():
    real = ("beir/scifact/test", "cranfield/test", "vaswani/test", "cisi/test")
    means = (("dense", 0.4), ("latent terms", 0.5), ("lexical BM25", 0.25))
    rows = [(c, "nDCG@10", s, v) for c in (*real, "pydoc/test") for s, v in means if c in real or s == "dense"]
    rows += [("limit", "R@10", s, v) for s, v in (("dense", 0.021), ("latent terms", 0.25), ("lexical BM25", 0.95))]
    table = pd.DataFrame(rows, columns=["collection", "measure", "system", "mean"])
    words = results_in_words(table.assign(difference=0.1, difference_low=0.08, difference_high=0.14))
    assert "the four real test collections: dense 0.400; the others" in words
    assert "latent terms +0.100 [+0.090, +0.120]." in words  # 0.02, 0.04 over sqrt(4)
    assert "(12 times)" in words  # 0.25 / 0.021
    assert "SciFact is 0.4000 here, 0.6451 as published" in words and "NFCorpus" not in words
    more = table.replace({"vaswani/test": "beir/nfcorpus/test"})
    more = pd.concat([table, more[more["collection"] == "beir/nfcorpus/test"]])
    words = results_in_words(more.assign(difference=0.1, difference_low=0.08, difference_high=0.14))
    assert "the five real test collections" in words
    assert "SciFact and NFCorpus is 0.4000 and 0.4000 here, 0.6451 and 0.3159 as published" in words
    assert results_in_words(table[table["collection"] == "pydoc/test"].assign(difference=0.1)) == ""


def test_retrievers_are_a_row_each_against_their_own_ranking(tmp_path):
    rows = []
    for retriever, own in (("small", "dense"), ("large", "dense"), ("of tokens", "late interaction")):
        for collection, p in (("one/test", 0.01), ("two/test", 0.01), ("limit", 0.01)):
            rows.append((retriever, collection, own, "nDCG@10", 0.4, np.nan, np.nan, np.nan, np.nan))
            change = -0.02 if collection == "two/test" else 0.1
            rows.append(
                (retriever, collection, "latent terms", "nDCG@10", 0.5, change, change - 0.03, change + 0.04, p)
            )
            rows.append((retriever, collection, "latent terms", "R@10", 0.9, 0.9, 0.8, 0.99, p))
    table = pd.DataFrame(rows, columns=["backbone", "collection", "system", "measure", "mean", *CHANGE, "p_holm"])
    shown = retrievers_table(table)
    assert list(shown["retriever"]) == ["small", "large"]  # the third has no vector of a text to compare with
    assert shown.loc[0, "latent terms"] == "+0.040 [+0.019, +0.068], +1 -1"  # 0.03 and 0.04 over sqrt(2)
    assert shown.loc[0, "dense"] == "0.400" and shown.loc[0, "all of one pass"] == "--"
    assert retrievers_in_words(Results(tmp_path)) == ""
    table.to_csv(tmp_path / "backbones.csv", index=False)
    assert "Means over the 2 collections" in retrievers_in_words(Results(tmp_path))
    table[table["backbone"] == "small"].to_csv(tmp_path / "backbones.csv", index=False)
    assert retrievers_in_words(Results(tmp_path)) == ""


def test_the_readme_shows_the_committed_results():
    assert readme_results(ROOT / "figures") in (ROOT / "README.md").read_text("utf-8")


def test_updating_the_readme_changes_nothing_else(tmp_path, summary):
    frame = pd.concat([summary, summary.assign(measure="R@100")])
    encoder = {"encoder": {"dtype": "float32"}}
    save_results(frame, tmp_path, "retrieval", {"profile": "smoke", "date": "2026-01-01", "config": {"model": encoder}})
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    update_readme(tmp_path, readme)
    assert readme.read_text() == f"before\n{BEGIN}\n{readme_results(tmp_path)}\n{END}\nafter\n"


def test_the_papers_table_is_that_of_the_committed_results():
    summary = pd.read_csv(ROOT / "figures" / "retrieval.csv")
    assert (ROOT / "paper" / "tables" / "retrieval.tex").read_text("utf-8") == latex_table(
        wide_table(without_ranks(summary))
    )


def test_committed_results_say_where_they_come_from():
    for path in sorted((ROOT / "figures").glob("*.csv")):
        if not path.stem.endswith("_per_query"):
            origin = json.loads(path.with_suffix(".json").read_text("utf-8"))
            assert origin["profile"] == "laptop", path
            assert {"config", "versions", "commit", "machine", "date"} <= set(origin), path
            assert re.fullmatch("[0-9a-f]{12}", origin["commit"]), f"{path} was made with changes not committed"


def log_rows(n: int = 4) -> list[dict]:
    # ten bins, half decades from 1e-5 to 1
    return [
        {
            "step": 50 * i,
            "tokens": 50_000 * i,
            "fvu": 1 / i,
            "l0": 16.0,
            "dead": 0.1 / i,
            "density": [i, *[0] * 8, 40 - i],
        }
        for i in range(1, n + 1)
    ]


def test_a_training_log_is_drawn_from_rows_and_from_its_file_alike(tmp_path):
    path = tmp_path / "training_log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in log_rows()))
    for log in (log_rows(), path, str(path)):
        loss, dead, histogram = plot_training(log).axes
        assert np.array_equal(loss.lines[0].get_xydata(), [[0.05, 1], [0.1, 1 / 2], [0.15, 1 / 3], [0.2, 1 / 4]])
        np.testing.assert_allclose(dead.lines[0].get_ydata(), [10, 5, 10 / 3, 2.5])
        assert loss.get_title() == "FVU 0.250, 16.0 latents a token"
        values, edges, _ = histogram.patches[0].get_data()
        assert values.tolist() == [4, *[0] * 8, 36]  # of the last row
        np.testing.assert_allclose(edges, np.arange(-5, 0.5, 0.5))
    plt.close("all")


@pytest.mark.parametrize("known", [3, 0])
def test_dead_latents_that_are_not_known_are_a_gap(known):
    rows = [row | {"dead": None if i < 4 - known else row["dead"]} for i, row in enumerate(log_rows())]
    dead = plot_training(rows).axes[1]
    assert np.isnan(dead.lines[0].get_ydata()).sum() == 4 - known
    assert ("not known" in dead.get_title()) == (known == 0)
    plt.close("all")


def test_an_empty_log_is_an_error():
    with pytest.raises(ValueError, match="no row"):
        plot_training([])
