"""Late interaction (MaxSim) over the token states that latent terms are made of."""

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import torch
from torch.nn.functional import normalize

from lib.bm25.ranking import Ranking, top_k
from lib.encode.encoder import TokenEncoder, TokenStates
from lib.support.checks import check_count, check_ids, check_texts


class MaxSim:
    """Scores documents as they are encoded: score(q, d) = sum over t in q of max over u in d of cos(h_t, h_u).

    ColBERT (arXiv 2004.12832), equation 3, over the states of any retriever, trained for it or not. Only each query's
    best documents are kept, so memory does not grow with the corpus. A document without tokens scores 0; a query
    without tokens scores 0 everywhere.

    Parameters
    ----------
    queries : iterable of TokenStates
        The queries, as `encoder.stream(texts, "query")` yields them.
    k : int
        Number of documents that are kept for each query.

    Attributes
    ----------
    docs : array, int64 [n_queries, at most k]
        Positions of each query's best documents so far, best first; of equal scores the earlier document is better.
    scores : array, float32 [n_queries, at most k]
        Their scores.
    """

    def __init__(self, queries: Iterable[TokenStates], k: int):
        self.k = check_count(k, "k")
        blocks = list(queries)
        self._queries = normalize(torch.cat([block.states for block in blocks]), dim=1)
        counts = np.concatenate([np.diff(block.offsets) for block in blocks])
        self._query_of = torch.from_numpy(np.repeat(np.arange(len(counts)), counts)).to(self._queries.device)
        self._n_docs = 0
        self.docs = np.empty((len(counts), 0), np.int64)
        self.scores = np.empty((len(counts), 0), np.float32)

    def add(self, block: TokenStates) -> None:
        """Score the next documents, as `encoder.stream(texts)` yields them, and keep those among the best."""
        states = normalize(block.states, dim=1)
        n_queries, n_docs = len(self.docs), len(block.offsets) - 1
        new_scores = torch.zeros(n_queries, n_docs, device=states.device)
        for doc, (start, stop) in enumerate(pairwise(block.offsets)):
            if start < stop and len(self._queries):
                best = (self._queries @ states[start:stop].T).amax(dim=1)
                new_scores[:, doc].index_add_(0, self._query_of, best)
        new_docs = np.arange(self._n_docs, self._n_docs + n_docs)
        self._n_docs += n_docs
        docs = np.concatenate([self.docs, np.broadcast_to(new_docs, (n_queries, n_docs))], axis=1)
        scores = np.concatenate([self.scores, new_scores.cpu().numpy()], axis=1)
        best = np.array([top_k(row, self.k) for row in scores]).reshape(n_queries, -1)
        self.docs = np.take_along_axis(docs, best, axis=1)
        self.scores = np.take_along_axis(scores, best, axis=1)


def late_interaction_search(
    encoder: TokenEncoder,
    doc_texts: Iterable[str],
    doc_ids: Iterable[str],
    query_texts: Iterable[str],
    query_ids: Iterable[str],
    k: int = 100,
) -> Ranking:
    """Encode documents and queries and return the `k` documents of largest `MaxSim` for each query.

    Every document is scored with every query: exact, and slow. A TypeError or ValueError for texts that are not lists
    of str, for no document or query, for ids that repeat or do not match in number, and for a `k` below 1.
    """
    docs, queries = list(check_texts(doc_texts, "doc_texts")), list(check_texts(query_texts, "query_texts"))
    doc_ids, query_ids = check_ids(doc_ids, len(docs), "doc_ids"), check_ids(query_ids, len(queries), "query_ids")
    if not docs or not queries:
        raise ValueError(f"There are {len(docs)} documents and {len(queries)} queries; give at least one of each.")
    best = MaxSim(encoder.stream(queries, "query"), k)
    for block in encoder.stream(docs):
        best.add(block)
    return Ranking(query_ids, [[doc_ids[i] for i in row] for row in best.docs], list(best.scores))
