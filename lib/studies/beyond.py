"""What the paper leaves open: settings of the ranking, each chosen on training queries and frozen before the test."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from lib.bm25.index import BM25Index
from lib.bm25.pooling import PHIS, apply_phi, undo_phi, with_data
from lib.bm25.pruning import drop_frequent, keep_mass
from lib.bm25.ranking import Ranking
from lib.bm25.weighting import PAPER
from lib.data.collection import Collection, load_collection
from lib.evaluation.baselines import ANALYZER
from lib.evaluation.fusion import fuse
from lib.evaluation.tuning import check_training
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
from lib.studies.encoded import encode_collection
from lib.studies.names import AS_TUNED, MEAN, MEASURE, PAPERS, TOGETHER, WITH_WORDS, is_limit
from lib.support.store import Store

DEPTH = 200  # documents of each ranking that a fusion takes


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


class _Bench:
    """One collection to try settings on; results are kept in the store."""

    def __init__(self, model: LatentTerms, collection: Collection, store: Store):
        self.model, self.collection, self.store = model, collection, store
        self.encoded = encode_collection(model, collection, store)

    @cached_property
    def lexical(self) -> Ranking:
        return lexical_ranking(self.collection, DEPTH)

    def ranking(self, setting: Setting) -> Ranking:
        collection, encoded = self.collection, self.encoded
        docs, queries = change_terms(encoded.doc_terms, encoded.query_terms, setting, self.model.phi)
        index = BM25Index.build(docs, collection.doc_ids, k1=setting.k1, b=setting.b, idf=setting.idf)
        if setting.idf_power != 1:  # the index multiplies by idf once; a power of a negative one has no meaning
            factors = np.maximum(index.idf, 1e-9) ** (setting.idf_power - 1)
            queries = with_data(queries, queries.data * factors[queries.indices])
        ranking = index.search(queries, collection.query_ids, DEPTH if setting.words else 11)
        if not setting.words:
            return ranking
        return fuse([ranking, self.lexical], "relative scores", 11, weights=(1 - setting.words, setting.words))

    def values(self, setting: Setting) -> np.ndarray:
        """Return nDCG@10 of each query."""

        def make() -> dict[str, np.ndarray]:
            return {"values": values_of(self.ranking(setting), self.collection)[0]}

        key = {"model": self.model.identity, "collection": self.collection.identity, "setting": setting._asdict()}
        key |= {"measure": MEASURE, "depth": DEPTH, "analyzer": ANALYZER}
        return self.store.get("beyond", key, make)["values"]


def choose_settings(benches: Sequence[_Bench], base: Setting) -> tuple[dict[str, Setting], pd.DataFrame]:
    """Choose a setting for each idea, and one for all ideas in turn, by nDCG@10 averaged over training collections.

    Return the base under "as tuned", each idea's best if it is better than the base, and "all together", where each
    idea in turn changes what those before it left, if that is better (on a tie the setting stays as it was); and a row
    for each setting tried: idea, its fields, nDCG@10 on each training collection, and their mean.
    """
    rows, names = [], [bench.collection.full_name for bench in benches]

    def score(idea: str, setting: Setting) -> float:
        means = [bench.values(setting).mean() for bench in benches]
        rows.append({"idea": idea, **setting._asdict(), **dict(zip(names, means, strict=True)), "mean": np.mean(means)})
        return rows[-1]["mean"]

    weights = benches[0].encoded.doc_terms.data.astype(np.float64)
    raw = PHIS[base.phi].inverse(weights, np)
    scale = {name: float(phi.apply(raw, np).mean() / weights.mean()) for name, phi in PHIS.items()}
    base_score = joint_score = score(AS_TUNED, base)
    chosen, joint = {AS_TUNED: base}, base
    for idea, changes in ideas(base, scale).items():
        scores = {setting: score(idea, setting) for setting in (base._replace(**change) for change in changes)}
        best = max(scores, key=scores.__getitem__)
        if scores[best] > base_score:
            chosen[idea] = best
        if joint != base:
            scores = {setting: score(TOGETHER, setting) for setting in (joint._replace(**change) for change in changes)}
            best = max(scores, key=scores.__getitem__)
        if scores[best] > joint_score:
            joint, joint_score = best, scores[best]
    return chosen | {TOGETHER: joint}, pd.DataFrame(rows)


def beyond_study(
    model: LatentTerms,
    training: Iterable[str],
    names: Iterable[str],
    n_queries: int | None = None,
    store: Store | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame, dict]:
    """Choose settings on at most `n_queries` of each `training` collection, then measure each once on the others.

    Return a row a collection and system: nDCG@10 as `measures.summarise` gives it against the model's own constants,
    the last rows, `MEAN`, as `averages_of` all collections but `limit`; what was tried on the training queries, as
    `choose_settings`, and whether it was `chosen`; and what the provenance of the two states.

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
    settings = tried[list(Setting._fields)].itertuples(index=False)
    tried["chosen"] = [Setting(*row) in chosen.values() for row in settings]
    systems = chosen | {PAPERS: base._replace(**asdict(PAPER))}
    tables, values = [], {}
    for collection in tests:
        bench = _Bench(model, collection, store)
        name = collection.full_name
        values[name] = {system: bench.values(setting) for system, setting in systems.items()}
        tables.append(summary_of(values[name], AS_TUNED).assign(collection=name))
    averaged = [of_system for name, of_system in values.items() if not is_limit(name)] or list(values.values())
    tables.append(averages_of(averaged, AS_TUNED).assign(collection=MEAN))
    origin = origin_of(model, tests, training=[collection.identity for collection in train])
    origin |= {"settings": {system: setting._asdict() for system, setting in systems.items()}, "n_queries": n_queries}
    return columns_first(pd.concat(tables, ignore_index=True), "collection"), tried, origin
