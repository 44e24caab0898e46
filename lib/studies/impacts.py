"""Impacts in eight bits beside exact ones: what they cost in ranking, and what they save (44_impacts)."""

from collections.abc import Sequence
from itertools import repeat
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from lib.bm25.index import FORMS
from lib.bm25.ranking import Ranking
from lib.data.collection import Collection
from lib.latent_terms import LatentTerms
from lib.studies.comparison import averages_of, columns_first, load_collections, origin_of, summary_of, values_of
from lib.studies.encoded import EncodedCollection, encode_collection
from lib.studies.names import MEAN, is_limit
from lib.support.store import Store

EXACT_IMPACTS, ROUNDED = FORMS  # float32 and uint8
DEPTH = 11  # documents of a ranking: one more than are measured, for a query's own is left out
FACTS = ("bytes_per_posting", "bytes_per_document", "postings_per_document", "same_best", "bound", "off")


def impacts_study(model: LatentTerms, names: Sequence[str], store: Store | None = None) -> tuple[pd.DataFrame, dict]:
    """Rank collections by indexes of both forms; return a row a collection and form, and what the provenance states.

    nDCG@10 as `measures.summarise` gives it against float32. `FACTS` are the size of the saved index by posting and by
    document; and against float32 the share of queries with the same ten documents in the same order, the mean over
    queries of `BM25Index.error_bound`, and of the most by which a score of a document found by both differs, both
    divided by the query's best score. The last rows are means over the collections without `limit`.
    """
    collections, store = load_collections(names), store or Store()
    values, tables = [], []
    for collection in collections:
        of_each, facts = _measured(model, collection, encode_collection(model, collection, store))
        tables.append(
            summary_of(of_each, EXACT_IMPACTS).join(facts, on="system").assign(collection=collection.full_name)
        )
        values.append(of_each)
    together = pd.concat(tables, ignore_index=True)
    kept = [number for number, each in enumerate(collections) if not is_limit(each.full_name)]
    means = averages_of([values[number] for number in kept], EXACT_IMPACTS)
    averaged = together[~together["collection"].map(is_limit)].groupby("system")[list(FACTS)].mean()
    means = means.join(averaged, on="system").assign(collection=MEAN)
    table = pd.concat([together, means], ignore_index=True).rename(columns={"system": "impacts"})
    return columns_first(table, "collection", "impacts"), origin_of(model, collections)


def _measured(
    model: LatentTerms, collection: Collection, encoded: EncodedCollection
) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """Return nDCG@10 of each query by form, and the columns `FACTS` of each form."""
    queries, values, facts, rankings = encoded.query_terms, {}, {}, {}
    for form in FORMS:
        index = model.index(encoded.doc_terms, collection.doc_ids, impacts=form)
        rankings[form] = index.search(queries, collection.query_ids, DEPTH)
        values[form] = values_of(rankings[form], collection)[0]
        with TemporaryDirectory() as folder:
            index.save(Path(folder) / "index")
            size = sum(path.stat().st_size for path in (Path(folder) / "index").iterdir())
        n_postings, n_docs = index.n_postings, len(index)
        facts[form] = {"bytes_per_posting": size / n_postings, "bytes_per_document": size / n_docs}
        facts[form] |= {"postings_per_document": n_postings / n_docs, "bound": index.error_bound(queries)}
    exact = rankings[EXACT_IMPACTS]
    best = np.maximum([scores[0] for scores in exact.scores], np.finfo(np.float32).tiny)
    for form, ranking in rankings.items():
        same, off = zip(*map(_compared, exact.query_ids, repeat(exact), repeat(ranking)), strict=True)
        facts[form] |= {"same_best": np.mean(same), "off": np.mean(off / best)}
        facts[form]["bound"] = np.mean(facts[form]["bound"] / best)
    return values, pd.DataFrame.from_dict(facts, "index")


def _compared(query_id: str, exact: Ranking, other: Ranking) -> tuple[bool, float]:
    """Return whether the first ten documents of a query are the same, and the most that a score differs by."""
    first, second = dict(exact[query_id]), dict(other[query_id])
    found = [abs(first[doc] - second[doc]) for doc in first if doc in second]
    return list(first)[: DEPTH - 1] == list(second)[: DEPTH - 1], max(found, default=0.0)
