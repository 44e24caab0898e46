"""Gradient-aware selection: the latents that move the embedding of the text, not those that are largest."""

from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import torch

from lib.sae.activations.endtoend import means_of_texts
from lib.sae.kernels import Activation, Choice, Weights


@dataclass(frozen=True)
class GradientAware(Activation):
    """Top-K by what a latent does to the text's embedding (g-SAE; Olmo et al., arXiv 2411.10397).

    In training the k latents of a token are those with the largest pre_j |J W_dec_j|, J the derivative of the text's
    embedding e by the state. At the final layer of a retriever that pools by the mean, e = m / |m|, m the mean of the n
    states of the text, and J = (I - e e^T) / (n |m|); n |m| is alike for all latents of a token, so that

        |J W_dec_j| ~ sqrt(|W_dec_j|^2 - <e, W_dec_j>^2)

    A batch is of whole texts, but for the two at its ends. The paper selects by z and the gradient of a loss, which an
    embedding does not have. Finished, it is plain Top-K: codes of a token may not depend on others.

    Attributes
    ----------
    texts : torch.Tensor, int64 [n]
        Number of the text of each token in the batch of this step.
    """

    whole_texts: ClassVar[bool] = True
    texts: torch.Tensor | None = field(default=None, compare=False, repr=False)

    def at(self, step: int, texts: torch.Tensor | None = None) -> Self:
        """See `Activation`."""
        return replace(self, texts=texts)

    def _select(self, centred: torch.Tensor, weights: Weights, pre: torch.Tensor) -> torch.Tensor:
        """Return the latents of each token, int64 [n, k]."""
        means, of_tokens, _ = means_of_texts(centred + weights.b_pre, self.texts)
        along = torch.nn.functional.normalize(means, dim=1) @ weights.W_dec.T  # of each text and latent
        effects = (weights.W_dec.square().sum(dim=1) - along.square()).clamp(min=0).sqrt()
        return (pre * effects[of_tokens]).topk(self.k, dim=1, sorted=False).indices

    def choose(self, centred: torch.Tensor, weights: Weights, dtype: torch.dtype) -> Choice:
        """See `Activation`; a dense step in the dtype of the states."""
        pre = weights.pre(centred)
        indices = self._select(centred, weights, pre)
        pre = pre.gather(1, indices)
        return Choice(indices, pre, pre.relu())

    def dense(self, centred: torch.Tensor, weights: Weights) -> tuple[list[torch.Tensor], float]:
        """See `Activation`."""
        pre = weights.pre(centred)
        indices = self._select(centred.detach(), weights, pre.detach())
        return [torch.zeros_like(pre).scatter(1, indices, pre.gather(1, indices).relu())], 0.0
