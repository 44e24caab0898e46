"""`python -m lib.benchmarks.search`: the latency of exact search beside other engines, on real and on grown corpora.

Every engine gets the same impacts and the same queries in one run, and is asked one query at a time through its Python
interface, warm; their turns alternate. `recall` is the share of our k documents that an engine returns. A bare read
only adds up the numbers of the postings that a query has: no exact search that reads them all can be faster.
"""

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import csr_array, vstack
from tqdm import tqdm

from lib.benchmarks.encoding import spread
from lib.benchmarks.grown import Sentences, encode_sentences, grow
from lib.benchmarks.search_peers import EXACT, PRUNED, Corpus, Engine, engines
from lib.data.collection import Collection, load_collection
from lib.latent_terms import LatentTerms
from lib.support.checks import check_count


def grown_corpus(model: LatentTerms, sentences: Sentences, queries: list[str], n_docs: int) -> tuple[Corpus, float]:
    """Return a corpus of `n_docs` documents, and the seconds that growing them and building the index took."""
    ids = [f"d{number}" for number in range(n_docs)]
    return _corpus(model, lambda: grow(sentences, n_docs), ids, queries)


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
    asked = list(model.stream(queries, "query"))
    dense = np.concatenate([block.embeddings for block in asked])
    embeddings = np.empty((len(doc_ids), dense.shape[1]), np.float32)

    def terms() -> Iterator[csr_array]:
        first = 0
        for rows, own in blocks():
            embeddings[first : first + len(own)] = own
            first += len(own)
            yield rows

    start = time.perf_counter()
    index = model.index(terms(), doc_ids)
    seconds = time.perf_counter() - start
    rows = vstack([block.terms for block in asked], format="csr")
    return Corpus(index, lambda: (own for own, _ in blocks()), embeddings, rows, dense), seconds


def corpora(
    model: LatentTerms, collection: str, n_texts: int, sizes: list[int], n_queries: int, real: bool = False
) -> Iterator[tuple[Corpus, float]]:
    """Yield the collection itself if `real`, then corpora of `sizes` documents grown from `n_texts` of its own."""
    own = load_collection(collection)
    queries = own.query_texts[: check_count(n_queries, "n_queries")]
    if real:
        yield real_corpus(model, own, queries)
    if sizes:
        sentences = encode_sentences(model, spread(own.doc_texts, n_texts))
        yield from (grown_corpus(model, sentences, queries, size) for size in sizes)


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
    made: Iterable[tuple[Corpus, float]], ks: list[int], peers_to: int, repeats: int, without: Sequence[str] = ()
) -> Iterator[pd.DataFrame]:
    """Yield, corpus by corpus, a row for each k and engine: latency, recall, seconds to build, bytes a document.

    `peak_gib` is the most memory that the process had held when our index stood, before the peers were made; an
    earlier corpus with peers counts too. In a corpus of up to `peers_to` documents all engines take part, else only
    this package.
    """
    for corpus, seconds in made:
        size, n_queries = len(corpus.index), corpus.queries.shape[0]
        frames = []
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux
        with tempfile.TemporaryDirectory() as folder:
            built = list(engines(corpus, Path(folder), size <= peers_to, without))
            shown = pd.DataFrame(
                [
                    {
                        "engine": name,
                        "build_s": seconds if name.startswith(EXACT) and name != PRUNED else own,
                        "bytes_per_doc": np.nan if engine.bytes is None else engine.bytes / size,
                    }
                    for name, engine, own in built
                ]
            )
            taking_part = {name: engine for name, engine, _ in built}
            for k in ks:
                frame = latencies(taking_part, n_queries, k, repeats).merge(shown, on="engine")
                touched = corpus.index.df[corpus.queries.indices].sum() / n_queries
                frames.append(frame.assign(n_docs=size, postings_per_query=touched, peak_gib=peak))
        yield pd.concat(frames, ignore_index=True)


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m lib.benchmarks.search", description=__doc__)
    parser.add_argument("--model", help="a saved LatentTerms folder; without it, the packaged model")
    parser.add_argument("--collection", default="pydoc", help="whose sentences make the corpus, and whose queries ask")
    parser.add_argument("--texts", type=int, default=2_000, help="how many of its documents, evenly spaced")
    parser.add_argument("--real", action="store_true", help="search the collection's own documents too, first")
    parser.add_argument("--sizes", type=int, nargs="*", default=[10_000, 100_000], help="documents of grown corpora")
    parser.add_argument("--k", type=int, nargs="+", default=[10, 100, 1_000])
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--peers-to", type=int, default=100_000, help="largest size at which the peers take part")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--without", nargs="+", default=[], help='words in the names of engines to leave out: "Seismic"'
    )
    parser.add_argument("--out", type=Path, help="CSV file for the table")
    args = parser.parse_args()
    model = LatentTerms.load(args.model)
    load = os.getloadavg()[0]
    print(f"{model.sae}, {model.bm25}, load average before {load:.1f}")
    made = corpora(model, args.collection, args.texts, args.sizes, args.queries, args.real)
    done = []
    for frame in table(made, args.k, args.peers_to, args.repeats, args.without):
        print(frame.round(3).to_string(index=False, na_rep=""), flush=True)
        done.append(frame)
        if args.out:  # what is measured is kept, even if a larger size does not fit
            pd.concat(done, ignore_index=True).to_csv(args.out, index=False)


if __name__ == "__main__":
    main()
