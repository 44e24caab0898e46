import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lib.selection import largest, pre_activations, select

pytestmark = pytest.mark.usefixtures("one_thread")

FLOAT64 = torch.float64


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 9),
    width=st.sampled_from([1, 15, 16, 40, 64, 128, 256]),
    k=st.integers(1, 20),
    levels=st.sampled_from([2, 5, 10_000]),
    dtype=st.sampled_from([torch.bfloat16, torch.float32, FLOAT64]),
)
def test_largest_are_the_largest(seed, n, width, k, levels, dtype):
    assume(k <= width)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(-levels // 2, levels, (n, width), generator=generator).to(dtype) / 4  # few levels: many ties
    found = largest(rows, k)
    assert found.shape == (n, k)
    assert all(len(set(row)) == k for row in found.tolist())
    got, wanted = (rows.gather(1, at).sort(dim=1).values for at in (found, rows.topk(k, dim=1).indices))
    # what is not above 0 becomes 0 in any case
    assert torch.equal(got.clamp_min(0), wanted.clamp_min(0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.int8])
@pytest.mark.parametrize(("n", "width", "k"), [(300, 2**16, 16), (7, 64, 64), (1, 33, 2)])
def test_select_takes_the_largest_but_for_rounding(dtype, n, width, k):
    generator = torch.Generator().manual_seed(2)
    centred, W_enc = torch.randn(n, 24, generator=generator), torch.randn(width, 24, generator=generator)
    b_enc = 3 * torch.randn(width, generator=generator)
    chosen = select(centred, W_enc, b_enc, k, dtype)
    assert chosen.shape == (n, k)
    pre = centred.double() @ W_enc.double().T + b_enc
    bound = pre.topk(k, dim=1).values[:, -1:]
    if dtype == torch.int8:  # a number is half a unit off, and the unit is 1 / 127 of the largest
        halves = [tensor.abs().max() / 254 for tensor in (centred, W_enc)]
        slack = (centred.abs().sum(dim=1).max() * halves[1] + W_enc.abs().sum(dim=1).max() * halves[0]) * 1.1
    else:
        slack = torch.finfo(dtype).eps * (centred.abs() @ W_enc.abs().T + b_enc.abs()).max()  # products round thrice
    chosen_values = pre.gather(1, chosen)
    assert ((chosen_values >= bound - 2 * slack) | (bound <= 0)).all()
    # chosen again in float32, the values are exact in either case
    torch.testing.assert_close(
        pre_activations(centred, W_enc, b_enc, chosen).double(), chosen_values, rtol=0, atol=1e-4
    )


def test_int8_finds_twice_as_many_and_float32_chooses():
    # in units of 1 / 127 of the largest, 100, the first three weights are all 1; exact, the third is the largest
    W_enc = torch.tensor([[0.80], [0.70], [0.81], [0.2], [-100.0]])
    chosen = select(torch.ones(1, 1), W_enc, torch.zeros(5), 2, torch.int8)
    assert chosen.sort(dim=1).values.tolist() == [[0, 2]]
    huge = torch.tensor([0.0, 3e4, 0.0, 2e4, 0.0])  # a bias that is larger than any product
    assert select(torch.ones(1, 1), W_enc, huge, 2, torch.int8).sort(dim=1).values.tolist() == [[1, 3]]
    assert select(torch.zeros(1, 1), W_enc, torch.arange(5.0), 1, torch.int8).tolist() == [[4]]
    assert select(torch.zeros(1, 1), W_enc, torch.zeros(5), 2, torch.int8).shape == (1, 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, FLOAT64, torch.int8])
def test_select_by_magnitude(dtype):
    # pre-activations 1, -4, 3, 0.5 of the first token and their opposites of the second
    W_enc = torch.tensor([[1.0], [-4.0], [3.0], [0.5]], dtype=FLOAT64)
    chosen = select(torch.tensor([[1.0], [-1.0]], dtype=FLOAT64), W_enc, torch.zeros(4), 2, dtype, signed=True)
    assert chosen.sort(dim=1).values.tolist() == [[1, 2], [1, 2]]


def test_pre_activations():
    generator = torch.Generator().manual_seed(4)
    centred, W_enc = (torch.randn(m, 5, generator=generator, dtype=FLOAT64) for m in (7, 11))
    b_enc = torch.randn(11, generator=generator, dtype=FLOAT64)
    indices = torch.randint(11, (7, 3), generator=generator)
    expected = (centred @ W_enc.T + b_enc).gather(1, indices)
    torch.testing.assert_close(pre_activations(centred, W_enc, b_enc, indices), expected)
