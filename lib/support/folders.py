"""Folders that are written whole or not at all, and read back only if every byte is as it was written."""

import gzip
import hashlib
import json
import os
import uuid
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from safetensors import SafetensorError


def digest_json(value: object) -> str:
    """Return the sha256 of a JSON-able value's canonical form."""
    value = json.loads(json.dumps(value))  # as it will be read back, with keys that are str and sort as such
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def digest_file(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the sha256 of named arrays: their names, dtypes, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield ("FILE, line N", line) for every line that is not blank of a UTF-8 file, plain or .gz.

    A ValueError names file and line of what is not UTF-8 and where a .gz file breaks off.
    """
    number = 0
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            for number, raw in enumerate(file, 1):
                if line := raw.decode("utf-8-sig").strip():
                    yield f"{path}, line {number}", line
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}, line {number} is not UTF-8 ({error}); convert the file to UTF-8.") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} breaks off after line {number} ({error}); get it again.") from error


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


def to_disk(path: Path) -> None:
    """Wait until the content of a file is on the disk itself, so that a name given to it later outlives a power cut."""
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def temporary_beside(path: str | Path) -> Iterator[Path]:
    """Give the path of a new hidden file beside `path`, and remove it afterwards if it is still there."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path; the file written there replaces `path` in one step when the block ends without an error.

    Readers see the old file or the new one, never a part; after an error the old one stays, and after a power cut one
    of the two.
    """
    with temporary_beside(path) as temporary:
        yield temporary
        to_disk(temporary)
        os.replace(temporary, path)


def save_folder(
    folder: str | Path, manifest_name: str, version: int, content: dict, writers: Mapping[str, Callable[[Path], None]]
) -> None:
    """Write files, and the manifest `manifest_name` ("index.json") that describes them, atomically.

    The manifest holds `content`, JSON-able, and the format version, which `load_folder` checks. `writers` maps logical
    file names ("lengths.npy") to functions that write the file at the path they are given. Each file is named after its
    digest, so the files of an earlier save stay whole until the manifest, which is replaced last and in one step, no
    longer names them. The folder is made if it does not exist; other files in it are never touched.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stale = _files_named_by(folder / manifest_name) or set()
    files: dict[str, dict] = {}
    try:
        for name, write in writers.items():
            files[name] = _write_named_by_digest(folder / name, write)
        _write_manifest(folder / manifest_name, {"format_version": version, **content, "files": files})
    finally:
        stale |= {entry["file"] for entry in files.values()}
        named = _files_named_by(folder / manifest_name)  # read from the disk: it may be the old one or the new one
        if named is not None and (stale := stale - named):
            others = [_files_named_by(path) or () for path in folder.glob("*.json")]  # equal content has an equal name
            for name in stale.difference(*others):
                (folder / name).unlink(missing_ok=True)


def update_manifest(folder: str | Path, manifest_name: str, version: int, changes: dict) -> None:
    """Replace some entries of a saved folder's manifest, in one step; its files stay. Raises as `load_folder`."""
    manifest, _ = load_folder(folder, manifest_name, version)
    _write_manifest(Path(folder) / manifest_name, manifest | changes)


def _write_manifest(path: Path, manifest: dict) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(manifest | {"sha256": digest_json(manifest)}, indent=2) + "\n", "utf-8")
    with suppress(OSError):  # not every file system, nor Windows, can; the names are whole at any rate
        to_disk(path.parent)


def _write_named_by_digest(path: Path, write: Callable[[Path], None]) -> dict:
    with temporary_beside(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # as the umask asks; safetensors would make it 0600
        try:
            write(temporary)
        except (OSError, SafetensorError) as error:  # safetensors' own is no OSError
            raise OSError(f"{path} cannot be written ({error}); free space on the disk or mend the cause.") from error
        temporary.chmod(mode)
        to_disk(temporary)
        digest = digest_file(temporary)
        final = path.with_name(f"{path.stem}-{digest[:12]}{path.suffix}")
        os.replace(temporary, final)
    return {"file": final.name, "sha256": digest}


def _files_named_by(manifest: Path) -> set[str] | None:
    """Return the names of the files that a manifest lists; None if it cannot be read, so that none is removed."""
    try:
        names = {entry["file"] for entry in json.loads(manifest.read_text("utf-8"))["files"].values()}
    except FileNotFoundError:
        return set()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return {name for name in names if _is_plain(name)}


def _is_plain(name: object) -> bool:
    """Whether this is a name in a folder, not a path that leads out of it."""
    return isinstance(name, str) and Path(name).name == name and name not in ("", "..") and "\0" not in name


def load_folder(
    folder: str | Path, manifest_name: str, version: int, unread: Collection[str] = ()
) -> tuple[dict, dict[str, Path]]:
    """Return a saved folder's manifest and the paths of its files by logical name, all checksums verified.

    The files whose logical names are in `unread` need only exist. Raises FileNotFoundError if the folder does not
    exist; ValueError if the manifest or a file is missing, truncated or altered (the file is named), or if the format
    is newer than `version`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}; give one that was saved by this package.")
    manifest = _read_manifest(folder / manifest_name)
    if (saved := manifest.get("format_version")) != version:
        raise ValueError(f"{folder / manifest_name} has format version {saved!r}, not {version}; upgrade or save anew.")
    files = manifest["files"].items()
    return manifest, {name: _checked_file(folder, entry, name not in unread) for name, entry in files}


def _read_manifest(path: Path) -> dict:
    remedy = "Copy or download the folder again, or save it anew."
    if not path.is_file():
        names = ", ".join(sorted(p.name for p in path.parent.iterdir())[:10]) or "nothing"
        raise ValueError(f"{path.parent} has no {path.name} (it holds {names}). {remedy}")
    try:
        manifest = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is truncated or altered: it is not JSON ({error}). {remedy}") from error
    if not isinstance(manifest, dict) or manifest.pop("sha256", None) != digest_json(manifest):
        raise ValueError(f"{path} is altered: its checksum does not match its content. {remedy}")
    return manifest


def _checked_file(folder: Path, entry: dict, verify: bool) -> Path:
    if not _is_plain(entry["file"]):
        raise ValueError(f"The manifest of {folder} names {entry['file']!r}; it may name files in the folder only.")
    path = folder / entry["file"]
    if not path.is_file():
        raise ValueError(f"{path} is missing: the folder was copied in part. Copy it again, or save it anew.")
    if verify and (digest := digest_file(path)) != entry["sha256"]:
        raise ValueError(f"{path} is truncated or altered (sha256 {digest}); copy it again, or save it anew.")
    return path
