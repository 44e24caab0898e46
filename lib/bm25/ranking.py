"""The ranking: for each query the retrieved documents, best first, in memory and as a TREC run file."""

import gzip
import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from html import escape
from itertools import chain, compress
from pathlib import Path
from typing import Self
from urllib.parse import quote, unquote

import numpy as np

from lib.support.checks import check_count, check_id, check_ids, check_iterable, check_mapping, check_texts
from lib.support.files import replacing, user_path
from lib.support.html import table
from lib.support.lines import columns_of, read_lines

# what would break a line, or come back changed: read_lines drops a byte order mark and refuses NUL
_NOT_IN_TREC = re.compile(r"[ \t\n\r\v\f\0\ufeff\ud800-\udfff]")
ENCODED = "+percent-encoded-ids"  # at the end of the tag


def top_k(scores: np.ndarray, k: int) -> np.ndarray:
    """Return the positions of the `k` best scores, by (score descending, position ascending), int64 [min(k, n_docs)].

    `scores` is real [n_docs]. Takes O(n_docs + k log k). TypeError or ValueError for scores that are not
    one-dimensional or hold NaN, and a `k` that is not an integer of at least 1.
    """
    scores, k = np.asarray(scores), check_count(k, "k")
    if scores.ndim != 1:
        raise ValueError(f"scores has shape {scores.shape}; pass one query's scores, shape (n_docs,).")
    if np.isnan(scores).any():
        raise ValueError(f"scores is NaN at position {np.isnan(scores).argmax()}; NaN has no rank. Repair the scorer.")
    if k >= len(scores):
        return _descending(scores)
    threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
    above = np.flatnonzero(scores > threshold)
    chosen = np.concatenate([above, np.flatnonzero(scores == threshold)[: k - len(above)]])
    return chosen[_descending(scores[chosen])]


def _descending(scores: np.ndarray) -> np.ndarray:
    """Return the stable descending order, by reversing twice: sorting -scores would fail on unsigned integers."""
    return (len(scores) - 1 - np.argsort(scores[::-1], kind="stable"))[::-1]


def strictly_falling(scores: np.ndarray) -> np.ndarray:
    """Return scores, float32 [n] and non-increasing, of which none are equal: each is below the one before it.

    For tools that order equal scores by another rule than the ranking they are given. A score that is not below the one
    before it becomes the next smaller float32, and so may those after it; all others stay as they are. The numbers
    between 0 and the smallest normal one, 1.2e-38, are passed over, since some readers of text fail at them.
    """
    if (scores[1:] < scores[:-1]).all():
        return scores
    subnormal = 2**23 - 1  # how many float32 there are between 0 and the smallest normal one
    bits = scores.astype(np.float32).view(np.int32).astype(np.int64)
    sizes = np.maximum((bits & 0x7FFFFFFF) - subnormal, 0)
    places = np.where(bits < 0, -sizes, sizes)  # neighbouring float32 have neighbouring places
    steps = np.arange(len(places))
    places = np.maximum(np.minimum.accumulate(places + steps) - steps, subnormal - 0x7F7FFFFF + steps[::-1])  # finite
    sizes = np.where(places == 0, 0, np.abs(places) + subnormal).astype(np.int32)
    return np.copysign(sizes.view(np.float32), places).astype(np.float32)


@dataclass(frozen=True, eq=False, repr=False)
class Ranking:
    """For each query the retrieved documents, best first.

    Raises TypeError or ValueError for ids that are not `str` or repeat, numbers that do not match, and scores that
    increase or are not finite.

    Parameters
    ----------
    query_ids : list of str
        Unique.
    doc_ids : list of list of str
        One list per query, best first, no document twice; an empty list is a query without an answer.
    scores : list of array (n_retrieved,) float32
        One array per query, finite and non-increasing; other real arrays are converted. The order of `doc_ids` is the
        ranking: documents of equal score stay in the order in which they are given.
    """

    query_ids: list[str]
    doc_ids: list[list[str]]
    scores: list[np.ndarray]
    _row: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        """Check and normalise the fields."""
        query_ids = check_ids(self.query_ids, what="query_ids")
        doc_ids, scores = (list(check_iterable(getattr(self, name), name, rows=True)) for name in ("doc_ids", "scores"))
        if not len(query_ids) == len(doc_ids) == len(scores):
            raise ValueError(
                f"query_ids, doc_ids and scores hold {len(query_ids)}, {len(doc_ids)} and {len(scores)} "
                "entries; give one list of documents and one array of scores for each query."
            )
        columns = [_check_row(*row) for row in zip(query_ids, doc_ids, scores, strict=True)]
        object.__setattr__(self, "query_ids", query_ids)
        object.__setattr__(self, "doc_ids", [docs for docs, _ in columns])
        object.__setattr__(self, "scores", [scores for _, scores in columns])
        object.__setattr__(self, "_row", {query_id: row for row, query_id in enumerate(query_ids)})

    def __repr__(self) -> str:
        """Say how many queries and retrieved documents there are."""
        return f"Ranking({len(self)} queries, {sum(map(len, self.doc_ids))} retrieved documents)"

    def _repr_html_(self) -> str:
        """Return the best ten documents of the first five queries as tables."""
        tables = [
            table(["rank", "document", "score"], [(rank, *row) for rank, row in enumerate(self[query][:10], 1)], query)
            for query in self.query_ids[:5]
        ]
        return f"<p>{escape(repr(self))}</p>" + "".join(tables)

    def __len__(self) -> int:
        """Return the number of queries."""
        return len(self.query_ids)

    def __getitem__(self, query_id: str) -> list[tuple[str, float]]:
        """Return the (document id, score) pairs of one query, best first; a `KeyError` for a query not ranked."""
        if query_id not in self._row:
            first = f"their ids are str and start with {self.query_ids[:3]}"
            raise KeyError(f"query {query_id!r} is not among the {len(self)} ranked queries; {first}.")
        row = self._row[query_id]
        return list(zip(self.doc_ids[row], self.scores[row].tolist(), strict=True))

    def top(self, k: int) -> Self:
        """Return the ranking of the `k` best documents per query (fewer where fewer were retrieved)."""
        k = check_count(k, "k")
        return type(self)(self.query_ids, [docs[:k] for docs in self.doc_ids], [scores[:k] for scores in self.scores])

    def above(self, score: float) -> Self:
        """Return the ranking of the documents whose score is above `score`.

        `above(0)` of a BM25 ranking keeps the documents that share a term with the query; the others stand in it in
        the order of the collection, which means nothing to a fusion.
        """
        return self._where([scores > score for scores in self.scores])

    def exclude(self, pairs: Mapping[str, str | Iterable[str]]) -> Self:
        """Return the ranking without the document, or documents, that `pairs` has for a query, where retrieved.

        ArguAna's queries are documents of the collection and must not find themselves: pass
        `Collection.self_matches`. `BM25Index.search` takes the same pairs and returns k others; of another search ask
        for k + 1, then `ranking.exclude(collection.self_matches).top(k)`. Queries of `pairs` that are not ranked have
        no effect; a `UserWarning` says if none is. A TypeError if `pairs` is no dict, or an id in it no `str`.
        """
        excluded = check_excluded(pairs)
        if excluded and not excluded.keys() & self._row.keys():
            queries = f"None of the {len(excluded)} queries of pairs, such as {next(iter(excluded))!r}, is ranked"
            ranked = f"the {len(self)} ranked ones start with {self.query_ids[:3]}"
            warnings.warn(f"{queries}, so nothing is excluded; {ranked}.", stacklevel=2)
        rows = zip(self.query_ids, self.doc_ids, strict=True)
        return self._where([np.array([doc not in excluded.get(q, ()) for doc in docs], bool) for q, docs in rows])

    def as_dict(self) -> dict[str, dict[str, float]]:
        """Return query id → document id → score, as ir_measures, pytrec_eval and mteb take a run.

        These order equal scores by document id. Here no two of a query are equal, so that they keep our order
        (`strictly_falling`): a score that ties is lowered by the least that a float32 can be.
        """
        rows = zip(self.query_ids, self.doc_ids, self.scores, strict=True)
        return {query: dict(zip(docs, strictly_falling(values).tolist(), strict=True)) for query, docs, values in rows}

    def _where(self, masks: list[np.ndarray]) -> Self:
        """Return the ranking of the documents of which a mask of their query, bool [n_retrieved], is true."""
        docs = [list(compress(row, mask)) for row, mask in zip(self.doc_ids, masks, strict=True)]
        return type(self)(self.query_ids, docs, [row[mask] for row, mask in zip(self.scores, masks, strict=True)])

    def write_trec(self, path: str | Path, tag: str = "latent-terms") -> None:
        """Write a TREC run file, `query-id Q0 doc-id rank score tag` per line, ranks from 1; atomic; .gz by its name.

        As `lib.support.files.replacing`, it writes into pipes and devices, and through links to their targets.
        Ids are written as they are. In a TREC file white space of ASCII ends a column, so where an id holds some, all
        ids are percent-encoded (`Geneva Durben` becomes `Geneva%20Durben`, `%` becomes `%25`) and the tag ends with
        `ENCODED`, by which `read_trec` knows it. A `UserWarning` says so: other tools take the encoded form for the id.

        Scores have 9 digits, so float32 is read back exactly. trec_eval and others ignore the ranks and sort equal
        scores by document id; so that they keep our order, a score that ties is lowered by the least that a float32 can
        be (`strictly_falling`). A query without documents has no line and is absent when read back, which measures
        count as 0 as well.

        Raises ValueError, before anything is written, if an id is empty, and if the tag is empty, holds white space or
        ends with `ENCODED`.
        """
        if not re.fullmatch(r"\S+", tag) or tag.endswith(ENCODED):
            raise ValueError(f"tag is {tag!r}; it must be one word without whitespace, for example 'latent-terms'.")
        written = {id_: id_ for id_ in chain(self.query_ids, *self.doc_ids)}
        if "" in written:
            raise ValueError("an id is ''; a TREC run file cannot hold an empty id. Give every query and document one.")
        if unwritable := next(filter(_NOT_IN_TREC.search, written), None):
            written, tag = {id_: _encoded(id_) for id_ in written}, tag + ENCODED
            warnings.warn(
                f"The id {unwritable!r} holds what a TREC run file cannot. Ids are percent-encoded "
                f"({written[unwritable]!r}): read_trec decodes them, other tools do not.",
                stacklevel=2,
            )
        path = user_path(path)
        with replacing(path) as temporary, open(temporary, "wb") as raw:
            compressed = path.suffix.lower() == ".gz"
            with gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if compressed else raw as file:
                for query_id, docs, scores in zip(self.query_ids, self.doc_ids, self.scores, strict=True):
                    query = written[query_id]
                    values = strictly_falling(scores).tolist()
                    for rank, (doc_id, score) in enumerate(zip(docs, values, strict=True), start=1):
                        file.write(f"{query} Q0 {written[doc_id]} {rank} {score:.9g} {tag}\n".encode())

    @classmethod
    def read_trec(cls, path: str | Path) -> Self:
        """Read a TREC run file, plain or .gz: queries in order of first appearance, documents by the rank column.

        Only white space of ASCII separates columns, and blank lines are left out. Ids are taken as they stand,
        but those that `write_trec` encoded, and said so in the tag, are decoded. A ValueError names the file, and the
        line that is malformed, not UTF-8, or gives a rank twice.
        """
        runs: dict[str, dict[int, tuple[str, float]]] = defaultdict(dict)
        for place, line in read_lines(path):
            query_id, doc_id, rank, score = _parse_line(line, place)
            run = runs[query_id]
            if rank in run:
                raise ValueError(f"{place}: query {query_id!r} has rank {rank} twice; number them.")
            run[rank] = (doc_id, score)
        ordered = [[run[rank] for rank in sorted(run)] for run in runs.values()]
        try:
            return cls(
                list(runs),
                [[doc_id for doc_id, _ in run] for run in ordered],
                [np.array([score for _, score in run]) for run in ordered],
            )
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def check_excluded(pairs: Mapping[str, str | Iterable[str]]) -> dict[str, frozenset[str]]:
    """Return what `Ranking.exclude` takes as query id → document ids; a TypeError for what is none, and which."""
    check_mapping(pairs, "pairs", "{query_id: doc_id}, or {query_id: [doc_id, ...]}")
    excluded = {}
    for query_id, docs in pairs.items():
        what = f"pairs[{check_id(query_id, 'a query id of pairs')!r}]"
        ids = docs if isinstance(docs, Iterable) and not isinstance(docs, str) else [docs]
        excluded[query_id] = frozenset(check_texts(ids, what, remedy="Use the ids of the ranking.", ordered=False))
    return excluded


def _check_row(query_id: str, doc_ids: list[str], scores: np.ndarray) -> tuple[list[str], np.ndarray]:
    docs = check_ids(doc_ids, what=f"doc_ids of query {query_id!r}")
    with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which is refused below
        scores = np.asarray(scores, dtype=np.float32)
    if scores.shape != (len(docs),):
        raise ValueError(f"scores of query {query_id!r} has shape {scores.shape}; it must be ({len(docs)},).")
    if not np.isfinite(scores).all():
        raise ValueError(
            f"scores of query {query_id!r} holds NaN or infinity; scores must be finite float32 numbers. Give smaller "
            "weights or embeddings."
        )
    if (scores[1:] > scores[:-1]).any():
        rank = int((scores[1:] > scores[:-1]).argmax())
        raise ValueError(
            f"scores of query {query_id!r} rises from {scores[rank]} to {scores[rank + 1]} at position {rank + 1}; "
            "give documents best first, for example in the order of top_k."
        )
    return docs, scores


def _encoded(id_: str) -> str:
    """Return an id without white space and what else would break a line, percent-encoded."""
    return re.sub(rf"{_NOT_IN_TREC.pattern}|[\s%]", lambda match: quote(match[0], "", errors="surrogatepass"), id_)


def _parse_line(line: str, where: str) -> tuple[str, str, int, float]:
    """Return query id, document id, rank and score of one line."""
    columns = columns_of(line)
    if len(columns) != 6:
        raise ValueError(f"{where}: got {len(columns)} columns; a TREC run has 6: query-id Q0 doc-id rank score tag.")
    query_id, _, doc_id, rank, score, tag = columns
    try:
        if tag.endswith(ENCODED):
            query_id, doc_id = (unquote(id_, errors="surrogatepass") for id_ in (query_id, doc_id))
        return query_id, doc_id, int(rank), float(score)
    except ValueError as error:
        raise ValueError(f"{where}: {error}; rank is an integer, score a number, ids percent-encoded UTF-8.") from error
