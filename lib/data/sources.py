"""Where a collection's files come from: folders in BEIR layout (the mirror's, or any), and ir_datasets.

Every reader returns the fields of a `lib.data.collection.Collection` as a dict.
"""

import difflib
import json
import os
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from lib.support.checks import GRADES, check_grade
from lib.support.files import user_path
from lib.support.lines import columns_of, data_files, read_lines

BUILT_IN = ("pydoc", "pydoc/train", "pydoc/test", "limit", "limit/46 (or another number of documents)", "limit/train")
MIRROR = "LATENT_TERMS_DATA"  # the environment variable that names the mirror's folder
QRELS_HEADER = "query-id\tcorpus-id\tscore"
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_LAYOUT = (
    "corpus.jsonl (one JSON object per line: _id, title, text), queries.jsonl (_id, text) and qrels/{split}.tsv "
    "(header 'query-id corpus-id score', then one judgement per line; three columns set apart by tabs)"
)


def read(name: str, split: str | None) -> dict:
    """Read a collection from the mirror, else from the folder of that path, else through ir_datasets."""
    if folder := find_folder(name, split):
        return _read_folder(*folder)
    return _read_ir_dataset(*_find_ir_dataset(name, split))


def canonical_text(title: str | None, text: str | None) -> str:
    """Return the one text of a document: title, newline, text; just one of them where the other is blank."""
    return "\n".join(part for part in (title, text) if part and part.strip())


def agreed_split(last: str, split: str | None, name: str) -> str:
    """Return the split that is the last part of a name, unless `split` contradicts it."""
    if split not in (None, last):
        raise ValueError(f"{name!r} names the split {last!r}, and split is {split!r}; give one of the two.")
    return last


def _chosen_split(split: str | None, splits: Iterable[str], name: str, instead: str = "no qrels") -> str:
    """Return `split` if it exists; by default "test", else the only one."""
    splits = sorted(set(splits))
    if split is None and ("test" in splits or len(splits) == 1):
        return "test" if "test" in splits else splits[0]
    if split not in splits:
        names = ", ".join(map(repr, splits)) or f"none ({instead})"
        raise ValueError(f"{name!r} has no split {split!r}; there are: {names}. Choose one or add its qrels.")
    return split


def _mirror() -> Path | None:
    folder = os.environ.get(MIRROR)
    if folder and not user_path(folder).is_dir():
        raise ValueError(f"{MIRROR} is {folder!r}, which is not a folder; name the mirror's folder, or unset it.")
    return user_path(folder) if folder else None


def find_folder(name: str, split: str | None) -> tuple[Path, str, str | None, str] | None:
    """Find (folder, name, split or None, source) of a collection in BEIR layout: in the mirror, else at that path."""
    roots = [(Path(), "folder")]
    if not (Path(name).is_absolute() or name.startswith(".")) and (mirror := _mirror()):
        roots.insert(0, (mirror, "mirror"))
    for root, source in roots:
        for folder, last in ((root / name, None), ((root / name).parent, Path(name).name)):
            if find_file(folder, "corpus.jsonl") and (last is None or folder != root):
                collection = folder.relative_to(root).as_posix() if source == "mirror" else folder.resolve().name
                return folder, collection, split if last is None else agreed_split(last, split, name), source
    return None


def find_file(folder: Path, name: str) -> Path | None:
    """Return the file or its gzipped form; None if there is neither."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _read_folder(folder: Path, name: str, split: str | None, source: str) -> dict:
    files = [path.name for path in data_files(folder, "qrels/*")]
    splits = [file.removesuffix(".gz").removesuffix(".tsv") for file in files if file.endswith((".tsv", ".tsv.gz"))]
    layout = _LAYOUT.format(split=split or "test")
    others = f"qrels holds {', '.join(files[:5]) or 'nothing'}; a collection is {layout}"
    split = _chosen_split(split, splits, name, others)
    corpus, queries, judged = (find_file(folder, f) for f in ("corpus.jsonl", "queries.jsonl", f"qrels/{split}.tsv"))
    if corpus is None or queries is None or judged is None:
        raise ValueError(f"{folder} holds no queries.jsonl; a collection is {layout}.")
    qrels = _read_qrels(judged)
    return _assemble(name, split, list(read_jsonl(corpus)), read_jsonl(queries), qrels, source)


def _assemble(name: str, split: str, docs: list, queries: Iterable, qrels: dict, source: str) -> dict:
    """Make the fields of a `Collection` of (id, text) pairs: judged queries only, Cranfield's grades made binary."""
    if name == "cranfield" and source != "folder":  # a folder of that name may hold anything
        binary = {query: {doc: 1 for doc, grade in judged.items() if grade > 0} for query, judged in qrels.items()}
        qrels = {query: judged for query, judged in binary.items() if judged}
    queries = [(query, text) for query, text in queries if query in qrels]
    return {
        "name": name,
        "split": split,
        "doc_ids": [doc for doc, _ in docs],
        "doc_texts": [text for _, text in docs],
        "query_ids": [query for query, _ in queries],
        "query_texts": [text for _, text in queries],
        "qrels": qrels,
        "source": source,
    }


def read_jsonl(path: Path, *, numbered: bool = False) -> Iterator[tuple[str, str]]:
    """Yield (id, canonical text) of each line; if `numbered`, the number of the line is the id where there is none.

    A ValueError names file and line of what is no JSON object of strings `_id` and `text` or `title`.
    """
    for place, line in read_lines(path):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{place} is not JSON ({error}); write one object per line.") from error
        fields = record if isinstance(record, dict) else {}
        title, text = fields.get("title"), fields.get("text")
        doc_id = fields.get("_id", place.rpartition(" ")[2] if numbered else None)
        strings = isinstance(title, str | None) and isinstance(text, str | None) and {"title", "text"} & set(fields)
        if not (isinstance(doc_id, str) and strings):
            raise ValueError(f"{place} is {line[:80]!r}; write an object of strings '_id' and 'text' or 'title'.")
        yield doc_id, canonical_text(title, text)


def _read_qrels(path: Path) -> dict[str, dict[str, int]]:
    qrels: dict[str, dict[str, int]] = {}
    for i, (place, line) in enumerate(read_lines(path)):
        query, doc, number = line.split("\t") if line.count("\t") == 2 else ("", "", "")
        if i == 0:
            if line != QRELS_HEADER:
                raise _malformed(place, line, f"the first line must be {QRELS_HEADER!r} (tabs between)")
            continue
        grade = _grade(number)
        if not (query and doc) or grade is None:
            bounds = f"a whole number of at most {GRADES:,} (or -{GRADES:,})"
            raise _malformed(place, line, f"it must be query id, document id and {bounds}, tabs between")
        if (earlier := qrels.setdefault(query, {}).setdefault(doc, grade)) != grade:
            raise ValueError(f"{place} is {line!r}, and the same pair has grade {earlier} above; keep one line.")
    return qrels


@lru_cache  # a file has few grades
def _grade(number: str) -> int | None:
    """Return the grade that is written as 1, 1.0 or 1e0; None if it is none."""
    try:
        return check_grade(float(number), "grade") if _NUMBER.fullmatch(number.strip()) else None
    except (TypeError, ValueError):
        return None


def _malformed(place: str, line: str, demand: str) -> ValueError:
    columns = columns_of(line)
    if len(columns) == 4 and _NUMBER.fullmatch(columns[3]):
        awk = "(echo 'query-id corpus-id score'; awk '{print $1, $3, $4}' qrels.txt) | tr ' ' '\\t' > qrels/test.tsv"
        demand = f"these are TREC's four columns (query-id 0 doc-id grade); drop the second, as does {awk}"
    return ValueError(f"{place} is {line!r}; {demand}.")


def ir_dataset(id_: str):
    """Return the data set that ir_datasets has under this id, else None."""
    import ir_datasets  # here, since it takes a third of a second

    try:
        return ir_datasets.load(id_)
    except KeyError:
        return None


def _find_ir_dataset(name: str, split: str | None) -> tuple[str, str, str]:
    """Find (ir_datasets id, name without split, split) of a set of judgements; an unknown name is a `ValueError`."""
    import ir_datasets

    dataset, (parent, _, last) = ir_dataset(name), name.rpartition("/")
    parent_dataset = ir_dataset(parent) if parent else None
    if parent_dataset is not None and not parent_dataset.has_docs():
        parent_dataset = None  # "beir" is a family of collections, not a collection
    if dataset is None and parent_dataset is None:
        raise _unknown(name)
    if dataset is None:
        return _find_ir_dataset(parent, agreed_split(last, split, name))
    if dataset.has_qrels():
        only = last if parent_dataset is not None else "test"
        if split not in (None, only):
            raise ValueError(f"{name!r} has no split {split!r}; its judgements are {only!r}. Leave split out.")
        return name, name if parent_dataset is None else parent, only
    below = [id_.removeprefix(f"{name}/") for id_ in ir_datasets.registry if id_.startswith(f"{name}/")]
    split = _chosen_split(split, (s for s in below if "/" not in s and ir_dataset(f"{name}/{s}").has_qrels()), name)
    return f"{name}/{split}", name, split


def _read_ir_dataset(id_: str, name: str, split: str) -> dict:
    dataset = ir_dataset(id_)
    qrels: dict[str, dict[str, int]] = {}
    try:
        for judgement in dataset.qrels_iter():
            qrels.setdefault(judgement.query_id, {})[judgement.doc_id] = judgement.relevance
        queries = [(query.query_id, _ir_text(query)) for query in dataset.queries_iter()]
        docs = [(doc.doc_id, _ir_text(doc)) for doc in dataset.docs_iter()]
    except (OSError, RuntimeError) as error:  # raised by requests and ir_datasets when no source answers
        folder = f"{os.environ.get(MIRROR) or f'MIRROR (a folder of yours; set {MIRROR} to it)'}/{name}"
        raise OSError(
            f"ir_datasets could not get {id_!r} ({type(error).__name__}: {error}). To use it without a download, put "
            f"these files in {folder}: {_LAYOUT.format(split=split)}."
        ) from error
    return _assemble(name, split, docs, queries, qrels, "ir_datasets")


def _ir_text(record) -> str:
    """Return title and text of a document or query of ir_datasets; where it has no field `text`, its default text."""
    if hasattr(record, "text"):
        return canonical_text(getattr(record, "title", None), record.text)
    return record.default_text()


def _unknown(name: str) -> ValueError:
    import ir_datasets

    mirror = _mirror()
    patterns = ("**/corpus.jsonl", "**/corpus.jsonl.gz")
    folders = [f.parent.relative_to(mirror) for p in patterns for f in data_files(mirror, p)] if mirror else []
    names = ", ".join(sorted({path.as_posix() for path in folders})) or ("nothing" if mirror else "not set")
    close = difflib.get_close_matches(name, list(ir_datasets.registry), n=5)
    lacking = " (a folder, but without corpus.jsonl)" if Path(name).is_dir() else ""
    return ValueError(
        f"Unknown collection {name!r}{lacking}. Built in: {', '.join(BUILT_IN)}. In the mirror ({MIRROR}): {names}. "
        f"Close ids of ir_datasets: {', '.join(close) or 'none'}. "
        f"To add one, make a folder with {_LAYOUT.format(split='test')} and give its path, or put it in the mirror."
    )
