"""A document-term matrix to an inverted index, and exact BM25 search over it."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_array

from lib.bm25 import coded, frequent
from lib.bm25.frequent import frequent_latents
from lib.bm25.postings import (
    BLOCK_ROWS,
    Block,
    block_sizes,
    cut,
    document_frequency,
    joined,
    post,
    read_part,
    reweigh,
    weigh,
)
from lib.bm25.ranking import Ranking, check_excluded
from lib.bm25.search import Best, Query, scores_of, search
from lib.bm25.weighting import (
    IDFS,
    PAPER,
    BM25Constants,
    Vocabulary,
    check_constants,
    check_query_weights,
    columns_of,
    largest_impact,
    saturation,
)
from lib.support.checks import check_choice, check_count, check_id, check_ids, check_iterable
from lib.support.folders import read_folder, save_folder, save_parts
from lib.support.html import Results, table
from lib.support.processors import usable_processors

FORMAT_VERSION = 1
LARGE = {*frequent.LARGE, *coded.LARGE}
FORMS: dict[str, ModuleType] = {"float32": frequent, "uint8": coded}  # how impacts are held: the same functions in each


class Contribution(NamedTuple):
    """What one latent adds to a score: `score` = `query_weight` * `idf` * `impact`."""

    latent: int
    query_weight: float
    idf: float
    impact: float
    score: float


def _check_vocabularies(vocabularies: Sequence[Vocabulary], constants: BM25Constants) -> list[Vocabulary]:
    vocabularies = list(check_iterable(vocabularies, "vocabularies"))
    if not vocabularies or not all(isinstance(vocabulary, Vocabulary) for vocabulary in vocabularies):
        raise TypeError("vocabularies is not a list of Vocabulary; pass for example [Vocabulary('words', 5_000)].")
    if constants != PAPER:
        raise ValueError(f"{constants} and vocabularies are both given; give each Vocabulary its constants.")
    return vocabularies


def _n_rows(matrix: Any) -> int | None:
    """Return how many rows a matrix has, 1 if it is [width]; None for a stream, whose length is not known."""
    return math.prod(matrix.shape[:-1]) if hasattr(matrix, "tocsr") else None


def hold(impacts: str, blocks: list[Block], n_docs: int) -> tuple[list, np.ndarray, np.ndarray]:
    """Return blocks in a form, df, and by how much each latent's impacts are off in that form, float32 [width]."""
    df, form = document_frequency(blocks), FORMS[impacts]
    parts, errors = form.hold(blocks, frequent_latents(df, n_docs, form.SHARE), n_docs)
    return parts, df, errors


class BM25Index:
    """BM25 over real-valued term weights w, which are latent terms here but may be anything that is not negative.

    score(q, d) = sum_j w_j(q) * idf_j * w_j(d) (k1 + 1) / (w_j(d) + k1 (1 - b + b |d| / avgdl)),  |d| = sum_j w_j(d)

    Latent Terms (arXiv 2605.29384) with its untuned k1 = 8 and b = 0.7. Make one with `build` or `load`. Where the
    columns are several vocabularies, each has its own constants, |d| and avgdl, and a weight (`weighting.Vocabulary`).

    Attributes
    ----------
    doc_ids : list of str
    width : int
        Number of latents.
    vocabularies : tuple of Vocabulary
        Which columns have which constants and weight; mostly one.
    constants : BM25Constants
        k1, b and the name of the idf, of the first vocabulary.
    largest_k1 : float
        Of the vocabularies.
    largest_impact : float
        No impact is above it (`weighting.largest_impact`).
    df : np.ndarray, int64 [width]
        In how many documents each latent has a weight above 0.
    idf : np.ndarray, float32 [width]
        Times the weight of the vocabulary.
    lengths : np.ndarray, float32 [n_docs]
        |d| of each document in the first vocabulary.
    average_length : float
        avgdl of the first vocabulary, over all documents, empty ones too.
    impacts : {"float32", "uint8"}
        In which form impacts are held (`build`).
    """

    def __init__(self, vocabularies: Sequence[Vocabulary], impacts: str, *documents):
        self.vocabularies, self.impacts = tuple(vocabularies), impacts
        self.constants = self.vocabularies[0].constants
        self.largest_k1 = max(vocabulary.constants.k1 for vocabulary in self.vocabularies)
        self._hold(*documents)

    def _hold(
        self,
        doc_ids: list[str],
        lengths: np.ndarray,
        averages: list[float],
        parts: list,
        df: np.ndarray,
        errors: np.ndarray,
    ) -> None:
        """Hold these documents and no others; all is computed first, so that an error leaves the index as it was.

        `lengths`, float32 [n_vocabularies, n_docs], and `averages` are |d| and avgdl.
        """
        idfs = []
        for vocabulary, columns in zip(self.vocabularies, columns_of(self.vocabularies), strict=True):
            of_columns = IDFS[vocabulary.constants.idf](df[columns].astype(np.float64), len(doc_ids))
            idfs.append((vocabulary.weight * of_columns).astype(np.float32))
        idf = np.concatenate(idfs)
        constants = [vocabulary.constants for vocabulary in self.vocabularies]
        self.largest_impact = max(map(largest_impact, lengths, averages, constants))
        in_rows = frequent_latents(df, len(doc_ids), FORMS[self.impacts].SHARE)
        row_of = np.full(len(df), -1)
        row_of[in_rows] = np.arange(len(in_rows))
        position = {doc_id: number for number, doc_id in enumerate(doc_ids)}
        self.doc_ids, self._position = doc_ids, position
        self._lengths, self._averages = lengths, averages
        self.lengths, self.average_length = lengths[0], averages[0]
        self.width, self.df, self.idf = len(df), df, idf
        self._parts, self._row_of, self._in_rows, self._errors = parts, row_of, in_rows, errors

    def __len__(self) -> int:
        return len(self.doc_ids)

    def __repr__(self) -> str:
        widths = ", ".join(f"{vocabulary.width:,} {vocabulary.name}" for vocabulary in self.vocabularies)
        weighting = self.constants if len(self.vocabularies) == 1 else self.vocabularies
        postings = f"{self.n_postings:,} postings" + (f" of {self.impacts}" if self.impacts != "float32" else "")
        return f"BM25Index({len(self):,} documents, {widths}, {postings}, {weighting})"

    @property
    def _blocks(self) -> list[Block]:
        return list(self._each_block())

    def _each_block(self) -> Iterator[Block]:
        for part, size in zip(self._parts, block_sizes(len(self)), strict=True):
            yield FORMS[self.impacts].block_in(part, self._in_rows, size)

    def _repr_html_(self) -> str:
        """Return sizes and constants as a table."""
        rows = [("documents", f"{len(self):,}"), ("postings", f"{self.n_postings:,}")]
        rows += [(v.name, f"{v.width:,} columns, weight {v.weight:g}, {v.constants}") for v in self.vocabularies]
        return table(["BM25Index", ""], rows)

    @property
    def n_postings(self) -> int:
        """Number of non-zero entries of the document-term matrix."""
        return int(self.df.sum())

    @classmethod
    def build(
        cls,
        matrix: csr_array | Iterable[csr_array],
        doc_ids: Iterable[str],
        constants: BM25Constants = PAPER,
        *,
        k1: float | None = None,
        b: float | None = None,
        idf: str | None = None,
        vocabularies: Sequence[Vocabulary] | None = None,
        impacts: str = "float32",
    ) -> "BM25Index":
        """Index a document-term matrix, or a stream of blocks of its rows, of which only the index stays in memory.

        Raises TypeError or ValueError for a collection without documents, blocks of different widths, weights that are
        NaN, infinite, negative or of a sum that float32 does not hold, ids that are not `str`, repeat or do not match
        in number, and constants out of range.

        Parameters
        ----------
        matrix : csr_array [n_docs, width], or iterable of csr_array [any number of documents, width]
            Term weights, finite and at least 0.
        doc_ids : iterable of str
            Unique, one for each row.
        constants : BM25Constants
            The default is the paper's; `model.index` gives those that are recommended for a model.
        k1, b, idf : optional
            What to replace of `constants`.
        vocabularies : list of Vocabulary, optional
            What the columns are if not all of them have `constants`, which then is not given; their widths add up to
            the matrix's.
        impacts : {"float32", "uint8"}
            In which form impacts are held. "uint8" takes about 3 bytes a posting, a third of "float32"; each latent's
            impacts are rounded to 255 levels in each block of 16,384 documents, none of them to 0, search among them is
            exact, and `error_bound` states by how much scores differ for it.
        """
        check_choice(impacts, FORMS, "impacts")
        given: dict[str, Any] = {"k1": k1, "b": b, "idf": idf}
        changes = {name: value for name, value in given.items() if value is not None}
        constants = replace(check_constants(constants), **changes)
        doc_ids = check_ids(doc_ids, _n_rows(matrix), "doc_ids")
        if vocabularies is None:
            blocks, lengths = post(matrix, len(doc_ids))
            vocabularies = [Vocabulary("latents", len(blocks[0].indptr) - 1, constants)]
        else:
            vocabularies = _check_vocabularies(vocabularies, constants)
            parts = columns_of(vocabularies)
            blocks, lengths = post(matrix, len(doc_ids), width=parts[-1].stop, columns=parts)
        check_ids(doc_ids, lengths.shape[1], "doc_ids")
        averages = [float(of_docs.mean()) for of_docs in lengths]
        for i, columns in enumerate(columns_of(vocabularies)):
            k1, b = vocabularies[i].constants.k1, vocabularies[i].constants.b
            weigh(blocks, columns, cut(saturation(lengths[i], averages[i], k1, b)), k1)
        held = hold(impacts, blocks, len(doc_ids))
        return cls(vocabularies, impacts, doc_ids, lengths.astype(np.float32), averages, *held)

    def add(self, matrix: csr_array | Iterable[csr_array], doc_ids: Iterable[str]) -> None:
        """Add documents behind those in the index, as if all had been indexed at once; arguments as in `build`.

        N, df, idf, avgdl and with it every impact become those of all documents, so each call weighs the whole index
        anew: add many documents at once. Where avgdl changes, the impacts of the old documents are computed from their
        old impacts, so they differ from those of an index built at once by about 1e-7 of their size; impacts in uint8
        are rounded once more, by which `error_bound` grows, and meanwhile take the memory of float32. Not for use
        while another thread searches.

        Raises TypeError or ValueError as `build`, for another width, and for ids that are in the index; after any error
        it stays as it was.
        """
        doc_ids = check_ids(doc_ids, _n_rows(matrix), "doc_ids")
        if known := [doc_id for doc_id in doc_ids if doc_id in self._position]:
            raise ValueError(
                f"{len(known)} of {len(doc_ids)} ids are in the index already, such as {known[0]!r}; give new ids, or "
                "build the index anew."
            )
        n_last = (len(self) - 1) % BLOCK_ROWS + 1  # documents in the last block
        n_free = BLOCK_ROWS - n_last or BLOCK_ROWS
        parts, old, errors = columns_of(self.vocabularies), self._blocks, self._errors.copy()
        new, new_lengths = post(matrix, len(doc_ids), n_free, self.width, parts if len(parts) > 1 else [slice(None)])
        check_ids(doc_ids, new_lengths.shape[1], "doc_ids")
        lengths = np.concatenate([self._lengths, new_lengths.astype(np.float32)], axis=1)
        averages = []
        for i, (vocabulary, columns) in enumerate(zip(self.vocabularies, parts, strict=True)):
            k1, b = vocabulary.constants.k1, vocabulary.constants.b
            averages.append((self._averages[i] * len(self) + float(new_lengths[i].sum())) / lengths.shape[1])
            before, after = (saturation(self._lengths[i], mean, k1, b) for mean in (self._averages[i], averages[i]))
            weigh(new, columns, cut(saturation(new_lengths[i], averages[i], k1, b), n_free), k1)
            if not np.array_equal(before, after):
                old = reweigh(old, columns, cut(before), cut(after), k1)
                # d impact_elsewhere / d impact is between before / after and after / before
                ratios = np.divide(after, before, out=np.ones_like(before), where=self._lengths[i] > 0)
                errors[columns] *= np.float32(max(ratios.max(), 1 / ratios.min()))
        if n_last < BLOCK_ROWS:
            new[0] = joined(old[-1], n_last, new[0], min(n_free, len(doc_ids)))
            old = old[:-1]
        held, df, rounding = hold(self.impacts, [*old, *new], len(self) + len(doc_ids))
        self._hold(self.doc_ids + doc_ids, lengths, averages, held, df, errors + rounding)

    def impact_rows(self) -> Iterator[csr_array]:
        """Yield the documents' impacts in consecutive blocks of rows, float32 [rows, width].

        score(q, d) is the inner product of a document's row with w_j(q) * idf_j.
        """
        for block, size in zip(self._each_block(), block_sizes(len(self)), strict=True):
            yield block.matrix(size).tocsr()

    def search(
        self,
        queries: csr_array,
        query_ids: Iterable[str],
        k: int = 100,
        *,
        allow: Iterable[str] | None = None,
        deny: Iterable[str] | None = None,
        exclude: Mapping[str, str | Iterable[str]] | None = None,
        threads: int | None = None,
    ) -> Ranking:
        """Return the k best documents of each query, exactly; ties in the order of the documents.

        Every document has a score, 0 where it shares no latent with the query; so k larger than the collection
        returns all documents.

        Parameters
        ----------
        queries : csr_array, float32 [n_queries, width]
            Term weights, finite and at least 0; an empty row is legal.
        query_ids : iterable of str
            Unique, one for each row.
        k : int
            Number of documents, at least 1.
        allow, deny : iterable of str, also a set, optional
            Ids of the only documents that may be returned, or of those that may not. Scores stay as they are.
        exclude : dict, optional
            Query id → document id, or ids, that this query may not return: `Collection.self_matches`, where queries
            are documents themselves. Other queries in it have no effect.
        threads : int, optional
            None is one for each processor that this process may use. The ranking does not depend on it.

        Raises
        ------
        TypeError, ValueError
            For another width than the index's, weights that are NaN, infinite, negative or so large that scores could
            overflow, ids that are not `str`, repeat or do not match in number, k or threads below 1, ids in `allow` or
            `deny` that are not in the index, and both given.
        """
        queries = self._check_queries(queries)
        query_ids = check_ids(query_ids, queries.shape[0], "query_ids")
        excluded = check_excluded({} if exclude is None else exclude)
        if most := max((len(excluded.get(query_id, ())) for query_id in query_ids), default=0):
            longer = check_count(k, "k") + most
            ranking = self.search(queries, query_ids, longer, allow=allow, deny=deny, threads=threads)
            return ranking.exclude(excluded).top(k)
        results = self._search(queries, k, allow, deny, threads)
        doc_ids = [[self.doc_ids[position] for position in best.docs.tolist()] for best in results]
        return Ranking(query_ids, doc_ids, [best.scores for best in results])

    def search_one(
        self,
        query: csr_array,
        k: int = 100,
        *,
        allow: Iterable[str] | None = None,
        deny: Iterable[str] | None = None,
        threads: int | None = None,
    ) -> list[tuple[str, float]]:
        """Return the k best documents of one query as (id, score), best first; otherwise as `search`.

        `query` is one row, float32 [1, width] or [width], such as `queries[[0]]`.
        """
        (best,) = self._search(self._check_query(query, "search_one"), k, allow, deny, threads)
        return [(self.doc_ids[doc], score) for doc, score in zip(best.docs.tolist(), best.scores.tolist(), strict=True)]

    def scores(self, query: csr_array) -> np.ndarray:
        """Return the score of every document for one query, float32 [n_docs], each to the bit that of `search`.

        `query` and the errors are those of `search_one`.
        """
        query = self._check_query(query, "scores")
        return scores_of(self._parts, len(self), self._query(query.indices.astype(np.int64), query.data))

    def _search(self, queries: csr_array, k: int, allow, deny, threads: int | None) -> list[Best]:
        k = check_count(k, "k")
        threads = usable_processors() if threads is None else check_count(threads, "threads")
        allowed = self._allowed(allow, deny)
        entries = (slice(start, end) for start, end in pairwise(queries.indptr))
        rows = [self._query(queries.indices[row].astype(np.int64), queries.data[row]) for row in entries]
        return search(self._parts, len(self), rows, k, allowed, threads)

    def _query(self, latents: np.ndarray, weights: np.ndarray) -> Query:
        """Return what a query's latents count, the rare ones first."""
        rows = self._row_of[latents]
        order = np.argsort(rows >= 0, kind="stable")
        factors = weights * self.idf[latents]
        most_of_rare = float(np.abs(factors[rows < 0]).sum()) * self.largest_impact
        return Query(latents[order], factors[order], rows[rows >= 0], most_of_rare)

    def _allowed(self, allow: Iterable[str] | None, deny: Iterable[str] | None) -> np.ndarray | None:
        """Return which documents may be returned, bool [n_docs]; None is all."""
        if allow is not None and deny is not None:
            raise ValueError("allow and deny are both given; give one, such as allow = all that you do not deny.")
        listed_ids = allow if deny is None else deny
        if listed_ids is None:
            return None
        ids = check_ids(listed_ids, None, "allow" if deny is None else "deny", ordered=False)
        if unknown := [doc_id for doc_id in ids if doc_id not in self._position]:
            raise ValueError(
                f"{len(unknown)} of {len(ids)} ids are not in the index, such as {unknown[0]!r}; its ids start with "
                f"{self.doc_ids[:3]}."
            )
        listed = np.zeros(len(self), bool)
        listed[[self._position[doc_id] for doc_id in ids]] = True
        return listed if deny is None else ~listed

    def most(self, queries: csr_array) -> np.ndarray:
        """Return what no document can score above, float64 [n_queries, n_vocabularies].

        M = sum_j w_j(q) max(0, idf_j) (k1 + 1), over the columns of each vocabulary. Raises as `search`.
        """
        queries = self._check_queries(queries)
        factors = csr_array(
            (queries.data * self.idf[queries.indices].clip(0), queries.indices, queries.indptr), queries.shape
        )
        parts = zip(self.vocabularies, columns_of(self.vocabularies), strict=True)
        sums = [factors[:, columns].sum(axis=1, dtype=np.float64) * (v.constants.k1 + 1) for v, columns in parts]
        return np.stack(sums, axis=1)

    def error_bound(self, queries: csr_array) -> np.ndarray:
        """Return by how much any document's score may differ from that of an index of float32, float64 [n_queries].

        sum_j w_j(q) |idf_j| e_j, where e_j is the most by which an impact of latent j was changed when it was rounded,
        and what sums in float32 differ by in another order. Raises as `search`.
        """
        queries = self._check_queries(queries)
        weights = csr_array((queries.data.astype(np.float64), queries.indices, queries.indptr), queries.shape)
        rounding = 4 * np.finfo(np.float32).eps * (np.diff(queries.indptr) + 8)
        most = weights @ np.abs(self.idf).astype(np.float64) * self.largest_impact
        return weights @ (np.abs(self.idf) * self._errors.astype(np.float64)) + rounding * most

    def _check_queries(self, queries: csr_array) -> csr_array:
        queries = check_query_weights(queries, self.largest_k1)
        if queries.shape[1] != self.width:
            remedy = "encode queries with the model that encoded the documents."
            raise ValueError(f"the query matrix has {queries.shape[1]} latents, the index {self.width}; {remedy}")
        return queries

    def _check_query(self, query: csr_array, caller: str) -> csr_array:
        query = self._check_queries(query)
        if query.shape[0] != 1:
            raise ValueError(f"the query matrix has {query.shape[0]} rows; {caller} takes one, such as queries[[0]].")
        return query

    def explain(self, query: csr_array, doc_id: str) -> list[Contribution]:
        """Return what each latent that query and document share adds to the score, largest first.

        `query` is one row, float32 [1, width] or [width], such as `queries[[0]]`. A notebook shows the list as a table;
        `model.labels.explain` adds the labels of the latents.

        Raises TypeError or ValueError for more than one row, another width, weights out of range, and an id that is not
        in the index.
        """
        query = self._check_query(query, "explain")
        if check_id(doc_id, "doc_id") not in self._position:
            raise ValueError(f"There is no document {doc_id!r} in the index; its ids start with {self.doc_ids[:3]}.")
        number, position = divmod(self._position[doc_id], BLOCK_ROWS)
        contributions = []
        for latent, weight in zip(query.indices, query.data, strict=True):
            for impact in FORMS[self.impacts].impacts_of(self._parts[number], latent, self._row_of[latent], position):
                factors = (float(weight), float(self.idf[latent]), float(impact))
                contributions.append(Contribution(int(latent), *factors, math.prod(factors)))
        return Results(sorted(contributions, key=lambda contribution: -contribution.score))

    def save(self, folder: str | Path) -> None:
        """Write the index to `folder`, atomically: JSON and npy files, and `index.json` with their checksums."""
        vocabularies = [asdict(vocabulary) for vocabulary in self.vocabularies]
        content = {"vocabularies": vocabularies, "average_lengths": self._averages, "n_docs": len(self)}
        if self.impacts != "float32":
            content["impact_dtype"] = self.impacts
        files = {
            "doc_ids.json": lambda path: path.write_text(json.dumps(self.doc_ids), "utf-8"),
            "lengths.npy": lambda path: save_parts(path, [self._lengths.ravel()]),
            **FORMS[self.impacts].writers(self._parts, self.df, self._errors),
        }
        save_folder(folder, "index.json", FORMAT_VERSION, content, files)

    def push_to_hub(self, repo_id: str, **settings) -> str:
        """Upload what `save` writes to the Hugging Face hub; `settings` and errors as `lib.support.hub.upload`."""
        from lib.support.hub import upload  # here, since it is slow to import

        return upload(self.save, repo_id, message="Save the index", **settings)

    @classmethod
    def load(
        cls, folder: str | Path, *, revision: str | None = None, token: str | None = None, verify: bool = True
    ) -> "BM25Index":
        """Open what `save` wrote; the postings are memory-mapped, so they are shared and read as needed.

        Raises FileNotFoundError or PermissionError or ConnectionError if there is no such folder, and for the hub as
        `lib.support.hub.find_folder`; ValueError if a file is missing, truncated, altered, or of a newer format.

        Parameters
        ----------
        folder : str or Path
            Or the id of a repository on the hub, of which nothing is executed.
        revision, token : str, optional
            Branch, tag or commit of the repository on the hub, and an access token that may read it.
        verify : bool
            Whether to read the postings once to compare their checksums. Without, a large index opens at once; then
            postings altered on disk are not noticed and give wrong scores.
        """
        from lib.support.hub import find_folder  # here, since it is slow to import

        folder = find_folder(folder, "index.json", revision=revision, token=token)

        def read(manifest: dict, files: dict[str, Path]) -> "BM25Index":
            try:
                doc_ids = check_ids(json.loads(files["doc_ids.json"].read_text("utf-8")), manifest["n_docs"])
                vocabularies = [
                    Vocabulary(**fields | {"constants": BM25Constants(**fields["constants"])})
                    for fields in manifest["vocabularies"]
                ]
                lengths = read_part(files["lengths.npy"], np.float32)
                if len(lengths) != len(vocabularies) * len(doc_ids):
                    raise ValueError(f"there are {len(lengths)} lengths of {len(doc_ids)} documents")
                impacts = check_choice(manifest.get("impact_dtype", "float32"), FORMS, "impact_dtype")
                held = FORMS[impacts].read(files, len(doc_ids), columns_of(vocabularies)[-1].stop)
            except (ValueError, TypeError, KeyError) as error:  # right checksums of what is no index, or unverified
                raise ValueError(f"{folder} is damaged ({error}); copy it again, or save it anew.") from error
            by_vocabulary = lengths.reshape(len(vocabularies), -1)
            return cls(vocabularies, impacts, doc_ids, by_vocabulary, manifest["average_lengths"], *held)

        return read_folder(folder, "index.json", FORMAT_VERSION, read, () if verify else LARGE)
