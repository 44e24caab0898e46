"""Many variants of latent terms at once: autoencoders from one pass over a text, matrices from one over a collection.

A *variant* is a retriever at a layer, an autoencoder trained on its states, a pooling, a phi and a scoring. Whatever
two variants have in common is computed once and kept in the store under a key of everything that decides it.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from scipy.sparse import csr_array

from lib.bm25.index import BM25Index
from lib.bm25.pooling import apply_phi
from lib.bm25.ranking import Ranking
from lib.bm25.weighting import PAPER, BM25Constants
from lib.data.collection import Collection
from lib.encode.encoder import TokenEncoder
from lib.encode.states import StoredStates, cache_states
from lib.evaluation.baselines import LexicalBM25, inner_product_search
from lib.evaluation.measures import per_query, summarise
from lib.latent_terms import like
from lib.sae.autoencoder import SparseAutoencoder, join
from lib.sae.checkpoints import Checkpoints
from lib.sae.trainer import train
from lib.sae.training import TrainingConfig
from lib.studies.encoded import Pooled, Terms, any_layer, grouped, pooled_terms
from lib.studies.inputs import Setting
from lib.support.devices import native_dtype, training_device
from lib.support.folders import digest_json
from lib.support.store import Store

LEXICAL = "lexical BM25"
MEASURE, CUTOFF = "nDCG@10", 10
STORED = "bfloat16"  # what training states are kept in
RULE = 2  # to be raised when `train` gives other weights than before for the same configuration


@dataclass(frozen=True)
class Recipe:
    """How an autoencoder is made.

    Attributes
    ----------
    encoder : TokenEncoder
        It reads the text, at its layer, in the machine's own dtype: states are kept in bfloat16 all the same.
    corpus : LocalText, StreamedText, GivenText, or any iterable of str that can be read again and has an `identity`
    tokens : int
        Distinct token states to train on, the first of the text; all if there are fewer.
    config : TrainingConfig
    """

    encoder: TokenEncoder
    corpus: Iterable[str]
    tokens: int
    config: TrainingConfig

    @property
    def key(self) -> dict:
        """Everything that decides the autoencoder on one machine, JSON-able."""
        encoder = self.encoder.identity | {"dtype": native_dtype(self.encoder.device)}
        states = {"encoder": encoder, "corpus": self.corpus.identity, "tokens": self.tokens}
        return states | {"rule": RULE, "stored": STORED, "config": asdict(self.config.resolved(training_device()))}


@dataclass(frozen=True)
class Variant:
    """One way to search: w(text) = phi(pool_t z_t), ranked by BM25 or by the inner product of documents and queries.

    Latent Terms (arXiv 2605.29384) is sum, sqrt and BM25; SPLARE (arXiv 2603.13277) is max, log1p and no BM25, since
    log(1 + max_t z_t) = max_t log(1 + z_t).

    Attributes
    ----------
    recipe : Recipe
    joined : tuple of Recipe
        Of autoencoders whose latents stand beside its own (`sae.join`); a token's k of `recipe` are divided among them.
    pooling, phi : str
        As in `lib.bm25.pooling`.
    scoring : BM25Constants, optional
        None is the inner product.
    reader : TokenEncoder, optional
        Reads the collection in the place of the recipe's encoder, such as the same one in another dtype.
    """

    recipe: Recipe
    joined: tuple[Recipe, ...] = ()
    pooling: str = "sum"
    phi: str = "sqrt"
    scoring: BM25Constants | None = PAPER
    reader: TokenEncoder | None = None


class Swept(NamedTuple):
    """What a sweep gives.

    Attributes
    ----------
    summary : DataFrame
        One row a collection and variant: n_docs, n_queries; nDCG@10 as mean, with its 95 % bootstrap interval over
        queries (low, high); against the baseline difference, difference_low, difference_high, p (two-sided paired
        randomisation) and p_holm (Holm's correction over the variants); and of the documents fvu, latents_per_doc,
        used (share of the latents that occur).
    values : DataFrame
        nDCG@10 of each query: collection, query_id, and a column a variant.
    rankings : dict
        By (collection, variant): the ten best documents of each query.
    autoencoders : dict
        By variant.
    documents : dict
        By (collection, variant): `Pooled`.
    """

    summary: pd.DataFrame
    values: pd.DataFrame
    rankings: dict[tuple[str, str], Ranking]
    autoencoders: dict[str, SparseAutoencoder]
    documents: dict[tuple[str, str], Pooled]


def nothing_else(collection: Collection) -> dict[str, Ranking]:
    """Return no other system."""
    return {}


def sweep(
    variants: Mapping[str, Variant],
    baseline: str,
    collections: Iterable[Collection],
    store: Store | None = None,
    others: Callable[[Collection], dict[str, Ranking]] = nothing_else,
) -> Swept:
    """Train what is not trained yet, read each collection once for all variants of a retriever, rank and compare.

    Parameters
    ----------
    variants : mapping of str to Variant
    baseline : str
        The one that the others are compared with.
    collections : iterable of Collection
    store : Store, optional
    others : callable
        Of a collection, the rankings of systems that are compared like the variants but have no autoencoder.

    Raises
    ------
    ValueError
        Before anything is computed: for a baseline that is not among the variants or is the only one, and for a
        collection with a single query.
    """
    store, collections = store or Store(), list(collections)
    if baseline not in variants or len(variants) < 2:
        raise ValueError(
            f"The baseline is {baseline!r}, the variants are {list(variants)}; name one of at least two of them."
        )
    for collection in collections:
        if len(collection.query_ids) < 2:
            raise ValueError(f"{collection.full_name} has one judged query; comparing variants takes at least two.")
    saes = _made(variants, store)
    readings = [Terms(v.reader or v.recipe.encoder, saes[name], v.pooling) for name, v in variants.items()]
    summary, values, rankings, documents = [], [], {}, {}
    for collection in collections:
        name = collection.full_name
        docs = pooled_terms(readings, collection, "document", store)
        queries = pooled_terms(readings, collection, "query", store)
        sides = zip(variants, docs, queries, strict=True)
        own = {variant: rank(collection, d.terms, q.terms, variants[variant]) for variant, d, q in sides}
        own |= others(collection)
        frames = {variant: per_query(ranking, collection.qrels, [MEASURE]) for variant, ranking in own.items()}
        seen = dict(zip(variants, docs, strict=True))
        summary.append(
            summarise(frames, baseline, MEASURE)
            .rename(columns={"system": "variant"})
            .join(_facts(seen), on="variant")
            .assign(**_counts(collection))
        )
        values += [frame.assign(variant=variant, collection=name) for variant, frame in frames.items()]
        rankings |= {(name, variant): ranking for variant, ranking in own.items()}
        documents |= {(name, variant): pooled for variant, pooled in seen.items()}
    table = pd.concat(summary, ignore_index=True)
    first = ["collection", "n_docs", "n_queries", "variant"]
    wide = pd.concat(values).pivot(index=["collection", "query_id"], columns="variant", values="value")
    return Swept(table[[*first, *table.columns.drop(first)]], wide.reset_index(), rankings, saes, documents)


def study_recipe(setting: Setting, encoder: TokenEncoder | None = None, **changes) -> Recipe:
    """Return the recipe that a study varies; `changes` are fields of its `TrainingConfig`."""
    config = replace(setting.config, **changes)
    return Recipe(encoder or setting.encoder, setting.corpus, setting.size.tokens, config)


def with_labels(swept: Swept, labels: dict[str, dict]) -> Swept:
    """Put what each variant is into the summary, as columns behind its name."""
    frame = pd.DataFrame.from_dict(labels, orient="index")
    summary = swept.summary.join(frame, on="variant")
    at = list(summary.columns).index("variant") + 1
    columns = list(summary.columns.drop(frame.columns))
    return swept._replace(summary=summary[[*columns[:at], *frame.columns, *columns[at:]]])


def lexical(collection: Collection) -> dict[str, Ranking]:
    """Return the ten best documents of lexical BM25 for each query, under its name."""
    index = LexicalBM25(collection.doc_texts, collection.doc_ids)
    ranking = index.search(collection.query_texts, collection.query_ids, CUTOFF + 1)
    return {LEXICAL: ranking.exclude(collection.self_matches).top(CUTOFF)}


def _made(variants: Mapping[str, Variant], store: Store) -> dict[str, SparseAutoencoder]:
    """Return the autoencoder of each variant, of several parts where it joins them."""
    recipes = {name: (variant.recipe, *variant.joined) for name, variant in variants.items()}
    parts = iter(autoencoders([recipe for own in recipes.values() for recipe in own], store))
    made = {name: [next(parts) for _ in own] for name, own in recipes.items()}
    return {name: own[0] if len(own) == 1 else join(own).with_k(own[0].k) for name, own in made.items()}


def autoencoders(recipes: Iterable[Recipe], store: Store) -> list[SparseAutoencoder]:
    """Return the autoencoder of each recipe, trained if it is not in the store.

    Recipes of one retriever and text share a pass over the text, whatever their layers; each then reads the states
    that the pass left on disk. A killed call goes on where it was when it is made again.
    """
    recipes = list(recipes)
    for group in grouped(recipes, lambda recipe: [any_layer(recipe.encoder), recipe.corpus.identity]):
        _train_missing(group, store)
    folders = [_folder(recipe, store) for recipe in recipes]
    loaded = {folder: SparseAutoencoder.load(folder) for folder in set(folders)}
    return [loaded[folder] for folder in folders]


def _folder(recipe: Recipe, store: Store) -> Path:
    return store.folder / f"sae-{digest_json(recipe.key)[:16]}"


def _train_missing(recipes: list[Recipe], store: Store) -> None:
    """Train, of recipes of one retriever and text, those that are not in the store."""
    missing = {folder: r for r in recipes if not ((folder := _folder(r, store)) / "sae.json").exists()}
    if not missing:
        return
    first, layers = recipes[0], {recipe.encoder.layer for recipe in missing.values()}
    most = max(recipe.tokens for recipe in recipes)
    native = native_dtype(first.encoder.device)
    encoder = first.encoder if first.encoder.dtype == native else like(first.encoder, dtype=native)
    states = cache_states(store.folder, encoder, first.corpus, layers, max_tokens=most, dtype=STORED)
    for number, (folder, recipe) in enumerate(missing.items(), 1):
        layer, config = recipe.encoder.layer, recipe.config
        source = first_states(states[layer], recipe.tokens)
        what = f"layer {layer}, width {config.width:,}, k {config.k}, seed {config.seed}, {source.n:,} states"
        print(f"Autoencoder {number} of {len(missing)}: {what}", flush=True)
        with Checkpoints(folder / "checkpoints") as kept:
            train(source, config, checkpoints=kept).save(folder)
            kept.remove()


def first_states(states: StoredStates, n: int) -> StoredStates:
    """Return the first `n` of these states, or all if there are fewer; nothing is copied."""
    n = min(n, states.n)
    return StoredStates(states.read(0, n), {**states.identity, "tokens": n})


def rank(collection: Collection, doc_terms: csr_array, query_terms: csr_array, variant: Variant) -> Ranking:
    """Return the ten best documents of each query; a query's own document (ArguAna) is left out."""
    docs, queries = (apply_phi(terms, variant.phi) for terms in (doc_terms, query_terms))
    if variant.scoring is None:
        ranking = inner_product_search(docs, collection.doc_ids, queries, collection.query_ids, CUTOFF + 1)
    else:
        index = BM25Index.build(docs, collection.doc_ids, variant.scoring)
        ranking = index.search(queries, collection.query_ids, CUTOFF + 1)
    return ranking.exclude(collection.self_matches).top(CUTOFF)


def _counts(collection: Collection) -> dict:
    counts = {"n_docs": len(collection.doc_ids), "n_queries": len(collection.query_ids)}
    return {"collection": collection.full_name} | counts


def _facts(documents: dict[str, Pooled]) -> pd.DataFrame:
    rows = {
        name: {
            "fvu": pooled.fvu,
            "latents_per_doc": pooled.terms.nnz / pooled.terms.shape[0],
            "used": float((pooled.firings > 0).mean()),
        }
        for name, pooled in documents.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")
