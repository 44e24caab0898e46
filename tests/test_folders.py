import json
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from lib.support import folders
from lib.support.files import replacing, temporary_beside
from lib.support.folders import (
    digest_arrays,
    digest_file,
    digest_json,
    load_folder,
    save_folder,
    save_parts,
)

NAME = "thing.json"


def writing(data: bytes):
    return lambda path: path.write_bytes(data)


def failing(path):
    path.write_bytes(b"half of i")
    raise OSError("disk full")


def save(folder, a: bytes = b"a", b: bytes = b"b", version: int = 1, **content):
    save_folder(folder, NAME, version, content, {"a.bin": writing(a), "b.bin": writing(b)})


def load(folder) -> tuple[dict, dict[str, bytes]]:
    manifest, files = load_folder(folder, NAME, 1)
    return manifest, {name: path.read_bytes() for name, path in files.items()}


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_round_trip(tmp_path):
    folder = tmp_path / "made" / "on the way"
    save(folder, b"12", b"", k=3, name="Zoë", nested={"x": [1.5, None]})
    manifest, files = load(folder)
    assert files == {"a.bin": b"12", "b.bin": b""}
    assert (manifest["k"], manifest["name"], manifest["nested"]) == (3, "Zoë", {"x": [1.5, None]})
    assert len(names(folder)) == 3  # the manifest and two files, nothing else


def test_keys_that_json_turns_into_str_do_not_break_the_checksum(tmp_path):
    save(tmp_path, counts={9: "a", 10: "b"})  # as numbers 9 < 10, as str "10" < "9"
    assert load(tmp_path)[0]["counts"] == {"9": "a", "10": "b"}


def test_saving_again_removes_what_the_old_manifest_named_and_nothing_else(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "a-000000000000.bin").write_text("also mine")
    save(tmp_path, b"old", b"same")
    before = names(tmp_path)
    save(tmp_path, b"new", b"same")
    assert load(tmp_path)[1] == {"a.bin": b"new", "b.bin": b"same"}
    assert len(names(tmp_path) - before) == 1
    assert len(before - names(tmp_path)) == 1
    assert {"notes.txt", "a-000000000000.bin"} < names(tmp_path)


def test_saving_the_same_again_changes_nothing(tmp_path):
    save(tmp_path)
    before = names(tmp_path)
    save(tmp_path)
    assert names(tmp_path) == before
    load(tmp_path)


@pytest.mark.parametrize("content", [{}, {"bad": object()}])
def test_after_a_failed_save_the_old_folder_loads_and_nothing_is_left(tmp_path, content):
    save(tmp_path, b"old a", b"old b")
    before = names(tmp_path)
    second = writing(b"new b") if content else failing  # either the second writer fails, or the manifest does
    with pytest.raises((OSError, TypeError)):
        save_folder(tmp_path, NAME, 1, content, {"a.bin": writing(b"new a"), "b.bin": second})
    assert names(tmp_path) == before
    assert load(tmp_path)[1] == {"a.bin": b"old a", "b.bin": b"old b"}


def test_a_failed_save_keeps_files_that_the_old_manifest_names_too(tmp_path):
    save(tmp_path, b"same", b"old")
    with pytest.raises(OSError, match="disk full"):
        save_folder(tmp_path, NAME, 1, {}, {"a.bin": writing(b"same"), "b.bin": failing})
    assert load(tmp_path)[1] == {"a.bin": b"same", "b.bin": b"old"}


def test_a_first_save_that_fails_leaves_an_empty_folder(tmp_path):
    with pytest.raises(OSError, match="disk full"):
        save_folder(tmp_path / "new", NAME, 1, {}, {"a.bin": writing(b"a"), "b.bin": failing})
    assert names(tmp_path / "new") == set()


def test_a_save_killed_between_two_files_leaves_the_old_folder_whole(tmp_path, monkeypatch):
    save(tmp_path, b"old a", b"old b")

    def killed(path, missing_ok=False):
        raise SystemExit("killed: no clean-up runs")

    with monkeypatch.context() as patched:
        patched.setattr("pathlib.Path.unlink", killed)
        with pytest.raises(SystemExit):
            save_folder(tmp_path, NAME, 1, {}, {"a.bin": writing(b"new a"), "b.bin": failing})
    assert load(tmp_path)[1] == {"a.bin": b"old a", "b.bin": b"old b"}
    save(tmp_path, b"newer a", b"newer b")  # and what lies about does not hinder the next save
    assert load(tmp_path)[1] == {"a.bin": b"newer a", "b.bin": b"newer b"}


def test_a_file_that_two_manifests_share_stays_while_one_names_it(tmp_path):
    save(tmp_path, b"shared", b"shared")
    other = partial(save_folder, tmp_path, "other.json", 1, {})
    with pytest.raises(OSError, match="disk full"):
        other({"a.bin": writing(b"shared"), "b.bin": failing})
    load(tmp_path)
    other({"a.bin": writing(b"shared"), "b.bin": writing(b"shared")})
    other({"a.bin": writing(b"changed")})
    assert load(tmp_path)[1] == {"a.bin": b"shared", "b.bin": b"shared"}
    assert load_folder(tmp_path, "other.json", 1)[1]["a.bin"].read_bytes() == b"changed"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_files_get_the_mode_that_the_umask_asks_for(tmp_path, umask, mode):
    def private(path):  # as safetensors does
        path.unlink(missing_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))

    old = os.umask(umask)
    try:
        save_folder(tmp_path, NAME, 1, {}, {"a.bin": private, "b.bin": writing(b"b")})
    finally:
        os.umask(old)
    assert {oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir()} == {oct(mode)}


def test_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load(tmp_path / "nowhere")


def test_no_manifest(tmp_path):
    with pytest.raises(ValueError, match=r"no thing\.json.*nothing"):
        load(tmp_path)
    (tmp_path / "other.txt").touch()
    with pytest.raises(ValueError, match=r"no thing\.json.*other\.txt"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda text: text[: len(text) // 2], "not JSON"),
        (lambda text: "", "not JSON"),
        (lambda text: "[1, 2]", "checksum"),
        (lambda text: text.replace('"k": 3', '"k": 4'), "checksum"),
        (lambda text: text.replace('"k": 3,', ""), "checksum"),
    ],
)
def test_spoilt_manifests(tmp_path, spoil, message):
    save(tmp_path, k=3)
    text = (tmp_path / NAME).read_text("utf-8")
    assert spoil(text) != text
    (tmp_path / NAME).write_text(spoil(text), "utf-8")
    with pytest.raises(ValueError, match=f"{NAME}.*{message}"):
        load(tmp_path)


def test_a_manifest_that_is_not_utf8(tmp_path):
    save(tmp_path)
    (tmp_path / NAME).write_bytes(b"\xff\xfe{}")
    with pytest.raises(ValueError, match=r"thing\.json"):
        load(tmp_path)


@pytest.mark.parametrize("version", [0, 2])
def test_another_format_version(tmp_path, version):
    save(tmp_path, version=version)
    with pytest.raises(ValueError, match=f"version {version}"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"123", "altered"), (b"1235", "altered"), (None, "missing")],
)
def test_spoilt_files_are_named(tmp_path, data, message):
    save(tmp_path, b"1234")
    (path,) = tmp_path.glob("a-*.bin")
    path.unlink() if data is None else path.write_bytes(data)
    with pytest.raises(ValueError, match=f"{path.name}.*{message}"):
        load(tmp_path)


def test_replacing_is_all_or_nothing(tmp_path):
    path = tmp_path / "file.txt"
    with replacing(path) as temporary:
        temporary.write_text("one")
        assert not path.exists()
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("two")
        raise RuntimeError
    assert path.read_text() == "one"
    assert names(tmp_path) == {"file.txt"}


def test_temporary_beside_is_removed_and_never_twice_the_same(tmp_path):
    with temporary_beside(tmp_path / "x") as first, temporary_beside(tmp_path / "x") as second:
        first.touch()
        assert first != second
        assert first.parent == tmp_path
    assert names(tmp_path) == set()


def test_digests(tmp_path):
    # sha256 of nothing and of "abc": FIPS 180-4's own examples.
    (tmp_path / "abc").write_bytes(b"abc")
    assert digest_file(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert digest_json({"b": 1, "a": [2, "x"]}) == digest_json(json.loads('{"a": [2, "x"], "b": 1}'))
    assert digest_json({"a": 1}) != digest_json({"a": 2})


def test_digest_of_arrays_covers_names_dtypes_shapes_and_order_of_bytes():
    a = np.arange(6, dtype=np.float32)
    base = digest_arrays({"a": a, "b": a})
    assert digest_arrays({"b": a.copy(), "a": a}) == base
    assert digest_arrays({"a": a.reshape(2, 3).T.copy().T.reshape(6), "b": a}) == base
    others = [{"a": a}, {"a": a, "c": a}, {"a": a.reshape(2, 3), "b": a}, {"a": a.view(np.int32), "b": a}]
    assert len({base, *map(digest_arrays, others)}) == 5
    assert digest_arrays({"a": a.reshape(2, 3).T}) == digest_arrays({"a": a.reshape(2, 3).T.copy()})


def test_arrays_end_to_end_are_one_npy_file(tmp_path, monkeypatch):
    monkeypatch.setattr(np, "memmap", lambda *_, **__: 1 / 0)  # where a full disk would be a signal
    for parts in (
        [np.arange(3.0), np.arange(0.0), np.arange(4.0)],
        [np.eye(3)[:, :2], np.ones((1, 2))],
        [np.array([])],
        [np.array(3.5)],
        [np.array(["one", "three"])],
        [np.arange(6).reshape(2, 3).T],
    ):
        save_parts(tmp_path / "a.npy", parts)
        joined = np.ascontiguousarray(np.concatenate(parts)) if len(parts) > 1 else parts[0].copy(order="C")
        np.testing.assert_array_equal(np.load(tmp_path / "a.npy", allow_pickle=False), joined)
        np.save(tmp_path / "b.npy", joined)
        assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


def test_python_objects_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="Python objects"):
        save_parts(tmp_path / "a.npy", [np.array([{}])])
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("n", [4, 10**6])
def test_a_full_disk_is_noticed_whatever_the_size(n):
    with pytest.raises(OSError, match="No space left"):
        save_parts(Path("/dev/full"), [np.arange(n)])


@pytest.mark.parametrize("name", ["../../mine.txt", "../mine.txt", "{outside}", "..", "", ".", 7, "a\0b"])
def test_names_that_lead_out_of_the_folder_are_neither_read_nor_removed(tmp_path, name):
    (tmp_path / "mine.txt").write_text("mine")
    folder = tmp_path / "a" / "b"
    save(folder)
    manifest = json.loads((folder / NAME).read_text("utf-8"))
    del manifest["sha256"]
    outside = str(tmp_path / "mine.txt")
    manifest["files"]["a.bin"] = {"file": outside if name == "{outside}" else name, "sha256": digest_file(outside)}
    (folder / NAME).write_text(json.dumps(manifest | {"sha256": digest_json(manifest)}), "utf-8")
    with pytest.raises(ValueError, match="in the folder only"):
        load_folder(folder, NAME, 1)
    save(folder, b"new")
    assert load(folder)[1]["a.bin"] == b"new"
    assert (tmp_path / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_interrupt_around_the_replacing_of_the_manifest_leaves_a_whole_folder(tmp_path, monkeypatch, when):
    save(tmp_path, b"old a", b"old b")
    write = folders._write_manifest

    def interrupted(*arguments):
        if when == "after":
            write(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(folders, "_write_manifest", interrupted)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, b"new a", b"new b")
    kept = b"new" if when == "after" else b"old"
    assert load(tmp_path)[1] == {"a.bin": kept + b" a", "b.bin": kept + b" b"}
    assert len(names(tmp_path)) == 3


def test_what_a_manifest_names_that_cannot_be_read_is_left_alone(tmp_path):
    save(tmp_path)
    before = names(tmp_path)
    (tmp_path / NAME).write_text("{")
    with pytest.raises(OSError, match="disk full"):
        save_folder(tmp_path, NAME, 1, {}, {"a.bin": writing(b"a"), "b.bin": failing})
    assert names(tmp_path) == before


def test_content_is_on_the_disk_before_its_name_is_given(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    target = lambda descriptor: Path(os.readlink(f"/proc/self/fd/{descriptor}")).name  # noqa: E731
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append(("synced", target(fd))), fsync(fd)))
    monkeypatch.setattr(
        os, "replace", lambda old, new: (calls.append(("named", old.name, new.name)), replace(old, new))
    )
    save_folder(tmp_path / "folder", NAME, 1, {}, {"a.bin": writing(b"a")})
    assert [call[0] for call in calls] == ["synced", "named", "synced", "named", "synced"]
    assert [calls[0][1], calls[2][1]] == [calls[1][1], calls[3][1]]
    assert (calls[3][2], calls[4][1]) == (NAME, "folder")
