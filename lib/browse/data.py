"""What the page shows: a model's reading of a collection as JSON-able shards, which `static/page.js` reads."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from scipy.sparse import csr_array, vstack

from lib.bm25.index import BM25Index
from lib.bm25.pruning import keep_top
from lib.inference_free import mean_codes
from lib.inspect.display import stretches
from lib.inspect.hierarchy import companions
from lib.inspect.labelling import labels_for, strongest_places
from lib.inspect.labels import Labels, words_of
from lib.inspect.reading import Reading, read
from lib.inspect.vocabulary import latent_token_matrix, spaced_ranks, top_tokens
from lib.latent_terms import LatentTerms
from lib.support.checks import check_choice, check_ids
from lib.support.progress import progress

DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
LATENTS_A_SHARD, DOCUMENTS_A_SHARD = 512, 64
MOST_DOCUMENTS, MOST_LATENTS = 2**16, 2**18  # what the packed numbers, and a browser, hold
TOKEN_LATENTS = 2  # latents of a token that a document's page names
STEPS = 63  # of shading
IMPACTS = 1023  # steps of an impact
JOINED = ("sum", "max")  # poolings of the tokens of a query, as in page.js
_WORD = re.compile(r"\w+|[^\w\s]")  # of a query, as in page.js
_CHUNK = 2048


def packed(values: np.ndarray, n_digits: int) -> str:
    """Return integers, at least 0, as digits to the base 64, `n_digits` each, the highest first."""
    values = np.asarray(values, np.int64)
    alphabet = np.frombuffer(DIGITS.encode(), np.uint8)
    shifts = 6 * np.arange(n_digits - 1, -1, -1)
    return alphabet[(values[:, None] >> shifts) & 63].tobytes().decode()


def clean(text: str) -> str:
    """Return a text that can be written as UTF-8: halves of surrogate pairs become "?", as the tokenizer reads them."""
    return text.encode("utf-8", "replace").decode()


def title_of(doc_id: str, text: str, length: int = 80) -> str:
    """Return what a document is called in lists: its id, and the beginning of its text."""
    line = " ".join(text[: 4 * length].split())
    title = line if line.startswith(doc_id) else f"{doc_id}: {line}" if line else doc_id
    return title if len(title) <= length else f"{title[: length - 1]}…"


@dataclass(frozen=True)
class Page:
    """A collection as a model reads it, ready to be written.

    Raises ValueError for a model whose pooling is neither the sum nor the maximum, for no documents, for ids that
    repeat, and for more documents or latents than a page holds.

    Parameters
    ----------
    model : LatentTerms
    name : str
        What the collection is called.
    doc_ids, doc_texts : list of str
    n_postings : int
        Latents that a document keeps in the index of the page, those that can add most to a score.
    n_query_latents : int
        Latents that a word of a query keeps.
    """

    model: LatentTerms
    name: str
    doc_ids: list[str]
    doc_texts: list[str]
    n_postings: int = 128
    n_query_latents: int = 24

    def __post_init__(self) -> None:
        """Check the fields."""
        check_choice(self.model.pooling, JOINED, "the model's pooling")
        for n, most, what in (
            (len(self.doc_ids), MOST_DOCUMENTS, "documents"),
            (self.model.sae.width, MOST_LATENTS, "latents"),
        ):
            if n > most:
                raise ValueError(f"There are {n:,} {what}; a page holds {most:,}. Take a sample, or a smaller model.")
        if not check_ids(self.doc_ids, len(self.doc_texts), "doc_ids"):
            raise ValueError(f"{self.name} has no documents; give at least one.")

    @cached_property
    def reading(self) -> Reading:
        """The documents as the model reads them."""
        return read(self.model, self.doc_texts)

    @cached_property
    def index(self) -> BM25Index:
        """The index of the documents."""
        return self.model.index(self.reading.terms, self.doc_ids)

    @cached_property
    def impacts(self) -> csr_array:
        """The impacts of the index, float32 [n_docs, width]."""
        return vstack(list(self.index.impact_rows()), format="csr")

    @property
    def largest_impact(self) -> float:
        """The largest of the impacts; 1 if there is none."""
        return float(self.impacts.data.max(initial=0)) or 1.0

    @cached_property
    def labels(self) -> Labels:
        """The labels that the collection gives, and the model's where it gives none that can be measured."""
        return labels_for(self.model, self.reading)

    @cached_property
    def firings(self) -> np.ndarray:
        """In how many tokens each latent is active, int64 [width]."""
        return np.bincount(self.reading.latents[self.reading.values > 0], minlength=self.model.sae.width)

    def shards(self) -> Iterator[tuple[str, object]]:
        """Yield the name and the content of each file of data."""
        yield "about", self._about()
        yield "names", {"labels": self.labels.names, "firings": self.firings.tolist()}
        yield "titles", [clean(title_of(*pair)) for pair in zip(self.doc_ids, self.doc_texts, strict=True)]
        yield "query", self._query_table()
        yield from self._sharded("postings", LATENTS_A_SHARD, list(self._postings()))
        yield from self._sharded("documents", DOCUMENTS_A_SHARD, list(self._documents()))
        yield from self._sharded("latents", LATENTS_A_SHARD, list(self._latents()))

    def _sharded(self, name: str, size: int, items: list) -> Iterator[tuple[str, list]]:
        for number, start in enumerate(range(0, len(items), size)):
            yield f"{name}-{number}", items[start : start + size]

    def _about(self) -> dict:
        ranked = np.sort(self.firings[self.firings > 0])[::-1]
        ranks = spaced_ranks(len(ranked), 120) if len(ranked) else np.empty(0, np.int64)
        auc, control = (
            values[np.isfinite(values)] for values in (self.labels.auc.astype(float), self.labels.control.astype(float))
        )
        return {
            "collection": clean(self.name),
            "model": self.model.encoder.name.rpartition("/")[2],
            "documents": len(self.doc_ids),
            "width": self.model.sae.width,
            "active": len(ranked),
            "k": self.model.sae.k,
            "phi": self.model.phi,
            "pooling": self.model.pooling,
            "impact": self.largest_impact,
            "postings": self.n_postings,
            "zipf": [[int(rank), int(ranked[rank - 1])] for rank in ranks],
            "auc": round(float(np.median(auc)), 3) if len(auc) else None,
            "control": round(float(np.median(control)), 3) if len(control) else None,
            "shown": self._clearest(),
        }

    def _clearest(self, n: int = 12) -> list[int]:
        """Return latents to begin with: those with the best labels of such as are neither rare nor everywhere."""
        firing = np.diff(self.reading.terms.tocsc().indptr) / len(self.doc_ids)
        quality = np.where((firing < 0.2) & (self.firings >= 10), np.nan_to_num(self.labels.auc), 0)
        quality = quality + 1e-9 * self.firings  # more often, where agreement is equal or not measured
        best: dict[frozenset[str], int] = {}  # one of each label: autoencoders of several seeds find the same
        for latent in np.argsort(-quality, kind="stable")[: 40 * n].tolist():
            if words := frozenset(words_of(self.labels[latent])):
                best.setdefault(words, latent)
        return list(best.values())[:n]

    def _query_table(self) -> dict:
        """Return the latents of each token of the documents, and the tokens of each word, for `InferenceFreeQueries`.

        A word that the tokenizer reads alike in lower case is there in lower case.
        """
        reading, tokenizer, width = self.reading, self.model.encoder.tokenizer, self.model.sae.width
        counts = np.bincount(reading.token_ids, minlength=len(tokenizer))
        total = latent_token_matrix(reading.latents, reading.values, reading.token_ids, width, len(counts))
        means = mean_codes(total, counts, self.n_query_latents)
        known = np.flatnonzero(counts)
        row_of = {int(token): row for row, token in enumerate(known)}
        rows = [slice(means.indptr[token], means.indptr[token + 1]) for token in known]
        words = sorted({word for text in self.doc_texts for word in _WORD.findall(clean(text))})
        lower = [word.lower() for word in words]
        ids, ids_of_lower = (self._token_ids(forms) for forms in (words, lower))
        table = dict(zip(lower, ids_of_lower, strict=True))
        table |= {word: of_word for word, of_word in zip(words, ids, strict=True) if of_word != table[word.lower()]}
        (full,) = self.model.encoder.token_ids(["a"], "query")
        always = full.tolist()
        for token in self._token_ids(["a"])[0]:
            always.remove(token)
        return {
            "words": {word: [row_of[t] for t in tokens if t in row_of] for word, tokens in sorted(table.items())},
            "always": [row_of[token] for token in always if token in row_of],
            "latents": [means.indices[row].tolist() for row in rows],
            "weights": [[round(weight, 3) for weight in means.data[row].tolist()] for row in rows],
        }

    def _token_ids(self, words: list[str]) -> list[list[int]]:
        return self.model.encoder.tokenizer(words, add_special_tokens=False)["input_ids"] if words else []

    def _postings(self) -> Iterator[list]:
        """Yield the idf of each latent and its postings, a document and an impact each, packed into five digits."""
        index, impacts = self.index, self.impacts
        positive = np.maximum(index.idf, 0)
        worth = csr_array((impacts.data * positive[impacts.indices], impacts.indices, impacts.indptr), impacts.shape)
        heaviest = keep_top(worth, self.n_postings).tocsc()
        step = self.largest_impact / IMPACTS
        for latent, (start, end) in enumerate(pairwise(heaviest.indptr)):
            idf = float(index.idf[latent])
            impact = np.clip(np.rint(heaviest.data[start:end] / max(idf, 1e-9) / step), 1, IMPACTS).astype(np.int64)
            yield [round(idf, 4), packed(heaviest.indices[start:end].astype(np.int64) * (IMPACTS + 1) + impact, 5)]

    def _documents(self) -> Iterator[list]:
        """Yield id, text, two lengths for each token, and the strongest latents of each with their shades.

        The lengths are that of what stands before a token, and the token's own, in characters (not UTF-16 units).
        """
        strongest = self.reading.values[:, 0]
        top = float(np.quantile(strongest[strongest > 0], 0.99)) if (strongest > 0).any() else 1.0
        for number, (doc_id, text) in enumerate(zip(self.doc_ids, self.doc_texts, strict=True)):
            lengths, numbers, gap = [], [], 0
            for stretch in stretches(self.reading, number, TOKEN_LATENTS):
                if not stretch.latents:
                    gap += len(stretch.text)
                    continue
                lengths += [gap, len(stretch.text)]
                shades = [min(STEPS, max(1, round(STEPS * value / top))) for _, value in stretch.latents]
                pairs = [(j << 6) + s for (j, _), s in zip(stretch.latents, shades, strict=True)]
                numbers += pairs + [0] * (TOKEN_LATENTS - len(pairs))
                gap = 0
            yield [clean(doc_id), clean(text), lengths, packed(np.array(numbers, np.int64), 4)]

    def _latents(self) -> Iterator[dict]:
        """Yield what the page of each latent shows; nothing of one that is not active."""
        reading, width = self.reading, self.model.sae.width
        words, word_of, _ = reading.words()
        shown = word_of >= 0
        mass = latent_token_matrix(reading.latents[shown], reading.values[shown], word_of[shown], width, len(words))
        places, by_latent = self._places(), reading.terms.tocsc()
        active = np.flatnonzero(self.firings)
        similar, seeds = nearest(self.model, active)
        together, parents, _ = companions(reading)
        children: dict[int, list[int]] = {}
        for child, parent in sorted(parents.items(), key=lambda pair: -self.firings[pair[0]]):
            children.setdefault(parent, []).append(child)
        for latent in progress(range(width), what="write", unit="latents", total=width):
            if not self.firings[latent]:
                yield {}
                continue
            postings = slice(by_latent.indptr[latent], by_latent.indptr[latent + 1])
            heaviest = postings.start + np.argsort(-by_latent.data[postings], kind="stable")[:6]
            yield {
                "words": [[word, round(100 * share)] for word, share in top_tokens(mass, latent, words, 6)],
                "places": places[latent],
                "documents": [[int(by_latent.indices[p]), round(float(by_latent.data[p]), 2)] for p in heaviest],
                "n": int(postings.stop - postings.start),
                "auc": _number(self.labels.auc[latent]),
                "control": _number(self.labels.control[latent]),
                "similar": similar[latent],
                "seeds": seeds[latent],
                "together": together.get(latent, []),
                "parent": parents.get(latent),
                "children": children.get(latent, [])[:8],
            }

    def _places(self) -> list[list[list[int]]]:
        """Return where each latent is strongest: document, and number of the token among those that are shown."""
        reading = self.reading
        order, result = np.zeros(len(reading.token_ids), np.int64), []
        for first, last in pairwise(reading.offsets.tolist()):
            end, number = 0, 0
            for token in range(first, last):  # as `stretches` goes
                order[token] = number
                if max(int(reading.spans[token, 0]), end) < reading.spans[token, 1]:
                    end = int(reading.spans[token, 1])
                    number += bool(reading.values[token, 0] > 0)
        texts = reading.text_of_token
        for places in strongest_places(reading, 5):
            result.append([[int(texts[token]), int(order[token])] for token in places])
        return result


def _number(value: np.floating) -> float | None:
    return round(float(value), 2) if np.isfinite(value) else None


def nearest(model: LatentTerms, active: np.ndarray, n: int = 6) -> tuple[dict[int, list], dict[int, list]]:
    """Return the active latents whose decoder rows are most like those of each, as latent → [[latent, cosine], ...].

    The first are `n` of the same autoencoder; the second, of a model that joins several, the best of each other one,
    which was trained with another seed: a latent that others share is no accident of training.
    """
    groups = getattr(model.sae.activation, "groups", 1)
    group_of = active // (model.sae.width // groups)
    rows = torch.nn.functional.normalize(model.sae.W_dec[torch.from_numpy(active)].cpu(), dim=1)
    similar: dict[int, list] = {int(latent): [] for latent in active}
    seeds: dict[int, list] = {int(latent): [] for latent in active}
    for group in range(groups):
        members = np.flatnonzero(group_of == group)
        columns = rows[torch.from_numpy(members)]
        for first in range(0, len(active) if len(members) else 0, _CHUNK):
            best = (rows[first : first + _CHUNK] @ columns.T).topk(min(n + 1, len(members)), dim=1)
            pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            for i, (numbers, cosines) in enumerate(pairs, first):
                nearest = [
                    [int(active[members[c]]), round(value, 2)]
                    for c, value in zip(numbers, cosines, strict=True)
                    if members[c] != i
                ]
                if group_of[i] == group:
                    similar[int(active[i])] = nearest[:n]
                else:
                    seeds[int(active[i])].append(nearest[0])
    return similar, seeds
