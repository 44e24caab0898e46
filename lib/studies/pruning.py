"""Quality against the size of the index: what is left out of documents or of queries (42_pruning)."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from lib.bm25 import pruning
from lib.data.collection import Collection, load_collection
from lib.inspect.vocabulary import spaced_ranks
from lib.latent_terms import LatentTerms
from lib.studies import names as kinds
from lib.studies.comparison import columns_first, document_frequency, origin_of, query_postings, summary_of, values_of
from lib.studies.encoded import EncodedCollection, encode_collection
from lib.support.checks import check_choice
from lib.support.store import Store


class Pruning(NamedTuple):
    """One way to make a term matrix smaller, and how far it goes; "document top" is `keep_top` of the documents."""

    kind: str
    value: float


UNPRUNED = Pruning(kinds.NOTHING_PRUNED, 1)
PRUNINGS = (
    UNPRUNED,
    *(Pruning(kinds.DOCUMENT_TOP, n) for n in (25, 50, 100, 200, 400)),
    *(Pruning(kinds.DOCUMENT_MASS, share) for share in (0.5, 0.7, 0.8, 0.9, 0.95)),
    *(Pruning(kinds.DOCUMENT_FREQUENCY, share) for share in (0.05, 0.1, 0.2, 0.3, 0.5)),
    *(Pruning(kinds.QUERY_TOP, n) for n in (10, 20, 40, 80)),
    *(Pruning(kinds.QUERY_MASS, share) for share in (0.5, 0.7, 0.8, 0.9)),
)
LENGTHS_OF = (UNPRUNED, Pruning(kinds.DOCUMENT_TOP, 100), Pruning(kinds.DOCUMENT_TOP, 400))


def pruning_study(
    model: LatentTerms, names: Iterable[str], prunings: Sequence[Pruning] = PRUNINGS, store: Store | None = None
) -> tuple[pd.DataFrame, pd.DataFrame, dict]:
    """Measure what pruning costs and saves, with the model's own constants of BM25.

    Return a row a collection and pruning (kind, value): nDCG@10 as `summarise` gives it against no pruning, postings
    and query_postings (mean), and both as shares of the unpruned (postings_share, query_share); the lengths (df by
    rank) of the posting lists, for no pruning and for 100 and 400 latents a document; and what the provenance states.
    """
    store, tables, lengths = store or Store(), [], []
    collections = [load_collection(name) for name in names]
    for collection in collections:
        encoded, label = encode_collection(model, collection, store), {"collection": collection.full_name}
        results = {each: _measured(model, collection, encoded, each, store) for each in prunings}
        values = {str(each): result["values"] for each, result in results.items()}
        table = summary_of(values, str(UNPRUNED)).drop(columns="system")
        table[["kind", "value"]] = list(prunings)
        table["postings"] = [result["df"].sum() for result in results.values()]
        table["query_postings"] = [result["query_postings"].mean() for result in results.values()]
        unpruned = table[table["kind"] == UNPRUNED.kind].iloc[0]
        table["postings_share"] = table["postings"] / unpruned["postings"]
        table["query_share"] = table["query_postings"] / unpruned["query_postings"]
        tables.append(table.assign(**label))
        for each in LENGTHS_OF:
            if each in results:
                df = np.sort(results[each]["df"])[::-1]
                ranks = spaced_ranks(np.count_nonzero(df), 200)
                lengths.append(pd.DataFrame(label | each._asdict() | {"rank": ranks, "df": df[ranks - 1]}))
    table = columns_first(pd.concat(tables, ignore_index=True), "collection", "kind", "value")
    origin = origin_of(model, collections, prunings=[each._asdict() for each in prunings])
    return table, pd.concat(lengths, ignore_index=True), origin


def _measured(
    model: LatentTerms, collection: Collection, encoded: EncodedCollection, how: Pruning, store: Store
) -> dict[str, np.ndarray]:
    """Return nDCG@10 of each query, the df of each latent and the postings that each query reads."""

    def make() -> dict[str, np.ndarray]:
        docs, queries = prune_terms(encoded.doc_terms, encoded.query_terms, how)
        ranking = model.index(docs, collection.doc_ids).search(queries, collection.query_ids, 11)
        df = document_frequency(docs)
        values = values_of(ranking, collection)[0]
        return {"values": values, "df": df, "query_postings": query_postings(df, queries)}

    key = {"model": model.identity, "bm25": asdict(model.bm25), "collection": collection.identity}
    return store.get("pruned", key | {"pruning": list(how), "measure": kinds.MEASURE}, make)


def prune_terms(docs: csr_array, queries: csr_array, how: Pruning) -> tuple[csr_array, csr_array]:
    """Return documents and queries, one of the two pruned."""
    check_choice(how.kind, {each.kind for each in PRUNINGS}, "kind")
    if how.kind == kinds.NOTHING_PRUNED:
        return docs, queries
    side, _, method = how.kind.partition(" ")
    prune = pruning.PRUNINGS[method]
    amount = int(how.value) if method == "top" else how.value
    return (prune(docs, amount), queries) if side == "document" else (docs, prune(queries, amount))
