"""Compiled search of blocks of postings, term at a time and exact.

Blocks are small enough for their scores to stay in the cache. Postings of rare latents are read once each; what
frequent ones add is estimated from rows of bytes, and computed, when all blocks are read, for the documents that can
still be among the best. Where these would be so many that to read all postings is less, all are read; as are those of
impacts in eight bits, whose rows are what they are and no estimates (`lib.bm25.coded`).
Each document's score is added up within its block, rare latents first, so it is the same to the bit as in a plain loop,
whatever the number of threads and the blocks that each is given.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import numpy as np

from lib.bm25.coded import Codes
from lib.bm25.frequent import MOST, Part, add_rows, add_rows_in_order, complete, error_bound
from lib.bm25.postings import BLOCK_ROWS
from lib.support.compiled import compiled

_SCATTER = 2  # postings, read in their order, take as long as one document's impact in its score
_Part = TypeVar("_Part", bound=Part | Codes)
_GROUP = 128  # documents, none of which is looked at if none can be among the best
_BUFFER = 2**16  # scores: one for each uint16, so that no posting, however damaged, is written outside


class Query(NamedTuple):
    """A query's latents, int64, and what each counts: its weight times idf, float32.

    Frequent latents stand behind the rare ones; `rows`, int64, are the numbers of theirs. The rare ones add at most
    `most_of_rare` to a score.
    """

    latents: np.ndarray
    weights: np.ndarray
    rows: np.ndarray
    most_of_rare: float


class Best(NamedTuple):
    """The best documents of a search, best first: positions, int64, and scores, float32."""

    docs: np.ndarray
    scores: np.ndarray


@compiled()
def add_postings(block, latents, weights, scores):
    """Set `scores`, float32 [n_docs of the block], to sum_j weight_j * impact_j."""
    indptr, docs, impacts = block.indptr, block.docs, block.impacts
    scores[:] = 0
    for i in range(len(latents)):
        weight = weights[i]
        for posting in range(indptr[latents[i]], indptr[latents[i] + 1]):
            scores[docs[posting]] += weight * impacts[posting]


@compiled()
def push(score, doc, scores, docs, count):  # scores before docs: LLVM makes code of half the time
    """Offer a document to a heap of the k best, whose root is the worst of them; return how many it holds.

    Documents come in their order, so of equal scores the earlier one is in the heap already, and stays.
    """
    k = len(scores)
    if count == k and score <= scores[0]:
        return count
    if count < k:
        node = count
        count += 1
        while node > 0:  # up: a new document is worse than all that are not below its score
            parent = (node - 1) // 2
            if scores[parent] < score:
                break
            scores[node], docs[node] = scores[parent], docs[parent]
            node = parent
    else:
        node = 0
        while True:  # down, past children that are worse: of lower score, or of equal score and later
            child = 2 * node + 1
            if child >= k:
                break
            right = child + 1
            if right < k and (
                scores[right] < scores[child] or (scores[right] == scores[child] and docs[right] > docs[child])
            ):
                child = right
            if scores[child] >= score:
                break
            scores[node], docs[node] = scores[child], docs[child]
            node = child
    scores[node], docs[node] = score, doc
    return count


class Likely(NamedTuple):
    """Documents that may be among the best: positions, what the rare latents add, and the most they can score."""

    docs: np.ndarray
    sums: np.ndarray
    most: np.ndarray


@compiled()
def find_likely(block, rows, query, allowed, first, scores, estimates, likely, n_likely, least, count):
    """Add a block's documents to `likely` that may be among the k best; return how many it and `least` hold then.

    A score is within a margin of its estimate. `least`, a `Best`, is a heap of the k largest scores that documents have
    at least: one that cannot reach the root of a full heap is not among the best. `first` is the position of the
    block's first document; `allowed`, bool [n_docs of the block], is empty where all are. `scores` and `estimates`,
    float32 [n_docs of the block], are written to.
    """
    n_rare = len(query.latents) - len(query.rows)
    add_postings(block, query.latents[:n_rare], query.weights[:n_rare], scores)
    factors = np.empty(len(query.rows), np.float32)
    for i in range(len(query.rows)):
        factors[i] = query.weights[n_rare + i] * rows.scales[query.rows[i]]
    estimates[:] = scores
    add_rows(rows.rows, factors, query.rows, estimates)
    margin = error_bound(factors, query.most_of_rare)
    docs, sums, most = likely.docs, likely.sums, likely.most
    least_docs, least_scores = least.docs, least.scores
    for doc in range(len(scores)):
        reach = estimates[doc] + margin
        if count == len(least_scores) and reach < least_scores[0]:
            continue
        if len(allowed) and not allowed[doc]:
            continue
        docs[n_likely], sums[n_likely], most[n_likely] = first + doc, scores[doc], reach
        n_likely += 1
        count = push(estimates[doc] - margin, first + doc, least_scores, least_docs, count)
    return n_likely, count


@compiled()
def score_likely(rows, first, likely, start, stop, least, weight_of, best, count):
    """Offer a block's likely documents `start:stop` to a heap of the best; return how many it holds.

    Those that cannot reach the score `least` are passed over.
    """
    docs, sums, most = likely.docs, likely.sums, likely.most
    indptr, numbers, impacts = rows.indptr, rows.numbers, rows.impacts
    best_docs, best_scores = best.docs, best.scores
    for i in range(start, stop):
        if most[i] >= least:
            score = complete(docs[i] - first, sums[i], indptr, numbers, impacts, weight_of)
            count = push(score, docs[i], best_scores, best_docs, count)
    return count


@compiled()
def add_codes(part, query, scores):
    """Set `scores`, float32 [n_docs of the block], to those that eight bits give; each sum in one order, to the bit."""
    factors = query.weights * part.scales[query.latents]
    n_rare = len(query.latents) - len(query.rows)
    add_postings(part, query.latents[:n_rare], factors[:n_rare], scores)
    add_rows_in_order(part.rows, factors[n_rare:], query.rows, scores)


def add_all(part: Part | Codes, query: Query, scores: np.ndarray) -> None:
    """Set `scores`, float32 [n_docs of the block], to those of all its documents."""
    if isinstance(part, Codes):
        add_codes(part, query, scores)
    else:
        add_postings(part.block, query.latents, query.weights, scores)


@compiled()
def offer_all(scores, allowed, first, best, count):
    """Offer all of a block's documents to a heap of the best; return how many it holds. See `find_likely`."""
    best_docs, best_scores = best.docs, best.scores
    for start in range(0, len(scores), _GROUP):
        stop = min(start + _GROUP, len(scores))
        if count == len(best_scores):
            least, n_above = best_scores[0], 0
            for doc in range(start, stop):  # many at a time
                n_above += scores[doc] > least
            if not n_above:
                continue
        for doc in range(start, stop):
            if not len(allowed) or allowed[doc]:
                count = push(scores[doc], first + doc, best_scores, best_docs, count)
    return count


def reads_all(blocks: Sequence[Part], n_docs: int, query: Query, k: int) -> bool:
    """Whether to read all of the query's postings of frequent latents takes no longer than to score k documents.

    A document's score takes as many impacts as it has of all frequent latents.
    """
    frequent = query.latents[len(query.latents) - len(query.rows) :]
    postings = sum(int((part.block.indptr[frequent + 1] - part.block.indptr[frequent]).sum()) for part in blocks)
    return postings * n_docs <= _SCATTER * k * sum(len(part.rows.impacts) for part in blocks)


def _each(
    parts: Sequence[_Part], n_docs: int, allowed: np.ndarray | None, numbers: range
) -> Iterator[tuple[_Part, int, int, np.ndarray]]:
    """Yield each block, the position of its first document, how many it has, and which are allowed."""
    for number in numbers:
        first = number * BLOCK_ROWS
        size = min(BLOCK_ROWS, n_docs - first)
        yield parts[number], first, size, np.empty(0, bool) if allowed is None else allowed[first : first + size]


def _heap(k: int) -> Best:
    return Best(np.empty(k, np.int64), np.empty(k, np.float32))


def search_all(
    parts: Sequence[Part | Codes], n_docs: int, query: Query, k: int, allowed: np.ndarray | None, numbers: range
) -> Best:
    """Return what `search_likely` returns, from all of the query's postings."""
    scores, best, count = np.empty(_BUFFER, np.float32), _heap(k), 0
    for part, first, size, mask in _each(parts, n_docs, allowed, numbers):
        add_all(part, query, scores[:size])
        count = offer_all(scores[:size], mask, first, best, count)
    return Best(best.docs[:count], best.scores[:count])


def search_likely(
    blocks: Sequence[Part], n_docs: int, query: Query, k: int, allowed: np.ndarray | None, numbers: range
) -> Best:
    """Return the k best documents of the blocks `numbers`, in no particular order."""
    scores, estimates = np.empty(_BUFFER, np.float32), np.empty(BLOCK_ROWS, np.float32)
    n = len(numbers) * BLOCK_ROWS  # only what is written to takes memory
    likely = Likely(np.empty(n, np.int64), np.empty(n, np.float32), np.empty(n, np.float32))
    least, count, ends = _heap(k), 0, [0]
    for (block, rows), first, size, mask in _each(blocks, n_docs, allowed, numbers):
        end, count = find_likely(
            block, rows, query, mask, first, scores[:size], estimates[:size], likely, ends[-1], least, count
        )
        ends.append(end)
    threshold = least.scores[0] if count == k else np.float32(-np.inf)
    weight_of = np.zeros(MOST, np.float32)
    weight_of[query.rows] = query.weights[len(query.weights) - len(query.rows) :]
    best, count = _heap(k), 0
    for number, (start, end) in zip(numbers, pairwise(ends), strict=True):
        rows = blocks[number].rows
        count = score_likely(rows, number * BLOCK_ROWS, likely, start, end, threshold, weight_of, best, count)
    return Best(best.docs[:count], best.scores[:count])


def scores_of(parts: Sequence[Part | Codes], n_docs: int, query: Query) -> np.ndarray:
    """Return the score of every document, float32 [n_docs], each to the bit that of `search`."""
    scores = np.empty((len(parts) - 1) * BLOCK_ROWS + _BUFFER, np.float32)
    for part, first, size, _ in _each(parts, n_docs, None, range(len(parts))):
        add_all(part, query, scores[first : first + size])
    return scores[:n_docs]


def merge(parts: Sequence[Best], k: int) -> Best:
    """Return the k best of several, best first, documents of equal score in their order."""
    docs, scores = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    order = np.lexsort((docs, -scores))[:k]
    return Best(docs[order], scores[order])


@cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Return threads that stay: to start them takes longer than to search a small index. A fork has none of them."""
    return ThreadPoolExecutor(threads)


def search(
    parts: Sequence[Any],
    n_docs: int,
    queries: Sequence[Query],
    k: int,
    allowed: np.ndarray | None = None,
    threads: int = 1,
) -> list[Best]:
    """Return the k best documents of each query, exactly, best first; of equal scores the earlier document is better.

    Blocks have BLOCK_ROWS documents each, the last one the rest. `allowed`, bool [n_docs], are the documents that may
    be returned; None is all. Threads share out the queries; where there are fewer queries than threads, the blocks of
    each query.
    """
    k = min(k, n_docs)
    n_ranges = 1 if len(queries) >= threads else min(threads, len(parts))
    cuts = [len(parts) * number // n_ranges for number in range(n_ranges + 1)]
    jobs = [(query, range(*cut)) for query in queries for cut in pairwise(cuts)]

    def run(job: tuple[Query, range]) -> Best:
        query, numbers = job
        whole = isinstance(parts[0], Codes) or reads_all(parts, n_docs, query, k)
        return (search_all if whole else search_likely)(parts, n_docs, query, k, allowed, numbers)

    of_ranges = list(map(run, jobs) if threads == 1 or len(jobs) == 1 else _pool(threads, os.getpid()).map(run, jobs))
    return [merge(of_ranges[start : start + n_ranges], k) for start in range(0, len(of_ranges), n_ranges)]
