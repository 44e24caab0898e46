import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.bm25.pooling import PHIS, POOLINGS, apply_phi, check_weights, pool, undo_phi
from lib.interop.modules import SparseTokenPooling


def reference(indices, values, offsets, width: int, pooling: str) -> np.ndarray:
    """Dense [n_texts, width] float64, token by token."""
    weights = np.zeros((len(offsets) - 1, width))
    for text in range(len(weights)):
        for token in range(offsets[text], offsets[text + 1]):
            for latent, value in zip(indices[token], values[token], strict=True):
                if value > 0:
                    old = weights[text, latent]
                    weights[text, latent] = {"sum": old + value, "max": max(old, value), "count": old + 1}[pooling]
    return weights


@st.composite
def token_codes(draw):
    """Texts of 0 to 5 tokens, few latents so that they repeat across tokens, and zeros among the values."""
    lengths = draw(st.lists(st.integers(0, 5), max_size=6))
    width = draw(st.integers(1, 9))
    k = draw(st.integers(1, width))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = sum(lengths)
    indices = np.array([rng.permutation(width)[:k] for _ in range(n)], np.int64).reshape(n, k)
    values = (rng.random((n, k)) * 5 * (rng.random((n, k)) < 0.7)).astype(np.float32)
    return indices, values, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), width


def assert_canonical(matrix, shape):
    assert isinstance(matrix, sp.csr_array)
    assert (matrix.shape, matrix.dtype) == (shape, np.float32)
    assert np.all(matrix.data != 0)
    for row in range(shape[0]):
        latents = matrix.indices[matrix.indptr[row] : matrix.indptr[row + 1]]
        assert np.all(np.diff(latents) > 0)


@settings(max_examples=150, deadline=None)
@given(token_codes(), st.sampled_from(list(POOLINGS)))
def test_pool_is_the_dense_reference(codes, pooling):
    indices, values, offsets, width = codes
    matrix = pool(indices, values, offsets, width, pooling)
    assert_canonical(matrix, (len(offsets) - 1, width))
    np.testing.assert_allclose(matrix.toarray(), reference(*codes, pooling), rtol=1e-6)


# Two texts, five latents, k = 2. Text 0 has tokens 0 and 1, text 1 has none, text 2 has token 2.
#   token 0: latent 3 -> 2.0, latent 1 -> 0.5
#   token 1: latent 1 -> 1.5, latent 4 -> 0.0 (not active)
#   token 2: latent 3 -> 4.0, latent 0 -> 1.0
INDICES = np.array([[3, 1], [1, 4], [3, 0]])
VALUES = np.array([[2.0, 0.5], [1.5, 0.0], [4.0, 1.0]], np.float32)
OFFSETS = np.array([0, 2, 2, 3])
WORKED = {
    "sum": [[0, 0.5 + 1.5, 0, 2.0, 0], [0, 0, 0, 0, 0], [1.0, 0, 0, 4.0, 0]],
    "max": [[0, 1.5, 0, 2.0, 0], [0, 0, 0, 0, 0], [1.0, 0, 0, 4.0, 0]],
    "count": [[0, 2, 0, 1, 0], [0, 0, 0, 0, 0], [1, 0, 0, 1, 0]],
}


@pytest.mark.parametrize("pooling", POOLINGS)
def test_worked_pooling(pooling):
    matrix = pool(INDICES, VALUES, OFFSETS, 5, pooling)
    assert matrix.toarray().tolist() == WORKED[pooling]
    assert_canonical(matrix, (3, 5))
    assert matrix.nnz == 4


def test_sum_is_the_default():
    assert pool(INDICES, VALUES, OFFSETS, 5).toarray().tolist() == WORKED["sum"]


def test_negative_activations_are_left_out():
    matrix = pool(np.array([[0, 1], [0, 1]]), np.array([[-2, 3], [-1, -5]], np.float32), np.array([0, 2]), 2)
    assert matrix.toarray().tolist() == [[0, 3]]


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("n_texts", [0, 1, 3])
def test_no_tokens(pooling, n_texts):
    nothing = np.zeros((0, 2), np.int64), np.zeros((0, 2), np.float32), np.zeros(n_texts + 1, np.int64)
    assert_canonical(pool(*nothing, 5, pooling), (n_texts, 5))


@settings(max_examples=50, deadline=None)
@given(token_codes())
def test_concatenating_texts_adds_counts(codes):
    indices, values, offsets, width = codes
    for pooling in ("sum", "count"):
        apart = pool(indices, values, offsets, width, pooling).toarray()
        together = pool(indices, values, offsets[[0, -1]], width, pooling).toarray()
        np.testing.assert_allclose(together[0], apart.sum(axis=0), rtol=1e-5)
    apart = pool(indices, values, offsets, width, "max").toarray()
    together = pool(indices, values, offsets[[0, -1]], width, "max").toarray()
    np.testing.assert_array_equal(together[0], apart.max(axis=0, initial=0))


@settings(max_examples=50, deadline=None)
@given(token_codes(), st.sampled_from(list(POOLINGS)), st.randoms(use_true_random=False))
def test_permuting_texts_permutes_rows(codes, pooling, random):
    indices, values, offsets, width = codes
    order = list(range(len(offsets) - 1))
    random.shuffle(order)
    tokens = [token for text in order for token in range(offsets[text], offsets[text + 1])]
    permuted_offsets = np.concatenate([[0], np.cumsum(np.diff(offsets)[order])]).astype(np.int64)
    permuted = pool(indices[tokens], values[tokens], permuted_offsets, width, pooling)
    np.testing.assert_array_equal(permuted.toarray(), pool(*codes, pooling).toarray()[order])


def test_cells_beyond_32_bits():
    # 3 texts of 2**31 latents: a cell's number needs more than 32 bits, whatever the integers that come in
    indices = np.array([[2**31 - 1], [0], [2**31 - 1]], np.int32)
    matrix = pool(indices, np.ones((3, 1), np.float32), np.array([0, 1, 2, 3]), 2**31)
    assert matrix.indices.tolist() == [2**31 - 1, 0, 2**31 - 1]
    assert matrix.indptr.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"pooling": "mean"}, "pooling is 'mean'"),
        ({"offsets": np.array([0, 2])}, "end at 2.* 3"),
        ({"offsets": np.array([0, 4])}, "end at 4.* 3"),
        ({"width": 4}, "0 to 4.* 0 to 3"),
        ({"indices": INDICES - 1}, "-1 to 3.* 0 to 4"),
        ({"values": VALUES * np.float32("nan")}, "NaN"),
    ],
)
def test_bad_codes(changed, message):
    arguments = {"indices": INDICES, "values": VALUES, "offsets": OFFSETS, "width": 5, "pooling": "sum"}
    with pytest.raises(ValueError, match=message):
        pool(**arguments | changed)


@pytest.mark.parametrize(
    ("phi", "expected"),
    [
        ("sqrt", [1.0, 1.5, 2.0]),  # 1, 2.25 and 4
        ("log1p", [np.log(2), np.log(3.25), np.log(5)]),
        ("identity", [1.0, 2.25, 4.0]),
    ],
)
def test_phi(phi, expected):
    weights = sp.csr_array(np.array([[0, 1, 0], [0, 0, 0], [2.25, 0, 4]], np.float32))
    before = weights.toarray().copy()
    got = apply_phi(weights, phi)
    assert_canonical(got, (3, 3))
    np.testing.assert_allclose(got.toarray()[[0, 2, 2], [1, 0, 2]], expected, rtol=1e-6)
    assert got.nnz == 3  # phi(0) = 0: nothing new
    np.testing.assert_array_equal(weights.toarray(), before)


def test_sqrt_is_the_default_and_every_phi_is_0_at_0():
    weights = pool(INDICES, VALUES, OFFSETS, 5)
    np.testing.assert_array_equal(apply_phi(weights).toarray(), np.sqrt(weights.toarray()))
    assert all(phi.apply(np.zeros(1), np).tolist() == [0.0] for phi in PHIS.values())


@pytest.mark.parametrize("phi", PHIS)
def test_phi_can_be_undone(phi):
    weights = pool(INDICES, VALUES, OFFSETS, 5)
    np.testing.assert_allclose(undo_phi(apply_phi(weights, phi), phi).toarray(), weights.toarray(), rtol=1e-6)


def test_a_new_pooling_is_one_function_and_one_entry(monkeypatch):
    """Here w_j = sum_t z_tj^2, for numpy and, in the torch module, for tensors."""
    monkeypatch.setitem(POOLINGS, "squares", lambda z, cells: cells.sum(z * z))
    expected = [[0, 0.5**2 + 1.5**2, 0, 4.0, 0], [0] * 5, [1.0, 0, 0, 16.0, 0]]
    assert pool(INDICES, VALUES, OFFSETS, 5, "squares").toarray().tolist() == expected
    codes = {"token_sparse_values": torch.from_numpy(VALUES), "token_sparse_indices": torch.from_numpy(INDICES)}
    rows = SparseTokenPooling(5, "squares_sqrt")(codes | {"cu_seq_lens_q": torch.from_numpy(OFFSETS)})
    np.testing.assert_allclose(rows["sentence_embedding"], np.sqrt(expected), rtol=1e-6)


def test_an_unknown_phi():
    with pytest.raises(ValueError, match=r"phi is 'square'.* 'log1p'"):
        apply_phi(pool(INDICES, VALUES, OFFSETS, 5), "square")


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")  # 1e300 is infinite in float32
@pytest.mark.parametrize("check", [check_weights, apply_phi])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), -0.5, 1e300])
def test_bad_weights_and_their_row(check, bad):
    # rows 0 and 2 are empty: the row is counted, not guessed from the position
    weights = sp.coo_array(([1.0, 2.0, bad], ([1, 1, 3], [0, 2, 1])), shape=(5, 3))
    with pytest.raises(ValueError, match="row 3"):
        check(weights)


@pytest.mark.parametrize("wrong", [np.ones((2, 3)), [[1.0]], None, "matrix"])
def test_what_is_no_sparse_matrix(wrong):
    with pytest.raises(TypeError, match=f"queries is a {type(wrong).__name__}"):
        check_weights(wrong, "queries")
    with pytest.raises(TypeError, match="the term matrix is a"):
        apply_phi(wrong)


@pytest.mark.parametrize("kind", [sp.csr_array, sp.csr_matrix, sp.coo_array, sp.csc_array])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_check_weights_makes_any_sparse_matrix_a_float32_csr_array(kind, dtype):
    matrix = kind(np.array([[0, 1, 2], [0, 0, 0]], dtype))
    got = check_weights(matrix)
    assert_canonical(got, (2, 3))
    assert got.toarray().tolist() == [[0, 1, 2], [0, 0, 0]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_check_weights_adds_duplicates_and_leaves_the_argument_alone(dtype):
    data, columns, indptr = np.array([1, 2, 3, 4], dtype), np.array([2, 0, 2, 1]), np.array([0, 3, 4])
    matrix = sp.csr_array((data, columns, indptr), shape=(2, 3))
    kept = matrix.data.copy(), matrix.indices.copy(), matrix.indptr.copy()
    assert check_weights(matrix).toarray().tolist() == [[2, 0, 4], [0, 4, 0]]
    for now, before in zip((matrix.data, matrix.indices, matrix.indptr), kept, strict=True):
        np.testing.assert_array_equal(now, before)


def test_phi_of_stored_zeros_and_duplicates():
    # row 0 stores latent 1 as a zero and latent 2 twice, 4 + 5 = 9
    stored = (np.array([0, 4, 5, 16], np.float32), np.array([1, 2, 2, 0]), np.array([0, 3, 4]))
    assert apply_phi(sp.csr_array(stored, shape=(2, 3))).toarray().tolist() == [[0, 0, 3], [4, 0, 0]]
