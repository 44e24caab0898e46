"""Arrays that are kept on disk, so that nothing is computed twice."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lib.support.folders import digest_json, load_folder, save_folder, save_parts

STORE_VERSION = 1
SHARD = 16_384  # documents that are kept together
LATE_DEPTH = 1_001  # best documents by late interaction that are kept of a query, if no more are asked for


class Store:
    """Arrays kept on disk under a key of everything that decides them, so that nothing is computed twice.

    Entries are written atomically; a killed run continues behind the last whole one. A damaged entry is made again.

    Parameters
    ----------
    folder : str or Path, optional
        None is the environment variable LATENT_TERMS_CACHE, else `~/.cache/latent-terms`.
    """

    def __init__(self, folder: str | Path | None = None):
        self.folder = Path(folder or os.environ.get("LATENT_TERMS_CACHE") or "~/.cache/latent-terms").expanduser()

    def get(self, stage: str, key: dict, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Return the arrays of `stage` under `key`, memory-mapped; made and kept if they are not there yet."""
        folder = self.folder / f"{stage}-{digest_json(key)[:16]}"
        if not folder.exists():
            self._put(folder, key, make())
        try:
            _, files = load_folder(folder, "entry.json", STORE_VERSION)
        except ValueError as error:
            warnings.warn(f"{error} It is computed again.", stacklevel=2)
            self._put(folder, key, make())
            _, files = load_folder(folder, "entry.json", STORE_VERSION)
        return {name.removesuffix(".npy"): np.load(path, mmap_mode="r") for name, path in files.items()}

    def _put(self, folder: Path, key: dict, arrays: dict[str, np.ndarray]) -> None:
        writers = {
            f"{name}.npy": lambda path, array=array: save_parts(path, [np.asarray(array)])
            for name, array in arrays.items()
        }
        save_folder(folder, "entry.json", STORE_VERSION, {"key": key}, writers)
