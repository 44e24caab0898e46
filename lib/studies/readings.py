"""A collection read once for many autoencoders: what each pools of its texts, kept in the store."""

from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from scipy.sparse import csr_array, vstack

from lib.bm25.pooling import pool
from lib.encode.encoder import TokenEncoder
from lib.sae.autoencoder import SparseAutoencoder
from lib.support.folders import digest_json
from lib.support.store import Store

T = TypeVar("T")


def grouped(things: Iterable[T], key: Callable[[T], object]) -> list[list[T]]:
    """Return the things of equal `key` (JSON-able) together, in the order of their first."""
    groups: dict[str, list[T]] = {}
    for thing in things:
        groups.setdefault(digest_json(key(thing)), []).append(thing)
    return list(groups.values())


def any_layer(encoder: TokenEncoder) -> dict:
    """Return the identity that an encoder shares with itself at other layers."""
    return encoder.identity | {"layer": None}


class Reading(NamedTuple):
    """What pooled terms of a text depend on: an encoder (at its layer), an autoencoder and a pooling."""

    encoder: TokenEncoder
    sae: SparseAutoencoder
    pooling: str


class Pooled(NamedTuple):
    """The texts of one side of a collection as one reading sees them.

    Attributes
    ----------
    terms : csr_array, float32 [n_texts, width]
        Pooled activations, without phi.
    firings : np.ndarray, int64 [width]
        In how many tokens each latent is active.
    fvu : float
        Fraction of the variance of the token states that the autoencoder leaves unexplained.
    """

    terms: csr_array
    firings: np.ndarray
    fvu: float


def pooled_terms(readings: list[Reading], texts: list[str], kind: str, digest: str, store: Store) -> list[Pooled]:
    """Return the pooled terms of `texts` for each reading: from the store, the rest from one pass a retriever.

    phi is a function of each weight alone and so is applied later; what is kept serves all of them.

    Parameters
    ----------
    readings : list of Reading
    texts : list of str
    kind : {"document", "query"}
    digest : str
        Of the texts, for the key.
    store : Store
    """
    keys = [_key(reading, kind, digest) for reading in readings]
    missing = [(r, key) for r, key in zip(readings, keys, strict=True) if not _is_kept(store, key)]
    for group in grouped(missing, lambda pair: any_layer(pair[0].encoder)):
        once = {digest_json(key): (reading, key) for reading, key in group}
        arrays = read_texts([reading for reading, _ in once.values()], texts, kind)
        for (_, key), made in zip(once.values(), arrays, strict=True):
            store.get("pooled", key, lambda made=made: made)
    return [_pooled(store.get("pooled", key, _nothing), r.sae.width) for r, key in zip(readings, keys, strict=True)]


def _key(reading: Reading, kind: str, digest: str) -> dict:
    seen = {"encoder": reading.encoder.identity, "sae": reading.sae.identity, "pooling": reading.pooling}
    return seen | {"kind": kind, "texts": digest}


def _nothing() -> dict[str, np.ndarray]:
    raise LookupError("The store holds no such entry.")


def _is_kept(store: Store, key: dict) -> bool:
    try:
        store.get("pooled", key, _nothing)
    except LookupError:
        return False
    return True


def _pooled(arrays: dict[str, np.ndarray], width: int) -> Pooled:
    parts = (arrays["data"], arrays["indices"], arrays["indptr"])
    return Pooled(csr_array(parts, shape=(len(parts[2]) - 1, width)), arrays["firings"], float(arrays["fvu"][0]))


def read_texts(readings: list[Reading], texts: list[str], kind: str) -> list[dict[str, np.ndarray]]:
    """Read texts once for all readings of one retriever; return the arrays of each: a matrix, firings and fvu.

    FVU = sum |x - x_hat|^2 / sum |x - mean x|^2, over all tokens of the texts; x is a token's state as the autoencoder
    reads it (`SparseAutoencoder.normalize`).
    """
    saes = {id(reading.sae): reading.sae.to(reading.encoder.device) for reading in readings}
    layers = {reading.encoder.layer for reading in readings}
    pairs = {(reading.encoder.layer, id(reading.sae)) for reading in readings}
    centres = {(layer, id(saes[number].centre)): saes[number] for layer, number in pairs}  # mostly one a layer: None
    moments = {key: _Moments() for key in centres}
    errors = dict.fromkeys(pairs, 0.0)
    firings = {pair: np.zeros(saes[pair[1]].width, np.int64) for pair in pairs}
    rows: list[list[csr_array]] = [[] for _ in readings]
    for block in readings[0].encoder.stream_layers(texts, layers, kind):
        for layer, number in pairs:
            states, sae = block[layer].states, saes[number]
            codes, x = sae.encode(states), sae.normalize(states)
            errors[layer, number] += (x - sae.decode(codes)).square().sum(dtype=torch.float64).item()
            indices, values = codes.indices.cpu().numpy(), codes.values.cpu().numpy()
            firings[layer, number] += np.bincount(indices[values > 0], minlength=sae.width)
            for reading, blocks in zip(readings, rows, strict=True):
                if (reading.encoder.layer, id(reading.sae)) == (layer, number):
                    blocks.append(pool(indices, values, block[layer].offsets, sae.width, reading.pooling))
        for (layer, centre), sae in centres.items():
            moments[layer, centre].add(sae.normalize(block[layer].states))
    made = []
    for reading, blocks in zip(readings, rows, strict=True):
        pair = (reading.encoder.layer, id(reading.sae))
        terms = vstack(blocks, format="csr")
        arrays = {"data": terms.data, "indices": terms.indices, "indptr": terms.indptr, "firings": firings[pair]}
        squares = moments[pair[0], id(saes[pair[1]].centre)].squares()
        made.append(arrays | {"fvu": np.array([errors[pair] / squares if squares > 0 else np.nan])})
    return made


class _Moments:
    """The sum of squared distances of states from their mean, added up block by block in float64."""

    def __init__(self):
        self.n, self.total, self.square = 0, 0.0, 0.0

    def add(self, states: torch.Tensor) -> None:
        states = states.double()
        self.n += len(states)
        self.total = self.total + states.sum(dim=0)
        self.square += states.square().sum().item()

    def squares(self) -> float:
        return self.square - (self.total.square().sum().item() / self.n if self.n else 0.0)
