import json
import re
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import TEXTS
from scipy.sparse import csr_array, vstack

from lib.interop.ray_data import ATTEMPTS, Shards, Worker, _plan, _save_plan, encode_corpus
from lib.latent_terms import LatentTerms

pytestmark = pytest.mark.usefixtures("one_thread")

DOCS = [f"{text} {word}".strip() for word in ("cat", "river", "zebra ?") for text in TEXTS]
IDS = [f"doc {i}" for i in range(len(DOCS))]
FILES = {"a": slice(0, 10), "b": slice(10, 10), "c": slice(10, 27)}
SIZE = 4  # rows of a shard: 4, 4, 2; none; 4, 4, 4, 4, 1
SETTINGS = {"id_column": "key", "text_column": "body", "rows_per_shard": SIZE}


@pytest.fixture(scope="module")
def model(tiny_encoder, tiny_sae):
    return LatentTerms(tiny_encoder, tiny_sae)


@pytest.fixture(scope="module")
def model_folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model.save(folder)
    return folder


def write(path, ids, texts):
    """Row groups of 3 rows, so that shards of 4 lie across them; a column that nobody asked for between the two."""
    table = pa.table(
        {
            "key": pa.array(ids, None if ids else pa.string()),
            "n": range(len(ids)),
            "body": pa.array(texts, pa.large_string()),
        }
    )
    pq.write_table(table, path, row_group_size=3)
    return path


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Three files, the second without rows."""
    folder = tmp_path_factory.mktemp("parquet")
    return [write(folder / f"{name}.parquet", IDS[part], DOCS[part]) for name, part in FILES.items()]


@pytest.fixture(scope="module")
def expected(model) -> csr_array:
    """What one process makes of the same runs of rows."""
    runs = [DOCS[part][i : i + SIZE] for part in FILES.values() for i in range(0, len(DOCS[part]), SIZE)]
    return vstack([model.encode_documents(run, progress=False) for run in runs], format="csr")


def in_this_process(folder, paths, model, model_folder, **changes) -> None:
    """Do what `encode_corpus` does, without a cluster."""
    plan, units = _plan(paths, model, **(SETTINGS | changes))
    _save_plan(folder, plan)
    worker = Worker(folder, plan, str(model_folder), 1, "cpu")
    assert [worker(unit) for unit in units] == units


@pytest.fixture(scope="module")
def corpus_folder(paths, model, model_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    in_this_process(folder, paths, model, model_folder)
    return folder


@pytest.fixture
def copied(corpus_folder, tmp_path):
    return shutil.copytree(corpus_folder, tmp_path / "copied")


def assert_same_bits(matrix: csr_array, expected: csr_array) -> None:
    assert matrix.shape == expected.shape
    for name in ("indptr", "indices", "data"):
        np.testing.assert_array_equal(getattr(matrix, name), getattr(expected, name), err_msg=name)


def assert_shards_are(shards: Shards, expected: csr_array, model: LatentTerms) -> None:
    """The same matrix, and the same index as of the whole matrix at once, to the bit."""
    assert shards.doc_ids == IDS
    assert len(shards) == len(IDS)
    assert_same_bits(vstack(list(shards.matrices()), format="csr"), expected)
    merged, whole = model.index(shards.matrices(), shards.doc_ids), model.index(expected, IDS)
    for name in ("df", "idf", "lengths", "average_length"):
        np.testing.assert_array_equal(getattr(merged, name), getattr(whole, name), err_msg=name)
    queries = model.encode_queries(["the red cat", "a river ran ?"], progress=False)
    ranking, wanted = (index.search(queries, ["q", "r"], k=10) for index in (merged, whole))
    assert all(ranking[query] == wanted[query] for query in ("q", "r"))  # ids and scores, equal as numbers
    assert len(wanted["q"]) == 10


@pytest.mark.slow
def test_the_shards_are_the_matrix_of_one_process(corpus_folder, model, expected, paths):
    shards = Shards(corpus_folder)
    assert_shards_are(shards, expected, model)
    assert [part.shape[0] for part in shards.matrices()] == [4, 4, 2, 4, 4, 4, 4, 1]
    assert (shards.width, shards.model) == (model.sae.width, model.identity)
    assert [(entry["file"], entry["rows"]) for entry in shards.inputs] == [
        ("a.parquet", 10),
        ("b.parquet", 0),
        ("c.parquet", 17),
    ]
    # encoded in other batches, the rows are equal to rounding
    at_once = model.encode_documents(DOCS, progress=False)
    np.testing.assert_array_equal(expected.indices, at_once.indices)
    np.testing.assert_allclose(expected.data, at_once.data, rtol=1e-4)


def write_times(folder) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("shards/*/shard.json")}


@pytest.mark.slow
def test_only_what_is_not_there_or_not_whole_is_encoded_again(copied, paths, model, model_folder, expected):
    before = write_times(copied)
    shutil.rmtree(copied / "shards" / "000002")
    data = next((copied / "shards" / "000005").glob("data-*.npy"))
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"1 of 8 shards.*000002"):
        Shards(copied)
    in_this_process(copied, paths, model, model_folder)
    after = write_times(copied)
    assert {name for name in after if after[name] != before[name]} == {"000002", "000005"}
    assert_shards_are(Shards(copied), expected, model)


def test_a_worker_with_nothing_to_do_loads_no_model(copied, paths, model):
    in_this_process(copied, paths, model, copied / "no model")


def test_a_worker_refuses_another_model_than_the_run_s(paths, model, tiny_sae, tmp_path):
    other = LatentTerms(model.encoder, tiny_sae, phi="log1p")
    other.save(tmp_path / "other")
    with pytest.raises(ValueError, match=r"differing: model\.phi"):
        in_this_process(tmp_path / "out", paths, model, tmp_path / "other")


# A process without threads forks the workers: a fork of the tests' own, with threads of other libraries, may hang.
KILLED_AT_WORK = """
import json, os, signal, sys
from pathlib import Path
from lib.interop import ray_data

folder, plan, unit, times = json.loads(sys.argv[1])
ray_data._read = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
for _ in range(times):
    if not (child := os.fork()):
        ray_data.Worker(Path(folder), plan, None, 1, "cpu")(unit)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
"""


@pytest.mark.slow  # the parent of the process imports torch
def test_a_unit_that_kills_its_workers_ends_the_run(fresh, paths, model, tmp_path):
    plan, units = _plan(paths, model, **SETTINGS)
    worker = Worker(tmp_path, plan, str(tmp_path / "no model"), 1, "cpu")
    run = fresh.run(KILLED_AT_WORK, json.dumps([str(tmp_path), plan, units[4], ATTEMPTS]))
    assert run.returncode == 0, run.stderr
    with pytest.raises(RuntimeError, match=r"4 to 8 .*c\.parquet .*rows_per_shard"):
        worker(units[4])
    for _ in range(ATTEMPTS + 1):  # called again, it is tried again; and errors are not counted
        with pytest.raises(FileNotFoundError, match="no model"):
            worker(units[4])


def test_shards_of_another_corpus_or_model_are_refused_by_name(corpus_folder, paths, model, tmp_path):
    changed = write(tmp_path / "c.parquet", IDS[FILES["c"]], [*DOCS[10:26], "another"])
    other = LatentTerms(model.encoder, model.sae, pooling="max")
    for differing, its_paths, its_model, changes in [
        ("inputs[2].sha256", [*paths[:2], changed], model, {}),
        ("model.pooling", paths, other, {}),
        ("text_column", paths, model, {"text_column": "key"}),
        ("inputs, shards", paths[:2], model, {}),
        ("inputs[0].file, inputs[0].rows, inputs[0].sha256, inputs[2].file", [*paths[::-1]], model, {}),
    ]:
        plan, _ = _plan(its_paths, its_model, **(SETTINGS | changes))
        with pytest.raises(ValueError, match=re.escape(f"differing: {differing}")):
            _save_plan(corpus_folder, plan)
    _save_plan(corpus_folder, _plan(paths, model, **SETTINGS)[0])


def test_a_shard_of_another_run_or_altered_is_named(copied, corpus_folder):
    shards = Shards(copied)
    shutil.rmtree(copied / "shards" / "000001")
    shutil.copytree(corpus_folder / "shards" / "000000", copied / "shards" / "000001")
    with pytest.raises(ValueError, match="000001 is shard 0"):
        list(shards.matrices())
    with pytest.raises(ValueError, match="000001 is shard 0"):
        _ = shards.doc_ids
    ids = next((copied / "shards" / "000000").glob("ids-*.json"))
    ids.write_text(ids.read_text().replace("doc 1", "doc 9"))
    with pytest.raises(ValueError, match=r"ids-\w{12}\.json"):
        _ = shards.doc_ids


@pytest.mark.slow
def test_bad_input_is_refused_before_any_work(paths, model_folder, tmp_path):
    number = write(tmp_path / "number.parquet", [1, 2], ["a", "b"])
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(paths[0].read_bytes()[:-9])
    for error, message, its_paths, changes in [
        (TypeError, "paths", paths[0], {}),
        (TypeError, r"sorted\(paths\)", set(paths), {}),
        (FileNotFoundError, r"absent\.parquet \(1 of 2", [paths[0], tmp_path / "absent.parquet"], {}),
        (ValueError, r"cut\.parquet", [cut], {}),
        (ValueError, "'id'.*id_column.*key, n, body", paths, {"id_column": "id"}),
        (ValueError, "'key'.*int64.*id_column", [number], {}),
        (ValueError, "no rows", [paths[1]], {}),
        (ValueError, "rows_per_shard is 0", paths, {"rows_per_shard": 0}),
        (TypeError, "workers is 1.5", paths, {"workers": 1.5}),
        (ValueError, "gpus is -1", paths, {"gpus": -1}),
    ]:
        with pytest.raises(error, match=message):
            encode_corpus(tmp_path / "out", its_paths, model_folder, **({"workers": 2} | SETTINGS | changes))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("ids", "texts", "error", "message"),
    [
        (["a", "b"], ["cat", None], TypeError, r"'body' .*\[1\] is None"),
        (["a", None], ["cat", "dog"], TypeError, r"'key' .*\[1\] is None"),
        (["a", "a"], ["cat", "dog"], ValueError, r"'key' .* repeats 'a'"),
    ],
)
def test_a_row_that_is_no_document_is_named(ids, texts, error, message, model, model_folder, tmp_path):
    path = write(tmp_path / "bad.parquet", ids, texts)
    with pytest.raises(error, match=message):
        in_this_process(tmp_path / "out", [path], model, model_folder)
