"""BM25's constants, and the weights of a fusion, chosen on training queries: every point of a grid is ranked."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from lib.bm25.pooling import check_weights, with_data
from lib.bm25.ranking import top_k
from lib.bm25.weighting import (
    IDFS,
    BM25Constants,
    Weights,
    check_constants,
    check_query_weights,
    check_weights_of,
    document_lengths,
    impact,
    saturation,
)
from lib.data.collection import Collection
from lib.support.checks import check_ids, check_iterable, repeats
from lib.support.processors import usable_processors
from lib.support.progress import progress

SPLITS = ("train", "dev")  # what constants may be chosen on
K1_GRID, B_GRID = (0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 12.0), (0.0, 0.2, 0.35, 0.5, 0.7, 1.0)
WORDS_GRID, DENSE_GRID = (0.0, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2), (0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.2, 1.6)
_WITH_IDF = [name for name in IDFS if name != "none"]
GRID = tuple(BM25Constants(k1, b, idf) for idf, k1, b in product(_WITH_IDF, K1_GRID, B_GRID))
MEASURE, CUTOFF = "nDCG@10", 10
WEIGHTS_GRID = tuple(Weights(1, words, dense) for words, dense in product(WORDS_GRID, DENSE_GRID))
WEIGHTS_GRID += tuple(Weights(0, words, 1) for words in WORDS_GRID)  # what there is without latents, to compare with
_CHUNK = 2**20  # document weights that a thread holds dense at once: 4 MB of float32


class Pairs(NamedTuple):
    """Queries and documents by their positions in the collection, int64 [n_pairs] each."""

    query: np.ndarray
    doc: np.ndarray


def check_training(collections: Iterable[Collection]) -> None:
    """Raise a ValueError unless constants may be chosen on every one of these collections.

    That is if there is none, if one is given twice or has a single query, and if one's split is not "train" or "dev":
    queries that the constants were chosen on measure nothing.
    """
    names = []
    for collection in collections:
        names.append(collection.full_name)
        if len(collection.query_ids) < 2:
            raise ValueError(f"{collection.full_name} has one judged query; choosing constants takes at least two.")
        if collection.split not in SPLITS:
            split = f"of the split {collection.split!r}" if collection.split else "of no split"
            raise ValueError(
                f"The queries of {collection.full_name} are {split}; constants are chosen on {' and '.join(SPLITS)}, "
                "so that test queries still measure them. Give a split, such as 'pydoc/train' or 'beir/scifact/train'."
            )
    for name in repeats(names):
        raise ValueError(f"{name!r} is given twice; each collection has one vote.")
    if not names:
        raise ValueError("There is no collection to tune on; give at least one, such as 'pydoc/train'.")


def tune_bm25(
    encoded: Iterable[tuple[Collection, csr_array, csr_array]], grid: Sequence[BM25Constants] = GRID
) -> tuple[BM25Constants, pd.DataFrame]:
    """Choose the constants with the best nDCG@10, averaged over collections; of equal ones the first in the grid.

    Each collection has one vote, whatever the number of its queries. The values are those that `evaluate` gives for a
    search with `BM25Index`, a query's own document (ArguAna) left out.

    Raises TypeError or ValueError as `check_training`; for an empty grid, and for matrices that are not sparse or do
    not fit the collection.

    Parameters
    ----------
    encoded : iterable of (collection, doc_terms, query_terms)
        The terms are csr_array, float32 [n_docs, width] and [n_queries, width], phi applied; the collection's split
        is "train" or "dev".
    grid : sequence of BM25Constants
        The constants to choose from.

    Returns
    -------
    BM25Constants
        The best of the grid.
    DataFrame
        One row a point of the grid, in its order: k1, b, idf, nDCG@10 on each collection under its full name, and
        their mean. The best of many points is overestimated on the queries that chose it.
    """
    encoded = list(check_iterable(encoded, "encoded"))
    grid = [check_constants(constants) for constants in check_iterable(grid, "grid")]
    check_training(collection for collection, _, _ in encoded)
    if not grid:
        raise ValueError("The grid is empty; give at least one BM25Constants.")
    checked = [(collection, *_check_terms(collection, docs, queries, grid)) for collection, docs, queries in encoded]
    table = pd.DataFrame(grid)
    for collection, docs, queries in checked:
        table[collection.full_name] = ndcg_on_grid(collection, docs, queries, grid).mean(axis=1)
    table["mean"] = table[[collection.full_name for collection, _, _ in checked]].mean(axis=1)
    return grid[table["mean"].round(9).argmax()], table  # what differs by rounding only is equal


def tune_weights(
    scored: Iterable[tuple[Collection, Iterable[np.ndarray]]], grid: Sequence[Weights] = WEIGHTS_GRID
) -> tuple[Weights, pd.DataFrame]:
    """Choose the weights with the best nDCG@10, averaged over collections; of equal ones the first in the grid.

    A convex combination of normalised scores needs few queries to tune (Bruch, Gai and Ingber, ACM TOIS 42, 2023). Each
    collection has one vote, and the values are those that `evaluate` gives, as in `tune_bm25`, whose errors these are.

    Parameters
    ----------
    scored : iterable of (collection, parts)
        `parts` yields for each query in turn what `Searcher.parts` returns, float32 [3, n_docs].
    grid : sequence of Weights

    Returns
    -------
    Weights
        The best of the grid.
    DataFrame
        One row a point of the grid: latents, words, dense, nDCG@10 on each collection, and their mean.
    """
    scored = list(check_iterable(scored, "scored"))
    grid = [check_weights_of(weights) for weights in check_iterable(grid, "grid")]
    check_training(collection for collection, _ in scored)
    if not grid:
        raise ValueError("The grid is empty; give at least one Weights.")
    table = pd.DataFrame(grid)
    for collection, parts in scored:
        table[collection.full_name] = _ndcg_of_weights(collection, parts, grid).mean(axis=1)
    table["mean"] = table[[collection.full_name for collection, _ in scored]].mean(axis=1)
    return grid[table["mean"].round(9).argmax()], table


def _ndcg_of_weights(collection: Collection, parts: Iterable[np.ndarray], grid: Sequence[Weights]) -> np.ndarray:
    """Return nDCG@10 of each query for each point of a grid, float64 [len(grid), n_queries]."""
    position = {doc: i for i, doc in enumerate(collection.doc_ids)}
    factors = np.array([(weights.latents, weights.words, weights.dense) for weights in grid], np.float32)
    discounts = 1 / np.log2(2 + np.arange(CUTOFF))
    values = np.zeros((len(grid), len(collection.query_ids)))
    queries = progress(
        zip(collection.query_ids, parts, strict=True),
        what=f"tune on {collection.full_name}",
        unit="queries",
        total=len(collection.query_ids),
    )
    for column, (query, of_query) in enumerate(queries):
        judged, self_match = collection.qrels[query], collection.self_matches.get(query)
        gains = np.zeros(len(position))
        for doc, grade in judged.items():
            if grade > 0 and doc in position and doc != self_match:
                gains[position[doc]] = grade
        totals = factors @ of_query
        if self_match is not None:
            totals[:, position[self_match]] = -np.inf
        if ideal := _best_dcg(judged.values()):
            for row, total in enumerate(totals):
                top_gains = gains[top_k(total, CUTOFF)]
                values[row, column] = top_gains @ discounts[: len(top_gains)] / ideal
    return values


def _check_terms(
    collection: Collection, docs: csr_array, queries: csr_array, grid: Sequence[BM25Constants]
) -> tuple[csr_array, csr_array]:
    docs = check_weights(docs, f"the document matrix of {collection.full_name}")
    k1 = max(constants.k1 for constants in grid)
    queries = check_query_weights(queries, k1, f"the query matrix of {collection.full_name}")
    check_ids(collection.doc_ids, docs.shape[0], "doc_ids")
    check_ids(collection.query_ids, queries.shape[0], "query_ids")
    if docs.shape[1] != queries.shape[1]:
        widths = f"documents of {docs.shape[1]} latents and queries of {queries.shape[1]}"
        raise ValueError(f"{collection.full_name} has {widths}; encode both with one model.")
    return docs, queries


def ndcg_on_grid(
    collection: Collection, docs: csr_array, queries: csr_array, grid: Sequence[BM25Constants]
) -> np.ndarray:
    """Return nDCG@10 of each query for each point of a grid, float64 [len(grid), n_queries].

    DCG = sum over relevant documents of grade / log2(1 + rank), over the DCG of the best order (Jarvelin and
    Kekalainen, TOIS 2002, as trec_eval computes it). It takes only the ranks of relevant documents, so nothing is
    sorted: a document's rank is the number of documents that come before it.

    Parameters
    ----------
    docs, queries : csr_array, float32 [n_docs, width] and [n_queries, width]
        Term matrices of the collection, as `check_weights` returns them.
    """
    relevant, grades, self_matches = _judged_pairs(collection)
    ideal = np.array([_best_dcg(judged.values()) for judged in collection.qrels.values()])
    n_latents, lengths = np.diff(docs.indptr), document_lengths(docs)
    df = np.bincount(docs.indices, minlength=docs.shape[1]).astype(np.float64)
    points: dict[tuple[float, float], list[int]] = {}  # the forms of idf share the impacts
    for i, constants in enumerate(grid):
        points.setdefault((constants.k1, constants.b), []).append(i)

    def ndcg(point: tuple[float, float]) -> np.ndarray:
        saturations = saturation(lengths, lengths.mean(), *point)
        impacts = with_data(docs, impact(docs.data, np.repeat(saturations, n_latents), point[0]))
        idfs = [IDFS[grid[i].idf](df, len(lengths)).astype(np.float32) for i in points[point]]
        weighted = [with_data(queries, queries.data * idf[queries.indices]) for idf in idfs]
        rows = []
        for ranks in _ranks(impacts, weighted, relevant, self_matches):
            top = ranks < CUTOFF
            dcg = np.bincount(relevant.query[top], grades[top] / np.log2(2 + ranks[top]), minlength=len(ideal))
            rows.append(np.divide(dcg, ideal, out=np.zeros_like(ideal), where=ideal > 0))
        return np.array(rows)

    values = np.empty((len(grid), len(ideal)))
    with ThreadPoolExecutor(usable_processors()) as pool:  # scipy's products let other threads run
        results = zip(points.values(), pool.map(ndcg, points), strict=True)
        what, show = f"tune on {collection.full_name}", len(points) > 2  # fewer take no time, and tune nothing
        for rows, result in progress(results, what=what, unit="points", total=len(points), show=show):
            values[rows] = result
    return values


def _judged_pairs(collection: Collection) -> tuple[Pairs, np.ndarray, Pairs]:
    """Return the relevant pairs whose document is in the collection, their grades, and each query's own document."""
    query_position = {query: i for i, query in enumerate(collection.query_ids)}
    doc_position = {doc: i for i, doc in enumerate(collection.doc_ids)}
    own_document = collection.self_matches
    relevant = [
        (query_position[query], doc_position[doc], grade)
        for query, judged in collection.qrels.items()
        for doc, grade in judged.items()
        if grade > 0 and doc in doc_position and own_document.get(query) != doc
    ]
    queries, docs, grades = np.array(relevant, np.int64).reshape(-1, 3).T
    self_pairs = [(query_position[query], doc_position[doc]) for query, doc in own_document.items()]
    return Pairs(queries, docs), grades, Pairs(*np.array(self_pairs, np.int64).reshape(-1, 2).T)


def _best_dcg(grades: Iterable[int]) -> float:
    best = sorted((grade for grade in grades if grade > 0), reverse=True)[:CUTOFF]
    return float(sum(grade / np.log2(2 + rank) for rank, grade in enumerate(best)))


def _ranks(impacts: csr_array, weighted: list[csr_array], relevant: Pairs, self_matches: Pairs) -> np.ndarray:
    """Return how many documents come before each relevant one, int64 [len(weighted), n_pairs].

    `impacts` is float32 [n_docs, width]; `weighted` has the queries times each form of idf, float32 [n_queries, width].
    Documents of equal score come in their order in the collection; a query's own document comes before none.
    """
    n_docs, width = impacts.shape
    size = max(1, _CHUNK // width)
    scores = np.empty((len(weighted), len(relevant.doc)), np.float32)
    needed, position = np.unique(relevant.doc, return_inverse=True)
    for start in range(0, len(needed), size):  # first the scores of the relevant documents, added up as below
        columns = impacts[needed[start : start + size]].T.toarray()
        pairs = np.flatnonzero((position >= start) & (position < start + size))
        for form, queries in enumerate(weighted):
            scores[form, pairs] = (queries @ columns)[relevant.query[pairs], position[pairs] - start]
    ranks = np.zeros(scores.shape, np.int64)
    for start in range(0, n_docs, size):
        columns = impacts[start : start + size].T.toarray()
        earlier = np.arange(start, start + columns.shape[1]) < relevant.doc[:, None]
        hidden = (self_matches.doc >= start) & (self_matches.doc < start + size)
        for form, queries in enumerate(weighted):
            rivals = queries @ columns
            rivals[self_matches.query[hidden], self_matches.doc[hidden] - start] = -np.inf
            rivals, threshold = rivals[relevant.query], scores[form][:, None]
            ranks[form] += np.count_nonzero((rivals > threshold) | ((rivals == threshold) & earlier), axis=1)
    return ranks
