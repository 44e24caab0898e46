"""Latency against quality: the study on a tiny model, and its figure."""

import numpy as np
import pandas as pd
import pytest
from conftest import TEXTS

import lib.studies.latency
from lib.data.collection import Collection
from lib.latent_terms import LatentTerms
from lib.report.latency import latency_figure, latency_in_words
from lib.studies.latency import PRUNED, Setting, latency_study, quality, timings, word_corpus
from lib.studies.profiles import LatencySize
from lib.support.store import Store

DOCS = [f"{text}. Here is more of it. And an end!" for text in TEXTS if text.strip()]


@pytest.fixture
def collection(monkeypatch) -> Collection:
    doc_ids, query_ids = ([f"{kind}{i}" for i in range(len(DOCS))] for kind in "dq")
    qrels = {query_id: {doc_id: 1} for query_id, doc_id in zip(query_ids, doc_ids, strict=True)}
    made = Collection("tiny", "test", doc_ids, DOCS, query_ids, [text[:20] for text in DOCS], qrels, source="folder")
    monkeypatch.setattr(lib.studies.latency, "load_collection", lambda name: made)
    monkeypatch.setattr(lib.studies.latency, "find_spec", lambda name: None)
    return made


@pytest.fixture(scope="module")
def model(tiny_encoder, tiny_sae) -> LatentTerms:
    return LatentTerms(tiny_encoder, tiny_sae)


@pytest.mark.slow
def test_the_study_has_every_setting_once(model, collection, tmp_path):
    table, facts = latency_study(model, ["tiny"], LatencySize(5, 40, 2, 1), Store(tmp_path))
    assert [Setting(*row) for row in table[list(Setting._fields)].to_numpy().tolist()] == [
        *PRUNED,
        Setting("dense, every document"),
        Setting("lexical BM25"),
    ]
    assert (table["median_ms"] > 0).all()
    assert ((table["low"] <= table["nDCG@10"]) & (table["nDCG@10"] <= table["high"])).all()
    assert facts["n_docs"] == 40
    assert facts["postings_per_query"] > 0


def test_approximate_search_has_its_recall(model, collection, monkeypatch):
    monkeypatch.setattr(lib.studies.latency, "find_spec", lambda name: name == "seismic" or None)
    table, _ = timings(model, "tiny", LatencySize(5, 40, 2, 1, (1, 0)))
    assert table.loc[table["kind"] == "Seismic", "query_top"].tolist() == [1, 0]
    one, every = table.loc[table["kind"] == "Seismic", "recall"]
    assert 0 < one < every == 1  # one latent of a query chooses the documents, or all do
    assert table.loc[table["kind"] != "Seismic", "recall"].isna().all()


@pytest.mark.slow
def test_quality_is_the_mean_of_the_collections(model, collection, tmp_path, monkeypatch):
    ranked, rankings = [], lib.studies.latency.rankings
    monkeypatch.setattr(lib.studies.latency, "rankings", lambda *given: ranked.append(given) or rankings(*given))
    once, twice = (quality(model, ["tiny"] * n, store=Store(tmp_path)) for n in (1, 2))
    np.testing.assert_allclose(once["nDCG@10"], twice["nDCG@10"])
    assert ((twice["high"] - twice["low"]) < (once["high"] - once["low"]) + 1e-9).all()
    exact = once[once["kind"] == "exact"].iloc[0]
    others = once[once["kind"] != "exact"]
    np.testing.assert_allclose(others["difference"], others["nDCG@10"] - exact["nDCG@10"])
    assert others["difference"].between(others["difference_low"], others["difference_high"]).all()
    assert np.isnan(exact["difference"])
    with_limit = quality(model, ["tiny", "limit/46"], store=Store(tmp_path))
    pd.testing.assert_frame_equal(with_limit, once)  # limit is in no mean
    assert len(ranked) == 1  # then from the store
    index = model.index(model.encode_documents(DOCS), collection.doc_ids)
    found = index.search(model.encode_queries(collection.query_texts), collection.query_ids, 10)
    ranks = [docs.index(f"d{i}") if f"d{i}" in docs else None for i, docs in enumerate(found.doc_ids)]
    expected = np.mean([0 if rank is None else 1 / np.log2(rank + 2) for rank in ranks])
    assert exact["nDCG@10"] == pytest.approx(expected)


def test_grown_words():
    sentences = ["red wine grapes", "the red car", "blue cars drive", "wine"]
    index, queries = word_corpus(sentences, np.array([0, 2, 4]), ["Red unknown wine"], 50)
    assert len(index) == 50
    assert index.width == 6  # red, wine, grape, car, blue, drive: stemmed, without stop words
    assert queries.toarray().sum() == 2
    assert index.lengths.max() <= 6


def test_the_figure_and_the_words():
    kinds = [
        *PRUNED,
        Setting("Seismic", 0, 10),
        Setting("Seismic", 0, 0),
        Setting("dense, every document"),
        Setting("lexical BM25"),
    ]
    table = pd.DataFrame([kind._asdict() for kind in kinds])
    table["median_ms"] = np.linspace(3, 1, len(table))
    table["nDCG@10"] = np.linspace(0.5, 0.4, len(table))
    table["low"], table["high"] = table["nDCG@10"] - 0.012, table["nDCG@10"] + 0.012
    table["difference"] = table["nDCG@10"] - 0.5
    table["difference_low"], table["difference_high"] = table["difference"] - 0.003, table["difference"] + 0.003
    table["recall"] = [0.9 if kind.kind == "Seismic" else np.nan for kind in kinds]
    figure = latency_figure(table, 1000)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert {"latent terms, exact", "Seismic", "dense, every document", "lexical BM25"} <= set(texts)
    assert "1,000 documents" in figure.axes[0].get_xlabel()
    words = latency_in_words(table)
    assert "Exact search takes 3.00 ms" in words
    assert "'documents pruned' (400 latents a document, all a query)" in words  # -.006 +- .003; the next is -.012
    assert "Seismic, query_cut 10 finds 90.0%" in words
    table["difference_low"] = -0.6
    assert "No pruning that was tried" in latency_in_words(table)
