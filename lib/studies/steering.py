"""Study `32_steering`: of a query that asks for two topics, the latents of one are silenced.

**The rule**, of 2026-11-29, before any result.

- *Queries.* Two queries A and B of a collection without a common relevant document are put one behind the other, and
  the retriever reads "A B" as one text. The queries are shuffled (seed 0) and paired in that order, so that each is in
  at most one pair. A pair is left out if the topics share a relevant document, or if one of them has none in the
  collection. Each pair is steered twice, away from A and away from B; its value is the mean of both.
- *The latents of a topic* are those of "A B" that A has when read alone, and B has not. Of these the n with the
  largest weight times idf are silenced (a factor of 0), for n of 1, 4, 16, 64 and all. What a person would silence by
  hand is taken to be 16: statements are about these.
- *Controls* silence as many latents of the same query, drawn at random from all of its latents, the topic's too: one
  among latents of like document frequency, one among latents of like weight times idf. For this the latents are sorted,
  and from each ten in a row as many are drawn as the topic has there. A value is the mean of three draws.
- *Without choosing latents*: `steer(query, less=A)` with its default step.
- *Measured* are the ranks of the relevant documents among all documents. A topic *falls* by the mean of
  log2(rank after / rank before) over its documents; the *gap* is the fall of the topic that is steered away from, less
  that of the topic that is kept. nDCG@10 of the kept topic counts its own relevant documents only.
- *Steering works* on a collection if the gap is larger than that of either control; *the kept topic survives* if the
  interval of the change of its nDCG@10 from that of "A B" lies above -0.02. Intervals are 95 % bootstrap intervals over
  pairs; those of means over collections resample pairs within each, LIMIT left out.
- *Latents of embeddings* are beside those of tokens: a text has the codes of one vector, the retriever's own embedding
  (`lib.studies.pooled`). Documents are ranked by the inner product of codes, or that of their embedding with the
  query's as it is decoded from its codes. Pairs, systems and statements are the same; a latent's weight counts as it
  is, without idf.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from lib.bm25.ranking import Ranking, top_k
from lib.bm25.steering import STEP, steer
from lib.data.collection import Collection
from lib.evaluation.measures import per_query, resampled_means
from lib.latent_terms import LatentTerms
from lib.sae.autoencoder import SparseAutoencoder
from lib.studies import names
from lib.studies.comparison import document_frequency, load_collections, origin_of
from lib.studies.encoded import Embeddings, encode_collection, load, term_blocks, terms_of
from lib.studies.pooled import codes_of, decoded, pooled_rankings
from lib.support.checks import check_count
from lib.support.store import Store

COUNTS = (1, 4, names.STEERED_MAIN, 64, None)  # of latents that are silenced; None is all of the topic's
DRAWS = 3  # of a control
ALIKE = 10  # latents in a row among which a control draws
DEPTH = 10  # of the measure
FIELDS = ("latents", "share", "fall", "kept_fall", "ndcg", "other_ndcg")


class Searched(NamedTuple):
    """A collection as one vocabulary has it.

    `queries` and `pairs` are rows of its queries, and of pairs of them read as one text, float32 [n, width]; `df` and
    `idf`, [width], in how many documents a latent is, and what its weight counts for; `scores` gives those of all
    documents, float32 [n_docs], for one row.
    """

    queries: csr_array
    pairs: csr_array
    df: np.ndarray
    idf: np.ndarray
    scores: Callable[[csr_array], np.ndarray]


class System(NamedTuple):
    """What is done to a query; `n` latents at most, or all of a topic (None)."""

    name: str
    n: int | None = None


STEERED = [System(name, n) for n in COUNTS for name in (names.SILENCED, names.AS_FREQUENT, names.AS_HEAVY)]
SYSTEMS = [System(names.TWO_TOPICS), System(names.KEPT_ALONE), System(names.LESS), *STEERED]
MAIN = System(names.SILENCED, names.STEERED_MAIN)


def steering_study(
    model: LatentTerms,
    pooled: SparseAutoencoder,
    collection_names: Sequence[str],
    n_pairs: int,
    store: Store | None = None,
) -> tuple[dict[str, pd.DataFrame], pd.DataFrame, dict]:
    """Steer queries that ask for two topics away from one of them; the module states the rule.

    `pooled` reads the retriever's embeddings. Return the tables, the values of single pairs where the main number of
    the model's latents is silenced, and what the provenance states. "steering_rankings" is of `pooled_rankings`;
    "steering" has a row for each collection, and for the mean of several, by vocabulary and system:

    - vocabulary, system, n (missing for all latents of a topic, and where none are chosen), n_pairs;
    - means of latents (silenced), share (of the query's weight times idf), fall (of the topic that is steered away
      from), kept_fall, other_ndcg (nDCG@10 of that topic);
    - with intervals (_low, _high): gap; over_frequent and over_heavy, the gap less that of the control with as many
      latents; ndcg, nDCG@10 of the kept topic; difference, from ndcg of the query that is not steered.
    """
    store, n_pairs = store or Store(), check_count(n_pairs, "n_pairs")
    collections = load_collections(collection_names)
    pairs = [paired(collection, n_pairs) for collection in collections]
    vocabularies: dict[str, tuple[dict, Callable[..., Searched]]] = {
        names.LATENTS: ({"model": model.identity, "bm25": asdict(model.bm25)}, partial(by_tokens, model)),
        names.OF_EMBEDDINGS: ({"sae": pooled.identity}, partial(by_embedding, model, pooled)),
        names.DECODED: ({"sae": pooled.identity, "decoded": True}, partial(by_embedding, model, pooled, decode=True)),
    }
    by_pair, rows = [], []
    for vocabulary, (identity, search) in vocabularies.items():
        values = {}
        for collection, of_collection in zip(collections, pairs, strict=True):
            key = identity | {"encoder": model.encoder.identity, "collection": collection.identity}
            key |= {"pairs": of_collection, "systems": SYSTEMS, "draws": DRAWS, "alike": ALIKE, "step": STEP, "seed": 0}
            make = partial(_steered_arrays, search, collection, of_collection, store)
            values[collection.full_name] = np.array(store.get("steering", key, make)["values"])
            if vocabulary == names.LATENTS:
                both = two_topics(collection, of_collection)
                by_pair.append(single_pairs(both, values[collection.full_name]))
        of_mean = [of_one for name, of_one in values.items() if not names.is_limit(name)]
        groups = {name: [of_one] for name, of_one in values.items()} | ({names.MEAN: of_mean} if of_mean[1:] else {})
        rows += [{"vocabulary": vocabulary} | row for name, group in groups.items() for row in summary(name, group)]
    rankings = pooled_rankings(model, pooled, collections, store)
    origin = origin_of(model, collections, n_pairs=n_pairs, draws=DRAWS, alike=ALIKE, step=STEP)
    origin["embeddings"] = {"autoencoder": pooled.identity, "training": pooled.metadata}
    tables = {"steering": pd.DataFrame(rows), "steering_rankings": rankings}
    return tables, pd.concat(by_pair, ignore_index=True), origin


def _steered_arrays(search: Callable[..., Searched], collection: Collection, pairs, store: Store) -> dict:
    return {"values": steered(search(collection, pairs, store), collection, pairs)}


def paired(collection: Collection, n_pairs: int, seed: int = 0) -> list[tuple[int, int]]:
    """Return at most `n_pairs` pairs of rows of queries, as the rule has it; ValueError if there are fewer than two."""
    relevant = [set(docs) for docs in relevant_docs(collection)]
    order = np.random.default_rng(seed).permutation(len(relevant)).tolist()
    pairs = [(a, b) for a, b in zip(order[::2], order[1::2], strict=False) if relevant[a] and relevant[b]]
    pairs = [(a, b) for a, b in pairs if not relevant[a] & relevant[b]][:n_pairs]
    if len(pairs) < 2:
        raise ValueError(
            f"{collection.full_name} has {len(pairs)} pairs of queries without a common relevant document, which are "
            "too few; give a collection with more queries."
        )
    return pairs


def relevant_docs(collection: Collection) -> list[list[int]]:
    """Return the positions of the documents that are relevant to each query, those that the collection lacks not."""
    position = {doc: number for number, doc in enumerate(collection.doc_ids)}
    return [
        [position[doc] for doc, grade in collection.qrels[query].items() if grade > 0 and doc in position]
        for query in collection.query_ids
    ]


def two_topics(collection: Collection, pairs: Sequence[tuple[int, int]]) -> Collection:
    """Return the collection with a query for each pair, one text behind the other, and the judgements of both."""
    ids, texts, qrels = collection.query_ids, collection.query_texts, collection.qrels
    both = {f"{ids[a]} + {ids[b]}": (f"{texts[a]} {texts[b]}", qrels[ids[a]] | qrels[ids[b]]) for a, b in pairs}
    query_texts, judged = zip(*both.values(), strict=True)
    return replace(collection, query_ids=[*both], query_texts=query_texts, qrels=dict(zip(both, judged, strict=True)))


def by_tokens(model: LatentTerms, collection: Collection, pairs: Sequence[tuple[int, int]], store: Store) -> Searched:
    """Return a collection as the model has it, ranked by BM25 with the model's constants."""
    encoded = encode_collection(model, collection, store)
    index = model.index(encoded.doc_terms, collection.doc_ids)
    (both,) = term_blocks(terms_of(model), model.phi, two_topics(collection, pairs), "query", store)
    return Searched(encoded.query_terms, both, index.df, index.idf, index.scores)


def by_embedding(
    model: LatentTerms,
    sae: SparseAutoencoder,
    collection: Collection,
    pairs: Sequence[tuple[int, int]],
    store: Store,
    decode: bool = False,
) -> Searched:
    """Return a collection as the codes of its embeddings, ranked by their inner product, or as queries are decoded."""
    encoded = encode_collection(model, collection, store)
    (part,) = load(Embeddings(model.encoder), two_topics(collection, pairs), "query", store)
    docs, queries, both = (
        codes_of(sae, rows) for rows in (encoded.doc_embeddings, encoded.query_embeddings, part["embeddings"])
    )

    def scores(query: csr_array) -> np.ndarray:
        if decode:
            return encoded.doc_embeddings @ decoded(sae, query)[0]
        return (docs @ query.T).toarray()[:, 0]

    return Searched(queries, both, document_frequency(docs), np.ones(sae.width, np.float32), scores)


def steered(searched: Searched, collection: Collection, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """Return the FIELDS of each system for each pair, float64 [n_pairs, n_systems, n_fields]."""
    relevant, rng = relevant_docs(collection), np.random.default_rng(0)
    rows, best, judged = [], [], {True: {}, False: {}}
    for number, pair in enumerate(pairs):
        query = searched.pairs[[number]]
        before, worth = searched.scores(query), query.data * searched.idf[query.indices]
        for away_row, kept_row in (pair, pair[::-1]):
            topics = (searched.queries[[row]] for row in (away_row, kept_row))
            for system, changed, silenced in variants(query, *topics, searched.df, searched.idf, rng):
                scores = searched.scores(changed)
                falls = (fall(before, scores, relevant[row]) for row in (away_row, kept_row))
                share = np.sum(worth[silenced]) / max(worth.sum(), np.finfo(np.float32).tiny)
                rows.append((number, SYSTEMS.index(system), len(silenced), share, *falls))
                for is_kept, row in ((True, kept_row), (False, away_row)):
                    judged[is_kept][str(len(best))] = collection.qrels[collection.query_ids[row]]
                best.append([collection.doc_ids[i] for i in top_k(scores, DEPTH)])
    table = pd.DataFrame(rows, columns=["pair", "system", *FIELDS[:4]])
    ranking = Ranking([*judged[True]], best, [np.arange(len(docs), 0, -1) for docs in best])
    for field, is_kept in (("ndcg", True), ("other_ndcg", False)):
        table[field] = per_query(ranking, judged[is_kept], [names.MEASURE])["value"].to_numpy()
    means = table.groupby(["pair", "system"])[list(FIELDS)].mean()  # of both directions, and of the draws
    return means.to_numpy().reshape(len(pairs), len(SYSTEMS), len(FIELDS))


def variants(
    query: csr_array, topic: csr_array, kept: csr_array, df: np.ndarray, idf: np.ndarray, rng: np.random.Generator
) -> Iterator[tuple[System, csr_array, np.ndarray]]:
    """Yield each system, the query that it makes of one of two topics, and the positions that it silences.

    All three are rows, float32 [1, width], `topic` is what the query is steered away from; `df` and `idf` are as in
    `Searched`. Positions are among the query's latents; a control comes as often as it is drawn.
    """
    nothing = np.empty(0, np.int64)
    yield SYSTEMS[0], query, nothing
    yield SYSTEMS[1], kept, nothing
    yield SYSTEMS[2], steer(query, less=topic), nothing
    latents = query.indices
    df, worth = df[latents], query.data * idf[latents]
    topic_only = np.flatnonzero(np.isin(latents, topic.indices) & ~np.isin(latents, kept.indices))
    topic_only = topic_only[np.argsort(-worth[topic_only], kind="stable")]
    for n in COUNTS:
        chosen = topic_only[:n]
        yield System(names.SILENCED, n), silence(query, chosen), chosen
        for name, values in ((names.AS_FREQUENT, df), (names.AS_HEAVY, worth)):
            for _ in range(DRAWS):
                drawn = alike(values, chosen, rng)
                yield System(name, n), silence(query, drawn), drawn


def silence(query: csr_array, positions: np.ndarray) -> csr_array:
    """Return a query, one row, without the latents at these positions."""
    return steer(query, dict.fromkeys(query.indices[positions].tolist(), 0.0))


def alike(values: np.ndarray, chosen: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return as many positions as are chosen, drawn at random from all, of like values.

    Positions are sorted by `values` [n]; of each ALIKE in a row as many are drawn as are chosen there.
    """
    order = np.argsort(values, kind="stable")
    groups = np.split(order, range(ALIKE, len(order), ALIKE))
    return np.concatenate([rng.permutation(group)[: np.isin(group, chosen).sum()] for group in groups])


def fall(before: np.ndarray, after: np.ndarray, docs: Sequence[int]) -> float:
    """Return the mean of log2(rank after / rank before) over documents, given the scores of all documents."""
    return float(np.mean(np.log2(ranks(after, docs) / ranks(before, docs))))


def ranks(scores: np.ndarray, docs: Sequence[int]) -> np.ndarray:
    """Return the ranks, from 1, of some documents among all; those of equal scores share their mean rank."""
    ascending, of_docs = np.sort(scores), scores[docs]
    first, last = (np.searchsorted(ascending, of_docs, side) for side in ("left", "right"))
    return len(scores) - (first + last - 1) / 2


def summary(name: str, groups: Sequence[np.ndarray]) -> list[dict]:
    """Return the rows of the table for one collection, or of the mean of several, out of what `steered` returns."""
    mean, draws = np.mean([group.mean(axis=0) for group in groups], axis=0), resampled_means(groups)

    def measures(values: np.ndarray, system: System) -> dict[str, np.ndarray]:
        """Return what has an interval; `values` is [..., n_systems, n_fields]."""

        def of(field: str, system: System = system) -> np.ndarray:
            return values[..., SYSTEMS.index(system), FIELDS.index(field)]

        def gap(system: System = system) -> np.ndarray:
            return of("fall", system) - of("kept_fall", system)

        result = {"gap": gap(), "ndcg": of("ndcg"), "difference": of("ndcg") - of("ndcg", SYSTEMS[0])}
        if system.name == names.SILENCED:
            controls = {"over_frequent": names.AS_FREQUENT, "over_heavy": names.AS_HEAVY}
            result |= {column: gap() - gap(System(control, system.n)) for column, control in controls.items()}
        return result

    rows = []
    for number, system in enumerate(SYSTEMS):
        row = {"collection": name, "system": system.name, "n": system.n, "n_pairs": sum(map(len, groups))}
        row |= {field: mean[number, FIELDS.index(field)] for field in FIELDS if field != "ndcg"}
        ends = measures(draws, system)
        for column, value in measures(mean, system).items():
            row[column] = float(value)
            row[f"{column}_low"], row[f"{column}_high"] = np.quantile(ends[column], [0.025, 0.975])
        rows.append(row)
    return rows


def single_pairs(collection: Collection, values: np.ndarray) -> pd.DataFrame:
    """Return the gap and nDCG@10 of the kept topic of each pair, where the main number of latents is silenced."""
    table = pd.DataFrame({"collection": collection.full_name, "query_id": collection.query_ids})
    for system in (*SYSTEMS[:3], *(system for system in STEERED if system.n == names.STEERED_MAIN)):
        fields = dict(zip(FIELDS, values[:, SYSTEMS.index(system)].T, strict=True))
        table[f"gap, {system.name}"] = fields["fall"] - fields["kept_fall"]
        table[f"{names.MEASURE}, {system.name}"] = fields["ndcg"]
    return table
