"""Gated: one path decides which latents are active, another how strongly."""

from dataclasses import dataclass

import torch

from lib.sae.activations.thresholds import all_that, smallest_of_k
from lib.sae.codes import FinishedActivation, FinishedJumpReLU
from lib.sae.kernels import Activation, Backward, Batch, Choice, Weights, decode
from lib.sae.selection import add_at, dots


@dataclass(frozen=True)
class Gated(Activation):
    """z = [pre > 0] ReLU(exp(r) W_enc (h - b_pre) + b_mag), r and b_mag of each latent (arXiv 2404.16014, eqs. 5-8).

    The step passes no gradient to the gate, pre. It learns from reconstructing alone, with a decoder held constant, and
    from an L1 penalty. With x = h - b_pre, a constant as what is reconstructed,

        sum |x - W_dec^T ReLU(pre)|^2 / sum |x|^2 + lambda log sum ReLU(pre)

    is added to the FVU. The paper's lambda is a constant; ours aims at a number of latents: coefficient (L0 / k - 1),
    at least 0, L0 the mean number of the batch; and the logarithm makes the scale of the states not matter. Finished,
    it is exactly a JumpReLU autoencoder, as in the paper's appendix.

    Attributes
    ----------
    coefficient : float
        At least 0, or a ValueError.
    """

    finished_form = FinishedJumpReLU
    coefficient: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if not self.coefficient >= 0:
            raise ValueError(f"coefficient is {self.coefficient!r}; it must be at least 0, such as 1.0.")

    def initial(self, centred: torch.Tensor, directions: torch.Tensor, mean: torch.Tensor) -> Weights:
        """See `Activation`: k latents of an average token of the first batch are active; `extra` is r and b_mag."""
        weights = super().initial(centred, directions, mean)
        bound = smallest_of_k(centred, weights, self.k)
        extra = directions.new_zeros(2, len(directions))
        return weights._replace(b_enc=weights.b_enc - bound, extra=extra)

    def choose(self, centred: torch.Tensor, weights: Weights, dtype: torch.dtype) -> Choice:
        """See `Activation`."""
        search = (centred, weights.W_enc, weights.b_enc, torch.zeros_like(weights.b_enc), 2 * self.k, dtype)
        indices, pre, mask = all_that(lambda indices, pre: pre > 0, *search)
        r, b_mag = weights.extra[:, indices]
        values = (r.exp() * (pre - weights.b_enc[indices]) + b_mag).relu()
        return Choice(indices, pre, torch.where(mask, values, 0), mask)

    def excess(self, n_active: torch.Tensor, n: int) -> torch.Tensor:
        """Return lambda of n tokens."""
        return self.coefficient * (n_active / (n * self.k) - 1).clamp(min=0)

    def dense(self, centred: torch.Tensor, weights: Weights) -> tuple[list[torch.Tensor], torch.Tensor]:
        """See `Activation`."""
        pre, (r, b_mag) = weights.pre(centred), weights.extra
        gate, x = pre.relu(), centred.detach()
        z = torch.where(pre > 0, (r.exp() * (pre - weights.b_enc) + b_mag).relu(), 0)
        alone = (x - gate @ weights.W_dec.detach()).square().sum() / x.square().sum()
        tiny = torch.finfo(pre.dtype).tiny
        return [z], alone + self.excess((pre > 0).sum(dtype=pre.dtype), len(pre)) * gate.sum().clamp(min=tiny).log()

    def backward(self, batch: Batch) -> Backward:
        """See `Activation`."""
        (centred, weights, pairs, pre), n = batch[:4], len(batch.centred)
        energy, total = centred.square().sum(), pre.sum().clamp(min=torch.finfo(pre.dtype).tiny)
        error = decode(pairs, pre, weights.W_dec) - centred
        weight = self.excess(torch.tensor(len(pre), dtype=pre.dtype), n)
        d_gate = dots(error * (2 / energy), weights.W_dec, pairs) + weight / total
        d_mag = batch.through_relu()
        scaled = weights.extra[0].exp()[pairs.indices] * d_mag
        d_r = scaled * (pre - weights.b_enc[pairs.indices])
        width = len(weights.b_enc)
        sums = [add_at(pairs.indices, part, width) for part in (d_r, d_mag, scaled)]
        added = {"extra": torch.stack(sums[:2]), "b_enc": -sums[2]}  # b_mag stands in the place of b_enc
        return Backward(error.square().sum() / energy + weight * total.log(), d_gate + scaled, added)

    def finished(self, weights: Weights, smallest: float | None) -> tuple[Weights, FinishedActivation]:
        """See `Activation`. pre > 0 where exp(r) W_enc (h - b_pre) + b_mag > b_mag - exp(r) b_enc."""
        scale, b_mag = weights.extra[0].exp(), weights.extra[1]
        threshold = (b_mag - scale * weights.b_enc).clamp(min=0)
        W_enc = scale[:, None] * weights.W_enc
        return weights._replace(W_enc=W_enc, b_enc=b_mag, extra=None), FinishedJumpReLU(self.k, threshold)
