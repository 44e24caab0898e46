"""Streams of training text: passages out of local files and of datasets on the hub."""

import json
import os
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from lib.support.checks import check_count, check_integer, check_texts
from lib.support.files import user_path
from lib.support.folders import digest_file, digest_json
from lib.support.lines import data_files, read_lines

ENDINGS = (".txt", ".txt.gz", ".jsonl", ".jsonl.gz")
LONGEST_WORD = 1000  # characters; what is longer has no spaces between its words, such as Chinese
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def text_files(source: str | Path) -> list[Path]:
    """Return the text files directly in a folder, by name; or the one file that `source` is.

    Of a folder, hidden files and what editors keep beside an open file are left out, as by `data_files`. A ValueError
    if there is no .txt (a paragraph a line) or .jsonl (an object with a "text" a line), plain or .gz.
    """
    source = user_path(source)
    candidates = [source] if source.is_file() else data_files(source)
    files = [path for path in candidates if path.name.endswith(ENDINGS)]
    if not files:
        raise ValueError(f"{source} holds no text: give a folder or file of {', '.join(ENDINGS)}.")
    return files


def read_passages(source: str | Path, max_words: int = 180) -> Iterator[str]:
    """Yield the passages of the text files in `source`, file after file, line after line, each line cut by `split`.

    180 English words are about 256 WordPiece tokens; `TrainingText`, which knows the retriever, divides what has more.
    A ValueError for a source without text, and for a line that is not UTF-8 or not JSON with a "text" (file and line
    are named).
    """
    check_count(max_words, "max_words")
    return (passage for path in text_files(source) for line in _lines(path) for passage in split(line, max_words))


def _lines(path: Path) -> Iterator[str]:
    is_json = path.name.endswith((".jsonl", ".jsonl.gz"))
    for place, line in read_lines(path):
        try:
            yield json.loads(line)["text"].strip() if is_json else line
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f'{place} is not a JSON object with a string "text"; mend or drop the line.') from error


def split(line: str, max_words: int) -> Iterator[str]:
    """Yield passages of at most `max_words` words: whole sentences where they fit, a longer one cut at words.

    A sentence with more than 1,000 characters without a space gives passages of 1,000 characters.
    """
    check_count(max_words, "max_words")
    passage: list[str] = []
    for sentence in _SENTENCE_END.split(line):
        words = sentence.split()
        if len(sentence) > LONGEST_WORD and max(map(len, words), default=0) > LONGEST_WORD:
            if passage:
                yield " ".join(passage)
                passage = []
            text = " ".join(words)
            yield from (text[i : i + LONGEST_WORD].strip() for i in range(0, len(text), LONGEST_WORD))
            continue
        if passage and len(passage) + len(words) > max_words:
            yield " ".join(passage)
            passage = []
        while len(words) > max_words:
            yield " ".join(words[:max_words])
            words = words[max_words:]
        passage += words
    if passage:
        yield " ".join(passage)


def sample(passages: Iterable[str], fraction: float, seed: int = 0) -> Iterator[str]:
    """Yield each passage with probability `fraction`, in (0, 1]; the same ones for the same seed, at least 0."""
    _check_fraction(fraction)
    draw = random.Random(check_integer(seed, "seed"))  # -1 would be 1
    return (passage for passage in passages if draw.random() < fraction)


def _check_fraction(fraction: float) -> None:
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction is {fraction!r}; it must be above 0 and at most 1.")


def _check_settings(text) -> None:
    """Check the settings of a corpus, and make integers of numpy Python's, which JSON knows."""
    object.__setattr__(text, "max_words", check_count(text.max_words, "max_words"))
    object.__setattr__(text, "seed", check_integer(text.seed, "seed"))
    _check_fraction(text.fraction)


@dataclass(frozen=True)
class LocalText:
    """Passages of the text files in a folder, or of one file, as `read_passages` cuts them; read anew each time.

    Attributes
    ----------
    source : str or Path
        The folder or file.
    max_words : int
        Most words of a passage.
    fraction : float
        Share of the passages to draw at random, in (0, 1].
    seed : int
        Seed of that draw.
    """

    source: str | Path
    max_words: int = 180
    fraction: float = 1.0
    seed: int = 0

    def __post_init__(self):
        text_files(self.source)
        _check_settings(self)

    def __iter__(self) -> Iterator[str]:
        return sample(read_passages(self.source, self.max_words), self.fraction, self.seed)

    @cached_property
    def identity(self) -> dict:
        """Everything that decides the passages, files by their sha256, JSON-able."""
        files = {path.name: digest_file(path) for path in text_files(self.source)}
        return {"files": files, "max_words": self.max_words, "fraction": self.fraction, "seed": self.seed}


class GivenText:
    """Passages of texts in memory, such as a collection's documents, cut by `split`; read anew each time.

    A TypeError for a single `str` and for an element that is not one (its position is named).
    """

    def __init__(self, texts: Iterable[str], max_words: int = 180):
        self._texts = list(check_texts(texts))
        self._max_words = check_count(max_words, "max_words")

    def __iter__(self) -> Iterator[str]:
        return (passage for text in self._texts for passage in split(text, self._max_words))

    @cached_property
    def identity(self) -> dict:
        """Everything that decides the passages, the texts by their sha256, JSON-able."""
        return {"texts": digest_json(self._texts), "max_words": self._max_words}


@dataclass(frozen=True)
class StreamedText:
    """Passages of a Hugging Face dataset, by default FineWeb-Edu, read as a stream: only what is read is downloaded.

    Reading raises ImportError if the package `datasets` is not installed; ValueError for a column that is not there.

    Attributes
    ----------
    dataset : str
        Hub id, or a local folder of files that `datasets` reads.
    name : str, optional
        One of its configurations; "sample-10BT" is FineWeb-Edu's smallest.
    split, column : str
        Split and column of the text.
    revision : str, optional
        Revision of the dataset on the hub, such as a commit; None is the newest at the first use of the passages or
        the identity, and the same from then on.
    max_words, fraction, seed
        As in `LocalText`.
    """

    dataset: str = "HuggingFaceFW/fineweb-edu"
    name: str | None = None
    split: str = "train"
    column: str = "text"
    revision: str | None = None
    max_words: int = 180
    fraction: float = 1.0
    seed: int = 0

    def __post_init__(self):
        if os.fspath(self.dataset).startswith("~"):
            object.__setattr__(self, "dataset", str(user_path(self.dataset)))
        _check_settings(self)

    def __iter__(self) -> Iterator[str]:
        return sample(self._passages(), self.fraction, self.seed)

    def _passages(self) -> Iterator[str]:
        try:
            from datasets import load_dataset
        except ImportError as error:
            raise ImportError(f"{self.dataset} is read with datasets: pip install 'latent-terms[hub]'.") from error
        if lock := next(Path(self.dataset).rglob("~$*"), None):  # `datasets` skips hidden files, but would read this
            raise ValueError(f"{lock} is the lock file of an open document, no data; close the document, or remove it.")
        rows = load_dataset(self.dataset, self.name, split=self.split, revision=self._commit, streaming=True)
        for row in rows:
            if not isinstance(row.get(self.column), str):
                raise ValueError(f"{self.dataset} has no text in {self.column!r}; its columns are {', '.join(row)}.")
            for line in row[self.column].splitlines():
                yield from split(line, self.max_words)

    @cached_property
    def identity(self) -> dict:
        """Everything that decides the passages, JSON-able: files by their sha256, a hub set by its commit."""
        folder = Path(self.dataset)
        if folder.is_dir():
            files = {str(path.relative_to(folder)): digest_file(path) for path in data_files(folder, "**/*")}
            return asdict(self) | {"files": files}
        return asdict(self) | {"revision": self._commit}

    @cached_property
    def _commit(self) -> str | None:
        if self.revision is not None or Path(self.dataset).is_dir():
            return self.revision
        from huggingface_hub import HfApi

        return HfApi().dataset_info(self.dataset).sha
