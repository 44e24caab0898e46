"""Texts in a file or a folder to a saved `Searcher`: read as a stream, and continued after an interruption."""

import json
from collections.abc import Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array, vstack

from lib.bm25.index import FORMS
from lib.data.sources import find_file, read_jsonl
from lib.data.training_text import ENDINGS
from lib.encode.limits import Lengths
from lib.evaluation.baselines import Words
from lib.latent_terms import LatentTerms
from lib.searcher import MANIFEST, Searcher
from lib.support.checks import check_choice, check_ids
from lib.support.files import make_folder, remove, user_path
from lib.support.folders import digest_json, is_unfinished
from lib.support.lines import read_lines
from lib.support.locks import locked
from lib.support.progress import progress as show_progress
from lib.support.store import Store

PARTS = "parts"  # the folder, in that of a searcher, of what is encoded so far
_PART = 4_096  # documents that are stored together, and at most encoded again after an interruption


def read_texts(source: str | Path) -> Iterator[tuple[str, str]]:
    """Yield (id, text) of every document of a file, or of the corpus of a folder in BEIR layout.

    A line of a .txt file is a document, and one of a .jsonl file an object with a `text`, a `title`, or both; either
    may be .gz. The id is the object's `_id`, else the number of the line. Blank lines are skipped.

    Raises ValueError for other files and folders, and names file and line of what is not UTF-8 or no such object.
    """
    source = user_path(source)
    path = find_file(source, "corpus.jsonl") if source.is_dir() else source
    if path is None or not path.name.endswith(ENDINGS):
        held = "has no corpus.jsonl" if source.is_dir() else "is another file"
        raise ValueError(f"{source} {held}; give a folder in BEIR layout or a file of {', '.join(ENDINGS)}.")
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        return read_jsonl(path, numbered=not source.is_dir())
    return ((place.rpartition(" ")[2], line) for place, line in read_lines(path))


def check_target(folder: str | Path) -> Path:
    """Return the path of a folder that `index_texts` may write to.

    FileExistsError if it holds anything but what an interrupted call left there.
    """
    folder = user_path(folder)
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if MANIFEST in names:
        raise FileExistsError(f"{folder} holds a searcher; search it, give another folder, or remove it.")
    interrupted = PARTS in names  # perhaps while the searcher was saved
    if any(name != PARTS and not (interrupted and is_unfinished(name)) for name in names):
        raise FileExistsError(f"{folder} holds {', '.join(names[:5])}; give a folder that is empty or not there yet.")
    return folder


def index_texts(
    model: LatentTerms, source: str | Path, folder: str | Path, *, impacts: str = "float32", progress: bool = True
) -> Searcher:
    """Save a `Searcher` of the documents that `read_texts` reads to `folder`, and return it.

    `impacts` is the form of its index, as in `BM25Index.build`. The texts are read twice, the first time to check all
    of them. What is encoded is kept in `folder`, in parts of 4,096 documents under their content, until the searcher is
    saved, so that the same call continues after an interruption.

    Raises ValueError as `read_texts`, and for no or repeated ids and texts without an index word; FileExistsError as
    `check_target`; TimeoutError if another process indexes into the folder.
    """
    check_choice(impacts, FORMS, "impacts")
    folder = check_target(folder)
    doc_ids = check_ids((doc_id for doc_id, _ in read_texts(source)), what=f"The corpus {source}")
    if not doc_ids:
        raise ValueError(f"{source} holds no text; give one with a document in a line.")
    with locked(make_folder(folder / PARTS), limit=0):
        for path in folder.iterdir():
            if is_unfinished(path.name):
                remove(path)
        stored = list(_encoded(model, source, folder / PARTS, len(doc_ids), progress))
        words, counts = _joined(stored)
        blocks = ((_rows(part, "terms", model.sae.width), part["embeddings"]) for part in stored)
        searcher = Searcher.of_blocks(model, blocks, counts, words, doc_ids, impacts=impacts)
        searcher.save(folder)
    remove(folder / PARTS)
    return searcher


def _encoded(
    model: LatentTerms, source: str | Path, folder: Path, n: int, progress: bool
) -> Iterator[dict[str, np.ndarray]]:
    """Yield what is stored of each part; it is encoded if it is not stored yet."""
    documents, store, identity = read_texts(source), Store(folder), digest_json(model.identity)
    lengths = Lengths()  # of all parts, to be logged once
    parts = iter(lambda: [text for _, text in islice(documents, _PART)], [])
    for texts in show_progress(parts, what="index", unit="texts", total=n, count=len, show=progress):
        key = {"model": identity, "texts": digest_json(texts)}
        yield store.get("part", key, partial(_encode, model, texts, lengths))
    model.encoder.log_lengths(lengths)


def _encode(model: LatentTerms, texts: list[str], lengths: Lengths) -> dict[str, np.ndarray]:
    words, layer = Words.of(texts), model.encoder.layer
    states = model.encoder.stream_layers(texts, [layer], progress=False, lengths=lengths)
    blocks = [model.encode_states(block[layer]) for block in states]
    counts, terms = words.encode(texts), vstack([block.terms for block in blocks], format="csr")
    arrays = {"embeddings": np.concatenate([block.embeddings for block in blocks])}
    arrays["words"] = np.frombuffer(json.dumps(words.words).encode(), np.uint8)
    for name, matrix in (("terms", terms), ("counts", counts)):
        arrays |= {f"{name}_{field}": getattr(matrix, field) for field in ("data", "indices", "indptr")}
    return arrays


def _rows(part: dict[str, np.ndarray], name: str, width: int) -> csr_array:
    data, indices, indptr = (part[f"{name}_{field}"] for field in ("data", "indices", "indptr"))
    return csr_array((data, indices, indptr), shape=(len(indptr) - 1, width))


def _joined(stored: list[dict[str, np.ndarray]]) -> tuple[Words, csr_array]:
    """Return the words of all parts, in the order of their first appearance, and how often each text has each."""
    of_parts = [json.loads(part["words"].tobytes()) for part in stored]
    words = Words(list(dict.fromkeys(chain.from_iterable(of_parts))))
    if not len(words):
        raise ValueError("No text has an index word; rank by latents alone, with model.index.")
    columns = {word: column for column, word in enumerate(words.words)}
    counts = []
    for part, part_words in zip(stored, of_parts, strict=True):
        rows = _rows(part, "counts", len(part_words))
        numbers = np.array([columns[word] for word in part_words], np.int32)
        counts.append(csr_array((rows.data, numbers[rows.indices], rows.indptr), shape=(rows.shape[0], len(words))))
    return words, vstack(counts, format="csr")


def open_searcher(folder: str | Path) -> Searcher:
    """Load what `index_texts` saved, without comparing the checksums of postings and embeddings.

    Raises as `Searcher.load`, and ValueError for a folder whose texts are not all indexed.
    """
    folder = user_path(folder)
    if (folder / PARTS).is_dir() and not (folder / MANIFEST).exists():
        raise ValueError(f"{folder} is half written: its index was interrupted. The same index command continues.")
    return Searcher.load(folder, verify=False)
