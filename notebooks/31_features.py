# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What kinds of latents are there, and which of them does the ranking need?
#
# Some latents stand for one word, some for a few, some for a topic with many words. The rule below sorts them, a
# second, independent rule shows how reliable it is, and the collections are ranked with and without each family.
#
# | | |
# |---|---|
# | *Reads* | the collections of the profile, the packaged model |
# | *Writes* | `features`, `families`, `family_contributions` (csv, json), `family_contributions` (png, pdf) |
# | *Paper item* | the analysis of latents in Latent Terms (arXiv 2605.29384) |
# | *Runtime* | `smoke` about a minute, `laptop` two or three on two cores, with the collections encoded |

# %% tags=["parameters"]
profile = None  # "smoke", "laptop" or "paper"; None is what LATENT_TERMS_PROFILE names, else "smoke"

# %%
import numpy as np
import pandas as pd

from lib import LatentTerms, load_collection
from lib.inspect.hierarchy import hierarchy
from lib.inspect.vocabulary import top_tokens
from lib.report.common import save_study
from lib.report.features import contribution_figure, families_in_words
from lib.studies import features
from lib.studies.encoded import encode_collection, latent_tokens
from lib.studies.profiles import start
from lib.studies.provenance import provenance

profile = start(profile)
collections = profile.model_collections
n_texts, n_contexts = profile.mass_texts, profile.context_texts  # documents of the first collection for each rule
query_number = 3
model = LatentTerms.from_pretrained(dtype=profile.dtype)
collection = load_collection(collections[0])
tokens = model.encoder.tokenizer.convert_ids_to_tokens(range(len(model.encoder.tokenizer)))
word_of, words = features.group_words(tokens)

# %% [markdown]
# ## Two rules
# *First rule*: sum a latent's activation over the tokens of some documents, word by word (the forms of a word count as
# one). If one word makes up half of the sum, the latent is *lexical*; if five words do, it is *narrow*; else *broad*.
#
# *Second rule*: in other documents, take only the token of each document where the latent is strongest, in at most 20
# documents, and apply the same limits to the number of these places. A latent with fewer than 10 places is *rare* and
# in no family. The rules share neither documents nor evidence: one uses the summed activation, the other the maxima.

# %%
mass = features.by_word(latent_tokens(model, collection.doc_texts[:n_texts]), word_of, len(words))
contexts = features.strongest_contexts(model, collection.doc_texts[n_texts : n_texts + n_contexts])
counts = features.place_counts(contexts, model.sae.width, len(tokens))
places = features.by_word(counts, word_of, len(words))
agreement, first, second = features.family_agreement(mass, places)
agreement.round(3)

# %%
pd.crosstab(pd.Series(first, name="first rule"), pd.Series(second, name="second rule"))

# %% [markdown]
# ## Examples: top words, and where the latents are strongest


# %%
def meaning(latent: int) -> str:
    return ", ".join(f"{word} {share:.0%}" for word, share in top_tokens(mass, latent, words, 5))


rows = []
for family in ("lexical", "narrow", "broad"):
    members = np.flatnonzero((first == family) & (second == family))
    for latent in np.random.default_rng(0).choice(members, min(3, len(members)), replace=False):
        rows += [(family, latent, meaning(latent), text) for text in features.contexts_of(contexts, latent, tokens, 2)]
pd.DataFrame(rows, columns=["family", "latent", "top words", "strongest contexts"])

# %% [markdown]
# ## Broader latents, and the narrower ones that they contain
# Latent A is above B if A is strong in at least half of B's tokens, and in at least 1.5 times as many in all. They
# are called by the words in which they fire and, in brackets, by those most typical of their texts.

# %%
hierarchy(model, collection.doc_texts[:n_texts])

# %% [markdown]
# ## The latents of a query

# %%
encoded = encode_collection(model, collection)
index = model.index(encoded.doc_terms, collection.doc_ids)
query = encoded.query_terms[[query_number]]
weights = query.data * index.idf[query.indices]
order = np.argsort(-weights)[:12]
print(collection.query_texts[query_number])
heaviest = [(latent, first[latent], meaning(latent)) for latent in query.indices[order]]
table = pd.DataFrame(heaviest, columns=["latent", "family", "top words"])
table.insert(2, "weight x idf", weights[order].round(2))
table

# %% [markdown]
# ## What each family contributes
# The collections are ranked with one family only, without it, and, as a control, without as many latents drawn at
# random. Intervals are over queries; p is against all latents, corrected for the number of systems (Holm).

# %%
table, origin = features.family_study(model, collections, first)
shown = ["collection", "family", "kind", "n_latents", "postings_share", "mean", "low", "high", "difference", "p_holm"]
table[shown].round(3)

# %%
figure = contribution_figure(table)

# %%
origin |= {"n_texts": n_texts, "n_contexts": n_contexts, "rules_on": collection.full_name}
latents = pd.DataFrame({"latent": np.arange(len(first)), "first_rule": first, "second_rule": second})
latents["top_words"] = [" ".join(word for word, _ in top_tokens(mass, j, words, 5)) for j in latents["latent"]]
tables = {"features": latents, "families": agreement, "family_contributions": table}
save_study(profile.figures_folder, provenance(profile, **origin), tables, {"family_contributions": figure})

# %% [markdown]
# ## The answer

# %%
print(families_in_words(agreement, table))
