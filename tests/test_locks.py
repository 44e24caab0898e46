"""Several processes and one folder: savers take turns, readers see one save or another."""

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from lib.bm25.index import BM25Index
from lib.support.folders import load_folder, read_folder, save_folder, update_manifest
from lib.support.locks import LOCK, holder, locked
from lib.support.store import Store

ROOT = Path(__file__).parent.parent
NAME = "thing.json"

SAVER = """
import sys, time
import numpy as np
from scipy.sparse import csr_array
from lib.bm25.index import BM25Index

folder, n_saves = sys.argv[1], int(sys.argv[2])
rows = csr_array(np.array([[1, 2], [0.5, 3]], np.float32))
indexes = [BM25Index.build(rows * factor, ["a", "b"]) for factor in (1, 2)]  # equal content comes back
print("ready", flush=True)
sys.stdin.readline()
for number in range(n_saves):
    indexes[number % 2].save(folder)
print("done", flush=True)
"""

READER = """
import sys
from lib.bm25.index import BM25Index

print("ready", flush=True)
sys.stdin.readline()
for _ in range(int(sys.argv[2])):
    assert len(BM25Index.load(sys.argv[1])) == 2
print("done", flush=True)
"""

HOLDER = """
import sys, time
from pathlib import Path
from lib.support.folders import save_folder

def write(path):
    path.write_bytes(b"new")
    print("writing", flush=True)
    sys.stdin.readline()

save_folder(Path(sys.argv[1]), "thing.json", 1, {}, {"a.bin": write})
print("done", flush=True)
"""


def start(script: str, *arguments) -> subprocess.Popen:
    """Start a process that has said its first line."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", script, *map(str, arguments)], cwd=ROOT, **pipes)
    assert process.stdout.readline() in ("ready\n", "writing\n"), process.communicate()[1]
    return process


@pytest.fixture
def writing(tmp_path):
    """A process in the middle of saving into `tmp_path`, where an older save is."""
    save(tmp_path, b"old")
    process = start(HOLDER, tmp_path)
    yield process
    process.kill()
    process.communicate()


def save(folder: Path, data: bytes) -> None:
    save_folder(folder, NAME, 1, {}, {"a.bin": lambda path: path.write_bytes(data)})


def content(folder: Path) -> bytes:
    return read_folder(folder, NAME, 1, lambda _, files: files["a.bin"].read_bytes())


@pytest.mark.slow  # four processes
def test_savers_and_readers_of_one_index(tmp_path):
    folder = tmp_path / "index"
    BM25Index.build(csr_array(np.eye(2, dtype=np.float32)), ["a", "b"]).save(folder)
    savers = [start(SAVER, folder, 25) for _ in range(2)]
    processes = savers + [start(READER, folder, 60) for _ in range(2)]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    results = [process.communicate() for process in processes]
    assert [out for out, _ in results] == ["done\n"] * len(processes), "".join(error[-400:] for _, error in results)
    assert len(BM25Index.load(folder)) == 2
    manifest = json.loads((folder / "index.json").read_text("utf-8"))
    assert {path.name for path in folder.iterdir()} == {"index.json", *(e["file"] for e in manifest["files"].values())}


def test_the_old_save_is_read_while_another_process_writes(writing, tmp_path):
    assert holder(tmp_path).startswith(f"process {writing.pid} on ")
    assert content(tmp_path) == b"old"
    assert writing.communicate("\n")[0] == "done\n"
    assert content(tmp_path) == b"new"
    assert holder(tmp_path) is None


@pytest.mark.parametrize("missing", [NAME, "a-*.bin"])
def test_what_another_process_is_writing_is_not_to_be_copied_again(writing, tmp_path, missing):
    next(tmp_path.glob(missing)).unlink()
    with pytest.raises(ValueError, match=rf"written by process {writing.pid} on ") as error:
        load_folder(tmp_path, NAME, 1)
    assert "opy" not in str(error.value)
    assert ".tmp" not in str(error.value)


def test_a_saver_waits_for_another(writing, tmp_path):
    thread = threading.Thread(target=save, args=(tmp_path, b"newest"))
    thread.start()
    thread.join(0.2)
    assert thread.is_alive()
    assert content(tmp_path) == b"old"
    writing.communicate("\n")
    thread.join()
    assert content(tmp_path) == b"newest"


def test_a_lock_ends_with_its_process(writing, tmp_path):
    writing.send_signal(signal.SIGKILL)
    writing.wait()
    assert (tmp_path / LOCK).exists()
    assert holder(tmp_path) is None
    assert content(tmp_path) == b"old"
    save(tmp_path, b"newest")
    assert content(tmp_path) == b"newest"
    assert not (tmp_path / LOCK).exists()


@pytest.mark.parametrize("text", ["", "{", json.dumps({"pid": 1, "host": "elsewhere", "since": "ever"})])
def test_a_file_that_nobody_holds_locks_nothing(tmp_path, text):
    (tmp_path / LOCK).write_text(text)
    save(tmp_path, b"one")
    assert content(tmp_path) == b"one"


def test_waiting_ends_at_the_limit(writing, tmp_path):
    with pytest.raises(TimeoutError, match=f"process {writing.pid}"), locked(tmp_path, limit=0.02):
        pass


def test_changes_of_a_manifest_take_turns(tmp_path):
    save_folder(tmp_path, NAME, 1, {}, {})
    names = [f"key{number}" for number in range(8)]
    threads = [threading.Thread(target=update_manifest, args=(tmp_path, NAME, 1, {name: 1})) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(names) <= load_folder(tmp_path, NAME, 1)[0].keys()


def test_what_is_replaced_while_it_is_read_is_read_again(tmp_path):
    save(tmp_path, b"old")
    calls = []

    def read(_, files):
        calls.append(files["a.bin"])
        if len(calls) == 1:
            save(tmp_path, b"new")  # as another process would
        return files["a.bin"].read_bytes()

    assert read_folder(tmp_path, NAME, 1, read) == b"new"
    assert len(calls) == 2
    with pytest.raises(ZeroDivisionError):
        read_folder(tmp_path, NAME, 1, lambda *_: 1 / 0)


def test_of_those_who_need_an_entry_of_the_store_at_once_one_makes_it(tmp_path):
    store, barrier = Store(tmp_path), threading.Barrier(4)
    results, made = [], []

    def make():
        made.append(1)
        time.sleep(0.05)
        return {"a": np.arange(3)}

    def get():
        barrier.wait()
        results.append(store.get("stage", {"key": 1}, make)["a"].tolist())

    threads = [threading.Thread(target=get) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (results, len(made)) == ([[0, 1, 2]] * 4, 1)
    assert [path.name[:6] for path in tmp_path.iterdir()] == ["stage-"]
