"""Measures against hand-worked values; significance against enumeration."""

from itertools import product
from math import log2

import ir_measures
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lib.bm25.ranking import Ranking
from lib.evaluation.measures import (
    bootstrap_interval,
    compare,
    deviation_interval,
    evaluate,
    holm,
    per_query,
    resampled_means,
    wilson_interval,
)


def ranked(**docs: str) -> Ranking:
    """Return a ranking whose documents are single letters, all of score 1: only the order given ranks them."""
    return Ranking(list(docs), [list(row) for row in docs.values()], [np.ones(len(row)) for row in docs.values()])


def frame(values: list[float], measure: str = "AP") -> pd.DataFrame:
    query_ids = [f"q{number}" for number in range(len(values))]
    return pd.DataFrame({"query_id": query_ids, "measure": measure, "value": values})


def test_ndcg_of_graded_judgments():
    # DCG of b, x, a with grades 1, 0, 2: 1 / log2(2) + 0 / log2(3) + 2 / log2(4) = 1 + 0 + 1 = 2
    # ideal a, b: 2 / log2(2) + 1 / log2(3) = 2.6309;  nDCG = 2 / 2.6309 = 0.7602
    value = evaluate(ranked(q="bxa"), {"q": {"a": 2, "b": 1, "c": 0}}, ["nDCG@10"])
    assert value == {"nDCG@10": pytest.approx(2 / (2 + 1 / log2(3)))}


@pytest.mark.filterwarnings("ignore:2 of the 5 judged queries")
def test_every_judged_query_counts_once():
    qrels = {"found": {"a": 1}, "absent": {"a": 1}, "empty": {"a": 1}, "zeros": {"a": 0}, "no_grades": {}}
    ranking = ranked(found="ba", empty="", zeros="a", unjudged="a")
    measures = ["nDCG@10", "R@100", "RR@10", "RR", "AP", "P@1", "Success@5", "Judged@10", "Compat"]
    table = per_query(ranking, qrels, measures).pivot(index="query_id", columns="measure", values="value")
    assert sorted(table.index) == sorted(qrels)
    assert set(table.columns) == set(measures)
    # b, a with a relevant: reciprocal rank and AP 1/2, found among 5 and among 100, not first
    found = table.loc["found", ["RR@10", "RR", "AP", "R@100", "P@1", "Success@5"]]
    assert found.tolist() == [0.5, 0.5, 0.5, 1.0, 0.0, 1.0]
    assert (table.loc[["absent", "empty", "no_grades"]] == 0).all(axis=None)
    assert (table.loc["zeros"].drop("Judged@10") == 0).all()
    assert evaluate(ranking, qrels, ["RR@10"]) == {"RR@10": 0.5 / 5}


def test_an_empty_ranking_scores_zero_with_a_warning():
    with pytest.warns(UserWarning, match=r"1 of the 1 judged queries .*'q'"):
        assert evaluate(Ranking([], [], []), {"q": {"a": 1}}, ["nDCG@10", "RR@10"]) == {"nDCG@10": 0.0, "RR@10": 0.0}


@pytest.mark.parametrize("measure", ["RR", "RR@10", "AP", "nDCG@10"])  # RR@10 comes from another provider than RR
def test_our_order_of_ties_is_kept(measure):
    qrels = {"q": {"m": 1}}
    first = evaluate(ranked(q="maz"), qrels, [measure])[measure]
    last = evaluate(ranked(q="azm"), qrels, [measure])[measure]
    assert first == 1.0
    assert last == pytest.approx(0.5 if measure == "nDCG@10" else 1 / 3)  # 1 / log2(4) at rank 3


@pytest.mark.filterwarnings("ignore:1 of the 2 judged queries")
def test_rows_follow_measures_and_qrels_with_names_as_asked():
    table = per_query(ranked(a="x"), {"b": {"x": 1}, "a": {"x": 1}}, ["MRR", "P@1"])
    assert list(table.columns) == ["query_id", "measure", "value"]
    assert table.values.tolist() == [["b", "MRR", 0.0], ["a", "MRR", 1.0], ["b", "P@1", 0.0], ["a", "P@1", 1.0]]


@pytest.mark.parametrize(
    "name", ["ndcg@10", "nDCG@", "nDCG@0", "R", "R(x=1)", "", "alpha_nDCG@10", "nDCG@10; P@5", "ERR@10"]
)
def test_an_unknown_measure_is_named(name):
    with pytest.raises(ValueError, match="'nDCG@10'") as caught:
        evaluate(ranked(q="a"), {"q": {"a": 1}}, ["P@1", name])
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize(
    ("qrels", "measures", "error", "message"),
    [
        ({"q": {"a": 1}}, "nDCG@10", TypeError, "measures"),
        ({"q": {"a": 1}}, [], ValueError, "measures is empty"),
        ({}, ["P@1"], ValueError, "qrels is empty"),
        ({"q": {"a": 1}}, {"P@1"}, TypeError, r"measures .*sorted\(measures\)"),
        ({"q": {"a": 1}}, {"P@1": 0}, TypeError, r"list\(measures\)"),
        ({"q": {"a": 1}}, pd.DataFrame({"P@1": [1.0]}), TypeError, r"list\(measures\[column\]\)"),
        ({"q": {"a": 1}}, [ir_measures.P @ 1], TypeError, r"measures\[0\] is P@1 .*name"),
        ({"q": ["a"]}, ["P@1"], TypeError, r"qrels\['q'\] is a list; .*doc_id: grade"),
        ({"q": {"a"}}, ["P@1"], TypeError, r"qrels\['q'\] is a set"),
        (pd.DataFrame({"query_id": ["q"]}), ["P@1"], TypeError, "qrels is a DataFrame; .*doc_id: grade"),
        ([("q", "a", 1)], ["P@1"], TypeError, "qrels is a list"),
        ({1: {"a": 1}}, ["P@1"], TypeError, r"query id of qrels is 1 .*str\(id_\)"),
        ({"q": {np.int64(7): 1}}, ["P@1"], TypeError, r"qrels\['q'\] is .*7.*str\(id_\)"),
        ({"q": {"a": 10**30}}, ["P@1"], ValueError, r"qrels\['q'\]\['a'\] is 10{30}"),
        ({"q": {"a": 0.5}}, ["P@1"], TypeError, r"qrels\['q'\]\['a'\] is 0.5"),
    ],
)
def test_evaluate_refuses(qrels, measures, error, message):
    with pytest.raises(error, match=message):
        evaluate(ranked(q="a"), qrels, measures)


@pytest.mark.parametrize("grade", [np.int64(1), 1.0, np.float32(2)])
def test_grades_that_are_whole_numbers_are_integers(grade):
    assert evaluate(ranked(q="a"), {"q": {"a": grade}}, ["P@1", "nDCG@10"]) == {"P@1": 1.0, "nDCG@10": 1.0}


def test_the_largest_grade_is_counted():
    assert evaluate(ranked(q="a"), {"q": {"a": 10_000}}, ["nDCG@10"]) == {"nDCG@10": 1.0}
    with pytest.raises(ValueError, match=r"qrels\['q'\]\['a'\] is 2147483648"):  # trec_eval would say 0.0
        evaluate(ranked(q="a"), {"q": {"a": 2**31}}, ["nDCG@10"])


def test_a_ranking_of_other_queries_is_refused_with_examples_of_both():
    with pytest.raises(ValueError, match=r"None of the 2 judged queries .*'Q1', 'Q2'.* 1 ranked ones .*'q1'"):
        evaluate(ranked(q1="ab"), {"Q1": {"a": 1}, "Q2": {"b": 1}}, ["P@1"])


def test_judged_queries_that_are_not_ranked_are_counted_in_a_warning():
    with pytest.warns(UserWarning, match=r"2 of the 3 judged queries .*'r', 's'"):
        assert evaluate(ranked(q="a"), {"q": {"a": 1}, "r": {"a": 1}, "s": {"a": 1}}, ["P@1"])["P@1"] == 1 / 3


@pytest.mark.parametrize("docs", ["ab", ""])
def test_documents_of_other_ids_are_shown_in_a_warning(docs):
    with pytest.warns(UserWarning, match=r"of 1 queries: for 'q' .*\[.*\], .* \['7', '8'\]"):
        evaluate(ranked(q=docs), {"q": {"7": 1, "8": 0}}, ["P@1"])


def test_ids_in_common_say_nothing(recwarn):
    qrels = {"q": {"b": 0}, "r": {"z": 1}}  # one judged document is enough
    evaluate(ranked(q="ab", r="c", unjudged="x"), qrels, ["P@1"])
    assert not recwarn.list


def test_bootstrap_of_one_coin_is_its_exact_quantiles():
    # Mean of two draws from {0, 1}: 0, 1/2, 1 with probabilities 1/4, 1/2, 1/4. 40 % in the middle is 1/2 alone,
    # 90 % reaches both ends.
    assert bootstrap_interval([0.0, 1.0], confidence=0.4) == (0.5, 0.5)
    assert bootstrap_interval([0.0, 1.0], confidence=0.9) == (0.0, 1.0)


@pytest.mark.slow
def test_bootstrap_agrees_with_the_normal_interval_on_many_values():
    values = np.random.default_rng(3).normal(size=3_000)  # more draws than one block holds
    low, high = bootstrap_interval(values)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half, abs=0.05 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.05 * half)
    assert bootstrap_interval(values) == (low, high)
    assert bootstrap_interval(values, seed=1) != (low, high)


def test_resamples_are_paired_and_of_each_group():
    rng = np.random.default_rng(4)
    groups = [rng.random(40), rng.random(4_000)]
    means = resampled_means(groups, 500)
    # by hand, without blocks: the queries of one collection after those of another, from one generator
    generator = np.random.default_rng(0)
    picks = [generator.integers(len(group), size=(500, len(group))) for group in groups]
    expected = (groups[0][picks[0]].mean(axis=1) + groups[1][picks[1]].mean(axis=1)) / 2
    np.testing.assert_array_equal(means, expected)
    # the same queries for another system: the resamples of a constant difference do not vary
    np.testing.assert_allclose(resampled_means([group + 0.25 for group in groups], 500) - means, 0.25)
    both = resampled_means([np.stack([group, 2 * group], axis=1) for group in groups], 500)
    np.testing.assert_allclose(both, np.stack([means, 2 * means], axis=1))
    with pytest.raises(ValueError, match=r"\[1, 0\]"):
        resampled_means([[1.0], []])


def test_wilson_interval_of_a_worked_example():
    # 9 of 10, z = 1.95996: (0.9 + z^2 / 20 -+ z sqrt(0.009 + z^2 / 400)) / (1 + z^2 / 10)
    z = stats.norm.ppf(0.975)
    half = z * np.sqrt(0.9 * 0.1 / 10 + z**2 / 400)
    expected = [(0.9 + z**2 / 20 + sign * half) / (1 + z**2 / 10) for sign in (-1, 1)]
    assert wilson_interval(9, 10) == pytest.approx(expected)
    assert wilson_interval(0, 10)[0] == 0.0
    with pytest.raises(ValueError, match="confidence is 95"):
        wilson_interval(1, 2, 95)


@pytest.mark.slow
def test_deviation_interval_holds_the_deviation_as_often_as_it_says():
    samples = np.random.default_rng(0).normal(size=(2_500, 5))
    intervals = np.array([deviation_interval(sample.std(ddof=1), 5, 0.9) for sample in samples])
    share = np.mean((intervals[:, 0] <= 1) & (intervals[:, 1] >= 1))
    assert share == pytest.approx(0.9, abs=0.024)  # four standard errors
    with pytest.raises(ValueError, match="n is 1"):
        deviation_interval(0.1, 1)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([], {}, r"\(0,\)"),
        ([[1.0]], {}, r"\(1, 1\)"),
        ([1.0, np.nan], {}, "NaN"),
        ([1.0], {"confidence": 95}, "confidence is 95"),
        ([1.0], {"n_resamples": 0}, "n_resamples is 0"),
    ],
)
def test_bootstrap_refuses(values, options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(values, **options)


def test_holm_on_a_worked_example():
    # Sorted .005 .01 .03 .04 times 4 3 2 1 = .02 .03 .06 .04; the last may not fall below the one before: .06.
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.6, 0.9]), [1.0, 1.0])  # 2 x .6 is cut at 1


def test_compare_worked_against_exact_enumeration():
    reference = [0.2, 0.4, 0.1, 0.9, 0.5, 0.3, 0.0, 0.6]
    better = [0.5, 0.5, 0.4, 0.8, 0.9, 0.6, 0.2, 0.7]
    other = [0.3, 0.3, 0.3, 0.9, 0.4, 0.5, 0.0, 0.7]
    frames = {"bm25": frame(reference), "sae": frame(better), "dense": frame(other)}
    table = compare(frames, "bm25", "AP").set_index("system")
    exact = {}
    for system, values in {"sae": better, "dense": other}.items():
        difference = np.subtract(values, reference)
        means = [np.mean(difference * signs) for signs in product([1, -1], repeat=8)]  # all 256 sign patterns
        exact[system] = np.mean(np.abs(means) >= abs(difference.mean()) - 1e-12)
        assert table.loc[system, "p"] == pytest.approx(exact[system])
        assert table.loc[system, "difference"] == pytest.approx(difference.mean())
        assert table.loc[system, "low"] < difference.mean() < table.loc[system, "high"]
        assert (table.loc[system, "low"], table.loc[system, "high"]) == pytest.approx(bootstrap_interval(difference))
    # sae - bm25 is .3 .1 .3 -.1 .4 .3 .2 .1, with sum 1.6 of 1.8 in absolute value. A sum of at least 1.6 lets no more
    # than .1 be negative: nothing or one of the three .1s, 4 patterns; as many reach -1.6. p = 8 / 256.
    assert exact["sae"] == 8 / 256
    assert list(table.index) == ["sae", "dense"]
    assert table.loc["sae", "p_holm"] == pytest.approx(2 * exact["sae"])
    assert table.loc["dense", "p_holm"] == pytest.approx(max(2 * exact["sae"], exact["dense"]))
    assert table.loc["sae", ["mean", "baseline_mean"]].tolist() == pytest.approx([4.6 / 8, 3.0 / 8])


def test_many_queries_are_sampled_reproducibly_and_agree_with_the_t_test():
    rng = np.random.default_rng(0)
    reference = rng.random(200)
    frames = {"a": frame(reference), "b": frame(reference + rng.normal(0.02, 0.15, 200))}
    p = compare(frames, "a", "AP")["p"][0]
    assert compare(frames, "a", "AP")["p"][0] == p
    assert p == pytest.approx(stats.ttest_rel(frames["b"]["value"], reference).pvalue, abs=0.02)


@pytest.mark.parametrize("n, n_resamples", [(2, 4), (3, 7), (8, 300), (12, 100), (40, 1_000), (1_500, 1_000)])
@pytest.mark.parametrize("decimals", [1, 16])  # with ties and without
def test_p_is_that_of_scipy(n, n_resamples, decimals):
    rng = np.random.default_rng(n)
    frames = {"a": frame(np.zeros(n)), "b": frame(rng.normal(0.03, 0.2, n).round(decimals))}
    difference, batch = (frames["b"]["value"].to_numpy(),), 2**20 // n
    settings = {"permutation_type": "samples", "n_resamples": n_resamples, "batch": batch}
    expected = stats.permutation_test(difference, np.mean, rng=np.random.default_rng(5), **settings).pvalue
    assert compare(frames, "a", "AP", n_resamples, seed=5)["p"][0] == expected


def test_pairs_are_matched_by_query_not_by_row():
    a, b = frame([0.1, 0.5, 0.9]), frame([0.2, 0.6, 1.0])
    rows = compare({"a": a, "b": b.iloc[::-1]}, "a", "AP")
    pd.testing.assert_frame_equal(rows, compare({"a": a, "b": b}, "a", "AP"))


def test_identical_systems_have_p_one():
    row = compare({"a": frame([0.1, 0.5]), "b": frame([0.1, 0.5])}, "a", "AP").iloc[0]
    assert row[["difference", "low", "high", "p", "p_holm"]].tolist() == [0.0, 0.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("frames", "arguments", "message"),
    [
        ({"a": frame([0.1, 0.2]), "b": frame([0.1, 0.2])}, ("c", "AP"), "baseline is 'c'"),
        ({"a": frame([0.1, 0.2]), "b": frame([0.1, 0.2])}, ("a", "RR"), "'a', is 'RR'"),
        ({"a": frame([0.1, 0.2])}, ("a", "AP"), "only 'a'"),
        ({"a": frame([0.1, 0.2]), "b": frame([0.1])}, ("a", "AP"), "'b' and 'a'.*'q1'"),
        ({"a": frame([0.1]), "b": frame([0.1])}, ("a", "AP"), "at least 2"),
        ({"a": frame([0.1, 0.2]), "b": frame([0.1, np.nan])}, ("a", "AP"), r"frames\['b'\]"),
        ({"a": frame([0.1, 0.2]), "b": pd.concat([frame([0.1, 0.2])] * 2)}, ("a", "AP"), "'q0'"),
        ({"a": frame([0.1]), "b": frame([0.1]).drop(columns="value")}, ("a", "AP"), r"\['value'\]"),
    ],
)
def test_compare_refuses(frames, arguments, message):
    with pytest.raises(ValueError, match=message):
        compare(frames, *arguments)
