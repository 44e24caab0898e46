"""Test collections: documents, queries and judgements (qrels), from the package, a mirror, ir_datasets or a folder.

``python -m lib.data.collection NAME... > lib/data/identities.json`` writes the identities that `load_collection`
compares with; run it, with LATENT_TERMS_DATA set, for every name that is in the file.
"""

import hashlib
import json
import os
import sys
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

from lib.data import limit, pydoc
from lib.data.sources import BUILT_IN, agreed_split, find_folder, ir_dataset, read
from lib.support.checks import check_choice, check_grade, check_ids, check_texts
from lib.support.files import user_path
from lib.support.html import table

SOURCES = ("built-in", "mirror", "ir_datasets", "folder", "pairs")
_SELF_MATCHED = ("beir/arguana",)  # each query is a document, and has its id
_IDENTITIES = Path(__file__).parent / "identities.json"


@dataclass(frozen=True, repr=False)
class Collection:
    """A test collection: texts to search, queries to search them with, and which documents answer which query.

    Every query is judged: each has an entry in `qrels`. A grade above 0 means relevant. Judgements of documents that
    the collection lacks (some official ones lack a few) stay in `qrels`: trec_eval, and so published figures, count
    them as relevant and never found. `missing` counts them, and a `UserWarning` names the first.

    Raises TypeError or ValueError for columns that do not fit together; the offending id or position is named.

    Parameters
    ----------
    name : str
        Name without the split: "beir/scifact", "limit"; for a folder its last part, never a path.
    split : str or None
        Name of the set of judgements ("test"); None if the only set has no name.
    doc_ids, doc_texts : list of str
        One unique id and one canonical text (`canonical_text`) per document; at least one document.
    query_ids, query_texts : list of str
        One unique id and one text per query; at least one query.
    qrels : dict
        Query id → document id → grade: an integer, of numpy too, or 1.0, of at most 10,000; stored as int.
    source : str
        "built-in", "mirror", "ir_datasets", "folder" or "pairs".
    """

    name: str
    split: str | None
    doc_ids: list[str]
    doc_texts: list[str]
    query_ids: list[str]
    query_texts: list[str]
    qrels: dict[str, dict[str, int]]
    source: str

    def __post_init__(self):
        check_choice(self.source, SOURCES, "source")
        for side in ("doc", "query"):
            texts = list(check_texts(getattr(self, f"{side}_texts"), f"{side}_texts"))
            ids = check_ids(getattr(self, f"{side}_ids"), len(texts), f"{side}_ids")
            object.__setattr__(self, f"{side}_texts", texts)
            object.__setattr__(self, f"{side}_ids", ids)
        self._check_qrels()
        if not (self.doc_ids and self.query_ids):
            counts = f"{len(self.doc_ids)} documents and {len(self.query_ids)} judged queries"
            raise ValueError(f"{self.full_name} holds {counts}; a collection has at least one of each.")
        qrels = {
            query: {doc: check_grade(grade, f"qrels[{query!r}][{doc!r}]") for doc, grade in self.qrels[query].items()}
            for query in self.query_ids
        }
        object.__setattr__(self, "qrels", qrels)
        if self.missing:
            known = set(self.doc_ids)
            first = next(f"{q!r} → {d!r}" for q, judged in self.qrels.items() for d in judged if d not in known)
            message = f"{self.missing} of the {self._n_qrels} qrels of {self.full_name} judge a document not in doc_ids"
            if self.missing == self._n_qrels:
                raise ValueError(f"{message} (first: {first}). Use the ids of doc_ids.")
            warnings.warn(f"{message} (first: {first}). They count as relevant and never found.", stacklevel=4)

    def _check_qrels(self) -> None:
        """Raise unless `qrels` is a dict of dicts and the judged queries are exactly `query_ids`."""
        if not (isinstance(self.qrels, Mapping) and all(isinstance(judged, Mapping) for judged in self.qrels.values())):
            raise TypeError(
                f"qrels is a {type(self.qrels).__name__}, not of dicts; pass query id → document id → grade."
            )
        unknown = sorted(set(self.qrels) - set(self.query_ids), key=str)
        unjudged = [query for query in self.query_ids if not self.qrels.get(query)]
        if unknown or unjudged:
            raise ValueError(
                f"qrels of {self.full_name} and query_ids do not match: {len(unknown)} judged queries without a text "
                f"{unknown[:3]}, {len(unjudged)} queries without a judgement {unjudged[:3]}. Add or drop them."
            )

    @property
    def full_name(self) -> str:
        """Name and split: "beir/scifact/test"."""
        return f"{self.name}/{self.split}" if self.split else self.name

    @cached_property
    def missing(self) -> int:
        """Number of judgements of documents that the collection does not hold."""
        known = set(self.doc_ids)
        return sum(doc not in known for judged in self.qrels.values() for doc in judged)

    @property
    def _n_qrels(self) -> int:
        return sum(map(len, self.qrels.values()))

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Name, source, counts, first and last document and SHA-256 digests, to store with results.

        Each of the three digests is over UTF-8 strings that are preceded by their length in bytes: id and text of
        each document; of each query; query id, document id and grade of each judgement. Documents and queries are
        in the collection's order, the judgements of a query in that of their document ids. The splits of a
        collection share `documents_sha256`.
        """
        judgements = ((q, d, str(grade)) for q, judged in self.qrels.items() for d, grade in sorted(judged.items()))
        return {
            "name": self.name,
            "split": self.split,
            "source": self.source,
            "documents": len(self.doc_ids),
            "queries": len(self.query_ids),
            "qrels": self._n_qrels,
            "missing": self.missing,
            "first_document": self.doc_ids[0],
            "last_document": self.doc_ids[-1],
            "documents_sha256": _digest(zip(self.doc_ids, self.doc_texts, strict=True)),
            "queries_sha256": _digest(zip(self.query_ids, self.query_texts, strict=True)),
            "qrels_sha256": _digest(judgements),
        }

    @cached_property
    def self_matches(self) -> dict[str, str]:
        """Queries that are themselves a document, as in ArguAna: query id → document id.

        Such a query finds itself, and no judgement is of that document: pass these pairs as `exclude` to
        `BM25Index.search`, or to `Ranking.exclude`.

        The ids must be equal and the query's words part of the document's text (white space aside): in SciFact, whose
        ids are numbers, some are equal by chance. For ArguAna, unless it is a folder of yours, equal ids are enough.
        """
        texts = dict(zip(self.doc_ids, self.doc_texts, strict=True))
        if self.source != "folder" and self.name in _SELF_MATCHED:
            return {query: query for query in self.query_ids if query in texts}
        shared = [(q, " ".join(t.split())) for q, t in zip(self.query_ids, self.query_texts, strict=True) if q in texts]
        return {q: q for q, text in shared if text and text in " ".join(texts[q].split())}

    def __repr__(self) -> str:
        lacking = f" ({self.missing:,} of documents it does not hold)" if self.missing else ""
        digests = [f"{part} {self.identity[f'{part}_sha256'][:12]}" for part in ("documents", "queries", "qrels")]
        return (
            f"Collection {self.full_name} ({self.source}): {len(self.doc_ids):,} documents, {len(self.query_ids):,} "
            f"queries, {self._n_qrels:,} qrels{lacking}\n  {self.doc_ids[0]!r} … {self.doc_ids[-1]!r}, sha256 of "
            f"{', '.join(digests)}"
        )

    def _repr_html_(self) -> str:
        """Return the counts, and the beginning of the first three documents and queries, as tables."""
        title = f"{self.full_name} ({self.source}): {len(self.doc_ids):,} documents, {len(self.query_ids):,} queries"
        parts = {"document": (self.doc_ids, self.doc_texts), "query": (self.query_ids, self.query_texts)}
        return f"<p>{escape(title)}, {self._n_qrels:,} judgements</p>" + "".join(
            table([kind, "text"], [(id_, text[:200]) for id_, text in zip(ids[:3], texts[:3], strict=True)])
            for kind, (ids, texts) in parts.items()
        )


def load_collection(name: str | os.PathLike, split: str | None = None) -> Collection:
    """Load a test collection.

    `name` is, in the order in which it is looked up:

    - a built-in one: "pydoc" ("pydoc/train", "pydoc/test"; "pydoc/2000/test" is a sample of 2,000 documents), "limit"
      (5,000 documents), "limit/46", "limit/50000", or "limit/train" to tune on; see `lib.data.pydoc.build`,
      `lib.data.limit.build` and `build_train`;
    - a folder of the mirror, which the environment variable LATENT_TERMS_DATA names. It holds collections in BEIR
      layout under their ir_datasets ids without the split (beir/scifact/), or any name of your own;
    - a folder in BEIR layout, by its path: corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv (or .gz of each, where there
      is no plain one);
    - an ir_datasets id, which downloads what is not downloaded yet.

    A `Path`, a name that begins with "." or "~" and an absolute one are always folders. A folder of yours is read as it
    is, whatever its name; the rules of the next two paragraphs are for the mirror and ir_datasets.

    Only judged queries are kept, in file order. The judgements of "cranfield" are made binary (above 0 becomes 1, the
    rest is dropped): whether its grade 1 or its grade 4 is the best is disputed.

    Where ir_datasets knows the name, the number of documents must be the one that it states. A `UserWarning` says
    where a collection differs from the edition that this project's results were measured on.

    A `UserWarning` also names queries that are documents themselves (`Collection.self_matches`), and a folder of the
    same name that was not read.

    Raises ValueError for an unknown name or split (the known ones are listed), a name and split that contradict each
    other, a malformed file (file and line are named), an empty collection or another number of documents than stated;
    OSError if ir_datasets cannot download it (the files to put into the mirror instead are named).

    Parameters
    ----------
    name : str or path
        Name as above; its last part may be the split: "beir/scifact/train".
    split : str, optional
        The split; None is that in the name, else "test", else the only one (pydoc: all queries). A collection of
        ir_datasets with one unnamed set of judgements (vaswani) has the split "test".
    """
    collection = _load(_as_given(name), split)
    if collection.source in ("mirror", "ir_datasets"):
        _check_size(collection)
    if collection.source != "folder":
        _compare_identity(collection)
        _warn_of_folder(collection, _as_given(name))
    if matches := collection.self_matches:
        warnings.warn(
            f"{len(matches)} of the {len(collection.query_ids)} queries of {collection.full_name} are documents of it "
            f"(first: {next(iter(matches))!r}) and find themselves; search with exclude=collection.self_matches.",
            stacklevel=2,
        )
    return collection


def _as_given(name: str | os.PathLike) -> str:
    """Return a name without a slash at its end; a `Path`, or a name with ~, as a path that shows that it is one."""
    path = os.fspath(name).rstrip("/")
    if isinstance(name, os.PathLike) or path.startswith("~"):
        path = os.path.join(".", user_path(path))  # an absolute path stays as it is
    return path


def _warn_of_folder(collection: Collection, name: str) -> None:
    """Warn if the name is that of a folder, too, which was not read."""
    read_from, other = find_folder(name, None), find_folder(f"./{name}", None)
    if other and not (collection.source == "mirror" and read_from and read_from[0].samefile(other[0])):
        source = f"{collection.full_name} is the collection of that name ({collection.source})"
        warnings.warn(f"{source}, not of the folder {other[0]}; give './{name}' for that.", stacklevel=3)


def _load(name: str, split: str | None) -> Collection:
    read_fields = _build if name.split("/")[0] in ("pydoc", "limit") else read
    return Collection(**read_fields(name, split))


def _build(name: str, split: str | None) -> dict:
    builder, *rest = name.split("/")
    if builder == "pydoc":
        n_docs = int(rest.pop(0)) if rest and rest[0].isdecimal() else None
        if len(rest) < 2:
            return pydoc.build(agreed_split(rest[0], split, name) if rest else split, n_docs)
    elif rest[-1:] == ["train"]:
        split = agreed_split(rest.pop(), split, name)
    if builder == "pydoc" or len(rest) > (3 if split is None else 1) or not all(part.isdecimal() for part in rest):
        raise ValueError(f"Unknown built-in collection {name!r}; choose one of {', '.join(BUILT_IN)}.")
    if split not in (None, "train"):
        raise ValueError(f"split is {split!r}; 'limit' has one split, 'train'. Leave it out for the test queries.")
    return (limit.build if split is None else limit.build_train)(*map(int, rest))


def _digest(rows: Iterable[tuple[str, ...]]) -> str:
    sha = hashlib.sha256()
    for row in rows:
        for part in row:
            data = part.encode("utf-8", "surrogatepass")
            sha.update(b"%d:%b" % (len(data), data))
    return sha.hexdigest()


def _check_size(collection: Collection) -> None:
    """Raise unless the collection has as many documents as the metadata packaged with ir_datasets state, if any."""
    dataset = ir_dataset(collection.name)
    stated = dataset.metadata().get("docs", {}).get("count") if dataset is not None else None
    if stated not in (None, len(collection.doc_ids)):
        raise ValueError(
            f"{collection.name} ({collection.source}) holds {len(collection.doc_ids):,} documents, and ir_datasets "
            f"states {stated:,}: a truncated copy or another version. Get it again, or give yours another name."
        )


def _comparable(identity: dict) -> dict:
    return {key: value for key, value in identity.items() if key not in ("name", "split", "source")}


def _compare_identity(collection: Collection) -> None:
    """Warn if the collection is not the one of that name that the project's results were measured on."""
    known = json.loads(_IDENTITIES.read_text(encoding="utf-8")).get(collection.full_name, {})
    differing = [key for key, value in known.items() if collection.identity[key] != value]
    if differing:
        edition = f"{collection.full_name} ({collection.source}) is another edition than that of this project's results"
        warnings.warn(f"{edition} (differing: {', '.join(differing)}), so figures may differ too.", stacklevel=3)


if __name__ == "__main__":
    _collections = [_load(_name, None) for _name in sys.argv[1:]]
    print(json.dumps({c.full_name: _comparable(c.identity) for c in _collections}, indent=2, ensure_ascii=False))
