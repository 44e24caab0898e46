"""The retrieval table (20_retrieval): every system on every collection."""

import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field

import pandas as pd

from lib.bm25.index import BM25Index
from lib.bm25.ranking import Ranking
from lib.bm25.weighting import PAPER, BM25Constants
from lib.data.collection import Collection
from lib.evaluation.baselines import ANALYZER, LexicalBM25, dense_search
from lib.evaluation.fusion import fuse
from lib.evaluation.measures import per_query, summarise
from lib.evaluation.splade import Splade, splade_ranking
from lib.latent_terms import LatentTerms
from lib.studies.comparison import columns_first, load_collections
from lib.studies.encoded import EncodedCollection, encode_collection
from lib.studies.names import (
    DEEP_RECALL,
    DENSE,
    DENSE_FUSED,
    LATE,
    LATENT,
    LATENT_FUSED,
    LEXICAL,
    MEASURE,
    RECALL,
    SPLADE,
    TUNED,
)
from lib.support.store import Store


@dataclass(frozen=True)
class RetrievalConfig:
    """What the systems are set to; none of it was tuned."""

    bm25: BM25Constants = PAPER  # of latent terms
    lexical_k1: float = 1.2
    lexical_b: float = 0.75
    fusion_c: float = 60  # of reciprocal-rank fusion
    depth: int = 100  # documents that are ranked for each query
    measures: tuple[str, ...] = (MEASURE, RECALL, DEEP_RECALL)
    seed: int = 0  # of the bootstrap and of the randomisation test


@dataclass(frozen=True)
class Run:
    """One collection to rank: as a model encodes it, the model's own constants of BM25, and what was ranked so far."""

    collection: Collection
    encoded: EncodedCollection
    tuned: BM25Constants
    config: RetrievalConfig = RetrievalConfig()
    rankings: dict[str, Ranking] = field(default_factory=dict)

    @property
    def depth(self) -> int:
        """Number of documents that a system ranks: one more than are measured, for a query's own is left out."""
        return self.config.depth + 1

    def ranking(self, system: str) -> Ranking:
        """Return the ranking of a system of `SYSTEMS`, made at the first call; a query's own document is left out."""
        if system not in self.rankings:
            ranking = SYSTEMS[system](self).exclude(self.collection.self_matches)
            self.rankings[system] = ranking.top(self.config.depth)
        return self.rankings[system]


def lexical_bm25(run: Run) -> Ranking:
    """Rank by BM25 over stemmed words."""
    collection, config = run.collection, run.config
    index = LexicalBM25(collection.doc_texts, collection.doc_ids, config.lexical_k1, config.lexical_b)
    return index.search(collection.query_texts, collection.query_ids, run.depth)


def dense(run: Run) -> Ranking:
    """Rank by the inner product of the retriever's own embeddings."""
    collection, encoded = run.collection, run.encoded
    ids = collection.doc_ids, collection.query_ids
    return dense_search(encoded.doc_embeddings, ids[0], encoded.query_embeddings, ids[1], run.depth)


def late_interaction(run: Run) -> Ranking:
    """Rank by late interaction over the token states."""
    return run.encoded.late


def latent_terms(run: Run) -> Ranking:
    """Rank by BM25 over latent terms with the paper's constants."""
    return _over_latent_terms(run, run.config.bm25)


def latent_terms_tuned(run: Run) -> Ranking:
    """Rank by BM25 over latent terms with the model's own constants."""
    return _over_latent_terms(run, run.tuned)


def _over_latent_terms(run: Run, constants: BM25Constants) -> Ranking:
    index = BM25Index.build(run.encoded.doc_terms, run.collection.doc_ids, constants)
    return index.search(run.encoded.query_terms, run.collection.query_ids, run.depth)


def dense_and_lexical(run: Run) -> Ranking:
    """Fuse dense search with lexical BM25, of which only documents count that share a word with the query."""
    return _fused(run, run.ranking(DENSE))


def latent_and_lexical(run: Run) -> Ranking:
    """Fuse latent terms with lexical BM25; of both only documents count that share a term with the query."""
    return _fused(run, run.ranking(LATENT).above(0))


def _fused(run: Run, ranking: Ranking) -> Ranking:
    return fuse([ranking, run.ranking(LEXICAL).above(0)], c=run.config.fusion_c, k=run.config.depth)


# A system takes a `Run` and returns a ranking. Its colour stands in `lib.report.common.COLOURS`.
SYSTEMS: dict[str, Callable[[Run], Ranking]] = {
    LEXICAL: lexical_bm25,
    DENSE: dense,
    LATENT: latent_terms,
    TUNED: latent_terms_tuned,
    LATE: late_interaction,
    DENSE_FUSED: dense_and_lexical,
    LATENT_FUSED: latent_and_lexical,
}


def given_splade() -> Splade | None:
    """Return the SPLADE model that the environment variable LATENT_TERMS_SPLADE names: a folder or a hub id."""
    name = os.environ.get("LATENT_TERMS_SPLADE")
    return Splade(name) if name else None


def retrieval_table(
    model: LatentTerms,
    names: Iterable[str],
    config: RetrievalConfig | None = None,
    store: Store | None = None,
    splade: Splade | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame, dict]:
    """Run every system of `SYSTEMS` on every collection, and SPLADE where there is a model of it.

    Returns
    -------
    summary : DataFrame
        One row a collection, measure and system: mean over all judged queries with its 95 % bootstrap interval
        (low, high), and against dense the difference with its interval (difference_low, difference_high), its p
        (two-sided paired randomisation) and p_holm (Holm's correction over the systems); n_docs and n_queries.
    values : DataFrame
        One row a collection, measure and query, one column a system.
    origin : dict
        What the provenance of the two states: model, collections and configuration.

    ValueError as `comparison.load_collections`, before anything is encoded.
    """
    config, collections = config or RetrievalConfig(), load_collections(names)
    summary, values = [], []
    for collection in collections:
        run = Run(collection, encode_collection(model, collection, store, config.depth + 1), model.bm25, config)
        rankings = {system: run.ranking(system) for system in SYSTEMS}
        if splade is not None:
            ranking = splade_ranking(splade, collection, run.depth, store)
            rankings[SPLADE] = ranking.exclude(collection.self_matches).top(config.depth)
        frames = {system: per_query(ranking, collection.qrels, config.measures) for system, ranking in rankings.items()}
        label = {"collection": collection.full_name}
        values += [frame.assign(system=system, **label) for system, frame in frames.items()]
        counts = label | {"n_docs": len(collection.doc_ids), "n_queries": len(collection.qrels)}
        summary += [
            summarise(frames, DENSE, measure, config.seed).assign(measure=measure, **counts)
            for measure in config.measures
        ]
    table = pd.concat(summary, ignore_index=True)
    by_query = pd.concat(values).pivot(index=["collection", "measure", "query_id"], columns="system", values="value")
    origin = {
        "model": model.identity,
        "collections": [collection.identity for collection in collections],
        "retrieval": asdict(config),
        "tuned": asdict(model.bm25),
        "lexical analyzer": ANALYZER,
        **({} if splade is None else {"splade": splade.identity}),
    }
    return (
        columns_first(table, "collection", "n_docs", "n_queries", "measure", "system"),
        by_query.reset_index(),
        origin,
    )
