"""`python -m lib.benchmarks.search`: the latency of exact search beside other engines, on corpora that are grown.

Every engine gets the same impacts and the same queries in one run, and is asked one query at a time through its Python
interface, warm; their turns alternate. `recall` is the share of our k documents that an engine returns. A bare read
only adds up the numbers of the postings that a query has: no exact search that reads them all can be faster.
"""

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numba import njit
from scipy.sparse import csr_array, vstack
from tqdm import tqdm

from lib.benchmarks.encoding import spread
from lib.benchmarks.grown import Sentences, encode_sentences, grow
from lib.checks import check_count
from lib.collection import load_collection
from lib.engines.local import ImpactIndexEngine, SeismicEngine
from lib.index import BM25Index
from lib.pruning import prune
from lib.retriever import LatentTerms

EXACT, BARE, FLAT = "this package", "bare read of the postings", "faiss flat, dense embeddings"
PRUNED = "this package, 100 latents a document, 40 a query"
SEISMIC = {"n_postings": 4_000, "summary_energy": 0.4}  # of the index; what is varied is the search's query_cut
HEAP_FACTOR = 0.9


class Corpus(NamedTuple):
    """What is searched, and by what.

    Attributes
    ----------
    index : BM25Index
    terms : callable
        Yields the documents anew, csr_array, float32 [rows, width]: who needs them all keeps them.
    embeddings : np.ndarray, float32 [n_docs, d]
    queries : csr_array, float32 [n_queries, width]
    query_embeddings : np.ndarray, float32 [n_queries, d]
    """

    index: BM25Index
    terms: Callable[[], Iterator[csr_array]]
    embeddings: np.ndarray
    queries: csr_array
    query_embeddings: np.ndarray


class Engine(NamedTuple):
    """Something that searches.

    Attributes
    ----------
    find : callable
        Gives the ids of the k best documents, given the number of a query and k.
    bytes : int or None
        What the engine keeps, where it says so.
    same_as : str
        The engine whose documents it should find; "" is none, where it ranks by something else.
    """

    find: Callable[[int, int], list[str]]
    bytes: int | None = None
    same_as: str = EXACT


@njit(cache=True, nogil=True, fastmath=True)
def _sum(docs, impacts, start, stop):
    total_docs, total = np.uint64(0), np.float32(0)
    for at in range(start, stop):
        total_docs += docs[at]
    for at in range(start, stop):
        total += impacts[at]
    return total_docs + total


@njit(cache=True, nogil=True)
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
    return sum(array.nbytes for part in index._parts for half in part for array in half)


def ours_pruned(corpus: Corpus) -> Engine:
    """Return exact search of pruned documents by pruned queries, one thread."""
    pruned = (prune(block, top=100) for block in corpus.terms())
    index = BM25Index.build(pruned, corpus.index.doc_ids, **_constants(corpus.index))
    return ours(corpus._replace(index=index, queries=prune(corpus.queries, top=40)), 1)


def _constants(index: BM25Index) -> dict:
    return {"k1": index.k1, "b": index.b, "idf": index.idf_form}


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

    engine = BM25Okapi([[0]], k1=corpus.index.k1, b=corpus.index.b)
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


def impact_index(corpus: Corpus, folder: Path, algorithm: str) -> Engine:
    """Return impact-index's exact search."""
    engine = ImpactIndexEngine(corpus.index, folder / algorithm)
    rows = [corpus.queries[[row]] for row in range(corpus.queries.shape[0])]
    stored = sum(path.stat().st_size for path in (folder / algorithm).rglob("*") if path.is_file())
    return Engine(lambda row, k: engine.search(rows[row], ["q"], k, algorithm=algorithm).doc_ids[0], stored)


def seismic(engine: SeismicEngine, corpus: Corpus, query_cut: int) -> Engine:
    """Return Seismic's approximate search, in which `query_cut` latents of a query choose the documents, 0 for all."""
    rows = [corpus.queries[[row]] for row in range(corpus.queries.shape[0])]
    settings = {"query_cut": query_cut or None, "heap_factor": HEAP_FACTOR}
    return Engine(lambda row, k: engine.search(rows[row], ["q"], k, **settings).doc_ids[0])


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
        found = engine.search(corpus.query_embeddings[[row]], k)[1][0]
        return doc_ids[found[found >= 0]].tolist()

    return Engine(find, len(faiss.serialize_index(engine)), FLAT)


def grown_corpus(model: LatentTerms, sentences: Sentences, queries: list[str], n_docs: int) -> tuple[Corpus, float]:
    """Return a corpus of `n_docs` documents, and the seconds that growing them and building the index took."""
    embeddings = np.empty((n_docs, sentences.embeddings.shape[1]), np.float32)

    def blocks() -> Iterator[csr_array]:
        first = 0
        for terms, dense in grow(sentences, n_docs):
            embeddings[first : first + len(dense)] = dense
            first += len(dense)
            yield terms

    start = time.perf_counter()
    index = BM25Index.build(blocks(), [f"d{number}" for number in range(n_docs)], **asdict(model.bm25))
    seconds = time.perf_counter() - start
    asked = list(model.stream(queries, "query"))
    rows = vstack([block.terms for block in asked], format="csr")
    dense = np.concatenate([block.embeddings for block in asked])
    return Corpus(index, lambda: (terms for terms, _ in grow(sentences, n_docs)), embeddings, rows, dense), seconds


def engines(
    corpus: Corpus, folder: Path, peers: bool, without: Sequence[str] = ()
) -> Iterator[tuple[str, Engine, float]]:
    """Yield name, engine, and the seconds that making it took, without those of the index that is there; one by one.

    Left out are what is not installed, the peers unless `peers`, and what has a word of `without` in its name.
    """
    made: dict[str, Callable[[], Engine]] = {
        EXACT: lambda: ours(corpus, 1),
        f"{EXACT}, {os.cpu_count()} threads": lambda: ours(corpus, None),
        BARE: lambda: bare_read(corpus),
        PRUNED: lambda: ours_pruned(corpus),
    }
    if peers:
        made |= {
            "scipy": lambda: scipy_product(corpus),
            "bm25s": lambda: bm25s_sums(corpus),
            "rank-bm25": lambda: rank_bm25(corpus),
        }
    if peers and find_spec("impact_index"):
        for algorithm in ("maxscore", "wand"):
            made[f"impact-index {algorithm}"] = lambda algorithm=algorithm: impact_index(corpus, folder, algorithm)
    if peers and find_spec("faiss"):
        made[FLAT] = lambda: faiss_dense(corpus, hnsw=False)
        made["faiss HNSW, dense embeddings"] = lambda: faiss_dense(corpus, hnsw=True)
    for name, make in made.items():
        if not any(word in name for word in without):
            start = time.perf_counter()
            engine = make()
            yield name, engine, time.perf_counter() - start
    if peers and find_spec("seismic") and not any(word in "Seismic" for word in without):
        start = time.perf_counter()
        built = SeismicEngine(corpus.index, **SEISMIC)
        seconds = time.perf_counter() - start
        for cut in (10, 20, 40, 0):
            yield f"Seismic, query_cut {cut or 'all'}", seismic(built, corpus, cut), seconds


def latencies(taking_part: dict[str, Engine], n_queries: int, k: int, repeats: int) -> pd.DataFrame:
    """Return a row for each engine: median and 95th percentile of a query in ms, and the recall of what it should find.

    After a turn that is not counted, every turn asks each engine all queries; those that take over half a second for
    the first query are asked only five.
    """
    times: dict[str, list[float]] = {name: [] for name in taking_part}
    found: dict[str, list[list[str]]] = {}
    asked = dict.fromkeys(taking_part, n_queries)
    for turn in tqdm(range(repeats + 1), disable=None, desc=f"k = {k}"):
        for name, engine in taking_part.items():
            answers = []
            for row in range(n_queries):
                if row >= asked[name]:
                    break
                start = time.perf_counter()
                answers.append(engine.find(row, k))
                seconds = time.perf_counter() - start
                if turn:
                    times[name].append(seconds)
                elif not row and seconds > 0.5:
                    asked[name] = 5
            found[name] = answers
    rows = []
    for name, engine in taking_part.items():
        milliseconds = 1e3 * np.array(times[name])
        recall = np.nan
        if engine.same_as in found:
            pairs = zip(found[name], found[engine.same_as], strict=False)
            recall = np.mean([len(set(ours) & set(theirs)) / len(theirs) for ours, theirs in pairs])
        rows.append(
            {
                "engine": name,
                "k": k,
                "median_ms": np.median(milliseconds),
                "p95_ms": np.quantile(milliseconds, 0.95),
                "recall": recall,
            }
        )
    return pd.DataFrame(rows)


def table(
    model: LatentTerms,
    collection: str,
    n_texts: int,
    sizes: list[int],
    ks: list[int],
    n_queries: int,
    peers_to: int,
    repeats: int,
    without: Sequence[str] = (),
) -> Iterator[pd.DataFrame]:
    """Yield, size by size, a row for each k and engine: latency, recall, seconds to build, bytes a document.

    `peak_gib` is the most memory that the process had held when our index stood, before the peers were made; a smaller
    size with peers before it counts too.

    The corpora are grown from `n_texts` documents of the collection. Up to `peers_to` documents all engines take part,
    above only this package.
    """
    real = load_collection(collection)
    sentences = encode_sentences(model, spread(real.doc_texts, n_texts))
    queries = real.query_texts[: check_count(n_queries, "n_queries")]
    for size in sizes:
        frames = []
        corpus, seconds = grown_corpus(model, sentences, queries, size)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux
        with tempfile.TemporaryDirectory() as folder:
            made = list(engines(corpus, Path(folder), size <= peers_to, without))
            shown = pd.DataFrame(
                [
                    {
                        "engine": name,
                        "build_s": seconds if name.startswith(EXACT) and name != PRUNED else built,
                        "bytes_per_doc": np.nan if engine.bytes is None else engine.bytes / size,
                    }
                    for name, engine, built in made
                ]
            )
            taking_part = {name: engine for name, engine, _ in made}
            for k in ks:
                frame = latencies(taking_part, len(queries), k, repeats).merge(shown, on="engine")
                touched = corpus.index.df[corpus.queries.indices].sum() / len(queries)
                frames.append(frame.assign(n_docs=size, postings_per_query=touched, peak_gib=peak))
        yield pd.concat(frames, ignore_index=True)


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m lib.benchmarks.search", description=__doc__)
    parser.add_argument("--model", help="a saved LatentTerms folder; without it, the packaged model")
    parser.add_argument("--collection", default="pydoc", help="whose sentences make the corpus, and whose queries ask")
    parser.add_argument("--texts", type=int, default=2_000, help="how many of its documents, evenly spaced")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000], help="documents")
    parser.add_argument("--k", type=int, nargs="+", default=[10, 100, 1_000])
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--peers-to", type=int, default=100_000, help="largest size at which the peers take part")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--without", nargs="+", default=[], help='words in the names of engines to leave out: "Seismic"'
    )
    parser.add_argument("--out", type=Path, help="CSV file for the table")
    args = parser.parse_args()
    model = LatentTerms.from_pretrained(args.model)
    load = os.getloadavg()[0]
    print(f"{model.sae}, {model.bm25}, load average before {load:.1f}")
    settings = (args.sizes, args.k, args.queries, args.peers_to, args.repeats, args.without)
    done = []
    for frame in table(model, args.collection, args.texts, *settings):
        print(frame.round(3).to_string(index=False, na_rep=""), flush=True)
        done.append(frame)
        if args.out:  # what is measured is kept, even if a larger size does not fit
            pd.concat(done, ignore_index=True).to_csv(args.out, index=False)


if __name__ == "__main__":
    main()
