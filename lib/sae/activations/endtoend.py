"""End-to-end: what is to be kept is the embedding of each text, not its token states alone."""

from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import torch
from torch.nn.functional import cosine_similarity, pad

from lib.sae.activations.topk import TopK
from lib.sae.kernels import Activation, Backward, Batch, Choice, Weights, decode, dense_top, transposed
from lib.sae.selection import Pairs, dots

SMALLEST = 1e-8  # norm of a mean, so that nothing is divided by 0


def means_of_texts(states: torch.Tensor, texts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the mean state of each text [m, d], which of them each token is of, int64 [n], and their sizes [m].

    At the final layer of a retriever that pools by the mean, that is its embedding before it is scaled, but for special
    tokens that are not read, and for long texts that are read in chunks.
    """
    _, of_tokens, sizes = texts.unique(return_inverse=True, return_counts=True)
    pairs = Pairs(of_tokens.argsort(stable=True), pad(sizes.cumsum(0), (1, 0)))
    return decode(pairs, states.new_ones(len(states)), states) / sizes[:, None], of_tokens, sizes


@dataclass(frozen=True)
class EndToEnd(Activation):
    """Top-K that keeps the embeddings of whole texts (end-to-end training; Braun et al., arXiv 2405.12241).

    A batch is of whole texts, but for the two at its ends, and to the FVU is added

        coefficient * mean_i (1 - cos(m_i, m_hat_i))

    m_i the mean of the states of text i, m_hat_i that of their reconstructions. The paper keeps the predictions of a
    language model, by their divergence; what a retriever gives is the direction of its embedding, at the final layer
    that of m_i, so that no gradient goes through the retriever. Of another layer it is the mean of its states all the
    same, as it is of states that were normalised or are residuals. The FVU stays in the loss, since many codes have the
    same mean.

    Attributes
    ----------
    coefficient : float
        Weight of the embeddings, at least 0, or a ValueError.
    texts : torch.Tensor, int64 [n]
        Number of the text of each token in the batch of this step.
    """

    whole_texts: ClassVar[bool] = True
    coefficient: float = 100.0
    texts: torch.Tensor | None = field(default=None, compare=False, repr=False)

    def __post_init__(self):
        super().__post_init__()
        if not self.coefficient >= 0:
            raise ValueError(f"coefficient is {self.coefficient!r}; it must be at least 0, such as 100.")

    def at(self, step: int, texts: torch.Tensor | None = None) -> Self:
        """See `Activation`."""
        return replace(self, texts=texts)

    def choose(self, centred: torch.Tensor, weights: Weights, dtype: torch.dtype) -> Choice:
        """See `Activation`."""
        return TopK(self.k).choose(centred, weights, dtype)

    def dense(self, centred: torch.Tensor, weights: Weights) -> tuple[list[torch.Tensor], torch.Tensor]:
        """See `Activation`."""
        z = dense_top(weights.pre(centred), self.k)
        means, _, _ = means_of_texts((centred + weights.b_pre).detach(), self.texts)
        reconstructed, _, _ = means_of_texts(z @ weights.W_dec + weights.b_pre, self.texts)
        return [z], self.coefficient * (1 - cosine_similarity(means, reconstructed, eps=SMALLEST)).mean()

    def backward(self, batch: Batch) -> Backward:
        """See `Activation`."""
        W_dec, b_pre = batch.weights.W_dec, batch.weights.b_pre
        means, of_tokens, sizes = means_of_texts(batch.centred + b_pre, self.texts)
        reconstructed, _, _ = means_of_texts(decode(batch.pairs, batch.values, W_dec) + b_pre, self.texts)
        norms = reconstructed.norm(dim=1, keepdim=True).clamp(min=SMALLEST)
        embeddings, directions = means / means.norm(dim=1, keepdim=True).clamp(min=SMALLEST), reconstructed / norms
        cosines = (embeddings * directions).sum(dim=1, keepdim=True)
        d_means = -self.coefficient / len(means) * (embeddings - cosines * directions) / norms
        upstream = (d_means / sizes[:, None])[of_tokens]  # of each token's reconstruction
        by_latent, order = transposed(batch.pairs, len(W_dec))
        batch.passed.add_(dots(upstream, W_dec, batch.pairs))
        added = {"W_dec": decode(by_latent, batch.values[order], upstream), "b_pre": upstream.sum(dim=0)}
        return Backward(self.coefficient * (1 - cosines).mean(), batch.through_relu(), added)
