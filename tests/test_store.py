"""The store: computed once, found again, mended."""

import os
from pathlib import Path

import numpy as np
import pytest

from lib.support import folders
from lib.support.store import Store

ROOT = Path(__file__).parent.parent


def test_store_makes_once_and_finds_again_after_a_restart(tmp_path):
    calls = []

    def make():
        calls.append(1)
        return {"x": np.arange(3), "y": np.ones((2, 2), np.float32)}

    for _ in range(2):
        arrays = Store(tmp_path).get("stage", {"a": 1}, make)
        assert arrays["x"].tolist() == [0, 1, 2]
        assert arrays["y"].dtype == np.float32
    Store(tmp_path).get("stage", {"a": 2}, make)
    Store(tmp_path).get("other", {"a": 1}, make)
    assert len(calls) == 3


def test_store_keeps_nothing_of_a_failed_stage_and_mends_a_damaged_entry(tmp_path):
    store = Store(tmp_path)

    def fail():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.get("stage", {}, fail)
    assert store.get("stage", {}, lambda: {"x": np.arange(3)})["x"].sum() == 3
    (path,) = tmp_path.glob("stage-*/x-*.npy")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="truncated or altered.*computed again"):
        assert store.get("stage", {}, lambda: {"x": np.arange(4)})["x"].sum() == 6


def test_store_has_what_was_made(tmp_path):
    store = Store(tmp_path)
    assert not store.has("stage", {"a": 1})
    store.get("stage", {"a": 1}, lambda: {"x": np.arange(3)})
    assert store.has("stage", {"a": 1})
    assert not store.has("stage", {"a": 2})
    assert not store.has("other", {"a": 1})


def test_an_entry_of_a_killed_run_is_made_without_a_warning(tmp_path, recwarn):
    store = Store(tmp_path)
    store.get("stage", {}, lambda: {"x": np.arange(3)})
    next(tmp_path.glob("*/entry.json")).unlink()
    assert not store.has("stage", {})
    assert store.get("stage", {}, lambda: {"x": np.arange(4)})["x"].sum() == 6
    assert not recwarn.list


def test_an_entry_is_verified_once_unless_its_files_change(tmp_path, monkeypatch):
    digested, digest_file = [], folders.digest_file
    monkeypatch.setattr(folders, "digest_file", lambda path: digested.append(path.name) or digest_file(path))
    store = Store(tmp_path)
    store.get("stage", {}, lambda: {"x": np.arange(3)})
    digested.clear()  # what writing computed
    for _ in range(3):
        Store(tmp_path).get("stage", {}, lambda: {"x": np.arange(3)})
    assert digested == []
    (path,) = tmp_path.glob("stage-*/x-*.npy")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)  # the same size
    os.utime(path, ns=(0, 0))
    with pytest.warns(UserWarning, match="altered"):
        assert Store(tmp_path).get("stage", {}, lambda: {"x": np.arange(4)})["x"].sum() == 6


def test_the_store_alone_names_what_is_in_it():
    """So that nothing is put there but by `Store.making`, where processes take turns."""
    users = [path.name for path in sorted((ROOT / "lib").rglob("*.py")) if "store.folder /" in path.read_text("utf-8")]
    assert not users
