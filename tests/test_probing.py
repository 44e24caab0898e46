"""Sparse probes and absorption on codes whose answer is known."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from lib.inspect.probing import absorption, class_probes, sparse_probes
from lib.sae.autoencoder import SparseAutoencoder
from lib.sae.codes import FinishedTopK

RNG = np.random.default_rng(0)


def test_one_term_is_enough_where_it_marks_the_class():
    labels = ["a", "b"] * 60
    noise = RNG.random((120, 6))
    noise[:, 3] += 5.0 * (np.array(labels) == "a")
    table = sparse_probes(csr_array(noise), labels, ks=(1, 3)).set_index(["label", "k"])["auc"]
    assert table["a", 1] == table["b", 1] == 1 and table["a", 3] > 0.99


def test_two_terms_tell_what_one_does_not():
    target = np.arange(200) % 2 == 0
    x = np.zeros((200, 3))
    x[:, 0] = np.where(target, RNG.random(200) < 0.5, 0)  # either of two terms marks half of the class
    x[:, 1] = np.where(target, 1 - x[:, 0], 0)
    table = sparse_probes(csr_array(x), np.where(target, "in", "out").tolist(), ks=(1, 2)).set_index(["label", "k"])
    assert table["auc"]["in", 1] == pytest.approx(0.75, abs=0.1) and table["auc"]["in", 2] == 1


def test_labels_without_meaning_are_told_by_chance():
    labels = RNG.permutation(["a", "b"] * 300).tolist()
    auc = sparse_probes(csr_array(RNG.random((600, 20))), labels)["auc"]
    assert (abs(auc - 0.5) < 0.12).all()


def test_small_classes_are_left_out():
    x = csr_array(RNG.random((50, 4)))
    assert set(sparse_probes(x, ["a"] * 21 + ["b"] * 20 + ["c"] * 9)["label"]) == {"a", "b"}
    assert sparse_probes(x, ["a"] * 50).empty and list(sparse_probes(x, ["a"] * 50)) == ["label", "k", "auc"]


@pytest.mark.parametrize(
    ("labels", "ks", "error", "said"),
    [(["a"], (1,), ValueError, "1 labels of 3"), (["a"] * 3, (0,), ValueError, "ks"), (["a"] * 3, 5, TypeError, "ks")],
)
def test_bad_input_of_probes(labels, ks, error, said):
    with pytest.raises(error, match=said):
        sparse_probes(csr_array((3, 2)), labels, ks)


def an_autoencoder(encoder: np.ndarray, decoder: np.ndarray) -> SparseAutoencoder:
    width, d = decoder.shape
    weights = (
        torch.from_numpy(encoder.astype(np.float32)),
        torch.zeros(width),
        torch.from_numpy(decoder.astype(np.float32)),
    )
    return SparseAutoencoder(*weights, torch.zeros(d), FinishedTopK(1))


def test_words_that_a_narrow_latent_takes_over_are_absorbed():
    # Dimension 0 is the class. One word in 32 of it has dimension 1 as well, whose latent wins and reconstructs both.
    n = 1_600
    target, narrow = np.arange(n) % 2 == 0, np.arange(n) % 64 == 0
    states = 0.01 * RNG.standard_normal((n, 4))
    states[:, 0] += target
    states[:, 1] += 1.5 * narrow
    states[:, 2] += ~target
    states = states.astype(np.float32)
    apart, absorbing = np.eye(4), np.eye(4)
    absorbing[1] = np.array([1, 1.5, 0, 0]) / np.sqrt(3.25)
    probes = class_probes(states, {"class": target})
    row = absorption(states, probes, an_autoencoder(absorbing, absorbing)).iloc[0]
    assert row["probe_f1"] > 0.99 and row["latents"] == 1 and row["n"] == 400
    assert 5 <= row["absorbed"] <= 20  # about half of the 25 are in the half that is counted
    # the same words are not absorbed where the other latent has nothing of the class in its direction
    assert absorption(states, probes, an_autoencoder(absorbing, apart)).iloc[0]["absorbed"] == 0


def test_a_class_that_no_probe_finds_is_not_counted():
    states = RNG.standard_normal((200, 4)).astype(np.float32)
    target = RNG.random(200) < 0.1
    row = absorption(states, class_probes(states, {"noise": target}), an_autoencoder(np.eye(4), np.eye(4))).iloc[0]
    assert row["probe_f1"] < 0.5 and np.isnan(row["absorbed"]) and np.isnan(row["n"])
