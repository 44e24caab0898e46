"""What the paper leaves open: settings of the ranking, each chosen on training queries and frozen before the test."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
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
from lib.evaluation.baselines import ANALYZER, LexicalBM25
from lib.evaluation.fusion import fuse
from lib.evaluation.tuning import check_training
from lib.latent_terms import LatentTerms
from lib.studies.encoded import EncodedCollection, encode_collection
from lib.studies.experiments import RetrievalConfig
from lib.studies.model import MEASURE, origin_of, summary_of, values_of
from lib.support.store import Store

DEPTH = 200  # documents of each ranking that a fusion sees
BASE, PAPERS, WORDS, TOGETHER = "as tuned", "the paper's constants", "with words", "all together"
MEAN = "mean, limit left out"  # which has another purpose than the others, and differences that outweigh theirs


class Setting(NamedTuple):
    """How to rank: BM25's constants, and what is done to the weights before and to the ranking after.

    `idf_power` is the exponent of idf, `query_power` that of a query's weights; latents in more than a share
    `max_share` of the documents go; a document and a query keep the share `doc_mass` and `query_mass` of their weights;
    `words` is the weight of lexical BM25 in the fusion, 0 for none.
    """

    k1: float
    b: float
    idf: str
    phi: str = "sqrt"
    idf_power: float = 1.0
    query_power: float = 1.0
    max_share: float = 1.0
    doc_mass: float = 1.0
    query_mass: float = 1.0
    words: float = 0.0


def ideas(base: Setting, scale: Mapping[str, float]) -> dict[str, list[dict]]:
    """Return what is tried, the changes of a setting under the name of the idea.

    Parameters
    ----------
    base : Setting
    scale : mapping of str to float
        How large weights are on average under each phi, relative to the base's; k1 is sought around its product.
    """
    others = [phi for phi in scale if phi != base.phi]
    k1s = [(phi, round(base.k1 * scale[phi] * factor, 3)) for phi in others for factor in (0.5, 1, 2)]
    return {
        "another phi": [{"phi": phi, "k1": k1} for phi, k1 in k1s],
        "another idf": [{"idf": form} for form in ("robertson", "robertson-clipped") if form != base.idf],
        "idf to a power": [{"idf_power": power} for power in (0.5, 1.5, 2.0)],
        "query weights to a power": [{"query_power": power} for power in (0.5, 1.5, 2.0)],
        "no universal latents": [{"max_share": share} for share in (0.5, 0.3, 0.2, 0.1)],
        "pruned documents": [{"doc_mass": mass} for mass in (0.95, 0.9, 0.8)],
        "pruned queries": [{"query_mass": mass} for mass in (0.95, 0.9, 0.8)],
        WORDS: [{"words": weight} for weight in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)],
    }


def change_terms(docs: csr_array, queries: csr_array, setting: Setting, phi: str) -> tuple[csr_array, csr_array]:
    """Return the term matrices as `setting` wants them; `phi` is the one that they have. idf_power comes later."""
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


def rank(
    model: LatentTerms, collection: Collection, encoded: EncodedCollection, setting: Setting, lexical: Callable
) -> Ranking:
    """Rank a collection as `setting` says, `DEPTH` documents a query; `lexical()` gives the words' ranking."""
    docs, queries = change_terms(encoded.doc_terms, encoded.query_terms, setting, model.phi)
    index = BM25Index.build(docs, collection.doc_ids, k1=setting.k1, b=setting.b, idf=setting.idf)
    if setting.idf_power != 1:  # the index multiplies by idf once; a power of a negative one has no meaning
        factors = np.maximum(index.idf, 1e-9) ** (setting.idf_power - 1)
        queries = with_data(queries, queries.data * factors[queries.indices])
    ranking = index.search(queries, collection.query_ids, DEPTH if setting.words else 11)
    if not setting.words:
        return ranking
    return fuse([ranking, lexical()], "relative scores", 11, weights=(1 - setting.words, setting.words))


class _Bench:
    """One collection to try settings on; what was tried is in the store."""

    def __init__(self, model: LatentTerms, collection: Collection, store: Store):
        self.model, self.collection, self.store = model, collection, store
        self.encoded = encode_collection(model, collection, store)
        self.lexical = cache(self._lexical)

    def _lexical(self) -> Ranking:
        config, own = RetrievalConfig(), self.collection
        words = LexicalBM25(own.doc_texts, own.doc_ids, k1=config.lexical_k1, b=config.lexical_b)
        return words.search(own.query_texts, own.query_ids, DEPTH)

    def values(self, setting: Setting) -> np.ndarray:
        def make() -> dict[str, np.ndarray]:
            ranking = rank(self.model, self.collection, self.encoded, setting, self.lexical)
            return {"values": values_of(ranking, self.collection, [MEASURE])[0]}

        key = {"model": self.model.identity, "collection": self.collection.identity, "setting": setting._asdict()}
        return self.store.get("beyond", key | {"measure": MEASURE, "depth": DEPTH, "analyzer": ANALYZER}, make)[
            "values"
        ]


def choose(benches: Sequence[_Bench], base: Setting) -> tuple[dict[str, Setting], pd.DataFrame]:
    """Choose a setting for each idea, and one for all ideas in turn, by nDCG@10 averaged over training collections.

    Returns
    -------
    dict of str to Setting
        The base under "as tuned", each idea's best if it is better than the base, and "all together", where each idea
        in turn changes what those before it left, if that is better.
    DataFrame
        One row a setting tried: idea, the setting's fields, nDCG@10 on each training collection, and their mean.
    """
    rows, names = [], [bench.collection.full_name for bench in benches]

    def score(idea: str, setting: Setting) -> float:
        own = [bench.values(setting).mean() for bench in benches]
        rows.append({"idea": idea, **setting._asdict(), **dict(zip(names, own, strict=True)), "mean": np.mean(own)})
        return rows[-1]["mean"]

    start = together = score(BASE, base)
    found, joint = {BASE: base}, base
    for idea, changes in ideas(base, _scales(benches[0])).items():
        tried = {base._replace(**change): score(idea, base._replace(**change)) for change in changes}
        best = max(tried, key=tried.__getitem__)
        if tried[best] > start:
            found[idea] = best
        if joint == base:
            joint, together = max([(best, tried[best]), (joint, together)], key=lambda pair: pair[1])
            continue
        for change in changes:
            setting = joint._replace(**change)
            if (value := score(TOGETHER, setting)) > together:
                joint, together = setting, value
    return found | {TOGETHER: joint}, pd.DataFrame(rows)


def _scales(bench: _Bench) -> dict[str, float]:
    """Return the mean weight of the documents under each phi, over that under the model's own."""
    weights = bench.encoded.doc_terms.data.astype(np.float64)
    raw = PHIS[bench.model.phi].inverse(weights, np)
    return {name: float(phi.apply(raw, np).mean() / weights.mean()) for name, phi in PHIS.items()}


def beyond_study(
    model: LatentTerms,
    training: Iterable[str],
    names: Iterable[str],
    n_queries: int | None = None,
    store: Store | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame, dict]:
    """Choose settings on training queries, then measure each once on the test collections.

    Parameters
    ----------
    training, names : iterable of str
        Collections to choose on (splits "train" or "dev") and to measure on.
    n_queries : int, optional
        Training queries of each collection, at most.

    Returns
    -------
    DataFrame
        One row a collection and system: nDCG@10 as `measures.summarise` gives it against the model's own constants; the
        last rows, `MEAN`, are of all collections but `limit`; they have intervals of queries resampled within each and
        no test.
    DataFrame
        What was tried on the training queries, as `choose`, and whether it was `chosen`.
    dict
        What the provenance of the two should state; the chosen settings among it.

    Raises
    ------
    ValueError
        As `tuning.check_training`, and for a collection that is both trained and measured on.
    """
    store, train = store or Store(), [load_collection(name) for name in training]
    tests = [load_collection(name) for name in names]
    check_training(train)
    for collection in tests:
        if collection.split in (None, *{own.split for own in train}) and collection.name in {own.name for own in train}:
            raise ValueError(
                f"{collection.full_name} has queries that were chosen on; measure on others, such as /test."
            )
    base = Setting(**asdict(model.bm25), phi=model.phi)
    chosen, tried = choose([_Bench(model, _first(collection, n_queries), store) for collection in train], base)
    fields = list(Setting._fields)
    tried["chosen"] = [Setting(*row) in chosen.values() for row in tried[fields].itertuples(index=False)]
    systems = chosen | {PAPERS: base._replace(**asdict(PAPER))}
    tables, found = [], []
    for collection in tests:
        bench = _Bench(model, collection, store)
        found.append({system: bench.values(setting) for system, setting in systems.items()})
        tables.append(summary_of(found[-1], BASE).assign(collection=collection.full_name))
    means = [own for own, collection in zip(found, tests, strict=True) if not collection.name.startswith("limit")]
    tables.append(_averaged(means or found).assign(collection=MEAN))
    table = pd.concat(tables, ignore_index=True)
    settings = {system: setting._asdict() for system, setting in systems.items()}
    origin = origin_of(model, tests, training=[own.identity for own in train], settings=settings, n_queries=n_queries)
    return table[["collection", *table.columns.drop("collection")]], tried, origin


def _first(collection: Collection, n: int | None) -> Collection:
    """Return the collection with its first `n` queries."""
    if n is None or n >= len(collection.query_ids):
        return collection
    ids = collection.query_ids[:n]
    qrels = {query: collection.qrels[query] for query in ids}
    return replace(collection, query_ids=ids, query_texts=collection.query_texts[:n], qrels=qrels)


def _averaged(found: list[dict[str, np.ndarray]], n_resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Return each system's mean over the collections and its difference from the base, queries resampled in each."""
    rng = np.random.default_rng(seed)
    picks = [rng.integers(len(values[BASE]), size=(n_resamples, len(values[BASE]))) for values in found]
    means, draws = {}, {}
    for system in found[0]:
        means[system] = np.mean([values[system].mean() for values in found])
        own = [values[system][pick].mean(axis=1) for values, pick in zip(found, picks, strict=True)]
        draws[system] = np.mean(own, axis=0)
    rows = []
    for system, mean in means.items():
        low, high = np.quantile(draws[system], [0.025, 0.975])
        row = {"system": system, "mean": mean, "low": low, "high": high}
        if system != BASE:
            row["difference"] = mean - means[BASE]
            row["difference_low"], row["difference_high"] = np.quantile(draws[system] - draws[BASE], [0.025, 0.975])
        rows.append(row)
    return pd.DataFrame(rows)
