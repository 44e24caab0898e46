"""Compiled search against a plain loop: the same scores to the bit, the same documents, whatever the threads."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

import lib.bm25.index
import lib.bm25.postings
import lib.bm25.search
from lib.bm25.frequent import MOST, add_rows, complete, error_bound, rows_of
from lib.bm25.index import BM25Index
from lib.bm25.postings import block_of
from lib.bm25.ranking import top_k
from lib.bm25.search import Best, Likely, Query, find_likely

EVERY = np.empty(0, bool)


def ids(n: int, prefix: str = "d") -> list[str]:
    return [f"{prefix}{i}" for i in range(n)]


def terms(n: int, width: int, seed: int, values: int) -> csr_array:
    """Small integers, so that many documents have equal scores; every other latent is rare."""
    rng = np.random.default_rng(seed)
    there = rng.random((n, width)) < np.where(np.arange(width) % 2, 0.5, 0.06)
    return csr_array(rng.integers(0, values, (n, width)) * there, dtype=np.float32)


def plain_scores(index: BM25Index, query: csr_array) -> np.ndarray:
    """Add up postings latent after latent in float32, with numpy: first of latents that few documents have."""
    scores = np.zeros(len(index), np.float32)
    rows = lib.bm25.postings.BLOCK_ROWS
    in_order = sorted(zip(query.indices, query.data, strict=True), key=lambda item: index.df[item[0]] * 8 >= len(index))
    for number, block in enumerate(index._blocks):
        own = scores[number * rows :]
        for latent, weight in in_order:
            postings = slice(block.indptr[latent], block.indptr[latent + 1])
            own[block.docs[postings]] += np.float32(weight * index.idf[latent]) * block.impacts[postings]
    return scores


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 60),
    block_rows=st.integers(1, 70),
    k=st.integers(1, 70),
    threads=st.integers(1, 4),
    n_queries=st.integers(1, 5),
    values=st.sampled_from([2, 3, 50]),
    idf=st.sampled_from(["lucene", "robertson"]),
    whole=st.sampled_from([True, False, None]),
    seed=st.integers(0, 10_000),
)
def test_search_equals_a_plain_loop_to_the_bit(n, block_rows, k, threads, n_queries, values, idf, whole, seed):
    with pytest.MonkeyPatch.context() as patch:
        if whole is not None:
            patch.setattr(lib.bm25.search, "reads_all", lambda *_: whole)
        for module in (lib.bm25.index, lib.bm25.postings, lib.bm25.search):
            patch.setattr(module, "BLOCK_ROWS", block_rows)
        index = BM25Index.build(terms(n, 6, seed, values), ids(n), idf=idf)
        queries = terms(n_queries, 6, seed + 1, values)
        allowed = np.random.default_rng(seed).integers(0, 2, n).astype(bool)
        ranking = index.search(queries, ids(n_queries, "q"), k, threads=threads)
        names = [doc_id for doc_id, may in zip(index.doc_ids, allowed, strict=True) if may]
        filtered = index.search(queries, ids(n_queries, "q"), k, allow=names, threads=threads)
        others = [doc_id for doc_id, may in zip(index.doc_ids, allowed, strict=True) if not may]
        denied = index.search(queries, ids(n_queries, "q"), k, deny=others, threads=threads)
        for row in range(n_queries):
            scores = plain_scores(index, queries[[row]])
            best = top_k(scores, k)  # by score, then by position
            assert ranking.doc_ids[row] == [index.doc_ids[position] for position in best]
            np.testing.assert_array_equal(ranking.scores[row], scores[best])
            assert index.search_one(queries[[row]], k, threads=threads) == list(
                zip(ranking.doc_ids[row], ranking.scores[row].tolist(), strict=True)
            )
            kept = [position for position in top_k(scores, n) if allowed[position]][:k]
            assert filtered.doc_ids[row] == denied.doc_ids[row] == [index.doc_ids[position] for position in kept]
            np.testing.assert_array_equal(filtered.scores[row], scores[kept])


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 300),
    n_frequent=st.integers(0, 11),
    spread=st.sampled_from([1.0, 1e-3, 1e3]),
    sign=st.sampled_from([1, -1]),
    seed=st.integers(0, 10_000),
)
def test_an_estimate_errs_by_less_than_the_bound(n, n_frequent, spread, sign, seed):
    rng = np.random.default_rng(seed)
    dense = rng.random((n, n_frequent), np.float32) ** 3 * spread * (rng.random((n, n_frequent)) < 0.6)
    rows = rows_of(block_of(csr_array(dense.astype(np.float32))), np.arange(n_frequent), n)
    weights = sign * rng.random(n_frequent, np.float32)
    others = rng.random(n, np.float32)
    estimates, numbers = others.copy(), np.arange(n_frequent)
    factors = weights * rows.scales
    add_rows(rows.rows, factors, numbers, estimates)
    weight_of = np.zeros(MOST, np.float32)
    weight_of[:n_frequent] = weights
    scores = np.float32(
        [complete(doc, others[doc], rows.indptr, rows.numbers, rows.impacts, weight_of) for doc in range(n)]
    )
    np.testing.assert_allclose(scores, others + dense.astype(np.float32) @ weights, rtol=1e-4, atol=1e-4 * spread)
    bound = error_bound(factors, 1.0)
    assert np.abs(estimates - scores).max() <= bound
    assert bound <= np.abs(weights).sum() * dense.max(initial=0) / 400 + 1e-3 * (1 + spread)  # and says something


@pytest.fixture
def index():
    return BM25Index.build(terms(20, 6, 0, 4), ids(20))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"k": 0}, ValueError, "k is 0"),
        ({"k": 2.0}, TypeError, "k is 2.0"),
        ({"threads": 0}, ValueError, "threads is 0"),
        ({"allow": ["d1", "x"]}, ValueError, r"'x'.*'d0'"),
        ({"deny": ["x"]}, ValueError, "'x'"),
        ({"allow": "d1"}, TypeError, "allow is a single str"),
        ({"allow": {"d1": 1}}, TypeError, r"allow is a dict; .*list\(allow\)"),
        ({"allow": {1, 2}}, TypeError, r"allow\[0\] is 1 .*str\(id_\)"),
        ({"deny": np.array([1, 2])}, TypeError, r"deny\[0\] is .*1.*str\(id_\)"),
        ({"deny": np.array([["d1", "d2"]])}, TypeError, r"deny has shape \(1, 2\)"),
        ({"allow": pd.DataFrame({"id": ["d1"]})}, TypeError, r"allow is a DataFrame; .*column"),
        ({"threads": 1.0}, TypeError, "threads is 1.0"),
        ({"deny": ["d1", "d1"]}, ValueError, "deny repeats 'd1'"),
        ({"allow": ["d1"], "deny": ["d2"]}, ValueError, "both"),
    ],
)
def test_bad_settings(index, settings, error, message):
    query = terms(1, 6, 1, 4)
    with pytest.raises(error, match=message):
        index.search(query, ["q"], **settings)
    with pytest.raises(error, match=message):
        index.search_one(query, **settings)


def test_search_one_takes_one_row(index):
    queries = terms(2, 6, 1, 4)
    with pytest.raises(ValueError, match="2 rows"):
        index.search_one(queries)
    assert index.search_one(queries[0], 3) == index.search_one(queries[[0]], 3)


@pytest.mark.parametrize(
    "container",
    [
        list,
        tuple,
        set,
        frozenset,
        iter,
        lambda ids: dict.fromkeys(ids).keys(),
        np.array,
        pd.Series,
        pd.Index,
        lambda ids: (i for i in ids),
    ],
)
def test_allow_and_deny_take_any_iterable_of_ids(index, container):
    names, query = ["d3", "d1"], terms(1, 6, 1, 4)
    assert {doc for doc, _ in index.search_one(query, allow=container(names))} == set(names)
    assert not {doc for doc, _ in index.search_one(query, deny=container(names))} & set(names)


def test_nobody_allowed_is_an_empty_answer(index):
    assert index.search_one(terms(1, 6, 1, 4), allow=[]) == []
    assert index.search(terms(2, 6, 1, 4), ids(2, "q"), allow=[]).doc_ids == [[], []]


def test_only_what_may_be_among_the_best_is_scored_exactly(index):
    (block, rows), (best,) = index._parts[0], index._search(terms(1, 6, 1, 4), 20, None, None, 1)
    allowed = np.zeros(20, bool)
    allowed[[3, 7, 12]] = True
    row = terms(1, 6, 1, 4)
    query = index._query(row.indices.astype(np.int64), row.data)
    exact = dict(zip(best.docs.tolist(), best.scores.tolist(), strict=True))
    for mask, k, expected in ((allowed, 20, [3, 7, 12]), (EVERY, 20, range(20)), (EVERY, 2, None)):
        scores = np.zeros(2**16, np.float32)
        likely = Likely(np.zeros(20, np.int64), np.zeros(20, np.float32), np.zeros(20, np.float32))
        least, estimates = Best(np.zeros(k, np.int64), np.zeros(k, np.float32)), np.zeros(20, np.float32)
        n, count = find_likely(block, rows, query, mask, 0, scores[:20], estimates, likely, 0, least, 0)
        found, reach = likely.docs[:n].tolist(), likely.most[:n]
        assert count == min(k, n)
        if expected is None:  # of two, the least are bounds from below; what is in the end above them holds the best
            found = [doc for doc, most in zip(found, reach, strict=True) if most >= least.scores[0]]
            assert set(best.docs[:2].tolist()) <= set(found)
            assert least.scores[0] <= exact[best.docs[1]]
        else:
            assert found == list(expected)
        assert all(most >= exact[doc] for doc, most in zip(likely.docs[:n].tolist(), reach, strict=True))


def test_all_is_read_where_scoring_k_documents_would_read_more():
    # latent 0 is in all of 16 documents, latents 1 and 2 in half of them, latent 3 in one: it is rare
    there = np.zeros((16, 4), np.float32)
    there[:, 0], there[::2, 1], there[1::2, 2], there[5, 3] = 1, 1, 1, 1
    index = BM25Index.build(csr_array(there), ids(16))

    def whole(latents: list[int], k: int) -> bool:
        rows = index._row_of[latents]
        query = Query(np.array(latents), np.ones(len(latents), np.float32), rows[rows >= 0], 1.0)
        return lib.bm25.search.reads_all(index._parts, 16, query, k)

    # a document has two of the three frequent latents, so k of them have 2 k impacts, and one counts as two postings
    assert [k for k in range(1, 17) if whole([1], k)] == list(range(2, 17))
    assert [k for k in range(1, 17) if whole([3, 0, 1], k)] == list(range(6, 17))
    assert whole([3], 1)


def test_no_query_at_all(index):
    assert index.search(csr_array((0, 6), dtype=np.float32), []).doc_ids == []
