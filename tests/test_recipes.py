"""The recipes of CONTRIBUTING.md: the code of each is run as it stands and does what the recipe says."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_variants import CHECKS, run_check

from lib.bm25.index import BM25Index
from lib.bm25.pooling import PHIS, POOLINGS, apply_phi, pool, undo_phi
from lib.bm25.ranking import Ranking
from lib.encode.states import StoredStates
from lib.evaluation.fusion import FUSIONS, fuse
from lib.interop.conversion import to_sparse_encoder
from lib.interop.engines import ENGINES
from lib.latent_terms import LatentTerms
from lib.learned.models import KINDS
from lib.learned.pairs import Pairs
from lib.learned.train import FinetuneConfig, finetune
from lib.report.common import COLOURS
from lib.report.retrieval import retrieval_figure
from lib.sae.activations import ACTIVATIONS
from lib.sae.autoencoder import SparseAutoencoder
from lib.sae.trainer import train
from lib.sae.training import TrainingConfig
from lib.studies import profiles
from lib.studies.retrieval import SYSTEMS, retrieval_table
from lib.support.store import Store

TEXT = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text("utf-8")
RECIPES = {
    title: re.findall(r"```python\n(.*?)```", body, re.DOTALL)
    for title, body in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE)
}


REGISTRIES = (ACTIVATIONS, POOLINGS, PHIS, FUSIONS, ENGINES, SYSTEMS, COLOURS, KINDS)


@pytest.fixture(autouse=True)
def registries():
    """Give every registry back as it was."""
    before = [dict(registry) for registry in REGISTRIES]
    yield
    for registry, content in zip(REGISTRIES, before, strict=True):
        registry.clear()
        registry.update(content)


def follow(title: str) -> dict:
    """Run the code of a recipe; return what it defines."""
    names: dict = {"__name__": "recipe"}
    for block in RECIPES[title]:
        exec(block, names)
    return names


def test_every_recipe_is_short():
    wanted = {
        "An activation",
        "A pooling, or a φ",
        "A baseline system",
        "A fusion",
        "A study with its figure",
        "An engine",
        "A loss",
        "A learned retriever",
    }
    assert wanted <= set(RECIPES)
    for title in wanted:
        lines = sum(block.count("\n") for block in RECIPES[title])
        assert 0 < lines <= 60, title


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.usefixtures("one_thread")
def test_an_activation_passes_the_checks_of_every_other(check, tmp_path):
    follow("An activation")
    run_check(check, "peaks", tmp_path)


def test_an_activation(tmp_path):
    follow("An activation")
    generator = torch.Generator().manual_seed(0)
    config = TrainingConfig(24, 12, epochs=1, batch_tokens=64, activation="peaks", dead_tokens=1_000)
    sae = train(StoredStates([torch.randn(256, 8, generator=generator)]), config)
    sae.save(tmp_path)
    fresh = torch.randn(20, 8, generator=generator)
    codes, loaded = sae.encode(fresh), SparseAutoencoder.load(tmp_path).encode(fresh)
    assert torch.equal(codes.values, loaded.values)
    share = codes.values / codes.values.amax(dim=1, keepdim=True)
    assert ((share >= 0.25) | (share == 0)).all()
    assert (codes.values == 0).any()


def test_a_pooling_and_a_phi(tiny_encoder, tiny_sae):
    follow("A pooling, or a φ")
    indices, values = np.array([[0, 1], [0, 2]]), np.array([[1.0, 2.0], [3.0, 0.0]], np.float32)
    matrix = pool(indices, values, np.array([0, 2]), 4, "energy")
    assert matrix.toarray().tolist() == [[10.0, 4.0, 0.0, 0.0]]  # 1 + 9, 4
    np.testing.assert_allclose(undo_phi(apply_phi(matrix, "cbrt"), "cbrt").toarray(), matrix.toarray(), rtol=1e-5)
    model = LatentTerms(tiny_encoder, tiny_sae, pooling="energy", phi="cbrt")
    texts = ["the old cat sat", "a bird sang in the tree"]
    rows = model.encode_documents(texts).toarray()
    summed = LatentTerms(tiny_encoder, tiny_sae, phi="identity").encode_documents(texts).toarray()
    assert ((rows > 0) == (summed > 0)).all()
    encoder = to_sparse_encoder(model)
    np.testing.assert_allclose(encoder.encode_document(texts).to_dense().numpy(), rows, rtol=1e-4, atol=1e-5)


def test_a_fusion():
    follow("A fusion")
    first = Ranking(["q"], [["a", "b", "c"]], [np.array([3.0, 2.0, 1.0])])
    second = Ranking(["q"], [["b", "c"]], [np.array([9.0, 1.0])])
    assert fuse([first, second], "borda counts")["q"] == [("b", 4.0), ("a", 3.0), ("c", 2.0)]  # 2 + 2, 3, 1 + 1


def test_an_engine():
    follow("An engine")
    rng = np.random.default_rng(0)
    from scipy.sparse import csr_array

    docs = csr_array(rng.random((20, 12), np.float32) * (rng.random((20, 12)) < 0.4))
    queries = csr_array(rng.random((3, 12), np.float32) * (rng.random((3, 12)) < 0.4))
    index = BM25Index.build(docs, [f"d{i}" for i in range(20)])
    query_ids = ["q0", "q1", "q2"]
    ranking, exact = ENGINES["dictionary"](index).search(queries, query_ids, 5), index.search(queries, query_ids, 5)
    for query_id in query_ids:
        assert [doc for doc, _ in ranking[query_id]] == [doc for doc, _ in exact[query_id]]
        np.testing.assert_allclose([s for _, s in ranking[query_id]], [s for _, s in exact[query_id]], rtol=1e-5)


def test_a_loss(tiny_encoder, tiny_sae):
    loss_of = follow("A loss")["ActivityLoss"]
    encoder = to_sparse_encoder(LatentTerms(tiny_encoder, tiny_sae))
    features = encoder.preprocess(["the old cat", "dog"])
    loss = loss_of(encoder, 0.5)([features])["activity"]
    rows = encoder.encode_document(["the old cat", "dog"]).to_dense()
    torch.testing.assert_close(loss, 0.5 * rows.sum(dim=1).mean(), rtol=1e-4, atol=1e-5)


@pytest.fixture
def beir_folder(tmp_path):
    """A collection of three documents and two queries on disk."""
    folder = tmp_path / "animals"
    (folder / "qrels").mkdir(parents=True)
    texts = {"a": "the old cat sat on a mat", "b": "a bird sang in the tree", "c": "the dog ran"}
    queries = {"q1": "cat on the mat", "q2": "bird in a tree"}
    for name, rows in (("corpus", texts), ("queries", queries)):
        lines = [json.dumps({"_id": key, "title": "", "text": text}) for key, text in rows.items()]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\ta\t1\nq2\tb\t1\n")
    return str(folder)


@pytest.mark.slow
def test_a_baseline_system(tiny_encoder, tiny_sae, beir_folder, tmp_path):
    follow("A baseline system")
    model = LatentTerms(tiny_encoder, tiny_sae)
    summary, values, _ = retrieval_table(model, [beir_folder], store=Store(tmp_path / "store"))
    rows = summary[summary["system"] == "shared words"].set_index("measure")
    assert rows.loc["nDCG@10", "mean"] == 1.0  # three of the words of q1 are in a, all four of q2 in b
    assert (values["shared words"] == 1.0).all()
    legend = retrieval_figure(summary).legends[0]
    assert "shared words" in [text.get_text() for text in legend.get_texts()]


@pytest.mark.slow
def test_a_study_with_its_figure(tiny_encoder, tiny_sae, beir_folder, tmp_path, monkeypatch):
    model = LatentTerms(tiny_encoder, tiny_sae)
    monkeypatch.setattr(LatentTerms, "load", lambda dtype: model)
    monkeypatch.setattr(profiles, "start", lambda _: replace(profiles.SMOKE, model_collections=(beir_folder,)))
    monkeypatch.setattr(profiles.Profile, "figures_folder", tmp_path / "figures")
    monkeypatch.setenv("LATENT_TERMS_CACHE", str(tmp_path / "store"))
    table = follow("A study with its figure")["table"]
    counts = np.diff(
        model.encode_documents(["the old cat sat on a mat", "a bird sang in the tree", "the dog ran"]).indptr
    )
    assert table["median"].tolist() == [np.median(counts)]
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        f"lengths.{end}" for end in ("csv", "json", "png", "pdf")
    }


@pytest.mark.slow
def test_a_learned_retriever(tiny_encoder, tiny_sae, tmp_path):
    follow("A learned retriever")
    pairs = Pairs(["old cat", "red bird"], ["the old cat sat", "a red bird sang"])
    base, config = LatentTerms(tiny_encoder, tiny_sae), FinetuneConfig(batch_size=2, steps=1)
    model = finetune("summed-splare", pairs, tmp_path, base=base, config=config)
    assert model[-1].pooling_strategy == "sum_sqrt"
    assert json.loads((tmp_path / "finetuned.json").read_text())["run"]["kind"] == "SummedSplare"
