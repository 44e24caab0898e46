import fcntl
import json

import pytest
import torch
from safetensors import SafetensorError

import lib.sae.checkpoints
from lib.sae.checkpoints import Checkpoints, differing


def tensors(step: int) -> dict[str, torch.Tensor]:
    return {"a": torch.full((3,), float(step)), "b": torch.tensor([step])}


def written(folder, *steps) -> Checkpoints:
    saved = Checkpoints(folder)
    for step in steps:
        saved.save(step, tensors(step), {"at": [step, None]})
    return saved


def damage(path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def weights_of(folder, step: int):
    for manifest in map(json.loads, (path.read_text() for path in folder.glob("*.json"))):
        if manifest["step"] == step:
            return folder / manifest["files"]["state.safetensors"]["file"]
    raise AssertionError(step)


def test_the_newest_is_loaded_and_two_are_kept(tmp_path):
    folder = tmp_path / "new" / "checkpoints"
    assert Checkpoints(folder).load() is None
    for steps in ((10,), (20,), (30, 40, 50)):  # in one process or in several
        saved = Checkpoints(folder)
        saved.load()
        for step in steps:
            saved.save(step, tensors(step), {"at": [step, None]})
        got = Checkpoints(folder).load()
        assert (got.step, got.facts) == (steps[-1], {"at": [steps[-1], None]})
        assert {name: tensor.tolist() for name, tensor in got.tensors.items()} == {
            name: tensor.tolist() for name, tensor in tensors(steps[-1]).items()
        }
    assert weights_of(folder, 40) != weights_of(folder, 50)
    assert len(list(folder.iterdir())) == 4


def cut(path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize("harm", [damage, cut, lambda path: path.unlink()])
@pytest.mark.parametrize("part", ["weights", "manifest"])
def test_of_a_damaged_checkpoint_the_one_before_is_used_with_a_message(tmp_path, harm, part):
    written(tmp_path, 10, 20)
    path = weights_of(tmp_path, 20) if part == "weights" else tmp_path / "checkpoint-1.json"
    harm(path)
    if part == "manifest" and not path.exists():
        assert Checkpoints(tmp_path).load().step == 10  # a checkpoint that is not there is no damage
        return
    with pytest.warns(UserWarning, match=rf"{path.name}.*step 10"):
        saved = Checkpoints(tmp_path)
        assert saved.load().step == 10
    # the damaged one is written over, the good one stays
    saved.save(20, tensors(20), {})
    assert Checkpoints(tmp_path).load().step == 20
    damage(weights_of(tmp_path, 20))
    with pytest.warns(UserWarning, match="step 10"):
        assert Checkpoints(tmp_path).load().step == 10


def test_when_all_are_damaged_nothing_is_made_up(tmp_path):
    written(tmp_path, 10, 20)
    for step in (10, 20):
        damage(weights_of(tmp_path, step))
    with pytest.raises(ValueError, match=r"altered.*delete"):
        Checkpoints(tmp_path).load()


def test_a_full_disk_leaves_the_checkpoints_as_they_are(tmp_path, monkeypatch):
    saved = written(tmp_path, 10, 20)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(tensors, path):
        path.write_bytes(b"half")
        raise SafetensorError("No space left on device")  # as the library raises it, which is no OSError

    monkeypatch.setattr(lib.sae.checkpoints, "save_file", full)
    with pytest.raises(OSError, match=r"state\.safetensors .*No space left on device"):
        saved.save(30, tensors(30), {})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    saved = written(tmp_path, 10)
    whole = {path.name for path in tmp_path.iterdir()}
    for name in (
        ".state.safetensors.0123abcd.tmp",
        ".checkpoint-1.json.0123abcd.tmp",
        "state-0123456789ab.safetensors",
    ):
        (tmp_path / name).write_text("half")
    (tmp_path / "notes.txt").write_text("mine")
    with Checkpoints(tmp_path) as entered:
        assert entered.load().step == 10
    assert {path.name for path in tmp_path.iterdir()} == whole | {"notes.txt", "lock"}
    saved.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    (tmp_path / "notes.txt").unlink()
    Checkpoints(tmp_path).remove()
    assert not tmp_path.exists()


@pytest.mark.slow
def test_two_processes_do_not_train_in_one_folder(fresh, tmp_path):
    child = "import sys; from lib.sae.checkpoints import Checkpoints; Checkpoints(sys.argv[1]).__enter__()"
    with Checkpoints(tmp_path):
        assert "Another process" in fresh.run(child, tmp_path).stderr
    with Checkpoints(tmp_path):  # free again
        pass


def test_a_lock_that_was_removed_as_we_got_it_is_not_one(tmp_path, monkeypatch):
    # the one who has it ends between our opening the file and our locking it
    folder, flock = tmp_path / "checkpoints", fcntl.flock
    first = Checkpoints(folder).__enter__()
    second = Checkpoints(folder)

    def late(file, how):
        monkeypatch.setattr(fcntl, "flock", flock)
        first.remove()
        first.__exit__()
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with second:
        assert (folder / "lock").exists()
        with pytest.raises(ValueError, match="Another process"):
            Checkpoints(folder).__enter__()
        second.save(1, tensors(1), {})
    assert Checkpoints(folder).load().step == 1


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1, "b": 2}, {"a": 1, "b": 3}, ["b is 3, was 2"]),
        ({"a": {"b": {"c": "x"}}, "d": 0}, {"a": {"b": {"c": "y"}}, "d": 0}, ["a.b.c is 'y', was 'x'"]),
        ({"a": 1}, {"a": 1, "new": 5}, ["new is 5, was None"]),
        ({"a": (1, 2)}, {"a": [1, 2]}, []),  # as JSON has them
        ({"a": {"b": 1}}, {"a": 2}, ["a is 2, was {'b': 1}"]),
    ],
)
def test_differing_fields_are_named(old, new, expected):
    assert differing(old, new) == expected
