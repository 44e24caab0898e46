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
# # Do latent terms need a model that was trained to retrieve?
#
# The retriever is compared with the same architecture with random weights, with its own token embeddings before any
# block (layer 0), and, where it is on disk or a hub can be reached, with the language model that it was trained from.
# Each has its own autoencoder, trained alike. Lexical BM25 shows how far the identity of words alone goes.
#
# | | |
# |---|---|
# | *Reads* | the collections of `lib.studies.inputs.SIZES`; text in the folder `LATENT_TERMS_TEXT`, else `pydoc` |
# | *Writes* | `retrieval_training` (csv, json, png, pdf), `retrieval_training_per_query.csv` |
# | *Paper item* | Latent Terms (arXiv 2605.29384), BERT against Contriever |
# | *Runtime* | `smoke` one to two minutes of processor time; encoding and training are kept and done once |

# %% tags=["parameters"]
import os

from lib.studies.experiments import current_profile, repository_root

os.chdir(repository_root())  # relative paths are the repository's, wherever the kernel was started
profile = current_profile()

# %%
import pandas as pd

from lib.report.answers import retrieval_training_in_words
from lib.report.autoencoders import retrieval_training_figure, save_study
from lib.studies.autoencoders import retrieval_training
from lib.studies.experiments import figures_folder, provenance
from lib.studies.inputs import setting

pd.set_option("display.width", 200)
sweeps = setting(profile.name)
print(f"{sweeps.encoder.name}, autoencoders trained on {sweeps.text}")
sweeps.size

# %% [markdown]
# ## Four models and words
# nDCG@10 has a 95 % bootstrap interval over queries. Differences are to the retriever, with their intervals and the p
# of a two-sided paired randomisation test, `p_holm` after Holm's correction over all variants of a collection.

# %%
swept, note = retrieval_training(sweeps)
print(note)
swept.summary.drop(columns=["n_docs", "n_queries", "p"]).round(4)

# %% [markdown]
# ## The figure

# %%
tables = {"retrieval_training": swept.summary}
figures = {"retrieval_training": retrieval_training_figure(swept.summary)}
origin = provenance(profile, **sweeps.origin, note=note)
save_study(figures_folder(profile), origin, tables, swept.values, figures)

# %% [markdown]
# ## The answer

# %%
print(retrieval_training_in_words(swept.summary))
