# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # How few latents can an embedding have?
#
# An autoencoder reads the retriever's embedding and keeps k latents of it: CSR (arXiv 2503.01776). CSRv2 says that an
# annealed k, supervised positives and a finetuned retriever make very small k usable. Beside both stand the embedding
# cut to its first dimensions, and the same of a retriever that was finetuned to be cut (Matryoshka), all on the same
# pairs.
#
# | | |
# |---|---|
# | *Reads* | the collections of the profile; pairs in the folder `LATENT_TERMS_PAIRS`; extra `learned` |
# | *Writes* | `csr` (csv, json, png, pdf), `csr_contrasts` (csv, json, png, pdf), `csr_tried` (csv, json) |
# | *Paper item* | CSRv2, +14 % at k = 2 and +7 % at k = 4 over CSR, dead latents 80 % to 20 % |
# | *Runtime* | `smoke` about a minute; `laptop` under an hour: two finetuned retrievers, 63 autoencoders |

# %% tags=["parameters"]
profile = None  # "smoke", "laptop" or "paper"; None is what LATENT_TERMS_PROFILE names, else "smoke"

# %%
from lib.report.common import save_study
from lib.report.csr import csr_figure, csr_in_words
from lib.report.trained import contrasts_figure, means_of
from lib.studies.csr import csr_study
from lib.studies.profiles import start
from lib.studies.provenance import provenance
from lib.studies.trained import bench

profile = start(profile)
here = bench(profile)
here.size

# %% [markdown]
# ## The rule
# Of 2026-11-29, before any result; the whole of it stands in `lib/studies/trained.py` and `lib/studies/csr.py`.
# Learning rates, and the weight gamma of the contrastive loss at k = 8, are chosen on training queries of SciFact and
# `pydoc`, with one seed; the last state of a fixed number of steps is what is measured. Of 2026-11-30, after first
# results, are the larger two of the four rates, an AuxK that acts, and as many steps with supervised positives as
# without. `squad` and `pydoc` are *near*: some of the pairs are of their kind. In the cells of the ablation the
# retriever is finetuned first, and the autoencoder reads it as it is then. A run that was killed goes on from its last
# checkpoint.

# %%
tables, origin = csr_study(here)
tables["csr_tried"].round(4)

# %% [markdown]
# ## Every size
# Means over the collections. `dead` is the share of the latents that no document of any collection and no text of the
# pairs has; `median_ms` is of one query and one thread on `timed.n_docs` documents: those of the largest collection,
# over and over, each copy times a number of its own near 1.

# %%
shown = ["kind", "k", "bytes", "seeds", "mean", "low", "high", "R@100", "dead", "reads", "median_ms"]
means_of(tables["csr"])[shown].round(4)

# %% [markdown]
# ## The pairs of systems that were named beforehand
# Differences in nDCG@10 with 95 % intervals over queries; p of a paired randomisation test, `p_holm` corrected over the
# pairs of a collection.

# %%
tables["csr_contrasts"].drop(columns="p").round(4)

# %%
figures = {"csr": csr_figure(tables["csr"]), "csr_contrasts": contrasts_figure(tables["csr_contrasts"])}
save_study(profile.figures_folder, provenance(profile, **origin), tables, figures)

# %% [markdown]
# ## The answer

# %%
print(csr_in_words(tables["csr"], tables["csr_contrasts"]))
