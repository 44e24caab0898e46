# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Latent Terms in sentence-transformers
#
# A `SentenceTransformer` in a folder becomes a `SparseEncoder`, its rows become the documents of a BM25 index, and the
# trainer of sentence-transformers trains a second retriever's autoencoder.
#
# | | |
# |---|---|
# | *Reads* | a part of the built-in collection `pydoc`; the packaged model and its retriever, a folder |
# | *Writes* | `sentence_transformers`, `prompts` (.csv, .json) |
# | *Paper item* | none; the modules are those of sentence-transformers' pull request 3796 |
# | *Runtime* | about a minute on two cores |

# %% tags=["parameters"]
profile = None  # "smoke", "laptop" or "paper"; None is what LATENT_TERMS_PROFILE names, else "smoke"

# %%
import tempfile

import pandas as pd
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SparseEncoder,
    SparseEncoderTrainer,
    SparseEncoderTrainingArguments,
)

from lib import LatentTerms, Ranking, TokenEncoder, evaluate, load_collection
from lib.bm25.ranking import top_k
from lib.encode.packaged import locate
from lib.evaluation.baselines import dense_search
from lib.interop.conversion import from_sparse_encoder, load_sparse_encoder, term_matrix, to_sparse_encoder
from lib.interop.losses import TokenReconstructionLoss
from lib.interop.modules import SparseAutoEncoderTokenEncoder, SparseTokenPooling
from lib.report.common import save_results
from lib.studies.profiles import start
from lib.studies.provenance import provenance

profile = start(profile)
n_queries, n_docs = 40, 150
n_steps = 40
_, folder = locate(None)  # any folder that SentenceTransformer.save_pretrained wrote, if an autoencoder fits it
pydoc = load_collection("pydoc/test")
query_ids, queries = pydoc.query_ids[:n_queries], pydoc.query_texts[:n_queries]
qrels = {query: pydoc.qrels[query] for query in query_ids}
judged = {doc for relevant in qrels.values() for doc in relevant}
rows = sorted(range(len(pydoc.doc_ids)), key=lambda row: pydoc.doc_ids[row] not in judged)[:n_docs]
doc_ids, docs = [pydoc.doc_ids[row] for row in rows], [pydoc.doc_texts[row] for row in rows]
print(f"{len(docs)} documents, {len(queries)} queries; the retriever is in {folder}")

# %% [markdown]
# ## 1. From a folder to a BM25 search
# The packaged autoencoder was trained on the final token states of this retriever, so it fits behind it.

# %%
model = LatentTerms.from_pretrained(encoder=TokenEncoder(folder, dtype="float32"))
encoder = to_sparse_encoder(model)
doc_terms = term_matrix(encoder.encode_document(docs))
query_terms = term_matrix(encoder.encode_query(queries))
index = model.index(doc_terms, doc_ids)
ranking = index.search(query_terms, query_ids, k=100)
evaluate(ranking, qrels, ["nDCG@10"])

# %% [markdown]
# `encoder` is an ordinary `SparseEncoder` of three modules:

# %%
for module in encoder:
    print(type(module).__name__, module.get_embedding_dimension())

# %% [markdown]
# By default it ranks by the dot product, which ignores how rare a latent is and how long a text. The dense retriever
# ranks by the cosine. (So few queries show how it is done, not which is better; `20_retrieval` compares.)

# %%
scores = (query_terms @ doc_terms.T).toarray()
best = [top_k(row, 100) for row in scores]  # positions of documents
dense = SentenceTransformer(folder)
systems = {
    "dense retriever, cosine": dense_search(dense.encode(docs), doc_ids, dense.encode(queries), query_ids),
    "SparseEncoder, dot product": Ranking(
        query_ids,
        [[doc_ids[position] for position in positions] for positions in best],
        [row[positions] for row, positions in zip(scores, best, strict=True)],
    ),
    "SparseEncoder, BM25": ranking,
}
results = pd.DataFrame([{"system": name} | evaluate(run, qrels, ["nDCG@10"]) for name, run in systems.items()])
origin = provenance(profile, retriever=model.encoder.config, documents=n_docs, queries=n_queries)
save_results(results, profile.figures_folder, "sentence_transformers", origin)
results.round(3)

# %% [markdown]
# ## 2. Saved, loaded, and turned back
# It is saved as any `SparseEncoder`, with safetensors only. `SparseEncoder(path, trust_remote_code=True)` loads it:
# sentence-transformers requires the flag for modules of other packages. `load_sparse_encoder` does without it.

# %%
with tempfile.TemporaryDirectory() as path:
    encoder.save_pretrained(path)
    loaded = load_sparse_encoder(path)
    back = from_sparse_encoder(loaded, bm25=model.bm25)
print("the same rows:", abs(term_matrix(loaded.encode_document(docs[:8])) - doc_terms[:8]).max() < 1e-5)
print(back)

# %% [markdown]
# ## 3. Training an autoencoder with `SparseEncoderTrainer`
# The loss is the error of reconstructed token states; the retriever in front stays as it is. Real training takes
# millions of tokens (`10_train_sae` does it several times faster); a few steps on docstrings show that the loss falls.

# %%
transformer = SentenceTransformer(folder)[0]
transformer.max_seq_length = 64
sae = SparseAutoEncoderTokenEncoder(transformer.get_embedding_dimension(), 1_024, k=16, normalize_input=False)
untrained = SparseEncoder(modules=[transformer, sae, SparseTokenPooling(1_024, "sum_sqrt")])
texts = Dataset.from_dict({"text": load_collection("pydoc/train").doc_texts[: 8 * n_steps]})
with tempfile.TemporaryDirectory() as path:
    arguments = SparseEncoderTrainingArguments(
        path,
        learning_rate=3e-3,
        max_steps=n_steps,
        per_device_train_batch_size=8,
        logging_steps=n_steps // 8,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    loss = TokenReconstructionLoss(untrained)
    trainer = SparseEncoderTrainer(untrained, arguments, train_dataset=texts, loss=loss)
    trainer.train()
pd.DataFrame(trainer.state.log_history)[["step", "fvu", "auxk"]].dropna().round(3)

# %% [markdown]
# What was trained this way ranks with BM25 too: `from_sparse_encoder` gives a `LatentTerms`, with `encode_documents`
# and `index`.

# %%
trained = from_sparse_encoder(untrained)
trained_index = trained.index(trained.encode_documents(docs), doc_ids)
evaluate(trained_index.search(trained.encode_queries(queries), query_ids, k=100), qrels, ["nDCG@10"])

# %% [markdown]
# ## 4. A prompt, and whether its tokens are pooled
# Many retrievers were trained with a prompt before each text. `TokenEncoder` takes it from the model's configuration
# or from you, and with `include_prompt=False` reads it but does not count its tokens. This retriever was trained
# without prompts; the table shows how much either choice changes.


# %%
def quality(**settings) -> dict:
    prompted = LatentTerms(TokenEncoder(folder, dtype="float32", **settings), model.sae, bm25=model.bm25)
    texts = prompted.encode_documents(docs) if "document_prompt" in settings else doc_terms  # of section 1
    questions = prompted.encode_queries(queries)
    run = prompted.index(texts, doc_ids).search(questions, query_ids, k=100)
    counts = {"latents_per_doc": texts.nnz / len(docs), "latents_per_query": questions.nnz / len(queries)}
    return counts | evaluate(run, qrels, ["nDCG@10"])


short = {"query_prompt": "query: ", "document_prompt": "passage: "}
long = {"query_prompt": "Instruct: Given a question, find the docstring that answers it. Query: "}
effect = [{"prompt": "none", "pooled": "", **quality()}]
for name, prompts in {"query: / passage: ": short, "an instruction before queries": long}.items():
    for pooled in (True, False):
        effect.append({"prompt": name, "pooled": pooled, **quality(**prompts, include_prompt=pooled)})
effect = pd.DataFrame(effect)
save_results(effect, profile.figures_folder, "prompts", origin)
effect.round(3)

# %% [markdown]
# A long instruction fills a short query with latents of its own unless they are left out. (Forty queries again: the
# table shows what the parameter does, not which prompt is best.)
