"""Families of latents: what each latent stands for, where it is strongest, and what each family adds to a ranking.

A lexical latent stands for one word, a narrow one for a few, a broad one for many (31_features).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd
import Stemmer
from scipy.sparse import csr_array

from lib.data.collection import Collection, load_collection
from lib.latent_terms import LatentTerms
from lib.studies.comparison import columns_first, origin_of, summary_of, values_of
from lib.studies.encoded import EncodedCollection, encode_collection
from lib.studies.names import ALL, CONTROL, FAMILIES, MEASURE, ONLY, RARE, WITHOUT
from lib.support.checks import check_count
from lib.support.folders import digest_arrays, digest_json
from lib.support.store import Store

FEW = 5  # how many words a narrow latent may stand for
HALF = 0.5  # the share of a latent that its word, or its few words, must make up
LEAST_PLACES = 10  # a latent that is strong in fewer documents is rare
HALVES = (0.3, HALF, 0.7)  # the limit of the rules, and two others to see how much depends on it


def group_words(tokens: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Return the word of each token of a vocabulary, int64 [n_tokens], and the words.

    Forms of a word are one word: lower case, without WordPiece's "##", stemmed (Snowball English).
    """
    stems = Stemmer.Stemmer("english").stemWords([token.lower().removeprefix("##") for token in tokens])
    words = {stem: number for number, stem in enumerate(dict.fromkeys(stems))}
    return np.array([words[stem] for stem in stems], np.int64), list(words)


def by_word(matrix: csr_array, word_of: np.ndarray, n_words: int) -> csr_array:
    """Sum a latent-by-token matrix over the tokens of each word, float32 [width, n_words]."""
    n_tokens = len(word_of)
    indicator = csr_array((np.ones(n_tokens, np.float32), (np.arange(n_tokens), word_of)), shape=(n_tokens, n_words))
    return csr_array(matrix @ indicator)


def concentration(matrix: csr_array, n: int) -> np.ndarray:
    """Return the share of each row's sum that its `n` largest weights make up, float64 [n_rows]; 0 for an empty row."""
    n = check_count(n, "n")
    shares = np.zeros(matrix.shape[0])
    for row, (start, end) in enumerate(zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True)):
        weights = matrix.data[start:end].astype(np.float64)
        if len(weights):
            largest = np.partition(weights, len(weights) - n)[-n:] if len(weights) > n else weights
            shares[row] = largest.sum() / weights.sum()
    return shares


def families(matrix: csr_array, enough: np.ndarray, half: float = HALF) -> np.ndarray:
    """Sort latents into families by how few words make up a share `half` of them, str [width].

    lexical: one word makes up `half` of the row's sum; narrow: five words do; broad: they do not; rare: there is not
    `enough` evidence, bool [width]. `matrix`, float32 [width, n_words], is any evidence that a latent belongs to a
    word, such as activation or a number of contexts.
    """
    if not 0 < half <= 1:
        raise ValueError(f"half is {half!r}; it must be above 0 and at most 1, such as 0.5.")
    if enough.shape != (matrix.shape[0],):
        raise ValueError(f"enough has shape {enough.shape}; it must be ({matrix.shape[0]},), one for each latent.")
    lexical, narrow = (concentration(matrix, n) >= half for n in (1, FEW))
    return np.select([~enough, lexical, narrow], [RARE, *FAMILIES[:2]], FAMILIES[2])


def strongest(latents: np.ndarray, texts: np.ndarray, values: np.ndarray, n: int) -> np.ndarray:
    """Return the rows of each latent's strongest occurrence in each text, for its `n` strongest texts, int64.

    `latents`, `texts` and `values` are the latent, the text and the activation of each occurrence. In the result
    latents ascend, each one's occurrences are ordered from strong to weak, and of equal ones the first comes first.
    """
    order = np.lexsort((-values, texts, latents))
    starts = np.flatnonzero(np.diff(latents[order], prepend=-1) | np.diff(texts[order], prepend=-1))
    best = order[starts]  # one of each text
    best = best[np.lexsort((-values[best], latents[best]))]
    first = np.flatnonzero(np.diff(latents[best], prepend=-1))
    place = np.arange(len(best)) - np.repeat(first, np.diff(first, append=len(best)))
    return best[place < check_count(n, "n")]


def kappa(first: np.ndarray, second: np.ndarray, n_resamples: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """Return Cohen's kappa of two labellings [n] with its 95 % percentile bootstrap interval over the items.

    kappa = (p_o - p_e) / (1 - p_e): the agreement beyond that of chance, as a share of what chance leaves (Cohen,
    Educational and Psychological Measurement 20, 1960).
    """
    if len(first) != len(second) or not len(first):
        raise ValueError(f"there are {len(first)} and {len(second)} labels; give two for each of at least one item.")
    labels, codes = np.unique(np.concatenate([first, second]), return_inverse=True)
    size = len(labels)
    table = np.bincount(codes[: len(first)] * size + codes[len(first) :], minlength=size**2)
    n_resamples = check_count(n_resamples, "n_resamples")
    draws = np.random.default_rng(seed).multinomial(len(first), table / len(first), n_resamples)
    low, high = np.quantile(_kappa(draws.reshape(-1, size, size)), [0.025, 0.975])
    return float(_kappa(table.reshape(1, size, size))[0]), float(low), float(high)


def _kappa(tables: np.ndarray) -> np.ndarray:
    """Return kappa of each contingency table, [n, size, size]; 1 where all labels are equal."""
    shares = tables / tables.sum(axis=(1, 2), keepdims=True)
    observed = np.trace(shares, axis1=1, axis2=2)
    chance = (shares.sum(axis=1) * shares.sum(axis=2)).sum(axis=1)
    return np.divide(observed - chance, 1 - chance, out=np.ones_like(observed), where=chance < 1)


def strongest_contexts(
    model: LatentTerms, texts: Sequence[str], n: int = 20, store: Store | None = None
) -> dict[str, np.ndarray]:
    """Return where in `texts` each latent is strongest, once a text and in at most `n` texts.

    latents, texts, positions and values [n_places]: the latents ascending, each one's places from strong to weak, a
    place's position among all tokens. token_ids [n_tokens] and offsets [n_texts + 1]: the tokens, end to end.
    """

    def make() -> dict[str, np.ndarray]:
        names, blocks, token_ids, lengths, n_tokens = ("latents", "texts", "positions", "values"), [], [], [], 0
        for block in model.encoder.stream(texts):
            indices, values = (tensor.cpu().numpy() for tensor in model.sae.encode(block.states))
            token, column = np.nonzero(values > 0)
            text = np.repeat(np.arange(len(block.offsets) - 1), np.diff(block.offsets)) + len(lengths)
            columns = indices[token, column], text[token], token + n_tokens, values[token, column]
            rows = strongest(columns[0], columns[1], columns[3], n)
            blocks.append([column[rows] for column in columns])
            token_ids.append(block.token_ids)
            lengths += np.diff(block.offsets).tolist()
            n_tokens += len(block.token_ids)
        columns = dict(zip(names, map(np.concatenate, zip(*blocks, strict=True)), strict=True))
        rows = strongest(columns["latents"], columns["texts"], columns["values"], n)
        arrays = {name: column[rows] for name, column in columns.items()}
        return arrays | {"token_ids": np.concatenate(token_ids), "offsets": np.cumsum([0, *lengths])}

    key = {"model": model.identity, "texts": digest_json(texts), "n": n}
    return (store or Store()).get("strongest-contexts", key, make)


def place_counts(contexts: Mapping[str, np.ndarray], width: int, n_tokens: int) -> csr_array:
    """Count at which tokens each latent is strongest, float32 [width, n_tokens], of `strongest_contexts`."""
    tokens = contexts["token_ids"][contexts["positions"]]
    ones = np.ones(len(tokens), np.float32)
    return csr_array((ones, (contexts["latents"], tokens)), shape=(width, n_tokens))


def contexts_of(
    contexts: Mapping[str, np.ndarray], latent: int, tokens: Sequence[str], n: int, around: int = 5
) -> list[str]:
    """Return the `n` strongest places of a latent as text: the token in brackets, and `around` tokens on each side."""
    start, end = np.searchsorted(contexts["latents"], [latent, latent + 1])
    offsets, shown = contexts["offsets"], []
    for position in contexts["positions"][start : min(end, start + n)]:
        text = int(np.searchsorted(offsets, position, side="right")) - 1
        low = max(offsets[text], position - around)
        high = min(offsets[text + 1], position + around + 1)
        pieces = [tokens[token] for token in contexts["token_ids"][low:high]]
        pieces[position - low] = f"[{pieces[position - low]}]"
        shown.append(" ".join(pieces).replace(" ##", ""))
    return shown


def family_agreement(mass: csr_array, places: csr_array) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Sort the latents by two rules, and measure how far the rules agree.

    `mass`, float32 [width, n_words], is each latent's activation on each word; `places` counts at how many of its
    strongest places, in other texts, each word stands. Return a row a limit of the rules (`half`): n_latents sorted,
    n_rare, the share of each family by both rules (lexical_first, lexical_second, ...), agreement, kappa with its
    interval (low, high), and kappa_lexical for lexical against the rest; and the labels, str [width], at the limit of
    0.5, by mass and by places.
    """
    enough = (places.sum(axis=1) >= LEAST_PLACES) & (mass.sum(axis=1) > 0)
    labels = {half: (families(mass, enough, half), families(places, enough, half)) for half in HALVES}
    rows = []
    for half, (first, second) in labels.items():
        first, second = first[enough], second[enough]
        value, low, high = kappa(first, second)
        row = {"half": half, "n_latents": enough.sum(), "n_rare": (~enough).sum()}
        for family in FAMILIES:
            row |= {f"{family}_first": (first == family).mean(), f"{family}_second": (second == family).mean()}
        row |= {"agreement": (first == second).mean(), "kappa": value, "low": low, "high": high}
        rows.append(row | {"kappa_lexical": kappa(first == FAMILIES[0], second == FAMILIES[0])[0]})
    return pd.DataFrame(rows), *labels[HALF]


def family_study(
    model: LatentTerms, names: Iterable[str], labels: np.ndarray, store: Store | None = None
) -> tuple[pd.DataFrame, dict]:
    """Measure what each family of latents contributes: rank with that family only, without it, and without others.

    `labels`, str [width], are those of `families`. Return a row a collection and system: family ("all" for all), kind
    ("all", "only", "without", or "without as many": a control, without as many latents of the other families, drawn
    with seed 0, or all of theirs if they are fewer), n_latents kept, postings_share, and nDCG@10 as `summarise` gives
    it against all latents; and what the provenance states.
    """
    store, tables, collections = store or Store(), [], [load_collection(name) for name in names]
    rng, masks = np.random.default_rng(0), {(ALL, ALL): np.ones(len(labels), bool)}
    for family in FAMILIES:
        members = labels == family
        others = np.flatnonzero(~members & (labels != RARE))
        control = np.ones(len(labels), bool)
        control[rng.permutation(others)[: members.sum()]] = False
        masks |= {(ONLY, family): members, (WITHOUT, family): ~members, (CONTROL, family): control}
    for collection in collections:
        encoded = encode_collection(model, collection, store)
        results = {system: _with_latents(model, collection, encoded, mask, store) for system, mask in masks.items()}
        values = {str(system): result["values"] for system, result in results.items()}
        table = summary_of(values, str((ALL, ALL))).drop(columns="system")
        table[["kind", "family"]] = list(masks)
        table["n_latents"] = [mask.sum() for mask in masks.values()]
        table["postings_share"] = [result["postings"].item() / encoded.doc_terms.nnz for result in results.values()]
        tables.append(table.assign(collection=collection.full_name))
    table = pd.concat(tables, ignore_index=True)
    table = columns_first(table, "collection", "family", "kind", "n_latents", "postings_share")
    return table, origin_of(model, collections)


def _with_latents(
    model: LatentTerms, collection: Collection, encoded: EncodedCollection, mask: np.ndarray, store: Store
) -> dict[str, np.ndarray]:
    """Return nDCG@10 of each query and the number of postings if only the latents of a mask are indexed."""

    def make() -> dict[str, np.ndarray]:
        columns = np.flatnonzero(mask)
        docs, queries = csr_array(encoded.doc_terms[:, columns]), csr_array(encoded.query_terms[:, columns])
        ranking = model.index(docs, collection.doc_ids).search(queries, collection.query_ids, 11)
        return {"values": values_of(ranking, collection)[0], "postings": np.array(docs.nnz)}

    key = {"model": model.identity, "bm25": asdict(model.bm25), "collection": collection.identity}
    return store.get("family", key | {"kept": digest_arrays({"kept": mask}), "measure": MEASURE}, make)
