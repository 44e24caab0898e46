"""The grown corpus and the search benchmark, with the engines that are always installed."""

import numpy as np
import pandas as pd
import pytest
from conftest import TEXTS
from scipy.sparse import vstack

from lib.benchmarks import grown, search, search_peers
from lib.benchmarks.grown import encode_sentences, grow, sentences_of
from lib.benchmarks.search import grown_corpus, latencies, real_corpus
from lib.benchmarks.search_peers import BARE, BY_IDF, CODED, EXACT, PRUNED, Engine, engines
from lib.data.collection import load_collection
from lib.interop.conversion import to_sparse_encoder
from lib.latent_terms import LatentTerms
from lib.learned.retriever import LearnedRetriever

TEXT = [f"{text}. Another sentence. A third one!" for text in TEXTS if text.strip()]


@pytest.fixture(scope="module")
def model(tiny_encoder, tiny_sae) -> LatentTerms:
    return LatentTerms(tiny_encoder, tiny_sae)


@pytest.fixture(scope="module")
def sentences(model):
    return encode_sentences(model, ["", *TEXT])


def test_a_corpus_is_grown_under_the_models_own_phi(model, sentences):
    logarithms = encode_sentences(LatentTerms(model.encoder, model.sae, phi="log1p"), ["", *TEXT])
    np.testing.assert_allclose(logarithms.pooled.toarray(), sentences.pooled.toarray(), rtol=1e-4)
    (by_log, _), (by_root, _) = next(grow(logarithms, 5)), next(grow(sentences, 5))
    np.testing.assert_allclose(np.expm1(by_log.data), by_root.data**2, rtol=1e-4)


def scores(corpus, row: int, doc_ids: list[str]) -> list[float]:
    """Our scores of documents: engines break ties in their own ways."""
    every = dict(corpus.index.search_one(corpus.queries[[row]], k=len(corpus.index)))
    return [every[doc_id] for doc_id in doc_ids]


def test_sentences():
    assert sentences_of("One. Two? (Three) is e.g. here!\n\nand four ") == [
        "One.",
        "Two?",
        "(Three) is e.g. here!",
        "and four",
    ]
    assert sentences_of(" \n\n ") == []


def test_a_sentence_holds_what_its_tokens_have(model, sentences):
    assert len(sentences.starts) == len(TEXT) + 1  # the empty text has no sentence
    assert sentences.starts[-1] == sentences.pooled.shape[0] == len(sentences.embeddings)
    first = model.encode_documents([sentences_of(TEXT[0])[0]])
    np.testing.assert_allclose(np.sqrt(sentences.pooled[[0]].toarray()), first.toarray(), rtol=1e-5)


def test_grown_documents_are_sums_of_sentences_of_two_texts(sentences, monkeypatch):
    monkeypatch.setattr(grown, "_ROWS", 8)
    blocks = list(grow(sentences, 20, seed=1))
    assert [terms.shape[0] for terms, _ in blocks] == [8, 8, 4]
    terms, embeddings = vstack([block for block, _ in blocks], format="csr"), np.concatenate([e for _, e in blocks])
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)
    assert terms.has_canonical_format
    longer = vstack([block for block, _ in grow(sentences, 33, seed=1)], format="csr")
    np.testing.assert_array_equal(longer[:20].toarray(), terms.toarray())
    other = vstack([block for block, _ in grow(sentences, 20, seed=2)], format="csr")
    assert (other.toarray() != terms.toarray()).any()
    # every document is made of whole sentences: its squares are their sum, with counts that are whole numbers
    counts, *_ = np.linalg.lstsq(sentences.pooled.toarray().T, terms[[0]].toarray()[0] ** 2, rcond=None)
    assert np.abs(sentences.pooled.toarray().T @ counts - terms[[0]].toarray()[0] ** 2).max() < 1e-4


def test_every_engine_finds_what_ours_finds(model, sentences, tmp_path, monkeypatch):
    monkeypatch.setattr(search_peers, "find_spec", lambda name: None)
    corpus, seconds = grown_corpus(model, sentences, TEXT[:4], 60)
    assert seconds > 0
    assert len(corpus.index) == 60
    made = {name: engine for name, engine, _ in engines(corpus, tmp_path, peers=True)}
    assert {EXACT, BARE, CODED, PRUNED, "scipy", "bm25s", "rank-bm25"} <= set(made)
    for row in range(4):
        assert made[EXACT].find(row, 10) == [doc_id for doc_id, _ in corpus.index.search_one(corpus.queries[[row]], 10)]
        for name, engine in made.items():
            if engine.same_as == EXACT and name not in (PRUNED, BY_IDF):
                tolerance = 0.01 if name == CODED else 1e-5
                found, wanted = (scores(corpus, row, one.find(row, 10)) for one in (engine, made[EXACT]))
                np.testing.assert_allclose(found, wanted, rtol=tolerance, err_msg=name)
    assert made[CODED].bytes < made[EXACT].bytes
    fewer = engines(corpus, tmp_path / "fewer", peers=True, without=["rank", "impact", "Seismic", "faiss"])
    assert [name for name, _, _ in fewer][-2:] == ["scipy", "bm25s"]
    assert set(dict(list_of(engines(corpus, tmp_path, peers=False)))) == {n for n in made if EXACT in n or n == BARE}


def test_peers_that_round_impacts_find_nearly_the_same(model, sentences, tmp_path):
    corpus, _ = grown_corpus(model, sentences, TEXT[:4], 60)
    named = engines(
        corpus, tmp_path, peers=True, without=["rank", "scipy", "bm25s", "faiss", "Seismic", "this package"]
    )
    made = {name: engine for name, engine, _ in named if name != BARE}
    rounding = [name for name in made if "8 bits" in name]
    assert len(rounding) == 2
    for name, engine in made.items():
        for row in range(4):
            wanted = scores(corpus, row, search_peers.ours(corpus, 1).find(row, 10))
            found = scores(corpus, row, engine.find(row, 10))
            np.testing.assert_allclose(found, wanted, rtol=0.02 if name in rounding else 1e-5, err_msg=name)
        assert engine.bytes > 0


def test_engines_are_left_out_by_the_names_in_the_table(model, sentences, tmp_path, monkeypatch):
    built = []
    monkeypatch.setattr(search_peers, "find_spec", lambda name: name == "seismic")
    monkeypatch.setattr(search_peers, "SeismicEngine", lambda *_, **__: built.append(1))
    corpus, _ = grown_corpus(model, sentences, TEXT[:2], 30)
    named = engines(corpus, tmp_path, True, without=["query_cut 10", "this", "bare", "scipy", "bm25"])
    assert [name for name, _, _ in named] == [
        "Seismic, query_cut 20",
        "Seismic, query_cut 40",
        "Seismic, query_cut all",
    ]
    assert built == [1]
    assert not list(engines(corpus, tmp_path, True, without=["Seismic", "this", "bare", "scipy", "bm25"]))


def list_of(found):
    return [(name, engine) for name, engine, _ in found]


def test_peers_without_query_weights_rank_by_sums_of_impacts(model, sentences, tmp_path):
    corpus, _ = grown_corpus(model, sentences, TEXT[:4], 60)
    once = corpus._replace(queries=corpus.queries.copy())
    once.queries.data[:] = 1 / corpus.index.idf[once.queries.indices]  # so that a latent counts its impact
    found, wanted = (
        scores(once, 0, one.find(0, 5)) for one in (search_peers.bm25s_sums(once), search_peers.ours(once, 1))
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    once.queries.data[:] = 1
    found, wanted = (
        scores(once, 0, one.find(0, 5)) for one in (search_peers.rank_bm25(once), search_peers.ours(once, 1))
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_grown_documents_of_a_learned_encoder_keep_its_largest_weights(model, sentences):
    split = [sentence for text in TEXT for sentence in sentences_of(text)]
    rows, queries = model.encode_documents(split), model.encode_queries(TEXT[:2])
    whole, pruned = (search.learned_corpus(rows, sentences.starts, queries, 30, top)[0] for top in (0, 3))
    for of_whole, of_pruned in zip(whole.terms(), pruned.terms(), strict=True):
        assert (np.diff(of_pruned.indptr) == 3).all() and (np.diff(of_whole.indptr) > 3).all()
        np.testing.assert_array_equal(of_pruned.max(axis=1).toarray(), of_whole.max(axis=1).toarray())
    assert pruned.index.n_postings == 90


@pytest.mark.slow
def test_the_bare_read_reads_every_posting(model, sentences):
    corpus, _ = grown_corpus(model, sentences, TEXT[:1], 60)
    (block,) = corpus.index._blocks
    total = search_peers._read(*block, corpus.queries.indices.astype(np.int64))
    touched = [slice(block.indptr[j], block.indptr[j + 1]) for j in corpus.queries.indices]
    expected = sum(
        block.docs[part].sum(dtype=np.float64) + block.impacts[part].sum(dtype=np.float64) for part in touched
    )
    assert total == pytest.approx(expected, rel=1e-4)
    assert search_peers.bare_read(corpus).find(0, 5) == []


def test_latencies(monkeypatch):
    asked = []
    made = {
        EXACT: Engine(lambda row, k: asked.append(row) or ["a", "b"][:k]),
        "half": Engine(lambda row, k: ["a", "c"][:k]),
        "other": Engine(lambda row, k: ["x"], same_as=""),
    }
    frame = latencies(made, n_queries=7, k=2, repeats=2).set_index("engine")
    assert asked == [*range(7)] * 3
    assert frame["recall"].tolist()[:2] == [1.0, 0.5]
    assert np.isnan(frame.loc["other", "recall"])
    assert (frame["ms_low"] <= frame["median_ms"]).all() and (frame["median_ms"] <= frame["ms_high"]).all()
    assert (frame["ms_low"] < frame["ms_high"]).all() and (frame["median_ms"] <= frame["p95_ms"]).all()


def test_engines_take_turns_in_another_order_each_time():
    asked = []
    made = {name: Engine(lambda row, k, name=name: asked.append(name) or ["a"]) for name in "abcd"}
    latencies(made, n_queries=1, k=1, repeats=9)
    turns = list(zip(*[iter(asked)] * 4, strict=True))
    assert len(turns) == 10 and all(sorted(turn) == list("abcd") for turn in turns)
    assert len(set(turns)) > 1


@pytest.mark.slow
def test_the_command_prints_and_writes_a_table(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(search_peers, "find_spec", lambda name: None)
    monkeypatch.setattr(LatentTerms, "load", lambda name: model)
    out = tmp_path / "search.csv"
    arguments = ["--collection", "limit/46", "--sizes", "30", "50", "--k", "5", "--queries", "3", "--peers-to", "30"]
    arguments += ["--real", "--learned", "mine"]
    converted = to_sparse_encoder(LatentTerms(model.encoder, model.sae, "max", "log1p"))
    converted[-1].top = (2, 3)
    monkeypatch.setattr(search, "_learned", lambda name: LearnedRetriever(converted))
    monkeypatch.setattr("sys.argv", ["search", *arguments, "--repeats", "1", "--out", str(out)])
    search.main()
    assert "median_ms" in capsys.readouterr().out
    rows = pd.read_csv(out)
    ours = rows[rows["terms"] == "latent terms"]
    assert ours.loc[ours["engine"] == BARE, "n_docs"].tolist() == [46, 30, 50]  # the collection itself comes first
    assert ours.loc[ours["engine"] == "scipy", "n_docs"].tolist() == [30]
    assert rows.loc[rows["engine"] == EXACT, "times_exact"].tolist() == [1] * 5
    learned = rows[rows["terms"] == "mine"]
    assert learned.loc[learned["engine"] == EXACT, "n_docs"].tolist() == [30, 50]


@pytest.mark.slow
def test_a_real_corpus_is_the_collection_itself(model):
    collection = load_collection("limit/46")
    corpus, _ = real_corpus(model, collection, collection.query_texts[:3])
    index = model.index(model.encode_documents(collection.doc_texts), collection.doc_ids)
    assert corpus.queries.shape == (3, model.sae.width)
    for row in corpus.queries:
        assert corpus.index.search_one(row, 46) == index.search_one(row, 46)
    assert sum(block.shape[0] for block in corpus.terms()) == len(corpus.embeddings) == 46
    np.testing.assert_allclose(np.linalg.norm(corpus.embeddings, axis=1), 1, rtol=1e-5)


def test_what_a_corpus_cannot_be_grown_from(model):
    with pytest.raises(ValueError, match="no sentence"):
        encode_sentences(model, ["", " "])
