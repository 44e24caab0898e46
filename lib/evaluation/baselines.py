"""What latent terms are compared with: BM25 over words and exact inner products; torch-free."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import bm25s
import numpy as np
import Stemmer
from scipy.sparse import csr_array, issparse

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

    A TypeError for a single `str` and for an element that is not a `str` (its position is named).
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


class Words:
    """A vocabulary of index words, as `analyze` returns them: texts to counts, the columns of a term matrix.

    Raises TypeError or ValueError for words that are not `str` or repeat.

    Parameters
    ----------
    words : iterable of str
        The word of each column.
    """

    def __init__(self, words: Iterable[str]):
        self.words = check_ids(words, what="words")
        self._column = {word: column for column, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    def columns(self, words: Iterable[str]) -> np.ndarray:
        """Return the column of each of these words, int32 [n]; KeyError for another word."""
        return np.array([self._column[word] for word in words], np.int32)

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Words":
        """Return the words of these texts, in the order of their first appearance."""
        return cls(list(dict.fromkeys(chain.from_iterable(analyze(texts)))))

    def encode(self, texts: Iterable[str]) -> csr_array:
        """Return how often each text has each word, float32 [n_texts, n_words]; other words are left out."""
        return self.count(analyze(texts))

    def count(self, texts: Iterable[Sequence[str]]) -> csr_array:
        """Return what `encode` does, of texts that are lists of words."""
        counts = [Counter(self._column[word] for word in words if word in self._column) for words in texts]
        indptr = np.cumsum([0, *map(len, counts)])
        indices = np.fromiter(chain.from_iterable(counts), np.int32, indptr[-1])
        data = np.fromiter((n for count in counts for n in count.values()), np.float32, indptr[-1])
        return csr_array((data, indices, indptr), shape=(len(counts), len(self)))


class LexicalBM25:
    r"""BM25 over stemmed words, by bm25s with `method="lucene"`.

    `score(q, d) = sum_{t in q} ln(1 + (N - df_t + 0.5) / (df_t + 0.5)) tf_td / (tf_td + k1 (1 - b + b |d| / avgdl))`:
    Kamphuis et al., "Which BM25 Do You Mean?", ECIR 2020, variant "Lucene (accurate)", without the constant factor
    (k1 + 1); bm25s: Lu, arXiv 2407.03618. The words are those of `analyze`, and `|d|` is their number.

    Raises TypeError or ValueError for an empty collection, bad texts or ids (see `search`), and parameters outside
    their range.

    Parameters
    ----------
    doc_texts, doc_ids : list of str
        At least one text, and one unique id for each. Empty texts are legal.
    k1 : float
        Saturation of the frequency of a word, above 0.
    b : float
        Share of the normalisation by length, between 0 and 1.
    """

    def __init__(self, doc_texts: Iterable[str], doc_ids: Iterable[str], k1: float = 1.2, b: float = 0.75) -> None:
        texts = list(check_texts(doc_texts, "doc_texts"))
        if not texts:
            raise ValueError("doc_texts is empty; BM25 needs at least one document.")
        self.doc_ids = check_ids(doc_ids, len(texts), "doc_ids")
        if not 0 < k1 < math.inf:
            raise ValueError(f"k1 is {k1}; it must be a finite number above 0, for example 1.2.")
        if not 0 <= b <= 1:
            raise ValueError(f"b is {b}; it must lie between 0 and 1, for example 0.75.")
        words = analyze(texts)
        self._index = bm25s.BM25(k1=k1, b=b, method="lucene") if any(words) else None  # it takes no empty vocabulary
        if self._index is not None:
            self._index.index(words, create_empty_token=False, show_progress=False)

    def search(self, query_texts: Iterable[str], query_ids: Iterable[str], k: int = 100) -> Ranking:
        """Return the `k` best documents per query, all of them if there are fewer; ties by document order.

        Documents that share no word with the query score 0 and fill the ranking in document order; a word that a query
        repeats counts as often as it occurs.

        Raises TypeError or ValueError for texts that are not a list of str, ids that repeat or do not match in number,
        and a `k` below 1.
        """
        texts = list(check_texts(query_texts, "query_texts"))
        query_ids, k = check_ids(query_ids, len(texts), "query_ids"), check_count(k, "k")
        return _rank(map(self._scores, analyze(texts)), self.doc_ids, query_ids, k)

    def _scores(self, words: list[str]) -> np.ndarray:
        """Return every document's score of a query, float32 (n_docs,)."""
        if self._index is None:
            return np.zeros(len(self.doc_ids), np.float32)
        # get_scores fails on a query without words; its two halves do not, and unknown words are left out.
        return self._index.get_scores_from_ids(self._index.get_tokens_ids(words))


def dense_search(
    doc_embeddings: np.ndarray,
    doc_ids: Iterable[str],
    query_embeddings: np.ndarray,
    query_ids: Iterable[str],
    k: int = 100,
    block: int = 64,
) -> Ranking:
    """Return the `k` documents of largest inner product per query: exact, float32, ties by document order.

    Raises TypeError or ValueError for embeddings that are not two-dimensional, of different widths or of none, or not
    finite, no documents, ids that are not `str`, repeat or do not match in number, and a `k` or `block` that is not an
    integer above 0.

    Parameters
    ----------
    doc_embeddings : array (n_docs, d)
        At least one row; converted to float32; finite. Unit rows make the inner product the cosine.
    query_embeddings : array (n_queries, d)
        Embeddings by the same model.
    doc_ids, query_ids : list of str
        One unique id for each row.
    k : int
        Number of documents per query; more than n_docs returns all documents.
    block : int
        Queries scored at a time; block * n_docs float32 scores are in memory. Scores under different blocks agree to
        float32 rounding, not to the last bit.
    """
    docs = _check_embeddings(doc_embeddings, "doc_embeddings")
    queries = _check_embeddings(query_embeddings, "query_embeddings")
    return _search(docs, doc_ids, queries, query_ids, k, block, "embeddings")


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
    log(1 + max_t z_t) = max_t log(1 + z_t). Documents that share no latent with the query score 0. Raises as
    `dense_search`, and for matrices that are not sparse and weights that are negative or not finite.

    Parameters
    ----------
    doc_terms, query_terms : csr_array, float32 [n_docs, width] and [n_queries, width]
        Term matrices of one model; at least one document.
    doc_ids, query_ids, k, block
        As in `dense_search`.
    """
    docs, queries = check_weights(doc_terms, "doc_terms"), check_weights(query_terms, "query_terms")
    return _search(docs, doc_ids, queries, query_ids, k, block, "terms")


def _search(docs, doc_ids: Iterable[str], queries, query_ids: Iterable[str], k: int, block: int, what: str) -> Ranking:
    """Rank by inner product; `docs` and `queries` are both dense or both sparse."""
    if docs.shape[1] != queries.shape[1]:
        widths = f"{queries.shape[1]}, doc_{what} {docs.shape[1]}"
        raise ValueError(f"query_{what} has width {widths}; encode both with the same model.")
    if not docs.shape[0]:
        raise ValueError(f"doc_{what} has no rows; a search needs at least one document.")
    doc_ids = check_ids(doc_ids, docs.shape[0], "doc_ids")
    query_ids = check_ids(query_ids, queries.shape[0], "query_ids")
    k, block = check_count(k, "k"), check_count(block, "block")
    columns = docs.T.tocsr() if issparse(docs) else docs.T

    def rows() -> Iterator[np.ndarray]:
        for start in range(0, queries.shape[0], block):
            scores = queries[start : start + block] @ columns
            yield from scores.toarray() if issparse(scores) else scores

    return _rank(rows(), doc_ids, query_ids, k)


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
    if not embeddings.shape[1]:  # a late-interaction model's, with which every score would be 0
        raise ValueError(f"{what} has width 0, so its model embeds no texts; rank with late_interaction_search.")
    if not np.isfinite(embeddings).all():
        row = int((~np.isfinite(embeddings)).any(axis=1).argmax())
        raise ValueError(f"{what} holds NaN or infinity in row {row}; embeddings must be finite. Repair the encoder.")
    return embeddings
