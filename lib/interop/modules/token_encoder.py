"""Token states to sparse codes, as a module of a `SparseEncoder`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import embedding_bag

from lib.interop.modules.features import (
    LatentModule,
    check_fits,
    complete_card,
    feature,
    origin_of,
    unpacked,
    warn_of_another_origin,
)
from lib.sae.codes import largest_codes
from lib.sae.foreign import (
    CHECKPOINT_WEIGHTS,
    check_checkpoint_version,
    check_rms_scale,
    json_object,
    read_checkpoint_file,
    read_safetensors,
)
from lib.support.checks import check_choice, check_count, check_integer

_CHUNK = 2**25  # pre-activations held at once: 128 MB of float32


class _OfFrozen(torch.autograd.Function):
    """The values z [N, k] of codes of x [N, D] by frozen weights, with a backward pass that makes no [N, width].

    d z_ij / d x_i is the column of W_enc of that latent where z_ij > 0, else 0.
    """

    @staticmethod
    def forward(ctx, x, W_enc, indices, values):
        """Return `values`."""
        ctx.save_for_backward(W_enc, indices, values)
        return values.clone()

    @staticmethod
    def backward(ctx, gradient):
        """Return the gradient of x; the others have none."""
        W_enc, indices, values = ctx.saved_tensors
        weights = (gradient * (values > 0)).to(W_enc.dtype)
        return embedding_bag(indices, W_enc.T.contiguous(), per_sample_weights=weights, mode="sum"), None, None, None


class SparseAutoEncoderTokenEncoder(LatentModule):
    """Token embeddings h to sparse codes z, a token at a time.

    x = sqrt(D) h' / |h'|,  h' = h - data_mean, or rms_scale h if there is no data_mean
    standard:  z = ReLU(TopK_k(pre)),  pre = W_enc^T (x - b_pre) + b_enc      (Gao et al., arXiv 2406.04093, eqs. 1-2)
               with groups, TopK_{k / groups} in each group of the latents alone (`lib.sae.autoencoder.join`)
    jumprelu:  z = ReLU(TopK_k(pre [pre > theta]))      (Rajamanoharan et al., arXiv 2407.14435)
    x_hat = W_dec^T z + b_pre

    Reads `token_embeddings`: padded [B, T, D], flattened [N, D], or packed with `cu_seq_lens_q`, [N, D] or [1, N, D].
    Writes `token_sparse_values` and `token_sparse_indices` (int64), which have k instead of D;
    `backbone_token_embeddings`, what it read; `token_sparse_embeddings`, dense, if the output format includes it; and
    in training mode, if there is a decoder, `sae_input_normalized` x and `sae_output_decoded` x_hat, both [N, D] with
    the padding, for a loss (`lib.interop.losses`).

    Raises TypeError or ValueError for settings that are not as above.

    Parameters
    ----------
    input_dim, hidden_dim : int
        D, the size of a token embedding, and the width, the number of latents.
    k : int
        Latents a token may have. `max_active_dims`, if `SparseEncoder` is given one, replaces it; the library then cuts
        a text's row to as many, too.
    variant : {"standard", "jumprelu"}
        No gradient reaches the thresholds theta of jumprelu; they are for autoencoders trained elsewhere.
    output_format : {"topk", "dense", "both"}
        Values and indices are always written; "dense" and "both" add `token_sparse_embeddings` [..., width].
    replace_token_embeddings : bool
        Whether the dense form replaces `token_embeddings` too.
    has_decoder : bool
        Whether there is a W_dec, which only training needs.
    k_aux : int
        Dead latents that a loss may reconstruct the residual from, at most (and at most D / 2); 0 is none.
    frozen : bool
        Whether the weights are fixed.
    rms_scale : float, optional
        A factor of all states, above 0, where there is no data_mean. Scaling to one norm cancels it, but for rounding.
    token_batch_size : int, optional
        Tokens whose pre-activations are held at once; None is as many as make 128 MB.
    normalize_input : bool
        False is x = h: how `lib.sae.autoencoder.SparseAutoencoder` reads states.
    groups : int
        Into how many equal parts the latents are divided for the selection; it divides k and the width.
    trained_on : mapping, optional
        Name and fingerprint of what it was trained to read; `SparseEncoder` warns where it reads something else.
    checkpoint_format_version : int
        1, the version that this package reads and writes.

    Attributes
    ----------
    W_enc, W_dec : torch.nn.Parameter [D, width] and [width, D]
        To begin with, W_dec is Kaiming-uniform with rows of norm 1, W_enc its transpose.
    b_enc, b_pre : torch.nn.Parameter [width] and [D]
    theta : torch.nn.Parameter [width] or None
    data_mean : torch.Tensor [D] or None
        A buffer; assign the mean of the token embeddings to subtract it.
    """

    config_keys = [  # noqa: RUF012
        *("input_dim", "hidden_dim", "k", "variant", "output_format", "replace_token_embeddings"),
        *("checkpoint_format_version", "has_decoder", "k_aux", "frozen", "rms_scale", "token_batch_size"),
    ]
    own_settings = {"normalize_input": True, "groups": 1, "trained_on": None}  # noqa: RUF012
    forward_kwargs = {"max_active_dims"}  # noqa: RUF012

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        k: int,
        variant: str = "standard",
        output_format: str = "topk",
        replace_token_embeddings: bool = False,
        has_decoder: bool = True,
        k_aux: int = 512,
        frozen: bool = False,
        rms_scale: float | None = None,
        token_batch_size: int | None = None,
        normalize_input: bool = True,
        groups: int = 1,
        trained_on: Mapping[str, str] | None = None,
        checkpoint_format_version: int = 1,
    ):
        super().__init__()
        self.input_dim = check_count(input_dim, "input_dim")
        self.hidden_dim = check_count(hidden_dim, "hidden_dim")
        self.groups = check_count(groups, "groups")
        if hidden_dim % groups or (groups > 1 and variant != "standard"):
            raise ValueError(f"groups is {groups}; it must divide hidden_dim, {hidden_dim}, and be 1 with thresholds.")
        self.k = self._checked_k(k)
        self.variant = check_choice(variant, ("standard", "jumprelu"), "variant")
        self.output_format = check_choice(output_format, ("topk", "dense", "both"), "output_format")
        self.replace_token_embeddings, self.has_decoder = replace_token_embeddings, has_decoder
        self.k_aux, self.frozen = check_integer(k_aux, "k_aux"), frozen
        self.rms_scale = check_rms_scale(rms_scale, type(self).__name__)
        self.token_batch_size = None if token_batch_size is None else check_count(token_batch_size, "token_batch_size")
        self.normalize_input = normalize_input
        self.checkpoint_format_version = check_checkpoint_version(checkpoint_format_version, type(self).__name__)
        is_origin = isinstance(trained_on, Mapping) and {"name", "fingerprint"} <= trained_on.keys()
        if trained_on is not None and not is_origin:
            raise ValueError(f"trained_on is {trained_on!r}; it must map name and fingerprint, as origin_of does.")
        self.trained_on = trained_on
        self.target_norm = input_dim**0.5
        shapes: dict[str, tuple[int, ...] | None]
        shapes = {"W_enc": (input_dim, hidden_dim), "b_enc": (hidden_dim,), "b_pre": (input_dim,)}
        shapes["W_dec"] = (hidden_dim, input_dim) if has_decoder else None
        shapes["theta"] = (hidden_dim,) if variant == "jumprelu" else None
        for name, shape in shapes.items():
            weight = None if shape is None else torch.nn.Parameter(torch.zeros(shape), requires_grad=not frozen)
            self.register_parameter(name, weight)
        self.register_buffer("data_mean", None)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the directions of the latents anew, and set biases and thresholds to 0."""
        directions = torch.empty_like(self.W_enc.T)
        torch.nn.init.kaiming_uniform_(directions, a=5**0.5)
        directions /= directions.norm(dim=1, keepdim=True)
        self.W_enc.copy_(directions.T)
        if self.W_dec is not None:
            self.W_dec.copy_(directions)
        for weight in (self.b_enc, self.b_pre, self.theta):
            if weight is not None:
                weight.zero_()

    def _checked_k(self, k: int) -> int:
        if check_count(k, "k") > self.hidden_dim or k % self.groups:
            raise ValueError(f"k is {k}; it must be at most {self.hidden_dim}, and a multiple of groups={self.groups}.")
        return int(k)

    def normalize(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return x of token embeddings [..., D], float32; ValueError for a data_mean of another size."""
        x = tokens.float()
        if not self.normalize_input:
            return x
        if self.data_mean is not None:
            if self.data_mean.shape != (self.input_dim,):
                raise ValueError(f"data_mean has shape {tuple(self.data_mean.shape)}, not ({self.input_dim},).")
            x = x - self.data_mean
        elif self.rms_scale is not None:
            x = x * self.rms_scale
        return x * (self.target_norm / x.norm(dim=-1, keepdim=True).clamp(min=1e-8))

    def encode_pre_act(self, x: torch.Tensor) -> torch.Tensor:
        """Return the pre-activations [..., width] of normalised tokens [..., D]."""
        return (x - self.b_pre) @ self.W_enc + self.b_enc

    def encode_tokens(self, tokens: torch.Tensor, k: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return activations, at least 0, and latents, int64, both [N, k], of token embeddings [N, D].

        TypeError or ValueError for a k that is not allowed, and embeddings of another size.
        """
        k = self.k if k is None else self._checked_k(k)
        return self._encode(self._normalized(tokens), k)

    def _normalized(self, tokens: torch.Tensor) -> torch.Tensor:
        if (size := tokens.shape[-1]) != self.input_dim:
            raise ValueError(f"token_embeddings have size {size}, not size {self.input_dim}; use its own Transformer.")
        return self.normalize(tokens).to(self.W_enc.dtype)

    def _encode(self, x: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        codes = []
        for chunk in x.split(self.token_batch_size or max(1, _CHUNK // self.hidden_dim)):
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
                pre = self.encode_pre_act(chunk)
                if self.theta is not None:
                    pre = pre * (pre > self.theta)
                indices, values = largest_codes(pre, k, self.groups)
            codes.append((indices, _OfFrozen.apply(chunk, self.W_enc, indices, values) if self.frozen else values))
        indices, values = (torch.cat(parts) for parts in zip(*codes, strict=True))
        return values, indices

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return x_hat [..., D] of dense codes [..., width]; ValueError if there is no decoder."""
        return latents @ self._decoder() + self.b_pre

    def _decoder(self) -> torch.Tensor:
        if self.W_dec is None:
            raise ValueError("This SparseAutoEncoderTokenEncoder has no decoder; make it with has_decoder=True.")
        return self.W_dec

    def decode_codes(self, values: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Return what `decode` returns, [N, D], of the few activations and latents [N, k] that are not 0."""
        decoder = self._decoder()
        weights = values.to(decoder.dtype)
        return embedding_bag(indices, decoder, per_sample_weights=weights, mode="sum") + self.b_pre

    def forward(self, features: dict[str, Any], max_active_dims: int | None = None, **kwargs) -> dict[str, Any]:
        """Add codes to `features`, as the class says.

        MissingFeatureError (a KeyError and a ValueError) without `token_embeddings`; ValueError for embeddings of
        another shape or size, bounds of texts that decrease, and a `max_active_dims` that is not allowed for k.
        """
        maker = "the Transformer before SparseAutoEncoderTokenEncoder"
        embeddings = feature(features, "token_embeddings", maker)
        k = self.k if max_active_dims is None else self._checked_k(max_active_dims)
        if "cu_seq_lens_q" in features:
            tokens = unpacked(features, "token_embeddings", maker)
        elif embeddings.ndim in (2, 3):
            tokens = embeddings.flatten(0, -2)
        else:
            raise ValueError(f"token_embeddings have shape {tuple(embeddings.shape)}; give [B, T, D] or [N, D].")
        x = self._normalized(tokens)
        values, indices = self._encode(x, k)
        if self.training and self.W_dec is not None:
            features["sae_input_normalized"] = x
            features["sae_output_decoded"] = self.decode_codes(values, indices)
        shape = embeddings.shape[:-1]
        features["backbone_token_embeddings"] = embeddings
        features["token_sparse_values"] = values.reshape(*shape, k)
        features["token_sparse_indices"] = indices.reshape(*shape, k)
        if self.output_format != "topk" or self.replace_token_embeddings:
            dense = values.new_zeros(len(values), self.hidden_dim).scatter(-1, indices, values)
            features["token_sparse_embeddings"] = dense.reshape(*shape, self.hidden_dim)
        if self.replace_token_embeddings:
            features["token_embeddings"] = features["token_sparse_embeddings"]
        return features

    def on_model_ready(self, model: torch.nn.Sequential) -> None:
        """Check what it reads against what it was trained on, and tag the model card; called by `SparseEncoder`."""
        super().on_model_ready(model)
        check_fits(model, self, self.input_dim)
        if self.trained_on is not None:
            warn_of_another_origin(self.trained_on, origin_of(model, self))
        complete_card(model.model_card_data)

    def get_embedding_dimension(self) -> int:
        """Return the width."""
        return self.hidden_dim

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **kwargs) -> "SparseAutoEncoderTokenEncoder":
        """Load what `save` wrote, from a folder or the hub; called by `SparseEncoder`, whose arguments it takes.

        ValueError if configuration or safetensors are missing or damaged, or do not fit each other.
        """
        names = ("token", "cache_folder", "revision", "local_files_only")
        source = {"subfolder": subfolder} | {name: kwargs[name] for name in names if name in kwargs}
        files = (cls.config_file_name, CHECKPOINT_WEIGHTS)
        config, weights = (cls.load_file_path(model_name_or_path, file, **source) for file in files)
        if config is None or weights is None:
            lacking = f"{model_name_or_path}/{subfolder} lacks {' or '.join(files)}"
            raise ValueError(f"{lacking}; a pickle is not read. Save the model with safe_serialization=True.")
        settings = json_object(Path(config).read_text("utf-8"), config)
        return cls._restored(settings, read_safetensors(Path(weights))[0], config)

    @classmethod
    def from_checkpoint(
        cls, path: str | Path, device: str = "cpu", frozen: bool = True, **kwargs
    ) -> "SparseAutoEncoderTokenEncoder":
        """Load a trained autoencoder from one safetensors file with the tensors named above.

        Its configuration is JSON under the key "config" of the file's own metadata, or a `config.json` beside it;
        dimensions, variant and decoder are those of the tensors where it does not name them, and keys that are no
        settings of this class are ignored. A scalar tensor `rms_scale` is read too.

        Raises FileNotFoundError or ValueError if the file is missing or not safetensors (a pickle is refused), if its
        configuration is no JSON object, lacks k or has a setting that is not allowed, and for tensors that are missing
        or do not fit.

        Parameters
        ----------
        path : str or Path
            The file, or the folder that `save` wrote.
        device : str
            A torch device, where the weights are put.
        frozen, **kwargs
            Settings of the class that replace those of the configuration, for example `k` or `token_batch_size`.
        """
        path, tensors, config = read_checkpoint_file(path)
        if "W_enc" not in tensors or tensors["W_enc"].ndim != 2:
            raise ValueError(f"{path} has no matrix W_enc [D, width]; it holds {sorted(tensors)}.")
        settings = dict(zip(("input_dim", "hidden_dim"), tensors["W_enc"].shape, strict=True))
        settings |= {"variant": "jumprelu" if "theta" in tensors else "standard", "has_decoder": "W_dec" in tensors}
        settings |= {key: value for key, value in config.items() if key in {*cls.config_keys, *cls.own_settings}}
        if "rms_scale" in tensors:
            settings["rms_scale"] = check_rms_scale(tensors.pop("rms_scale"), str(path))
        settings |= {"frozen": frozen, **kwargs}
        if "k" not in settings:
            raise ValueError(f"{path} does not state how many latents a token may have; give k, for example k=16.")
        if not settings["has_decoder"]:
            tensors.pop("W_dec", None)
        return cls._restored(settings, tensors, path).to(device)

    @classmethod
    def _restored(
        cls, settings: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], source: str | Path
    ) -> "SparseAutoEncoderTokenEncoder":
        try:
            module = cls(**settings)
            if "data_mean" in tensors:
                module.data_mean = torch.zeros(module.input_dim)
            module.load_state_dict(tensors)
        except (TypeError, ValueError, RuntimeError) as error:  # the last for tensors that do not fit
            raise ValueError(f"{source} cannot be read: {error}") from error
        return module
