"""AdaptiveK: a probe of the state says how many latents a token has."""

from dataclasses import dataclass, replace
from typing import Self

import torch

from lib.sae.codes import Codes, FinishedActivation, FinishedTopK
from lib.sae.kernels import Activation, Backward, Batch, Choice, Weights, decode
from lib.sae.selection import EncoderWeights, pre_activations, select

_MOST = 4  # times k latents, at most


def numbers(log_share: torch.Tensor, k: int, width: int) -> torch.Tensor:
    """Return how many latents tokens have, int64 [n]: k times exp(log_share) [n], from 1 to 4 k and the width."""
    return (k * log_share.clamp(-20, 20).exp()).round().long().clamp(1, min(_MOST * k, width))


@dataclass(frozen=True, eq=False)
class FinishedAdaptiveK(FinishedActivation):
    """z = ReLU(TopK_m(pre)), m = k exp(<probe, x - b_pre> + bias), from 1 to 4 k.

    Attributes
    ----------
    probe : torch.Tensor, float32 [d]
    bias : float
    """

    name = "adaptivek"
    probe: torch.Tensor
    bias: float

    def shape(self, width: int, d: int) -> tuple[int, ...]:
        """See `FinishedActivation`."""
        return (d,)

    def rescaled(self, scale: float) -> Self:
        """See `FinishedActivation`."""
        return replace(self, probe=self.probe * scale)

    def encode(self, centred: torch.Tensor, encoder: EncoderWeights) -> Codes:
        """See `FinishedActivation`."""
        width = len(encoder.b_enc)
        codes = FinishedTopK(min(_MOST * self.k, width)).encode(centred, encoder)  # largest first
        m = numbers(centred @ self.probe + self.bias, self.k, width)
        taken = torch.arange(codes.values.shape[1], device=m.device) < m[:, None]
        return codes._replace(values=torch.where(taken, codes.values, 0))


@dataclass(frozen=True)
class AdaptiveK(Activation):
    """z = ReLU(TopK_m(pre)), m = k exp(p), p = <w, h - b_pre> + b a linear probe of the state (arXiv 2508.17320).

    The paper's probe learns how complex a language model finds the text. There are no such labels here: ours learns, by
    least squares, y, the logarithm of the share of the state that z leaves, about its mean, and b that k is the mean:

        1/2 mean (p - mean p - y + mean y)^2 + 1/2 (mean exp(p) - 1)^2

    is added to the FVU; states and y are constants in it. So a token that is hard to reconstruct has more latents.
    `extra` is w and b, [d + 1].
    """

    finished_form = FinishedAdaptiveK

    def initial(self, centred: torch.Tensor, directions: torch.Tensor, mean: torch.Tensor) -> Weights:
        """See `Activation`."""
        weights = super().initial(centred, directions, mean)
        return weights._replace(extra=directions.new_zeros(directions.shape[1] + 1))

    def choose(self, centred: torch.Tensor, weights: Weights, dtype: torch.dtype) -> Choice:
        """See `Activation`."""
        width = len(weights.b_enc)
        indices = select(centred, weights.W_enc, weights.b_enc, min(_MOST * self.k, width), dtype)
        pre, order = pre_activations(centred, weights.W_enc, weights.b_enc, indices).sort(dim=1, descending=True)
        m = numbers(centred @ weights.extra[:-1] + weights.extra[-1], self.k, width)
        mask = torch.arange(pre.shape[1], device=m.device) < m[:, None]
        return Choice(indices.gather(1, order), pre, torch.where(mask, pre.relu(), 0), mask)

    def miss(self, centred: torch.Tensor, extra: torch.Tensor, left: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the penalty and its gradient for `extra`; `left` [n, d] is what is not reconstructed."""
        tiny = torch.finfo(left.dtype).tiny
        y = (left.square().sum(dim=1).clamp(min=tiny) / centred.square().sum(dim=1).clamp(min=tiny)).log()
        p = (centred @ extra[:-1] + extra[-1]).clamp(-20, 20)
        off, excess = p - p.mean() - y + y.mean(), p.exp().mean() - 1
        d_p = (off + excess * p.exp()) / len(p)
        return (off.square().mean() + excess**2) / 2, torch.cat([centred.T @ d_p, d_p.sum()[None]])

    def dense(self, centred: torch.Tensor, weights: Weights) -> tuple[list[torch.Tensor], torch.Tensor]:
        """See `Activation`."""
        pre, states = weights.pre(centred), centred.detach()
        m = numbers(states @ weights.extra[:-1].detach() + weights.extra[-1].detach(), self.k, pre.shape[1])
        values, order = pre.topk(min(_MOST * self.k, pre.shape[1]), dim=1)
        values = torch.where(torch.arange(values.shape[1]) < m[:, None], values.relu(), 0)
        z = torch.zeros_like(pre).scatter(1, order, values)
        return [z], self.miss(states, weights.extra, states - (z @ weights.W_dec).detach())[0]

    def backward(self, batch: Batch) -> Backward:
        """See `Activation`."""
        left = batch.centred - decode(batch.pairs, batch.values, batch.weights.W_dec)
        penalty, gradient = self.miss(batch.centred, batch.weights.extra, left)
        return Backward(penalty, batch.through_relu(), {"extra": gradient})

    def finished(self, weights: Weights, smallest: float | None) -> tuple[Weights, FinishedActivation]:
        """See `Activation`."""
        probe, bias = weights.extra[:-1].detach().clone(), weights.extra[-1].item()
        return weights, FinishedAdaptiveK(self.k, probe, bias)
