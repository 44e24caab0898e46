# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Does it matter how many latents there are, and how many of them a token may have?
#
# Autoencoders of several widths at one k, and of several k at one width, are trained on the same states; each
# collection is read once for all of them. All see equally many tokens, so a wide autoencoder is trained less well than
# a narrow one.
#
# | | |
# |---|---|
# | *Reads* | the collections of the profile; text in the folder `LATENT_TERMS_TEXT`, else `pydoc` |
# | *Writes* | `width_k` (csv, json, png, pdf), `width_k_trend` (csv, json), `width_k_per_query.csv` |
# | *Paper item* | SPLARE (arXiv 2603.13277), figure 2 right |
# | *Runtime* | `smoke` one to two minutes; `laptop` an hour and a half on two cores |

# %% tags=["parameters"]
profile = None  # "smoke", "laptop" or "paper"; None is what LATENT_TERMS_PROFILE names, else "smoke"

# %%
from lib.report.common import save_study
from lib.report.width_k import width_k_figure, width_k_in_words
from lib.studies.inputs import setting
from lib.studies.profiles import start
from lib.studies.provenance import provenance
from lib.studies.width_k import width_k_study

profile = start(profile)
sweeps = setting(profile)
print(f"{sweeps.encoder.name}, autoencoders trained on {sweeps.text}")
sweeps.size

# %% [markdown]
# ## Every size
# nDCG@10 has a 95 % bootstrap interval over queries. Differences are to the width and k of the other studies, with
# their intervals and the p of a two-sided paired randomisation test, `p_holm` after Holm's correction over all variants
# of a collection.

# %%
swept, trend = width_k_study(sweeps)
swept.summary.drop(columns=["n_docs", "n_queries", "variant", "p"]).round(4)

# %% [markdown]
# ## The trend
# The least-squares slope of each query's nDCG@10 on the logarithm of the size, averaged over queries: what a doubling
# brings.

# %%
trend.round(4)

# %% [markdown]
# ## The figure

# %%
tables = {"width_k": swept.summary, "width_k_trend": trend}
figures = {"width_k": width_k_figure(swept.summary)}
origin = provenance(profile, **sweeps.origin)
save_study(profile.figures_folder, origin, tables, figures, swept.values)

# %% [markdown]
# ## The answer

# %%
print(width_k_in_words(swept.summary, trend))
