"""The table of Latent Terms (22_backbones): retrievers with their own ranking, and with latent terms, mean over seeds.

The collections may have millions of documents. Each is read once for a retriever and all of its autoencoders, shard by
shard; only rankings stay in the store.

**The rule for claims over retrievers** (2026-11-28, before the table had a second retriever). Retrievers stand in the
order of their published quality, the weakest first; what is measured here does not decide it. In `laptop` it is nDCG@10
on SciFact and NFCorpus (MTEB): all-MiniLM-L6-v2 .6451 and .3159, all-mpnet-base-v2 .6557 and .3329. nDCG@10 is that of
latent terms with the paper's k1 = 8, b = 0.7, a query's value the mean over the seeds. `limit` is left out.

- *Latent terms help weak retrievers most*: what they add to the first retriever less what they add to the last, query
  by query, as a mean over the collections. It must be above 0; it is .071 of Contriever and Nomic as published.
- *On no collection much worse*: of all pairs of a retriever and a collection, the one whose interval reaches lowest,
  widened for their number (Bonferroni). It must lie above -.05; the lowest published difference is -.039.

Late-interaction retrievers take no part, nor do packaged models, whose constants and weights were tuned. Both intervals
also hold what the mean over the seeds may be off by. Verdicts are those of `lib.studies.claims.judge`; with one
retriever nothing is tested.
"""

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import cache, partial

import numpy as np
import pandas as pd

from lib.bm25.index import BM25Index
from lib.bm25.ranking import Ranking
from lib.bm25.weighting import PAPER
from lib.data.collection import Collection
from lib.encode.encoder import TokenEncoder, TokenStates
from lib.evaluation.baselines import ANALYZER
from lib.evaluation.splade import Splade
from lib.latent_terms import LatentTerms, packaged_models
from lib.studies import encoded
from lib.studies.comparison import check_collections, columns_first, lexical_ranking, summary_of, values_of
from lib.studies.inputs import Setting
from lib.studies.names import (
    DENSE,
    LATE,
    LATENT,
    LATENT_WORDS,
    LEXICAL,
    LIMIT_MEASURES,
    MEASURE,
    ONE_PASS,
    SPLADE,
    TUNED,
    is_limit,
)
from lib.studies.profiles import Backbone, BackboneTable
from lib.studies.retrieval import SYSTEMS, RetrievalConfig, Run, given_splade
from lib.studies.sweeps import Recipe, autoencoders
from lib.support.devices import training_device
from lib.support.locks import making
from lib.support.store import Store

_log = logging.getLogger(__name__)
_GPU_BATCH = 16_384  # tokens of a forward pass
SAMPLE = 64  # documents of a collection whose token states are compared
_PACKAGED = (TUNED, LATENT_WORDS, ONE_PASS)  # systems of a packaged model, with its own constants and weights


def encoder_of(backbone: Backbone) -> TokenEncoder:
    """Return a retriever at its final layer and 512 tokens a text, or its own limit if that is less."""
    batch = {"batch_tokens": _GPU_BATCH} if training_device().type == "cuda" else {}
    prompts = {"query_prompt": backbone.query_prompt, "document_prompt": backbone.document_prompt}
    return TokenEncoder(backbone.model, **prompts, max_length=512, special_tokens=backbone.special_tokens, **batch)


def models(setting: Setting, encoder: TokenEncoder, store: Store) -> list[LatentTerms]:
    """Return a retriever's latent terms, one model a seed; what is not in the store is trained from one pass."""
    size = setting.size
    configs = [replace(setting.config, seed=seed) for seed in range(size.n_seeds)]
    recipes = [Recipe(encoder, setting.corpus, size.tokens, config) for config in configs]
    return [LatentTerms(encoder, sae) for sae in autoencoders(recipes, store)]


def packaged_of(encoder: TokenEncoder) -> LatentTerms | None:
    """Return the model that is packaged for a retriever, or None."""
    name = encoder.name.rpartition("/")[2]
    return LatentTerms.load(name) if name in packaged_models() else None


def backbone_table(
    setting: Setting, table: BackboneTable, store: Store | None = None
) -> tuple[pd.DataFrame, pd.DataFrame, list[str], dict]:
    """Rank every collection with words, SPLADE, and each retriever as it is and in latent terms (the paper's BM25).

    Return a row a collection, measure, backbone and system ("lexical BM25", "SPLADE" as `given_splade` says, the
    retriever's own "dense" or "late interaction", "latent terms"; if a model is packaged for the retriever, that with
    its own constants, with words, and with all of one pass), with n_docs, n_queries and `measures.summarise` against
    the retriever's own ranking; the values of each query, by what the retriever gives; what is left out, and why; and
    what the provenance states. A query's value of latent terms is its mean over the seeds; seeds is their number,
    seed_sd the standard deviation of their means.

    Raises before anything is computed: ValueError as `comparison.check_collections`, and for a retriever that cannot
    be loaded the errors of `TokenEncoder`.
    """
    store, collections, splade = store or Store(), check_collections(list(setting.collections)), given_splade()
    encoders = [encoder_of(backbone) for backbone in table.backbones]
    notes = [] if splade else ["Left out: SPLADE, since neither the profile nor LATENT_TERMS_SPLADE names a model."]
    origins, parts, by_query = {}, [], []
    others = {c.full_name: {LEXICAL: _values([_lexical(c, store)], c)} for c in collections}
    for collection in collections if splade else ():
        others[collection.full_name][SPLADE] = _values([_splade(splade, collection, store)], collection)
    for backbone, encoder in zip(table.backbones, encoders, strict=True):
        trained, packaged = models(setting, encoder, store), packaged_of(encoder)
        origins[backbone.name] = [model.identity for model in trained]
        if packaged is not None:
            origins[f"{backbone.name}, packaged"] = packaged.identity | packaged.config
        for collection in collections:
            _log.info("%s, %d seeds: %s", backbone.name, len(trained), collection.full_name)
            baseline, rankings = _rankings(trained, packaged, collection, store)
            values = {system: _values(runs, collection) for system, runs in rankings.items()}
            rows = _compared(values | others[collection.full_name], baseline, collection)
            parts += [part.assign(backbone=backbone.name) for part in rows]
            by_query += [part.assign(backbone=backbone.name) for part in _by_query(values, collection)]
    columns = ("collection", "n_docs", "n_queries", "measure", "backbone", "system")
    rows = columns_first(pd.concat(parts, ignore_index=True), *columns)
    queries = columns_first(pd.concat(by_query, ignore_index=True), "collection", "measure", "backbone", "query_id")
    origin = setting.origin | {"backbones": origins, "bm25": asdict(PAPER), "lexical analyzer": ANALYZER}
    return rows, queries, notes, origin | {"left out": notes, "splade": splade and splade.identity}


def states_table(setting: Setting, table: BackboneTable, store: Store | None = None) -> pd.DataFrame:
    """Return how much of the token states is the text's and not the token's: backbone, layer, collection, share.

    `share` is `Between.share` of SAMPLE documents, evenly spaced. Raises as `backbone_table`.
    """
    store, rows = store or Store(), []
    for backbone in table.backbones:
        encoder = encoder_of(backbone)
        for collection in check_collections(list(setting.collections)):
            key = {"encoder": encoder.identity, "documents": collection.identity["documents_sha256"], "n": SAMPLE}
            make = partial(_shares, encoder, collection.doc_texts)
            shares = store.get("between", key, make)["shares"]
            columns = {"backbone": backbone.name, "collection": collection.full_name}
            rows += [columns | {"layer": layer, "share": share} for layer, share in enumerate(shares)]
    return pd.DataFrame(rows)


def _shares(encoder: TokenEncoder, texts: Sequence[str]) -> dict[str, np.ndarray]:
    texts = [text for text in texts if text.strip()]
    sample = [texts[i] for i in np.linspace(0, len(texts) - 1, min(SAMPLE, len(texts))).astype(int)]
    layers = [Between() for _ in range(encoder.n_layers + 1)]
    for block in encoder.stream_layers(sample, range(len(layers)), progress=False):
        for layer, states in block.items():
            layers[layer].add(states)
    return {"shares": np.array([layer.share() for layer in layers])}


class Between:
    """The variance of token states, between texts and within them, of states that are added block by block."""

    def __init__(self) -> None:
        self.sums: list[np.ndarray] = []
        self.counts: list[int] = []
        self.squares = 0.0

    def add(self, block: TokenStates) -> None:
        """Add the states of some texts."""
        lengths, states = np.diff(block.offsets).tolist(), block.states.double()
        self.sums += [part.sum(dim=0).cpu().numpy() for part in states.split(lengths) if len(part)]
        self.counts += [length for length in lengths if length]
        self.squares += states.square().sum().item()

    def share(self) -> float:
        """Return omega squared of texts: the share of the variance of token states that lies between texts.

        Of one-way analysis of variance, (SSB - (G - 1) MSW) / (SST + MSW), with sums of squares over all dimensions and
        G texts: about 0 where a state says nothing of its text, 1 where all states of a text are equal. ValueError if
        no text has two tokens.
        """
        n, n_texts = sum(self.counts), len(self.counts)
        if n <= n_texts:
            raise ValueError(f"{n_texts} texts have {n} tokens; give texts of more than one token.")
        of_mean = np.square(np.sum(self.sums, axis=0)).sum() / n
        between = np.sum(np.square(self.sums).sum(axis=1) / self.counts) - of_mean
        within = (self.squares - of_mean - between) / (n - n_texts)
        return float((between - (n_texts - 1) * within) / (self.squares - of_mean + within))


def _measures(collection: Collection) -> tuple[str, ...]:
    return LIMIT_MEASURES if is_limit(collection.full_name) else (MEASURE,)


def _depth(collection: Collection) -> int:
    """Return how many documents the measures take, and one more, as a query's own document is left out."""
    return 1 + max(int(measure.partition("@")[2]) for measure in _measures(collection))


def _values(runs: list[Ranking], collection: Collection) -> np.ndarray:
    """Return each run's measures, float64 [n_runs, n_measures, n_queries]."""
    return np.stack([values_of(ranking, collection, _measures(collection)) for ranking in runs])


def _compared(values: dict[str, np.ndarray], baseline: str, collection: Collection) -> Iterator[pd.DataFrame]:
    """Yield the rows of each measure; a query's value is its mean over the system's runs."""
    counts = {"n_docs": len(collection.doc_ids), "n_queries": len(collection.query_ids)}
    for number, measure in enumerate(_measures(collection)):
        means = {system: runs[:, number].mean(axis=0) for system, runs in values.items()}
        seeds = values[LATENT][:, number].mean(axis=1)
        spread = {"seeds": len(seeds), "seed_sd": seeds.std(ddof=1) if len(seeds) > 1 else np.nan}
        part = summary_of(means, baseline).join(pd.DataFrame([spread], index=[LATENT]), on="system")
        yield part.assign(measure=measure, collection=collection.full_name, **counts)


def _by_query(values: dict[str, np.ndarray], collection: Collection) -> Iterator[pd.DataFrame]:
    """Yield a row a query for each measure, its mean over the runs of each system."""
    for number, measure in enumerate(_measures(collection)):
        means = pd.DataFrame({system: runs[:, number].mean(axis=0) for system, runs in values.items()})
        yield means.assign(collection=collection.full_name, measure=measure, query_id=collection.query_ids)


def _key(collection: Collection, **system) -> dict:
    """Return the store's key of a system's ranking."""
    digests = [collection.identity[f"{side}_sha256"] for side in ("documents", "queries")]
    return system | {"texts": digests, "k": _depth(collection)}


def _stored(collection: Collection, key: dict, rank: Callable[[], Ranking], store: Store) -> Ranking:
    """Return a ranking from the store, which knows documents by their position, or else from `rank`."""

    def make() -> dict[str, np.ndarray]:
        position, ranking = {doc: i for i, doc in enumerate(collection.doc_ids)}, rank()
        docs = [[position[doc] for doc in row] for row in ranking.doc_ids]
        return {"docs": np.array(docs), "scores": np.array(ranking.scores)}

    return encoded.ranking_of(collection, store.get("ranked", key, make))


def _lexical(collection: Collection, store: Store) -> Ranking:
    rank = partial(lexical_ranking, collection, _depth(collection))
    return _stored(collection, _key(collection, analyzer=ANALYZER), rank, store)


def _splade(model: Splade, collection: Collection, store: Store) -> Ranking:
    """Rank by the inner product of what SPLADE makes of documents and queries; each shard's best are stored."""
    key, k = _key(collection, splade=model.identity), _depth(collection)
    queries = cache(lambda: model.encode_queries(collection.query_texts))

    def best(texts: list[str]) -> dict[str, np.ndarray]:
        return encoded.best_columns((queries() @ model.encode_documents(texts).T).toarray(), k)

    parts = [
        store.get("ranked", key | {"first": first}, partial(best, texts)) for first, texts in encoded.shards(collection)
    ]
    return encoded.merged_ranking(collection, parts, k)


def _rankings(
    trained: list[LatentTerms], packaged: LatentTerms | None, collection: Collection, store: Store
) -> tuple[str, dict[str, list[Ranking]]]:
    """Return the name of the retriever's own ranking, and the rankings of each system: a list, for there are seeds.

    One pass over the documents serves all that read them in one way; what is read of a large collection is deleted
    when all have ranked it.
    """
    encoder, k = trained[0].encoder, _depth(collection)
    name = LATE if encoder.late_interaction else DENSE
    ranking_reading = encoded.Late(encoder, collection, k) if encoder.late_interaction else encoded.Embeddings(encoder)
    key = _key(collection, encoder=encoder.identity, system=name)
    terms = [encoded.terms_of(model) for model in trained]
    keys = [_key(collection, model=model.identity, bm25=asdict(PAPER)) for model in trained]
    systems = {} if packaged is None else {system: _packaged_key(system, packaged, collection) for system in _PACKAGED}
    large = len(list(encoded.shards(collection))) > 1
    folder = store.path("reading", [key, keys])
    with making(folder) if large else nullcontext():
        passing = Store(folder) if large else store

        def rank_own() -> Ranking:
            parts = encoded.load(ranking_reading, collection, "document", passing)
            if isinstance(ranking_reading, encoded.Embeddings):
                (queries,) = encoded.load(ranking_reading, collection, "query", store)
                parts = (encoded.best_columns(queries["embeddings"] @ part["embeddings"].T, k) for part in parts)
            return encoded.merged_ranking(collection, parts, k)

        def rank_latent(reading: encoded.Terms, phi: str) -> Ranking:
            index = BM25Index.build(
                encoded.term_blocks(reading, phi, collection, "document", passing), collection.doc_ids
            )
            (queries,) = encoded.term_blocks(reading, phi, collection, "query", store)
            return index.search(queries, collection.query_ids, k)

        @cache
        def run() -> Run:
            return Run(
                collection,
                encoded.encode_collection(packaged, collection, passing),
                packaged,
                RetrievalConfig(depth=k - 1),
            )

        pairs = zip((ranking_reading, *terms), (key, *keys), strict=True)
        needed = [reading for reading, each in pairs if not store.has("ranked", each)]
        if not all(store.has("ranked", each) for each in systems.values()):
            needed += [encoded.terms_of(packaged), encoded.Embeddings(packaged.encoder)]
        encoded.keep(needed, collection, "document", passing)
        encoded.keep(
            [reading for reading in needed if not isinstance(reading, encoded.Late)], collection, "query", store
        )
        rankings = {name: [_stored(collection, key, rank_own, store)]}
        rankings[LATENT] = [
            _stored(collection, each, partial(rank_latent, reading, model.phi), store)
            for reading, each, model in zip(terms, keys, trained, strict=True)
        ]
        for system, each in systems.items():
            rankings[system] = [_stored(collection, each, lambda system=system: SYSTEMS[system](run()), store)]
        if large:
            shutil.rmtree(passing.folder, ignore_errors=True)
    return name, rankings


def _packaged_key(system: str, model: LatentTerms, collection: Collection) -> dict:
    settings = {"bm25": asdict(model.bm25), "weights": asdict(model.weights), "analyzer": ANALYZER}
    return _key(collection, model=model.identity, system=system, **settings)
