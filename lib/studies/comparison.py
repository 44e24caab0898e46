"""What the studies share: collections that can be compared on, values by query, and differences from a baseline."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from lib.bm25.ranking import Ranking
from lib.data.collection import Collection, load_collection
from lib.evaluation.baselines import LexicalBM25
from lib.evaluation.measures import per_query, resampled_means, summarise
from lib.latent_terms import LatentTerms
from lib.studies.names import MEASURE
from lib.support.checks import repeats


def load_collections(names: Iterable[str]) -> list[Collection]:
    """Load the collections of a study; ValueError for an unknown one, and as `check_collections`."""
    return check_collections([load_collection(name) for name in names])


def check_collections(collections: list[Collection]) -> list[Collection]:
    """Return the collections; ValueError if two have one name, or one has too few queries to compare systems."""
    for name in repeats(collection.full_name for collection in collections):
        raise ValueError(f"Two collections are called {name!r}; name each once, or rename one of their folders.")
    for collection in collections:
        if len(collection.query_ids) < 2:
            raise ValueError(f"{collection.full_name} has one judged query; comparing systems takes at least two.")
    return collections


def lexical_ranking(collection: Collection, k: int, k1: float = 1.2, b: float = 0.75) -> Ranking:
    """Rank a collection by BM25 over stemmed words."""
    index = LexicalBM25(collection.doc_texts, collection.doc_ids, k1, b)
    return index.search(collection.query_texts, collection.query_ids, k)


def values_of(ranking: Ranking, collection: Collection, measures: Sequence[str] = (MEASURE,)) -> np.ndarray:
    """Return each measure of each query, float64 [n_measures, n_queries]; a query's own document is left out."""
    frame = per_query(ranking.exclude(collection.self_matches), collection.qrels, measures)
    return frame["value"].to_numpy().reshape(len(measures), len(collection.query_ids))


def summary_of(values: Mapping[str, np.ndarray], baseline: str) -> pd.DataFrame:
    """Return `measures.summarise` of the systems' values of one measure, each float64 [n_queries] in one order."""
    frames = {
        system: pd.DataFrame({"query_id": np.arange(len(column)), "measure": MEASURE, "value": column})
        for system, column in values.items()
    }
    return summarise(frames, baseline, MEASURE)


def averages_of(values: Sequence[Mapping[str, np.ndarray]], baseline: str) -> pd.DataFrame:
    """Return each system's mean over collections of its mean over queries, and its difference from the baseline.

    `values` are, of each collection, every system's, float64 [n_queries]. The 95 % intervals (low, high;
    difference_low, difference_high) are of queries resampled within each collection.
    """
    draws = {system: resampled_means([of_one[system] for of_one in values]) for system in values[0]}
    means = {system: np.mean([of_one[system].mean() for of_one in values]) for system in draws}
    rows = []
    for system, mean in means.items():
        row = {"system": system, "mean": mean}
        row["low"], row["high"] = np.quantile(draws[system], [0.025, 0.975])
        if system != baseline:
            row["difference"] = mean - means[baseline]
            row["difference_low"], row["difference_high"] = np.quantile(draws[system] - draws[baseline], [0.025, 0.975])
        rows.append(row)
    return pd.DataFrame(rows)


def with_queries(collection: Collection, rows: Iterable[int]) -> Collection:
    """Return the collection with the queries of these rows only."""
    ids, texts = ([column[row] for row in rows] for column in (collection.query_ids, collection.query_texts))
    return replace(
        collection, query_ids=ids, query_texts=texts, qrels={query: collection.qrels[query] for query in ids}
    )


def columns_first(table: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Return the table with these columns before the others."""
    return table[[*columns, *table.columns.drop(list(columns))]]


def origin_of(model: LatentTerms, collections: Iterable[Collection], **settings) -> dict:
    """Return what a study's provenance states: the model, its constants of BM25, the collections and `settings`."""
    identities = [collection.identity for collection in collections]
    return {"model": model.identity, "bm25": asdict(model.bm25), "collections": identities, **settings}


def document_frequency(docs: csr_array) -> np.ndarray:
    """Return in how many documents each term has a weight, int64 [width]."""
    return np.bincount(docs.indices, minlength=docs.shape[1])


def query_postings(df: np.ndarray, queries: csr_array) -> np.ndarray:
    """Return how many postings each query makes a search read, the df of its terms summed up, int64 [n_queries]."""
    sums = np.concatenate([[0], np.cumsum(df[queries.indices])])
    return sums[queries.indptr[1:]] - sums[queries.indptr[:-1]]
