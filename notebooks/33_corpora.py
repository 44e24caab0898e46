# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # In which latents do two corpora differ, and do words say the same?
#
# Corpora are compared by their latents and by their words, with the same statistic (log-odds with a prior). Labels of
# latents are made without a language model; do words confirm what they say, and is there something that only latents
# find? Then documents are clustered, and the clusters compared with groups that are known. The rule is in
# `lib/studies/corpora.py`.
#
# | | |
# |---|---|
# | *Reads* | collections of the profile in groups (pydoc by module, squad by article) or against each other |
# | *Writes* | `corpora` (csv, json, png, pdf); `corpora_contrasts`, `_latents`, `_together`, `_clusters` (csv, json) |
# | *Paper item* | ours; the statistic is that of Monroe, Colaresi and Quinn (2008) |
# | *Runtime* | `smoke` seconds, `laptop` half an hour on two cores |

# %% tags=["parameters"]
profile = None  # "smoke", "laptop" or "paper"; None is what LATENT_TERMS_PROFILE names, else "smoke"

# %%
from lib import LatentTerms
from lib.report.common import save_study
from lib.report.corpora import corpora_figure, corpora_in_words
from lib.studies.corpora import corpora_study
from lib.studies.profiles import start
from lib.studies.provenance import provenance

profile = start(profile)
model = LatentTerms.load(dtype=profile.dtype)

# %% [markdown]
# ## What differs
# `terms` is how many differ in a contrast, `recurs` the share of them that differs the same way in held-out documents,
# `auc` how well they distinguish held-out documents. `agree` is the share of the latents of which a word of the label
# differs the same way, `control` that with the labels dealt out anew.

# %%
tables, origin = corpora_study(model, profile.corpora, profile.corpora_docs)
tables["corpora"].round(3)

# %% [markdown]
# ## Which latents
# `share_a` of the documents of the contrast's group have the latent, `share_b` of the others.

# %%
tables["corpora_latents"].drop(columns="latent").round(2)

# %% [markdown]
# ## What goes together
# Pairs of latents that occur in the same texts without being alike, neither in what they write nor in their label,
# with their normalised pointwise mutual information in each half of the texts; in the control the second latent is
# another.

# %%
pairs = tables["corpora_together"].groupby("corpora", sort=False).head(8)
pairs[["corpora", "label_a", "label_b", "texts", "npmi", "held_out_npmi", "control_npmi"]].round(2)

# %% [markdown]
# ## Clusters
# k-means on documents as their indexes weigh them, against the known groups; `difference` is from clusters by words.

# %%
tables["corpora_clusters"].round(3)

# %%
figure = corpora_figure(tables["corpora"], tables["corpora_clusters"])
save_study(profile.figures_folder, provenance(profile, **origin), tables, {"corpora": figure})

# %% [markdown]
# ## The answer

# %%
print(corpora_in_words(tables["corpora"], tables["corpora_together"], tables["corpora_clusters"]))
