"""One index of two vocabularies: the sum of two indexes, each with its own constants, times their weights."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array, hstack

from lib import BM25Index
from lib.bm25.weighting import PAPER, BM25Constants, Vocabulary
from lib.interop.engines.vectors import documents, query_vectors

WORDS = BM25Constants(1.2, 0.75, "robertson-clipped")


def terms(n: int, width: int, seed: int) -> csr_array:
    rng = np.random.default_rng(seed)
    return csr_array(np.where(rng.random((n, width)) < 0.3, rng.random((n, width)) * 5, 0).astype(np.float32))


def ids(n: int, first: int = 0) -> list[str]:
    return [f"d{i}" for i in range(first, first + n)]


def both(latents: int, words: int, weight: float = 0.6) -> list[Vocabulary]:
    return [Vocabulary("latents", latents, PAPER), Vocabulary("words", words, WORDS, weight)]


def scores(index: BM25Index, queries: csr_array) -> np.ndarray:
    rankings = index.search(queries, [f"q{i}" for i in range(queries.shape[0])], len(index))
    return np.array([[dict(rankings[query])[doc] for doc in index.doc_ids] for query in rankings.query_ids])


@settings(max_examples=20)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 12), st.floats(0.01, 50), st.integers(0, 99))
def test_scores_are_the_weighted_sum_of_two_indexes(n, latents, words, weight, seed):
    docs = [terms(n, width, seed + i) for i, width in enumerate((latents, words))]
    queries = [terms(3, width, seed + 5 + i) for i, width in enumerate((latents, words))]
    parts = [BM25Index.build(docs[0], ids(n)), BM25Index.build(docs[1], ids(n), WORDS)]
    index = BM25Index.build(hstack(docs), ids(n), vocabularies=both(latents, words, weight))
    expected = scores(parts[0], queries[0]) + weight * scores(parts[1], queries[1])
    np.testing.assert_allclose(scores(index, hstack(queries, format="csr")), expected, rtol=2e-5, atol=1e-5)
    assert index.width == latents + words and index.df.tolist() == [*parts[0].df, *parts[1].df]


@pytest.fixture(scope="module")
def matrix() -> csr_array:
    return hstack([terms(60, 20, 1), terms(60, 30, 2)], format="csr")


def test_it_is_saved_streamed_and_added_to_as_one(tmp_path, matrix):
    queries = hstack([terms(4, 20, 3), terms(4, 30, 4)], format="csr")
    index = BM25Index.build(matrix, ids(60), vocabularies=both(20, 30))
    index.save(tmp_path)
    loaded = BM25Index.load(tmp_path)
    assert loaded.vocabularies == index.vocabularies and repr(loaded) == repr(index)
    np.testing.assert_array_equal(scores(loaded, queries), scores(index, queries))
    streamed = BM25Index.build((matrix[i : i + 7] for i in range(0, 60, 7)), ids(60), vocabularies=both(20, 30))
    np.testing.assert_array_equal(scores(streamed, queries), scores(index, queries))
    grown = BM25Index.build(matrix[:25], ids(25), vocabularies=both(20, 30))
    grown.add(matrix[25:], ids(35, 25))
    np.testing.assert_allclose(scores(grown, queries), scores(index, queries), rtol=1e-5)


def test_a_score_is_explained_and_given_to_engines_by_both(matrix):
    index, query = BM25Index.build(matrix, ids(60), vocabularies=both(20, 30)), matrix[[7]]
    explained = index.explain(query, "d7")
    assert {part.latent < 20 for part in explained} == {True, False}
    score = dict(index.search_one(query, 60))["d7"]
    assert sum(part.score for part in explained) == pytest.approx(score, rel=1e-5)
    weights = query_vectors(index, query).toarray()[0]
    (document,) = [document for document in documents(index, "any") if document.position == 7]
    assert weights[document.latents] @ document.impacts == pytest.approx(score, rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"vocabularies": both(20, 31)}, ValueError, "latents.*51"),
        ({"vocabularies": []}, TypeError, "list of Vocabulary"),
        ({"vocabularies": [PAPER]}, TypeError, "list of Vocabulary"),
        ({"vocabularies": both(20, 30)[0]}, TypeError, "vocabularies"),
        ({"vocabularies": both(20, 30), "k1": 2.0}, ValueError, "k1=2.0.*each Vocabulary"),
    ],
)
def test_what_does_not_fit_is_refused(matrix, arguments, error, message):
    with pytest.raises(error, match=message):
        BM25Index.build(matrix, ids(60), **arguments)


@pytest.mark.parametrize("fields", [{"width": 0}, {"weight": 0}, {"weight": -1.0}, {"weight": "1"}, {"weight": np.inf}])
def test_a_vocabulary_out_of_range_is_refused(fields):
    with pytest.raises((TypeError, ValueError), match=rf"{next(iter(fields))} is"):
        Vocabulary(**{"name": "words", "width": 3} | fields)


@pytest.mark.parametrize("idf", ["lucene", "robertson"])
def test_all_scores_are_those_of_the_search_and_none_is_above_the_most(matrix, idf):
    queries = hstack([terms(4, 20, 3), terms(4, 30, 4)], format="csr")
    vocabularies = [Vocabulary("latents", 20, BM25Constants(8, 0.7, idf)), Vocabulary("words", 30, WORDS, 0.6)]
    index = BM25Index.build(matrix, ids(60), vocabularies=vocabularies)
    expected = scores(index, queries)
    np.testing.assert_array_equal([index.scores(queries[[i]]) for i in range(4)], expected.astype(np.float32))
    most = index.most(queries)
    rows = queries.toarray() * np.maximum(index.idf, 0)
    parts = [rows[:, :20].sum(axis=1) * 9, rows[:, 20:].sum(axis=1) * 2.2]
    np.testing.assert_allclose(most, np.transpose(parts), rtol=1e-5)
    assert (expected.max(axis=1) <= most.sum(axis=1)).all()
    for call in (index.scores, index.most):
        with pytest.raises(ValueError, match="49 latents"):
            call(queries[[0], :49])
    with pytest.raises(ValueError, match="4 rows"):
        index.scores(queries)
