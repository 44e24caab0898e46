"""What the paper leaves open: settings of the ranking, each chosen on training queries and frozen before the test."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cache, cached_property
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from lib.bm25.index import BM25Index
from lib.bm25.pooling import PHIS, apply_phi, undo_phi, with_data
from lib.bm25.pruning import drop_frequent, keep_mass, keep_top
from lib.bm25.ranking import Ranking
from lib.bm25.weighting import PAPER
from lib.data.collection import Collection, load_collection
from lib.encode.encoder import TokenStates
from lib.evaluation.baselines import ANALYZER
from lib.evaluation.feedback import Feedback, expand_queries
from lib.evaluation.fusion import fuse
from lib.evaluation.late_interaction import StoredStates, rerank
from lib.evaluation.tuning import check_training
from lib.inference_free import InferenceFreeQueries
from lib.latent_terms import LatentTerms
from lib.studies.comparison import (
    averages_of,
    columns_first,
    lexical_ranking,
    origin_of,
    summary_of,
    values_of,
    with_queries,
)
from lib.studies.encoded import document_readings, encode_collection, keep, stored_states, token_latents
from lib.studies.names import (
    AS_TUNED,
    LOOKED_UP,
    MEAN,
    MEASURE,
    PAPERS,
    TOGETHER,
    WITH_FEEDBACK,
    WITH_LATE,
    WITH_WORDS,
    is_limit,
)
from lib.support.store import Store

DEPTH = 200  # documents of each ranking that a fusion takes
TIMED = 50  # queries that costs are measured on


class Setting(NamedTuple):
    """How to rank: BM25's constants, and what is done to the weights before and to the ranking after."""

    k1: float
    b: float
    idf: str
    phi: str = "sqrt"
    idf_power: float = 1.0  # the exponent of idf
    query_power: float = 1.0  # the exponent of a query's weights
    max_share: float = 1.0  # latents in more than this share of the documents are left out
    doc_mass: float = 1.0  # the share of its weights that a document keeps
    query_mass: float = 1.0
    words: float = 0.0  # the weight of lexical BM25 in a fusion

    def ranking(self, bench: "_Bench", k: int) -> Ranking:
        """Return the `k` best documents of each query."""
        return bench.search(self, bench.prepared(self).queries, k)


class WithFeedback(NamedTuple):
    """A setting, searched twice (`feedback`); the scores of both searches are mixed."""

    first: Setting
    feedback_docs: int
    feedback_terms: int
    feedback: float  # the weight of what documents have in the query of the second search
    second: float  # the weight of the second search

    def ranking(self, bench: "_Bench", k: int) -> Ranking:
        """See `Setting`."""
        prepared, feedback = (
            bench.prepared(self.first),
            Feedback(self.feedback_docs, self.feedback_terms, self.feedback),
        )
        before = bench.search(self.first, prepared.queries, DEPTH).exclude(bench.collection.self_matches)
        index = prepared.index
        queries = expand_queries(prepared.queries, before, prepared.docs, index.doc_ids, index.idf, feedback)
        after = bench.search(self.first, queries, DEPTH)
        return fuse([before, after], "relative scores", k, weights=(1 - self.second, self.second))


class WithLate(NamedTuple):
    """The best documents of another system, reranked by late interaction (`rerank`); both scores are mixed."""

    first: Setting | WithFeedback
    late: float  # the weight of late interaction
    late_docs: int = 100

    def ranking(self, bench: "_Bench", k: int) -> Ranking:
        """See `Setting`."""
        before = self.first.ranking(bench, self.late_docs)
        after = rerank(before, bench.states, bench.query_states)
        return fuse([before, after], "relative scores", k, weights=(1 - self.late, self.late))


class LookedUp(NamedTuple):
    """A setting, with queries whose latents are looked up (`InferenceFreeQueries`)."""

    first: Setting
    token_latents: int  # that a token keeps

    def ranking(self, bench: "_Bench", k: int) -> Ranking:
        """See `Setting`."""
        queries = bench.lookup(self.token_latents).encode(bench.collection.query_texts)
        return bench.search(self.first, queries, k)


System = Setting | WithFeedback | WithLate | LookedUp


def fields_of(system: System) -> dict:
    """Return the fields of a system and of those that it is built on, JSON-able."""
    fields = system._asdict()
    return fields_of(fields.pop("first")) | fields if "first" in fields else fields


def ideas(base: Setting, scale: Mapping[str, float]) -> dict[str, list[dict]]:
    """Return what is tried, the changes of a setting under the name of the idea.

    `scale` is the mean weight under each phi relative to the base's; k1 is tried around the base's times that.
    """
    k1s = {phi: [round(base.k1 * scale[phi] * factor, 3) for factor in (0.5, 1, 2)] for phi in scale if phi != base.phi}
    return {
        "another phi": [{"phi": phi, "k1": k1} for phi in k1s for k1 in k1s[phi]],
        "another idf": [{"idf": form} for form in ("robertson", "robertson-clipped") if form != base.idf],
        "idf to a power": [{"idf_power": power} for power in (0.5, 1.5, 2.0)],
        "query weights to a power": [{"query_power": power} for power in (0.5, 1.5, 2.0)],
        "no universal latents": [{"max_share": share} for share in (0.5, 0.3, 0.2, 0.1)],
        "pruned documents": [{"doc_mass": mass} for mass in (0.95, 0.9, 0.8)],
        "pruned queries": [{"query_mass": mass} for mass in (0.95, 0.9, 0.8)],
        WITH_WORDS: [{"words": weight} for weight in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)],
    }


def with_feedback(first: Setting) -> list[WithFeedback]:
    """Return what is tried of feedback on a setting."""
    grid = product((3, 10), (300, 1000), (0.1, 0.4), (0.5, 1.0))
    return [WithFeedback(first, *point) for point in grid]


def with_late(first: Setting | WithFeedback) -> list[WithLate]:
    """Return what is tried of late interaction on another system."""
    return [WithLate(first, weight) for weight in (0.3, 0.4, 0.5, 0.6, 0.7, 1.0)]


def looked_up(first: Setting) -> list[LookedUp]:
    """Return what is tried of queries that are looked up."""
    return [LookedUp(first, n) for n in (8, 16, 24, 48, 96)]


def change_terms(docs: csr_array, queries: csr_array, setting: Setting, phi: str) -> tuple[csr_array, csr_array]:
    """Return the term matrices changed as `setting` says, but for idf_power; `phi` is the one that was applied."""
    if setting.phi != phi:
        docs, queries = (apply_phi(undo_phi(matrix, phi), setting.phi) for matrix in (docs, queries))
    if setting.max_share < 1:
        docs = drop_frequent(docs, setting.max_share)
    if setting.doc_mass < 1:
        docs = keep_mass(docs, setting.doc_mass)
    if setting.query_mass < 1:
        queries = keep_mass(queries, setting.query_mass)
    if setting.query_power != 1:
        queries = with_data(queries, queries.data**setting.query_power)
    return docs, queries


def _changes(base: Setting, scale: Mapping[str, float]) -> dict[str, Callable[[Setting], list[Setting]]]:
    """Return, under the name of each of the `ideas`, what makes the settings to try of the present one."""
    return {
        idea: lambda setting, changes=changes: [setting._replace(**change) for change in changes]
        for idea, changes in ideas(base, scale).items()
    }


class Prepared(NamedTuple):
    """A collection as a setting has it."""

    docs: csr_array
    queries: csr_array
    index: BM25Index


class _Bench:
    """One collection to try systems on; results are kept in the store."""

    def __init__(self, model: LatentTerms, collection: Collection, store: Store):
        self.model, self.collection, self.store = model, collection, store
        keep(document_readings(model), collection, "document", store)  # in one pass
        self.encoded = encode_collection(model, collection, store)
        self.lookup = cache(self._lookup)
        self._prepared: tuple[Setting, Prepared] | None = None

    @cached_property
    def lexical(self) -> Ranking:
        return lexical_ranking(self.collection, DEPTH)

    @cached_property
    def states(self) -> StoredStates:
        return stored_states(self.model.encoder, self.collection, self.store)

    @cached_property
    def query_states(self) -> list[TokenStates]:
        return list(self.model.encoder.stream(self.collection.query_texts, "query"))

    def _lookup(self, n_latents: int) -> InferenceFreeQueries:
        latents = keep_top(token_latents(self.model, self.collection, self.store), n_latents)
        return InferenceFreeQueries(self.model.encoder, latents, self.model.phi)

    def prepared(self, setting: Setting) -> Prepared:
        """Return the collection under a setting; that of the last one is kept."""
        setting = setting._replace(words=0.0)
        if self._prepared is None or self._prepared[0] != setting:
            encoded = self.encoded
            docs, queries = change_terms(encoded.doc_terms, encoded.query_terms, setting, self.model.phi)
            index = BM25Index.build(docs, self.collection.doc_ids, k1=setting.k1, b=setting.b, idf=setting.idf)
            if setting.idf_power != 1:  # the index multiplies by idf once; a power of a negative one has no meaning
                factors = np.maximum(index.idf, 1e-9) ** (setting.idf_power - 1)
                queries = with_data(queries, queries.data * factors[queries.indices])
            self._prepared = setting, Prepared(docs, queries, index)
        return self._prepared[1]

    def search(self, setting: Setting, queries: csr_array, k: int) -> Ranking:
        """Return the `k` best documents of each query under a setting, words included if it has them."""
        depth = DEPTH if setting.words else k
        ranking = self.prepared(setting).index.search(queries, self.collection.query_ids, depth)
        if not setting.words:
            return ranking
        return fuse([ranking, self.lexical], "relative scores", k, weights=(1 - setting.words, setting.words))

    def values(self, system: System) -> np.ndarray:
        """Return nDCG@10 of each query."""

        def make() -> dict[str, np.ndarray]:
            return {"values": values_of(system.ranking(self, 11), self.collection)[0]}

        key = {"model": self.model.identity, "collection": self.collection.identity, "setting": fields_of(system)}
        key |= {"measure": MEASURE, "depth": DEPTH, "analyzer": ANALYZER}
        return self.store.get("beyond", key, make)["values"]

    def cost(self, system: System) -> dict[str, float]:
        """Return what the table says of a system's cost: query_ms and state_bytes, see `beyond_study`."""
        system.ranking(self, 11)  # what is done once
        start = time.perf_counter()
        system.ranking(self, 11)
        seconds = time.perf_counter() - start
        if not isinstance(system, LookedUp):
            seconds += self.encoding_seconds
        states = self.states.values.nbytes / len(self.states) if isinstance(system, WithLate) else np.nan
        return {"query_ms": 1000 * seconds / len(self.collection.query_ids), "state_bytes": states}

    @cached_property
    def encoding_seconds(self) -> float:
        """How long the model takes to encode the queries."""
        start = time.perf_counter()
        self.model.encode_queries(self.collection.query_texts, progress=False)
        return time.perf_counter() - start


def choose_settings(benches: Sequence[_Bench], base: Setting) -> tuple[dict[str, System], pd.DataFrame]:
    """Choose a setting for each idea, and one for all ideas in turn, by nDCG@10 averaged over training collections.

    Return the base under "as tuned", each idea's best if it is better than the base, or if the idea is a system of its
    own (`with_feedback`, `with_late`, `looked_up`), and "all together", where each idea in turn changes what those
    before it left, if that is better (on a tie the setting stays as it was; queries are not looked up); and a row for
    each system tried: idea, its fields, nDCG@10 on each training collection, their mean, and whether it was `chosen`.
    """
    rows, systems, names = [], [], [bench.collection.full_name for bench in benches]

    def score(idea: str, system: System) -> float:
        means = [bench.values(system).mean() for bench in benches]
        systems.append(system)
        rows.append({"idea": idea, **fields_of(system), **dict(zip(names, means, strict=True)), "mean": np.mean(means)})
        return rows[-1]["mean"]

    weights = benches[0].encoded.doc_terms.data.astype(np.float64)
    raw = PHIS[base.phi].inverse(weights, np)
    scale = {name: float(phi.apply(raw, np).mean() / weights.mean()) for name, phi in PHIS.items()}
    base_score = joint_score = score(AS_TUNED, base)
    chosen, joint = {AS_TUNED: base}, base
    for idea, candidates in (_changes(base, scale) | {WITH_FEEDBACK: with_feedback, WITH_LATE: with_late}).items():
        scores = {system: score(idea, system) for system in candidates(base)}
        best = max(scores, key=scores.__getitem__)
        if scores[best] > base_score or not isinstance(best, Setting):
            chosen[idea] = best
        if joint != base:
            scores = {system: score(TOGETHER, system) for system in candidates(joint)}
            best = max(scores, key=scores.__getitem__)
        if scores[best] > joint_score:
            joint, joint_score = best, scores[best]
    scores = {system: score(LOOKED_UP, system) for system in looked_up(base)}
    chosen |= {LOOKED_UP: max(scores, key=scores.__getitem__), TOGETHER: joint}
    return chosen, pd.DataFrame(rows).assign(chosen=[system in chosen.values() for system in systems])


def beyond_study(
    model: LatentTerms,
    training: Iterable[str],
    names: Iterable[str],
    n_queries: int | None = None,
    store: Store | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame, dict]:
    """Choose settings on at most `n_queries` of each `training` collection, then measure each once on the others.

    Return a row a collection and system: nDCG@10 as `measures.summarise` gives it against the model's own constants,
    query_ms, the milliseconds from a query's text to its ranking (a mean over the first `TIMED` queries, searched
    together), and state_bytes, what late interaction keeps of a document; the last rows, `MEAN`, as `averages_of` all
    collections but `limit`; what was tried on the training queries, as `choose_settings`; and what the provenance of
    the two states.

    ValueError as `tuning.check_training`, and for a collection that is both chosen and measured on.
    """
    store, train = store or Store(), [load_collection(name) for name in training]
    tests = [load_collection(name) for name in names]
    check_training(train)
    trained_on = {collection.name for collection in train}
    splits = {None, *(collection.split for collection in train)}
    for collection in tests:
        if collection.name in trained_on and collection.split in splits:
            raise ValueError(f"{collection.full_name} has queries that were chosen on; measure on others, as of /test.")
    base = Setting(**asdict(model.bm25), phi=model.phi)
    samples = [with_queries(collection, range(len(collection.query_ids))[:n_queries]) for collection in train]
    benches = [_Bench(model, sample, store) for sample in samples]
    chosen, tried = choose_settings(benches, base)
    systems = chosen | {PAPERS: base._replace(**asdict(PAPER))}
    tables, values, costs = [], {}, {}
    for collection in tests:
        bench = _Bench(model, collection, store)
        name = collection.full_name
        values[name] = {system: bench.values(setting) for system, setting in systems.items()}
        few = _Bench(model, with_queries(collection, range(len(collection.query_ids))[:TIMED]), store)
        costs[name] = pd.DataFrame([few.cost(setting) for setting in systems.values()], index=list(systems))
        tables.append(summary_of(values[name], AS_TUNED).assign(collection=name).join(costs[name], on="system"))
    averaged = [name for name in values if not is_limit(name)] or list(values)
    cost = sum(costs[name] for name in averaged) / len(averaged)
    means = averages_of([values[name] for name in averaged], AS_TUNED).assign(collection=MEAN)
    tables.append(means.join(cost, on="system"))
    origin = origin_of(model, tests, training=[collection.identity for collection in train])
    origin |= {"settings": {name: fields_of(system) for name, system in systems.items()}, "n_queries": n_queries}
    return columns_first(pd.concat(tables, ignore_index=True), "collection"), tried, origin
