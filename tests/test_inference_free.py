"""Queries by look-up: equal to a plain loop over tokens, and without a forward pass."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from lib.encode.encoder import TokenEncoder
from lib.inference_free import InferenceFreeQueries, mean_codes
from lib.latent_terms import LatentTerms

DOCS = ["the cat sat", "a dog ran far", "", "the sun and the moon", "the cat sat"]
QUERIES = ["the cat", "", "moon moon sun"]


@pytest.fixture(scope="module")
def model(tiny_encoder, tiny_sae):
    return LatentTerms(tiny_encoder, tiny_sae)


def test_means_worked_by_hand():
    total = csr_array(np.array([[6, 0, 0], [3, 0, 5]], np.float32))  # two latents, three tokens
    counts = np.array([3, 0, 2])
    assert mean_codes(total, counts).toarray().tolist() == [[2, 1], [0, 0], [0, 2.5]]
    assert mean_codes(total, counts, 1).toarray().tolist() == [[2, 0], [0, 0], [0, 2.5]]


@pytest.mark.parametrize("n_latents", [None, 3])
def test_equals_a_plain_loop(model, n_latents):
    sums, counts = {}, {}
    for text in DOCS:
        (block,) = model.encoder.stream([text])
        codes = model.sae.encode(block.states)
        for token, latents, values in zip(block.token_ids.tolist(), *codes, strict=True):
            row = sums.setdefault(token, np.zeros(model.sae.width))
            np.add.at(row, latents.numpy(), values.numpy())
            counts[token] = counts.get(token, 0) + 1
    expected = np.zeros((len(QUERIES), model.sae.width))
    for row, text in enumerate(QUERIES):
        for token in next(iter(model.encoder.token_ids([text], "query"))).tolist():
            if token in counts:
                mean = sums[token] / counts[token]
                if n_latents:
                    mean[np.argsort(-mean, kind="stable")[n_latents:]] = 0
                expected[row] += mean
    lookup = InferenceFreeQueries.build(model, iter(DOCS), n_latents)
    queries = lookup.encode(QUERIES)
    assert queries.dtype == np.float32
    np.testing.assert_allclose(queries.toarray(), np.sqrt(expected), rtol=1e-5, atol=1e-6)


def test_encodes_without_a_forward_pass_and_each_query_by_itself(model, monkeypatch):
    lookup = InferenceFreeQueries.build(model, DOCS)
    monkeypatch.setattr(TokenEncoder, "_forward", lambda *_: 1 / 0)
    together = lookup.encode(QUERIES).toarray()
    alone = np.concatenate([lookup.encode([query]).toarray() for query in QUERIES])
    np.testing.assert_array_equal(together, alone)
    assert lookup.encode([]).shape == (0, model.sae.width)
    house, dog = (next(iter(model.encoder.token_ids([word], "query"))).tolist() for word in ("house", "dog"))
    (unknown,) = set(house) - set(dog)  # beside the special tokens, which documents have too
    assert lookup.latents[[unknown]].nnz == 0
    others = lookup.latents[[token for token in house if token != unknown]].sum(axis=0)
    np.testing.assert_allclose(lookup.encode(["house"]).toarray()[0], np.sqrt(others), rtol=1e-6)


def test_bad_input(model, tiny_encoder, tiny_sae):
    with pytest.raises(ValueError, match="'max'"):
        InferenceFreeQueries.build(LatentTerms(tiny_encoder, tiny_sae, pooling="max"), DOCS)
    with pytest.raises(ValueError, match="no token"):
        InferenceFreeQueries.build(model, [])
    with pytest.raises(ValueError, match="n is 0"):
        InferenceFreeQueries.build(model, DOCS, 0)
    with pytest.raises(ValueError, match="3 rows"):
        InferenceFreeQueries(tiny_encoder, csr_array((3, 64), dtype=np.float32), "sqrt")
    with pytest.raises(TypeError, match="texts"):
        InferenceFreeQueries.build(model, "the cat")
    with pytest.raises(TypeError, match="texts"):
        InferenceFreeQueries.build(model, DOCS).encode("the cat")
