"""Autoencoders that others trained, read into `SparseAutoencoder`, and ours written for them; safetensors only.

SAELens and sparsify each keep a `cfg.json` beside the weights. Their encoders are, row by row, one of

    pre = W_enc (h - b_dec) + b_enc,  or, without apply_b_dec_to_input,  pre = W_enc h + b_enc
    z = ReLU(TopK(pre)),  TopK(ReLU(pre)),  or  ReLU(pre) [pre > threshold]

which are two forms of `SparseAutoencoder` with b_pre = b_dec, after W_enc b_dec is added to b_enc in the second
case. The token autoencoders of sentence-transformers' pull request 3796 have the first form in one file, mostly of
states that are scaled to one norm. What would encode otherwise (transcoders, other scalings or activations) is
refused, as are joined autoencoders for SAELens.

What is known of the states that one was trained on is kept where `trainer.train` keeps it, in
`metadata["run"]["states"]["encoder"]`: model, hook (point) and layer, as `TokenEncoder` counts them. `LatentTerms`
compares it with its encoder.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lib.sae.autoencoder import SparseAutoencoder
from lib.sae.codes import FinishedActivation, FinishedJumpReLU, FinishedTopK
from lib.support.checks import check_choice
from lib.support.files import replacing, user_path

CONFIG = "cfg.json"
SAELENS_WEIGHTS, SPARSIFY_WEIGHTS = "sae_weights.safetensors", "sae.safetensors"
CHECKPOINT_WEIGHTS, CHECKPOINT_VERSION = "model.safetensors", 1
SAELENS_VERSION = "6.54.12"  # whose layout is written
_FOUR = {"W_enc", "b_enc", "W_dec", "b_dec"}
_SAELENS_TENSORS = {
    "topk": _FOUR,
    "jumprelu": _FOUR | {"threshold"},
    "batchtopk": _FOUR | {"topk_threshold"},
    "standard": _FOUR,
}
# Settings that change the codes: the only value that can be read, and the remedy for others.
_SAELENS_SETTINGS = {
    "normalize_activations": ("none", "Fold the scaling into the weights with SAELens (fold_activation_*), save again"),
    "reshape_activations": ("none", "Its input is several heads side by side; train one on token states"),
}
_SPARSIFY_SETTINGS = {
    "activation": ("topk", "Train with activation='topk'"),
    "transcode": (False, "It writes the states of another module; train an autoencoder"),
    "skip_connection": (False, "It adds a linear map of its input; train without skip_connection"),
    "signed": (False, "Its codes may be negative; train without signed"),
}
_BLOCK = re.compile(r"(?:.+\.)?(?:layers?|h|blocks?)\.(\d+)(?:\.(.+))?")  # transformers, TransformerLens: blocks from 0
_AFTER_BLOCK = {None: 1, "hook_resid_post": 1, "hook_normalized_resid_post": 1, "hook_resid_pre": 0}


def read_saelens(folder: str | Path, *, k: int | None = None) -> SparseAutoencoder:
    """Read a folder that SAELens 6 saved: `cfg.json` and `sae_weights.safetensors`.

    Architectures topk (also with `rescale_acts_by_decoder_norm`, whose norms are folded into the weights), jumprelu,
    batchtopk (a training checkpoint, whose one threshold becomes that of each latent, as SAELens itself saves it), and
    standard (ReLU, so thresholds of 0). Codes are computed in float32, whatever the weights are stored in. Its
    `metadata["saelens"]` is the whole `cfg.json`; of a folder that `write_saelens` made, metadata is as it was.

    Raises FileNotFoundError if one of the two files is missing; ValueError for files that are not JSON or safetensors,
    an SAE of before SAELens 6, an architecture or setting that has no exact counterpart here, tensors that are missing
    or unknown, and a k that is missing or not needed.

    Parameters
    ----------
    folder : str or Path
    k : int, optional
        Number of latents of a token on average. Needed with thresholds where the folder has no k; not for topk.
    """
    path, config = _read_config(folder)
    facts = _entry(path, config, "metadata")
    version = str(facts.get("sae_lens_version"))
    if not version.split(".")[0].isdecimal() or int(version.split(".")[0]) < 6:
        raise ValueError(
            f"{path} was saved by SAELens {version}; 6 and later are read. Save it again (save_model) with SAELens 6."
        )
    architecture = check_choice(_entry(path, config, "architecture"), _SAELENS_TENSORS, f"{path}: architecture")
    for key in _SAELENS_SETTINGS:
        _entry(path, config, key)
    _check_settings(path, config, _SAELENS_SETTINGS)
    tensors = _only(path.with_name(SAELENS_WEIGHTS), _SAELENS_TENSORS[architecture])
    W_enc, b_enc, W_dec, b_dec = (tensors[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec"))
    if architecture in ("topk", "batchtopk") and config.get("rescale_acts_by_decoder_norm", False):
        norms = W_dec.norm(dim=1)  # z_j |W_dec_j| and W_dec_j / |W_dec_j|: the same reconstruction
        W_enc, b_enc, W_dec = W_enc * norms, b_enc * norms, W_dec / norms.clamp(min=1e-8)[:, None]
    if not _entry(path, config, "apply_b_dec_to_input"):
        b_enc = b_enc + b_dec @ W_enc
    k = _saelens_k(path, config, facts, architecture, k)
    threshold = tensors.get("threshold", tensors.get("topk_threshold", torch.tensor(0.0)))
    threshold = threshold.clamp(min=0).expand_as(b_enc)  # below 0, the ReLU decides
    with _naming(path):
        activation = FinishedTopK(k) if architecture == "topk" else FinishedJumpReLU(k, threshold)
        metadata = facts.get("latent_terms", {"saelens": config, **_saelens_origin(config | facts)})
        sae = SparseAutoencoder(W_enc.T, b_enc, W_dec, b_dec, activation, metadata)
    return _checked(sae, path, d_in=_entry(path, config, "d_in"), d_sae=_entry(path, config, "d_sae"))


def read_sparsify(folder: str | Path) -> SparseAutoencoder:
    """Read a folder that EleutherAI's sparsify saved for one hookpoint: `cfg.json` and `sae.safetensors`.

    `folder` is such as `checkpoints/run/layers.5`, not that of the run: its name is the hookpoint, and the run's
    `config.json` names the model. Codes are computed in float32, whatever the weights are stored in.
    `metadata["sparsify"]` is the whole `cfg.json`.

    Raises FileNotFoundError if one of the two files is missing; ValueError for files that are not JSON or safetensors,
    groupmax, signed codes, transcoders and skip connections, tensors that are missing or unknown, and sizes that
    `cfg.json` contradicts.
    """
    path, config = _read_config(folder)
    _check_settings(path, config, _SPARSIFY_SETTINGS)
    tensors = _only(path.with_name(SPARSIFY_WEIGHTS), {"encoder.weight", "encoder.bias", "W_dec", "b_dec"})
    d, k = _entry(path, config, "d_in"), _entry(path, config, "k")
    width = config.get("num_latents") or d * _entry(path, config, "expansion_factor")  # 0: given by the factor
    with _naming(path):
        names = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "W_dec", "b_pre": "b_dec"}
        weights = {name: tensors[theirs] for name, theirs in names.items()}
        metadata = {"sparsify": config, **_sparsify_origin(path.parent, config)}
        sae = SparseAutoencoder(**weights, activation=FinishedTopK(k), metadata=metadata)
    return _checked(sae, path, d_in=d, num_latents=width)


def read_checkpoint(path: str | Path, *, k: int | None = None) -> SparseAutoencoder:
    """Read a token autoencoder of sentence-transformers' pull request 3796, as `lib.interop.modules` writes it.

    That is one safetensors file with W_enc [d, width], b_enc, b_pre, W_dec [width, d] and, for jumprelu, theta; its
    configuration is JSON under the key "config" of the file's metadata, or a `config.json` beside it. Codes are
    computed in float32, whatever the weights are stored in. Unless `normalize_input` (a setting of this package) is
    false, each state is scaled by its norm: the mean that is taken off, or zeros, becomes the `centre`, and an
    `rms_scale` has no effect. `metadata["checkpoint"]` is the whole configuration.

    Raises FileNotFoundError if the file is missing; ValueError for a file that is not safetensors, a configuration that
    is no JSON object or of a newer format, tensors that are missing or unknown, sizes that the configuration
    contradicts, an `rms_scale` that is not a number above 0, and a k that is missing or not needed.

    Parameters
    ----------
    path : str or Path
        The file, or a folder with `model.safetensors`.
    k : int, optional
        Number of latents of a token. With theta it is the mean and always needed, as the k of such a file is a limit
        that `SparseAutoencoder` does not have. Without theta it is needed only where the file has no k.
    """
    path, tensors, config = read_checkpoint_file(path)
    check_checkpoint_version(config.get("checkpoint_format_version", CHECKPOINT_VERSION), str(path))
    variant = config.get("variant", "jumprelu" if "theta" in tensors else "standard")
    check_choice(variant, ["standard", "jumprelu"], f"The configuration of {path}: variant")
    check_rms_scale(tensors.pop("rms_scale", config.get("rms_scale")), str(path))  # scaling to one norm cancels it
    names = {"W_enc", "b_enc", "b_pre", "W_dec"} | ({"theta"} if variant == "jumprelu" else set())
    tensors = _only(path, names | ({"data_mean"} & tensors.keys()), tensors)
    k_of_file = None if variant == "jumprelu" else config.get("k")
    if k_of_file is not None and k is not None:
        raise ValueError(f"k is {k}, but {path} has k = {k_of_file}; read it without k, then use with_k.")
    k = k_of_file if k is None else k
    if k is None:
        raise ValueError(f"{path} has no number of latents that a token has; look it up or measure it, and give k.")
    settings = {"normalize_input": config.get("normalize_input", True), "groups": config.get("groups", 1)}
    with _naming(path):
        weights = token_autoencoder(tensors, k, **settings)
        origin = _origin((config.get("trained_on") or {}).get("name"), None)
        sae = SparseAutoencoder(**weights, metadata={"checkpoint": config, **origin})
    sizes = {"input_dim": config.get("input_dim", sae.d), "hidden_dim": config.get("hidden_dim", sae.width)}
    return _checked(sae, path, **sizes)


def read_checkpoint_file(path: str | Path) -> tuple[Path, dict[str, torch.Tensor], dict]:
    """Return the file, the tensors and the configuration of a token autoencoder, as `read_checkpoint` finds them."""
    path = user_path(path)
    path = path / CHECKPOINT_WEIGHTS if path.is_dir() else path
    tensors, metadata = read_safetensors(path)
    beside = path.with_name("config.json")
    text = metadata.get("config") or (beside.read_text("utf-8") if beside.is_file() else "{}")
    return path, tensors, json_object(text, f"The configuration of {path}")


def check_checkpoint_version(version: object, source: str) -> int:
    """Return the version of a checkpoint's format; a ValueError for one that this package does not read."""
    if not isinstance(version, int) or isinstance(version, bool) or not 1 <= version <= CHECKPOINT_VERSION:
        raise ValueError(
            f"{source} has checkpoint_format_version {version!r}; {CHECKPOINT_VERSION} is read. Upgrade latent-terms."
        )
    return version


def check_rms_scale(scale: float | torch.Tensor | None, source: str) -> float | None:
    """Return what states are multiplied by, a number or a tensor of one, or None; a ValueError unless it is above 0."""
    if scale is None:
        return None
    if isinstance(scale, torch.Tensor):
        scale = scale.item() if scale.numel() == 1 else tuple(scale.shape)
    if not isinstance(scale, int | float) or isinstance(scale, bool) or not 0 < scale < math.inf:
        raise ValueError(f"rms_scale of {source} is {scale!r}; it must be one finite number above 0, or None.")
    return float(scale)


def token_autoencoder(
    tensors: Mapping[str, torch.Tensor], k: int, *, normalize_input: bool = True, groups: int = 1
) -> dict[str, torch.Tensor | FinishedActivation]:
    """Return the arguments of the `SparseAutoencoder` that gives the codes of a token autoencoder, in its own memory.

    `tensors` are W_enc [d, width], b_enc, b_pre, W_dec [width, d], and theta and data_mean if there are such.

    Raises TypeError or ValueError as `FinishedTopK` and `FinishedJumpReLU`, and for groups with thresholds.
    """
    tensors = {name: tensor.detach().to(torch.float32, copy=True) for name, tensor in tensors.items()}
    activation: FinishedActivation
    if "theta" not in tensors:
        activation = FinishedTopK(k, groups)
    elif groups == 1:
        activation = FinishedJumpReLU(k, tensors.pop("theta").clamp(min=0))  # below 0, the ReLU decides
    else:
        raise ValueError(f"groups is {groups}, with thresholds; it must be 1, as thresholds need no groups.")
    mean = tensors.pop("data_mean", torch.zeros_like(tensors["b_pre"]))
    centre = mean if normalize_input else None
    return {**tensors, "W_enc": tensors["W_enc"].T, "activation": activation, "centre": centre}


def write_saelens(sae: SparseAutoencoder, folder: str | Path, *, metadata: Mapping | None = None) -> None:
    """Write `cfg.json` and `sae_weights.safetensors` as SAELens 6 reads them; `read_saelens` gives the same back.

    Top-K is written as architecture topk, thresholds as jumprelu. SAELens has no k there, so it goes into its metadata.
    `cfg.json` comes last: a folder without it is not finished.

    Raises FileExistsError if there is an SAE in the folder; ValueError if it scales states or has groups.

    Parameters
    ----------
    sae : SparseAutoencoder
    folder : str or Path
        Made if it does not exist; without an SAE in it.
    metadata : mapping, optional
        What SAELens is to know of it, JSON-able, such as `model_name` and `hook_name`.
    """
    if sae.activation.name not in ("topk", "jumprelu"):
        raise ValueError(f"{sae!r} is of a kind that SAELens does not have; save it with `save`.")
    activation = sae.activation
    if sae.scales or (isinstance(activation, FinishedTopK) and activation.groups > 1):
        reason = "scales each state" if sae.scales else "chooses in groups of latents"
        raise ValueError(f"{sae!r} {reason}, which SAELens does not have; save it with `save`.")
    folder = user_path(folder)
    for name in (CONFIG, SAELENS_WEIGHTS):
        if (folder / name).exists():
            raise FileExistsError(f"{folder / name} exists; give a new folder, or remove what is there.")
    config: dict = {
        "architecture": sae.activation.name,
        "d_in": sae.d,
        "d_sae": sae.width,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            **(metadata or {}),
            "sae_lens_version": SAELENS_VERSION,
            "sae_lens_training_version": None,
            "latent_terms": sae.metadata,
        },
    }
    tensors = {"W_enc": sae.W_enc.T, "b_enc": sae.b_enc, "W_dec": sae.W_dec, "b_dec": sae.b_pre}
    if isinstance(activation, FinishedTopK):
        config |= {"k": sae.k, "rescale_acts_by_decoder_norm": False}
    elif isinstance(activation, FinishedJumpReLU):
        config["metadata"]["training_architecture_details"] = {"k": sae.k}
        tensors["threshold"] = activation.threshold
    text = json.dumps(config, indent=2) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / SAELENS_WEIGHTS) as path:
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, path)
    with replacing(folder / CONFIG) as path:
        path.write_text(text, "utf-8")


def _read_config(folder: str | Path) -> tuple[Path, dict]:
    """Return the path of a folder's `cfg.json`, and what is in it."""
    path = user_path(folder) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}; give the folder of one autoencoder.")
    return path, json_object(path.read_text("utf-8"), str(path))


def json_object(text: str, source: str) -> dict:
    """Return a JSON object; a ValueError that names its source for other text."""
    try:
        config = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{source} is not JSON ({error}); copy or download it again.") from error
    if not isinstance(config, dict):
        raise ValueError(f"{source} holds a {type(config).__name__}, not an object; give one autoencoder's.")
    return config


def _entry(path: Path, config: Mapping, key: str):
    if key not in config:
        raise ValueError(
            f"{path} has no entry {key}, only {', '.join(config)}; save it again with its library's newest version."
        )
    return config[key]


def _check_settings(path: Path, config: Mapping, settings: Mapping[str, tuple]) -> None:
    """Raise a ValueError for a setting that changes the codes."""
    for key, (allowed, remedy) in settings.items():
        if config.get(key, allowed) != allowed:
            raise ValueError(f"{path} has {key} {config[key]!r}; only {allowed!r} can be read. {remedy}.")


def read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return tensors and metadata of a safetensors file."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}; only safetensors are read.")
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        message = f"{path} is not a whole safetensors file ({error}); a pickle is not read. Download it again."
        raise ValueError(message) from error


def _only(path: Path, names: set[str], tensors: Mapping[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
    """Return the tensors of a file in float32; a ValueError unless they are `names`."""
    tensors = read_safetensors(path)[0] if tensors is None else tensors
    if set(tensors) != names:
        names_found, names_allowed = (", ".join(sorted(group)) for group in (tensors, names))
        raise ValueError(f"{path} holds {names_found}; it must be {names_allowed}. Save it again with its library.")
    return {name: tensor.to(torch.float32) for name, tensor in tensors.items()}


def _saelens_k(path: Path, config: Mapping, facts: Mapping, architecture: str, k: int | None) -> int:
    if architecture == "topk":
        if k is not None:
            raise ValueError(f"k is {k}, but {path} is of a topk SAE, which has k; read it without k, then use with_k.")
        return _entry(path, config, "k")
    k_of_file = config.get("k", (facts.get("training_architecture_details") or {}).get("k"))
    if k is None and k_of_file is None:
        raise ValueError(f"{path}, a {architecture} SAE, has no mean number of latents a token; measure it, give k.")
    return max(1, round(k_of_file)) if k is None else k


def _origin(model: object, hook: object) -> dict:
    """Return what is known of the states that an autoencoder was trained on, as metadata; nothing if nothing is."""
    hook = hook if isinstance(hook, str) and hook else None
    known = {"model": model if isinstance(model, str) and model else None, "layer": _layer(hook), "hook": hook}
    known = {key: value for key, value in known.items() if value is not None}
    return {"run": {"states": {"encoder": known}}} if known else {}


def _layer(hook: str | None) -> int | None:
    """Return the layer, as `TokenEncoder` counts, whose states a hook point has; None if it is no layer's."""
    block = _BLOCK.fullmatch(hook or "")
    if block is None:
        return 0 if hook and hook.rpartition(".")[2] in ("embeddings", "embed_tokens") else None
    offset = _AFTER_BLOCK.get(block[2])
    return None if offset is None else int(block[1]) + offset


def _saelens_origin(facts: Mapping) -> dict:
    hook, block = facts.get("hook_name"), facts.get("hook_layer")
    if hook is None and block is not None:
        hook = f"blocks.{block}.hook_resid_post"
    return _origin(facts.get("model_name"), hook)


def _sparsify_origin(folder: Path, config: Mapping) -> dict:
    """Return the origin that `cfg.json` or the folders' names and the run's `config.json` tell, as metadata."""
    folder = folder.absolute()
    place = folder.parent if re.fullmatch(r"seed\d+", folder.name) else folder  # of a run with several seeds
    run = place.parent / "config.json"
    facts: dict = {"hookpoint": place.name} if _BLOCK.fullmatch(place.name) or _layer(place.name) == 0 else {}
    if facts and run.is_file():
        facts |= {"model": json_object(run.read_text("utf-8"), str(run)).get("model")}
    facts |= config
    return _origin(facts.get("model") or facts.get("model_name"), facts.get("hookpoint") or facts.get("hook_name"))


@contextmanager
def _naming(source: Path) -> Iterator[None]:
    """Turn an error of the block into a ValueError that names the source."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ValueError(f"{source} cannot be read: {error}") from error


def _checked(sae: SparseAutoencoder, path: Path, **sizes: int) -> SparseAutoencoder:
    """Return the autoencoder; a ValueError if its configuration has other sizes, d and width, than its weights."""
    if (*sizes.values(),) != (sae.d, sae.width):
        stated = f"{' and '.join(sizes)} {(*sizes.values(),)}"
        raise ValueError(f"{path} states {stated}, its weights have {(sae.d, sae.width)}; take both from one save.")
    return sae
