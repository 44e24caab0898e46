"""Token states to train on: in memory, on disk, or encoded again in each epoch; never a whole corpus at once.

A source of states yields an epoch as windows, the contents of a shuffle buffer of bounded size. Which states a window
holds, and their order in training, are functions of (seed, epoch, window) only, so that a run can continue at any
window without repeating the earlier ones.
"""

import json
import logging
import shutil
import time
import warnings
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from lib.encode.limits import Lengths
from lib.support.checks import check_choice, check_count, check_texts
from lib.support.files import replacing, user_path
from lib.support.folders import digest_arrays, digest_json, save_parts
from lib.support.locks import making
from lib.support.progress import progress

if TYPE_CHECKING:
    from lib.encode.encoder import TokenEncoder

_logger = logging.getLogger(__name__)
CHANGED = "The text changed since it was counted; train on a copy that nobody writes to."
CHUNK = 512  # passages that are encoded and written together, fewer if they have more than
CHUNK_BYTES = 2**20  # of UTF-8, nearly twice what 512 English ones have; a Chinese one may have 1,000 tokens
LEFT_AFTER = 3600.0  # seconds; a temporary file of that age belongs to a process that was killed
RUN = 64  # neighbouring tokens that are read from disk together, and so are in the same window
CACHE_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class StateSource(Protocol):
    """What a trainer needs of its states.

    Attributes
    ----------
    n, d : int
        Number of states, and their size.
    identity : dict
        Everything that decides them, JSON-able.
    lengths : numpy.ndarray, int64 [n_texts], or None
        Number of tokens of each text, in order. Where reading stops within a text, or before some, the lengths are
        those of the whole texts. None if it is not known where texts end.
    """

    n: int
    d: int
    lengths: np.ndarray | None

    @property
    def identity(self) -> dict:
        """Everything that decides the states, JSON-able."""

    def windows(self, size: int, seed: int, epoch: int, first: int = 0) -> Iterator[torch.Tensor]:
        """Yield an epoch's windows from number `first` on: [size, d], the last one shorter."""

    def whole_texts(
        self, size: int, seed: int, epoch: int, first: int = 0
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the same number of windows, of whole texts, and the number of the text of each token, int64 [size].

        The first and the last text of a window may be cut. Called only where `lengths` is known.
        """


class StoredStates:
    """States that can be read in any order: a tensor in memory, or memory-mapped files.

    An epoch visits runs of 64 neighbouring tokens, or whole texts, in a random order over the whole corpus.

    Parameters
    ----------
    parts : sequence of torch.Tensor [n_part, d]
        The states in order, all of one dtype.
    identity : dict, optional
        Everything that decides the states, JSON-able; None is their digest.
    lengths : iterable of int, optional
        Number of tokens of each text, together at least n, or a ValueError. None: it is not known where texts end.
    """

    def __init__(
        self, parts: Iterable[torch.Tensor], identity: dict | None = None, lengths: Iterable[int] | None = None
    ):
        self._parts = list(parts)
        if not self._parts or any(part.ndim != 2 for part in self._parts):
            shapes = [tuple(part.shape) for part in self._parts]
            raise ValueError(f"states have the shapes {shapes}; they must be [n, d], at least one of them.")
        self._ends = np.cumsum([len(part) for part in self._parts]).tolist()
        self._identity = identity
        self.n, self.d = self._ends[-1], self._parts[0].shape[1]
        self.lengths = None if lengths is None else self._checked(np.array(list(lengths)))

    def _checked(self, lengths: np.ndarray) -> np.ndarray:
        if not np.issubdtype(lengths.dtype, np.integer) or (lengths < 0).any():
            raise ValueError(f"lengths are {lengths.tolist()}; they must be integers of at least 0, tokens of texts.")
        if lengths.sum() < self.n:
            raise ValueError(f"The texts have {lengths.sum()} tokens, the states are {self.n}; give all lengths.")
        return lengths.astype(np.int64)

    @cached_property
    def identity(self) -> dict:
        """Everything that decides the states, JSON-able."""
        if self._identity is not None:
            return self._identity
        parts = {f"{i:06}": part.cpu().contiguous().view(torch.uint8).numpy() for i, part in enumerate(self._parts)}
        lengths = {} if self.lengths is None else {"lengths": digest_arrays({"lengths": self.lengths})}
        return {"states": digest_arrays(parts)} | lengths

    def read(self, start: int, stop: int) -> list[torch.Tensor]:
        """Return the states `start:stop` in pieces, one for each part that they lie in."""
        pieces = []
        number = bisect_right(self._ends, start)
        while start < stop:
            part, end = self._parts[number], self._ends[number]
            begin = end - len(part)
            pieces.append(part[start - begin : stop - begin])
            start = end
            number += 1
        return pieces

    def windows(self, size: int, seed: int, epoch: int, first: int = 0) -> Iterator[torch.Tensor]:
        """Yield an epoch's windows from number `first` on: [size, d], the last one shorter."""
        stops = np.minimum(np.arange(RUN, self.n + RUN, RUN), self.n)
        return (block for block, _ in self._windows(stops, size, seed, epoch, first))

    def whole_texts(
        self, size: int, seed: int, epoch: int, first: int = 0
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """See `StateSource`; ValueError if it is not known where texts end."""
        if self.lengths is None:
            raise ValueError("It is not known where the texts of these states end; give `StoredStates(..., lengths=)`.")
        stops = np.minimum(np.cumsum(self.lengths[self.lengths > 0]), self.n)
        return self._windows(stops[: np.searchsorted(stops, self.n) + 1], size, seed, epoch, first)

    def _windows(
        self, ends_of_runs: np.ndarray, size: int, seed: int, epoch: int, first: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield windows of runs of neighbouring tokens in a random order, and each token's run, int64 [size]."""
        runs = np.random.default_rng([seed, epoch]).permutation(len(ends_of_runs))
        starts, stops = np.append(0, ends_of_runs[:-1])[runs], ends_of_runs[runs]
        ends = np.cumsum(stops - starts)  # where each run ends in the epoch's order
        for begin in range(first * size, self.n, size):
            end = min(begin + size, self.n)
            low, high = np.searchsorted(ends, [begin, end - 1], side="right")
            chosen = slice(low, high + 1)
            pairs = zip(starts[chosen].tolist(), stops[chosen].tolist(), strict=True)
            block = torch.cat([piece for start, stop in pairs for piece in self.read(start, stop)])
            run_numbers = torch.from_numpy(np.repeat(runs[chosen], (stops - starts)[chosen]))
            skip = begin - int(ends[low] - (stops - starts)[low])
            yield block[skip : skip + end - begin], run_numbers[skip : skip + end - begin]


def _chunks(passages: Iterable[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    size = 0
    for passage in check_texts(passages):
        chunk.append(passage)
        size += len(passage.encode("utf-8", "replace"))
        if len(chunk) == CHUNK or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


class TrainingText:
    """A corpus of passages as one encoder reads it, with the number of its tokens, counted before any is encoded.

    A passage with more tokens than the encoder reads at once is read in chunks of nearly equal length, so that no token
    is left out, whatever the language. How many passages are, or how much was cut off, is logged.

    Raises ValueError if the corpus holds no token.

    Parameters
    ----------
    encoder : TokenEncoder
    corpus : LocalText, StreamedText, or any iterable of str that can be read again and has an `identity`
    max_tokens : int, optional
        Number of token states to stop at; None is the whole corpus.
    plan : Path, optional
        File for the counts, which take a pass of the tokenizer; it is read if it exists. A damaged one is written
        again, with a warning.
    long_texts : {"chunk", "cut"}
        Whether such a passage is read in chunks, or its rest is left out. The encoder's own setting is not used.
    """

    def __init__(
        self,
        encoder: "TokenEncoder",
        corpus,
        max_tokens: int | None = None,
        plan: Path | None = None,
        long_texts: str = "chunk",
    ):
        self.encoder, self.corpus = encoder.with_long_texts(long_texts), corpus
        if max_tokens is not None:
            max_tokens = check_count(max_tokens, "max_tokens")
        lengths = (_read_plan(plan) if plan is not None else None) or self._count(max_tokens, plan)
        self.lengths = np.array([length for chunk in lengths for length in chunk], np.int64)
        self._counts = list(map(sum, lengths))
        self.ends = np.minimum(np.cumsum(self._counts), max_tokens or np.inf).astype(np.int64)  # of chunks, in tokens
        self.n = int(self.ends[-1]) if self._counts else 0
        if not self.n:
            raise ValueError("The corpus holds no token; give text.")

    def _count(self, max_tokens: int | None, plan: Path | None) -> list[list[int]]:
        counts: list[list[int]] = []
        lengths, n = Lengths(), 0
        chunks = (list(self.encoder.count_tokens(chunk, lengths=lengths)) for chunk in _chunks(self.corpus))
        for chunk in progress(chunks, what="count tokens", unit="tokens", count=sum):
            counts.append(chunk)
            n += sum(chunk)
            if max_tokens is not None and n >= max_tokens:
                break
        self.encoder.log_lengths(lengths)
        if plan is not None:
            plan.parent.mkdir(parents=True, exist_ok=True)
            with replacing(plan) as path:
                path.write_text(json.dumps(counts) + "\n", "utf-8")
        return counts

    def chunks(self, layers: list[int], first: int = 0) -> Iterator[dict[int, torch.Tensor]]:
        """Yield the states of each layer, float32 [n_chunk, d], chunk after chunk from number `first` on.

        A chunk is encoded by itself, so that it comes out the same whether or not the ones before it were.

        Raises ValueError if a chunk has another number of tokens than were counted, or is not there any more.
        """
        chunks, lengths = islice(_chunks(self.corpus), first, None), Lengths()
        for number in range(first, len(self.ends)):
            chunk = next(chunks, [])
            blocks = list(self.encoder.stream_layers(chunk, layers, progress=False, lengths=lengths))
            n_tokens = sum(len(block[layers[0]].states) for block in blocks)
            if not chunk or n_tokens != self._counts[number]:
                raise ValueError(f"Chunk {number} has {n_tokens} tokens, not {self._counts[number]}. {CHANGED}")
            size = int(self.ends[number] - (self.ends[number - 1] if number else 0))
            yield {layer: torch.cat([block[layer].states for block in blocks])[:size].cpu() for layer in layers}
        self.encoder.log_lengths(lengths)


def _read_plan(plan: Path) -> list[list[int]] | None:
    """Return the tokens of each passage, chunk by chunk, in a file; None if it is not there or damaged."""
    try:
        counts = json.loads(plan.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        counts = None
    if isinstance(counts, list) and all(isinstance(chunk, list) and all(map(_is_count, chunk)) for chunk in counts):
        return counts
    warnings.warn(f"{plan} is damaged; the tokens are counted again.", stacklevel=3)
    return None


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


class EncodedStates:
    """States of a `TokenEncoder` layer, encoded again in each epoch, in the text's order: slower, needs no disk."""

    def __init__(self, text: TrainingText, layer: int):
        self._text, self._layer = text, layer
        self.n, self.d, self.lengths = text.n, text.encoder.at(layer).d, text.lengths

    @cached_property
    def identity(self) -> dict:
        """Everything that decides the states, JSON-able."""
        return {**_identity(self._text, self._layer), "stored": "no: encoded in each epoch"}

    def windows(self, size: int, seed: int, epoch: int, first: int = 0) -> Iterator[torch.Tensor]:
        """Yield an epoch's windows from number `first` on: [size, d], the last one shorter. Each epoch has the same."""
        begin = first * size
        number = int(np.searchsorted(self._text.ends, begin, side="right"))
        skip = begin - (int(self._text.ends[number - 1]) if number else 0)
        rest = torch.empty(0, self.d)
        for chunk in self._text.chunks([self._layer], number):
            rest = torch.cat([rest, chunk[self._layer][skip:]])
            skip = 0
            while len(rest) >= size:
                yield rest[:size]
                rest = rest[size:]
        if len(rest):
            yield rest

    def whole_texts(
        self, size: int, seed: int, epoch: int, first: int = 0
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """See `StateSource`; windows are in the text's order."""
        ends = torch.from_numpy(np.cumsum(self.lengths))
        for number, window in enumerate(self.windows(size, seed, epoch, first), first):
            places = torch.arange(number * size, number * size + len(window))
            yield window, torch.searchsorted(ends, places, right=True)


def _identity(text: TrainingText, layer: int) -> dict:
    return {"encoder": text.encoder.identity | {"layer": layer}, "corpus": text.corpus.identity, "tokens": text.n}


def cache_states(
    folder: str | Path,
    encoder: "TokenEncoder",
    corpus,
    layers: Iterable[int] = (-1,),
    *,
    max_tokens: int | None = None,
    dtype: str = "bfloat16",
    long_texts: str = "chunk",
) -> dict[int, StoredStates]:
    """Encode a corpus once and keep the token states of some layers on disk, to be read in any order, again and again.

    The states are returned by layer, resolved (6, not -1), memory-mapped. Every chunk of 512 passages is a file that is
    written atomically; a run that was killed continues after the last complete file. Of processes that need the same
    states one encodes, and the others wait. Incomplete files are removed an hour later.

    Raises OSError if the disk lacks the space, before anything is encoded; ValueError if the corpus holds no token or
    changes while it is read, and if a state is too large for float16.

    Parameters
    ----------
    folder : str or Path
        A folder in it is named after everything that decides the states.
    encoder : TokenEncoder
    corpus : LocalText, StreamedText, or any iterable of str that can be read again and has an `identity`
    layers : iterable of int
        Layers to read, as in `TokenEncoder`.
    max_tokens : int, optional
        Number of token states to stop at; None is the whole corpus.
    dtype : {"bfloat16", "float16"}
        Dtype of the stored states, 2 bytes a number; float16 is more precise and ends at 65,504.
    long_texts : {"chunk", "cut"}
        As in `TrainingText`.
    """
    check_choice(dtype, CACHE_DTYPES, "dtype")
    encoder = encoder.with_long_texts(long_texts)
    layers = sorted({encoder.resolve_layer(layer) for layer in layers})
    max_tokens = None if max_tokens is None else check_count(max_tokens, "max_tokens")
    request = {"encoder": encoder.identity | {"layer": None}, "corpus": corpus.identity, "tokens": max_tokens}
    folder = user_path(folder) / f"states-{digest_json(request | {'dtype': dtype})[:16]}"
    with making(folder):
        _remove_leftovers(folder)
        text = TrainingText(encoder, corpus, max_tokens, folder / "plan.json", long_texts)
        paths = {
            layer: [folder / f"layer-{layer:02}" / f"{i:06}.npy" for i in range(len(text.ends))] for layer in layers
        }
        sizes = {layer: encoder.at(layer).d for layer in layers}  # a late-interaction model's final layer has its own
        _check_space(folder, paths, text.n * sum(sizes.values()) * 2)
        n_stored = min(_count_whole(paths[layer], text.ends, sizes[layer]) for layer in layers)
        chunks = text.chunks(layers, n_stored)
        initial = int(text.ends[n_stored - 1]) if n_stored else 0
        chunks = progress(
            chunks,
            what="encode",
            unit="tokens",
            total=text.n,
            initial=initial,
            count=lambda chunk: len(chunk[layers[0]]),
        )
        for number, chunk in enumerate(chunks, n_stored):
            for layer, states in chunk.items():
                _write(paths[layer][number], states.to(CACHE_DTYPES[dtype]))
    parts = {layer: [_open(path, CACHE_DTYPES[dtype]) for path in paths[layer]] for layer in layers}
    identities = {layer: {**_identity(text, layer), "stored": dtype} for layer in layers}
    return {layer: StoredStates(parts[layer], identities[layer], text.lengths) for layer in layers}


def _remove_leftovers(folder: Path) -> None:
    """Remove temporary files that have not been written to for an hour: their processes were killed."""
    for path in folder.rglob(".*.tmp"):
        with suppress(FileNotFoundError):  # another process may remove it first
            if time.time() - path.stat().st_mtime > LEFT_AFTER:
                path.unlink()


def _count_whole(paths: list[Path], ends: np.ndarray, d: int) -> int:
    """Return how many files, counted from the first, exist and have the right size."""
    for i, (path, n) in enumerate(zip(paths, np.diff(ends, prepend=0), strict=True)):
        try:
            if np.load(path, mmap_mode="r", allow_pickle=False).shape != (n, d):
                return i
        except (FileNotFoundError, ValueError):  # not there, or cut short
            return i
    return len(paths)


def _check_space(folder: Path, paths: dict[int, list[Path]], total: int) -> None:
    stored = sum(path.stat().st_size for files in paths.values() for path in files if path.exists())
    free = shutil.disk_usage(folder).free
    _logger.info("States of %d layer(s): %.2f GB in %s, %.2f GB stored.", len(paths), total / 1e9, folder, stored / 1e9)
    if total - stored > free:
        space = f"{folder} has {free / 1e9:.2f} GB left, {(total - stored) / 1e9:.2f} GB are needed"
        raise OSError(f"The disk of {space}. Free some, take fewer tokens, or encode again in each epoch.")


def _write(path: Path, states: torch.Tensor) -> None:
    if not torch.isfinite(states).all():
        raise ValueError(f"A state is not finite in {states.dtype}; store bfloat16, and look for NaN in the encoder.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        try:
            save_parts(temporary, [states.view(torch.int16).numpy()])
        except OSError as error:
            raise OSError(
                f"{path} cannot be written ({error}); free disk space and start again, to continue."
            ) from error


def _open(path: Path, dtype: torch.dtype) -> torch.Tensor:
    """Map a file that `_write` wrote; unlike numpy, torch keeps no descriptor open, and there may be thousands."""
    header = np.load(path, mmap_mode="r", allow_pickle=False)
    skipped = header.offset // 2
    return torch.from_file(str(path), False, skipped + header.size, dtype=dtype)[skipped:].view(header.shape)
