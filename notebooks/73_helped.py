# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Does a teacher, a trained start, or BM25 help?
#
# `70_splare` tells a query's answer from its batch, `71_bottleneck` starts joint training from a random autoencoder,
# and `72_csr` reads one finetuned retriever. The papers do more: they learn a stronger ranker's scores of hard
# negatives, start from an autoencoder that was trained before, train both at once. Each help stands beside the same
# training without it, on the same pairs. And what was trained is ranked by BM25, as latent terms are.
#
# | | |
# |---|---|
# | *Reads* | collections and text as `40_layers`; pairs in the folder `LATENT_TERMS_PAIRS`; extras `learned`, `mpnet` |
# | *Writes* | `helped`, `helped_tried` and `helped_latency` (csv, json), `helped_contrasts` (csv, json, png, pdf) |
# | *Paper item* | SPLARE's training with a teacher; CSRv2's finetuned retriever |
# | *Runtime* | `smoke` about a minute; `laptop` under two hours on two cores |

# %% tags=["parameters"]
profile = None  # "smoke", "laptop" or "paper"; None is what LATENT_TERMS_PROFILE names, else "smoke"

# %%
from lib.report.common import save_study
from lib.report.helped import helped_in_words
from lib.report.trained import contrasts_figure, means_of
from lib.studies.helped import helped_study
from lib.studies.profiles import start
from lib.studies.provenance import provenance
from lib.studies.trained import bench

profile = start(profile)
here = bench(profile)
here.size.help_negatives, here.size.help_teachers

# %% [markdown]
# ## The rule
# Of 2026-11-30, before any result; the whole of it stands in `lib/studies/trained.py` and `lib/studies/helped.py`. One
# seed, but three of CSR and CSRv2. Learning rates of each system, with and without its help, are chosen on training
# queries of SciFact and `pydoc`; the teacher's temperature and the number of negatives are defaults and were not tuned.
# A help helps where the interval of its difference lies above 0. A run that was killed goes on from its last
# checkpoint.

# %%
tables, origin = helped_study(here)
tables["helped_tried"].round(4)

# %% [markdown]
# ## Every system
# Means over the collections; differences are from the dense retriever that LoRA finetuned without help. `dead` is the
# share of the latents that no document has; `fvu` is that of embeddings, or of tokens, where codes are of tokens.

# %%
shown = ["system", "seeds", "mean", "low", "high", "difference", "R@100", "doc_terms", "reads", "dead", "fvu"]
means_of(tables["helped"])[shown].round(4)

# %% [markdown]
# ## The pairs of systems that were named beforehand

# %%
tables["helped_contrasts"].drop(columns="p").round(4)

# %% [markdown]
# ## Search of many documents
# Milliseconds of exact search in one thread, by the same index, among grown documents; reads are postings of a query.

# %%
tables["helped_latency"].round(2)

# %%
figures = {"helped_contrasts": contrasts_figure(tables["helped_contrasts"])}
save_study(profile.figures_folder, provenance(profile, **origin), tables, figures)

# %% [markdown]
# ## The answer

# %%
print(helped_in_words(tables["helped"], tables["helped_contrasts"]))
