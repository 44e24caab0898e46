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
# # How many postings can be left out before the ranking suffers?
#
# A text has hundreds of latents, most of them faint. Five ways to keep fewer: the largest weights of a document or of a
# query (SPLARE's Top-K pooling), the largest that make up a share of its sum, or no latents that too many documents
# have. Nothing is retrained, and BM25 has the model's own constants throughout.
#
# | | |
# |---|---|
# | *Reads* | the collections of the profile, the packaged model |
# | *Writes* | `pruning` (csv, json, png, pdf), `posting_lengths` (csv, json) |
# | *Paper item* | Figure 3 of SPLARE (arXiv 2603.13277) |
# | *Runtime* | `smoke` under a minute, `laptop` about six, on two cores, with the collections encoded |

# %% tags=["parameters"]
import os

from lib.studies.experiments import current_profile, repository_root

os.chdir(repository_root())  # relative paths are the repository's, wherever the kernel was started
profile = current_profile()
smoke = profile.name == "smoke"
collections = profile.collections[:1] if smoke else profile.collections

# %%
import pandas as pd

from lib import LatentTerms
from lib.report.common import save_figure, save_results
from lib.report.model import pruning_figure, pruning_in_words
from lib.studies.experiments import figures_folder, provenance
from lib.studies.model import PRUNINGS, pruning_study

pd.set_option("display.width", 200)
model = LatentTerms.from_pretrained(dtype=profile.dtype)
prunings = PRUNINGS[::3] if smoke else PRUNINGS
table, lengths, origin = pruning_study(model, collections, prunings)

# %% [markdown]
# ## Quality against size
# *Stored* is what the index holds, *read* what an average query touches: the cost of a search. Intervals are over
# queries; p is that of a paired randomisation test against no pruning, corrected for their number (Holm).

# %%
shown = ["collection", "kind", "value", "mean", "low", "high", "difference", "p_holm", "postings_share", "query_share"]
table[shown].round(3)

# %% [markdown]
# The grey band is the interval without pruning. On the right, how many documents the posting lists hold: pruning
# documents shortens the long lists least, for frequent latents are often heavy ones.

# %%
figure = pruning_figure(table, lengths, table["collection"].iloc[0])

# %%
folder = figures_folder(profile)
save_results(table, folder, "pruning", provenance(profile, **origin))
save_results(lengths, folder, "posting_lengths", provenance(profile, **origin))
save_figure(figure, folder, "pruning")

# %% [markdown]
# ## The answer

# %%
print(pruning_in_words(table))
