"""Ranking, its TREC files, and exact selection of the best k."""

import gzip

import ir_measures
import numpy as np
import pandas as pd
import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from lib.bm25.ranking import ENCODED, Ranking, strictly_falling, top_k
from lib.bm25.weighting import FLOAT32_MAX

EDGES = [0.0, -0.0, 1e-45, -1e-45, 1.1754944e-38, FLOAT32_MAX, -FLOAT32_MAX, 1.0]


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
    with pytest.raises(KeyError, match=r"query 1 .*str.*'q1'"):
        ranking[1]


def test_rows_of_arrays_are_a_ranking():
    ranking = Ranking(["q", "r"], np.array([["a", "b"], ["b", "a"]]), np.array([[2.0, 1.0], [1.0, 1.0]]))
    assert ranking["r"] == [("b", 1.0), ("a", 1.0)]
    assert Ranking(["q"], ([doc] for doc in "a"), ([score] for score in [1.0]))["q"] == [("a", 1.0)]


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


@pytest.mark.parametrize(
    "docs", [["b", "a", "unknown"], {"a", "b"}, ("a", "b"), iter(["b", "a"]), np.array(["a", "b"])]
)
def test_exclude_takes_several_documents_of_a_query(docs):
    ranking = Ranking(["q", "r"], [["b", "a", "c"], ["a"]], [np.array([3.0, 2.0, 1.0]), np.array([2.0])])
    excluded = ranking.exclude({"q": docs})
    assert excluded["q"] == [("c", 1.0)]
    assert excluded["r"] == ranking["r"]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["a"], "pairs is a list; .*query_id: doc_id"),
        ("a", "pairs is a str"),
        ([("q1", "a")], "pairs is a list"),
        (pd.Series({"q1": "a"}), "pairs is a Series"),
        ({"q1": 7}, r"pairs\['q1'\]\[0\] is 7 .*must be a str"),
        ({"q1": ["a", 7]}, r"pairs\['q1'\]\[1\] is 7 .*must be a str"),
        ({"q1": b"a"}, r"pairs\['q1'\] is a single bytes"),
        ({"q1": pd.DataFrame({"id": ["a"]})}, r"pairs\['q1'\] is a DataFrame; .*column"),
        ({"q1": None}, r"pairs\['q1'\]\[0\] is None"),
        ({"q1": {"a": 1}}, r"pairs\['q1'\] is a dict; .*list\("),
        ({7: "a"}, r"query id of pairs is 7 .*str\(id_\)"),
    ],
)
def test_exclude_refuses_what_it_would_ignore(pairs, message):
    with pytest.raises(TypeError, match=message):
        three_documents().exclude(pairs)


def test_excluding_for_other_queries_is_said(recwarn):
    assert three_documents().exclude({}).doc_ids == three_documents().doc_ids
    assert three_documents().exclude({"q1": "a", "other": "a"})["q1"] == [("b", 1.0), ("c", 1.0)]
    assert not recwarn.list
    with pytest.warns(UserWarning, match=r"2 queries of pairs, such as 'Q1'.*'q1', 'q2'"):
        three_documents().exclude({"Q1": "a", "Q2": "b"})


@pytest.mark.parametrize(
    ("query_ids", "doc_ids", "scores", "error", "message"),
    [
        ("q", [[]], [[]], TypeError, "query_ids is a single str"),
        (["q", "q"], [[], []], [[], []], ValueError, "query_ids repeats 'q'"),
        (["q"], [[], []], [[]], ValueError, "1, 2 and 1"),
        (["q"], ["ab"], [[2.0, 1.0]], TypeError, "query 'q' is a single str"),
        (["q"], {"q": ["a"]}, [[2.0]], TypeError, r"doc_ids is a dict; .*doc_ids.values"),
        (["q"], pd.DataFrame({"q": ["a"]}), [[2.0]], TypeError, "doc_ids is a DataFrame"),
        (["q"], "a", [[2.0]], TypeError, "doc_ids is a single str"),
        (["q"], [{"a"}], [[2.0]], TypeError, "query 'q' is a set"),
        (["q"], [{"a": 2.0}], [[2.0]], TypeError, "query 'q' is a dict"),
        ([np.int64(1)], [["a"]], [[2.0]], TypeError, r"query_ids\[0\] is .*1.*str\(id_\)"),
        (["q"], [[7, 8]], [[2.0, 1.0]], TypeError, r"query 'q'\[0\] is 7 .*str\(id_\)"),
        (pd.Series([1]), [["a"]], [[2.0]], TypeError, r"query_ids\[0\] is 1"),
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
@given(rankings(), st.sampled_from(["run", "gz"]))
@pytest.mark.filterwarnings("ignore:The id")
def test_a_trec_file_reads_back_exactly(tmp_path_factory, ranking, ending):
    path = tmp_path_factory.getbasetemp() / f"round_trip.{ending}"
    ranking.write_trec(path)
    read = Ranking.read_trec(path)
    assert (read.query_ids, read.doc_ids) == (ranking.query_ids, ranking.doc_ids)
    for ours, theirs in zip(read.scores, ranking.scores, strict=True):
        assert ours.tobytes() == strictly_falling(theirs).tobytes()  # bit for bit, -0.0 included


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False) | st.sampled_from(EDGES), max_size=30))
def test_strictly_falling_scores_are_those_given_where_none_tie_and_as_near_as_float32_allows(values):
    scores = np.sort(np.array(values, np.float32))[::-1]
    falling = strictly_falling(scores)
    assert falling.dtype == np.float32
    assert np.isfinite(falling).all()
    assert (falling[1:] < falling[:-1]).all()
    np.testing.assert_allclose(falling, scores, rtol=4e-6, atol=2e-37)  # 30 float32 of 1.2e-7 each
    if len(set(scores.tolist())) == len(scores):  # as float32, in which values may tie
        assert falling.tobytes() == scores.tobytes()


TIED = Ranking(["q"], [[f"d{number}" for number in range(9, -1, -1)]], [np.zeros(10)])  # by their ids, d9 is not first


@pytest.mark.parametrize("score", [0.0, 1.0, -1.5, 3e38, -FLOAT32_MAX, 1e-45])
@pytest.mark.parametrize("relevant", ["d9", "d0", "d5"])
def test_ten_documents_of_equal_score_keep_our_order_in_other_tools(tmp_path, score, relevant):
    ranking = Ranking(TIED.query_ids, TIED.doc_ids, [np.full(10, score)])
    qrels, expected = {"q": {relevant: 1}}, 1 / (1 + TIED.doc_ids[0].index(relevant))
    ranking.write_trec(tmp_path / "a.run")
    for run in (ranking.as_dict(), list(ir_measures.read_trec_run(str(tmp_path / "a.run")))):
        assert ir_measures.calc_aggregate([ir_measures.RR], qrels, run)[ir_measures.RR] == pytest.approx(expected)
    values = pytrec_eval.RelevanceEvaluator(qrels, {"recip_rank"}).evaluate(ranking.as_dict())
    assert values["q"]["recip_rank"] == pytest.approx(expected)
    assert Ranking.read_trec(tmp_path / "a.run").doc_ids == ranking.doc_ids
    written = [float(line.split()[4]) for line in (tmp_path / "a.run").read_text().splitlines()]
    assert all(value == 0 or abs(value) > 1.17e-38 for value in written)  # some readers fail at subnormal numbers


def test_a_run_as_a_dict_has_the_scores_that_do_not_tie():
    assert list(three_documents().as_dict()["q1"].items())[:2] == [("a", 2.0), ("b", 1.0)]
    assert three_documents().as_dict()["q2"] == {}


def test_a_trec_file_has_the_six_columns(tmp_path):
    path = tmp_path / "limit.run"
    Ranking(["q"], [["Durben", "50%"]], [np.array([0.1, -2.0])]).write_trec(path, tag="mine")
    # The float32 nearest to 0.1 is 0.100000001490...; nine digits of it.
    assert path.read_text() == "q Q0 Durben 1 0.100000001 mine\nq Q0 50% 2 -2 mine\n"


def test_ids_with_spaces_are_encoded_with_a_warning_and_a_mark(tmp_path):
    path = tmp_path / "limit.run"
    ranking = Ranking(["q"], [["Geneva Durben", "50%"]], [np.array([1.0, -2.0])])
    with pytest.warns(UserWarning, match=r"'Geneva Durben'.*'Geneva%20Durben'"):
        ranking.write_trec(path, tag="mine")
    assert path.read_text() == f"q Q0 Geneva%20Durben 1 1 mine{ENCODED}\nq Q0 50%25 2 -2 mine{ENCODED}\n"
    assert Ranking.read_trec(path).doc_ids == ranking.doc_ids
    path.write_text(path.read_text().replace(ENCODED, ""))  # of another tool
    assert Ranking.read_trec(path).doc_ids == [["Geneva%20Durben", "50%25"]]


# Nothing that other tools wrote is decoded, and what Unicode calls a space is none in a TREC file.
FOREIGN = [
    "enwiki:Chocolate%20chip",
    "p%2F1",
    "100%",
    "a%FF",
    "a\u00a0b",
    "a\u2003b",
    "a\u3000b",
    "a\u2028b",
    "a\x1cb",
    "a\x85b",
]


@pytest.mark.parametrize("id_", FOREIGN)
def test_foreign_ids_are_read_and_written_as_they_are(tmp_path, id_):
    path = tmp_path / "foreign.run"
    path.write_bytes(f"{id_}\tQ0\t{id_} 1 1.5 t\r\n".encode())
    ranking = Ranking.read_trec(path)
    assert (ranking.query_ids, ranking.doc_ids) == ([id_], [[id_]])
    ranking.write_trec(tmp_path / "ours.run")
    assert f"{id_} Q0 {id_} 1 1.5 " in (tmp_path / "ours.run").read_bytes().decode()
    assert Ranking.read_trec(tmp_path / "ours.run").doc_ids == [[id_]]


@pytest.mark.parametrize("id_", ["Geneva Durben", "a\tb", "a\r", "\x0b", "\0", "\ufeffq", "\ud800"])
@pytest.mark.parametrize("side", ["query", "document"])
def test_an_id_that_a_trec_file_cannot_hold_comes_back(tmp_path, id_, side):
    query, doc = (id_, "p%2F1") if side == "query" else ("p%2F1", id_)
    with pytest.warns(UserWarning, match="percent-encoded"):
        Ranking([query], [[doc]], [np.array([1.0])]).write_trec(tmp_path / "a.run")
    read = Ranking.read_trec(tmp_path / "a.run")
    assert (read.query_ids, read.doc_ids) == ([query], [[doc]])


def test_a_run_may_have_a_byte_order_mark_blank_lines_and_crlf(tmp_path):
    path = tmp_path / "windows.run"
    path.write_bytes(b"\xef\xbb\xbfq1 Q0 a 1 2.0 t\r\n\r\n  \r\nq2 Q0 b 1 1.0 t\r\n\n")
    assert Ranking.read_trec(path).query_ids == ["q1", "q2"]


def test_a_gzipped_run_is_read_and_written_by_its_name(tmp_path):
    three_documents().write_trec(tmp_path / "a.run")
    for name in ("a.run.gz", "b.run.gz"):
        three_documents().write_trec(tmp_path / name)
    assert gzip.decompress((tmp_path / "a.run.gz").read_bytes()) == (tmp_path / "a.run").read_bytes()
    assert (tmp_path / "a.run.gz").read_bytes() == (tmp_path / "b.run.gz").read_bytes()  # no name, no time in it
    assert Ranking.read_trec(tmp_path / "a.run.gz").doc_ids == [["a", "b", "c"]]


def test_a_run_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    three_documents().write_trec("~/a.run")
    assert [path.name for path in tmp_path.iterdir()] == ["a.run"]
    assert Ranking.read_trec("~/a.run").doc_ids == [["a", "b", "c"]]


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
        ("q Q0 a 1 1.0 t\n\nq Q0 b\u00a02 1.0 t\n", "bad.run, line 3: got 5 columns"),
        ("q Q0 a first 1.0 t\n", "bad.run, line 1: invalid literal for int.*rank is an integer"),
        ("q Q0 a 1 high t\n", "bad.run, line 1: could not convert string to float"),
        ("q\0 Q0 a 1 1.0 t\n", "bad.run, line 1 holds a NUL"),
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


def test_decoding_names_the_line_of_what_was_not_encoded(tmp_path):
    path = tmp_path / "bad.run"
    path.write_text(f"q Q0 a%20b 1 2.0 t{ENCODED}\nq Q0 a%FF 2 1.0 t{ENCODED}\n")
    with pytest.raises(ValueError, match=r"bad\.run, line 2: 'utf-8' codec can't decode"):
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
