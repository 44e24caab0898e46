"""Matryoshka: the first latents alone reconstruct, so that an autoencoder or an index can be cut to them."""

from dataclasses import dataclass

import torch

from lib.sae.kernels import Activation, Choice, Weights, dense_top
from lib.sae.selection import pre_activations, select
from lib.support.checks import check_count

_HALVINGS = 4


@dataclass(frozen=True)
class Matryoshka(Activation):
    """Top-K of which each prefix of the latents reconstructs alone (Bussmann et al., arXiv 2503.17547).

    z = ReLU(TopK_k(pre)) of all latents; with widths m_1 < ... < m_B = width the loss is the mean over b of the FVU of
    sum_{j < m_b} z_j W_dec_j + b_pre. So the first latents become the general ones, and codes, rows of terms and what
    is indexed of them can be cut to a prefix: `documents[:, :m]`. In the paper z is BatchTopK's.

    Attributes
    ----------
    widths : tuple of int
        Ascending, all below the width, which is the last one; () is 1/16, 1/8, 1/4 and 1/2 of it.
    """

    widths: tuple[int, ...] = ()

    def __post_init__(self):
        super().__post_init__()
        widths = [check_count(width, "a width") for width in self.widths]
        if widths != sorted(set(widths)):
            raise ValueError(f"widths are {widths}; they must ascend, such as {sorted(set(widths))}.")

    def check(self, width: int) -> None:
        """See `Activation`."""
        super().check(width)
        if self.widths and self.widths[-1] >= width:
            raise ValueError(f"widths are {list(self.widths)}; all must be below the width, {width}, the last one.")

    def bounds(self, width: int) -> list[int]:
        """Return the latent at which each prefix ends, the last one all."""
        return [*(self.widths or sorted({width >> n for n in range(1, _HALVINGS + 1)} - {0})), width]

    def choose(self, centred: torch.Tensor, weights: Weights, dtype: torch.dtype) -> Choice:
        """See `Activation`."""
        indices = select(centred, weights.W_enc, weights.b_enc, self.k, dtype)
        pre = pre_activations(centred, weights.W_enc, weights.b_enc, indices)
        bounds = torch.tensor(self.bounds(len(weights.b_enc)), device=indices.device)
        first = torch.bucketize(indices, bounds, right=True)  # the first prefix that has the latent
        numbers = torch.arange(len(bounds), device=indices.device)
        return Choice(indices, pre, pre.relu(), mask=first == numbers[:, None, None])

    def dense(self, centred: torch.Tensor, weights: Weights) -> tuple[list[torch.Tensor], float]:
        """See `Activation`."""
        z = dense_top(weights.pre(centred), self.k)
        latents = torch.arange(z.shape[1], device=z.device)
        return [z * (latents < bound) for bound in self.bounds(z.shape[1])], 0.0
