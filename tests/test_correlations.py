"""Latents that occur together: against a plain loop over all pairs, and what is refused."""

from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from scipy.stats import fisher_exact

from lib.inspect import correlations
from lib.inspect.correlations import correlate
from lib.latent_terms import LatentTerms
from lib.sae.autoencoder import SparseAutoencoder
from lib.sae.codes import FinishedTopK

WIDTH, N_TEXTS = 30, 60


@pytest.fixture
def model(tiny_encoder) -> LatentTerms:
    weights = torch.randn(WIDTH, tiny_encoder.d, generator=torch.Generator().manual_seed(0))
    weights[5] = 2 * weights[3]  # alike
    b = torch.zeros
    return LatentTerms(tiny_encoder, SparseAutoencoder(weights, b(WIDTH), weights, b(tiny_encoder.d), FinishedTopK(2)))


def presence() -> np.ndarray:
    has = np.random.default_rng(1).random((N_TEXTS, WIDTH)) < 0.3
    has[:, 5], has[:, 9], has[:, 11] = has[:, 3], has[:, 8], has[:, 10]
    has[:2, 9] ^= True
    has[:, 20], has[:, 21] = True, False
    return has


@pytest.mark.parametrize("chunk", [256, 7])
def test_pairs_are_those_of_a_plain_loop(model, monkeypatch, chunk):
    monkeypatch.setattr(correlations, "_CHUNK", chunk)
    has, labels = presence(), [f"word{j}, and" if j in (10, 11) else f"word{j}" for j in range(WIDTH)]
    found = correlate(model, csr_array(has.astype(np.float32) * 0.5), labels, n=20, least=4, most_alike=0.9)
    df = has.sum(axis=0)
    usable = [j for j in range(WIDTH) if 4 <= df[j] < N_TEXTS]
    expected = []
    for a, b in combinations(usable, 2):
        both = (has[:, a] & has[:, b]).sum()
        if both >= 4 and (a, b) not in {(3, 5), (10, 11)}:  # alike, and a word in common
            npmi = np.log(both * N_TEXTS / (df[a] * df[b])) / -np.log(both / N_TEXTS)
            table = [[both, df[a] - both], [df[b] - both, N_TEXTS - df[a] - df[b] + both]]
            p = fisher_exact(table, "greater").pvalue * len(usable) * (len(usable) - 1) / 2
            expected.append((a, b, both, npmi, min(1, p)))
    expected.sort(key=lambda pair: -pair[3])
    assert (found[0].a, found[0].b, found[0].label_b) == (8, 9, "word9") and found[0].p < 1e-6
    assert len(found) == 20
    for pair, (a, b, both, npmi, p) in zip(found, expected, strict=False):
        assert (pair.a, pair.b, pair.texts) == (a, b, both)
        assert (pair.npmi, pair.p) == pytest.approx((npmi, p))
    unlabelled = {(pair.a, pair.b) for pair in correlate(model, csr_array(has.astype(np.float32)), most_alike=0.9)}
    assert (10, 11) in unlabelled and (3, 5) not in unlabelled


def test_no_pair_is_an_empty_table(model):
    found = correlate(model, csr_array((3, WIDTH), dtype=np.float32))
    assert found == [] and "nothing" in found._repr_html_()


@pytest.mark.parametrize(
    ("shape", "options", "match"),
    [
        ((3, 4), {}, "the model's 30 latents"),
        ((1, WIDTH), {}, "two texts"),
        ((3, WIDTH), {"labels": ["x"]}, "1 labels of 30"),
        ((3, WIDTH), {"n": 0}, "n is 0"),
        ((3, WIDTH), {"least": 0}, "least is 0"),
        ((3, WIDTH), {"most_alike": 2}, "most_alike is 2"),
    ],
)
def test_it_refuses(model, shape, options, match):
    with pytest.raises(ValueError, match=match):
        correlate(model, csr_array(shape, dtype=np.float32), **options)
