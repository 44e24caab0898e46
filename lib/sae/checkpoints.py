"""The last two states of a run on disk, so that no kill and no damaged file costs more than the time between two."""

import json
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import IO, NamedTuple, Self

import torch
from safetensors.torch import load_file, save_file

from lib.support.folders import load_folder, save_folder

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

FORMAT_VERSION = 1
_SLOTS = ("checkpoint-0.json", "checkpoint-1.json")
_OURS = re.compile(r"\.?(state-[0-9a-f]{12}\.safetensors|(state\.safetensors|checkpoint-[01]\.json)\.[0-9a-f]{8}\.tmp)")


class Checkpoint(NamedTuple):
    """A run's state after `step` steps: its tensors by name, and JSON-able facts."""

    step: int
    tensors: dict[str, torch.Tensor]
    facts: dict


class Checkpoints:
    """A folder with the newest checkpoint of a run and the one before it.

    They take turns in two manifests; each is written beside the other and replaced in one step, so that at any moment
    at least one is whole.

    As a context it keeps others out of the folder, where the system can (not on Windows), until it is left or the
    process ends, and removes what a killed one left half-written.

    Parameters
    ----------
    folder : str or Path
        Made if it does not exist.

    Raises
    ------
    ValueError
        On entering the context, if somebody is in it already.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._newest: str | None = None
        self._lock: IO | None = None

    def __enter__(self) -> Self:
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.folder / "lock", "w")
            if self._is_ours():
                break
            self._lock.close()
        self._remove_leftovers()
        return self

    def _is_ours(self) -> bool:
        """Lock the folder; False if the lock was removed by who had it, between our opening and our locking it."""
        if fcntl is None:
            return True
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return os.path.samestat(os.fstat(self._lock.fileno()), os.stat(self._lock.name))
        except FileNotFoundError:
            return False
        except BlockingIOError as error:
            self._lock.close()
            raise ValueError(
                f"Another process trains in {self.folder}; wait for it, or name another folder."
            ) from error

    def __exit__(self, *_) -> None:
        self._lock.close()

    def _remove_leftovers(self) -> None:
        named = " ".join((self.folder / slot).read_text("utf-8", "replace") for slot in self._slots())
        for path in self.folder.iterdir():
            if _OURS.fullmatch(path.name) and path.name not in named:
                path.unlink()

    def _slots(self) -> list[str]:
        return [slot for slot in _SLOTS if (self.folder / slot).exists()]

    def load(self) -> Checkpoint | None:
        """Return the newest whole checkpoint, None if there is none yet; a damaged one is named in a warning.

        Raises
        ------
        ValueError
            If there are checkpoints and all are damaged.
        """
        found, errors = [], []
        for slot in self._slots():
            try:
                manifest, files = load_folder(self.folder, slot, FORMAT_VERSION)
                found.append((manifest["step"], slot, manifest["facts"], files["state.safetensors"]))
            except ValueError as error:
                errors.append(error)
        if errors and not found:
            raise ValueError(f"{errors[0]} No other checkpoint is whole; delete {self.folder} to start anew.")
        for error in errors:
            warnings.warn(f"{error} The other checkpoint, of step {found[0][0]}, is used.", stacklevel=2)
        if not found:
            return None
        step, self._newest, facts, path = max(found, key=lambda entry: entry[0])
        return Checkpoint(step, load_file(path), facts)

    def save(self, step: int, tensors: Mapping[str, torch.Tensor], facts: dict) -> None:
        """Write a checkpoint in the place of the older one.

        Raises
        ------
        OSError
            If it cannot be written; the newest one is untouched then.
        """
        slot = _SLOTS[self._newest == _SLOTS[0]]
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
    found = []
    old, new = (json.loads(json.dumps(mapping)) for mapping in (old, new))
    for name in dict.fromkeys([*old, *new]):
        before, now = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(now, dict):
            found += differing(before, now, f"{prefix}{name}.")
        elif before != now:
            found.append(f"{prefix}{name} is {now!r}, was {before!r}")
    return found
