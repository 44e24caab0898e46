"""Texts as a model reads them: where each token stands, and which latents are active there."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.sparse import coo_array, csr_array, vstack

from lib.bm25.pooling import apply_phi, pool
from lib.encode.encoder import TokenEncoder
from lib.sae.autoencoder import SparseAutoencoder
from lib.support.checks import check_texts

_WORD = re.compile(r"\w+")
_SKIPPED = 16  # tokens in a row of which the encoder may give no states, such as commas for a late-interaction model


class Model(Protocol):
    """What is needed of a `LatentTerms`, which imports this module."""

    encoder: TokenEncoder
    sae: SparseAutoencoder
    pooling: str
    phi: str


@dataclass(frozen=True, eq=False)
class Reading:
    """The tokens of some texts, end to end, and their codes.

    Attributes
    ----------
    texts : list of str
    offsets : np.ndarray, int64 [n_texts + 1]
        Text i owns the tokens `offsets[i]:offsets[i + 1]`.
    token_ids : np.ndarray, int64 [n_tokens]
    spans : np.ndarray, int32 [n_tokens, 2]
        First character of a token in its text, and the one behind it; equal for what is not in the text, such as
        special tokens.
    latents, values : np.ndarray, int32 and float32 [n_tokens, k]
        Active latents and their activations, strongest first; 0 is not active.
    terms : csr_array, float32 [n_texts, width]
        Term weights, as `encode_documents` gives them.
    """

    texts: list[str]
    offsets: np.ndarray
    token_ids: np.ndarray
    spans: np.ndarray
    latents: np.ndarray
    values: np.ndarray
    terms: csr_array

    @property
    def text_of_token(self) -> np.ndarray:
        """The number of the text of each token, int64 [n_tokens]."""
        return np.repeat(np.arange(len(self.texts)), np.diff(self.offsets))

    @property
    def firings(self) -> csr_array:
        """In how many tokens of each text each latent is active, int64 [n_texts, width]."""
        token, column = np.nonzero(self.values > 0)
        rows, latents = self.text_of_token[token], self.latents[token, column]
        return coo_array((np.ones(len(rows), np.int64), (rows, latents)), shape=self.terms.shape).tocsr()

    def words(self) -> tuple[list[str], np.ndarray, csr_array]:
        r"""Return the words of the texts (`\w+`, lower case), the word of each token, and each text's words.

        A token that is part of no word, such as a comma, is a word of its own in the second, int64 [n_tokens], where
        -1 is a token that is not in the text, but not in the third, int64 [n_texts, n_words], which counts words.
        """
        number_of: dict[str, int] = {}
        word_of = np.full(len(self.token_ids), -1, np.int64)
        rows: list[int] = []
        columns: list[int] = []
        for i, text in enumerate(self.texts):
            matches = list(_WORD.finditer(text))
            numbers = [number_of.setdefault(match[0].lower(), len(number_of)) for match in matches]
            rows += [i] * len(numbers)
            columns += numbers
            first, last = self.offsets[i : i + 2]
            ends = np.array([match.end() for match in matches], np.int64)
            spans = self.spans[first:last]
            places = np.searchsorted(ends, spans[:, 0], side="right")
            for token, (place, (start, end)) in enumerate(zip(places.tolist(), spans.tolist(), strict=True), first):
                if place < len(matches) and matches[place].start() <= start < end:
                    word_of[token] = numbers[place]
                elif start < end:
                    word_of[token] = number_of.setdefault(text[start:end].lower(), len(number_of))
        shape = (len(self.texts), len(number_of))
        return list(number_of), word_of, coo_array((np.ones(len(rows), np.int64), (rows, columns)), shape=shape).tocsr()

    def part(self, texts: slice) -> "Reading":
        """Return the reading of some of the texts, such as every second one."""
        chosen = np.arange(len(self.texts))[texts]
        counts = np.diff(self.offsets)
        tokens = np.isin(self.text_of_token, chosen)
        offsets = np.concatenate([[0], np.cumsum(counts[chosen])])
        token_ids, spans, latents, values = (
            column[tokens] for column in (self.token_ids, self.spans, self.latents, self.values)
        )
        return Reading(self.texts[texts], offsets, token_ids, spans, latents, values, self.terms[chosen])


def read(model: Model, texts: Iterable[str], kind: str = "document", *, progress: bool = True) -> Reading:
    """Read texts with a model, all at once in memory: some 300 bytes a token.

    Raises ValueError for no text, and as `model.stream`.
    """
    texts = list(check_texts(texts))
    if not texts:
        raise ValueError("There is no text; give at least one.")
    ids, lengths, latents, values, terms = [], [], [], [], []
    for block in model.encoder.stream(texts, kind, progress=progress):
        columns, activations = (tensor.cpu().numpy() for tensor in model.sae.encode(block.states))
        pooled = pool(columns, activations, block.offsets, model.sae.width, model.pooling)
        terms.append(apply_phi(pooled, model.phi))
        order = np.argsort(-activations, axis=1, kind="stable")
        latents.append(np.take_along_axis(columns, order, axis=1).astype(np.int32))
        values.append(np.take_along_axis(activations, order, axis=1))
        ids.append(block.token_ids)
        lengths.append(np.diff(block.offsets))
    k = max(part.shape[1] for part in values)
    wide = [[np.pad(part, [(0, 0), (0, k - part.shape[1])]) for part in parts] for parts in (latents, values)]
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    token_ids = np.concatenate(ids)
    spans = np.concatenate(list(token_spans(model.encoder, texts, np.split(token_ids, offsets[1:-1]), kind)))
    codes = [np.concatenate(parts) for parts in wide]
    return Reading(texts, offsets, token_ids, spans, codes[0], codes[1], vstack(terms, format="csr"))


def token_spans(
    encoder: TokenEncoder, texts: list[str], ids: Iterable[np.ndarray], kind: str = "document"
) -> Iterator[np.ndarray]:
    """Yield where the tokens of each text stand in it, int32 [n_tokens, 2]; `ids` are those that the encoder gives.

    Special tokens, prompts, and tokens that only the encoder knows the place of, have an empty span.
    """
    tokenizer, prompt = encoder.tokenizer, encoder.prompts[kind]
    special = set(tokenizer.all_special_ids)
    for text, row in zip(texts, ids, strict=True):
        prompted = (prompt + text).encode("utf-8", "replace").decode()
        plain = tokenizer(prompted, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        spans, ids_of_text, place = np.zeros((len(row), 2), np.int32), plain["input_ids"], 0
        for token, id_ in enumerate(row.tolist()):
            window = ids_of_text[place : place + (1 if id_ in special else _SKIPPED)]
            if id_ in window:
                place += window.index(id_)
                spans[token] = plain["offset_mapping"][place]
                place += 1
        yield np.maximum(spans - len(prompt), 0)
