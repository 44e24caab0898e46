import json
import math
import os
import random
import signal
import sys
import time
from dataclasses import asdict, replace
from typing import TextIO

import numpy as np
import pytest
import torch
from fresh import ROOT, Fork, Parent
from safetensors import SafetensorError
from test_kernels import BATCHES, both, draw_problem
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import lib.sae.checkpoints
import lib.sae.trainer
import lib.sae.training
from lib.encode.states import StoredStates
from lib.sae import kernels, selection
from lib.sae.activations import JumpReLU, activation_of
from lib.sae.autoencoder import SparseAutoencoder
from lib.sae.checkpoints import Checkpoint
from lib.sae.kernels import unexplained
from lib.sae.trainer import Run, TrainingStopped, batches, train
from lib.sae.training import TrainableAutoencoder, TrainingConfig, learning_rate_factor
from lib.support.devices import CPU, native_dtype, training_device
from lib.support.folders import digest_arrays

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


def test_latents_silent_for_too_long_are_dead(monkeypatch):
    # a latent can be dead only after 512 tokens, 4 batches of 128; before that no residual is reconstructed
    calls, rows, backward = [], [], TrainableAutoencoder.backward

    def watched(model, batch, dead):
        step = backward(model, batch, dead)
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


def census(sae: SparseAutoencoder, states: torch.Tensor) -> float:
    codes = sae.encode(states)
    return 1 - len(codes.indices[codes.values > 0].unique()) / sae.width


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_run_shorter_than_the_window_says_how_many_are_dead_and_auxk_works(monkeypatch, epochs):
    # 16 batches of 128 an epoch, of one and the same state: a latent is dead after half of the run
    steps, rows, backward = [], [], TrainableAutoencoder.backward

    def watched(model, batch, dead):
        steps.append(backward(model, batch, dead))
        return steps[-1]

    monkeypatch.setattr(TrainableAutoencoder, "backward", watched)
    states = sparse_states(1).repeat(2_048, 1) + 1e-3 * sparse_states()
    config = replace(TINY, width=256, k=2, epochs=epochs, dead_tokens=1_000_000)
    sae = train(states, config, log=rows.append)
    assert config.dead_window(2_048) == epochs * 1_024 == sae.metadata["dead_window"]
    assert census(sae, states) > 0.9
    half = epochs * 8
    active = torch.cat([step.indices[step.values > 0] for step in steps[half:]]).unique()
    assert rows[-1]["dead"] == 1 - len(active) / sae.width
    assert not any(float(step.auxk) for step in steps[:half])
    assert all(float(step.auxk) for step in steps[half:])


@pytest.mark.slow
def test_what_is_not_known_yet_is_none():
    states = sparse_states(1).repeat(2_048, 1) + 1e-3 * sparse_states()
    config = replace(TINY, width=256, k=2, epochs=8, dead_tokens=7_000)  # 55 batches of 128; a row after 50
    rows = []
    train(states, config, log=rows.append)
    assert (rows[0]["tokens"], rows[0]["dead"]) == (6_400, None)
    assert json.loads(json.dumps(rows[0]))["dead"] is None
    assert all(isinstance(row["dead"], float) for row in rows[1:])
    rows_of_active = []
    train(states, replace(config, width=2), log=rows_of_active.append)  # all were active: none can be dead
    assert rows_of_active[0]["dead"] == 0.0
    run = Run.begin(StoredStates([states]), config, CPU)
    run.rows = rows[:1]
    assert "not known" in run.status()


@pytest.mark.parametrize(
    ("dead_tokens", "n", "window"),
    [
        (200_000, 400_000, 200_000),  # 195 batches of 2,048, twice
        (400_000, 400_000, 399_360),
        (200_000, 25_000, 24_576),
        (5, 2_048, 5),
        (5_000, 100, 1),  # not a batch
    ],
)
def test_the_window_is_bounded_by_half_of_the_run(dead_tokens, n, window):
    config = TrainingConfig(batch_tokens=2_048, epochs=2, dead_tokens=dead_tokens)
    assert config.dead_window(n) == window


@pytest.mark.slow
def test_auxk_revives_what_without_it_stays_dead_for_ever(monkeypatch):
    initialise = TrainableAutoencoder.__init__

    def half_dead(self, *arguments):
        initialise(self, *arguments)
        self.W_enc.data[24:] /= 500  # above 0 for half of the tokens, but never among the largest

    monkeypatch.setattr(TrainableAutoencoder, "__init__", half_dead)
    config, rows = replace(TINY, width=48, dead_tokens=512, batch_tokens=128, epochs=16), []
    without = train(sparse_states(), replace(config, auxk=0.0), log=rows.append)
    assert rows[-1]["dead"] >= 0.5
    assert torch.equal(without.b_enc[24:], torch.zeros(24))
    train(sparse_states(), config, log=rows.append)
    assert rows[-1]["dead"] < 0.25


def test_the_selection_is_in_the_dtype_that_the_configuration_names(monkeypatch):
    seen, step = [], lib.sae.training.loss_and_gradients
    monkeypatch.setattr(
        lib.sae.training, "loss_and_gradients", lambda *arguments: seen.append(arguments[-1]) or step(*arguments)
    )
    native = native_dtype(torch.device("cpu"))
    for name, wanted in (("native", native), ("float32", "float32"), ("bfloat16", "bfloat16")):
        sae = train(sparse_states(128), replace(TINY, epochs=1, select_dtype=name))
        assert seen.pop() == getattr(torch, wanted)
        assert sae.metadata["run"]["config"]["select_dtype"] == wanted


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
    assert all(row["l0"] == 4 for row in rows)  # every pre-activation among the 4 largest is above 0 here
    assert all(sum(row["density"]) == 48 for row in rows)
    assert json.loads(json.dumps(sae.metadata))["final"] == rows[-1]
    assert sae.metadata["distinct_tokens"] == 2048
    assert sae.metadata["run"] == {"config": asdict(TINY.resolved()), "states": StoredStates([states]).identity}
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


@pytest.mark.parametrize("shape", [(0, 16), (127, 16), (4096,), (2, 128, 16)])
def test_too_few_states(shape):
    with pytest.raises(ValueError, match=r"128|\[n, d\]"):
        train(torch.zeros(shape), TINY)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_states_that_are_not_finite_stop_the_training(bad):
    states = sparse_states()
    states[700, 3] = bad
    with pytest.raises(FloatingPointError, match=r"nan at step 1.*\(0\.01\)"):
        train(states, TINY)


def digest(sae: SparseAutoencoder) -> str:
    return digest_arrays({name: tensor.numpy() for name, tensor in sae.tensors().items()})


@pytest.mark.parametrize("start", [0, 1, 3, 4, 5, 8, 11, 15])
def test_batches_begin_at_any_step(start):
    # 600 states: 4 whole batches an epoch, in windows of 3 batches and of 1
    config = replace(TINY, epochs=4, buffer_batches=3)
    source = StoredStates([torch.arange(600.0)[:, None]])
    uninterrupted = [states for states, _ in batches(source, config)]
    assert len(uninterrupted) == 16
    for epoch in range(4):
        assert len(torch.unique(torch.cat(uninterrupted[4 * epoch : 4 * epoch + 4]))) == 512
    rest = [states for states, _ in batches(source, config, start)]
    assert len(rest) == 16 - start
    assert all(map(torch.equal, rest, uninterrupted[start:]))


@pytest.mark.parametrize("start", [0, 1, 4, 7])
def test_batches_of_whole_texts_have_each_text_in_one_piece_in_a_new_order_each_epoch(start):
    config = replace(TINY, epochs=2, buffer_batches=3, activation="gradient")
    source = StoredStates([torch.arange(512.0)[:, None]], lengths=[24] * 22)  # 128 states a batch: five texts, a part
    steps = list(batches(source, config))
    for states, texts in steps:
        assert torch.equal(states[:, 0].long() // 24, texts)
        assert len(texts.unique_consecutive()) == len(texts.unique()) <= 7
    firsts, seconds = (torch.cat([states for states, _ in part]) for part in (steps[:4], steps[4:]))
    assert torch.equal(firsts.sort(dim=0).values, seconds.sort(dim=0).values) and not torch.equal(firsts, seconds)
    rest = list(batches(source, config, start))
    assert len(rest) == 8 - start
    for step, later in zip(steps[start:], rest, strict=True):
        assert all(map(torch.equal, step, later))


@pytest.mark.parametrize("resumed", [False, True])
def test_states_that_end_before_the_run_does_are_no_finished_run(tmp_path, monkeypatch, resumed):
    source, all_windows = StoredStates([sparse_states()]), StoredStates.windows
    if resumed:
        with pytest.raises(TrainingStopped):
            train(source, TINY, checkpoints=tmp_path, stopped=StopAt(20))
    monkeypatch.setattr(
        StoredStates, "windows", lambda *arguments: (window[:300] for window in all_windows(*arguments))
    )
    with pytest.raises(ValueError, match=r"step \d+ of 128.*changed"):
        train(source, TINY, checkpoints=tmp_path)


class StopAt:
    """Is true from the n-th step on."""

    def __init__(self, n: int):
        self.left = n

    def __call__(self) -> bool:
        self.left -= 1
        return self.left <= 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("activation", "normalisation"),
    [("topk", "scaled"), ("batchtopk", "scaled"), ("jumprelu", "scaled"), ("abstopk", "scaled"), ("topk", "per-token")],
)
def test_a_run_that_is_stopped_goes_on_to_the_same_bits(tmp_path, activation, normalisation):
    config = replace(TINY, activation=activation, epochs=5, dead_tokens=300, buffer_batches=3)
    config = replace(config, normalisation=normalisation)
    states, rows = sparse_states(), []
    uninterrupted = train(states, config, log=rows.append)
    for n in (1, 40, 7):
        with pytest.raises(TrainingStopped, match=r"step \d+ of 80"):
            train(states, config, checkpoints=tmp_path, every=1e9, stopped=StopAt(n))
    again: list[dict] = []
    resumed = train(states, config, checkpoints=tmp_path, log=again.append)
    assert digest(resumed) == digest(uninterrupted)
    assert again == rows
    assert resumed.metadata == uninterrupted.metadata
    # a run that has ended gives what it gave
    assert digest(train(states, config, checkpoints=tmp_path)) == digest(uninterrupted)


IMPORTS = """
import sys, torch
from lib.sae.trainer import train
from test_trainer import TINY, digest, sparse_states
"""
CHILD = """
torch.set_num_threads(int(sys.argv[2]))
may_not = lambda: not sys.stdin.read(1)  # a step takes a byte, so a child that is killed late has not ended before
print("started", flush=True)
print(digest(train(sparse_states(), TINY, checkpoints=sys.argv[1], every=0.0, stopped=may_not)), flush=True)
"""


def newest_step(folder) -> int:
    steps = [json.loads(path.read_text())["step"] for path in folder.glob("checkpoint-*.json")]
    return max(steps, default=0)


@pytest.mark.slow
def test_a_run_that_is_killed_at_any_moment_goes_on_to_the_same_bits(tmp_path):
    # a checkpoint follows every step, so most of the time one is being written
    folder, draw, reached = tmp_path / "checkpoints", random.Random(0), 0
    parent = Parent(IMPORTS, PYTHONPATH=os.pathsep.join([str(ROOT), os.path.dirname(__file__)]))

    def started(steps: int) -> tuple[Fork, TextIO, TextIO]:
        """A child that may take so many steps, what it reads and what it prints."""
        (stdin, leave), (printed, stdout) = os.pipe(), os.pipe()
        child = parent.start(CHILD, folder, torch.get_num_threads(), files=[stdin, stdout, 2])
        os.close(stdin)
        os.close(stdout)
        os.write(leave, b"." * steps)
        return child, open(leave, "w"), open(printed)

    for _ in range(4):
        child, _leave, printed = started(draw.randint(2, 30))
        assert printed.readline() == "started\n"
        while newest_step(folder) <= reached:  # so that each of them gets somewhere
            assert child.poll() is None
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.05))
        child.kill()
        assert child.wait() == -signal.SIGKILL
        assert newest_step(folder) > reached
        reached = newest_step(folder)
    assert reached < 128
    child, _leave, printed = started(256)
    assert printed.read().split() == ["started", digest(train(sparse_states(), TINY))]
    assert child.wait() == 0
    parent.close()


def test_another_configuration_or_other_states_do_not_resume(tmp_path):
    states = sparse_states()
    with pytest.raises(TrainingStopped):
        train(states, TINY, checkpoints=tmp_path, stopped=StopAt(2))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for config, other, named in (
        (replace(TINY, learning_rate=0.02, k=5), states, r"config\.k is 5, was 4; config\.learning_rate is 0\.02, was"),
        (TINY, states + 1, r"states\.states is '\w+', was '\w+'"),
    ):
        with pytest.raises(ValueError, match=named):
            train(other, config, checkpoints=tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.slow
def test_a_damaged_checkpoint_costs_only_the_steps_since_the_one_before(tmp_path):
    states = sparse_states()
    for n in (30, 20):
        with pytest.raises(TrainingStopped):
            train(states, TINY, checkpoints=tmp_path, every=1e9, stopped=StopAt(n))
    newest = max(tmp_path.glob("*.json"), key=lambda path: json.loads(path.read_text())["step"])
    name = json.loads(newest.read_text())["files"]["state.safetensors"]["file"]
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:1000])
    with pytest.warns(UserWarning, match=name):
        resumed = train(states, TINY, checkpoints=tmp_path)
    assert digest(resumed) == digest(train(states, TINY))


@pytest.mark.slow
def test_a_run_that_diverges_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    states = sparse_states()
    with pytest.raises(TrainingStopped):
        train(states, TINY, checkpoints=tmp_path, every=1e9, stopped=StopAt(10))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    step = newest_step(tmp_path)
    backward = TrainableAutoencoder.backward

    def diverges(self, *arguments):
        result = backward(self, *arguments)
        self.W_enc.grad[3] = math.nan  # the loss is finite still, the weights after this step are not
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainableAutoencoder, "backward", diverges)
        last = f"step {step}"
        with pytest.raises(FloatingPointError, match=rf"W_\w+ .*{last}"):
            train(states, TINY, checkpoints=tmp_path, every=0.0)
        with pytest.raises(FloatingPointError, match=rf"nan at step \d+.*{last}"):
            train(states, TINY, checkpoints=tmp_path, every=1e9)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert digest(train(states, TINY, checkpoints=tmp_path)) == digest(train(states, TINY))


def test_a_learning_rate_that_diverges(tmp_path):
    with pytest.raises(FloatingPointError, match=r"\(1e\+30\).*No checkpoint"):
        train(sparse_states(), replace(TINY, learning_rate=1e30), checkpoints=tmp_path, every=1e9)


@pytest.mark.slow
def test_a_full_disk_stops_the_run_and_leaves_the_last_checkpoint_whole(tmp_path, monkeypatch):
    states = sparse_states()
    with pytest.raises(TrainingStopped):
        train(states, TINY, checkpoints=tmp_path, every=1e9, stopped=StopAt(10))
    step = newest_step(tmp_path)

    def full(tensors, path):
        path.write_bytes(b"half")
        raise SafetensorError("No space left on device")  # as the library raises it, which is no OSError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lib.sae.checkpoints, "save_file", full)
        with pytest.raises(OSError, match=rf"No space left on device.*step {step}"):
            train(states, TINY, checkpoints=tmp_path, every=0.0)
    assert not list(tmp_path.glob(".*"))
    assert digest(train(states, TINY, checkpoints=tmp_path)) == digest(train(states, TINY))


@pytest.mark.slow
def test_other_threads_are_told_of(tmp_path, monkeypatch):
    states = sparse_states()
    with pytest.raises(TrainingStopped):
        train(states, TINY, checkpoints=tmp_path, stopped=StopAt(2))
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    with pytest.warns(UserWarning, match=f"threads is {threads + 1}, was {threads}"):
        train(states, TINY, checkpoints=tmp_path)


def test_the_density_histogram_counts_latents_that_never_fire():
    rows = []
    states = sparse_states(256)
    train(states, replace(TINY, width=512, k=1, epochs=1), log=rows.append)
    assert sum(rows[-1]["density"]) == 512
    assert rows[-1]["density"][0] >= 512 - 256  # 256 tokens of one latent each


@pytest.mark.slow
def test_the_threshold_of_batch_topk_gives_as_many_latents_as_in_training():
    for epochs in (1, 8):
        sae = train(sparse_states(), replace(TINY, activation="batchtopk", epochs=epochs))
        l0 = (sae.encode(sparse_states()).values > 0).sum(dim=1).float().mean().item()
        assert l0 == pytest.approx(4, rel=0.15)


@pytest.mark.slow
def test_jumprelu_has_as_many_latents_as_it_aims_at_after_a_short_run():
    rows = []
    sae = train(sparse_states(), replace(TINY, activation="jumprelu", learning_rate=1e-3), log=rows.append)
    assert rows[-1]["step"] == 128  # in which log thresholds as slow as the weights move by .07 at most
    l0 = (sae.encode(sparse_states()).values > 0).sum(dim=1).float().mean().item()
    assert l0 == pytest.approx(4, rel=0.15)


@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize("name", ["topk", "budgets", "batchtopk", "abstopk", "jumprelu"])
def test_what_a_gpu_computes_are_the_gradients_of_the_dense_reference(monkeypatch, name, kind):
    # the operations that a GPU is given, here on the CPU
    for module in (selection, kernels):
        monkeypatch.setattr(module, "on_gpu", lambda tensor: True)
    monkeypatch.setattr(selection, "_GPU_BLOCK", 5 * 32)  # five tokens at a time, and gathers of twenty pairs
    k = 32 if kind == "k = width" else 4
    activation = {"budgets": activation_of("topk", k, [2, k]), "jumprelu": JumpReLU(k, 0.5)}.get(name)
    states, weights, mean = draw_problem(7, 12, 8, 32, kind)
    dead = torch.arange(32) % 3 == 0
    step, loss, expected = both(states, weights, activation or activation_of(name, k), mean, dead, 1 / 32)
    torch.testing.assert_close(step.fvu + step.auxk / 32 + step.penalty, loss, rtol=1e-9, atol=1e-9)
    for field, gradient, wanted in zip(step.gradients._fields, step.gradients, expected, strict=True):
        if field == "extra" and name != "jumprelu":
            assert gradient is None
            continue
        if kind == "twin latents" and field != "b_pre":  # which of the twins has their gradient is arbitrary
            gradient, wanted = gradient.unflatten(0, (2, -1)).sum(0), wanted.unflatten(0, (2, -1)).sum(0)
        torch.testing.assert_close(gradient, wanted, rtol=1e-9, atol=1e-9)


class Answers(TorchDispatchMode):
    """Answers what fake tensors cannot, because it depends on data: every number is 1 and every mask all true."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        aten, first = torch.ops.aten, args[0] if args else None
        if function is aten._local_scalar_dense.default:
            return {torch.bool: True}.get(first.dtype, 1.0 if first.is_floating_point() else 1)
        if function is aten.nonzero.default:
            return first.new_zeros(first.numel(), first.ndim, dtype=torch.int64)
        if function is aten.bincount.default:
            return first.new_zeros(args[2])
        if function is aten.index.Tensor and args[1][0].dtype == torch.bool:
            (mask,) = args[1]
            args = (first, [mask.new_zeros(mask.numel(), dtype=torch.int64)] * mask.ndim)
        return function(*args, **(kwargs or {}))


FAR = torch.device("lazy:0")  # stands for a GPU: of those that torch knows without hardware, fake tensors take it


@pytest.mark.slow
@pytest.mark.parametrize("select", ["bfloat16", "float32"])
@pytest.mark.parametrize("name", ["topk", "budgets", "batchtopk", "abstopk", "jumprelu"])
def test_a_run_on_another_device_never_mixes_it_with_the_cpu(monkeypatch, name, select):
    # Tensors are fake: they have a shape and a device, no numbers, and an operation raises where devices differ. What
    # needs numbers is not covered: the histogram in the log, loading a file, what is refused.
    for module in (selection, kernels):
        monkeypatch.setattr(module, "on_gpu", lambda tensor: tensor.device.type != "cpu")
    optimizer = sys.modules["torch.optim.optimizer"]  # by this name torch.optim has a class
    monkeypatch.setattr(optimizer, "_get_fused_kernels_supported_devices", lambda: ["lazy"])
    activation = {"budgets": (2, 4)} if name == "budgets" else {"activation": name}
    settings = {"dead_tokens": 1, "normalisation": "scaled", "select_dtype": select, "buffer_batches": 2}
    config = replace(TINY, batch_tokens=64, **settings, **activation)
    with FakeTensorMode(), Answers():
        source = StoredStates([torch.empty(192, 16, dtype=torch.bfloat16)])
        run = Run.begin(source, config, FAR)
        taken = [states for states, _ in batches(source, config, device=FAR)][:2]
        for batch in taken:
            run.advance(batch)
        tensors, facts = run.state()
        resumed = Run.resume(Checkpoint(run.step, tensors, facts), source, config, FAR)
        resumed.advance(taken[0])
        finished, form = resumed.model.activation.finished(resumed.model.weights(), 1.0)
        held = [*run.model.state_dict().values(), run.silent, run.fired, run.normalise.shift, *taken]
        held += [tensor for state in resumed.optimizer.state.values() for tensor in state.values()]
        held += [*finished[:4], *form.tensors().values()]
    assert {tensor.device for tensor in held} == {FAR}
    assert {tensor.device for tensor in tensors.values()} == {torch.device("cpu")}


def test_where_to_train(monkeypatch):
    assert training_device() == training_device("cpu") == torch.device("cpu")  # the tests see no GPU
    for name in ("cuda", "mps", "gpu"):
        with pytest.raises(ValueError, match=f"{name}.*cpu"):
            train(sparse_states(), TINY, device=name)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert training_device() == torch.device("cuda")
    assert training_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ValueError, match=r"cuda:2.*cuda:1"):
        training_device("cuda:2")
    with pytest.raises(ValueError, match=r"int8.*native"):
        train(sparse_states(), replace(TINY, select_dtype="int8"))


def test_a_batch_with_nothing_active_leaves_the_threshold_of_batchtopk():
    states = sparse_states(512)
    run = Run.begin(StoredStates([states]), replace(TINY, activation="batchtopk"), CPU)
    run.advance(states[:128])
    threshold = run.smallest
    run.model.b_enc.data.fill_(-1e6)
    run.advance(states[128:256])
    assert run.smallest == threshold > 0
