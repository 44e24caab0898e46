# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Which choices of the recipe matter, and which do not?
#
# One thing is changed at a time: how codes become term weights and scores, how the autoencoder is trained and on what,
# and the retriever's dtype. Another seed is among the changes: what it moves is moved by chance.
#
# | | |
# |---|---|
# | *Reads* | the collections of the profile; text in the folder `LATENT_TERMS_TEXT`, else `pydoc` |
# | *Writes* | `ablations`, `ablations_k1_b` (csv, json, png, pdf), `ablations_latents` (csv, json) and a csv by query |
# | *Paper item* | ablations of Latent Terms (arXiv 2605.29384) |
# | *Runtime* | `smoke` one to two minutes; `laptop` four hours on two cores, half of them for all of the text |

# %% tags=["parameters"]
profile = None  # "smoke", "laptop" or "paper"; None is what LATENT_TERMS_PROFILE names, else "smoke"

# %%
from lib.report.ablations import (
    ablations_figure,
    ablations_in_words,
    latents_a_token_in_words,
    surface_figure,
    tokens_in_words,
)
from lib.report.common import save_study
from lib.studies.ablations import ablations_study, bm25_surface, latents_a_token
from lib.studies.inputs import setting
from lib.studies.profiles import start
from lib.studies.provenance import provenance

profile = start(profile)
sweeps = setting(profile)
print(f"{sweeps.encoder.name}, autoencoders trained on {sweeps.text}")
sweeps.size

# %% [markdown]
# ## One thing at a time
# nDCG@10 has a 95 % bootstrap interval over queries. Differences are to the baseline, with their intervals and the p of
# a two-sided paired randomisation test, `p_holm` after Holm's correction over all variants of a collection. In-domain
# text is the documents of the collections themselves, without queries and judgements.

# %%
swept = ablations_study(sweeps)
table = swept.summary.pivot(index="variant", columns="collection", values=["mean", "difference", "p_holm"])
table.loc[list(dict.fromkeys(swept.summary["variant"]))].round(4)

# %% [markdown]
# ## Where the latents go
# Top-K gives every token k latents. BatchTopK and JumpReLU give them k on average: all that pass a threshold, and more
# pass where a state is far from the mean. "per-token" scales all states to one distance from it, so that a threshold
# can choose by what a token is and not by how long its state is.

# %%
counted = latents_a_token(sweeps, swept)
counted.round(3)

# %% [markdown]
# ## BM25's constants
# The baseline's nDCG@10 over a grid of k1 and b, on the queries that are measured. It shows how much depends on the
# two: the best point is too good, since it was picked on these queries, and nothing is chosen here.

# %%
surface = bm25_surface(sweeps, swept)
surface.sort_values("mean").groupby("collection", sort=False).tail(1).round(4)

# %% [markdown]
# ## The figures

# %%
tables = {"ablations": swept.summary, "ablations_k1_b": surface, "ablations_latents": counted}
figures = {"ablations": ablations_figure(swept.summary), "ablations_k1_b": surface_figure(surface)}
origin = provenance(profile, **sweeps.origin)
save_study(profile.figures_folder, origin, tables, figures, swept.values)

# %% [markdown]
# ## The answer

# %%
print(ablations_in_words(swept.summary, surface))
print(tokens_in_words(swept.summary))
print(latents_a_token_in_words(counted))
