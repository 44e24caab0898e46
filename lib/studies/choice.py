"""BM25's constants for a model, and which of several models, chosen on training queries."""

from collections.abc import Iterable, Iterator, Sequence

import pandas as pd

from lib.bm25.weighting import BM25Constants
from lib.data.collection import Collection, load_collection
from lib.evaluation.measures import compare, per_query
from lib.evaluation.tuning import check_training, tune_bm25
from lib.latent_terms import LatentTerms
from lib.studies.encoded import EncodedCollection, encode_collection, encode_together
from lib.studies.names import DENSE, LATENT, MEASURE, TUNED
from lib.studies.retrieval import RetrievalConfig, Run
from lib.support.store import Store


def tune(
    model: LatentTerms, names: Iterable[str], store: Store | None = None
) -> tuple[BM25Constants, pd.DataFrame, pd.DataFrame]:
    """Choose BM25's constants for a model on training queries, and compare them with the paper's on the same.

    Returns
    -------
    constants : BM25Constants
        For `model.with_bm25`.
    grid : DataFrame
        As `tuning.tune_bm25`.
    summary : DataFrame
        One row a collection and system ("tuned" and "dense"): nDCG@10, that of the paper's constants (baseline_mean),
        the difference with its 95 % interval over queries (low, high), p and p_holm, as `measures.compare`. The
        constants were chosen on these queries: on others expect less.

    ValueError for an unknown collection, and as `tuning.check_training`, before anything is encoded.
    """
    (result,) = choose([model], names, store)
    return result


def choose(
    models: Sequence[LatentTerms], names: Iterable[str], store: Store | None = None
) -> Iterator[tuple[BM25Constants, pd.DataFrame, pd.DataFrame]]:
    """Yield what `tune` returns for each of several models of one retriever.

    Each collection is encoded once for all of them, before the first result. ValueError as `tune`, and for models of
    different retrievers.
    """
    collections = [load_collection(name) for name in names]
    check_training(collections)
    store = store or Store()
    for collection in collections:
        encode_together(models, collection, store)
    return (_tune(model, collections, store) for model in models)


def _tune(
    model: LatentTerms, collections: Sequence[Collection], store: Store
) -> tuple[BM25Constants, pd.DataFrame, pd.DataFrame]:
    encoded = [encode_collection(model, collection, store) for collection in collections]
    pairs = list(zip(collections, encoded, strict=True))
    constants, grid = tune_bm25([(collection, terms.doc_terms, terms.query_terms) for collection, terms in pairs])
    tables = [_against_paper(constants, *pair).assign(collection=pair[0].full_name) for pair in pairs]
    return constants, grid, pd.concat(tables, ignore_index=True)


def _against_paper(constants: BM25Constants, collection: Collection, encoded: EncodedCollection) -> pd.DataFrame:
    """Compare tuned constants and dense search with the paper's constants."""
    run = Run(collection, encoded, constants, RetrievalConfig(depth=10))
    systems = {"dense": DENSE, "paper": LATENT, "tuned": TUNED}
    frames = {name: per_query(run.ranking(system), collection.qrels, [MEASURE]) for name, system in systems.items()}
    return compare(frames, "paper", MEASURE)
