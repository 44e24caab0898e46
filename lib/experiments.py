"""Where the stages are put together: profiles, the store of what was computed, provenance, whole experiments."""

import importlib.metadata
import os
import platform
import subprocess
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import csr_array, vstack

from lib.baselines import ANALYZER, LexicalBM25, dense_search, reciprocal_rank_fusion
from lib.checks import check_choice
from lib.collection import Collection, load_collection
from lib.index import BM25Index
from lib.measures import bootstrap_interval, compare, per_query
from lib.ranking import Ranking
from lib.retriever import LatentTerms
from lib.storage import digest_json, load_folder, save_folder

STORE_VERSION = 1
MEASURES = ("nDCG@10", "R@10", "R@100")
DEPTH = 100  # documents ranked for each query


@dataclass(frozen=True)
class Profile:
    """What an experiment runs on: a name and the collections, as `load_collection` knows them."""

    name: str
    collections: tuple[str, ...]


PROFILES = {
    "smoke": Profile("smoke", ("pydoc/test", "limit/1000")),
    "laptop": Profile("laptop", ("beir/scifact/test", "cranfield", "vaswani", "cisi", "pydoc/test", "limit")),
}


def current_profile() -> Profile:
    """Return the profile that the environment variable LATENT_TERMS_PROFILE names; "smoke" if it is not set."""
    return PROFILES[check_choice(os.environ.get("LATENT_TERMS_PROFILE", "smoke"), PROFILES, "LATENT_TERMS_PROFILE")]


def repository_root() -> Path:
    """Return the nearest folder, here or above, that holds the notebooks; the working directory if none does."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "notebooks" / "00_tour.py").exists()), here)


def figures_folder(profile: Profile) -> Path:
    """Return where a profile's figures and tables go: `figures/` for the committed ones, else below `build/`."""
    root = repository_root()
    return root / "figures" if profile.name == "laptop" else root / "build" / profile.name / "figures"


def provenance(profile: Profile, **config) -> dict:
    """Return what a results file carries, JSON-able: profile, configuration, versions, commit, machine and date."""
    packages = (
        "latent-terms",
        "torch",
        "transformers",
        "sentence-transformers",
        "numpy",
        "scipy",
        "ir-measures",
        "bm25s",
    )
    return {
        "profile": profile.name,
        "config": config,
        "versions": {"python": platform.python_version()} | {p: importlib.metadata.version(p) for p in packages},
        "commit": _commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def _commit() -> str:
    command = ["git", "-C", str(repository_root()), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown: not a git checkout"


class Store:
    """Arrays kept on disk under a key of everything that decides them, so that nothing is computed twice.

    Entries are written atomically; a killed run continues behind the last whole one. A damaged entry is made again.

    Parameters
    ----------
    folder : str or Path, optional
        None is the environment variable LATENT_TERMS_CACHE, else `~/.cache/latent-terms`.
    """

    def __init__(self, folder: str | Path | None = None):
        self.folder = Path(folder or os.environ.get("LATENT_TERMS_CACHE") or Path.home() / ".cache" / "latent-terms")

    def get(self, stage: str, key: dict, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Return the arrays of `stage` under `key`, memory-mapped; made and kept if they are not there yet."""
        folder = self.folder / f"{stage}-{digest_json(key)[:16]}"
        if not folder.exists():
            self._put(folder, key, make())
        try:
            _, files = load_folder(folder, "entry.json", STORE_VERSION)
        except ValueError as error:
            warnings.warn(f"{error} It is computed again.", stacklevel=2)
            self._put(folder, key, make())
            _, files = load_folder(folder, "entry.json", STORE_VERSION)
        return {name.removesuffix(".npy"): np.load(path, mmap_mode="r") for name, path in files.items()}

    def _put(self, folder: Path, key: dict, arrays: dict[str, np.ndarray]) -> None:
        writers = {f"{name}.npy": _npy_writer(array) for name, array in arrays.items()}
        save_folder(folder, "entry.json", STORE_VERSION, {"key": key}, writers)


def _npy_writer(array: np.ndarray) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with open(path, "wb") as file:
            np.save(file, array, allow_pickle=False)

    return write


@dataclass(frozen=True)
class EncodedCollection:
    """A collection as a model sees it.

    Attributes
    ----------
    doc_terms, query_terms : csr_array, float32 [n, width]
        Term weights, phi applied.
    doc_embeddings, query_embeddings : np.ndarray, float32 [n, d]
        The retriever's own embeddings, from the same pass.
    firings : np.ndarray, int64 [width]
        In how many document tokens each latent is active.
    """

    doc_terms: csr_array
    query_terms: csr_array
    doc_embeddings: np.ndarray
    query_embeddings: np.ndarray
    firings: np.ndarray


def encode_collection(model: LatentTerms, collection: Collection, store: Store | None = None) -> EncodedCollection:
    """Encode the documents and queries of a collection, or take them from the store."""
    store = store or Store()
    sides = {}
    for kind, texts in (("document", collection.doc_texts), ("query", collection.query_texts)):
        key = {"model": model.identity, "kind": kind, "texts": digest_json(texts)}
        sides[kind] = store.get("encoded", key, lambda kind=kind, texts=texts: _encode(model, texts, kind))
    docs, queries = (
        csr_array((side["data"], side["indices"], side["indptr"]), shape=(len(side["indptr"]) - 1, model.sae.width))
        for side in (sides["document"], sides["query"])
    )
    return EncodedCollection(
        docs, queries, sides["document"]["embeddings"], sides["query"]["embeddings"], sides["document"]["firings"]
    )


def _encode(model: LatentTerms, texts: list[str], kind: str) -> dict[str, np.ndarray]:
    terms, embeddings, firings = [], [], np.zeros(model.sae.width, np.int64)
    for block in model.stream(texts, kind):
        terms.append(block.terms)
        embeddings.append(block.embeddings)
        firings += block.firings
    matrix = vstack(terms, format="csr")
    return {
        "data": matrix.data,
        "indices": matrix.indices,
        "indptr": matrix.indptr,
        "embeddings": np.concatenate(embeddings),
        "firings": firings,
    }


def retrieval_systems(collection: Collection, encoded: EncodedCollection) -> dict[str, Ranking]:
    """Rank a collection with each system of the retrieval table, `DEPTH` documents a query.

    Latent terms with `BM25Index.build`'s constants. A query's own document (ArguAna) is left out, and a fusion counts
    only documents that share a term with the query.
    """
    doc_ids, query_ids, k = collection.doc_ids, collection.query_ids, DEPTH + 1
    rankings = {
        "lexical BM25": LexicalBM25(collection.doc_texts, doc_ids).search(collection.query_texts, query_ids, k),
        "dense": dense_search(encoded.doc_embeddings, doc_ids, encoded.query_embeddings, query_ids, k),
        "latent terms": BM25Index.build(encoded.doc_terms, doc_ids).search(encoded.query_terms, query_ids, k),
    }
    rankings = {name: ranking.exclude(collection.self_matches).top(DEPTH) for name, ranking in rankings.items()}
    lexical = rankings["lexical BM25"].above(0)
    for name in ("dense", "latent terms"):
        other = rankings[name] if name == "dense" else rankings[name].above(0)
        rankings[f"{name} + lexical"] = reciprocal_rank_fusion([other, lexical], k=DEPTH)
    return rankings


def retrieval_table(
    model: LatentTerms, collections: Iterable[str], store: Store | None = None, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame, list[dict]]:
    """Run every system on every collection.

    Returns
    -------
    summary : DataFrame
        One row a collection, measure and system: mean over all judged queries with its 95 % bootstrap interval
        (low, high), and against dense the difference with its interval (difference_low, difference_high), its p
        (two-sided paired randomisation) and p_holm (Holm's correction over the systems); n_docs and n_queries.
    values : DataFrame
        One row a collection, measure and query, one column a system.
    identities : list of dict
        What each collection was, for the results' provenance.
    """
    summary, values, identities = [], [], []
    for name in collections:
        collection = load_collection(name)
        rankings = retrieval_systems(collection, encode_collection(model, collection, store))
        frames = {system: per_query(ranking, collection.qrels, MEASURES) for system, ranking in rankings.items()}
        label = {"collection": collection.full_name}
        values += [frame.assign(system=system, **label) for system, frame in frames.items()]
        counts = label | {"n_docs": len(collection.doc_ids), "n_queries": len(collection.qrels)}
        summary += [_summarise(frames, measure, seed).assign(measure=measure, **counts) for measure in MEASURES]
        identities.append(collection.identity)
    first = ["collection", "n_docs", "n_queries", "measure", "system"]
    table = pd.concat(summary, ignore_index=True)
    by_query = pd.concat(values).pivot(index=["collection", "measure", "query_id"], columns="system", values="value")
    return table[[*first, *table.columns.drop(first)]], by_query.reset_index(), identities


def _summarise(frames: dict[str, pd.DataFrame], measure: str, seed: int) -> pd.DataFrame:
    """Return mean, interval and test against dense for each system, one measure of one collection."""
    tests = compare(frames, "dense", measure, seed=seed).set_index("system").drop(columns=["mean", "baseline_mean"])
    tests = tests.rename(columns={"low": "difference_low", "high": "difference_high"})
    rows = []
    for system, frame in frames.items():
        values = frame.loc[frame["measure"] == measure, "value"].to_numpy()
        low, high = bootstrap_interval(values, seed=seed)
        rows.append({"system": system, "mean": values.mean(), "low": low, "high": high})
    return pd.DataFrame(rows).join(tests, on="system")


def retrieval_config(model: LatentTerms, identities: list[dict]) -> dict:
    """Return the configuration that the retrieval table's provenance states."""
    return {
        "model": model.identity,
        "collections": identities,
        "lexical": f"bm25s, method lucene, k1 1.2, b 0.75; {ANALYZER}",
        "latent terms": "BM25Index.build, k1 8, b 0.7, idf lucene",
        "fusion": "reciprocal rank, c 60",
        "seed": 0,
    }
