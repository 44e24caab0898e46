"""Folders that are written whole or not at all, and read back only if every byte is as it was written."""

import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import numpy as np
from safetensors import SafetensorError

from lib.support.files import (
    check_writable,
    errors_name,
    make_folder,
    remove,
    replacing_file,
    temporary_beside,
    to_disk,
    user_path,
)
from lib.support.locks import LOCK, holder, locked

_NAMED_BY_DIGEST = re.compile(r".+-[0-9a-f]{12}(\.\w+)?")
_PATIENCE = 10.0  # seconds for which a reader waits for those who write
_Result = TypeVar("_Result")


def is_unfinished(name: str) -> bool:
    """Whether `save_folder` may leave a file or folder of this name when its process is killed."""
    return bool(_NAMED_BY_DIGEST.fullmatch(name)) or name == LOCK or (name.startswith(".") and name.endswith(".tmp"))


def digest_json(value: object) -> str:
    """Return the sha256 of a JSON-able value's canonical form."""
    value = json.loads(json.dumps(value))  # as it will be read back, with keys that are str and sort as such
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def digest_file(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_digest(path: Path, sha256: str, remedy: str) -> Path:
    """Return the path of a file whose bytes have this sha256; else a ValueError, which ends in the remedy."""
    digest = digest_file(path) if path.is_file() else None
    if digest != sha256:
        raise ValueError(f"The file {path} has sha256 {digest}, not {sha256}. {remedy}")
    return path


def made_once(folder: Path, make: Callable[[Path], Path]) -> Path:
    """Return `folder`; if there is none, what `make` returns becomes it, in one step.

    `make` is given an empty folder on the same disk and returns a folder below it; its errors name `folder` instead.
    """
    if folder.is_dir():
        return folder
    make_folder(folder.parent)
    with (
        TemporaryDirectory(dir=folder.parent, prefix=".unpacking-") as temporary,
        errors_name(folder, Path(temporary)),
    ):
        unpacked = make(Path(temporary))
        try:
            unpacked.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was first
                raise
    return folder


def digest_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the sha256 of named arrays: their names, dtypes, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def save_parts(path: Path, parts: Sequence[np.ndarray]) -> None:
    """Write arrays end to end, along their first axis, as one npy file, without joining them in memory.

    A single array may have no axis. Every byte goes through `write`, so that a full disk is an OSError: on a memory map
    it is a signal that ends the process, and `ndarray.tofile` does not notice it in the last 4 KB. A ValueError for
    Python objects, which would have to be pickled.
    """
    if any(part.dtype.hasobject for part in parts):
        raise ValueError(f"{path.name} would hold Python objects; give arrays of numbers or of fixed-length strings.")
    shape = parts[0].shape if len(parts) == 1 else (sum(map(len, parts)), *parts[0].shape[1:])
    header = {"descr": np.lib.format.dtype_to_descr(parts[0].dtype), "fortran_order": False, "shape": shape}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(np.ascontiguousarray(part).data)


def save_folder(
    folder: str | Path, manifest_name: str, version: int, content: dict, writers: Mapping[str, Callable[[Path], object]]
) -> None:
    """Write files, and the manifest `manifest_name` ("index.json") that describes them, atomically.

    The manifest holds `content`, JSON-able, and the format version, which `load_folder` checks. `writers` maps logical
    file names ("lengths.npy") to functions that write the file at the path they are given, where an empty one is; they
    may put a folder there instead. Each is named after its digest, so the files of an earlier save stay whole until the
    manifest, which is replaced last and in one step, no longer names them; they have the mode of those of the earlier
    save. The folder is made if it does not exist; other files in it are never touched. Processes that save into one
    folder take turns. PermissionError if there is a manifest that is read-only.
    """
    folder = make_folder(folder)
    with locked(folder):
        check_writable(folder / manifest_name)
        earlier = _entries(folder / manifest_name) or {}
        paths = {name: folder / file for name, file in [*earlier.items(), (manifest_name, manifest_name)]}
        modes = {name: stat.S_IMODE(path.stat().st_mode) for name, path in paths.items() if path.is_file()}
        files: dict[str, dict] = {}
        try:
            for name, write in writers.items():
                files[name] = _write_named_by_digest(folder / name, write, modes.get(name, modes.get(manifest_name)))
            _write_manifest(folder / manifest_name, {"format_version": version, **content, "files": files})
        finally:
            stale = {*earlier.values(), *(entry["file"] for entry in files.values())}
            named = _entries(folder / manifest_name)  # read from the disk: it may be the old one or the new one
            if named is not None and (stale := stale.difference(named.values())):
                others = [
                    (_entries(path) or {}).values() for path in folder.glob("*.json")
                ]  # equal content, equal name
                for name in stale.difference(*others):
                    if _NAMED_BY_DIGEST.fullmatch(name):
                        remove(folder / name)


def update_manifest(folder: str | Path, manifest_name: str, version: int, changes: dict) -> None:
    """Replace some entries of a saved folder's manifest, in one step; its files stay. Raises as `load_folder`."""
    folder = user_path(folder)
    _check_folder(folder)
    with locked(folder):
        manifest, _ = _whole(folder, manifest_name, version, ())
        _write_manifest(folder / manifest_name, manifest | changes)


def _write_manifest(path: Path, manifest: dict) -> None:
    # a link itself is replaced, since it may lead to where its files are not; so are hard links, of copied folders
    with replacing_file(path) as temporary:
        temporary.write_text(json.dumps(manifest | {"sha256": digest_json(manifest)}, indent=2) + "\n", "utf-8")
    with suppress(OSError):  # not every file system, nor Windows, can; the names are whole at any rate
        to_disk(path.parent)


def _write_named_by_digest(path: Path, write: Callable[[Path], object], mode: int | None) -> dict:
    with temporary_beside(path) as temporary:
        temporary.touch(0o666 if mode is None else mode)
        mode = temporary.stat().st_mode if mode is None else mode  # as the umask asks; safetensors would make it 0600
        try:
            write(temporary)
        except (OSError, SafetensorError) as error:  # safetensors' own is no OSError
            raise OSError(f"{path} cannot be written ({error}); free space on the disk or mend the cause.") from error
        for file in _files_in(temporary):
            file.chmod(mode)
            to_disk(file)
        digest = _digest(temporary)
        final = path.with_name(f"{path.stem}-{digest[:12]}{path.suffix}")
        if final.is_dir():  # only a file is replaced in one step
            if _digest(final) == digest:
                return {"file": final.name, "sha256": digest}
            remove(final)
        os.replace(temporary, final)
    return {"file": final.name, "sha256": digest}


def _files_in(path: Path) -> list[Path]:
    """Return the file itself, or the files anywhere in a folder, by name."""
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def _digest(path: Path) -> str:
    """Return the sha256 of a file's bytes, or of the names and digests of all files in a folder."""
    if not path.is_dir():
        return digest_file(path)
    return digest_json({file.relative_to(path).as_posix(): digest_file(file) for file in _files_in(path)})


def _entries(manifest: Path) -> dict[str, str] | None:
    """Return the names of the files that a manifest lists, by logical name; None if it cannot be read."""
    try:
        names = {name: entry["file"] for name, entry in json.loads(manifest.read_text("utf-8"))["files"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return {name: file for name, file in names.items() if _is_plain(file)}


def _is_plain(name: object) -> bool:
    """Whether this is a name in a folder, not a path that leads out of it."""
    return isinstance(name, str) and Path(name).name == name and name not in ("", "..") and "\0" not in name


def read_folder(
    folder: str | Path,
    manifest_name: str,
    version: int,
    read: Callable[[dict, dict[str, Path]], _Result],
    unread: Collection[str] = (),
) -> _Result:
    """Return `read(manifest, files)` of what `load_folder` returns, from one save even if others follow meanwhile.

    What another process replaces is read a second time, while no process saves. Raises as `load_folder` and `read`; a
    ValueError that names the process if the folder is not whole because one is just writing it.
    """
    folder = user_path(folder)
    _check_folder(folder)
    before = _bytes(folder / manifest_name)
    try:
        return read(*_whole(folder, manifest_name, version, unread))
    except _Damaged as error:
        if _bytes(folder / manifest_name) == before:
            if (process := holder(folder)) is None:
                raise
            raise ValueError(f"{folder} is being written by {process}; read it when that has ended.") from error
    except (OSError, ValueError, SafetensorError):
        if _bytes(folder / manifest_name) == before:
            raise
    with ExitStack() as stack:
        with suppress(OSError):  # a folder of somebody else's
            stack.enter_context(locked(folder, _PATIENCE))
        return read(*_whole(folder, manifest_name, version, unread))


def load_folder(
    folder: str | Path, manifest_name: str, version: int, unread: Collection[str] = ()
) -> tuple[dict, dict[str, Path]]:
    """Return a saved folder's manifest and the paths of its files by logical name, all checksums verified.

    Another process that saves may remove the files afterwards; `read_folder` opens them, too. The files whose logical
    names are in `unread` need only exist. Raises FileNotFoundError if the folder does not exist; ValueError if the
    manifest or a file is missing, truncated or altered (the file is named), or if the format is newer than `version`.
    """
    return read_folder(folder, manifest_name, version, lambda manifest, files: (manifest, files), unread)


class _Damaged(ValueError):
    """Part of a folder is missing, truncated or altered."""


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}; give one that was saved by this package.")


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _whole(folder: Path, manifest_name: str, version: int, unread: Collection[str]) -> tuple[dict, dict[str, Path]]:
    manifest = _read_manifest(folder / manifest_name)
    if (saved := manifest.get("format_version")) != version:
        raise ValueError(f"{folder / manifest_name} has format version {saved!r}, not {version}; upgrade or save anew.")
    files = manifest["files"].items()
    return manifest, {name: _checked_file(folder, entry, name not in unread) for name, entry in files}


def _read_manifest(path: Path) -> dict:
    remedy = "Copy or download the folder again, or save it anew."
    if not path.is_file():
        names = ", ".join(sorted(p.name for p in path.parent.iterdir() if not p.name.startswith("."))[:10]) or "nothing"
        raise _Damaged(f"{path.parent} has no {path.name} (it holds {names}). {remedy}")
    try:
        manifest = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise _Damaged(f"{path} is truncated or altered: it is not JSON ({error}). {remedy}") from error
    if not isinstance(manifest, dict) or manifest.pop("sha256", None) != digest_json(manifest):
        raise _Damaged(f"{path} is altered: its checksum does not match its content. {remedy}")
    return manifest


def _checked_file(folder: Path, entry: dict, verify: bool) -> Path:
    if not _is_plain(entry["file"]):
        raise ValueError(f"The manifest of {folder} names {entry['file']!r}; it may name files in the folder only.")
    path = folder / entry["file"]
    if not (path.is_file() or path.is_dir()):
        raise _Damaged(f"{path} is missing: the folder was copied in part. Copy it again, or save it anew.")
    if verify and (digest := _digest(path)) != entry["sha256"]:
        raise _Damaged(f"{path} is truncated or altered (sha256 {digest}); copy it again, or save it anew.")
    return path
