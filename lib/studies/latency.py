"""Latency against quality: how long a search takes on a large corpus, and how well it ranks real collections."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from math import nan
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from threadpoolctl import threadpool_limits

from lib.benchmarks.encoding import spread
from lib.benchmarks.grown import draws, encode_sentences, sentences_of
from lib.benchmarks.search import grown_corpus, latencies, learned_corpus
from lib.benchmarks.search_peers import HEAP_FACTOR, SEISMIC, Corpus, Engine, faiss_dense, ours, seismic
from lib.bm25.index import BM25Index
from lib.bm25.pruning import keep_top
from lib.bm25.ranking import Ranking
from lib.bm25.weighting import INNER_PRODUCT
from lib.data.collection import Collection, load_collection
from lib.evaluation.baselines import analyze, dense_search, inner_product_search
from lib.evaluation.splade import Splade, splade_terms
from lib.inspect.vocabulary import word_terms
from lib.interop.engines.local import SeismicEngine
from lib.latent_terms import LatentTerms
from lib.studies import names as kinds
from lib.studies.comparison import averages_of, lexical_ranking, values_of
from lib.studies.encoded import EncodedCollection, encode_collection
from lib.studies.profiles import LatencySize
from lib.studies.retrieval import given_splade
from lib.support.store import Store

GROWN_FROM = "pydoc/test"  # the corpus that is timed
DEPTH = 100  # documents that a timed query returns
inner_product_index = partial(BM25Index.build, constants=INNER_PRODUCT)


class Setting(NamedTuple):
    """A point of the figure: a way to search, and how many latents of a document and of a query it keeps, 0 for all."""

    kind: str
    doc_top: int = 0
    query_top: int = 0


EXACT, FLAT = Setting(kinds.EXACT), Setting(kinds.FLAT)
HNSW, LEXICAL = Setting(kinds.HNSW), Setting(kinds.LEXICAL)
PRUNED = (
    EXACT,
    *(Setting(kinds.PRUNED_DOCUMENTS, top) for top in (400, 200, 100, 50)),
    *(Setting(kinds.PRUNED_QUERIES, 0, top) for top in (80, 40, 20, 10)),
    *(Setting(kinds.PRUNED_BOTH, *tops) for tops in ((400, 80), (200, 40), (100, 20), (50, 10))),
)
PRUNED_SPLADE = tuple(setting._replace(kind=kinds.of_splade(setting.kind)) for setting in PRUNED)


def rankings(
    model: LatentTerms, collection: Collection, encoded: EncodedCollection, query_cuts: Sequence[int]
) -> dict[Setting, Ranking]:
    """Rank a collection with every setting of the figure, approximate search where its package is installed.

    Pruned documents are indexed with the constants of the model.
    """
    doc_ids, query_ids, queries = collection.doc_ids, collection.query_ids, encoded.query_terms
    exact, ranked = model.index(encoded.doc_terms, doc_ids), {}
    for setting in PRUNED:
        index = model.index(keep_top(encoded.doc_terms, setting.doc_top), doc_ids) if setting.doc_top else exact
        ranked[setting] = index.search(_pruned(queries, setting.query_top), query_ids, 11)
    if query_cuts and find_spec("seismic"):
        engine, k = SeismicEngine(exact, **SEISMIC), min(11, len(doc_ids))
        for cut in query_cuts:
            setting = Setting(kinds.SEISMIC, 0, cut)
            ranked[setting] = engine.search(queries, query_ids, k, query_cut=cut or None, heap_factor=HEAP_FACTOR)
    ranked[FLAT] = dense_search(encoded.doc_embeddings, doc_ids, encoded.query_embeddings, query_ids, 11)
    if find_spec("faiss"):
        corpus = Corpus(exact, lambda: iter(()), encoded.doc_embeddings, queries, encoded.query_embeddings)
        graph = faiss_dense(corpus, hnsw=True)
        ids = [graph.find(row, 11) for row in range(len(query_ids))]
        ranked[HNSW] = Ranking(query_ids, ids, [np.arange(len(row), 0.0, -1.0) for row in ids])
    ranked[LEXICAL] = lexical_ranking(collection, 11)
    return ranked


def splade_rankings(splade: Splade, collection: Collection, store: Store | None) -> dict[Setting, Ranking]:
    """Rank a collection by the inner product of SPLADE's terms, pruned as latent terms are."""
    docs, queries = splade_terms(splade, collection, store)
    ids = (collection.doc_ids, collection.query_ids)
    ranked = {}
    for setting in PRUNED_SPLADE:
        pruned = _pruned(docs, setting.doc_top), _pruned(queries, setting.query_top)
        ranked[setting] = inner_product_search(pruned[0], ids[0], pruned[1], ids[1], 11)
    return ranked


def quality(
    model: LatentTerms,
    names: Sequence[str],
    query_cuts: Sequence[int] = (),
    store: Store | None = None,
    splade: Splade | None = None,
) -> pd.DataFrame:
    """Return kind, doc_top, query_top and nDCG@10 as `averages_of` gives it over the collections, against exact search.

    `limit` is left out unless there is no other collection: it has another purpose, and its differences are larger
    than all others. What a collection gives is kept in the store: an approximate index takes minutes to build, and the
    timings may have to be made again.
    """
    values, store = [], store or Store()
    peers = {name: find_spec(name) is not None for name in ("seismic", "faiss")}
    for name in [name for name in names if not kinds.is_limit(name)] or names:
        collection = load_collection(name)

        def make(collection: Collection = collection) -> dict[str, np.ndarray]:
            ranked = rankings(model, collection, encode_collection(model, collection, store), query_cuts)
            ranked |= splade_rankings(splade, collection, store) if splade else {}
            settings, of_each = zip(*ranked.items(), strict=True)
            arrays = {field: np.array([getattr(setting, field) for setting in settings]) for field in Setting._fields}
            return arrays | {"values": np.array([values_of(ranking, collection)[0] for ranking in of_each])}

        key = {"model": model.identity, "bm25": asdict(model.bm25), "collection": collection.identity}
        key |= {"splade": splade and splade.identity, "query_cuts": query_cuts, "peers": peers, "settings": PRUNED}
        part = store.get("latency", key | {"seismic": SEISMIC, "heap_factor": HEAP_FACTOR}, make)
        settings = zip(*(part[field].tolist() for field in Setting._fields), strict=True)
        values.append({Setting(*fields): row for fields, row in zip(settings, np.array(part["values"]), strict=True)})
    table = averages_of(values, EXACT).rename(columns={"mean": kinds.MEASURE})
    settings = pd.DataFrame(table.pop("system").tolist(), columns=Setting._fields)
    return pd.concat([settings, table], axis=1)


def word_corpus(texts: list[str], starts: np.ndarray, queries: list[str], n_docs: int) -> tuple[BM25Index, csr_array]:
    """Return the same grown documents as words, indexed with k1 = 1.2 and b = 0.75, and queries as words.

    `texts` are the sentences, `starts` as in `Sentences`.
    """
    sentences, query_terms = word_terms(analyze(texts), analyze(queries))
    docs = (chosen @ sentences for chosen in draws(starts, n_docs))
    return BM25Index.build(docs, [f"d{i}" for i in range(n_docs)], k1=1.2, b=0.75), query_terms


def _dense_flat(corpus: Corpus) -> Engine:
    """Return search by the inner products of a query with every embedding, in one thread."""
    doc_ids = np.array(corpus.index.doc_ids)

    def find(row: int, k: int) -> list[str]:
        with threadpool_limits(1):
            scores = corpus.embeddings @ corpus.query_embeddings[row]
        best = np.argpartition(-scores, min(k, len(scores) - 1))[:k]
        return doc_ids[best[np.argsort(-scores[best])]].tolist()

    return Engine(find, corpus.embeddings.nbytes, "")


def timings(
    model: LatentTerms, name: str, size: LatencySize, splade: Splade | None = None
) -> tuple[pd.DataFrame, dict]:
    """Return kind, doc_top, query_top and the times of `latencies` (*_ms, ms_*), one thread, 100 documents.

    recall is the share that approximate search finds of the documents of exact search, or of flat dense search. The
    dict has n_docs, and the postings of an average document and of what an average query reads; of SPLADE's terms, too.
    """
    collection = load_collection(name)
    texts = spread(collection.doc_texts, size.texts)
    queries = collection.query_texts[: size.n_queries]
    sentences = encode_sentences(model, texts)
    corpus, _ = grown_corpus(model, sentences, queries, size.n_docs)
    blocks = list(corpus.terms())  # eight settings index them again
    corpus = corpus._replace(terms=lambda: iter(blocks))
    engines = {setting: partial(_pruned_engine, model.index, corpus, setting) for setting in PRUNED}
    engines[FLAT] = partial(_dense_flat, corpus)
    split = [sentence for text in texts for sentence in sentences_of(text)]
    words, word_queries = word_corpus(split, sentences.starts, queries, size.n_docs)
    engines[LEXICAL] = partial(ours, corpus._replace(index=words, queries=word_queries), 1)
    if splade:
        rows = splade.encode_documents(split), splade.encode_queries(queries)
        of_splade, _ = learned_corpus(rows[0], sentences.starts, rows[1], size.n_docs)
        engine_of = partial(_pruned_engine, inner_product_index, of_splade)
        engines |= {setting: partial(engine_of, setting) for setting in PRUNED_SPLADE}
    if find_spec("faiss"):
        engines[HNSW] = partial(faiss_dense, corpus, hnsw=True)
    if size.query_cuts and find_spec("seismic"):
        built = SeismicEngine(corpus.index, **SEISMIC)
        engines |= {Setting(kinds.SEISMIC, 0, cut): partial(seismic, built, corpus, cut) for cut in size.query_cuts}
    frames, exact = [], {}
    for setting, build in engines.items():  # one at a time: twelve indexes at once would not fit a small machine
        engine = build()
        frame = latencies({"": engine}, len(queries), DEPTH, size.repeats)[["median_ms", "ms_low", "ms_high", "p95_ms"]]
        results = [set(engine.find(row, DEPTH)) for row in range(len(queries))]
        if setting in (EXACT, FLAT):
            exact[setting.kind] = results
        wanted = exact.get({kinds.SEISMIC: kinds.EXACT, kinds.HNSW: kinds.FLAT}.get(setting.kind))
        shares = [len(docs & best) / len(best) for docs, best in zip(results, wanted or results, strict=True)]
        frames.append(frame.assign(**setting._asdict(), recall=np.mean(shares) if wanted else nan))
    facts = {"n_docs": size.n_docs, **_postings(corpus)}
    if splade:
        facts |= {f"splade_{name}": number for name, number in _postings(of_splade).items()}
    return pd.concat(frames, ignore_index=True), facts


def _postings(corpus: Corpus) -> dict[str, float]:
    """Return the postings of an average document, and of what an average query reads."""
    index, queries = corpus.index, corpus.queries
    read = float(index.df[queries.indices].sum() / queries.shape[0])
    return {"postings_per_document": index.n_postings / len(index), "postings_per_query": read}


def _pruned_engine(build: Callable[..., BM25Index], corpus: Corpus, setting: Setting) -> Engine:
    index = corpus.index
    if setting.doc_top:
        index = build((keep_top(block, setting.doc_top) for block in corpus.terms()), index.doc_ids)
    return ours(corpus._replace(index=index, queries=_pruned(corpus.queries, setting.query_top)), 1)


def _pruned(matrix: csr_array, n: int) -> csr_array:
    return keep_top(matrix, n) if n else matrix


def latency_study(
    model: LatentTerms, names: Sequence[str], size: LatencySize, store: Store | None = None
) -> tuple[pd.DataFrame, dict]:
    """Return a row a setting with the columns of `quality` and `timings`, and what the provenance states.

    SPLADE's terms are searched, too, as `given_splade` says.
    """
    splade = given_splade()
    table, facts = timings(model, GROWN_FROM, size, splade)
    table = quality(model, names, size.query_cuts, store, splade).merge(table, on=list(Setting._fields))
    facts |= {"collections": list(names), "grown from": GROWN_FROM, "size": asdict(size)}
    return table, {"model": model.identity, "bm25": asdict(model.bm25), "splade": splade and splade.identity, **facts}
