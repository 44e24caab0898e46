# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Do latents occur as the words of a language do?
#
# Zipf: the r-th most frequent word occurs about 1/r as often as the first. Heaps: more text has more words, without
# end. Both determine what an inverted index costs. Here the latents of each collection are compared with its words.
#
# | | |
# |---|---|
# | *Reads* | the collections of the profile, the packaged model |
# | *Writes* | `zipf` (csv, json, png, pdf), `zipf_curves`, `zipf_growth` (csv, json), `zipf_cost` (png, pdf) |
# | *Paper item* | the rank-frequency figure of Latent Terms (arXiv 2605.29384) |
# | *Runtime* | `smoke` under a minute, `laptop` about four, on two cores, with the collections encoded |

# %% tags=["parameters"]
profile = None  # "smoke", "laptop" or "paper"; None is what LATENT_TERMS_PROFILE names, else "smoke"

# %%
from lib import LatentTerms
from lib.report.common import save_study
from lib.report.zipf import cost_figure, zipf_figure, zipf_in_words
from lib.studies.profiles import start
from lib.studies.provenance import provenance
from lib.studies.retrieval import given_splade
from lib.studies.zipf import zipf_study

profile = start(profile)
model = LatentTerms.from_pretrained(dtype=profile.dtype)
tables, origin = zipf_study(model, profile.collections, profile.zipf_resamples, splade=given_splade())
fits, curves, growth = tables["zipf"], tables["zipf_curves"], tables["zipf_growth"]

# %% [markdown]
# ## Rank and frequency
# An occurrence of a latent is a document token in which it is active; words are those of lexical BM25's analyzer
# (stemmed, without 33 stop words); for SPLADE's terms, if there is a model of it, documents are counted. The
# exponent is fitted by maximum likelihood to the frequent terms, from the frequency `xmin` on that fits best (Clauset,
# Shalizi and Newman 2009). A least-squares line on logarithmic axes would give the rare terms the most weight and could
# not be rejected. Interval and p come from resampled vocabularies, each fitted again; p below 0.1 rejects the power
# law.

# %%
fits[["collection", "vocabulary", "n_terms", "exponent", "low", "high", "xmin", "n_tail", "tail_share", "p"]].round(3)

# %%
figure = zipf_figure(fits, curves, fits["collection"].iloc[0])

# %% [markdown]
# ## Growth, head and tail, and what a query costs
# `heaps` is the exponent of vocabulary growth at the collection's size: the share of terms that occur in one document
# only. A vocabulary without such a tail stops growing, and every further document lengthens its posting lists instead.

# %%
cost = ["collection", "vocabulary", "heaps", "n_once", "n_frequent", "postings", "query_terms", "query_postings"]
fits[[*cost, "query_share"]].round(3)

# %%
query_cost = cost_figure(fits, curves, growth, fits["collection"].iloc[0])

# %%
figures = {"zipf": figure, "zipf_cost": query_cost}
save_study(profile.figures_folder, provenance(profile, **origin), tables, figures)

# %% [markdown]
# ## The answer

# %%
print(zipf_in_words(fits))
