import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from lib.sae.kernels import reference_loss, unexplained
from lib.sae.training import NORMALISATIONS, Normalisation, TrainableAutoencoder, TrainingConfig, learning_rate_factor

TINY = TrainingConfig(width=48, k=4, epochs=8, batch_tokens=128, learning_rate=1e-2, seed=3)


def test_a_step_sets_the_gradients_of_the_reference_on_all_weights():
    draw = torch.Generator().manual_seed(0)
    first, dead = torch.randn(40, 6, generator=draw), torch.arange(48) % 5 == 0
    config = replace(TINY, auxk=0.5, select_dtype="float32")
    model = TrainableAutoencoder.initial(first, config).double()
    model.W_enc.data += 0.1  # off its initial point, where encoder and decoder are equal
    states = first.double()
    step = model.backward(states, dead)
    got = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    loss = reference_loss(states, model.weights(), model.activation, model.mean, dead, 0.5)
    loss.backward()
    assert (step.fvu + 0.5 * step.auxk).item() == pytest.approx(loss.item(), rel=1e-12)
    assert set(got) == {"W_enc", "b_enc", "W_dec", "b_pre"}
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(got[name], parameter.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_the_gradient_of_all_weights_together_has_norm_1(scale):
    first = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    model = TrainableAutoencoder.initial(first, replace(TINY, activation="jumprelu"))
    model.backward(first, torch.zeros(48, dtype=torch.bool))
    for parameter in model.parameters():
        parameter.grad *= scale
    before = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    model.scale_gradient()
    after = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    torch.testing.assert_close(after, before / before.norm())
    for parameter in model.parameters():
        parameter.grad.zero_()
    model.scale_gradient()
    assert all((parameter.grad == 0).all() for parameter in model.parameters())


def test_initial_weights():
    first = torch.randn(500, 16)
    model = TrainableAutoencoder.initial(first, TINY)
    assert torch.equal(model.W_enc, model.W_dec)
    assert model.W_enc.data_ptr() != model.W_dec.data_ptr()  # equal, not tied
    assert torch.equal(model.b_pre, first.mean(dim=0))
    assert torch.equal(model.b_enc, torch.zeros(48))
    torch.testing.assert_close(model.W_dec.norm(dim=1), torch.ones(48))
    assert model.W_dec.shape == (48, 16)


def test_normalisation():
    # the mean is (1, 2); about it the squared norms are 9, 9, 16, 16: their mean 12.5, to become d = 2
    states = torch.tensor([[4.0, 2.0], [-2.0, 2.0], [1.0, 6.0], [1.0, -2.0]])
    none, centred, scaled, per_token = (Normalisation.of(states, kind) for kind in NORMALISATIONS)
    assert torch.equal(none(states), states)
    assert torch.equal(centred(states), states - torch.tensor([1.0, 2.0]))
    assert scaled.scale == pytest.approx(math.sqrt(2 / 12.5))
    assert scaled(states).square().sum(dim=1).mean().item() == pytest.approx(2)
    assert scaled(states.bfloat16()).dtype == torch.float32
    # (3, 0), (-3, 0), (0, 4), (0, -4) about the mean, each to norm sqrt(2)
    expected = math.sqrt(2) * torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    torch.testing.assert_close(per_token(states), expected)
    assert torch.equal(per_token(torch.tensor([[1.0, 2.0]])), torch.zeros(1, 2))  # a state that is the mean
    assert Normalisation.of(torch.ones(3, 2), "scaled").scale == 1  # nothing to scale


@pytest.mark.parametrize("kind", NORMALISATIONS)
@pytest.mark.parametrize("activation", ["topk", "abstopk", "jumprelu"])
def test_what_is_saved_does_on_states_what_was_trained_on_normalised_states(kind, activation):
    draw = torch.Generator().manual_seed(1)
    states = 3 * torch.randn(300, 6, generator=draw) + torch.randn(6, generator=draw)
    normalise = Normalisation.of(states, kind)
    config = replace(TINY, activation=activation, normalisation=kind)
    model = TrainableAutoencoder.initial(normalise(states), config)
    model.b_enc.data += 0.1 * torch.randn(48, generator=draw)
    model.b_pre.data += 0.1
    saved = model.finished(normalise, None, {"a": 1})
    unnormalised = model.finished(Normalisation(torch.zeros(6), 1.0), None, {})
    codes, wanted = saved.encode(states), unnormalised.encode(normalise(states))
    dense, wanted_dense = (torch.zeros(300, 96).scatter_add_(1, c.indices, c.values) for c in (codes, wanted))
    torch.testing.assert_close(dense, wanted_dense, rtol=1e-4, atol=1e-4)
    decoded = saved.decode(codes) if kind == "per-token" else normalise(saved.decode(codes))
    torch.testing.assert_close(decoded, unnormalised.decode(wanted), rtol=1e-4, atol=1e-4)
    assert saved.scales == (kind == "per-token")
    assert saved.metadata == {"a": 1}
    assert (wanted.values > 0).any()


def test_fvu():
    states = torch.tensor([[0.0, 0.0], [2.0, 0.0], [4.0, 3.0]])
    mean = states.mean(dim=0)  # (2, 1)
    assert unexplained(states, states, mean).item() == 0
    assert unexplained(states, mean.expand(3, 2), mean).item() == 1
    # squared distances to the mean: 4 + 1, 0 + 1, 4 + 4: 14; the second state missed by 1: 1 / 14
    assert unexplained(states, states + torch.tensor([[0, 0], [0, 1], [0, 0]]), mean).item() == pytest.approx(1 / 14)


@pytest.mark.parametrize(("n_steps", "warmup"), [(100, 0.05), (1000, 0.2), (100, 0.0), (7, 0.5), (1, 0.05)])
def test_the_learning_rate_rises_to_1_and_falls_to_near_0(n_steps, warmup):
    factors = [learning_rate_factor(step, n_steps, warmup) for step in range(n_steps)]
    n_warmup = round(warmup * n_steps)
    assert all(0 < factor <= 1 for factor in factors)
    assert factors[n_warmup] == max(factors) == 1
    np.testing.assert_allclose(np.diff([0, *factors[: n_warmup + 1]]), 1 / (n_warmup + 1))  # a straight line from 0
    assert np.all(np.diff(factors[n_warmup:]) < 0)
    assert learning_rate_factor(n_steps, n_steps, warmup) == pytest.approx(0)
    if n_steps >= 100:
        assert factors[-1] < 1e-3
        assert factors[(n_warmup + n_steps) // 2] == pytest.approx(0.5, abs=0.02)  # cosine: half-way down in the middle


@pytest.mark.parametrize(
    ("field", "value", "error", "message"),
    [
        *((name, 0, ValueError, f"{name} is 0") for name in ("width", "k", "epochs")),
        ("batch_tokens", -4, ValueError, "batch_tokens is -4"),
        ("width", 64.0, TypeError, "width is 64.0"),
        ("epochs", True, TypeError, "epochs is True"),
        ("k", 32_769, ValueError, "k is 32769.* 32768"),
        *(("learning_rate", x, ValueError, "learning_rate") for x in (0.0, -1e-3, math.nan, math.inf)),
        *(("auxk", x, ValueError, "auxk") for x in (-0.1, math.nan, math.inf)),
        ("dead_tokens", 0, ValueError, "dead_tokens is 0"),
        ("select_dtype", "float16", ValueError, "float16.*native"),
        ("activation", "relu", ValueError, "(?s)relu.*topk"),
        ("normalisation", "rms", ValueError, "rms.*per-token"),
        ("buffer_batches", 0, ValueError, "buffer_batches is 0"),
        ("budgets", (32,), ValueError, "32"),
        *(("warmup", x, ValueError, "warmup") for x in (-0.1, 1.0, math.nan)),
    ],
)
def test_bad_configurations(field, value, error, message):
    with pytest.raises(error, match=message):
        TrainingConfig(**{field: value})


def test_integers_of_numpy_are_integers():
    settings = {"width": 64, "k": 4, "epochs": 2, "batch_tokens": 8, "dead_tokens": 9, "buffer_batches": 3, "seed": 7}
    config = TrainingConfig(**{name: np.int64(value) for name, value in settings.items()}, budgets=np.array([2, 4]))
    wanted = TrainingConfig(**settings, budgets=(2, 4))
    assert config == wanted
    assert json.dumps(asdict(config)) == json.dumps(asdict(wanted))
    with pytest.raises(ValueError, match="seed is -1"):
        TrainingConfig(seed=-1)


def test_the_defaults_are_the_recipe_of_the_paper():
    config = TrainingConfig()
    assert (config.width, config.k, config.epochs, config.batch_tokens) == (32_768, 16, 3, 4_096)
    assert (config.learning_rate, config.warmup, config.auxk) == (1e-3, 0.05, 1 / 32)
