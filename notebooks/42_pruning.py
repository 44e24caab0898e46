# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # How many postings can be left out before the ranking suffers?
#
# A text has hundreds of latents, most of them with small weights. Six ways to keep fewer: the largest weights of a
# document or of a query (SPLARE's Top-K pooling), those of a query that count most in a score (weight times Lucene's
# idf), the largest that make up a share of its sum, or no latents that too many documents have. Nothing is retrained,
# and BM25 has the model's own constants throughout. If the profile or LATENT_TERMS_SPLADE names a model of SPLADE, its
# words are pruned in the same ways but for that by idf, and ranked by the inner product.
#
# | | |
# |---|---|
# | *Reads* | the collections of the profile, the packaged model |
# | *Writes* | `pruning` (csv, json, png, pdf), `posting_lengths` (csv, json) |
# | *Paper item* | Figure 3 of SPLARE (arXiv 2603.13277) |
# | *Runtime* | `smoke` under a minute, `laptop` about six, on two cores, with the collections encoded |

# %% tags=["parameters"]
profile = None  # "smoke", "laptop" or "paper"; None is what LATENT_TERMS_PROFILE names, else "smoke"

# %%
from lib import LatentTerms
from lib.report.common import save_study
from lib.report.pruning import pruning_figure, pruning_in_words
from lib.studies.profiles import start
from lib.studies.provenance import provenance
from lib.studies.pruning import PRUNINGS, pruning_study

profile = start(profile)
model = LatentTerms.from_pretrained(dtype=profile.dtype)
table, lengths, origin = pruning_study(model, profile.model_collections, PRUNINGS[:: profile.pruning_step])

# %% [markdown]
# ## Quality against size
# *Stored* are the postings of the index, *read* those of an average query: the cost of a search. Intervals are over
# queries; p is that of a paired randomisation test against no pruning, corrected for their number (Holm).

# %%
shown = ["collection", "kind", "value", "mean", "low", "high", "difference", "p_holm", "postings_share", "query_share"]
table[shown].round(3)

# %% [markdown]
# The grey band is the interval without pruning; SPLADE is dashed, its postings a share of its own. On the right, the
# lengths of the posting lists: pruning documents shortens the long lists least, because frequent latents often have
# large weights.

# %%
figure = pruning_figure(table, lengths, table["collection"].iloc[0])

# %%
tables, figures = {"pruning": table, "posting_lengths": lengths}, {"pruning": figure}
save_study(profile.figures_folder, provenance(profile, **origin), tables, figures)

# %% [markdown]
# ## The answer

# %%
print(pruning_in_words(table))
