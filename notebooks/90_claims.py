# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Which of the papers' claims hold here, and how sure are we?
#
# The other notebooks write tables. Here each published claim stands beside the figure of ours that bears on it. The
# verdict follows from our interval by one rule.
#
# | | |
# |---|---|
# | *Reads* | the tables of the other notebooks in the figures folder of the profile; nothing is computed anew |
# | *Writes* | `claims` (csv, json, png, pdf) |
# | *Paper item* | the claims of Latent Terms (arXiv 2605.29384), SPLARE (arXiv 2603.13277) and others |
# | *Runtime* | seconds; what another notebook has not written yet is "not tested", and that notebook is named |

# %% tags=["parameters"]
profile = None  # "smoke", "laptop" or "paper"; None is what LATENT_TERMS_PROFILE names, else "smoke"

# %%
from lib.report.claims import claims_figure, claims_in_words
from lib.report.common import save_figure, save_results
from lib.studies.claims import claims_study
from lib.studies.profiles import start
from lib.studies.provenance import provenance

profile = start(profile)
folder = profile.figures_folder
table, origin = claims_study(folder)

# %% [markdown]
# ## The rule
# A claim says which values agree with it, and which of these are of the published size or beyond. Our figure has a 95 %
# interval.
#
# - *holds*: the interval lies wholly among the values that agree, and reaches the published size.
# - *holds weaker*: it lies wholly among the values that agree, but below the published size.
# - *does not hold here*: it does not lie wholly among the values that agree: *contradicted* if it lies wholly outside,
#   *undecided* if on both sides. Then our data are too few to say, and that supports no claim.
# - *not tested*: no result, none with an interval, or a comparison that could not have come out otherwise.
#
# "No gain", "robust" and "as well" are claims like any other: the interval must lie within a margin of 0.02 nDCG@10
# (0.01 for a doubling), so a wide interval does not pass for a proof. An interval of a mean over collections takes
# their queries as independent samples. `limit` has claims of its own and is in no mean. Where a difference is one of
# autoencoders trained once each, the interval also holds what two seeds differ by (`52_seeds`); slopes and peaks over
# layers and widths do not ("one run each"). What nobody else claims is marked as ours.
#
# `tested_with` says what of a source was tested. Of SPLARE it is the readout of a frozen retriever, which SPLARE trains
# through the latents; rows of *SPLARE, trained* are on models that were trained here.
#
# In all profiles the claims about retrieval are judged on the packaged model, but for two that are about retrievers:
# those are judged on the table of `22_backbones`, with small autoencoders, and take part if it has two retrievers.

# %%
table[["source", "claim", "on", "published", "ours", "verdict", "why", "notebook"]]

# %% [markdown]
# ## The figure

# %%
figure = claims_figure(table)

# %%
save_results(table, folder, "claims", provenance(profile, **origin))
save_figure(figure, folder, "claims")

# %% [markdown]
# ## The answer

# %%
print(claims_in_words(table))
