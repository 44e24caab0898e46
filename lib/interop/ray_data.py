"""A corpus too large for one machine: parquet in, sharded term matrices out, encoded by the workers of a cluster.

The unit of work is a fixed run of rows of one parquet file. It is encoded by itself, so what it gives does not depend
on who encodes it, on how many others there are, or on how often they died. Each unit becomes a shard, a folder that is
written whole or not at all; `Shards` reads them in the order of the corpus.

Ray Data (https://docs.ray.io/en/latest/data/data.html) hands out the units. It needs the extra `distributed`. Ray
reports its usage to its makers unless the environment variable RAY_USAGE_STATS_ENABLED is 0.
"""

import json
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import csr_array

from lib.interop import optional_module
from lib.latent_terms import LatentTerms
from lib.support.checks import check_count, check_ids, check_iterable, check_texts
from lib.support.files import user_path
from lib.support.folders import digest_file, digest_json, load_folder, save_folder, save_parts

FORMAT_VERSION = 1
MANIFEST, SHARD = "corpus.json", "shard.json"
ARRAYS = ("indptr.npy", "indices.npy", "data.npy")  # of a csr_array
ATTEMPTS = 4  # at a unit; Ray's actor pools start dead workers anew, and give them their unit again, without end


def encode_corpus(
    folder: str | Path,
    paths: Iterable[str | Path],
    model: str | Path | None = None,
    *,
    workers: int,
    threads: int = 1,
    gpus: float = 0,
    dtype: str = "float32",
    id_column: str = "id",
    text_column: str = "text",
    rows_per_shard: int = 4096,
) -> "Shards":
    """Encode the documents of parquet files on a Ray cluster, and return their term matrix, in shards.

    Called again with the same arguments, it encodes only the shards that are missing or not whole. A worker that dies
    is started anew, and its unit encoded again. Runs on the cluster that `ray.init` was called for; without one, Ray
    starts its own on this machine. All machines must see `folder`, the files and the model under the same paths, such
    as on a network file system. `workers`, `gpus` and `threads` may change between calls.

    A row is equal to the bit among equal processors, thread counts and releases of torch, else to rounding.

    Raises ImportError if ray or pyarrow is not installed; FileNotFoundError, TypeError or ValueError, before any work,
    for a file that is missing or not parquet, a column that is missing or not of strings, no rows at all, numbers out
    of range, and a folder whose shards are of another model or corpus (what differs is named); and
    ray.exceptions.RayTaskError with the message of a worker's error: a null, an id that repeats within a shard, a model
    that is not this one, a unit that has ended four workers.

    Parameters
    ----------
    folder : str or Path
        Where the shards are kept; made if it does not exist.
    paths : iterable of str or Path
        Parquet files, in the order of the corpus. They are read once here for their digests.
    model : str or Path, optional
        A folder that `LatentTerms.save` wrote; None is the packaged model.
    workers : int
        Processes that encode at the same time.
    threads : int
        CPU cores of one worker.
    gpus : float
        GPUs of one worker, 0.5 for two workers on each; 0 encodes on the CPU.
    dtype : {"float32", "bfloat16"}
        What the encoder computes in, the same on every machine.
    id_column, text_column : str
        Columns of strings, none of them null.
    rows_per_shard : int
        Documents of one unit; a file's last may have fewer. A worker reads the row groups in which its rows lie, so
        row groups of about this size are read least often.
    """
    workers, threads = check_count(workers, "workers"), check_count(threads, "threads")
    if not gpus >= 0:
        raise ValueError(f"gpus is {gpus!r}; it must be at least 0, such as 1, 0.5, or 0 for the CPU.")
    folder, model = user_path(folder).resolve(), None if model is None else str(user_path(model).resolve())
    loaded = LatentTerms.load(model, dtype=dtype, device="cpu")
    plan, units = _plan(paths, loaded, id_column, text_column, rows_per_shard)
    ray_data = optional_module("ray.data", "distributed")
    _save_plan(folder, plan)
    settings = {"folder": folder, "plan": plan, "model": model, "threads": threads, "device": "cuda" if gpus else "cpu"}
    rows = ray_data.from_items(units, override_num_blocks=len(units)).map(
        Worker,
        fn_constructor_kwargs=settings,
        compute=ray_data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
        **({"num_gpus": gpus} if gpus else {"num_cpus": threads}),
    )
    for _ in rows.iter_rows():  # which is what makes Ray do the work
        pass
    for remnant in folder.glob("shards/*/.*.tmp"):  # of workers that were killed while they wrote
        remnant.unlink(missing_ok=True)
    return Shards(folder)


def _plan(
    paths: Iterable[str | Path], model: LatentTerms, id_column: str, text_column: str, rows_per_shard: int
) -> tuple[dict, list[dict]]:
    """Return everything that decides the shards, JSON-able, and the units of work in the order of the corpus.

    A unit is `rows` rows of the file `path`, from row `start` on.
    """
    files = [user_path(path).resolve() for path in check_iterable(paths, "paths")]
    size = check_count(rows_per_shard, "rows_per_shard")
    if missing := [path for path in files if not path.is_file()]:
        raise FileNotFoundError(f"There is no file {missing[0]} ({len(missing)} of {len(files)} are missing).")
    columns = {"id_column": id_column, "text_column": text_column}
    counts = {path: _count_rows(path, columns) for path in files}
    starts = [(path, start) for path in files for start in range(0, counts[path], size)]
    if not starts:
        raise ValueError(f"The {len(files)} files hold no rows; give at least one document.")
    units = [
        {"number": i, "path": str(path), "start": start, "rows": min(size, counts[path] - start)}
        for i, (path, start) in enumerate(starts)
    ]
    inputs = [{"file": path.name, "rows": counts[path], "sha256": digest_file(path)} for path in files]
    sizes = {"rows_per_shard": size, "shards": [unit["rows"] for unit in units], "width": model.sae.width}
    return {"model": model.identity, "inputs": inputs, **columns, **sizes}, units


def _count_rows(path: Path, columns: dict[str, str]) -> int:
    """Return the number of rows of a parquet file; ValueError unless it has the columns, and they hold strings."""
    pyarrow = optional_module("pyarrow", "distributed")
    parquet = optional_module("pyarrow.parquet", "distributed")
    try:
        with parquet.ParquetFile(path) as file:
            schema, n_rows = file.schema_arrow, file.metadata.num_rows
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path} is not a whole parquet file ({error}); write it again.") from error
    strings = (pyarrow.types.is_string, pyarrow.types.is_large_string, pyarrow.types.is_string_view)
    for argument, name in columns.items():
        if schema.names.count(name) != 1:
            raise ValueError(f"{path} has not one column {name!r}; set {argument} to one of {', '.join(schema.names)}.")
        if not any(is_string(schema.field(name).type) for is_string in strings):
            raise ValueError(f"Column {name!r} of {path} holds {schema.field(name).type}; {argument} takes strings.")
    return n_rows


def _save_plan(folder: Path, plan: dict) -> None:
    """Write the plan to the folder, or compare it with the one that is there."""
    if not (folder / MANIFEST).exists():
        save_folder(folder, MANIFEST, FORMAT_VERSION, plan, {})
        return
    manifest, _ = load_folder(folder, MANIFEST, FORMAT_VERSION)
    if names := _differing({key: manifest.get(key) for key in plan}, json.loads(json.dumps(plan))):
        raise ValueError(f"{folder} holds other shards; differing: {', '.join(names)}. Name another folder.")


def _differing(saved: object, given: object, name: str = "") -> list[str]:
    """Name the innermost entries of two JSON values that are not equal."""
    if isinstance(saved, list) and isinstance(given, list) and len(saved) == len(given):
        pairs = {f"{name}[{i}]": pair for i, pair in enumerate(zip(saved, given, strict=True))}
    elif isinstance(saved, dict) and isinstance(given, dict):
        pairs = {f"{name}.{key}".lstrip("."): (saved.get(key), given.get(key)) for key in saved | given}
    else:
        return [] if saved == given else [name]
    return [inner for entry, pair in pairs.items() for inner in _differing(*pair, entry)]


class Worker:
    """One process of the cluster: it encodes units, each into its shard, unless that shard is there and whole.

    The model, of the folder `model`, is loaded once there is something to encode; `threads` are those of torch, set for
    the whole process.
    """

    def __init__(self, folder: Path, plan: dict, model: str | None, threads: int, device: str):
        self._folder, self._plan, self._digest = folder, plan, digest_json(plan)
        self._model_folder, self._threads, self._device = model, threads, device

    @cached_property
    def _model(self) -> LatentTerms:
        torch.set_num_threads(self._threads)
        expected = self._plan["model"]
        model = LatentTerms.load(self._model_folder, dtype=expected["encoder"]["dtype"], device=self._device)
        if names := _differing(expected, model.identity, "model"):
            raise ValueError(f"{self._model_folder} is not the run's model; differing: {', '.join(names)}. Copy it.")
        return model

    def __call__(self, unit: dict) -> dict:
        """Make sure of a unit's shard, and return the unit."""
        shard = _shard_folder(self._folder, unit["number"])
        try:
            _open(self._folder, unit["number"], self._digest)
        except (FileNotFoundError, ValueError):  # not there, or not whole
            with _attempt(shard, unit):
                ids, texts = _read(unit, self._plan["id_column"], self._plan["text_column"])
                _save(shard, unit["number"], self._digest, ids, self._model.encode_documents(texts, progress=False))
        return unit


@contextmanager
def _attempt(shard: Path, unit: dict) -> Iterator[None]:
    """Count the attempts at a unit in a file, which a worker that is killed leaves behind."""
    shard.mkdir(parents=True, exist_ok=True)
    count = shard / "attempts"
    if count.exists() and count.stat().st_size >= ATTEMPTS:
        count.unlink()  # called again, it is tried again
        raise RuntimeError(
            f"Rows {unit['start']} to {unit['start'] + unit['rows']} of {unit['path']} have ended {ATTEMPTS} workers. "
            "Give workers more memory or take fewer rows_per_shard, and call encode_corpus again."
        )
    with open(count, "ab") as file:
        file.write(b".")
    try:
        yield
    finally:  # an error ends the run by itself
        count.unlink(missing_ok=True)


def _read(unit: dict, id_column: str, text_column: str) -> tuple[list[str], list[str]]:
    """Return ids and texts of a unit's rows, from the row groups in which they lie."""
    path, start, n = unit["path"], unit["start"], unit["rows"]
    with optional_module("pyarrow.parquet", "distributed").ParquetFile(path) as file:
        groups = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
        ends = np.cumsum(groups)
        first, last = np.searchsorted(ends, [start, start + n - 1], side="right").tolist()
        table = file.read_row_groups(list(range(first, last + 1)), columns=[id_column, text_column])
    table = table.slice(start - int(ends[first] - groups[first]), n)
    origin = f"of {path} from row {start}"
    ids = check_ids(table[id_column].to_pylist(), n, f"{id_column!r} {origin}")
    return ids, list(check_texts(table[text_column].to_pylist(), f"{text_column!r} {origin}"))


def _shard_folder(folder: Path, number: int) -> Path:
    return folder / "shards" / f"{number:06}"


def _save(folder: Path, number: int, digest: str, ids: list[str], terms: csr_array) -> None:
    arrays = zip(ARRAYS, (terms.indptr, terms.indices, terms.data), strict=True)
    writers: dict[str, Callable[[Path], object]] = {name: partial(save_parts, parts=[array]) for name, array in arrays}
    writers["ids.json"] = lambda path: path.write_text(json.dumps(ids), "utf-8")
    save_folder(folder, SHARD, FORMAT_VERSION, {"corpus": digest, "number": number, "shape": terms.shape}, writers)


def _open(corpus: Path, number: int, digest: str, unread: Collection[str] = ()) -> tuple[dict, dict[str, Path]]:
    folder = _shard_folder(corpus, number)
    manifest, files = load_folder(folder, SHARD, FORMAT_VERSION, unread)
    if (manifest["corpus"], manifest["number"]) != (digest, number):
        raise ValueError(
            f"{folder} is shard {manifest['number']} of corpus {manifest['corpus'][:12]}, not {number} of "
            f"{digest[:12]}. Remove it, and call encode_corpus again."
        )
    return manifest, files


class Shards:
    """The term matrix that `encode_corpus` left in a folder, in the order of the corpus; never in memory at once.

    `model.index(shards.matrices(), shards.doc_ids)` is the index that the whole matrix would give, to the bit: N, df
    and avgdl are those of all documents. FileNotFoundError or ValueError if the folder or its manifest is missing or
    altered, or if shards are missing, because the run has not ended.

    Parameters
    ----------
    folder : str or Path
        The folder that `encode_corpus` was given.

    Attributes
    ----------
    width : int
        Number of latents.
    model : dict
        `LatentTerms.identity` of the model that encoded the documents.
    inputs : list of dict
        "file", "rows" and "sha256" of each parquet file.
    """

    def __init__(self, folder: str | Path):
        self._folder = user_path(folder)
        manifest, _ = load_folder(folder, MANIFEST, FORMAT_VERSION)
        self._digest = digest_json({k: v for k, v in manifest.items() if k not in ("format_version", "files")})
        self._rows = manifest["shards"]
        self.width, self.model, self.inputs = manifest["width"], manifest["model"], manifest["inputs"]
        shards = [_shard_folder(self._folder, number) for number in range(len(self._rows))]
        if missing := [shard for shard in shards if not (shard / SHARD).is_file()]:
            raise ValueError(f"{len(missing)} of {len(shards)} shards are missing ({missing[0]}); call encode_corpus.")

    def __len__(self) -> int:
        """Number of documents."""
        return sum(self._rows)

    def __repr__(self) -> str:
        return f"Shards({len(self):,} documents, {self.width:,} latents, {len(self._rows):,} shards)"

    def matrices(self) -> Iterator[csr_array]:
        """Yield the term weights shard by shard, float32 [n_rows, width]; each is checked against its checksums.

        FileNotFoundError or ValueError for a shard that is missing, altered, or of another run (it is named).
        """
        for number in range(len(self._rows)):
            manifest, files = _open(self._folder, number, self._digest, unread=("ids.json",))
            indptr, indices, data = (np.load(files[name], allow_pickle=False) for name in ARRAYS)
            yield csr_array((data, indices, indptr), shape=tuple(manifest["shape"]))

    @property
    def doc_ids(self) -> list[str]:
        """The documents' ids, read anew each time; raises as `matrices`. `BM25Index.build` refuses repeated ones."""
        shards = (_open(self._folder, number, self._digest, unread=ARRAYS) for number in range(len(self._rows)))
        return [doc_id for _, files in shards for doc_id in json.loads(files["ids.json"].read_text("utf-8"))]
