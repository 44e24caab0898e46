# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # How much quality does a millisecond buy?
#
# Exact search over latent terms reads every posting of a query's hundreds of latents. Pruned documents or queries have
# fewer. Each way to search is a point: how long a query takes on a large corpus, and how well it ranks real
# collections.
#
# | | |
# |---|---|
# | *Reads* | the collections of the profile, the packaged model |
# | *Writes* | `latency` (csv, json, png, pdf) |
# | *Paper item* | Figure 5 of SPLARE (arXiv 2603.13277) |
# | *Runtime* | `smoke` about a minute, `laptop` nearly an hour, on two cores, with the collections encoded |
#
# The corpus that is timed is grown: each document takes its sentences from two real ones (`lib/benchmarks/grown.py`),
# so that latents keep their frequencies. It has no judgements, so quality is measured on the real collections. With
# `pip install -e '.[bench]'` Seismic and HNSW are included, and SPLADE's terms if the profile or
# LATENT_TERMS_SPLADE names a model; the same search reads them, with their weights for impacts.

# %% tags=["parameters"]
profile = None  # "smoke", "laptop" or "paper"; None is what LATENT_TERMS_PROFILE names, else "smoke"

# %%
from lib import LatentTerms
from lib.report.common import save_study
from lib.report.latency import latency_figure, latency_in_words
from lib.studies.latency import latency_study
from lib.studies.profiles import start
from lib.studies.provenance import provenance

profile = start(profile)
model = LatentTerms.from_pretrained(dtype=profile.dtype)
table, facts = latency_study(model, profile.model_collections, profile.latency)
table.round(3)

# %% [markdown]
# Up is better, left is faster. `limit` is not in the mean. A hollow mark ranks worse than exact search: the interval of
# the paired difference lies below 0.

# %%
figure = latency_figure(table, facts["n_docs"])

# %%
save_study(profile.figures_folder, provenance(profile, **facts), {"latency": table}, {"latency": figure})

# %% [markdown]
# ## The answer

# %%
print(latency_in_words(table))
