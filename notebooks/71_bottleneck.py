# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Does training the retriever and the autoencoder together beat either alone?
#
# Six ways to a sparse vector, of one retriever and one set of pairs: dense, without an autoencoder; the trained
# vocabulary; an autoencoder afterwards; CSR; SPLARE; and both trained together, the autoencoder as the retriever's
# bottleneck. The last is a published design without results.
#
# | | |
# |---|---|
# | *Reads* | collections and text as `40_layers`; pairs in the folder `LATENT_TERMS_PAIRS`; extra `learned` |
# | *Writes* | `bottleneck`, its `_contrasts`, `_losses` (csv, json, png, pdf); its `_tried`, `_ablation` (csv, json) |
# | *Paper item* | none |
# | *Runtime* | after `70_splare`: `smoke` about a minute; `laptop` two hours on two cores |

# %% tags=["parameters"]
profile = None  # "smoke", "laptop" or "paper"; None is what LATENT_TERMS_PROFILE names, else "smoke"

# %%
from lib.report.bottleneck import bottleneck_figure, bottleneck_in_words
from lib.report.common import save_study
from lib.report.trained import contrasts_figure, losses_figure, means_of
from lib.studies.bottleneck import bottleneck_study
from lib.studies.profiles import start
from lib.studies.provenance import provenance
from lib.studies.trained import bench

profile = start(profile)
here = bench(profile)
here.size

# %% [markdown]
# ## The rule
# Of 2026-11-29, before any result; the whole of it stands in `lib/studies/trained.py` and `lib/studies/bottleneck.py`.
# All that trains a retriever has the same pairs, batches and steps; the joint ones and their dense control train the
# whole of it, and two learning rates of each were tried on training queries, of the joint ones with two of the
# autoencoder. Joint training of tokens had one seed at first; of 2026-11-30 are its other seeds, its own learning
# rate, its pairs and its pruned rows, other lambdas and k, CSR's constants, which are those of `72_csr`, the
# autoencoders' rates, an AuxK that acts, and a reconstruction of embeddings whose target is a constant (its gradient
# reaches the retriever through the codes). The joint autoencoder starts at random and sees each text once, those of
# CSR and afterwards five times. `squad` and `pydoc` are *near*: some of the pairs are of their kind. A run that was
# killed goes on from its last checkpoint.

# %%
tables, origin = bottleneck_study(here)
tables["bottleneck_tried"].round(4)

# %% [markdown]
# ## Every system
# Against the finetuned dense retriever. `reads` is how many postings an average query reads; `dead` the share of the
# latents that no document has; `fvu` what an autoencoder of embeddings leaves unexplained of them.

# %%
shown = ["collection", "near", "system", "mean", "seed_sd", "difference", "difference_low", "difference_high"]
tables["bottleneck"][[*shown, "p_holm", "R@100", "doc_terms", "reads", "dead", "fvu"]].round(4)

# %%
tables["bottleneck_contrasts"].drop(columns="p").round(4)

# %% [markdown]
# ## One change at a time
# Alpha weighs the reconstruction, lambda FLOPS of both sides; of seed 0, against none of the changes.

# %%
shown = ["system", "mean", "low", "high", "difference", "reads", "dead", "fvu"]
means_of(tables["bottleneck_ablation"])[shown].round(4)

# %%
figures = {
    "bottleneck": bottleneck_figure(tables["bottleneck"], tables["bottleneck_ablation"]),
    "bottleneck_contrasts": contrasts_figure(tables["bottleneck_contrasts"]),
    "bottleneck_losses": losses_figure(tables["bottleneck_losses"]),
}
save_study(profile.figures_folder, provenance(profile, **origin), tables, figures)

# %% [markdown]
# ## The answer

# %%
print(bottleneck_in_words(*(tables[name] for name in ("bottleneck", "bottleneck_contrasts", "bottleneck_ablation"))))
