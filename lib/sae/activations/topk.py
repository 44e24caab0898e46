"""Top-K: the k largest pre-activations of a token, at several budgets, or with their signs."""

from dataclasses import dataclass

import torch

from lib.sae.codes import FinishedActivation, FinishedTopK
from lib.sae.kernels import Activation, Choice, Weights, dense_top
from lib.sae.selection import pre_activations, select
from lib.support.checks import check_count


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

    def dense(self, centred: torch.Tensor, weights: Weights) -> tuple[list[torch.Tensor], float]:
        """See `Activation`."""
        pre = weights.pre(centred)
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

    def dense(self, centred: torch.Tensor, weights: Weights) -> tuple[list[torch.Tensor], float]:
        """See `Activation`."""
        return [dense_top(weights.pre(centred), self.k, signed=True)], 0.0

    def finished(self, weights: Weights, smallest: float | None) -> tuple[Weights, FinishedActivation]:
        """See `Activation`; there are 2 * width latents, j and width + j the two sides of one."""
        W_enc, b_enc, W_dec = (torch.cat([tensor, -tensor]) for tensor in weights[:3])
        return Weights(W_enc, b_enc, W_dec, weights.b_pre), FinishedTopK(self.k)
