"""The store of computed arrays."""

import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np

from lib.support.files import user_path
from lib.support.folders import digest_json, read_folder, save_folder, save_parts
from lib.support.locks import making

STORE_VERSION = 1
MANIFEST = "entry.json"
SHARD = 16_384  # documents that are kept together
_verified: dict[Path, tuple[dict, list[str]]] = {}  # entry → size and modification time of its files, logical names


class Store:
    """Arrays on disk under a key of everything that decides them, so that nothing is computed twice.

    Entries are written atomically; a killed run continues after the last complete one. A damaged entry is made again.
    Of processes that need the same entry one makes it, and the others wait. A stage may keep a folder of its own form.

    Parameters
    ----------
    folder : str or Path, optional
        None is the environment variable LATENT_TERMS_CACHE, else `~/.cache/latent-terms`.
    """

    def __init__(self, folder: str | Path | None = None):
        self.folder = user_path(folder or os.environ.get("LATENT_TERMS_CACHE") or "~/.cache/latent-terms")

    def path(self, stage: str, key: object) -> Path:
        """Return the folder of the entry of `stage` under `key`, JSON-able; it need not be there."""
        return self.folder / f"{stage}-{digest_json(key)[:16]}"

    def make(self, stage: str, key: object, is_made: Callable[[Path], object], make: Callable[[Path], object]) -> Path:
        """Return the folder of the entry of `stage` under `key`; unless `is_made(folder)`, `make(folder)` makes it."""
        path = self.path(stage, key)
        if not is_made(path):
            with making(path):
                if not is_made(path):  # else another process was first
                    make(path)
        return path

    def has(self, stage: str, key: dict) -> bool:
        """Whether the arrays of `stage` under `key` are stored."""
        return (self.path(stage, key) / MANIFEST).is_file()

    def get(self, stage: str, key: dict, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Return the arrays of `stage` under `key`, memory-mapped; those that are not stored yet come from `make()`.

        Checksums are verified once in a process, and again when the size or the modification time of a file changed.
        """

        def put(entry: Path) -> None:
            self._put(entry, key, make())

        entry = self.make(stage, key, lambda _: self.has(stage, key), put)
        try:
            return _opened(entry)
        except ValueError as error:
            warnings.warn(f"{error} It is computed again.", stacklevel=2)
            put(entry)
            return _opened(entry)

    def _put(self, entry: Path, key: dict, arrays: dict[str, np.ndarray]) -> None:
        parts = {f"{name}.npy": [np.asarray(array)] for name, array in arrays.items()}
        writers = {name: partial(save_parts, parts=part) for name, part in parts.items()}
        save_folder(entry, MANIFEST, STORE_VERSION, {"key": key}, writers)


def _opened(entry: Path) -> dict[str, np.ndarray]:
    """Return an entry's arrays; checksums of its files are computed unless this process knows the files."""
    state = {}
    for path in entry.iterdir():
        with suppress(FileNotFoundError):  # another process may remove it first
            state[path.name] = (path.stat().st_size, path.stat().st_mtime_ns)
    verified_state, names = _verified.get(entry, (None, ()))

    def read(_, files: dict[str, Path]) -> dict[str, np.ndarray]:
        _verified[entry] = state, list(files)
        return {name.removesuffix(".npy"): np.load(path, mmap_mode="r") for name, path in files.items()}

    return read_folder(entry, MANIFEST, STORE_VERSION, read, unread=names if state == verified_state else ())
