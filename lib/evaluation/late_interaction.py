"""Late interaction (MaxSim) over the token states that latent terms are made of."""

from collections.abc import Iterable
from dataclasses import dataclass, field
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
        self._query_of = torch.from_numpy(np.repeat(np.arange(len(counts)), counts))
        self._n_docs = 0
        self.docs = np.empty((len(counts), 0), np.int64)
        self.scores = np.empty((len(counts), 0), np.float32)

    def add(self, block: TokenStates) -> None:
        """Score the next documents, as `encoder.stream(texts)` yields them, and keep those among the best."""
        states = normalize(block.states, dim=1)
        n_queries, n_docs = len(self.docs), len(block.offsets) - 1
        new_scores = torch.zeros(n_queries, n_docs)
        for doc, (start, stop) in enumerate(pairwise(block.offsets)):
            if start < stop and len(self._queries):
                best = (self._queries @ states[start:stop].T).amax(dim=1)
                new_scores[:, doc].index_add_(0, self._query_of, best.cpu())  # a GPU adds in any order
        new_docs = np.arange(self._n_docs, self._n_docs + n_docs)
        self._n_docs += n_docs
        docs = np.concatenate([self.docs, np.broadcast_to(new_docs, (n_queries, n_docs))], axis=1)
        scores = np.concatenate([self.scores, new_scores.numpy()], axis=1)
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


@dataclass(frozen=True, eq=False)
class StoredStates:
    """The directions of documents' token states in int8, to rerank by: v = rint(127 h / max_i |h_i|), d bytes a token.

    Cosines need no lengths, so none is stored; each v is within 0.5 of 127 h / max_i |h_i| in every coordinate. Make
    one with `build`. TypeError or ValueError for ids that are not `str`, repeat or do not match in number, values that
    are not int8 [n_tokens, d], and offsets that do not rise from 0 to n_tokens.

    Parameters
    ----------
    values : np.ndarray, int8 [n_tokens, d]
    offsets : np.ndarray, int64 [n_docs + 1]
        Document i owns the rows `offsets[i]:offsets[i + 1]`; it may own none.
    doc_ids : list of str
        Unique, one for each document.
    """

    values: np.ndarray
    offsets: np.ndarray
    doc_ids: list[str]
    _position: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the fields."""
        doc_ids = check_ids(self.doc_ids, len(self.offsets) - 1, "doc_ids")
        if self.values.dtype != np.int8 or self.values.ndim != 2:
            shape = f"{self.values.dtype} {self.values.shape}"
            raise ValueError(f"values are {shape}; they must be int8 [n_tokens, d], as StoredStates.build makes them.")
        if self.offsets[0] != 0 or self.offsets[-1] != len(self.values) or (np.diff(self.offsets) < 0).any():
            ends = f"{self.offsets[0]} to {self.offsets[-1]}"
            raise ValueError(f"offsets run from {ends}; they must rise from 0 to {len(self.values)}, the tokens.")
        object.__setattr__(self, "doc_ids", doc_ids)
        object.__setattr__(self, "_position", {doc_id: position for position, doc_id in enumerate(doc_ids)})

    @classmethod
    def build(cls, blocks: Iterable[TokenStates], doc_ids: Iterable[str]) -> "StoredStates":
        """Store what `encoder.stream(texts)` yields.

        ValueError for states that hold NaN or infinity, and for no document.
        """
        values, counts = [], [np.zeros(1, np.int64)]
        for block in blocks:
            values.append(in_bytes(block.states))
            counts.append(np.diff(block.offsets))
        if not values:
            raise ValueError("There are no states; give those of at least one document.")
        return cls(np.concatenate(values), np.cumsum(np.concatenate(counts)), list(doc_ids))

    def __len__(self) -> int:
        return len(self.doc_ids)

    def scores(self, query: np.ndarray, doc_ids: Iterable[str]) -> np.ndarray:
        """Return `MaxSim` of a query's token states, float32 [n, d], with documents, float32 [n_docs].

        ValueError for an id of which no states are stored, and for another d.
        """
        doc_ids = list(doc_ids)
        if unknown := [doc_id for doc_id in doc_ids if doc_id not in self._position]:
            raise ValueError(
                f"No states are stored of {len(unknown)} documents, such as {unknown[0]!r}; build with them."
            )
        if query.shape[1] != self.values.shape[1]:
            sizes = f"of size {query.shape[1]}, those stored of size {self.values.shape[1]}"
            raise ValueError(f"The query's states are {sizes}; encode both with one encoder.")
        scores = np.zeros(len(doc_ids), np.float32)
        positions = [self._position[doc_id] for doc_id in doc_ids]
        spans = [self.values[self.offsets[i] : self.offsets[i + 1]] for i in positions]
        counts = np.array([len(span) for span in spans], np.int64)
        if len(query) and counts.any():
            rows = normalize(torch.from_numpy(np.concatenate(spans)).float(), dim=1)
            cosines = (normalize(torch.as_tensor(query), dim=1) @ rows.T).numpy()
            starts = (np.cumsum(counts) - counts)[counts > 0]
            scores[counts > 0] = np.maximum.reduceat(cosines, starts, axis=1).sum(axis=0)
        return scores


def in_bytes(states: torch.Tensor) -> np.ndarray:
    """Return rint(127 h / max_i |h_i|) of each row h of token states, int8 [n, d]; a row of zeros stays so."""
    largest = states.abs().amax(dim=1, keepdim=True)
    if not torch.isfinite(largest).all():
        raise ValueError("states hold NaN or infinity; use an encoder dtype of wider range.")
    return (states * (127 / largest.clamp(min=1e-30))).round().to(torch.int8).cpu().numpy()


def rerank(ranking: Ranking, states: StoredStates, queries: Iterable[TokenStates]) -> Ranking:
    """Return the same documents of each query in the order of `MaxSim`; of equal scores in that of the ranking.

    States of all documents can be kept, or those of the ranking's encoded anew: with `ids`, the ranked documents'
    ids, `StoredStates.build(encoder.stream(their texts), ids)`. To mix both scores, `fuse([ranking, reranked],
    "relative scores", weights=(1 - weight, weight))`.

    TypeError or ValueError if there are not as many queries as in the ranking, and as `StoredStates.scores`.

    Parameters
    ----------
    ranking : Ranking
        Of a first search, such as the 100 best by BM25.
    states : StoredStates
        Of all documents in the ranking, at least.
    queries : iterable of TokenStates
        The queries in the ranking's order, as `encoder.stream(texts, "query")` yields them.
    """
    rows = [block.states[start:end].cpu().numpy() for block in queries for start, end in pairwise(block.offsets)]
    if len(rows) != len(ranking):
        raise ValueError(f"There are states of {len(rows)} queries, and {len(ranking)} in the ranking; give the same.")
    doc_ids, scores = [], []
    for query, docs in zip(rows, ranking.doc_ids, strict=True):
        values = states.scores(query, docs)
        best = top_k(values, max(1, len(docs)))
        doc_ids.append([docs[i] for i in best])
        scores.append(values[best])
    return Ranking(ranking.query_ids, doc_ids, scores)
