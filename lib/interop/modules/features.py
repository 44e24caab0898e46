"""What both modules do with the features they are handed, with their dimensions and with their configuration."""

import hashlib
import json
import re
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from sentence_transformers.base.model_card import BaseModelCardData
from sentence_transformers.base.modules import Module

from lib.support.checks import check_count
from lib.support.folders import replacing


class MissingFeatureError(KeyError, ValueError):
    """The module before this one did not put what this one reads into the features."""

    __str__ = ValueError.__str__  # KeyError's is the repr of the message


def feature(features: Mapping[str, Any], key: str, maker: str) -> Any:
    """Return `features[key]`; a MissingFeatureError that names `maker`, whose work it is, if there is none."""
    if key not in features:
        found = ", ".join(map(repr, features)) or "nothing"
        raise MissingFeatureError(f"The features lack {key!r}, which {maker} makes; they hold {found}.")
    return features[key]


def unpacked(features: Mapping[str, Any], key: str, maker: str) -> torch.Tensor:
    """Return a packed feature, [n_tokens, m] or [1, n_tokens, m], as [n_tokens, m].

    ValueError for other shapes, and for bounds that are none.
    """
    tensor, bounds = feature(features, key, maker), features["cu_seq_lens_q"]
    flat = tensor[0] if tensor.ndim == 3 and len(tensor) == 1 else tensor
    if bounds.ndim != 1 or not len(bounds) or bounds[0] != 0 or (bounds.diff() < 0).any():
        raise ValueError(
            f"cu_seq_lens_q is {bounds.tolist()}; it must begin with 0 and never decrease: where each text starts, and "
            "where the last one ends, as the Transformer makes it."
        )
    n_tokens = int(bounds[-1])
    if flat.ndim != 2 or len(flat) != n_tokens:
        raise ValueError(
            f"Expected flattened {key} to be rank 2; got {tuple(tensor.shape)}. It must be [{n_tokens}, m] or "
            f"[1, {n_tokens}, m], as cu_seq_lens_q ends at {n_tokens} tokens."
        )
    return flat


def real_tokens(mask: torch.Tensor | None, shape: torch.Size) -> torch.Tensor | None:
    """Return the attention mask of tokens [B, T] as bool, None if there is none; ValueError for another shape."""
    if mask is not None and mask.shape != shape:
        raise ValueError(
            f"attention_mask has shape {tuple(mask.shape)}, the tokens {tuple(shape)}; give the mask of these tokens, "
            "or none where all count."
        )
    return None if mask is None else mask.bool()


def check_dimension(value: int, name: str) -> int:
    """Return `value`, an int of at least 1; TypeError or ValueError for others."""
    if isinstance(value, int) and value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value}.")
    return check_count(value, name)


def check_k(k: int, hidden_dim: int, groups: int) -> int:
    """Return `k`, an int from 1 to `hidden_dim` and a multiple of `groups`; TypeError or ValueError for others."""
    if check_dimension(k, "k") > hidden_dim:
        raise ValueError(f"k must be <= hidden_dim, got k={k}, hidden_dim={hidden_dim}.")
    if k % groups:
        raise ValueError(f"k must be a multiple of groups, got k={k}, groups={groups}.")
    return int(k)


def modules_before(model: torch.nn.Sequential, module: Module) -> list[torch.nn.Module]:
    """Return the modules of `model` that come before `module`."""
    modules = list(model)
    return modules[: next(i for i, other in enumerate(modules) if other is module)]


def check_fits(model: torch.nn.Sequential, module: Module, size: int) -> None:
    """Raise a ValueError if the module before `module` in `model` does not give what has `size` numbers."""
    before = modules_before(model, module)[-1:]
    given = before[0].get_embedding_dimension() if before and hasattr(before[0], "get_embedding_dimension") else size
    if given != size:
        raise ValueError(
            f"{type(before[0]).__name__} has embedding dimension {given}, {type(module).__name__} behind it reads "
            f"{size}; pair it with what it was made for."
        )


def origin_of(model: torch.nn.Sequential, module: Module) -> dict[str, str]:
    """Return name and fingerprint of what `module` reads, JSON-able: the modules before it in `model`.

    The fingerprint is the sha256 of the names, the shapes and the first 64 numbers, in bfloat16, of all parameters:
    cheap at any size, and the same whether a model is loaded in float32 or bfloat16. Of a folder, the name is the last
    part: it is saved with the model, and where the folder was is nobody's business.
    """
    before = modules_before(model, module)
    digest = hashlib.sha256()
    for name, weight in torch.nn.ModuleList(before).named_parameters():
        digest.update(f"{name} {tuple(weight.shape)}\n".encode())
        digest.update(weight.detach().flatten()[:64].bfloat16().float().cpu().numpy())
    name = next((m.config.name_or_path for m in before if hasattr(getattr(m, "config", None), "name_or_path")), "")
    return {"name": public_name(name), "fingerprint": digest.hexdigest()}


def public_name(name: str) -> str:
    """Return the name of a model as others may read it: a hub id as it is, of a folder the last part."""
    return Path(name).name if Path(name).is_absolute() or Path(name).is_dir() else name


def check_origin(trained_on: Mapping[str, str]) -> dict[str, str]:
    """Return name and fingerprint, as `origin_of` gives them; ValueError for what lacks one."""
    if not isinstance(trained_on, Mapping) or not all(
        isinstance(trained_on.get(key), str) for key in ("name", "fingerprint")
    ):
        raise ValueError(
            f"trained_on must have name and fingerprint, both str, as origin_of gives; got {trained_on!r}."
        )
    return dict(trained_on)


def warn_of_another_origin(trained_on: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Warn if what an autoencoder reads is not what it was trained on, by their fingerprints."""
    if trained_on["fingerprint"] != found["fingerprint"]:
        was, is_now = (f"{origin['name']} ({origin['fingerprint'][:12]})" for origin in (trained_on, found))
        warnings.warn(
            f"The autoencoder was trained on the states of {was}; before it is {is_now}, with other weights or another "
            "layer. Its latents mean something on the states that it was trained on only.",
            stacklevel=2,
        )


def complete_card(card: BaseModelCardData) -> None:
    """Tag the card of a model with these modules, and have its usage snippet say what it needs."""
    card.add_tags(["token-sae", "latent-terms"])
    if "Token SAE" not in card.model_type:
        card.model_type = f"Token SAE {card.model_type}"
    card.generate_usage_snippet = partial(_usage_snippet, card)


def _usage_snippet(card: BaseModelCardData) -> str:
    snippet = type(card).generate_usage_snippet(card)
    loaded = re.sub(r'(= SparseEncoder\("[^"\n]*")\)', r"\1, trust_remote_code=True)", snippet, count=1)
    return (
        "Its autoencoder and pooling are modules of the package `latent-terms`, which must be installed too. "
        "`trust_remote_code=True` is what Sentence Transformers asks for before it imports another package's modules; "
        f"`lib.interop.conversion.load_sparse_encoder` does without.\n\n{loaded}"
    )


def config_of(module: Module) -> dict[str, Any]:
    """Return the configuration of a module: its `config_keys`, and of its `own_settings` those that are not as usual.

    The first are the keys of pull request 3796, so its modules load what is saved with no setting of ours.
    """
    ours = {key: getattr(module, key) for key, usual in module.own_settings.items() if getattr(module, key) != usual}
    return {key: getattr(module, key) for key in module.config_keys} | ours


def write_config(module: Module, folder: str | Path) -> Path:
    """Write a module's configuration to `folder`, which is made if there is none, in one step; return the folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / module.config_file_name) as temporary:
        temporary.write_text(json.dumps(module.get_config_dict(), indent=4) + "\n", "utf-8")
    return folder


def read_safetensors(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the tensors of a file, and its metadata."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file {path}; give a safetensors file.")
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a safetensors file ({error}). A pickle can run code when it is read, so it is refused; "
            "where you trust it, read it with torch.load and write its tensors with safetensors.torch.save_file."
        ) from error
