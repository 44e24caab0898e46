"""The studies of a model as it is: its vocabulary's shape, pruning, LIMIT's decay, what its families contribute.

Every figure that takes long is kept in the store under a key of all that decides it, so a killed run continues.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from lib.bm25.index import BM25Index
from lib.bm25.pruning import PRUNINGS as pruning_methods
from lib.bm25.ranking import Ranking
from lib.bm25.weighting import BM25Constants
from lib.data.collection import Collection, load_collection
from lib.evaluation.baselines import ANALYZER, LexicalBM25, analyze, dense_search
from lib.evaluation.measures import bootstrap_interval, per_query, summarise
from lib.evaluation.splade import Splade, splade_terms
from lib.inspect.vocabulary import ZipfFit, fit_zipf, growth, spaced_ranks, word_terms
from lib.latent_terms import LatentTerms
from lib.studies.encoded import EncodedCollection, encode_collection
from lib.studies.experiments import RetrievalConfig
from lib.support.checks import check_choice
from lib.support.folders import digest_arrays
from lib.support.store import Store

MEASURE = "nDCG@10"
LIMIT_MEASURES = ("R@10", "R@20", "R@100", "R@1000")
LIMIT_SYSTEMS = ("lexical BM25", "dense", "late interaction", "latent terms", "latent terms, tuned")
FREQUENT = 0.5  # a term is universal in a collection if more than this share of the documents has it


class Pruning(NamedTuple):
    """One way to make a term matrix smaller, and how far it goes."""

    kind: str
    value: float


UNPRUNED = Pruning("none", 1)
PRUNINGS = (
    UNPRUNED,
    *(Pruning("document top", n) for n in (25, 50, 100, 200, 400)),
    *(Pruning("document mass", share) for share in (0.5, 0.7, 0.8, 0.9, 0.95)),
    *(Pruning("document frequency", share) for share in (0.05, 0.1, 0.2, 0.3, 0.5)),
    *(Pruning("query top", n) for n in (10, 20, 40, 80)),
    *(Pruning("query mass", share) for share in (0.5, 0.7, 0.8, 0.9)),
)
LENGTHS_OF = (UNPRUNED, Pruning("document top", 100), Pruning("document top", 400))


def values_of(ranking: Ranking, collection: Collection, measures: Sequence[str]) -> np.ndarray:
    """Return each measure for each query of a collection, float64 [n_measures, n_queries]; own documents left out."""
    frame = per_query(ranking.exclude(collection.self_matches), collection.qrels, measures)
    return frame["value"].to_numpy().reshape(len(measures), len(collection.query_ids))


def summary_of(values: Mapping[str, np.ndarray], baseline: str) -> pd.DataFrame:
    """Return `measures.summarise` of one measure of one collection.

    `values` are each system's, float64 [n_queries], of the same queries in the same order.
    """
    frames = {
        system: pd.DataFrame({"query_id": np.arange(len(own)), "measure": MEASURE, "value": own})
        for system, own in values.items()
    }
    return summarise(frames, baseline, MEASURE)


class Vocabulary(NamedTuple):
    """A collection in terms of one vocabulary: occurrences [n_terms] int64, and its term matrices."""

    occurrences: np.ndarray
    docs: csr_array
    queries: csr_array


def zipf_study(
    model: LatentTerms,
    names: Iterable[str],
    n_resamples: int = 250,
    store: Store | None = None,
    splade: Splade | None = None,
) -> tuple[dict[str, pd.DataFrame], dict]:
    """Compare the latents with the words of `baselines.analyze` as vocabularies of each collection.

    An occurrence of a latent is a document token in which it is active, that of a word a place where it stands. With
    `splade` the words that it gives weights to are a third vocabulary, "SPLADE", of which an occurrence is a document:
    it keeps no more of a text's tokens than their largest weight.

    Returns
    -------
    dict of DataFrame
        "zipf": one row a collection and vocabulary: n_terms, n_occurrences, `fit_zipf` of the occurrences (exponent,
        low, high, xmin, n_tail, p) with tail_share (of the occurrences), heaps (the exponent of growth at the end),
        n_frequent (terms in more than half of the documents), n_once (in one), postings, and the queries' costs:
        query_terms, query_postings and query_share (of all postings; its interval over queries share_low, share_high),
        all means.
        "zipf_curves": rank, frequency and df_share, each sorted on its own.
        "zipf_growth": n_docs, n_terms.
    dict
        What the provenance of these should state.
    """
    store, tables = store or Store(), {"zipf": [], "zipf_curves": [], "zipf_growth": []}
    collections = [load_collection(name) for name in names]
    for collection in collections:
        compared = vocabularies(collection, encode_collection(model, collection, store))
        if splade is not None:
            docs, queries = splade_terms(splade, collection, store)
            compared["SPLADE"] = Vocabulary(document_frequency(docs), docs, queries)
        for kind, vocabulary in compared.items():
            label = {"collection": collection.full_name, "vocabulary": kind}
            for table, frame in _vocabulary_tables(vocabulary, n_resamples, store).items():
                tables[table].append(frame.assign(**label)[[*label, *frame.columns]])
    joined = {table: pd.concat(frames, ignore_index=True) for table, frames in tables.items()}
    third = {} if splade is None else {"splade": splade.identity}
    return joined, origin_of(model, collections, n_resamples=n_resamples, analyzer=ANALYZER, **third)


def origin_of(model: LatentTerms, collections: Iterable[Collection], **settings) -> dict:
    """Return what a study's provenance states: the model, its constants of BM25, the collections and `settings`."""
    identities = [collection.identity for collection in collections]
    return {"model": model.identity, "bm25": asdict(model.bm25), "collections": identities, **settings}


def vocabularies(collection: Collection, encoded: EncodedCollection) -> dict[str, Vocabulary]:
    """Return the collection in latents and in words."""
    docs, queries, _ = word_terms(analyze(collection.doc_texts), analyze(collection.query_texts))
    return {
        "latents": Vocabulary(encoded.firings, encoded.doc_terms, encoded.query_terms),
        "words": Vocabulary(docs.sum(axis=0, dtype=np.float64).astype(np.int64), docs, queries),
    }


def _vocabulary_tables(vocabulary: Vocabulary, n_resamples: int, store: Store) -> dict[str, pd.DataFrame]:
    docs, n_docs = vocabulary.docs, vocabulary.docs.shape[0]
    df = document_frequency(docs)
    occurrences = np.sort(vocabulary.occurrences[vocabulary.occurrences > 0])[::-1]
    fit = stored_fit(occurrences, n_resamples, store)
    postings = query_postings(df, vocabulary.queries)
    shares = postings / df.sum()
    row = {
        "n_terms": len(occurrences),
        "n_occurrences": occurrences.sum(),
        **fit._asdict(),
        "tail_share": occurrences[: fit.n_tail].sum() / occurrences.sum(),
        "heaps": (df == 1).sum() / (df > 0).sum(),
        "n_docs": n_docs,
        "n_frequent": (df > FREQUENT * n_docs).sum(),
        "n_once": (df == 1).sum(),
        "postings": df.sum(),
        "query_terms": np.diff(vocabulary.queries.indptr).mean(),
        "query_postings": postings.mean(),
        "query_share": shares.mean(),
    }
    row["share_low"], row["share_high"] = bootstrap_interval(shares)
    ranks, sizes = spaced_ranks(len(occurrences)), spaced_ranks(n_docs, 60)
    descending = np.sort(df)[::-1]
    curves = {"rank": ranks, "frequency": occurrences[ranks - 1], "df_share": descending[ranks - 1] / n_docs}
    return {
        "zipf": pd.DataFrame([row]),
        "zipf_curves": pd.DataFrame(curves),
        "zipf_growth": pd.DataFrame({"n_docs": sizes, "n_terms": growth(df, n_docs, sizes)}),
    }


def stored_fit(frequencies: np.ndarray, n_resamples: int, store: Store) -> ZipfFit:
    """Return `fit_zipf` of frequencies, int64 [n_terms], from the store if it is there."""

    def make() -> dict[str, np.ndarray]:
        return {"fit": np.array(fit_zipf(frequencies, n_resamples), np.float64)}

    key = {"frequencies": digest_arrays({"frequencies": frequencies}), "n_resamples": n_resamples, "seed": 0}
    key["interval"] = 2  # its form: widened to hold the exponent
    exponent, low, high, xmin, n_tail, p = store.get("zipf-fit", key, make)["fit"].tolist()
    return ZipfFit(exponent, low, high, int(xmin), int(n_tail), p)


def document_frequency(docs: csr_array) -> np.ndarray:
    """Return in how many documents each term has a weight, int64 [width]."""
    return np.bincount(docs.indices, minlength=docs.shape[1])


def query_postings(df: np.ndarray, queries: csr_array) -> np.ndarray:
    """Return how many postings each query makes a search read, the df of its terms summed up, int64 [n_queries]."""
    sums = np.concatenate([[0], np.cumsum(df[queries.indices])])
    return sums[queries.indptr[1:]] - sums[queries.indptr[:-1]]


def prune_terms(docs: csr_array, queries: csr_array, pruning: Pruning) -> tuple[csr_array, csr_array]:
    """Return documents and queries pruned as `pruning` says; one of the two is as it was."""
    check_choice(pruning.kind, {own.kind for own in PRUNINGS}, "pruning.kind")
    side, _, kind = pruning.kind.partition(" ")
    if side == "none":
        return docs, queries
    prune = pruning_methods[kind]
    amount = int(pruning.value) if kind == "top" else pruning.value
    return (prune(docs, amount), queries) if side == "document" else (docs, prune(queries, amount))


def pruning_study(
    model: LatentTerms, names: Iterable[str], prunings: Sequence[Pruning] = PRUNINGS, store: Store | None = None
) -> tuple[pd.DataFrame, pd.DataFrame, dict]:
    """Measure what pruning costs and saves, with the model's own constants of BM25.

    Returns
    -------
    DataFrame
        One row a collection and pruning: kind, value, nDCG@10 as `summarise` gives it against no pruning, postings
        and query_postings (mean), and both as shares of the unpruned (postings_share, query_share).
    DataFrame
        The posting lists' lengths: collection, kind, value, rank, df, longest first, for no pruning and for 100 and
        400 latents a document.
    dict
        What the provenance of these should state.
    """
    store, tables, lengths = store or Store(), [], []
    collections = [load_collection(name) for name in names]
    for collection in collections:
        encoded = encode_collection(model, collection, store)
        found = [_pruned(model, collection, encoded, own, store) for own in prunings]
        values = {str(number): arrays["values"] for number, arrays in enumerate(found)}
        table = summary_of(values, str(list(prunings).index(UNPRUNED))).drop(columns="system")
        label = {"collection": collection.full_name}
        table[["kind", "value"]] = list(prunings)
        table["postings"] = [arrays["df"].sum() for arrays in found]
        table["query_postings"] = [arrays["query_postings"].mean() for arrays in found]
        for own, arrays in zip(prunings, found, strict=True):
            if own in LENGTHS_OF:
                df = np.sort(arrays["df"][arrays["df"] > 0])[::-1]
                ranks = spaced_ranks(len(df), 200)
                lengths.append(pd.DataFrame(label | own._asdict() | {"rank": ranks, "df": df[ranks - 1]}))
        for what, share in (("postings", "postings_share"), ("query_postings", "query_share")):
            table[share] = table[what] / table.loc[table["kind"] == UNPRUNED.kind, what].item()
        tables.append(table.assign(**label))
    first = ["collection", "kind", "value"]
    table = pd.concat(tables, ignore_index=True)
    table = table[[*first, *table.columns.drop(first)]]
    origin = origin_of(model, collections, prunings=[own._asdict() for own in prunings])
    return table, pd.concat(lengths, ignore_index=True), origin


def _pruned(
    model: LatentTerms, collection: Collection, encoded: EncodedCollection, pruning: Pruning, store: Store
) -> dict[str, np.ndarray]:
    def make() -> dict[str, np.ndarray]:
        docs, queries = prune_terms(encoded.doc_terms, encoded.query_terms, pruning)
        ranking = model.index(docs, collection.doc_ids).search(queries, collection.query_ids, 11)
        (values,) = values_of(ranking, collection, [MEASURE])
        df = document_frequency(docs)
        return {"values": values, "df": df, "query_postings": query_postings(df, queries)}

    key = {"model": model.identity, "bm25": asdict(model.bm25), "collection": collection.identity}
    return store.get("pruned", key | {"pruning": list(pruning), "measure": MEASURE}, make)


def limit_study(model: LatentTerms, names: Sequence[str], store: Store | None = None) -> tuple[pd.DataFrame, dict]:
    """Measure recall on LIMIT as its haystack grows; the needles and the queries stay the same.

    Parameters
    ----------
    names : sequence of str
        LIMIT in several sizes, smallest first, with the same queries: "limit/46", "limit/1000", "limit".

    Returns
    -------
    DataFrame
        One row a size, measure and system: n_docs, measure, and the columns of `summarise` against dense; kept, the
        share of the smallest collection's recall that is left here, with its interval over queries (kept_low,
        kept_high).
    dict
        What its provenance should state.

    Raises
    ------
    ValueError
        If the collections do not have the same queries.
    """
    store, collections = store or Store(), [load_collection(name) for name in names]
    for collection in collections:
        if collection.identity["queries_sha256"] != collections[0].identity["queries_sha256"]:
            raise ValueError(f"{collection.full_name} has other queries than {collections[0].full_name}.")
    found = [_limit_values(model, collection, store) for collection in collections]
    rows = []
    for collection, values in zip(collections, found, strict=True):
        for number, measure in enumerate(LIMIT_MEASURES):
            own = {system: values[system][number] for system in LIMIT_SYSTEMS}
            table = summary_of(own, "dense").assign(n_docs=len(collection.doc_ids), measure=measure)
            kept = [_kept(found[0][system][number], own[system]) for system in table["system"]]
            table[["kept", "kept_low", "kept_high"]] = kept
            rows.append(table)
    table = pd.concat(rows, ignore_index=True)
    first = ["n_docs", "measure", "system"]
    return table[[*first, *table.columns.drop(first)]], origin_of(model, collections, analyzer=ANALYZER)


def _limit_values(model: LatentTerms, collection: Collection, store: Store) -> dict[str, np.ndarray]:
    config = RetrievalConfig(depth=1000, measures=LIMIT_MEASURES)

    def make() -> dict[str, np.ndarray]:
        rankings = _limit_rankings(model, collection, encode_collection(model, collection, store, config.depth), config)
        return {system: values_of(ranking, collection, LIMIT_MEASURES) for system, ranking in rankings}

    key = {"model": model.identity, "collection": collection.identity, "retrieval": asdict(config)}
    return store.get("limit", key | {"tuned": asdict(model.bm25), "analyzer": ANALYZER, "systems": LIMIT_SYSTEMS}, make)


def _limit_rankings(
    model: LatentTerms, collection: Collection, encoded: EncodedCollection, config: RetrievalConfig
) -> Iterator[tuple[str, Ranking]]:
    """Yield the rankings of `LIMIT_SYSTEMS`, one at a time: a thousand documents for each query are large."""
    doc_ids, query_ids, k = collection.doc_ids, collection.query_ids, config.depth
    lexical = LexicalBM25(collection.doc_texts, doc_ids, k1=config.lexical_k1, b=config.lexical_b)
    yield LIMIT_SYSTEMS[0], lexical.search(collection.query_texts, query_ids, k)
    yield LIMIT_SYSTEMS[1], dense_search(encoded.doc_embeddings, doc_ids, encoded.query_embeddings, query_ids, k)
    yield LIMIT_SYSTEMS[2], encoded.late
    paper = BM25Index.build(encoded.doc_terms, doc_ids, BM25Constants(config.k1, config.b, config.idf))
    yield LIMIT_SYSTEMS[3], paper.search(encoded.query_terms, query_ids, k)
    tuned = model.index(encoded.doc_terms, doc_ids)
    yield LIMIT_SYSTEMS[4], tuned.search(encoded.query_terms, query_ids, k)


def _kept(first: np.ndarray, now: np.ndarray, n_resamples: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """Return mean(now) / mean(first) with its percentile bootstrap interval, queries resampled in pairs."""
    picks = np.random.default_rng(seed).integers(len(first), size=(n_resamples, len(first)))
    ratios = now[picks].mean(axis=1) / np.maximum(first[picks].mean(axis=1), 1e-9)
    return (now.mean() / max(first.mean(), 1e-9), *np.quantile(ratios, [0.025, 0.975]))
