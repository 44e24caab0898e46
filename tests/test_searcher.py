"""The searcher: the weighted sum of what latents, words and embeddings give, ranked, explained, saved and loaded."""

import json

import numpy as np
import pytest
from conftest import TEXTS
from hypothesis import given, settings
from hypothesis import strategies as st

from lib import LatentTerms, Searcher, TokenEncoder
from lib.bm25.index import BM25Index
from lib.bm25.weighting import UNTUNED, BM25Constants, Weights
from lib.evaluation.baselines import LexicalBM25, Words, dense_search
from lib.searcher import WORD_CONSTANTS, products

DOCS = [*TEXTS, "the cat and the dog", "a red house in the tree"]
IDS = [f"d{i}" for i in range(len(DOCS))]
QUERIES = ["old cat", "the river", "", "zebra"]
QUERY_IDS = ["q0", "q1", "q2", "q3"]


@pytest.fixture(scope="module")
def model(tiny_encoder, tiny_sae):
    return LatentTerms(tiny_encoder, tiny_sae, bm25=BM25Constants(1.5, 0.5))


@pytest.fixture(scope="module")
def searcher(model):
    return Searcher.build(model, DOCS, IDS, progress=False)


def scores(ranking) -> np.ndarray:
    return np.array([[dict(ranking[query])[doc] for doc in IDS] for query in QUERY_IDS])


@pytest.fixture(scope="module")
def parts(model) -> np.ndarray:
    """What each part gives, float64 [3, n_queries, n_docs], by other means: two indexes and a product."""
    queries, n = model.encode_queries(QUERIES), len(DOCS)
    latents = model.index(model.encode_documents(DOCS), IDS)
    words = Words.of(DOCS)
    by_words, word_queries = BM25Index.build(words.encode(DOCS), IDS, WORD_CONSTANTS), words.encode(QUERIES)
    shares = []
    for index, rows, k1 in ((latents, queries, 1.5), (by_words, word_queries, 1.2)):
        most = (rows.toarray() * index.idf).sum(axis=1, keepdims=True) * (k1 + 1)
        shares.append(scores(index.search(rows, QUERY_IDS, n)) / np.where(most > 0, most, 1))
    vectors = [
        np.concatenate([block.embeddings for block in model.stream(texts, kind)])
        for texts, kind in ((QUERIES, "query"), (DOCS, "document"))
    ]
    lengths = [np.linalg.norm(rows, axis=1) for rows in vectors]
    return np.stack([*shares, vectors[0] @ vectors[1].T / np.maximum(lengths[0], 1e-9)[:, None] / lengths[1].max()])


@pytest.mark.slow
def test_an_index_of_eight_bits(model, searcher, tmp_path):
    coded = Searcher.build(model, DOCS, IDS, progress=False, impacts="uint8")
    assert coded.index.impacts == "uint8"
    for weights in (Weights(1, 0.3, 0), Weights(1, 0.3, 0.4)):
        found, exact = (one.search(QUERIES, QUERY_IDS, len(DOCS), weights=weights) for one in (coded, searcher))
        np.testing.assert_allclose(scores(found), scores(exact), atol=0.005)
    total = sum(part.score for part in coded.explain(QUERIES[0], "d0"))
    assert total == pytest.approx(scores(coded.search(QUERIES, QUERY_IDS, len(DOCS)))[0, 0], rel=1e-5)
    coded.save(tmp_path)
    assert repr(Searcher.load(tmp_path, encoder=model.encoder)) == repr(coded)
    with pytest.raises(ValueError, match="impacts is 'int8'"):
        Searcher.build(model, DOCS, IDS, impacts="int8")


weight = st.sampled_from([0.0, 0.25, 1.0, 3.0])


@pytest.mark.slow
@settings(max_examples=30)
@given(weight, weight, weight)
def test_a_score_is_the_weighted_sum_of_its_parts(searcher, parts, latents, words, dense):
    if not latents + words + dense:
        return
    ranking = searcher.search(QUERIES, QUERY_IDS, 100, weights=Weights(latents, words, dense), progress=False)
    expected = np.tensordot([latents, words, dense], parts, 1)
    np.testing.assert_allclose(scores(ranking), expected, atol=2e-6)
    for query, row in zip(QUERY_IDS, scores(ranking), strict=True):  # ties in the order of the documents
        assert ranking.doc_ids[QUERY_IDS.index(query)] == [IDS[i] for i in np.argsort(-row, kind="stable")]
        assert row.max() <= latents + words + dense + 1e-6


def test_one_part_ranks_as_it_does_alone(searcher, model):
    by_latents = model.index(model.encode_documents(DOCS), IDS)
    expected = by_latents.search(model.encode_queries(QUERIES), QUERY_IDS, 5)
    assert searcher.search(QUERIES, QUERY_IDS, 5, weights=Weights(1, 0, 0)).doc_ids == expected.doc_ids
    words = LexicalBM25(DOCS, IDS).search(QUERIES, QUERY_IDS, 3)
    assert searcher.search(QUERIES, QUERY_IDS, 3, weights=Weights(0, 1, 0)).doc_ids == words.doc_ids
    vectors = [
        np.concatenate([block.embeddings for block in model.stream(texts, kind)])
        for texts, kind in ((DOCS, "document"), (QUERIES, "query"))
    ]
    dense = dense_search(vectors[0], IDS, vectors[1], QUERY_IDS, 5)
    assert searcher.search(QUERIES, QUERY_IDS, 5, weights=Weights(0, 0, 1)).doc_ids[:2] == dense.doc_ids[:2]


def test_parts_add_up_to_the_scores(searcher):
    terms, embeddings = searcher.encode_queries(QUERIES)
    weights = Weights(1, 0.3, 0.4)
    ranking = searcher.search_encoded(terms, embeddings, QUERY_IDS, 100, weights=weights)
    totals = [np.array([1, 0.3, 0.4]) @ of_query for of_query in searcher.parts(terms, embeddings)]
    np.testing.assert_allclose(totals, scores(ranking), atol=1e-6)
    assert searcher.model.weights == UNTUNED
    tuned = Searcher(searcher.model.with_weights(weights), searcher.index, searcher.words, searcher.embeddings)
    assert tuned.search(QUERIES, QUERY_IDS, 100)["q0"] == ranking["q0"]


@pytest.mark.parametrize("weights", [Weights(1, 0.3, 0), Weights(1, 0.3, 0.4)])
def test_what_is_excluded_is_not_found(searcher, weights):
    everything = searcher.search(QUERIES, QUERY_IDS, 3, weights=weights)
    first, second, third = everything.doc_ids[0]
    ranking = searcher.search(QUERIES, QUERY_IDS, 2, weights=weights, exclude={"q0": first})
    assert ranking.doc_ids[0] == [second, third]
    assert ranking.doc_ids[1] == everything.doc_ids[1][:2]


def test_explanations_add_up_to_the_score(searcher):
    ranking = searcher.search(["old cat"], ["q"], 100)
    for doc_id, score in ranking["q"]:
        contributions = searcher.explain("old cat", doc_id)
        assert sum(part.score for part in contributions) == pytest.approx(score, abs=1e-6)
    words = {part.term for part in searcher.explain("old cat", "d0") if part.kind == "word"}
    assert words == {"old", "cat"}
    kinds = [part.kind for part in searcher.explain("old cat", "d0", weights=Weights(0, 1, 0))]
    assert [kind for kind in kinds if kind != "latent"] == ["word", "word"]
    with pytest.raises(ValueError, match="nowhere"):
        searcher.explain("old cat", "nowhere")


@pytest.mark.slow
def test_it_is_saved_and_loaded(searcher, tmp_path):
    before = searcher.search(QUERIES, QUERY_IDS, 100)
    searcher.save(tmp_path / "a", with_retriever=True)
    loaded = Searcher.load(tmp_path / "a")
    assert repr(loaded).startswith("Searcher(") and len(loaded) == len(DOCS)
    assert loaded.model.weights == searcher.model.weights
    again = Searcher.load(
        tmp_path / "a", encoder=TokenEncoder(searcher.model.encoder.name, dtype="float32"), verify=False
    )
    after = again.search(QUERIES, QUERY_IDS, 100)
    assert after.doc_ids == before.doc_ids
    np.testing.assert_array_equal(after.scores, before.scores)
    again.save(tmp_path / "a")  # over what it reads from
    assert (
        Searcher.load(tmp_path / "a").search(QUERIES, QUERY_IDS, 2).doc_ids
        == Searcher.load(tmp_path / "a").search(QUERIES, QUERY_IDS, 2).doc_ids
    )


def test_words_of_another_analyzer_and_damage_are_refused(searcher, tmp_path, monkeypatch):
    searcher.save(tmp_path)
    monkeypatch.setattr("lib.searcher.ANALYZER", "another")
    with pytest.raises(ValueError, match=r"another.*anew"):
        Searcher.load(tmp_path)
    monkeypatch.undo()
    (file,) = tmp_path.glob("words-*.json")
    file.write_text(json.dumps(["x"]))
    with pytest.raises(ValueError, match="words"):
        Searcher.load(tmp_path)


@pytest.mark.parametrize(
    "stored",
    [None, b"", np.zeros((len(DOCS), 8)), np.zeros((len(DOCS) - 1, 8), np.float32), np.zeros(len(DOCS), np.float32)],
)
def test_damaged_embeddings_are_found_without_checksums(searcher, tmp_path, stored):
    searcher.save(tmp_path)
    (path,) = tmp_path.glob("embeddings-*.npy")
    if not isinstance(stored, np.ndarray):
        path.write_bytes(path.read_bytes()[:-40] if stored is None else stored)
    else:
        np.save(path, stored)
    with pytest.raises(ValueError, match="copy it again"):
        Searcher.load(tmp_path, encoder=searcher.model.encoder, verify=False)


def test_equal_embeddings_have_equal_scores():
    rng = np.random.default_rng(0)
    for n in (3, 7, 100):
        rows, vector = rng.normal(size=(n, 384)).astype(np.float32), rng.normal(size=384).astype(np.float32)
        found = products(np.concatenate([rows, rows[:2], rows]), vector)
        np.testing.assert_array_equal(found[:n], found[n + 2 :])
        np.testing.assert_array_equal(found[:2], found[n : n + 2])
        np.testing.assert_allclose(found[:n], rows @ vector, rtol=1e-4, atol=1e-4)
    assert products(np.zeros((3, 0), np.float32), np.zeros(0, np.float32)).tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="one retriever"):
        products(rows, vector[:-1])


@pytest.mark.parametrize("weights", [Weights(1, 0.3, 0.5), Weights(1, 0.3, 0)])
def test_an_exclusion_for_queries_that_are_not_asked_is_none(searcher, recwarn, weights):
    excluded = searcher.search(QUERIES[:1], ["only"], 3, weights=weights, exclude={"another": [IDS[0]]})
    assert excluded.doc_ids == searcher.search(QUERIES[:1], ["only"], 3, weights=weights).doc_ids
    assert not recwarn


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ((-1, 0, 1), ValueError, "latents is -1"),
        ((0, 0, 0), ValueError, "All weights are 0"),
        ((1, float("nan"), 0), ValueError, "words is nan"),
        ((1, 0, float("inf")), ValueError, "dense is inf"),
        ((1, "0.3", 0), TypeError, "words is '0.3'"),
    ],
)
def test_weights_that_are_none(weights, error, message):
    with pytest.raises(error, match=message):
        Weights(*weights)


def test_bad_input(searcher, model):
    for call, error, message in (
        (lambda: Searcher.build(model, iter(DOCS), IDS), TypeError, r"list\(texts\)"),
        (lambda: Searcher.build(model, "text", IDS), TypeError, "texts"),
        (lambda: Searcher.build(model, DOCS, IDS[:-1]), ValueError, "ids"),
        (lambda: Searcher.build(model, ["", "the"], ["a", "b"]), ValueError, "word"),
        (lambda: searcher.search("text", ["q"]), TypeError, "queries"),
        (lambda: searcher.search(["a"], ["q", "r"]), ValueError, "query_ids"),
        (lambda: searcher.search(["a"], ["q"], 0), ValueError, "k is 0"),
        (lambda: searcher.search(["a"], ["q"], weights=(1, 1, 1)), TypeError, "Weights"),
        (lambda: model.with_weights((1, 1, 1)), TypeError, "Weights"),
    ):
        with pytest.raises(error, match=message):
            call()


def test_a_retriever_without_embeddings_is_searched_without_them(searcher):
    bare = Searcher(searcher.model, searcher.index, searcher.words, searcher.embeddings[:, :0])
    terms, embeddings = searcher.encode_queries(QUERIES)
    with pytest.raises(ValueError, match=r"Weights\(dense=0\)"):
        bare.search_encoded(terms, embeddings[:, :0], QUERY_IDS)
    ranking = bare.search_encoded(terms, embeddings[:, :0], QUERY_IDS, weights=Weights(dense=0))
    assert len(ranking.doc_ids[0]) == len(DOCS)
