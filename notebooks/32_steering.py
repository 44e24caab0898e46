# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Can a person say "less of this"?
#
# A query asks for two topics at once. The latents that belong to one of them are silenced: do its documents fall while
# those of the other stay, and is the other found as well as before? Random latents of the same query are the control.
# The rule, with how topics are paired and their latents chosen, is in `lib/studies/steering.py` and was written before
# any result. The latents are those of tokens, in which a text is a document of many terms, and beside them those of an
# autoencoder of the retriever's embedding, in which it is one vector.
#
# | | |
# |---|---|
# | *Reads* | the collections of the profile, the packaged model |
# | *Writes* | `steering` (csv, json, png, pdf), `steering_rankings` (csv, json), `steering_per_query` (csv) |
# | *Paper item* | ours; the formula of `less` is Rocchio's (1971), latents of embeddings are of arXiv 2408.00657 |
# | *Runtime* | `smoke` seconds, `laptop` an hour on two cores, with the collections encoded |

# %% tags=["parameters"]
profile = None  # "smoke", "laptop" or "paper"; None is what LATENT_TERMS_PROFILE names, else "smoke"

# %%
import numpy as np
import pandas as pd

from lib import LatentTerms, load_collection
from lib.inspect.vocabulary import top_tokens
from lib.report.common import save_study
from lib.report.steering import main_rows, steering_figure, steering_in_words
from lib.studies import steering
from lib.studies.encoded import encode_collection, latent_tokens
from lib.studies.pooled import pooled_autoencoder
from lib.studies.profiles import start
from lib.studies.provenance import provenance

profile = start(profile)
model = LatentTerms.load(dtype=profile.dtype)
collection = load_collection(profile.model_collections[0])

# %% [markdown]
# ## One query
# The first pair of queries of a collection, put one behind the other. Below are the latents that are silenced, those of
# the first topic only that weigh most, with the tokens that make up most of their activation in the collection.

# %%
pairs = steering.paired(collection, profile.steered_pairs)
rows = list(pairs[0])
both = model.encode_queries(steering.two_topics(collection, pairs[:2]).query_texts[:1])
first, second = (model.encode_queries([collection.query_texts[row]]) for row in rows)
encoded = encode_collection(model, collection)
index = model.index(encoded.doc_terms, collection.doc_ids)
steered = {
    system: (query, both.indices[positions])
    for system, query, positions in steering.variants(
        both, first, second, index.df, index.idf, np.random.default_rng(0)
    )
}
silenced = steered[steering.MAIN][1]
tokens_of_latents = latent_tokens(model, collection.doc_texts[: profile.mass_texts])
tokens = model.encoder.tokenizer.convert_ids_to_tokens(range(len(model.encoder.tokenizer)))
meanings = [
    ", ".join(token for token, _ in top_tokens(tokens_of_latents, latent, tokens, 4)) or "(not in these texts)"
    for latent in silenced
]
print(*(collection.query_texts[row] for row in rows), sep="\n")
pd.DataFrame({"latent": silenced, "active on": meanings})

# %% [markdown]
# Where the relevant documents of both queries stand among all, with no latent silenced, these, and all of the topic's.

# %%
relevant = steering.relevant_docs(collection)
shown = {"none": steering.SYSTEMS[0], "these": steering.MAIN, "all": steering.MAIN._replace(n=None)}
scores = {what: index.scores(steered[system][0]) for what, system in shown.items()}
pd.DataFrame(
    [
        {"topic": topic, "document": collection.doc_ids[doc]}
        | {what: steering.ranks(of_all, [doc])[0] for what, of_all in scores.items()}
        for topic, row in zip(("silenced", "kept"), rows, strict=True)
        for doc in relevant[row][:5]
    ]
)

# %% [markdown]
# ## All queries
# `fall` and `kept_fall` are doublings of the rank, of the documents of the topic that is steered away from and of the
# other; `gap` is the difference, `over_frequent` and `over_heavy` are the gap less that of each control, `ndcg` is
# nDCG@10 of the kept topic and `difference` its change. Intervals are over pairs of queries.

# %%
pooled = pooled_autoencoder(model.encoder, profile.pooled, profile.sweeps)
tables, by_pair, origin = steering.steering_study(model, pooled, profile.model_collections, profile.steered_pairs)
shown = ["vocabulary", "collection", "system", "latents", "share", "fall", "kept_fall", "gap", "gap_low", "gap_high"]
main_rows(tables["steering"])[[*shown, "ndcg", "difference", "difference_low", "difference_high"]].round(3)

# %% [markdown]
# How each vocabulary ranks queries as they are: the embeddings themselves, their codes by inner product, queries that
# are decoded from their codes, and the model's latents of tokens.

# %%
tables["steering_rankings"].round(3)

# %%
figure = steering_figure(tables["steering"])
save_study(profile.figures_folder, provenance(profile, **origin), tables, {"steering": figure}, by_pair)

# %% [markdown]
# ## The answer

# %%
print(steering_in_words(tables["steering"], tables["steering_rankings"]))
