"""The studies of trained retrievers (70 to 73), whole, on a tiny model, and figures worked out by hand."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array
from test_learned import POSITIVES, QUERIES
from torch.testing import assert_close

import lib.studies.trained
from lib.data.collection import Collection
from lib.data.training_text import GivenText
from lib.learned.autoencoders import Bottleneck, Csr, CsrV2
from lib.learned.models import DenseControl, Splare, VocabularyHead
from lib.learned.pairs import Pairs
from lib.learned.teachers import TeacherScores
from lib.learned.train import load_finetuned
from lib.report.bottleneck import bottleneck_figure, bottleneck_in_words
from lib.report.csr import csr_figure, csr_in_words
from lib.report.helped import helped_in_words
from lib.report.splare import latency_figure, splare_figure, splare_in_words
from lib.report.trained import contrasts_figure, losses_figure, means_of
from lib.studies import names
from lib.studies.bottleneck import bottleneck_study
from lib.studies.csr import cell, chosen_csr, csr_study, truncated
from lib.studies.helped import contrasts, helped_study
from lib.studies.inputs import Setting
from lib.studies.profiles import PAPER, SMOKE
from lib.studies.splare import splare_study, untrained_readouts
from lib.studies.trained import (
    Bench,
    Data,
    Readout,
    codes_readout,
    dense_readout,
    trained_readout,
)
from lib.studies.trained_tables import (
    choose,
    contrasts_table,
    rates,
    results_of,
    systems_table,
)
from lib.support.store import Store

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]

SAE = {"tokens": 96, "width": 64, "k": 3, "epochs": 1, "batch_tokens": 16, "dead_tokens": 32}
SIZE = replace(
    SMOKE.learned,
    sae=replace(SMOKE.learned.sae, **SAE),
    pair_counts=(40,),
    batch_size=8,
    layers=(2, 3),
    widths=(64,),
    top=(5, 10),
    top_by_idf=(6, 10),
    doc_tops=(4,),
    width=64,
    k=4,
    ks_ablated=(8,),
    alphas=(0.1,),
    lambdas=(1.0,),
    ks=(2, 8),
    annealed_from=8,
    csr_batch=8,
    timed=replace(SMOKE.learned.timed, texts=24, n_docs=100, n_queries=3),
)


@pytest.fixture(scope="module")
def bench(tiny_encoder, tmp_path_factory) -> Bench:
    """Two splits of one collection of 24 documents, and its pairs with two negatives each and a teacher."""
    ids = [str(number) for number in range(24)]
    columns = (ids, POSITIVES, [f"q{i}" for i in ids], QUERIES, {f"q{i}": {i: 1} for i in ids}, "folder")
    collections = [Collection("made", split, *columns) for split in ("test", "dev")]
    pairs = Pairs(QUERIES, POSITIVES, [[POSITIVES[i - 1], POSITIVES[i - 2]] for i in range(24)])
    scores = np.tile(np.array([2, 1, 0], np.float32), (24, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lib.studies.trained, "native_dtype", lambda device: "float32")
        setting = Setting(SIZE.sae, tiny_encoder, GivenText(POSITIVES), "made", ())
        bench = Bench(SIZE, setting, Store(tmp_path_factory.mktemp("store")), (collections[0],), (collections[1],))
        vars(bench)["data"] = Data(pairs, TeacherScores(scores, {}, pairs.digest))
        yield bench


KINDS = {
    "dense": DenseControl(),
    "splare": Splare(top=(5, 10)),
    "vocabulary": VocabularyHead(k=4, top=(5, 10)),
    "bottleneck": Bottleneck(width=64, k=4),
    "bottleneck of tokens": Bottleneck(width=64, k=4, pooling="max_log1p"),
    "csrv2": CsrV2(width=64, k=4, annealed_from=8),
}


@pytest.mark.parametrize("name", KINDS)
def test_rows_are_those_of_the_trained_model_and_nothing_is_trained_twice(name, bench, monkeypatch):
    kind, collection = KINDS[name], bench.collections[0]
    base = bench.model() if name == "splare" else bench.base
    before = set(bench.store.folder.glob("learned-*"))
    trained_readout(bench, name, kind, base, bench.config())
    (folder,) = (path for path in set(bench.store.folder.glob("learned-*")) - before if "front" not in path.name)
    monkeypatch.setattr(lib.studies.trained, "finetune", None)
    docs, queries = trained_readout(bench, name, kind, base, bench.config()).rows(collection)
    model = load_finetuned(folder)
    for rows, encode, texts in ((docs, model.encode_document, POSITIVES), (queries, model.encode_query, QUERIES)):
        expected = encode(texts, convert_to_tensor=True)
        expected = (expected.to_dense() if expected.is_sparse else expected).numpy()
        rows = rows.toarray() if isinstance(rows, csr_array) else rows
        np.testing.assert_allclose(rows, expected, atol=1e-5)


def test_of_a_frozen_retriever_only_the_autoencoder_is_kept(bench):
    kind, collection = Csr(width=64, k=4), bench.collections[0]
    readout = codes_readout(bench, "csr", kind, bench.base, bench.config())
    docs, _ = readout.rows(collection)
    assert docs.shape == (24, 64) and np.diff(docs.indptr).max() <= 4
    assert_close(np.sqrt(docs.multiply(docs).sum(axis=1)), np.ones(24, np.float32), rtol=1e-5, atol=0)
    assert readout.fvu(collection) > 0
    assert readout.identity == codes_readout(bench, "csr", kind, bench.base, bench.config()).identity
    other = codes_readout(bench, "csr", kind, bench.base, bench.config(seed=1))
    assert other.identity != readout.identity


def test_the_paper_profile_ranks_whole_collections_and_chooses_on_training_queries(monkeypatch, tmp_path):
    monkeypatch.setattr(lib.studies.trained, "setting", lambda *_: None)
    built_in = {"collections": ("pydoc/500/test",), "dev": ("pydoc/500/train",), "pairs": ("pydoc/500/train",)}
    size = replace(PAPER.learned, **built_in)
    here = lib.studies.trained.bench(replace(PAPER, learned=size), Store(tmp_path))
    assert len(here.collections[0].doc_ids) == 500 and len(here.dev[0].query_ids) <= size.dev_queries
    wrong = replace(size, dev=built_in["collections"])
    with pytest.raises(ValueError, match="test"):
        lib.studies.trained.bench(replace(PAPER, learned=wrong), Store(tmp_path))


def test_a_setting_is_chosen_on_training_queries(bench):
    kinds = rates(Csr(width=64, k=4), (1e-3, 1e-2), "head_learning_rate")
    best, tried = choose(bench, "csr", kinds, bench.base)
    assert list(tried.columns) == ["system", "head_learning_rate", "made/dev", "mean", "chosen"]
    assert tried["chosen"].sum() == 1 and best == kinds[int(tried["mean"].argmax())]


def made_readout(name: str, docs, queries) -> Readout:
    return Readout(name, {"made": name}, lambda collection: (csr_array(docs), csr_array(queries)))


def test_a_row_says_what_is_read_and_what_is_dead(bench):
    docs, queries = np.zeros((24, 5), np.float32), np.zeros((24, 5), np.float32)
    docs[:, 0], docs[:6, 1], queries[:, 0], queries[:12, 1] = 1, 2, 1, 1
    ids = [made_readout("few", docs, queries), made_readout("more", docs + 1, queries)]
    results = results_of(bench, ids)
    table = systems_table(bench, results, "few").set_index(["collection", "system"])
    few = table.loc[("made/test", "few")]
    # 24 + 6 postings; half of the queries read 24, half 30; three of five latents are in no document
    assert few[["doc_terms", "query_terms", "reads", "dead"]].tolist() == [30 / 24, 1.5, 27, 0.6]
    assert table.loc[(names.MEAN, "more"), "dead"] == 0
    assert np.isnan(few["difference"]) and table.loc[(names.MEAN, "more"), "difference"] <= 0


def test_named_pairs_are_compared_query_by_query():
    values = {
        "one": {"a": np.array([1.0, 0, 1, 1]), "b": np.array([0.0, 0, 1, 1])},
        "two": {"a": np.array([0.5, 0.5]), "b": np.array([0.0, 0.5])},
    }
    table = contrasts_table(values, [("a", "b"), ("b", "a")]).set_index(["collection", "system"])
    assert table["difference"].tolist() == [0.25, -0.25, 0.25, -0.25, 0.25, -0.25]
    assert table.loc[("one", "a"), "p_holm"] == 1 and np.isnan(table.loc[(names.MEAN, "a"), "p"])


def test_embeddings_are_cut_and_scaled(bench):
    readout = dense_readout(bench, "dense", bench.reader)
    collection = bench.collections[0]
    whole, cut = readout.read(collection)[0], truncated(readout, 2).read(collection)[0]
    assert_close(cut, whole[:, :2] / np.linalg.norm(whole[:, :2], axis=1, keepdims=True))
    assert truncated(readout, 2).identity != truncated(readout, 3).identity


def test_cells_are_named_by_what_changes():
    assert [cell(False, False, False), cell(True, True, True)] == [names.CSR_FROZEN, names.CSRV2]
    assert cell(True, False, True) == "CSR, annealed and finetuned"


def test_csr(bench):
    tables, origin = csr_study(bench)
    table = means_of(tables["csr"])
    assert set(table["kind"]) >= {names.CSR_FROZEN, names.CSRV2, names.TRUNCATED, names.MATRYOSHKA, names.DENSE}
    assert len(table[table["kind"].str.startswith("CSR") & (table["k"] == 2)]) == 8  # the cells of the ablation
    assert table.loc[table["system"] == "CSR, 8", ["bytes"]].iloc[0].tolist() == [64]
    assert table.loc[table["kind"] == names.CSR_FROZEN, "median_ms"].gt(0).all()
    assert set(origin["chosen"]) == {names.MATRYOSHKA, names.CSR_FROZEN}
    assert "CSRv2, 2 less CSR, 2: " in csr_in_words(tables["csr"], tables["csr_contrasts"])
    for figure in (csr_figure(tables["csr"]), contrasts_figure(tables["csr_contrasts"])):
        plt.close(figure)


def test_splare_and_bottleneck(bench):
    tables, by_query, origin = splare_study(bench)
    whole = means_of(tables["splare"]).set_index("system")
    pruned = whole.loc[names.pruned(names.TRAINED_SPLARE, 5, 10)]
    assert pruned["reads"] < whole.loc[names.TRAINED_SPLARE, "reads"] and pruned["doc_terms"] <= 10
    assert set(origin["chosen"]) >= {names.TRAINED_SPLARE, names.TRAINED_WORDS, names.TRAINED_DENSE}
    assert set(tables["splare_layers"]["layer"]) == {2, 3} and f"{names.TRAINED_SPLARE}, layer 2" in by_query
    by_pairs = means_of(tables["splare_pairs"]).dropna(subset="n_pairs").set_index(["kind", "n_pairs"])
    fewest, most = sorted(by_pairs.index.unique("n_pairs"))
    assert most > fewest and by_pairs.loc[(names.TRAINED_DENSE, most), "difference"] != 0
    first = names.trained_on(names.TRAINED_SPLARE, int(fewest))
    assert first in set(tables["splare_pairs_contrasts"]["reference"]) and first in by_query
    tried = tables["splare_pairs_tried"]
    assert set(tried["n_pairs"]) == {most} and tried.groupby("system")["chosen"].sum().eq(1).all()
    name = names.trained_on(names.TRAINED_SPLARE, int(most))
    (rate,) = tried[tried["chosen"] & (tried["system"] == names.TRAINED_SPLARE)]["learning_rate"]
    assert f"learning_rate={rate}" in origin["chosen_by_number"][name]
    splare_figure(*(tables[f"splare_{name}"] for name in ("layers", "widths", "pairs", "pruning", "lengths")))
    latency_figure(tables["splare_latency"], tables["splare"])
    said = ("contrasts", "pairs_contrasts", "pruning", "latency")
    words = splare_in_words(*(tables[f"splare_{name}"] for name in said))
    assert f"{names.TRAINED_SPLARE} less {names.TRAINED_WORDS}: " in words

    joint, origin = bottleneck_study(bench)
    assert "rank=0" in origin["chosen"][names.TRAINED_DENSE]  # all of its weights are trained
    assert joint["bottleneck_tried"].groupby("system")["chosen"].sum().eq(1).all()
    assert origin["chosen"][names.CSR_FROZEN] == repr(replace(chosen_csr(bench)[0], k=4))
    table = means_of(joint["bottleneck"]).set_index("system")
    pd.testing.assert_series_equal(
        table.loc[names.TRAINED_SPLARE, ["mean", "reads"]], whole.loc[names.TRAINED_SPLARE, ["mean", "reads"]]
    )
    assert table.loc[[names.JOINT, names.CSR_FROZEN, names.AFTER_EMBEDDINGS], "fvu"].notna().all()
    assert len(means_of(joint["bottleneck_ablation"])) == 4
    bottleneck_figure(joint["bottleneck"], joint["bottleneck_ablation"])
    assert len(losses_figure(joint["bottleneck_losses"]).axes) == 3
    tables = (joint[name] for name in ("bottleneck", "bottleneck_contrasts", "bottleneck_ablation"))
    assert "alpha 0.1: " in bottleneck_in_words(*tables)
    plt.close("all")


def test_each_help_stands_beside_the_same_without_it(bench, monkeypatch):
    mined = Pairs(QUERIES, POSITIVES, [[POSITIVES[i - 1]] for i in range(24)])
    scores = TeacherScores(np.tile(np.array([0, 1], np.float32), (24, 1)), {}, mined.digest)
    monkeypatch.setattr(lib.studies.trained, "load_pairs", lambda name: replace(mined, negatives=[]))
    monkeypatch.setattr(lib.studies.trained, "mine_negatives", lambda pairs, n, store: mined)
    monkeypatch.setattr(lib.studies.trained, "teacher_scores", lambda pairs, teachers, store: scores)
    tables, origin = helped_study(bench)
    named = tables["helped_contrasts"].drop_duplicates(["system", "reference"])[["system", "reference"]]
    assert [*named.itertuples(index=False, name=None)] == contrasts(bench)
    systems = set(tables["helped"]["system"])
    assert {system for pair in contrasts(bench) for system in pair} <= systems
    assert origin["pairs"]["n_negatives"] == 0 and origin["pairs_with_negatives"] == mined.digest
    chosen = origin["chosen"]
    for system in (names.JOINT, names.JOINT_TOKENS):
        assert "started=False" in chosen[system] and "started=True" in chosen[names.helped(system, names.START)]
    tried = tables["helped_tried"]
    by_bm25 = {name for name in chosen if isinstance(chosen[name], dict)}
    by_idf = [names.pruned_by_idf(name, *bench.size.top_by_idf) for name in (names.BM25_OF_SPLARE, names.TUNED)]
    pruned = names.pruned(names.BM25_OF_SPLARE, *bench.size.top)
    assert by_bm25 == {names.BM25_OF_SPLARE, pruned, *by_idf}
    assert set(tables["helped_latency"]["system"]) > by_bm25
    assert set(tried["system"]) | by_bm25 == set(chosen) and tried.groupby("system")["chosen"].sum().eq(1).all()
    means = means_of(tables["helped"]).set_index("system")
    assert means.loc[[names.TRAINED_SPLARE, names.JOINT_SUMS, names.CSR_FROZEN], "fvu"].notna().all()
    assert means.loc[[names.TRAINED_WORDS, names.UNTRAINED_WORDS, names.DENSE], "fvu"].isna().all()
    whole, few = (means.loc[name, "reads"] for name in (names.TUNED, by_idf[1]))
    assert few < whole and means.loc[by_idf[1], "query_terms"] == 6 < means.loc[names.TUNED, "query_terms"]
    by_weight = next(each for each in untrained_readouts(bench) if each.name == names.TUNED)._replace(top=(6, 10))
    collection = bench.collections[0]
    assert (by_weight._replace(by_idf=True).rows(collection)[1] != by_weight.rows(collection)[1]).nnz
    for tops in ("", f", top {bench.size.top[0]} and {bench.size.top[1]}"):  # the same rows, ranked otherwise
        assert (
            means.loc[f"{names.BM25_OF_SPLARE}{tops}", "reads"] == means.loc[f"{names.TRAINED_SPLARE}{tops}", "reads"]
        )
    taught = means_of(tables["helped_contrasts"]).set_index(["system", "reference"])
    teacher = names.helped(names.TRAINED_DENSE, names.TEACHER)  # which prefers what does not answer
    assert taught.loc[(teacher, names.TRAINED_DENSE), "difference"] < 0
    assert f"{names.CSRV2_AT_ONCE}, 2 less {names.CSR_FROZEN}, 2: " in helped_in_words(
        tables["helped"], tables["helped_contrasts"]
    )
