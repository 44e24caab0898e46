# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Does another seed give another vocabulary, and another ranking?
#
# The same autoencoder is trained from other random weights and in another order of the same states. Three things are
# compared:
#
# - nDCG@10, also of several autoencoders joined, which divide the k latents of a token among them;
# - the latents: one recurs in another run if some decoder row there has a cosine of 0.7 or more with its own; matched
#   one to one, each decoder row is used once;
# - the ten best documents of each query, by rank-biased overlap (p = 0.9).
#
# | | |
# |---|---|
# | *Reads* | the collections of the profile; text in the folder `LATENT_TERMS_TEXT`, else `pydoc` |
# | *Writes* | `seeds` (csv, json, png, pdf); `seeds_recurrence`, `seeds_matched`, `seeds_agreement` (csv, json) |
# | *Paper item* | Latent Terms (arXiv 2605.29384), five seeds; Paulo and Belrose (arXiv 2501.16615) |
# | *Runtime* | `smoke` one to two minutes; `laptop` eight on two cores |

# %% tags=["parameters"]
profile = None  # "smoke", "laptop" or "paper"; None is what LATENT_TERMS_PROFILE names, else "smoke"

# %%
from lib.report.common import save_study
from lib.report.seeds import seeds_figure, seeds_in_words
from lib.studies.inputs import setting
from lib.studies.profiles import start
from lib.studies.provenance import provenance
from lib.studies.seeds import seeds_study

profile = start(profile)
sweeps = setting(profile)
print(f"{sweeps.encoder.name}, autoencoders trained on {sweeps.text}")
sweeps.size

# %% [markdown]
# ## Quality
# nDCG@10 has a 95 % bootstrap interval over queries. Differences are to seed 0, with their intervals and the p of a
# two-sided paired randomisation test, `p_holm` after Holm's correction over all variants of a collection.

# %%
swept, recurring, matched, agreement = seeds_study(sweeps)
swept.summary.drop(columns=["n_docs", "n_queries", "p"]).round(4)

# %% [markdown]
# ## Latents, matched one to one
# The matching makes the sum of the cosines of decoder rows as large as possible (the Hungarian algorithm). `mean` is
# the mean cosine of the matched rows, published as the pairwise dictionary mean correlation coefficient (arXiv
# 2505.20254); `share` is that of pairs with a cosine of 0.7 or more.

# %%
matched.round(3)

# %% [markdown]
# ## Rankings
# Mean over queries and pairs of runs, with the interval over queries.

# %%
agreement.round(4)

# %% [markdown]
# ## The figure

# %%
tables = {
    "seeds": swept.summary,
    "seeds_recurrence": recurring,
    "seeds_matched": matched,
    "seeds_agreement": agreement,
}
figures = {"seeds": seeds_figure(swept.summary, recurring, agreement)}
origin = provenance(profile, **sweeps.origin)
save_study(profile.figures_folder, origin, tables, figures, swept.values)

# %% [markdown]
# ## The answer

# %%
print(seeds_in_words(swept.summary, recurring, matched, agreement))
