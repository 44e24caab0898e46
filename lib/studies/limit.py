"""Recall on LIMIT as its haystack grows (21_limit)."""

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd

from lib.data.collection import Collection, load_collection
from lib.evaluation.baselines import ANALYZER
from lib.evaluation.measures import resampled_means
from lib.evaluation.splade import splade_ranking
from lib.latent_terms import LatentTerms
from lib.studies.comparison import columns_first, origin_of, summary_of, values_of
from lib.studies.encoded import encode_collection
from lib.studies.names import (
    DENSE,
    LATE,
    LATENT,
    LATENT_WORDS,
    LEXICAL,
    LIMIT_MEASURES,
    ONE_PASS,
    SPLADE,
    TUNED,
)
from lib.studies.retrieval import SYSTEMS, RetrievalConfig, Run, given_splade
from lib.support.store import Store

LIMIT_SYSTEMS = (LEXICAL, DENSE, LATE, LATENT, TUNED, LATENT_WORDS, ONE_PASS)  # and SPLADE, if there is a model of it
DEPTH = 1000


def limit_study(model: LatentTerms, names: Sequence[str], store: Store | None = None) -> tuple[pd.DataFrame, dict]:
    """Measure recall on LIMIT as its haystack grows, with SPLADE as `given_splade` says.

    The needles and the queries stay the same. `names` are LIMIT in several sizes, smallest first, with the same queries
    (else a ValueError). Return a row a size (n_docs), measure and system: `summarise` against dense, and kept, the
    share of the smallest collection's recall that is left here, with its interval over queries (kept_low, kept_high);
    and what the provenance states.
    """
    store, collections = store or Store(), [load_collection(name) for name in names]
    for collection in collections:
        if collection.identity["queries_sha256"] != collections[0].identity["queries_sha256"]:
            raise ValueError(f"{collection.full_name} has other queries than {collections[0].full_name}.")
    splade = given_splade()
    systems = (*LIMIT_SYSTEMS, SPLADE) if splade else LIMIT_SYSTEMS
    values = [_values(model, collection, store) for collection in collections]
    if splade:
        for collection, by_system in zip(collections, values, strict=True):
            ranking = splade_ranking(splade, collection, DEPTH, store)
            by_system[SPLADE] = values_of(ranking, collection, LIMIT_MEASURES)
    rows = []
    for collection, by_system in zip(collections, values, strict=True):
        for number, measure in enumerate(LIMIT_MEASURES):
            recall = {system: by_system[system][number] for system in systems}
            table = summary_of(recall, DENSE).assign(n_docs=len(collection.doc_ids), measure=measure)
            shares = [_share_kept(values[0][system][number], recall[system]) for system in table["system"]]
            table[["kept", "kept_low", "kept_high"]] = shares
            rows.append(table)
    table = columns_first(pd.concat(rows, ignore_index=True), "n_docs", "measure", "system")
    return table, origin_of(model, collections, analyzer=ANALYZER, splade=splade and splade.identity)


def _values(model: LatentTerms, collection: Collection, store: Store) -> dict[str, np.ndarray]:
    """Return each system's measures, float64 [n_measures, n_queries]."""
    config = RetrievalConfig(depth=DEPTH, measures=LIMIT_MEASURES)

    def make() -> dict[str, np.ndarray]:
        run = Run(collection, encode_collection(model, collection, store, config.depth), model, config)
        return {system: values_of(SYSTEMS[system](run), collection, LIMIT_MEASURES) for system in LIMIT_SYSTEMS}

    key = {"model": model.identity, "collection": collection.identity, "retrieval": asdict(config)}
    key |= {"tuned": asdict(model.bm25), "weights": asdict(model.weights), "analyzer": ANALYZER}
    return store.get("limit", key | {"systems": LIMIT_SYSTEMS}, make)


def _share_kept(first: np.ndarray, now: np.ndarray) -> tuple[float, float, float]:
    """Return mean(now) / mean(first) with its percentile bootstrap interval, queries resampled in pairs."""
    ratios = resampled_means([now]) / np.maximum(resampled_means([first]), 1e-9)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return now.mean() / max(first.mean(), 1e-9), low, high
