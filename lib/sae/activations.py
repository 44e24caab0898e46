"""The activations an autoencoder can be trained with: what makes of its pre-activations the few that are not 0.

Each is a small class with its equation, in which pre = W_enc (h - b_pre) + b_enc, and an entry of `ACTIVATIONS`. In
training they differ; each has a form of `lib.sae.codes` when it is finished.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import pad

from lib.sae.codes import FinishedActivation, FinishedJumpReLU, FinishedTopK
from lib.sae.kernels import Activation, Choice, Weights, dense_top
from lib.sae.selection import add_at, pre_activations, select
from lib.support.checks import check_choice, check_count


@dataclass(frozen=True)
class TopK(Activation):
    """z = ReLU(TopK_k(pre)): the k largest of a token (Gao et al., arXiv 2406.04093, eqs. 1-2).

    With budgets b = k_1 < ... < k_B = k, z_b = ReLU(TopK_b(pre)) at each of them: one autoencoder, good at each. The
    loss is the mean of the FVUs of all B reconstructions; as each z_b is a part of the next, they cost little more
    than the last one alone (HierarchicalTopK, Balagansky et al., arXiv 2505.24473; with two budgets and other
    weights, the Multi-TopK of Gao et al.). `SparseAutoencoder.with_k` reads the finished one at another budget.

    Attributes
    ----------
    budgets : tuple of int
        Ascending, the last one k; () is k alone.
    """

    budgets: tuple[int, ...] = ()

    def __post_init__(self):
        super().__post_init__()
        budgets = [check_count(budget, "a budget") for budget in self.budgets]
        if budgets and (budgets != sorted(set(budgets)) or budgets[-1] != self.k):
            example = [max(1, self.k // 4), self.k]
            raise ValueError(f"budgets are {budgets}; they must ascend and end with k, {self.k}, such as {example}.")

    def choose(self, centred: torch.Tensor, weights: Weights, dtype: torch.dtype) -> Choice:
        """See `Activation`."""
        indices = select(centred, weights.W_enc, weights.b_enc, self.k, dtype)
        pre = pre_activations(centred, weights.W_enc, weights.b_enc, indices)
        if not self.budgets:
            return Choice(indices, pre, pre.relu())
        pre, order = pre.sort(dim=1, descending=True)
        parts = tuple(b - a for a, b in zip((0, *self.budgets), self.budgets, strict=False))
        return Choice(indices.gather(1, order), pre, pre.relu(), parts=parts)

    def dense(self, pre: torch.Tensor, threshold: torch.Tensor | None) -> tuple[list[torch.Tensor], float]:
        """See `Activation`."""
        return [dense_top(pre, budget) for budget in self.budgets or (self.k,)], 0.0


class AbsTopK(Activation):
    """z = the k largest |pre| of a token, with their signs (Zhu et al., arXiv 2510.00404).

    Finished, it is exactly a Top-K autoencoder of 2 * width latents: (W_enc; -W_enc), (b_enc; -b_enc), (W_dec; -W_dec).
    Of pre_j and -pre_j one at most is among the k largest of all, as at least width >= k of these are not below 0; and
    -pre_j times -W_dec_j is pre_j times W_dec_j.
    """

    signed = True

    def choose(self, centred: torch.Tensor, weights: Weights, dtype: torch.dtype) -> Choice:
        """See `Activation`."""
        indices = select(centred, weights.W_enc, weights.b_enc, self.k, dtype, signed=True)
        pre = pre_activations(centred, weights.W_enc, weights.b_enc, indices)
        return Choice(indices, pre, pre)

    def dense(self, pre: torch.Tensor, threshold: torch.Tensor | None) -> tuple[list[torch.Tensor], float]:
        """See `Activation`."""
        return [dense_top(pre, self.k, signed=True)], 0.0

    def finished(self, weights: Weights, smallest: float | None) -> tuple[Weights, FinishedActivation]:
        """See `Activation`; there are 2 * width latents, j and width + j the two sides of one."""
        W_enc, b_enc, W_dec = (torch.cat([tensor, -tensor]) for tensor in weights[:3])
        return Weights(W_enc, b_enc, W_dec, weights.b_pre), FinishedTopK(self.k)


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

    def dense(self, pre: torch.Tensor, threshold: torch.Tensor | None) -> tuple[list[torch.Tensor], float]:
        """See `Activation`."""
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
        theta = weights.threshold.exp()
        lower = theta * (1 - self.bandwidth / 2)
        search = (centred, weights.W_enc, weights.b_enc, lower, 2 * self.k, dtype)
        indices, pre, mask = _all_that(lambda indices, pre: pre > lower[indices], *search)
        return Choice(indices, pre, torch.where(pre > theta[indices], pre, 0), mask)

    def penalise(
        self, indices: torch.Tensor, pre: torch.Tensor, passed: torch.Tensor, threshold: torch.Tensor, n: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Activation`."""
        theta = threshold.exp()[indices]
        excess = (pre > theta).sum(dtype=pre.dtype) / (n * self.k) - 1
        slope = 2 * self.coefficient * excess / (n * self.k)  # d penalty / d H
        near = (pre - theta).abs() < self.bandwidth / 2 * theta
        d_log_theta = (theta * passed + slope) * near / -self.bandwidth  # theta d / dtheta, and epsilon / theta
        return self.coefficient * excess**2, add_at(indices, d_log_theta, len(threshold))

    def dense(self, pre: torch.Tensor, threshold: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """See `Activation`."""
        theta = threshold.exp()
        z, active = _Jump.apply(pre, theta, self.bandwidth * theta.detach())
        return [z], self.coefficient * (active.sum() / len(pre) / self.k - 1) ** 2

    def initial_threshold(self, centred: torch.Tensor, W_enc: torch.Tensor, b_enc: torch.Tensor) -> torch.Tensor:
        """Return log theta [width], one for all, for k active latents a token; ValueError if no pre is above 0."""
        _, pre, mask = _batch_top(centred, W_enc, b_enc, self.k, centred.dtype)
        if not mask.any():
            raise ValueError("No pre-activation of the first batch is above 0, as JumpReLU needs; use other states.")
        return torch.full_like(b_enc, pre[mask].min().log().item())

    def finished(self, weights: Weights, smallest: float | None) -> tuple[Weights, FinishedActivation]:
        """See `Activation`."""
        return weights, FinishedJumpReLU(self.k, weights.threshold.exp())


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


def _batch_top(
    centred: torch.Tensor, W_enc: torch.Tensor, b_enc: torch.Tensor, k: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return, as `_all_that`, the pre-activations above 0 that are not below the n k-th largest of all tokens."""

    def among_the_largest(indices: torch.Tensor, pre: torch.Tensor) -> torch.Tensor:
        # of a part of all: at most the bound of all, so that more pass than should, until all that should are there
        bound = pre.flatten().topk(len(pre) * k, sorted=False).values.min()
        return (pre >= bound) & (pre > 0)

    return _all_that(among_the_largest, centred, W_enc, b_enc, torch.zeros_like(b_enc), 2 * k, dtype)


def _all_that(
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


ACTIVATIONS: dict[str, type[Activation]] = {
    "topk": TopK,
    "batchtopk": BatchTopK,
    "jumprelu": JumpReLU,
    "abstopk": AbsTopK,
}


def activation_of(name: str, k: int, budgets: Sequence[int] = ()) -> Activation:
    """Return the activation of that name.

    Raises ValueError for an unknown name, k below 1, and budgets that the activation does not have or that are not as
    it asks; TypeError if k or a budget is not an integer.

    Parameters
    ----------
    name : {"topk", "batchtopk", "jumprelu", "abstopk"}
        A key of `ACTIVATIONS`.
    k : int
        Latents a token has ("topk", "abstopk"), or has on average ("batchtopk", and "jumprelu" aims at it).
    budgets : sequence of int
        Of an activation that has budgets, see `TopK`; () is none.
    """
    kind = ACTIVATIONS[check_choice(name, ACTIVATIONS, "activation")]
    if not budgets:
        return kind(k)
    if not hasattr(kind, "budgets"):
        with_budgets = [name for name, kind in ACTIVATIONS.items() if hasattr(kind, "budgets")]
        raise ValueError(f"budgets are {list(budgets)}; {name!r} has none, {', '.join(with_budgets)} has.")
    return kind(k, budgets=tuple(budgets))
