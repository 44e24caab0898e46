"""The search for each token's largest pre-activations: the one dense product of encoding and of a training step."""

import warnings
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import NamedTuple

import torch

from lib.support.devices import CPU, native_dtype

_BLOCK = 2**23  # pre-activations held at once: 16 MB of bfloat16, which stay in the cache until they are searched
_GPU_BLOCK = 2**27  # the same on a GPU, which is fast at large products only: 256 MB of bfloat16
_GROUP = 16  # latents of which the search for the largest looks at the maximum first
_FEW = 16  # rows, up to which a product takes most of its time to read the other matrix
_CANDIDATES = 3  # times k latents are candidates in bfloat16, enough for nearly all tokens of a trained autoencoder


class Pairs(NamedTuple):
    """Pairs (row, latent), one row's after the other's.

    Attributes
    ----------
    indices : torch.Tensor, int64 [p]
        The latents.
    starts : torch.Tensor, int64 [n + 1]
        Row i owns the pairs `starts[i]:starts[i + 1]`.
    """

    indices: torch.Tensor
    starts: torch.Tensor

    def rows(self) -> torch.Tensor:
        """Return the row of each pair, int64 [p]."""
        numbers = torch.arange(len(self.starts) - 1, device=self.starts.device)
        return numbers.repeat_interleave(self.starts.diff(), output_size=len(self.indices))


class Rounded(NamedTuple):
    """An encoder in bfloat16, in the form that a product with few rows, or with many, reads fastest.

    Attributes
    ----------
    multiply : callable
        multiply(rows, out=...) returns the product of rows [n, d + 1], the last column 1, with W_enc^T and b_enc below
        it, in `out` or elsewhere.
    longest, lost : torch.Tensor, float32 scalars
        The largest norm of a column, and of what a column lost in rounding.
    version : tuple of int
        How often the weights had been changed in place.
    """

    multiply: Callable
    longest: torch.Tensor
    lost: torch.Tensor
    version: tuple[int, ...]


class EncoderWeights:
    """W_enc, float32 [width, d], b_enc, float32 [width], and W_dec of a finished autoencoder, and two forms for `top`.

    These depend on the encoder only, so they are computed when they are first needed, and kept: where latents are found
    in bfloat16, 2 (d + 1) width bytes, half of W_enc's, for input of at most 16 tokens, such as a query, and as many
    for longer input. Matching pursuit has `falls`, too. Copies and pickles leave them out. They are computed again if
    the weights were changed in place, as training does, but for `.data` and numpy, which torch does not count.
    """

    def __init__(self, W_enc: torch.Tensor, b_enc: torch.Tensor, W_dec: torch.Tensor | None = None):
        self.W_enc, self.b_enc, self.W_dec = W_enc, b_enc, W_dec
        self._rounded: dict[bool, Rounded] = {}
        self._parts: dict[int, list[EncoderWeights]] = {}
        self._falls: tuple[tuple[int, ...], torch.Tensor] | None = None

    def __reduce__(self):
        return EncoderWeights, (self.W_enc, self.b_enc, self.W_dec)

    def parts(self, n: int) -> list["EncoderWeights"]:
        """Return the weights of n equal parts of the latents, views of these."""
        if n == 1:
            return [self]
        if n not in self._parts:
            chunks = zip(self.W_enc.chunk(n), self.b_enc.chunk(n), strict=True)
            self._parts[n] = [EncoderWeights(*chunk) for chunk in chunks]
        return self._parts[n]

    def rounded(self, n: int) -> Rounded:
        """Return the weights in bfloat16 for a product with n rows. Threads may all compute them, to the same bits."""
        few, version = n <= _FEW and _can_pack(), _versions(self.W_enc, self.b_enc)
        rounded = self._rounded.get(few)
        if rounded is None or rounded.version != version:
            rows = _append(self.W_enc, self.b_enc, torch.bfloat16)
            numbers = rows.float()
            lost = torch.hypot((self.W_enc - numbers[:, :-1]).norm(dim=1), self.b_enc - numbers[:, -1]).max()
            multiply = _packed_product(rows) if few else partial(_product, rows.T.contiguous())
            self._rounded[few] = rounded = Rounded(multiply, numbers.norm(dim=1).max(), lost, version)
        return rounded

    def falls(self) -> torch.Tensor:
        """Return W_dec W_enc^T, float32 [width, width]: by how much taking W_dec_j away lowers each pre-activation."""
        version = _versions(self.W_enc, self.W_dec)
        if self._falls is None or self._falls[0] != version:
            self._falls = version, self.W_dec @ self.W_enc.T
        return self._falls[1]


def _versions(*tensors: torch.Tensor) -> tuple[int, ...]:
    return tuple(0 if tensor.is_inference() else tensor._version for tensor in tensors)


@cache
def _can_pack() -> bool:
    """Whether oneDNN can keep a matrix in the order in which it multiplies: a product with few rows is twice as fast.

    torch does so for compiled models, by operations that it does not document. Without them results are the same.
    """
    native = native_dtype(CPU) == "bfloat16" and torch.backends.mkldnn.is_available()
    return native and all(hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise"))


def _packed_product(table: torch.Tensor) -> Callable:
    packed = torch.ops.mkldnn._reorder_linear_weight(table)
    return lambda rows, out: torch.ops.mkldnn._linear_pointwise(rows, packed, None, "none", [], "")


def _product(columns: torch.Tensor, rows: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    return torch.mm(rows, columns, out=out)


def on_gpu(tensor: torch.Tensor) -> bool:
    """Whether to use the operations that are fast on a GPU: the same numbers up to rounding."""
    return tensor.is_cuda


def largest(rows: torch.Tensor, k: int) -> torch.Tensor:
    """Return the columns of the k largest of each row [n, width], int64 [n, k], in no particular order.

    They lie in the k groups with the largest maxima, so only the members of these are compared with each other.
    bfloat16 is compared by its bits, as int16, in which numbers above 0 have the same order, above all others.
    """
    n, width = rows.shape
    if rows.dtype == torch.bfloat16:
        rows = rows.view(torch.int16)
    n_groups = width // _GROUP
    if width % _GROUP or n_groups < k:
        return rows.topk(k, dim=1, sorted=False).indices
    grouped = rows.view(n, _GROUP, n_groups)  # group j: the columns j, j + n_groups, ...
    groups = grouped.amax(dim=1).topk(k, dim=1, sorted=False).indices
    members = grouped.gather(2, groups[:, None].expand(n, _GROUP, k)).view(n, _GROUP * k)
    positions = members.topk(k, dim=1, sorted=False).indices
    return groups.gather(1, positions % k) + positions // k * n_groups


def select(
    centred: torch.Tensor, W_enc: torch.Tensor, b_enc: torch.Tensor, k: int, dtype: torch.dtype, signed: bool = False
) -> torch.Tensor:
    """Return the k latents with the largest pre-activations, W_enc (h - b_pre) + b_enc, as computed in `dtype`.

    They are int64 [n, k], in no particular order, for `centred`, h - b_pre, [n, d]. If fewer than k pre-activations are
    above 0, any others make up the number. If `signed`, those of the largest magnitude are chosen. int8 is coarse,
    so twice as many are found with it, and exact pre-activations choose among them.
    """
    width = len(W_enc)
    if dtype == torch.int8:
        rows, table = _quantised(centred, W_enc, b_enc)
        product, m, product_dtype = torch._int_mm, min(2 * k, width), torch.int32
    elif on_gpu(centred):  # another column would cost the products their alignment
        rows, table = centred.to(dtype), W_enc.to(dtype)
        product, m, product_dtype = partial(torch.addmm, b_enc.to(dtype)), k, dtype
    else:  # b_enc is the weight of an input that is always 1
        rows, table = _append(centred, 1, dtype), _append(W_enc, b_enc, dtype)
        product, m, product_dtype = torch.mm, k, dtype
    blocks = _search(rows, width, m, lambda block, out: product(block, table.T, out=out), product_dtype, signed)
    indices = torch.cat([latents for _, latents in blocks])
    if m == k:
        return indices
    pre = pre_activations(centred, W_enc, b_enc, indices)
    return indices.gather(1, (pre.abs() if signed else pre).topk(k, dim=1, sorted=False).indices)


def top(
    centred: torch.Tensor, encoder: EncoderWeights, k: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the k largest pre-activations, W_enc (h - b_pre) + b_enc, largest first, and their latents.

    They are float32 and int64 [n, k], for `centred`, h - b_pre, float32 [n, d]. With `dtype` bfloat16, candidates are
    found in it and computed in float32; where another latent could be larger than the last one chosen, by the bound of
    rounding errors, the row is searched again in float32. So the result is that of float32, except for latents whose
    pre-activations differ by less than the rounding error of float32.
    """
    W_enc, b_enc = encoder.W_enc, encoder.b_enc
    m = _CANDIDATES * k
    if dtype == torch.float32 or on_gpu(centred) or m > len(W_enc):
        return _dense_top(centred, W_enc, b_enc, k)
    rows, rounded = _append(centred, 1, dtype), encoder.rounded(len(centred))
    candidates, least = [], []
    for pre, latents in _search(rows, len(W_enc), m, rounded.multiply, dtype):
        candidates.append(latents)
        least.append(pre.gather(1, latents).amin(dim=1))
    indices = torch.cat(candidates)
    values, positions = pre_activations(centred, W_enc, b_enc, indices).topk(k, dim=1)
    indices = indices.gather(1, positions)
    # all others were at most this, or 0, before they were rounded to bfloat16
    others = torch.cat(least).float().clamp(min=0) * (1 + torch.finfo(dtype).eps)
    unsure = ~(values[:, -1] > others + _error(centred, rows, rounded))  # NaN is unsure
    if unsure.any():
        values[unsure], indices[unsure] = _dense_top(centred[unsure], W_enc, b_enc, k)
    return values, indices


def _dense_top(
    centred: torch.Tensor, W_enc: torch.Tensor, b_enc: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    def multiply(block: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        return torch.addmm(b_enc, block, W_enc.T, out=out)

    blocks = []
    for pre, latents in _search(centred, len(W_enc), k, multiply, torch.float32):
        values, order = pre.gather(1, latents).sort(dim=1, descending=True)
        blocks.append((values, latents.gather(1, order)))
    values, indices = (torch.cat(parts) for parts in zip(*blocks, strict=True))
    return values, indices


def _error(centred: torch.Tensor, rows: torch.Tensor, rounded: Rounded) -> torch.Tensor:
    """Return by how much, at most, the products of `rows` and the columns differ from pre-activations, float32 [n].

    |x w - x' w'| <= |x - x'| |w'| + |x| |w - w'|, and a sum of m products in float32 is off by m eps |x'| |w'| at most.
    """
    rounded_rows = rows.float()
    lost_rows = (centred - rounded_rows[:, :-1]).norm(dim=1)
    length, longest = rounded_rows.norm(dim=1), rounded.longest
    summing = rows.shape[1] * torch.finfo(torch.float32).eps * length * longest
    return 1.001 * (lost_rows * longest + (length + lost_rows) * rounded.lost + 2 * summing)


def _search(
    rows: torch.Tensor, width: int, m: int, multiply: Callable, dtype: torch.dtype, signed: bool = False
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield `multiply(block, out=...)`, [rows, width] in `dtype`, of blocks of rows, and the m largest of each row."""
    blocks = rows.split(max(1, (_GPU_BLOCK if on_gpu(rows) else _BLOCK) // width))
    shape = (len(blocks[0]), width)
    product = torch.empty(shape, dtype=dtype, device=rows.device)  # one for all blocks: new memory is slow
    for block in blocks:
        pre = multiply(block, out=product[: len(block)])
        yield pre, largest(pre.abs_() if signed else pre, m)


def _append(rows: torch.Tensor, column: torch.Tensor | float, dtype: torch.dtype) -> torch.Tensor:
    """Return `rows` [n, d] with `column` to their right, in `dtype`: one pass, no copy in between."""
    appended = torch.empty(len(rows), rows.shape[1] + 1, dtype=dtype)
    appended[:, :-1], appended[:, -1] = rows, column
    return appended


def _quantised(rows: torch.Tensor, table: torch.Tensor, column: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return int8 [n, m] and [width, m], whose inner products are about in proportion to rows table^T + column.

    Each of the two has one unit, `column` is the weight of an input that is always 127 units, m is a multiple of 16.
    """
    (n, d), tiny = rows.shape, torch.finfo(rows.dtype).tiny
    row_unit = (rows.abs().max() / 127).clamp(min=tiny)
    table_unit = (torch.maximum(table.abs().max(), column.abs().max() / (127 * row_unit)) / 127).clamp(min=tiny)
    m = -(-(d + 1) // 16) * 16
    left, right = (torch.zeros(size, m, dtype=torch.int8) for size in (n, len(table)))
    left[:, :d], left[:, d] = (rows / row_unit).round_(), 127
    right[:, :d], right[:, d] = (table / table_unit).round_(), (column / (127 * row_unit * table_unit)).round_()
    return left, right


def pre_activations(
    centred: torch.Tensor, W_enc: torch.Tensor, b_enc: torch.Tensor, indices: torch.Tensor
) -> torch.Tensor:
    """Return the pre-activations [n, m] of the latents `indices` [n, m], in the dtype of `centred` [n, d]."""
    n, m = indices.shape
    pairs = Pairs(indices.flatten(), torch.arange(0, n * m + 1, m, device=indices.device))
    return dots(centred, W_enc, pairs).view(n, m) + b_enc[indices]


def dots(rows: torch.Tensor, table: torch.Tensor, pairs: Pairs) -> torch.Tensor:
    """Return the inner products [p] of rows [n, d] with those rows of `table` [width, d] that they are paired with."""
    if on_gpu(rows):
        parts = (part.split(max(1, _GPU_BLOCK // rows.shape[1])) for part in (pairs.rows(), pairs.indices))
        return torch.cat([(rows[row] * table[latent]).sum(dim=1) for row, latent in zip(*parts, strict=True)])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        zeros = rows.new_zeros(len(pairs.indices))
        size = (len(rows), len(table))
        pattern = torch.sparse_csr_tensor(pairs.starts, pairs.indices, zeros, size=size, check_invariants=False)
    return torch.sparse.sampled_addmm(pattern, rows, table.T, beta=0).values()


def add_at(indices: torch.Tensor, values: torch.Tensor, width: int) -> torch.Tensor:
    """Return, for each latent, the sum of the `values` [p] at its `indices` [p]: [width]; the same bits every time."""
    sums = values.new_zeros(width)
    if on_gpu(values):  # it sorts first there, where index_add_ adds in whatever order the threads come
        return sums.index_put_((indices,), values, accumulate=True)
    return sums.index_add_(0, indices, values)
