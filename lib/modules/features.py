"""What both modules do with the features they are handed, with their dimensions and with their configuration."""

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.base.modules import Module

from lib.checks import check_count
from lib.storage import replacing


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
    """Return a packed feature, [n_tokens, m] or [1, n_tokens, m], as [n_tokens, m]; ValueError for other shapes."""
    tensor = feature(features, key, maker)
    flat = tensor[0] if tensor.ndim == 3 and len(tensor) == 1 else tensor
    n_tokens = int(features["cu_seq_lens_q"][-1])
    if flat.ndim != 2 or len(flat) != n_tokens:
        raise ValueError(
            f"Expected flattened {key} to be rank 2; got {tuple(tensor.shape)}. It must be [{n_tokens}, m] or "
            f"[1, {n_tokens}, m], as cu_seq_lens_q ends at {n_tokens} tokens."
        )
    return flat


def check_dimension(value: int, name: str) -> int:
    """Return `value`, an int of at least 1; TypeError or ValueError for others."""
    if isinstance(value, int) and value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value}.")
    return check_count(value, name)


def check_k(k: int, hidden_dim: int) -> int:
    """Return `k`, an int from 1 to `hidden_dim`; TypeError or ValueError for others."""
    if check_dimension(k, "k") > hidden_dim:
        raise ValueError(f"k must be <= hidden_dim, got k={k}, hidden_dim={hidden_dim}.")
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
    cheap at any size, and the same whether a model is loaded in float32 or bfloat16.
    """
    before = modules_before(model, module)
    digest = hashlib.sha256()
    for name, weight in torch.nn.ModuleList(before).named_parameters():
        digest.update(f"{name} {tuple(weight.shape)}\n".encode())
        digest.update(weight.detach().flatten()[:64].bfloat16().float().cpu().numpy())
    name = next((m.config.name_or_path for m in before if hasattr(getattr(m, "config", None), "name_or_path")), "")
    return {"name": name, "fingerprint": digest.hexdigest()}


def warn_of_another_origin(trained_on: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Warn if what an autoencoder reads is not what it was trained on, by their fingerprints."""
    if trained_on["fingerprint"] != found["fingerprint"]:
        was, is_now = (f"{origin['name']} ({origin['fingerprint'][:12]})" for origin in (trained_on, found))
        warnings.warn(
            f"The autoencoder was trained on the states of {was}; before it is {is_now}, with other weights or another "
            "layer. Its latents mean something on the states that it was trained on only.",
            stacklevel=2,
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
