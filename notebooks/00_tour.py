# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From a text to a ranking
#
# A dense retriever turns a text into one vector. On the way it computes a vector for every token, and those token
# states already contain a vocabulary. This notebook follows one query from its characters to a ranked list and prints
# the result of every stage.
#
# | | |
# |---|---|
# | *Reads* | `smoke`: a sample of the built-in `pydoc`; `laptop`: SciFact; the packaged model |
# | *Writes* | `rank_frequency` (.png, .pdf, .csv, .json) |
# | *Paper item* | the pipeline, and the rank-frequency figure of Latent Terms (arXiv 2605.29384) |
# | *Runtime* | `smoke` about a minute, `laptop` three minutes on two cores |

# %% tags=["parameters"]
profile = None  # "smoke", "laptop" or "paper"; None is what LATENT_TERMS_PROFILE names, else "smoke"

# %%
import numpy as np
import pandas as pd
from IPython.display import display

from lib import BM25Index, LatentTerms, evaluate, load_collection
from lib.inspect.search import Search
from lib.inspect.vocabulary import top_tokens, word_counts
from lib.report.common import save_study
from lib.report.zipf import rank_frequency_figure
from lib.studies.encoded import encode_collection, latent_tokens
from lib.studies.profiles import start
from lib.studies.provenance import provenance
from lib.studies.zipf import rank_frequency_curves

profile = start(profile)
collection, query_number = load_collection(profile.collections[0]), 3
model = LatentTerms.from_pretrained(dtype=profile.dtype)
collection

# %% [markdown]
# ## 1. Text to token states
# The retriever is frozen: it was trained to embed sentences and is not trained here. We take the state of each token in
# its final layer.

# %%
query = collection.query_texts[query_number]
(block,) = model.encoder.stream([query], "query")
tokens = model.encoder.tokenizer.convert_ids_to_tokens(block.token_ids)
print(query)
print(f"{len(tokens)} tokens, a state of {block.states.shape[1]} numbers each; the first four of each:")
pd.DataFrame(block.states[:, :4].cpu().numpy().round(2), index=tokens)

# %% [markdown]
# ## 2. Token states to sparse codes
# The sparse autoencoder was trained on general English text to rebuild such states from a few latents each. To see what
# a latent means, look at the tokens of the collection in which it is active: below, each latent is shown with the
# tokens that make up most of its activation.

# %%
codes = model.sae.encode(block.states)
print(f"{model.sae.width:,} latents, of which a token has at most {codes.indices.shape[1]}")
tokens_of_latents = latent_tokens(model, collection.doc_texts[: profile.mass_texts])
vocabulary = model.encoder.tokenizer.convert_ids_to_tokens(range(len(model.encoder.tokenizer)))


def meaning(latent: int) -> str:
    shares = top_tokens(tokens_of_latents, latent, vocabulary, 4)
    return ", ".join(f"{token} {share:.0%}" for token, share in shares) or "(not active)"


def latents_of(position: int, n: int = 6) -> pd.DataFrame:
    order = codes.values[position].argsort(descending=True)[:n]
    latents = codes.indices[position][order].tolist()
    return pd.DataFrame(
        {
            "latent": latents,
            "activation": codes.values[position][order].tolist(),
            "shared with": [meaning(j) for j in latents],
        }
    ).round(2)


for position in range(1, min(5, len(tokens) - 1)):
    print(f"\nThe strongest latents of {tokens[position]!r}:")
    display(latents_of(position))

# %% [markdown]
# ## 3. Sparse codes to term weights
# Sum the codes over the text's tokens and take the square root: the text is now a bag of latent terms. The order of the
# tokens is lost; the result is a row of a document-term matrix, as sparse as one of words.

# %%
query_terms = model.encode_queries([query])
order = np.argsort(-query_terms.data)[:10]
print(f"{query_terms.nnz} of {query_terms.shape[1]:,} latents have a weight; the ten heaviest:")
pd.DataFrame(
    {
        "latent": query_terms.indices[order],
        "weight": query_terms.data[order].round(2),
        "shared with": [meaning(j) for j in query_terms.indices[order]],
    }
)

# %% [markdown]
# ## 4. Documents to an inverted index
# The same for every document. From here on no Transformer is needed: this is an inverted index like any other, with
# latents instead of words. (Late interaction ranks in the same pass; `20_retrieval` finds both in the store.)

# %%
encoded = encode_collection(model, collection, late=100)
index = BM25Index.build(encoded.doc_terms, collection.doc_ids)
per_document = np.diff(encoded.doc_terms.indptr)
print(index)
print(f"latents per document: median {np.median(per_document):.0f}, largest {per_document.max()}")

# %% [markdown]
# ## 5. The ranking, and the score explained
# BM25 with the paper's constants. The score is a sum over latents, so each latent's part of it is exact.

# %%
ranking = index.search(query_terms, ["q"], k=5)
text_of = dict(zip(collection.doc_ids, collection.doc_texts, strict=True))
relevant = collection.qrels[collection.query_ids[query_number]]
pd.DataFrame(
    [
        {"score": round(score, 2), "relevant": doc_id in relevant, "document": doc_id, "text": text_of[doc_id][:70]}
        for doc_id, score in ranking["q"]
    ]
)

# %%
best = ranking.doc_ids[0][0]
parts = index.explain(query_terms, best)
print(f"{best}: score {ranking.scores[0][0]:.3f}, the sum of {len(parts)} latents' {sum(p.score for p in parts):.3f}")
frame = pd.DataFrame(parts[:10]).round(3)
frame["shared with"] = [meaning(part.latent) for part in parts[:10]]
frame

# %% [markdown]
# ## 6. Is it any good?
# Every judged query counts. `20_retrieval` compares these values with dense search and lexical BM25.

# %%
full = index.search(encoded.query_terms, collection.query_ids, k=100)
evaluate(full, collection.qrels, ["nDCG@10", "R@100"])

# %% [markdown]
# ## 7. Is it a vocabulary like a language's?
# Sort the terms by how often they occur and plot frequency against rank, both on logarithmic axes: words lie close to
# Zipf's straight line. Every token has several latents, so latents occur more often than words, and their curve drops
# where words have a long tail of terms that occur once. The figure has no fit (`30_zipf` has): words are counted in
# whole texts, latents in the tokens that the model pools.

# %%
words = word_counts(collection.doc_texts)
curves = rank_frequency_curves({"words": words.values(), "latents": encoded.firings})
figure = rank_frequency_figure(curves)
origin = provenance(profile, model=model.identity, collection=collection.identity)
save_study(profile.figures_folder, origin, {"rank_frequency": curves}, {"rank_frequency": figure})

# %% [markdown]
# ## 8. Search by hand
# Type a query into the box. Tokens of the documents are shaded by what their latents add to the score, and a score
# opens into its latents. The sliders make the query's heaviest latents weaker or stronger; at 0 a latent is silent.
# The box needs a running notebook.

# %%
search = Search(model, index, collection, k=3)
search.query.value = query
search
