# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Which way to train an autoencoder makes the better vocabulary?
#
# Papers judge sparse autoencoders by how well they reconstruct a language model's states. Here every way that the
# library has is trained on the same states of a retriever, and judged by what its latents rank.
#
# | | |
# |---|---|
# | *Reads* | the collections of the profile; text in the folder `LATENT_TERMS_TEXT`, else `pydoc` |
# | *Writes* | `variants` (csv, json, png, pdf), a csv by query; nine tables more (csv, json) |
# | *Paper item* | none; the paper of each way is in `lib/sae/README.md` |
# | *Runtime* | `smoke` under a minute; `laptop` nearly three hours on two cores; a killed run goes on |

# %% tags=["parameters"]
profile = None  # "smoke", "laptop" or "paper"; None is what LATENT_TERMS_PROFILE names, else "smoke"

# %%
from lib.report.common import save_study
from lib.report.variants import (
    described_table,
    prefixes_in_words,
    tokens_in_words,
    variants_figure,
    variants_in_words,
    variants_table,
)
from lib.studies.inputs import setting
from lib.studies.profiles import start
from lib.studies.provenance import provenance
from lib.studies.variants import training_collections, variants_origin, variants_study

profile = start(profile)
sizes = profile.variants
sweeps = setting(profile, size=sizes.sae)
dev = training_collections(sizes)
print(f"{sweeps.encoder.name}, autoencoders trained on {sweeps.text}")
sizes

# %% [markdown]
# ## The rule
# Of 2026-11-29, before any result; the whole of it stands in `lib/studies/variants.py`, where the ways that were added
# on 2026-11-30 are named. All ways have the same states, number of latents and, as far as it can be chosen, mean number
# of latents a token; settings are the defaults. BM25's constants are chosen for each way on training queries. A way is
# called better than Top-K where the mean over collections is significantly higher after Holm's correction, by more than
# seeds make of it.
#
# ## Every way
# *agreement of seeds* is of two that are matched one to one: the mean cosine of decoder rows (PW-MCC, arXiv
# 2505.20254) / the mean correlation over documents, matched by that. *dead* is unknown where nothing was trained for
# long enough. nDCG@10 is with the paper's constants / tuned; the difference is that of the mean, tuned, with its 95 %
# interval. What is left out says why.

# %%
tables, by_query = variants_study(sweeps, dev, sizes.n_seeds, sizes.token_counts)
variants_table(tables["variants"], tables["variants_collections"])

# %% [markdown]
# ## Prefixes
# Matryoshka orders its latents, so that an index can be cut to the first of them. Beside it the same cuts of Top-K,
# whose latents have no order.

# %%
print(prefixes_in_words(tables["variants_prefixes"]))
tables["variants_prefixes"].round(4)

# %% [markdown]
# ## What else the latents are like
# Of seed 0; how each is measured stands in `lib/studies/described.py`. *AUC* is of the best 1, 5 and 20 terms, a mean
# over classes; *families* are co-active ones, not the lexical, narrow and broad ones of `31_features`. *Absorbed* is
# the share of words of a class that its latents leave to another, of words where they first stand in a document. Of all
# classes probes find two in this retriever's states, "-ed" and "-s". Nearly every way absorbs none of one of them and a
# tenth to all of the other, by which latent happens to be its most telling one; the two that read states of one norm
# absorb none. Milliseconds are of one thread, ways in turns.

# %%
described_table(tables)

# %%
print(tokens_in_words(tables["variants_tokens"]))
found = tables["variants_absorption"].query("variant == 'topk'")
found[["label", "probe_f1", "latents", "n", "share", "low", "high"]].round(3)

# %% [markdown]
# ## Reconstruction and ranking

# %%
tables["variants_correlation"].round(3)

# %% [markdown]
# ## The figure

# %%
origin = provenance(profile, **variants_origin(sweeps, sizes, dev))
save_study(profile.figures_folder, origin, tables, {"variants": variants_figure(tables["variants"])}, by_query)

# %% [markdown]
# ## The answer

# %%
print(variants_in_words(tables["variants"], tables["variants_correlation"]))
