"""Token states to sparse codes: the inference half of a Top-K sparse autoencoder."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch.nn.functional import embedding_bag

from lib.checks import check_choice, check_count
from lib.storage import load_folder, save_folder

FORMAT_VERSION = 1
STORED_DTYPES = {"float32": np.float32, "float16": np.float16}
_CHUNK = 2**25  # pre-activations held at once: 128 MB of float32


class Codes(NamedTuple):
    """Sparse codes of n tokens: which k latents each has, and how strongly.

    Attributes
    ----------
    indices : torch.Tensor, int64 [n, k]
        Latents, each at most once a token.
    values : torch.Tensor, float32 [n, k]
        Activations, at least 0; a zero means that the latent is not active.
    """

    indices: torch.Tensor
    values: torch.Tensor


class SparseAutoencoder:
    """Top-K sparse autoencoder (Gao et al., arXiv 2406.04093, eqs. 1-2).

    z = ReLU(TopK(W_enc (h - b_pre) + b_enc)),   h_hat = W_dec^T z + b_pre

    The ReLU comes after the selection, so no code is ever negative and a later square root never NaN.

    Parameters
    ----------
    W_enc : torch.Tensor, float32 [width, d]
    b_enc : torch.Tensor, float32 [width]
    W_dec : torch.Tensor, float32 [width, d]
        Row j is the direction that latent j writes.
    b_pre : torch.Tensor, float32 [d]
    k : int
        Latents a token may have, at most `width`.
    metadata : mapping, optional
        JSON-able facts kept with the weights: which encoder and layer it reads, how it was trained.

    Raises
    ------
    ValueError
        For shapes that do not fit each other, a weight that is not finite, and k outside 1..width.
    """

    def __init__(
        self,
        W_enc: torch.Tensor,
        b_enc: torch.Tensor,
        W_dec: torch.Tensor,
        b_pre: torch.Tensor,
        k: int,
        metadata: Mapping | None = None,
    ):
        if W_enc.ndim != 2:
            raise ValueError(f"W_enc has shape {tuple(W_enc.shape)}; it must be [width, d].")
        self.width, self.d = W_enc.shape
        for name, tensor, shape in (
            ("b_enc", b_enc, (self.width,)),
            ("W_dec", W_dec, (self.width, self.d)),
            ("b_pre", b_pre, (self.d,)),
        ):
            if tuple(tensor.shape) != shape:
                raise ValueError(
                    f"{name} has shape {tuple(tensor.shape)}, not {shape} as W_enc {tuple(W_enc.shape)} asks."
                )
        if check_count(k, "k") > self.width:
            raise ValueError(f"k is {k}, more than the width {self.width}; choose k from 1 to {self.width}.")
        self.W_enc, self.b_enc, self.W_dec, self.b_pre = (
            tensor.detach().to(torch.float32).contiguous() for tensor in (W_enc, b_enc, W_dec, b_pre)
        )
        for name, tensor in self.tensors().items():
            if not torch.isfinite(tensor).all():
                raise ValueError(f"{name} holds NaN or infinite values; train again or load another model.")
        self.k = int(k)
        self.metadata = dict(metadata or {})

    def __repr__(self) -> str:
        return f"SparseAutoencoder(d={self.d}, width={self.width}, k={self.k})"

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the four weights by name."""
        return {"W_enc": self.W_enc, "b_enc": self.b_enc, "W_dec": self.W_dec, "b_pre": self.b_pre}

    def to(self, device: torch.device | str) -> "SparseAutoencoder":
        """Return the same autoencoder with its weights on `device`."""
        moved = {name: tensor.to(device) for name, tensor in self.tensors().items()}
        return SparseAutoencoder(**moved, k=self.k, metadata=self.metadata)

    @torch.no_grad()
    def encode(self, states: torch.Tensor) -> Codes:
        """Return the codes of token states, float32 [n, d]; a token's codes never depend on the other tokens.

        Raises
        ------
        ValueError
            If `states` is not [n, d] with this autoencoder's d.
        """
        if states.ndim != 2 or states.shape[1] != self.d:
            raise ValueError(
                f"states have shape {tuple(states.shape)}; this autoencoder reads [n, {self.d}]. "
                "Use the encoder and layer that it was trained on."
            )
        chunks = states.split(max(1, _CHUNK // self.width))
        codes = [self._encode_chunk(chunk.to(torch.float32)) for chunk in chunks]
        return Codes(torch.cat([c.indices for c in codes]), torch.cat([c.values for c in codes]))

    def _encode_chunk(self, states: torch.Tensor) -> Codes:
        pre_activations = torch.addmm(self.b_enc, states - self.b_pre, self.W_enc.T)
        values, indices = pre_activations.topk(self.k, dim=1)
        return Codes(indices, values.relu_())

    @torch.no_grad()
    def decode(self, codes: Codes) -> torch.Tensor:
        """Return the reconstructed states, float32 [n, d]."""
        return embedding_bag(codes.indices, self.W_dec, per_sample_weights=codes.values, mode="sum") + self.b_pre

    @property
    def config(self) -> dict:
        """What the manifest says of these weights, JSON-able."""
        return {"activation": "topk", "d": self.d, "width": self.width, "k": self.k, "metadata": self.metadata}

    def save_pretrained(self, folder: str | Path, dtype: str = "float32") -> None:
        """Write `sae.json` and the weights (safetensors) to `folder`, atomically.

        Parameters
        ----------
        folder : str or Path
        dtype : {"float32", "float16"}
            What the weights are stored in; they are always computed with in float32.
        """
        save_folder(folder, "sae.json", FORMAT_VERSION, self.config, {"sae.safetensors": self.weight_writer(dtype)})

    def weight_writer(self, dtype: str = "float32"):
        """Return the function that writes the weights to a path, for `storage.save_folder`."""
        stored = STORED_DTYPES[check_choice(dtype, STORED_DTYPES, "dtype")]
        for name, tensor in self.tensors().items():
            if tensor.abs().max() > np.finfo(stored).max:
                raise ValueError(f"{name} holds values that {dtype} cannot; store it as float32.")
        arrays = {name: tensor.cpu().numpy().astype(stored) for name, tensor in self.tensors().items()}
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
        """Make an autoencoder of a safetensors file with the four weights and the `config` saved beside it."""
        check_choice(config["activation"], ["topk"], "activation")
        tensors = {name: torch.from_numpy(array) for name, array in load_file(weights).items()}
        return cls(**tensors, k=config["k"], metadata=config["metadata"])
