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
# # How does each system decay on LIMIT as the haystack grows?
#
# LIMIT asks who likes what. Each query is answered by two of 46 people, all pairs differ, and one vector of a few
# hundred numbers cannot hold so many combinations. The same 46 people and 1,000 queries stand here among ever more
# people who like other things.
#
# | | |
# |---|---|
# | *Reads* | the built-in `limit` in several sizes, the packaged model |
# | *Writes* | `limit` (csv, json, png, pdf) |
# | *Paper item* | Table 2 of Latent Terms (arXiv 2605.29384) |
# | *Runtime* | `smoke` under a minute, `laptop` half an hour to an hour and a half on two cores, for the 50,000 |

# %% tags=["parameters"]
import os

from lib.studies.experiments import current_profile, repository_root

os.chdir(repository_root())  # relative paths are the repository's, wherever the kernel was started
profile = current_profile()
collections = ["limit/46", "limit/500"]
if profile.name != "smoke":
    collections = ["limit/46", "limit/1000", "limit", "limit/50000"]

# %%
import pandas as pd

from lib import LatentTerms
from lib.report.common import save_figure, save_results
from lib.report.limit import PUBLISHED_LIMIT, limit_figure, limit_in_words, limit_table
from lib.studies.experiments import figures_folder, provenance
from lib.studies.model import limit_study

pd.set_option("display.width", 200)
model = LatentTerms.from_pretrained(dtype=profile.dtype)
table, origin = limit_study(model, collections)

# %% [markdown]
# ## Recall by size
# With intervals over queries. Where there are fewer documents than the cut-off, recall is 1 by counting. *latent terms*
# has the paper's constants of BM25, *tuned* the model's own, chosen on other collections.

# %%
limit_table(table)

# %%
figure = limit_figure(table)

# %% [markdown]
# ## Published figures, for comparison only
# On the official LIMIT, by other retrievers and wider autoencoders. Ours has the same structure and other words.

# %%
PUBLISHED_LIMIT

# %% [markdown]
# ## Against dense, and what is left of the recall among 46
# `kept` is recall here over recall in the smallest haystack.

# %%
shown = ["n_docs", "measure", "system", "mean", "difference", "difference_low", "difference_high", "p_holm"]
table.loc[table["measure"].isin(["R@10", "R@100"]), [*shown, "kept", "kept_low", "kept_high"]].round(3)

# %%
folder = figures_folder(profile)
save_results(table, folder, "limit", provenance(profile, **origin))
save_figure(figure, folder, "limit")

# %% [markdown]
# ## The answer

# %%
print(limit_in_words(table))
