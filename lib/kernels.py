"""The sparse linear algebra of training a Top-K autoencoder: loss and gradients from the k latents a token has.

Only the product that finds the k latents is dense. All else reads and writes k rows a token: of the width - k other
latents every activation is 0, and so is every gradient. `reference_loss` says the same densely, for autograd.
"""

import warnings
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array
from torch.nn.functional import embedding_bag

_BLOCK = 2**23  # pre-activations held at once: 16 MB of bfloat16, which stay in the cache until they are searched
_GROUP = 16  # latents of which the search for the largest looks at the maximum first
_MAX_AUX = 512  # dead latents a token's residual is reconstructed from, at most


class Weights(NamedTuple):
    """The four weights of an autoencoder, or the gradients of a loss for them.

    Attributes
    ----------
    W_enc, W_dec : torch.Tensor [width, d]
    b_enc : torch.Tensor [width]
    b_pre : torch.Tensor [d]
    """

    W_enc: torch.Tensor
    b_enc: torch.Tensor
    W_dec: torch.Tensor
    b_pre: torch.Tensor


class Step(NamedTuple):
    """What one batch of n tokens gives.

    Attributes
    ----------
    fvu : torch.Tensor, scalar
        Fraction of the batch's variance unexplained.
    auxk : torch.Tensor, scalar
        The auxiliary loss, without its coefficient; 0 if no latent is dead.
    indices : torch.Tensor, int64 [n, k]
    values : torch.Tensor [n, k]
        The activations, at least 0.
    gradients : Weights
        Of fvu + coefficient * auxk.
    """

    fvu: torch.Tensor
    auxk: torch.Tensor
    indices: torch.Tensor
    values: torch.Tensor
    gradients: Weights


def unexplained(states: torch.Tensor, reconstruction: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """Return the fraction of variance unexplained (FVU), sum |h - h_hat|^2 / sum |h - mean|^2, a scalar."""
    return (states - reconstruction).square().sum() / (states - mean).square().sum()


def largest(rows: torch.Tensor, k: int) -> torch.Tensor:
    """Return where the k largest of each row [n, width] are, int64 [n, k], in no particular order.

    They lie in the k groups with the largest maxima, so only the members of these are compared with each other. Of
    bfloat16 the bits are compared, as int16: the order of all that is above 0 is the same, and stays above the rest.
    """
    n, width = rows.shape
    if rows.dtype == torch.bfloat16:
        rows = rows.view(torch.int16)
    n_groups = width // _GROUP
    if width % _GROUP or n_groups < k:
        return rows.topk(k, dim=1, sorted=False).indices
    grouped = rows.view(n, _GROUP, n_groups)  # group j: the columns j, j + n_groups, ...
    groups = grouped.amax(dim=1).topk(k, dim=1, sorted=False).indices
    members = grouped.gather(2, groups[:, None].expand(n, _GROUP, k)).view(n, -1)
    at = members.topk(k, dim=1, sorted=False).indices
    return groups.gather(1, at % k) + at // k * n_groups


def select(centred: torch.Tensor, W_enc: torch.Tensor, b_enc: torch.Tensor, k: int, dtype: torch.dtype) -> torch.Tensor:
    """Return the k latents with the largest pre-activations, W_enc (h - b_pre) + b_enc, as computed in `dtype`.

    Parameters
    ----------
    centred : torch.Tensor [n, d]
        h - b_pre.
    W_enc : torch.Tensor [width, d]
    b_enc : torch.Tensor [width]
    k : int
    dtype : torch.dtype

    Returns
    -------
    torch.Tensor, int64 [n, k]
        In no particular order. If fewer than k pre-activations are above 0, any others make up the number.
    """
    width = len(W_enc)
    blocks = _append(centred, 1, dtype).split(max(1, _BLOCK // width))
    columns = _append(W_enc, b_enc, dtype).T  # b_enc is the weight of an input that is always 1
    product = columns.new_empty(len(blocks[0]), width)  # one for all blocks: fresh memory is slow
    return torch.cat([largest(torch.mm(block, columns, out=product[: len(block)]), k) for block in blocks])


def _append(rows: torch.Tensor, column: torch.Tensor | float, dtype: torch.dtype) -> torch.Tensor:
    """Return `rows` [n, d] with `column` to their right, in `dtype`: one pass, no copy in between."""
    appended = torch.empty(len(rows), rows.shape[1] + 1, dtype=dtype)
    appended[:, :-1], appended[:, -1] = rows, column
    return appended


def dots(rows: torch.Tensor, table: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Return the inner products of each row [n, d] with those rows of `table` [width, d] that `indices` [n, k] name."""
    n, k = indices.shape
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        pattern = torch.sparse_csr_tensor(
            torch.arange(0, n * k + 1, k),
            indices.flatten(),
            rows.new_zeros(n * k),
            size=(n, len(table)),
            check_invariants=False,
        )
    return torch.sparse.sampled_addmm(pattern, rows, table.T, beta=0).values().view(n, k)


def decode(indices: torch.Tensor, values: torch.Tensor, W_dec: torch.Tensor) -> torch.Tensor:
    """Return the sums of the k decoder rows of each token, times its values: [n, d], without b_pre."""
    return embedding_bag(indices, W_dec, per_sample_weights=values, mode="sum")


class Transpose:
    """The n * k pairs (token, latent) in the order of their latents, by one counting sort."""

    def __init__(self, indices: torch.Tensor, width: int):
        n, k = indices.shape
        pairs, starts = np.arange(n * k, dtype=np.int32), np.arange(0, n * k + 1, k, dtype=np.int32)
        by_token = csr_array((pairs, indices.flatten().numpy().astype(np.int32), starts), shape=(n, width))
        by_latent = by_token.tocsc()
        self.order, self.tokens, self.starts = (
            torch.from_numpy(part) for part in (by_latent.data, by_latent.indices, by_latent.indptr)
        )

    def sums(self, values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Return, for each latent, the sum of the rows [n, d] of its tokens, times its `values` [n, k]: [width, d]."""
        ordered = values.flatten()[self.order]
        return embedding_bag(
            self.tokens, rows, self.starts, per_sample_weights=ordered, mode="sum", include_last_offset=True
        )


@torch.no_grad()
def loss_and_gradients(
    states: torch.Tensor,
    weights: Weights,
    k: int,
    mean: torch.Tensor,
    dead: torch.Tensor,
    auxk: float,
    dtype: torch.dtype,
) -> Step:
    """Return the loss fvu + auxk * AuxK of a batch, and its gradients, those of `reference_loss`.

    With z = ReLU(TopK(W_enc (h - b_pre) + b_enc)) and g = d fvu / d h_hat, a chosen latent j of a token passes
    a_j = [z_j > 0] <g, W_dec_j> on to its pre-activation, so that the token adds z_j g to the gradient of W_dec_j,
    a_j (h - b_pre) to that of W_enc_j, a_j to that of b_enc_j and g - sum_j a_j W_enc_j to that of b_pre.

    Parameters
    ----------
    states : torch.Tensor, float32 or float64 [n, d]
    weights : Weights
        Of the same dtype. Neither they nor the states are changed.
    k : int
    mean : torch.Tensor [d]
        Of all data: the FVU counts variance about it.
    dead : torch.Tensor, bool [width]
        Latents that reconstruct the residual, see `_auxk`.
    auxk : float
        Coefficient of that auxiliary loss; 0 is without it.
    dtype : torch.dtype
        Of the product that selects the k latents. Their pre-activations are computed again in the dtype of the states.
    """
    W_enc, b_enc, W_dec, b_pre = weights
    centred = states - b_pre
    indices = select(centred, W_enc, b_enc, k, dtype)
    values = (dots(centred, W_enc, indices) + b_enc[indices]).relu_()
    error = decode(indices, values, W_dec) - centred  # h_hat - h
    variance = (states - mean).square().sum()
    upstream = error * (2 / variance)  # g
    passed = dots(upstream, W_dec, indices) * (values > 0)  # a
    by_latent = Transpose(indices, len(W_enc))
    d_b_enc = torch.zeros_like(b_enc).index_add_(0, indices.flatten(), passed.flatten())
    gradients = Weights(
        W_enc=by_latent.sums(passed, centred),
        b_enc=d_b_enc,
        W_dec=by_latent.sums(values, upstream),
        b_pre=upstream.sum(dim=0) - d_b_enc @ W_enc,
    )
    auxiliary = states.new_zeros(())
    at = dead.nonzero()[:, 0]
    if auxk and len(at):
        W_enc, b_enc, W_dec = W_enc[at], b_enc[at], W_dec[at]
        auxiliary, added = _auxk(centred, -error, Weights(W_enc, b_enc, W_dec, b_pre))
        for gradient, more in zip(gradients[:3], added[:3], strict=True):
            gradient.index_add_(0, at, more, alpha=auxk)
        gradients.b_pre.add_(added.b_pre, alpha=auxk)
    return Step(error.square().sum() / variance, auxiliary, indices, values, gradients)


def aux_shape(n_dead: int, d: int) -> tuple[int, float]:
    """Return how many dead latents may reconstruct a token's residual, and the scale of the loss for so few of them.

    d / 2, 512 at most (Gao et al., arXiv 2406.04093, A.2); if fewer are dead, all of them, and the loss shrinks with
    their share of that number, as in EleutherAI's sparsify.
    """
    k_aux = min(max(1, d // 2), _MAX_AUX)
    return min(k_aux, n_dead), min(1.0, n_dead / k_aux)


def _auxk(centred: torch.Tensor, residual: torch.Tensor, dead: Weights) -> tuple[torch.Tensor, Weights]:
    """Return AuxK and its gradients for the rows of the dead latents (Gao et al., arXiv 2406.04093, A.2).

    sum |e - e_hat|^2 / sum |e|^2, where the residual e = h - h_hat is a constant and e_hat = W_dec^T z of the largest
    dead latents. Dense in these: they are few, and where all of them take part nothing has to be selected. As in the
    code of the paper, the gradients go on to b_enc and, through the encoder, to b_pre.
    """
    n_dead = len(dead.b_enc)
    k_aux, scale = aux_shape(n_dead, centred.shape[1])
    z = torch.addmm(dead.b_enc, centred, dead.W_enc.T).relu_()
    if k_aux < n_dead:
        values, indices = z.topk(k_aux, dim=1, sorted=False)
        z = torch.zeros_like(z).scatter_(1, indices, values)
    error = z @ dead.W_dec - residual
    energy = residual.square().sum()
    scale = torch.where(energy > 0, scale / energy, 0)  # nothing to do where nothing is left
    upstream = error * (2 * scale)
    passed = (upstream @ dead.W_dec.T).mul_(z > 0)
    d_b_enc = passed.sum(dim=0)
    gradients = Weights(passed.T @ centred, d_b_enc, z.T @ upstream, -d_b_enc @ dead.W_enc)
    return scale * error.square().sum(), gradients


def reference_loss(
    states: torch.Tensor,
    weights: Weights,
    k: int,
    mean: torch.Tensor,
    dead: torch.Tensor,
    auxk: float,
) -> torch.Tensor:
    """Return fvu + auxk * AuxK, a scalar for autograd: `loss_and_gradients` as a dense autoencoder computes it."""
    pre_activations = (states - weights.b_pre) @ weights.W_enc.T + weights.b_enc
    reconstruction = _top(pre_activations, k) @ weights.W_dec + weights.b_pre
    loss = unexplained(states, reconstruction, mean)
    if auxk and dead.any():
        residual = (states - reconstruction).detach()
        k_aux, scale = aux_shape(int(dead.sum()), states.shape[1])
        e_hat = _top(pre_activations.masked_fill(~dead, -torch.inf), k_aux) @ weights.W_dec
        loss = loss + auxk * scale * unexplained(residual, e_hat, torch.zeros_like(mean))
    return loss


def _top(pre_activations: torch.Tensor, k: int) -> torch.Tensor:
    """ReLU of the k largest of each row [n, width], 0 elsewhere."""
    values, indices = pre_activations.topk(k, dim=1)
    return torch.zeros_like(pre_activations).scatter(1, indices, values.relu())
