# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Which changes to the ranking help, if they are chosen on training queries and frozen?
#
# The paper sets k1 = 8, b = 0.7, the square root and idf without tuning, and ranks with all latents. Each idea below
# changes one thing; its best setting is chosen by nDCG@10 on training queries of pydoc, SciFact and NFCorpus, then
# measured once on test queries. An idea that does not help on the training queries is not measured, but for three that
# are systems of their own and always measured: feedback (a second search with latents of the best documents), late
# interaction over the 100 best (MaxSim over token states kept in int8), and queries whose latents are looked up by
# token, without a Transformer.
#
# | | |
# |---|---|
# | *Reads* | the collections of the profile, training queries of three, the packaged model |
# | *Writes* | `beyond` (csv, json, png, pdf), `beyond_tuning` (csv, json) |
# | *Paper item* | none |
# | *Runtime* | `smoke` about a minute, `laptop` forty on two cores, with the collections encoded |

# %% tags=["parameters"]
profile = None  # "smoke", "laptop" or "paper"; None is what LATENT_TERMS_PROFILE names, else "smoke"

# %%
import pandas as pd

from lib import LatentTerms
from lib.report.beyond import beyond_figure, beyond_in_words
from lib.report.common import save_study
from lib.studies.beyond import beyond_study
from lib.studies.profiles import start
from lib.studies.provenance import provenance

profile = start(profile)
training, n_queries = profile.tuning_collections, profile.tuning_queries
model = LatentTerms.from_pretrained(dtype=profile.dtype)
table, tried, origin = beyond_study(model, training, profile.model_collections, n_queries)

# %% [markdown]
# ## What was tried on the training queries
# *as tuned* is the baseline: the model's own k1, b and idf, chosen on training queries of pydoc and SciFact (`python -m
# lib tune`). *with words*, *with late interaction* and *with feedback* are weighted sums of two scores (`late` and
# `second` are weights); *all together* takes the ideas in turn and keeps each that improves on those before.

# %%
best = tried.loc[tried.groupby("idea", sort=False)["mean"].idxmax()]
best.drop(columns="chosen").round(4)

# %%
pd.DataFrame(origin["settings"]).T

# %% [markdown]
# ## On test queries
# Intervals are over queries; p is that of a paired randomisation test against *as tuned*, corrected for the number of
# systems (Holm). The last rows average over collections, queries resampled within each. `query_ms` is from a query's
# text to its ranking, 50 queries together; `state_bytes` is what late interaction keeps of a document.

# %%
table.drop(columns="p").round(4)

# %%
figure = beyond_figure(table)

# %%
tables, figures = {"beyond": table, "beyond_tuning": tried}, {"beyond": figure}
save_study(profile.figures_folder, provenance(profile, **origin), tables, figures)

# %% [markdown]
# ## The answer

# %%
print(beyond_in_words(table))
