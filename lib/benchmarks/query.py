"""`python -m lib.benchmarks.query`: from a typed query to a ranking, and where the time goes.

A warm model and a warm index of real or grown documents (`lib.benchmarks.grown`) get queries as text, one or a few at a
time. `total` is one call of `encode_queries` and one of `search`; the stages are timed in a pass of their own, in which
the tokenizer runs twice and is taken off the retriever's time once. Nothing is kept between queries.
"""

import argparse
import os
import time
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import pandas as pd
import torch

from lib.benchmarks.encoding import spread
from lib.benchmarks.grown import encode_sentences, grow
from lib.bm25.index import BM25Index
from lib.bm25.pooling import apply_phi, pool
from lib.data.collection import load_collection
from lib.latent_terms import LatentTerms
from lib.support.checks import check_count
from lib.support.progress import log_to_stderr, progress

STAGES = ("tokenizer", "retriever", "autoencoder", "pooling", "search", "total")


def seconds_of(model: LatentTerms, index: BM25Index, texts: list[str], k: int, threads: int) -> dict[str, float]:
    """Return the seconds of each stage for queries that come together."""
    query_ids, encoder = [str(number) for number in range(len(texts))], model.encoder
    times = [time.perf_counter()]

    def note() -> None:
        times.append(time.perf_counter())

    list(encoder.token_ids(texts, "query"))
    note()
    (block,) = encoder.stream(texts, "query", progress=False)
    note()
    indices, values = (tensor.cpu().numpy() for tensor in model.sae.encode(block.states))
    note()
    terms = apply_phi(pool(indices, values, block.offsets, model.sae.width, model.pooling), model.phi)
    note()
    index.search(terms, query_ids, k, threads=threads)
    note()
    index.search(model.encode_queries(texts, progress=False), query_ids, k, threads=threads)
    note()
    seconds = dict(zip(STAGES, (end - start for start, end in pairwise(times)), strict=True))
    seconds["retriever"] = max(0.0, seconds["retriever"] - seconds["tokenizer"])
    return seconds


def table(
    model: LatentTerms,
    index: BM25Index,
    queries: list[str],
    together: Iterable[int],
    threads: Iterable[int],
    k: int,
    repeats: int,
) -> pd.DataFrame:
    """Return a row for each number of threads, of queries that come together, and stage: least, median and p95 in ms.

    Times are those of all queries that come together. A first turn is not counted. Where other work is on the machine,
    the least time says most.
    """
    rows, threads_before = [], torch.get_num_threads()
    cases = [(n_threads, size) for n_threads in threads for size in together]
    try:
        for n_threads, size in progress(cases, what="query", unit="cases", total=len(cases)):
            torch.set_num_threads(check_count(n_threads, "threads"))
            batches = [queries[first : first + size] for first in range(0, len(queries) - size + 1, size)]
            if not batches:
                raise ValueError(f"There are {len(queries)} queries, fewer than the {size} that come together.")
            turns = [[seconds_of(model, index, batch, k, n_threads) for batch in batches] for _ in range(repeats + 1)]
            seconds = pd.DataFrame([row for turn in turns[1:] for row in turn]) * 1e3
            facts = {"n_docs": len(index), "threads": n_threads, "queries": size}
            for stage in STAGES:
                least, median, p95 = seconds[stage].quantile([0, 0.5, 0.95])
                rows.append(facts | {"stage": stage, "least_ms": least, "median_ms": median, "p95_ms": p95})
    finally:
        torch.set_num_threads(threads_before)
    return pd.DataFrame(rows)


def indexes(model: LatentTerms, texts: list[str], sizes: Iterable[int]) -> Iterator[BM25Index]:
    """Yield an index of each size, of documents grown from the sentences of the texts."""
    sentences = encode_sentences(model, texts)
    for size in sizes:
        yield model.index((terms for terms, _ in grow(sentences, size)), [f"d{number}" for number in range(size)])


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m lib.benchmarks.query", description=__doc__)
    add = parser.add_argument
    add("--model", help="What LatentTerms.load takes; by default the packaged model.")
    add("--collection", default="pydoc", help="Collection of the sentences and queries.")
    add("--texts", type=int, default=2_000, help="Number of its documents to grow corpora from, evenly spaced.")
    add("--sizes", type=int, nargs="+", default=[100_000], help="Numbers of documents of grown corpora.")
    add("--k", type=int, default=100, help="Number of documents to retrieve.")
    add("--queries", type=int, default=64, help="Number of queries.")
    add("--together", type=int, nargs="+", default=[1, 4, 16], help="Numbers of queries that come together.")
    add("--threads", type=int, nargs="+", default=[1, 2], help="Numbers of threads.")
    add("--repeats", type=int, default=3, help="Turns that are measured.")
    add("--out", type=Path, help="CSV file for the table.")
    args = parser.parse_args()
    log_to_stderr()
    model, collection = LatentTerms.load(args.model), load_collection(args.collection)
    queries = collection.query_texts[: check_count(args.queries, "queries")]
    n_tokens = pd.Series([len(ids) for ids in model.encoder.token_ids(queries, "query")]).median()
    load = f"load average before {os.getloadavg()[0]:.1f}"
    print(f"{model}, {len(queries)} queries, median {n_tokens:.0f} tokens with special ones, {load}")
    frames = []
    for index in indexes(model, spread(collection.doc_texts, args.texts), args.sizes):
        frames.append(table(model, index, queries, args.together, args.threads, args.k, args.repeats))
        print(frames[-1].round(2).to_string(index=False), flush=True)
        if args.out:  # after each corpus: a larger one may not fit in memory
            pd.concat(frames, ignore_index=True).to_csv(args.out, index=False)


if __name__ == "__main__":
    main()
