"""What latent terms are compared with: lexical BM25, exact inner products and the fusion of rankings; torch-free."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import bm25s
import numpy as np
import rank_bm25
import Stemmer
from scipy.sparse import csr_array

from lib.bm25.pooling import check_weights
from lib.bm25.ranking import Ranking, top_k
from lib.support.checks import check_count, check_ids, check_texts

ANALYZER = (
    r"lower case; words (?u)\b\w\w+\b; without bm25s's 33 English stop words; Snowball English stemmer (PyStemmer)"
)


def analyze(texts: Iterable[str]) -> list[list[str]]:
    r"""Return each text's index words: lower case, `\b\w\w+\b`, English stop words removed, then stemmed.

    The stop words are bm25s's `STOPWORDS_EN` (Lucene's 33), the stemmer is PyStemmer's Snowball "english". A text of
    which no word survives gives an empty list.

    Raises
    ------
    TypeError
        For a single `str` and for an element that is not a `str` (its position is named).
    """
    return bm25s.tokenize(
        list(check_texts(texts)),
        lower=True,
        token_pattern=r"(?u)\b\w\w+\b",
        stopwords="english",
        stemmer=Stemmer.Stemmer("english"),
        return_ids=False,  # words, not ids: ids would number the queries' words apart from the documents'
        show_progress=False,
    )


class _WordSearch(ABC):
    """Search with BM25 over the words of `analyze`; a subclass says how the library is built and asked for scores."""

    analyzer = ANALYZER

    def __init__(self, doc_texts: Iterable[str], doc_ids: Iterable[str], k1: float, b: float) -> None:
        texts = list(check_texts(doc_texts, "doc_texts"))
        if not texts:
            raise ValueError("doc_texts is empty; BM25 needs at least one document.")
        self.doc_ids = check_ids(doc_ids, len(texts), "doc_ids")
        if not 0 < k1 < math.inf:
            raise ValueError(f"k1 is {k1}; it must be a finite number above 0, for example 1.2.")
        if not 0 <= b <= 1:
            raise ValueError(f"b is {b}; it must lie between 0 and 1, for example 0.75.")
        self.k1, self.b = k1, b
        words = analyze(texts)
        # Neither library can index a corpus without a single word; every score is then 0.
        self._index = self._build(words) if any(words) else None

    def search(self, query_texts: Iterable[str], query_ids: Iterable[str], k: int = 100) -> Ranking:
        """Return the `k` best documents per query, all of them if there are fewer; ties by document order.

        Documents that share no word with the query score 0 and fill the ranking in document order; a word that a query
        repeats counts as often as it occurs.

        Raises
        ------
        TypeError
            For a single `str` or a non-`str` among the texts or ids, and a `k` that is not an integer.
        ValueError
            For ids that repeat or do not match in number, and a `k` below 1.
        """
        texts = list(check_texts(query_texts, "query_texts"))
        query_ids, k = check_ids(query_ids, len(texts), "query_ids"), check_count(k, "k")
        zeros = np.zeros(len(self.doc_ids), dtype=np.float32)
        rows = (zeros if self._index is None else self._score(words) for words in analyze(texts))
        return _rank(rows, self.doc_ids, query_ids, k)

    @abstractmethod
    def _build(self, doc_words: list[list[str]]):
        """Return the library's index of the documents' words."""

    @abstractmethod
    def _score(self, query_words: list[str]) -> np.ndarray:
        """Return every document's score, (n_docs,)."""


class LexicalBM25(_WordSearch):
    r"""BM25 over stemmed words, by bm25s with `method="lucene"`.

    `score(q, d) = sum_{t in q} ln(1 + (N - df_t + 0.5) / (df_t + 0.5)) tf_td / (tf_td + k1 (1 - b + b |d| / avgdl))`:
    Kamphuis et al., "Which BM25 Do You Mean?", ECIR 2020, variant "Lucene (accurate)", without the constant factor
    (k1 + 1); bm25s: Lu, arXiv 2407.03618. `|d|` counts the words that the analyzer keeps.

    Analyzer (also in the attribute `analyzer`): lower case; words `(?u)\b\w\w+\b`; without bm25s's 33 English stop
    words; Snowball English stemmer (PyStemmer).

    Parameters
    ----------
    doc_texts, doc_ids : list of str
        One id for each text, unique. Empty texts are legal.
    k1 : float
        Above 0.
    b : float
        Between 0 and 1.

    Raises
    ------
    TypeError, ValueError
        For an empty collection, bad texts or ids (see `search`), and parameters outside their range.
    """

    def __init__(self, doc_texts: Iterable[str], doc_ids: Iterable[str], k1: float = 1.2, b: float = 0.75) -> None:
        super().__init__(doc_texts, doc_ids, k1, b)

    def _build(self, doc_words: list[list[str]]) -> bm25s.BM25:
        index = bm25s.BM25(k1=self.k1, b=self.b, method="lucene")
        index.index(doc_words, create_empty_token=False, show_progress=False)
        return index

    def _score(self, query_words: list[str]) -> np.ndarray:
        # get_scores fails on a query without words; its two halves do not, and unknown words are left out.
        return self._index.get_scores_from_ids(self._index.get_tokens_ids(query_words))


class OkapiBM25(_WordSearch):
    """BM25 as `rank_bm25.BM25Okapi` computes it, over the same words as `LexicalBM25` (same analyzer and `search`).

    `score(q, d) = sum_{t in q} idf_t tf_td (k1 + 1) / (tf_td + k1 (1 - b + b |d| / avgdl))` with the idf of Robertson,
    `ln((N - df_t + 0.5) / (df_t + 0.5))`, and `epsilon` times the mean idf in place of each negative one (Trotman,
    Puurula & Burgess, ADCS 2014, and rank_bm25's source). In a collection so small that the mean idf is
    negative, so are scores. Slow: a Python loop over all documents for each query word; for parity, not for speed.

    Parameters
    ----------
    doc_texts, doc_ids, k1, b
        As for `LexicalBM25`.
    epsilon : float
        At least 0.

    Raises
    ------
    TypeError, ValueError
        As for `LexicalBM25`.
    """

    def __init__(
        self,
        doc_texts: Iterable[str],
        doc_ids: Iterable[str],
        k1: float = 1.5,
        b: float = 0.75,
        epsilon: float = 0.25,
    ) -> None:
        if not 0 <= epsilon < math.inf:
            raise ValueError(f"epsilon is {epsilon}; it must be a finite number of at least 0, for example 0.25.")
        self.epsilon = epsilon
        super().__init__(doc_texts, doc_ids, k1, b)

    def _build(self, doc_words: list[list[str]]) -> rank_bm25.BM25Okapi:
        return rank_bm25.BM25Okapi(doc_words, k1=self.k1, b=self.b, epsilon=self.epsilon)

    def _score(self, query_words: list[str]) -> np.ndarray:
        with np.errstate(invalid="ignore"):  # with b = 1 an empty document divides 0 by 0; it matches nothing
            return np.where(np.asarray(self._index.doc_len) > 0, self._index.get_scores(query_words), 0.0)


def dense_search(
    doc_embeddings: np.ndarray,
    doc_ids: Iterable[str],
    query_embeddings: np.ndarray,
    query_ids: Iterable[str],
    k: int = 100,
    block: int = 64,
) -> Ranking:
    """Return the `k` documents of largest inner product per query: exact, float32, ties by document order.

    Parameters
    ----------
    doc_embeddings : array (n_docs, d)
        Converted to float32; finite. Unit rows make the inner product the cosine.
    query_embeddings : array (n_queries, d)
        The same d.
    doc_ids, query_ids : list of str
        One for each row, unique.
    k : int
        More than n_docs returns all documents.
    block : int
        Queries scored at a time; block * n_docs float32 scores are in memory. Scores under different blocks agree to
        float32 rounding, not to the last bit.

    Raises
    ------
    TypeError
        For ids that are not `str`, and for `k` or `block` that is not an integer.
    ValueError
        For embeddings that are not two-dimensional, of different widths or of none, or not finite, no documents, ids
        that repeat or do not match in number, and `k` or `block` below 1.
    """
    docs = _check_embeddings(doc_embeddings, "doc_embeddings")
    queries = _check_embeddings(query_embeddings, "query_embeddings")
    if docs.shape[1] != queries.shape[1]:
        widths = f"{queries.shape[1]}, doc_embeddings {docs.shape[1]}"
        raise ValueError(f"query_embeddings has width {widths}; encode both with the same model.")
    if not len(docs):
        raise ValueError("doc_embeddings has no rows; dense search needs at least one document.")
    doc_ids, query_ids = check_ids(doc_ids, len(docs), "doc_ids"), check_ids(query_ids, len(queries), "query_ids")
    k, block = check_count(k, "k"), check_count(block, "block")
    rows = (row for start in range(0, len(queries), block) for row in queries[start : start + block] @ docs.T)
    return _rank(rows, doc_ids, query_ids, k)


def inner_product_search(
    doc_terms: csr_array,
    doc_ids: Iterable[str],
    query_terms: csr_array,
    query_ids: Iterable[str],
    k: int = 100,
    block: int = 64,
) -> Ranking:
    """Return the `k` documents of largest inner product per query of term matrices: exact, ties by document order.

    This is how SPLARE (arXiv 2603.13277) ranks: over `LatentTerms(encoder, sae, pooling="max", phi="log1p")`, since
    log(1 + max_t z_t) = max_t log(1 + z_t). Documents that share no latent with the query score 0.

    Parameters
    ----------
    doc_terms, query_terms : csr_array, float32 [n_docs, width] and [n_queries, width]
        Of one model.
    doc_ids, query_ids, k, block
        As in `dense_search`.

    Raises
    ------
    TypeError, ValueError
        As `dense_search`, and for matrices that are not sparse and weights that are negative or not finite.
    """
    docs, queries = check_weights(doc_terms, "doc_terms"), check_weights(query_terms, "query_terms")
    if docs.shape[1] != queries.shape[1]:
        widths = f"{queries.shape[1]}, doc_terms {docs.shape[1]}"
        raise ValueError(f"query_terms has width {widths}; encode both with the same model.")
    if not docs.shape[0]:
        raise ValueError("doc_terms has no rows; a search needs at least one document.")
    doc_ids = check_ids(doc_ids, docs.shape[0], "doc_ids")
    query_ids = check_ids(query_ids, queries.shape[0], "query_ids")
    k, block = check_count(k, "k"), check_count(block, "block")
    columns = docs.T.tocsr()
    starts = range(0, queries.shape[0], block)
    rows = (row for start in starts for row in (queries[start : start + block] @ columns).toarray())
    return _rank(rows, doc_ids, query_ids, k)


def reciprocal_rank_fusion(rankings: Sequence[Ranking], c: float = 60, k: int = 100) -> Ranking:
    """Fuse rankings by `RRFscore(d) = sum_r 1 / (c + rank_r(d))`, ranks from 1, over the rankings that hold d.

    Cormack, Clarke & Buettcher, "Reciprocal Rank Fusion", SIGIR 2009, its one formula (their k is our c).
    Equal scores are ordered by first appearance: the earliest ranking that holds the document, then its rank there.

    Parameters
    ----------
    rankings : list of Ranking
        Over the same queries, matched by id; the result has the order of the first.
    c : float
        At least 0.
    k : int
        Documents kept per query.

    Raises
    ------
    TypeError
        If `rankings` is not a list of Ranking, or `k` not an integer.
    ValueError
        For no ranking, rankings of different queries, a `c` below 0 and a `k` below 1.
    """
    if isinstance(rankings, Ranking) or not all(isinstance(ranking, Ranking) for ranking in rankings):
        raise TypeError("rankings is not a list of Ranking; pass for example [lexical, dense].")
    if not rankings:
        raise ValueError("rankings is empty; pass at least one Ranking.")
    if not 0 <= c < math.inf:
        raise ValueError(f"c is {c}; it must be a finite number of at least 0, for example 60.")
    k, query_ids = check_count(k, "k"), rankings[0].query_ids
    for position, ranking in enumerate(rankings):
        odd = sorted(set(ranking.query_ids) ^ set(query_ids))
        if odd:
            raise ValueError(
                f"rankings[{position}] and rankings[0] differ in {len(odd)} queries, for example {odd[0]!r}; "
                "search the same queries with every system."
            )
    fused = [_fuse([ranking[query_id] for ranking in rankings], c, k) for query_id in query_ids]
    return Ranking(query_ids, [docs for docs, _ in fused], [scores for _, scores in fused])


def _fuse(runs: list[list[tuple[str, float]]], c: float, k: int) -> tuple[list[str], np.ndarray]:
    """Return one query's fused documents and scores; the terms' dict is in order of first appearance."""
    terms: dict[str, list[float]] = {}
    for run in runs:
        for rank, (doc_id, _) in enumerate(run, start=1):
            terms.setdefault(doc_id, []).append(1.0 / (c + rank))
    # fsum rounds once, so that equal sums are equal in whatever order the rankings come
    scores, docs = np.array([math.fsum(parts) for parts in terms.values()]), list(terms)
    best = top_k(scores, k)
    return [docs[position] for position in best], scores[best]


def _rank(rows: Iterable[np.ndarray], doc_ids: list[str], query_ids: list[str], k: int) -> Ranking:
    """Return the ranking of every query's score row (n_docs,); ties are those of the float32 scores it holds."""
    docs, scores = [], []
    for row in rows:
        row = row.astype(np.float32, copy=False)
        best = top_k(row, k)
        docs.append([doc_ids[position] for position in best])
        scores.append(row[best])
    return Ranking(query_ids, docs, scores)


def _check_embeddings(embeddings: np.ndarray, what: str) -> np.ndarray:
    embeddings = np.asarray(embeddings, dtype=np.float32)
    if embeddings.ndim != 2:
        raise ValueError(f"{what} has shape {embeddings.shape}; it must have two dimensions, (rows, width).")
    if not embeddings.shape[1]:  # as late-interaction models have it, and every score would be 0
        raise ValueError(f"{what} has width 0, so its model embeds no texts; rank with late_interaction_search.")
    if not np.isfinite(embeddings).all():
        row = int((~np.isfinite(embeddings)).any(axis=1).argmax())
        raise ValueError(f"{what} holds NaN or infinity in row {row}; embeddings must be finite. Repair the encoder.")
    return embeddings
