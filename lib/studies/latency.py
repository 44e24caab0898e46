"""Latency against quality: how long a search takes on a large corpus, and how well it ranks real collections."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from math import nan
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from threadpoolctl import threadpool_limits

from lib.benchmarks.encoding import spread
from lib.benchmarks.grown import draws, encode_sentences, sentences_of
from lib.benchmarks.search import grown_corpus, latencies
from lib.benchmarks.search_peers import HEAP_FACTOR, SEISMIC, Corpus, Engine, faiss_dense, ours, seismic
from lib.bm25.index import BM25Index
from lib.bm25.pruning import keep_top
from lib.bm25.ranking import Ranking
from lib.data.collection import Collection, load_collection
from lib.evaluation.baselines import LexicalBM25, analyze, dense_search
from lib.interop.engines.local import SeismicEngine
from lib.latent_terms import LatentTerms
from lib.studies.encoded import EncodedCollection, encode_collection
from lib.studies.model import MEASURE, values_of
from lib.studies.profiles import LatencySize
from lib.support.store import Store

GROWN_FROM = "pydoc/test"  # the corpus that is timed
DEPTH = 100  # documents that a timed query returns
N_RESAMPLES = 2_000


class Setting(NamedTuple):
    """What a point of the figure is: a kind, and how many latents of a document and of a query are kept, 0 for all."""

    kind: str
    doc_top: int = 0
    query_top: int = 0


EXACT, FLAT = Setting("exact"), Setting("dense, every document")
PRUNED = (
    EXACT,
    *(Setting("documents pruned", top) for top in (400, 200, 100, 50)),
    *(Setting("queries pruned", 0, top) for top in (80, 40, 20, 10)),
    *(Setting("both pruned", *tops) for tops in ((400, 80), (200, 40), (100, 20), (50, 10))),
)


def _kept(matrix: csr_array, top: int) -> csr_array:
    return keep_top(matrix, top) if top else matrix


def rankings(
    model: LatentTerms, collection: Collection, encoded: EncodedCollection, query_cuts: Sequence[int]
) -> dict[Setting, Ranking]:
    """Rank a collection with every setting of the figure.

    Pruned documents are indexed with the constants of the model; with Seismic installed, its approximate search too.
    """
    doc_ids, query_ids = collection.doc_ids, collection.query_ids
    whole, found = model.index(encoded.doc_terms, doc_ids), {}
    for setting in PRUNED:
        index = model.index(keep_top(encoded.doc_terms, setting.doc_top), doc_ids) if setting.doc_top else whole
        found[setting] = index.search(_kept(encoded.query_terms, setting.query_top), query_ids, 11)
    if query_cuts and find_spec("seismic"):
        engine = SeismicEngine(whole, **SEISMIC)
        for cut in query_cuts:
            how = {"query_cut": cut or None, "heap_factor": HEAP_FACTOR}
            found[Setting("Seismic", 0, cut)] = engine.search(
                encoded.query_terms, query_ids, min(11, len(doc_ids)), **how
            )
    dense = dense_search(encoded.doc_embeddings, doc_ids, encoded.query_embeddings, query_ids, 11)
    found[FLAT] = dense
    if find_spec("faiss"):
        vectors = encoded.doc_embeddings, encoded.query_terms, encoded.query_embeddings
        graph = faiss_dense(Corpus(whole, lambda: iter(()), *vectors), hnsw=True)
        ids = [graph.find(row, 11) for row in range(len(query_ids))]
        found[Setting("dense, HNSW")] = Ranking(query_ids, ids, [np.arange(len(own), 0.0, -1.0) for own in ids])
    found[Setting("lexical BM25")] = LexicalBM25(collection.doc_texts, doc_ids).search(
        collection.query_texts, query_ids, 11
    )
    return found


def quality(
    model: LatentTerms,
    names: Sequence[str],
    query_cuts: Sequence[int] = (),
    store: Store | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Return kind, doc_top, query_top and nDCG@10: the mean over collections of each one's mean over its queries.

    low and high are its 95 % bootstrap interval: queries are drawn within each collection. difference is to exact
    search, with difference_low and difference_high from the same draws. `limit` is left out unless it is all there is:
    it has another purpose, and differences that outweigh all others.
    """
    names = [name for name in names if not name.startswith("limit")] or list(names)
    values: dict[Setting, list[np.ndarray]] = {}
    for name in names:
        collection = load_collection(name)
        encoded = encode_collection(model, collection, store)
        for setting, ranking in rankings(model, collection, encoded, query_cuts).items():
            values.setdefault(setting, []).append(values_of(ranking, collection, [MEASURE])[0])
    rng, exact = np.random.default_rng(seed), values[EXACT]
    picks = [rng.integers(len(part), size=(N_RESAMPLES, len(part))) for part in exact]
    rows = []
    for setting, parts in values.items():
        row = {**setting._asdict(), MEASURE: np.mean([part.mean() for part in parts])}
        row["low"], row["high"] = _interval(parts, picks)
        if setting != EXACT:
            apart = [own - whole for own, whole in zip(parts, exact, strict=True)]
            row["difference"] = np.mean([part.mean() for part in apart])
            row["difference_low"], row["difference_high"] = _interval(apart, picks)
        rows.append(row)
    return pd.DataFrame(rows)


def _interval(parts: list[np.ndarray], picks: list[np.ndarray]) -> np.ndarray:
    """Return the 95 % interval of the mean over collections, given which queries of each are drawn."""
    drawn = [part[pick].mean(axis=1) for part, pick in zip(parts, picks, strict=True)]
    return np.quantile(np.mean(drawn, axis=0), [0.025, 0.975])


def word_corpus(texts: list[str], starts: np.ndarray, queries: list[str], n_docs: int) -> tuple[BM25Index, csr_array]:
    """Return the same grown documents as words, indexed with k1 = 1.2 and b = 0.75, and queries as words.

    Parameters
    ----------
    texts : list of str
        The sentences.
    starts : np.ndarray, int64
        As in `Sentences`.
    queries : list of str
    n_docs : int
    """
    words = analyze(texts)
    numbers = {word: number for number, word in enumerate(dict.fromkeys(word for text in words for word in text))}
    sentences, asked = (_counts(side, numbers) for side in (words, analyze(queries)))
    index = BM25Index.build(
        (picked @ sentences for picked in draws(starts, n_docs)), [f"d{i}" for i in range(n_docs)], k1=1.2, b=0.75
    )
    return index, asked


def _counts(texts: list[list[str]], numbers: dict[str, int]) -> csr_array:
    known = [[numbers[word] for word in text if word in numbers] for text in texts]
    indptr = np.cumsum([0, *map(len, known)])
    columns = np.array([number for text in known for number in text], np.int64)
    return csr_array((np.ones(len(columns), np.float32), columns, indptr), shape=(len(texts), len(numbers)))


def _dense_flat(corpus: Corpus) -> Engine:
    """Return the inner products of a query with every embedding, one thread."""
    doc_ids = np.array(corpus.index.doc_ids)

    def find(row: int, k: int) -> list[str]:
        with threadpool_limits(1):
            scores = corpus.embeddings @ corpus.query_embeddings[row]
        best = np.argpartition(-scores, min(k, len(scores) - 1))[:k]
        return doc_ids[best[np.argsort(-scores[best])]].tolist()

    return Engine(find, corpus.embeddings.nbytes, "")


def timings(model: LatentTerms, name: str, size: LatencySize) -> tuple[pd.DataFrame, dict]:
    """Return kind, doc_top, query_top and the latency of a query (median_ms, p95_ms), one thread, 100 documents.

    recall is what approximate search finds of the documents that exact search, or flat dense search, finds.

    Returns
    -------
    table : DataFrame
    facts : dict
        n_docs, and the postings of an average document and of what an average query reads.
    """
    real = load_collection(name)
    texts = spread(real.doc_texts, size.texts)
    sentences = encode_sentences(model, texts)
    queries = real.query_texts[: size.n_queries]
    corpus, _ = grown_corpus(model, sentences, queries, size.n_docs)
    blocks = list(corpus.terms())  # eight settings index them anew
    corpus = corpus._replace(terms=lambda: iter(blocks))
    split = [sentence for text in texts for sentence in sentences_of(text)]
    words, asked = word_corpus(split, sentences.starts, queries, size.n_docs)
    made: dict[Setting, Callable[[], Engine]] = {
        setting: lambda setting=setting: ours(_pruned(model, corpus, setting), 1) for setting in PRUNED
    }
    made[FLAT] = lambda: _dense_flat(corpus)
    made[Setting("lexical BM25")] = lambda: ours(corpus._replace(index=words, queries=asked), 1)
    if find_spec("faiss"):
        made[Setting("dense, HNSW")] = lambda: faiss_dense(corpus, hnsw=True)
    if size.query_cuts and find_spec("seismic"):
        built = SeismicEngine(corpus.index, **SEISMIC)
        for cut in size.query_cuts:
            made[Setting("Seismic", 0, cut)] = lambda cut=cut: seismic(built, corpus, cut)
    frames, truth = [], {}
    for setting, make in made.items():  # one at a time: twelve indexes at once would not fit a small machine
        engine = make()
        frame = latencies({"": engine}, len(queries), DEPTH, size.repeats)[["median_ms", "p95_ms"]]
        found = [set(engine.find(row, DEPTH)) for row in range(len(queries))]
        if setting in (EXACT, FLAT):
            truth[setting] = found
        same = truth.get({"Seismic": EXACT, "dense, HNSW": FLAT}.get(setting.kind), [])
        recall = np.mean([len(own & best) / len(best) for own, best in zip(found, same, strict=False)]) if same else nan
        frames.append(frame.assign(**setting._asdict(), recall=recall))
    facts = {
        "n_docs": size.n_docs,
        "postings_per_document": corpus.index.n_postings / size.n_docs,
        "postings_per_query": float(corpus.index.df[corpus.queries.indices].sum() / len(queries)),
    }
    return pd.concat(frames, ignore_index=True), facts


def _pruned(model: LatentTerms, corpus: Corpus, setting: Setting) -> Corpus:
    queries = _kept(corpus.queries, setting.query_top)
    if not setting.doc_top:
        return corpus._replace(queries=queries)
    blocks = (_kept(block, setting.doc_top) for block in corpus.terms())
    return corpus._replace(index=model.index(blocks, corpus.index.doc_ids), queries=queries)


def latency_study(
    model: LatentTerms, names: Sequence[str], size: LatencySize, store: Store | None = None
) -> tuple[pd.DataFrame, dict]:
    """Return a row for each setting, quality on the collections `names` and latency on a corpus grown from `pydoc`.

    Returns
    -------
    table : DataFrame
        kind, doc_top, query_top, nDCG@10, low, high, difference and its interval, median_ms, p95_ms, recall.
    facts : dict
        What the provenance should state, and see `timings`.
    """
    table, facts = timings(model, GROWN_FROM, size)
    table = quality(model, names, size.query_cuts, store).merge(table, on=list(Setting._fields))
    facts |= {"collections": list(names), "grown from": GROWN_FROM, "size": asdict(size)}
    return table, {"model": model.identity, "bm25": asdict(model.bm25), **facts}
