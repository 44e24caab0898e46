"""Token states to sparse codes: the inference half of a sparse autoencoder."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch.nn.functional import embedding_bag

from lib.sae.activations import ACTIVATIONS
from lib.sae.codes import Codes, FinishedActivation, FinishedBoosted, FinishedTopK
from lib.sae.selection import EncoderWeights
from lib.support.checks import check_choice, check_integer
from lib.support.folders import digest_arrays, read_folder, save_folder
from lib.support.html import table
from lib.support.hub import find_folder, upload

FORMAT_VERSION = 1
STORED_DTYPES = ("float32", "float16", "int8")
_WEIGHTS = ("W_enc", "b_enc", "W_dec", "b_pre")
_SCALE = "_scale"  # ends the name of the scales of a matrix that is stored in int8


def to_norm(x: torch.Tensor) -> torch.Tensor:
    """Scale each row of x [n, d] to norm sqrt(d); one of zeros stays so."""
    return x * (x.shape[1] ** 0.5 / x.norm(dim=1, keepdim=True).clamp(min=1e-8))


class SparseAutoencoder:
    """A sparse autoencoder, x_hat = W_dec^T z + b_pre, with z an activation of pre = W_enc (x - b_pre) + b_enc.

    x is the token state h itself or, with a centre c, x = sqrt(d) (h - c) / |h - c|, as token autoencoders of
    sentence-transformers scale it. No code is ever negative, so that a later square root is never NaN.

    The first call of `encode` keeps a copy of the encoder in bfloat16, half as large as W_enc, where the processor has
    it, and the first with a query's number of tokens another one, in int8 where the processor has not and numba is
    imported, as by an index (`lib.sae.selection.EncoderWeights`).

    Raises TypeError if `activation` is no `FinishedActivation`; ValueError for shapes that do not fit each other, a
    weight that is not finite, and an activation that the width does not fit.

    Parameters
    ----------
    W_enc : torch.Tensor, float32 [width, d]
    b_enc : torch.Tensor, float32 [width]
    W_dec : torch.Tensor, float32 [width, d]
        Row j is the direction that latent j writes.
    b_pre : torch.Tensor, float32 [d]
    activation : FinishedActivation
        `FinishedTopK(k)` or `FinishedJumpReLU(k, threshold)` of `lib.sae.codes`, or one of `lib.sae.activations`.
    metadata : mapping, optional
        JSON-able facts kept with the weights: which encoder and layer it reads, how it was trained.
    centre : torch.Tensor, float32 [d], optional
        What is taken off each state before it is scaled to norm sqrt(d), zeros for nothing; None is to read states as
        they are.
    """

    def __init__(
        self,
        W_enc: torch.Tensor,
        b_enc: torch.Tensor,
        W_dec: torch.Tensor,
        b_pre: torch.Tensor,
        activation: FinishedActivation,
        metadata: Mapping | None = None,
        centre: torch.Tensor | None = None,
    ):
        if not isinstance(activation, FinishedActivation):
            raise TypeError(f"activation is {activation!r}; pass a FinishedActivation, such as FinishedTopK(16).")
        for name, tensor in (("W_enc", W_enc), ("W_dec", W_dec)):
            if tensor.ndim != 2:
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}; it must be [width, d].")
        n_rows, self.d = W_enc.shape
        self.width = n_rows if activation.encoder_rows(n_rows) == n_rows else len(W_dec)
        self.activation = activation.to(W_enc.device)
        self.b_pre: torch.Tensor
        W_enc, b_enc, W_dec, self.b_pre, self.centre = (
            None if tensor is None else tensor.detach().to(torch.float32).contiguous()
            for tensor in (W_enc, b_enc, W_dec, b_pre, centre)
        )
        self._encoder = EncoderWeights(W_enc, b_enc, W_dec)
        n_rows = activation.encoder_rows(self.width)
        shapes = {"W_enc": (n_rows, self.d), "b_enc": (n_rows,), "W_dec": (self.width, self.d)}
        shapes |= {"b_pre": (self.d,), "centre": (self.d,)}
        for name, tensor in self.tensors().items():
            shape = shapes.get(name, activation.shape(self.width, self.d))
            if tuple(tensor.shape) != shape:
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}; it must be {shape} with this W_enc.")
            if not torch.isfinite(tensor).all():
                raise ValueError(f"{name} holds NaN or infinite values; train again or load another model.")
        activation.check(self.width)
        self.metadata = dict(metadata or {})

    def __repr__(self) -> str:
        settings = [f"{name}={value}" for name, value in self.activation.settings().items()]
        facts = [f"d={self.d}", f"width={self.width}", self.activation.name, *settings]
        facts += ["scaled"] if self.scales else []
        return f"SparseAutoencoder({', '.join(facts)})"

    def _repr_html_(self) -> str:
        """Return its settings, and what is known of its training, as a table."""
        rows = [(name, str(value)) for name, value in self.config.items() if name != "metadata"]
        origin = self.metadata.get("run", {}).get("states", {}).get("encoder", {})
        rows += [(name, str(origin[name])) for name in ("model", "layer") if name in origin]
        return table(["SparseAutoencoder", ""], rows)

    @property
    def W_enc(self) -> torch.Tensor:
        """The encoder, float32 [width, d]."""
        return self._encoder.W_enc

    @property
    def b_enc(self) -> torch.Tensor:
        """Its bias, float32 [width]."""
        return self._encoder.b_enc

    @property
    def W_dec(self) -> torch.Tensor:
        """The decoder, float32 [width, d]."""
        return self._encoder.W_dec

    @property
    def k(self) -> int:
        """Latents that a token may have; with thresholds, the number that it was trained to have on average."""
        return self.activation.k

    @property
    def scales(self) -> bool:
        """Whether each state is scaled to norm sqrt(d) before it is encoded."""
        return self.centre is not None

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the weights by name: four, those of the activation, and the centre if there is one."""
        weights = {name: getattr(self, name) for name in _WEIGHTS} | self.activation.tensors()
        return weights if self.centre is None else weights | {"centre": self.centre}

    def with_k(self, k: int) -> "SparseAutoencoder":
        """Return the same weights with another k, such as a budget that it was trained for.

        Raises ValueError for k outside 1..width or no multiple of the groups, and if thresholds decide which latents
        are active.
        """
        return self._with(self.activation.with_k(k))

    def to(self, device: torch.device | str) -> "SparseAutoencoder":
        """Return the same autoencoder with its weights on `device`; itself if they are there."""
        return self if self.W_enc.device == torch.device(device) else self._with(self.activation, device)

    def _with(self, activation: FinishedActivation, device: torch.device | str | None = None) -> "SparseAutoencoder":
        weights = {name: getattr(self, name).to(device) for name in _WEIGHTS}
        centre = None if self.centre is None else self.centre.to(device)
        sae = SparseAutoencoder(**weights, activation=activation, metadata=self.metadata, centre=centre)
        if device is None:  # the same weights, and what was computed of them
            sae._encoder = self._encoder
        return sae

    def normalize(self, states: torch.Tensor) -> torch.Tensor:
        """Return what is encoded and reconstructed of token states, x, float32 [n, d]; without a centre, themselves.

        Raises ValueError if `states` is not [n, d] with this autoencoder's d.
        """
        if states.ndim != 2 or states.shape[1] != self.d:
            shape = tuple(states.shape)
            raise ValueError(
                f"states have shape {shape}, not [n, {self.d}]; use the encoder and layer of its training."
            )
        states = states.to(torch.float32)
        return states if self.centre is None else to_norm(states - self.centre)

    @torch.no_grad()
    def encode(self, states: torch.Tensor) -> Codes:
        """Return the codes of token states [n, d], errors as `normalize`.

        Those of one token depend on no other token: of Top-K on a CPU to the bit, else up to rounding.
        """
        return self.activation.encode(self.normalize(states) - self.b_pre, self._encoder)

    @torch.no_grad()
    def decode(self, codes: Codes) -> torch.Tensor:
        """Return the reconstructed x, float32 [n, d]: states, or, with a centre, scaled ones, as `normalize` gives."""
        return embedding_bag(codes.indices, self.W_dec, per_sample_weights=codes.values, mode="sum") + self.b_pre

    @property
    def config(self) -> dict:
        """Everything but the weights that is saved, JSON-able."""
        sizes = {"d": self.d, "width": self.width}
        return {"activation": self.activation.name, **sizes, **self.activation.settings(), "metadata": self.metadata}

    @cached_property
    def identity(self) -> dict:
        """Everything that decides the codes, the weights by their sha256, JSON-able; for keys of a store."""
        weights = digest_arrays({name: tensor.cpu().numpy() for name, tensor in self.tensors().items()})
        name = self.activation.name  # Top-K has none here: the others are named as variants of it
        variant = {} if name == FinishedTopK.name else {"activation": name}
        return {"d": self.d, "width": self.width, **variant, **self.activation.settings(), "weights": weights}

    def save(self, folder: str | Path, dtype: str = "float32") -> None:
        """Write `sae.json` and the weights (safetensors) to `folder`, atomically.

        Raises ValueError for another dtype, and for weights that float16 cannot hold.

        Parameters
        ----------
        folder : str or Path
        dtype : {"float32", "float16", "int8"}
            What the weights are stored in, but for thresholds and centre, which stay float32; they are always computed
            with in float32. In int8 each row of encoder and decoder has a float32 scale, its largest magnitude / 127,
            so that no weight is off by more than half of that (a row below 1e-36 becomes zeros); biases stay float32.
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
            elif dtype == "float16" and name in _WEIGHTS:
                if np.abs(array).max() > np.finfo(np.float16).max:
                    raise ValueError(f"{name} holds values that {dtype} cannot; store it as float32.")
                array = array.astype(np.float16)
            arrays[name] = array
        return lambda path: save_file(arrays, path)

    def push_to_hub(self, repo_id: str, *, dtype: str = "float32", **settings) -> str:
        """Upload what `save` writes to the Hugging Face hub; `settings` and errors as `lib.support.hub.upload`."""
        return upload(lambda folder: self.save(folder, dtype), repo_id, message="Save the autoencoder", **settings)

    @classmethod
    def load(cls, folder: str | Path, *, revision: str | None = None, token: str | None = None) -> "SparseAutoencoder":
        """Load what `save` wrote.

        Raises FileNotFoundError, PermissionError or ConnectionError as `lib.support.hub.find_folder`; ValueError if a
        file is missing, truncated, altered, or of a newer format.

        Parameters
        ----------
        folder : str or Path
            Or the id of a repository on the hub, of which nothing is executed.
        revision, token : str, optional
            Branch, tag or commit of the repository on the hub, and an access token that may read it.
        """
        folder = find_folder(folder, "sae.json", revision=revision, token=token)

        def read(manifest: dict, files: dict[str, Path]) -> "SparseAutoencoder":
            return cls.from_weights(files["sae.safetensors"], manifest)

        return read_folder(folder, "sae.json", FORMAT_VERSION, read)

    @classmethod
    def from_weights(cls, weights: Path, config: Mapping) -> "SparseAutoencoder":
        """Make an autoencoder of a safetensors file with its weights and the `config` saved beside it.

        Raises ValueError for an unknown activation, for tensors that are not those of the activation, and as the
        constructor.
        """
        finished: list[type[FinishedActivation]] = [FinishedBoosted]
        finished += [kind.finished_form for kind in ACTIVATIONS.values()]
        forms = {form.name: form for form in finished}
        form = forms[check_choice(config["activation"], forms, "activation")]
        arrays = load_file(weights)
        for name in [name for name in arrays if name.endswith(_SCALE)]:
            scaled = name.removesuffix(_SCALE)
            arrays[scaled] = arrays[scaled] * arrays.pop(name)[:, None]
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        tensor_names, setting_names = form.names()
        expected = {*_WEIGHTS, *tensor_names}
        if tensors.keys() - {"centre"} != expected:
            stored, allowed = (", ".join(sorted(names)) for names in (tensors, expected))
            message = f"{weights.name} holds {stored}, a {form.name} autoencoder {allowed}; take both from one save."
            raise ValueError(message)
        settings = {name: config[name] for name in setting_names if name in config}
        activation = form(**settings, **{name: tensors.pop(name) for name in tensor_names})
        return cls(**tensors, activation=activation, metadata=config["metadata"])


def join(parts: Sequence[SparseAutoencoder]) -> SparseAutoencoder:
    """Return one autoencoder with the latents of several, a group each: their codes side by side.

    With G parts, x_hat = 1/G sum_g (W_dec_g^T z_g + b_pre_g), the mean of their reconstructions; 1/G is part of the
    decoder. b_pre is the mean of theirs, and b_enc corrects for the difference, so that codes are those of the parts
    up to rounding. Autoencoders with other seeds find other latents; on ensembles of them: Gadgil, Lin and Lee, arXiv
    2505.16077.

    Raises ValueError for other parts.

    Parameters
    ----------
    parts : sequence of SparseAutoencoder
        At least two, topk, of equal d, width and k, without a centre, and trained on the states of one retriever.
    """
    forms = [repr(part) for part in parts]
    plain = [type(part.activation) is FinishedTopK and part.activation.groups == 1 for part in parts]
    if len(parts) < 2 or len(set(forms)) > 1 or not all(plain) or parts[0].scales:
        raise ValueError(f"The parts are {forms}; give two or more topk autoencoders of equal d, width and k.")
    trained_on = [part.metadata.get("run", {}).get("states", {}).get("encoder") for part in parts]
    if any(origin != trained_on[0] for origin in trained_on):
        raise ValueError(f"The parts were trained on different retrievers or layers, {trained_on}; join those of one.")
    W_enc, W_dec = (torch.cat([part.tensors()[name] for part in parts]) for name in ("W_enc", "W_dec"))
    b_pre = torch.stack([part.b_pre.double() for part in parts]).mean(dim=0)
    b_enc = [part.b_enc + part.W_enc.double() @ (b_pre - part.b_pre) for part in parts]
    metadata: dict = {"parts": [part.metadata for part in parts]}
    if trained_on[0]:
        metadata["run"] = {"states": {"encoder": trained_on[0]}}
    activation = FinishedTopK(sum(part.k for part in parts), groups=len(parts))
    return SparseAutoencoder(W_enc, torch.cat(b_enc), W_dec / len(parts), b_pre, activation, metadata)


def part_of(joined: SparseAutoencoder, number: int) -> SparseAutoencoder:
    """Return the autoencoder with the codes of one part of those that `join` joined, up to rounding.

    Its reconstruction is off by the difference of its own b_pre to the parts' mean. Raises TypeError or ValueError for
    a number that is none of the parts', from 0 on, and for parts that `boosting.boost` joined.
    """
    if isinstance(joined.activation, FinishedBoosted):
        raise ValueError(f"{joined!r} is boosted: a part reads what those before it leave; give one that join made.")
    groups = getattr(joined.activation, "groups", 1)
    size = joined.width // groups
    columns = slice(check_integer(number, "number", 0, groups - 1) * size, (number + 1) * size)
    weights = {"W_enc": joined.W_enc[columns], "b_enc": joined.b_enc[columns], "W_dec": joined.W_dec[columns] * groups}
    activation = joined.activation if groups == 1 else FinishedTopK(joined.k // groups)
    return SparseAutoencoder(
        **weights, b_pre=joined.b_pre, activation=activation, metadata=joined.metadata, centre=joined.centre
    )


def _in_bytes(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 [n, d] as int8 and the scale of each row, float32 [n]: the row is about int8 * scale."""
    scale = np.abs(matrix).max(axis=1) / np.float32(127)
    scale[scale < np.finfo(np.float32).tiny] = 1  # a row of zeros, or of what is as good as zero
    return np.rint(matrix / scale[:, None]).astype(np.int8), scale
