# ruff: noqa: D102 (what `key`, `read` and `join` are is said once, by `Reading`)
"""Collections that are encoded once: what is read of their texts is kept in the store, shard by shard.

A *reading* is anything computed from token states: pooled terms, embeddings, the best documents by late interaction.
All readings of one retriever share a pass over the texts.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import chain
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from scipy.sparse import csr_array, hstack, vstack

from lib.bm25.pooling import apply_phi, pool
from lib.bm25.ranking import Ranking, top_k
from lib.data.collection import Collection
from lib.encode.encoder import TokenEncoder, TokenStates
from lib.evaluation.baselines import Words
from lib.evaluation.late_interaction import MaxSim, StoredStates, in_bytes
from lib.inference_free import mean_codes
from lib.inspect.vocabulary import latent_token_matrix
from lib.latent_terms import LatentTerms
from lib.sae.autoencoder import Codes, SparseAutoencoder
from lib.searcher import Searcher
from lib.support.folders import digest_json
from lib.support.store import SHARD, Store

T = TypeVar("T")
LATE_DEPTH = 1_001  # documents that late interaction keeps of a query if fewer are asked for: studies then share a pass


class Block:
    """Token states of a few consecutive texts at one layer, and what several readings compute of them."""

    def __init__(self, states: TokenStates):
        self.states = states
        self.codes: Callable[[SparseAutoencoder], Codes] = cache(lambda sae: sae.encode(states.states))
        self._moments: dict[int, tuple[int, torch.Tensor, float]] = {}

    def moments(self, sae: SparseAutoencoder) -> tuple[int, torch.Tensor, float]:
        """Return n, sum x and sum |x|^2, float64, of the states x as `sae.normalize` gives them."""
        if id(sae.centre) not in self._moments:  # mostly None: one for all autoencoders
            x = sae.normalize(self.states.states).double()
            self._moments[id(sae.centre)] = len(x), x.sum(dim=0), x.square().sum().item()
        return self._moments[id(sae.centre)]


class Reading(Protocol):
    """Something that is computed from token states.

    `key` is the store's, but for the texts. `read` returns a block's part, `join` the arrays of a shard out of the
    parts of its blocks.
    """

    encoder: TokenEncoder
    stage: str
    key: dict

    def read(self, block: Block): ...

    def join(self, parts: list) -> dict[str, np.ndarray]: ...


@dataclass(frozen=True, eq=False)
class Terms:
    """The pooled activations of each text, without phi, and in how many tokens each latent is active.

    phi is a function of each weight alone and so is applied later: one entry of the store serves all of them.
    """

    encoder: TokenEncoder
    sae: SparseAutoencoder
    pooling: str = "sum"
    stage = "terms"

    @cached_property
    def key(self) -> dict:
        return {"encoder": self.encoder.identity, "sae": self.sae.identity, "pooling": self.pooling}

    def read(self, block: Block) -> tuple[csr_array, np.ndarray]:
        codes = block.codes(self.sae)
        indices, values = codes.indices.cpu().numpy(), codes.values.cpu().numpy()
        firings = np.bincount(indices[values > 0], minlength=self.sae.width)
        return pool(indices, values, block.states.offsets, self.sae.width, self.pooling), firings

    def join(self, parts: list[tuple[csr_array, np.ndarray]]) -> dict[str, np.ndarray]:
        terms = vstack([terms for terms, _ in parts], format="csr")
        arrays = {"data": terms.data, "indices": terms.indices, "indptr": terms.indptr}
        return arrays | {"firings": np.sum([firings for _, firings in parts], axis=0)}


def terms_of(model: LatentTerms) -> Terms:
    """Return the reading of a model's terms."""
    return Terms(model.encoder, model.sae, model.pooling)


@dataclass(frozen=True, eq=False)
class Unexplained:
    """What an autoencoder leaves unexplained of the states: sum |x - x_hat|^2, and the moments of x."""

    encoder: TokenEncoder
    sae: SparseAutoencoder
    stage = "unexplained"

    @cached_property
    def key(self) -> dict:
        return {"encoder": self.encoder.identity, "sae": self.sae.identity}

    def read(self, block: Block) -> tuple[float, int, np.ndarray, float]:
        residual = self.sae.normalize(block.states.states) - self.sae.decode(block.codes(self.sae))
        n, total, square = block.moments(self.sae)
        return residual.square().sum(dtype=torch.float64).item(), n, total.cpu().numpy(), square

    def join(self, parts: list[tuple[float, int, np.ndarray, float]]) -> dict[str, np.ndarray]:
        error, n, total, square = (sum(column) for column in zip(*parts, strict=True))
        return {"error": np.array(error), "n": np.array(n), "total": total, "square": np.array(square)}


@dataclass(frozen=True, eq=False)
class Embeddings:
    """The retriever's own embedding of each text, float32 [n, d]."""

    encoder: TokenEncoder
    stage = "embeddings"

    @cached_property
    def key(self) -> dict:
        return {"encoder": any_layer(self.encoder)}

    def read(self, block: Block) -> np.ndarray:
        return block.states.pooled

    def join(self, parts: list[np.ndarray]) -> dict[str, np.ndarray]:
        return {"embeddings": np.concatenate(parts)}


@dataclass(frozen=True, eq=False)
class Late:
    """The k best documents of each query by late interaction: docs int64 and scores float32 [n_queries, at most k].

    Positions are counted within the shard.
    """

    encoder: TokenEncoder
    collection: Collection
    k: int = LATE_DEPTH
    stage = "late-interaction"

    @cached_property
    def key(self) -> dict:
        return {"encoder": self.encoder.identity, "queries": self.collection.identity["queries_sha256"], "k": self.k}

    @cached_property
    def queries(self) -> list[TokenStates]:
        return list(self.encoder.stream(self.collection.query_texts, "query"))

    def read(self, block: Block) -> tuple[int, dict[str, np.ndarray]]:
        """Return the number of documents of a block, and the best of them."""
        best = MaxSim(self.queries, self.k)
        best.add(block.states)
        return len(block.states.offsets) - 1, {"docs": best.docs, "scores": best.scores}

    def join(self, parts: list[tuple[int, dict[str, np.ndarray]]]) -> dict[str, np.ndarray]:
        counts, best = zip(*parts, strict=True)
        return best_of(best, np.cumsum([0, *counts[:-1]]), self.k)


@dataclass(frozen=True, eq=False)
class States:
    """The token states of documents in int8, as `StoredStates` keeps them: values [n_tokens, d], counts [n_docs]."""

    encoder: TokenEncoder
    stage = "token-states"

    @cached_property
    def key(self) -> dict:
        return {"encoder": self.encoder.identity}

    def read(self, block: Block) -> tuple[np.ndarray, np.ndarray]:
        return in_bytes(block.states.states), np.diff(block.states.offsets)

    def join(self, parts: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
        values, counts = map(np.concatenate, zip(*parts, strict=True))
        return {"values": values, "counts": counts}


@dataclass(frozen=True, eq=False)
class TokenLatents:
    """Each latent's summed activation by each token, csr [width, n_tokens], and how often each token occurs."""

    encoder: TokenEncoder
    sae: SparseAutoencoder
    stage = "token-latents"

    @cached_property
    def key(self) -> dict:
        return {"encoder": self.encoder.identity, "sae": self.sae.identity}

    def read(self, block: Block) -> tuple[csr_array, np.ndarray]:
        n_tokens, ids = len(self.encoder.tokenizer), block.states.token_ids
        indices, values = (tensor.cpu().numpy() for tensor in block.codes(self.sae))
        matrix = latent_token_matrix(indices, values, ids, self.sae.width, n_tokens)
        return matrix, np.bincount(ids, minlength=n_tokens)

    def join(self, parts: list[tuple[csr_array, np.ndarray]]) -> dict[str, np.ndarray]:
        matrices, counts = zip(*parts, strict=True)
        total = sum(matrices[1:], start=matrices[0])
        return {"data": total.data, "indices": total.indices, "indptr": total.indptr, "counts": sum(counts)}


def best_columns(scores: np.ndarray, k: int) -> dict[str, np.ndarray]:
    """Return the k best columns of each row, best first, "docs" and "scores" [n_queries, at most k].

    Of equal scores the earlier column is better.
    """
    docs = np.array([top_k(row, k) for row in scores]).reshape(len(scores), -1)
    return {"docs": docs, "scores": np.take_along_axis(scores, docs, axis=1)}


def best_of(parts: Sequence[dict[str, np.ndarray]], starts: Iterable[int], k: int) -> dict[str, np.ndarray]:
    """Return the k best of each query out of the best of several parts of a collection; `starts` are their first."""
    docs = np.concatenate([start + part["docs"] for start, part in zip(starts, parts, strict=True)], axis=1)
    best = best_columns(np.concatenate([part["scores"] for part in parts], axis=1), k)
    return best | {"docs": np.take_along_axis(docs, best["docs"], axis=1)}


def keep(readings: Iterable[Reading], collection: Collection, kind: str, store: Store) -> None:
    """Put what the readings take of a collection's texts of a kind ("document" or "query") into the store.

    Of each shard of documents, what is missing is read in one pass a retriever; a killed run continues behind the last
    shard.
    """
    readings = list(readings)
    for first, texts in shards(collection, kind):
        keys = [(reading, _key(reading, collection, kind, first)) for reading in readings]
        missing = {digest_json([r.stage, key]): (r, key) for r, key in keys if not store.has(r.stage, key)}
        for group in grouped(missing.values(), lambda pair: any_layer(pair[0].encoder)):
            for (reading, key), arrays in zip(group, read_texts([r for r, _ in group], texts, kind), strict=True):
                store.get(reading.stage, key, lambda arrays=arrays: arrays)


def load(reading: Reading, collection: Collection, kind: str, store: Store) -> Iterator[dict[str, np.ndarray]]:
    """Yield what a reading takes of each shard; from the store, or read and kept there."""
    for first, texts in shards(collection, kind):
        key = _key(reading, collection, kind, first)
        yield store.get(reading.stage, key, lambda texts=texts: read_texts([reading], texts, kind)[0])


def shards(collection: Collection, kind: str = "document") -> Iterator[tuple[int, list[str]]]:
    """Yield a collection's documents `SHARD` at a time, with the position of the first, or all of its queries."""
    if kind == "query":
        yield 0, collection.query_texts
        return
    for first in range(0, len(collection.doc_texts), SHARD):
        yield first, collection.doc_texts[first : first + SHARD]


def _key(reading: Reading, collection: Collection, kind: str, first: int) -> dict:
    texts = collection.identity["queries_sha256" if kind == "query" else "documents_sha256"]
    return reading.key | {"kind": kind, "texts": texts, "first": first, "shard": SHARD}


def read_texts(readings: Sequence[Reading], texts: list[str], kind: str) -> list[dict[str, np.ndarray]]:
    """Return what each of the readings, all of one retriever, takes of the texts; in one pass over them."""
    layers = {reading.encoder.layer for reading in readings}
    parts: list[list] = [[] for _ in readings]
    for by_layer in readings[0].encoder.stream_layers(texts, layers, kind):
        blocks = {layer: Block(states) for layer, states in by_layer.items()}
        for reading, taken in zip(readings, parts, strict=True):
            taken.append(reading.read(blocks[reading.encoder.layer]))
    return [reading.join(taken) for reading, taken in zip(readings, parts, strict=True)]


def grouped(items: Iterable[T], key: Callable[[T], object]) -> Iterable[list[T]]:
    """Return the items of equal `key` (JSON-able) together, in the order of their first."""
    groups: dict[str, list[T]] = {}
    for item in items:
        groups.setdefault(digest_json(key(item)), []).append(item)
    return groups.values()


def any_layer(encoder: TokenEncoder) -> dict:
    """Return the identity that an encoder shares with itself at other layers."""
    return encoder.identity | {"layer": None}


@dataclass(frozen=True)
class EncodedCollection:
    """A collection as a model encodes it."""

    doc_terms: csr_array  # float32 [n_docs, width], phi applied
    query_terms: csr_array  # float32 [n_queries, width]
    doc_embeddings: np.ndarray  # float32 [n_docs, d], the retriever's own, from the same pass
    query_embeddings: np.ndarray  # float32 [n_queries, d]
    firings: np.ndarray  # int64 [width], in how many document tokens each latent is active
    late: Ranking | None = None  # by late interaction over the same token states


def encode_collection(
    model: LatentTerms, collection: Collection, store: Store | None = None, late: int | None = None
) -> EncodedCollection:
    """Encode the documents and queries of a collection, or take them from the store.

    With `late`, so many documents are ranked for each query by late interaction, in the same pass over the documents.
    """
    store = store or Store()
    terms, embeddings = terms_of(model), Embeddings(model.encoder)
    best = None if late is None else Late(model.encoder, collection, max(late, LATE_DEPTH))
    keep([terms, embeddings, *([best] if best else [])], collection, "document", store)
    keep([terms, embeddings], collection, "query", store)
    parts = [list(load(terms, collection, kind, store)) for kind in ("document", "query")]
    matrices = [apply_phi(_stacked(shard_parts, model.sae.width), model.phi) for shard_parts in parts]
    vectors = [
        np.concatenate([part["embeddings"] for part in load(embeddings, collection, kind, store)])
        for kind in ("document", "query")
    ]
    ranking = merged_ranking(collection, load(best, collection, "document", store), late) if best else None
    return EncodedCollection(*matrices, *vectors, sum(part["firings"] for part in parts[0]), ranking)


def merged_ranking(collection: Collection, parts: Iterable[dict[str, np.ndarray]], k: int) -> Ranking:
    """Return the ranking of a collection out of the best documents of each shard."""
    starts = [first for first, _ in shards(collection)]
    return ranking_of(collection, best_of(list(parts), starts, k))


def ranking_of(collection: Collection, best: dict[str, np.ndarray]) -> Ranking:
    """Return a ranking by document ids of one by positions, "docs" and "scores" [n_queries, k]."""
    doc_ids = [[collection.doc_ids[i] for i in row] for row in best["docs"]]
    return Ranking(collection.query_ids, doc_ids, list(best["scores"]))


def searcher_of(model: LatentTerms, collection: Collection, encoded: EncodedCollection) -> tuple[Searcher, csr_array]:
    """Return what searches an encoded collection, and the terms of its queries as `Searcher.encode_queries` does."""
    words = Words.of(collection.doc_texts)
    block = encoded.doc_terms, words.encode(collection.doc_texts), encoded.doc_embeddings
    searcher = Searcher.of_blocks(model, [block], words, collection.doc_ids)
    return searcher, hstack([encoded.query_terms, words.encode(collection.query_texts)], format="csr")


def encode_together(models: Sequence[LatentTerms], collection: Collection, store: Store | None = None) -> None:
    """Read a collection once for several models of one retriever; `encode_collection` then finds each in the store."""
    if len({digest_json(model.encoder.identity) for model in models}) != 1:
        names = [f"{model.encoder.name}, layer {model.encoder.layer}" for model in models]
        raise ValueError(f"The models must have one retriever; these have {names}. Call once for each retriever.")
    for kind in ("query", "document"):
        keep([*map(terms_of, models), Embeddings(models[0].encoder)], collection, kind, store or Store())


class Pooled(NamedTuple):
    """The documents or queries of a collection, pooled."""

    terms: csr_array  # float32 [n_texts, width], without phi
    firings: np.ndarray  # int64 [width], in how many tokens each latent is active
    fvu: float  # fraction of the variance of the token states that the autoencoder leaves unexplained
    n_tokens: int


def pooled_terms(terms: Sequence[Terms], collection: Collection, kind: str, store: Store) -> list[Pooled]:
    """Return each reading's pooled terms of a collection; what is missing in the store takes one pass a retriever."""
    placed = {id(reading.sae): reading.sae.to(reading.encoder.device) for reading in terms}
    terms = [replace(reading, sae=placed[id(reading.sae)]) for reading in terms]
    errors = [Unexplained(reading.encoder, reading.sae) for reading in terms]
    keep([*terms, *errors], collection, kind, store)
    pooled = []
    for reading, error in zip(terms, errors, strict=True):
        parts = list(load(reading, collection, kind, store))
        firings = sum(part["firings"] for part in parts)
        left = list(load(error, collection, kind, store))
        n_tokens = int(sum(part["n"] for part in left))
        pooled.append(Pooled(_stacked(parts, reading.sae.width), firings, _fvu(left), n_tokens))
    return pooled


def _fvu(parts: Sequence[dict[str, np.ndarray]]) -> float:
    """Return sum |x - x_hat|^2 / sum |x - mean x|^2 over all token states x; NaN if all are equal."""
    error, n, total, square = (sum(part[name] for part in parts) for name in ("error", "n", "total", "square"))
    variance = square - np.square(total).sum() / max(n, 1)
    return float(error / variance) if variance > 0 else np.nan


def term_blocks(reading: Terms, phi: str, collection: Collection, kind: str, store: Store) -> Iterator[csr_array]:
    """Yield the term weights of one shard after the other, phi applied: memory stays that of one shard."""
    for part in load(reading, collection, kind, store):
        yield apply_phi(_stacked([part], reading.sae.width), phi)


def _stacked(parts: list[dict[str, np.ndarray]], n_columns: int) -> csr_array:
    arrays = [(part["data"], part["indices"], part["indptr"]) for part in parts]
    return vstack([csr_array(each, shape=(len(each[2]) - 1, n_columns)) for each in arrays], format="csr")


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
    return _stacked([(store or Store()).get("latent-tokens", key, make)], n_tokens)


def document_readings(model: LatentTerms) -> list[Reading]:
    """Return all that this page reads of a document's token states for one model."""
    encoder = model.encoder
    return [terms_of(model), Embeddings(encoder), States(encoder), TokenLatents(encoder, model.sae)]


def stored_states(encoder: TokenEncoder, collection: Collection, store: Store) -> StoredStates:
    """Return the states of a collection's documents in int8."""
    parts = list(load(States(encoder), collection, "document", store))
    offsets = np.cumsum([0, *chain.from_iterable(part["counts"] for part in parts)])
    values = parts[0]["values"] if len(parts) == 1 else np.concatenate([part["values"] for part in parts])
    return StoredStates(values, offsets, collection.doc_ids)


def token_latents(model: LatentTerms, collection: Collection, store: Store) -> csr_array:
    """Return the mean code of each token in a collection's documents, float32 [n_tokens, width]."""
    parts = list(load(TokenLatents(model.encoder, model.sae), collection, "document", store))
    n_tokens = len(model.encoder.tokenizer)
    total = sum((_stacked([part], n_tokens) for part in parts[1:]), start=_stacked(parts[:1], n_tokens))
    return mean_codes(total, sum(part["counts"] for part in parts))
