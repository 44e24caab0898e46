"""The training rule of a Top-K sparse autoencoder: reconstruction of frozen token states, and AuxK for dead latents."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace

import torch
from tqdm import tqdm

from lib.checks import check_choice, check_count
from lib.encoder import DTYPES, TokenEncoder, native_dtype
from lib.kernels import Step, Weights, loss_and_gradients
from lib.sae import SparseAutoencoder

LOG_EVERY = 50  # steps


@dataclass(frozen=True)
class TrainingConfig:
    """How a Top-K autoencoder is trained; the defaults are the recipe of Latent Terms (arXiv 2605.29384).

    Attributes
    ----------
    width, k : int
        Latents in all, and latents a token may have.
    epochs : int
        Passes over the token states, each in a new order.
    batch_tokens : int
        Token states of one optimiser step.
    learning_rate : float
        The peak, reached by a linear warm-up and left by a cosine to 0.
    warmup : float
        Share of all steps that warm up.
    auxk : float
        Coefficient of the auxiliary loss AuxK, by which dead latents learn the residual (Gao et al., arXiv 2406.04093,
        A.2); 0 is without it.
    dead_tokens : int
        A latent is dead when it was not active for this many tokens. The paper's 10 million are more than half of a
        run of 18 million; 1 million is about as much as the warm-up of such a run, and an average latent at the
        default width and k is active 500 times in it.
    select_dtype : {"native", "bfloat16", "float32"}
        Of the product that finds each token's k latents, whose activations are computed in float32 in any case;
        "native" is bfloat16 where the machine computes in it, else float32.
    seed : int
        Of the initial weights and of the order of the states.

    Raises
    ------
    ValueError
        If a field is out of range, or `k` is more than `width`.
    """

    width: int = 32_768
    k: int = 16
    epochs: int = 3
    batch_tokens: int = 4_096
    learning_rate: float = 1e-3
    warmup: float = 0.05
    auxk: float = 1 / 32
    dead_tokens: int = 1_000_000
    select_dtype: str = "native"
    seed: int = 0

    def __post_init__(self):
        for name in ("width", "k", "epochs", "batch_tokens", "dead_tokens"):
            check_count(getattr(self, name), name)
        if self.k > self.width:
            raise ValueError(f"k is {self.k}, more than the width {self.width}; choose k from 1 to {self.width}.")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"learning_rate is {self.learning_rate!r}; it must be a positive number such as 1e-3.")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup is {self.warmup!r}; it must be a share of the steps, at least 0 and below 1.")
        if not (math.isfinite(self.auxk) and self.auxk >= 0):
            raise ValueError(f"auxk is {self.auxk!r}; it must be a number of at least 0, such as 1/32; 0 is without.")
        check_choice(self.select_dtype, ["native", *DTYPES], "select_dtype")

    def resolved(self) -> "TrainingConfig":
        """Return the same with the `select_dtype` that "native" stands for on this machine."""
        if self.select_dtype != "native":
            return self
        return replace(self, select_dtype=native_dtype(torch.device("cpu")))


def collect_states(encoder: TokenEncoder, texts: Iterable[str], max_tokens: int) -> torch.Tensor:
    """Return the first `max_tokens` token states of `texts`, bfloat16 [n, d], fewer if the texts end before.

    The whole block is held in memory: 2 * d bytes a token, 0.77 GB a million tokens at d = 384.
    """
    states = torch.empty(check_count(max_tokens, "max_tokens"), encoder.d, dtype=torch.bfloat16)
    n = 0
    with tqdm(total=max_tokens, disable=None, unit="token", unit_scale=True, desc="collect states") as bar:
        for block in encoder.stream(texts, progress=False):
            taken = block.states[: max_tokens - n]
            states[n : n + len(taken)] = taken
            n += len(taken)
            bar.update(len(taken))
            if n == max_tokens:
                break
    return states[:n]


class TrainableAutoencoder(torch.nn.Module):
    """The weights while they are trained, initialised as in Latent Terms.

    The decoder is Kaiming-uniform with its rows scaled to norm 1, the encoder starts as its transpose (both are kept
    as [width, d], so as a copy), b_enc at 0 and b_pre at the mean of the data.
    """

    def __init__(self, mean: torch.Tensor, width: int, generator: torch.Generator):
        super().__init__()
        W_dec = torch.empty(width, len(mean))
        torch.nn.init.kaiming_uniform_(W_dec, generator=generator)
        W_dec /= W_dec.norm(dim=1, keepdim=True)
        self.W_dec = torch.nn.Parameter(W_dec)
        self.W_enc = torch.nn.Parameter(W_dec.clone())
        self.b_enc = torch.nn.Parameter(torch.zeros(width))
        self.b_pre = torch.nn.Parameter(mean.clone())

    def backward(self, states: torch.Tensor, mean: torch.Tensor, dead: torch.Tensor, config: TrainingConfig) -> Step:
        """Set the gradients of all four weights to those of fvu + auxk * AuxK of `states` [n, d]; return the step."""
        weights = Weights(self.W_enc, self.b_enc, self.W_dec, self.b_pre)
        step = loss_and_gradients(states, weights, config.k, mean, dead, config.auxk, DTYPES[config.select_dtype])
        for name, gradient in step.gradients._asdict().items():
            getattr(self, name).grad = gradient
        return step

    @torch.no_grad()
    def normalise_decoder(self) -> None:
        """Scale every decoder row to norm 1; called after each optimiser step."""
        self.W_dec /= self.W_dec.norm(dim=1, keepdim=True)


def learning_rate_factor(step: int, n_steps: int, warmup: float) -> float:
    """Return the share of the peak learning rate at `step`: linear from near 0 to 1, then a cosine to 0."""
    n_warmup = round(warmup * n_steps)
    if step < n_warmup:
        return (step + 1) / (n_warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - n_warmup) / max(1, n_steps - n_warmup)))


def train(
    states: torch.Tensor, config: TrainingConfig, *, log: Callable[[dict], None] = lambda row: None
) -> SparseAutoencoder:
    """Train an autoencoder to reconstruct token states, with AdamW (no weight decay).

    The loss is the FVU of each batch, plus AuxK while latents are dead.

    Parameters
    ----------
    states : torch.Tensor, float32 or bfloat16 [n, d]
        At least one batch of them.
    config : TrainingConfig
    log : callable
        Is given a dict (step, tokens, fvu, dead, learning_rate) every 50 steps and at the last one. `fvu` is the
        mean over the steps since the last row, `dead` the share of latents that are dead.

    Raises
    ------
    ValueError
        If there are fewer states than one batch.
    FloatingPointError
        If the loss is no longer finite.
    """
    if states.ndim != 2 or len(states) < config.batch_tokens:
        raise ValueError(
            f"states have shape {tuple(states.shape)}; training needs [n, d] with at least one batch of "
            f"{config.batch_tokens} tokens. Give more text or a smaller batch_tokens."
        )
    config = config.resolved()
    generator = torch.Generator().manual_seed(config.seed)
    mean = (sum(part.sum(dim=0, dtype=torch.float64) for part in states.split(2**16)) / len(states)).float()
    model = TrainableAutoencoder(mean, config.width, generator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=0.0, fused=True)
    n_steps = config.epochs * (len(states) // config.batch_tokens)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, n_steps, config.warmup)
    )
    silent = torch.zeros(config.width, dtype=torch.int64)  # tokens since each latent was active
    fvus: list[float] = []
    with tqdm(total=n_steps * config.batch_tokens, disable=None, unit="token", unit_scale=True, desc="train") as bar:
        for step, batch in enumerate(_batches(states, config, generator), 1):
            result = model.backward(batch, mean, silent >= config.dead_tokens, config)
            fvus.append(result.fvu.item())
            if not math.isfinite(fvus[-1]):
                raise FloatingPointError(
                    f"The loss is {fvus[-1]} at step {step}; look for NaN in the states, or lower the learning rate."
                )
            optimizer.step()
            model.normalise_decoder()
            silent += len(batch)
            silent[result.indices[result.values > 0]] = 0
            bar.update(config.batch_tokens)
            if step % LOG_EVERY == 0 or step == n_steps:
                row = {
                    "step": step,
                    "tokens": step * config.batch_tokens,
                    "fvu": sum(fvus) / len(fvus),
                    "dead": (silent >= config.dead_tokens).float().mean().item(),
                    "learning_rate": schedule.get_last_lr()[0],
                }
                log(row)
                bar.set_postfix(fvu=f"{row['fvu']:.3f}", dead=f"{row['dead']:.1%}")
                fvus.clear()
            schedule.step()
    metadata = {"training": asdict(config) | {"distinct_tokens": len(states), "final": row}}
    return SparseAutoencoder(model.W_enc, model.b_enc, model.W_dec, model.b_pre, config.k, metadata)


def _batches(states: torch.Tensor, config: TrainingConfig, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Yield batches, float32 [batch_tokens, d], each epoch in a new order; states that do not fill one are left out."""
    size = config.batch_tokens
    for _ in range(config.epochs):
        order = torch.randperm(len(states), generator=generator)
        for at in range(0, len(states) - size + 1, size):
            yield states[order[at : at + size]].float()
