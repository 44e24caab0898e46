"""Constants chosen on training queries: worked arithmetic, parity with the index and the measures, and refusals."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array, random_array

import lib.evaluation.tuning
import lib.studies.choice
from lib.bm25.index import BM25Index
from lib.bm25.ranking import Ranking
from lib.bm25.weighting import IDFS, PAPER, BM25Constants, Weights
from lib.data.collection import Collection, load_collection
from lib.evaluation.measures import evaluate, per_query
from lib.evaluation.tuning import GRID, check_training, ndcg_on_grid, tune_bm25, tune_weights
from lib.latent_terms import LatentTerms
from lib.studies.choice import choose, tune
from lib.studies.encoded import encode_collection
from lib.support.store import Store

B0, B1 = BM25Constants(1, 0), BM25Constants(1, 1)
# A long document, a short one and another; latent 0 stands in the first two.
LONG_SHORT = np.array([[3, 9, 0], [2, 0, 0], [0, 0, 1]], np.float32)


def collection_of(qrels: dict, doc_ids=("long", "short", "other"), name="made", split="train", **texts) -> Collection:
    doc_texts = texts.get("doc_texts", [f"text {doc}" for doc in doc_ids])
    query_texts = texts.get("query_texts", [f"query {query}" for query in qrels])
    return Collection(name, split, list(doc_ids), doc_texts, list(qrels), query_texts, qrels, "folder")


def asking_latent_0(n: int) -> csr_array:
    return csr_array(np.tile(np.array([[1, 0, 0]], np.float32), (n, 1)))


def test_worked_example():
    collection = collection_of({"q1": {"short": 1}, "q2": {"short": 1, "long": 2, "other": 0}})
    # k1 = 1, query = latent 0; avgdl = (12 + 2 + 1) / 3 = 5
    #   b = 0: long 3 * 2 / (3 + 1) = 1.5 before short 2 * 2 / (2 + 1) = 1.33, other 0
    #   b = 1: short 2 * 2 / (2 + 2/5) = 1.67 before long 3 * 2 / (3 + 12/5) = 1.11, other 0
    # nDCG of q1: short at rank 2, 1 / log2(3); at rank 1, 1
    # of q2: the best order is long, short: 2 + 1 / log2(3); with b = 1 it is 1 + 2 / log2(3)
    values = ndcg_on_grid(collection, csr_array(LONG_SHORT), asking_latent_0(2), [B0, B1])
    second = 1 / math.log2(3)
    expected = [[second, 1], [1, (1 + 2 * second) / (2 + second)]]
    np.testing.assert_allclose(values, expected, rtol=1e-12)
    best, table = tune_bm25([(collection, csr_array(LONG_SHORT), asking_latent_0(2))], [B0, B1])
    assert best == B1  # (1 + 0.860) / 2 > (0.631 + 1) / 2
    assert list(table.columns) == ["k1", "b", "idf", "made/train", "mean"]
    np.testing.assert_allclose(table["mean"], np.mean(expected, axis=1))
    assert table[["k1", "b", "idf"]].values.tolist() == [[1, 0, "lucene"], [1, 1, "lucene"]]


def test_each_collection_has_one_vote_and_the_first_of_equals_wins():
    few = collection_of({f"q{i}": {"short": 1} for i in range(2)}, name="few")
    many = collection_of({f"q{i}": {"long": 1} for i in range(6)}, name="many")
    encoded = [(c, csr_array(LONG_SHORT), asking_latent_0(len(c.query_ids))) for c in (few, many)]
    for grid in ([B1, B0], [B0, B1]):  # over the queries together, b = 0 would win both
        best, table = tune_bm25(encoded, grid)
        assert best == grid[0]
        np.testing.assert_allclose(table["mean"], (1 + 1 / math.log2(3)) / 2)
    assert tune_bm25(encoded[:1], [B0, B1])[0] == B1
    assert tune_bm25(encoded[1:], [B1, B0])[0] == B0


@pytest.mark.parametrize("best", [BM25Constants(0.5, 0.0), BM25Constants(2, 1), BM25Constants(8, 0.5, "robertson")])
def test_the_constants_that_made_the_judgements_are_found(best):
    """Relevant is what an index with known constants ranks first; on the grid only they have nDCG 1."""
    rng = np.random.default_rng(0)
    docs = csr_array(rng.gamma(0.3, 2.0, (300, 20)) * (rng.random((300, 20)) < 0.5) * rng.gamma(1, 1, (300, 1)))
    queries = csr_array(rng.random((60, 20)) * (rng.random((60, 20)) < 0.4))
    doc_ids, query_ids = [f"d{i}" for i in range(300)], [f"q{i}" for i in range(60)]
    index = BM25Index.build(docs, doc_ids, best)
    ranking = index.search(queries, query_ids, k=1)
    qrels = {query: {row[0]: 1} for query, row in zip(query_ids, ranking.doc_ids, strict=True)}
    grid = [BM25Constants(k1, b, idf) for idf in IDFS for k1 in (0.5, 2, 8) for b in (0, 0.5, 1)]
    found, table = tune_bm25([(collection_of(qrels, doc_ids), docs, queries)], grid)
    assert found == best
    assert (table["mean"] == 1).sum() == 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_values_are_those_of_the_index_and_the_measures(monkeypatch, seed):
    """With ties, equal documents, a query without terms, absent documents, grades of every sign, and own documents."""
    rng = np.random.default_rng(seed)
    n, width = int(rng.integers(12, 40)), int(rng.integers(2, 12))
    monkeypatch.setattr(
        lib.evaluation.tuning, "_CHUNK", int(rng.integers(1, 5 * width))
    )  # from one to five documents at once
    whole = csr_array(rng.poisson(0.4, (n, width)), dtype=np.float32)
    docs = whole if seed % 2 else csr_array(random_array((n, width), density=0.3, rng=rng, dtype=np.float32))
    queries = rng.poisson(0.6, (9, width)).astype(np.float32)
    queries[4] = 0
    doc_ids = [f"d{i}" for i in range(n)]
    query_ids = ["d3", "d1", *(f"q{i}" for i in range(7))]
    qrels = {
        query: {str(doc): int(rng.integers(-1, 4)) for doc in rng.choice([*doc_ids, "gone"], 11, replace=False)}
        for query in query_ids
    }
    qrels["q1"] = {"d2": 0}
    qrels["q2"] = {"gone": 1, "d0": 1}
    with pytest.warns(UserWarning, match="never found"):
        collection = collection_of(
            qrels, doc_ids, doc_texts=[f"on {doc}" for doc in doc_ids], query_texts=[f"on {q}" for q in query_ids]
        )
    assert collection.self_matches == {"d3": "d3", "d1": "d1"}
    grid = [BM25Constants(k1, b, idf) for k1 in (0, 1.5, 8) for b in (0, 0.7, 1) for idf in IDFS]
    values = ndcg_on_grid(collection, docs, csr_array(queries), grid)
    for constants, row in zip(grid, values, strict=True):
        index = BM25Index.build(docs, doc_ids, constants)
        ranking = index.search(csr_array(queries), query_ids, k=n).exclude(collection.self_matches)
        expected = per_query(ranking, collection.qrels, ["nDCG@10"])["value"]
        np.testing.assert_allclose(row, expected, atol=1e-12)
    assert len(np.unique(values.mean(axis=1))) > 3  # the constants matter here


def test_the_grid_is_what_it_says():
    assert len(set(GRID)) == len(GRID)
    assert PAPER in GRID
    assert {constants.idf for constants in GRID} == set(IDFS) - {"none"}
    assert (min(c.k1 for c in GRID), max(c.k1 for c in GRID)) == (0.5, 12)
    assert (min(c.b for c in GRID), max(c.b for c in GRID)) == (0, 1)


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("made", "test", "made/test.*'test'.*Give a split"),
        ("pydoc", None, "pydoc"),
        ("train", "test", "train/test"),
        ("made", "trainset", "'trainset'"),
    ],
)
def test_test_queries_are_refused_before_any_work(monkeypatch, name, split, message):
    monkeypatch.setattr(lib.evaluation.tuning, "ndcg_on_grid", None)
    qrels = {"q1": {"short": 1}, "q2": {"long": 1}}
    train, other = collection_of(qrels), collection_of(qrels, name=name, split=split)
    terms = csr_array(LONG_SHORT), asking_latent_0(2)
    for collections in ([other], [train, other]):
        with pytest.raises(ValueError, match=message):
            tune_bm25([(collection, *terms) for collection in collections])


def test_train_and_dev_are_allowed_and_limit_is_not():
    qrels = {"q1": {"short": 1}, "q2": {"long": 1}}
    check_training([collection_of(qrels, split="train"), collection_of(qrels, split="dev")])
    with pytest.raises(ValueError, match="limit/46"):
        check_training([load_collection("limit/46")])


def test_what_else_is_refused():
    qrels = {"q1": {"short": 1}, "q2": {"long": 1}}
    collection, docs, queries = collection_of(qrels), csr_array(LONG_SHORT), asking_latent_0(2)
    with pytest.raises(ValueError, match="no collection"):
        tune_bm25([])
    with pytest.raises(ValueError, match="'made/train' is given twice"):
        tune_bm25([(collection, docs, queries)] * 2)
    with pytest.raises(ValueError, match="made/train"):
        tune_bm25([(collection_of({"q1": {"short": 1}}), docs, queries[:1])])
    with pytest.raises(ValueError, match="grid"):
        tune_bm25([(collection, docs, queries)], [])
    with pytest.raises(TypeError, match=r"list\(encoded.values\(\)\)"):
        tune_bm25({"made/train": (collection, docs, queries)})
    with pytest.raises(TypeError, match="grid is a BM25Constants"):
        tune_bm25([(collection, docs, queries)], BM25Constants())
    with pytest.raises(TypeError, match=r"BM25Constants\(k1"):
        tune_bm25([(collection, docs, queries)], [(8.0, 0.7)])
    with pytest.raises(ValueError, match=r"query matrix of made/train.*constant"):
        tune_bm25([(collection, docs, queries * np.float32(1e37))])
    with pytest.raises(ValueError, match=r"document 0 .*constant"):
        tune_bm25([(collection, docs * np.float32(3.5e37), queries)])
    with pytest.raises(ValueError, match="doc_ids holds 3"):
        tune_bm25([(collection, docs[:2], queries)])
    with pytest.raises(ValueError, match="query_ids holds 2"):
        tune_bm25([(collection, docs, queries[:1])])
    with pytest.raises(ValueError, match="3 latents and queries of 2"):
        tune_bm25([(collection, docs, queries[:, :2])])
    with pytest.raises(ValueError, match=r"query matrix of made/train.*-1\.0"):
        tune_bm25([(collection, docs, -queries)])
    with pytest.raises(TypeError, match="document matrix of made/train"):
        tune_bm25([(collection, LONG_SHORT, queries)])


@pytest.mark.parametrize(
    ("constants", "message"),
    [
        ({"k1": -1.0}, "k1 is -1.0"),
        ({"k1": math.nan}, "k1 is nan"),
        ({"k1": math.inf}, "k1 is inf"),
        ({"b": 1.5}, "b is 1.5"),
        ({"b": -0.1}, "b is -0.1"),
        ({"b": math.nan}, "b is nan"),
        ({"idf": "bm25"}, "idf is 'bm25'"),
    ],
)
def test_constants_are_checked_as_the_index_checks_them(constants, message):
    with pytest.raises(ValueError, match=message):
        BM25Constants(**constants)
    with pytest.raises(ValueError, match=message):
        BM25Index.build(csr_array(LONG_SHORT), ["a", "b", "c"], **constants)


def test_constants_are_numbers_and_equal_what_json_gives_back():
    for wrong in ("8", None, [8.0]):
        with pytest.raises(TypeError, match="k1"):
            BM25Constants(k1=wrong)
    constants = BM25Constants(np.float32(1.5), 1)
    assert json.loads(json.dumps(vars(constants))) == {"k1": 1.5, "b": 1.0, "idf": "lucene"}
    assert type(constants.k1) is type(constants.b) is float
    assert vars(BM25Constants()) == {"k1": 8.0, "b": 0.7, "idf": "lucene"}  # the paper's


@pytest.fixture
def folder(tmp_path):
    """Six documents and three queries, judged both for training and for testing."""
    folder = tmp_path / "little"
    (folder / "qrels").mkdir(parents=True)
    docs = ["the cat sat", "a dog ran far and ran on", "", "the sun and the red moon", "two cows", "a bird sang"]
    queries = ["red cat", "a dog and a bird", "cow"]
    for name, texts in (("corpus", docs), ("queries", queries)):
        lines = [json.dumps({"_id": f"{name[0]}{i}", "title": "", "text": text}) for i, text in enumerate(texts)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    for split in ("train", "test"):
        judged = "q0\tc0\t1\nq1\tc1\t2\nq1\tc5\t1\nq2\tc4\t1\n"
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    return folder


def test_tuning_a_model(folder, tiny_encoder, tiny_sae, tmp_path):
    model, store = LatentTerms(tiny_encoder, tiny_sae), Store(tmp_path / "store")
    choice = tune(model, [f"{folder}/train"], store)
    best, grid, summary = choice.bm25, choice.grid, choice.comparison
    assert list(grid.columns) == ["k1", "b", "idf", "little/train", "mean"]
    assert len(grid) == len(GRID)
    assert grid["mean"].max() == grid["mean"][GRID.index(best)]

    rows = summary.set_index("system")
    collection = load_collection(f"{folder}/train")
    docs = encode_collection(model, collection, store).doc_terms
    queries = encode_collection(model, collection, store).query_terms
    for constants, measured in ((best, rows["mean"]["tuned"]), (PAPER, rows["baseline_mean"]["tuned"])):
        index = model.with_bm25(constants).index(docs, collection.doc_ids)
        ranking = index.search(queries, collection.query_ids)
        assert measured == pytest.approx(evaluate(ranking, collection.qrels, ["nDCG@10"])["nDCG@10"])
        assert measured == pytest.approx(grid["mean"][GRID.index(constants)])
    assert set(rows.index) == {"dense", "tuned", "one pass"}
    best_row = choice.weights_grid["mean"].idxmax()
    assert vars(choice.weights) == choice.weights_grid.loc[best_row, ["latents", "words", "dense"]].to_dict()
    assert rows["mean"]["one pass"] == pytest.approx(choice.weights_grid["mean"].max())
    assert set(rows["collection"]) == {"little/train"}
    assert (rows["low"] <= rows["difference"]).all() and (rows["difference"] <= rows["high"]).all()


@pytest.mark.slow
def test_each_of_several_models_is_tuned_as_alone(folder, tiny_encoder, tiny_sae, tmp_path):
    models = [LatentTerms(tiny_encoder, tiny_sae), LatentTerms(tiny_encoder, tiny_sae.with_k(1))]
    names = [f"{folder}/train"]
    for model, choice in zip(models, choose(models, names, Store(tmp_path / "a")), strict=True):
        alone = tune(model, names, Store(tmp_path / "b"))
        assert (choice.bm25, choice.weights) == (alone.bm25, alone.weights)
        for name in ("grid", "weights_grid", "comparison"):
            pd.testing.assert_frame_equal(getattr(choice, name), getattr(alone, name))


def test_weights_are_chosen_by_the_measure_that_evaluate_gives():
    """On a collection with a graded query, one that is a document itself, and one without relevant documents."""
    rng = np.random.default_rng(0)
    ids = [f"d{i}" for i in range(30)]
    qrels = {"q0": {"d1": 2, "d5": 1, "gone": 1}, "d4": {"d4": 1, "d7": 1}, "q2": {"d3": 0}}
    collection = Collection("c", "train", ids, ["x"] * 30, list(qrels), ["x"] * 3, qrels, "folder")
    parts = rng.integers(0, 4, (3, 3, 30)).astype(np.float32)  # many ties
    grid = [Weights(1, 0, 0), Weights(0.5, 2, 1), Weights(0, 0, 1)]
    best, table = tune_weights([(collection, parts)], grid)
    for weights, value in zip(grid, table["c/train"], strict=True):
        totals = np.tensordot(list(vars(weights).values()), parts, (0, 1))
        orders = [np.argsort(-total, kind="stable") for total in totals]
        ranking = Ranking(list(qrels), [[ids[i] for i in order] for order in orders], [-np.sort(-t) for t in totals])
        ranking = ranking.exclude(collection.self_matches)
        assert evaluate(ranking, qrels, ["nDCG@10"])["nDCG@10"] == pytest.approx(value)
    assert best == grid[table["mean"].argmax()]


@pytest.mark.parametrize(
    ("grid", "error", "message"),
    [([], ValueError, "grid"), ([(1, 0, 0)], TypeError, "Weights"), (None, TypeError, "grid")],
)
def test_a_grid_of_weights_that_is_none(folder, grid, error, message):
    with pytest.raises(error, match=message):
        tune_weights([(load_collection(f"{folder}/train"), [])], grid)
    with pytest.raises(ValueError, match="split 'test'"):
        tune_weights([(load_collection(f"{folder}/test"), [])])


def test_tuning_a_model_refuses_test_queries_before_it_encodes(folder, tiny_encoder, tiny_sae, monkeypatch):
    model = LatentTerms(tiny_encoder, tiny_sae)
    monkeypatch.setattr(lib.studies.choice, "encode_together", None)
    for names, message in (
        ([f"{folder}/train", f"{folder}/test"], "little/test"),
        ([str(folder)], "little/test"),
        (["nowhere/train"], "nowhere/train"),
        ([], "no collection"),
    ):
        with pytest.raises(ValueError, match=message):
            tune(model, names)
