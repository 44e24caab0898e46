# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # At which layer of the retriever is its vocabulary best read out?
#
# An autoencoder is trained on the states of each layer, all from one pass over the text; each collection is read once
# for all of them. Layer 0 is the embeddings before the first block. Two readouts share the codes: latent terms (sum,
# square root, BM25 with the paper's constants) and that of SPLARE (maximum of log(1 + z), inner product). The retriever
# is frozen; SPLARE trains it through the latents, which may move the best layer.
#
# | | |
# |---|---|
# | *Reads* | the collections of the profile; text in the folder `LATENT_TERMS_TEXT`, else `pydoc` |
# | *Writes* | `layers` (csv, json, png, pdf), `layers_per_query.csv` |
# | *Paper item* | SPLARE (arXiv 2603.13277), figure 2 left |
# | *Runtime* | `smoke` one to two minutes; `laptop` half an hour on two cores, after `41_width_k` |

# %% tags=["parameters"]
profile = None  # "smoke", "laptop" or "paper"; None is what LATENT_TERMS_PROFILE names, else "smoke"

# %%
from lib.report.common import save_study
from lib.report.layers import layers_figure, layers_in_words
from lib.studies.inputs import setting
from lib.studies.layers import layers_study
from lib.studies.profiles import start
from lib.studies.provenance import provenance

profile = start(profile)
sweeps = setting(profile)
print(f"{sweeps.encoder.name}, autoencoders trained on {sweeps.text}")
sweeps.size

# %% [markdown]
# ## Every layer, twice
# nDCG@10 has a 95 % bootstrap interval over queries. Differences are to latent terms of the final layer, with their
# intervals and the p of a two-sided paired randomisation test, `p_holm` after Holm's correction over all variants of a
# collection. `fvu` is the fraction of the variance of the documents' states that the autoencoder leaves unexplained.

# %%
swept = layers_study(sweeps)
swept.summary[["collection", "layer", "readout", "mean", "low", "high", "difference", "p_holm", "fvu"]].round(4)

# %% [markdown]
# ## The figure

# %%
tables = {"layers": swept.summary}
figures = {"layers": layers_figure(swept.summary)}
origin = provenance(profile, **sweeps.origin)
save_study(profile.figures_folder, origin, tables, figures, swept.values)

# %% [markdown]
# ## The answer

# %%
print(layers_in_words(swept.summary))
