"""A training run: batches out of a shuffle buffer, the optimiser, the log, checkpoints, and resuming from one."""

import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from lib.encode.states import CHANGED, StateSource, StoredStates
from lib.sae.autoencoder import SparseAutoencoder
from lib.sae.checkpoints import Checkpoint, Checkpoints, differing
from lib.sae.kernels import Step
from lib.sae.training import Normalisation, TrainableAutoencoder, TrainingConfig, learning_rate_factor
from lib.support.devices import CPU, training_device

LOG_EVERY = 50  # steps
DENSITY_EDGES = np.logspace(-5, 0, 11)  # of the histogram in the log: half decades, shares of tokens
_THRESHOLD_STEPS = 100  # over which BatchTopK's threshold is a running mean, fewer in a short run
_THRESHOLD_RATE = 10  # times the weights' rate, of JumpReLU's log thresholds; AdamW moves them by a rate a step


class TrainingStopped(Exception):
    """The run was asked to stop, and its checkpoint is written."""


class Run:
    """The whole state of a training run between two steps, and the step, on the device of the `first` states [n, d].

    Attributes
    ----------
    step : int
        Steps done.
    silent : torch.Tensor, int64 [width]
        Tokens since each latent was active.
    rows : list of dict
        The log so far, see `train`.
    """

    def __init__(self, first: torch.Tensor, source: StateSource, config: TrainingConfig):
        self.config = config
        self.normalise = Normalisation.of(first.float(), config.normalisation)
        self.model = TrainableAutoencoder(self.normalise(first), config)
        self.optimizer = torch.optim.AdamW(self._groups(), weight_decay=0.0, fused=True)
        self.n_steps = config.epochs * (source.n // config.batch_tokens)
        self.step = 0
        self.silent = torch.zeros(config.width, dtype=torch.int64, device=first.device)
        self.fired = torch.zeros_like(self.silent)  # since the last row, as the three below
        self.fvus: list[float] = []
        self.n_active = 0
        self.rows: list[dict] = []
        self.smallest: float | None = None  # running mean of the smallest activation of a batch

    def _groups(self) -> list[dict]:
        """Return the weights, and JumpReLU's thresholds if there are any, each with how much faster it learns."""
        threshold = self.model.threshold
        weights = [parameter for parameter in self.model.parameters() if parameter is not threshold]
        groups = [{"params": weights, "faster": 1}]
        return groups if threshold is None else [*groups, {"params": [threshold], "faster": _THRESHOLD_RATE}]

    def advance(self, batch: torch.Tensor) -> None:
        """Make one step on a batch of states [batch_tokens, d].

        Raises
        ------
        FloatingPointError
            If the loss is not finite; the weights are as they were before.
        """
        config, n_before = self.config, self.step
        result = self.model.backward(self.normalise(batch), self.silent >= config.dead_tokens)
        if not math.isfinite(result.fvu.item()):
            raise FloatingPointError(
                f"The loss is {result.fvu.item()} at step {n_before + 1}; lower the learning rate "
                f"({config.learning_rate}), or look for states that are NaN or all alike."
            )
        if config.unit_gradient:
            self.model.scale_gradient()
        rate = config.learning_rate * learning_rate_factor(n_before, self.n_steps, config.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["faster"]
        self.optimizer.step()
        self.model.normalise_decoder()
        self.step += 1
        self._count(result, len(batch))
        if self.step % LOG_EVERY == 0 or self.step == self.n_steps:
            self._log(rate)

    def _count(self, result: Step, n_tokens: int) -> None:
        active = result.indices[result.values != 0]
        self.silent += n_tokens
        self.silent[active] = 0
        self.fired += torch.bincount(active, minlength=self.config.width)
        self.n_active += len(active)
        self.fvus.append(result.fvu.item())
        if result.smallest is not None:
            now = result.smallest.item()
            before = now if self.smallest is None else self.smallest
            self.smallest = before + (now - before) / max(1, min(_THRESHOLD_STEPS, self.n_steps / 10))

    def _log(self, rate: float) -> None:
        n_tokens = len(self.fvus) * self.config.batch_tokens
        shares = (self.fired.double() / n_tokens).clamp(min=DENSITY_EDGES[0])
        histogram, _ = np.histogram(shares.cpu().numpy(), DENSITY_EDGES)
        row = {
            "step": self.step,
            "tokens": self.step * self.config.batch_tokens,
            "fvu": sum(self.fvus) / len(self.fvus),
            "l0": self.n_active / n_tokens,
            "dead": (self.silent >= self.config.dead_tokens).float().mean().item(),
            "learning_rate": rate,
            "density": histogram.tolist(),
        }
        self.rows.append(row)
        self.fired.zero_()
        self.fvus.clear()
        self.n_active = 0

    def state(self) -> tuple[dict[str, torch.Tensor], dict]:
        """Return all that the next steps depend on: tensors by name, on the CPU, and JSON-able facts.

        Raises
        ------
        FloatingPointError
            If a weight is not finite: such a state is of no use.
        """
        tensors = {"silent": self.silent, "fired": self.fired, "shift": self.normalise.shift}
        for name, tensor in self.model.state_dict().items():
            if not torch.isfinite(tensor).all():
                raise FloatingPointError(
                    f"{name} is not finite after step {self.step}; lower the learning rate "
                    f"({self.config.learning_rate})."
                )
            tensors[f"model.{name}"] = tensor
        for name, parameter in self.model.named_parameters():
            for key, tensor in self.optimizer.state[parameter].items():
                tensors[f"optimizer.{name}.{key}"] = tensor
        counted = {"fvus": self.fvus, "n_active": self.n_active, "smallest": self.smallest, "rows": self.rows}
        tensors = {name: tensor.cpu() for name, tensor in tensors.items()}
        return tensors, {"scale": self.normalise.scale, **counted}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take over the state of a checkpoint that a run with the same configuration wrote."""
        tensors = {name: tensor.to(self.silent.device) for name, tensor in checkpoint.tensors.items()}
        facts = checkpoint.facts
        self.step = checkpoint.step
        self.silent, self.fired = tensors["silent"], tensors["fired"]
        self.normalise = Normalisation(tensors["shift"], facts["scale"])
        self.model.load_state_dict(_part(tensors, "model."))
        for name, parameter in self.model.named_parameters():
            self.optimizer.state[parameter] = _part(tensors, f"optimizer.{name}.")
        self.fvus, self.n_active, self.smallest, self.rows = (
            facts[name] for name in ("fvus", "n_active", "smallest", "rows")
        )


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def batches(
    source: StateSource, config: TrainingConfig, start: int = 0, device: torch.device = CPU
) -> Iterator[torch.Tensor]:
    """Yield batches [batch_tokens, d] from step `start` on, each epoch in a new order; windows go to `device` whole.

    The order is a function of the seed, the epoch and the window. States that do not fill a batch are left out.
    """
    size = config.batch_tokens
    first_epoch, at = divmod(start, source.n // size)
    first_window, at = divmod(at, config.buffer_batches)
    for epoch in range(first_epoch, config.epochs):
        windows = source.windows(size * config.buffer_batches, config.seed, epoch, first_window)
        for number, window in enumerate(windows, first_window):
            window = window.to(device)
            order = torch.from_numpy(np.random.default_rng([config.seed, epoch, number]).permutation(len(window)))
            for rows in order.to(device).split(size)[at : len(window) // size]:
                yield window[rows]
            at = 0
        first_window = 0


def train(
    states: torch.Tensor | StateSource,
    config: TrainingConfig,
    *,
    device: str | None = None,
    log: Callable[[dict], None] = lambda row: None,
    checkpoints: str | Path | Checkpoints | None = None,
    every: float = 300.0,
    stopped: Callable[[], bool] = lambda: False,
) -> SparseAutoencoder:
    """Train an autoencoder to reconstruct token states, with AdamW (no weight decay).

    The loss is the FVU of each batch, plus AuxK while latents are dead. With `checkpoints`, a run that was stopped in
    any way goes on from the last one when it is called again, to the same bits on the same machine.

    Parameters
    ----------
    states : torch.Tensor, float32 or bfloat16 [n, d], or StateSource
        At least one batch of them.
    config : TrainingConfig
    device : str, optional
        Where weights, optimiser, counters and windows of states are, and where a step is computed: "cpu", "cuda" or
        "cuda:1"; None is the GPU if there is one. Checkpoints and the autoencoder that is returned are on the CPU, and
        a run goes on from its checkpoint on any device (with the same `select_dtype`), on another to other bits.
    log : callable
        Is given a dict every 50 steps and at the last one: step, tokens, fvu (fraction of variance unexplained), l0
        (active latents a token), dead (share of latents), learning_rate, and density: how many latents are active in
        which share of the tokens, counts in half decades from 1e-5 (and below) to 1. fvu, l0 and density are of the
        steps since the last row. A run that is resumed gives the rows before the checkpoint again.
    checkpoints : str, Path or Checkpoints, optional
        Folder for the last two checkpoints; they stay when the run has ended. Checkpoints that were entered are held
        on to afterwards.
    every : float
        Seconds between them.
    stopped : callable
        Asked after each step; when it is true, the run writes a checkpoint and raises `TrainingStopped`.

    Raises
    ------
    ValueError
        If there is no such device, there are fewer states than one batch, the text changes while it is read, or the
        checkpoints are of another configuration (the fields are named), damaged, or in use by another process.
    FloatingPointError
        If the loss or a weight is no longer finite; the last checkpoint stays as it is.
    OSError
        If a checkpoint cannot be written; the one before stays as it is.
    TrainingStopped
        See `stopped`.
    """
    where = training_device(device)
    config = config.resolved(where)
    source = StoredStates([states]) if isinstance(states, torch.Tensor) else states
    if source.n < config.batch_tokens:
        raise ValueError(
            f"There are {source.n} states; training needs at least one batch of {config.batch_tokens}. "
            "Give more text or a smaller batch_tokens."
        )
    identity = run_identity(source, config)
    held = checkpoints is None or isinstance(checkpoints, Checkpoints)
    with nullcontext(checkpoints) if held else Checkpoints(checkpoints) as kept:
        run = _begin(source, config, where) if kept is None else _resume(source, config, where, kept, identity, log)
        _loop(run, source, kept, identity, log, every, stopped)
    metadata = {"run": identity, "distinct_tokens": source.n, "final": run.rows[-1]}
    return run.model.finished(run.normalise, run.smallest, metadata).to("cpu")


def run_identity(source: StateSource, config: TrainingConfig) -> dict:
    """Return everything that decides what a run gives on one machine, JSON-able."""
    return {"config": asdict(config.resolved()), "states": source.identity}


def _begin(source: StateSource, config: TrainingConfig, device: torch.device) -> Run:
    first = next(source.windows(config.batch_tokens * config.buffer_batches, config.seed, 0))
    return Run(first.to(device), source, config)


def _resume(
    source: StateSource,
    config: TrainingConfig,
    device: torch.device,
    kept: Checkpoints,
    identity: dict,
    log: Callable[[dict], None],
) -> Run:
    """Return the run of the last checkpoint, or a new one if there is none."""
    last = kept.load()
    if last is None:
        return _begin(source, config, device)
    check_same(last.facts["run"], identity, kept.folder)
    if fields := differing(last.facts["machine"], _machine(device)):
        warnings.warn(f"The run goes on, but to other bits than without the stop: {'; '.join(fields)}.", stacklevel=3)
    run = Run(torch.eye(source.d, device=device), source, config)  # whatever it starts from, the checkpoint replaces
    run.restore(last)
    for row in run.rows:
        log(row)
    return run


def check_same(old: dict, new: dict, folder: Path) -> None:
    """Raise a ValueError that names the fields in which what is asked for differs from what `folder` was begun with."""
    if fields := differing(old, new):
        raise ValueError(
            f"{folder} holds a run that was begun otherwise: {'; '.join(fields)}. Give what it was begun with, "
            "another folder, or delete that one to start anew."
        )


def _machine(device: torch.device) -> dict:
    """What else than the run's identity decides its bits."""
    gpu = {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    return gpu | {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "processor": torch.backends.cpu.get_cpu_capability(),
    }


def _loop(
    run: Run,
    source: StateSource,
    kept: Checkpoints | None,
    identity: dict,
    log: Callable[[dict], None],
    every: float,
    stopped: Callable[[], bool],
) -> None:
    whole = f"The checkpoint of step {run.step} is whole." if run.step else "No checkpoint was written yet."
    written_at = time.monotonic()
    size = run.config.batch_tokens
    total = run.n_steps * size
    with tqdm(total=total, initial=run.step * size, disable=None, unit="token", unit_scale=True, desc="train") as bar:
        for batch in batches(source, run.config, run.step, run.silent.device):
            n_rows = len(run.rows)
            try:
                run.advance(batch)
                if len(run.rows) > n_rows:
                    log(run.rows[-1])
                    bar.set_postfix(fvu=f"{run.rows[-1]['fvu']:.3f}", dead=f"{run.rows[-1]['dead']:.1%}")
                bar.update(size)
                stop = stopped()  # asked once, so that whatever stops the run has been saved
                due = stop or run.step == run.n_steps or time.monotonic() - written_at >= every
                if kept is not None and due:
                    tensors, facts = run.state()
                    kept.save(run.step, tensors, {"run": identity, "machine": _machine(run.silent.device), **facts})
                    whole, written_at = f"The checkpoint of step {run.step} is whole.", time.monotonic()
            except (FloatingPointError, OSError) as error:
                if kept is None:
                    raise
                raise type(error)(f"{error} {whole} ({kept.folder})") from error
            if stop and run.step < run.n_steps:
                raise TrainingStopped(f"Stopped after step {run.step} of {run.n_steps}.")
    if run.step < run.n_steps:
        raise ValueError(f"The states ended at step {run.step} of {run.n_steps}. {CHANGED}")
