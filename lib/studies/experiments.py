"""The retrieval table, and collections that are encoded once and kept."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import pandas as pd
from scipy.sparse import csr_array, vstack

from lib.bm25.index import BM25Index
from lib.bm25.ranking import Ranking, top_k
from lib.bm25.weighting import BM25Constants
from lib.data.collection import Collection, load_collection
from lib.encode.encoder import TokenStates
from lib.evaluation.baselines import ANALYZER, LexicalBM25, dense_search
from lib.evaluation.fusion import fuse
from lib.evaluation.late_interaction import MaxSim
from lib.evaluation.measures import per_query, summarise
from lib.evaluation.splade import Splade, splade_ranking
from lib.inspect.vocabulary import latent_token_matrix
from lib.latent_terms import LatentTerms
from lib.support.checks import repeats
from lib.support.folders import digest_json
from lib.support.store import LATE_DEPTH, SHARD, Store


@dataclass(frozen=True)
class RetrievalConfig:
    """What the systems of the retrieval table are set to; k1, b and idf are the paper's, and no field was tuned.

    `depth` documents are ranked for each query; `seed` is that of the bootstrap and randomisation resamples.
    """

    k1: float = 8.0
    b: float = 0.7
    idf: str = "lucene"
    lexical_k1: float = 1.2
    lexical_b: float = 0.75
    fusion_c: float = 60
    depth: int = 100
    measures: tuple[str, ...] = ("nDCG@10", "R@10", "R@100")
    seed: int = 0


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
    late : Ranking or None
        Late interaction over the same token states, if it was asked for.
    """

    doc_terms: csr_array
    query_terms: csr_array
    doc_embeddings: np.ndarray
    query_embeddings: np.ndarray
    firings: np.ndarray
    late: Ranking | None = None


def encode_collection(
    model: LatentTerms, collection: Collection, store: Store | None = None, late: int | None = None
) -> EncodedCollection:
    """Encode the documents and queries of a collection, or take them from the store.

    With `late`, so many documents are ranked for each query by late interaction, in the same pass over the documents.
    Every 16,384 documents are kept on their own, so that a killed run continues behind them.
    """
    store = store or Store()
    queries = store.get(*_query_key(model, collection), lambda: _encode([model], collection.query_texts, "query")[0])
    found = [_encoded_documents(model, collection, store, late, first) for first in _shards(collection)]
    docs, best = zip(*found, strict=True)
    ranking = None
    if late is not None:
        positions, scores = (np.concatenate([part[name] for part in best], axis=1) for name in ("docs", "scores"))
        order = [top_k(row, late) for row in scores]
        doc_ids = [[collection.doc_ids[i] for i in row[own]] for row, own in zip(positions, order, strict=True)]
        ranking = Ranking(collection.query_ids, doc_ids, [row[own] for row, own in zip(scores, order, strict=True)])
    doc_terms, query_terms = (
        vstack([_csr(part, model.sae.width) for part in parts], format="csr") for parts in (docs, [queries])
    )
    embeddings = np.concatenate([part["embeddings"] for part in docs])
    firings = sum(part["firings"] for part in docs)
    return EncodedCollection(doc_terms, query_terms, embeddings, queries["embeddings"], firings, ranking)


def _encoded_documents(
    model: LatentTerms, collection: Collection, store: Store, late: int | None, first: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return a shard of documents, those from `first` on, encoded, and which of them late interaction finds best."""
    texts = collection.doc_texts[first : first + SHARD]
    made: list[dict[str, np.ndarray]] = []  # the documents, where late interaction had to read them

    def rank_late() -> dict[str, np.ndarray]:
        best = MaxSim(model.encoder.stream(collection.query_texts, "query"), depth)
        made.extend(_encode([model], texts, "document", best.add))
        return {"docs": first + best.docs, "scores": best.scores}

    best, depth = {}, max(late or 0, LATE_DEPTH)
    if late is not None:
        digests = [collection.identity[f"{side}_sha256"] for side in ("documents", "queries")]
        key = {"encoder": model.encoder.identity, "texts": digests, "k": depth, **_where(collection, first)}
        best = store.get("late-interaction", key, rank_late)
    key = _document_key(model, collection, first)
    return store.get(*key, lambda: made.pop() if made else _encode([model], texts, "document")[0]), best


def encode_together(models: Sequence[LatentTerms], collection: Collection, store: Store | None = None) -> None:
    """Read a collection once for several models of one retriever; `encode_collection` then finds each in the store.

    Raises
    ------
    ValueError
        For models of different retrievers, or none.
    """
    store = store or Store()
    if len({digest_json(model.encoder.identity) for model in models}) != 1:
        names = [f"{model.encoder.name}, layer {model.encoder.layer}" for model in models]
        raise ValueError(f"Models of one retriever read a text together; these read with {names}. Give each its call.")
    _keep_all(models, collection.query_texts, "query", [_query_key(model, collection) for model in models], store)
    for first in _shards(collection):
        keys = [_document_key(model, collection, first) for model in models]
        _keep_all(models, collection.doc_texts[first : first + SHARD], "document", keys, store)


def _keep_all(
    models: Sequence[LatentTerms], texts: list[str], kind: str, keys: list[tuple[str, dict]], store: Store
) -> None:
    """Put what each model makes of the texts into the store, under its key; one pass makes all that are missing."""
    made: dict[int, dict[str, np.ndarray]] = {}

    def make(i: int) -> dict[str, np.ndarray]:
        if i not in made:  # the pass is for this model and all behind it
            made.update(enumerate(_encode(models[i:], texts, kind), i))
        return made[i]

    for i, key in enumerate(keys):
        store.get(*key, partial(make, i))


def _shards(collection: Collection) -> range:
    return range(0, len(collection.doc_texts), SHARD)


def _where(collection: Collection, first: int) -> dict:
    return {"first": first} if len(collection.doc_texts) > SHARD else {}


def _query_key(model: LatentTerms, collection: Collection) -> tuple[str, dict]:
    return "encoded", {"model": model.identity, "kind": "query", "texts": collection.identity["queries_sha256"]}


def _document_key(model: LatentTerms, collection: Collection, first: int) -> tuple[str, dict]:
    key = {"model": model.identity, "kind": "document", "texts": collection.identity["documents_sha256"]}
    return "encoded", key | _where(collection, first)


def _csr(arrays: dict[str, np.ndarray], n_columns: int) -> csr_array:
    return csr_array(
        (arrays["data"], arrays["indices"], arrays["indptr"]), shape=(len(arrays["indptr"]) - 1, n_columns)
    )


def _encode(
    models: Sequence[LatentTerms], texts: list[str], kind: str, see: Callable[[TokenStates], None] | None = None
) -> list[dict[str, np.ndarray]]:
    """Encode texts once for models of one retriever; `see` is shown every block of token states on the way."""
    parts = [([], [], np.zeros(model.sae.width, np.int64)) for model in models]
    for states in models[0].encoder.stream(texts, kind):
        if see:
            see(states)
        for model, (terms, embeddings, firings) in zip(models, parts, strict=True):
            block = model.encode_states(states)
            terms.append(block.terms)
            embeddings.append(block.embeddings)
            firings += block.firings
    return [_arrays(vstack(terms, format="csr"), np.concatenate(own), firings) for terms, own, firings in parts]


def _arrays(terms: csr_array, embeddings: np.ndarray, firings: np.ndarray) -> dict[str, np.ndarray]:
    matrix = {"data": terms.data, "indices": terms.indices, "indptr": terms.indptr}
    return matrix | {"embeddings": embeddings, "firings": firings}


def latent_tokens(model: LatentTerms, texts: list[str], store: Store | None = None) -> csr_array:
    """Return each latent's summed activation on each kind of token in `texts`, float32 [width, n_tokens].

    It is what `vocabulary.top_tokens` reads a latent's meaning from.
    """
    width, n_tokens = model.sae.width, len(model.encoder.tokenizer)

    def make() -> dict[str, np.ndarray]:
        total = csr_array((width, n_tokens), dtype=np.float32)
        for block in model.encoder.stream(texts):
            indices, values = (tensor.cpu().numpy() for tensor in model.sae.encode(block.states))
            total += latent_token_matrix(indices, values, block.token_ids, width, n_tokens)
        return {"data": total.data, "indices": total.indices, "indptr": total.indptr}

    key = {"model": model.identity, "texts": digest_json(texts)}
    return _csr((store or Store()).get("latent-tokens", key, make), n_tokens)


def retrieval_systems(
    collection: Collection, encoded: EncodedCollection, tuned: BM25Constants, config: RetrievalConfig | None = None
) -> dict[str, Ranking]:
    """Rank a collection with each system of the retrieval table; late interaction where `encoded` has it.

    Latent terms are ranked with the constants of `config` and with `tuned`, those recommended for the model. A query's
    own document (ArguAna) is left out, and a fusion counts only documents that share a term with the query.
    """
    config = config or RetrievalConfig()
    doc_ids, query_ids, k = collection.doc_ids, collection.query_ids, config.depth + 1
    lexical = LexicalBM25(collection.doc_texts, doc_ids, k1=config.lexical_k1, b=config.lexical_b)
    paper = BM25Constants(config.k1, config.b, config.idf)
    latent, latent_tuned = (BM25Index.build(encoded.doc_terms, doc_ids, constants) for constants in (paper, tuned))
    rankings = {
        "lexical BM25": lexical.search(collection.query_texts, query_ids, k),
        "dense": dense_search(encoded.doc_embeddings, doc_ids, encoded.query_embeddings, query_ids, k),
        "latent terms": latent.search(encoded.query_terms, query_ids, k),
        "latent terms, tuned": latent_tuned.search(encoded.query_terms, query_ids, k),
    }
    if encoded.late is not None:
        rankings["late interaction"] = encoded.late
    rankings = {name: ranking.exclude(collection.self_matches).top(config.depth) for name, ranking in rankings.items()}
    matching = {name: rankings[name].above(0) for name in ("lexical BM25", "latent terms")} | {
        "dense": rankings["dense"]
    }
    for name in ("dense", "latent terms"):
        pair = [matching[name], matching["lexical BM25"]]
        rankings[f"{name} + lexical"] = fuse(pair, c=config.fusion_c, k=config.depth)
    return rankings


def retrieval_table(
    model: LatentTerms,
    names: Iterable[str],
    config: RetrievalConfig | None = None,
    store: Store | None = None,
    splade: Splade | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame, dict]:
    """Run every system on every collection, and SPLADE where there is a model of it.

    Returns
    -------
    summary : DataFrame
        One row a collection, measure and system: mean over all judged queries with its 95 % bootstrap interval
        (low, high), and against dense the difference with its interval (difference_low, difference_high), its p
        (two-sided paired randomisation) and p_holm (Holm's correction over the systems); n_docs and n_queries.
    values : DataFrame
        One row a collection, measure and query, one column a system.
    origin : dict
        What the provenance of the two should state: model, collections and configuration.

    Raises
    ------
    ValueError
        Before anything is encoded: for an unknown collection, two of one name, and one with a single query, whose
        systems cannot be compared.
    """
    config = config or RetrievalConfig()
    collections = [load_collection(name) for name in names]
    for name in repeats(collection.full_name for collection in collections):
        raise ValueError(f"Two collections are called {name!r}; rename one of their folders.")
    for collection in collections:
        if len(collection.query_ids) < 2:
            raise ValueError(f"{collection.full_name} has one judged query; comparing systems takes at least two.")
    summary, values = [], []
    for collection in collections:
        encoded = encode_collection(model, collection, store, late=config.depth + 1)
        rankings = retrieval_systems(collection, encoded, model.bm25, config)
        if splade is not None:
            found = splade_ranking(splade, collection, config.depth + 1, store)
            rankings["SPLADE"] = found.exclude(collection.self_matches).top(config.depth)
        frames = {system: per_query(ranking, collection.qrels, config.measures) for system, ranking in rankings.items()}
        label = {"collection": collection.full_name}
        values += [frame.assign(system=system, **label) for system, frame in frames.items()]
        counts = label | {"n_docs": len(collection.doc_ids), "n_queries": len(collection.qrels)}
        summary += [
            summarise(frames, "dense", measure, config.seed).assign(measure=measure, **counts)
            for measure in config.measures
        ]
    first = ["collection", "n_docs", "n_queries", "measure", "system"]
    table = pd.concat(summary, ignore_index=True)
    by_query = pd.concat(values).pivot(index=["collection", "measure", "query_id"], columns="system", values="value")
    origin = {
        "model": model.identity,
        "collections": [collection.identity for collection in collections],
        "retrieval": asdict(config),
        "tuned": asdict(model.bm25),
        "lexical analyzer": ANALYZER,
        **({} if splade is None else {"splade": splade.identity}),
    }
    return table[[*first, *table.columns.drop(first)]], by_query.reset_index(), origin
