import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lib.sae import int8, selection
from lib.sae.selection import EncoderWeights, largest, pre_activations, select, top

pytestmark = pytest.mark.usefixtures("one_thread")
assert int8  # numba is imported, so that few rows are searched in int8

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
    actual = largest(rows, k)
    assert actual.shape == (n, k)
    assert all(len(set(row)) == k for row in actual.tolist())
    got, wanted = (rows.gather(1, at).sort(dim=1).values for at in (actual, rows.topk(k, dim=1).indices))
    # what is not above 0 becomes 0 in any case
    assert torch.equal(got.clamp_min(0), wanted.clamp_min(0))


@pytest.mark.slow
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


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(0, 9),
    width=st.sampled_from([1, 15, 40, 64, 1024]),
    k=st.integers(1, 20),
    spread=st.sampled_from([0.0, 1e-6, 1e-3, 1.0, 1e3]),
    bias=st.sampled_from([-2.0, 0.0, 2.0]),
    dtype=st.sampled_from([torch.bfloat16, torch.float32, torch.int8]),
)
def test_top_is_that_of_float32_whatever_finds_it(seed, n, width, k, spread, bias, dtype):
    assume(k <= width)
    large, dtype = (1, torch.float32) if dtype == torch.int8 else (selection._LARGE, dtype)
    generator = torch.Generator().manual_seed(seed)
    centred = torch.randn(n, 24, generator=generator)
    # latents that lie as close together as `spread`, far below what bfloat16 tells apart
    W_enc = torch.randn(1, 24, generator=generator) + spread * torch.randn(width, 24, generator=generator)
    b_enc = bias + spread * torch.randn(width, generator=generator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "_LARGE", large)
        values, indices = top(centred, EncoderWeights(W_enc, b_enc), k, dtype)
    assert values.shape == indices.shape == (n, k)
    assert all(len(set(row)) == k for row in indices.tolist())
    pre = centred.double() @ W_enc.double().T + b_enc
    slack = 1e-5 * (centred.abs() @ W_enc.abs().T + b_enc.abs()).amax(dim=1, keepdim=True) if n else 0
    wanted = pre.topk(k, dim=1).values
    assert ((values - wanted).abs() <= slack).all()
    assert ((pre.gather(1, indices) - values).abs() <= slack).all()


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 5),
    d=st.sampled_from([1, 24, 700]),
    scale=st.sampled_from([1e-20, 1e-3, 1.0, 1e15]),
    threads=st.integers(1, 3),
)
def test_no_latent_that_int8_leaves_out_exceeds_its_bound(seed, n, d, scale, threads):
    generator = torch.Generator().manual_seed(seed)
    centred, W_enc = torch.randn(n, d, generator=generator) * scale, torch.randn(100, d, generator=generator)
    W_enc *= torch.rand(100, 1, generator=generator) ** 4  # rows of very different norms, one of them all zeros
    W_enc[7], b_enc = 0, torch.randn(100, generator=generator)
    torch.set_num_threads(threads)
    latents, most = selection._in_int8(W_enc, b_enc)(centred, 12)
    torch.set_num_threads(1)
    pre = centred.double() @ W_enc.double().T + b_enc
    others = pre.scatter(1, latents, -torch.inf).amax(dim=1)
    assert (others <= most).all()
    assert (most - others < 0.2 * centred.norm(dim=1) * W_enc.norm(dim=1).max() + 2 * b_enc.abs().max()).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kind", ["trained", "in int8", "all alike"])
def test_a_row_has_the_same_bits_alone_and_among_others(dtype, kind, monkeypatch):
    monkeypatch.setattr(selection, "_LARGE", 1)
    generator = torch.Generator().manual_seed(5)
    centred, W_enc = torch.randn(40, 48, generator=generator), torch.randn(1024, 48, generator=generator)
    if kind == "in int8":
        W_enc = (W_enc * 30).round().clamp(-127, 127) / 30
    if kind == "all alike":  # so that every row is searched anew
        W_enc = W_enc[:1] + 1e-4 * W_enc
    encoder = EncoderWeights(W_enc, torch.randn(1024, generator=generator) * (kind == "trained"))
    values, indices = top(centred, encoder, 6, dtype)
    for n in (1, 2, 3, 16):
        for first in range(0, 40 - n, n):
            part = top(centred[first : first + n], encoder, 6, dtype)
            assert torch.equal(part[0], values[first : first + n]) and torch.equal(part[1], indices[first : first + n])


def test_only_rows_that_bfloat16_cannot_decide_are_searched_anew(monkeypatch):
    searched, dense = [], selection._dense_top
    monkeypatch.setattr(selection, "_dense_top", lambda rows, *rest: searched.append(len(rows)) or dense(rows, *rest))
    W_enc = torch.zeros(64, 2)
    W_enc[:, 0] = torch.linspace(1, 2, 64)  # the first input distinguishes them
    W_enc[:, 1] = 1 + 1e-5 * torch.arange(64)  # not by the second
    centred = torch.tensor([[1.0, 0.0], [0.0, 1.0], [float("nan"), 0.0]])
    values, indices = top(centred, EncoderWeights(W_enc, torch.zeros(64)), 2, torch.bfloat16)
    assert searched == [2]
    assert indices[:2].tolist() == [[63, 62], [63, 62]]
    assert values[2].isnan().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("block", [3, 7 * 256])  # a block has at least one row, whatever the width
def test_top_of_blocks(monkeypatch, dtype, block):
    generator = torch.Generator().manual_seed(3)
    centred, W_enc = torch.randn(50, 24, generator=generator), torch.randn(256, 24, generator=generator)
    encoder = EncoderWeights(W_enc, torch.zeros(256))
    together = top(centred, encoder, 4, dtype)
    monkeypatch.setattr(selection, "_BLOCK", block)
    for part, expected in zip(top(centred, encoder, 4, dtype), together, strict=True):
        torch.testing.assert_close(part, expected)


def test_pre_activations():
    generator = torch.Generator().manual_seed(4)
    centred, W_enc = (torch.randn(m, 5, generator=generator, dtype=FLOAT64) for m in (7, 11))
    b_enc = torch.randn(11, generator=generator, dtype=FLOAT64)
    indices = torch.randint(11, (7, 3), generator=generator)
    expected = (centred @ W_enc.T + b_enc).gather(1, indices)
    torch.testing.assert_close(pre_activations(centred, W_enc, b_enc, indices), expected)
