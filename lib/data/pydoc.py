"""`pydoc`: known-item search over the docstrings of the Python standard library, read from its source files."""

import ast
import hashlib
import re
import sysconfig
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from lib.support.checks import check_choice, check_integer
from lib.support.lines import is_data

SPLITS = ("train", "test")
QUERY_WORDS = (4, 30)  # fewest and most words of a summary that serves as a query
BODY_WORDS = 15  # fewest words of a body worth finding
_SKIPPED_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
_MADE_BY_THE_PLATFORM = re.compile(r"config-.*|_sysconfigdata.*|(site|user)customize\.py|_distutils_system_mod\.py")
_BLOCKS = ("body", "handlers", "orelse", "finalbody", "cases")  # fields of a syntax tree that hold statements
_WORD = re.compile(r"\w+")


class _Docstring(NamedTuple):
    id: str  # the qualified name, with #2, #3, ... for a name that is defined again
    title: str  # the qualified name
    summary: str  # the first paragraph on one line
    body: str  # the text behind the first paragraph, or ""
    text: str  # the docstring


def build(split: str | None = None, n_docs: int | None = None) -> dict:
    """Build known-item search over the standard library of the running interpreter; nothing is imported or downloaded.

    A document is a docstring's body under its qualified name (`heapq.heappush`); a query is a docstring's summary
    (its first paragraph, 4 to 30 words), and relevant to it is the body that it introduced (15 words or more). A
    summary of several docstrings makes one query with several relevant documents. It is no query if one of their bodies
    repeats it or is too short: that document would be a perfect and unjudged answer. (Some 2 % of the queries still
    occur word for word in another docstring, mostly that of their module.) A docstring whose summary is no query is a
    document in full, as a distractor.

    The data depend on the interpreter's version, and on whether all of its library is installed (some Linux
    distributions package tkinter, idlelib, distutils and lib2to3 apart). Python 3.11.7 in full has 8,604 documents
    and 2,218 queries. There is no official counterpart.

    Parameters
    ----------
    split : str, optional
        "train" or "test": about half of the queries each, by the first bit of the SHA-256 of a query's text, so that
        a query never changes sides; None is all. The documents are the same in each.
    n_docs : int, optional
        Size of a sample of the docstrings, those whose ids have the smallest SHA-256, with the queries among them. It
        is easier than the full set, so its figures compare with themselves only. None is all.

    Returns
    -------
    dict
        The fields of a `Collection`. Document ids are qualified names; a query's id is "q/" and the id of the
        first document relevant to it.
    """
    if split is not None:
        check_choice(split, SPLITS, "split")
    docstrings = _read_library(Path(sysconfig.get_path("stdlib")))
    if n_docs is not None:
        n_docs = check_integer(n_docs, "n_docs", 1, len(docstrings))  # N of pydoc/N
        ids = sorted((d.id for d in docstrings), key=lambda id_: hashlib.sha256(id_.encode()).digest())
        sampled = set(ids[:n_docs])
        docstrings = tuple(docstring for docstring in docstrings if docstring.id in sampled)
    answers = _answers(docstrings)
    used = {docstring.id for group in answers.values() for docstring in group}
    queries = {query: group for query, group in answers.items() if split in (None, split_of(query))}
    query_ids = [f"q/{group[0].id}" for group in queries.values()]
    return {
        "name": "pydoc" if n_docs is None else f"pydoc/{n_docs}",
        "split": split,
        "doc_ids": [d.id for d in docstrings],
        "doc_texts": [f"{d.title}\n{d.body if d.id in used else d.text}" for d in docstrings],
        "query_ids": query_ids,
        "query_texts": list(queries),
        "qrels": {q: {d.id: 1 for d in group} for q, group in zip(query_ids, queries.values(), strict=True)},
        "source": "built-in",
    }


def split_of(query: str) -> str:
    """Return the side of a query: "train" if the SHA-256 of its text begins with the bit 0, else "test"."""
    return SPLITS[hashlib.sha256(query.encode()).digest()[0] >> 7]


def _answers(docstrings: tuple[_Docstring, ...]) -> dict[str, list[_Docstring]]:
    """Map each summary that serves as a query to the docstrings whose bodies answer it, in library order."""
    groups: dict[str, list[_Docstring]] = defaultdict(list)
    for docstring in docstrings:
        groups[_bare(docstring.summary)].append(docstring)
    fewest, most = QUERY_WORDS
    return {
        group[0].summary: group
        for bare, group in groups.items()
        if fewest <= _n_words(bare) <= most
        and all(_n_words(d.body) >= BODY_WORDS and bare not in _bare(d.body) for d in group)
    }


def _bare(text: str) -> str:
    """Reduce a text to its words in lower case: what makes two summaries the same, or one part of a body."""
    return f" {' '.join(_WORD.findall(text.lower()))} "


def _n_words(text: str) -> int:
    return len(_WORD.findall(text))


@cache
def _read_library(root: Path) -> tuple[_Docstring, ...]:
    """Read every docstring of the library, files in order of their names and each from top to bottom.

    They are the library's own modules: no tests, no installed packages, nothing that a platform's build wrote.
    """
    counts: Counter[str] = Counter()
    docstrings = []
    paths = [path.relative_to(root).parts for path in root.rglob("*.py")]
    modules = [p for p in paths if not _SKIPPED_FOLDERS & set(p) and not _MADE_BY_THE_PLATFORM.fullmatch(p[0])]
    for parts in sorted(filter(is_data, modules)):
        for name, text in _file_docstrings(root, Path(*parts)):
            counts[name] += 1
            id_ = name if counts[name] == 1 else f"{name}#{counts[name]}"
            summary, _, body = re.sub(r"\n[ \t\f]+\n", "\n\n", text).partition("\n\n")
            docstrings.append(_Docstring(id_, name, " ".join(summary.split()), body.strip("\n"), text))
    return tuple(docstrings)


def _file_docstrings(root: Path, path: Path) -> Iterator[tuple[str, str]]:
    """Yield (qualified name, dedented docstring) for all that one file documents; nothing for one that cannot parse."""
    module = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in old modules
        try:
            tree = ast.parse((root / path).read_bytes())
        except (SyntaxError, ValueError):  # ValueError: a null byte
            return
    yield from _docstrings(tree, module)


def _docstrings(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    """Yield the docstring of a module, class or function and of all that is defined in it, under any `if` or `try`."""
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        docstring = (ast.get_docstring(node) or "").strip()
        if docstring:
            yield name, docstring
    for child in (child for block in _BLOCKS for child in getattr(node, block, ())):
        if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from _docstrings(child, f"{name}.{child.name}")
        elif hasattr(child, "body") or hasattr(child, "cases"):
            yield from _docstrings(child, name)
