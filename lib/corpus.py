"""Streams of training text: passages out of local files."""

import json
import random
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from lib.checks import check_count
from lib.storage import read_lines

ENDINGS = (".txt", ".txt.gz", ".jsonl", ".jsonl.gz")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def text_files(source: str | Path) -> list[Path]:
    """Return the text files of a folder (not below it), by name; or the one file that `source` is.

    Raises
    ------
    ValueError
        If there is no text file there; allowed are .txt (a paragraph a line) and .jsonl (a "text" field a line),
        plain or .gz.
    """
    source = Path(source).expanduser()
    candidates = [source] if source.is_file() else sorted(source.glob("*"))
    files = [path for path in candidates if path.name.endswith(ENDINGS) and path.is_file()]
    if not files:
        raise ValueError(f"{source} holds no text: give a folder or file of {', '.join(ENDINGS)}.")
    return files


def read_passages(source: str | Path, max_words: int = 180) -> Iterator[str]:
    """Yield the passages of the text files in `source`, file after file, line after line.

    A line longer than `max_words` words is cut at ends of sentences into passages of at most that many (a single
    longer sentence is cut at words); 180 English words are about 256 WordPiece tokens.

    Raises
    ------
    ValueError
        For a source without text, and for a line that is not UTF-8 or not JSON with a "text" (file and line named).
    """
    check_count(max_words, "max_words")
    return (passage for path in text_files(source) for line in _lines(path) for passage in split(line, max_words))


def _lines(path: Path) -> Iterator[str]:
    is_json = path.name.endswith((".jsonl", ".jsonl.gz"))
    for place, line in read_lines(path):
        yield _text_of(line, place) if is_json else line


def _text_of(line: str, place: str) -> str:
    try:
        return json.loads(line)["text"].strip()
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f'{place} is not a JSON object with a "text" that is a string; mend or drop the line.'
        ) from error


def split(line: str, max_words: int) -> Iterator[str]:
    """Yield passages of at most `max_words` words, whole sentences where they fit."""
    check_count(max_words, "max_words")
    passage: list[str] = []
    for sentence in _SENTENCE_END.split(line):
        words = sentence.split()
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
    """Yield each passage with probability `fraction`, the same ones for the same seed.

    Raises
    ------
    ValueError
        If `fraction` is not in (0, 1].
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction is {fraction!r}; it must be above 0 and at most 1.")
    draw = random.Random(seed)
    return (passage for passage in passages if draw.random() < fraction)
