# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # At which layer of the retriever is its vocabulary best read out?
#
# An autoencoder is trained on the states of each layer, all from one pass over the text, and each collection is read
# once for all of them. Layer 0 is the embeddings before the first block. Two readouts share the codes: latent terms
# (sum, square root, BM25 with the paper's constants) and that of SPLARE (maximum of log(1 + z), inner product).
#
# | | |
# |---|---|
# | *Reads* | the collections of `lib.studies.inputs.SIZES`; text in the folder `LATENT_TERMS_TEXT`, else `pydoc` |
# | *Writes* | `layers` (csv, json, png, pdf), `layers_per_query.csv` |
# | *Paper item* | SPLARE (arXiv 2603.13277), figure 2 left |
# | *Runtime* | `smoke` one to two minutes of processor time; encoding and training are kept and done once |

# %% tags=["parameters"]
import os

from lib.studies.experiments import current_profile, repository_root

os.chdir(repository_root())  # relative paths are the repository's, wherever the kernel was started
profile = current_profile()

# %%
import pandas as pd

from lib.report.answers import layers_in_words
from lib.report.autoencoders import layers_figure, save_study
from lib.studies.autoencoders import layers
from lib.studies.experiments import figures_folder, provenance
from lib.studies.inputs import setting

pd.set_option("display.width", 200)
sweeps = setting(profile.name)
print(f"{sweeps.encoder.name}, autoencoders trained on {sweeps.text}")
sweeps.size

# %% [markdown]
# ## Every layer, twice
# nDCG@10 has a 95 % bootstrap interval over queries. Differences are to latent terms of the final layer, with their
# intervals and the p of a two-sided paired randomisation test, `p_holm` after Holm's correction over all variants of a
# collection. `fvu` is the fraction of the variance of the documents' states that the autoencoder leaves unexplained.

# %%
swept = layers(sweeps)
swept.summary[["collection", "layer", "readout", "mean", "low", "high", "difference", "p_holm", "fvu"]].round(4)

# %% [markdown]
# ## The figure

# %%
tables = {"layers": swept.summary}
figures = {"layers": layers_figure(swept.summary)}
origin = provenance(profile, **sweeps.origin)
save_study(figures_folder(profile), origin, tables, swept.values, figures)

# %% [markdown]
# ## The answer

# %%
print(layers_in_words(swept.summary))
