"""BM25 over term weights: worked arithmetic, parity with other implementations, and the index as a file."""

import itertools
import json
import resource
import tracemalloc

import bm25s
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rank_bm25 import BM25Okapi
from scipy.sparse import csr_array, random_array, vstack

import lib.bm25.index
import lib.bm25.postings
import lib.bm25.search
from lib.bm25.index import BM25Index
from lib.bm25.weighting import IDFS, INNER_PRODUCT, idf_lucene, idf_robertson, idf_robertson_clipped, saturation
from lib.support.folders import load_folder, save_folder, save_parts

IDS = ["a", "b", "c"]
WORKED = csr_array(np.array([[4, 0, 1, 0], [1, 2, 0, 0], [0, 0, 0, 0]], np.float32))


def random_terms(n: int, width: int, seed: int, density: float = 0.3) -> csr_array:
    matrix = random_array((n, width), density=density, format="csr", rng=np.random.default_rng(seed))
    return csr_array(matrix * 5, dtype=np.float32)


def random_counts(n: int, width: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.poisson(0.4, (n, width)) * rng.integers(1, 4, (n, width))


def ids(n: int, prefix: str = "d") -> list[str]:
    return [f"{prefix}{i}" for i in range(n)]


def dense_scores(docs: np.ndarray, queries: np.ndarray, k1: float, b: float, idf) -> np.ndarray:
    """The formula of the class docstring, written once more and dense, in float64."""
    length = docs.sum(axis=1)
    factor = k1 * (1 - b + b * length / length.mean())
    tf = np.divide(docs * (k1 + 1), docs + factor[:, None], out=np.zeros_like(docs), where=docs > 0)
    return queries @ (tf * idf((docs > 0).sum(axis=0), len(docs))).T


def all_scores(index: BM25Index, queries: csr_array) -> np.ndarray:
    ranking = index.search(queries, ids(queries.shape[0], "q"), k=len(index))
    table = [dict(ranking[query_id]) for query_id in ranking.query_ids]
    return np.array([[row[doc_id] for doc_id in index.doc_ids] for row in table])


def test_worked_example():
    index = BM25Index.build(WORKED, IDS, k1=1.0, b=0.5, idf="lucene")
    # N = 3. df = 2, 1, 1, 0. idf_j = ln(1 + (3 - df + .5) / (df + .5)):
    #   ln(1 + 1.5/2.5) = ln 1.6,  ln(1 + 2.5/1.5) = ln 2.6667 (twice),  ln(1 + 3.5/0.5) = ln 8
    np.testing.assert_allclose(index.idf, np.log([1.6, 8 / 3, 8 / 3, 8]), rtol=1e-6)
    # |d| = 5, 3, 0; avgdl = 8/3; K = 1 (1 - .5 + .5 |d| / avgdl) = .5 + .1875 |d| = 1.4375, 1.0625, 0.5
    # query = 2 of latent 0 and 1 of latent 2:
    #   a: 2 ln 1.6 * 4 * 2 / (4 + 1.4375)  +  1 ln 2.6667 * 1 * 2 / (1 + 1.4375)
    #   b: 2 ln 1.6 * 1 * 2 / (1 + 1.0625)
    #   c: nothing shared, 0
    a = 2 * np.log(1.6) * 8 / 5.4375 + np.log(8 / 3) * 2 / 2.4375
    b = 2 * np.log(1.6) * 2 / 2.0625
    ranking = index.search(csr_array(np.array([[2, 0, 1, 0]], np.float32)), ["q"])
    assert ranking.doc_ids == [["a", "b", "c"]]
    np.testing.assert_allclose(ranking.scores[0], [a, b, 0], rtol=1e-6)


def test_idf_forms_by_hand():
    df = np.array([0, 1, 3, 4])  # of N = 4: (4 - df + .5) / (df + .5) = 9, 7/3, 3/7, 1/9
    np.testing.assert_allclose(idf_lucene(df, 4), np.log([10, 10 / 3, 10 / 7, 10 / 9]))
    np.testing.assert_allclose(idf_robertson(df, 4), np.log([9, 7 / 3, 3 / 7, 1 / 9]))
    np.testing.assert_allclose(idf_robertson_clipped(df, 4), [np.log(9), np.log(7 / 3), 0, 0])


@pytest.mark.parametrize(("k1", "b"), [(8.0, 0.7), (1.5, 0.75), (0.0, 0.0), (2.0, 1.0)])
@pytest.mark.parametrize("idf", IDFS)
def test_equals_the_dense_formula(k1, b, idf):
    docs, queries = random_terms(40, 30, 1), random_terms(6, 30, 2)
    index = BM25Index.build(docs, ids(40), k1=k1, b=b, idf=idf)
    expected = dense_scores(docs.toarray().astype(float), queries.toarray().astype(float), k1, b, IDFS[idf])
    np.testing.assert_allclose(all_scores(index, queries), expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), k1=st.sampled_from([0.9, 1.5, 8.0]), b=st.sampled_from([0.0, 0.4, 1.0]))
def test_parity_with_rank_bm25(seed, k1, b):
    """Integer counts, written out as words: the scores of BM25Okapi with its negative idf floored at 0 (epsilon)."""
    counts = random_counts(25, 12, seed)
    counts[:, 0] += 1  # a universal word, whose Robertson idf is negative
    words = [[str(j) for j, n in enumerate(row) for _ in range(n)] for row in counts]
    okapi = BM25Okapi(words, k1=k1, b=b, epsilon=0.0)
    queries = random_counts(4, 12, seed + 1)
    index = BM25Index.build(csr_array(counts.astype(np.float32)), ids(25), k1=k1, b=b, idf="robertson-clipped")
    expected = [okapi.get_scores([str(j) for j, n in enumerate(row) for _ in range(n)]) for row in queries]
    np.testing.assert_allclose(all_scores(index, csr_array(queries.astype(np.float32))), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("seed", "k1", "b"), [(0, 1.5, 0.75), (1, 8.0, 0.7), (2, 1.2, 0.0)])
def test_parity_with_bm25s(seed, k1, b):
    """A second independent implementation; its Lucene variant leaves out the constant factor k1 + 1."""
    counts = random_counts(30, 10, seed)
    words = [[str(j) for j, n in enumerate(row) for _ in range(n)] for row in counts]
    other = bm25s.BM25(method="lucene", k1=k1, b=b)
    other.index(words, show_progress=False)
    index = BM25Index.build(csr_array(counts.astype(np.float32)), ids(30), k1=k1, b=b, idf="lucene")
    queries = np.eye(10, dtype=np.float32)[[0, 3, 7]] + np.eye(10, dtype=np.float32)[[1, 4, 8]]
    expected = [other.get_scores([str(j) for j in np.flatnonzero(row)]) * (k1 + 1) for row in queries]
    np.testing.assert_allclose(all_scores(index, csr_array(queries)), expected, rtol=1e-5, atol=1e-5)


def test_universal_latent_scores_below_zero_under_robertson_only():
    docs = csr_array(np.ones((4, 1), np.float32))
    query = csr_array(np.ones((1, 1), np.float32))
    signs = {idf: np.sign(all_scores(BM25Index.build(docs, ids(4), idf=idf), query)[0, 0]) for idf in IDFS}
    assert signs == {"lucene": 1, "robertson": -1, "robertson-clipped": 0, "none": 1}


def test_an_index_ranks_by_inner_product():
    docs, queries = random_terms(60, 30, 1), random_terms(6, 30, 2)
    index = BM25Index.build(docs, ids(60), INNER_PRODUCT)
    np.testing.assert_allclose(all_scores(index, queries), (queries @ docs.T).toarray(), rtol=1e-6)
    index.add(docs[:3], ["x", "y", "z"])
    np.testing.assert_allclose(all_scores(index, queries)[:, 60:], (queries @ docs[:3].T).toarray(), rtol=1e-6)


@pytest.mark.parametrize("b", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("k1", [0.0, 1.2, 8.0, 1e12])
def test_no_impact_is_above_the_largest(k1, b):
    docs = vstack([random_terms(30, 12, 3), csr_array(np.float32([[0] * 11 + [7], [0] * 12]))], format="csr")
    index = BM25Index.build(docs, ids(32), k1=k1, b=b)
    index.add(docs[:2] * 9, ["x", "y"])
    largest = max(rows.data.max() for rows in index.impact_rows())
    assert largest <= index.largest_impact * (1 + 1e-6)
    assert index.largest_impact <= min(k1 + 1, docs.sum(axis=1).max() * 9) * (1 + 1e-6)


@pytest.mark.parametrize("impacts", ["float32", "uint8"])
@pytest.mark.parametrize("other", ["float32", "uint8"])
def test_an_index_is_no_matrix_of_documents(impacts, other):
    index, added = (BM25Index.build(random_terms(4, 3, 1), ids(4), impacts=form) for form in (impacts, other))
    with pytest.raises(TypeError, match="BM25Index"):
        index.add(added, ["x"])


def test_ties_are_broken_by_document_order_and_k_may_exceed_the_collection():
    docs = csr_array(np.array([[1], [0], [1], [0], [1]], np.float32))
    index = BM25Index.build(docs, ["e", "d", "c", "b", "a"])
    query = csr_array(np.ones((1, 1), np.float32))
    assert index.search(query, ["q"], k=2).doc_ids == [["e", "c"]]
    assert index.search(query, ["q"], k=99).doc_ids == [["e", "c", "a", "d", "b"]]


def test_an_excluded_document_leaves_its_place_to_the_next():
    docs, queries = random_terms(30, 20, 13), random_terms(3, 20, 14)
    index = BM25Index.build(docs, ids(30))
    every = index.search(queries, ids(3, "q"), k=30)
    first, second = every.doc_ids[0][:2]
    pairs = {"q0": first, "q1": [every.doc_ids[1][4], every.doc_ids[1][29]], "q9": "d0"}
    ranking = index.search(queries, ids(3, "q"), k=5, exclude=pairs)
    assert ranking.doc_ids == every.exclude(pairs).top(5).doc_ids
    assert [len(docs) for docs in ranking.doc_ids] == [5, 5, 5]
    assert ranking.doc_ids[0][0] == second
    assert index.search(queries, ids(3, "q"), k=5, exclude={}).doc_ids == every.top(5).doc_ids
    assert index.search(queries, ids(3, "q"), k=30, exclude=pairs, deny=[second]).doc_ids[0] == every.doc_ids[0][2:]


def test_empty_texts_are_legal_and_never_nan():
    docs = csr_array(np.array([[0, 0], [1, 2], [0, 0]], np.float32))
    ranking = BM25Index.build(docs, IDS).search(csr_array(np.array([[0, 0], [1, 0]], np.float32)), ["q0", "q1"])
    assert ranking.doc_ids == [["a", "b", "c"], ["b", "a", "c"]]
    assert (ranking.scores[0] == 0).all()
    only_empty = BM25Index.build(csr_array((2, 3), dtype=np.float32), ["x", "y"])
    assert (all_scores(only_empty, csr_array(np.ones((1, 3), np.float32))) == 0).all()


def test_permuting_the_documents_permutes_the_scores():
    docs, queries = random_terms(30, 20, 3), random_terms(4, 20, 4)
    order = np.random.default_rng(5).permutation(30)
    straight = all_scores(BM25Index.build(docs, ids(30)), queries)
    permuted = all_scores(BM25Index.build(docs[order], ids(30)), queries)
    np.testing.assert_array_equal(permuted, straight[:, order])


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(0, 50), max_size=5), block_rows=st.sampled_from([1, 7, 50, 64]))
def test_building_from_blocks_equals_building_at_once(cuts, block_rows):
    docs, queries = random_terms(50, 20, 6), random_terms(5, 20, 7)
    edges = [0, *sorted(cuts), 50]
    with pytest.MonkeyPatch.context() as patch:
        whole = all_scores(BM25Index.build(docs, ids(50)), queries)
        for module in (lib.bm25.index, lib.bm25.postings, lib.bm25.search):
            patch.setattr(module, "BLOCK_ROWS", block_rows)
        parts = BM25Index.build((docs[i:j] for i, j in itertools.pairwise(edges)), ids(50))
        np.testing.assert_array_equal(all_scores(parts, queries), whole)
        first = parts.search(queries[[0]], ["q"], k=1)
        total = sum(c.score for c in parts.explain(queries[[0]], first.doc_ids[0][0]))
        assert total == pytest.approx(first.scores[0][0], rel=1e-5)


def test_building_from_a_stream_holds_the_corpus_once(monkeypatch):
    for module in (lib.bm25.index, lib.bm25.postings, lib.bm25.search):
        monkeypatch.setattr(module, "BLOCK_ROWS", 500)
    n_blocks, rows = 20, random_terms(500, 400, 8, density=0.5)
    tracemalloc.start()
    index = BM25Index.build((rows.copy() for _ in range(n_blocks)), ids(500 * n_blocks))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert index.n_postings == n_blocks * rows.nnz
    own = sum(array.nbytes for part in index._parts for half in part for array in half)
    assert peak < 1.25 * own


def test_the_callers_matrices_stay_as_they_are():
    docs = csr_array((np.array([1, 0, 2], np.float32), np.array([1, 0, 0]), np.array([0, 2, 3])), shape=(2, 2))
    before = (docs.data.copy(), docs.indices.copy(), docs.indptr.copy())
    index = BM25Index.build(docs, ["a", "b"])
    index.search(docs, ["q", "r"])
    for old, new in zip(before, (docs.data, docs.indices, docs.indptr), strict=True):
        np.testing.assert_array_equal(old, new)
    assert index.n_postings == 2  # the stored zero is no posting


def test_explain_adds_up_to_the_score_largest_first():
    docs, queries = random_terms(20, 15, 9), random_terms(1, 15, 10, density=0.8)
    index = BM25Index.build(docs, ids(20))
    for doc_id, score in index.search(queries, ["q"], k=5)["q"]:
        parts = index.explain(queries, doc_id)
        assert sum(part.score for part in parts) == pytest.approx(score, rel=1e-5)
        assert [part.score for part in parts] == sorted((part.score for part in parts), reverse=True)
        shared = set(queries.indices) & set(docs[[index.doc_ids.index(doc_id)]].indices)
        assert {part.latent for part in parts} == shared
        assert all(part.score == pytest.approx(part.query_weight * part.idf * part.impact) for part in parts)


def test_saved_and_loaded_index_gives_the_same_ranking(tmp_path, monkeypatch):
    for module in (lib.bm25.index, lib.bm25.postings, lib.bm25.search):
        monkeypatch.setattr(module, "BLOCK_ROWS", 16)
    docs, queries = random_terms(50, 20, 11), random_terms(5, 20, 12)
    index = BM25Index.build(docs, ids(50), k1=2.5, b=0.3, idf="robertson")
    index.save(tmp_path / "index")
    loaded = BM25Index.load(tmp_path / "index")
    np.testing.assert_array_equal(all_scores(loaded, queries), all_scores(index, queries))
    assert repr(loaded) == repr(index)
    assert loaded.explain(queries[[0]], "d49") == index.explain(queries[[0]], "d49")
    assert isinstance(loaded._blocks[0].impacts.base, np.memmap)


def test_saving_again_replaces_and_a_failed_save_leaves_the_old_index(tmp_path, monkeypatch):
    old, new = BM25Index.build(WORKED, IDS), BM25Index.build(WORKED, IDS, k1=2.0)
    old.save(tmp_path)

    def fail(path, parts):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(lib.bm25.index, "save_parts", fail)
        with pytest.raises(OSError, match="disk full"):
            new.save(tmp_path)
    assert BM25Index.load(tmp_path).constants.k1 == 8.0
    files = sorted(path.name for path in tmp_path.iterdir())
    new.save(tmp_path)
    assert BM25Index.load(tmp_path).constants.k1 == 2.0
    assert len(list(tmp_path.iterdir())) == len(files)


def test_a_disk_that_takes_no_more_leaves_the_old_index(tmp_path):
    old, new = BM25Index.build(WORKED, IDS), BM25Index.build(random_terms(300, 60, 1), ids(300))
    old.save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, limits[1]))  # of a file: the ids fit, the postings do not
    try:
        with pytest.raises(OSError, match=r"\.npy .*File too large"):
            new.save(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert len(BM25Index.load(tmp_path)) == 3


LARGE = ("docs", "impacts", "frequent_rows", "frequent_numbers", "frequent_impacts")  # not read when not verified
STEMS = ("doc_ids", "lengths", "indptr", "frequent_scales", "frequent_indptr", *LARGE)


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_damaged_files_are_named(tmp_path, stem, damage):
    BM25Index.build(WORKED, IDS).save(tmp_path)
    assert {path.name.split("-")[0] for path in tmp_path.iterdir()} == {*STEMS, "index.json"}
    (path,) = tmp_path.glob(f"{stem}-*")
    content = path.read_bytes()
    path.unlink()
    if damage == "truncate":
        path.write_bytes(content[:-1])
    elif damage == "flip":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match=f"{stem}-"):
        BM25Index.load(tmp_path)


def test_altered_or_newer_manifest_is_refused(tmp_path):
    BM25Index.build(WORKED, IDS).save(tmp_path)
    path = tmp_path / "index.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"n_docs": 4}))
    with pytest.raises(ValueError, match=r"index\.json"):
        BM25Index.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder"):
        BM25Index.load(tmp_path / "nowhere")


def count_refused(folder, queries, whole, trials: int) -> int:
    """Damage a file at a time, by a bit or cut off; return how often loading is refused. Else scores are `whole`."""
    rng, paths = np.random.default_rng(0), sorted(folder.iterdir())
    contents = [path.read_bytes() for path in paths]
    refused = 0
    for trial in range(trials):
        number = int(rng.integers(len(paths)))
        damaged = bytearray(contents[number])
        if trial % 3:
            damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
        else:
            del damaged[rng.integers(len(damaged)) :]
        paths[number].write_bytes(damaged)
        try:
            loaded = BM25Index.load(folder)
        except ValueError as error:
            refused += 1
            assert str(folder) in str(error)
        else:
            np.testing.assert_array_equal(all_scores(loaded, queries), whole)
        paths[number].write_bytes(contents[number])
    return refused


@pytest.mark.slow
def test_a_damaged_index_loads_equal_or_is_refused(tmp_path):
    docs, queries = random_terms(40, 12, 13), random_terms(3, 12, 14)
    index = BM25Index.build(docs, ids(40))
    index.save(tmp_path)
    # nearly all: white space in the manifest may change
    assert count_refused(tmp_path, queries, all_scores(index, queries), trials=500) > 475


@pytest.mark.slow
def test_opened_without_verifying_damage_to_the_postings_gives_wrong_scores_at_worst(tmp_path):
    docs, queries = random_terms(40, 12, 13), random_terms(3, 12, 14)
    BM25Index.build(docs, ids(40)).save(tmp_path)
    assert np.array_equal(
        all_scores(BM25Index.load(tmp_path, verify=False), queries), all_scores(BM25Index.load(tmp_path), queries)
    )
    rng = np.random.default_rng(1)
    for stem in LARGE:
        (path,) = tmp_path.glob(f"{stem}-*")
        content = path.read_bytes()
        path.write_bytes(content[:-1])
        with pytest.raises(ValueError, match="damaged"):
            BM25Index.load(tmp_path, verify=False)
        for _ in range(50):
            noise = bytes(rng.integers(0, 256, len(content) - 128, dtype=np.uint8))  # behind npy's header
            path.write_bytes(content[:128] + noise)
            found = BM25Index.load(tmp_path, verify=False).search_one(queries[[0]], k=5)
            assert len(found) == 5
        with pytest.raises(ValueError, match=stem):
            BM25Index.load(tmp_path)
        path.write_bytes(content)


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_opened_without_verifying_a_damaged_header_is_refused(tmp_path):
    docs, queries = random_terms(40, 12, 13), random_terms(3, 12, 14)
    index = BM25Index.build(docs, ids(40))
    index.save(tmp_path)
    whole = all_scores(index, queries)
    rng = np.random.default_rng(2)

    for stem in LARGE:
        (path,) = tmp_path.glob(f"{stem}-*")
        content, array = path.read_bytes(), np.load(next(tmp_path.glob(f"{stem}-*")), allow_pickle=False)
        refused = 0
        for _ in range(60):
            header = bytearray(content[:128])
            if rng.integers(4):
                header[rng.integers(128)] = rng.integers(256)
            else:
                header = header[: rng.integers(128)]
            path.write_bytes(header + content[128:])
            try:
                loaded = BM25Index.load(tmp_path, verify=False)
            except ValueError as error:
                assert f"{tmp_path} is damaged ({stem}-" in str(error)
                refused += 1
            else:  # another kind of white space at the end of the header
                np.testing.assert_array_equal(all_scores(loaded, queries), whole)
        assert refused > 40
        # whole files of other arrays, of as many bytes and of fewer
        size = array.itemsize
        others = [
            array.view(array.dtype.newbyteorder(">")),
            *(array.view(f"{kind}{size}") for kind in "iufV" if kind != "f" or size > 1),
        ]
        for other in [*others, array[None], array.reshape(-1, 1), array[:0], array[:-1], array.astype(np.float64)]:
            if (other.dtype, other.shape) == (array.dtype, array.shape):
                continue
            np.save(path, other)
            with pytest.raises(ValueError, match="damaged"):
                BM25Index.load(tmp_path, verify=False)
        path.write_bytes(content)


def resaved(folder, **changed) -> None:
    """Put something else into an index, with the right checksums."""
    manifest, files = load_folder(folder, "index.json", lib.bm25.index.FORMAT_VERSION)
    del manifest["files"], manifest["format_version"]
    held = {name: path.read_bytes() for name, path in files.items()}
    writers = {name: lambda path, data=data: path.write_bytes(data) for name, data in held.items()}
    for name, change in changed.items():
        if name in manifest:
            manifest[name] = change
        elif name == "doc_ids":
            writers["doc_ids.json"] = lambda path, change=change: path.write_text(json.dumps(change))
        else:
            array = change(np.load(files[f"{name}.npy"], allow_pickle=False))
            writers[f"{name}.npy"] = lambda path, array=array: save_parts(path, [array])
    save_folder(folder, "index.json", lib.bm25.index.FORMAT_VERSION, manifest, writers)


def latents(**changes) -> dict:
    return {"name": "latents", "width": 12, "constants": {}} | changes


def with_entry(at: int, value: int):
    def change(array):
        array[at] = value
        return array

    return change


def moved(at: int, by: int):
    def change(array):
        array[at] += by
        return array

    return change


@pytest.mark.parametrize(
    "changed",
    [
        *({name: with_entry(0, value)} for name in ("indptr", "frequent_indptr") for value in (-1, 1, 2**62)),
        *({name: with_entry(5, value)} for name in ("indptr", "frequent_indptr") for value in (-1, 0, 2**62)),
        *({name: moved(-1, by)} for name in ("indptr", "frequent_indptr") for by in (-1, 1, 2**62)),
        {"indptr": moved(slice(13, None), 0), "vocabularies": [latents(width=11)]},
        *({"vocabularies": [latents(width=width)]} for width in (0, -1, 1, 13, 12.5, "12", None)),
        {"vocabularies": [latents(width=6)] * 2},
        {"vocabularies": [latents(weight=-1)]},
        {"vocabularies": []},
        *({"n_docs": n} for n in (0, 39, 41, "40")),
        *({"doc_ids": own} for own in ([], ids(39), ids(41), ["d0"] * 40, "d" * 40, {}, [1] * 40)),
        *({"lengths": change} for change in (lambda a: a[:-1], lambda a: a[:0], lambda a: a.astype(float))),
        {"lengths": lambda a: np.ones(50, np.float32), "n_docs": 50, "doc_ids": ids(50)},
        {"lengths": lambda a: np.ones(20, np.float32), "n_docs": 20, "doc_ids": ids(20)},
        *({f"frequent_{name}": lambda a: a[:-1]} for name in ("rows", "scales", "indptr", "numbers", "impacts")),
        {"frequent_numbers": lambda a: a[:-1], "frequent_impacts": lambda a: a[:-1]},
        {"docs": lambda a: a[:-1], "impacts": lambda a: a[:-1]},
        {"docs": lambda a: a.view(np.int16)},
        {"impacts": lambda a: a.astype(">f4")},
        {"frequent_rows": lambda a: a[: 40 * 3], "frequent_scales": lambda a: a[:3]},
        {"indptr": lambda a: np.arange(13)},  # each latent in one document: none is frequent
        {"vocabularies": [latents(constants={"k1": -1.0})]},
        {"vocabularies": [latents(constants={"k1": None})]},
        {"vocabularies": None},
        {"vocabularies": [latents(constants={"idf": "other"})]},
    ],
)
def test_what_is_no_index_is_refused_whatever_its_checksums_say(tmp_path, changed):
    BM25Index.build(random_terms(40, 12, 13), ids(40)).save(tmp_path)
    resaved(tmp_path)
    assert len(BM25Index.load(tmp_path)) == 40
    resaved(tmp_path, **changed)
    for verify in (True, False):
        with pytest.raises(ValueError, match="damaged"):
            BM25Index.load(tmp_path, verify=verify)


def test_a_posting_of_a_document_that_there_is_not_stays_inside_the_arrays(tmp_path):
    docs = random_terms(40, 12, 13)
    BM25Index.build(docs, ids(40)).save(tmp_path)
    resaved(tmp_path, docs=with_entry(3, 2**16 - 1))
    loaded = BM25Index.load(tmp_path)
    assert len(loaded.search_one(docs[[0]], k=40)) == 40
    assert loaded.scores(docs[[0]]).shape == (40,)
    for use in (lambda: list(loaded.impact_rows()), lambda: loaded.add(docs[:1], ["new"])):
        with pytest.raises(ValueError, match="65535"):
            use()


def test_an_index_of_empty_texts_is_saved_and_loaded(tmp_path):
    BM25Index.build(csr_array((2, 3), dtype=np.float32), ["x", "y"]).save(tmp_path)
    for verify in (True, False):
        assert (all_scores(BM25Index.load(tmp_path, verify=verify), csr_array(np.ones((1, 3), np.float32))) == 0).all()


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(
    cuts=st.lists(st.integers(1, 49), min_size=1, max_size=4, unique=True),
    block_rows=st.sampled_from([1, 7, 16, 50, 64]),
    b=st.sampled_from([0.0, 0.7, 1.0]),
    k1=st.sampled_from([0.0, 1.2, 8.0]),
    streamed=st.booleans(),
)
def test_adding_documents_equals_building_at_once(cuts, block_rows, b, k1, streamed):
    docs, queries, names = random_terms(50, 20, 6), random_terms(5, 20, 7), ids(50)
    edges = [0, *sorted(cuts), 50]
    with pytest.MonkeyPatch.context() as patch:
        for module in (lib.bm25.index, lib.bm25.postings, lib.bm25.search):
            patch.setattr(module, "BLOCK_ROWS", block_rows)
        whole = BM25Index.build(docs, names, k1=k1, b=b)
        grown = BM25Index.build(docs[: edges[1]], names[: edges[1]], k1=k1, b=b)
        for start, stop in itertools.pairwise(edges[1:]):
            rows = docs[start:stop]
            grown.add([rows[:1], rows[1:]] if streamed else rows, names[start:stop])
        assert grown.doc_ids == whole.doc_ids
        assert grown.average_length == pytest.approx(whole.average_length, rel=1e-12)
        for name in ("df", "idf", "lengths"):
            np.testing.assert_array_equal(getattr(grown, name), getattr(whole, name))
        assert [len(block.docs) for block in grown._blocks] == [len(block.docs) for block in whole._blocks]
        exact = b == 0 or k1 == 0  # then avgdl plays no part
        np.testing.assert_allclose(all_scores(grown, queries), all_scores(whole, queries), rtol=0 if exact else 1e-6)
        assert grown.explain(queries[[0]], "d49")[0].latent == whole.explain(queries[[0]], "d49")[0].latent


def test_adding_to_an_opened_index_leaves_the_files_as_they_are(tmp_path):
    docs = random_terms(30, 12, 15)
    BM25Index.build(docs[:20], ids(20)).save(tmp_path)
    opened = BM25Index.load(tmp_path)
    opened.add(docs[20:], ids(30)[20:])
    assert len(opened) == 30
    assert len(BM25Index.load(tmp_path)) == 20
    opened.save(tmp_path)
    assert repr(BM25Index.load(tmp_path)) == repr(opened)


@pytest.mark.parametrize(
    ("matrix", "doc_ids", "message"),
    [
        (WORKED, ["d", "e", "a"], "'a'"),
        (WORKED, ["d", "e"], "2 ids for 3"),
        ([WORKED], ["d", "e", "f", "g"], "4 ids for 3"),
        (WORKED[:, :3], ["d", "e", "f"], "3 latents.* 4"),
        (-WORKED, ["d", "e", "f"], "at least 0"),
        ([], ["d"], "no documents"),
    ],
)
def test_what_cannot_be_added_leaves_the_index_as_it_was(matrix, doc_ids, message):
    index = BM25Index.build(WORKED, IDS)
    before = all_scores(index, WORKED)
    with pytest.raises(ValueError, match=message):
        index.add(matrix, doc_ids)
    np.testing.assert_array_equal(all_scores(index, WORKED), before)


@pytest.mark.parametrize("where", ["frequent.hold", "frequent_latents", "document_frequency", "joined", "reweigh"])
def test_an_interrupt_while_documents_are_added_leaves_the_index_as_it_was(monkeypatch, where):
    def interrupted(*_):
        raise KeyboardInterrupt

    index, whole = BM25Index.build(WORKED, IDS), BM25Index.build(vstack([WORKED, 2 * WORKED]), [*IDS, *"def"])
    before, state = all_scores(index, WORKED), repr(index)
    with monkeypatch.context() as patch:
        patch.setattr(f"lib.bm25.index.{where}", interrupted)
        with pytest.raises(KeyboardInterrupt):
            index.add(2 * WORKED, ["d", "e", "f"])
    assert repr(index) == state
    np.testing.assert_array_equal(all_scores(index, WORKED), before)
    index.add(2 * WORKED, ["d", "e", "f"])
    np.testing.assert_allclose(all_scores(index, WORKED), all_scores(whole, WORKED), rtol=1e-6)


def test_scores_are_inner_products_of_impact_rows(monkeypatch):
    for module in (lib.bm25.index, lib.bm25.postings, lib.bm25.search):
        monkeypatch.setattr(module, "BLOCK_ROWS", 16)
    docs, queries = random_terms(50, 20, 11), random_terms(5, 20, 12)
    index = BM25Index.build(docs, ids(50))
    blocks = list(index.impact_rows())
    assert [block.shape for block in blocks] == [(16, 20), (16, 20), (16, 20), (2, 20)]
    weighted = queries.multiply(index.idf[None, :]).tocsr()
    scores = (weighted @ vstack(blocks).T).toarray()
    np.testing.assert_allclose(scores, all_scores(index, queries), rtol=1e-5)


TOO_LARGE = csr_array(np.float32([[1e38, 0, 0, 0], [2e38, 2e38, 2e38, 2e38]]))  # of which only the second is too large
BUILD_ERRORS = [
    ({"matrix": csr_array((0, 4), dtype=np.float32), "doc_ids": []}, ValueError, "no documents"),
    ({"matrix": iter([]), "doc_ids": []}, ValueError, "no documents"),
    ({"matrix": WORKED.toarray(), "doc_ids": IDS}, TypeError, "scipy.sparse"),
    ({"matrix": WORKED, "doc_ids": ["a", "b"]}, ValueError, "2 ids for 3"),
    ({"matrix": [WORKED], "doc_ids": ["a", "b"]}, ValueError, "2 ids for 3"),
    ({"matrix": WORKED, "doc_ids": ["a", "b", "a"]}, ValueError, "repeats 'a'"),
    ({"matrix": WORKED, "doc_ids": "abc"}, TypeError, "single str"),
    ({"matrix": WORKED, "doc_ids": [1, 2, 3]}, TypeError, r"doc_ids\[0\] is 1 .*str\(id_\)"),
    ({"matrix": WORKED, "doc_ids": np.arange(3)}, TypeError, r"doc_ids\[0\] is .*0.*str\(id_\)"),
    ({"matrix": WORKED, "doc_ids": {"a", "b", "c"}}, TypeError, r"sorted\(doc_ids\)"),
    ({"matrix": -WORKED, "doc_ids": IDS}, ValueError, "row 0"),
    ({"matrix": TOO_LARGE[[1]], "doc_ids": ["a"]}, ValueError, r"document 0 .*too large.*constant"),
    ({"matrix": [WORKED, TOO_LARGE], "doc_ids": [*IDS, "d", "e"]}, ValueError, r"document 4 .*too large.*constant"),
    ({"matrix": TOO_LARGE[[1]], "doc_ids": ["a"], "impacts": "uint8"}, ValueError, r"document 0 .*too large.*constant"),
    ({"matrix": WORKED * np.nan, "doc_ids": IDS}, ValueError, "holds nan"),
    ({"matrix": [WORKED, WORKED[:, :3]], "doc_ids": [*IDS, "d", "e", "f"]}, ValueError, "3 latents.* 4"),
    ({"matrix": WORKED, "doc_ids": IDS, "k1": -1}, ValueError, "k1 is -1"),
    ({"matrix": WORKED, "doc_ids": IDS, "k1": float("nan")}, ValueError, "k1 is nan"),
    ({"matrix": WORKED, "doc_ids": IDS, "k1": 1e39}, ValueError, r"k1 is 1e\+39"),
    ({"matrix": WORKED, "doc_ids": IDS, "b": 1.5}, ValueError, "b is 1.5"),
    ({"matrix": WORKED, "doc_ids": IDS, "idf": "bm25"}, ValueError, "idf is 'bm25'"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BUILD_ERRORS)
def test_bad_collections_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        BM25Index.build(**arguments)


SEARCH_ERRORS = [
    ({"queries": WORKED[:, :3], "query_ids": IDS}, ValueError, "3 latents.* 4"),
    ({"queries": WORKED, "query_ids": ["q"]}, ValueError, "1 ids for 3"),
    ({"queries": WORKED, "query_ids": ["q", "q", "r"]}, ValueError, "repeats 'q'"),
    ({"queries": -WORKED, "query_ids": IDS}, ValueError, "query matrix holds -4"),
    ({"queries": WORKED * np.inf, "query_ids": IDS}, ValueError, "query matrix holds inf"),
    ({"queries": WORKED * np.float32(5e37), "query_ids": IDS}, ValueError, r"weight .*e\+38.*constant"),
    ({"queries": WORKED, "query_ids": [1, 2, 3]}, TypeError, r"query_ids\[0\] is 1 .*str\(id_\)"),
    ({"queries": WORKED, "query_ids": IDS, "k": 0}, ValueError, "k is 0"),
    ({"queries": WORKED, "query_ids": IDS, "k": 1.5}, TypeError, "k is 1.5"),
    ({"queries": WORKED, "query_ids": IDS, "k": 1.5, "exclude": {"a": "a"}}, TypeError, "k is 1.5"),
    ({"queries": WORKED, "query_ids": IDS, "exclude": ["a"]}, TypeError, "pairs is a list"),
    ({"queries": WORKED, "query_ids": IDS, "exclude": {"a": 7}}, TypeError, "7 .*must be a str"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), SEARCH_ERRORS)
def test_bad_queries_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        BM25Index.build(WORKED, IDS).search(**arguments)


def test_bad_explanations_are_refused():
    index = BM25Index.build(WORKED, IDS)
    with pytest.raises(ValueError, match="3 rows"):
        index.explain(WORKED, "a")
    with pytest.raises(ValueError, match="'z'"):
        index.explain(WORKED[[0]], "z")
    with pytest.raises(TypeError, match=r"doc_id is 1 .*str\(id_\)"):
        index.explain(WORKED[[0]], 1)
    with pytest.raises(ValueError, match="constant"):
        index.explain(WORKED[[0]] * np.float32(1e37), "a")


def test_documents_too_large_to_add_leave_the_index_as_it_was():
    index = BM25Index.build(WORKED, IDS)
    before = index.search_one(WORKED[[0]])
    with pytest.raises(ValueError, match=r"document 1 .*constant"):
        index.add(TOO_LARGE, ["d", "e"])
    assert (len(index), index.search_one(WORKED[[0]])) == (3, before)


def test_saturation_without_words_is_that_of_the_average():
    np.testing.assert_allclose(saturation(np.zeros(2), 0.0, 8.0, 0.7), [8.0, 8.0])
    np.testing.assert_allclose(saturation(np.array([0.0, 4.0]), 2.0, 8.0, 0.5), [4.0, 12.0])


def test_search_is_the_same_whatever_else_is_asked():
    docs, queries = random_terms(30, 20, 13), random_terms(6, 20, 14)
    index = BM25Index.build(docs, ids(30))
    together = all_scores(index, queries)
    one_by_one = np.concatenate([all_scores(index, queries[[i]]) for i in range(6)])
    np.testing.assert_array_equal(together, one_by_one)
    np.testing.assert_array_equal(all_scores(index, vstack([queries, queries], format="csr"))[6:], together)


def test_one_row_may_come_without_its_second_dimension():
    index = BM25Index.build(WORKED, IDS)
    assert index.explain(WORKED[0], "a") == index.explain(WORKED[[0]], "a")
    assert index.search(WORKED[0], ["q"]).doc_ids == index.search(WORKED[[0]], ["q"]).doc_ids
    built, wanted = BM25Index.build(WORKED[0], ["a"]), BM25Index.build(WORKED[[0]], ["a"])
    built.add(WORKED[1], ["b"])
    wanted.add(WORKED[[1]], ["b"])
    np.testing.assert_array_equal(all_scores(built, WORKED), all_scores(wanted, WORKED))
    with pytest.raises(ValueError, match="4 ids for 1"):
        built.add(WORKED[0], ["c", "d", "e", "f"])


def test_a_stream_with_too_many_rows_is_refused_at_the_row_too_many():
    def blocks():
        yield WORKED
        yield WORKED
        raise AssertionError("read on")

    with pytest.raises(ValueError, match="4 ids for 6"):
        BM25Index.build(blocks(), ["a", "b", "c", "d"])
