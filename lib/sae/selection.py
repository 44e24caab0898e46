"""The search for each token's largest pre-activations: the one dense product of encoding and of a training step."""

import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch

from lib.support.packed import can_pack, multiply, pack

_BLOCK = 2**23  # pre-activations held at once: 16 MB of bfloat16, which stay in the cache until they are searched
_GPU_BLOCK = 2**27  # the same on a GPU, which is fast at large products only: 256 MB of bfloat16
_GROUP = 16  # latents of which the search for the largest looks at the maximum first
_FEW = 16  # rows, up to which a product takes most of its time to read the other matrix
_CANDIDATES = 3  # times k latents are found in few bits, enough for nearly all tokens of a trained autoencoder
_SPARE = 8  # latents beyond k that are found in float32: more than differ by its rounding errors only
_LARGE = 2**21  # numbers of an encoder, more than stay in the cache; from then on few rows are multiplied in int8


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


class Screen(NamedTuple):
    """An encoder in fewer bits, in which the latents with the largest pre-activations are found fast.

    Attributes
    ----------
    find : callable
        find(centred, m) returns m latents of each row of [n, d], int64 [n, m], and what no other latent's
        pre-activation exceeds, unless that is below 0, float32 [n].
    version : tuple of int
        How often the weights had been changed in place.
    """

    find: Callable[[torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]]
    version: tuple[int, ...]


class EncoderWeights:
    """W_enc, float32 [width, d], b_enc, float32 [width], and W_dec of a finished autoencoder, and forms for `top`.

    These depend on the encoder only, so they are computed when they are first needed, and kept. Where the processor
    multiplies bfloat16, they are in it, 2 (d + 1) width bytes, half of W_enc's, for input of at most 16 tokens, such as
    a query, and as many for longer input; elsewhere, once an index has imported numba, in int8, (d + 8) width bytes,
    for input of at most 16 tokens.
    Matching pursuit has `falls`, too. Copies and pickles leave them out. They are computed again if the weights were
    changed in place, as training does, but for `.data` and numpy, which torch does not count.
    """

    def __init__(self, W_enc: torch.Tensor, b_enc: torch.Tensor, W_dec: torch.Tensor | None = None):
        self.W_enc, self.b_enc = W_enc, b_enc
        self.W_dec: Any = W_dec  # no tensor or None: a form that reads it has been given one
        self._screens: dict[str, Screen] = {}
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

    def screen(self, n: int, dtype: torch.dtype) -> Screen | None:
        """Return the form for n rows, None for float32 itself. Threads may all compute it, to the same bits."""
        if dtype == torch.bfloat16:
            name, make = ("packed", _packed) if n <= _FEW and can_pack() else ("rounded", _rounded)
        elif n <= _FEW and self.W_enc.numel() >= _LARGE and "numba" in sys.modules:  # its import takes a second
            name, make = "int8", _in_int8
        else:
            return None
        version, screen = _versions(self.W_enc, self.b_enc), self._screens.get(name)
        if screen is None or screen.version != version:
            self._screens[name] = screen = Screen(make(self.W_enc, self.b_enc), version)
        return screen

    def falls(self) -> torch.Tensor:
        """Return W_dec W_enc^T, float32 [width, width]: by how much taking W_dec_j away lowers each pre-activation."""
        version = _versions(self.W_enc, self.W_dec)
        if self._falls is None or self._falls[0] != version:
            self._falls = version, self.W_dec @ self.W_enc.T
        return self._falls[1]


def _versions(*tensors: torch.Tensor) -> tuple[int, ...]:
    return tuple(0 if tensor.is_inference() else tensor._version for tensor in tensors)


def _packed(W_enc: torch.Tensor, b_enc: torch.Tensor) -> Callable:
    table = _append(W_enc, b_enc, torch.bfloat16)
    packed = pack(table)
    return partial(_find_rounded, lambda rows, out: multiply(rows, packed), *_lost(W_enc, b_enc, table))


def _rounded(W_enc: torch.Tensor, b_enc: torch.Tensor) -> Callable:
    table = _append(W_enc, b_enc, torch.bfloat16)
    columns = table.T.contiguous()
    return partial(_find_rounded, lambda rows, out: torch.mm(rows, columns, out=out), *_lost(W_enc, b_enc, table))


def _lost(W_enc: torch.Tensor, b_enc: torch.Tensor, table: torch.Tensor) -> tuple[int, torch.Tensor, torch.Tensor]:
    """Return the width, the largest norm of a row of the rounded table, and of what a row lost in rounding."""
    numbers = table.float()
    lost = torch.hypot((W_enc - numbers[:, :-1]).norm(dim=1), b_enc - numbers[:, -1]).max()
    return len(table), numbers.norm(dim=1).max(), lost


def _find_rounded(
    multiply: Callable, width: int, longest: torch.Tensor, lost: torch.Tensor, centred: torch.Tensor, m: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find latents by a product in bfloat16, as `Screen.find`.

    |x w - x' w'| <= |x - x'| |w'| + |x| |w - w'|, and a sum of m products in float32 is off by m eps |x'| |w'| at most.
    """
    rows = _append(centred, 1, torch.bfloat16)
    indices, products = _candidates(_search(rows, width, m, multiply, torch.bfloat16))
    numbers = rows.float()
    lost_rows, length = (centred - numbers[:, :-1]).norm(dim=1), numbers.norm(dim=1)
    summing = rows.shape[1] * torch.finfo(torch.float32).eps * length * longest
    error = 1.001 * (lost_rows * longest + (length + lost_rows) * lost + 2 * summing)
    # all others were at most this, or 0, before they were rounded to bfloat16
    return indices, products.amin(dim=1).float().clamp(min=0) * (1 + torch.finfo(torch.bfloat16).eps) + error


def _in_int8(W_enc: torch.Tensor, b_enc: torch.Tensor) -> Callable:
    """Return how latents are found by a product of int16 and int8, each row of W_enc with a unit of its own.

    The product is that of whole numbers, so exact; what a latent's row lost in rounding is added to it. Of packaged
    autoencoders, which are kept in int8, nothing is lost.
    """
    from lib.sae.int8 import bounds  # which reads numba's compiled code

    (width, d), eps = W_enc.shape, torch.finfo(torch.float32).eps
    units = (W_enc.abs().amax(dim=1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
    table = (W_enc / units[:, None]).round_().to(torch.int8)
    lost = (W_enc - table * units[:, None]).norm(dim=1)
    largest_row = min(2**15 - 1, (2**31 - 1) // (127 * d))  # of which no sum leaves int32
    longest, most_bias = W_enc.norm(dim=1).max() + lost.max(), b_enc.abs().max()

    def multiply(rows: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        row_units = (rows.abs().amax(dim=1) / largest_row).clamp(min=torch.finfo(torch.float32).tiny)
        whole = (rows / row_units[:, None]).round_().to(torch.int16)
        arguments = whole, row_units, rows.norm(dim=1), table, units, lost, b_enc, out
        bounds(*(part.detach().numpy() for part in arguments))
        return out

    def find(centred: torch.Tensor, m: int) -> tuple[torch.Tensor, torch.Tensor]:
        indices, products = _candidates(_search(centred, width, m, multiply, torch.float32))
        length = centred.norm(dim=1)
        lost_row = length / largest_row * d**0.5  # at most: half a unit in each dimension
        error = lost_row * longest + 2 * (d + 8) * eps * (length * longest + most_bias)
        return indices, products.amin(dim=1) + error

    return find


def _candidates(blocks: Iterator[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the latents that `_search` yields, int64 [n, m], and their products, [n, m]."""
    pairs = [(latents, product.gather(1, latents)) for product, latents in blocks]
    latents, products = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    return latents, products


def on_gpu(tensor: torch.Tensor) -> bool:
    """Whether to use the operations that are fast on a GPU: the same numbers up to rounding."""
    return tensor.device.type != "cpu"


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

    They are float32 and int64 [n, k], for `centred`, h - b_pre, float32 [n, d]. Candidates are found in `dtype`, of few
    rows in int8 where that is float32, and computed in float32; where another latent could be larger than the last one
    chosen, by the bound of rounding errors, the row is searched again in float32. So the result is that of float32,
    except for latents whose pre-activations differ by less than its rounding error, and to the bit the same for a row
    among others.
    """
    W_enc, b_enc = encoder.W_enc, encoder.b_enc
    m = _CANDIDATES * k
    screen = None if on_gpu(centred) or m > len(W_enc) else encoder.screen(len(centred), dtype)
    if screen is None:
        return _dense_top(centred, W_enc, b_enc, k)
    indices, most = screen.find(centred, m)
    values, indices = _best(indices, pre_activations(centred, W_enc, b_enc, indices), k)
    unsure = ~(values[:, -1] > most)  # NaN is unsure
    if unsure.any():
        values[unsure], indices[unsure] = _dense_top(centred[unsure], W_enc, b_enc, k)
    return values, indices


def _dense_top(
    centred: torch.Tensor, W_enc: torch.Tensor, b_enc: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    def multiply(block: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        return torch.addmm(b_enc, block, W_enc.T, out=out)

    m = k if on_gpu(centred) else min(k + _SPARE, len(W_enc))
    latents, pre = _candidates(_search(centred, len(W_enc), m, multiply, torch.float32))
    # a product of many rows adds up in another order than one of few
    return _best(latents, pre if on_gpu(centred) else pre_activations(centred, W_enc, b_enc, latents), k)


def _best(latents: torch.Tensor, pre: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the k largest pre-activations [n, k] of some latents [n, m], and these; of equal ones the lower latent."""
    order = latents.argsort(dim=1)
    order = order.gather(1, pre.gather(1, order).argsort(dim=1, descending=True, stable=True)[:, :k])
    return pre.gather(1, order), latents.gather(1, order)


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
    return add_rows_(values.new_zeros(width), indices, values)


def add_rows_(sums: torch.Tensor, indices: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Add the `values` [p, ...] to the rows of `sums` [n, ...] at their `indices` [p]; the same bits every time."""
    if on_gpu(values):  # it sorts first there, where index_add_ adds in whatever order the threads come
        return sums.index_put_((indices,), values, accumulate=True)
    return sums.index_add_(0, indices, values)
