"""The vocabulary's counts against hand-made ones."""

import numpy as np
import pytest

from lib.vocabulary import latent_token_matrix, rank_frequency, top_tokens, word_counts


def test_rank_frequency_is_descending_and_leaves_out_what_never_occurs():
    assert rank_frequency([3, 0, 7, 1, 0]).tolist() == [7, 3, 1]
    assert rank_frequency(word_counts(["a b", "b"]).values()).tolist() == [2, 1]


def test_word_counts():
    assert word_counts(["The cat, the CAT!", "", "cat_1"]) == {"the": 2, "cat": 2, "cat_1": 1}
    with pytest.raises(TypeError, match="single str"):
        word_counts("the cat")


def test_top_tokens_are_shares_of_a_latents_activation():
    # tokens 0, 1, 0 have latent 2 at 3, 1, 2 and latent 0 at 0 (inactive), 4, 1
    indices = np.array([[2, 0], [2, 0], [2, 0]])
    values = np.array([[3, 0], [1, 4], [2, 1]], np.float32)
    matrix = latent_token_matrix(indices, values, np.array([0, 1, 0]), width=3, n_tokens=2)
    assert matrix.toarray().tolist() == [[1, 4], [0, 0], [5, 1]]
    assert top_tokens(matrix, 2, ["x", "y"]) == [("x", pytest.approx(5 / 6)), ("y", pytest.approx(1 / 6))]
    assert top_tokens(matrix, 0, ["x", "y"], n=1) == [("y", pytest.approx(0.8))]
    assert top_tokens(matrix, 1, ["x", "y"]) == []
