"""Fusions against their formulas, worked out by hand."""

import numpy as np
import pytest

from lib.bm25.ranking import Ranking
from lib.evaluation.fusion import FUSIONS, fuse


def ranked(*docs: str, query_ids: str = "q") -> Ranking:
    scores = [np.arange(len(row), 0, -1.0) for row in docs]
    return Ranking(list(query_ids), [list(row) for row in docs], scores)


def test_reciprocal_ranks():
    # a: 1/61 + 1/62;  b: 1/62 alone;  c: 1/63 + 1/61;  d: 1/63 alone
    fused = fuse([ranked("abc"), ranked("cad")])
    assert [doc_id for doc_id, _ in fused["q"]] == ["a", "c", "b", "d"]
    expected = [1 / 61 + 1 / 62, 1 / 63 + 1 / 61, 1 / 62, 1 / 63]
    np.testing.assert_allclose(fused.scores[0], expected, rtol=1e-6)
    assert fuse([ranked("abc"), ranked("cad")], k=2).doc_ids == [["a", "c"]]
    # c = 0: a 1 + 1/2, c 1/3 + 1, b 1/2, d 1/3
    fused = fuse([ranked("abc"), ranked("cad")], c=0)
    np.testing.assert_allclose(fused.scores[0], [3 / 2, 4 / 3, 1 / 2, 1 / 3], rtol=1e-6)


def test_relative_scores():
    first = Ranking(["q", "r"], [["a", "b"], []], [np.array([4.0, 2.0]), np.array([])])
    second = Ranking(["q", "r"], [["c", "a", "z"], ["a"]], [np.array([10.0, 5.0, 0.0]), np.array([1.0])])
    # q: a 0.75 * 1 + 0.25 * 0.5 = 0.875; b 0.75 * 0.5 = 0.375; c 0.25 * 1; z shares no word with the query
    fused = fuse([first, second], "relative scores", weights=(0.75, 0.25))
    assert fused["q"] == [("a", 0.875), ("b", 0.375), ("c", 0.25)]
    assert fused["r"] == [("a", 0.25)]
    assert fuse([first, second], "relative scores", 1, weights=(0.75, 0.25))["q"] == [("a", 0.875)]


def test_min_max():
    first = Ranking(["q", "r"], [["a", "b", "c"], []], [np.array([0.5, 0.25, -0.5]), np.array([])])
    second = Ranking(["q", "r"], [["c", "a"], ["a"]], [np.array([10.0, 5.0]), np.array([-1.0])])
    # q: a 0.75 * 1; b 0.75 * 0.75 / 1 = 0.5625; c 0 + 0.25 * 1 = 0.25
    fused = fuse([first, second], "min-max", weights=(0.75, 0.25))
    assert fused["q"] == [("a", 0.75), ("b", 0.5625), ("c", 0.25)]
    assert fused["r"] == [("a", 0.25)]


def test_a_weight_of_0_leaves_the_order_to_the_others():
    assert fuse([ranked("abc"), ranked("cba")], weights=(0, 1)).doc_ids == [["c", "b", "a"]]


def test_ties_are_ordered_by_first_appearance():
    assert fuse([ranked("ab"), ranked("ba")]).doc_ids == [["a", "b"]]
    assert fuse([ranked("ba"), ranked("ab")]).doc_ids == [["b", "a"]]
    assert fuse([ranked("z"), ranked("a")]).doc_ids == [["z", "a"]]
    # x and y both hold ranks 1, 2 and 3, in different orders: their sums must tie exactly, so x (seen first) leads.
    assert fuse([ranked("xy_"), ranked("y_x"), ranked("_xy")], k=1).doc_ids == [["x"]]


@pytest.mark.parametrize("method", FUSIONS)
def test_queries_are_matched_by_id_in_the_order_of_the_first(method):
    fused = fuse([ranked("a", "b", query_ids="pq"), ranked("b", "a", query_ids="qp")], method)
    assert fused.query_ids == ["p", "q"]
    assert fused.doc_ids == [["a"], ["b"]]


@pytest.mark.parametrize("method", FUSIONS)
def test_one_ranking_keeps_its_order_and_empty_answers(method):
    assert fuse([ranked("cab", "", query_ids="pq")], method).doc_ids == [["c", "a", "b"], []]


def test_a_new_fusion_is_one_function_and_one_entry(monkeypatch):
    monkeypatch.setitem(FUSIONS, "scores", lambda scores, weight: weight * scores)
    # a: 3 + 2; c: 1 + 3; b: 2; d: 1
    assert fuse([ranked("abc"), ranked("cad")], "scores")["q"] == [("a", 5), ("c", 4), ("b", 2), ("d", 1)]


@pytest.mark.parametrize(
    ("rankings", "options", "error", "message"),
    [
        (ranked("a"), {}, TypeError, "rankings"),
        ([{"q": "a"}], {}, TypeError, "rankings"),
        ({"BM25": ranked("a")}, {}, TypeError, r"list\(rankings.values\(\)\)"),
        ([ranked("a")], {"weights": {"BM25": 1}}, TypeError, r"list\(weights.values\(\)\)"),
        ([ranked("a"), ranked("a")], {"weights": {0.5, 1.0}}, TypeError, r"weights is a set"),
        ([], {}, ValueError, "rankings is empty"),
        ([ranked("a"), ranked("a", query_ids="p")], {}, ValueError, r"rankings\[1\].*'p'"),
        ([ranked("a")], {"c": -1}, ValueError, "c is -1"),
        ([ranked("a")], {"k": 0}, ValueError, "k is 0"),
        ([ranked("a")], {"method": "sum"}, ValueError, "method is 'sum'.*'relative scores'"),
        ([ranked("a")], {"weights": (1, 1)}, ValueError, "weights"),
        ([ranked("a")], {"weights": (-1,)}, ValueError, "weights"),
    ],
)
def test_fuse_refuses(rankings, options, error, message):
    with pytest.raises(error, match=message):
        fuse(rankings, **options)
