"""The training rule of a sparse autoencoder: what is minimised, over which weights, from where, how fast."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from lib.sae.activations import activation_of, spec_of
from lib.sae.autoencoder import SparseAutoencoder, to_norm
from lib.sae.kernels import Step, Weights, loss_and_gradients
from lib.support.checks import check_choice, check_count, check_integer
from lib.support.devices import CPU, DTYPES, native_dtype

SELECT_DTYPES = DTYPES | {"int8": torch.int8}
NORMALISATIONS = ("none", "centred", "scaled", "per-token")


@dataclass(frozen=True)
class TrainingConfig:
    """How a Top-K autoencoder is trained; the defaults are the recipe of Latent Terms (arXiv 2605.29384).

    Raises ValueError if a field is out of range, or `k` is more than `width`.

    Attributes
    ----------
    width, k : int
        Number of latents, and number of latents that a token may have, or has on average.
    epochs : int
        Number of passes over the token states, each in a new order.
    batch_tokens : int
        Number of token states of one optimiser step.
    learning_rate : float
        Peak of the learning rate, after a linear warm-up and before a cosine to 0.
    warmup : float
        Share of all steps that warm up.
    auxk : float
        Coefficient of the auxiliary loss AuxK, by which dead latents learn the residual (Gao et al., arXiv 2406.04093,
        A.2); 0 leaves it out.
    dead_tokens : int
        A latent is dead when it was not active for at least this many tokens, or for half of the run if that is fewer
        (`dead_window`). The paper's 10 million are more than half of a run of 18 million; 1 million is about the
        warm-up of such a run, in which an average latent at the default width and k is active 500 times.
    activation : str
        A key of `lib.sae.activations.ACTIVATIONS`, perhaps with settings, as in "ortsae:coefficient=0.5": which latents
        are active, what the loss has besides the FVU, where weights start.
    budgets : tuple of int
        Numbers of latents of a hierarchical Top-K, ascending to `k`, from each of which a token is reconstructed; () is
        plain Top-K.
    normalisation : {"none", "centred", "scaled", "per-token"}
        States are read as they are, with their mean taken off, or also scaled: all by one factor, to a root mean square
        norm of sqrt(d), or each to that norm. Mean and scale are measured on the first buffer of states and folded into
        the weights that are saved; with "per-token" the mean is saved as `SparseAutoencoder.centre`, and the FVU is
        that of scaled states. b_pre starts at the mean, so "none" and "centred" differ by rounding only. Where states
        differ much in norm, a threshold (batchtopk, jumprelu) gives long ones most of the latents.
    buffer_batches : int
        Number of batches of states that are mixed in memory; the first buffer also gives the mean.
    select_dtype : {"native", "bfloat16", "float32", "int8"}
        Dtype of the product that finds each token's k latents, whose activations are computed in float32 in any case;
        "native" is bfloat16 where the machine computes in it, else float32. "int8" finds 2 k, of which float32 chooses
        k; it is fast where the processor has VNNI or AMX instructions.
    unit_gradient : bool
        Whether the gradient of all weights together is scaled to norm 1 before AdamW, so that batches count alike.
        Clipping at 1 (Gao et al.) has this effect where the loss is a sum of squares, as in SAELens; the gradient of
        the FVU is always shorter than 1.
    seed : int
        Seed of the initial weights and of the order of the states.
    """

    width: int = 32_768
    k: int = 16
    epochs: int = 3
    batch_tokens: int = 4_096
    learning_rate: float = 1e-3
    warmup: float = 0.05
    auxk: float = 1 / 32
    dead_tokens: int = 1_000_000
    activation: str = "topk"
    budgets: tuple[int, ...] = ()
    normalisation: str = "none"
    buffer_batches: int = 64
    select_dtype: str = "native"
    unit_gradient: bool = True
    seed: int = 0

    def __post_init__(self):
        for name in ("width", "k", "epochs", "batch_tokens", "dead_tokens", "buffer_batches"):
            object.__setattr__(self, name, check_count(getattr(self, name), name))  # numpy's are no JSON
        object.__setattr__(self, "seed", check_integer(self.seed, "seed"))
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"learning_rate is {self.learning_rate!r}; it must be a positive number such as 1e-3.")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup is {self.warmup!r}; it must be a share of the steps, at least 0 and below 1.")
        if not (math.isfinite(self.auxk) and self.auxk >= 0):
            raise ValueError(f"auxk is {self.auxk!r}; it must be a number of at least 0, such as 1/32; 0 is without.")
        check_choice(self.normalisation, NORMALISATIONS, "normalisation")
        check_choice(self.select_dtype, ["native", *SELECT_DTYPES], "select_dtype")
        activation = activation_of(self.activation, self.k, budgets := tuple(self.budgets))
        activation.check(self.width)
        object.__setattr__(self, "activation", spec_of(self.activation, activation))
        object.__setattr__(self, "budgets", tuple(map(int, budgets)))

    def n_steps(self, n: int) -> int:
        """Return the number of steps of a run on `n` token states; those that fill no batch are left out.

        It is one, without an optimiser, where the activation is not trained.
        """
        if not activation_of(self.activation, self.k).trains:
            return min(1, n // self.batch_tokens)
        return self.epochs * (n // self.batch_tokens)

    def dead_window(self, n: int) -> int:
        """Return for how many tokens a dead latent was not active, in a run on `n` token states.

        That is `dead_tokens`, but at most half of what the run reads in all its epochs, so that AuxK works in short
        runs, too, and the share of dead latents is known at their end.
        """
        if not activation_of(self.activation, self.k).trains:
            return self.dead_tokens
        return min(self.dead_tokens, max(1, self.n_steps(n) * self.batch_tokens // 2))

    def resolved(self, device: torch.device = CPU) -> "TrainingConfig":
        """Return the same with the `select_dtype` that "native" stands for on `device`.

        Raises ValueError for "int8" on a GPU.
        """
        if self.select_dtype == "int8" and device.type != "cpu":
            raise ValueError(f"select_dtype is 'int8', which is for processors; on {device} choose 'native'.")
        if self.select_dtype != "native":
            return self
        return replace(self, select_dtype=native_dtype(device))


class Normalisation(NamedTuple):
    """h -> (h - shift) * scale, for shift [d] and a number; with scale None, each state is scaled to norm sqrt(d).

    `TrainableAutoencoder.finished` folds a number into the weights, so that it is not needed at inference:
    z = TopK(W_enc (s (h - m) - b) + b_enc) = TopK(s W_enc (h - (m + b / s)) + b_enc).
    """

    shift: torch.Tensor
    scale: float | None

    @classmethod
    def of(cls, states: torch.Tensor, kind: str) -> "Normalisation":
        """Return the one that `TrainingConfig.normalisation` names, as measured on `states` [n, d]."""
        mean = states.mean(dim=0)
        if kind == "none":
            return cls(torch.zeros_like(mean), 1.0)
        if kind == "per-token":
            return cls(mean, None)
        mean_square = (states - mean).square().sum(dim=1).mean().item()
        return cls(mean, math.sqrt(len(mean) / mean_square) if kind == "scaled" and mean_square > 0 else 1.0)

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """Return normalised states, float32 [n, d]."""
        centred = states.float() - self.shift
        return to_norm(centred) if self.scale is None else centred * self.scale


class TrainableAutoencoder(torch.nn.Module):
    """The weights while they are trained, as parameters.

    Parameters
    ----------
    weights : Weights
    mean : torch.Tensor [d]
        Mean of the normalised states, about which the FVU counts variance.
    config : TrainingConfig
    """

    def __init__(self, weights: Weights, mean: torch.Tensor, config: TrainingConfig):
        super().__init__()
        self.config = config.resolved(mean.device)
        self.activation = activation_of(config.activation, config.k, config.budgets)
        self.register_buffer("mean", mean)
        for name in ("W_dec", "W_enc", "b_enc", "b_pre", "extra"):
            tensor = getattr(weights, name)
            self.register_parameter(name, None if tensor is None else torch.nn.Parameter(tensor))

    @classmethod
    def initial(cls, first: torch.Tensor, config: TrainingConfig) -> "TrainableAutoencoder":
        """Return the initial weights of Latent Terms.

        The decoder is Kaiming-uniform with its rows scaled to norm 1, the encoder starts as its transpose (both are
        [width, d], so as a copy), b_enc at 0 and b_pre at the mean of the data, unless `Activation.initial` differs.
        `first`, float32 [n, d], are states of a first window, normalised, on the device where the weights shall be,
        on which their values do not depend.
        """
        W_dec = torch.empty(config.width, first.shape[1])
        torch.nn.init.kaiming_uniform_(W_dec, generator=torch.Generator().manual_seed(config.seed))
        W_dec = (W_dec / W_dec.norm(dim=1, keepdim=True)).to(first.device)
        mean = first.mean(dim=0)
        activation = activation_of(config.activation, config.k, config.budgets)
        seen = first[: config.batch_tokens] if activation.trains else first
        return cls(activation.initial(seen - mean, W_dec, mean), mean, config)

    def weights(self) -> Weights:
        """Return the parameters under their names."""
        return Weights(self.W_enc, self.b_enc, self.W_dec, self.b_pre, self.extra)

    def backward(self, states: torch.Tensor, dead: torch.Tensor) -> Step:
        """Set the gradients of all weights to those of the loss of `states` [n, d], normalised; return the step."""
        dtype = SELECT_DTYPES[self.config.select_dtype]
        step = loss_and_gradients(states, self.weights(), self.activation, self.mean, dead, self.config.auxk, dtype)
        for name, gradient in step.gradients._asdict().items():
            if gradient is not None:
                getattr(self, name).grad = gradient
        return step

    @torch.no_grad()
    def scale_gradient(self) -> None:
        """Scale the gradient of all weights together to norm 1; a zero stays zero."""
        gradients = [parameter.grad for parameter in self.parameters() if parameter.grad is not None]
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
        torch._foreach_mul_(gradients, 1 / norm.clamp(min=torch.finfo(norm.dtype).tiny))

    @torch.no_grad()
    def finished(
        self, normalisation: Normalisation, smallest: float | None, metadata: Mapping | None = None
    ) -> SparseAutoencoder:
        """Return the autoencoder that does on states what these weights do on normalised ones.

        `smallest` is the mean of `Step.smallest` over the last batches.
        """
        shift, scale = normalisation
        (W_enc, b_enc, W_dec, b_pre, _), activation = self.activation.finished(self.weights(), smallest)
        if scale is None:
            return SparseAutoencoder(W_enc, b_enc, W_dec, b_pre, activation, metadata, centre=shift)
        weights = (W_enc * scale, b_enc, W_dec / scale, b_pre / scale + shift)
        return SparseAutoencoder(*weights, activation.rescaled(scale), metadata)

    @torch.no_grad()
    def normalise_decoder(self) -> None:
        """Scale every decoder row to norm 1, and what the activation constrains; called after each optimiser step."""
        self.W_dec /= self.W_dec.norm(dim=1, keepdim=True)
        self.activation.constrain(self.weights())


def learning_rate_factor(step: int, n_steps: int, warmup: float) -> float:
    """Return the share of the peak learning rate at `step`: linear from near 0 to 1, then a cosine to 0."""
    n_warmup = round(warmup * n_steps)
    if step < n_warmup:
        return (step + 1) / (n_warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - n_warmup) / max(1, n_steps - n_warmup)))
