"""The autoencoder of embeddings (32_steering): codes and what is decoded by hand, trained once."""

import numpy as np
import torch

from lib.data.training_text import GivenText
from lib.sae.autoencoder import SparseAutoencoder
from lib.sae.codes import FinishedTopK
from lib.studies import pooled
from lib.studies.profiles import SMOKE, PooledSize
from lib.support.store import Store


def test_codes_are_rows_and_are_decoded_by_the_decoder():
    weights = torch.tensor([[1.0, 0], [0, 1], [-1, 0]])
    sae = SparseAutoencoder(weights, torch.zeros(3), 2 * weights, torch.tensor([0.0, 0.5]), FinishedTopK(1))
    codes = pooled.codes_of(sae, np.array([[3, 1], [-2, 0.5], [0, 0.5]]))
    assert codes.toarray().tolist() == [[3, 0, 0], [0, 0, 2], [0, 0, 0]]
    assert pooled.decoded(sae, codes).tolist() == [[6, 0.5], [-4, 0.5], [0, 0.5]]


def test_it_is_trained_once_on_passages_and_their_sentences(tiny_encoder, tmp_path, monkeypatch):
    passages = [f"A cat number {i} sat. The dog saw {i} birds." for i in range(12)]
    monkeypatch.setattr(pooled, "training_text", lambda sweeps, tokens, store: (GivenText(passages), "cats"))
    read, stream = [], tiny_encoder.stream
    monkeypatch.setattr(tiny_encoder, "stream", lambda texts: read.extend(texts) or stream(texts))
    size, store = PooledSize(passages=10, width=16, k=4, epochs=2, batch=8), Store(tmp_path)
    sae = pooled.pooled_autoencoder(tiny_encoder, size, SMOKE.sweeps, store)
    assert len(read) == 10 * 3 and len(set(read) & set(passages)) == 10
    assert (sae.width, sae.k, sae.d) == (16, 4, tiny_encoder.d)
    assert 0 < sae.metadata["final"]["fvu"] < 1.5
    again = pooled.pooled_autoencoder(tiny_encoder, size, SMOKE.sweeps, store)
    assert again.identity == sae.identity and len(read) == 30
