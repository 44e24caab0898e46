"""Variational: every pre-activation is the mean of a normal distribution that training draws from."""

from dataclasses import dataclass, replace
from typing import Self

import torch

from lib.sae.kernels import Activation, Backward, Batch, Choice, Weights, dense_top


@dataclass(frozen=True)
class Variational(Activation):
    """Top-K of a draw from N(pre, s^2), pre kept near 0 by its divergence (vSAE; Baker and Li, arXiv 2509.22994).

    z = ReLU(TopK_k(pre + s e)), e from N(0, 1) for every latent of every token, anew in each step and alike for all
    seeds; and the penalty is coefficient / d times the mean over tokens of

        sum_j KL(N(pre_j, s^2) || N(0, s^2)) = sum_j pre_j^2 / (2 s^2)

    Finished, it is Top-K of the means. Ours differs in two things: with unit variance and a standard normal prior, as
    in the paper, the scale of the states would decide how strong both are, so s is `noise` times the root mean square
    of an entry of the batch's states less b_pre, a constant of the step; and what is active is not below 0. Noise and
    divergence are of all latents, so that a step is dense.

    Attributes
    ----------
    coefficient : float
        Weight of the divergence, at least 0, or a ValueError. Where a share u of the variance is unexplained, the loss
        is the evidence lower bound, but for constants, with the coefficient 2 u.
    noise : float
        Standard deviation s, above 0, or a ValueError, as a multiple of that of the pre-activation of a random unit
        vector.
    """

    coefficient: float = 0.1
    noise: float = 0.5
    step: int = 0

    def __post_init__(self):
        super().__post_init__()
        if not self.coefficient >= 0:
            raise ValueError(f"coefficient is {self.coefficient!r}; it must be at least 0, such as 0.1.")
        if not self.noise > 0:
            raise ValueError(f"noise is {self.noise!r}; it must be above 0, such as 0.5.")

    def at(self, step: int, texts: torch.Tensor | None = None) -> Self:
        """See `Activation`."""
        return replace(self, step=step)

    def _drawn(self, centred: torch.Tensor, pre: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator(pre.device).manual_seed(self.step)
        noise = torch.randn(pre.shape, generator=generator, dtype=pre.dtype, device=pre.device)
        return pre + self.noise * centred.detach().square().mean().sqrt() * noise

    def _share(self, centred: torch.Tensor) -> torch.Tensor:
        """Return what the penalty is of the sum of pre^2, coefficient / (2 n d s^2)."""
        energy = self.noise**2 * centred.detach().square().sum()  # n d s^2
        return torch.where(energy > 0, self.coefficient / (2 * energy), 0)

    def choose(self, centred: torch.Tensor, weights: Weights, dtype: torch.dtype) -> Choice:
        """See `Activation`; what is drawn stands in the place of pre-activations."""
        pre, indices = self._drawn(centred, weights.pre(centred)).topk(self.k, dim=1, sorted=False)
        return Choice(indices, pre, pre.relu())

    def dense(self, centred: torch.Tensor, weights: Weights) -> tuple[list[torch.Tensor], torch.Tensor]:
        """See `Activation`."""
        pre = weights.pre(centred)
        return [dense_top(self._drawn(centred, pre), self.k)], self._share(centred) * pre.square().sum()

    def backward(self, batch: Batch) -> Backward:
        """See `Activation`."""
        centred, weights = batch.centred, batch.weights
        pre, share = weights.pre(centred), self._share(centred)
        d_pre = 2 * share * pre
        d_b_enc = d_pre.sum(dim=0)
        added = {"W_enc": d_pre.T @ centred, "b_enc": d_b_enc, "b_pre": -(d_b_enc @ weights.W_enc)}
        return Backward(share * pre.square().sum(), batch.through_relu(), added)
