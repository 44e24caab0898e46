"""The store of computed arrays."""

import os
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from lib.support.folders import digest_json, load_folder, save_folder, save_parts

STORE_VERSION = 1
MANIFEST = "entry.json"
SHARD = 16_384  # documents that are kept together
_verified: dict[Path, tuple[dict, list[str]]] = {}  # entry → size and modification time of its files, logical names


class Store:
    """Arrays on disk under a key of everything that decides them, so that nothing is computed twice.

    Entries are written atomically; a killed run continues after the last complete one. A damaged entry is made again.

    Parameters
    ----------
    folder : str or Path, optional
        None is the environment variable LATENT_TERMS_CACHE, else `~/.cache/latent-terms`.
    """

    def __init__(self, folder: str | Path | None = None):
        self.folder = Path(folder or os.environ.get("LATENT_TERMS_CACHE") or "~/.cache/latent-terms").expanduser()

    def has(self, stage: str, key: dict) -> bool:
        """Whether the arrays of `stage` under `key` are stored."""
        return (self._entry(stage, key) / MANIFEST).is_file()

    def get(self, stage: str, key: dict, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Return the arrays of `stage` under `key`, memory-mapped; those that are not stored yet come from `make()`.

        Checksums are verified once in a process, and again when the size or the modification time of a file changed.
        """
        entry = self._entry(stage, key)
        if not self.has(stage, key):
            self._put(entry, key, make())
        try:
            files = _verified_files(entry)
        except ValueError as error:
            warnings.warn(f"{error} It is computed again.", stacklevel=2)
            self._put(entry, key, make())
            files = _verified_files(entry)
        return {name.removesuffix(".npy"): np.load(path, mmap_mode="r") for name, path in files.items()}

    def _entry(self, stage: str, key: dict) -> Path:
        return self.folder / f"{stage}-{digest_json(key)[:16]}"

    def _put(self, entry: Path, key: dict, arrays: dict[str, np.ndarray]) -> None:
        parts = {f"{name}.npy": [np.asarray(array)] for name, array in arrays.items()}
        writers = {name: partial(save_parts, parts=part) for name, part in parts.items()}
        save_folder(entry, MANIFEST, STORE_VERSION, {"key": key}, writers)


def _verified_files(entry: Path) -> dict[str, Path]:
    """Return an entry's files by logical name; their checksums are computed unless this process knows the files."""
    stats = {path.name: path.stat() for path in entry.iterdir()}
    state = {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}
    verified_state, names = _verified.get(entry, (None, ()))
    _, files = load_folder(entry, MANIFEST, STORE_VERSION, unread=names if state == verified_state else ())
    _verified[entry] = state, list(files)
    return files
