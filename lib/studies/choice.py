"""BM25's constants and a searcher's weights for a model, and which of several models, chosen on training queries."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from lib.bm25.weighting import BM25Constants, Weights
from lib.data.collection import Collection, load_collection
from lib.evaluation.measures import compare, per_query
from lib.evaluation.tuning import WEIGHTS_GRID, check_training, tune_bm25, tune_weights
from lib.latent_terms import LatentTerms
from lib.studies.encoded import EncodedCollection, encode_collection, encode_together, searcher_of
from lib.studies.names import DENSE, LATENT, MEASURE, ONE_PASS, TUNED
from lib.studies.retrieval import RetrievalConfig, Run
from lib.support.store import Store


class Choice(NamedTuple):
    """What was chosen for a model, what was tried, and a comparison with the paper's constants on the same queries."""

    bm25: BM25Constants
    grid: pd.DataFrame
    weights: Weights
    weights_grid: pd.DataFrame
    comparison: pd.DataFrame


def tune(model: LatentTerms, collections: Iterable[Collection | str], store: Store | None = None) -> Choice:
    """Choose BM25's constants and a searcher's weights for a model on training queries.

    A collection is given, or named as `load_collection` takes it.
    Return the constants, for `model.with_bm25`, and the grid that was tried, as `tuning.tune_bm25`; the weights, chosen
    with these constants, and the grid of them, as `tuning.tune_weights`; and a row a collection and system ("tuned",
    "dense", and "one pass" with the weights): nDCG@10 against the paper's constants, as `measures.compare`. All was
    chosen on these queries: on others expect less.

    ValueError for an unknown collection, and as `tuning.check_training`, before anything is encoded.
    """
    (result,) = choose([model], collections, store)
    return result


def choose(
    models: Sequence[LatentTerms], collections: Iterable[Collection | str], store: Store | None = None
) -> Iterator[Choice]:
    """Yield what `tune` returns for each of several models of one retriever.

    Each collection is encoded once for all of them, before the first result. ValueError as `tune`, and for models of
    different retrievers.
    """
    collections = [c if isinstance(c, Collection) else load_collection(c) for c in collections]
    check_training(collections)
    store = store or Store()
    for collection in collections:
        encode_together(models, collection, store)
    return (_tune(model, collections, store) for model in models)


def _tune(model: LatentTerms, collections: Sequence[Collection], store: Store) -> Choice:
    encoded = [encode_collection(model, collection, store) for collection in collections]
    pairs = list(zip(collections, encoded, strict=True))
    constants, grid = tune_bm25([(collection, terms.doc_terms, terms.query_terms) for collection, terms in pairs])
    model = model.with_bm25(constants)
    candidates = [weights for weights in WEIGHTS_GRID if not weights.dense or encoded[0].doc_embeddings.shape[1]]
    parts = [(collection, _parts(model, collection, terms)) for collection, terms in pairs]
    weights, weights_grid = tune_weights(parts, candidates)
    model = model.with_weights(weights)
    systems, tables = {"dense": DENSE, "paper": LATENT, "tuned": TUNED, "one pass": ONE_PASS}, []
    for collection, terms in pairs:
        run = Run(collection, terms, model, RetrievalConfig(depth=10))
        frames = {name: per_query(run.ranking(system), collection.qrels, [MEASURE]) for name, system in systems.items()}
        tables.append(compare(frames, "paper", MEASURE).assign(collection=collection.full_name))
    return Choice(constants, grid, weights, weights_grid, pd.concat(tables, ignore_index=True))


def _parts(model: LatentTerms, collection: Collection, encoded: EncodedCollection) -> Iterator[np.ndarray]:
    searcher, terms = searcher_of(model, collection, encoded)
    yield from searcher.parts(terms, encoded.query_embeddings)
