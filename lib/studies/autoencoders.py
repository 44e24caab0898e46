"""The studies that train autoencoders, each from a `Setting` to frames: layers, widths and k, ablations, seeds."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import product

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_array

from lib.bm25.pooling import apply_phi, check_weights
from lib.bm25.ranking import Ranking
from lib.bm25.weighting import PAPER, BM25Constants
from lib.data.collection import Collection
from lib.encode.encoder import TokenEncoder
from lib.evaluate.baselines import LexicalBM25
from lib.evaluate.measures import bootstrap_interval
from lib.evaluate.tuning import B_GRID, K1_GRID, ndcg_on_grid
from lib.inspect.vocabulary import LEAST_TAIL
from lib.latent_terms import like
from lib.studies.agreement import ranking_agreement, recurrence
from lib.studies.inputs import Setting, count_tokens, plain_language_model, shuffled, training_text, untrained
from lib.studies.model import stored_fit
from lib.studies.readings import Reading, pooled_terms
from lib.studies.sweeps import CUTOFF, Recipe, Swept, Variant, sweep
from lib.support.store import Store

LATENT, SPLADE = "latent terms", "SPLADE-style"
BASELINE = "baseline"
LEXICAL = "lexical BM25"
JOINED = (2, 4)  # seeds, as far as there are so many and they divide k
N_REFITS = 100  # for the interval of an exponent
N_READ = 500  # documents in which the latents of each token are counted


def _recipe(setting: Setting, encoder: TokenEncoder | None = None, **changes) -> Recipe:
    """Return the recipe that a study varies; `changes` are fields of its `TrainingConfig`."""
    config = replace(setting.config, **changes)
    return Recipe(encoder or setting.encoder, setting.corpus, setting.size.tokens, config)


def _labelled(swept: Swept, labels: dict[str, dict]) -> Swept:
    """Put what each variant is into the summary, as columns behind its name."""
    frame = pd.DataFrame.from_dict(labels, orient="index")
    summary = swept.summary.join(frame, on="variant")
    at = list(summary.columns).index("variant") + 1
    columns = list(summary.columns.drop(frame.columns))
    return swept._replace(summary=summary[[*columns[:at], *frame.columns, *columns[at:]]])


def layers(setting: Setting, store: Store | None = None) -> Swept:
    """Read every layer twice: as latent terms (sum, sqrt, BM25) and as SPLARE does (max, log1p, inner product).

    The baseline is the final layer as latent terms. The summary's columns beyond `Swept` are layer and readout, and
    behind the others Zipf's exponent of how often latents fire in the documents, with its 95 % interval: exponent,
    exponent_low, exponent_high, empty where too few latents occur for `fit_zipf`.
    """
    readouts = {LATENT: {}, SPLADE: {"pooling": "max", "phi": "log1p", "scoring": None}}
    variants, labels = {}, {}
    for layer in setting.size.layers:
        recipe = _recipe(setting, setting.encoder.at(layer))
        for readout, how in readouts.items():
            name = f"{readout}, layer {layer}"
            variants[name] = Variant(recipe, **how)
            labels[name] = {"layer": layer, "readout": readout}
    baseline = f"{LATENT}, layer {setting.encoder.layer}"
    swept = _labelled(sweep(variants, baseline, setting.collections, store), labels)
    return swept._replace(summary=swept.summary.assign(**_exponents(swept, labels, store or Store())))


def _exponents(swept: Swept, labels: dict[str, dict], store: Store) -> dict[str, list[float]]:
    """Return the exponents of the summary's rows; both readouts of a layer fire alike, so they share a fit."""
    fits: dict[tuple[str, int], tuple[float, float, float]] = {}
    rows = []
    for collection, variant in zip(swept.summary["collection"], swept.summary["variant"], strict=True):
        key = collection, labels[variant]["layer"]
        if key not in fits:
            firings = swept.documents[collection, variant].firings
            enough = (firings > 0).sum() >= LEAST_TAIL and len(np.unique(firings[firings > 0])) > 1
            fits[key] = stored_fit(firings, N_REFITS, store)[:3] if enough else (np.nan,) * 3
        rows.append(fits[key])
    return dict(zip(("exponent", "exponent_low", "exponent_high"), map(list, zip(*rows, strict=True)), strict=True))


def widths_and_ks(setting: Setting, store: Store | None = None) -> tuple[Swept, pd.DataFrame]:
    """Vary the width at one k, and k at one width.

    The summary's columns beyond `Swept` are width and k.

    Returns
    -------
    Swept
    DataFrame
        The trend: collection; field ("width" or "k"), the other field's value (at), smallest and largest; by how much
        nDCG@10 rises with each doubling, as the least-squares slope of a query's values, mean over queries with its
        95 % bootstrap interval (slope, low, high).
    """
    size = setting.size
    variants, labels = {}, {}
    pairs = [(width, size.k) for width in size.widths] + [(size.width, k) for k in size.ks]
    for width, k in dict.fromkeys([(size.width, size.k), *pairs]):
        name = f"width {width}, k {k}"
        variants[name] = Variant(_recipe(setting, width=width, k=k))
        labels[name] = {"width": width, "k": k}
    swept = _labelled(sweep(variants, next(iter(variants)), setting.collections, store), labels)
    rows = []
    for collection, values in swept.values.groupby("collection", sort=False):
        for field, at, tried in (("width", size.k, size.widths), ("k", size.width, size.ks)):
            names = [f"width {x}, k {at}" if field == "width" else f"width {at}, k {x}" for x in tried]
            slopes = slope_a_doubling(values[names].to_numpy(), tried)
            low, high = bootstrap_interval(slopes)
            rows.append((collection, field, at, min(tried), max(tried), slopes.mean(), low, high))
    columns = ["collection", "field", "at", "smallest", "largest", "slope", "low", "high"]
    return swept, pd.DataFrame(rows, columns=columns)


def slope_a_doubling(values: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """Return the least-squares slope of each row of `values` [n, len(sizes)] on log2 of the sizes, float64 [n]."""
    x = np.log2(sizes) - np.log2(sizes).mean()
    return values @ x / (x @ x)


def ablations(setting: Setting, store: Store | None = None) -> Swept:
    """Change one thing at a time. The summary's columns beyond `Swept` are factor and level."""
    store = store or Store()
    arms = {("", BASELINE): Variant(_recipe(setting))} | _scoring_arms(setting) | _training_arms(setting, store)
    names = {arm: f"{arm[0]}: {arm[1]}" if arm[0] else arm[1] for arm in arms}
    variants = {names[arm]: variant for arm, variant in arms.items()}
    labels = {names[arm]: {"factor": arm[0], "level": arm[1]} for arm in arms}
    return _labelled(sweep(variants, BASELINE, setting.ablated, store), labels)


def _scoring_arms(setting: Setting) -> dict[tuple[str, str], Variant]:
    """Return what can be changed about an autoencoder that is trained, by factor and level."""
    base, encoder = _recipe(setting), setting.encoder
    arms = {("pooling", name): Variant(base, pooling=name) for name in ("max", "count")}
    arms |= {("φ", name): Variant(base, phi=name) for name in ("log1p", "identity")}
    arms |= {("idf", idf): Variant(base, scoring=replace(PAPER, idf=idf)) for idf in ("robertson", "robertson-clipped")}
    arms["scoring", "inner product"] = Variant(base, scoring=None)
    other = "bfloat16" if encoder.dtype == "float32" else "float32"
    arms["dtype of search", other] = Variant(base, reader=like(encoder, dtype=other))
    return arms


def _training_arms(setting: Setting, store: Store) -> dict[tuple[str, str], Variant]:
    """Return what takes another autoencoder, by factor and level; another seed shows what differs for no reason."""
    size, encoder = setting.size, setting.encoder
    base, budgets = _recipe(setting), tuple(sorted({max(1, size.k // 4), max(1, size.k // 2), size.k}))
    changes = {
        ("seed", "1"): {"seed": 1},
        ("activation", "BatchTopK"): {"activation": "batchtopk"},
        ("activation", "JumpReLU"): {"activation": "jumprelu"},
        ("activation", "AbsTopK"): {"activation": "abstopk"},
        ("activation", "hierarchical"): {"budgets": budgets},
        ("AuxK", "none"): {"auxk": 0.0},
        ("normalisation", "scaled"): {"normalisation": "scaled"},
        ("normalisation", "per-token"): {"normalisation": "per-token"},
        ("activation", "BatchTopK, per-token"): {"activation": "batchtopk", "normalisation": "per-token"},
        ("activation", "JumpReLU, per-token"): {"activation": "jumprelu", "normalisation": "per-token"},
    }
    arms = {arm: Variant(_recipe(setting, **change)) for arm, change in changes.items()}
    for n in size.token_counts:  # of text drawn for so many: a longer one begins with its first files
        drawn, _ = training_text(size, n, store)
        counted = n or count_tokens(encoder, drawn, store)
        level = f"{counted:,}" if n else f"{counted:,} (all)"
        arms["tokens", level] = Variant(replace(base, corpus=drawn, tokens=counted))
    own = shuffled(text for collection in setting.ablated for text in collection.doc_texts)
    arms["text", "in-domain"] = Variant(replace(base, corpus=own))
    without = like(encoder, special_tokens=not encoder.special_tokens)
    arms["special tokens", "left out"] = Variant(_recipe(setting, without))
    return arms


def latents_a_token(setting: Setting, swept: Swept) -> pd.DataFrame:
    """Count the latents of each token in the first documents of a collection, for every activation and normalisation.

    Returns
    -------
    DataFrame
        variant, collection, n_tokens; of the number of active latents of a token the mean, 5 % quantile (low), median
        and 95 % quantile (high); and its correlation (Pearson) with the distance of the token's state from the mean
        state, empty where all tokens have equally many.
    """
    collection = setting.ablated[0]
    states = torch.cat([block.states.cpu() for block in setting.encoder.stream(collection.doc_texts[:N_READ])])
    distance = (states - states.mean(dim=0)).norm(dim=1).numpy()
    labels = swept.summary.drop_duplicates("variant")
    rows = []
    for variant in labels.loc[labels["factor"].isin(["", "activation", "normalisation"]), "variant"]:
        coded = [swept.autoencoders[variant].encode(some).values for some in states.split(4_096)]
        counts = torch.cat([(values > 0).sum(dim=1) for values in coded]).numpy()
        correlation = np.corrcoef(counts, distance)[0, 1] if counts.std() > 0 else np.nan
        quantiles = np.quantile(counts, [0.05, 0.5, 0.95])
        rows.append((variant, collection.full_name, len(counts), counts.mean(), *quantiles, correlation))
    return pd.DataFrame(
        rows, columns=["variant", "collection", "n_tokens", "mean", "low", "median", "high", "correlation"]
    )


def bm25_surface(setting: Setting, swept: Swept, store: Store | None = None) -> pd.DataFrame:
    """Return nDCG@10 of the ablations' baseline for every k1 and b of `lib.evaluate.tuning`'s grid.

    It describes how much hangs on the constants, on the very queries that are measured; nothing is chosen by it.

    Returns
    -------
    DataFrame
        collection, k1, b, mean; and against the paper's constants difference, low, high (95 % bootstrap over queries).
    """
    grid = [PAPER, *(BM25Constants(k1, b) for k1, b in product(K1_GRID, B_GRID))]
    parts = []
    for collection in setting.ablated:
        docs, queries = _terms(setting, collection, swept, store or Store())
        values = ndcg_on_grid(collection, docs, queries, grid)
        differences = values[1:] - values[0]
        intervals = np.array([bootstrap_interval(row, n_resamples=2_000) for row in differences])
        frame = pd.DataFrame([asdict(constants) for constants in grid[1:]])[["k1", "b"]]
        frame.insert(0, "collection", collection.full_name)
        frame = frame.assign(mean=values[1:].mean(axis=1), difference=differences.mean(axis=1))
        parts.append(frame.assign(low=intervals[:, 0], high=intervals[:, 1]))
    return pd.concat(parts, ignore_index=True)


def _terms(setting: Setting, collection: Collection, swept: Swept, store: Store) -> tuple[csr_array, csr_array]:
    """Return the baseline's document and query terms, sqrt applied, from the store."""
    reading, identity = Reading(setting.encoder, swept.autoencoders[BASELINE], "sum"), collection.identity
    sides = (
        (collection.doc_texts, "document", identity["documents_sha256"]),
        (collection.query_texts, "query", identity["queries_sha256"]),
    )
    pooled = [pooled_terms([reading], texts, kind, digest, store)[0].terms for texts, kind, digest in sides]
    docs, queries = (check_weights(apply_phi(terms, "sqrt")) for terms in pooled)
    return docs, queries


def retrieval_training(setting: Setting, store: Store | None = None) -> tuple[Swept, str]:
    """Compare the retriever with itself untrained, with its token embeddings, and with the language model it was.

    The baseline is the retriever. Lexical BM25 is compared with it, too: it knows words by their identity only.

    Returns
    -------
    Swept
    str
        What the plain language model is, or why it is left out.
    """
    store, encoder = store or Store(), setting.encoder
    encoders = {
        "retriever": encoder,
        "its token embeddings": encoder.at(0),
        "the same, untrained": untrained(encoder, store),
    }
    try:
        encoders["plain language model"] = plain_language_model(encoder)
        note = f"The plain language model is {encoders['plain language model'].name}."
    except (OSError, ValueError) as error:
        note = f"Left out is the plain language model: {error}"
    variants = {name: Variant(_recipe(setting, other)) for name, other in encoders.items()}
    return sweep(variants, "retriever", setting.collections, store, _lexical), note


def _lexical(collection: Collection) -> dict[str, Ranking]:
    index = LexicalBM25(collection.doc_texts, collection.doc_ids)
    ranking = index.search(collection.query_texts, collection.query_ids, CUTOFF + 1)
    return {LEXICAL: ranking.exclude(collection.self_matches).top(CUTOFF)}


def seeds(setting: Setting, store: Store | None = None) -> tuple[Swept, pd.DataFrame, pd.DataFrame]:
    """Train the same autoencoder from other random weights, in another order of the states; and join several of them.

    Returns
    -------
    Swept
        The baseline is seed 0; the summary's columns beyond it are seed, and joined for variants that divide the k
        latents of a token among the first so many seeds.
    recurring : DataFrame
        As `agreement.recurrence`, by the firings in the documents of all collections.
    agreement : DataFrame
        A row a collection and pair: rank-biased overlap of the ten best documents of two seeds ("two seeds"), and of
        seed 0 and lexical BM25 for scale; mean, low, high as in `agreement.ranking_agreement`.
    """
    numbers = range(setting.size.n_seeds)
    recipes = [_recipe(setting, seed=seed) for seed in numbers]
    runs_of = {f"seed {seed}": Variant(recipe) for seed, recipe in zip(numbers, recipes, strict=True)}
    labels: dict[str, dict] = {f"seed {seed}": {"seed": seed} for seed in numbers}
    joined = [n for n in JOINED if n <= len(recipes) and setting.size.k % n == 0]
    labels |= {f"{n} seeds joined": {"joined": n} for n in joined}
    variants = runs_of | {f"{n} seeds joined": Variant(recipes[0], tuple(recipes[1:n])) for n in joined}
    swept = sweep(variants, "seed 0", setting.collections, store, _lexical)
    names = [collection.full_name for collection in setting.collections]
    decoders = [swept.autoencoders[run].W_dec.numpy() for run in runs_of]
    firings = [sum(swept.documents[name, run].firings for name in names) for run in runs_of]
    rows = []
    for name in names:
        runs = [swept.rankings[name, run] for run in runs_of]
        rows.append({"collection": name, "pair": "two seeds", **ranking_agreement(runs)})
        pair = [runs[0], swept.rankings[name, LEXICAL]]
        rows.append({"collection": name, "pair": f"seed 0 and {LEXICAL}", **ranking_agreement(pair)})
    return _labelled(swept, labels), recurrence(decoders, firings), pd.DataFrame(rows)
