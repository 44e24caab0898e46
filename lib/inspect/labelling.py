"""Labels of latents, made of the texts that they fire in without a language model, and measured on others."""

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array, csr_array

from lib.inspect.labels import Labels, words_of
from lib.inspect.log_odds import PRIOR, log_odds
from lib.inspect.reading import Reading, read
from lib.inspect.vocabulary import latent_token_matrix, top_tokens
from lib.latent_terms import LatentTerms

LEAST_TEXTS = 5  # held-out texts that a latent must fire in, and be silent in, for its agreement to be measured
_CHUNK = 1024  # latents whose words are looked at together
_LEAST_SHARE, _LEAST_Z = 0.1, 3.0
_AROUND = 40  # characters of a context on each side


class Evidence(NamedTuple):
    """What a label of one latent can be made of.

    `words` are those in which it fires, with their shares of its activation; `company` the words that are most typical
    of the texts that it fires in, with z of `log_odds`; `contexts` its strongest places, the token in brackets.
    """

    latent: int
    words: list[tuple[str, float]]
    company: list[tuple[str, float]]
    contexts: list[str]


def plain_label(evidence: Evidence) -> str:
    """Return the words of a latent, and in brackets what else its texts are about: "open, opened (file, stream)"."""
    words = [word for word, share in evidence.words[:3] if share >= _LEAST_SHARE and words_of(word)]
    words = words or [word for word, _ in evidence.words[:1]]  # perhaps a comma
    company = [word for word, z in evidence.company if z >= _LEAST_Z and word not in words][: 5 - len(words)]
    return ", ".join(words) + (f" ({', '.join(company)})" if company else "")


def label_latents(
    model: LatentTerms,
    texts: Iterable[str],
    label: Callable[[Evidence], str] = plain_label,
    *,
    seed: int = 0,
    progress: bool = True,
) -> Labels:
    """Label the latents of a model by every second text, and measure on the others how well labels predict firing.

    A latent that fires only in the others is labelled by them, and not measured.

    Raises ValueError for fewer than two texts, and TypeError for a label that is no `str`.

    Parameters
    ----------
    model : LatentTerms
    texts : iterable of str
        Some thousand texts of the kind that the model will read.
    label : function, optional
        Makes the label of an `Evidence`; its words (`\\w+`) are what is measured.
    seed : int
        Seed of the labels that the control draws.
    progress : bool
        Whether progress is shown.
    """
    return labels_of(model, read(model, texts, progress=progress), label, seed)


def labels_of(
    model: LatentTerms, reading: Reading, label: Callable[[Evidence], str] = plain_label, seed: int = 0
) -> Labels:
    """Return what `label_latents` does, of texts that are read."""
    if len(reading.texts) < 2:
        raise ValueError("There is one text; give at least two: labels of some are measured on the others.")
    width, held_out = model.sae.width, reading.part(slice(1, None, 2))
    names = [""] * width
    for evidence in evidence_of(reading.part(slice(0, None, 2)), np.ones(width, bool)):
        names[evidence.latent] = _checked(label(evidence), evidence.latent)
    labelled = np.flatnonzero([bool(name) for name in names])
    drawn = np.arange(len(names))
    drawn[labelled] = np.random.default_rng(seed).permutation(labelled)
    auc, control = agreement(names, held_out), agreement([names[j] for j in drawn], held_out)
    for evidence in evidence_of(held_out, np.array([not name for name in names])):
        names[evidence.latent] = _checked(label(evidence), evidence.latent)
    return Labels(names, auc, control, model.sae.identity["weights"])


def labels_for(model: LatentTerms, reading: Reading) -> Labels:
    """Return the labels that some texts give, and the model's own of latents that fire in too few of them to measure.

    What a latent fires with depends on the texts: labels of other texts predict worse where it fires in these.
    """
    here, known = labels_of(model, reading), model.labels
    if known is None:
        return here
    of_model = ~np.isfinite(here.auc) & np.isfinite(known.auc)
    names = [known[j] if other else here[j] for j, other in enumerate(of_model.tolist())]
    auc, control = (np.where(of_model, *pair) for pair in ((known.auc, here.auc), (known.control, here.control)))
    return Labels(names, auc, control, here.model)


def _checked(name: str, latent: int) -> str:
    if not isinstance(name, str):
        raise TypeError(f"The label of latent {latent} is {name!r} ({type(name).__name__}); return a str.")
    return name


def evidence_of(reading: Reading, wanted: np.ndarray, n_contexts: int = 5) -> Iterator[Evidence]:
    """Yield the evidence for each latent that is active and wanted, bool [width], in their order."""
    words, word_of, counts = reading.words()
    shown, width = word_of >= 0, reading.terms.shape[1]
    latents, values = reading.latents[shown], reading.values[shown]
    mass = latent_token_matrix(latents, values, word_of[shown], width, len(words))
    places = strongest_places(reading, n_contexts)
    firing = reading.firings.astype(bool).astype(np.int64).T.tocsr()
    latents = np.flatnonzero((np.diff(mass.indptr) > 0) & wanted)
    for first in range(0, len(latents), _CHUNK):
        chunk = latents[first : first + _CHUNK]
        for latent, z in zip(chunk.tolist(), _company(firing[chunk], counts), strict=True):
            contexts = [context_of(reading, token) for token in places[latent]]
            of_texts = [(words[word], score) for word, score in z]
            yield Evidence(latent, top_tokens(mass, latent, words, 10), of_texts, contexts)


def _company(firing: csr_array, counts: csr_array, n: int = 10) -> Iterator[list[tuple[int, float]]]:
    """Yield the `n` words most typical of the texts that each latent fires in, with z; `firing` is [latents, texts].

    A word counts once a text, so that one text that repeats it does not make it typical.
    """
    present, n_all = counts.astype(bool).astype(np.int64), counts.shape[0]
    inside, n_inside = csr_array(firing @ present), np.diff(firing.indptr)
    a, of_word = inside.data, present.sum(axis=0)[inside.indices]
    n_a = np.repeat(n_inside, np.diff(inside.indptr))
    _, z = log_odds(a, of_word - a, n_a, n_all - n_a, of_word / n_all, PRIOR)
    for start, end in zip(inside.indptr[:-1], inside.indptr[1:], strict=True):
        order = np.argsort(-z[start:end], kind="stable")[:n]
        yield list(zip(inside.indices[start:end][order].tolist(), z[start:end][order].tolist(), strict=True))


def strongest_places(reading: Reading, n: int) -> list[list[int]]:
    """Return the tokens where each latent is strongest, one a text and at most `n`, from strong to weak."""
    token, column = np.nonzero((reading.values > 0) & (reading.spans[:, :1] < reading.spans[:, 1:]))
    latents, values = reading.latents[token, column], reading.values[token, column]
    texts = reading.text_of_token[token]
    order = np.lexsort((token, -values, texts, latents))
    first = np.flatnonzero(np.diff(latents[order], prepend=-1) | np.diff(texts[order], prepend=-1))
    best = order[first]  # of each text
    best = best[np.lexsort((token[best], -values[best], latents[best]))]
    ends = np.searchsorted(latents[best], np.arange(reading.terms.shape[1] + 1))
    return [token[best[start : min(end, start + n)]].tolist() for start, end in pairwise(ends)]


def context_of(reading: Reading, token: int, around: int = _AROUND) -> str:
    """Return a token in brackets with some characters of its text on each side, on one line."""
    number = int(np.searchsorted(reading.offsets, token, side="right")) - 1
    text, (start, end) = reading.texts[number], reading.spans[token].tolist()
    before, after = text[max(0, start - around) : start], text[end : end + around]
    return " ".join(f"{before}[{text[start:end]}]{after}".split())


def agreement(names: list[str], reading: Reading) -> np.ndarray:
    """Return with which AUC each label predicts in which texts its latent fires, float32 [width]; NaN if unmeasured.

    The score of a text is how many different words of the label it has. AUC is the probability that a text with the
    latent has a higher score than one without it, ties counted as half (Mann and Whitney 1947).
    """
    n_texts, width = reading.terms.shape
    words, _, counts = reading.words()
    number_of = {word: number for number, word in enumerate(words)}
    pairs = [(j, number_of[word]) for j, name in enumerate(names) for word in words_of(name) if word in number_of]
    rows, columns = np.array(pairs, np.int64).reshape(-1, 2).T
    has = coo_array((np.ones(len(rows), np.int64), (rows, columns)), shape=(width, len(words))).tocsr()
    present, firing = counts.astype(bool).astype(np.int64).T.tocsr(), reading.firings.astype(bool).T.tocsr()
    result = np.full(width, np.nan, np.float32)
    for first in range(0, width, _CHUNK):
        scores, fires = csr_array(has[first : first + _CHUNK] @ present), firing[first : first + _CHUNK]
        most = int(scores.data.max(initial=0)) + 1
        both = csr_array(scores.multiply(fires))
        of_all, of_firing = (_histogram(matrix, most) for matrix in (scores, both))
        n_firing = np.diff(fires.indptr)
        of_all[:, 0], of_firing[:, 0] = n_texts - of_all.sum(axis=1), n_firing - of_firing.sum(axis=1)
        of_silent = of_all - of_firing
        below = np.cumsum(of_silent, axis=1) - of_silent
        wins = (of_firing * (below + of_silent / 2)).sum(axis=1)
        n_pairs = n_firing * (n_texts - n_firing)
        measured = (np.minimum(n_firing, n_texts - n_firing) >= LEAST_TEXTS) & [
            bool(name) for name in names[first : first + _CHUNK]
        ]
        result[first : first + _CHUNK][measured] = (wins / np.maximum(n_pairs, 1))[measured]
    return result


def _histogram(scores: csr_array, most: int) -> np.ndarray:
    """Count how often each row has each score of 1 to most - 1, int64 [n_rows, most]."""
    rows = np.repeat(np.arange(scores.shape[0]), np.diff(scores.indptr))
    return np.bincount(rows * most + scores.data, minlength=scores.shape[0] * most).reshape(-1, most)
