"""Many variants of latent terms at once: autoencoders from one pass over a text, matrices from one over a collection.

A *variant* is a retriever at a layer, an autoencoder trained on its states, a pooling, a phi and a scoring. What two
variants have in common is computed once and kept in the store under a key of everything that decides it.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
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
from lib.encode.states import StateSource, StoredStates, cache_states
from lib.evaluation.baselines import LexicalBM25, inner_product_search
from lib.evaluation.measures import per_query, summarise
from lib.sae.autoencoder import SparseAutoencoder, join
from lib.sae.boosting import Residuals
from lib.sae.checkpoints import Checkpoints
from lib.sae.trainer import train
from lib.sae.training import TrainingConfig
from lib.studies.comparison import check_collections, columns_first
from lib.studies.encoded import Pooled, Terms, any_layer, grouped, pooled_terms
from lib.studies.inputs import LONG_TEXTS, Setting
from lib.studies.names import LEXICAL, MEASURE
from lib.support.devices import native_dtype, training_device
from lib.support.store import Store

CUTOFF = 10
STORED = "bfloat16"  # what training states are kept in
RULE = 1  # to be raised when `train` gives other weights than before for the same configuration
SPLARE = {"pooling": "max", "phi": "log1p", "scoring": None}  # the readout of SPLARE, as fields of `Variant`

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """An autoencoder trained with `config` on the first `tokens` states of a text, at the layer of its encoder.

    The text is any iterable of str that can be read again and has an `identity`. The encoder reads it in the machine's
    own dtype, and the states are kept in bfloat16. With recipes in `after`, it is trained on what their autoencoders,
    one after the other, leave of the states (`lib.sae.boosting`).
    """

    encoder: TokenEncoder
    corpus: Iterable[str]
    tokens: int
    config: TrainingConfig
    after: tuple["Recipe", ...] = ()

    @property
    def key(self) -> dict:
        """Everything that decides the autoencoder on one machine, JSON-able."""
        encoder = self.encoder.identity | {"dtype": native_dtype(self.encoder.device)}
        states = {"encoder": encoder, "corpus": self.corpus.identity, "tokens": self.tokens}
        config = replace(self.config, dead_tokens=self.config.dead_window(self.tokens)).resolved(training_device())
        after = {"after": [recipe.key for recipe in self.after]} if self.after else {}
        return states | after | {"rule": RULE, "stored": STORED, "config": asdict(config)}


@dataclass(frozen=True)
class Variant:
    """One way to search: w(text) = phi(pool_t z_t), ranked by BM25 or by the inner product of documents and queries.

    Latent Terms (arXiv 2605.29384) is sum, sqrt and BM25; SPLARE (arXiv 2603.13277) is max, log1p and no BM25, since
    log(1 + max_t z_t) = max_t log(1 + z_t). Without `scoring` it is the inner product. Latents of recipes in `joined`
    stand beside those of the first (`autoencoder.join`) and share its k, unless `combine` makes one autoencoder of all.
    `reader`, such as the same encoder in another
    dtype, reads the collection instead of the recipe's encoder. `labels` are columns of the summary.
    """

    recipe: Recipe
    joined: tuple[Recipe, ...] = ()
    combine: Callable[[Sequence[SparseAutoencoder]], SparseAutoencoder] | None = None
    pooling: str = "sum"
    phi: str = "sqrt"
    scoring: BM25Constants | None = PAPER
    reader: TokenEncoder | None = None
    labels: dict = field(default_factory=dict)

    def made_of(self, parts: Sequence[SparseAutoencoder]) -> SparseAutoencoder:
        """Return its autoencoder out of those of its recipes."""
        if self.combine is not None:
            return self.combine(parts)
        return parts[0] if len(parts) == 1 else join(parts).with_k(parts[0].k)

    def reading(self, sae: SparseAutoencoder) -> Terms:
        """Return what is read of a collection, with its autoencoder."""
        return Terms(self.reader or self.recipe.encoder, sae, self.pooling)


class Swept(NamedTuple):
    """The results of a sweep: a summary, nDCG@10 of each query, and by variant or (collection, variant) what led there.

    The summary has one row per collection and variant: n_docs, n_queries; its labels; nDCG@10 as mean, with its 95 %
    bootstrap interval over queries (low, high); against the baseline difference, difference_low, difference_high, p
    (two-sided paired randomisation) and p_holm (Holm's correction over the variants); and of the documents fvu,
    latents_per_doc, used (share of the latents that occur). `values` has the columns collection and query_id and one
    per variant; `rankings` are the ten best documents of each query, without its own (ArguAna); `documents` and
    `queries` are pooled codes.
    """

    summary: pd.DataFrame
    values: pd.DataFrame
    rankings: dict[tuple[str, str], Ranking]
    autoencoders: dict[str, SparseAutoencoder]
    documents: dict[tuple[str, str], Pooled]
    queries: dict[tuple[str, str], Pooled]


def sweep(
    variants: Mapping[str, Variant],
    baseline: str,
    collections: Iterable[Collection],
    store: Store | None = None,
    words: bool = False,
) -> Swept:
    """Train what is not trained yet, read each collection once for all variants of a retriever, rank and compare.

    The others are compared with the variant called `baseline`, with `words` lexical BM25 as well. Raises ValueError,
    before anything is computed, for a baseline that is not one of several variants, and as `check_collections`.
    """
    store, collections = store or Store(), check_collections(list(collections))
    if baseline not in variants or len(variants) < 2:
        raise ValueError(f"The baseline is {baseline!r}, the variants are {list(variants)}; name one of at least two.")
    saes = autoencoders_of(variants, store)
    readings = [variant.reading(saes[name]) for name, variant in variants.items()]
    summary, values, rankings, documents, queries = [], [], {}, {}, {}
    for collection in collections:
        name = collection.full_name
        keys, ranked, facts = [(name, variant) for variant in variants], {}, {}
        documents |= zip(keys, pooled_terms(readings, collection, "document", store), strict=True)
        queries |= zip(keys, pooled_terms(readings, collection, "query", store), strict=True)
        for key, (variant, settings) in zip(keys, variants.items(), strict=True):
            ranked[variant] = _rank(collection, documents[key].terms, queries[key].terms, settings)
            terms, used = documents[key].terms, (documents[key].firings > 0).mean()
            measured = {"fvu": documents[key].fvu, "latents_per_doc": terms.nnz / terms.shape[0], "used": used}
            facts[variant] = settings.labels | measured
        if words:
            index = LexicalBM25(collection.doc_texts, collection.doc_ids)
            ranked[LEXICAL] = index.search(collection.query_texts, collection.query_ids, CUTOFF + 1)
        ranked = {variant: run.exclude(collection.self_matches).top(CUTOFF) for variant, run in ranked.items()}
        frames = {variant: per_query(ranking, collection.qrels, [MEASURE]) for variant, ranking in ranked.items()}
        counts = {"collection": name, "n_docs": len(collection.doc_ids), "n_queries": len(collection.query_ids)}
        compared = summarise(frames, baseline, MEASURE).rename(columns={"system": "variant"})
        summary.append(compared.join(pd.DataFrame.from_dict(facts, "index"), on="variant").assign(**counts))
        values += [frame.assign(variant=variant, collection=name) for variant, frame in frames.items()]
        rankings |= {(name, variant): ranking for variant, ranking in ranked.items()}
    labels = dict.fromkeys(label for variant in variants.values() for label in variant.labels)
    first = ("collection", "n_docs", "n_queries", "variant", *labels)
    table = columns_first(pd.concat(summary, ignore_index=True), *first)
    wide = pd.concat(values).pivot(index=["collection", "query_id"], columns="variant", values="value")
    return Swept(table, wide.reset_index(), rankings, saes, documents, queries)


def study_recipe(setting: Setting, encoder: TokenEncoder | None = None, **changes) -> Recipe:
    """Return the recipe that a study varies; `changes` are fields of its `TrainingConfig`."""
    config = replace(setting.config, **changes)
    return Recipe(encoder or setting.encoder, setting.corpus, setting.size.tokens, config)


def autoencoders_of(variants: Mapping[str, Variant], store: Store) -> dict[str, SparseAutoencoder]:
    """Return the autoencoder of each variant, made of several parts where it combines them."""
    recipes = {name: (variant.recipe, *variant.joined) for name, variant in variants.items()}
    trained = iter(autoencoders([recipe for group in recipes.values() for recipe in group], store))
    parts = {name: [next(trained) for _ in group] for name, group in recipes.items()}
    return {name: variant.made_of(parts[name]) for name, variant in variants.items()}


def autoencoders(recipes: Iterable[Recipe], store: Store) -> list[SparseAutoencoder]:
    """Return the autoencoder of each recipe, trained if it is not in the store.

    Recipes of one retriever and text share a pass over the text, whatever their layers; each then reads the states
    that the pass left on disk. A killed call continues where it was when it is made again.
    """
    recipes = list(recipes)
    for group in grouped(recipes, lambda recipe: [any_layer(recipe.encoder), recipe.corpus.identity]):
        _train_missing(group, store)
    folders = [store.path("sae", recipe.key) for recipe in recipes]
    loaded = {folder: SparseAutoencoder.load(folder) for folder in set(folders)}
    return [loaded[folder] for folder in folders]


def _train_missing(recipes: list[Recipe], store: Store) -> None:
    """Train, of recipes of one retriever and text, those that are not in the store."""
    missing = {folder: r for r in recipes if not is_trained(folder := store.path("sae", r.key))}
    if not missing:
        return
    first, layers = recipes[0], {recipe.encoder.layer for recipe in missing.values()}
    most = max(recipe.tokens for recipe in recipes)
    native = native_dtype(first.encoder.device)
    encoder = first.encoder if first.encoder.dtype == native else first.encoder.replace(dtype=native)
    settings = {"max_tokens": most, "dtype": STORED, "long_texts": LONG_TEXTS}
    states = cache_states(store.folder, encoder, first.corpus, layers, **settings)
    for number, recipe in enumerate(missing.values(), 1):
        layer, config = recipe.encoder.layer, recipe.config
        n = min(recipe.tokens, states[layer].n)
        stored, identity = states[layer], {**states[layer].identity, "tokens": n}
        source: StateSource = StoredStates(stored.read(0, n), identity, stored.lengths)
        for sae in autoencoders(recipe.after, store):
            source = Residuals(source, sae)
        text = "Autoencoder %d of %d: layer %d, width %d, k %d, seed %d, %d states"
        log.info(text, number, len(missing), layer, config.width, config.k, config.seed, source.n)
        store.make("sae", recipe.key, is_trained, partial(_train_in, source, config))


def is_trained(folder: Path) -> bool:
    """Whether a folder is there and has an autoencoder."""
    return (folder / "sae.json").is_file()


def _train_in(source: StateSource, config: TrainingConfig, folder: Path) -> None:
    """Train an autoencoder into a folder; a run that was killed there goes on."""
    with Checkpoints(folder / "checkpoints") as checkpoints:
        train(source, config, checkpoints=checkpoints).save(folder)
        checkpoints.remove()


def _rank(collection: Collection, doc_terms: csr_array, query_terms: csr_array, variant: Variant) -> Ranking:
    docs, queries = (apply_phi(terms, variant.phi) for terms in (doc_terms, query_terms))
    if variant.scoring is None:
        return inner_product_search(docs, collection.doc_ids, queries, collection.query_ids, CUTOFF + 1)
    index = BM25Index.build(docs, collection.doc_ids, variant.scoring)
    return index.search(queries, collection.query_ids, CUTOFF + 1)
