"""Training pairs: a query and a text that answers it, with hard negatives; from files and from collections."""

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lib.bm25.ranking import Ranking
from lib.data.collection import Collection, load_collection
from lib.evaluation.baselines import ANALYZER, LexicalBM25
from lib.latent_terms import LatentTerms
from lib.support.checks import check_choice, check_count, check_integer, check_texts
from lib.support.files import user_path
from lib.support.lines import data_files, read_lines
from lib.support.store import Store

PAIRS = "LATENT_TERMS_PAIRS"  # the environment variable that names a folder of pair files
SIDES = ("query", "positive")
_BLOCK = 512  # queries that are ranked at a time


@dataclass(frozen=True, eq=False, repr=False)
class Pairs:
    """Queries, a text that answers each (its positive), and texts that do not (its negatives).

    Raises TypeError for texts that are no lists of `str`; ValueError for lists of unequal lengths, a blank text, whose
    position is named, and queries with unequal numbers of negatives.

    Parameters
    ----------
    queries, positives : list of str
        A query with several positives is repeated.
    negatives : list of list of str, optional
        Equally many for each query; none by default.
    """

    queries: list[str]
    positives: list[str]
    negatives: list[list[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Check the texts."""
        negatives = [list(row) for row in self.negatives] or [[] for _ in self.queries]
        object.__setattr__(self, "negatives", negatives)
        lengths = [len(side) for side in (self.queries, self.positives, negatives)]
        counts = sorted({len(row) for row in negatives})
        if len(set(lengths)) > 1 or len(counts) > 1:
            raise ValueError(
                f"There are {lengths[0]} queries, {lengths[1]} positives and negatives for {lengths[2]} of them, "
                f"{counts} each; give one positive and equally many negatives for each query."
            )
        columns: dict[str, Iterable[str]] = {"queries": self.queries, "positives": self.positives}
        columns |= {f"negatives[{number}]": column for number, column in enumerate(zip(*negatives, strict=True))}
        for name, column in columns.items():
            for position, text in enumerate(check_texts(column, name)):
                if not text.strip():
                    raise ValueError(f"{name}[{position}] is blank; drop that pair.")

    def __len__(self) -> int:
        return len(self.queries)

    def __repr__(self) -> str:
        return f"Pairs({len(self):,} pairs, {self.n_negatives} negatives each, sha256 {self.digest[:12]})"

    @property
    def n_negatives(self) -> int:
        """How many negatives each query has."""
        return len(self.negatives[0]) if len(self) else 0

    @cached_property
    def digest(self) -> str:
        """The sha256 of all texts in their order."""
        sha = hashlib.sha256()
        for query, positive, negatives in zip(self.queries, self.positives, self.negatives, strict=True):
            sha.update(json.dumps([query, positive, *negatives]).encode() + b"\n")
        return sha.hexdigest()

    @cached_property
    def passages(self) -> list[str]:
        """The different positives, in the order of their first appearance."""
        return list(dict.fromkeys(self.positives))

    def sample(self, n: int, seed: int = 0) -> "Pairs":
        """Return `n` of the pairs, drawn at random and in random order; all of them if there are fewer."""
        chosen = np.random.default_rng(seed).permutation(len(self))[: check_count(n, "n")]
        negatives = [self.negatives[i] for i in chosen]
        return Pairs([self.queries[i] for i in chosen], [self.positives[i] for i in chosen], negatives)

    def collection(self, name: str, n_queries: int | None = None) -> Collection:
        """Return the positives as the documents of a collection of the split "train", to tune on.

        All queries are asked, or the first `n_queries`; what answers them are their positives.
        """
        docs = {passage: f"d{i}" for i, passage in enumerate(self.passages)}
        queries = {query: f"q{i}" for i, query in enumerate(list(dict.fromkeys(self.queries))[:n_queries])}
        qrels: dict[str, dict[str, int]] = {query_id: {} for query_id in queries.values()}
        for query, positive in zip(self.queries, self.positives, strict=True):
            if query in queries:
                qrels[queries[query]][docs[positive]] = 1
        columns = (list(docs.values()), list(docs), list(queries.values()), list(queries))
        return Collection(name, "train", *columns, qrels, "pairs")

    def columns(self) -> dict[str, list[str]]:
        """Return the texts as the columns of a dataset: query, positive, negative_1, negative_2, ..."""
        columns = dict(zip(SIDES, (self.queries, self.positives), strict=True))
        return columns | {
            f"negative_{i}": list(column) for i, column in enumerate(zip(*self.negatives, strict=True), 1)
        }


def load_pairs(name: str | Path) -> Pairs:
    """Return the pairs of a file or folder, or of a collection's training queries.

    `name` is a path (`read_pairs`); the name of a file in the folder that the environment variable LATENT_TERMS_PAIRS
    names, .jsonl or .jsonl.gz, which may be left out; or a collection that `load_collection` knows, with its split:
    "pydoc/train", "beir/scifact/train" (`collection_pairs`). Raises as these; ValueError if it is none of them.
    """
    if user_path(name).exists():
        return read_pairs(name)
    folder = os.environ.get(PAIRS)
    for path in (user_path(folder) / f"{name}{end}" for end in ("", ".jsonl", ".jsonl.gz")) if folder else ():
        if path.is_file():
            return read_pairs(path)
    try:
        return collection_pairs(load_collection(name))
    except ValueError as error:
        place = f"{folder} ({PAIRS})" if folder else f"the folder that {PAIRS} would name"
        raise ValueError(f"{name} is no file of pairs, here or in {place}, and no training pairs: {error}") from error


def read_pairs(path: str | Path) -> Pairs:
    """Return the pairs of a .jsonl or .jsonl.gz file, or of all such files of a folder by name; equal ones once.

    A line is a JSON object with the texts `query` and `positive`; other fields are left out. FileNotFoundError if there
    is no such file; ValueError, with file and line, for a line that is no JSON object, lacks a field or has a blank
    one, and for files without any line.
    """
    path = user_path(path)
    files = [file for file in data_files(path) if ".jsonl" in file.suffixes] if path.is_dir() else [path]
    pairs = dict.fromkeys(_parse(place, line) for file in files for place, line in read_lines(file))
    if not pairs:
        raise ValueError(f"{path} holds no pairs; give a .jsonl file of lines with {' and '.join(SIDES)}.")
    return Pairs(*map(list, zip(*pairs, strict=True)))


def _parse(place: str, line: str) -> tuple[str, str]:
    example = '{"query": "...", "positive": "..."}'
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{place} is not JSON ({error}); a line is {example}.") from error
    for side in SIDES:
        if not isinstance(fields, dict) or not isinstance(fields.get(side), str):
            raise ValueError(f"{place} has no text {side!r}; a line is {example}.")
        if not fields[side].strip():
            raise ValueError(f"{place} has a blank {side!r}; drop the line.")
    return fields["query"], fields["positive"]


def join_pairs(parts: Iterable[Pairs]) -> Pairs:
    """Return the pairs of several sources, equal ones once, without negatives; ValueError if there are none."""
    pairs = dict.fromkeys(pair for part in parts for pair in zip(part.queries, part.positives, strict=True))
    if not pairs:
        raise ValueError("There are no pairs; give at least one source of them.")
    return Pairs(*map(list, zip(*pairs, strict=True)))


def collection_pairs(collection: Collection) -> Pairs:
    """Return a pair for each document that is relevant to a query of a collection, by its training qrels.

    Blank texts and judged documents that the collection lacks are left out. ValueError for a split that is not for
    training: no model may be trained on what it is tested with.
    """
    if "train" not in (collection.split or ""):
        raise ValueError(f"{collection.full_name} has the split {collection.split!r}; train on a split 'train'.")
    texts = dict(zip(collection.doc_ids, collection.doc_texts, strict=True))
    pairs = [
        (query, texts[doc_id])
        for query_id, query in zip(collection.query_ids, collection.query_texts, strict=True)
        for doc_id, grade in collection.qrels[query_id].items()
        if grade > 0 and texts.get(doc_id, "").strip() and query.strip()
    ]
    if not pairs:
        raise ValueError(f"{collection.full_name} has no relevant document with a text; give another collection.")
    return Pairs(*map(list, zip(*dict.fromkeys(pairs), strict=True)))


@dataclass(frozen=True)
class Miner:
    """How passages are ranked for queries, to find texts that look like an answer: a name in `MINERS`."""

    identity: Callable[[Any], dict]
    ranker: Callable[[list[str], Any], Callable[[list[str], int], Ranking]]


def _by_words(passages: list[str], _) -> Callable[[list[str], int], Ranking]:
    index = LexicalBM25(passages, map(str, range(len(passages))))
    return lambda queries, k: index.search(queries, list(map(str, range(len(queries)))), k)


def _by_latents(passages: list[str], model: LatentTerms) -> Callable[[list[str], int], Ranking]:
    index = model.index((block.terms for block in model.stream(passages)), map(str, range(len(passages))))
    return lambda queries, k: index.search(
        model.encode_queries(queries, progress=False), list(map(str, range(len(queries)))), k
    )


MINERS = {
    "words": Miner(lambda model: {"words": ANALYZER}, _by_words),
    "latents": Miner(lambda model: {"latents": model.identity, "bm25": vars(model.bm25)}, _by_latents),
}


def mine_negatives(
    pairs: Pairs,
    miners: Sequence[str] = ("words", "latents"),
    n: int = 4,
    *,
    ranks: tuple[int, int] = (5, 50),
    model: LatentTerms | None = None,
    seed: int = 0,
    store: Store | None = None,
) -> Pairs:
    """Return the pairs with `n` hard negatives for each query: other queries' positives that rank high for it.

    They are drawn from the given ranks of each miner in turn; where these do not suffice, from all passages. No known
    positive of a query is among its negatives. What is mined is stored. TypeError or ValueError for an unknown miner,
    ranks that are no range, and fewer than n + 1 passages besides a query's positives.

    Parameters
    ----------
    pairs : Pairs
        Negatives that they have are replaced.
    miners : sequence of str
        Names in `MINERS`: "words" is BM25 over stemmed words, "latents" over the latent terms of `model`.
    n : int
    ranks : (int, int)
        First and last rank that is drawn from, from 1 on. The best ranks often are answers that nobody paired.
    model : LatentTerms, optional
        None is the packaged one.
    seed : int
        Seed of the draw.
    store : Store, optional
    """
    n, first, last = check_count(n, "n"), *(check_integer(rank, "each of ranks", 1) for rank in ranks)
    if first > last:
        raise ValueError(f"ranks are {ranks}; the first must not be above the last, as in (5, 50).")
    chosen = [MINERS[check_choice(name, MINERS, "miners")] for name in miners]
    if not chosen:
        raise ValueError(f"miners is empty; name at least one of {', '.join(MINERS)}.")
    positives = defaultdict(set)
    for query, positive in zip(pairs.queries, pairs.positives, strict=True):
        positives[query].add(positive)
    if len(pairs.passages) < n + max(map(len, positives.values())):
        raise ValueError(f"There are {len(pairs.passages)} different positives, too few for {n} negatives; lower n.")
    model = (model or LatentTerms.load()) if "latents" in miners else None
    bare = replace(pairs, negatives=[])
    draw = {"n": n, "ranks": [first, last], "seed": seed}
    key = {"pairs": bare.digest, "miners": [miner.identity(model) for miner in chosen], **draw}

    def mine() -> dict[str, np.ndarray]:
        rankings = [_ranked(miner.ranker(pairs.passages, model), pairs.queries, last) for miner in chosen]
        draws = np.random.default_rng(seed)
        positions = {passage: position for position, passage in enumerate(pairs.passages)}
        rows = []
        for query, *ranked in zip(pairs.queries, *rankings, strict=True):
            known = {positions[positive] for positive in positives[query]}
            pools = [[i for i in row[first - 1 :] if i not in known] for row in ranked]
            rows.append(_draw(pools, known, n, len(positions), draws))
        return {"negatives": np.array(rows)}

    rows = (store or Store()).get("negatives", key, mine)["negatives"]
    return replace(pairs, negatives=[[pairs.passages[i] for i in row] for row in rows.tolist()])


def _ranked(rank: Callable[[list[str], int], Ranking], queries: list[str], k: int) -> Iterable[list[int]]:
    """Yield the positions of the k best passages of each query."""
    for start in range(0, len(queries), _BLOCK):
        yield from ([int(i) for i in row] for row in rank(queries[start : start + _BLOCK], k).doc_ids)


def _draw(pools: list[list[int]], known: set[int], n: int, n_passages: int, draws: np.random.Generator) -> list[int]:
    """Return n different passages: from the pools in turn, then from all, none of them known."""
    pools = [list(draws.permutation(pool)) for pool in pools]
    chosen: dict[int, None] = {}
    while len(chosen) < n and any(pools):
        for pool in filter(None, pools):
            if len(chosen) < n:
                chosen[int(pool.pop())] = None
    while len(chosen) < n:
        if (passage := int(draws.integers(n_passages))) not in known:
            chosen[passage] = None
    return list(chosen)
