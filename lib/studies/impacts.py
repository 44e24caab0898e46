"""Impacts in eight bits beside exact ones: what they cost in ranking, and what they save (44_impacts).

The rule, of 2026-11-30, before any result: nDCG@10 may change by `names.UNCHANGED` on any collection. Nothing is
chosen.
"""

from collections.abc import Sequence
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
from lib.studies.names import EXACT_IMPACTS, MEAN, is_limit
from lib.support.store import Store

DEPTH = 11  # documents of a ranking: one more than are measured, for a query's own is left out
FACTS = ("bytes_per_posting", "bytes_per_document", "postings_per_document", "same_best", "bound", "off")


def impacts_study(model: LatentTerms, names: Sequence[str], store: Store | None = None) -> tuple[pd.DataFrame, dict]:
    """Rank collections by indexes of both forms; return a row a collection and form, and what the provenance states.

    nDCG@10 as `measures.summarise` gives it against float32. `FACTS` are the size of the saved index by posting and by
    document; and against float32 the share of queries with the same ten documents in the same order, the mean of
    `BM25Index.error_bound`, and of the most by which a score of a document found by both differs, both divided by the
    query's best score, over the queries that have one above 0. The last rows are means over the collections without
    `limit`.
    """
    collections, store = load_collections(names), store or Store()
    values, tables = {}, []
    for collection in collections:
        name = collection.full_name
        values[name], facts = _measured(model, collection, encode_collection(model, collection, store))
        tables.append(summary_of(values[name], EXACT_IMPACTS).join(facts, on="system").assign(collection=name))
    together = pd.concat(tables, ignore_index=True)
    means = averages_of([values[name] for name in values if not is_limit(name)], EXACT_IMPACTS)
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
        ranking = index.search(queries, collection.query_ids, DEPTH)
        rankings[form] = ranking.exclude(collection.self_matches)
        values[form] = values_of(ranking, collection)[0]
        with TemporaryDirectory() as folder:
            index.save(Path(folder) / "index")
            size = sum(path.stat().st_size for path in (Path(folder) / "index").iterdir())
        n_postings, n_docs = index.n_postings, len(index)
        facts[form] = {"bytes_per_posting": size / n_postings, "bytes_per_document": size / n_docs}
        facts[form] |= {"postings_per_document": n_postings / n_docs, "bound": index.error_bound(queries)}
    exact = rankings[EXACT_IMPACTS]
    best = np.array([scores[0] for scores in exact.scores])
    answered = best > 0
    for form, ranking in rankings.items():
        pairs = [_compared(query_id, exact, ranking) for query_id in collection.query_ids]
        same, off = (np.array(column) for column in zip(*pairs, strict=True))
        shares = {"bound": facts[form]["bound"][answered] / best[answered], "off": off[answered] / best[answered]}
        facts[form] |= {"same_best": same.mean()} | {name: share.mean() for name, share in shares.items()}
    return values, pd.DataFrame.from_dict(facts, "index")


def _compared(query_id: str, exact: Ranking, other: Ranking) -> tuple[bool, float]:
    """Return whether the first ten documents of a query are the same, and the most that a score differs by."""
    first, second = dict(exact[query_id]), dict(other[query_id])
    differences = [abs(first[doc] - second[doc]) for doc in first if doc in second]
    return list(first)[: DEPTH - 1] == list(second)[: DEPTH - 1], max(differences, default=0.0)
