"""The retrieval table, and collections that are encoded once and kept."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import pandas as pd

from lib.bm25.index import BM25Index
from lib.bm25.ranking import Ranking
from lib.bm25.weighting import BM25Constants
from lib.data.collection import Collection, load_collection
from lib.evaluation.baselines import ANALYZER, LexicalBM25, dense_search
from lib.evaluation.fusion import fuse
from lib.evaluation.measures import per_query, summarise
from lib.evaluation.splade import Splade, splade_ranking
from lib.latent_terms import LatentTerms
from lib.studies.encoded import EncodedCollection, encode_collection
from lib.support.checks import repeats
from lib.support.store import Store


@dataclass(frozen=True)
class RetrievalConfig:
    """What the systems of the retrieval table are set to; k1, b and idf are the paper's, and no field was tuned.

    `depth` documents are ranked for each query; `seed` is that of the bootstrap and randomisation resamples.
    """

    k1: float = 8.0
    b: float = 0.7
    idf: str = "lucene"
    lexical_k1: float = 1.2
    lexical_b: float = 0.75
    fusion_c: float = 60
    depth: int = 100
    measures: tuple[str, ...] = ("nDCG@10", "R@10", "R@100")
    seed: int = 0


def retrieval_systems(
    collection: Collection, encoded: EncodedCollection, tuned: BM25Constants, config: RetrievalConfig | None = None
) -> dict[str, Ranking]:
    """Rank a collection with each system of the retrieval table; late interaction where `encoded` has it.

    Latent terms are ranked with the constants of `config` and with `tuned`, those recommended for the model. A query's
    own document (ArguAna) is left out, and a fusion counts only documents that share a term with the query.
    """
    config = config or RetrievalConfig()
    doc_ids, query_ids, k = collection.doc_ids, collection.query_ids, config.depth + 1
    lexical = LexicalBM25(collection.doc_texts, doc_ids, k1=config.lexical_k1, b=config.lexical_b)
    paper = BM25Constants(config.k1, config.b, config.idf)
    latent, latent_tuned = (BM25Index.build(encoded.doc_terms, doc_ids, constants) for constants in (paper, tuned))
    rankings = {
        "lexical BM25": lexical.search(collection.query_texts, query_ids, k),
        "dense": dense_search(encoded.doc_embeddings, doc_ids, encoded.query_embeddings, query_ids, k),
        "latent terms": latent.search(encoded.query_terms, query_ids, k),
        "latent terms, tuned": latent_tuned.search(encoded.query_terms, query_ids, k),
    }
    if encoded.late is not None:
        rankings["late interaction"] = encoded.late
    rankings = {name: ranking.exclude(collection.self_matches).top(config.depth) for name, ranking in rankings.items()}
    matching = {name: rankings[name].above(0) for name in ("lexical BM25", "latent terms")} | {
        "dense": rankings["dense"]
    }
    for name in ("dense", "latent terms"):
        pair = [matching[name], matching["lexical BM25"]]
        rankings[f"{name} + lexical"] = fuse(pair, c=config.fusion_c, k=config.depth)
    return rankings


def retrieval_table(
    model: LatentTerms,
    names: Iterable[str],
    config: RetrievalConfig | None = None,
    store: Store | None = None,
    splade: Splade | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame, dict]:
    """Run every system on every collection, and SPLADE where there is a model of it.

    Returns
    -------
    summary : DataFrame
        One row a collection, measure and system: mean over all judged queries with its 95 % bootstrap interval
        (low, high), and against dense the difference with its interval (difference_low, difference_high), its p
        (two-sided paired randomisation) and p_holm (Holm's correction over the systems); n_docs and n_queries.
    values : DataFrame
        One row a collection, measure and query, one column a system.
    origin : dict
        What the provenance of the two should state: model, collections and configuration.

    Raises
    ------
    ValueError
        Before anything is encoded: for an unknown collection, two of one name, and one with a single query, whose
        systems cannot be compared.
    """
    config = config or RetrievalConfig()
    collections = [load_collection(name) for name in names]
    for name in repeats(collection.full_name for collection in collections):
        raise ValueError(f"Two collections are called {name!r}; rename one of their folders.")
    for collection in collections:
        if len(collection.query_ids) < 2:
            raise ValueError(f"{collection.full_name} has one judged query; comparing systems takes at least two.")
    summary, values = [], []
    for collection in collections:
        encoded = encode_collection(model, collection, store, late=config.depth + 1)
        rankings = retrieval_systems(collection, encoded, model.bm25, config)
        if splade is not None:
            found = splade_ranking(splade, collection, config.depth + 1, store)
            rankings["SPLADE"] = found.exclude(collection.self_matches).top(config.depth)
        frames = {system: per_query(ranking, collection.qrels, config.measures) for system, ranking in rankings.items()}
        label = {"collection": collection.full_name}
        values += [frame.assign(system=system, **label) for system, frame in frames.items()]
        counts = label | {"n_docs": len(collection.doc_ids), "n_queries": len(collection.qrels)}
        summary += [
            summarise(frames, "dense", measure, config.seed).assign(measure=measure, **counts)
            for measure in config.measures
        ]
    first = ["collection", "n_docs", "n_queries", "measure", "system"]
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
    return table[[*first, *table.columns.drop(first)]], by_query.reset_index(), origin
