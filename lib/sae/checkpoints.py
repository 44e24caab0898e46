"""The last two checkpoints of a run, so that a kill or a damaged file costs no more than the time between two."""

import json
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import IO, NamedTuple, Self

import torch
from safetensors.torch import load_file, save_file

from lib.support.files import make_folder
from lib.support.folders import load_folder, read_folder, save_folder

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

FORMAT_VERSION = 1
_SLOTS = ("checkpoint-0.json", "checkpoint-1.json")
_OURS = re.compile(
    r"\.lock|\.?(state-[0-9a-f]{12}\.safetensors|(state\.safetensors|checkpoint-[01]\.json)\.[0-9a-f]{8}\.tmp)"
)


class Checkpoint(NamedTuple):
    """A run's state after `step` steps: its tensors by name, and JSON-able facts."""

    step: int
    tensors: dict[str, torch.Tensor]
    facts: dict


class Checkpoints:
    """A folder with the newest checkpoint of a run and the one before it.

    They take turns in two manifests, each replaced in one step, so that at least one is whole at any moment. As a
    context it locks the folder (not on Windows) until it is left or the process ends, and removes incomplete files of
    a process that was killed; a ValueError if another process has locked it.

    Parameters
    ----------
    folder : str or Path
        Created if it does not exist.
    """

    def __init__(self, folder: str | Path):
        self.folder = make_folder(folder)
        self._newest: str | None = None
        self._lock: IO | None = None

    def __enter__(self) -> Self:
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = open(self.folder / "lock", "w")
            if self._locks(lock):
                break
            lock.close()
        self._lock = lock
        self._remove_leftovers()
        return self

    def _locks(self, lock: IO) -> bool:
        """Lock the folder; False if another process removed the lock file between our opening and our locking it."""
        if fcntl is None:
            return True
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return os.path.samestat(os.fstat(lock.fileno()), os.stat(lock.name))
        except FileNotFoundError:
            return False
        except BlockingIOError as error:
            lock.close()
            raise ValueError(f"Another process trains in {self.folder}; wait, or name another folder.") from error

    def __exit__(self, *_) -> None:
        if self._lock is not None:
            self._lock.close()

    def _remove_leftovers(self) -> None:
        named = " ".join((self.folder / slot).read_text("utf-8", "replace") for slot in self._slots())
        for path in self.folder.iterdir():
            if _OURS.fullmatch(path.name) and path.name not in named:
                path.unlink()

    def _slots(self) -> list[str]:
        return [slot for slot in _SLOTS if (self.folder / slot).exists()]

    def load(self) -> Checkpoint | None:
        """Return the newest whole checkpoint, None if there is none yet; a warning names a damaged one.

        Raises ValueError if there are checkpoints and all are damaged.
        """
        checkpoints, errors = {}, []
        for slot in self._slots():
            try:
                checkpoints[slot] = load_folder(self.folder, slot, FORMAT_VERSION)
            except ValueError as error:
                errors.append(error)
        if errors and not checkpoints:
            raise ValueError(f"{errors[0]} No other checkpoint is whole; delete {self.folder} to start again.")
        if not checkpoints:
            return None
        self._newest = max(checkpoints, key=lambda slot: checkpoints[slot][0]["step"])
        manifest, files = checkpoints[self._newest]
        for damage in errors:
            warnings.warn(f"{damage} The other checkpoint, of step {manifest['step']}, is used.", stacklevel=2)

        def read(manifest: dict, files: dict[str, Path]) -> Checkpoint:
            return Checkpoint(manifest["step"], load_file(files["state.safetensors"]), manifest["facts"])

        return read_folder(self.folder, self._newest, FORMAT_VERSION, read, unread=files)  # verified above

    def save(self, step: int, tensors: Mapping[str, torch.Tensor], facts: dict) -> None:
        """Write a checkpoint instead of the older one; OSError if it cannot be written, and both stay."""
        slot = _SLOTS[1] if self._newest == _SLOTS[0] else _SLOTS[0]
        writers = {"state.safetensors": lambda path: save_file(dict(tensors), path)}
        save_folder(self.folder, slot, FORMAT_VERSION, {"step": step, "facts": facts}, writers)
        self._newest = slot

    def remove(self) -> None:
        """Remove the checkpoints, then the lock, and the folder if nothing else is in it."""
        for slot in self._slots():
            (self.folder / slot).unlink()
        self._remove_leftovers()
        if fcntl is None and self._lock is not None:
            self._lock.close()  # Windows removes no open file
        (self.folder / "lock").unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()


def differing(old: Mapping, new: Mapping, prefix: str = "") -> list[str]:
    """Return "FIELD is NEW, was OLD" for every field, of nested mappings too, that differs; both are JSON-able."""
    differences = []
    old, new = (json.loads(json.dumps(mapping)) for mapping in (old, new))
    for name in dict.fromkeys([*old, *new]):
        before, now = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(now, dict):
            differences += differing(before, now, f"{prefix}{name}.")
        elif before != now:
            differences.append(f"{prefix}{name} is {now!r}, was {before!r}")
    return differences
