"""An autoencoder that reads a retriever's embeddings: a text has the codes of one vector (32_steering).

As in "Disentangling Dense Embeddings with Sparse Autoencoders" (O'Neill et al., arXiv 2408.00657): Top-K codes z of an
embedding e, trained to reconstruct it; a query is changed by its codes and decoded, e' = W_dec^T z' + b_pre. Texts of
training are passages, and their sentences each by itself, since queries are short and documents are not.
"""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_array

from lib.benchmarks.grown import sentences_of
from lib.bm25.pooling import pool
from lib.data.collection import Collection
from lib.encode.encoder import TokenEncoder
from lib.encode.states import StoredStates
from lib.evaluation.baselines import dense_search, inner_product_search
from lib.latent_terms import LatentTerms
from lib.sae.autoencoder import SparseAutoencoder
from lib.sae.trainer import train
from lib.sae.training import TrainingConfig
from lib.studies import names
from lib.studies.comparison import averages_of, columns_first, summary_of, values_of
from lib.studies.encoded import encode_collection
from lib.studies.inputs import shuffled, training_text
from lib.studies.profiles import PooledSize, SweepSize
from lib.studies.sweeps import is_trained
from lib.support.folders import digest_json
from lib.support.store import Store

CUTOFF = 10
LONGEST = 256  # tokens of a passage, nearly


def pooled_autoencoder(
    encoder: TokenEncoder, size: PooledSize, sweeps: SweepSize, store: Store | None = None
) -> SparseAutoencoder:
    """Return an autoencoder of a retriever's embeddings of texts, trained if it is not in the store.

    The text is that of the sweeps, of which `size.passages` passages are drawn.
    """
    store = store or Store()
    corpus, _ = training_text(sweeps, LONGEST * size.passages, store)
    passages = list(shuffled(corpus))[: size.passages]
    texts = passages + [sentence for passage in passages for sentence in sentences_of(passage)]
    key = {"encoder": encoder.identity, "texts": digest_json(texts)}
    config = TrainingConfig(
        width=size.width, k=size.k, epochs=size.epochs, batch_tokens=size.batch, normalisation="scaled"
    )

    def make(folder: Path) -> None:
        embeddings = store.get("text-embeddings", key, partial(_embeddings, encoder, texts))["embeddings"]
        train(StoredStates([torch.from_numpy(np.array(embeddings))], key), config).save(folder)

    return SparseAutoencoder.load(store.make("sae", {"embeddings": key, "config": asdict(config)}, is_trained, make))


def _embeddings(encoder: TokenEncoder, texts: list[str]) -> dict[str, np.ndarray]:
    return {"embeddings": np.concatenate([block.pooled for block in encoder.stream(texts)])}


def codes_of(sae: SparseAutoencoder, embeddings: np.ndarray) -> csr_array:
    """Return the codes of embeddings [n, d], float32 [n, width], indices ascending."""
    codes = sae.encode(torch.from_numpy(np.array(embeddings, np.float32)))
    return pool(codes.indices.numpy(), codes.values.numpy(), np.arange(len(embeddings) + 1), sae.width, "sum")


def decoded(sae: SparseAutoencoder, codes: csr_array) -> np.ndarray:
    """Return the embeddings, float32 [n, d], that codes, float32 [n, width], reconstruct."""
    return codes @ sae.W_dec.numpy() + sae.b_pre.numpy()


def pooled_rankings(
    model: LatentTerms, sae: SparseAutoencoder, collections: Sequence[Collection], store: Store
) -> pd.DataFrame:
    """Return nDCG@10 of the retriever's embedding, of its codes, of queries decoded from them, and of the model.

    A row for each collection and system, and for the mean of several without LIMIT, with the columns of `summary_of`.
    """
    tables, of_mean = [], []
    for collection in collections:
        encoded = encode_collection(model, collection, store)
        ids = collection.doc_ids, collection.query_ids
        embeddings = encoded.doc_embeddings, encoded.query_embeddings
        docs, queries = (codes_of(sae, rows) for rows in embeddings)
        index = model.index(encoded.doc_terms, ids[0])
        rankings = {
            names.DENSE: dense_search(embeddings[0], ids[0], embeddings[1], ids[1], CUTOFF + 1),
            names.OF_EMBEDDINGS: inner_product_search(docs, ids[0], queries, ids[1], CUTOFF + 1),
            names.DECODED: dense_search(embeddings[0], ids[0], decoded(sae, queries), ids[1], CUTOFF + 1),
            names.TUNED: index.search(encoded.query_terms, ids[1], CUTOFF + 1),
        }
        values = {system: values_of(ranking, collection)[0] for system, ranking in rankings.items()}
        tables.append(summary_of(values, names.DENSE).assign(collection=collection.full_name))
        if not names.is_limit(collection.full_name):
            of_mean.append(values)
    if len(of_mean) > 1:
        tables.append(averages_of(of_mean, names.DENSE).assign(collection=names.MEAN))
    return columns_first(pd.concat(tables, ignore_index=True), "collection")
