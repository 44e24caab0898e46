"""BM25's constants for a model, and which of several models, chosen on training queries."""

from collections.abc import Iterable, Iterator, Sequence

import pandas as pd

from lib.bm25.weighting import BM25Constants
from lib.data.collection import Collection, load_collection
from lib.evaluation.measures import compare, per_query
from lib.evaluation.tuning import check_training, tune_bm25
from lib.latent_terms import LatentTerms
from lib.studies.encoded import encode_collection, encode_together
from lib.studies.names import DENSE, LATENT, MEASURE, TUNED
from lib.studies.retrieval import RetrievalConfig, Run
from lib.support.store import Store

Choice = tuple[BM25Constants, pd.DataFrame, pd.DataFrame]  # the constants, what was tried, and a comparison


def tune(model: LatentTerms, names: Iterable[str], store: Store | None = None) -> Choice:
    """Choose BM25's constants for a model on training queries, and compare them with the paper's on the same.

    Return the constants, for `model.with_bm25`; the grid that was tried, as `tuning.tune_bm25`; and a row a collection
    and system ("tuned" and "dense"): nDCG@10 against the paper's constants, as `measures.compare`. The constants were
    chosen on these queries: on others expect less.

    ValueError for an unknown collection, and as `tuning.check_training`, before anything is encoded.
    """
    (result,) = choose([model], names, store)
    return result


def choose(models: Sequence[LatentTerms], names: Iterable[str], store: Store | None = None) -> Iterator[Choice]:
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


def _tune(model: LatentTerms, collections: Sequence[Collection], store: Store) -> Choice:
    pairs = [(collection, encode_collection(model, collection, store)) for collection in collections]
    constants, grid = tune_bm25([(collection, terms.doc_terms, terms.query_terms) for collection, terms in pairs])
    systems, tables = {"dense": DENSE, "paper": LATENT, "tuned": TUNED}, []
    for collection, terms in pairs:
        run = Run(collection, terms, constants, RetrievalConfig(depth=10))
        frames = {name: per_query(run.ranking(system), collection.qrels, [MEASURE]) for name, system in systems.items()}
        tables.append(compare(frames, "paper", MEASURE).assign(collection=collection.full_name))
    return constants, grid, pd.concat(tables, ignore_index=True)
