"""What `lib.benchmarks.search` times: our search, and other engines with the same impacts and the same queries."""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from importlib.util import find_spec
from itertools import pairwise, product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array, vstack

from lib.bm25.index import BM25Index
from lib.bm25.pruning import keep_top
from lib.interop.engines.local import Engine as LocalEngine
from lib.interop.engines.local import ImpactIndexEngine, QdrantEdgeEngine, SeismicEngine
from lib.support.compiled import compiled
from lib.support.processors import usable_processors

EXACT, BARE, FLAT = "this package", "bare read of the postings", "faiss flat, dense embeddings"
CODED = "this package, 8-bit impacts"
PRUNED = "this package, 100 latents a document, 40 a query"
BY_IDF = "this package, 80 latents a query by idf"
SEISMIC = {"n_postings": 4_000, "summary_energy": 0.4}  # of the index; what is varied is the search's query_cut
HEAP_FACTOR = 0.9


class Corpus(NamedTuple):
    """A corpus and its queries; `terms()` yields blocks of the document-term matrix anew.

    The query terms are float32 [n_queries, width], the embeddings of both float32 [n_texts, d], [0, 0] if there are
    none; `terms_of` says what the terms are.
    """

    index: BM25Index
    terms: Callable[[], Iterator[csr_array]]
    embeddings: np.ndarray
    queries: csr_array
    query_embeddings: np.ndarray
    terms_of: str = "latent terms"


class Engine(NamedTuple):
    """A search engine: `find(row, k)` returns the ids of the k best documents of a query.

    `bytes` is the size of its index, if known, `same_as` the engine whose documents it should find, "" for none.
    """

    find: Callable[[int, int], list[str]]
    bytes: int | None = None
    same_as: str = EXACT


@compiled(fastmath=True)
def _sum(docs, impacts, start, stop):
    total_docs, total = np.uint64(0), np.float32(0)
    for i in range(start, stop):
        total_docs += docs[i]
    for i in range(start, stop):
        total += impacts[i]
    return total_docs + total


@compiled()
def _read(indptr, docs, impacts, latents):
    total = 0.0
    for latent in latents:
        total += _sum(docs, impacts, indptr[latent], indptr[latent + 1])
    return total


def ours(corpus: Corpus, threads: int | None) -> Engine:
    """Return exact search."""
    rows = [corpus.queries[[row]] for row in range(corpus.queries.shape[0])]

    def find(row: int, k: int) -> list[str]:
        return [doc_id for doc_id, _ in corpus.index.search_one(rows[row], k, threads=threads)]

    return Engine(find, _index_bytes(corpus.index))


def _index_bytes(index: BM25Index) -> int:
    parts = index._parts if index.impacts == "uint8" else [half for part in index._parts for half in part]
    return sum(array.nbytes for part in parts for array in part)


def ours_coded(corpus: Corpus) -> Engine:
    """Return search that is exact among impacts of eight bits, one thread."""
    constants = corpus.index.constants
    index = BM25Index.build(corpus.terms(), corpus.index.doc_ids, constants, impacts="uint8")
    return ours(corpus._replace(index=index), 1)


def ours_pruned(corpus: Corpus) -> Engine:
    """Return exact search of pruned documents by pruned queries, one thread."""
    pruned = (keep_top(block, 100) for block in corpus.terms())
    index = BM25Index.build(pruned, corpus.index.doc_ids, corpus.index.constants)
    return ours(corpus._replace(index=index, queries=keep_top(corpus.queries, 40)), 1)


def bare_read(corpus: Corpus) -> Engine:
    """Return what adds up a query's postings and finds nothing."""
    latents = np.split(corpus.queries.indices.astype(np.int64), corpus.queries.indptr[1:-1])

    def find(row: int, k: int) -> list[str]:
        for block in corpus.index._blocks:
            _read(*block, latents[row])
        return []

    return Engine(find, _index_bytes(corpus.index), "")


def scipy_product(corpus: Corpus) -> Engine:
    """Return the sparse product of a query and the impacts, latent by latent, and numpy's partition."""
    columns = vstack(list(corpus.index.impact_rows()), format="csr").T.tocsr()
    weighted = csr_array(corpus.queries.multiply(corpus.index.idf[None, :]))
    rows = [weighted[[row]] for row in range(weighted.shape[0])]
    doc_ids = np.array(corpus.index.doc_ids)

    def find(row: int, k: int) -> list[str]:
        scores = (rows[row] @ columns).toarray()[0]
        best = np.argpartition(-scores, min(k, len(scores) - 1))[:k]
        return doc_ids[best[np.argsort(-scores[best])]].tolist()

    return Engine(find, columns.data.nbytes + columns.indices.nbytes + columns.indptr.nbytes)


def bm25s_sums(corpus: Corpus) -> Engine:
    """Return bm25s' own search with our impacts for its scores; it has no query weights, so each latent counts once."""
    import bm25s

    columns = vstack(list(corpus.index.impact_rows()), format="csr").tocsc()
    engine = bm25s.BM25(backend="numba")
    engine.scores = {"data": columns.data, "indices": columns.indices, "indptr": columns.indptr}
    engine.scores["num_docs"], engine.nonoccurrence_array = len(corpus.index), None
    latents = np.split(corpus.queries.indices.astype(np.int32), corpus.queries.indptr[1:-1])
    doc_ids = np.array(corpus.index.doc_ids)

    def find(row: int, k: int) -> list[str]:
        scores = engine.get_scores_from_ids(latents[row].tolist())
        return doc_ids[bm25s.selection.topk(scores, k=min(k, len(doc_ids)), sorted=True)[1]].tolist()

    return Engine(find, sum(engine.scores[name].nbytes for name in ("data", "indices", "indptr")), "")


def rank_bm25(corpus: Corpus) -> Engine:
    """Return BM25Okapi with our weights for its counts; it has no query weights, so each latent counts once."""
    from rank_bm25 import BM25Okapi

    engine = BM25Okapi([[0]], k1=corpus.index.constants.k1, b=corpus.index.constants.b)
    terms = vstack(list(corpus.terms()), format="csr")
    starts = terms.indptr
    engine.doc_freqs = [
        dict(zip(terms.indices[a:b].tolist(), terms.data[a:b].tolist(), strict=True)) for a, b in pairwise(starts)
    ]
    engine.doc_len = corpus.index.lengths.tolist()
    engine.corpus_size, engine.avgdl = len(corpus.index), corpus.index.average_length
    engine.idf = dict(enumerate(corpus.index.idf.tolist()))
    latents = np.split(corpus.queries.indices, corpus.queries.indptr[1:-1])

    def find(row: int, k: int) -> list[str]:
        return engine.get_top_n(latents[row].tolist(), corpus.index.doc_ids, n=k)

    return Engine(find, same_as="")


def impact_index(corpus: Corpus, folder: Path, algorithm: str, bits: int | None) -> Engine:
    """Return impact-index's MaxScore or WAND: exact search, or that of impacts in blocks, of so many bits each."""
    place = folder / f"{algorithm}-{bits}"
    engine = ImpactIndexEngine(corpus.index, place, bits=bits)
    return Engine(_finder(engine, corpus, algorithm=algorithm), _file_bytes(place / "blocks" if bits else place))


def _finder(engine: LocalEngine, corpus: Corpus, **settings) -> Callable[[int, int], list[str]]:
    """Return what asks an engine one of the queries; `settings` are those of its search."""
    rows = [corpus.queries[[row]] for row in range(corpus.queries.shape[0])]
    return lambda row, k: engine.search(rows[row], ["q"], k, **settings).doc_ids[0]


def _file_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def qdrant(corpus: Corpus, folder: Path) -> Engine:
    """Return exact search by Qdrant's engine in this process, one thread.

    Its bytes are those of the index; it makes none for a few documents, and all files count then.
    """
    place = folder / "qdrant"
    engine = QdrantEdgeEngine(corpus.index, place, threads=1)
    stored = sum(map(_file_bytes, place.glob("segments/*/vector_index-impacts"))) or _file_bytes(place)
    return Engine(_finder(engine, corpus), stored)


def seismic(engine: SeismicEngine, corpus: Corpus, query_cut: int) -> Engine:
    """Return Seismic's approximate search, in which `query_cut` latents of a query choose the documents, 0 for all."""
    return Engine(_finder(engine, corpus, query_cut=query_cut or None, heap_factor=HEAP_FACTOR))


def faiss_dense(corpus: Corpus, hnsw: bool) -> Engine:
    """Return a search of the dense embeddings of the same texts by inner product: all of them, or an HNSW graph."""
    import faiss

    faiss.omp_set_num_threads(1)
    d = corpus.embeddings.shape[1]
    engine = faiss.IndexHNSWFlat(d, 32, faiss.METRIC_INNER_PRODUCT) if hnsw else faiss.IndexFlatIP(d)
    if hnsw:
        engine.hnsw.efConstruction, engine.hnsw.efSearch = 200, 128
    engine.add(np.ascontiguousarray(corpus.embeddings))
    doc_ids = np.array(corpus.index.doc_ids)

    def find(row: int, k: int) -> list[str]:
        positions = engine.search(corpus.query_embeddings[[row]], k)[1][0]
        return doc_ids[positions[positions >= 0]].tolist()

    return Engine(find, len(faiss.serialize_index(engine)), FLAT)


def engines(
    corpus: Corpus, folder: Path, peers: bool, without: Sequence[str] = ()
) -> Iterator[tuple[str, Engine, float]]:
    """Yield the name of each engine, the engine, and the seconds to make it, without those of `corpus.index`.

    Left out are peers that are not installed, all peers unless `peers`, and names that contain a string of `without`.
    """
    makers: dict[str, Callable[[], Engine]] = {
        EXACT: lambda: ours(corpus, 1),
        f"{EXACT}, {usable_processors()} threads": lambda: ours(corpus, None),
        BARE: lambda: bare_read(corpus),
        CODED: lambda: ours_coded(corpus),
        PRUNED: lambda: ours_pruned(corpus),
        BY_IDF: lambda: ours(corpus._replace(queries=keep_top(corpus.queries, 80, corpus.index.idf)), 1),
    }
    if peers:
        makers |= {
            "scipy": lambda: scipy_product(corpus),
            "bm25s": lambda: bm25s_sums(corpus),
            "rank-bm25": lambda: rank_bm25(corpus),
        }
    if peers and find_spec("impact_index"):
        for algorithm, (bits, suffix) in product(("maxscore", "wand"), ((None, ""), (8, ", 8 bits in blocks"))):
            makers[f"impact-index {algorithm}{suffix}"] = partial(impact_index, corpus, folder, algorithm, bits)
    if peers and find_spec("qdrant_edge"):
        makers["Qdrant Edge"] = lambda: qdrant(corpus, folder)
    if peers and find_spec("faiss") and corpus.embeddings.size:
        makers[FLAT] = lambda: faiss_dense(corpus, hnsw=False)
        makers["faiss HNSW, dense embeddings"] = lambda: faiss_dense(corpus, hnsw=True)
    if peers and find_spec("seismic"):
        index = cache(lambda: SeismicEngine(corpus.index, **SEISMIC))
        for cut in (10, 20, 40, 0):
            makers[f"Seismic, query_cut {cut or 'all'}"] = lambda cut=cut: seismic(index(), corpus, cut)
    for name, make in makers.items():
        if not any(part in name for part in without):
            start = time.perf_counter()
            engine = make()
            yield name, engine, time.perf_counter() - start
