"""Every engine is given the index's numbers, and finds its documents with its scores, to the precision it stores."""

import json
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array, vstack

import lib.bm25.index
import lib.bm25.postings
import lib.bm25.search
import lib.interop.engines.local
from lib.bm25.index import BM25Index
from lib.bm25.ranking import Ranking
from lib.interop.engines import ENGINES, TARGETS, Engine, Target, request, rounding_loss, write
from lib.interop.engines.vectors import documents, query_vectors

N_DOCS, N_QUERIES, WIDTH = 70, 9, 40
BLOCK_ROWS = 32  # so that the index has three blocks
LUCENE = 2.0**-8  # FeatureField keeps 9 significant bits, and cuts the rest off
FLOAT32 = 1e-6
ODD = ['"quoted"', "naïve ☂", "two words", "back\\slash", "line\nbreak", "%", "ж", "0"]


def terms(n: int, seed: int, density: float = 0.3, width: int = WIDTH) -> csr_array:
    rng = np.random.default_rng(seed)
    return csr_array(rng.gamma(2, 2, (n, width)) * (rng.random((n, width)) < density), dtype=np.float32)


def ids(n: int, prefix: str = "d") -> list[str]:
    return [f"{prefix}{i}" for i in range(n)]


@pytest.fixture(scope="module")
def index():
    """Three blocks; documents 3 and 64 have no latent, 5 and 6 are equal; ids that files must escape."""
    matrix = terms(N_DOCS, seed=1).tolil()
    matrix[[3, 64]] = 0
    matrix[6] = matrix[5]
    with pytest.MonkeyPatch.context() as patch:
        for module in (lib.bm25.index, lib.bm25.postings, lib.bm25.search):
            patch.setattr(module, "BLOCK_ROWS", BLOCK_ROWS, raising=False)
        built = BM25Index.build(csr_array(matrix), ODD + ids(N_DOCS)[len(ODD) :])
        assert len(built._blocks) == 3
        yield built


@pytest.fixture(scope="module")
def queries():
    """Query 2 has no latent."""
    matrix = terms(N_QUERIES, seed=2).tolil()
    matrix[2] = 0
    return csr_array(matrix)


def exact(index: BM25Index, queries: csr_array) -> np.ndarray:
    """Our scores of all documents, float32 [n_queries, n_docs]."""
    ranking = index.search(queries, ids(queries.shape[0], "q"), len(index), threads=1)
    scores = np.empty((queries.shape[0], len(index)), np.float32)
    for row, (docs, doc_scores) in enumerate(zip(ranking.doc_ids, ranking.scores, strict=True)):
        scores[row, [index.doc_ids.index(doc) for doc in docs]] = doc_scores
    return scores


def check_ranking(ranking: Ranking, index: BM25Index, queries: csr_array, k: int, rtol: float) -> None:
    """Assert that `ranking` holds k documents of the best scores, with these scores, to `rtol` of each."""
    assert ranking.query_ids == ids(queries.shape[0], "q")
    for row, scores in enumerate(exact(index, queries)):
        hits = ranking[f"q{row}"]
        best = np.sort(scores[scores > 0])[::-1][:k]
        assert len(hits) == len(best)
        ours = [scores[index.doc_ids.index(doc)] for doc, _ in hits]
        np.testing.assert_allclose([score for _, score in hits], ours, rtol=rtol)  # the engine's score is ours
        np.testing.assert_allclose(ours, best, rtol=2 * rtol)  # and no better document is missing
        if len(best):
            surely = {index.doc_ids[i] for i in np.flatnonzero(scores > best[-1] * (1 + 2 * rtol))}
            assert surely <= {doc for doc, _ in hits}


# Engines that run here


@pytest.fixture
def client(request, tmp_path):
    """A client of the engine that a test names, or the folder of one that has none."""
    from pymilvus import MilvusClient
    from qdrant_client import QdrantClient

    if request.param != "milvus":
        yield QdrantClient(":memory:") if request.param == "qdrant" else tmp_path / "new" / "folder"
        return
    milvus = MilvusClient(str(tmp_path / "milvus.db"))
    yield milvus
    milvus.close()


@pytest.mark.slow  # importing the engines takes seconds
@pytest.mark.parametrize(
    ("name", "client", "settings"),
    [
        ("impact-index", "impact-index", {"algorithm": "maxscore"}),
        ("impact-index", "impact-index", {"algorithm": "wand"}),
        ("qdrant", "qdrant", {}),
        ("qdrant-edge", "qdrant-edge", {}),
        ("milvus", "milvus", {}),
    ],
    indirect=["client"],
)
def test_an_exact_engine_finds_the_same(index, queries, name, client, settings):
    engine = ENGINES[name](index, client)
    for k in (1, 10, 1000):
        check_ranking(engine.search(queries, ids(N_QUERIES, "q"), k, **settings), index, queries, k, FLOAT32)


@pytest.mark.parametrize("bits", [8, 16])
def test_impact_index_in_blocks_is_off_by_what_it_rounds(index, queries, tmp_path, bits):
    engine = ENGINES["impact-index"](index, tmp_path, bits=bits)
    step = max(rows.data.max() for rows in index.impact_rows() if rows.nnz) / (2**bits - 1)
    weights = query_vectors(index, queries).sum(axis=1)
    for algorithm in ("maxscore", "wand"):
        ranking = engine.search(queries, ids(N_QUERIES, "q"), 1000, algorithm=algorithm)
        for row, scores in enumerate(exact(index, queries)):
            for doc, score in ranking[f"q{row}"]:
                assert abs(score - scores[index.doc_ids.index(doc)]) <= weights[row] * step + 1e-5


def test_settings_that_impact_index_does_not_have(index, queries, tmp_path):
    with pytest.raises(ValueError, match="4"):
        ENGINES["impact-index"](index, tmp_path, bits=4)
    assert not any(tmp_path.iterdir())
    with pytest.raises(ValueError, match="bmw"):
        ENGINES["impact-index"](index, tmp_path).search(queries, ids(N_QUERIES, "q"), algorithm="bmw")


@pytest.mark.parametrize(("largest", "kind"), [(WIDTH, "SeismicIndex"), (WIDTH - 1, "SeismicIndexLV")])
def test_seismic_is_approximate_and_says_our_scores(largest, kind, monkeypatch):
    monkeypatch.setattr(lib.interop.engines.local, "_SEISMIC_WIDTH", largest)  # 65,536 lists take the engine seconds
    index, queries = BM25Index.build(terms(400, seed=3), ids(400)), terms(20, seed=4)
    engine = ENGINES["seismic"](index, n_postings=400, num_threads=1)
    assert type(engine._engine).__name__ == kind
    ranking = engine.search(queries, ids(20, "q"), 10)
    of_heaviest = engine.search(queries, ids(20, "q"), 10, query_cut=1)
    heaviest = query_vectors(index, queries).argmax(axis=1)
    impacts = vstack(list(index.impact_rows()), format="csr")
    recalls = []
    for row, scores in enumerate(exact(index, queries)):
        hits = ranking[f"q{row}"]
        of_hits = [scores[index.doc_ids.index(doc)] for doc, _ in hits]
        np.testing.assert_allclose([score for _, score in hits], of_hits, rtol=2.0**-11)
        best = {index.doc_ids[i] for i in np.argsort(-scores, kind="stable")[:10]}
        recalls.append(len(best & {doc for doc, _ in hits}) / 10)
        assert all(impacts[index.doc_ids.index(doc), heaviest[row]] > 0 for doc, _ in of_heaviest[f"q{row}"])
    assert np.mean(recalls) > 0.9


@pytest.mark.slow
def test_qdrant_edge_is_opened_again(index, tmp_path):
    from qdrant_edge import EdgeShard

    ENGINES["qdrant-edge"](index, tmp_path)._shard.close()
    shard = EdgeShard.load(str(tmp_path))
    (record,) = shard.retrieve([7], with_payload=False, with_vector=True)
    impacts = vstack(list(index.impact_rows()), format="csr")[[7]]
    assert dict(zip(record.vector["impacts"].indices, record.vector["impacts"].values, strict=True)) == pytest.approx(
        dict(zip(impacts.indices.tolist(), impacts.data.tolist(), strict=True))
    )


@pytest.mark.slow
def test_qdrant_edge_takes_no_folder_with_files(index, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="new folder"):
        ENGINES["qdrant-edge"](index, tmp_path)
    with pytest.raises(ValueError, match="threads"):
        ENGINES["qdrant-edge"](index, tmp_path / "new", threads=0)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_equal_scores_come_in_the_documents_order(tmp_path):
    index = BM25Index.build(csr_array(np.ones((6, 2), np.float32)), ids(6))
    engine = ENGINES["impact-index"](index, tmp_path)
    (docs,) = engine.search(csr_array(np.ones((1, 2), np.float32)), ["q"], 6).doc_ids
    assert docs == ids(6)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("impact_index", "impact-index"),
        ("seismic", "seismic"),
        ("qdrant_client.models", "qdrant"),
        ("qdrant_edge", "qdrant-edge"),
        ("pymilvus", "milvus"),
    ],
)
def test_an_engine_that_is_not_installed_is_named_with_its_extra(index, monkeypatch, module, name):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"{module} .*\[engines\]"):
        ENGINES[name](index, *([] if name == "seismic" else [None]))


def test_an_engine_is_one_class_and_one_entry(index, queries, monkeypatch):
    class Here(Engine):
        """Every document's impacts, one after the other."""

        name = "here"

        def find(self, latents, weights, k):
            scores = np.concatenate([(rows[:, latents] @ weights) for rows in self.index.impact_rows()])
            return [(i, scores[i]) for i in np.argsort(-scores, kind="stable")[:k] if scores[i] > 0]

    monkeypatch.setitem(ENGINES, "here", Here)
    ranking = ENGINES["here"](index).search(queries, ids(N_QUERIES, "q"), 10)
    check_ranking(ranking, index, queries, 10, FLOAT32)


# Files and requests, each with a reader of its own, made from the engine's documentation


def lucene(value: float) -> float:
    """What FeatureField keeps of a float32: its 17 upper bits."""
    return float((np.float32(value).view(np.uint32) >> 15 << 15).astype(np.uint32).view(np.float32))


def read_bulk(folder, settings) -> dict[str, dict[str, float]]:
    kind = json.loads((folder / "index.json").read_text("utf-8"))["mappings"]["properties"]["impacts"]
    assert kind == settings
    lines = (folder / "bulk.ndjson").read_text("utf-8").split("\n")
    assert lines.pop() == ""  # the last line ends as well, which _bulk asks for
    actions, sources = map(json.loads, lines[::2]), map(json.loads, lines[1::2])
    return {
        action["index"]["_id"]: {token: lucene(value) for token, value in source["impacts"].items()}
        for action, source in zip(actions, sources, strict=True)
    }


def read_elasticsearch(folder):
    return read_bulk(folder, {"type": "sparse_vector", "index_options": {"prune": False}})


def read_opensearch(folder):
    return read_bulk(folder, {"type": "rank_features"})


def read_qdrant(folder):
    from qdrant_client import models

    collection = models.CreateCollection.model_validate_json((folder / "collection.json").read_text("utf-8"))
    assert collection.sparse_vectors["impacts"].modifier is None  # our weights have the idf
    read = {}
    for line in (folder / "points.ndjson").read_text("utf-8").splitlines():
        for point in models.PointsList.model_validate_json(line).points:
            vector = point.vector["impacts"]
            read[point.payload["doc_id"]] = dict(zip(map(str, vector.indices), vector.values, strict=True))
    return read


def read_milvus(folder):
    stored = json.loads((folder / "collection.json").read_text("utf-8"))
    assert [index["metricType"] for index in stored["indexParams"]] == ["IP"]
    fields = {field["fieldName"] for field in stored["schema"]["fields"]}
    rows = json.loads((folder / "rows.json").read_text("utf-8"))["rows"]
    assert all(set(row) == fields and row["impacts"] for row in rows)
    return {row["doc_id"]: row["impacts"] for row in rows}


def read_vespa(folder):
    schema = (folder / "latent_terms.sd").read_text("utf-8")
    assert schema.count("{") == schema.count("}") > 0
    assert schema.count("tensor<float>(latent{})") == 2
    lines = [json.loads(line) for line in (folder / "feed.jsonl").read_text("utf-8").splitlines()]
    assert [line["put"] for line in lines] == [f"id:latent_terms:latent_terms::{i}" for i in range(len(lines))]
    return {line["fields"]["doc_id"]: line["fields"]["impacts"]["cells"] for line in lines}


def read_anserini(folder):
    lines = [json.loads(line) for line in (folder / "impacts.jsonl").read_text("utf-8").splitlines()]
    assert all(line["contents"] == "" for line in lines)
    assert all(type(count) is int and count > 0 for line in lines for count in line["vector"].values())
    return {line["id"]: {term: count / 1e6 for term, count in line["vector"].items()} for line in lines}


def weights_of(target: str, body: dict, k: int) -> dict[str, float]:
    """The query's weights by latent, from the one place where the engine looks for them."""
    body = json.loads(json.dumps(body))
    if target == "elasticsearch":
        query = body["query"]["sparse_vector"]
        assert (body["size"], query["field"], query["prune"]) == (k, "impacts", False)
        return query["query_vector"]
    if target == "opensearch":
        assert body["size"] == k
        return body["query"]["neural_sparse"]["impacts"]["query_tokens"]
    if target == "qdrant":
        from qdrant_client import models

        search = models.QueryRequest.model_validate(body)
        assert (search.limit, search.using, search.with_payload) == (k, "impacts", True)
        query = models.SparseVector.model_validate(body["query"])
        return dict(zip(map(str, query.indices), query.values, strict=True))
    if target == "milvus":
        assert (body["limit"], body["annsField"], body["outputFields"]) == (k, "impacts", ["doc_id"])
        assert body["searchParams"]["params"]["drop_ratio_search"] == 0
        (query,) = body["data"]
        return query
    if target == "anserini":
        assert body["k"] == k
        return body["query"]
    assert (body["hits"], body["ranking"]) == (k, "bm25")
    return body["input.query(weights)"]


READERS = {
    "elasticsearch": (read_elasticsearch, LUCENE),
    "opensearch": (read_opensearch, LUCENE),
    "qdrant": (read_qdrant, FLOAT32),
    "milvus": (read_milvus, FLOAT32),
    "vespa": (read_vespa, FLOAT32),
    "anserini": (read_anserini, 1e-4),
}
SETTINGS = {"anserini": {"scale": 1e6}}


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_what_is_written_gives_our_scores_when_it_is_read(index, queries, tmp_path, target):
    write(index, tmp_path, target, **SETTINGS.get(target, {}))
    read, rtol = READERS[target]
    stored = read(tmp_path)
    left_out = {index.doc_ids[3], index.doc_ids[64]} if target == "milvus" else set()
    assert list(stored) == [doc_id for doc_id in index.doc_ids if doc_id not in left_out]
    for row, scores in enumerate(exact(index, queries)):
        if row == 2:
            with pytest.raises(ValueError, match=target):
                request(index, queries[[row]], target)
            continue
        weights = weights_of(target, request(index, queries[[row]], target, k=17), 17)
        for doc_id, score in zip(index.doc_ids, scores, strict=True):
            impacts = stored.get(doc_id, {})
            total = sum(weight * impacts[latent] for latent, weight in weights.items() if latent in impacts)
            assert total == pytest.approx(score, rel=rtol)
            assert rtol != LUCENE or total <= score * (1 + FLOAT32)  # cut off, never rounded up
    schema = TARGETS[target].schema
    assert {path.name for path in tmp_path.iterdir()} == {TARGETS[target].documents, *(schema[:1] if schema else [])}


def test_a_target_is_its_functions_and_one_entry(index, queries, tmp_path, monkeypatch):
    def pieces(stream, end="\n"):
        return (f"{document.doc_id!r} {len(document.latents)}{end}" for document in stream)

    monkeypatch.setitem(TARGETS, "toy", Target("toy.txt", pieces, lambda weights, k: weights | {"k": k}))
    write(index, tmp_path, "toy", end=";")
    assert len((tmp_path / "toy.txt").read_text("utf-8").split(";")) == N_DOCS + 1
    assert request(index, queries[[0]], "toy", k=3)["k"] == 3
    with pytest.raises(TypeError, match="scale"):
        write(index, tmp_path / "new", "toy", scale=2)
    assert not (tmp_path / "new").exists()


def test_files_at_home(tmp_path, monkeypatch, index):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write(index, "~/export", "qdrant")
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_the_precision_that_is_stated_is_needed():
    assert lucene(1.0) == 1.0
    assert lucene(1 + 2**-8) == 1 + 2**-8
    assert lucene(1 + 2**-8 - 2**-20) == 1.0


@settings(max_examples=50, deadline=None)
@given(st.floats(2.0**-126, 1000, width=32))
def test_numbers_are_read_as_they_were(value):
    index = BM25Index.build(csr_array(np.float32([[value]])), ["d"])
    (document,) = documents(index, "a test")
    text = document.impacts.astype(str)[0]
    assert np.float32(json.loads(text)) == document.impacts[0]


@pytest.mark.parametrize("target", TARGETS)
def test_a_write_that_fails_leaves_the_old_files(index, tmp_path, target, monkeypatch):
    write(index, tmp_path, target)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def broken():
        yield csr_array(np.ones((2, WIDTH), np.float32))
        raise OSError("no more")

    monkeypatch.setattr(index, "impact_rows", broken)
    with pytest.raises(OSError, match="no more"):
        write(index, tmp_path, target)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_documents_stream_a_block_at_a_time(index, monkeypatch):
    taken = []

    def counted():
        for number in range(3):
            taken.append(number)
            yield csr_array(np.ones((BLOCK_ROWS, WIDTH), np.float32))

    monkeypatch.setattr(index, "impact_rows", counted)
    stream = documents(index, "a test")
    for _ in range(BLOCK_ROWS):
        next(stream)
    assert taken == [0]


# Integers


@pytest.mark.parametrize("scale", [0.5, 3.0, 100.0])
def test_the_loss_is_that_of_a_dense_computation(index, queries, scale):
    impacts = np.vstack([rows.toarray() for rows in index.impact_rows()]).astype(np.float64)
    rounded = np.floor(impacts * scale + 0.5) / scale
    weights = query_vectors(index, queries).toarray()
    ours, theirs = weights @ impacts.T, weights @ rounded.T
    answered = [row for row in range(N_QUERIES) if row != 2]
    best = [np.argsort(-scores, axis=1, kind="stable")[:, :10] for scores in (ours, theirs)]
    overlap = np.mean([len({*best[0][row]} & {*best[1][row]}) / 10 for row in answered])
    loss = rounding_loss(index, queries, scale, k=10)
    assert loss.overlap == pytest.approx(overlap)
    assert loss.score_error == pytest.approx(np.abs(ours - theirs).max())
    relative = np.abs(ours - theirs).max(axis=1)[answered] / ours.max(axis=1)[answered]
    assert loss.relative_error == pytest.approx(relative.max())
    assert 0 < loss.relative_error < loss.score_error
    assert scale != 0.5 or loss.overlap < 1  # so coarse that it shows


# What bad input gets


@pytest.mark.parametrize(("scale", "document"), [(1, "d1"), (1e9, "d0"), (8e8, "d0")])
def test_counts_that_lucene_cannot_hold_are_refused(tmp_path, scale, document):
    # d1 has an impact that becomes 0 at scale 1; at 1e9 one impact of d0 is too large, at 8e8 the sum of both
    index = BM25Index.build(csr_array(np.float32([[1, 2], [3, 0.01]])), ids(2))
    with pytest.raises(ValueError, match=f"'{document}'.*scale"):
        write(index, tmp_path, "anserini", scale=scale)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("scale", [0, -1.0, float("nan"), float("inf"), "100", True])
def test_a_scale_must_be_above_zero(index, queries, tmp_path, scale):
    error = TypeError if isinstance(scale, str | bool) else ValueError
    with pytest.raises(error, match="scale"):
        write(index, tmp_path / "new", "anserini", scale=scale)
    assert not (tmp_path / "new").exists()
    with pytest.raises(error, match="scale"):
        rounding_loss(index, queries, scale)


@pytest.mark.parametrize("target", TARGETS)
def test_an_impact_below_a_normal_float_is_refused(tmp_path, target):
    index = BM25Index.build(csr_array(np.float32([[1e-40, 2]])), ["d"])
    with pytest.raises(ValueError, match=rf"e-4\d .*{target}.*1\.17549435e-38"):
        write(index, tmp_path, target)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("k1", "weight", "named"), [(1e9, 1e5, "99990"), (1.2, 1e-9, "e-09")])
def test_seismic_refuses_what_float16_does_not_hold(k1, weight, named):
    index = BM25Index.build(csr_array(np.float32([[weight, 1], [weight, 1]])), ids(2), k1=k1)
    with pytest.raises(ValueError, match=rf"{named} .*Seismic.*65504"):
        ENGINES["seismic"](index)


def test_an_unknown_target_is_refused(index, queries, tmp_path):
    with pytest.raises(ValueError, match=r"'solr'.*'elasticsearch'.*'anserini'"):
        write(index, tmp_path, "solr")
    with pytest.raises(ValueError, match="'solr'"):
        request(index, queries[[0]], "solr")


def test_opensearch_takes_weights_up_to_64(index, queries):
    heavy = queries[[0]] * (70 / query_vectors(index, queries[[0]]).data.max())
    request(index, heavy, "elasticsearch")
    with pytest.raises(ValueError, match=r"weight 70.*opensearch.* 64;"):
        request(index, heavy, "opensearch")
    request(index, heavy * 0.9, "opensearch")


@pytest.mark.parametrize("doc_id", ["", "ä" * 257])
def test_an_id_that_elasticsearch_does_not_take_is_refused(tmp_path, doc_id):
    index = BM25Index.build(csr_array(np.float32([[1]])), [doc_id])
    with pytest.raises(ValueError, match=r"bytes.*512"):
        write(index, tmp_path, "elasticsearch")


def test_queries_are_checked(index, queries, tmp_path):
    engine, names = ENGINES["impact-index"](index, tmp_path), ids(N_QUERIES, "q")
    with pytest.raises(ValueError, match=f"7 .*{WIDTH}"):
        engine.search(terms(2, 1, width=7), ids(2))
    with pytest.raises(ValueError, match="query_ids"):
        engine.search(queries, names[1:])
    with pytest.raises(ValueError, match="2 rows"):
        request(index, queries[[0, 1]], "vespa")
    for search in (lambda: engine.search(queries, names, 0), lambda: request(index, queries[[0]], "vespa", k=0)):
        with pytest.raises(ValueError, match="k is 0"):
            search()
    with pytest.raises(ValueError, match="latent"):
        rounding_loss(index, queries[[2]])


def test_an_idf_below_zero_is_refused_and_one_of_zero_left_out():
    matrix = csr_array(np.float32([[1, 1], [1, 0], [1, 0]]))
    query = csr_array(np.float32([[1, 1]]))
    with pytest.raises(ValueError, match=r"latent 0 .*robertson-clipped"):
        query_vectors(BM25Index.build(matrix, ids(3), idf="robertson"), query)
    vectors = query_vectors(BM25Index.build(matrix, ids(3), idf="robertson-clipped"), query)
    assert vectors.indices.tolist() == [1]
    assert query.nnz == 2
