"""OrtSAE: a penalty that keeps the directions of the decoder apart."""

from dataclasses import dataclass, replace
from typing import Self

import torch

from lib.sae.activations.topk import TopK
from lib.sae.kernels import Backward, Batch, Weights
from lib.sae.selection import add_rows_
from lib.support.checks import check_count


@dataclass(frozen=True)
class OrtSAE(TopK):
    """Top-K, and decoder rows are kept apart: a penalty on their cosines (Korznikov et al., arXiv 2509.22033).

    It is coefficient * mean_i max_{j != i} max(0, cos(W_dec_i, W_dec_j))^2. i and j are of one chunk: in each step the
    latents fall into chunks at random, so that the cost grows with the width and not with its square. As in the paper
    the chunks are drawn anew each time. Ours differs in two things: the paper trains BatchTopK, and computes the
    penalty in every fifth step only.

    Attributes
    ----------
    coefficient : float
        At least 0, or a ValueError.
    chunk : int
        Latents of a chunk, at least 1; the last one may have fewer.
    """

    coefficient: float = 0.25
    chunk: int = 2_048
    step: int = 0

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "chunk", check_count(self.chunk, "chunk"))
        if not self.coefficient >= 0:
            raise ValueError(f"coefficient is {self.coefficient!r}; it must be at least 0, such as 0.25.")

    def at(self, step: int, texts: torch.Tensor | None = None) -> Self:
        """See `Activation`."""
        return replace(self, step=step)

    def chunks(self, W_dec: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the latents of each chunk of this step."""
        order = torch.randperm(len(W_dec), generator=torch.Generator().manual_seed(self.step))
        return order.to(W_dec.device).split(self.chunk)

    def overlap(self, W_dec: torch.Tensor) -> torch.Tensor:
        """Return the penalty, a scalar for autograd."""
        total = W_dec.new_zeros(())
        for latents in self.chunks(W_dec):
            rows = torch.nn.functional.normalize(W_dec[latents], dim=1)
            total = total + (rows @ rows.T).fill_diagonal_(0).amax(dim=1).relu().square().sum()
        return self.coefficient * total / len(W_dec)

    def dense(self, centred: torch.Tensor, weights: Weights) -> tuple[list[torch.Tensor], torch.Tensor]:
        """See `Activation`."""
        return super().dense(centred, weights)[0], self.overlap(weights.W_dec)

    def backward(self, batch: Batch) -> Backward:
        """See `Activation`. Each row has one nearest row, so that its gradient is that of one cosine."""
        W_dec = batch.weights.W_dec
        norms = W_dec.norm(dim=1, keepdim=True).clamp(min=torch.finfo(W_dec.dtype).tiny)
        rows, gradient, total = W_dec / norms, torch.zeros_like(W_dec), W_dec.new_zeros(())
        for latents in self.chunks(W_dec):
            part = rows[latents]
            cosine, nearest = (part @ part.T).fill_diagonal_(0).max(dim=1)
            cosine = cosine.relu()[:, None]
            total += cosine.square().sum()
            other = part[nearest]
            add_rows_(gradient, latents, 2 * cosine * (other - cosine * part))
            add_rows_(gradient, latents[nearest], 2 * cosine * (part - cosine * other))
        scale = self.coefficient / len(W_dec)
        return Backward(scale * total, batch.through_relu(), {"W_dec": gradient.mul_(scale / norms)})
