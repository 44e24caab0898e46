"""Study `53_variants`: which way to train an autoencoder makes the better vocabulary for search.

**The rule**, of 2026-11-29, before any result.

- *Alike for all.* Every way reads the same token states of the same text, as often and in batches of the same size,
  and ends with the same number of latents; AbsTopK, whose finished form is twice as wide, trains that number. Settings
  of a way are its defaults in `lib.sae.activations`, the learning rate is Top-K's, states are read as they are: nothing
  is tuned for any of them. Thresholds are also trained on states of one norm ("per-token"), since `50_ablations` showed
  that they give long states most of the latents; their FVU is that of scaled states and is compared with no other.
- Added on 2026-11-30, before their results: the variational, the end-to-end and the gradient-aware way, the second also
  with a coefficient of 10. Batches of the last two are of whole texts, so Top-K is trained on such batches, too. All
  are of Holm's family, which has five more ways with them.
- *Mean latents of a token (L0).* With seed 0, the L0 of the finished form is measured on documents of the collections
  that constants are tuned on. A way that is more than a tenth off Top-K's there is trained again with k * L0 of Top-K /
  its L0 in the place of k: once, and then all of its seeds. It is marked as not matched where its L0 on the ranked
  collections, a mean over them, is still more than a tenth off. Such a way is compared all the same, but never
  recommended, and is in no correlation.
- *Seeds.* Three of Top-K, two of every other way, and a third of those whose mean over collections, tuned, is within
  `reach` of the highest (`laptop`); constants are chosen again with it. A query's value is the mean over the seeds.
  What seeds differ by is pooled over the ways: `reach` is 1.96 s sqrt(1 / n + 1 / n of Top-K), s the pooled standard
  deviation of the means over collections.
- *Ranked* are samples of cranfield, squad and SciFact (test) of at most 1,400 documents (`laptop`); no text of theirs
  is trained on. A mean over collections gives each the same weight.
- *Constants.* k1 and b are chosen for each way on training queries alone, samples of SciFact's (train) and pydoc's
  (train), by the mean of nDCG@10 over seeds and collections, on the grid of `lib.evaluation.tuning` with Lucene's idf.
  SciFact's test queries are others, of the same documents. Every way is also ranked with the paper's, k1 = 8 and
  b = 0.7. What is concluded, is so from the tuned ones.
- *Compared* is each way with Top-K: by a two-sided paired randomisation test over queries, with Holm's correction over
  the ways, and 95 % bootstrap intervals, on every collection and in the mean over collections, whose intervals are of
  queries resampled within each and whose test weighs a query by 1 / the number of its collection's. A way is called
  better or worse than Top-K where Holm's p of the mean is below 0.05 and the difference is larger than `reach`.
- *The answer* is the way with the highest mean of those that are better and matched; if there is none, Top-K, as the
  simplest. Whether better reconstruction means better ranking is answered by Spearman's correlation of FVU and nDCG@10
  over the ways that are matched and read states as they are; its interval resamples queries and ways. It answers only
  where the interval does not hold 0: below 0, a lower FVU ranks better.
- *Described, not compared*, with seed 0: what `lib.studies.described` measures. No answer depends on it.
- *Prefixes.* Codes of Matryoshka are cut to the first latents, as far as it was trained for, and so are Top-K's, whose
  latents are in no order; each with the constants of the whole.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import combinations, product
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np
import pandas as pd
import torch
from scipy import stats
from scipy.sparse import csr_array, vstack

from lib.bm25.pooling import apply_phi
from lib.bm25.weighting import PAPER, BM25Constants
from lib.data.collection import Collection, load_collection
from lib.evaluation.measures import resampled_means
from lib.evaluation.tuning import B_GRID, K1_GRID, check_training, ndcg_on_grid
from lib.sae.activations import ACTIVATIONS
from lib.sae.activations.matryoshka import Matryoshka
from lib.sae.activations.pursuit import FinishedPursuit
from lib.sae.autoencoder import SparseAutoencoder, join
from lib.sae.boosting import boost
from lib.studies import names
from lib.studies.comparison import (
    averages_of,
    check_collections,
    columns_first,
    document_frequency,
    query_postings,
    summary_of,
)
from lib.studies.described import DENSITY, Described, density, describe, distinct
from lib.studies.encoded import Pooled, pooled_terms
from lib.studies.inputs import Setting, sample_collection
from lib.studies.profiles import VariantsSize
from lib.studies.seeds import activation_agreement, matches
from lib.studies.sweeps import Variant, autoencoders, autoencoders_of, study_recipe
from lib.support.store import Store

T = TypeVar("T")
NEAR = 0.1  # by this share an L0 may differ from Top-K's and be called the same
NORMAL = stats.norm.ppf(0.975)
GRID = [BM25Constants(k1, b) for k1, b in product(K1_GRID, B_GRID)]
LEFT_OUT = {"archetypal": "trains a matrix of width times the number of archetypes, larger than the decoder"}


class Way(NamedTuple):
    """One way to train: `make(setting, k, seed)` is its variant."""

    make: Callable[[Setting, int, int], Variant]
    note: str = ""
    scaled: bool = False  # whether its FVU is that of scaled states


class Run(NamedTuple):
    """An autoencoder of a way."""

    way: str
    seed: int
    k: int  # that it was trained with
    variant: Variant
    sae: SparseAutoencoder


def ways_of(setting: Setting) -> dict[str, Way]:
    """Return every way by its name, Top-K first."""
    k = setting.size.k
    budgets = tuple(sorted({max(1, k // 4), max(1, k // 2), k}))
    ways = {name: Way(partial(_trained, activation=name)) for name in ACTIVATIONS if name != "pursuit"}
    for name, coefficient, note in (
        (names.WHOLE_TEXTS, 0, "batches of whole texts, as endtoend and gradient have"),
        ("endtoend, 10", 10, "with a tenth of the weight on the embedding"),
    ):
        ways[name] = Way(partial(_trained, activation=f"endtoend:coefficient={coefficient}"), note)
    ways[names.BUDGETS] = Way(_with_budgets, f"also reconstructs from {', '.join(map(str, budgets[:-1]))} latents")
    for name in ("batchtopk", "jumprelu"):
        make = partial(_trained, activation=name, normalisation="per-token")
        ways[f"{name}, per-token"] = Way(make, "reads states of one norm; its FVU is theirs", scaled=True)
    ways["pursuit"] = Way(_pursued, "Top-K's dictionary, encoded by matching pursuit")
    ways[names.JOIN] = Way(_joined, "two of half the width and half of k, side by side")
    ways[names.BOOST] = Way(_boosted, "two of half the width and half of k, the second of what the first leaves")
    return ways


def _trained(setting: Setting, k: int, seed: int, **changes) -> Variant:
    return Variant(study_recipe(setting, k=k, seed=seed, **changes))


def _with_budgets(setting: Setting, k: int, seed: int) -> Variant:
    return _trained(setting, k, seed, budgets=tuple(sorted({max(1, k // 4), max(1, k // 2), k})))


def _pursued(setting: Setting, k: int, seed: int) -> Variant:
    return replace(_trained(setting, k, seed), combine=pursuit_over)


def pursuit_over(parts: Sequence[SparseAutoencoder]) -> SparseAutoencoder:
    """Return one autoencoder with its decoder as dictionary: what `python -m lib train --activation pursuit` gives."""
    (sae,) = parts
    activation = FinishedPursuit(sae.k)
    return SparseAutoencoder(sae.W_dec, torch.zeros_like(sae.b_enc), sae.W_dec, sae.b_pre, activation, sae.metadata)


def _joined(setting: Setting, k: int, seed: int) -> Variant:
    first, second = _halves(setting, k, seed)
    return Variant(first, (second,), join)


def _boosted(setting: Setting, k: int, seed: int) -> Variant:
    first, second = _halves(setting, k, seed)
    return Variant(first, (replace(second, after=(first,)),), boost)


def _halves(setting: Setting, k: int, seed: int) -> list:
    sizes = {"width": setting.size.width // 2, "k": max(1, k // 2)}
    return [study_recipe(setting, **sizes, seed=part) for part in (2 * seed, 2 * seed + 1)]


def training_collections(size: VariantsSize) -> list[Collection]:
    """Return the collections whose training queries constants are chosen on; errors as `check_training`."""
    dev = [sample_collection(load_collection(name), size.dev_docs, size.dev_queries) for name in size.dev]
    check_training(dev)
    return dev


def variants_origin(setting: Setting, size: VariantsSize, dev: Sequence[Collection]) -> dict:
    """Return what the provenance of results states, JSON-able."""
    training = {"n_seeds": size.n_seeds, "training_queries": [collection.identity for collection in dev]}
    return setting.origin | training


def variants_study(
    setting: Setting,
    dev: Sequence[Collection],
    n_seeds: int,
    token_counts: Sequence[int] = (),
    store: Store | None = None,
) -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    """Return tables by name, and nDCG@10 of each query with tuned constants, a column a way.

    There are `setting.size.n_seeds` seeds of Top-K and `n_seeds` of every other way, but for those near the best.

    - `variants`, a row a way, of the mean over collections with tuned constants: variant; k (trained with), l0,
      matched, fvu, scaled (whether the FVU is of scaled states), dead (share at the end of training, of what is active
      in training; missing where the run was shorter than the window, or was none), used (share of latents that occur in
      documents), density_low, density_median, density_high (quartiles of the share of tokens in which a latent is
      active), distinct (share of latents whose decoder row has a cosine below 0.7 with every other's); agreement and
      shared (`mean` and `share` of `matches`) and active_agreement (`activation_agreement`), means over pairs of seeds;
      doc_postings and query_postings (of an average document, read by an average query), k1, b, seeds, mean with low
      and high; against Top-K difference, difference_low, difference_high, p, p_holm; reach; note. Ways left out have a
      note only.
    - `variants_collections`, the same comparison by constants and collection, the last rows of each the means.
    - `variants_runs`, a row a collection and run: what was measured of it.
    - `variants_prefixes`, a row a variant and prefix of its latents (latents, the last one all), means over
      collections with tuned constants; the difference is to all latents.
    - `variants_correlation`: ways ("matched" or "all"), n, and Spearman's correlation of FVU and nDCG@10 (value, low,
      high).
    """
    store, dev = store or Store(), list(dev)
    check_training(dev)
    check_collections(list(setting.collections))
    ways = ways_of(setting)
    ks = _matched_ks(setting, ways, dev, store)

    def measured(seeds: Mapping[str, int]) -> tuple[list[Run], dict[str, BM25Constants], Measured]:
        runs = _runs(setting, ways, ks, seeds, store)
        constants = _constants(runs, dev, store)
        return runs, constants, _measured(runs, setting.collections, constants, store)

    seeds = dict.fromkeys(ways, n_seeds) | {names.TOPK: setting.size.n_seeds}
    near = _near_the_best(measured(seeds)[-1].runs)
    runs, constants, read = measured(seeds | dict.fromkeys(near, setting.size.n_seeds))
    values = {kind: _seed_means(of_kind) for kind, of_kind in read.values.items()}
    compared = {kind: _compared(of_kind) for kind, of_kind in values.items()}
    tuned = values[names.AS_TUNED]
    agreements = _agreements(runs, setting.collections, store)
    summary = _summary(ways, read, compared[names.AS_TUNED], constants, agreements)
    together = pd.concat([frame.assign(constants=kind) for kind, frame in compared.items()], ignore_index=True)
    tables = {
        "variants": summary,
        "variants_collections": columns_first(together, "constants", "collection", "variant"),
        "variants_runs": read.runs,
        "variants_prefixes": _prefixes(read.prefixes),
        "variants_correlation": _correlations(summary, tuned),
    }
    firsts = _firsts(runs, constants, [*setting.collections, *dev], store)
    tables |= describe(firsts, setting.collections, dev, setting.encoder)
    tables["variants_tokens"] = _by_tokens(setting, token_counts, dev[0], store)
    ids = {collection.full_name: collection.query_ids for collection in setting.collections}
    by_query = [pd.DataFrame({"collection": name, "query_id": ids[name], **of_one}) for name, of_one in tuned.items()]
    return tables, pd.concat(by_query, ignore_index=True)


def _matched_ks(setting: Setting, ways: Mapping[str, Way], dev: Sequence[Collection], store: Store) -> dict[str, int]:
    """Return the k to train each way with, see the rule."""
    k, width = setting.size.k, setting.size.width
    runs = _runs(setting, ways, dict.fromkeys(ways, k), dict.fromkeys(ways, 1), store)
    by_way: dict[str, list[float]] = {way: [] for way in ways}
    for collection in dev:
        for run, documents, _ in _read(runs, collection, store):
            by_way[run.way].append(_l0(documents))
    l0 = {way: float(np.mean(of_one)) for way, of_one in by_way.items()}
    target = l0[names.TOPK]
    return {
        way: k if is_near(of_one, target) else min(width, max(1, round(k * target / max(of_one, 1 / width))))
        for way, of_one in l0.items()
    }


def _near_the_best(rows: pd.DataFrame) -> list[str]:
    """Return the ways whose mean is within what seeds make of a difference to the highest."""
    means, reach = _by_seed(rows)
    return list(means.index[means >= means.max() - reach])


def _by_seed(rows: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Return each way's mean of collections, tuned, and `reach`, NaN without two seeds of any."""
    counted = rows[~rows["collection"].map(names.is_limit)]
    by_seed = counted.groupby(["variant", "seed"], sort=False)[names.AS_TUNED].mean().groupby("variant", sort=False)
    n, freedom = by_seed.size(), by_seed.size() - 1
    pooled = (by_seed.var().fillna(0) * freedom).sum() / freedom.sum() if freedom.any() else np.nan
    return by_seed.mean(), NORMAL * np.sqrt(pooled * (1 / n + 1 / n[names.TOPK]))


def _firsts(
    runs: Sequence[Run], constants: Mapping[str, BM25Constants], collections: Iterable[Collection], store: Store
) -> dict[str, Described]:
    """Return the runs of seed 0 with what they make of the collections."""
    firsts = [run for run in runs if run.seed == 0]
    described = {run.way: Described(run.sae, {}, {}, constants[run.way]) for run in firsts}
    for collection in collections:
        for run, documents, queries in _read(firsts, collection, store):
            described[run.way].documents[collection.full_name] = documents
            described[run.way].queries[collection.full_name] = queries
    return described


def _by_tokens(setting: Setting, token_counts: Sequence[int], collection: Collection, store: Store) -> pd.DataFrame:
    rows = []
    for tokens in token_counts:
        recipes = [replace(study_recipe(setting, seed=seed), tokens=tokens) for seed in (0, 1)]
        saes = autoencoders(recipes, store)
        readings = [Variant(recipe).reading(sae) for recipe, sae in zip(recipes, saes, strict=True)]
        firings = [pooled.firings for pooled in pooled_terms(readings, collection, "document", store)]
        pair = matches([sae.W_dec.numpy() for sae in saes], firings).iloc[0]
        rows.append((tokens, pair["mean"], pair["share"]))
    return pd.DataFrame(rows, columns=["tokens", "agreement", "shared"])


def is_near(l0: float, target: float) -> bool:
    """Whether an L0 counts as that of Top-K."""
    return abs(l0 - target) <= NEAR * target


def _runs(
    setting: Setting, ways: Mapping[str, Way], ks: Mapping[str, int], seeds: Mapping[str, int], store: Store
) -> list[Run]:
    """Return the runs of each way, of its first so many seeds; what is not in the store is trained."""
    pairs = [(way, seed) for way in ways for seed in range(seeds[way])]
    variants = {f"{way}, seed {seed}": ways[way].make(setting, ks[way], seed) for way, seed in pairs}
    saes = autoencoders_of(variants, store)
    parts = zip(pairs, variants.items(), strict=True)
    return [Run(way, seed, ks[way], variant, saes[name]) for (way, seed), (name, variant) in parts]


def _read(runs: Sequence[Run], collection: Collection, store: Store) -> Iterable[tuple[Run, Pooled, Pooled]]:
    """Return each run with the documents and queries of a collection as it codes them; one pass over them for all."""
    readings = [run.variant.reading(run.sae) for run in runs]
    sides = [pooled_terms(readings, collection, side, store) for side in ("document", "query")]
    return zip(runs, *sides, strict=True)


def _l0(documents: Pooled) -> float:
    return float(documents.firings.sum() / documents.n_tokens)


def _ndcg(collection: Collection, documents: Pooled, queries: Pooled, grid: Sequence[BM25Constants]) -> np.ndarray:
    return ndcg_on_grid(collection, apply_phi(documents.terms, "sqrt"), apply_phi(queries.terms, "sqrt"), grid)


def _constants(runs: Sequence[Run], dev: Sequence[Collection], store: Store) -> dict[str, BM25Constants]:
    """Return the constants of each way, chosen on training queries."""
    totals: dict[str, np.ndarray] = {}
    for collection in dev:
        for run, documents, queries in _read(runs, collection, store):
            key = {"terms": run.variant.reading(run.sae).key, "collection": collection.identity}
            key["grid"] = [asdict(point) for point in GRID]
            make = partial(_grid, collection, documents, queries)
            totals[run.way] = totals.get(run.way, 0) + store.get("variants-grid", key, make)["means"]
    return {way: GRID[total.round(9).argmax()] for way, total in totals.items()}


def _grid(collection: Collection, documents: Pooled, queries: Pooled) -> dict[str, np.ndarray]:
    return {"means": _ndcg(collection, documents, queries, GRID).mean(axis=1)}


Values: TypeAlias = dict[str, dict[str, list[np.ndarray]]]  # by collection and way: nDCG@10 of each query, a seed each


class Measured(NamedTuple):
    """What was measured of all runs."""

    runs: pd.DataFrame
    values: dict[str, Values]  # by constants
    prefixes: dict[str, Values]  # by way; in the place of ways there is the number of latents


def _measured(
    runs: Sequence[Run], collections: Iterable[Collection], constants: Mapping[str, BM25Constants], store: Store
) -> Measured:
    rows: list[dict] = []
    values: dict[str, Values] = {names.PAPERS: {}, names.AS_TUNED: {}}
    prefixes: dict[str, Values] = {names.TOPK: {}, names.MATRYOSHKA_WAY: {}}
    for collection in collections:
        name = collection.full_name
        for run, documents, queries in _read(runs, collection, store):
            both = _ndcg(collection, documents, queries, [PAPER, constants[run.way]])
            for kind, of_query in zip(values, both, strict=True):
                values[kind].setdefault(name, {}).setdefault(run.way, []).append(of_query)
            means = dict(zip(values, both.mean(axis=1), strict=True))
            rows.append({"collection": name, **_facts(run, documents, queries), **means})
            if run.way in prefixes:
                of_prefix = prefixes[run.way].setdefault(name, {})
                for size in Matryoshka(run.k).bounds(run.sae.width):
                    cut = (side._replace(terms=side.terms[:, :size]) for side in (documents, queries))
                    of_prefix.setdefault(str(size), []).append(_ndcg(collection, *cut, [constants[run.way]])[0])
    return Measured(pd.DataFrame(rows), values, prefixes)


def _agreements(runs: Sequence[Run], collections: Sequence[Collection], store: Store) -> pd.DataFrame:
    """Return, of each way with several seeds, `mean` and `share` of `matches`, and `activation_agreement`."""
    rows = {}
    for way in dict.fromkeys(run.way for run in runs):
        of_way = [run for run in runs if run.way == way]
        if len(of_way) > 1:
            read = [[documents for _, documents, _ in _read(of_way, one, store)] for one in collections]
            by_seed = list(zip(*read, strict=True))
            pairs = matches([run.sae.W_dec.numpy() for run in of_way], [sum(d.firings for d in of) for of in by_seed])
            terms = [csr_array(vstack([documents.terms for documents in of], format="csr")) for of in by_seed]
            alike = [activation_agreement(*pair) for pair in combinations(terms, 2)]
            rows[way] = (pairs["mean"].mean(), pairs["share"].mean(), np.mean(alike))
    return pd.DataFrame.from_dict(rows, "index", columns=["agreement", "shared", "active_agreement"])


def _facts(run: Run, documents: Pooled, queries: Pooled) -> dict[str, object]:
    df = document_frequency(documents.terms)
    return {
        "variant": run.way,
        "seed": run.seed,
        "k": run.k,
        "l0": _l0(documents),
        "fvu": documents.fvu,
        "dead": dead_share(run.sae),
        "used": (documents.firings > 0).mean(),
        "distinct": distinct(run.sae, documents.firings),
        **density(documents.firings, documents.n_tokens),
        "doc_postings": documents.terms.nnz / documents.terms.shape[0],
        "query_postings": query_postings(df, queries.terms).mean(),
    }


def dead_share(sae: SparseAutoencoder) -> float:
    """Return the share of latents that were dead at the end of training, NaN where the run was too short to say so."""
    shares = [part["final"]["dead"] for part in sae.metadata.get("parts", [sae.metadata])]
    return float(np.mean([np.nan if share is None else share for share in shares]))


def _seed_means(values: Values) -> dict[str, dict[str, np.ndarray]]:
    return {name: {way: np.mean(seeds, axis=0) for way, seeds in of_one.items()} for name, of_one in values.items()}


def _counted(values: Mapping[str, T]) -> list[T]:
    """Return the values of the collections that are in means."""
    return [of_one for name, of_one in values.items() if not names.is_limit(name)]


def _compared(values: Mapping[str, Mapping[str, np.ndarray]]) -> pd.DataFrame:
    """Return `measures.summarise` against Top-K on every collection, then of the mean over collections."""
    tables = [summary_of(of_one, names.TOPK).assign(collection=name) for name, of_one in values.items()]
    counted = _counted(values)
    sizes = [len(of_one[names.TOPK]) for of_one in counted]
    weighted = {
        way: np.concatenate(
            [of_one[way] * (sum(sizes) / len(sizes) / n) for of_one, n in zip(counted, sizes, strict=True)]
        )
        for way in counted[0]
    }  # whose mean is that of the collections' means
    tests = summary_of(weighted, names.TOPK).set_index("system")[["p", "p_holm"]]
    tables.append(averages_of(counted, names.TOPK).join(tests, on="system").assign(collection=names.MEAN))
    return pd.concat(tables, ignore_index=True).rename(columns={"system": "variant"})


def _summary(
    ways: Mapping[str, Way],
    read: Measured,
    compared: pd.DataFrame,
    constants: Mapping[str, BM25Constants],
    agreements: pd.DataFrame,
) -> pd.DataFrame:
    counted = read.runs[~read.runs["collection"].map(names.is_limit)]
    facts = ["k", "l0", "fvu", "dead", "used", *DENSITY, "distinct", "doc_postings", "query_postings"]
    by_way = counted.groupby("variant", sort=False)
    table = by_way[facts].mean().assign(seeds=by_way["seed"].nunique(), reach=_by_seed(read.runs)[1])
    target = table["l0"][names.TOPK]
    table["matched"] = [is_near(l0, target) for l0 in table["l0"]]
    table["scaled"] = [ways[way].scaled for way in table.index]
    table["note"] = [ways[way].note for way in table.index]
    table = table.join(agreements)
    table[["k1", "b"]] = [(constants[way].k1, constants[way].b) for way in table.index]
    means = compared[compared["collection"] == names.MEAN].set_index("variant").drop(columns="collection")
    left_out = pd.DataFrame({"variant": list(LEFT_OUT), "note": [f"left out: {why}" for why in LEFT_OUT.values()]})
    return pd.concat([table.join(means).reset_index(), left_out], ignore_index=True)


def _prefixes(prefixes: Mapping[str, Values]) -> pd.DataFrame:
    tables = []
    for way, values in prefixes.items():
        counted = _counted(_seed_means(values))
        *_, whole = counted[0]
        table = averages_of(counted, whole).rename(columns={"system": "latents"})
        tables.append(table.assign(variant=way, latents=table["latents"].astype(int)))
    return columns_first(pd.concat(tables, ignore_index=True), "variant", "latents")


def _correlations(summary: pd.DataFrame, values: Mapping[str, Mapping[str, np.ndarray]]) -> pd.DataFrame:
    measured = summary[summary["mean"].notna() & (summary["scaled"] == False)]  # noqa: E712 (left-out rows have none)
    rows = []
    for label, part in ((names.MATCHED, measured[measured["matched"].astype(bool)]), (names.ALL, measured)):
        groups = [np.stack([of_one[way] for way in part["variant"]], axis=1) for of_one in _counted(values)]
        rows.append((label, len(part), *rank_correlation(part["fvu"].to_numpy(), groups)))
    return pd.DataFrame(rows, columns=["ways", "n", "value", "low", "high"])


def rank_correlation(
    facts: np.ndarray, groups: Sequence[np.ndarray], n_resamples: int = 10_000, seed: int = 0
) -> tuple[float, float, float]:
    """Return Spearman's correlation of a fact of several systems with what they rank, and its 95 % interval.

    The interval resamples queries within each collection and, with them, systems; resamples without two different
    values of both have no correlation and are left out.

    Parameters
    ----------
    facts : array (n_systems,)
    groups : list of array [n_queries, n_systems]
        One a collection; what a system ranks is the mean over collections of its mean over queries.
    """
    means = np.mean([group.mean(axis=0) for group in groups], axis=0)
    draws = resampled_means(groups, n_resamples, seed)
    picked = np.random.default_rng(seed).integers(len(facts), size=draws.shape)
    low, high = np.nanquantile(_spearman(facts[picked], np.take_along_axis(draws, picked, axis=1)), [0.025, 0.975])
    return float(_spearman(facts[None], means[None])[0]), float(low), float(high)


def _spearman(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the correlation of the ranks of each row, equal values having their mean rank."""
    ranks = [stats.rankdata(values, axis=1) - (values.shape[1] + 1) / 2 for values in (first, second)]
    products = (ranks[0] * ranks[1]).sum(axis=1)
    scale = np.sqrt(np.prod([np.square(part).sum(axis=1) for part in ranks], axis=0))
    return np.divide(products, scale, out=np.full_like(scale, np.nan), where=scale > 0)
