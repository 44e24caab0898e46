"""Baselines against their formulas."""

from collections import Counter
from math import log

import numpy as np
import pytest
from bm25s.stopwords import STOPWORDS_EN
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from lib.evaluation.baselines import (
    ANALYZER,
    LexicalBM25,
    Words,
    analyze,
    dense_search,
    inner_product_search,
)


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


def test_analyze_depends_on_no_neighbour():
    texts = ["cats sleep", "sleeping cat"]
    assert analyze(texts) == analyze(texts[:1]) + analyze(texts[1:])


def test_analyze_refuses_a_single_text():
    with pytest.raises(TypeError, match="texts"):
        analyze("text")


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


def test_ties_and_what_matches_nothing_are_in_document_order():
    texts = ["bird", "cat fish", "", "cat fish", "cow", "dog"]
    index = LexicalBM25(texts, names("d", 6))
    assert index.search(["cat"], ["q"]).doc_ids == [["d1", "d3", "d0", "d2", "d4", "d5"]]
    assert index.search(["cat"], ["q"], k=1).doc_ids == [["d1"]]


def test_queries_without_known_words_score_zero():
    ranking = LexicalBM25(["cat", "dog", ""], ["a", "b", "c"]).search(
        ["", "the", "unheard words"], ["x", "y", "z"], k=2
    )
    assert ranking.doc_ids == [["a", "b"]] * 3
    assert all((scores == 0).all() for scores in ranking.scores)


def test_a_corpus_without_words_scores_zero():
    ranking = LexicalBM25(["", "the", "x"], ["a", "b", "c"]).search(["cat", ""], ["p", "q"])
    assert ranking["p"] == ranking["q"] == [("a", 0.0), ("b", 0.0), ("c", 0.0)]


def test_no_queries_give_an_empty_ranking():
    assert len(LexicalBM25(["cat"], ["a"]).search([], [])) == 0


def test_the_order_of_documents_permutes_the_result():
    texts, order = random_texts(30, seed=4), np.random.default_rng(5).permutation(30)
    straight = LexicalBM25(texts, names("d", 30)).search(["word0 word9"], ["q"])
    shuffled = LexicalBM25([texts[i] for i in order], [f"d{i}" for i in order]).search(["word0 word9"], ["q"])
    assert dict(straight["q"]) == pytest.approx(dict(shuffled["q"]))


def test_no_progress_bar(capfd):
    LexicalBM25(["cat"], ["a"]).search(["cat"], ["q"])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (("text", ["a"]), {}, TypeError, "doc_texts"),
        (([], []), {}, ValueError, "doc_texts is empty"),
        ((["x"], ["a", "b"]), {}, ValueError, "doc_ids"),
        ((["x"], ["a"]), {"k1": 0}, ValueError, "k1 is 0"),
        ((["x"], ["a"]), {"k1": float("nan")}, ValueError, "k1 is nan"),
        ((["x"], ["a"]), {"b": 1.5}, ValueError, "b is 1.5"),
    ],
)
def test_bm25_refuses_at_building(arguments, options, error, message):
    with pytest.raises(error, match=message):
        LexicalBM25(*arguments, **options)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("cat", ["q"]), TypeError, "query_texts"),
        ((["cat"], ["p", "q"]), ValueError, "query_ids"),
        ((["cat"], ["q"], 0), ValueError, "k is 0"),
    ],
)
def test_bm25_refuses_at_search(arguments, error, message):
    with pytest.raises(error, match=message):
        LexicalBM25(["cat"], ["a"]).search(*arguments)


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
        ({"doc_embeddings": np.ones(2)}, ValueError, r"doc_embeddings.*\(2,\)"),
        ({"query_embeddings": np.ones((1, 3))}, ValueError, "width 3, doc_embeddings 2"),
        ({"doc_embeddings": np.ones((2, 0))}, ValueError, "doc_embeddings.*late_interaction_search"),
        ({"doc_embeddings": [[0, 1], [np.nan, 1]]}, ValueError, "doc_embeddings.*row 1"),
        ({"query_embeddings": [[np.inf, 1]]}, ValueError, "query_embeddings.*row 0"),
        ({"doc_embeddings": np.ones((0, 2)), "doc_ids": []}, ValueError, "doc_embeddings has no rows"),
        ({"doc_ids": ["a"]}, ValueError, "doc_ids"),
        ({"query_ids": "q"}, TypeError, "query_ids"),
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
        ({"doc_terms": np.ones((2, 2))}, TypeError, "doc_terms"),
        ({"query_terms": csr_array(np.ones((1, 3)))}, ValueError, "width 3, doc_terms 2"),
        ({"query_terms": csr_array([[0.0, -1.0]])}, ValueError, "query_terms.*-1.0"),
        ({"doc_terms": csr_array((0, 2)), "doc_ids": []}, ValueError, "doc_terms has no rows"),
    ],
)
def test_inner_product_search_refuses(changes, error, message):
    good = {"doc_terms": csr_array(np.ones((2, 2))), "doc_ids": ["a", "b"]}
    good |= {"query_terms": csr_array(np.ones((1, 2))), "query_ids": ["q"]}
    with pytest.raises(error, match=message):
        inner_product_search(**good | changes)


def test_words_are_counted_by_columns():
    words = Words.of(["the cats sat", "a dog, a cat", ""])
    assert words.words == ["cat", "sat", "dog"]  # stemmed, without stop words
    assert words.encode(["cat cat dog", "zebra", ""]).toarray().tolist() == [[2, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert words.encode([]).shape == (0, 3)
    for wrong, error in (("cat", TypeError), (["cat", "cat"], ValueError), ([1], TypeError)):
        with pytest.raises(error, match="words"):
            Words(wrong)
