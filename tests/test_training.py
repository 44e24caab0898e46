import json
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import TEXTS

import lib.training
from lib.__main__ import main
from lib.encoder import TokenEncoder, native_dtype
from lib.kernels import Weights, reference_loss, unexplained
from lib.retriever import LatentTerms
from lib.training import (
    TrainableAutoencoder,
    TrainingConfig,
    collect_states,
    learning_rate_factor,
    train,
)

TINY = TrainingConfig(width=48, k=4, epochs=8, batch_tokens=128, learning_rate=1e-2, seed=3)


def sparse_states(n: int = 2_048, d: int = 16, n_atoms: int = 24) -> torch.Tensor:
    """States that are sums of three atoms of a dictionary, off the origin: an autoencoder with k >= 3 can have them."""
    rng = np.random.default_rng(5)
    atoms = rng.normal(size=(n_atoms, d))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    states = rng.normal(size=d) + np.zeros((n, d))
    for _ in range(3):
        states += rng.uniform(1, 2, size=(n, 1)) * atoms[rng.integers(n_atoms, size=n)]
    return torch.from_numpy(states.astype(np.float32))


def test_a_step_sets_the_gradients_of_the_reference_on_all_four_weights():
    draw = torch.Generator().manual_seed(0)
    states, dead = torch.randn(40, 6, generator=draw, dtype=torch.float64), torch.arange(48) % 5 == 0
    mean = states.mean(dim=0)
    model = TrainableAutoencoder(mean.float(), 48, draw).double()
    model.W_enc.data += 0.1  # off its initial point, where encoder and decoder are equal
    config = replace(TINY, auxk=0.5, select_dtype="float32")
    step = model.backward(states, mean, dead, config)
    got = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    loss = reference_loss(states, Weights(model.W_enc, model.b_enc, model.W_dec, model.b_pre), 4, mean, dead, 0.5)
    loss.backward()
    assert (step.fvu + 0.5 * step.auxk).item() == pytest.approx(loss.item(), rel=1e-12)
    assert set(got) == {"W_enc", "b_enc", "W_dec", "b_pre"}
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(got[name], parameter.grad, rtol=0, atol=1e-12)


def test_latents_silent_for_too_long_are_dead(monkeypatch):
    # a latent can be dead only after 512 tokens, 4 batches of 128; before that no residual is reconstructed
    calls, rows, backward = [], [], TrainableAutoencoder.backward

    def watched(model, batch, mean, dead, config):
        step = backward(model, batch, mean, dead, config)
        step = step._replace(values=step.values * (step.indices % 3 > 0))  # chosen with a value of 0: not active
        calls.append((dead, step))
        return step

    monkeypatch.setattr(TrainableAutoencoder, "backward", watched)
    train(sparse_states(), replace(TINY, width=256, k=2, epochs=1, dead_tokens=512), log=rows.append)
    active = torch.zeros(16, 256, dtype=torch.bool)
    for at, (dead, step) in enumerate(calls):
        assert torch.equal(dead, ~active[at - 4 : at].any(dim=0) if at >= 4 else torch.zeros(256, dtype=torch.bool))
        assert (step.auxk > 0) == dead.any()
        active[at, step.indices[step.values > 0]] = True
    assert 0 < rows[-1]["dead"] == 1 - active[-4:].any(dim=0).float().mean().item() < 1


def test_auxk_revives_what_without_it_stays_dead_for_ever(monkeypatch):
    initialise = TrainableAutoencoder.__init__

    def half_dead(self, *arguments):
        initialise(self, *arguments)
        self.W_enc.data[24:] /= 50  # above 0 for half of the tokens, but never among the largest

    monkeypatch.setattr(TrainableAutoencoder, "__init__", half_dead)
    config, rows = replace(TINY, width=48, dead_tokens=512, batch_tokens=128, epochs=16), []
    without = train(sparse_states(), replace(config, auxk=0.0), log=rows.append)
    assert rows[-1]["dead"] >= 0.5
    assert torch.equal(without.b_enc[24:], torch.zeros(24))
    train(sparse_states(), config, log=rows.append)
    assert rows[-1]["dead"] < 0.25


def test_the_selection_is_in_the_dtype_that_the_configuration_names(monkeypatch):
    seen, step = [], lib.training.loss_and_gradients
    monkeypatch.setattr(
        lib.training, "loss_and_gradients", lambda *arguments: seen.append(arguments[-1]) or step(*arguments)
    )
    native = native_dtype(torch.device("cpu"))
    for name, wanted in (("native", native), ("float32", "float32"), ("bfloat16", "bfloat16")):
        sae = train(sparse_states(128), replace(TINY, epochs=1, select_dtype=name))
        assert seen.pop() == getattr(torch, wanted)
        assert sae.metadata["training"]["select_dtype"] == wanted


def test_initial_weights():
    mean = torch.randn(16)
    model = TrainableAutoencoder(mean, 48, torch.Generator().manual_seed(0))
    assert torch.equal(model.W_enc, model.W_dec)
    assert model.W_enc.data_ptr() != model.W_dec.data_ptr()  # equal, not tied
    assert torch.equal(model.b_pre, mean)
    assert torch.equal(model.b_enc, torch.zeros(48))
    torch.testing.assert_close(model.W_dec.norm(dim=1), torch.ones(48))
    assert model.W_dec.shape == (48, 16)


def test_training_starts_at_the_mean_and_the_given_weights_are_what_is_returned():
    # with a learning rate of next to nothing, what comes out is the initial point
    states = sparse_states()
    sae = train(states, replace(TINY, epochs=1, learning_rate=1e-30))
    torch.testing.assert_close(sae.b_pre, states.double().mean(dim=0).float())
    torch.testing.assert_close(sae.W_enc, sae.W_dec)
    assert (sae.width, sae.d, sae.k) == (48, 16, 4)
    assert not any(tensor.requires_grad for tensor in sae.tensors().values())


def test_the_loss_falls_and_the_rows_of_the_log_say_so():
    states, rows = sparse_states(), []
    sae = train(states, TINY, log=rows.append)
    # 2048 / 128 = 16 steps an epoch, 128 in all: rows at 50, 100 and at the end
    assert [row["step"] for row in rows] == [50, 100, 128]
    assert [row["tokens"] for row in rows] == [50 * 128, 100 * 128, 128 * 128]
    assert rows[2]["fvu"] < rows[1]["fvu"] < rows[0]["fvu"] < 1
    assert rows[2]["fvu"] < 0.25
    assert all(0 <= row["dead"] < 1 for row in rows)
    for row in rows:  # the rate of that very step, counted from 0
        assert row["learning_rate"] == pytest.approx(1e-2 * learning_rate_factor(row["step"] - 1, 128, 0.05))
    assert json.loads(json.dumps(sae.metadata))["training"]["final"] == rows[-1]
    assert sae.metadata["training"]["distinct_tokens"] == 2048
    assert sae.metadata["training"]["seed"] == 3
    # the autoencoder that is returned reconstructs as well as the log says
    left = unexplained(states, sae.decode(sae.encode(states)), states.mean(dim=0))
    assert left.item() == pytest.approx(rows[-1]["fvu"], rel=0.1)


def test_decoder_rows_have_norm_1_after_each_step(monkeypatch):
    steps, normalise = [], TrainableAutoencoder.normalise_decoder

    def checked(model):
        before = model.W_dec.detach().clone()
        normalise(model)
        torch.testing.assert_close(model.W_dec.norm(dim=1), torch.ones(48))
        steps.append((before.norm(dim=1) - 1).abs().max().item())

    monkeypatch.setattr(TrainableAutoencoder, "normalise_decoder", checked)
    sae = train(sparse_states(), replace(TINY, epochs=2))
    assert len(steps) == 32
    assert max(steps) > 1e-3  # the optimiser does move them off
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(48))


def test_the_same_seed_gives_the_same_bits_and_another_seed_others():
    states, config = sparse_states(), replace(TINY, epochs=2)
    first, second = train(states, config), train(states, config)
    other = train(states, replace(config, seed=4))
    for name, tensor in first.tensors().items():
        assert torch.equal(tensor, second.tensors()[name])
        assert not torch.equal(tensor, other.tensors()[name])


def test_training_neither_reads_nor_moves_the_global_generator_nor_changes_the_states():
    states = sparse_states()
    before, copy = torch.random.get_rng_state(), states.clone()
    train(states, replace(TINY, epochs=1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(states, copy)


def test_bfloat16_states_are_trained_on_in_float32():
    sae = train(sparse_states().bfloat16(), replace(TINY, epochs=1))
    assert all(tensor.dtype == torch.float32 for tensor in sae.tensors().values())


def test_every_state_is_seen_once_an_epoch(monkeypatch):
    # 300 states in batches of 128: two whole batches an epoch, no state twice, and another order the next time
    seen, backward = [], TrainableAutoencoder.backward
    monkeypatch.setattr(
        TrainableAutoencoder,
        "backward",
        lambda self, states, *rest: seen.append(states.clone()) or backward(self, states, *rest),
    )
    states = sparse_states(300)
    train(states, replace(TINY, epochs=2))
    assert [len(batch) for batch in seen] == [128] * 4
    epochs = [torch.cat(seen[:2]), torch.cat(seen[2:])]
    for epoch in epochs:
        assert len(torch.unique(epoch, dim=0)) == 256
    assert not torch.equal(*epochs)


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


@pytest.mark.parametrize("shape", [(0, 16), (127, 16), (4096,), (2, 128, 16)])
def test_too_few_states(shape):
    with pytest.raises(ValueError, match=r"training needs \[n, d\] with at least one batch of 128 tokens. Give more"):
        train(torch.zeros(shape), TINY)


@pytest.mark.parametrize(
    ("field", "value", "error", "message"),
    [
        *((name, 0, ValueError, f"{name} is 0; it must be at least 1") for name in ("width", "k", "epochs")),
        ("batch_tokens", -4, ValueError, "batch_tokens is -4"),
        ("width", 64.0, TypeError, "width is 64.0"),
        ("epochs", True, TypeError, "epochs is True"),
        ("k", 32_769, ValueError, "k is 32769, more than the width 32768; choose k from 1 to 32768"),
        *(("learning_rate", x, ValueError, "learning_rate is .* positive") for x in (0.0, -1e-3, math.nan, math.inf)),
        *(("auxk", x, ValueError, "auxk is .* at least 0") for x in (-0.1, math.nan, math.inf)),
        ("dead_tokens", 0, ValueError, "dead_tokens is 0; it must be at least 1"),
        ("select_dtype", "float16", ValueError, "select_dtype is 'float16'; choose one of 'native', 'float32', 'bfl"),
        *(("warmup", x, ValueError, "warmup is .* at least 0 and below 1") for x in (-0.1, 1.0, math.nan)),
    ],
)
def test_bad_configurations(field, value, error, message):
    with pytest.raises(error, match=message):
        TrainingConfig(**{field: value})


def test_the_defaults_are_the_recipe_of_the_paper():
    config = TrainingConfig()
    assert (config.width, config.k, config.epochs, config.batch_tokens) == (32_768, 16, 3, 4_096)
    assert (config.learning_rate, config.warmup, config.auxk) == (1e-3, 0.05, 1 / 32)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_states_that_are_not_finite_stop_the_training(bad):
    states = sparse_states()
    states[700, 3] = bad
    with pytest.raises(FloatingPointError, match="The loss is nan at step 1; look for NaN in the states, or lower"):
        train(states, TINY)


def test_collect_states_takes_the_first_tokens(plain_folder):
    encoder = TokenEncoder(plain_folder, dtype="float32", batch_tokens=16)
    every = torch.cat([block.states for block in encoder.stream(TEXTS * 5)]).bfloat16()
    for n in (1, 100, len(every), len(every) + 50):
        states = collect_states(encoder, iter(TEXTS * 5), n)
        assert states.dtype == torch.bfloat16
        torch.testing.assert_close(states, every[:n])
    assert collect_states(encoder, [], 5).shape == (0, 32)
    with pytest.raises(ValueError, match="max_tokens is 0"):
        collect_states(encoder, TEXTS, 0)


def test_collect_states_stops_reading_when_it_has_enough(plain_folder):
    def texts():
        yield from TEXTS * 40  # the tokenizer takes 256 at a time
        raise AssertionError("read on")

    encoder = TokenEncoder(plain_folder, dtype="float32", batch_tokens=16)
    assert len(collect_states(encoder, texts(), 50)) == 50


def run(monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["lib", *map(str, arguments)])
    main()


def test_the_train_command_end_to_end(tmp_path, sentence_folder, monkeypatch, capsys):
    text, out = tmp_path / "text.txt", tmp_path / "model"
    text.write_text("\n".join(TEXTS * 8))
    settings = ["--width", 40, "--k", 3, "--epochs", 2, "--batch-tokens", 64, "--seed", 7, "--layer", 2]
    run(monkeypatch, "train", text, out, "--model", sentence_folder, "--max-length", 20, "--tokens", 500, *settings)
    assert "500 token states of" in capsys.readouterr().out

    model = LatentTerms.from_pretrained(out, dtype="float32")
    assert (model.sae.width, model.sae.k, model.sae.d) == (40, 3, 32)
    assert (model.encoder.layer, model.encoder.max_length, model.encoder.name) == (2, 20, sentence_folder)
    assert (model.pooling, model.phi) == ("sum", "sqrt")
    terms = model.encode_documents(TEXTS)
    assert terms.shape == (len(TEXTS), 40)
    assert terms.nnz > 0
    rows = json.loads((out / "training_log.json").read_text())
    assert [row["step"] for row in rows] == [14]  # 500 // 64 = 7 steps an epoch
    assert model.sae.metadata["training"] == {
        "width": 40,
        "k": 3,
        "epochs": 2,
        "batch_tokens": 64,
        "learning_rate": 1e-3,
        "warmup": 0.05,
        "auxk": 1 / 32,
        "dead_tokens": 1_000_000,
        "select_dtype": native_dtype(torch.device("cpu")),
        "seed": 7,
        "distinct_tokens": 500,
        "final": rows[-1],
    }


def test_the_train_command_stores_float16_and_is_reproducible(tmp_path, sentence_folder, monkeypatch):
    (tmp_path / "text.txt").write_text("\n".join(TEXTS * 8))
    settings = ["--width", 40, "--k", 3, "--epochs", 1, "--batch-tokens", 64, "--fraction", 0.5]
    for name, stored in (("a", "float32"), ("b", "float32"), ("c", "float16")):
        run(
            monkeypatch,
            "train",
            tmp_path / "text.txt",
            tmp_path / name,
            "--model",
            sentence_folder,
            "--stored",
            stored,
            *settings,
        )
    a, b, c = (LatentTerms.from_pretrained(tmp_path / name, dtype="float32").sae.tensors() for name in "abc")
    for name, tensor in a.items():
        assert torch.equal(tensor, b[name])
        assert torch.equal(tensor.half().float(), c[name])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--k", 0], "k is 0"),
        (["--width", 8, "--k", 9], "k is 9, more than the width 8"),
        (["--layer", 9], "layer is 9"),
        (["--fraction", 0], "fraction is 0.0"),
        (["--tokens", 0], "max_tokens is 0"),
    ],
)
def test_the_train_command_with_bad_settings(tmp_path, plain_folder, monkeypatch, arguments, message):
    (tmp_path / "text.txt").write_text("the cat")
    with pytest.raises(ValueError, match=message):
        run(monkeypatch, "train", tmp_path / "text.txt", tmp_path / "out", "--model", plain_folder, *arguments)
    assert not (tmp_path / "out").exists()


def test_the_train_command_without_text(tmp_path, plain_folder, monkeypatch):
    with pytest.raises(ValueError, match="holds no text"):
        run(monkeypatch, "train", tmp_path / "none", tmp_path / "out", "--model", plain_folder)
