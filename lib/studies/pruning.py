"""Quality against the size of the index: what is left out of documents or of queries (42_pruning)."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from lib.bm25 import pruning
from lib.bm25.pruning import keep_top
from lib.bm25.ranking import Ranking
from lib.bm25.weighting import idf_lucene
from lib.data.collection import Collection, load_collection
from lib.evaluation.baselines import inner_product_search
from lib.evaluation.splade import Splade, splade_terms
from lib.inspect.vocabulary import spaced_ranks
from lib.latent_terms import LatentTerms
from lib.studies import names as kinds
from lib.studies.comparison import columns_first, document_frequency, origin_of, query_postings, summary_of, values_of
from lib.studies.encoded import encode_collection
from lib.studies.retrieval import given_splade
from lib.support.checks import check_choice
from lib.support.store import Store


class Pruning(NamedTuple):
    """One way to make a term matrix smaller, and how far it goes; "document top" is `keep_top` of the documents.

    "query top by idf" keeps the largest products of weight and Lucene's idf; only terms whose scores have an idf are
    pruned so.
    """

    kind: str
    value: float


UNPRUNED = Pruning(kinds.NOTHING_PRUNED, 1)
PRUNINGS = (
    UNPRUNED,
    *(Pruning(kinds.DOCUMENT_TOP, n) for n in (25, 50, 100, 200, 400)),
    *(Pruning(kinds.DOCUMENT_MASS, share) for share in (0.5, 0.7, 0.8, 0.9, 0.95)),
    *(Pruning(kinds.DOCUMENT_FREQUENCY, share) for share in (0.05, 0.1, 0.2, 0.3, 0.5)),
    *(Pruning(kinds.QUERY_TOP, n) for n in (10, 20, 40, 80)),
    *(Pruning(kinds.QUERY_TOP_BY_IDF, n) for n in (20, 40, 80, 120)),
    *(Pruning(kinds.QUERY_MASS, share) for share in (0.5, 0.7, 0.8, 0.9)),
)
LENGTHS_OF = (UNPRUNED, Pruning(kinds.DOCUMENT_TOP, 100), Pruning(kinds.DOCUMENT_TOP, 400))
DEPTH = 11  # documents of a ranking: one more than are measured, for a query's own is left out


class Terms(NamedTuple):
    """What is pruned: term matrices, how pruned ones rank, by an idf or not, the store's key, and a kind's name."""

    docs: csr_array
    queries: csr_array
    rank: Callable[[csr_array, csr_array], Ranking]
    by_idf: bool
    key: dict
    called: Callable[[str], str]


def latent_terms(model: LatentTerms, collection: Collection, store: Store) -> Terms:
    """Return a collection's latent terms, ranked by BM25 with the model's own constants."""
    encoded = encode_collection(model, collection, store)

    def rank(docs: csr_array, queries: csr_array) -> Ranking:
        return model.index(docs, collection.doc_ids).search(queries, collection.query_ids, DEPTH)

    key = {"model": model.identity, "bm25": asdict(model.bm25)}
    return Terms(encoded.doc_terms, encoded.query_terms, rank, True, key, str)


def words_of_splade(splade: Splade, collection: Collection, store: Store) -> Terms:
    """Return the words to which SPLADE gives weights, ranked by the inner product."""

    def rank(docs: csr_array, queries: csr_array) -> Ranking:
        return inner_product_search(docs, collection.doc_ids, queries, collection.query_ids, DEPTH)

    return Terms(*splade_terms(splade, collection, store), rank, False, {"splade": splade.identity}, kinds.of_splade)


def pruning_study(
    model: LatentTerms, names: Iterable[str], prunings: Sequence[Pruning] = PRUNINGS, store: Store | None = None
) -> tuple[pd.DataFrame, pd.DataFrame, dict]:
    """Measure what pruning costs and saves, of latent terms and, as `given_splade` says, of SPLADE's.

    Return a row a collection and pruning (kind, value): nDCG@10 as `summarise` gives it against no pruning of the same
    terms, postings and query_postings (mean), and both as shares of the unpruned (postings_share, query_share); the
    lengths (df by rank) of the posting lists, for no pruning and for 100 and 400 terms a document; and what the
    provenance states.
    """
    store, tables, lengths, splade = store or Store(), [], [], given_splade()
    collections = [load_collection(name) for name in names]
    for collection in collections:
        pruned = [latent_terms(model, collection, store)]
        pruned += [words_of_splade(splade, collection, store)] if splade else []
        for terms in pruned:
            possible = (each for each in prunings if terms.by_idf or each.kind != kinds.QUERY_TOP_BY_IDF)
            results = {each: _measured(terms, collection, each, store) for each in possible}
            costs = _costs(results)
            tables.append(costs.assign(collection=collection.full_name, kind=costs["kind"].map(terms.called)))
            for each in LENGTHS_OF:
                if each in results:
                    df = np.sort(results[each]["df"])[::-1]
                    ranks = spaced_ranks(np.count_nonzero(df), 200)
                    label = {"collection": collection.full_name, "kind": terms.called(each.kind), "value": each.value}
                    lengths.append(pd.DataFrame(label | {"rank": ranks, "df": df[ranks - 1]}))
    table = columns_first(pd.concat(tables, ignore_index=True), "collection", "kind", "value")
    stated = {"prunings": [each._asdict() for each in prunings], "splade": splade and splade.identity}
    return table, pd.concat(lengths, ignore_index=True), origin_of(model, collections, **stated)


def _costs(results: dict[Pruning, dict[str, np.ndarray]]) -> pd.DataFrame:
    """Return a row a pruning, of what `_measured` returns."""
    values = {str(each): result["values"] for each, result in results.items()}
    table = summary_of(values, str(UNPRUNED)).drop(columns="system")
    table[["kind", "value"]] = list(results)
    table["postings"] = [result["df"].sum() for result in results.values()]
    table["query_postings"] = [result["query_postings"].mean() for result in results.values()]
    unpruned = table[table["kind"] == UNPRUNED.kind].iloc[0]
    table["postings_share"] = table["postings"] / unpruned["postings"]
    table["query_share"] = table["query_postings"] / unpruned["query_postings"]
    return table


def _measured(terms: Terms, collection: Collection, how: Pruning, store: Store) -> dict[str, np.ndarray]:
    """Return nDCG@10 of each query, the df of each term and the postings that each query reads."""

    def make() -> dict[str, np.ndarray]:
        docs, queries = prune_terms(terms.docs, terms.queries, how)
        df = document_frequency(docs)
        values = values_of(terms.rank(docs, queries), collection)[0]
        return {"values": values, "df": df, "query_postings": query_postings(df, queries)}

    key = terms.key | {"collection": collection.identity, "pruning": list(how), "measure": kinds.MEASURE}
    return store.get("pruned", key, make)


def prune_terms(docs: csr_array, queries: csr_array, how: Pruning) -> tuple[csr_array, csr_array]:
    """Return documents and queries, one of the two pruned."""
    check_choice(how.kind, {each.kind for each in PRUNINGS}, "kind")
    if how.kind == kinds.NOTHING_PRUNED:
        return docs, queries
    if how.kind == kinds.QUERY_TOP_BY_IDF:
        return docs, keep_top(queries, int(how.value), idf_lucene(document_frequency(docs), docs.shape[0]))
    side, _, method = how.kind.partition(" ")
    prune = pruning.PRUNINGS[method]
    amount = int(how.value) if method == "top" else how.value
    return (prune(docs, amount), queries) if side == "document" else (docs, prune(queries, amount))
