"""Compiled search of blocks of postings, term at a time and exact.

Blocks are small enough for their scores to stay in the cache. Postings of rare latents are read once each; what
frequent ones add is estimated from rows of bytes, and computed, when all blocks are read, for the documents that can
still be among the best. Where these would be so many that to read all postings is less, all are read.
Each document's score is added up within its block, rare latents first, so it is the same to the bit as in a plain loop,
whatever the number of threads and the blocks that each is given.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numba import njit

from lib.bm25.frequent import MOST, Rows, add_rows, complete, error_bound
from lib.bm25.postings import BLOCK_ROWS, Block

_APART = 2  # postings, read in their order, take as long as one document's impact in its score
_BUFFER = 2**16  # scores: one for each uint16, so that no posting, however damaged, is written outside


class Query(NamedTuple):
    """A query's latents, int64, and what each counts: its weight times idf, float32.

    Frequent latents stand behind the others; `rows`, int64, are the numbers of theirs. What the others add to a score
    is at most `others`.
    """

    latents: np.ndarray
    weights: np.ndarray
    rows: np.ndarray
    others: float


class Best(NamedTuple):
    """The best documents of a search, best first: positions, int64, and scores, float32."""

    docs: np.ndarray
    scores: np.ndarray


@njit(cache=True, nogil=True)
def add_postings(indptr, docs, impacts, latents, weights, n_docs, scores):
    """Set the first `n_docs` of `scores`, float32, to a query's for a block's documents: sum_j weight_j * impact_j."""
    scores[:n_docs] = 0
    for i in range(len(latents)):
        weight = weights[i]
        for posting in range(indptr[latents[i]], indptr[latents[i] + 1]):
            scores[docs[posting]] += weight * impacts[posting]


@njit(cache=True, nogil=True)
def push(score, doc, best_scores, best_docs, count):
    """Offer a document to a heap of the k best, whose root is the worst of them; return how many it holds.

    Documents come in their order, so of equal scores the earlier one is in the heap already, and stays.
    """
    k = len(best_scores)
    if count == k and score <= best_scores[0]:
        return count
    if count < k:
        at, count = count, count + 1
        while at > 0:  # up: a new document is worse than all that are not below its score
            parent = (at - 1) // 2
            if best_scores[parent] < score:
                break
            best_scores[at], best_docs[at] = best_scores[parent], best_docs[parent]
            at = parent
    else:
        at = 0
        while True:  # down, past children that are worse: of lower score, or of equal score and later
            child = 2 * at + 1
            if child >= k:
                break
            other = child + 1
            if other < k and (
                best_scores[other] < best_scores[child]
                or (best_scores[other] == best_scores[child] and best_docs[other] > best_docs[child])
            ):
                child = other
            if best_scores[child] >= score:
                break
            best_scores[at], best_docs[at] = best_scores[child], best_docs[child]
            at = child
    best_scores[at], best_docs[at] = score, doc
    return count


class Likely(NamedTuple):
    """Documents that may be among the best: positions, int64, what rare latents add up to, and the most they can score.

    `least`, float32 [k], is a heap of the largest scores that documents have at least, `least_docs` whose these are.
    """

    docs: np.ndarray
    sums: np.ndarray
    most: np.ndarray
    least: np.ndarray
    least_docs: np.ndarray


LIKELY = (np.int64, np.float32, np.float32, np.float32, np.int64)  # their dtypes


@njit(cache=True, nogil=True)
def find_likely(block, rows, query, allowed, first, scores, estimates, likely, count, n_found):
    """Add a block's documents to `likely` that may be among the k best; return how many `least` and it hold then.

    A score is within a margin of its estimate. Once k documents reach some score at least, one that cannot reach it is
    not among the best. `first` is the position of the block's first document; `allowed`, bool [n_docs of the block], is
    empty where all are. `scores` and `estimates`, float32 [n_docs], are written to.
    """
    latents, weights, numbers, others = query
    docs, sums, most, least, least_docs = likely
    scales, n_docs, n_rare = rows[1], len(scores), len(latents) - len(numbers)
    add_postings(*block, latents[:n_rare], weights[:n_rare], n_docs, scores)
    factors = np.empty(len(numbers), np.float32)
    for i in range(len(numbers)):
        factors[i] = weights[n_rare + i] * scales[numbers[i]]
    estimates[:] = scores
    add_rows(rows[0], factors, numbers, estimates)
    margin = error_bound(factors, others)
    for doc in range(n_docs):
        reach = estimates[doc] + margin
        if count == len(least) and reach < least[0]:
            continue
        if len(allowed) and not allowed[doc]:
            continue
        docs[n_found], sums[n_found], most[n_found] = first + doc, scores[doc], reach
        n_found += 1
        count = push(estimates[doc] - margin, first + doc, least, least_docs, count)
    return count, n_found


@njit(cache=True, nogil=True)
def score_likely(rows, first, docs, sums, most, least, weight_of, best_scores, best_docs, count):
    """Offer a block's likely documents to the heap of the best, by their exact scores; return how many it holds."""
    for i in range(len(docs)):
        if most[i] >= least:
            score = complete(docs[i] - first, sums[i], rows[2], rows[3], rows[4], weight_of)
            count = push(score, docs[i], best_scores, best_docs, count)
    return count


@njit(cache=True, nogil=True)
def score_all(block, query, allowed, first, scores, best_scores, best_docs, count):
    """Offer all of a block's documents to the heap of the best, by their exact scores; return how many it holds.

    The parameters are those of `find_likely`.
    """
    add_postings(*block, query[0], query[1], len(scores), scores)
    for doc in range(len(scores)):
        if not len(allowed) or allowed[doc]:
            count = push(scores[doc], first + doc, best_scores, best_docs, count)
    return count


def is_read_whole(blocks: Sequence[tuple[Block, Rows]], n_docs: int, query: Query, k: int) -> bool:
    """Whether to read all of the query's postings of frequent latents takes no longer than to score k documents.

    A document's score takes as many impacts as it has of all frequent latents.
    """
    frequent = query.latents[len(query.latents) - len(query.rows) :]
    postings = sum(int((block.indptr[frequent + 1] - block.indptr[frequent]).sum()) for block, _ in blocks)
    return postings * n_docs <= _APART * k * sum(len(rows.impacts) for _, rows in blocks)


def _each(
    blocks: Sequence[tuple[Block, Rows]], n_docs: int, allowed: np.ndarray | None, numbers: range
) -> Iterator[tuple[tuple, tuple, int, int, np.ndarray]]:
    """Give each block, its rows, the position of its first document, how many it has, and which of them are allowed."""
    for number in numbers:
        first = number * BLOCK_ROWS
        own = min(BLOCK_ROWS, n_docs - first)
        mask = np.empty(0, bool) if allowed is None else allowed[first : first + own]
        block, rows = (tuple(part) for part in blocks[number])
        yield block, rows, first, own, mask


def search_whole_blocks(
    blocks: Sequence[tuple[Block, Rows]], n_docs: int, query: Query, k: int, allowed: np.ndarray | None, numbers: range
) -> Best:
    """Return what `search_blocks` returns, from all of the query's postings."""
    scores = np.empty(_BUFFER, np.float32)
    best_scores, best_docs, count = np.empty(k, np.float32), np.empty(k, np.int64), 0
    for block, _, first, own, mask in _each(blocks, n_docs, allowed, numbers):
        count = score_all(block, tuple(query), mask, first, scores[:own], best_scores, best_docs, count)
    return Best(best_docs[:count], best_scores[:count])


def search_blocks(
    blocks: Sequence[tuple[Block, Rows]], n_docs: int, query: Query, k: int, allowed: np.ndarray | None, numbers: range
) -> Best:
    """Return the k best documents of the blocks `numbers`, in no particular order."""
    scores, estimates = np.empty(_BUFFER, np.float32), np.empty(BLOCK_ROWS, np.float32)
    n = len(numbers) * BLOCK_ROWS  # only what is written to takes memory
    likely = Likely(*(np.empty(size, kind) for size, kind in zip((n, n, n, k, k), LIKELY, strict=True)))
    count, ends = 0, [0]
    for block, rows, first, own, mask in _each(blocks, n_docs, allowed, numbers):
        count, end = find_likely(
            block, rows, tuple(query), mask, first, scores[:own], estimates[:own], tuple(likely), count, ends[-1]
        )
        ends.append(end)
    least = likely.least[0] if count == k else np.float32(-np.inf)
    weight_of = np.zeros(MOST, np.float32)
    weight_of[query.rows] = query.weights[len(query.weights) - len(query.rows) :]
    best_scores, best_docs, count = np.empty(k, np.float32), np.empty(k, np.int64), 0
    for number, (start, end) in zip(numbers, pairwise(ends), strict=True):
        found = (column[start:end] for column in likely[:3])
        count = score_likely(
            tuple(blocks[number][1]), number * BLOCK_ROWS, *found, least, weight_of, best_scores, best_docs, count
        )
    return Best(best_docs[:count], best_scores[:count])


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
    blocks: Sequence[tuple[Block, Rows]],
    n_docs: int,
    queries: Sequence[Query],
    k: int,
    allowed: np.ndarray | None = None,
    threads: int = 1,
) -> list[Best]:
    """Return the k best documents of each query, exactly, best first; of equal scores the earlier document is better.

    Threads share out the queries; where there are fewer queries than threads, the blocks of each query.

    Parameters
    ----------
    blocks : sequence of (Block, Rows)
        Of BLOCK_ROWS documents each, the last one of the rest.
    n_docs : int
    queries : sequence of Query
    k : int
        At least 1; at most n_docs documents are returned.
    allowed : np.ndarray, bool [n_docs], optional
        Documents that may be returned; None is all.
    threads : int
    """
    k = min(k, n_docs)
    n_parts = 1 if len(queries) >= threads else min(threads, len(blocks))
    cuts = [len(blocks) * part // n_parts for part in range(n_parts + 1)]
    jobs = [(query, range(*cut)) for query in queries for cut in pairwise(cuts)]

    def run(job: tuple[Query, range]) -> Best:
        way = search_whole_blocks if is_read_whole(blocks, n_docs, job[0], k) else search_blocks
        return way(blocks, n_docs, job[0], k, allowed, job[1])

    found = list(map(run, jobs) if threads == 1 or len(jobs) == 1 else _pool(threads, os.getpid()).map(run, jobs))
    return [merge(found[start : start + n_parts], k) for start in range(0, len(found), n_parts)]
