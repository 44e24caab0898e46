"""Collections that are encoded once, and the retrieval table from a folder of files to the numbers."""

import json
import math

import numpy as np
import pytest

import lib.studies.encoded
from lib.bm25.weighting import BM25Constants
from lib.data.collection import load_collection
from lib.encode.encoder import TokenEncoder
from lib.evaluation.baselines import dense_search
from lib.evaluation.late_interaction import late_interaction_search
from lib.latent_terms import LatentTerms
from lib.studies.encoded import Terms, encode_collection, encode_together, latent_tokens
from lib.studies.retrieval import SYSTEMS, Run, retrieval_table
from lib.support.store import Store


@pytest.fixture
def beir_folder(tmp_path):
    """Four documents, two of them answers, one query that is itself a document (as in ArguAna)."""
    folder = tmp_path / "little"
    (folder / "qrels").mkdir(parents=True)
    docs = {"d1": "the cat sat", "d2": "a dog ran far", "d3": "", "d4": "the sun and the moon"}
    queries = {"q1": "cat", "d4": "the sun and the moon"}
    for name, texts in (("corpus", docs), ("queries", queries)):
        lines = [json.dumps({"_id": id_, "title": "", "text": text}) for id_, text in texts.items()]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\nd4\td2\t1\n")
    return folder


def passes(monkeypatch) -> list[str]:
    """Return a list that grows by the kind of the texts with every pass over texts."""
    kinds, stream_layers = [], TokenEncoder.stream_layers

    def counted(self, texts, layers, kind="document", **settings):
        kinds.append(kind)
        return stream_layers(self, texts, layers, kind, **settings)

    monkeypatch.setattr(TokenEncoder, "stream_layers", counted)
    return kinds


@pytest.fixture
def model(tiny_encoder, tiny_sae):
    return LatentTerms(tiny_encoder, tiny_sae)


def test_encoding_is_taken_from_the_store(model, beir_folder, tmp_path, monkeypatch):
    collection, store = load_collection(str(beir_folder)), Store(tmp_path / "store")
    first = encode_collection(model, collection, store)
    np.testing.assert_array_equal(first.doc_terms.toarray(), model.encode_documents(collection.doc_texts).toarray())
    assert first.doc_terms[[2]].nnz == 0  # d3 is empty
    assert first.firings.sum() > 0
    monkeypatch.setattr(TokenEncoder, "stream_layers", None)  # a second encoding would call it
    again = encode_collection(model, collection, store)
    np.testing.assert_array_equal(again.query_terms.toarray(), first.query_terms.toarray())
    np.testing.assert_array_equal(again.doc_embeddings, first.doc_embeddings)


@pytest.mark.slow
def test_models_of_one_retriever_read_a_collection_together(model, beir_folder, tmp_path, monkeypatch):
    collection = load_collection(str(beir_folder))
    models = [model, LatentTerms(model.encoder, model.sae.with_k(2)), LatentTerms(model.encoder, model.sae.with_k(1))]
    alone = [encode_collection(own, collection, Store(tmp_path / "alone")) for own in models]
    monkeypatch.setattr(lib.studies.encoded, "SHARD", 3)
    store, kinds = Store(tmp_path / "store"), passes(monkeypatch)
    encode_together(models[:1], collection, store)
    encode_together(models, collection, store)
    assert kinds == ["query", "document", "document"] * 2  # the second time for the two that were missing
    kinds.clear()
    for own, expected in zip(models, alone, strict=True):
        together = encode_collection(own, collection, store)
        np.testing.assert_allclose(together.doc_terms.toarray(), expected.doc_terms.toarray(), atol=1e-4)
        np.testing.assert_array_equal(together.query_terms.toarray(), expected.query_terms.toarray())
        np.testing.assert_array_equal(together.firings, expected.firings)
    assert not kinds


def test_models_of_different_retrievers_do_not_read_together(model, beir_folder, tmp_path):
    other = LatentTerms(model.encoder.at(1), model.sae)
    with pytest.raises(ValueError, match="layer 1"):
        encode_together([model, other], load_collection(str(beir_folder)), Store(tmp_path))


def test_late_interaction_reads_the_documents_in_the_same_pass(model, beir_folder, tmp_path, monkeypatch):
    collection, store, kinds = load_collection(str(beir_folder)), Store(tmp_path / "store"), passes(monkeypatch)
    encoded = encode_collection(model, collection, store, late=3)
    assert kinds.count("document") == 1
    sides = (collection.doc_texts, collection.doc_ids, collection.query_texts, collection.query_ids)
    alone = late_interaction_search(model.encoder, *sides, k=3)
    assert encoded.late.doc_ids == alone.doc_ids
    kinds.clear()
    assert encode_collection(model, collection, store, late=3).late.doc_ids == alone.doc_ids
    fewer = encode_collection(model, collection, store, late=2).late
    assert fewer.doc_ids == [row[:2] for row in alone.doc_ids]
    np.testing.assert_array_equal(encode_collection(model, collection, store).doc_embeddings, encoded.doc_embeddings)
    assert not kinds  # all of it is kept


@pytest.mark.slow
def test_shards_of_a_collection_make_the_whole_and_are_kept_one_by_one(model, beir_folder, tmp_path, monkeypatch):
    collection = load_collection(str(beir_folder))
    whole = encode_collection(model, collection, Store(tmp_path / "whole"), late=2)
    monkeypatch.setattr(lib.studies.encoded, "SHARD", 3)
    store, read = Store(tmp_path / "store"), Terms.read

    def cut_short(self, block):
        if len(block.states.offsets) == 2:  # the second shard: one document
            raise KeyboardInterrupt
        return read(self, block)

    monkeypatch.setattr(Terms, "read", cut_short)
    with pytest.raises(KeyboardInterrupt):
        encode_collection(model, collection, store, late=2)
    kept = {path: path.stat().st_mtime_ns for path in store.folder.iterdir()}
    assert len(kept) == 3  # terms, embeddings and late interaction of the first three documents
    monkeypatch.setattr(Terms, "read", read)
    sharded = encode_collection(model, collection, store, late=2)
    assert kept.items() <= {path: path.stat().st_mtime_ns for path in store.folder.iterdir()}.items()
    assert sharded.late.doc_ids == whole.late.doc_ids
    np.testing.assert_allclose(sharded.doc_terms.toarray(), whole.doc_terms.toarray(), atol=1e-4)
    np.testing.assert_array_equal(sharded.firings, whole.firings)
    assert sharded.doc_embeddings.shape == whole.doc_embeddings.shape


@pytest.mark.slow
def test_retrieval_table_of_an_unseen_folder(model, beir_folder, tmp_path):
    summary, values, origin = retrieval_table(model, [str(beir_folder)], store=Store(tmp_path / "store"))
    assert set(summary["collection"]) == {"little/test"}
    assert set(summary["n_docs"]) == {4} and set(summary["n_queries"]) == {2}
    assert (summary["low"] <= summary["mean"]).all() and (summary["mean"] <= summary["high"]).all()
    # q1: only d1 holds "cat", rank 1, nDCG 1. d4, itself left out: no document shares a word with it, so the others
    # stand in their order, d1 0, d2 0, d3 0; d2 is at rank 2, nDCG 1 / log2(3). Mean of the two:
    lexical = summary[(summary["system"] == "lexical BM25") & (summary["measure"] == "nDCG@10")]
    assert lexical["mean"].item() == pytest.approx((1 + 1 / math.log2(3)) / 2)
    assert len(values) == 2 * 3  # queries x measures
    assert np.isnan(summary.loc[summary["system"] == "dense", "p"]).all()
    assert json.loads(json.dumps(origin))["collections"][0]["documents"] == 4


def test_retrieval_table_refuses_before_it_encodes(model, beir_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(TokenEncoder, "stream_layers", None)
    with pytest.raises(ValueError, match="little/test"):
        retrieval_table(model, [str(beir_folder), str(beir_folder)])
    with pytest.raises(ValueError, match="nowhere"):
        retrieval_table(model, [str(beir_folder), "nowhere"])
    (beir_folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\n")
    with pytest.raises(ValueError, match="little/test has one"):
        retrieval_table(model, [str(beir_folder)])


def test_latent_tokens_sum_the_activations_of_each_kind_of_token(model, tmp_path):
    matrix = latent_tokens(model, ["the cat sat", "the dog"], Store(tmp_path))
    assert matrix.shape == (model.sae.width, len(model.encoder.tokenizer))
    states = [block.states for block in model.encoder.stream(["the cat sat", "the dog"])]
    assert matrix.sum() == pytest.approx(sum(model.sae.encode(part).values.sum().item() for part in states), rel=1e-5)


def test_a_query_never_finds_itself(model, beir_folder, tmp_path):
    collection = load_collection(str(beir_folder))
    encoded = encode_collection(model, collection, Store(tmp_path / "store"), late=4)
    everything = dense_search(
        encoded.doc_embeddings, collection.doc_ids, encoded.query_embeddings, collection.query_ids
    )
    assert everything.doc_ids[collection.query_ids.index("d4")][0] == "d4"
    run = Run(collection, encoded, model.with_bm25(BM25Constants(1.5, 0.5)))
    for system in SYSTEMS:
        assert "d4" not in dict(run.ranking(system)["d4"]), system
