"""Ranking, its TREC files, and exact selection of the best k."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.bm25.ranking import Ranking, top_k


def three_documents() -> Ranking:
    return Ranking(["q1", "q2"], [["a", "b", "c"], []], [np.array([2.0, 1.0, 1.0]), np.array([])])


@given(
    st.lists(st.sampled_from([-np.inf, -1.5, -0.0, 0.0, 0.5, 2.0, 3.0, np.inf]), max_size=40),
    st.integers(min_value=1, max_value=50),
    st.sampled_from([np.float32, np.float64]),
)
def test_top_k_is_the_head_of_a_stable_descending_sort(values, k, dtype):
    scores = np.array(values, dtype=dtype)
    expected = sorted(range(len(scores)), key=lambda position: -scores[position])[:k]  # sorted() is stable
    assert top_k(scores, k).tolist() == expected


def test_top_k_breaks_ties_by_position_at_the_cut():
    # 3 is best; of the three 1s at positions 0, 2 and 3 only the first two fit.
    assert top_k(np.array([1.0, 3.0, 1.0, 1.0, 0.0]), 3).tolist() == [1, 0, 2]


def test_top_k_orders_unsigned_integers():
    assert top_k(np.array([0, 7, 200], dtype=np.uint8), 3).tolist() == [2, 1, 0]


@pytest.mark.parametrize(
    ("scores", "k", "error", "message"),
    [
        ([1.0], 0, ValueError, "k is 0"),
        ([1.0], 2.5, TypeError, "k is 2.5"),
        ([[1.0]], 1, ValueError, r"scores has shape \(1, 1\)"),
        ([1.0, np.nan], 1, ValueError, "scores is NaN at position 1"),
    ],
)
def test_top_k_refuses(scores, k, error, message):
    with pytest.raises(error, match=message):
        top_k(np.array(scores), k)


def test_a_ranking_answers_by_query():
    ranking = three_documents()
    assert len(ranking) == 2
    assert ranking["q1"] == [("a", 2.0), ("b", 1.0), ("c", 1.0)]
    assert ranking["q2"] == []
    assert ranking.scores[0].dtype == np.float32
    assert repr(ranking) == "Ranking(2 queries, 3 retrieved documents)"
    with pytest.raises(KeyError, match="'q3'"):
        ranking["q3"]


def test_top_cuts_every_query():
    ranking = three_documents()
    assert ranking.top(2)["q1"] == [("a", 2.0), ("b", 1.0)]
    assert ranking.top(9)["q1"] == ranking["q1"]
    with pytest.raises(ValueError, match="k is 0"):
        ranking.top(0)


def test_exclude_drops_a_self_match_and_nothing_else():
    ranking = Ranking(["a", "q"], [["b", "a", "c"], ["a", "b"]], [np.array([3.0, 2.0, 1.0]), np.array([2.0, 1.0])])
    excluded = ranking.exclude({"a": "a", "q": "c", "unranked": "b"})
    assert excluded["a"] == [("b", 3.0), ("c", 1.0)]
    assert excluded["q"] == ranking["q"]
    assert ranking["a"][1] == ("a", 2.0)  # the original is as it was
    with pytest.raises(TypeError, match="list"):
        ranking.exclude(["a"])


@pytest.mark.parametrize(
    ("query_ids", "doc_ids", "scores", "error", "message"),
    [
        ("q", [[]], [[]], TypeError, "query_ids is a single str"),
        (["q", "q"], [[], []], [[], []], ValueError, "query_ids repeats 'q'"),
        (["q"], [[], []], [[]], ValueError, "1, 2 and 1"),
        (["q"], ["ab"], [[2.0, 1.0]], TypeError, "query 'q' is a single str"),
        (["q"], [["a", None]], [[2.0, 1.0]], TypeError, r"doc_ids of query 'q'\[1\] is None"),
        (["q"], [["a", "a"]], [[2.0, 1.0]], ValueError, "doc_ids of query 'q' repeats 'a'"),
        (["q"], [["a", "b"]], [[2.0]], ValueError, r"'q' has shape \(1,\)"),
        (["q"], [["a", "b"]], [[1.0, 2.0]], ValueError, "1.0 to 2.0"),
        (["q"], [["a"]], [[np.nan]], ValueError, "'q' holds NaN"),
        (["q"], [["a"]], [[1e39]], ValueError, "'q' holds NaN"),
    ],
)
def test_a_ranking_refuses(query_ids, doc_ids, scores, error, message):
    with pytest.raises(error, match=message):
        Ranking(query_ids, doc_ids, [np.array(row) for row in scores])


ids = st.lists(st.text(min_size=1, max_size=6) | st.sampled_from(["Geneva Durben", "%20", "a\nb"]), unique=True)


@st.composite
def rankings(draw) -> Ranking:
    """Return a ranking in which each query has at least one document."""
    query_ids = draw(ids)
    docs = [draw(ids.filter(len)) for _ in query_ids]
    finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
    scores = [sorted(draw(st.lists(finite, min_size=len(row), max_size=len(row))), reverse=True) for row in docs]
    return Ranking(query_ids, docs, [np.array(row) for row in scores])


@pytest.mark.slow
@given(rankings())
def test_a_trec_file_reads_back_exactly(tmp_path_factory, ranking):
    path = tmp_path_factory.getbasetemp() / "round_trip.run"
    ranking.write_trec(path)
    read = Ranking.read_trec(path)
    assert (read.query_ids, read.doc_ids) == (ranking.query_ids, ranking.doc_ids)
    for ours, theirs in zip(read.scores, ranking.scores, strict=True):
        assert ours.tobytes() == theirs.tobytes()  # bit for bit, -0.0 included


def test_a_trec_file_has_the_six_columns_with_whitespace_escaped(tmp_path):
    path = tmp_path / "limit.run"
    Ranking(["q"], [["Geneva Durben", "50%"]], [np.array([0.1, -2.0])]).write_trec(path, tag="mine")
    # The float32 nearest to 0.1 is 0.100000001490...; nine digits of it.
    assert path.read_text() == "q Q0 Geneva%20Durben 1 0.100000001 mine\nq Q0 50%25 2 -2 mine\n"


def test_a_query_without_documents_has_no_line(tmp_path):
    three_documents().write_trec(tmp_path / "a.run")
    assert Ranking.read_trec(tmp_path / "a.run").query_ids == ["q1"]


def test_reading_follows_the_rank_column(tmp_path):
    path = tmp_path / "shuffled.run"
    path.write_text("q Q0 b 2 1.0 t\np Q0 z 0 1 t\nq Q0 c 3 1.0 t\nq Q0 a 1 2e0 t\n")
    ranking = Ranking.read_trec(path)
    assert ranking.query_ids == ["q", "p"]
    assert ranking["q"] == [("a", 2.0), ("b", 1.0), ("c", 1.0)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q Q0 a 1 1.0 t\nq Q0 b 2 1.0\n", "bad.run, line 2: got 5 columns; a TREC run has 6"),
        ("q Q0 Geneva Durben 1 1.0 t\n", "bad.run, line 1: got 7 columns"),
        ("\n", "bad.run, line 1: got 0 columns"),
        ("q Q0 a first 1.0 t\n", "bad.run, line 1: invalid literal for int.*rank is an integer"),
        ("q Q0 a 1 high t\n", "bad.run, line 1: could not convert string to float"),
        ("q Q0 a%FF 1 1.0 t\n", "bad.run, line 1: 'utf-8' codec can't decode"),
        ("q Q0 a 1 1.0 t\nq Q0 b 1 1.0 t\n", "bad.run, line 2: query 'q' has rank 1 twice"),
        ("q Q0 a 1 1.0 t\nq Q0 b 2 2.0 t\n", "bad.run: scores of query 'q' rises from 1.0 to 2.0"),
        ("q Q0 a 1 1.0 t\nq Q0 a 2 1.0 t\n", "bad.run: doc_ids of query 'q' repeats 'a'"),
        ("q Q0 a 1 nan t\n", "bad.run: scores of query 'q' holds NaN"),
    ],
)
def test_reading_names_the_file_and_line_of_what_is_wrong(tmp_path, text, message):
    path = tmp_path / "bad.run"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        Ranking.read_trec(path)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.run"
    three_documents().write_trec(path)
    before = path.read_text()
    with pytest.raises(ValueError, match="empty"):
        Ranking(["q"], [["a", ""]], [np.array([2.0, 1.0])]).write_trec(path)
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("tag", ["", "two words"])
def test_a_tag_is_one_word(tmp_path, tag):
    with pytest.raises(ValueError, match="one word"):
        three_documents().write_trec(tmp_path / "a.run", tag=tag)


def test_above_keeps_the_better_documents_in_order():
    ranking = Ranking(["q", "r"], [["a", "b", "c"], ["d"]], [np.array([2.0, 1.0, 0.0]), np.array([0.0])])
    kept = ranking.above(0)
    assert kept.doc_ids == [["a", "b"], []]
    assert [scores.tolist() for scores in kept.scores] == [[2.0, 1.0], []]
