"""Study `50_ablations`: the recipe with one thing changed at a time."""

from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import torch

from lib.bm25.pooling import apply_phi
from lib.bm25.weighting import PAPER, BM25Constants
from lib.evaluation.measures import bootstrap_interval
from lib.evaluation.tuning import B_GRID, K1_GRID, ndcg_on_grid
from lib.studies.inputs import Setting, count_tokens, shuffled, training_text
from lib.studies.names import BASELINE
from lib.studies.sweeps import Swept, Variant, study_recipe, sweep
from lib.support.store import Store

N_READ = 500  # documents in which the latents of each token are counted


def ablations_study(setting: Setting, store: Store | None = None) -> Swept:
    """Change one thing at a time. The summary also has the columns factor and level."""
    store = store or Store()
    variants = {BASELINE: Variant(study_recipe(setting), labels={"factor": "", "level": BASELINE})}
    for (factor, level), arm in (_scoring_arms(setting) | _training_arms(setting, store)).items():
        variants[f"{factor}: {level}"] = replace(arm, labels={"factor": factor, "level": level})
    return sweep(variants, BASELINE, setting.ablated, store)


def _scoring_arms(setting: Setting) -> dict[tuple[str, str], Variant]:
    """Return the variants that share the baseline's autoencoder, by factor and level."""
    base, encoder = study_recipe(setting), setting.encoder
    dtype = "bfloat16" if encoder.dtype == "float32" else "float32"
    return {
        **{("pooling", pooling): Variant(base, pooling=pooling) for pooling in ("max", "count")},
        **{("φ", phi): Variant(base, phi=phi) for phi in ("log1p", "identity")},
        **{("idf", idf): Variant(base, scoring=replace(PAPER, idf=idf)) for idf in ("robertson", "robertson-clipped")},
        ("scoring", "inner product"): Variant(base, scoring=None),
        ("dtype of search", dtype): Variant(base, reader=encoder.replace(dtype=dtype)),
    }


def _training_arms(setting: Setting, store: Store) -> dict[tuple[str, str], Variant]:
    """Return the variants with an autoencoder of their own, by factor and level; another seed shows chance alone."""
    size, encoder, base = setting.size, setting.encoder, study_recipe(setting)
    changes = {
        ("seed", "1"): {"seed": 1},
        ("activation", "BatchTopK"): {"activation": "batchtopk"},
        ("activation", "JumpReLU"): {"activation": "jumprelu"},
        ("activation", "AbsTopK"): {"activation": "abstopk"},
        ("activation", "hierarchical"): {"budgets": tuple(sorted({max(1, size.k // 4), max(1, size.k // 2), size.k}))},
        ("AuxK", "none"): {"auxk": 0.0},
        ("normalisation", "scaled"): {"normalisation": "scaled"},
        ("normalisation", "per-token"): {"normalisation": "per-token"},
        ("activation", "BatchTopK, per-token"): {"activation": "batchtopk", "normalisation": "per-token"},
        ("activation", "JumpReLU, per-token"): {"activation": "jumprelu", "normalisation": "per-token"},
    }
    recipes = {arm: study_recipe(setting, **change) for arm, change in changes.items()}
    for n in size.token_counts:  # each is drawn for its number of tokens; None is all of the text
        text, _ = training_text(size, n, store)
        n_tokens = n or count_tokens(encoder, text, store)
        level = f"{n_tokens:,}" if n else f"{n_tokens:,} (all)"
        recipes["tokens", level] = replace(base, corpus=text, tokens=n_tokens)
    documents = shuffled(text for collection in setting.ablated for text in collection.doc_texts)
    recipes["text", "in-domain"] = replace(base, corpus=documents)
    without = encoder.replace(special_tokens=not encoder.special_tokens)
    recipes["special tokens", "left out"] = study_recipe(setting, without)
    return {arm: Variant(recipe) for arm, recipe in recipes.items()}


def latents_a_token(setting: Setting, swept: Swept) -> pd.DataFrame:
    """Count the latents of each token in the first documents of a collection, for every activation and normalisation.

    The table has variant, collection, n_tokens; the mean, 5 % quantile (low), median and 95 % quantile (high) of the
    number of active latents of a token; and its correlation (Pearson) with the distance of the token's state from the
    mean state, empty where all tokens have equally many.
    """
    collection = setting.ablated[0]
    states = torch.cat([block.states.cpu() for block in setting.encoder.stream(collection.doc_texts[:N_READ])])
    distance = (states - states.mean(dim=0)).norm(dim=1).numpy()
    labels = swept.summary.drop_duplicates("variant")
    rows = []
    for variant in labels.loc[labels["factor"].isin(["", "activation", "normalisation"]), "variant"]:
        by_block = [swept.autoencoders[variant].encode(block).values for block in states.split(4_096)]
        counts = torch.cat([(values > 0).sum(dim=1) for values in by_block]).numpy()
        correlation = np.corrcoef(counts, distance)[0, 1] if counts.std() > 0 else np.nan
        quantiles = np.quantile(counts, [0.05, 0.5, 0.95])
        rows.append((variant, collection.full_name, len(counts), counts.mean(), *quantiles, correlation))
    columns = ["variant", "collection", "n_tokens", "mean", "low", "median", "high", "correlation"]
    return pd.DataFrame(rows, columns=columns)


def bm25_surface(setting: Setting, swept: Swept) -> pd.DataFrame:
    """Return nDCG@10 of the ablations' baseline for every k1 and b of `lib.evaluation.tuning`'s grid.

    It describes how much depends on the constants, on the queries that are measured; nothing is chosen by it. Columns:
    collection, k1, b, mean; against the paper's constants difference, low, high (95 % bootstrap over queries).
    """
    grid = [PAPER, *(BM25Constants(k1, b) for k1, b in product(K1_GRID, B_GRID))]
    rows = []
    for collection in setting.ablated:
        key = collection.full_name, BASELINE
        docs, queries = (apply_phi(side[key].terms, "sqrt") for side in (swept.documents, swept.queries))
        values = ndcg_on_grid(collection, docs, queries, grid)
        for constants, ndcg in zip(grid[1:], values[1:], strict=True):
            difference = ndcg - values[0]
            interval = bootstrap_interval(difference, n_resamples=2_000)
            rows.append((key[0], constants.k1, constants.b, ndcg.mean(), difference.mean(), *interval))
    return pd.DataFrame(rows, columns=["collection", "k1", "b", "mean", "difference", "low", "high"])
