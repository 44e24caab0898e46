# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Do latent terms need a model that was trained to retrieve?
#
# The retriever is compared with the same architecture with random weights, with its own token embeddings before any
# block (layer 0), and with the language model that it was trained from, where that is on disk or a hub can be reached.
# Each has its own autoencoder, trained alike. Lexical BM25 shows how far the identity of words alone goes.
#
# | | |
# |---|---|
# | *Reads* | the collections of the profile; text in the folder `LATENT_TERMS_TEXT`, else `pydoc` |
# | *Writes* | `retrieval_training` (csv, json, png, pdf), `retrieval_training_per_query.csv` |
# | *Paper item* | Latent Terms (arXiv 2605.29384), BERT against Contriever |
# | *Runtime* | `smoke` one to two minutes; `laptop` about ten on two cores, after `41_width_k` |

# %% tags=["parameters"]
profile = None  # "smoke", "laptop" or "paper"; None is what LATENT_TERMS_PROFILE names, else "smoke"

# %%
from lib.report.common import save_study
from lib.report.retrieval_training import retrieval_training_figure, retrieval_training_in_words
from lib.studies.inputs import setting
from lib.studies.profiles import start
from lib.studies.provenance import provenance
from lib.studies.retrieval_training import retrieval_training_study

profile = start(profile)
sweeps = setting(profile)
print(f"{sweeps.encoder.name}, autoencoders trained on {sweeps.text}")
sweeps.size

# %% [markdown]
# ## Four models and words
# nDCG@10 has a 95 % bootstrap interval over queries. Differences are to the retriever, with their intervals and the p
# of a two-sided paired randomisation test, `p_holm` after Holm's correction over all variants of a collection.

# %%
swept, note = retrieval_training_study(sweeps)
print(note)
swept.summary.drop(columns=["n_docs", "n_queries", "p"]).round(4)

# %% [markdown]
# ## The figure

# %%
tables = {"retrieval_training": swept.summary}
figures = {"retrieval_training": retrieval_training_figure(swept.summary)}
origin = provenance(profile, **sweeps.origin, note=note)
save_study(profile.figures_folder, origin, tables, figures, swept.values)

# %% [markdown]
# ## The answer

# %%
print(retrieval_training_in_words(swept.summary))
