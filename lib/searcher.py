"""Everything that one forward pass gives, and the words, as one object that ranks, explains, saves and loads."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array, hstack, vstack

from lib.bm25.index import FORMS, BM25Index
from lib.bm25.pooling import with_data
from lib.bm25.ranking import Ranking, check_excluded, top_k
from lib.bm25.weighting import BM25Constants, Vocabulary, Weights, check_weights_of
from lib.encode.encoder import TokenEncoder
from lib.evaluation.baselines import ANALYZER, Words
from lib.latent_terms import LatentTerms
from lib.support.checks import check_choice, check_count, check_ids, check_texts
from lib.support.compiled import compiled
from lib.support.files import remove
from lib.support.folders import read_folder, save_folder, save_parts
from lib.support.html import Results

FORMAT_VERSION = 1
MANIFEST = "searcher.json"
WORD_CONSTANTS = BM25Constants(1.2, 0.75)  # Lucene's, for words
_BLOCK = 1_000  # embeddings that are read at once


class Contribution(NamedTuple):
    """What one term adds to a score; `kind` is "latent", "word" or "embedding", `term` its number, the word or ""."""

    kind: str
    term: int | str
    score: float


class Searcher:
    """Documents that are searched by latent terms, words and the retriever's embeddings at once.

    score(q, d) = a BM25_latents(q, d) / M_latents(q) + b BM25_words(q, d) / M_words(q) + c <e_q, e_d> / M_e(q),
    M(q) = sum_j w_j(q) idf_j (k1 + 1),    M_e(q) = |e_q| max_d |e_d|

    with weights a, b, c (`Weights`). No document's BM25 is above M, so that each part is a share of the most that a
    document could have: a convex combination of scores under theoretical bounds (Bruch, Gai and Ingber, ACM TOIS 42,
    2023). Latents and words stand in one inverted index; dividing by M changes a query's weights only. One forward pass
    over a text gives its latents and its embedding. Make one with `build` or `load`.

    Attributes
    ----------
    model : LatentTerms
        It encodes the queries; its `weights` are those of `search`, unless others are given.
    index : BM25Index
        Of two vocabularies, "latents" and "words".
    words : Words
        The word of each column behind the latents.
    embeddings : np.ndarray, float32 [n_docs, d]
    """

    def __init__(self, model: LatentTerms, index: BM25Index, words: Words, embeddings: np.ndarray):
        self.model, self.index, self.words, self.embeddings = model, index, words, embeddings
        self._position = {doc_id: position for position, doc_id in enumerate(index.doc_ids)}

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        return f"Searcher({self.model.encoder.name}, {self.index}, {self.model.weights})"

    @classmethod
    def build(
        cls,
        model: LatentTerms,
        texts: Iterable[str],
        doc_ids: Iterable[str],
        *,
        progress: bool = True,
        impacts: str = "float32",
    ) -> "Searcher":
        """Encode documents in one pass, and index them.

        Raises TypeError or ValueError as `LatentTerms.encode_documents` and `BM25Index.build`, and if no document has
        an index word.

        Parameters
        ----------
        model : LatentTerms
        texts : iterable of str
            Read twice, for its words and for its states, so a list or something else that can be.
        doc_ids : iterable of str
            Unique, one for each text.
        impacts : {"float32", "uint8"}
            The form of the index, as in `BM25Index.build`.
        """
        check_choice(impacts, FORMS, "impacts")
        if isinstance(texts, Iterator):
            raise TypeError(f"texts is a {type(texts).__name__}, which is read once; pass list(texts).")
        words = Words.of(check_texts(texts, "texts"))
        if not len(words):
            raise ValueError("No text has an index word; rank by latents alone, with model.index.")
        counts = words.encode(texts)
        doc_ids = check_ids(doc_ids, counts.shape[0], "doc_ids")  # before all of them are encoded

        def blocks() -> Iterator[tuple[csr_array, csr_array, np.ndarray]]:
            first = 0
            for block in model.stream(texts, progress=progress):
                last = first + block.terms.shape[0]
                yield block.terms, counts[first:last], block.embeddings
                first = last

        return cls.of_blocks(model, blocks(), words, doc_ids, impacts=impacts)

    @classmethod
    def of_blocks(
        cls,
        model: LatentTerms,
        blocks: Iterable[tuple[csr_array, csr_array, np.ndarray]],
        words: Words,
        doc_ids: Sequence[str],
        *,
        impacts: str = "float32",
    ) -> "Searcher":
        """Index documents that are encoded: `blocks` of consecutive ones, each read once.

        A block is terms and embeddings, as `LatentTerms.stream` gives them, and between the two what `words.encode`
        gives, float32 [n_docs, n_words]. In memory are the index, the embeddings and a block.
        """
        embeddings: list[np.ndarray] = []

        def rows() -> Iterator[csr_array]:
            for terms, counts, vectors in blocks:
                embeddings.append(np.asarray(vectors, np.float32))
                yield hstack([terms, counts], format="csr")

        vocabularies = [
            Vocabulary("latents", model.sae.width, model.bm25),
            Vocabulary("words", len(words), WORD_CONSTANTS),
        ]
        index = BM25Index.build(rows(), doc_ids, vocabularies=vocabularies, impacts=impacts)
        return cls(model, index, words, np.concatenate(embeddings))

    def encode_queries(self, texts: Iterable[str], *, progress: bool = True) -> tuple[csr_array, np.ndarray]:
        """Return what `search` makes of queries: terms, float32 [n_queries, index.width], and embeddings [n, d]."""
        texts = list(check_texts(texts, "queries"))
        blocks = list(self.model.stream(texts, "query", progress=progress))
        if not blocks:
            return csr_array((0, self.index.width), dtype=np.float32), self.embeddings[:0]
        latents = vstack([block.terms for block in blocks], format="csr")
        terms = hstack([latents, self.words.encode(texts)], format="csr")
        return terms, np.concatenate([block.embeddings for block in blocks])

    def search(
        self,
        queries: Iterable[str],
        query_ids: Iterable[str],
        k: int = 100,
        *,
        weights: Weights | None = None,
        exclude: Mapping[str, str | Iterable[str]] | None = None,
        progress: bool = True,
    ) -> Ranking:
        """Return the k best documents of each query, exactly; ties in the order of the documents.

        Raises TypeError or ValueError as `search_encoded`, and for queries that are not a list of `str`.

        Parameters
        ----------
        queries : iterable of str
            The texts.
        query_ids : iterable of str
            Unique, one for each query.
        k : int
            Number of documents, at least 1.
        weights : Weights, optional
            None is the model's, which `python -m lib tune` chooses.
        exclude : dict, optional
            Query id → document id, or ids, that this query may not return: `Collection.self_matches`.
        """
        queries = list(check_texts(queries, "queries"))
        query_ids = check_ids(query_ids, len(queries), "query_ids")
        encoded = self.encode_queries(queries, progress=progress)
        return self.search_encoded(*encoded, query_ids, k, weights=weights, exclude=exclude)

    def search_encoded(
        self,
        terms: csr_array,
        embeddings: np.ndarray,
        query_ids: Iterable[str],
        k: int = 100,
        *,
        weights: Weights | None = None,
        exclude: Mapping[str, str | Iterable[str]] | None = None,
    ) -> Ranking:
        """Rank as `search` does, by what `encode_queries` returns of the queries.

        Raises TypeError or ValueError as `BM25Index.search`; for `weights` that are none, and for a weight of
        embeddings where the retriever has none.
        """
        weights = check_weights_of(self.model.weights if weights is None else weights)
        if weights.dense and not self.embeddings.shape[1]:
            raise ValueError(f"{self.model.encoder.name} has no embedding of a text; give Weights(dense=0).")
        query_ids, k = check_ids(query_ids, terms.shape[0], "query_ids"), check_count(k, "k")
        rows = self._weighted(terms, weights)
        excluded = check_excluded({} if exclude is None else exclude)
        excluded = {query_id: excluded[query_id] for query_id in query_ids if query_id in excluded}
        if not weights.dense:
            return self.index.search(rows, query_ids, k, exclude=excluded)
        longer = k + max(map(len, excluded.values()), default=0)
        vectors = self._unit(embeddings) * np.float32(weights.dense)
        doc_ids, scores = [], []
        for i in range(len(query_ids)):
            total = self.index.scores(rows[[i]]) + products(self.embeddings, vectors[i])
            best = top_k(total, longer)
            doc_ids.append([self.index.doc_ids[position] for position in best])
            scores.append(total[best])
        return Ranking(query_ids, doc_ids, scores).exclude(excluded).top(k)

    def parts(self, terms: csr_array, embeddings: np.ndarray) -> Iterator[np.ndarray]:
        """Yield for each query what its latents, words and embedding give every document, float32 [3, n_docs].

        Weighted and added up they are the scores; `lib.evaluation.tuning.tune_weights` chooses weights by them.
        """
        latents, words = (self._weighted(terms, weights) for weights in (Weights(1, 0, 0), Weights(0, 1, 0)))
        for i, vector in enumerate(self._unit(embeddings)):
            by_terms = [self.index.scores(rows[[i]]) for rows in (latents, words)]
            yield np.stack([*by_terms, products(self.embeddings, vector)])

    def _weighted(self, terms: csr_array, weights: Weights) -> csr_array:
        """Return the queries' terms times weight / M of their vocabulary."""
        most = self.index.most(terms)
        factors = np.divide([weights.latents, weights.words], most, out=np.zeros_like(most), where=most > 0)
        of_words = terms.indices >= self.model.sae.width
        n_terms = np.diff(terms.indptr)
        return with_data(
            terms, terms.data * np.where(of_words, *(np.repeat(column, n_terms) for column in factors.T[::-1]))
        )

    @cached_property
    def _longest(self) -> float:
        """The largest norm of an embedding; of a searcher that was opened, all are read for it at the first search."""
        blocks = (self.embeddings[first : first + _BLOCK] for first in range(0, len(self), _BLOCK))
        return max(float(np.linalg.norm(block, axis=1).max()) for block in blocks)

    def _unit(self, queries: np.ndarray) -> np.ndarray:
        """Return query embeddings such that no inner product with a document's is above 1, float32 [n_queries, d]."""
        longest = np.linalg.norm(queries, axis=1, keepdims=True) * self._longest
        return np.divide(queries, longest, out=np.zeros_like(queries), where=longest > 0)

    def explain(self, query: str, doc_id: str, *, weights: Weights | None = None) -> list[Contribution]:
        """Return what each latent and word that query and document share, and the embeddings, add to the score.

        Largest first; they add up to the score of `search`. Raises as `search`, and ValueError for an id that is not in
        the index.
        """
        weights = check_weights_of(self.model.weights if weights is None else weights)
        terms, embeddings = self.encode_queries([query], progress=False)
        width = self.model.sae.width
        contributions = [
            Contribution("latent", part.latent, part.score)
            if part.latent < width
            else Contribution("word", self.words.words[part.latent - width], part.score)
            for part in self.index.explain(self._weighted(terms, weights), doc_id)
        ]
        if weights.dense:
            dense = self._unit(embeddings)[0] @ self.embeddings[self._position[doc_id]]
            contributions.append(Contribution("embedding", "", weights.dense * float(dense)))
        return Results(sorted(contributions, key=lambda contribution: -contribution.score))

    def save(self, folder: str | Path, dtype: str = "float32", *, with_retriever: bool = False) -> None:
        """Write the model, the index, the words and the embeddings to `folder`, atomically.

        `dtype`, `with_retriever` and the errors are those of `LatentTerms.save`.
        """
        writers = {
            "model": lambda path: self.model.save(_made_folder(path), dtype, with_retriever=with_retriever),
            "index": lambda path: self.index.save(_made_folder(path)),
            "words.json": lambda path: path.write_text(json.dumps(self.words.words), "utf-8"),
            "embeddings.npy": lambda path: save_parts(path, [self.embeddings]),
        }
        save_folder(folder, MANIFEST, FORMAT_VERSION, {"analyzer": ANALYZER}, writers)

    @classmethod
    def load(cls, folder: str | Path, *, encoder: TokenEncoder | None = None, verify: bool = True) -> "Searcher":
        """Open what `save` wrote; postings and embeddings are memory-mapped.

        `encoder` is used instead of the retriever that the model names. Raises as `LatentTerms.load` and
        `BM25Index.load`, and ValueError if the words were found by another analyzer than this version's.
        """

        def read(manifest: dict, files: dict[str, Path]) -> "Searcher":
            if manifest["analyzer"] != ANALYZER:
                raise ValueError(
                    f"The words of {folder} were found by {manifest['analyzer']!r}; this version has {ANALYZER!r}. "
                    "Build it anew."
                )
            model = LatentTerms.load(files["model"], encoder=encoder)
            index = BM25Index.load(files["index"], verify=verify)
            words = Words(json.loads(files["words.json"].read_text("utf-8")))
            try:
                embeddings = np.load(files["embeddings.npy"], mmap_mode="r")
            except (EOFError, OSError, ValueError) as error:
                raise ValueError(f"The embeddings of {folder} are damaged ({error}); copy it again.") from error
            n_words = index.width - model.sae.width
            if (embeddings.dtype, embeddings.ndim, len(embeddings), len(words)) != (np.float32, 2, len(index), n_words):
                held = f"{embeddings.dtype} embeddings {list(embeddings.shape)} and {len(words)} words"
                wanted = f"float32 embeddings of {len(index)} documents and {n_words} words"
                raise ValueError(f"{folder} holds {held}, its index and model need {wanted}; copy it again.")
            return cls(model, index, words, embeddings)

        # model and index are folders that verify what they hold
        return read_folder(
            folder, MANIFEST, FORMAT_VERSION, read, ("model", "index", *(() if verify else ("embeddings.npy",)))
        )


def products(embeddings: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Return the inner products of rows [n, d] and a vector [d], float32 [n], those of equal rows to the same bit.

    ValueError for a vector of another size.
    """
    if embeddings.shape[1:] != vector.shape:
        raise ValueError(
            f"A query's embedding has shape {list(vector.shape)}, those of the documents {list(embeddings.shape)}; "
            "encode both by one retriever."
        )
    out = np.empty(len(embeddings), np.float32)
    _multiply(embeddings, vector, out)
    return out


@compiled(fastmath=True)  # a BLAS sums up rows in other orders, by where they stand
def _multiply(embeddings, vector, out):
    for i in range(len(embeddings)):
        total = np.float32(0)
        for j in range(len(vector)):
            total += embeddings[i, j] * vector[j]
        out[i] = total


def _made_folder(path: Path) -> Path:
    """Return the path as an empty folder, where `save_folder` has put a file."""
    remove(path)
    path.mkdir()
    return path
