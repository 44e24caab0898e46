"""Fusion of rankings: what several systems found for a query, put in one order."""

import math
from collections.abc import Sequence

import numpy as np

from lib.bm25.ranking import Ranking, top_k
from lib.support.checks import check_choice, check_count, check_iterable


def reciprocal_ranks(scores: np.ndarray, weight: float, c: float = 60) -> np.ndarray:
    """Return weight / (c + rank), ranks from 1: Cormack, Clarke and Buettcher, SIGIR 2009 (their k is our c)."""
    if not 0 <= c < math.inf:
        raise ValueError(f"c is {c}; it must be a finite number of at least 0, for example 60.")
    return weight / (c + np.arange(1, len(scores) + 1))


def relative_scores(scores: np.ndarray, weight: float) -> np.ndarray:
    """Return weight * score / (best score), for scores above 0 only.

    With weights of sum 1 a convex combination of min-max normalised scores (Bruch, Gai and Ingber, ACM TOIS 42, 2023)
    whose least score is 0, as BM25's.
    """
    positive = scores[scores > 0]
    return weight * positive / positive[:1]


def min_max(scores: np.ndarray, weight: float) -> np.ndarray:
    """Return weight * (score - last score) / (best score - last score): from the weight, for the best, to 0.

    For scores of any sign, as of embeddings; the deeper the rankings, the better (Bruch, Gai and Ingber 2023, equation
    2). Where all scores are equal, each document has the weight.
    """
    spread = scores[:1] - scores[-1:]
    return weight * np.divide(scores - scores[-1:], spread, out=np.ones_like(scores), where=spread > 0)


# A fusion takes one query's scores, float64 (n,), best first, and the ranking's weight, and returns what the ranking
# adds to the fused scores of its documents, float64 (at most n,); documents behind the last one get nothing.
FUSIONS = {"reciprocal ranks": reciprocal_ranks, "relative scores": relative_scores, "min-max": min_max}


def fuse(
    rankings: Sequence[Ranking],
    method: str = "reciprocal ranks",
    k: int = 100,
    weights: Sequence[float] | None = None,
    **options: float,
) -> Ranking:
    """Fuse rankings by `score(d) = sum_r f(d, r)`, over the rankings r that hold d, with f from `FUSIONS`.

    Equal scores are ordered by first appearance: the earliest ranking that holds the document, then its rank there.
    Raises TypeError if `rankings` is not a list of Ranking; TypeError or ValueError for no ranking, rankings of
    different queries, an unknown method, weights that do not match in number or are negative, a `k` below 1, and
    options that the fusion does not allow.

    Parameters
    ----------
    rankings : list of Ranking
        Rankings of the same queries, matched by id; the result has the order of the first.
    method : str
        A key of `FUSIONS`.
    k : int
        Number of documents in the result per query.
    weights : list of float, optional
        Weight of each ranking, at least 0; None gives each the weight 1.
    options
        Arguments of the fusion, such as c=60 of "reciprocal ranks".
    """
    rankings = list(check_iterable(rankings, "rankings"))
    if not all(isinstance(ranking, Ranking) for ranking in rankings):
        raise TypeError("rankings is not a list of Ranking; pass for example [lexical, dense].")
    if not rankings:
        raise ValueError("rankings is empty; pass at least one Ranking.")
    contribution = FUSIONS[check_choice(method, FUSIONS, "method")]
    k = check_count(k, "k")
    weights = [1.0] * len(rankings) if weights is None else list(check_iterable(weights, "weights"))
    if len(weights) != len(rankings) or not all(0 <= weight < math.inf for weight in weights):
        raise ValueError(f"weights is {weights}; give {len(rankings)} finite numbers of at least 0, one a ranking.")
    query_ids = rankings[0].query_ids
    for position, ranking in enumerate(rankings):
        unmatched = sorted(set(ranking.query_ids) ^ set(query_ids))
        if unmatched:
            raise ValueError(f"rankings[{position}] and [0] differ in queries {unmatched[:3]}; search the same ones.")
    doc_ids, scores = [], []
    for query_id in query_ids:
        terms: dict[str, list[float]] = {}  # in the order of first appearance
        for ranking, weight in zip(rankings, weights, strict=True):
            docs, values = zip(*ranking[query_id], strict=True) if ranking[query_id] else ((), ())
            for doc, term in zip(docs, contribution(np.array(values), weight, **options).tolist(), strict=False):
                terms.setdefault(doc, []).append(term)
        # fsum rounds once, so that equal sums are equal in whatever order the rankings come
        fused, candidates = np.array([math.fsum(parts) for parts in terms.values()]), list(terms)
        best = top_k(fused, k)
        doc_ids.append([candidates[position] for position in best])
        scores.append(fused[best])
    return Ranking(query_ids, doc_ids, scores)
