"""Impacts of eight bits: exact search among them, the bound on their error, and the index as a file."""

import itertools
import json
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array, random_array, vstack
from test_index import all_scores, count_refused, ids, moved, random_terms, resaved, with_entry

import lib.bm25.index
import lib.bm25.postings
import lib.bm25.search
from lib.bm25.index import BM25Index
from lib.bm25.ranking import top_k
from lib.bm25.weighting import INNER_PRODUCT, BM25Constants, Vocabulary
from lib.interop.engines.vectors import documents, query_vectors


def terms(n: int, width: int, seed: int, values: int) -> csr_array:
    """Small integers, so that many documents have equal scores; two thirds of the latents are rare."""
    rng = np.random.default_rng(seed)
    there = rng.random((n, width)) < np.where(np.arange(width) % 3, 0.1, 0.6)
    return csr_array(rng.integers(0, values, (n, width)) * there, dtype=np.float32)


@contextmanager
def blocks_of(rows: int):
    with pytest.MonkeyPatch.context() as patch:
        for module in (lib.bm25.index, lib.bm25.postings, lib.bm25.search):
            patch.setattr(module, "BLOCK_ROWS", rows)
        yield


def plain_scores(index: BM25Index, query: csr_array) -> np.ndarray:
    """Add up codes in float32 with numpy: postings latent after latent, then the rows of others, four at a time."""
    scores = []
    for part in index._parts:
        sums = np.zeros(part.rows.shape[1], np.float32)
        rows = []
        for latent, weight in zip(query.indices, query.data, strict=True):
            factor = np.float32(weight * index.idf[latent]) * part.scales[latent]
            if (number := index._row_of[latent]) >= 0:
                rows.append(factor * part.rows[number].astype(np.float32))
            else:
                postings = slice(part.indptr[latent], part.indptr[latent + 1])
                sums[part.docs[postings]] += factor * part.impacts[postings].astype(np.float32)
        whole = len(rows) - len(rows) % 4
        for a, b, c, d in zip(*[iter(rows[:whole])] * 4, strict=True):
            sums += (a + b) + (c + d)
        for row in rows[whole:]:
            sums += row
        scores.append(sums)
    return np.concatenate(scores)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 60),
    block_rows=st.integers(1, 70),
    k=st.integers(1, 70),
    threads=st.integers(1, 4),
    n_queries=st.integers(1, 5),
    values=st.sampled_from([2, 3, 50]),
    idf=st.sampled_from(["lucene", "robertson"]),
    seed=st.integers(0, 10_000),
)
def test_search_equals_a_plain_loop_to_the_bit(n, block_rows, k, threads, n_queries, values, idf, seed):
    with blocks_of(block_rows):
        index = BM25Index.build(terms(n, 30, seed, values), ids(n), idf=idf, impacts="uint8")
        queries = terms(n_queries, 30, seed + 1, values)
        allowed = np.random.default_rng(seed).integers(0, 2, n).astype(bool)
        names = [doc_id for doc_id, may in zip(index.doc_ids, allowed, strict=True) if may]
        others = [doc_id for doc_id, may in zip(index.doc_ids, allowed, strict=True) if not may]
        ranking = index.search(queries, ids(n_queries, "q"), k, threads=threads)
        filtered = index.search(queries, ids(n_queries, "q"), k, allow=names, threads=threads)
        denied = index.search(queries, ids(n_queries, "q"), k, deny=others, threads=threads)
        for row in range(n_queries):
            scores = plain_scores(index, queries[[row]])
            best = top_k(scores, k)
            assert ranking.doc_ids[row] == [index.doc_ids[position] for position in best]
            np.testing.assert_array_equal(ranking.scores[row], scores[best])
            np.testing.assert_array_equal(index.scores(queries[[row]]), scores)
            kept = [position for position in top_k(scores, n) if allowed[position]][:k]
            assert filtered.doc_ids[row] == denied.doc_ids[row] == [index.doc_ids[position] for position in kept]


def assert_within_the_bound(coded: BM25Index, exact: BM25Index, queries: csr_array) -> None:
    bounds = coded.error_bound(queries)
    for row, bound in enumerate(bounds):
        errors = np.abs(coded.scores(queries[[row]]).astype(float) - exact.scores(queries[[row]]))
        assert errors.max() <= bound


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(
    cuts=st.lists(st.integers(1, 49), max_size=3, unique=True),
    block_rows=st.sampled_from([1, 7, 16, 64]),
    constants=st.sampled_from([BM25Constants(k1=k1, b=b) for k1 in (0, 1.2, 8) for b in (0, 0.7, 1)] + [INNER_PRODUCT]),
    idf=st.sampled_from(["lucene", "robertson"]),
    spread=st.sampled_from([1, 20]),
    seed=st.integers(0, 10_000),
)
def test_every_documents_score_is_within_the_bound(cuts, block_rows, constants, idf, spread, seed):
    docs, queries = (random_array((n, 20), density=0.3, rng=np.random.default_rng(seed + n)) for n in (50, 5))
    docs, queries = (csr_array(abs(matrix) ** spread * 5, dtype=np.float32) for matrix in (docs, queries))
    edges = [0, *sorted(cuts), 50]
    vocabularies = [Vocabulary("a", 12, constants), Vocabulary("b", 8, BM25Constants(idf=idf), 0.3)]
    with blocks_of(block_rows):
        coded, exact = (
            BM25Index.build(docs[: edges[1]], ids(edges[1]), vocabularies=vocabularies, impacts=impacts)
            for impacts in ("uint8", "float32")
        )
        assert_within_the_bound(coded, exact, queries)
        for start, stop in itertools.pairwise(edges[1:]):
            for index in (coded, exact):
                index.add(docs[start:stop], ids(50)[start:stop])
            assert_within_the_bound(coded, exact, queries)
        np.testing.assert_array_equal(coded.df, exact.df)
        np.testing.assert_array_equal(coded.idf, exact.idf)
        assert coded.doc_ids == exact.doc_ids


@pytest.mark.parametrize("constants", [BM25Constants(), INNER_PRODUCT])
def test_the_bound_says_something(constants, docs):
    for impacts, share in (("uint8", 0.02), ("float32", 1e-3)):
        index = BM25Index.build(docs, ids(40), constants, impacts=impacts)
        largest = [index.scores(docs[[row]]).max() for row in range(40)]
        assert (index.error_bound(docs) <= share * np.array(largest)).all()


def test_the_bound_by_hand():
    # k1 = 1, b = 0: impacts are 2 w / (w + 1). Latent 0 has 2/3, 1 and 4/3 of w = .5, 1 and 2: scale 4/3 / 255, codes
    # 127.5 → 128 (to even), 191.25 → 191 and 255; the largest error is half a level, (4/3) / 510. Latent 1 is exact.
    docs = csr_array(np.array([[0.5, 0], [1, 0], [2, 3]], np.float32))
    index = BM25Index.build(docs, ids(3), k1=1, b=0, idf="none", impacts="uint8")
    bounds = index.error_bound(csr_array(np.array([[6, 0], [0, 1], [0, 0]], np.float32)))
    np.testing.assert_allclose(bounds, [6 * 4 / 3 / 510, 0, 0], rtol=0.01, atol=1e-4)
    assert bounds[2] == 0
    exact = BM25Index.build(docs, ids(3), k1=1, b=0, idf="none")
    assert exact.error_bound(docs).max() < 1e-4
    np.testing.assert_allclose(index.scores(csr_array(np.float32([[1, 0]]))), np.array([128, 191, 255]) * 4 / 3 / 255)


@pytest.fixture
def docs():
    return terms(40, 30, 13, 50)


@pytest.fixture
def index(docs):
    with blocks_of(16):
        yield BM25Index.build(docs, ids(40), impacts="uint8")


def test_a_posting_takes_three_bytes_and_a_frequent_latent_one_a_document(index, docs):
    frequent = index.df * 4 >= 40
    assert 0 < frequent.sum() < 30
    n_rare = index.df[~frequent].sum()
    assert sum(part.docs.nbytes + part.impacts.nbytes for part in index._parts) == 3 * n_rare
    assert sum(part.rows.nbytes for part in index._parts) == 40 * frequent.sum()
    assert index.n_postings == docs.nnz
    assert "uint8" in repr(index)


def test_explain_and_impact_rows_give_the_impacts_of_search(index, docs):
    (scores,) = all_scores(index, docs[[0]])
    matrix = vstack(list(index.impact_rows()))
    np.testing.assert_allclose((docs[[0]].multiply(index.idf[None, :]) @ matrix.T).toarray()[0], scores, rtol=1e-5)
    assert matrix.nnz == docs.nnz
    for doc_id, score in zip(index.doc_ids, scores, strict=True):
        parts = index.explain(docs[[0]], doc_id)
        assert sum(part.score for part in parts) == pytest.approx(score, rel=1e-5)
        assert {part.latent for part in parts} == set(docs[[0]].indices) & set(docs[[int(doc_id[1:])]].indices)


def test_engines_get_its_impacts(index, docs):
    vectors, scores = query_vectors(index, docs[[1]]).toarray()[0], index.scores(docs[[1]])
    for document in documents(index, "any"):
        assert vectors[document.latents] @ document.impacts == pytest.approx(scores[document.position], rel=1e-5)


@pytest.mark.slow
def test_saved_and_loaded_it_is_the_same(index, docs, tmp_path):
    index.save(tmp_path)
    for verify in (True, False):
        loaded = BM25Index.load(tmp_path, verify=verify)
        np.testing.assert_array_equal(all_scores(loaded, docs), all_scores(index, docs))
        assert repr(loaded) == repr(index)
        np.testing.assert_array_equal(loaded.error_bound(docs), index.error_bound(docs))
        assert loaded.explain(docs[[0]], "d39") == index.explain(docs[[0]], "d39")
        assert isinstance(loaded._parts[0].impacts.base, np.memmap)
        loaded.add(docs[:3], ["x", "y", "z"])
        assert len(loaded) == 43
    loaded.save(tmp_path)
    assert repr(BM25Index.load(tmp_path)) == repr(loaded)


def test_an_index_of_float32_is_saved_as_before(docs, tmp_path):
    BM25Index.build(docs, ids(40)).save(tmp_path)
    assert "impact_dtype" not in json.loads((tmp_path / "index.json").read_text())


def test_an_index_of_empty_texts(tmp_path):
    BM25Index.build(csr_array((2, 3), dtype=np.float32), ["x", "y"], impacts="uint8").save(tmp_path)
    loaded = BM25Index.load(tmp_path)
    assert (all_scores(loaded, csr_array(np.ones((1, 3), np.float32))) == 0).all()
    loaded.add(csr_array(np.ones((1, 3), np.float32)), ["z"])
    assert loaded.search_one(csr_array(np.ones((1, 3), np.float32)), 1)[0][0] == "z"


def test_a_form_that_there_is_not(docs):
    with pytest.raises(ValueError, match=r"impacts is 'int8'.*float32.*uint8"):
        BM25Index.build(docs, ids(40), impacts="int8")


@pytest.mark.slow
def test_damaged_it_loads_equal_or_is_refused(index, docs, tmp_path):
    index.save(tmp_path)
    assert count_refused(tmp_path, docs[:3], all_scores(index, docs[:3]), trials=300) > 280


@pytest.mark.parametrize("stem", ["docs", "impacts", "rows"])
def test_opened_without_verifying_damage_gives_wrong_scores_at_worst(index, docs, tmp_path, stem):
    index.save(tmp_path)
    (path,) = tmp_path.glob(f"{stem}-*")
    content, rng = path.read_bytes(), np.random.default_rng(1)
    path.write_bytes(content[:-1])
    with pytest.raises(ValueError, match="damaged"):
        BM25Index.load(tmp_path, verify=False)
    for _ in range(20):
        path.write_bytes(content[:128] + bytes(rng.integers(0, 256, len(content) - 128, dtype=np.uint8)))
        assert len(BM25Index.load(tmp_path, verify=False).search_one(docs[[0]], k=5)) == 5
    with pytest.raises(ValueError, match=stem):
        BM25Index.load(tmp_path)


@pytest.mark.parametrize(
    "changed",
    [
        *({"indptr": with_entry(0, value)} for value in (-1, 1, 2**62)),
        *({"indptr": moved(-1, by)} for by in (-1, 1, 2**62)),
        {"impacts": lambda a: a[:-1]},
        {"docs": lambda a: a[:-1], "impacts": lambda a: a[:-1]},
        {"docs": lambda a: a.view(np.int16)},
        *({name: lambda a: a[:-1]} for name in ("rows", "scales", "df", "errors", "lengths")),
        *({"df": with_entry(at, value)} for at in (0, 1) for value in (-1, 0, 41, 2**62)),
        {"df": with_entry(1, 40)},
        {"df": lambda a: a.astype(float)},
        {"n_docs": 39},
        {"doc_ids": ids(39)},
    ],
)
def test_what_is_no_index_is_refused_whatever_its_checksums_say(tmp_path, docs, changed):
    BM25Index.build(docs, ids(40), impacts="uint8").save(tmp_path)
    resaved(tmp_path, **changed)
    for verify in (True, False):
        with pytest.raises(ValueError, match="damaged"):
            BM25Index.load(tmp_path, verify=verify)


def test_an_unknown_form_in_a_manifest_is_refused(tmp_path, docs):
    BM25Index.build(docs, ids(40), impacts="uint8").save(tmp_path)
    resaved(tmp_path, impact_dtype="int4")
    with pytest.raises(ValueError, match="int4"):
        BM25Index.load(tmp_path)


def test_a_posting_of_a_document_that_there_is_not_stays_inside_the_arrays(tmp_path, docs):
    BM25Index.build(docs, ids(40), impacts="uint8").save(tmp_path)
    resaved(tmp_path, docs=with_entry(3, 2**16 - 1))
    loaded = BM25Index.load(tmp_path)
    assert len(loaded.search_one(docs[[0]], k=40)) == 40
    assert loaded.scores(docs[[0]]).shape == (40,)
    for use in (lambda: list(loaded.impact_rows()), lambda: loaded.add(docs[:1], ["new"])):
        with pytest.raises(ValueError, match="65535"):
            use()


def test_what_cannot_be_added_leaves_the_index_as_it_was(index, docs):
    before = all_scores(index, docs[:2])
    with pytest.raises(ValueError, match="'d1'"):
        index.add(docs[:1], ["d1"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lib.bm25.index.coded.hold", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            index.add(docs[:1], ["new"])
    np.testing.assert_array_equal(all_scores(index, docs[:2]), before)


@pytest.mark.slow
def test_rankings_are_nearly_those_of_float32():
    docs, queries = random_terms(300, 50, 1), random_terms(20, 50, 2)
    coded, exact = (BM25Index.build(docs, ids(300), impacts=impacts) for impacts in ("uint8", "float32"))
    rankings = [index.search(queries, ids(20, "q"), 10).doc_ids for index in (coded, exact)]
    overlap = [len(set(one) & set(other)) / 10 for one, other in zip(*rankings, strict=True)]
    assert np.mean(overlap) > 0.95
