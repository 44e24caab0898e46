import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.sae import kernels, selection
from lib.sae.activations import JumpReLU, activation_of
from lib.sae.kernels import (
    Activation,
    Choice,
    Weights,
    aux_shape,
    decode,
    loss_and_gradients,
    reference_loss,
    transposed,
)
from lib.sae.selection import Pairs, dots

pytestmark = pytest.mark.usefixtures("one_thread")

FLOAT64 = torch.float64
BATCHES = ("plain", "repeated rows", "one token", "all negative", "twin latents", "k = width")
TOPK = activation_of("topk", 4)


def draw_problem(seed: int, n: int, d: int, width: int, kind: str) -> tuple[torch.Tensor, Weights, torch.Tensor]:
    """Random states, weights and mean in float64; `kind` is one of BATCHES.

    All are multiples of 2**-16, so that every pre-activation is exact, whatever computes it, and a tie is a tie.
    """
    generator = torch.Generator().manual_seed(seed)
    normal = lambda *shape: (torch.randn(*shape, generator=generator, dtype=FLOAT64) * 2**15).round() / 2**15  # noqa: E731
    states = normal(n, d)
    weights = Weights(normal(width, d), normal(width) / 2, normal(width, d), normal(d) / 2, normal(width) / 2)
    if kind == "repeated rows":
        states = states[torch.arange(n) % 2]
    if kind == "one token":
        states = states[:1]
    if kind == "all negative":
        weights.b_enc.sub_(1e3)
    if kind == "twin latents":  # latent j and latent j + width / 2 are the same: which of them is chosen is a tie
        for tensor in (*weights[:3], weights.extra):
            tensor[width // 2 :] = tensor[: width // 2]
    return states, weights, normal(d) / 4


@st.composite
def activations(draw, k: int) -> Activation:
    """Any activation with this k, its other settings anywhere in their range."""
    name = draw(st.sampled_from(["topk", "budgets", "batchtopk", "abstopk", "jumprelu"]))
    if name == "jumprelu":
        return JumpReLU(k, draw(st.sampled_from([1e-3, 0.5, 1.9])), draw(st.sampled_from([0.1, 3.0])))
    if name == "budgets":
        return activation_of("topk", k, sorted({k, *draw(st.lists(st.integers(1, k), max_size=3))}))
    return activation_of(name, k)


def both(states, weights, activation, mean, dead, auxk):
    """The step of the kernels, and loss and gradients of the dense reference."""
    if not isinstance(activation, JumpReLU):
        weights = weights._replace(extra=None)
    step = loss_and_gradients(states, weights, activation, mean, dead, auxk, FLOAT64)
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in weights._asdict().items() if tensor is not None}
    loss = reference_loss(states, Weights(**leaves), activation, mean, dead, auxk)
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return step, loss.detach(), Weights(**dict(zip(leaves, gradients, strict=True)))


@settings(max_examples=200, deadline=None)
@given(
    data=st.data(),
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(2, 12),
    d=st.integers(1, 9),
    half_width=st.sampled_from([1, 2, 3, 7, 8, 16, 32, 64]),
    k=st.integers(1, 128),
    kind=st.sampled_from(BATCHES),
    share_dead=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    auxk=st.sampled_from([0.0, 1 / 32, 3.0]),
)
def test_loss_and_every_gradient_are_those_of_the_dense_reference(
    data, seed, n, d, half_width, k, kind, share_dead, auxk
):
    width = 2 * half_width
    k = width if kind == "k = width" else 1 + (k - 1) % width
    activation = data.draw(activations(k))
    states, weights, mean = draw_problem(seed, n, d, width, kind)
    dead = torch.rand(width, generator=torch.Generator().manual_seed(seed)) < share_dead
    step, loss, expected = both(states, weights, activation, mean, dead, auxk)
    torch.testing.assert_close(step.fvu + auxk * step.auxk + step.penalty, loss, rtol=1e-9, atol=1e-9)
    for name, gradient, wanted in zip(Weights._fields, step.gradients, expected, strict=True):
        if name == "extra" and not isinstance(activation, JumpReLU):
            assert gradient is None
            continue
        if kind == "twin latents" and name != "b_pre":  # the twins share one gradient; which has it is arbitrary
            gradient, wanted = gradient.unflatten(0, (2, -1)).sum(0), wanted.unflatten(0, (2, -1)).sum(0)
        torch.testing.assert_close(
            gradient, wanted, rtol=1e-9, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1), n=st.integers(1, 40), k=st.integers(1, 64))
def test_what_is_active_are_the_codes_of_the_dense_activation(data, seed, n, k):
    activation = data.draw(activations(k))
    states, weights, mean = draw_problem(seed, n, 6, 64, "plain")
    nothing = torch.zeros(64, dtype=torch.bool)
    step = loss_and_gradients(states, weights, activation, mean, nothing, 0.0, FLOAT64)
    codes, _ = activation.dense(states - weights.b_pre, weights)
    actual = torch.zeros(n, 64, dtype=FLOAT64)
    active = step.values != 0
    tokens = torch.arange(n)[:, None].expand_as(step.indices)
    actual.index_put_((tokens[active], step.indices[active]), step.values[active], accumulate=True)
    assert torch.equal(actual, codes[-1])
    assert (step.values[active].min() if active.any() else None) == step.smallest


@pytest.mark.parametrize("kind", [kind for kind in BATCHES if kind != "all negative"])
@pytest.mark.parametrize(("n_dead", "width"), [(0, 64), (2, 64), (3, 64), (40, 64), (64, 64), (5, 50)])
@pytest.mark.parametrize("activation", [TOPK, activation_of("batchtopk", 4), activation_of("abstopk", 4), JumpReLU(4)])
def test_every_gradient_is_there_and_auxk_reaches_dead_rows_only(kind, n_dead, width, activation):
    # d = 6, so 3 dead latents a token: fewer, exactly as many, and more
    if kind == "k = width":
        activation = type(activation)(width)
    states, weights, mean = draw_problem(3, 30, 6, width, kind)
    dead = torch.zeros(width, dtype=torch.bool)
    dead[torch.randperm(width, generator=torch.Generator().manual_seed(1))[:n_dead]] = True
    step = loss_and_gradients(states, weights, activation, mean, dead, 1 / 32, FLOAT64)
    without = loss_and_gradients(states, weights, activation, mean, dead, 0.0, FLOAT64)
    assert all(gradient.abs().sum() > 0 for gradient in step.gradients[:4])
    assert (step.auxk > 0) == (n_dead > 0)
    assert without.auxk == 0
    assert step.fvu == without.fvu
    for gradient, plain in zip(step.gradients[:3], without.gradients[:3], strict=True):
        assert torch.equal(gradient[~dead], plain[~dead])
        assert n_dead == 0 or not torch.equal(gradient[dead], plain[dead])
    assert torch.equal(step.gradients.b_pre, without.gradients.b_pre) == (n_dead == 0)


def test_a_step_by_hand():
    # h = (3, 1), b_pre = (1, 0): centred (2, 1). Latents (1, 0), (0, 1), (-1, 0) in both matrices, b_enc (0, 2, 0):
    # pre-activations 2, 1 + 2 = 3, -2: the second is chosen.
    # h_hat = 3 (0, 1) + (1, 0) = (1, 3), error h_hat - h = (-2, 2), |error|^2 = 8. Variance about (0, 0): 9 + 1 = 10.
    # fvu 0.8, g = 2 error / 10 = (-0.4, 0.4); a = <g, (0, 1)> = 0.4.
    table = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    weights = Weights(table, torch.tensor([0.0, 2.0, 0.0]), table.clone(), torch.tensor([1.0, 0.0]))
    states, nothing = torch.tensor([[3.0, 1.0]]), torch.zeros(3, dtype=torch.bool)
    one = activation_of("topk", 1)
    step = loss_and_gradients(states, weights, one, torch.zeros(2), nothing, 1 / 32, torch.float32)
    assert (step.indices.tolist(), step.values.tolist()) == ([[1]], [[3.0]])
    assert step.fvu.item() == pytest.approx(0.8)
    assert (step.smallest, step.penalty, step.gradients.extra) == (3, 0, None)
    close = lambda got, wanted: torch.testing.assert_close(got, torch.tensor(wanted))  # noqa: E731
    close(step.gradients.W_enc, [[0.0, 0.0], [0.8, 0.4], [0.0, 0.0]])  # a (h - b_pre)
    close(step.gradients.b_enc, [0.0, 0.4, 0.0])
    close(step.gradients.W_dec, [[0.0, 0.0], [-1.2, 1.2], [0.0, 0.0]])  # z g
    close(step.gradients.b_pre, [-0.4, 0.0])  # g - a W_enc_1

    # the first latent dead: residual e = (2, -2), k_aux = 1, its pre-activation 2, e_hat = (2, 0), |e - e_hat|^2 = 4
    # of |e|^2 = 8: AuxK 0.5. Its upstream gradient 2 (e_hat - e) / 8 = (0, 0.5), passed on to the latent: 0.
    dead = torch.tensor([True, False, False])
    step = loss_and_gradients(states, weights, one, torch.zeros(2), dead, 0.5, torch.float32)
    assert step.auxk.item() == pytest.approx(0.5)
    close(step.gradients.W_dec, [[0.0, 0.5], [-1.2, 1.2], [0.0, 0.0]])  # 0.5 * 2 (0, 0.5)
    close(step.gradients.b_pre, [-0.4, 0.0])


@pytest.mark.parametrize(
    "activation",
    [TOPK, activation_of("topk", 4, [1, 4]), activation_of("batchtopk", 4), activation_of("abstopk", 4), JumpReLU(4)],
)
def test_nothing_that_comes_in_is_changed_and_nothing_is_warned_of(activation):
    states, weights, mean = draw_problem(5, 10, 6, 64, "plain")
    dead = torch.arange(64) % 3 == 0
    copies = [tensor.clone() for tensor in (states, *weights, mean, dead)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss_and_gradients(states, weights, activation, mean, dead, 1 / 32, torch.bfloat16)
    assert all(torch.equal(now, then) for now, then in zip((states, *weights, mean, dead), copies, strict=True))


def test_a_perfect_reconstruction_leaves_auxk_nothing():
    weights = Weights(torch.eye(2), torch.zeros(2), torch.eye(2), torch.zeros(2))
    states, dead = torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.tensor([True, True])
    step = loss_and_gradients(states, weights, activation_of("topk", 1), torch.zeros(2), dead, 1.0, torch.float32)
    assert step.fvu == step.auxk == 0
    assert all(torch.count_nonzero(gradient) == 0 for gradient in step.gradients[:4])


def test_blocks_of_tokens_change_nothing(monkeypatch):
    states, weights, mean = draw_problem(6, 30, 6, 64, "plain")
    dead = torch.arange(64) % 2 == 0
    reference = loss_and_gradients(states, weights, TOPK, mean, dead, 1 / 32, FLOAT64)
    for module in (selection, kernels):
        monkeypatch.setattr(module, "_BLOCK", 4 * 64)  # 4 tokens for the product, 8 for AuxK
    parts = loss_and_gradients(states, weights, TOPK, mean, dead, 1 / 32, FLOAT64)
    torch.testing.assert_close(parts.auxk, reference.auxk)
    for part, gradient in zip(parts.gradients[:4], reference.gradients[:4], strict=True):
        torch.testing.assert_close(part, gradient, rtol=1e-12, atol=1e-12)


def test_dots_decode_and_transposed():
    generator = torch.Generator().manual_seed(4)
    rows, table = (torch.randn(m, 5, generator=generator, dtype=FLOAT64) for m in (4, 11))
    # rows with 3, 0, 1 and 4 latents, in no order, some of them twice
    pairs = Pairs(torch.tensor([7, 2, 7, 10, 3, 0, 1, 3]), torch.tensor([0, 3, 3, 4, 8]))
    row_of = torch.tensor([0, 0, 0, 2, 3, 3, 3, 3])
    values = torch.randn(8, generator=generator, dtype=FLOAT64)
    torch.testing.assert_close(dots(rows, table, pairs), (rows[row_of] * table[pairs.indices]).sum(dim=1))
    dense = torch.zeros(4, 11, dtype=FLOAT64).index_put_((row_of, pairs.indices), values, accumulate=True)
    torch.testing.assert_close(decode(pairs, values, table), dense @ table)
    by_latent, order = transposed(pairs, 11)
    torch.testing.assert_close(decode(by_latent, values[order], rows), dense.T @ rows)


def test_the_pairs_of_a_choice():
    indices = torch.tensor([[5, 6, 7], [8, 9, 4]])
    reference = Choice(indices, indices, indices)
    assert [part.tolist() for part in reference.pairs()] == [[5, 6, 7, 8, 9, 4], [0, 3, 6]]
    some = reference._replace(mask=torch.tensor([[True, False, True], [False, False, False]]))
    assert [part.tolist() for part in some.pairs()] == [[5, 7], [0, 2, 2]]
    parts = reference._replace(parts=(1, 2))  # the latent of each token, then the two that the next budget adds
    assert [part.tolist() for part in parts.pairs()] == [[5, 8, 6, 7, 9, 4], [0, 1, 2, 4, 6]]


@pytest.mark.parametrize(
    ("n_dead", "d", "expected"),
    [
        (5, 384, (5, 5 / 192)),
        (192, 384, (192, 1.0)),
        (9_000, 384, (192, 1.0)),
        (9_000, 4_096, (512, 1.0)),
        (3, 1, (1, 1.0)),
    ],
)
def test_aux_shape(n_dead, d, expected):
    assert aux_shape(n_dead, d) == expected
