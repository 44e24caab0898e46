"""Pre-activations to sparse codes: the forms that activations have in a finished autoencoder."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import ClassVar, NamedTuple, Self

import torch
from torch.nn.functional import embedding_bag, pad

from lib.sae.selection import EncoderWeights, top
from lib.support.checks import check_count
from lib.support.devices import DTYPES, native_dtype

_CHUNK = 2**25  # pre-activations held at once: 128 MB of float32


class Codes(NamedTuple):
    """Sparse codes of n tokens: which latents each has, and how strongly.

    Attributes
    ----------
    indices : torch.Tensor, int64 [n, m]
        Latents, each at most once a token. m is k; with thresholds, the most that any of the n tokens has, at least 1.
    values : torch.Tensor, float32 [n, m]
        Activations, at least 0; a zero means that the latent is not active.
    """

    indices: torch.Tensor
    values: torch.Tensor


def largest_codes(pre: torch.Tensor, k: int, groups: int = 1) -> Codes:
    """Return ReLU(TopK_{k / groups}(pre)) of `groups` equal parts of [n, width], m = k; gradients pass the values."""
    size = pre.shape[1] // groups
    values, indices = pre.unflatten(1, (groups, size)).topk(k // groups, dim=2)
    first = torch.arange(0, pre.shape[1], size, device=pre.device)  # latent of each group
    return Codes((indices + first[:, None]).flatten(1), values.relu().flatten(1))


@dataclass(frozen=True, eq=False)
class FinishedActivation(ABC):
    """How a finished autoencoder makes codes of pre = W_enc (x - b_pre) + b_enc, each token by itself, none below 0.

    A subclass is a frozen dataclass with a `name`. Its fields that are tensors are saved with the weights, the
    others, unless they have their defaults, in the configuration.

    Attributes
    ----------
    k : int
        Number of latents that a token may have, or that it was trained to have on average.
    """

    name: ClassVar[str]
    k: int

    def __post_init__(self):
        object.__setattr__(self, "k", check_count(self.k, "k"))

    @abstractmethod
    def encode(self, centred: torch.Tensor, encoder: EncoderWeights) -> Codes:
        """Return the codes of x - b_pre, `centred`, float32 [n, d]."""

    def check(self, width: int) -> None:
        """Raise a ValueError if an autoencoder of `width` latents cannot have this activation."""
        if self.k > width:
            raise ValueError(f"k is {self.k}, more than the width {width}; choose k from 1 to {width}.")

    def shape(self, width: int, d: int) -> tuple[int, ...]:
        """Return the shape of its tensors."""
        return (width,)

    def encoder_rows(self, width: int) -> int:
        """Return the number of rows of W_enc, of which the `width` latents are made."""
        return width

    def rescaled(self, scale: float) -> Self:
        """Return the activation for states that `scale` makes those that this one is for; W_enc is scaled already."""
        return self

    def with_k(self, k: int) -> Self:
        """Return the same activation with another k; ValueError if k does not decide which latents are active."""
        return replace(self, k=k)

    def to(self, device: torch.device | str) -> Self:
        """Return the same activation with its tensors, in float32, on `device`."""
        moved = {name: tensor.detach().to(device, torch.float32) for name, tensor in self.tensors().items()}
        return replace(self, **moved)

    @classmethod
    def names(cls) -> tuple[list[str], list[str]]:
        """Return the names of the fields that are tensors, and of the others."""
        tensors = [field.name for field in fields(cls) if field.type is torch.Tensor]
        return tensors, [field.name for field in fields(cls) if field.type is not torch.Tensor]

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the fields that are saved with the weights."""
        return {name: getattr(self, name) for name in self.names()[0]}

    def settings(self) -> dict[str, int]:
        """Return the fields that are saved in the configuration, JSON-able."""
        defaults = {field.name: field.default for field in fields(self)}
        return {name: getattr(self, name) for name in self.names()[1] if getattr(self, name) != defaults[name]}


@dataclass(frozen=True, eq=False)
class FinishedTopK(FinishedActivation):
    """z = ReLU(TopK_k(pre))      (Gao et al., arXiv 2406.04093, eqs. 1-2).

    With groups, z = ReLU(TopK_{k / groups}(pre)) in each of as many equal parts of the latents, one after the other:
    several autoencoders in one, see `join`. `largest_codes` is the same of pre-activations that are given.

    Attributes
    ----------
    groups : int
        A divisor of k and of the width.
    """

    name = "topk"
    groups: int = 1

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "groups", check_count(self.groups, "groups"))
        if self.k % self.groups:
            raise ValueError(f"groups is {self.groups}, k {self.k}; each group has k / groups, so it must divide k.")

    def check(self, width: int) -> None:
        """See `FinishedActivation`."""
        super().check(width)
        if width % self.groups:
            raise ValueError(f"groups is {self.groups}, the width {width}; groups are of one size, so it must divide.")

    def encode(self, centred: torch.Tensor, encoder: EncoderWeights) -> Codes:
        """See `FinishedActivation`."""
        k, dtype = self.k // self.groups, DTYPES[native_dtype(centred.device)]
        parts = [top(centred, group, k, dtype) for group in encoder.parts(self.groups)]
        values, indices = (torch.cat(columns, dim=1) for columns in zip(*parts, strict=True))
        width = len(encoder.b_enc)
        first = torch.arange(0, width, width // self.groups, device=indices.device)  # latent of each group
        return Codes(indices.add_(first.repeat_interleave(k)), values.relu_())


@dataclass(frozen=True, eq=False)
class FinishedBoosted(FinishedTopK):
    """z_g = ReLU(TopK_{k / groups}(pre(r_g))) of group after group, r_1 = x - b_pre and r_{g+1} = r_g - W_dec_g^T z_g.

    See `lib.sae.boosting.boost`.
    """

    name = "boosted"

    def encode(self, centred: torch.Tensor, encoder: EncoderWeights) -> Codes:
        """See `FinishedActivation`."""
        form, left, codes, first = FinishedTopK(self.k // self.groups), centred, [], 0
        for part, W_dec in zip(encoder.parts(self.groups), encoder.W_dec.chunk(self.groups), strict=True):
            indices, values = form.encode(left, part)
            left = left - embedding_bag(indices, W_dec, per_sample_weights=values, mode="sum")
            codes.append(Codes(indices + first, values))
            first += len(W_dec)
        return Codes(*(torch.cat(columns, dim=1) for columns in zip(*codes, strict=True)))


@dataclass(frozen=True, eq=False)
class FinishedJumpReLU(FinishedActivation):
    """z_j = pre_j [pre_j > threshold_j]      (Rajamanoharan et al., arXiv 2407.14435).

    Attributes
    ----------
    threshold : torch.Tensor, float32 [width]
        At least 0, so that no code is negative.
    """

    name = "jumprelu"
    threshold: torch.Tensor

    def check(self, width: int) -> None:
        """See `FinishedActivation`."""
        super().check(width)
        if (self.threshold < 0).any():
            raise ValueError(f"threshold holds {self.threshold.min().item()}; it must be at least 0, so clip it.")

    def with_k(self, k: int) -> Self:
        """Raise a ValueError."""
        raise ValueError(f"Thresholds decide what is active, not k, {k}; train a topk autoencoder with budgets for it.")

    def encode(self, centred: torch.Tensor, encoder: EncoderWeights) -> Codes:
        """See `FinishedActivation`."""
        W_enc, b_enc, chunks = encoder.W_enc, encoder.b_enc, []
        for rows in centred.split(max(1, _CHUNK // len(b_enc))):
            pre = torch.addmm(b_enc, rows, W_enc.T)
            silent = pre <= self.threshold  # NaN is not, and stays
            m = max([1, *(len(b_enc) - silent.sum(dim=1)).tolist()])
            chunks.append(largest_codes(pre.masked_fill_(silent, 0), m))
        m = max(codes.indices.shape[1] for codes in chunks)
        return Codes(*(torch.cat(parts) for parts in zip(*(_widened(codes, m) for codes in chunks), strict=True)))


def _widened(codes: Codes, m: int) -> Codes:
    """Return codes [n, m] of codes with fewer columns: with zeros, for latents that a token does not have yet."""
    n, columns = codes.indices.shape
    if columns == m:
        return codes
    taken = torch.zeros(n, m, dtype=torch.bool, device=codes.indices.device)  # of the first m latents, enough are free
    rows, positions = (codes.indices < m).nonzero(as_tuple=True)
    taken[rows, codes.indices[rows, positions]] = True
    free = taken.byte().argsort(dim=1, stable=True)[:, : m - columns]
    return Codes(torch.cat([codes.indices, free], dim=1), pad(codes.values, (0, m - columns)))
