"""`python -m lib.benchmarks.memory`: what an index takes on disk, to build, and in a process that opens it.

Documents are grown (`lib.benchmarks.grown`). Each index is built and saved by a process of its own, and opened by
another; `start_gib` is the most memory that such a process had held when it had imported this package, and is part of
the other figures of memory. An index is opened without its checksums, memory-mapped, and then searched; `verified_s` is
how long `BM25Index.load` takes by default, which reads all of it once.
"""

import argparse
import multiprocessing
import re
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
from scipy.sparse import csr_array

from lib.benchmarks.encoding import spread
from lib.benchmarks.grown import Sentences, encode_sentences, grow
from lib.bm25.index import FORMS, BM25Index
from lib.bm25.weighting import BM25Constants
from lib.data.collection import load_collection
from lib.latent_terms import LatentTerms
from lib.support.checks import check_count
from lib.support.progress import log_to_stderr


def _peak_gib() -> float:
    """Return the most memory that this process has held; what getrusage says on Linux, a child has from its parent."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s*(\d+) kB", status.read_text("utf-8"))[1]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**30  # bytes on macOS


def built(sentences: Sentences, constants: BM25Constants, n_docs: int, impacts: str, folder: Path) -> dict[str, float]:
    """Build and save an index of grown documents; return seconds, memory, and its size on disk."""
    facts, start = {"start_gib": _peak_gib()}, time.perf_counter()
    blocks, doc_ids = (terms for terms, _ in grow(sentences, n_docs)), [f"d{number}" for number in range(n_docs)]
    index = BM25Index.build(blocks, doc_ids, constants, impacts=impacts)
    facts |= {"build_s": time.perf_counter() - start, "build_gib": _peak_gib()}
    index.save(folder)
    size = sum(path.stat().st_size for path in folder.iterdir())
    return facts | {
        "disk_gib": size / 2**30,
        "bytes_per_doc": size / n_docs,
        "bytes_per_posting": size / index.n_postings,
    }


def opened(folder: Path, queries: csr_array, k: int) -> dict[str, float]:
    """Open an index and ask it queries one at a time; return seconds, and memory after opening and after searching."""
    start = time.perf_counter()
    index = BM25Index.load(folder, verify=False)
    facts = {"open_s": time.perf_counter() - start, "open_gib": _peak_gib()}
    for row in range(queries.shape[0]):
        index.search_one(queries[[row]], k, threads=1)
    facts["search_gib"] = _peak_gib()
    start = time.perf_counter()
    BM25Index.load(folder)
    return facts | {"verified_s": time.perf_counter() - start}


def _alone(function: Callable[..., dict], *arguments) -> dict[str, float]:
    """Call a function in a new process, whose memory is its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def table(
    sentences: Sentences, queries: csr_array, constants: BM25Constants, sizes: Iterable[int], k: int
) -> Iterator[dict[str, float | str]]:
    """Yield a row for each number of documents and form of impacts."""
    for n_docs in sizes:
        for impacts in FORMS:
            with TemporaryDirectory() as folder:
                place = Path(folder) / "index"
                facts = _alone(built, sentences, constants, n_docs, impacts, place)
                yield {"n_docs": n_docs, "impacts": impacts, **facts, **_alone(opened, place, queries, k)}


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m lib.benchmarks.memory", description=__doc__)
    add = parser.add_argument
    add("--model", help="What LatentTerms.load takes; by default the packaged model.")
    add("--collection", default="pydoc", help="Collection of the sentences and queries.")
    add("--texts", type=int, default=2_000, help="Number of its documents to grow corpora from, evenly spaced.")
    add("--sizes", type=int, nargs="+", default=[100_000, 1_000_000], help="Numbers of documents of grown corpora.")
    add("--queries", type=int, default=50, help="Number of queries.")
    add("--k", type=int, default=100, help="Number of documents to retrieve.")
    add("--out", type=Path, help="CSV file for the table.")
    args = parser.parse_args()
    log_to_stderr()
    model, collection = LatentTerms.load(args.model), load_collection(args.collection)
    queries = model.encode_queries(collection.query_texts[: check_count(args.queries, "queries")])
    sentences = encode_sentences(model, spread(collection.doc_texts, args.texts))
    rows = []
    for row in table(sentences, queries, model.bm25, args.sizes, args.k):
        rows.append(row)
        print(pd.DataFrame([row]).round(3).to_string(index=False), flush=True)
        if args.out:  # after each index: a larger one may not fit
            pd.DataFrame(rows).to_csv(args.out, index=False)


if __name__ == "__main__":
    main()
