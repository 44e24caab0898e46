# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Do latent terms rank as well as the retriever that they come from?
#
# Lexical BM25, dense search and BM25 over latent terms rank the same collections. Dense search and latent terms use the
# same forward pass of the same frozen model; the autoencoder was trained without queries and judgements.
#
# | | |
# |---|---|
# | *Reads* | the collections of the profile, the packaged model |
# | *Writes* | `retrieval` (csv, json, png, pdf), `retrieval_per_query.csv` |
# | *Paper item* | Table 1 of Latent Terms (arXiv 2605.29384) |
# | *Runtime* | `smoke` about three minutes, `laptop` about an hour on two cores, half of it SPLADE |

# %% tags=["parameters"]
profile = None  # "smoke", "laptop" or "paper"; None is what LATENT_TERMS_PROFILE names, else "smoke"

# %%
from lib import LatentTerms
from lib.report.common import save_study
from lib.report.retrieval import retrieval_figure, wide_table
from lib.studies.profiles import start
from lib.studies.provenance import provenance
from lib.studies.published import PUBLISHED
from lib.studies.retrieval import given_splade, retrieval_table

profile = start(profile)
collections = profile.collections  # or your own: a list of folders in BEIR layout and ids of ir_datasets
model = LatentTerms.from_pretrained(dtype=profile.dtype)
model

# %% [markdown]
# ## What is compared
# - *lexical BM25*: stemmed words without stop words, k1 = 1.2, b = 0.75 (bm25s, Lucene's variant).
# - *dense*: the model's own embedding of the text, exact inner product.
# - *late interaction*: the similarity of each query token to the document's nearest token, summed (MaxSim), over the
#   states that latent terms are made of. The retriever was not trained for it.
# - *SPLADE*, if the profile or LATENT_TERMS_SPLADE names a model: learned sparse vectors over words, inner product.
# - *latent terms*: BM25 over summed sparse codes with the paper's untuned k1 = 8, b = 0.7.
# - *latent terms, tuned*: the same with the constants recommended for the model, chosen on training queries
#   (`python -m lib tune`) other than the queries below.
# - *… + lexical*: reciprocal-rank fusion with lexical BM25.
# - *dense + words, weighted*: the usual hybrid; the sum of the embedding's and BM25's scores, each
#   divided by the most that it could be. *latent terms + words*: both in one inverted index. *all of one pass*: latent
#   terms, words and the embedding (`lib.Searcher`). Weights were chosen on training queries, as the constants.
#
# Intervals are 95 % bootstrap intervals over queries. p is that of a two-sided paired randomisation test against
# dense, `p_holm` corrected for the number of systems.

# %%
summary, values, origin = retrieval_table(model, collections, splade=given_splade())
summary[summary["measure"] == "nDCG@10"].drop(columns="measure").round(4)

# %% [markdown]
# ## The table
# ↑ significantly better, ↓ worse than dense (p_holm < 0.05).

# %%
wide_table(summary, "nDCG@10")

# %%
wide_table(summary, "R@100")

# %% [markdown]
# ## Published figures, for comparison only
# nDCG@10 of the paper's retrievers on BEIR; of these collections, only SciFact and NFCorpus are among ours.

# %%
PUBLISHED

# %% [markdown]
# ## Latent terms against dense, collection by collection
# With p_holm of 0.05 or more the two do not differ significantly.

# %%
latent = summary[(summary["system"] == "latent terms") & (summary["measure"] == "nDCG@10")]
dense = summary[(summary["system"] == "dense") & (summary["measure"] == "nDCG@10")].set_index("collection")["mean"]
latent = latent.set_index("collection")[["mean", "difference", "difference_low", "difference_high", "p_holm"]]
latent.insert(1, "dense", dense)
latent["ratio"] = latent["mean"] / latent["dense"]
latent.round(4)

# %%
for name, row in latent.iterrows():
    verdict = "better" if row["difference"] > 0 else "worse"
    if row["p_holm"] >= 0.05:
        verdict = "not significantly different"
    print(f"{name}: latent terms {row['mean']:.3f}, dense {row['dense']:.3f}: {verdict}")

# %% [markdown]
# ## The figure
# Fusions by reciprocal ranks are in the table only.

# %%
figure = retrieval_figure(summary, "nDCG@10")
tables, figures = {"retrieval": summary}, {"retrieval": figure}
save_study(profile.figures_folder, provenance(profile, **origin), tables, figures, values)
