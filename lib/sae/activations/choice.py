"""Mutual Choice and Feature Choice: which tokens a latent has, by Zipf's law."""

from dataclasses import dataclass

import torch

from lib.sae.activations.thresholds import BatchTopK, smallest_of_k
from lib.sae.codes import FinishedActivation, FinishedJumpReLU
from lib.sae.kernels import Activation, Backward, Batch, Choice, Weights
from lib.sae.selection import Pairs, dots

_BLOCK = 2**23  # pre-activations held at once
_PATIENCE = 10  # times the mean gap between two tokens of a latent; a gap as long has the chance e^-10


def zipf_shares(width: int, k: int, offset: float) -> torch.Tensor:
    """Return in which share of the tokens the latent of each rank should be active, float64 [width].

    p_r = min(1, c / (r + offset)), r from 1, with c such that they sum to k (Zipf's law with Mandelbrot's offset).
    """
    weights = 1 / (torch.arange(1, width + 1, dtype=torch.float64) + offset)
    shares = k * weights / weights.sum()
    for _ in range(50):  # what is cut off at 1 goes to the others
        shares = (shares * (k / shares.sum())).clamp(max=1)
    return shares


@dataclass(frozen=True)
class _ByZipf(Activation):
    offset: float = 10.0

    def __post_init__(self):
        super().__post_init__()
        if not self.offset >= 0:
            raise ValueError(f"offset is {self.offset!r}; it must be at least 0, such as 10.0.")

    def idle(self, silent: torch.Tensor, window: int) -> torch.Tensor:
        """See `Activation`: aux_zipf_loss. A latent need not be dead, only rarer than its rank should be.

        AuxK of the latents that were silent for more than 10 / p_r tokens, r their rank by silence; as well as of all
        that are dead. With equal p_r it is AuxK. The paper describes it and gives no formula.
        """
        order = silent.argsort()
        expected = torch.empty_like(silent, dtype=torch.float64)
        expected[order] = _PATIENCE / zipf_shares(len(silent), self.k, self.offset).to(silent.device)
        return (silent >= window) | (silent > expected)


@dataclass(frozen=True)
class MutualChoice(_ByZipf, BatchTopK):
    """BatchTopK, with aux_zipf_loss in the place of AuxK (Ayonrinde, arXiv 2411.02124).

    Mutual Choice gives the n k largest pre-activations of n tokens to whichever tokens and latents have them, which is
    BatchTopK. What is its own is that latents rarer than Zipf's law has them learn the residual, see `idle`.

    Attributes
    ----------
    offset : float
        Of ranks in Zipf's law, at least 0, or a ValueError.
    """


@dataclass(frozen=True)
class FeatureChoice(_ByZipf):
    """z_j = ReLU(pre_j) for the m_j tokens of a batch that have the largest pre_j (Ayonrinde, arXiv 2411.02124).

    m_j = n p_j, at least 1, with p_j by Zipf's law (`zipf_shares`): latent 1 is the most frequent one by design. The
    finished one has a threshold for each latent. The paper leaves open how: log theta_j learns the logarithm of the
    smallest z_j of a batch, by 1/2 mean_j (log theta_j - log min z_j)^2, as fast as JumpReLU's. With aux_zipf_loss.

    Attributes
    ----------
    offset : float
        Of ranks in Zipf's law, at least 0, or a ValueError.
    """

    finished_form = FinishedJumpReLU
    rate = 10

    def initial(self, centred: torch.Tensor, directions: torch.Tensor, mean: torch.Tensor) -> Weights:
        """See `Activation`: `extra` is log theta, that of BatchTopK."""
        weights = super().initial(centred, directions, mean)
        bound = smallest_of_k(centred, weights, self.k)
        return weights._replace(extra=torch.full_like(weights.b_enc, bound.log().item()))

    def matches(self, centred: torch.Tensor, weights: Weights, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Return token and latent of each match, as found by a product in `dtype`."""
        n, width = len(centred), len(weights.b_enc)
        counts = (n * zipf_shares(width, self.k, self.offset)).round().long().clamp(min=1, max=n).to(centred.device)
        rows = centred.to(dtype)
        tokens, latents = [], []
        for first in range(0, width, size := max(1, _BLOCK // n)):
            part = slice(first, first + size)
            pre = weights.W_enc[part].to(dtype) @ rows.T + weights.b_enc[part, None].to(dtype)
            values, order = pre.topk(int(counts[first]), dim=1)
            taken = (torch.arange(values.shape[1], device=order.device) < counts[part, None]) & (values > 0)
            tokens.append(order[taken])
            latents.append(taken.nonzero()[:, 0] + first)
        return torch.cat(tokens), torch.cat(latents)

    def choose(self, centred: torch.Tensor, weights: Weights, dtype: torch.dtype) -> Choice:
        """See `Activation`."""
        if dtype == torch.int8:
            dtype = centred.dtype
        tokens, latents = self.matches(centred, weights, dtype)
        tokens, order = tokens.sort(stable=True)
        counts = tokens.bincount(minlength=len(centred))
        starts = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
        mask = torch.arange(max(1, int(counts.max())), device=counts.device) < counts[:, None]
        indices, pre = torch.zeros_like(mask, dtype=torch.int64), torch.zeros_like(mask, dtype=centred.dtype)
        indices[mask] = latents[order]
        pairs = Pairs(latents[order], starts)
        pre[mask] = dots(centred, weights.W_enc, pairs) + weights.b_enc[pairs.indices]
        return Choice(indices, pre, pre.relu(), mask)

    def smallest(self, latents: torch.Tensor, values: torch.Tensor, width: int) -> torch.Tensor:
        """Return the logarithm of the smallest z above 0 of each latent [width], inf where there is none."""
        least = values.new_full((width,), torch.inf)
        return least.scatter_reduce_(0, latents, values.masked_fill(values <= 0, torch.inf), "amin").log()

    def dense(self, centred: torch.Tensor, weights: Weights) -> tuple[list[torch.Tensor], torch.Tensor]:
        """See `Activation`."""
        pre = weights.pre(centred)
        mask = torch.zeros_like(pre, dtype=torch.bool)
        mask[self.matches(centred.detach(), weights, pre.dtype)] = True
        z = torch.where(mask, pre, 0).relu()
        tokens, latents = mask.nonzero(as_tuple=True)
        least = self.smallest(latents, z.detach()[tokens, latents], z.shape[1])
        off = torch.where(least.isfinite(), weights.extra - least, 0)
        return [z], off.square().mean() / 2

    def backward(self, batch: Batch) -> Backward:
        """See `Activation`."""
        log_theta = batch.weights.extra
        least = self.smallest(batch.pairs.indices, batch.values, len(log_theta))
        off = torch.where(least.isfinite(), log_theta - least, 0)
        return Backward(off.square().mean() / 2, batch.through_relu(), {"extra": off / len(off)})

    def finished(self, weights: Weights, smallest: float | None) -> tuple[Weights, FinishedActivation]:
        """See `Activation`."""
        return weights, FinishedJumpReLU(self.k, weights.extra.exp())
