import math
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.sae.activations import (
    ACTIVATIONS,
    AbsTopK,
    Activation,
    BatchTopK,
    JumpReLU,
    TopK,
    activation_of,
)
from lib.sae.activations import thresholds as module
from lib.sae.autoencoder import SparseAutoencoder
from lib.sae.codes import Codes
from lib.sae.kernels import Step, Weights, loss_and_gradients, reference_loss, unexplained

pytestmark = pytest.mark.usefixtures("one_thread")

FLOAT64 = torch.float64
WIDTH, D, K = 24, 8, 3
EVERY = [activation_of(name, K) for name in ("topk", "batchtopk", "jumprelu", "abstopk")]
EVERY += [activation_of("topk", K, [1, 2, 3])]


def sparse_states(n: int, seed: int = 0) -> torch.Tensor:
    """States that are made of 3 of 24 directions, float32 [n, 8]."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(WIDTH, D, generator=generator), dim=1)
    strengths = 1 + torch.rand(n, WIDTH, generator=generator)
    chosen = torch.rand(n, WIDTH, generator=generator).argsort(dim=1) < 3
    return (strengths * chosen) @ directions + 0.05 * torch.randn(n, D, generator=generator)


def step_of(states: torch.Tensor, weights: Weights, activation: Activation) -> Step:
    dead = torch.zeros(len(weights.W_enc), dtype=torch.bool)
    return loss_and_gradients(states, weights, activation, states.mean(dim=0), dead, 1 / 32, states.dtype)


def start(states: torch.Tensor, activation: Activation, width: int = WIDTH) -> Weights:
    generator = torch.Generator().manual_seed(1)
    W_dec = torch.nn.functional.normalize(torch.randn(width, states.shape[1], generator=generator), dim=1)
    b_pre = states.mean(dim=0)
    return activation.initial(states - b_pre, W_dec, b_pre)


@cache
def trained(activation: Activation) -> tuple[Weights, list[Step]]:
    """The weights after a few steps of Adam on sparse states, and the steps."""
    states = sparse_states(256)
    weights = start(states, activation)
    optimiser = torch.optim.Adam([tensor for tensor in weights if tensor is not None], lr=2e-2)
    steps = []
    for _ in range(100):
        steps.append(step_of(states, weights, activation))
        for tensor, gradient in zip(weights, steps[-1].gradients, strict=True):
            if tensor is not None:
                tensor.grad = gradient
        optimiser.step()
    return Weights(*(None if tensor is None else tensor.detach() for tensor in weights)), steps


def mean_smallest(steps: list[Step]) -> float:
    return sum(step.smallest.item() for step in steps[-20:]) / 20


def saved(activation: Activation, weights: Weights, smallest: float | None = None) -> SparseAutoencoder:
    weights, form = activation.finished(weights, smallest)
    return SparseAutoencoder(*weights[:4], form)


def finished(activation: Activation) -> SparseAutoencoder:
    weights, steps = trained(activation)
    return saved(activation, weights, mean_smallest(steps))


def dense(codes: Codes, width: int) -> torch.Tensor:
    assert all(len(set(row)) == len(row) for row in codes.indices.tolist())
    return torch.zeros(len(codes.values), width).scatter(1, codes.indices, codes.values)


def top(pre: torch.Tensor, k: int) -> torch.Tensor:
    return pre.relu() * (pre >= pre.sort(dim=1).values[:, -k, None])


def of_definition(activation: Activation, pre: torch.Tensor) -> torch.Tensor:
    """z [n, width] of pre-activations as the activation's equation has it at inference, signed if it is."""
    weights, steps = trained(activation)
    if isinstance(activation, TopK):
        return top(pre, K)
    if isinstance(activation, AbsTopK):
        return pre * (pre.abs() >= pre.abs().sort(dim=1).values[:, -K, None])
    if isinstance(activation, BatchTopK):
        return pre * (pre > mean_smallest(steps))
    return pre * (pre > weights.extra.exp())


def both_ways(activation: Activation, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What the finished autoencoder reconstructs, and what its activation's equation does."""
    weights, _ = trained(activation)
    sae = finished(activation)
    codes = sae.encode(states)
    assert (codes.values >= 0).all()
    z = of_definition(activation, (states - weights.b_pre) @ weights.W_enc.T + weights.b_enc)
    return sae.decode(codes), z @ weights.W_dec + weights.b_pre


@pytest.mark.slow
@settings(max_examples=25, deadline=None, derandomize=True)  # in float32, a tie but for rounding may fall either way
@given(
    activation=st.sampled_from(EVERY),
    n=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([0.0, 0.3, 1.0, 50.0]),
)
def test_a_finished_autoencoder_does_what_its_equation_says(activation, n, seed, scale):
    got, expected = both_ways(activation, scale * sparse_states(n, seed))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("activation", EVERY, ids=repr)
def test_training_learns_and_the_finished_one_has_learnt_it(activation):
    _, steps = trained(activation)
    states = sparse_states(256)
    assert steps[-1].fvu < 0.6 * steps[0].fvu
    sae = finished(activation)
    codes = sae.encode(states)
    left = unexplained(states, sae.decode(codes), states.mean(dim=0))
    assert left == pytest.approx(steps[-1].fvu.item(), rel=0.1 if activation in EVERY[:4] else 0.6)
    assert (codes.values > 0).sum().item() / 256 == pytest.approx(K, rel=0.15)


# Top-K and its budgets


def test_the_loss_of_budgets_is_the_mean_of_those_of_each():
    states = sparse_states(50).double()
    weights = Weights(*(tensor.double() for tensor in trained(EVERY[0])[0][:4]))
    budgets = [2, 5, 9]
    together = step_of(states, weights, activation_of("topk", 9, budgets))
    alone = [step_of(states, weights, TopK(budget)) for budget in budgets]
    torch.testing.assert_close(together.fvu, sum(step.fvu for step in alone) / 3)
    for name in Weights._fields[:4]:
        expected = sum(getattr(step.gradients, name) for step in alone) / 3
        torch.testing.assert_close(getattr(together.gradients, name), expected)
    one = step_of(states, weights, activation_of("topk", 9, [9]))
    torch.testing.assert_close(one.gradients[:4], alone[-1].gradients[:4])


def test_an_autoencoder_with_budgets_is_better_at_the_small_ones():
    states = sparse_states(256)
    left = [
        unexplained(states, sae.decode(sae.encode(states)), states.mean(dim=0))
        for sae in (finished(activation).with_k(1) for activation in (EVERY[-1], EVERY[0]))
    ]
    assert left[0] < 0.9 * left[1]


def test_a_finished_autoencoder_with_budgets_reads_each_of_them():
    activation, states = EVERY[-1], sparse_states(20, seed=5)
    weights, sae = trained(activation)[0], finished(activation)
    pre = (states - weights.b_pre) @ weights.W_enc.T + weights.b_enc
    assert sae.activation.name == "topk"
    for budget in activation.budgets:
        torch.testing.assert_close(dense(sae.with_k(budget).encode(states), WIDTH), top(pre, budget))


# AbsTopK


@pytest.mark.slow
@settings(max_examples=50, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), width=st.integers(1, 20), data=st.data())
def test_abstopk_is_topk_of_twice_the_width(seed, width, data):
    k = data.draw(st.integers(1, width))
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    weights, states = Weights(draw(width, 5), draw(width), draw(width, 5), draw(5)), draw(30, 5)
    sae = saved(AbsTopK(k), weights)
    assert (sae.width, sae.k, sae.activation.name) == (2 * width, k, "topk")
    codes = sae.encode(states)
    pre = (states - weights.b_pre) @ weights.W_enc.T + weights.b_enc
    signed = pre * (pre.abs() >= pre.abs().sort(dim=1).values[:, -k, None])
    actual = dense(codes, 2 * width)
    assert (actual >= 0).all()
    torch.testing.assert_close(actual[:, :width] - actual[:, width:], signed, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sae.decode(codes), signed @ weights.W_dec + weights.b_pre, rtol=1e-4, atol=1e-3)


def test_abstopk_trains_the_same_as_topk_of_twice_the_width():
    states = sparse_states(40).double()
    weights = Weights(*(tensor.double() for tensor in trained(EVERY[0])[0][:4]))
    doubled, _ = AbsTopK(K).finished(weights, None)
    signed, plain = step_of(states, weights, AbsTopK(K)), step_of(states, doubled, TopK(K))
    torch.testing.assert_close(signed.fvu, plain.fvu)
    for name in ("W_enc", "b_enc", "W_dec"):
        two = getattr(plain.gradients, name)
        torch.testing.assert_close(getattr(signed.gradients, name), two[:WIDTH] - two[WIDTH:])
    torch.testing.assert_close(signed.gradients.b_pre, plain.gradients.b_pre)


# BatchTopK

TABLE = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])


def test_batchtopk_by_hand():
    # pre-activations: 5, 4, -5 of the first token, 1, 0.5, -1 of the second. k = 1: the 2 largest of all are 5 and 4,
    # both of the first token. h_hat = (5, 4) and (0, 0): FVU = (1 + 0.25) / (25 + 16 + 1 + 0.25)
    states = torch.tensor([[5.0, 4.0], [1.0, 0.5]])
    weights = Weights(TABLE, torch.zeros(3), TABLE.clone(), torch.zeros(2))
    dead = torch.zeros(3, dtype=torch.bool)
    step = loss_and_gradients(states, weights, BatchTopK(1), torch.zeros(2), dead, 0.0, torch.float32)
    assert step.fvu.item() == pytest.approx(1.25 / 42.25)
    assert step.smallest == 4
    assert sorted(step.values[0].tolist())[-2:] == [4, 5]
    assert step.values[1].count_nonzero() == 0


def test_batchtopk_takes_all_that_tie_at_the_bound_and_nothing_below_zero():
    weights = Weights(TABLE, torch.zeros(3), TABLE.clone(), torch.zeros(2))
    dead = torch.zeros(3, dtype=torch.bool)
    # pre-activations 2, 2, -2 of both tokens: the second largest of all is 2, and four of them are
    step = loss_and_gradients(torch.full((2, 2), 2.0), weights, BatchTopK(1), torch.zeros(2), dead, 0.0, torch.float32)
    assert (step.values > 0).sum(dim=1).tolist() == [2, 2]
    # 3, 0.5, -3 and -1, -1, 1: only 3 are above 0, though 6 are asked for
    states = torch.tensor([[3.0, 0.5], [-1.0, -1.0]])
    step = loss_and_gradients(states, weights, BatchTopK(3), torch.zeros(2), dead, 0.0, torch.float32)
    assert sorted(step.values[step.values > 0].tolist()) == [0.5, 1, 3]
    assert step.smallest == 0.5
    # 0, -1, 0 and 0, -2, 0
    states = torch.tensor([[0.0, -1.0], [0.0, -2.0]])
    step = loss_and_gradients(states, weights, BatchTopK(3), torch.zeros(2), dead, 0.0, torch.float32)
    assert step.values.count_nonzero() == 0
    assert step.smallest is None


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 6), loud=st.integers(0, 3), n=st.integers(4, 30))
def test_no_token_is_cut_however_much_it_has(seed, k, loud, n):
    """A few tokens far louder than the others have most of the latents of the batch: far more than 2k."""
    generator = torch.Generator().manual_seed(seed)
    centred = torch.randn(n, 6, generator=generator, dtype=FLOAT64)
    centred[:loud] *= 100
    weights = Weights(
        *(torch.randn(*shape, generator=generator, dtype=FLOAT64) for shape in ((128, 6), (128,))), None, None
    )
    pre = centred @ weights.W_enc.T + weights.b_enc
    bound = pre.flatten().sort(descending=True).values[n * k - 1]
    choice = BatchTopK(k).choose(centred, weights, FLOAT64)
    assert choice.mask.sum() == n * k
    assert torch.equal((pre >= bound).sum(dim=1), choice.mask.sum(dim=1))
    theta = torch.rand(128, generator=generator, dtype=FLOAT64) + 0.5
    choice = JumpReLU(k).choose(centred, weights._replace(extra=theta.log()), FLOAT64)
    assert torch.equal((pre > theta.log().exp()).sum(dim=1), (choice.values > 0).sum(dim=1))


def test_few_pre_activations_are_computed_again(monkeypatch):
    """The tokens whose latents are all there are not searched again."""
    searched = []
    select = module.select
    monkeypatch.setattr(module, "select", lambda rows, *rest: searched.append(len(rows)) or select(rows, *rest))
    centred = torch.ones(50, 1)
    centred[7] = 100
    weights = Weights(torch.linspace(0.1, 1, 64)[:, None], torch.zeros(64), None, None)
    choice = BatchTopK(2).choose(centred, weights, torch.float32)
    assert searched == [50, 1, 1, 1, 1]  # 4, 8, 16, 32 and 64 latents of token 7
    assert choice.mask[7].sum() == 64
    assert choice.mask.sum() == 64 + 49  # 36 more are asked for, and the largest of the 49 others tie


def test_batchtopk_needs_a_threshold_to_be_saved():
    weights, _ = trained(EVERY[1])
    with pytest.raises(ValueError, match="BatchTopK"):
        EVERY[1].finished(weights, None)
    assert torch.equal(EVERY[1].finished(weights, 0.5)[1].threshold, torch.full((WIDTH,), 0.5))


# JumpReLU


def test_jumprelu_by_hand():
    # d = 1, one latent with W_enc = W_dec = 1, theta = 2, epsilon = 0.5 * 2 = 1: what lies within 1.5 and 2.5 is near.
    # pre-activations 4, 2.25, 1.75, 1: z = 4, 2.25, 0, 0, and 2.25 and 1.75 are near.
    # FVU = (0 + 0 + 1.75^2 + 1) / (16 + 2.25^2 + 1.75^2 + 1); 2 * error / variance is 0 where active,
    # g = -3.5 / variance at 1.75. d fvu / d theta = sum -theta / epsilon g [near] = 2 * 3.5 / variance.
    # L0 = 2 of 4 tokens = 0.5, k = 1: penalty 3 * 0.5^2, d / d L0 = 3 * 2 * -0.5 = -3,
    # d L0 / d theta = -1 / epsilon * 2 near / 4 tokens = -0.5. d penalty / d theta = 1.5.
    states = torch.tensor([[4.0], [2.25], [1.75], [1.0]], dtype=FLOAT64)
    one = torch.ones(1, 1, dtype=FLOAT64)
    log_theta = torch.tensor([2.0], dtype=FLOAT64).log()
    weights = Weights(one, torch.zeros(1, dtype=FLOAT64), one.clone(), torch.zeros(1, dtype=FLOAT64), log_theta)
    step = loss_and_gradients(
        states, weights, JumpReLU(1, 0.5, 3.0), torch.zeros(1), torch.tensor([False]), 0.0, FLOAT64
    )
    variance = 16 + 2.25**2 + 1.75**2 + 1
    assert step.values.sort(dim=0, descending=True).values.tolist() == [[4], [2.25], [0], [0]]
    assert step.fvu.item() == pytest.approx((1.75**2 + 1) / variance)
    assert step.penalty.item() == pytest.approx(0.75)
    d_theta = 7 / variance + 1.5
    assert step.gradients.extra.item() == pytest.approx(2 * d_theta)  # d / d log theta
    assert (
        step.gradients.W_enc.item() == 0
    )  # where it is active, nothing is left to explain; the jump passes nothing on


@pytest.mark.parametrize("k", [1, 3, 20])
def test_thresholds_start_where_k_are_active(k):
    states = sparse_states(200)
    weights = start(states, JumpReLU(k), width=64)
    assert weights.extra.shape == (64,)
    assert weights.extra.unique().shape == (1,)
    step = step_of(states, weights, JumpReLU(k))
    assert (step.values > 0).sum().item() == pytest.approx(200 * k, abs=2)  # but for the one that the threshold is


def test_thresholds_start_at_the_smallest_where_fewer_than_k_are_above_zero():
    states = sparse_states(50)
    threshold = start(states, JumpReLU(WIDTH)).extra
    pre = (states - states.mean(dim=0)) @ start(states, TopK(1)).W_enc.T
    assert threshold[0].exp().item() == pytest.approx(pre[pre > 0].min().item(), rel=1e-4)


def test_thresholds_have_nothing_to_start_from():
    with pytest.raises(ValueError, match="first batch"):
        JumpReLU(2).initial(torch.zeros(5, 3), torch.ones(4, 3), torch.zeros(3))


@pytest.mark.slow
@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_the_penalty_brings_the_number_of_latents_to_k(factor):
    """From thresholds at which twice or half as many latents are active, the thresholds alone find the way."""
    states = sparse_states(256)
    weights = start(states, JumpReLU(round(6 * factor)), width=64)
    activation, numbers = JumpReLU(6, coefficient=100.0), []  # so that it matters more than the FVU
    optimiser = torch.optim.Adam([weights.extra], lr=3e-2)
    for _ in range(50):
        step = step_of(states, weights, activation)
        numbers.append((step.values > 0).sum().item() / 256)
        weights.extra.grad = step.gradients.extra
        optimiser.step()
    assert numbers[0] == pytest.approx(6 * factor, rel=0.01)
    assert numbers[-1] == pytest.approx(6, rel=0.1)


def test_the_scale_of_the_states_does_not_matter_to_jumprelu():
    states = sparse_states(60).double()
    activation = JumpReLU(K)
    weights = Weights(*(tensor.double() for tensor in trained(EVERY[2])[0]))
    larger = weights._replace(b_enc=weights.b_enc * 8, b_pre=weights.b_pre * 8, extra=weights.extra + math.log(8))
    a, b = step_of(states, weights, activation), step_of(states * 8, larger, activation)
    torch.testing.assert_close(a.fvu, b.fvu)
    torch.testing.assert_close(a.penalty, b.penalty)
    torch.testing.assert_close(a.gradients.extra, b.gradients.extra)


# by name


def test_activations_by_name():
    assert {"topk", "batchtopk", "jumprelu", "abstopk"} < set(ACTIVATIONS)
    assert [type(activation) for activation in EVERY] == [TopK, BatchTopK, JumpReLU, AbsTopK, TopK]
    assert all(activation.k == K for activation in EVERY)
    assert activation_of("topk", 8, (2, 8)) == TopK(8, (2, 8))
    assert activation_of("topk", 8) != activation_of("topk", 9)
    assert hash(activation_of("jumprelu", 8)) == hash(JumpReLU(8))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("relu", 3), ValueError, "relu"),
        (("topk", 0), ValueError, "k is 0"),
        (("topk", 2.0), TypeError, "k is 2.0"),
        (("batchtopk", 3, [1, 3]), ValueError, "batchtopk"),
        (("topk", 3, [3, 1]), ValueError, "ascend"),
        (("topk", 3, [1, 1, 3]), ValueError, "ascend"),
        (("topk", 3, [1, 2]), ValueError, "ascend"),
        (("topk", 3, [0, 3]), ValueError, "a budget is 0"),
        (("topk", 3, [1.0, 3]), TypeError, "a budget is 1.0"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        activation_of(*arguments)


def test_the_reference_of_jumprelu_passes_no_gradient_through_the_jump():
    """A latent just above its threshold and one just below differ in their activation, not in a gradient for pre."""
    states = sparse_states(30).double()
    weights = Weights(*(tensor.double().requires_grad_() for tensor in trained(EVERY[2])[0]))
    dead = torch.zeros(WIDTH, dtype=torch.bool)
    gradients = [
        torch.autograd.grad(
            reference_loss(states, weights, JumpReLU(K, bandwidth, coefficient), states.mean(dim=0), dead, 0.0), weights
        )
        for bandwidth, coefficient in ((0.1, 1.0), (1.5, 7.0))
    ]
    for one, other in zip(gradients[0][:4], gradients[1][:4], strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(gradients[0][4], gradients[1][4])


@pytest.mark.parametrize(
    ("bandwidth", "coefficient", "message"),
    [(0.0, 1.0, "bandwidth is 0.0"), (2.0, 1.0, "bandwidth is 2.0"), (0.1, -1.0, "coefficient is -1.0")],
)
def test_bad_settings_of_jumprelu(bandwidth, coefficient, message):
    with pytest.raises(ValueError, match=message):
        JumpReLU(3, bandwidth, coefficient)
