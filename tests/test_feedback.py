"""Feedback: worked by hand, equal to a plain loop, and clear about bad input."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from lib.bm25.index import BM25Index
from lib.bm25.ranking import Ranking
from lib.evaluation.feedback import Feedback, expand_queries, feedback_search

DOCS = csr_array(np.array([[1, 1, 2, 0], [0, 3, 0, 1], [0, 0, 0, 0]], np.float32))
QUERIES = csr_array(np.array([[2, 0, 0, 2], [0, 1, 0, 0]], np.float32))
IDF = np.array([1, 4, 1, 1], np.float32)
FIRST = Ranking(["p", "q"], [["a", "b", "c"], []], [np.array([3.0, 1.0, 0.0]), np.array([])])


def test_worked_by_hand():
    # p: 3 * (1, 1, 2, 0) / 4 + 1 * (0, 3, 0, 1) / 4 = (3, 6, 6, 1) / 4; times idf (3, 24, 6, 1) / 4: latents 1 and 2
    # f / |f| = (0, 1/2, 1/2, 0), q / |q| = (1/2, 0, 0, 1/2); c scores 0 and q has no documents
    expanded = expand_queries(QUERIES, FIRST, DOCS, list("abc"), IDF, Feedback(n_docs=3, n_terms=2, weight=0.25))
    np.testing.assert_allclose(expanded.toarray(), [[3 / 8, 1 / 8, 1 / 8, 3 / 8], [0, 3 / 4, 0, 0]])
    # one document: (1, 1, 2, 0), and latent 1 has no idf
    one = expand_queries(QUERIES, FIRST, DOCS, list("abc"), np.array([1, -1, 1, 1]), Feedback(1, 4, 1.0))
    np.testing.assert_allclose(one.toarray(), [[1 / 3, 0, 2 / 3, 0], [0, 0, 0, 0]], rtol=1e-6)


def plain(query, docs, scores, idf, feedback):
    """The formula of `Feedback`, latent by latent."""
    f = np.zeros(len(query))
    for doc, score in list(zip(docs, scores, strict=True))[: feedback.n_docs]:
        f += score * doc / max(doc.sum(), 1e-30)
    best = sorted(np.flatnonzero(f * idf > 0), key=lambda j: (-f[j] * idf[j], j))[: feedback.n_terms]
    f[np.setdiff1d(np.arange(len(f)), best)] = 0
    unit = [x / x.sum() if x.sum() else x for x in (query, f)]
    return (1 - feedback.weight) * unit[0] + feedback.weight * unit[1]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 9), st.floats(0, 1))
def test_equals_a_plain_loop(seed, n_docs, n_terms, weight):
    rng = np.random.default_rng(seed)
    docs, queries = (rng.random((n, 8)) * (rng.random((n, 8)) < 0.5) for n in (12, 3))
    idf, feedback = rng.random(8), Feedback(n_docs, n_terms, weight)
    ids = [f"d{i}" for i in range(12)]
    orders = [rng.permutation(12)[:7] for _ in queries]
    scores = [np.sort(rng.random(7))[::-1] for _ in queries]
    first = Ranking(["x", "y", "z"], [[ids[i] for i in order] for order in orders], scores)
    expanded = expand_queries(csr_array(queries), first, csr_array(docs), ids, idf, feedback)
    for row, query, order, values in zip(expanded.toarray(), queries, orders, scores, strict=True):
        np.testing.assert_allclose(row, plain(query, docs[order], values, idf, feedback), atol=1e-5)
    # the sum of a query that has weights and documents is 1: it only depends on the directions
    assert (expanded.sum(axis=1) <= 1 + 1e-5).all()
    doubled = expand_queries(csr_array(queries * 2), first, csr_array(docs), ids, idf, feedback)
    np.testing.assert_allclose(doubled.toarray(), expanded.toarray(), atol=1e-6)


def small():
    rng = np.random.default_rng(7)
    docs = csr_array((rng.random((30, 12)) * (rng.random((30, 12)) < 0.4)).astype(np.float32))
    ids = [f"d{i}" for i in range(30)]
    return BM25Index.build(docs, ids), docs, docs[[3, 9]], ids


def test_searches_twice_and_leaves_out_what_is_excluded():
    index, docs, queries, ids = small()
    own = {"p": "d3", "q": ["d9", "d0"]}
    feedback = Feedback(4, 5, 0.5)
    ranking = feedback_search(index, docs, queries, ["p", "q"], 10, feedback, exclude=own)
    first = index.search(queries, ["p", "q"], 4, exclude=own)
    expanded = expand_queries(queries, first, docs, ids, index.idf, feedback)
    assert ranking.doc_ids == index.search(expanded, ["p", "q"], 10, exclude=own).doc_ids
    assert "d3" not in ranking.doc_ids[0]
    assert not {"d9", "d0"} & set(ranking.doc_ids[1])
    assert [len(row) for row in ranking.doc_ids] == [10, 10]
    # nothing taken of the documents, nothing changed
    alone = feedback_search(index, docs, queries, ["p", "q"], 10, Feedback(weight=0))
    assert alone.doc_ids == index.search(queries, ["p", "q"], 10).doc_ids


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_docs": 0}, "n_docs is 0"),
        ({"n_terms": 0}, "n_terms is 0"),
        ({"weight": 1.5}, r"weight is 1\.5"),
        ({"weight": float("nan")}, "weight is nan"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=message):
        Feedback(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": QUERIES[[0]]}, "2 ids for 1 rows"),
        ({"docs": DOCS[:, :3]}, "documents of 3"),
        ({"idf": IDF[:2]}, "2 idf"),
        ({"doc_ids": "ab"}, "2 ids for 3 rows"),
        ({"doc_ids": "axc"}, "such as 'b'"),
    ],
)
def test_bad_input(change, message):
    arguments = {"queries": QUERIES, "ranking": FIRST, "docs": DOCS, "doc_ids": list("abc"), "idf": IDF}
    arguments |= {name: list(value) if name == "doc_ids" else value for name, value in change.items()}
    with pytest.raises(ValueError, match=message):
        expand_queries(**arguments)
