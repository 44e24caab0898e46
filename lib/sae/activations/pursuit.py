"""Matching pursuit: one latent after the other, each of what the others left."""

from dataclasses import dataclass

import torch

from lib.sae.activations.topk import TopK
from lib.sae.codes import Codes, FinishedActivation
from lib.sae.kernels import Weights
from lib.sae.selection import EncoderWeights

_BLOCK = 2**25  # pre-activations held at once


@dataclass(frozen=True, eq=False)
class FinishedPursuit(FinishedActivation):
    """z by k steps: j = argmax pre(r), z_j = ReLU(pre_j(r)), r <- r - z_j W_dec_j, from r = x - b_pre.

    A latent is chosen once at most. Each step is a product with all latents, so that encoding costs k times as much.
    """

    name = "pursuit"

    def encode(self, centred: torch.Tensor, encoder: EncoderWeights) -> Codes:
        """See `FinishedActivation`."""
        blocks = centred.split(max(1, _BLOCK // len(encoder.b_enc)))
        codes = [pursue(rows, encoder.W_enc, encoder.b_enc, encoder.W_dec, self.k) for rows in blocks]
        return Codes(*(torch.cat(parts) for parts in zip(*codes, strict=True)))


def pursue(rows: torch.Tensor, W_enc: torch.Tensor, b_enc: torch.Tensor, W_dec: torch.Tensor, k: int) -> Codes:
    """Return the codes of `rows` [n, d]."""
    rows, indices, values = rows.clone(), [], []
    for _ in range(k):
        pre = torch.addmm(b_enc, rows, W_enc.T)
        if indices:
            pre.scatter_(1, torch.stack(indices, dim=1), -torch.inf)
        best = pre.max(dim=1)
        indices.append(best.indices)
        values.append(best.values.relu())
        rows -= values[-1][:, None] * W_dec[best.indices]
    return Codes(torch.stack(indices, dim=1), torch.stack(values, dim=1))


@dataclass(frozen=True)
class Pursuit(TopK):
    """Top-K in training; finished, matching pursuit over its decoder (MP-SAE, Costa et al., arXiv 2506.03093).

    See `FinishedPursuit`, in which pre(r) = W_dec r: the encoder is not used. The paper also trains by pursuit.
    """

    finished_form = FinishedPursuit

    def finished(self, weights: Weights, smallest: float | None) -> tuple[Weights, FinishedActivation]:
        """See `Activation`."""
        W_enc, b_enc = weights.W_dec.clone(), torch.zeros_like(weights.b_enc)
        return weights._replace(W_enc=W_enc, b_enc=b_enc), FinishedPursuit(self.k)
