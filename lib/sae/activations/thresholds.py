"""Thresholds: BatchTopK, which has one for a batch, JumpReLU, which trains one for each latent, and their search."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn.functional import pad

from lib.sae.codes import FinishedActivation, FinishedJumpReLU
from lib.sae.kernels import Activation, Backward, Batch, Choice, Weights
from lib.sae.selection import add_at, pre_activations, select


class BatchTopK(Activation):
    """z = pre [pre >= t] [pre > 0], t the n k-th largest pre of all n tokens (Bussmann et al., arXiv 2412.06410).

    So a token has k latents on average. Of equal pre at t, all are active. Finished, it has one constant threshold,
    the mean over batches of the smallest z above 0, as in the paper: z = pre [pre > theta].
    """

    finished_form = FinishedJumpReLU

    def choose(self, centred: torch.Tensor, weights: Weights, dtype: torch.dtype) -> Choice:
        """See `Activation`."""
        indices, pre, mask = _batch_top(centred, weights.W_enc, weights.b_enc, self.k, dtype)
        return Choice(indices, pre, torch.where(mask, pre, 0), mask)

    def dense(self, centred: torch.Tensor, weights: Weights) -> tuple[list[torch.Tensor], float]:
        """See `Activation`."""
        pre = weights.pre(centred)
        bound = pre.flatten().sort(descending=True).values[len(pre) * self.k - 1]
        return [torch.where(pre >= bound, pre, 0).relu()], 0.0

    def finished(self, weights: Weights, smallest: float | None) -> tuple[Weights, FinishedActivation]:
        """See `Activation`; ValueError if nothing was active, as then there is no threshold."""
        if smallest is None:
            raise ValueError("No latent was active in training, so BatchTopK has no threshold; train on other states.")
        return weights, FinishedJumpReLU(self.k, torch.full_like(weights.b_enc, smallest))


@dataclass(frozen=True)
class JumpReLU(Activation):
    """z = pre H(pre - theta), with a trained theta for each latent (Rajamanoharan et al., arXiv 2407.14435).

    H is the step function, and passes no gradient on to pre. That for theta is estimated straight through, from what
    lies near it; with K(x) = [|x| < 1/2] and the bandwidth epsilon,

        d z / d theta = -theta / epsilon K((pre - theta) / epsilon)
        d H / d theta =     -1 / epsilon K((pre - theta) / epsilon)

    What is trained is log theta, as in the paper, so that theta stays above 0; it learns ten times as fast as weights,
    so that a run of a few hundred steps finds it. Other than there, epsilon is a share of each theta, so that the scale
    of the states does not matter, and the penalty aims at a number of active latents: coefficient (L0 / k - 1)^2,
    L0 = sum H(pre - theta) / n the mean number of the batch, as in Gemma Scope 2.

    Attributes
    ----------
    bandwidth : float
        epsilon / theta, above 0 and below 2, or a ValueError.
    coefficient : float
        Coefficient of the penalty, at least 0, or a ValueError.
    """

    finished_form = FinishedJumpReLU
    rate: ClassVar[int] = 10  # AdamW moves a log threshold by a learning rate a step
    bandwidth: float = 0.1
    coefficient: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.bandwidth < 2:
            raise ValueError(f"bandwidth is {self.bandwidth!r}; it must be above 0 and below 2, such as 0.1.")
        if not self.coefficient >= 0:
            raise ValueError(f"coefficient is {self.coefficient!r}; it must be at least 0, such as 1.0.")

    def choose(self, centred: torch.Tensor, weights: Weights, dtype: torch.dtype) -> Choice:
        """See `Activation`. What is not active but near its threshold takes part, too."""
        theta = weights.extra.exp()
        lower = theta * (1 - self.bandwidth / 2)
        search = (centred, weights.W_enc, weights.b_enc, lower, 2 * self.k, dtype)
        indices, pre, mask = all_that(lambda indices, pre: pre > lower[indices], *search)
        return Choice(indices, pre, torch.where(pre > theta[indices], pre, 0), mask)

    def backward(self, batch: Batch) -> Backward:
        """See `Activation`."""
        n, indices, pre = len(batch.centred), batch.pairs.indices, batch.pre
        theta = batch.weights.extra.exp()[indices]
        excess = (pre > theta).sum(dtype=pre.dtype) / (n * self.k) - 1
        slope = 2 * self.coefficient * excess / (n * self.k)  # d penalty / d H
        near = (pre - theta).abs() < self.bandwidth / 2 * theta
        d_log_theta = (theta * batch.passed + slope) * near / -self.bandwidth  # theta d / dtheta, and epsilon / theta
        d_extra = add_at(indices, d_log_theta, len(batch.weights.extra))
        return Backward(self.coefficient * excess**2, batch.through_relu(), {"extra": d_extra})

    def dense(self, centred: torch.Tensor, weights: Weights) -> tuple[list[torch.Tensor], torch.Tensor]:
        """See `Activation`."""
        pre, theta = weights.pre(centred), weights.extra.exp()
        z, active = _Jump.apply(pre, theta, self.bandwidth * theta.detach())
        return [z], self.coefficient * (active.sum() / len(pre) / self.k - 1) ** 2

    def initial(self, centred: torch.Tensor, directions: torch.Tensor, mean: torch.Tensor) -> Weights:
        """See `Activation`: log theta is such that k latents of an average token are active, if so many are above 0."""
        weights = super().initial(centred, directions, mean)
        theta = smallest_of_k(centred, weights, self.k)
        return weights._replace(extra=torch.full_like(weights.b_enc, theta.log().item()))

    def finished(self, weights: Weights, smallest: float | None) -> tuple[Weights, FinishedActivation]:
        """See `Activation`."""
        return weights, FinishedJumpReLU(self.k, weights.extra.exp())


class _Jump(torch.autograd.Function):
    """pre H(pre - theta) and H(pre - theta), with the gradients that `JumpReLU` gives."""

    @staticmethod
    def forward(ctx, pre, theta, epsilon):
        ctx.save_for_backward(pre, theta, epsilon)
        active = (pre > theta).to(pre.dtype)
        return pre * active, active

    @staticmethod
    def backward(ctx, d_z, d_active):
        pre, theta, epsilon = ctx.saved_tensors
        near = ((pre - theta) / epsilon).abs() < 0.5
        return d_z * (pre > theta), (-(theta * d_z + d_active) / epsilon * near).sum(dim=0), None


def smallest_of_k(centred: torch.Tensor, weights: Weights, k: int) -> torch.Tensor:
    """Return the pre-activation above which k latents of an average token are; ValueError if none is above 0."""
    _, pre, mask = _batch_top(centred, weights.W_enc, weights.b_enc, k, centred.dtype)
    if not mask.any():
        raise ValueError("No pre-activation of the first batch is above 0, as thresholds need; use other states.")
    return pre[mask].min()


def _batch_top(
    centred: torch.Tensor, W_enc: torch.Tensor, b_enc: torch.Tensor, k: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return, as `all_that`, the pre-activations above 0 that are not below the n k-th largest of all tokens."""

    def among_the_largest(indices: torch.Tensor, pre: torch.Tensor) -> torch.Tensor:
        # of a part of all: at most the bound of all, so that more pass than should, until all that should are there
        bound = pre.flatten().topk(len(pre) * k, sorted=False).values.min()
        return (pre >= bound) & (pre > 0)

    return all_that(among_the_largest, centred, W_enc, b_enc, torch.zeros_like(b_enc), 2 * k, dtype)


def all_that(
    passes: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    centred: torch.Tensor,
    W_enc: torch.Tensor,
    b_enc: torch.Tensor,
    lower: torch.Tensor,
    m: int,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return every latent that `passes`, of indices and pre-activations: those two, and which of them pass, [n, m].

    Of each token, those m are looked at of which the pre-activation, as computed in `dtype`, is farthest above `lower`
    [width]. Where all m pass, more may; there m is doubled. What fills up the other rows has pre-activation 0, and
    must not pass.
    """
    width, m = len(b_enc), min(m, len(b_enc))
    rows = torch.arange(len(centred), device=centred.device)
    indices, pre = rows.new_empty(len(rows), 0), centred.new_empty(len(rows), 0)
    while True:
        indices, pre = (pad(rectangle, (0, m - rectangle.shape[1])) for rectangle in (indices, pre))
        indices[rows] = select(centred[rows], W_enc, b_enc - lower, m, dtype)
        pre[rows] = pre_activations(centred[rows], W_enc, b_enc, indices[rows])
        passed = passes(indices, pre)
        rows = passed.all(dim=1).nonzero()[:, 0]
        if m == width or not len(rows):
            return indices, pre, passed
        m = min(2 * m, width)
