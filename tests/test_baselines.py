"""Baselines against their formulas and against the libraries they wrap."""

from collections import Counter
from math import log

import numpy as np
import pytest
import rank_bm25
from bm25s.stopwords import STOPWORDS_EN
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from lib.bm25.ranking import Ranking
from lib.evaluation.baselines import (
    ANALYZER,
    LexicalBM25,
    OkapiBM25,
    analyze,
    dense_search,
    inner_product_search,
    reciprocal_rank_fusion,
)

ENGINES = pytest.mark.parametrize("engine", [LexicalBM25, OkapiBM25])


def random_texts(n: int, seed: int, longest: int = 30) -> list[str]:
    """Return texts of 0 to `longest` words out of 40, frequent ones first."""
    rng = np.random.default_rng(seed)
    return [" ".join(f"word{int(40 * rng.random() ** 2)}" for _ in range(rng.integers(longest + 1))) for _ in range(n)]


def names(prefix: str, n: int) -> list[str]:
    return [f"{prefix}{number}" for number in range(n)]


def test_analyze_is_what_the_analyzer_says():
    texts = ["The Running dogs are NOT running in Ümläut-Stadt, x 42 a7!", "", "the and of"]
    # "the", "are", "not", "in" are stop words; "x" is too short; the hyphen splits.
    assert analyze(texts) == [["run", "dog", "run", "ümläut", "stadt", "42", "a7"], [], []]
    assert len(STOPWORDS_EN) == 33
    assert "33 English stop words" in ANALYZER
    assert LexicalBM25.analyzer == OkapiBM25.analyzer == ANALYZER


def test_analyze_depends_on_no_neighbour():
    texts = ["cats sleep", "sleeping cat"]
    assert analyze(texts) == analyze(texts[:1]) + analyze(texts[1:])


@pytest.mark.parametrize(("texts", "message"), [("text", "single str"), (["a", None], r"texts\[1\] is None")])
def test_analyze_refuses(texts, message):
    with pytest.raises(TypeError, match=message):
        analyze(texts)


@pytest.mark.parametrize(("k1", "b"), [(1.2, 0.75), (0.4, 0.0), (8.0, 1.0)])
def test_lexical_bm25_equals_the_formula(k1, b):
    texts, queries = random_texts(60, seed=0), random_texts(10, seed=1, longest=6)
    ranking = LexicalBM25(texts, names("d", 60), k1=k1, b=b).search(queries, names("q", 10), k=60)
    counts = [Counter(text.split()) for text in texts]
    lengths = [count.total() for count in counts]
    average = sum(lengths) / 60
    for query, query_id in zip(queries, names("q", 10), strict=True):
        scores = dict(ranking[query_id])
        for doc_id, count, length in zip(names("d", 60), counts, lengths, strict=True):
            expected = 0.0
            for word in query.split():
                df = sum(word in other for other in counts)
                if count[word]:
                    idf = log(1 + (60 - df + 0.5) / (df + 0.5))
                    expected += idf * count[word] / (count[word] + k1 * (1 - b + b * length / average))
            assert scores[doc_id] == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize(("k1", "b", "epsilon"), [(1.5, 0.75, 0.25), (0.9, 0.4, 0.0)])
def test_okapi_bm25_equals_rank_bm25(k1, b, epsilon):
    texts, queries = random_texts(60, seed=2), random_texts(10, seed=3, longest=6)
    ranking = OkapiBM25(texts, names("d", 60), k1, b, epsilon).search(queries, names("q", 10), k=60)
    library = rank_bm25.BM25Okapi([text.split() for text in texts], k1=k1, b=b, epsilon=epsilon)
    for query, query_id in zip(queries, names("q", 10), strict=True):
        scores = dict(ranking[query_id])
        expected = library.get_scores(query.split())
        np.testing.assert_allclose([scores[doc_id] for doc_id in names("d", 60)], expected, rtol=1e-6, atol=1e-7)


@ENGINES
def test_ties_and_what_matches_nothing_are_in_document_order(engine):
    texts = ["bird", "cat fish", "", "cat fish", "cow", "dog"]
    index = engine(texts, names("d", 6))
    assert index.search(["cat"], ["q"]).doc_ids == [["d1", "d3", "d0", "d2", "d4", "d5"]]
    assert index.search(["cat"], ["q"], k=1).doc_ids == [["d1"]]


@ENGINES
def test_queries_without_known_words_score_zero(engine):
    ranking = engine(["cat", "dog", ""], ["a", "b", "c"]).search(["", "the", "unheard words"], ["x", "y", "z"], k=2)
    assert ranking.doc_ids == [["a", "b"]] * 3
    assert all((scores == 0).all() for scores in ranking.scores)


@ENGINES
def test_a_corpus_without_words_scores_zero(engine):
    ranking = engine(["", "the", "x"], ["a", "b", "c"]).search(["cat", ""], ["p", "q"])
    assert ranking["p"] == ranking["q"] == [("a", 0.0), ("b", 0.0), ("c", 0.0)]


@ENGINES
def test_no_queries_give_an_empty_ranking(engine):
    assert len(engine(["cat"], ["a"]).search([], [])) == 0


def test_okapi_with_full_length_normalisation_survives_an_empty_document():
    ranking = OkapiBM25(["", "cat", "dog", "cow"], names("d", 4), b=1.0).search(["cat"], ["q"])
    assert ranking["q"][0][0] == "d1"
    assert dict(ranking["q"])["d0"] == 0.0  # the library divides 0 by 0 here


@ENGINES
def test_the_order_of_documents_permutes_the_result(engine):
    texts, order = random_texts(30, seed=4), np.random.default_rng(5).permutation(30)
    straight = engine(texts, names("d", 30)).search(["word0 word9"], ["q"])
    shuffled = engine([texts[i] for i in order], [f"d{i}" for i in order]).search(["word0 word9"], ["q"])
    assert dict(straight["q"]) == pytest.approx(dict(shuffled["q"]))


@ENGINES
def test_no_progress_bar(engine, capfd):
    engine(["cat"], ["a"]).search(["cat"], ["q"])
    assert capfd.readouterr() == ("", "")


@ENGINES
@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (("text", ["a"]), {}, TypeError, "doc_texts is a single str"),
        ((["x", None], ["a", "b"]), {}, TypeError, r"doc_texts\[1\] is None"),
        (([], []), {}, ValueError, "doc_texts is empty"),
        ((["x"], ["a", "b"]), {}, ValueError, "doc_ids holds 2 ids for 1 rows"),
        ((["x", "y"], ["a", "a"]), {}, ValueError, "doc_ids repeats 'a'"),
        ((["x"], ["a"]), {"k1": 0}, ValueError, "k1 is 0; it must be"),
        ((["x"], ["a"]), {"k1": float("nan")}, ValueError, "k1 is nan"),
        ((["x"], ["a"]), {"b": 1.5}, ValueError, "b is 1.5; it must lie between 0 and 1"),
    ],
)
def test_bm25_refuses_at_building(engine, arguments, options, error, message):
    with pytest.raises(error, match=message):
        engine(*arguments, **options)


def test_okapi_refuses_a_negative_epsilon():
    with pytest.raises(ValueError, match="epsilon is -1"):
        OkapiBM25(["x"], ["a"], epsilon=-1)


@ENGINES
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("cat", ["q"]), TypeError, "query_texts is a single str"),
        ((["cat", 3], ["p", "q"]), TypeError, r"query_texts\[1\] is 3"),
        ((["cat"], ["p", "q"]), ValueError, "query_ids holds 2 ids for 1 rows"),
        ((["cat", "dog"], ["q", "q"]), ValueError, "query_ids repeats 'q'"),
        ((["cat"], ["q"], 0), ValueError, "k is 0"),
    ],
)
def test_bm25_refuses_at_search(engine, arguments, error, message):
    with pytest.raises(error, match=message):
        engine(["cat"], ["a"]).search(*arguments)


@given(st.integers(1, 20), st.integers(0, 9), st.integers(1, 25), st.integers(1, 10), st.integers(0, 2**32))
def test_dense_search_is_a_stable_argsort_of_the_products(n, q, k, block, seed):
    rng = np.random.default_rng(seed)
    docs, queries = rng.integers(-2, 3, (n, 3)), rng.integers(-2, 3, (q, 3))  # small integers: exact, with many ties
    ranking = dense_search(docs, names("d", n), queries, names("q", q), k=k, block=block)
    order = np.argsort(-(queries @ docs.T), axis=1, kind="stable")[:, :k]
    assert ranking.doc_ids == [[f"d{i}" for i in row] for row in order]
    for row, scores, best in zip(queries @ docs.T, ranking.scores, order, strict=True):
        assert scores.tolist() == row[best].tolist()


def test_the_block_changes_nothing_beyond_rounding():
    rng = np.random.default_rng(0)
    docs, queries = rng.normal(size=(50, 32)), rng.normal(size=(7, 32))
    one, all_at_once = (dense_search(docs, names("d", 50), queries, names("q", 7), block=block) for block in (1, 7))
    assert one.doc_ids == all_at_once.doc_ids
    np.testing.assert_allclose(one.scores, all_at_once.scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"doc_embeddings": np.ones(2)}, ValueError, r"doc_embeddings has shape \(2,\); it must have two dimensions"),
        ({"query_embeddings": np.ones((1, 3))}, ValueError, "query_embeddings has width 3, doc_embeddings 2"),
        ({"doc_embeddings": np.ones((2, 0))}, ValueError, "doc_embeddings has width 0.* late_interaction_search"),
        ({"doc_embeddings": [[0, 1], [np.nan, 1]]}, ValueError, "doc_embeddings holds NaN or infinity in row 1"),
        ({"query_embeddings": [[np.inf, 1]]}, ValueError, "query_embeddings holds NaN or infinity in row 0"),
        ({"doc_embeddings": np.ones((0, 2)), "doc_ids": []}, ValueError, "doc_embeddings has no rows"),
        ({"doc_ids": ["a"]}, ValueError, "doc_ids holds 1 ids for 2 rows"),
        ({"doc_ids": ["a", "a"]}, ValueError, "doc_ids repeats 'a'"),
        ({"query_ids": []}, ValueError, "query_ids holds 0 ids for 1 rows"),
        ({"query_ids": "q"}, TypeError, "query_ids is a single str"),
        ({"k": 0}, ValueError, "k is 0"),
        ({"block": 0}, ValueError, "block is 0"),
    ],
)
def test_dense_search_refuses(changes, error, message):
    good = {
        "doc_embeddings": np.ones((2, 2)),
        "doc_ids": ["a", "b"],
        "query_embeddings": np.ones((1, 2)),
        "query_ids": ["q"],
    }
    with pytest.raises(error, match=message):
        dense_search(**good | changes)


def test_inner_product_search_is_exact():
    docs = csr_array(np.array([[1, 0, 2], [0, 3, 0], [1, 0, 2], [0, 0, 0]], np.float32))
    queries = csr_array(np.array([[1, 1, 0], [0, 0, 0]], np.float32))
    for block in (1, 64):
        ranking = inner_product_search(docs, list("abcd"), queries, ["q", "empty"], 3, block)
        # q: a 1, b 3, c 1, d 0; of a and c the earlier one first
        assert ranking["q"] == [("b", 3.0), ("a", 1.0), ("c", 1.0)]
        assert ranking["empty"] == [("a", 0.0), ("b", 0.0), ("c", 0.0)]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"doc_terms": np.ones((2, 2))}, TypeError, "doc_terms is a ndarray; pass a scipy.sparse array"),
        ({"query_terms": csr_array(np.ones((1, 3)))}, ValueError, "query_terms has width 3, doc_terms 2"),
        ({"query_terms": csr_array([[0.0, -1.0]])}, ValueError, "query_terms holds -1.0 in row 0"),
        ({"doc_terms": csr_array((0, 2)), "doc_ids": []}, ValueError, "doc_terms has no rows"),
        ({"doc_ids": ["a"]}, ValueError, "doc_ids holds 1 ids for 2 rows"),
        ({"k": 0}, ValueError, "k is 0"),
    ],
)
def test_inner_product_search_refuses(changes, error, message):
    good = {"doc_terms": csr_array(np.ones((2, 2))), "doc_ids": ["a", "b"]}
    good |= {"query_terms": csr_array(np.ones((1, 2))), "query_ids": ["q"]}
    with pytest.raises(error, match=message):
        inner_product_search(**good | changes)


def ranked(*docs: str, query_ids: str = "q") -> Ranking:
    scores = [np.arange(len(row), 0, -1.0) for row in docs]
    return Ranking(list(query_ids), [list(row) for row in docs], scores)


def test_fusion_of_a_worked_example():
    # a: 1/61 + 1/62;  b: 1/62 alone;  c: 1/63 + 1/61;  d: 1/63 alone
    fused = reciprocal_rank_fusion([ranked("abc"), ranked("cad")])
    assert [doc_id for doc_id, _ in fused["q"]] == ["a", "c", "b", "d"]
    expected = [1 / 61 + 1 / 62, 1 / 63 + 1 / 61, 1 / 62, 1 / 63]
    np.testing.assert_allclose(fused.scores[0], expected, rtol=1e-6)
    assert reciprocal_rank_fusion([ranked("abc"), ranked("cad")], k=2).doc_ids == [["a", "c"]]
    # c = 0: a 1 + 1/2, c 1/3 + 1, b 1/2, d 1/3
    np.testing.assert_allclose(
        reciprocal_rank_fusion([ranked("abc"), ranked("cad")], c=0).scores[0], [3 / 2, 4 / 3, 1 / 2, 1 / 3], rtol=1e-6
    )


def test_fusion_orders_ties_by_first_appearance():
    assert reciprocal_rank_fusion([ranked("ab"), ranked("ba")]).doc_ids == [["a", "b"]]
    assert reciprocal_rank_fusion([ranked("ba"), ranked("ab")]).doc_ids == [["b", "a"]]
    assert reciprocal_rank_fusion([ranked("z"), ranked("a")]).doc_ids == [["z", "a"]]
    # x and y both hold ranks 1, 2 and 3, in different orders: their sums must tie exactly, so x (seen first) leads.
    assert reciprocal_rank_fusion([ranked("xy_"), ranked("y_x"), ranked("_xy")], k=1).doc_ids == [["x"]]


def test_fusion_matches_queries_by_id_in_the_order_of_the_first():
    fused = reciprocal_rank_fusion([ranked("a", "b", query_ids="pq"), ranked("b", "a", query_ids="qp")])
    assert fused.query_ids == ["p", "q"]
    assert fused.doc_ids == [["a"], ["b"]]


def test_fusion_of_one_ranking_keeps_its_order_and_empty_answers():
    assert reciprocal_rank_fusion([ranked("cab", "", query_ids="pq")]).doc_ids == [["c", "a", "b"], []]


@pytest.mark.parametrize(
    ("rankings", "options", "error", "message"),
    [
        (ranked("a"), {}, TypeError, "rankings is not a list of Ranking"),
        ([{"q": "a"}], {}, TypeError, "rankings is not a list of Ranking"),
        ([], {}, ValueError, "rankings is empty"),
        ([ranked("a"), ranked("a", query_ids="p")], {}, ValueError, r"rankings\[1\] and rankings\[0\] differ in 2"),
        ([ranked("a")], {"c": -1}, ValueError, "c is -1"),
        ([ranked("a")], {"k": 0}, ValueError, "k is 0"),
    ],
)
def test_fusion_refuses(rankings, options, error, message):
    with pytest.raises(error, match=message):
        reciprocal_rank_fusion(rankings, **options)
