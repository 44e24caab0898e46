"""Tables of trained retrievers (70 to 73): systems on collections, named pairs, and what is chosen beforehand.

The rule stands in `lib.studies.trained`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TypeAlias

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from lib.benchmarks.search import latencies
from lib.benchmarks.search_peers import Corpus, ours
from lib.bm25.index import BM25Index
from lib.bm25.ranking import Ranking
from lib.data.collection import Collection
from lib.encode.encoder import TokenEncoder
from lib.evaluation.baselines import dense_search, inner_product_search
from lib.evaluation.measures import holm
from lib.latent_terms import LatentTerms
from lib.learned.kind import Kind
from lib.studies.comparison import (
    averages_of,
    columns_first,
    document_frequency,
    query_postings,
    summary_of,
    values_of,
)
from lib.studies.names import DEEP_RECALL, MEAN, MEASURE, is_limit
from lib.studies.trained import Bench, Matrix, Readout, trained_readout

DEPTH = 101  # documents of a ranking: one more than R@100 needs, for a query's own is left out


def ranking_of(readout: Readout, collection: Collection, rows: tuple[Matrix, Matrix], k: int = DEPTH) -> Ranking:
    """Rank a collection by a readout's rows."""
    docs, queries = rows
    if isinstance(docs, np.ndarray):
        return dense_search(docs, collection.doc_ids, queries, collection.query_ids, k)
    if readout.bm25 is not None:
        return BM25Index.build(docs, collection.doc_ids, readout.bm25).search(queries, collection.query_ids, k)
    return inner_product_search(docs, collection.doc_ids, queries, collection.query_ids, k)


def measured(bench: Bench, readout: Readout, collection: Collection) -> dict[str, np.ndarray]:
    """Return nDCG@10 and R@100 of each query, the df of each latent and what each query reads; kept in the store.

    Of dense rows there are no df, and reads are 0.
    """

    def make() -> dict[str, np.ndarray]:
        docs, queries = readout.rows(collection)
        values = values_of(ranking_of(readout, collection, (docs, queries)), collection, (MEASURE, DEEP_RECALL))
        arrays = {"values": values[0], "recall": values[1]}
        if isinstance(docs, np.ndarray):
            return arrays | {"df": np.zeros(0, np.int64), "reads": np.zeros(len(queries)), "terms": np.zeros(1)}
        df = document_frequency(docs)
        return arrays | {"df": df, "reads": query_postings(df, queries), "terms": np.diff(queries.indptr)}

    key = {"rows": readout.identity, "top": readout.top, "bm25": readout.bm25 and asdict(readout.bm25)}
    key |= {"by_idf": True} if readout.by_idf else {}
    return bench.store.get("learned-values", key | {"collection": collection.identity, "depth": DEPTH}, make)


Results: TypeAlias = Mapping[str, Mapping[str, Sequence[Mapping[str, np.ndarray]]]]


def results_of(bench: Bench, readouts: Sequence[Readout], collections: Sequence[Collection] | None = None) -> Results:
    """Return what was measured by collection and system, a list of its seeds: readouts of one name."""
    results: dict[str, dict[str, list]] = {}
    for collection in bench.collections if collections is None else collections:
        of_one = results.setdefault(collection.full_name, {})
        for readout in readouts:
            of_one.setdefault(readout.name, []).append(measured(bench, readout, collection))
    return results


def seed_means(results: Results, field: str = "values") -> dict[str, dict[str, np.ndarray]]:
    """Return each query's mean over the seeds, by collection and system."""
    return {
        name: {system: np.mean([run[field] for run in runs], axis=0) for system, runs in systems.items()}
        for name, systems in results.items()
    }


def systems_table(bench: Bench, results: Results, baseline: str) -> pd.DataFrame:
    """Return a row a collection and system, the last ones of the mean over collections.

    nDCG@10 as `measures.summarise` gives it against the baseline, `seeds` and `seed_sd`, the standard deviation of
    their means; R@100; and doc_terms, query_terms (latents of an average text), reads (postings of an average query)
    and dead (share of the latents that no document has, in the last rows no document of any collection), NaN for dense
    rows. `near` marks collections of the kind of some of the pairs.
    """
    values, tables = seed_means(results), []
    for collection in bench.collections:
        name, systems = collection.full_name, results[collection.full_name]
        facts = pd.DataFrame([_facts(runs, len(collection.doc_ids)) for runs in systems.values()], index=list(systems))
        table = summary_of(values[name], baseline).join(facts, on="system")
        is_near = any(name.startswith(near.partition("/")[0]) for near in bench.size.near)
        tables.append(table.assign(collection=name, near=is_near))
    columns = [*facts.columns]
    together = pd.concat(tables, ignore_index=True)
    averaged = together[~together["collection"].map(is_limit)]
    means = averages_of([values[name] for name in dict.fromkeys(averaged["collection"])], baseline)
    facts = averaged.groupby("system", sort=False)[columns].mean()
    means = means.join(facts.assign(dead=pd.Series(dead_shares(results))), on="system")
    table = pd.concat([together, means.assign(collection=MEAN)], ignore_index=True)
    return columns_first(table, "collection", "near", "system")


def _facts(runs: Sequence[Mapping[str, np.ndarray]], n_docs: int) -> dict[str, float]:
    means = [run["values"].mean() for run in runs]
    facts = {"seeds": len(runs), "seed_sd": np.std(means, ddof=1) if len(runs) > 1 else np.nan}
    facts[DEEP_RECALL] = np.mean([run["recall"].mean() for run in runs])
    sparse = [run for run in runs if len(run["df"])]
    rows = [
        (run["df"].sum() / n_docs, run["terms"].mean(), run["reads"].mean(), (run["df"] == 0).mean()) for run in sparse
    ]
    numbers = np.mean(rows, axis=0) if rows else [np.nan] * 4
    return facts | dict(zip(("doc_terms", "query_terms", "reads", "dead"), numbers, strict=True))


def with_fvu(bench: Bench, table: pd.DataFrame, readouts: Sequence[Readout]) -> pd.DataFrame:
    """Add the column fvu, a mean over seeds; in the last rows also over collections."""
    rows = [
        {"collection": collection.full_name, "system": readout.name, "fvu": readout.fvu(collection)}
        for collection in bench.collections
        for readout in readouts
    ]
    fvu = pd.DataFrame(rows)
    means = fvu.groupby("system", as_index=False)["fvu"].mean().assign(collection=MEAN)
    by_collection = fvu.groupby(["collection", "system"], as_index=False)["fvu"].mean()
    return table.merge(pd.concat([by_collection, means]), on=["collection", "system"], how="left")


def dead_shares(results: Results) -> dict[str, float]:
    """Return of each system the share of its latents that no document of any collection has, a mean over seeds."""
    by_system: dict[str, list[np.ndarray]] = {}
    for systems in results.values():
        for system, runs in systems.items():
            by_system.setdefault(system, []).append(np.array([run["df"] for run in runs]))
    sums = {system: sum(dfs) for system, dfs in by_system.items()}
    return {system: float((df == 0).mean()) if df.size else np.nan for system, df in sums.items()}


def search_ms(bench: Bench, docs: Iterable[csr_array], queries: csr_array, build: Callable) -> dict[str, float]:
    """Return median_ms, ms_low and ms_high (95 % over queries) of an exact search for 100 documents, in one thread.

    `build` makes an index of blocks of rows and document ids.
    """
    blocks, size = list(docs), bench.size.timed
    index = build(blocks, [f"d{number}" for number in range(sum(block.shape[0] for block in blocks))])
    none = np.empty((0, 0), np.float32)
    engine = ours(Corpus(index, lambda: iter(blocks), none, queries[: size.n_queries], none), 1)
    times = latencies({"": engine}, len(range(queries.shape[0])[: size.n_queries]), DEPTH - 1, size.repeats).iloc[0]
    return {column: float(times[column]) for column in ("median_ms", "ms_low", "ms_high")}


def contrasts_table(
    values: Mapping[str, Mapping[str, np.ndarray]], contrasts: Sequence[tuple[str, str]]
) -> pd.DataFrame:
    """Return a row a collection and named pair of systems: the first less the second, query by query.

    Columns collection, system, reference, difference, difference_low, difference_high, p and p_holm (over the pairs of
    a collection); the last rows are means over collections, which have no test.
    """
    tables, columns = [], ["difference", "difference_low", "difference_high", "p"]
    for name, systems in values.items():
        rows = [summary_of({b: systems[b], a: systems[a]}, b).iloc[1][columns] for a, b in contrasts]
        table = pd.DataFrame(rows).reset_index(drop=True).astype(float)
        tables.append(table.assign(p_holm=holm(table["p"].to_numpy()), collection=name))
    averaged = [systems for name, systems in values.items() if not is_limit(name)]
    rows = [averages_of([{b: s[b], a: s[a]} for s in averaged], b).iloc[1][columns[:3]] for a, b in contrasts]
    tables.append(pd.DataFrame(rows).reset_index(drop=True).astype(float).assign(collection=MEAN))
    named = [table.assign(system=[a for a, _ in contrasts], reference=[b for _, b in contrasts]) for table in tables]
    return columns_first(pd.concat(named, ignore_index=True), "collection", "system", "reference")


def choose(
    bench: Bench, name: str, kinds: Sequence[Kind], base: LatentTerms | TokenEncoder, **changes
) -> tuple[Kind, pd.DataFrame]:
    """Train each of the kinds with seed 0 and return the one that ranks the training queries best.

    With it comes a row for each: system, what the kinds differ in, nDCG@10 on each collection, the mean, and `chosen`.
    """
    settings = [asdict(kind) for kind in kinds]
    varied = [field for field in settings[0] if len({repr(each[field]) for each in settings}) > 1]
    rows = []
    for kind, fields in zip(kinds, settings, strict=True):
        readout = trained_readout(bench, name, kind, base, bench.config(**changes))
        means = {c.full_name: measured(bench, readout, c)["values"].mean() for c in bench.dev}
        differ = {field: fields[field] for field in varied}
        rows.append({"system": name, **differ, **means, "mean": np.mean(list(means.values()))})
    table = pd.DataFrame(rows)
    best = int(table["mean"].argmax())
    return kinds[best], table.assign(chosen=table.index == best)


def rates(kind: Kind, values: Sequence[float], field: str = "learning_rate") -> list[Kind]:
    """Return the kind with each of the values of a field."""
    return [replace(kind, **{field: value}) for value in values]
