"""Study `50_ablations`: the recipe with one thing changed at a time."""

from dataclasses import asdict, replace
from itertools import product

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_array

from lib.bm25.pooling import apply_phi, check_weights
from lib.bm25.weighting import PAPER, BM25Constants
from lib.data.collection import Collection
from lib.evaluation.measures import bootstrap_interval
from lib.evaluation.tuning import B_GRID, K1_GRID, ndcg_on_grid
from lib.latent_terms import like
from lib.studies.encoded import Terms, pooled_terms
from lib.studies.inputs import Setting, count_tokens, shuffled, training_text
from lib.studies.sweeps import Swept, Variant, study_recipe, sweep, with_labels
from lib.support.store import Store

BASELINE = "baseline"
N_READ = 500  # documents in which the latents of each token are counted


def ablations_study(setting: Setting, store: Store | None = None) -> Swept:
    """Change one thing at a time. The summary's columns beyond `Swept` are factor and level."""
    store = store or Store()
    arms = {("", BASELINE): Variant(study_recipe(setting))} | _scoring_arms(setting) | _training_arms(setting, store)
    names = {arm: f"{arm[0]}: {arm[1]}" if arm[0] else arm[1] for arm in arms}
    variants = {names[arm]: variant for arm, variant in arms.items()}
    labels = {names[arm]: {"factor": arm[0], "level": arm[1]} for arm in arms}
    return with_labels(sweep(variants, BASELINE, setting.ablated, store), labels)


def _scoring_arms(setting: Setting) -> dict[tuple[str, str], Variant]:
    """Return what can be changed about an autoencoder that is trained, by factor and level."""
    base, encoder = study_recipe(setting), setting.encoder
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
    base, budgets = study_recipe(setting), tuple(sorted({max(1, size.k // 4), max(1, size.k // 2), size.k}))
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
    arms = {arm: Variant(study_recipe(setting, **change)) for arm, change in changes.items()}
    for n in size.token_counts:  # of text drawn for so many: a longer one begins with its first files
        drawn, _ = training_text(size, n, store)
        counted = n or count_tokens(encoder, drawn, store)
        level = f"{counted:,}" if n else f"{counted:,} (all)"
        arms["tokens", level] = Variant(replace(base, corpus=drawn, tokens=counted))
    own = shuffled(text for collection in setting.ablated for text in collection.doc_texts)
    arms["text", "in-domain"] = Variant(replace(base, corpus=own))
    without = like(encoder, special_tokens=not encoder.special_tokens)
    arms["special tokens", "left out"] = Variant(study_recipe(setting, without))
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
    """Return nDCG@10 of the ablations' baseline for every k1 and b of `lib.evaluation.tuning`'s grid.

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
    reading = Terms(setting.encoder, swept.autoencoders[BASELINE])
    sides = [pooled_terms([reading], collection, kind, store)[0].terms for kind in ("document", "query")]
    docs, queries = (check_weights(apply_phi(terms, "sqrt")) for terms in sides)
    return docs, queries
