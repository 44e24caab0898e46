# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What does training through latents buy, and do latents beat words?
#
# SPLARE (arXiv 2603.13277) finetunes a retriever by LoRA so that the largest activations of a frozen autoencoder's
# latents, `max log(1 + z)`, rank by their inner product. It stands beside what it was made of (the same latents,
# untrained), beside the tokenizer's words in the latents' place (the trained vocabulary, its control), and beside the
# dense retriever finetuned on the same pairs.
#
# | | |
# |---|---|
# | *Reads* | collections and text as `40_layers`; pairs in the folder `LATENT_TERMS_PAIRS`; extra `learned` |
# | *Writes* | `splare*`: one, contrasts and latency (csv, json, png, pdf), eight more tables, values of queries |
# | *Paper item* | SPLARE: layers and widths, Top-K pruning and index distribution, latency against nDCG |
# | *Runtime* | `smoke` about a minute; `laptop` four hours on two cores with AVX2 |

# %% tags=["parameters"]
profile = None  # "smoke", "laptop" or "paper"; None is what LATENT_TERMS_PROFILE names, else "smoke"

# %%
from lib.report.common import save_study
from lib.report.splare import latency_figure, splare_figure, splare_in_words
from lib.report.trained import contrasts_figure, means_of
from lib.studies.profiles import start
from lib.studies.provenance import provenance
from lib.studies.splare import splare_study
from lib.studies.trained import bench

profile = start(profile)
here = bench(profile)
here.size

# %% [markdown]
# ## The rule
# Of 2026-11-29, before any result; the whole of it stands in `lib/studies/trained.py` and `lib/studies/splare.py`,
# where what was added on 2026-11-30 is marked. All that is trained has the same pairs, batches and steps, but for what
# is trained once more, on more pairs. Two learning rates of each kind are tried on training queries of SciFact and
# `pydoc`; the last state is what is measured, with three seeds. `squad` and `pydoc` are *near*: some of the pairs are
# of their kind. A run that was killed goes on from its last checkpoint.

# %%
tables, by_query, origin = splare_study(here)
tables["splare_tried"].round(4)

# %% [markdown]
# ## Every system
# nDCG@10 against the same latents untrained; `seed_sd` is the standard deviation of the seeds' means, `reads` how many
# postings an average query reads, `doc_terms` and `query_terms` the latents of an average text. The vocabulary head has
# no trained head of its own: this retriever has none, so words are read by its word embeddings, the 16 largest of a
# token, as many as it has latents.

# %%
shown = ["collection", "near", "system", "mean", "seed_sd", "difference", "difference_low", "difference_high"]
tables["splare"][[*shown, "p_holm", "R@100", "doc_terms", "query_terms", "reads"]].round(4)

# %%
tables["splare_contrasts"].drop(columns="p").round(4)

# %% [markdown]
# ## Layers, widths, pairs, pruning, and the index
# One seed each, layers and widths beside untrained ones; pruned documents are searched by the 40 largest weights of a
# query.

# %%
means_of(tables["splare_layers"])[["kind", "layer", "mean", "low", "high", "difference"]].round(4)

# %%
means_of(tables["splare_widths"])[["kind", "width", "mean", "low", "high", "difference"]].round(4)

# %%
means_of(tables["splare_pairs"])[["system", "mean", "low", "high", "difference", "reads"]].round(4)

# %%
tables["splare_pairs_contrasts"].drop(columns="p").round(4)

# %%
tables.get("splare_pairs_tried")  # None where no more pairs are trained on

# %%
drawn = ("layers", "widths", "pairs", "pruning", "lengths")
figures = {
    "splare": splare_figure(*(tables[f"splare_{name}"] for name in drawn)),
    "splare_contrasts": contrasts_figure(tables["splare_contrasts"]),
    "splare_latency": latency_figure(tables["splare_latency"], tables["splare"]),
}
save_study(profile.figures_folder, provenance(profile, **origin), tables, figures, by_query)

# %% [markdown]
# ## The answer

# %%
print(splare_in_words(*(tables[f"splare_{name}"] for name in ("contrasts", "pairs_contrasts", "pruning", "latency"))))
