"""`python -m lib.benchmarks.search`: the latency of exact search beside other engines, on real and on grown corpora.

Every engine gets the same impacts, but for those in eight bits and of pruned documents, which say so, and the same
queries in one run, and is asked one query at a time through its Python interface, warm; their turns alternate. `recall`
is the share of our k documents that an engine returns. A bare read only adds up the numbers of the postings that a
query has: no exact search that reads them all can be faster.
"""

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.sparse import csr_array, vstack

from lib.benchmarks.encoding import spread
from lib.benchmarks.grown import Sentences, encode_sentences, grow, largest_of, sentences_of
from lib.benchmarks.search_peers import CODED, EXACT, PRUNED, Corpus, Engine, engines
from lib.bm25.index import BM25Index
from lib.bm25.pruning import keep_top
from lib.bm25.weighting import INNER_PRODUCT
from lib.data.collection import Collection, load_collection
from lib.evaluation.splade import Splade
from lib.latent_terms import LatentTerms
from lib.learned import RUN
from lib.support.checks import check_count
from lib.support.files import user_path
from lib.support.progress import log_to_stderr, progress

if TYPE_CHECKING:
    from lib.learned.retriever import LearnedRetriever


def grown_corpus(model: LatentTerms, sentences: Sentences, queries: list[str], n_docs: int) -> tuple[Corpus, float]:
    """Return a corpus of `n_docs` documents, and the seconds that growing them and building the index took."""
    ids = [f"d{number}" for number in range(n_docs)]
    return _corpus(model, lambda: grow(sentences, n_docs), ids, queries)


def learned_corpus(
    sentences: csr_array, starts: np.ndarray, queries: csr_array, n_docs: int, doc_top: int = 0
) -> tuple[Corpus, float]:
    """Return the same grown documents as a trained encoder's rows, and the seconds that growing and indexing took.

    A document's weight is the largest of its sentences', and it keeps the `doc_top` largest, 0 for all; they are ranked
    by the inner product. `sentences` and `queries` are rows of the encoder, float32 [n_texts, width], `starts` as in
    `Sentences`. There are no embeddings.
    """

    def terms() -> Iterator[csr_array]:
        for block in largest_of(sentences, starts, n_docs):
            yield keep_top(block, doc_top) if doc_top else block

    start = time.perf_counter()
    index = BM25Index.build(terms(), [f"d{number}" for number in range(n_docs)], INNER_PRODUCT)
    seconds = time.perf_counter() - start
    none = np.empty((0, 0), np.float32)
    return Corpus(index, terms, none, queries, none), seconds


def real_corpus(model: LatentTerms, collection: Collection, queries: list[str]) -> tuple[Corpus, float]:
    """Return a collection's own documents, and the seconds that building the index took; all encoded in memory."""
    blocks = [(block.terms, block.embeddings) for block in model.stream(collection.doc_texts)]
    return _corpus(model, lambda: iter(blocks), collection.doc_ids, queries)


def _corpus(
    model: LatentTerms,
    blocks: Callable[[], Iterator[tuple[csr_array, np.ndarray]]],
    doc_ids: list[str],
    queries: list[str],
) -> tuple[Corpus, float]:
    encoded = list(model.stream(queries, "query"))
    query_embeddings = np.concatenate([block.embeddings for block in encoded])
    embeddings = np.empty((len(doc_ids), query_embeddings.shape[1]), np.float32)

    def terms() -> Iterator[csr_array]:
        first = 0
        for rows, vectors in blocks():
            embeddings[first : first + len(vectors)] = vectors
            first += len(vectors)
            yield rows

    start = time.perf_counter()
    index = model.index(terms(), doc_ids)
    seconds = time.perf_counter() - start
    query_terms = vstack([block.terms for block in encoded], format="csr")
    return Corpus(index, lambda: (rows for rows, _ in blocks()), embeddings, query_terms, query_embeddings), seconds


def corpora(
    model: LatentTerms,
    name: str,
    n_texts: int,
    sizes: list[int],
    n_queries: int,
    real: bool = False,
    learned: Mapping[str, "Splade | LearnedRetriever"] = MappingProxyType({}),
) -> Iterator[tuple[Corpus, float]]:
    """Yield a collection itself if `real`, then corpora of `sizes` documents grown from `n_texts` of its documents.

    Each size comes once more as the rows of each of `learned`, by name.
    """
    collection = load_collection(name)
    queries = collection.query_texts[: check_count(n_queries, "n_queries")]
    if real:
        yield real_corpus(model, collection, queries)
    if sizes:
        texts = spread(collection.doc_texts, n_texts)
        sentences = encode_sentences(model, texts)
        split = [sentence for text in texts for sentence in sentences_of(text)]
        rows = {name: (each.encode_documents(split), each.encode_queries(queries)) for name, each in learned.items()}
        for size in sizes:
            yield grown_corpus(model, sentences, queries, size)
            for name, (of_sentences, of_queries) in rows.items():
                top = _doc_top(learned[name])
                corpus, seconds = learned_corpus(of_sentences, sentences.starts, of_queries, size, top)
                yield corpus._replace(terms_of=name), seconds


def latencies(competitors: dict[str, Engine], n_queries: int, k: int, repeats: int) -> pd.DataFrame:
    """Return a row for each engine: median and 95th percentile of a query in ms, and the recall of what it should find.

    ms_low and ms_high are the 95 % bootstrap interval of the median, of turns and queries resampled. Engines take
    turns, after one that is not counted, in another order each time, since a machine's speed changes within a turn; one
    that takes over half a second for the first query gets only five queries.
    """
    rng = np.random.default_rng(0)
    times: dict[str, list[float]] = {name: [] for name in competitors}
    answers: dict[str, list[list[str]]] = {}
    n_asked = dict.fromkeys(competitors, n_queries)
    for turn in progress(range(repeats + 1), what=f"k = {k}", unit="turns", total=repeats + 1):
        for name in rng.permutation(list(competitors)).tolist():
            engine, answers[name] = competitors[name], []
            for row in range(n_queries):
                if row >= n_asked[name]:
                    break
                start = time.perf_counter()
                answers[name].append(engine.find(row, k))
                seconds = time.perf_counter() - start
                if turn:
                    times[name].append(seconds)
                elif row == 0 and seconds > 0.5:
                    n_asked[name] = 5
    rows = []
    for name, engine in competitors.items():
        pairs = zip(answers[name], answers.get(engine.same_as, []), strict=False)
        recalls = [len(set(answer) & set(exact)) / len(exact) for answer, exact in pairs]
        by_turn = 1e3 * np.array(times[name]).reshape(repeats, -1)  # [turns, queries]
        median, p95 = np.quantile(by_turn, [0.5, 0.95])
        queries = by_turn.shape[1]
        turns, draws = (rng.integers(n, size=(2_000, n)) for n in (repeats, queries))
        medians = np.median(by_turn[turns[:, :, None], draws[:, None, :]], axis=(1, 2))
        low, high = np.quantile(medians, [0.025, 0.975])
        times_ms = {"median_ms": median, "ms_low": low, "ms_high": high, "p95_ms": p95}
        recall = np.mean(recalls) if recalls else np.nan
        rows.append({"engine": name, "k": k, **times_ms, "recall": recall})
    return pd.DataFrame(rows)


def table(
    corpora: Iterable[tuple[Corpus, float]], ks: list[int], peers_to: int, repeats: int, without: Sequence[str] = ()
) -> Iterator[pd.DataFrame]:
    """Yield, corpus by corpus, a row for each k and engine: latency, recall, seconds to build, bytes a document.

    `times_exact` is the median by that of exact search on one thread in the same run, `build_s` of an engine of ours
    with documents of its own includes growing them anew.
    `peak_gib` is the most memory that the process had held when our index stood, before the peers were made; an
    earlier corpus with peers counts too. In a corpus of up to `peers_to` documents all engines take part, else only
    this package; `without` is that of `engines`.
    """
    for corpus, seconds in corpora:
        size, n_queries = len(corpus.index), corpus.queries.shape[0]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux
        postings = corpus.index.df[corpus.queries.indices].sum() / n_queries
        facts = {"terms": corpus.terms_of, "n_docs": size, "postings_per_query": postings, "peak_gib": peak}
        with tempfile.TemporaryDirectory() as folder:
            competitors, costs = {}, []
            for name, engine, build_seconds in engines(corpus, Path(folder), size <= peers_to, without):
                competitors[name] = engine
                shares_index = name.startswith(EXACT) and name not in (CODED, PRUNED)
                bytes_per_doc = np.nan if engine.bytes is None else engine.bytes / size
                build_s = seconds if shares_index else build_seconds
                costs.append({"engine": name, "build_s": build_s, "bytes_per_doc": bytes_per_doc})
            frames = [latencies(competitors, n_queries, k, repeats) for k in ks]
        for frame in frames:
            exact = frame.loc[frame["engine"] == EXACT, "median_ms"]
            frame["times_exact"] = frame["median_ms"] / (exact.item() if len(exact) else np.nan)
        yield pd.concat(frames, ignore_index=True).merge(pd.DataFrame(costs), on="engine", how="left").assign(**facts)


def _learned(name: str) -> "Splade | LearnedRetriever":
    """Load what `finetune` saved, else a SPLADE model."""
    if not (user_path(name) / RUN).is_file():
        return Splade(name)
    from lib.learned.retriever import LearnedRetriever  # slow to import

    return LearnedRetriever.load(name)


def _doc_top(encoder: "Splade | LearnedRetriever") -> int:
    """Return how many weights of a document an encoder keeps, 0 for all."""
    if isinstance(encoder, Splade):
        return 0
    modules = list(encoder.model)
    of_embeddings = [module.k for module in modules if type(module).__name__ == "SparseAutoEncoder"]
    return of_embeddings[0] if of_embeddings else (getattr(modules[-1], "top", None) or (0, 0))[1]


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m lib.benchmarks.search", description=__doc__)
    add = parser.add_argument
    add("--model", help="What LatentTerms.load takes; by default the packaged model.")
    add("--collection", default="pydoc", help="Collection of the sentences and queries.")
    add("--texts", type=int, default=2_000, help="Number of its documents to grow corpora from, evenly spaced.")
    add("--real", action="store_true", help="Search the collection's own documents first.")
    add("--sizes", type=int, nargs="*", default=[10_000, 100_000], help="Numbers of documents of grown corpora.")
    add("--k", type=int, nargs="+", default=[10, 100, 1_000], help="Numbers of documents to retrieve.")
    about = "Folders of finetune and SPLADE models: the same grown texts as their rows are further corpora."
    add("--learned", nargs="+", default=[], metavar="MODEL", help=about)
    add("--queries", type=int, default=50, help="Number of queries.")
    add("--peers-to", type=int, default=100_000, help="Largest corpus that other engines search.")
    add("--repeats", type=int, default=3, help="Turns of each engine that are measured.")
    add("--without", nargs="+", default=[], help='Parts of the names of engines to leave out, such as "Seismic".')
    add("--out", type=Path, help="CSV file for the table.")
    args = parser.parse_args()
    log_to_stderr()
    model = LatentTerms.load(args.model)
    load = os.getloadavg()[0]
    print(f"{model.sae}, {model.bm25}, load average before {load:.1f}")
    learned = {name: _learned(name) for name in args.learned}
    measured = corpora(model, args.collection, args.texts, args.sizes, args.queries, args.real, learned)
    frames = []
    for frame in table(measured, args.k, args.peers_to, args.repeats, args.without):
        print(frame.round(3).to_string(index=False, na_rep=""), flush=True)
        frames.append(frame)
        if args.out:  # after each corpus: a larger one may not fit in memory
            pd.concat(frames, ignore_index=True).to_csv(args.out, index=False)


if __name__ == "__main__":
    main()
