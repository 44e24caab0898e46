"""What both modules do with their features, their dimensions and their configuration."""

import hashlib
import json
import re
import warnings
from collections.abc import Mapping
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from sentence_transformers.base.model_card import BaseModelCardData
from sentence_transformers.base.modules import Module

from lib import __version__
from lib.sae.foreign import CHECKPOINT_WEIGHTS
from lib.support.files import make_folder, replacing

MARKER = "Latent Terms"  # in the first line of `lib/__init__.py`, by which a model card recognises this package
_REASON = (
    "Its modules are those of latent-terms, whose package is called lib; another package of that name does not have "
    "them."
)
_CHECK = f'''```python
from importlib.util import find_spec
from pathlib import Path

spec = find_spec("lib")  # imports nothing
if spec is None or spec.origin is None or "{MARKER}" not in Path(spec.origin).read_text("utf-8"):
    raise ImportError(f"lib is not that of latent-terms: {{spec}}. Use an environment in which no other is called so.")

'''


class LatentModule(Module):
    """A module that is saved with the keys of pull request 3796, `config_keys`, and atomically.

    Those of its `own_settings`, which the pull request does not have, are saved only where they are not the default,
    so that the pull request's module loads what is saved without them.
    """

    own_settings: Mapping[str, Any]

    def get_config_dict(self) -> dict[str, Any]:
        """Return what `load` needs but the weights, JSON-able."""
        changed = [key for key, default in self.own_settings.items() if getattr(self, key) != default]
        return {key: getattr(self, key) for key in [*self.config_keys, *changed]}

    def save(self, output_path: str | Path, *args, safe_serialization: bool = True, **kwargs) -> None:
        """Write `config.json` and, if there are weights, `model.safetensors` to a folder, each in one step.

        ValueError if `safe_serialization` is False: that would be a pickle.
        """
        if not safe_serialization:
            raise ValueError("safe_serialization is False, which writes a pickle; only safetensors are written here.")
        state = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        folder = make_folder(output_path)
        with replacing(folder / self.config_file_name) as temporary:
            temporary.write_text(json.dumps(self.get_config_dict(), indent=4) + "\n", "utf-8")
        if state:
            with replacing(folder / CHECKPOINT_WEIGHTS) as temporary:
                temporary.write_bytes(safetensors.torch.save(state, metadata={"format": "pt"}))

    def on_model_ready(self, model: torch.nn.Sequential) -> None:
        """Have the model's configuration state which package it needs; called by `SparseEncoder`.

        sentence-transformers reads that before it imports a module.
        """
        model._get_model_config = partial(_config, model)


def _config(model: torch.nn.Sequential) -> dict[str, Any]:
    needed = {"latent-terms": {"specifier": f">={__version__}", "reason": _REASON}}
    return type(model)._get_model_config(model) | {"requirements": needed}


class MissingFeatureError(KeyError, ValueError):
    """The module before this one did not put what this one reads into the features."""

    __str__ = ValueError.__str__  # KeyError's is the repr of the message


def feature(features: Mapping[str, Any], key: str, maker: str) -> Any:
    """Return `features[key]`; a MissingFeatureError that names `maker`, which writes it, if there is none."""
    if key not in features:
        present = ", ".join(map(repr, features)) or "nothing"
        raise MissingFeatureError(f"The features lack {key!r}, which {maker} makes; they hold {present}.")
    return features[key]


def unpacked(features: Mapping[str, Any], key: str, maker: str) -> torch.Tensor:
    """Return a packed feature, [n_tokens, m] or [1, n_tokens, m], as [n_tokens, m].

    ValueError for other shapes, and for `cu_seq_lens_q` that are not ascending from 0.
    """
    tensor, bounds = feature(features, key, maker), features["cu_seq_lens_q"]
    flat = tensor[0] if tensor.ndim == 3 and len(tensor) == 1 else tensor
    if bounds.ndim != 1 or not len(bounds) or bounds[0] != 0 or (bounds.diff() < 0).any():
        raise ValueError(f"cu_seq_lens_q is {bounds.tolist()}; it must start at 0 and not decrease: the texts' bounds.")
    n_tokens = int(bounds[-1])
    if flat.ndim != 2 or len(flat) != n_tokens:
        allowed = f"as cu_seq_lens_q ends at {n_tokens} tokens, it must be [{n_tokens}, m] or [1, {n_tokens}, m]"
        raise ValueError(f"{key} has shape {tuple(tensor.shape)}; {allowed}.")
    return flat


def real_tokens(mask: torch.Tensor | None, values: torch.Tensor) -> torch.Tensor:
    """Return which tokens of `values` [..., k] an attention mask counts, bool [...], all without a mask.

    ValueError for a mask of another shape.
    """
    shape = values.shape[:-1]
    if mask is None:
        return values.new_ones(shape, dtype=torch.bool)
    if mask.shape != shape:
        raise ValueError(f"attention_mask has shape {tuple(mask.shape)}, not {tuple(shape)}; give the tokens' or none.")
    return mask.to(values.device).bool()


def modules_before(model: torch.nn.Sequential, module: Module) -> list[torch.nn.Module]:
    """Return the modules of `model` that come before `module`."""
    return list(takewhile(lambda candidate: candidate is not module, model))


def check_fits(model: torch.nn.Sequential, module: Module, size: int) -> None:
    """Raise a ValueError if the module before `module` in `model` has another embedding dimension than `size`."""
    for before in modules_before(model, module)[-1:]:
        dimension = before.get_embedding_dimension() if hasattr(before, "get_embedding_dimension") else size
        if dimension != size:
            names = f"{type(before).__name__} has embedding dimension {dimension}, {type(module).__name__}"
            raise ValueError(f"{names} behind it reads {size}; pair it with what it was made for.")


def origin_of(model: torch.nn.Sequential, module: Module) -> dict[str, str]:
    """Return name and fingerprint of what `module` reads, JSON-able: the modules before it in `model`.

    The fingerprint is the sha256 of the names, the shapes and the first 64 numbers, in bfloat16, of all parameters:
    cheap at any size, and the same whether a model is loaded in float32 or bfloat16. The name of a folder is its last
    part: it is saved with the model, which others may read.
    """
    before = modules_before(model, module)
    digest = hashlib.sha256()
    for name, weight in torch.nn.ModuleList(before).named_parameters():
        digest.update(f"{name} {tuple(weight.shape)}\n".encode())
        digest.update(weight.detach().flatten()[:64].bfloat16().float().cpu().numpy())
    name = next((m.config.name_or_path for m in before if hasattr(getattr(m, "config", None), "name_or_path")), "")
    return {"name": public_name(name), "fingerprint": digest.hexdigest()}


def public_name(name: str) -> str:
    """Return the name of a model as others may read it: a hub id as it is, the last part of a folder's path."""
    return Path(name).name if Path(name).is_absolute() or Path(name).is_dir() else name


def warn_of_another_origin(trained_on: Mapping[str, str], origin: Mapping[str, str]) -> None:
    """Warn if what an autoencoder reads, by its fingerprint, is not what it was trained on."""
    if trained_on["fingerprint"] != origin["fingerprint"]:
        expected, actual = (f"{each['name']} ({each['fingerprint'][:12]})" for each in (trained_on, origin))
        warnings.warn(
            f"The autoencoder was trained on the states of {expected}; it reads those of {actual}, with other weights "
            "or from another layer. Its latents have a meaning on the states that it was trained on only.",
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
        "Sentence Transformers requires `trust_remote_code=True` before it imports another package's modules, and then "
        "imports whatever is called `lib`: the first lines below make sure that it is the right one. "
        "`lib.interop.conversion.load_sparse_encoder` does without the flag, and runs no code of the repository.\n\n"
        + loaded.replace("```python\n", _CHECK, 1)
    )
