"""`python -m lib.benchmarks.query`: from a typed query to a ranking, and where the time goes.

A warm model and a warm index of grown documents (`lib.benchmarks.grown`) get queries as text, one or a few at a time.
`total` is one call of `encode_queries` and one of `search`; the stages are timed in a pass of their own, in which the
tokenizer runs twice and is taken off the retriever's time once. Nothing is kept between queries. With `--searcher` the
ranking is that of `python -m lib search`: by latents, words and embeddings, every document's score in one thread.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_array, hstack

from lib.benchmarks.encoding import spread
from lib.benchmarks.grown import draws, encode_sentences, grow, sentences_of
from lib.bm25.index import BM25Index
from lib.bm25.pooling import apply_phi, pool
from lib.data.collection import load_collection
from lib.evaluation.baselines import Words
from lib.latent_terms import LatentTerms
from lib.searcher import Searcher
from lib.support.checks import check_count
from lib.support.progress import log_to_stderr, progress

STAGES = ("tokenizer", "retriever", "autoencoder", "pooling", "search", "total")


class Ranker(NamedTuple):
    """What ranks `n_docs` documents: `rank` takes what a pass gives of queries, `whole` their texts alone.

    Both take the texts, k and a number of threads last.
    """

    n_docs: int
    rank: Callable
    whole: Callable


def by_latents(model: LatentTerms, index: BM25Index) -> Ranker:
    """Return search by latents alone."""

    def rank(terms: csr_array, embeddings: np.ndarray, texts: list[str], k: int, threads: int) -> None:
        index.search(terms, _ids(texts), k, threads=threads)

    def whole(texts: list[str], k: int, threads: int) -> None:
        index.search(model.encode_queries(texts, progress=False), _ids(texts), k, threads=threads)

    return Ranker(len(index), rank, whole)


def by_all(searcher: Searcher) -> Ranker:
    """Return search by latents, words and embeddings."""

    def rank(terms: csr_array, embeddings: np.ndarray, texts: list[str], k: int, threads: int) -> None:
        rows = hstack([terms, searcher.words.encode(texts)], format="csr")
        searcher.search_encoded(rows, embeddings, _ids(texts), k)

    def whole(texts: list[str], k: int, threads: int) -> None:
        searcher.search(texts, _ids(texts), k, progress=False)

    return Ranker(len(searcher), rank, whole)


def _ids(texts: list[str]) -> list[str]:
    return [str(number) for number in range(len(texts))]


def seconds_of(model: LatentTerms, ranker: Ranker, texts: list[str], k: int, threads: int) -> dict[str, float]:
    """Return the seconds of each stage for queries that come together."""
    encoder = model.encoder
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
    ranker.rank(terms, block.pooled, texts, k, threads)
    note()
    ranker.whole(texts, k, threads)
    note()
    seconds = dict(zip(STAGES, (end - start for start, end in pairwise(times)), strict=True))
    seconds["retriever"] = max(0.0, seconds["retriever"] - seconds["tokenizer"])
    return seconds


def table(
    model: LatentTerms,
    ranker: Ranker,
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
            turns = [[seconds_of(model, ranker, batch, k, n_threads) for batch in batches] for _ in range(repeats + 1)]
            seconds = pd.DataFrame([row for turn in turns[1:] for row in turn]) * 1e3
            facts = {"n_docs": ranker.n_docs, "threads": n_threads, "queries": size}
            for stage in STAGES:
                least, median, p95 = seconds[stage].quantile([0, 0.5, 0.95])
                rows.append(facts | {"stage": stage, "least_ms": least, "median_ms": median, "p95_ms": p95})
    finally:
        torch.set_num_threads(threads_before)
    return pd.DataFrame(rows)


def rankers(model: LatentTerms, texts: list[str], sizes: Iterable[int], all_parts: bool = False) -> Iterator[Ranker]:
    """Yield search in each number of documents, grown from the sentences of the texts; by all parts, or by latents."""
    sentences = encode_sentences(model, texts)
    split = [sentence for text in texts for sentence in sentences_of(text)]
    words = Words.of(split)
    for size in sizes:
        doc_ids = [f"d{number}" for number in range(size)]
        if not all_parts:
            yield by_latents(model, model.index((terms for terms, _ in grow(sentences, size)), doc_ids))
            continue
        of_sentences = words.encode(split)
        counts = (chosen @ of_sentences for chosen in draws(sentences.starts, size))
        blocks = ((terms, rows, vectors) for (terms, vectors), rows in zip(grow(sentences, size), counts, strict=True))
        yield by_all(Searcher.of_blocks(model, blocks, words, doc_ids))


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
    add("--searcher", action="store_true", help="Rank by latents, words and embeddings, as python -m lib search.")
    add("--out", type=Path, help="CSV file for the table.")
    args = parser.parse_args()
    log_to_stderr()
    model, collection = LatentTerms.load(args.model), load_collection(args.collection)
    queries = collection.query_texts[: check_count(args.queries, "queries")]
    n_tokens = pd.Series([len(ids) for ids in model.encoder.token_ids(queries, "query")]).median()
    load = f"load average before {os.getloadavg()[0]:.1f}"
    print(f"{model}, {len(queries)} queries, median {n_tokens:.0f} tokens with special ones, {load}")
    frames = []
    for ranker in rankers(model, spread(collection.doc_texts, args.texts), args.sizes, args.searcher):
        frames.append(table(model, ranker, queries, args.together, args.threads, args.k, args.repeats))
        print(frames[-1].round(2).to_string(index=False), flush=True)
        if args.out:  # after each corpus: a larger one may not fit in memory
            pd.concat(frames, ignore_index=True).to_csv(args.out, index=False)


if __name__ == "__main__":
    main()
