"""The table of Latent Terms: retrievers with their own ranking, and with latent terms, mean over seeds.

The collections may have millions of documents. They are read `SHARD` at a time, once for a retriever's own ranking and
once for all of its autoencoders; what is kept of them are rankings, so that a killed run continues.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import cache, partial
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from lib.bm25.index import BM25Index
from lib.bm25.pooling import apply_phi
from lib.bm25.ranking import Ranking, top_k
from lib.bm25.weighting import PAPER
from lib.data.collection import Collection, load_collection
from lib.encode.encoder import TokenEncoder
from lib.evaluation.baselines import ANALYZER, LexicalBM25
from lib.evaluation.late_interaction import MaxSim
from lib.evaluation.splade import Splade
from lib.latent_terms import LatentTerms
from lib.studies.experiments import RetrievalConfig
from lib.studies.inputs import Setting
from lib.studies.model import LIMIT_MEASURES, MEASURE, summary_of, values_of
from lib.studies.names import LATENT, LEXICAL, SPLADE
from lib.studies.profiles import Backbone, BackboneTable
from lib.studies.readings import Reading, pooled_terms
from lib.studies.sweeps import Recipe, autoencoders
from lib.support.checks import repeats
from lib.support.devices import training_device
from lib.support.folders import digest_json
from lib.support.store import SHARD, Store

_GPU_BATCH = 16_384  # tokens of a forward pass


class Best(NamedTuple):
    """Each query's best documents, best first: their positions and scores, [n_queries, k] each."""

    docs: np.ndarray
    scores: np.ndarray


def encoder_of(backbone: Backbone) -> TokenEncoder:
    """Return a retriever at its final layer and 512 tokens a text, or its own limit if that is less."""
    batch = {"batch_tokens": _GPU_BATCH} if training_device().type == "cuda" else {}
    prompts = {"query_prompt": backbone.query_prompt, "document_prompt": backbone.document_prompt}
    return TokenEncoder(backbone.model, **prompts, max_length=512, **batch)


def models(setting: Setting, backbone: Backbone, store: Store) -> list[LatentTerms]:
    """Return a retriever's latent terms, one model a seed; what is not in the store is trained from one pass."""
    encoder, size = encoder_of(backbone), setting.size
    configs = [replace(setting.config, seed=seed) for seed in range(size.n_seeds)]
    recipes = [Recipe(encoder, setting.corpus, size.tokens, config) for config in configs]
    return [LatentTerms(encoder, sae) for sae in autoencoders(recipes, store)]


def backbone_table(
    setting: Setting, table: BackboneTable, store: Store | None = None
) -> tuple[pd.DataFrame, list[str], dict]:
    """Rank every collection with words, SPLADE, and each retriever as it is and in latent terms.

    Latent terms have the paper's constants of BM25. Measured is nDCG@10, on LIMIT recall at 10, 20, 100 and 1000.

    Returns
    -------
    DataFrame
        One row a collection, measure, backbone and system ("lexical BM25", "SPLADE" if it is to be had, the
        retriever's own "dense" or "late interaction", "latent terms"): mean with its 95 % bootstrap interval over
        queries (low, high); against the retriever's own ranking difference, difference_low, difference_high, p and
        p_holm as in `measures.summarise`. Each query's value of latent terms is its mean over seeds; of their number
        (seeds) and of the standard deviation of their means (seed_sd) there are columns. And n_docs and n_queries.
    list of str
        What is left out, and why.
    dict
        What the provenance should state.

    Raises
    ------
    ValueError
        Before anything is computed: for an unknown collection, two of one name, and one with a single query.
    """
    store = store or Store()
    collections = [load_collection(name) for name in table.collections] or list(setting.collections)
    for name in repeats(collection.full_name for collection in collections):
        raise ValueError(f"Two collections are called {name!r}; name each once.")
    for collection in collections:
        if len(collection.query_ids) < 2:
            raise ValueError(f"{collection.full_name} has one judged query; comparing systems takes at least two.")
    others, notes, origins = {c.full_name: {LEXICAL: _values([_lexical(c, store)], c)} for c in collections}, [], {}
    if table.splade is not None:
        try:
            splade = Splade(table.splade)
        except OSError as error:
            notes.append(f"Left out: {error}")
        else:
            for collection in collections:
                others[collection.full_name][SPLADE] = _values([_splade(splade, collection, store)], collection)
    parts = []
    for backbone in table.backbones:
        trained = models(setting, backbone, store)
        origins[backbone.name] = [model.identity for model in trained]
        for collection in collections:
            print(f"{backbone.name}, {len(trained)} seeds: {collection.full_name}", flush=True)
            own, ranking = _own(trained[0].encoder, collection, store)
            latent = _values(_latent(trained, collection, store), collection)
            values = {own: _values([ranking], collection), LATENT: latent} | others[collection.full_name]
            parts.append(_compared(values, own, collection).assign(backbone=backbone.name))
    first = ["collection", "n_docs", "n_queries", "measure", "backbone", "system"]
    rows = pd.concat(parts, ignore_index=True)
    origin = setting.origin | {"collections": [collection.identity for collection in collections]}
    origin |= {"backbones": origins, "bm25": asdict(PAPER), "lexical analyzer": ANALYZER, "left out": notes}
    return rows[[*first, *rows.columns.drop(first)]], notes, origin


def _measures(collection: Collection) -> tuple[str, ...]:
    return LIMIT_MEASURES if collection.name.startswith("limit") else (MEASURE,)


def _depth(collection: Collection) -> int:
    """Return how many documents the measures take, and one more, as a query's own document is left out."""
    return 1 + max(int(measure.partition("@")[2]) for measure in _measures(collection))


def _values(runs: list[Ranking], collection: Collection) -> np.ndarray:
    """Return each run's measures, float64 [n_runs, n_measures, n_queries]."""
    return np.stack([values_of(ranking, collection, _measures(collection)) for ranking in runs])


def _compared(values: dict[str, np.ndarray], own: str, collection: Collection) -> pd.DataFrame:
    """Return the rows of one backbone and collection; a query's value is its mean over the system's runs."""
    parts = []
    for number, measure in enumerate(_measures(collection)):
        means = {system: runs[:, number].mean(axis=0) for system, runs in values.items()}
        seeds = values[LATENT][:, number].mean(axis=1)
        spread = {"seeds": len(seeds), "seed_sd": seeds.std(ddof=1) if len(seeds) > 1 else np.nan}
        part = summary_of(means, own).join(pd.DataFrame([spread], index=[LATENT]), on="system")
        counts = {"n_docs": len(collection.doc_ids), "n_queries": len(collection.query_ids)}
        parts.append(part.assign(measure=measure, collection=collection.full_name, **counts))
    return pd.concat(parts, ignore_index=True)


def _key(collection: Collection, **what) -> dict:
    """Return the store's key of a ranking."""
    digests = [collection.identity[f"{side}_sha256"] for side in ("documents", "queries")]
    return what | {"texts": digests, "k": _depth(collection)}


def _ranking(collection: Collection, best: Best) -> Ranking:
    return Ranking(collection.query_ids, [[collection.doc_ids[i] for i in row] for row in best.docs], list(best.scores))


def _kept(collection: Collection, key: dict, rank: Callable[[], Ranking], store: Store) -> Ranking:
    """Return a ranking out of the store, which knows documents by position; made if it is not there."""

    def make() -> dict[str, np.ndarray]:
        position, ranking = {doc: i for i, doc in enumerate(collection.doc_ids)}, rank()
        docs = [[position[doc] for doc in row] for row in ranking.doc_ids]
        return Best(np.array(docs), np.array(ranking.scores))._asdict()

    return _ranking(collection, Best(**store.get("ranked", key, make)))


def _shards(collection: Collection) -> Iterator[tuple[int, list[str]]]:
    """Yield the documents `SHARD` at a time, with the position of the first."""
    for first in range(0, len(collection.doc_texts), SHARD):
        yield first, collection.doc_texts[first : first + SHARD]


def _by_shards(collection: Collection, key: dict, search: Callable[[list[str]], Best], store: Store) -> Ranking:
    """Rank by a search in which a document's score does not depend on the others: shard by shard, each kept."""
    found = []
    for first, texts in _shards(collection):
        best = Best(**store.get("ranked", key | {"first": first}, lambda texts=texts: search(texts)._asdict()))
        found.append(Best(first + best.docs, best.scores))
    docs, scores = (np.concatenate(side, axis=1) for side in zip(*found, strict=True))
    best = _best(scores, _depth(collection))
    return _ranking(collection, Best(np.take_along_axis(docs, best.docs, axis=1), best.scores))


def _best(scores: np.ndarray, k: int) -> Best:
    """Return the k best columns of each row of `scores` [n_queries, n]."""
    order = np.array([top_k(row, k) for row in scores])
    return Best(order, np.take_along_axis(scores, order, axis=1))


def _lexical(collection: Collection, store: Store) -> Ranking:
    constants = {"k1": RetrievalConfig.lexical_k1, "b": RetrievalConfig.lexical_b}

    def rank() -> Ranking:
        index = LexicalBM25(collection.doc_texts, collection.doc_ids, **constants)
        return index.search(collection.query_texts, collection.query_ids, _depth(collection))

    return _kept(collection, _key(collection, analyzer=ANALYZER, **constants), rank, store)


def _splade(model: Splade, collection: Collection, store: Store) -> Ranking:
    """Rank by the inner product of what SPLADE makes of documents and queries."""
    queries = cache(lambda: model.encode_queries(collection.query_texts))

    def search(texts: list[str]) -> Best:
        return _best((queries() @ model.encode_documents(texts).T).toarray(), _depth(collection))

    return _by_shards(collection, _key(collection, splade=model.identity), search, store)


def _own(encoder: TokenEncoder, collection: Collection, store: Store) -> tuple[str, Ranking]:
    """Rank as the retriever itself does, by its embeddings of texts or of tokens; return what that is called, too."""

    def embed(texts: list[str], kind: str) -> np.ndarray:
        return np.concatenate([block.pooled for block in encoder.stream(texts, kind)])

    queries = cache(lambda: embed(collection.query_texts, "query"))

    def dense(texts: list[str]) -> Best:
        return _best(queries() @ embed(texts, "document").T, _depth(collection))

    def late(texts: list[str]) -> Best:
        best = MaxSim(encoder.stream(collection.query_texts, "query"), _depth(collection))
        for block in encoder.stream(texts):
            best.add(block)
        return Best(best.docs, best.scores)

    name, search = ("late interaction", late) if encoder.late_interaction else ("dense", dense)
    return name, _by_shards(collection, _key(collection, encoder=encoder.identity, system=name), search, store)


def _latent(trained: list[LatentTerms], collection: Collection, store: Store) -> list[Ranking]:
    """Rank by BM25 over the latent terms of each model; one pass over the documents serves all.

    The matrices of a large collection are kept in a folder of their own until all models have ranked it.
    """
    large, identity = len(collection.doc_texts) > SHARD, collection.identity
    readings = [Reading(model.encoder, model.sae, model.pooling) for model in trained]
    keys = [_key(collection, model=model.identity, bm25=asdict(PAPER)) for model in trained]
    passing = Store(store.folder / f"reading-{digest_json(keys)[:16]}") if large else store

    def blocks(number: int) -> Iterator[csr_array]:
        for first, texts in _shards(collection):
            digest = identity["documents_sha256"] + (f" from {first}" if large else "")
            read = pooled_terms(readings, texts, "document", digest, passing)
            yield apply_phi(read[number].terms, trained[number].phi)

    def rank(number: int) -> Ranking:
        index = BM25Index.build(blocks(number), collection.doc_ids)
        read = pooled_terms(readings, collection.query_texts, "query", identity["queries_sha256"], store)
        queries = apply_phi(read[number].terms, trained[number].phi)
        return index.search(queries, collection.query_ids, _depth(collection))

    rankings = [_kept(collection, key, partial(rank, number), store) for number, key in enumerate(keys)]
    if large:
        shutil.rmtree(passing.folder, ignore_errors=True)
    return rankings
