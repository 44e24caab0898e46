# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # How does the recall of each system on LIMIT fall as the collection grows?
#
# LIMIT asks who likes what. Each query is answered by two of 46 people, all pairs differ, and a vector of a few hundred
# numbers cannot represent so many combinations. Here the same 46 people and 1,000 queries stand among more and more
# people who like other things.
#
# | | |
# |---|---|
# | *Reads* | the built-in `limit` in several sizes, the packaged model |
# | *Writes* | `limit` (csv, json, png, pdf) |
# | *Paper item* | Table 2 of Latent Terms (arXiv 2605.29384) |
# | *Runtime* | `smoke` under a minute, `laptop` half an hour to an hour and a half on two cores, for the 50,000 |

# %% tags=["parameters"]
profile = None  # "smoke", "laptop" or "paper"; None is what LATENT_TERMS_PROFILE names, else "smoke"

# %%
from lib import LatentTerms
from lib.report.common import save_study
from lib.report.limit import limit_figure, limit_in_words, limit_table
from lib.studies.limit import limit_study
from lib.studies.profiles import start
from lib.studies.provenance import provenance
from lib.studies.published import PUBLISHED_LIMIT

profile = start(profile)
model = LatentTerms.from_pretrained(dtype=profile.dtype)
table, origin = limit_study(model, profile.limit_collections)

# %% [markdown]
# ## Recall by size
# With 95 % intervals over queries. Where there are no more documents than the cut-off, recall is 1 by counting. *latent
# terms* has the paper's constants of BM25, *tuned* the model's own, chosen on other collections. *SPLADE* is there if
# the profile or LATENT_TERMS_SPLADE names a model.

# %%
limit_table(table)

# %%
figure = limit_figure(table)

# %% [markdown]
# ## Published figures, for comparison only
# On the official LIMIT, with other retrievers and wider autoencoders. Ours has the same structure and other words.

# %%
PUBLISHED_LIMIT

# %% [markdown]
# ## Against dense, and what is left of the recall among 46
# `kept` is recall divided by recall in the smallest collection.

# %%
shown = ["n_docs", "measure", "system", "mean", "difference", "difference_low", "difference_high", "p_holm"]
table.loc[table["measure"].isin(["R@10", "R@100"]), [*shown, "kept", "kept_low", "kept_high"]].round(3)

# %%
save_study(profile.figures_folder, provenance(profile, **origin), {"limit": table}, {"limit": figure})

# %% [markdown]
# ## The answer

# %%
print(limit_in_words(table))
