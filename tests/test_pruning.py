import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from lib.bm25.pruning import PRUNINGS, drop_frequent, keep_mass, keep_top

MATRIX = csr_array(np.array([[1, 4, 0, 2, 2], [0, 0, 0, 0, 0], [0, 3, 3, 3, 1]], np.float32))


@pytest.mark.slow
def test_worked_examples():
    # of equal weights those of the smaller latents stay: latent 3 before 4 in row 0, 1 and 2 before 3 in row 2
    assert keep_top(MATRIX, 2).toarray().tolist() == [[0, 4, 0, 2, 0], [0] * 5, [0, 3, 3, 0, 0]]
    # times 3, 1, 1, 1, 2 row 0 is 3, 4, 0, 2, 4: latents 1 and 4, whose weights stay as they are
    assert keep_top(MATRIX, 2, np.array([3, 1, 1, 1, 2])).toarray().tolist() == [
        [0, 4, 0, 0, 2],
        [0] * 5,
        [0, 3, 3, 0, 0],
    ]
    # row 0 sums to 9: 4 is 44 % of it, 4 + 2 67 %; row 2 to 10: 3 + 3 are 60 %
    assert keep_mass(MATRIX, 0.6).toarray().tolist() == [[0, 4, 0, 2, 0], [0] * 5, [0, 3, 3, 0, 0]]
    assert keep_mass(MATRIX, 0.61).toarray().tolist() == [[0, 4, 0, 2, 0], [0] * 5, [0, 3, 3, 3, 0]]
    # df = 1, 2, 1, 2, 2 of 3 documents
    assert drop_frequent(MATRIX, 0.5).toarray().tolist() == [[1, 0, 0, 0, 0], [0] * 5, [0, 0, 3, 0, 0]]
    assert (drop_frequent(MATRIX, 2 / 3) != MATRIX).nnz == 0


@given(st.integers(0, 10_000), st.integers(1, 8), st.floats(0.01, 1))
def test_against_a_plain_loop(seed, top, mass):
    rng = np.random.default_rng(seed)
    dense = (rng.integers(0, 4, (5, 7)) * rng.integers(0, 2, (5, 7))).astype(np.float32)
    matrix = csr_array(dense)
    wanted_top, wanted_mass = np.zeros_like(dense), np.zeros_like(dense)
    for row, weights in enumerate(dense):
        order = [j for j in np.argsort(-weights, kind="stable") if weights[j] > 0]
        for j in order[:top]:
            wanted_top[row, j] = weights[j]
        so_far = 0.0
        for j in order:
            if so_far >= mass * weights.sum() * (1 - 1e-12):
                break
            wanted_mass[row, j] = weights[j]
            so_far += weights[j]
    np.testing.assert_array_equal(keep_top(matrix, top).toarray(), wanted_top)
    np.testing.assert_array_equal(keep_mass(matrix, mass).toarray(), wanted_mass)
    np.testing.assert_array_equal(matrix.toarray(), dense)  # untouched
    assert (keep_mass(matrix, 1.0) != matrix).nnz == 0
    assert keep_top(matrix, top).has_canonical_format


def test_nothing_to_prune():
    empty = csr_array((3, 4), dtype=np.float32)
    for prune in PRUNINGS.values():
        pruned = prune(empty, 1)
        assert (pruned.shape, pruned.nnz) == ((3, 4), 0)


@pytest.mark.parametrize("share", [0, -0.5, 1.5, float("nan")])
@pytest.mark.parametrize("prune", [keep_mass, drop_frequent])
def test_bad_shares(prune, share):
    with pytest.raises(ValueError, match=f"share is {share}"):
        prune(MATRIX, share)


def test_bad_numbers():
    for n, error in ((0, ValueError), (2.0, TypeError)):
        with pytest.raises(error, match=f"n is {n}"):
            keep_top(MATRIX, n)
    with pytest.raises(ValueError, match=r"by has the shape \(4,\); it must be \(5,\)"):
        keep_top(MATRIX, 1, np.ones(4))
    with pytest.raises(ValueError, match="by is nan for a latent; it must be finite"):
        keep_top(MATRIX, 1, np.array([1, np.nan, 1, 1, 1]))


def test_bad_weights():
    for prune in PRUNINGS.values():
        with pytest.raises(ValueError, match="in row 1"):
            prune(csr_array(np.array([[1], [-1]], np.float32)), 1)
        with pytest.raises(TypeError, match="ndarray"):
            prune(np.ones((2, 2)), 1)


def test_a_row_is_pruned_alike_whatever_rows_are_before_it():
    row = np.random.default_rng(0).random((1, 300)).astype(np.float32) ** 8 * 1e-6
    row[0, :3] = [0.5, 0.25, 0.25]  # the mass 0.75 is met exactly by two
    large = np.full((40, 300), 3e30, np.float32) * np.random.default_rng(1).random((40, 300), np.float32)
    for mass in (0.3, 0.75, 0.9999999, 1.0):
        alone = keep_mass(csr_array(row), mass).toarray()
        behind = keep_mass(csr_array(np.vstack([large, row])), mass).toarray()[-1:]
        np.testing.assert_array_equal(behind, alone)


def test_a_mass_of_1_keeps_all_however_small():
    row = csr_array(np.array([[1.0, 1e-30, 1e-38, 0.0]], np.float32))
    assert keep_mass(row, 1.0).nnz == 3
    assert keep_mass(row, 0.999).nnz == 1
