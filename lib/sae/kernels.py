"""The sparse linear algebra of training an autoencoder: loss and gradients from the few latents that a token has.

Only the product that finds these latents is dense. All else reads and writes their rows: of the other latents every
activation is 0, and so is every gradient. `reference_loss` is the dense form, for autograd. Which latents a token has
is decided by an activation of `lib/sae/activations/`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from scipy.sparse import csr_array
from torch.nn.functional import embedding_bag, pad

from lib.sae.codes import FinishedActivation, FinishedTopK
from lib.sae.selection import Pairs, add_at, dots, on_gpu
from lib.support.checks import check_count

_BLOCK = 2**23  # pre-activations of dead latents held at once
_MAX_AUX = 512  # dead latents a token's residual is reconstructed from, at most


class Weights(NamedTuple):
    """The weights of an autoencoder, or the gradients of a loss for them.

    Attributes
    ----------
    W_enc, W_dec : torch.Tensor [width, d]
        W_enc may have other rows, of which an activation makes latents.
    b_enc : torch.Tensor [width]
        Of each row of W_enc.
    b_pre : torch.Tensor [d]
    extra : torch.Tensor or None
        What the activation has besides: of JumpReLU the natural logarithm of each latent's threshold, [width]. Without
        a gradient it is not trained.
    """

    W_enc: torch.Tensor
    b_enc: torch.Tensor
    W_dec: torch.Tensor
    b_pre: torch.Tensor
    extra: Any = None  # no tensor or None: an activation that reads it has one

    def pre(self, centred: torch.Tensor) -> torch.Tensor:
        """Return the pre-activations of states less b_pre, `centred` [n, d], of all rows of W_enc."""
        return centred @ self.W_enc.T + self.b_enc


class Choice(NamedTuple):
    """The latents of n tokens that take part in a step.

    Attributes
    ----------
    indices : torch.Tensor, int64 [n, m]
    pre : torch.Tensor [n, m]
        Their pre-activations, W_enc (h - b_pre) + b_enc.
    values : torch.Tensor [n, m]
        Their activations z: the pre-activation, or 0 where a latent is not active.
    mask : torch.Tensor, bool [n, m] or [B, n, m], or None
        Which of them take part; None is all. Of the others, z is 0. With B budgets, what each adds to the one before.
    parts : tuple of int
        With several budgets and no mask, how many columns each adds to those of the budget before it; () is one budget.
    """

    indices: torch.Tensor
    pre: torch.Tensor
    values: torch.Tensor
    mask: torch.Tensor | None = None
    parts: tuple[int, ...] = ()

    def flat(self, rectangle: torch.Tensor) -> torch.Tensor:
        """Return what takes part of [n, m] as [p], token by token; with several budgets, part by part."""
        if self.mask is not None:
            return rectangle.expand(self.mask.shape)[self.mask]
        if self.parts:
            return torch.cat([part.flatten() for part in rectangle.split(self.parts, dim=1)])
        return rectangle.flatten()

    def pairs(self) -> Pairs:
        """Return the pairs in that order: a row for each token, with several budgets for each part and token."""
        n, m = self.indices.shape
        every = torch.tensor(self.parts or (m,), device=self.indices.device).repeat_interleave(n)
        counts = every if self.mask is None else self.mask.sum(dim=-1).flatten()
        return Pairs(self.flat(self.indices), pad(counts.cumsum(0), (1, 0)))


class Batch(NamedTuple):
    """A step of n tokens as an activation sees it on the way back: what takes part, as p pairs, and what it passes on.

    Attributes
    ----------
    centred : torch.Tensor [n, d]
        The states less b_pre.
    weights : Weights
    pairs : Pairs
        Token and latent of each pair; with several budgets a row for each budget and token.
    pre, values : torch.Tensor [p]
        Pre-activations and activations.
    passed : torch.Tensor [p]
        Gradients of the FVU for the activations.
    """

    centred: torch.Tensor
    weights: Weights
    pairs: Pairs
    pre: torch.Tensor
    values: torch.Tensor
    passed: torch.Tensor

    def through_relu(self) -> torch.Tensor:
        """Return, in place of `passed`, the gradient for pre-activations: 0 where a latent is not active."""
        return self.passed.mul_(self.values != 0)


class Backward(NamedTuple):
    """What an activation makes of it.

    Attributes
    ----------
    penalty : torch.Tensor, scalar
        What it adds to the loss.
    d_pre : torch.Tensor [q]
        Gradients of the loss for the pre-activations of `rows`.
    added : dict
        Gradients of the loss that do not come by these, by the name of the weights.
    rows : Pairs or None
        Token and row of W_enc of each pre-activation; None is the pairs of the batch.
    """

    penalty: torch.Tensor
    d_pre: torch.Tensor
    added: Mapping[str, torch.Tensor] = {}
    rows: Pairs | None = None


@dataclass(frozen=True)
class Activation(ABC):
    """An activation while it is trained: the sparse form of a step, the dense form beside it, and what it becomes.

    A subclass is a frozen dataclass, and an entry of `lib.sae.activations.ACTIVATIONS`. `choose` says which latents are
    active, `backward` what the loss has besides the FVU, `initial` and `constrain` where weights start and stay, and
    `finished` what is saved; `dense` is the loss as autograd computes it. Fields with a default are settings.

    Attributes
    ----------
    finished_form : type
        The `FinishedActivation` that `finished` gives, by which a saved autoencoder is read.
    signed : bool
        Whether an activation may be negative.
    revives : bool
        Whether AuxK is given the dead latents.
    whole_texts : bool
        Whether a batch is of whole texts, not of single tokens out of many.
    trains : bool
        Whether there is a training. Where there is none, `initial` is given the states of the whole first window.
    rate : float
        Learning rate of `Weights.extra`, times that of the other weights.
    k : int
        Latents that a token has, or has on average.
    """

    finished_form: ClassVar[type[FinishedActivation]] = FinishedTopK
    signed: ClassVar[bool] = False
    revives: ClassVar[bool] = True
    whole_texts: ClassVar[bool] = False
    trains: ClassVar[bool] = True
    rate: ClassVar[float] = 1
    k: int

    def __post_init__(self):
        object.__setattr__(self, "k", check_count(self.k, "k"))

    @abstractmethod
    def choose(self, centred: torch.Tensor, weights: Weights, dtype: torch.dtype) -> Choice:
        """Return what is active of the states less b_pre, `centred` [n, d], as found by a product in `dtype`."""

    @abstractmethod
    def dense(self, centred: torch.Tensor, weights: Weights) -> tuple[list[torch.Tensor], torch.Tensor | float]:
        """Return, for autograd, z of all latents [n, width] at each budget, and the penalty."""

    def backward(self, batch: Batch) -> Backward:
        """Return the penalty of a batch, and the gradients of FVU and penalty for what the latents are made of."""
        return Backward(batch.pre.new_zeros(()), batch.through_relu())

    def check(self, width: int) -> None:
        """Raise a ValueError if an autoencoder of `width` latents cannot be trained so."""
        if self.k > width:
            raise ValueError(f"k is {self.k}, more than the width {width}; choose k from 1 to {width}.")

    def initial(self, centred: torch.Tensor, directions: torch.Tensor, mean: torch.Tensor) -> Weights:
        """Return the weights to start from, given a first batch less `mean` and random unit vectors [width, d]."""
        b_enc = directions.new_zeros(len(directions))
        return Weights(directions.clone(), b_enc, directions, mean.clone())

    def constrain(self, weights: Weights) -> None:  # noqa: B027, most have nothing to do
        """Bring weights back, in place, to where they must be; called after each step, when W_dec has unit rows."""

    def idle(self, silent: torch.Tensor, window: int) -> torch.Tensor:
        """Return which latents AuxK is given, bool [width], of the tokens since each was active: the dead ones."""
        return silent >= window

    def at(self, step: int, texts: torch.Tensor | None = None) -> Self:
        """Return the activation of a step, for one that draws at random or reads whole texts; others are as they are.

        Steps are counted from 0; `texts`, int64 [n], is the text of each token, None unless texts are whole.
        """
        return self

    def finished(self, weights: Weights, smallest: float | None) -> tuple[Weights, FinishedActivation]:
        """Return the weights and the activation of the finished autoencoder.

        `smallest` is the mean of `Step.smallest` over the last batches, None if nothing was active.
        """
        return weights, FinishedTopK(self.k)


class Step(NamedTuple):
    """What one batch of n tokens gives.

    Attributes
    ----------
    fvu : torch.Tensor, scalar
        Fraction of the batch's variance unexplained; with several budgets, the mean over them.
    auxk : torch.Tensor, scalar
        The auxiliary loss, without its coefficient; 0 if no latent is dead.
    penalty : torch.Tensor, scalar
        What the activation adds: JumpReLU for another number of active latents than k; most add 0.
    indices : torch.Tensor, int64 [n, m]
    values : torch.Tensor [n, m]
        The activations. Where one is 0, the latent is not active, and its index has no meaning.
    smallest : torch.Tensor, scalar, or None
        The smallest activation that is not 0, None if all are. BatchTopK's threshold is its mean over batches.
    gradients : Weights
        Of fvu + coefficient * auxk + penalty.
    """

    fvu: torch.Tensor
    auxk: torch.Tensor
    penalty: torch.Tensor
    indices: torch.Tensor
    values: torch.Tensor
    smallest: torch.Tensor | None
    gradients: Weights


def unexplained(states: torch.Tensor, reconstruction: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """Return the fraction of variance unexplained (FVU), sum |h - h_hat|^2 / sum |h - mean|^2, a scalar."""
    return (states - reconstruction).square().sum() / (states - mean).square().sum()


def decode(pairs: Pairs, values: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Return, of each row of the pairs, the sum of the paired rows of `table` [m, d] times `values` [p]: [n, d]."""
    indices, starts = pairs
    return embedding_bag(indices, table, starts, per_sample_weights=values, mode="sum", include_last_offset=True)


def transposed(pairs: Pairs, width: int) -> tuple[Pairs, torch.Tensor]:
    """Return the pairs (latent, row), sorted by counting or by the GPU's sort, and where each is in `pairs`, [p]."""
    if on_gpu(pairs.indices):
        latents, order = pairs.indices.sort(stable=True)
        starts = torch.searchsorted(latents, torch.arange(width + 1, device=latents.device))
        return Pairs(pairs.rows()[order], starts), order
    indices, starts = (part.numpy().astype(np.int32) for part in pairs)
    positions = np.arange(len(indices), dtype=np.int32)
    matrix = csr_array((positions, indices, starts), shape=(len(starts) - 1, width)).tocsc()
    order, rows, starts = (torch.from_numpy(part) for part in (matrix.data, matrix.indices, matrix.indptr))
    return Pairs(rows, starts), order


@torch.no_grad()
def loss_and_gradients(
    states: torch.Tensor,
    weights: Weights,
    activation: Activation,
    mean: torch.Tensor,
    dead: torch.Tensor,
    auxk: float,
    dtype: torch.dtype,
) -> Step:
    """Return the loss fvu + auxk * AuxK + penalty of a batch, and its gradients, those of `reference_loss`.

    With h_hat = W_dec^T z + b_pre and g = d fvu / d h_hat, an active latent j of a token passes a_j = <g, W_dec_j> on
    to its pre-activation, so that the token adds z_j g to the gradient of W_dec_j, a_j (h - b_pre) to that of W_enc_j,
    a_j to that of b_enc_j and g - sum_j a_j W_enc_j to that of b_pre. With several budgets, g is the sum over those
    that the latent belongs to.

    Parameters
    ----------
    states : torch.Tensor, float32 or float64 [n, d]
    weights : Weights
        Of the dtype of the states.
    activation : Activation
    mean : torch.Tensor [d]
        Mean of all data, about which the FVU counts variance.
    dead : torch.Tensor, bool [width]
        Latents that reconstruct the residual, see `_auxk`.
    auxk : float
        Coefficient of that auxiliary loss; 0 leaves it out.
    dtype : torch.dtype
        Dtype of the product that selects latents. Their pre-activations are computed again in that of the states.
    """
    W_enc, b_enc, W_dec, b_pre, _ = weights
    n, d = states.shape
    centred = states - b_pre
    variance = (states - mean).square().sum()
    choice = activation.choose(centred, weights, dtype)
    pairs, values = choice.pairs(), choice.flat(choice.values)
    error = decode(pairs, values, W_dec).view(-1, n, d)  # what each budget adds
    n_budgets = len(error)
    for budget in range(1, n_budgets):
        error[budget] += error[budget - 1]
    error -= centred  # h_hat - h
    upstream = error * (2 / (n_budgets * variance))
    for budget in range(n_budgets - 1, 0, -1):
        upstream[budget - 1] += upstream[budget]
    rows = upstream.view(-1, d)  # g of each part and token
    batch = Batch(centred, weights, pairs, choice.flat(choice.pre), values, dots(rows, W_dec, pairs))
    backward = activation.backward(batch)
    gradients = _gradients(batch, backward, upstream)
    latents = dead.nonzero()[:, 0]
    auxiliary = states.new_zeros(())
    if auxk and activation.revives and len(latents):
        dead_weights = Weights(W_enc[latents], b_enc[latents], W_dec[latents], b_pre)
        auxiliary, auxiliary_gradients = _auxk(centred, -error[-1], dead_weights, activation.signed)
        for gradient, rows in zip(gradients[:3], auxiliary_gradients[:3], strict=True):
            gradient.index_add_(0, latents, rows, alpha=auxk)
        gradients.b_pre.add_(auxiliary_gradients.b_pre, alpha=auxk)
    fvu = error.square().sum() / (n_budgets * variance)
    active = values != 0
    smallest = values[active].min() if active.any() else None
    return Step(fvu, auxiliary, backward.penalty, choice.indices, choice.values, smallest, gradients)


def _gradients(batch: Batch, backward: Backward, upstream: torch.Tensor) -> Weights:
    """Return the gradients of FVU and penalty for all weights; `upstream` [B, n, d] is g of each budget and token."""
    (centred, weights, pairs, _, values, _), d_pre, added = batch, backward.d_pre, backward.added  # d_pre is a
    by_latent, order = transposed(pairs, len(weights.W_dec))
    d_W_dec = decode(by_latent, values[order], upstream.flatten(0, 1))
    if backward.rows is not None:
        pairs = backward.rows
        by_latent, order = transposed(pairs, len(weights.W_enc))
    d_b_enc = add_at(pairs.indices, d_pre, len(weights.W_enc))
    gradients = Weights(
        W_enc=decode(by_latent, d_pre[order], centred.expand_as(upstream).flatten(0, 1)),
        b_enc=d_b_enc,
        W_dec=d_W_dec,
        b_pre=upstream[0].sum(dim=0) - d_b_enc @ weights.W_enc,
        extra=added.get("extra"),
    )
    for name, gradient in added.items():
        if name != "extra":
            getattr(gradients, name).add_(gradient)
    return gradients


def aux_shape(n_dead: int, d: int, limit: int = _MAX_AUX) -> tuple[int, float]:
    """Return how many dead latents may reconstruct a token's residual, and the scale of the loss for so few of them.

    d / 2, `limit` at most (Gao et al., arXiv 2406.04093, A.2); if fewer are dead, all of them, and the loss shrinks
    with their share of that number, as in EleutherAI's sparsify.
    """
    k_aux = min(max(1, d // 2), limit)
    return min(k_aux, n_dead), min(1.0, n_dead / k_aux)


def _auxk(centred: torch.Tensor, residual: torch.Tensor, dead: Weights, signed: bool) -> tuple[torch.Tensor, Weights]:
    """Return AuxK and its gradients for the rows of the dead latents (Gao et al., arXiv 2406.04093, A.2).

    sum |e - e_hat|^2 / sum |e|^2, where the residual e = h - h_hat is a constant and e_hat = W_dec^T z of the largest
    dead latents, whatever the activation (those of the largest magnitude, if it is signed). Dense in these few, a
    block of tokens at a time. As in the code of the paper, b_enc and, through the encoder, b_pre have gradients too.
    """
    n_dead = len(dead.b_enc)
    k_aux, scale = aux_shape(n_dead, centred.shape[1])
    energy = residual.square().sum()
    scale = torch.where(energy > 0, scale / energy, 0)  # a perfect reconstruction leaves nothing to learn
    loss = torch.zeros_like(energy)
    gradients = Weights(*(torch.zeros_like(tensor) for tensor in dead[:4]))
    size = max(1, _BLOCK // n_dead)
    for rows, left in zip(centred.split(size), residual.split(size), strict=True):
        pre = torch.addmm(dead.b_enc, rows, dead.W_enc.T)
        z = dense_top(pre, k_aux, signed)
        error = z @ dead.W_dec - left
        upstream = error * (2 * scale)
        passed = (upstream @ dead.W_dec.T).mul_(z != 0)
        loss += scale * error.square().sum()
        gradients.W_enc.addmm_(passed.T, rows)
        gradients.b_enc.add_(passed.sum(dim=0))
        gradients.W_dec.addmm_(z.T, upstream)
    gradients.b_pre.sub_(gradients.b_enc @ dead.W_enc)
    return loss, gradients


def reference_loss(
    states: torch.Tensor, weights: Weights, activation: Activation, mean: torch.Tensor, dead: torch.Tensor, auxk: float
) -> torch.Tensor:
    """Return the loss of `loss_and_gradients`, a scalar for autograd, as a dense autoencoder computes it."""
    centred = states - weights.b_pre
    codes, penalty = activation.dense(centred, weights)
    reconstructions = [z @ weights.W_dec + weights.b_pre for z in codes]
    loss = sum(unexplained(states, h_hat, mean) for h_hat in reconstructions) / len(codes) + penalty
    if auxk and activation.revives and dead.any():
        residual = (states - reconstructions[-1]).detach()
        k_aux, scale = aux_shape(int(dead.sum()), states.shape[1])
        e_hat = dense_top(weights.pre(centred), k_aux, activation.signed, dead) @ weights.W_dec
        loss = loss + auxk * scale * unexplained(residual, e_hat, torch.zeros_like(mean))
    return loss


def dense_top(pre: torch.Tensor, k: int, signed: bool = False, among: torch.Tensor | None = None) -> torch.Tensor:
    """ReLU of the k largest of each row [n, width], 0 elsewhere; if signed, the k of the largest magnitude as they are.

    `among`, bool [width], are the latents to choose from; None is all.
    """
    if k == pre.shape[1]:
        return pre if signed else pre.relu()
    sizes = pre.abs() if signed else pre
    if among is not None:
        sizes = sizes.masked_fill(~among, -torch.inf)
    indices = sizes.topk(k, dim=1, sorted=False).indices
    values = pre.gather(1, indices)
    return torch.zeros_like(pre).scatter(1, indices, values if signed else values.relu())
