"""Texts in a file or a folder to a saved `Searcher`: read as a stream, and continued after an interruption."""

import json
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import chain, islice
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array, vstack

from lib.bm25.index import FORMS
from lib.data.sources import find_file, read_jsonl
from lib.data.training_text import ENDINGS
from lib.encode.limits import Lengths
from lib.evaluation.baselines import ANALYZER, Words
from lib.latent_terms import LatentTerms
from lib.searcher import MANIFEST, Searcher
from lib.support.checks import check_choice, check_ids
from lib.support.files import make_folder, remove, user_path
from lib.support.folders import digest_json, is_unfinished
from lib.support.lines import read_lines
from lib.support.locks import LOCK, locked
from lib.support.progress import progress as show_progress
from lib.support.store import Store

PARTS = "parts"  # the folder, in that of a searcher, of what is encoded so far
_PART = 4_096  # documents that are stored together, and at most encoded again after an interruption


def read_texts(source: str | Path) -> Iterator[tuple[str, str]]:
    """Yield (id, text) of every document of a file, or of the corpus of a folder in BEIR layout.

    A line of a .txt file is a document, and one of a .jsonl file an object with a `text`, a `title`, or both; either
    may be .gz. The id is the object's `_id`, else the number of the line. Blank lines are skipped.

    Raises FileNotFoundError if there is none, ValueError for other files and folders, and names file and line of what
    is not UTF-8 or no such object.
    """
    source = user_path(source)
    if not source.exists():
        raise FileNotFoundError(f"There is no {source}; give a file of texts or a folder in BEIR layout.")
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
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; give a folder that is empty or not there yet.")
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
    parts = make_folder(folder / PARTS)
    try:
        with locked(parts, limit=0):
            check_target(folder)  # another process may have finished it since
            for path in folder.iterdir():
                if is_unfinished(path.name):
                    remove(path)
            searcher = _searcher(model, source, Store(parts), doc_ids, impacts, progress)
            searcher.save(folder, with_retriever=model.lacks_retriever)
            for path in parts.iterdir():
                if path.name != LOCK:
                    remove(path)
    finally:
        with suppress(OSError):  # it is empty if all is done
            parts.rmdir()
    return searcher


def _searcher(
    model: LatentTerms, source: str | Path, store: Store, doc_ids: list[str], impacts: str, progress: bool
) -> Searcher:
    """Return the searcher of the texts, which are encoded first where they are not stored yet."""
    keys = list(_encoded(model, source, store, len(doc_ids), progress))
    words = _words_of(_part(store, key)["words"] for key in keys)
    blocks = (_block(_part(store, key), model.sae.width, words) for key in keys)
    return Searcher.of_blocks(model, blocks, words, doc_ids, impacts=impacts)


def _encoded(model: LatentTerms, source: str | Path, store: Store, n: int, progress: bool) -> Iterator[dict]:
    """Yield the key of each part, which is encoded if it is not stored yet."""
    documents, identity = read_texts(source), digest_json(model.identity)
    lengths = Lengths()  # of all parts, to be logged once
    parts = iter(lambda: [text for _, text in islice(documents, _PART)], [])
    for texts in show_progress(parts, what="index", unit="texts", total=n, count=len, show=progress):
        key = {"model": identity, "analyzer": ANALYZER, "texts": digest_json(texts)}
        store.get("part", key, partial(_encode, model, texts, lengths))
        yield key
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


def _part(store: Store, key: dict) -> dict[str, np.ndarray]:
    """Return a part that is stored, its files open as long as it is in use: a process may have few open at once."""

    def lost() -> dict:
        raise FileNotFoundError(f"A part of {store.folder} is gone; the same command makes it again.")

    return store.get("part", key, lost)


def _words_of(parts: Iterator[np.ndarray]) -> Words:
    """Return the words of all parts, in the order of their first appearance."""
    words = Words(list(dict.fromkeys(chain.from_iterable(map(_words, parts)))))
    if not len(words):
        raise ValueError("No text has an index word; rank by latents alone, with model.index.")
    return words


def _words(stored: np.ndarray) -> list[str]:
    return json.loads(stored.tobytes())


def _block(part: dict[str, np.ndarray], width: int, words: Words) -> tuple[csr_array, csr_array, np.ndarray]:
    """Return the terms of a part's texts, how often each has each of all words, and the embeddings."""
    terms, counts = (
        [np.array(part[f"{name}_{field}"]) for field in ("data", "indices", "indptr")] for name in ("terms", "counts")
    )
    counts[1] = words.columns(_words(part["words"]))[counts[1]]
    n = len(terms[2]) - 1
    embeddings = np.array(part["embeddings"])
    return csr_array(tuple(terms), shape=(n, width)), csr_array(tuple(counts), shape=(n, len(words))), embeddings


def open_searcher(folder: str | Path) -> Searcher:
    """Load what `index_texts` saved, without comparing the checksums of postings and embeddings.

    Raises as `Searcher.load`, and ValueError for a folder whose texts are not all indexed.
    """
    folder = user_path(folder)
    if (folder / PARTS).is_dir() and not (folder / MANIFEST).exists():
        raise ValueError(f"{folder} is half written: its index was interrupted. The same index command continues.")
    return Searcher.load(folder, verify=False)
