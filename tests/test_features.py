"""Families of latents, by rules that are worked out by hand here."""

import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.metrics import cohen_kappa_score

from lib.studies.features import by_word, concentration, families, group_words, kappa, strongest


def test_the_forms_of_a_word_are_one_word():
    word_of, words = group_words(["run", "##ing", "running", "Runs", "the", "[CLS]"])
    assert word_of[0] == word_of[2] == word_of[3]
    assert len(words) == len(set(word_of.tolist())) == 4
    matrix = csr_array(np.array([[1, 0, 2, 3, 0, 4]], np.float32))
    assert by_word(matrix, word_of, len(words)).toarray()[0, word_of[0]] == 6


def test_concentration_is_the_share_of_the_largest():
    matrix = csr_array(np.array([[5, 1, 0, 4], [0, 0, 0, 0], [3, 0, 0, 0]], np.float32))
    assert concentration(matrix, 1).tolist() == [0.5, 0, 1]
    assert concentration(matrix, 2).tolist() == [0.9, 0, 1]


def test_families_by_one_word_by_five_and_by_many():
    lexical = [5, 4, 1] + [0] * 17  # 5 of 10
    narrow = [1] * 10 + [0] * 10  # the five largest: 5 of 10, the largest 1
    broad = [1] * 20  # five of 20
    matrix = csr_array(np.array([lexical, narrow, broad, lexical], np.float32))
    seen = np.array([True, True, True, False])
    assert families(matrix, seen).tolist() == ["lexical", "narrow", "broad", "rare"]
    assert families(matrix, seen, half=0.6).tolist() == ["narrow", "broad", "broad", "rare"]
    with pytest.raises(ValueError, match="half is 0"):
        families(matrix, seen, half=0)
    with pytest.raises(ValueError, match=r"it must be \(4,\)"):
        families(matrix, seen[:3])


def test_strongest_takes_one_place_of_a_text_and_n_texts():
    latents = np.array([1, 1, 1, 0, 1, 1])
    texts = np.array([0, 0, 1, 0, 2, 3])
    values = np.array([2, 3, 9, 1, 3, 1], np.float32)
    # latent 0: place 3. Latent 1: text 1 (9, place 2), then texts 0 (3, place 1) and 2 (3, place 4), 3 last
    assert strongest(latents, texts, values, 3).tolist() == [3, 2, 1, 4]
    assert strongest(latents, texts, values, 1).tolist() == [3, 2]


def test_kappa_is_that_of_a_hand_and_of_scikit_learn():
    # 4 labels: agree on 3, p_o = 3/4; chance: (2/4 * 3/4) + (2/4 * 1/4) = 1/2; kappa = 1/2
    assert kappa(np.array(["a", "a", "b", "b"]), np.array(["a", "a", "b", "a"]))[0] == pytest.approx(0.5)
    rng = np.random.default_rng(0)
    first = rng.integers(0, 3, 400)
    second = np.where(rng.random(400) < 0.6, first, rng.integers(0, 3, 400))
    value, low, high = kappa(first, second)
    assert value == pytest.approx(cohen_kappa_score(first, second))
    assert low < value < high
    assert kappa(first, first) == (1, 1, 1)
    with pytest.raises(ValueError, match="there are 3 and 4 labels"):
        kappa(first[:3], second[:4])
