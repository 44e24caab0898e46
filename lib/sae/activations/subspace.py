"""Subspace initialisation: directions that start where the states vary."""

from dataclasses import dataclass

import torch

from lib.sae.activations.topk import TopK
from lib.sae.kernels import Weights


@dataclass(frozen=True)
class Subspace(TopK):
    """Top-K that starts in the leading directions of the states (Wang et al., arXiv 2508.16929).

    W_dec_j = V V^T w_j / |V V^T w_j| for random w_j and V [d, m], the first m principal directions of the first batch:
    as few as have the share of its variance. Random directions elsewhere are seldom chosen, and die. The weights are
    free from then on, as in the paper's initialisation; the encoder starts as the decoder.

    Attributes
    ----------
    share : float
        Share of the variance, above 0 and at most 1, or a ValueError.
    """

    share: float = 0.9

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.share <= 1:
            raise ValueError(f"share is {self.share!r}; it must be above 0 and at most 1, such as 0.9.")

    def initial(self, centred: torch.Tensor, directions: torch.Tensor, mean: torch.Tensor) -> Weights:
        """See `Activation`."""
        variances, vectors = torch.linalg.eigh(centred.double().T @ centred.double())  # ascending
        shares = variances.clamp(min=0).flip(0).cumsum(0) / variances.clamp(min=0).sum().clamp(min=1e-300)
        m = min(len(shares), int((shares < self.share).sum()) + 1)
        V = vectors.flip(1)[:, :m].to(directions.dtype)
        return super().initial(centred, torch.nn.functional.normalize(directions @ V @ V.T, dim=1), mean)
