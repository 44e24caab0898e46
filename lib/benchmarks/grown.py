"""A corpus of any size for timing, grown out of real encoded texts.

A grown document takes its number of sentences from a real one, and its sentences, each at random, from that document
and one other. Its term weights are phi of the sums of its sentences' pooled activations, as they would be
if the sentences had been encoded as one text, but for the context that they have of each other. Latents so keep their
frequencies, and documents their lengths. Grown documents are for timing: they have no relevance judgements.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array, vstack

from lib.bm25.pooling import apply_phi, pool, undo_phi
from lib.latent_terms import LatentTerms
from lib.support.checks import check_count

_ROWS = 16_384  # grown at once
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9\"'(])|\n{2,}")


class Sentences(NamedTuple):
    """The sentences of a collection, of which document i has `starts[i]:starts[i + 1]`, at least one.

    `pooled`, float32 [n_sentences, width], are summed activations without the model's `phi`; `embeddings` are float32
    [n_sentences, d].
    """

    pooled: csr_array
    embeddings: np.ndarray
    starts: np.ndarray
    phi: str


def sentences_of(text: str) -> list[str]:
    """Split a text behind full stops, question and exclamation marks, and at blank lines."""
    return [part for part in map(str.strip, _SENTENCE.split(text)) if part]


def encode_sentences(model: LatentTerms, texts: list[str]) -> Sentences:
    """Encode each sentence of the texts that have any; ValueError if none has one."""
    split = [parts for parts in map(sentences_of, texts) if parts]
    if not split:
        raise ValueError("There is no sentence in the texts; give a collection with text.")
    blocks = list(model.stream([sentence for parts in split for sentence in parts], "document"))
    pooled = undo_phi(vstack([block.terms for block in blocks], format="csr"), model.phi)
    embeddings = np.concatenate([block.embeddings for block in blocks])
    return Sentences(pooled, embeddings, np.cumsum([0, *map(len, split)]), model.phi)


def draws(starts: np.ndarray, n_docs: int, seed: int = 0) -> Iterator[csr_array]:
    """Yield blocks of grown documents as counts of the sentences that they are made of, float32 [rows, n_sentences].

    The first n documents are the same for every `n_docs`. `starts` is that of `Sentences`.
    """
    check_count(n_docs, "n_docs")
    counts = np.diff(starts)
    for first in range(0, n_docs, _ROWS):
        rng = np.random.default_rng([seed, first])
        pair = rng.integers(len(counts), size=(2, _ROWS))
        document = np.repeat(np.arange(_ROWS), counts[pair[0]])
        source = np.where(rng.random(len(document)) < 0.5, pair[0][document], pair[1][document])
        chosen = starts[source] + (rng.random(len(document)) * counts[source]).astype(np.int64)
        cells = (np.ones(len(chosen), np.float32), (document, chosen))
        yield csr_array(cells, shape=(_ROWS, int(starts[-1])))[: n_docs - first]


def grow(sentences: Sentences, n_docs: int, seed: int = 0) -> Iterator[tuple[csr_array, np.ndarray]]:
    """Yield blocks of grown documents: term weights, float32 [rows, width], and embeddings of norm 1 [rows, d]."""
    for counts in draws(sentences.starts, n_docs, seed):
        summed = counts @ sentences.pooled
        summed.sort_indices()
        embeddings = counts @ sentences.embeddings
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
        yield apply_phi(summed, sentences.phi), embeddings


def largest_of(sentences: csr_array, starts: np.ndarray, n_docs: int) -> Iterator[csr_array]:
    """Yield blocks of grown documents each of whose weights, float32 [rows, width], is the largest of its sentences'.

    `sentences` are their rows, `starts` as in `Sentences`.
    """
    for counts in draws(starts, n_docs):
        rows = sentences[counts.indices]  # of each document's sentences, one after the other
        cells = rows.indices[:, None], rows.data[:, None], rows.indptr[counts.indptr]
        yield pool(*cells, sentences.shape[1], "max")
