"""A training run: batches out of a shuffle buffer, the optimiser, the log, checkpoints, and resuming from one."""

import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from lib.encode.states import CHANGED, StateSource, StoredStates
from lib.sae.activations import activation_of
from lib.sae.autoencoder import SparseAutoencoder
from lib.sae.checkpoints import Checkpoint, Checkpoints, differing
from lib.sae.kernels import Activation, Step, Weights
from lib.sae.training import Normalisation, TrainableAutoencoder, TrainingConfig, learning_rate_factor
from lib.support.devices import CPU, training_device
from lib.support.progress import progress

LOG_EVERY = 50  # steps
DENSITY_EDGES = np.logspace(-5, 0, 11)  # of the histogram in the log: half decades, shares of tokens
_THRESHOLD_STEPS = 100  # over which BatchTopK's threshold is a running mean, fewer in a short run


class TrainingStopped(Exception):
    """The run was asked to stop, and its checkpoint is written."""


class Run:
    """The whole state of a training run between two steps, and the step, on the device of the model.

    Attributes
    ----------
    step : int
        Steps done.
    silent : torch.Tensor, int64 [width]
        Tokens since each latent was active, or since the run began.
    dead_window : int
        `TrainingConfig.dead_window` of the states.
    rows : list of dict
        The log so far, see `train`.
    """

    def __init__(self, model: TrainableAutoencoder, normalise: Normalisation, source: StateSource):
        self.model, self.normalise, self.config = model, normalise, model.config
        self.n_steps, self.dead_window = self.config.n_steps(source.n), self.config.dead_window(source.n)
        groups = [{"params": [weight for weight in model.parameters() if weight is not model.extra], "faster": 1}]
        if model.extra is not None:
            groups.append({"params": [model.extra], "faster": model.activation.rate})
        self.optimizer = torch.optim.AdamW(groups, weight_decay=0.0, fused=True)
        self.step = 0
        self.silent = torch.zeros_like(model.W_dec[:, 0], dtype=torch.int64)
        self.fired = torch.zeros_like(self.silent)  # since the last row, as the two below
        self.fvus: list[float] = []
        self.n_active = 0
        self.rows: list[dict] = []
        self.smallest: float | None = None  # running mean of the smallest activation of a batch

    @classmethod
    def begin(cls, source: StateSource, config: TrainingConfig, device: torch.device) -> "Run":
        """Return the run before its first step: normalisation and initial weights come from the first window."""
        first = next(source.windows(config.batch_tokens * config.buffer_batches, config.seed, 0)).to(device)
        normalise = Normalisation.of(first.float(), config.normalisation)
        return cls(TrainableAutoencoder.initial(normalise(first), config), normalise, source)

    @classmethod
    def resume(cls, checkpoint: Checkpoint, source: StateSource, config: TrainingConfig, device: torch.device) -> "Run":
        """Return the run as it was when a run with the same configuration wrote the checkpoint."""
        tensors = {name: tensor.to(device) for name, tensor in checkpoint.tensors.items()}
        facts, weights = checkpoint.facts, _part(tensors, "model.")
        model = TrainableAutoencoder(mean=weights.pop("mean"), weights=Weights(**weights), config=config)
        run = cls(model, Normalisation(tensors["shift"], facts["scale"]), source)
        for name, parameter in model.named_parameters():
            run.optimizer.state[parameter] = _part(tensors, f"optimizer.{name}.")
        run.step, run.silent, run.fired = checkpoint.step, tensors["silent"], tensors["fired"]
        for name in ("fvus", "n_active", "smallest", "rows"):
            setattr(run, name, facts[name])
        return run

    def advance(self, batch: torch.Tensor, texts: torch.Tensor | None = None) -> None:
        """Make one step on a batch of states [batch_tokens, d], and the text of each where batches are of whole texts.

        Raises FloatingPointError if the loss is not finite; the weights are as they were before.
        """
        config, n_before = self.config, self.step
        self.model.activation = self.model.activation.at(n_before, texts)
        result = self.model.backward(self.normalise(batch), self.model.activation.idle(self.silent, self.dead_window))
        if not math.isfinite(result.fvu.item()):
            remedy = f"lower the learning rate ({config.learning_rate}), or look for states that are NaN or all alike"
            raise FloatingPointError(f"The loss is {result.fvu.item()} at step {n_before + 1}; {remedy}.")
        if config.unit_gradient and self.model.activation.trains:
            self.model.scale_gradient()
        rate = config.learning_rate * learning_rate_factor(n_before, self.n_steps, config.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["faster"]
        if self.model.activation.trains:
            self.optimizer.step()
            self.model.normalise_decoder()
        self.step += 1
        self._count(result, len(batch))
        if self.step % LOG_EVERY == 0 or self.step == self.n_steps:
            self._log(rate)

    def _dead(self) -> torch.Tensor:
        return self.silent >= self.dead_window

    def _share_dead(self) -> float | None:
        """Return the share of dead latents; None as long as one may be dead, but the run is too short to say so."""
        n_tokens = self.step * self.config.batch_tokens
        if n_tokens < self.dead_window and (self.silent == n_tokens).any():
            return None
        return self._dead().float().mean().item()

    def _count(self, result: Step, n_tokens: int) -> None:
        active = result.indices[result.values != 0]
        self.silent += n_tokens
        self.silent[active] = 0
        self.fired += torch.bincount(active, minlength=self.config.width)
        self.n_active += len(active)
        self.fvus.append(result.fvu.item())
        if result.smallest is not None:  # None: nothing was active
            smallest = result.smallest.item()
            mean = smallest if self.smallest is None else self.smallest
            self.smallest = mean + (smallest - mean) / max(1, min(_THRESHOLD_STEPS, self.n_steps / 10))

    def _log(self, rate: float) -> None:
        n_tokens = len(self.fvus) * self.config.batch_tokens
        shares = (self.fired.double() / n_tokens).clamp(min=DENSITY_EDGES[0])
        histogram, _ = np.histogram(shares.cpu().numpy(), DENSITY_EDGES)
        row = {
            "step": self.step,
            "tokens": self.step * self.config.batch_tokens,
            "fvu": sum(self.fvus) / len(self.fvus),
            "l0": self.n_active / n_tokens,
            "dead": self._share_dead(),
            "learning_rate": rate,
            "density": histogram.tolist(),
        }
        self.rows.append(row)
        self.fired.zero_()
        self.fvus.clear()
        self.n_active = 0

    def state(self) -> tuple[dict[str, torch.Tensor], dict]:
        """Return all that the next steps depend on: tensors by name, on the CPU, and JSON-able facts.

        Raises FloatingPointError if a weight is not finite: such a state is of no use.
        """
        tensors = {"silent": self.silent, "fired": self.fired, "shift": self.normalise.shift}
        for name, tensor in self.model.state_dict().items():
            if not torch.isfinite(tensor).all():
                remedy = f"lower the learning rate ({self.config.learning_rate})"
                raise FloatingPointError(f"{name} is not finite after step {self.step}; {remedy}.")
            tensors[f"model.{name}"] = tensor
        for name, parameter in self.model.named_parameters():
            for key, tensor in self.optimizer.state[parameter].items():
                tensors[f"optimizer.{name}.{key}"] = tensor
        counted = {"fvus": self.fvus, "n_active": self.n_active, "smallest": self.smallest, "rows": self.rows}
        tensors = {name: tensor.cpu() for name, tensor in tensors.items()}
        return tensors, {"scale": self.normalise.scale, **counted}

    def status(self) -> str:
        """Return loss and dead latents of the last row of the log, as shown beside the progress."""
        if not self.rows:
            return ""
        fvu, dead = self.rows[-1]["fvu"], self.rows[-1]["dead"]
        return f"fvu {fvu:.3f}, dead {'not known yet' if dead is None else f'{dead:.1%}'}"


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def batches(
    source: StateSource, config: TrainingConfig, start: int = 0, device: torch.device = CPU
) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
    """Yield batches [batch_tokens, d] from step `start` on, each epoch in a new order; windows go to `device` whole.

    The order is a function of the seed, the epoch and the window. States that do not fill a batch are left out. Where
    the activation reads whole texts, batches are of these, the first and the last of a batch perhaps cut, and with each
    comes the number of the text of each state, int64 [batch_tokens]; else None.
    """
    size, whole = config.batch_tokens, _activation(config).whole_texts
    first_epoch, step = divmod(start, source.n // size)
    first_window, first_batch = divmod(step, config.buffer_batches)
    for epoch in range(first_epoch, config.epochs):
        windows = (source.whole_texts if whole else source.windows)(
            size * config.buffer_batches, config.seed, epoch, first_window
        )
        for number, window in enumerate(windows, first_window):
            states, texts = (part.to(device) for part in window) if whole else (window.to(device), None)
            generator = np.random.default_rng([config.seed, epoch, number])
            if texts is None:
                order = torch.from_numpy(generator.permutation(len(states))).to(device)
            else:  # whole texts in a new order
                _, text_numbers = texts.unique(return_inverse=True)
                places = torch.from_numpy(generator.permutation(len(states))).to(device)
                order = places[text_numbers].argsort(stable=True)
            for rows in order.split(size)[first_batch : len(states) // size]:
                yield states[rows], None if texts is None else texts[rows]
            first_batch = 0
        first_window = 0


def _activation(config: TrainingConfig) -> Activation:
    return activation_of(config.activation, config.k, config.budgets)


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

    The loss is the FVU of each batch, plus AuxK while latents are dead. With `checkpoints`, a run that was stopped
    continues from the last one when it is called again, to the same bits on the same machine.

    Parameters
    ----------
    states : torch.Tensor, float32 or bfloat16 [n, d], or StateSource
        At least one batch of them.
    config : TrainingConfig
    device : str, optional
        Device of weights, optimiser and states: "cpu", "cuda" or "cuda:1"; None is the GPU if there is one. The
        autoencoder that is returned is on the CPU. A run continues from its checkpoint on any device with the same
        `select_dtype`; on another device, the bits differ.
    log : callable
        Called with a dict every 50 steps and at the last one: step, tokens, fvu (fraction of variance unexplained), l0
        (active latents a token), dead (share of latents that were not active for `TrainingConfig.dead_window` tokens;
        None if some were not active yet, and the run has not read as many), learning_rate, and density: how many
        latents are active in which share of the tokens, counts in half decades from 1e-5 (and below) to 1. fvu, l0 and
        density are those of the steps since the last row. A run that is resumed gives the rows before the checkpoint
        again.
    checkpoints : str, Path or Checkpoints, optional
        Folder for the last two checkpoints, which stay when the run has ended. A `Checkpoints` that was entered stays
        locked.
    every : float
        Seconds between two checkpoints.
    stopped : callable
        Called after each step; when it returns true, the run writes a checkpoint and raises `TrainingStopped`.

    Raises
    ------
    ValueError
        If there is no such device, there are fewer states than one batch, the activation reads whole texts and it is
        not known where they end, the text changes while it is read, or the checkpoints are of another configuration
        (the fields are named), damaged, or in use by another process.
    FloatingPointError
        If the loss or a weight is no longer finite; the last checkpoint stays as it is.
    OSError
        If a checkpoint cannot be written; the one before stays as it is.
    TrainingStopped
        If `stopped` returned true.
    """
    torch_device = training_device(device)
    config = config.resolved(torch_device)
    source: StateSource = StoredStates([states]) if isinstance(states, torch.Tensor) else states
    if source.n < config.batch_tokens:
        size = config.batch_tokens
        raise ValueError(f"There are {source.n} states, not a batch of {size}; give more or a smaller batch_tokens.")
    if _activation(config).whole_texts and source.lengths is None:
        remedy = "give `StoredStates(parts, lengths=...)`, or states of `cache_states`"
        raise ValueError(
            f"{config.activation!r} reads whole texts, and these states do not say where they end; {remedy}."
        )
    identity = run_identity(source, config)
    new = Checkpoints(checkpoints) if isinstance(checkpoints, str | Path) else nullcontext(checkpoints)
    with new as folder:
        last = None if folder is None else folder.load()
        if folder is None or last is None:
            run = Run.begin(source, config, torch_device)
        else:
            check_same(last.facts["run"], identity, folder.folder)
            if fields := differing(last.facts["machine"], _machine(torch_device)):
                warnings.warn(f"The run continues, but not to the same bits: {'; '.join(fields)}.", stacklevel=2)
            run = Run.resume(last, source, config, torch_device)
            for row in run.rows:
                log(row)
        _loop(run, source, folder, identity, log, every, stopped)
    facts = {"distinct_tokens": source.n, "dead_window": run.dead_window, "final": run.rows[-1]}
    metadata = {"run": identity, **facts}
    return run.model.finished(run.normalise, run.smallest, metadata).to("cpu")


def run_identity(source: StateSource, config: TrainingConfig) -> dict:
    """Return everything that decides what a run gives on one machine, JSON-able."""
    return {"config": asdict(config.resolved()), "states": source.identity}


def check_same(old: dict, new: dict, folder: Path) -> None:
    """Raise a ValueError that names the fields in which the run of `folder`, `old`, differs from `new`."""
    if fields := differing(old, new):
        remedy = "give the settings of that run or another folder, or delete that one to start again"
        raise ValueError(f"{folder} holds a run with other settings ({'; '.join(fields)}); {remedy}.")


def _machine(device: torch.device) -> dict:
    """Return what decides the bits of a run besides its identity."""
    gpu = {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    return gpu | {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "processor": torch.backends.cpu.get_cpu_capability(),
    }


def _loop(
    run: Run,
    source: StateSource,
    checkpoints: Checkpoints | None,
    identity: dict,
    log: Callable[[dict], None],
    every: float,
    stopped: Callable[[], bool],
) -> None:
    last = f"The checkpoint of step {run.step} is whole." if run.step else "No checkpoint was written yet."
    written_at = time.monotonic()
    size, device = run.config.batch_tokens, run.silent.device
    steps = islice(batches(source, run.config, run.step, device), run.n_steps - run.step)  # ITDA has one step
    sizes: dict = {"total": run.n_steps * size, "initial": run.step * size, "count": lambda step: size}
    for batch, texts in progress(steps, what="train", unit="tokens", status=run.status, **sizes):
        n_rows = len(run.rows)
        try:
            run.advance(batch, texts)
            if len(run.rows) > n_rows:
                log(run.rows[-1])
            stop = stopped()  # called once, so that the checkpoint is written whatever it was that stopped the run
            due = stop or run.step == run.n_steps or time.monotonic() - written_at >= every
            if checkpoints is not None and due:
                tensors, facts = run.state()
                checkpoints.save(run.step, tensors, {"run": identity, "machine": _machine(device), **facts})
                last = f"The checkpoint of step {run.step} is whole."
                written_at = time.monotonic()
        except (FloatingPointError, OSError) as error:
            if checkpoints is None:
                raise
            raise type(error)(f"{error} {last} ({checkpoints.folder})") from error
        if stop and run.step < run.n_steps:
            raise TrainingStopped(f"Stopped after step {run.step} of {run.n_steps}.")
    if run.step < run.n_steps:
        raise ValueError(f"The states ended at step {run.step} of {run.n_steps}. {CHANGED}")
