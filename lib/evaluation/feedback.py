"""Pseudo-relevance feedback: a second search with what the best documents of the first one have."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from numbers import Real

import numpy as np
from scipy.sparse import csr_array

from lib.bm25.index import BM25Index
from lib.bm25.pooling import check_weights, with_data
from lib.bm25.pruning import keep_top
from lib.bm25.ranking import Ranking
from lib.support.checks import check_count, check_ids


@dataclass(frozen=True)
class Feedback:
    """How much a query takes of its best documents: q' = (1 - a) q / |q| + a f / |f|.

    f_j = sum over the r best documents d of score(q, d) w_j(d) / |d|, for the m latents of largest f_j idf_j, else 0;
    |x| is the sum of a vector's weights. That is RM3 (Abdul-Jaleel et al., "UMass at TREC 2004: Novelty and HARD"),
    whose likelihood of the query is the score here, and whose terms are chosen by idf too, since some latents are in
    every document; or Rocchio's formula (1971) without documents that are not relevant.

    Where a query has one answer, feedback can lose: choose the numbers on training queries, weight 0 among them.
    TypeError or ValueError for numbers out of range.

    Parameters
    ----------
    n_docs : int
        r. Documents of score 0 are left out.
    n_terms : int
        m.
    weight : float
        a, from 0 to 1.
    """

    n_docs: int = 3
    n_terms: int = 1000
    weight: float = 0.2

    def __post_init__(self) -> None:
        """Check the fields."""
        check_count(self.n_docs, "n_docs")
        check_count(self.n_terms, "n_terms")
        if not isinstance(self.weight, Real) or not 0 <= self.weight <= 1:
            raise ValueError(f"weight is {self.weight!r}; it must be a number from 0, the query alone, to 1.")


DEFAULT = Feedback()


def expand_queries(
    queries: csr_array,
    ranking: Ranking,
    docs: csr_array,
    doc_ids: Iterable[str],
    idf: np.ndarray,
    feedback: Feedback = DEFAULT,
) -> csr_array:
    """Return q' of each query, float32 [n_queries, width], by `Feedback`.

    TypeError or ValueError for matrices of other widths or numbers of rows than `idf`, `ranking` and `doc_ids` have,
    weights that are NaN, infinite or negative, and a ranked document that is not in `doc_ids`.

    Parameters
    ----------
    queries : csr_array, float32 [n_queries, width]
        Term weights, a row for each query of the ranking, in its order.
    ranking : Ranking
        Of the first search, at least `feedback.n_docs` deep.
    docs : csr_array, float32 [n_docs, width]
        Term weights, or impacts (`BM25Index.impact_rows`).
    doc_ids : iterable of str
        One for each row of `docs`.
    idf : np.ndarray, float32 [width]
        `index.idf`; latents whose idf is not above 0 are not taken.
    """
    queries, docs = check_weights(queries, "the query matrix"), check_weights(docs, "the document matrix")
    position = {doc_id: row for row, doc_id in enumerate(check_ids(doc_ids, docs.shape[0], "doc_ids"))}
    check_ids(ranking.query_ids, queries.shape[0], "the ranking's query_ids")
    if not queries.shape[1] == docs.shape[1] == len(idf):
        widths = f"queries of {queries.shape[1]} latents, documents of {docs.shape[1]} and {len(idf)} idf"
        raise ValueError(f"There are {widths}; give those of one index.")
    top = ranking.top(feedback.n_docs).above(0)
    best = list(chain.from_iterable(top.doc_ids))
    if unknown := [doc_id for doc_id in best if doc_id not in position]:
        raise ValueError(f"{len(unknown)} ranked documents are not in doc_ids, such as {unknown[0]!r}; give all rows.")
    ends = np.cumsum([0, *map(len, top.doc_ids)])
    columns = np.array([position[doc_id] for doc_id in best], np.int64)
    scores = csr_array((np.concatenate([*top.scores, []]), columns, ends), shape=(len(top), docs.shape[0]))
    summed = (scores @ _unit(docs)).tocsr()
    counted = np.maximum(idf, 0)
    chosen = keep_top(with_data(summed, summed.data * counted[summed.indices]), feedback.n_terms)
    chosen = with_data(chosen, chosen.data / counted[chosen.indices])
    mixed = (1 - feedback.weight) * _unit(queries) + feedback.weight * _unit(chosen)
    return csr_array(mixed, dtype=np.float32)


def _unit(matrix: csr_array) -> csr_array:
    """Return a matrix of weights whose rows add up to 1, float64; a row without weights stays so."""
    sums = matrix.sum(axis=1, dtype=np.float64)
    return with_data(matrix, matrix.data / np.repeat(sums, np.diff(matrix.indptr)))


def feedback_search(
    index: BM25Index,
    docs: csr_array,
    queries: csr_array,
    query_ids: Iterable[str],
    k: int = 100,
    feedback: Feedback = DEFAULT,
    *,
    exclude: Mapping[str, str | Iterable[str]] | None = None,
) -> Ranking:
    """Search, expand the queries by their best documents, and search again; return the second ranking.

    To mix the scores of both searches, `fuse([index.search(...), ranking], "relative scores", weights=...)`. `docs` are
    the index's documents, as `expand_queries` takes them; `exclude` holds for both searches, so that a query learns
    nothing of its own document; the rest, and the errors, are those of `index.search` and `expand_queries`.
    """
    query_ids = check_ids(query_ids, what="query_ids")
    first = index.search(queries, query_ids, feedback.n_docs, exclude=exclude)
    expanded = expand_queries(queries, first, docs, index.doc_ids, index.idf, feedback)
    return index.search(expanded, query_ids, k, exclude=exclude)
