"""Token states to sparse codes: the inference half of a sparse autoencoder."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch.nn.functional import embedding_bag, pad

from lib.checks import check_choice, check_count
from lib.encoder import DTYPES, native_dtype
from lib.selection import top
from lib.storage import load_folder, save_folder

FORMAT_VERSION = 1
STORED_DTYPES = {"float32": np.float32, "float16": np.float16}
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


class SparseAutoencoder:
    """A sparse autoencoder, x_hat = W_dec^T z + b_pre, with one of two activations of pre = W_enc (x - b_pre) + b_enc.

    topk:      z = ReLU(TopK(pre))      (Gao et al., arXiv 2406.04093, eqs. 1-2)
    jumprelu:  z_j = pre_j [pre_j > threshold_j]      (Rajamanoharan et al., arXiv 2407.14435)

    The ReLU comes after the selection, and no threshold is below 0, so no code is ever negative and a later square
    root never NaN. Every activation of `lib/activations.py` is saved as one of the two. x is the token state h itself,
    or, with a centre c, x = sqrt(d) (h - c) / |h - c|, as token autoencoders of sentence-transformers scale it.

    Parameters
    ----------
    W_enc : torch.Tensor, float32 [width, d]
    b_enc : torch.Tensor, float32 [width]
    W_dec : torch.Tensor, float32 [width, d]
        Row j is the direction that latent j writes.
    b_pre : torch.Tensor, float32 [d]
    k : int
        Latents a token may have, at most `width`; with thresholds, the number it was trained to have on average.
    metadata : mapping, optional
        JSON-able facts kept with the weights: which encoder and layer it reads, how it was trained.
    threshold : torch.Tensor, float32 [width], optional
        At least 0. The activation is jumprelu if it is given, else topk.
    centre : torch.Tensor, float32 [d], optional
        What is taken off each state before it is scaled to norm sqrt(d), zeros for nothing; None is to read states as
        they are. It is one of the `tensors`, so it is saved and compared with the weights.

    Raises
    ------
    ValueError
        For shapes that do not fit each other, a weight that is not finite, k outside 1..width, and a threshold below
        0.
    """

    def __init__(
        self,
        W_enc: torch.Tensor,
        b_enc: torch.Tensor,
        W_dec: torch.Tensor,
        b_pre: torch.Tensor,
        k: int,
        metadata: Mapping | None = None,
        threshold: torch.Tensor | None = None,
        centre: torch.Tensor | None = None,
    ):
        if W_enc.ndim != 2:
            raise ValueError(f"W_enc has shape {tuple(W_enc.shape)}; it must be [width, d].")
        self.width, self.d = W_enc.shape
        for name, tensor, shape in (
            ("b_enc", b_enc, (self.width,)),
            ("W_dec", W_dec, (self.width, self.d)),
            ("b_pre", b_pre, (self.d,)),
            ("threshold", threshold, (self.width,)),
            ("centre", centre, (self.d,)),
        ):
            if tensor is not None and tuple(tensor.shape) != shape:
                raise ValueError(
                    f"{name} has shape {tuple(tensor.shape)}, not {shape} as W_enc {tuple(W_enc.shape)} asks."
                )
        if check_count(k, "k") > self.width:
            raise ValueError(f"k is {k}, more than the width {self.width}; choose k from 1 to {self.width}.")
        self.W_enc, self.b_enc, self.W_dec, self.b_pre, self.threshold, self.centre = (
            None if tensor is None else tensor.detach().to(torch.float32).contiguous()
            for tensor in (W_enc, b_enc, W_dec, b_pre, threshold, centre)
        )
        for name, tensor in self.tensors().items():
            if not torch.isfinite(tensor).all():
                raise ValueError(f"{name} holds NaN or infinite values; train again or load another model.")
        if threshold is not None and (self.threshold < 0).any():
            raise ValueError(
                f"threshold holds {self.threshold.min().item()}; below 0 codes could be negative. Train again or clip."
            )
        self.k = int(k)
        self.metadata = dict(metadata or {})

    def __repr__(self) -> str:
        form = ("" if self.activation == "topk" else f", {self.activation}") + (", scaled" if self.scales else "")
        return f"SparseAutoencoder(d={self.d}, width={self.width}, k={self.k}{form})"

    @property
    def activation(self) -> str:
        """Which of the two it is, "topk" or "jumprelu"."""
        return "topk" if self.threshold is None else "jumprelu"

    @property
    def scales(self) -> bool:
        """Whether each state is scaled to norm sqrt(d) before it is encoded."""
        return self.centre is not None

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the weights by name: four, and the threshold and the centre if there are such."""
        weights = {"W_enc": self.W_enc, "b_enc": self.b_enc, "W_dec": self.W_dec, "b_pre": self.b_pre}
        others = {"threshold": self.threshold, "centre": self.centre}
        return weights | {name: tensor for name, tensor in others.items() if tensor is not None}

    def with_k(self, k: int) -> "SparseAutoencoder":
        """Return the same weights with another k, such as a budget that it was trained for.

        Raises
        ------
        ValueError
            For k outside 1..width, and if the activation is not topk.
        """
        if self.activation != "topk":
            raise ValueError(
                f"The activation is {self.activation}: its thresholds say which latents are active, k does not. "
                "Train a topk autoencoder with budgets to choose k afterwards."
            )
        return SparseAutoencoder(**self.tensors(), k=k, metadata=self.metadata)

    def to(self, device: torch.device | str) -> "SparseAutoencoder":
        """Return the same autoencoder with its weights on `device`."""
        moved = {name: tensor.to(device) for name, tensor in self.tensors().items()}
        return SparseAutoencoder(**moved, k=self.k, metadata=self.metadata)

    def normalize(self, states: torch.Tensor) -> torch.Tensor:
        """Return what is encoded and reconstructed of token states, x, float32 [n, d]; without a centre, themselves.

        Raises
        ------
        ValueError
            As `encode`.
        """
        self._check_states(states)
        return self._normalized(states)

    def _check_states(self, states: torch.Tensor) -> None:
        if states.ndim != 2 or states.shape[1] != self.d:
            raise ValueError(
                f"states have shape {tuple(states.shape)}; this autoencoder reads [n, {self.d}]. "
                "Use the encoder and layer that it was trained on."
            )

    def _normalized(self, states: torch.Tensor) -> torch.Tensor:
        states = states.to(torch.float32)
        if self.centre is None:
            return states
        x = states - self.centre
        return x * (self.d**0.5 / x.norm(dim=1, keepdim=True).clamp(min=1e-8))

    @torch.no_grad()
    def encode(self, states: torch.Tensor) -> Codes:
        """Return the codes of token states, float32 [n, d]; a token's codes never depend on the other tokens.

        Raises
        ------
        ValueError
            If `states` is not [n, d] with this autoencoder's d.
        """
        self._check_states(states)
        if self.threshold is None:
            centred = self._normalized(states) - self.b_pre
            values, indices = top(centred, self.W_enc, self.b_enc, self.k, DTYPES[native_dtype(centred.device)])
            return Codes(indices, values.relu_())
        codes = [self._above(self._normalized(chunk)) for chunk in states.split(max(1, _CHUNK // self.width))]
        m = max(c.indices.shape[1] for c in codes)
        return Codes(*(torch.cat(parts) for parts in zip(*(_widened(c, m) for c in codes), strict=True)))

    def _above(self, states: torch.Tensor) -> Codes:
        """Return the codes of what the thresholds leave."""
        pre = torch.addmm(self.b_enc, states - self.b_pre, self.W_enc.T)
        silent = pre <= self.threshold  # NaN is not, and so is seen
        m = max([1, *(self.width - silent.sum(dim=1)).tolist()])
        values, indices = pre.masked_fill_(silent, 0).topk(m, dim=1)
        return Codes(indices, values)

    @torch.no_grad()
    def decode(self, codes: Codes) -> torch.Tensor:
        """Return the reconstructed x, float32 [n, d]: states, or, with a centre, scaled ones, as `normalize` gives."""
        return embedding_bag(codes.indices, self.W_dec, per_sample_weights=codes.values, mode="sum") + self.b_pre

    @property
    def config(self) -> dict:
        """What the manifest says of these weights, JSON-able; `scales` only where it is true, as it came later."""
        said = {"activation": self.activation, "d": self.d, "width": self.width, "k": self.k, "metadata": self.metadata}
        return said | ({"scales": True} if self.scales else {})

    def save_pretrained(self, folder: str | Path, dtype: str = "float32") -> None:
        """Write `sae.json` and the weights (safetensors) to `folder`, atomically.

        Parameters
        ----------
        folder : str or Path
        dtype : {"float32", "float16"}
            What the weights are stored in, but for threshold and centre, which stay float32; they are always computed
            with in float32.
        """
        save_folder(folder, "sae.json", FORMAT_VERSION, self.config, {"sae.safetensors": self.weight_writer(dtype)})

    def weight_writer(self, dtype: str = "float32"):
        """Return the function that writes the weights to a path, for `storage.save_folder`."""
        stored = STORED_DTYPES[check_choice(dtype, STORED_DTYPES, "dtype")]
        arrays = {}
        for name, tensor in self.tensors().items():
            kind = np.float32 if name in ("threshold", "centre") else stored
            if tensor.abs().max() > np.finfo(kind).max:
                raise ValueError(f"{name} holds values that {dtype} cannot; store it as float32.")
            arrays[name] = tensor.cpu().numpy().astype(kind)
        return lambda path: save_file(arrays, path)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "SparseAutoencoder":
        """Load what `save_pretrained` wrote.

        Raises
        ------
        FileNotFoundError
            If there is no such folder.
        ValueError
            If a file is missing, truncated, altered, or of a newer format.
        """
        manifest, files = load_folder(folder, "sae.json", FORMAT_VERSION)
        return cls.from_weights(files["sae.safetensors"], manifest)

    @classmethod
    def from_weights(cls, weights: Path, config: Mapping) -> "SparseAutoencoder":
        """Make an autoencoder of a safetensors file with its weights and the `config` saved beside it.

        Raises
        ------
        ValueError
            If the weights have no threshold and the activation of `config` needs one, or no centre and it `scales`, or
            the other way round.
        """
        check_choice(config["activation"], ["topk", "jumprelu"], "activation")
        tensors = {name: torch.from_numpy(array) for name, array in load_file(weights).items()}
        model = cls(**tensors, k=config["k"], metadata=config["metadata"])
        if model.activation != config["activation"]:
            raise ValueError(
                f"The weights in {weights.name} are of a {model.activation} autoencoder, its configuration says "
                f"{config['activation']!r}; take both from the same save."
            )
        if model.scales != config.get("scales", False):
            raise ValueError(
                f"The weights in {weights.name} are {'with' if model.scales else 'without'} a centre, their "
                f"configuration says scales={config.get('scales', False)}; take both from the same save."
            )
        return model


def _widened(codes: Codes, m: int) -> Codes:
    """Return codes [n, m] of codes with fewer columns: with zeros, for latents that a token does not have yet."""
    n, columns = codes.indices.shape
    if columns == m:
        return codes
    taken = torch.zeros(n, m, dtype=torch.bool, device=codes.indices.device)  # of the first m latents, enough are free
    rows, at = (codes.indices < m).nonzero(as_tuple=True)
    taken[rows, codes.indices[rows, at]] = True
    free = taken.byte().argsort(dim=1, stable=True)[:, : m - columns]
    return Codes(torch.cat([codes.indices, free], dim=1), pad(codes.values, (0, m - columns)))
