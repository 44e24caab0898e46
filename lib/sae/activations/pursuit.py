"""Matching pursuit: one latent after the other, each of what the others left."""

from dataclasses import dataclass

import torch

from lib.sae.activations.topk import TopK
from lib.sae.codes import Codes, FinishedActivation
from lib.sae.kernels import Weights
from lib.sae.selection import EncoderWeights

_ROWS = 128  # whose pre-activations stay in the cache of a processor
_WIDEST = 8_192  # latents whose W_dec W_enc^T is kept, 256 MB


@dataclass(frozen=True, eq=False)
class FinishedPursuit(FinishedActivation):
    """z by k steps: j = argmax pre(r), z_j = ReLU(pre_j(r)), r <- r - z_j W_dec_j, from r = x - b_pre.

    A latent is chosen once at most. Up to 8,192 latents, W_dec W_enc^T (float32 [width, width]) is computed once, and a
    step takes its row j, times z_j, off all pre-activations; with more, a step is a product with all latents, so that
    encoding costs k times as much.
    """

    name = "pursuit"

    def encode(self, centred: torch.Tensor, encoder: EncoderWeights) -> Codes:
        """See `FinishedActivation`."""
        weights = encoder.W_enc, encoder.b_enc, encoder.W_dec
        falls = encoder.falls() if len(encoder.b_enc) <= _WIDEST else None
        codes = [pursue(rows, *weights, self.k, falls) for rows in centred.split(_ROWS)]
        return Codes(*(torch.cat(parts) for parts in zip(*codes, strict=True)))


def pursue(
    rows: torch.Tensor,
    W_enc: torch.Tensor,
    b_enc: torch.Tensor,
    W_dec: torch.Tensor,
    k: int,
    falls: torch.Tensor | None = None,
) -> Codes:
    """Return the codes of `rows` [n, d]; `falls` is W_dec W_enc^T, None if it is not to be used."""
    indices: list[torch.Tensor] = []
    values: list[torch.Tensor] = []
    pre = torch.addmm(b_enc, rows, W_enc.T)
    for step in range(k):
        if step:
            taken = values[-1][:, None]
            if falls is None:
                rows = rows - taken * W_dec[indices[-1]]
                pre = torch.addmm(b_enc, rows, W_enc.T)
            else:
                pre = torch.addcmul(pre, taken, falls[indices[-1]], value=-1)
            pre.scatter_(1, torch.stack(indices, dim=1), -torch.inf)
        best = pre.max(dim=1)
        indices.append(best.indices)
        values.append(best.values.relu())
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
