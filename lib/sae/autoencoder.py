"""Token states to sparse codes: the inference half of a sparse autoencoder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch.nn.functional import embedding_bag, pad

from lib.sae.selection import top
from lib.support.checks import check_choice, check_count
from lib.support.devices import DTYPES, native_dtype
from lib.support.folders import digest_arrays, load_folder, save_folder
from lib.support.hub import find_folder, upload

FORMAT_VERSION = 1
STORED_DTYPES = ("float32", "float16", "int8")
_SCALE = "_scale"  # ends the name of the scales of a matrix that is stored in int8
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


def to_norm(x: torch.Tensor) -> torch.Tensor:
    """Scale each row of x [n, d] to norm sqrt(d); one of zeros stays so."""
    return x * (x.shape[1] ** 0.5 / x.norm(dim=1, keepdim=True).clamp(min=1e-8))


class SparseAutoencoder:
    """A sparse autoencoder, x_hat = W_dec^T z + b_pre, by an activation of pre = W_enc (x - b_pre) + b_enc.

    topk:      z = ReLU(TopK_k(pre))      (Gao et al., arXiv 2406.04093, eqs. 1-2)
    grouped:   topk in each group of the latents alone, k / groups of them; several autoencoders in one, see `join`
    jumprelu:  z_j = pre_j [pre_j > threshold_j]      (Rajamanoharan et al., arXiv 2407.14435)

    The ReLU comes after the selection, and no threshold is below 0, so no code is ever negative and a later square
    root never NaN. Every activation of `lib/sae/activations.py` is saved as the first or the last. x is the token
    state h
    itself, or, with a centre c, x = sqrt(d) (h - c) / |h - c|, as token autoencoders of sentence-transformers scale it.

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
    groups : int
        Into how many equal parts, one after the other, the latents are divided for the selection. 1 with thresholds.

    Raises
    ------
    ValueError
        For shapes that do not fit each other, a weight that is not finite, k outside 1..width, a threshold below 0,
        and groups that do not divide width and k, or go with a threshold.
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
        groups: int = 1,
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
        if self.width % check_count(groups, "groups") or k % groups or (groups > 1 and threshold is not None):
            raise ValueError(
                f"groups is {groups} with width {self.width}, k {k}, {'no' if threshold is None else 'a'} threshold; "
                "it must divide width and k, and be 1 with a threshold."
            )
        self.k, self.groups = int(k), int(groups)
        self.metadata = dict(metadata or {})

    def __repr__(self) -> str:
        form = f", groups={self.groups}" if self.groups > 1 else "" if self.threshold is None else ", jumprelu"
        form += ", scaled" if self.scales else ""
        return f"SparseAutoencoder(d={self.d}, width={self.width}, k={self.k}{form})"

    @property
    def activation(self) -> str:
        """Which of the three it is, "topk", "grouped" or "jumprelu"."""
        return "jumprelu" if self.threshold is not None else "topk" if self.groups == 1 else "grouped"

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
            For k outside 1..width or no multiple of the groups, and if there are thresholds.
        """
        if self.threshold is not None:
            raise ValueError(
                f"The activation is {self.activation}: its thresholds say which latents are active, k does not. "
                "Train a topk autoencoder with budgets to choose k afterwards."
            )
        return SparseAutoencoder(**self.tensors(), k=k, metadata=self.metadata, groups=self.groups)

    def to(self, device: torch.device | str) -> "SparseAutoencoder":
        """Return the same autoencoder with its weights on `device`."""
        moved = {name: tensor.to(device) for name, tensor in self.tensors().items()}
        return SparseAutoencoder(**moved, k=self.k, metadata=self.metadata, groups=self.groups)

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
        return to_norm(states - self.centre)

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
            return self._largest(self._normalized(states) - self.b_pre)
        codes = [self._above(self._normalized(chunk)) for chunk in states.split(max(1, _CHUNK // self.width))]
        m = max(c.indices.shape[1] for c in codes)
        return Codes(*(torch.cat(parts) for parts in zip(*(_widened(c, m) for c in codes), strict=True)))

    def _largest(self, centred: torch.Tensor) -> Codes:
        """Return the codes of the largest pre-activations, a group's after the other's."""
        groups, k, dtype = self.groups, self.k // self.groups, DTYPES[native_dtype(centred.device)]
        parts = zip(self.W_enc.chunk(groups), self.b_enc.chunk(groups), strict=True)
        found = [top(centred, *part, k, dtype) for part in parts]
        values, indices = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
        first = torch.arange(0, self.width, self.width // groups, device=indices.device)  # latent of each group
        return Codes(indices.add_(first.repeat_interleave(k)), values.relu_())

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
        """What the manifest says of these weights, JSON-able; what came later only where it is not as before."""
        said = {"activation": self.activation, "d": self.d, "width": self.width, "k": self.k, "metadata": self.metadata}
        return said | ({"scales": True} if self.scales else {}) | self._grouping

    @property
    def identity(self) -> dict:
        """Everything that decides the codes, the weights by their sha256, JSON-able; for keys of a store."""
        weights = digest_arrays({name: tensor.cpu().numpy() for name, tensor in self.tensors().items()})
        return {"d": self.d, "width": self.width, "k": self.k, "weights": weights} | self._grouping

    @property
    def _grouping(self) -> dict[str, int]:
        """`groups`, if there are several; else nothing, as before there were any."""
        return {"groups": self.groups} if self.groups > 1 else {}

    def save(self, folder: str | Path, dtype: str = "float32") -> None:
        """Write `sae.json` and the weights (safetensors) to `folder`, atomically.

        Parameters
        ----------
        folder : str or Path
        dtype : {"float32", "float16", "int8"}
            What the weights are stored in, but for threshold and centre, which stay float32; they are always computed
            with in float32. In int8 each row of encoder and decoder has a float32 scale, its largest magnitude / 127,
            so that no weight is off by more than half of that (a row below 1e-36 becomes zeros); biases stay float32.

        Raises
        ------
        ValueError
            For another dtype, and for weights that float16 cannot hold.
        """
        save_folder(folder, "sae.json", FORMAT_VERSION, self.config, {"sae.safetensors": self.weight_writer(dtype)})

    def weight_writer(self, dtype: str = "float32"):
        """Return the function that writes the weights to a path, for `folders.save_folder`."""
        check_choice(dtype, STORED_DTYPES, "dtype")
        arrays = {}
        for name, tensor in self.tensors().items():
            array = tensor.cpu().numpy()
            if dtype == "int8" and array.ndim == 2:
                array, arrays[name + _SCALE] = _in_bytes(array)
            elif dtype == "float16" and name not in ("threshold", "centre"):
                if np.abs(array).max() > np.finfo(np.float16).max:
                    raise ValueError(f"{name} holds values that {dtype} cannot; store it as float32.")
                array = array.astype(np.float16)
            arrays[name] = array
        return lambda path: save_file(arrays, path)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        dtype: str = "float32",
        revision: str | None = None,
        token: str | None = None,
        private: bool | None = None,
    ) -> str:
        """Upload what `save` writes to a repository on the Hugging Face hub; see `lib.support.hub.upload`."""
        settings = {"revision": revision, "token": token, "private": private}
        return upload(lambda folder: self.save(folder, dtype), repo_id, **settings, message="Save the autoencoder")

    @classmethod
    def load(cls, folder: str | Path, *, revision: str | None = None, token: str | None = None) -> "SparseAutoencoder":
        """Load what `save` wrote.

        Parameters
        ----------
        folder : str or Path
            Or the id of a repository on the hub, of which nothing is executed.
        revision, token : str, optional
            Branch, tag or commit of the repository on the hub, and an access token that may read it.

        Raises
        ------
        FileNotFoundError, PermissionError, ConnectionError
            If there is no such folder, and for the hub as `lib.support.hub.find_folder`.
        ValueError
            If a file is missing, truncated, altered, or of a newer format.
        """
        found = find_folder(folder, "sae.json", revision=revision, token=token)
        manifest, files = load_folder(found, "sae.json", FORMAT_VERSION)
        return cls.from_weights(files["sae.safetensors"], manifest)

    @classmethod
    def from_weights(cls, weights: Path, config: Mapping) -> "SparseAutoencoder":
        """Make an autoencoder of a safetensors file with its weights and the `config` saved beside it.

        Raises
        ------
        ValueError
            If the weights have no threshold and the activation of `config` needs one, or no centre and it `scales`, or
            the other way round, and if its groups do not fit the rest.
        """
        check_choice(config["activation"], ["topk", "grouped", "jumprelu"], "activation")
        arrays = load_file(weights)
        for name in [name for name in arrays if name.endswith(_SCALE)]:
            scaled = name.removesuffix(_SCALE)
            arrays[scaled] = arrays[scaled] * arrays.pop(name)[:, None]
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        model = cls(**tensors, k=config["k"], metadata=config["metadata"], groups=config.get("groups", 1))
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


def join(parts: Sequence[SparseAutoencoder]) -> SparseAutoencoder:
    """Return one autoencoder with the latents of several, a group each: their codes side by side.

    With G parts, x_hat = 1/G sum_g (W_dec_g^T z_g + b_pre_g), the mean of their reconstructions, which 1/G in the
    decoder makes the formula of one autoencoder. They share a b_pre, the mean; that each part has its own is made up
    for in b_enc, so codes are the parts' but for rounding. Autoencoders that differ in the seed find different latents
    and err apart; ensembles of them: Gadgil, Lin and Lee, arXiv 2505.16077.

    Parameters
    ----------
    parts : sequence of SparseAutoencoder
        At least two, topk, of equal d, width and k, without a centre, and trained on the states of one retriever.

    Raises
    ------
    ValueError
        For other parts.
    """
    forms = [repr(part) for part in parts]
    if len(parts) < 2 or len(set(forms)) > 1 or parts[0].activation != "topk" or parts[0].scales:
        raise ValueError(f"The parts are {forms}; give two or more topk autoencoders of equal d, width and k.")
    trained_on = [part.metadata.get("run", {}).get("states", {}).get("encoder") for part in parts]
    if any(one != trained_on[0] for one in trained_on):
        raise ValueError(f"The parts were trained on different retrievers or layers, {trained_on}; join those of one.")
    W_enc, W_dec = (torch.cat([part.tensors()[name] for part in parts]) for name in ("W_enc", "W_dec"))
    b_pre = torch.stack([part.b_pre.double() for part in parts]).mean(dim=0)
    b_enc = [part.b_enc + part.W_enc.double() @ (b_pre - part.b_pre) for part in parts]
    metadata = {"parts": [part.metadata for part in parts]}
    if trained_on[0]:
        metadata["run"] = {"states": {"encoder": trained_on[0]}}
    k, groups = sum(part.k for part in parts), len(parts)
    return SparseAutoencoder(W_enc, torch.cat(b_enc), W_dec / groups, b_pre, k, metadata, groups=groups)


def _in_bytes(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 [n, d] as int8 and the scale of each row, float32 [n]: the row is about int8 * scale."""
    scale = np.abs(matrix).max(axis=1) / np.float32(127)
    scale[scale < np.finfo(np.float32).tiny] = 1  # a row of zeros, or of what is as good as zero
    return np.rint(matrix / scale[:, None]).astype(np.int8), scale


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
