"""Sparse codes of tokens to one row of latent weights a text, as a module of a `SparseEncoder`."""

from collections.abc import Sequence
from itertools import product
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from sentence_transformers import SparseEncoder
from sentence_transformers.sentence_transformer.modules import Pooling

from lib.bm25.pooling import PHIS, POOLINGS
from lib.interop.modules.features import LatentModule, check_fits, feature, real_tokens, unpacked
from lib.support.checks import check_choice, check_count, check_integer, check_texts

_MAKER = "SparseAutoEncoderTokenEncoder"
_TASKS = ("query", "document")  # of `SparseEncoder.encode_query` and `encode_document`


class _Layout(NamedTuple):
    """Which text each of N tokens belongs to, and where in it."""

    rows: torch.Tensor  # int64 [N], the text
    positions: torch.Tensor  # int64 [N], from 0 at the text's first token
    ends: torch.Tensor  # int64 [B], the position after each text's last token
    real: torch.Tensor  # bool [N], False for padding


class _Cells(NamedTuple):
    """`lib.bm25.pooling.Cells` in torch: reductions of activations [n] within each cell; differentiable."""

    cell_of: torch.Tensor
    n_cells: int
    xp: Any = torch

    def sum(self, z: torch.Tensor) -> torch.Tensor:
        return z.new_zeros(self.n_cells).index_add(0, self.cell_of, z)

    def max(self, z: torch.Tensor) -> torch.Tensor:
        return z.new_zeros(self.n_cells).scatter_reduce(0, self.cell_of, z, "amax", include_self=False)


def strategies() -> dict[str, tuple[str, str]]:
    """Return the pooling and phi of each pooling strategy: "max" is max and identity, "sum_sqrt" is sum and sqrt."""
    pairs = product(POOLINGS, PHIS)
    return {pooling if phi == "identity" else f"{pooling}_{phi}": (pooling, phi) for pooling, phi in pairs}


@Pooling.register  # SparseEncoder.set_pooling_include_prompt looks for a Pooling
class SparseTokenPooling(LatentModule):
    """Sparse codes z_t of a text's tokens to one row of latent weights.

    sum: w_j = sum_t z_tj;  sum_sqrt: w_j = sqrt(sum_t z_tj), Latent Terms (arXiv 2605.29384);
    max: w_j = max_t z_tj;  max_log1p: w_j = max_t ln(1 + z_tj), SPLARE (arXiv 2603.13277)

    Reads activations and latents, padded on either side [B, T, k] with an `attention_mask` [B, T] (without one every
    token counts), or packed with `cu_seq_lens_q` [B + 1], [N, k] or [1, N, k]; and `prompt_length`. Writes
    `sentence_embedding` [B, width], float32 where the codes have half precision.

    Raises TypeError or ValueError for a width below 1, an unknown strategy and numbers of special tokens that are not
    two of at least 0.

    Parameters
    ----------
    embedding_dimension : int
        The width.
    pooling_strategy : str
        One of `strategies()`; the pull request has "sum", "max", "max_log1p" and "sum_sqrt".
    include_prompt : bool
        Whether the first `prompt_length` tokens count.
    values_key, indices_key : str
        Names of the features that hold activations and latents.
    sparse_rows : bool
        Whether `sentence_embedding` is a coalesced sparse COO tensor, so that [B, width] is never in memory.
    special_tokens : (int, int)
        How many tokens the tokenizer puts before and after every text. A text with no other tokens, but for a
        prompt's, has an empty row, as in `lib.latent_terms.LatentTerms`. (0, 0) looks for none.
    include_special : bool
        Whether special tokens count. This, the two before it and the next two, which the pull request does not have,
        are saved only where they are not the default.
    labels : sequence of str, optional
        A label of each latent, such as its `lib.inspect.vocabulary.top_tokens`, which `SparseEncoder.decode` then gives
        beside its number.
    top : (int, int), optional
        How many of a query's and of a document's weights are left, the largest, outside of training mode: (40, 400) in
        SPLARE. Which of both a text is, `SparseEncoder.encode_query` and `encode_document` say; others stay whole.
    """

    config_keys = ["embedding_dimension", "pooling_strategy", "include_prompt", "values_key", "indices_key"]  # noqa: RUF012
    own_settings = {"sparse_rows": False, "special_tokens": (0, 0), "include_special": True, "labels": None}  # noqa: RUF012
    own_settings |= {"top": None}
    forward_kwargs = {"max_active_dims", "task"}  # noqa: RUF012

    def __init__(
        self,
        embedding_dimension: int,
        pooling_strategy: str = "sum",
        include_prompt: bool = True,
        values_key: str = "token_sparse_values",
        indices_key: str = "token_sparse_indices",
        sparse_rows: bool = False,
        special_tokens: Sequence[int] = (0, 0),
        include_special: bool = True,
        labels: Sequence[str] | None = None,
        top: Sequence[int] | None = None,
    ):
        super().__init__()
        self.embedding_dimension = check_count(embedding_dimension, "embedding_dimension")
        self.pooling_strategy = check_choice(pooling_strategy, strategies(), "pooling_strategy")
        special_tokens = tuple(check_integer(n, "each of special_tokens") for n in special_tokens)
        if len(special_tokens) != 2:
            raise ValueError(f"special_tokens is {special_tokens!r}; give two integers of at least 0, such as (1, 1).")
        self.include_prompt, self.include_special = include_prompt, include_special
        self.values_key, self.indices_key = values_key, indices_key
        self.sparse_rows, self.special_tokens = sparse_rows, special_tokens
        self.labels = None if labels is None else list(check_texts(labels, "labels"))
        if self.labels is not None and len(self.labels) != embedding_dimension:
            raise ValueError(
                f"There are {len(self.labels)} labels; give one for each of {embedding_dimension} latents."
            )
        self.top = None if top is None else tuple(check_count(n, "each of top") for n in top)
        if self.top is not None and len(self.top) != len(_TASKS):
            raise ValueError(f"top is {self.top}; give two numbers, for queries and documents, such as (40, 400).")

    def __repr__(self) -> str:
        labels = {} if self.labels is None else {"labels": f"{len(self.labels)} of them"}
        return f"{type(self).__name__}({self.get_config_dict() | labels})"

    def forward(
        self, features: dict[str, Any], max_active_dims: int | None = None, task: str | None = None, **kwargs
    ) -> dict[str, Any]:
        """Add `sentence_embedding` to `features`, as the class says.

        MissingFeatureError (a KeyError and a ValueError) without activations or latents; ValueError for a shape that
        does not fit, latents outside 0..width-1, bounds that decrease, and `max_active_dims` with `sparse_rows`.
        """
        if self.sparse_rows and max_active_dims is not None:
            raise ValueError(f"max_active_dims is {max_active_dims}, which needs dense rows; set sparse_rows=False.")
        packed = "cu_seq_lens_q" in features
        read = unpacked if packed else feature
        values, indices = (read(features, key, _MAKER) for key in (self.values_key, self.indices_key))
        if packed:
            layout = _packed_layout(features["cu_seq_lens_q"].to(values.device))
        elif values.ndim == 3:
            layout = _padded_layout(values, features.get("attention_mask"))
        else:
            raise ValueError(
                f"{self.values_key} has shape {tuple(values.shape)}; padded it must be [B, T, k]. Flattened tokens "
                "need cu_seq_lens_q, where each text starts; the Transformer makes it without padding (unpad_inputs)."
            )
        if values.shape != indices.shape:
            shapes = f"{tuple(values.shape)} and {tuple(indices.shape)}"
            raise ValueError(f"{self.values_key} and {self.indices_key} have shapes {shapes}; they must be equal.")
        length = features.get("prompt_length")  # an int, or a tensor of equal ones, as trainers give it
        counts = self._counting(layout, 0 if length is None else int(torch.as_tensor(length).flatten()[0]))
        n = self.top[_TASKS.index(task)] if self.top and task in _TASKS and not self.training else None
        features["sentence_embedding"] = self._pool(values.flatten(0, -2), indices.flatten(0, -2), layout, counts, n)
        return features

    def _counting(self, layout: _Layout, prompt_length: int) -> torch.Tensor:
        """Return which tokens are pooled, bool [N]."""
        rows, positions, ends, counts = layout
        before, after = self.special_tokens
        if before or after:
            proper = positions < (ends - after)[rows]
            content = counts & proper & (positions >= max(before, prompt_length))
            counts = counts & torch.zeros_like(ends).index_add(0, rows, content.long()).gt(0)[rows]
            if not self.include_special:
                counts = counts & proper & (positions >= before)
        return counts if self.include_prompt else counts & (positions >= prompt_length)

    def _pool(
        self, values: torch.Tensor, indices: torch.Tensor, layout: _Layout, counts: torch.Tensor, n: int | None
    ) -> torch.Tensor:
        """Return the rows of the texts, [B, width], with the `n` largest weights of each; None leaves all."""
        width, n_texts = self.embedding_dimension, len(layout.ends)
        if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < width:
            raise ValueError(
                f"{self.indices_key} run from {int(indices.min())} to {int(indices.max())}; of embedding_dimension "
                f"{width} they are 0 to {width - 1}. Give the autoencoder's hidden_dim."
            )
        active = counts[:, None] & ~(values <= 0)  # which keeps NaN
        cells, cell_of = torch.unique((layout.rows[:, None] * width + indices)[active], return_inverse=True)
        z = values[active]
        z = z.float() if z.dtype in (torch.float16, torch.bfloat16) else z
        pooling, phi = strategies()[self.pooling_strategy]
        weights = PHIS[phi].apply(POOLINGS[pooling](z, _Cells(cell_of, len(cells))), torch)
        if n is not None:
            cells, weights = _largest(cells, weights, cells // width, n)
        if self.sparse_rows:
            places = torch.stack([cells // width, cells % width])
            return torch.sparse_coo_tensor(places, weights, (n_texts, width), is_coalesced=True, check_invariants=False)
        return weights.new_zeros(n_texts * width).scatter(0, cells, weights).view(n_texts, width)

    def on_model_ready(self, model: torch.nn.Sequential) -> None:
        """Check that the module before it has as many latents, and make its `decode` that of the model.

        Called by `SparseEncoder`.
        """
        super().on_model_ready(model)
        check_fits(model, self, self.embedding_dimension)
        model.decode = self.decode

    def decode(
        self, embeddings: torch.Tensor, top_k: int | None = None
    ) -> list[tuple[str, float]] | list[list[tuple[str, float]]]:
        """Return what `SparseEncoder.decode` returns, with latents instead of the word pieces of their numbers.

        A latent is called "latent 17" or, with labels, "latent 17: music", so that no two share a name. Raises
        TypeError or ValueError as the library, and for embeddings that are not [width] or [n_texts, width].
        """
        width = self.embedding_dimension
        if isinstance(embeddings, torch.Tensor) and embeddings.shape[-1:] != (width,):
            raise ValueError(f"embeddings have shape {tuple(embeddings.shape)}; give [{width}] or [n_texts, {width}].")
        names = SimpleNamespace(convert_ids_to_tokens=lambda latents: [self._name(latent) for latent in latents])
        return SparseEncoder.decode(SimpleNamespace(tokenizer=names), embeddings, top_k)  # all that it reads of a model

    def _name(self, latent: int) -> str:
        return f"latent {latent}" if self.labels is None else f"latent {latent}: {self.labels[latent]}"

    def get_embedding_dimension(self) -> int:
        """Return the width."""
        return self.embedding_dimension


def _largest(
    cells: torch.Tensor, weights: torch.Tensor, rows: torch.Tensor, n: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the cells with the n largest weights of each row, of equal ones the first; cells are sorted by row."""
    order = weights.argsort(descending=True, stable=True)
    order = order[rows[order].argsort(stable=True)]
    starts = torch.searchsorted(rows, rows)  # of each cell's row
    best = order[torch.arange(len(rows), device=rows.device) - starts < n].sort().values
    return cells[best], weights[best]


def _packed_layout(bounds: torch.Tensor) -> _Layout:
    lengths = bounds.diff().long()
    rows = torch.repeat_interleave(torch.arange(len(lengths), device=bounds.device), lengths)
    positions = torch.arange(len(rows), device=bounds.device) - bounds[:-1].long()[rows]
    return _Layout(rows, positions, lengths, torch.ones_like(rows, dtype=torch.bool))


def _padded_layout(values: torch.Tensor, mask: torch.Tensor | None) -> _Layout:
    n_texts, length = values.shape[:2]
    real = real_tokens(mask, values)
    columns = torch.arange(length, device=values.device)
    first = torch.where(real, columns, length).amin(dim=1) if length else real.new_zeros(n_texts, dtype=torch.int64)
    last = torch.where(real, columns, -1).amax(dim=1) if length else first - 1
    rows = torch.arange(n_texts, device=values.device)[:, None].expand(n_texts, length)
    positions = columns - first[:, None]
    return _Layout(rows.flatten(), positions.flatten(), last + 1 - first, real.flatten())
