"""The families of a model's latents: where each latent is strongest, and what each family adds to a ranking."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd
from scipy.sparse import coo_array, csr_array

from lib.data.collection import Collection, load_collection
from lib.latent_terms import LatentTerms
from lib.studies.encoded import EncodedCollection, encode_collection
from lib.studies.families import FAMILIES, HALF, UNSEEN, families, kappa, strongest
from lib.studies.model import MEASURE, origin_of, summary_of, values_of
from lib.support.folders import digest_arrays, digest_json
from lib.support.store import Store

LEAST_PLACES = 10  # a latent that is strong in fewer documents is rare
HALVES = (0.3, HALF, 0.7)  # the rules' limit, and two others to see how much hangs on it


def strongest_contexts(
    model: LatentTerms, texts: Sequence[str], n: int = 20, store: Store | None = None
) -> dict[str, np.ndarray]:
    """Return where in `texts` each latent is strongest, once a text and in at most `n` texts.

    Returns
    -------
    dict of np.ndarray
        latents, texts, positions and values [n_places]: the latents ascending, each one's places from strong to weak,
        a place's position among all tokens. token_ids [n_tokens] and offsets [n_texts + 1]: the tokens, end to end.
    """

    def make() -> dict[str, np.ndarray]:
        found = {"latents": [], "texts": [], "positions": [], "values": []}
        token_ids, lengths, n_tokens = [], [], 0
        for block in model.encoder.stream(texts):
            indices, values = (tensor.cpu().numpy() for tensor in model.sae.encode(block.states))
            token, place = np.nonzero(values > 0)
            text = np.repeat(np.arange(len(block.offsets) - 1), np.diff(block.offsets)) + len(lengths)
            own = (indices[token, place], text[token], token + n_tokens, values[token, place])
            keep = strongest(own[0], own[1], own[3], n)
            for column, array in zip(found.values(), own, strict=True):
                column.append(array[keep])
            token_ids.append(block.token_ids)
            lengths += np.diff(block.offsets).tolist()
            n_tokens += len(block.token_ids)
        arrays = {name: np.concatenate(parts) for name, parts in found.items()}
        keep = strongest(arrays["latents"], arrays["texts"], arrays["values"], n)
        arrays = {name: array[keep] for name, array in arrays.items()}
        return arrays | {"token_ids": np.concatenate(token_ids), "offsets": np.cumsum([0, *lengths])}

    key = {"model": model.identity, "texts": digest_json(texts), "n": n}
    return (store or Store()).get("strongest-contexts", key, make)


def place_counts(contexts: Mapping[str, np.ndarray], width: int, n_tokens: int) -> csr_array:
    """Count at which tokens each latent is strongest, float32 [width, n_tokens], of `strongest_contexts`."""
    tokens = contexts["token_ids"][contexts["positions"]]
    ones = np.ones(len(tokens), np.float32)
    return coo_array((ones, (contexts["latents"], tokens)), shape=(width, n_tokens)).tocsr()


def contexts_of(
    contexts: Mapping[str, np.ndarray], latent: int, tokens: Sequence[str], n: int, around: int = 5
) -> list[str]:
    """Return the `n` strongest places of a latent as text, `around` tokens to each side, the token itself in brackets.

    Parameters
    ----------
    contexts : mapping
        As `strongest_contexts` returns it.
    latent : int
    tokens : sequence of str
        The tokenizer's vocabulary, in order of its ids.
    n, around : int
    """
    start, end = np.searchsorted(contexts["latents"], [latent, latent + 1])
    shown = []
    for position in contexts["positions"][start : min(end, start + n)]:
        text = int(np.searchsorted(contexts["offsets"], position, side="right")) - 1
        low, high = (
            max(contexts["offsets"][text], position - around),
            min(contexts["offsets"][text + 1], position + around + 1),
        )
        pieces = [tokens[token] for token in contexts["token_ids"][low:high]]
        pieces[position - low] = f"[{pieces[position - low]}]"
        shown.append(" ".join(pieces).replace(" ##", ""))
    return shown


def family_agreement(mass: csr_array, places: csr_array) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Sort the latents by two rules, and say how far they agree.

    Parameters
    ----------
    mass : csr_array, float32 [width, n_words]
        Each latent's activation on each word.
    places : csr_array, float32 [width, n_words]
        At how many of its strongest places each word stands, in other texts.

    Returns
    -------
    DataFrame
        One row a limit of the rules (`half`): n_latents sorted, n_rare, the share of each family by both rules
        (lexical_first, lexical_second, ...), agreement, kappa with its interval (low, high), and kappa_lexical for
        lexical against the rest.
    np.ndarray, np.ndarray, str [width]
        The labels at the limit of 0.5, by mass and by places.
    """
    seen = (places.sum(axis=1) >= LEAST_PLACES) & (mass.sum(axis=1) > 0)
    rows, labels = [], {half: (families(mass, seen, half), families(places, seen, half)) for half in HALVES}
    for half, (first, second) in labels.items():
        first, second = first[seen], second[seen]
        value, low, high = kappa(first, second)
        row = {"half": half, "n_latents": seen.sum(), "n_rare": (~seen).sum()}
        for family in FAMILIES:
            row |= {f"{family}_first": (first == family).mean(), f"{family}_second": (second == family).mean()}
        row |= {"agreement": (first == second).mean(), "kappa": value, "low": low, "high": high}
        rows.append(row | {"kappa_lexical": kappa(first == "lexical", second == "lexical")[0]})
    return pd.DataFrame(rows), *labels[HALF]


def family_study(
    model: LatentTerms, names: Iterable[str], labels: np.ndarray, store: Store | None = None
) -> tuple[pd.DataFrame, dict]:
    """Measure what each family of latents contributes: rank with that family only, without it, and without others.

    Parameters
    ----------
    labels : np.ndarray, str [width]
        As `families.families` gives them.

    Returns
    -------
    DataFrame
        One row a collection and system: family ("all" for the whole), kind ("all", "only", "without", or "without as
        many": a control, without as many latents of the other families, drawn with seed 0, or all of theirs if they are
        fewer), n_latents kept, nDCG@10 as `summarise` gives it against all latents, and postings_share.
    dict
        What its provenance should state.
    """
    store, tables, collections = store or Store(), [], [load_collection(name) for name in names]
    kept = _family_masks(labels)
    for collection in collections:
        encoded = encode_collection(model, collection, store)
        key = {"model": model.identity, "bm25": asdict(model.bm25), "collection": collection.identity}
        values, shares = {}, []
        for name, mask in kept.items():
            arrays = store.get(
                "family",
                key | {"kept": digest_arrays({"kept": mask}), "measure": MEASURE},
                lambda mask=mask, collection=collection, encoded=encoded: _with_latents(
                    model, collection, encoded, mask
                ),
            )
            values[" ".join(name)] = arrays["values"]
            shares.append(arrays["postings"].item() / encoded.doc_terms.nnz)
        table = summary_of(values, "all all").drop(columns="system")
        table[["kind", "family"]] = list(kept)
        table["n_latents"] = [mask.sum() for mask in kept.values()]
        tables.append(table.assign(postings_share=shares, collection=collection.full_name))
    first = ["collection", "family", "kind", "n_latents", "postings_share"]
    table = pd.concat(tables, ignore_index=True)
    return table[[*first, *table.columns.drop(first)]], origin_of(model, collections)


def _family_masks(labels: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
    """Return which latents each system keeps, bool [width], under (kind, family)."""
    rng, masks = np.random.default_rng(0), {("all", "all"): np.ones(len(labels), bool)}
    for family in FAMILIES:
        own = labels == family
        masks[("only", family)], masks[("without", family)] = own, ~own
        others = np.flatnonzero(~own & (labels != UNSEEN))
        masks[("without as many", family)] = np.ones(len(labels), bool)
        masks[("without as many", family)][rng.permutation(others)[: own.sum()]] = False
    return masks


def _with_latents(
    model: LatentTerms, collection: Collection, encoded: EncodedCollection, mask: np.ndarray
) -> dict[str, np.ndarray]:
    columns = np.flatnonzero(mask)
    docs, queries = csr_array(encoded.doc_terms[:, columns]), csr_array(encoded.query_terms[:, columns])
    ranking = model.index(docs, collection.doc_ids).search(queries, collection.query_ids, 11)
    (values,) = values_of(ranking, collection, [MEASURE])
    return {"values": values, "postings": np.array(docs.nnz)}
