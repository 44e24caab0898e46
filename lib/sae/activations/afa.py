"""Top-AFA: as many latents as the norm of a state asks for."""

from dataclasses import dataclass, replace
from typing import Self

import torch

from lib.sae.codes import Codes, FinishedActivation, FinishedTopK
from lib.sae.kernels import Activation, Backward, Batch, Choice, Weights
from lib.sae.selection import EncoderWeights, add_at, pre_activations, select


def up_to_the_norm(values: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
    """Return values [n, k], largest first, without those past the number that brings |z| nearest to the norm [n]."""
    lengths = values.square().cumsum(dim=1).sqrt()
    last = (lengths - norms[:, None]).abs().argmin(dim=1, keepdim=True)
    return values * (torch.arange(values.shape[1], device=values.device) <= last)


@dataclass(frozen=True, eq=False)
class FinishedTopAFA(FinishedActivation):
    """z = the largest pre of a token, at most k, as many as bring |z| nearest to scale |x - b_pre|.

    Attributes
    ----------
    scale : float
        Of the states in training to those that are encoded.
    """

    name = "topafa"
    scale: float = 1.0

    def rescaled(self, scale: float) -> Self:
        """See `FinishedActivation`."""
        return replace(self, scale=self.scale * scale)

    def encode(self, centred: torch.Tensor, encoder: EncoderWeights) -> Codes:
        """See `FinishedActivation`."""
        codes = FinishedTopK(self.k).encode(centred, encoder)  # largest first
        return codes._replace(values=up_to_the_norm(codes.values, self.scale * centred.norm(dim=1)))


@dataclass(frozen=True)
class TopAFA(Activation):
    """z = the m largest pre of a token, m <= k such that |z| is nearest to |h - b_pre| (Lee et al., arXiv 2503.24277).

    Were decoder rows orthogonal, the norm of a state would be that of its z (approximate feature activation). To the
    FVU is added coefficient * sum (|z| - |h - b_pre|)^2 / sum |h - b_pre|^2, in which h - b_pre is a constant. k bounds
    the number, and does not set its mean, so that the number of latents cannot be chosen.

    Attributes
    ----------
    coefficient : float
        At least 0, or a ValueError.
    """

    finished_form = FinishedTopAFA
    coefficient: float = 1 / 32

    def __post_init__(self):
        super().__post_init__()
        if not self.coefficient >= 0:
            raise ValueError(f"coefficient is {self.coefficient!r}; it must be at least 0, such as {1 / 32}.")

    def choose(self, centred: torch.Tensor, weights: Weights, dtype: torch.dtype) -> Choice:
        """See `Activation`."""
        indices = select(centred, weights.W_enc, weights.b_enc, self.k, dtype)
        pre = pre_activations(centred, weights.W_enc, weights.b_enc, indices)
        pre, order = pre.sort(dim=1, descending=True)
        values = up_to_the_norm(pre.relu(), centred.norm(dim=1))
        return Choice(indices.gather(1, order), pre, values, values > 0)

    def dense(self, centred: torch.Tensor, weights: Weights) -> tuple[list[torch.Tensor], torch.Tensor]:
        """See `Activation`."""
        pre, order = weights.pre(centred).topk(self.k, dim=1)
        norms = centred.detach().norm(dim=1)
        values = up_to_the_norm(pre.relu(), norms)
        length = values.square().sum(dim=1).clamp(min=torch.finfo(pre.dtype).tiny).sqrt()
        z = torch.zeros(len(pre), len(weights.b_enc), dtype=pre.dtype).scatter(1, order, values)
        return [z], self.coefficient * (length - norms).square().sum() / norms.square().sum()

    def backward(self, batch: Batch) -> Backward:
        """See `Activation`."""
        rows, n = batch.pairs.rows(), len(batch.centred)
        norms = batch.centred.norm(dim=1)
        length = add_at(rows, batch.values.square(), n).clamp(min=torch.finfo(norms.dtype).tiny).sqrt()
        off, energy = length - norms, norms.square().sum()
        slope = (self.coefficient * 2 / energy) * off / length
        d_pre = batch.through_relu().add_(slope[rows] * batch.values)
        return Backward(self.coefficient * off.square().sum() / energy, d_pre)

    def finished(self, weights: Weights, smallest: float | None) -> tuple[Weights, FinishedActivation]:
        """See `Activation`."""
        return weights, FinishedTopAFA(self.k)
