# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Do impacts of eight bits rank as exact ones do?
#
# An index holds what each latent adds to a document's score, its impact, in float32 or rounded to 255 levels of the
# latent's largest in a block of documents. Rounded ones take a third of the bytes. What do they change?
#
# | | |
# |---|---|
# | *Reads* | the collections of the profile, the packaged model |
# | *Writes* | `impacts` (csv, json, png, pdf) |
# | *Paper item* | none |
# | *Runtime* | seconds, with the collections encoded |

# %% tags=["parameters"]
profile = None  # "smoke", "laptop" or "paper"; None is what LATENT_TERMS_PROFILE names, else "smoke"

# %%
from lib import LatentTerms
from lib.report.common import save_study
from lib.report.impacts import impacts_figure, impacts_in_words
from lib.studies.impacts import impacts_study
from lib.studies.profiles import start
from lib.studies.provenance import provenance

profile = start(profile)
model = LatentTerms.from_pretrained(dtype=profile.dtype)
table, origin = impacts_study(model, profile.model_collections)

# %% [markdown]
# ## Ranking, and its errors
# `same_best` is the share of queries with the same ten best documents in the same order. `off` is the most by which a
# score differs, `bound` what `BM25Index.error_bound` promises, both against the query's best score.

# %%
shown = ["collection", "impacts", "mean", "difference", "difference_low", "difference_high", "p_holm"]
table[[*shown, "same_best", "off", "bound"]].round(5)

# %% [markdown]
# ## Size of the saved index
# Document ids and lengths, and what the index says of each latent, are counted.

# %%
table[["collection", "impacts", "postings_per_document", "bytes_per_posting", "bytes_per_document"]].round(2)

# %%
save_study(
    profile.figures_folder, provenance(profile, **origin), {"impacts": table}, {"impacts": impacts_figure(table)}
)

# %% [markdown]
# ## The answer

# %%
print(impacts_in_words(table))
