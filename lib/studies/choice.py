"""BM25's constants for a model, and which of several models, chosen on training queries."""

from collections.abc import Iterable, Iterator, Sequence

import pandas as pd

from lib.bm25.index import BM25Index
from lib.bm25.weighting import PAPER, BM25Constants
from lib.data.collection import Collection, load_collection
from lib.evaluation.baselines import dense_search
from lib.evaluation.measures import compare, per_query
from lib.evaluation.tuning import MEASURE, check_training, tune_bm25
from lib.latent_terms import LatentTerms
from lib.studies.encoded import EncodedCollection, encode_collection, encode_together
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

    Raises
    ------
    ValueError
        Before anything is encoded: for an unknown collection, and as `tuning.check_training`.
    """
    (found,) = choose([model], names, store)
    return found


def choose(
    models: Sequence[LatentTerms], names: Iterable[str], store: Store | None = None
) -> Iterator[tuple[BM25Constants, pd.DataFrame, pd.DataFrame]]:
    """Give what `tune` returns for each of several models of one retriever, model by model as it comes.

    Each collection is read once for all of them, before the first comes.

    Raises
    ------
    ValueError
        As `tune`, and for models of different retrievers.
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
    terms = [(c, e.doc_terms, e.query_terms) for c, e in zip(collections, encoded, strict=True)]
    constants, grid = tune_bm25(terms)
    summary = [
        _against_paper(constants, *pair).assign(collection=pair[0].full_name)
        for pair in zip(collections, encoded, strict=True)
    ]
    return constants, grid, pd.concat(summary, ignore_index=True)


def _against_paper(constants: BM25Constants, collection: Collection, encoded: EncodedCollection) -> pd.DataFrame:
    doc_ids, query_ids, k = collection.doc_ids, collection.query_ids, 11  # one more: a query's own document goes
    rankings = {"dense": dense_search(encoded.doc_embeddings, doc_ids, encoded.query_embeddings, query_ids, k)}
    for name, own in (("paper", PAPER), ("tuned", constants)):
        index = BM25Index.build(encoded.doc_terms, doc_ids, own)
        rankings[name] = index.search(encoded.query_terms, query_ids, k)
    frames = {
        name: per_query(ranking.exclude(collection.self_matches).top(10), collection.qrels, [MEASURE])
        for name, ranking in rankings.items()
    }
    return compare(frames, "paper", MEASURE)
