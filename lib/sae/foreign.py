"""Autoencoders that others trained, read into `SparseAutoencoder`, and ours written for them; safetensors only.

SAELens and sparsify each keep a `cfg.json` beside the weights. Their encoders are, row by row, one of

    pre = W_enc (h - b_dec) + b_enc,  or, without apply_b_dec_to_input,  pre = W_enc h + b_enc
    z = ReLU(TopK(pre)),  TopK(ReLU(pre)),  or  ReLU(pre) [pre > threshold]

which are two forms of `SparseAutoencoder` with b_pre = b_dec, after W_enc b_dec is added to b_enc in the second
case. The token autoencoders of sentence-transformers' pull request 3796 have the first form in one file, mostly of
states that are scaled to one norm. What would encode otherwise (transcoders, other scalings or activations) is
refused, as are joined autoencoders for SAELens.
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lib.sae.autoencoder import SparseAutoencoder
from lib.sae.codes import FinishedActivation, FinishedJumpReLU, FinishedTopK
from lib.support.checks import check_choice
from lib.support.folders import replacing

CONFIG = "cfg.json"
SAELENS_WEIGHTS, SPARSIFY_WEIGHTS = "sae_weights.safetensors", "sae.safetensors"
CHECKPOINT_WEIGHTS, CHECKPOINT_VERSION = "model.safetensors", 1
SAELENS_VERSION = "6.54.12"  # whose layout is written
_SAME = {"W_enc", "b_enc", "W_dec", "b_dec"}
_SAELENS_TENSORS = {
    "topk": _SAME,
    "jumprelu": _SAME | {"threshold"},
    "batchtopk": _SAME | {"topk_threshold"},
    "standard": _SAME,
}
_SAELENS_PLAIN = {
    "normalize_activations": ("none", "Fold the scaling into the weights with SAELens (fold_activation_*), save again"),
    "reshape_activations": ("none", "Its input is several heads side by side; train one on token states"),
}
_SPARSIFY_PLAIN = {
    "activation": ("topk", "Train with activation='topk'"),
    "transcode": (False, "It writes the states of another module; train an autoencoder"),
    "skip_connection": (False, "It adds a linear map of its input; train without skip_connection"),
    "signed": (False, "Its codes may be negative; train without signed"),
}


def read_saelens(folder: str | Path, *, k: int | None = None) -> SparseAutoencoder:
    """Read a folder that SAELens 6 saved: `cfg.json` and `sae_weights.safetensors`.

    Architectures topk (also with `rescale_acts_by_decoder_norm`, whose norms are folded into the weights), jumprelu,
    batchtopk (a training checkpoint, whose one threshold becomes that of each latent, as SAELens itself saves it), and
    standard (ReLU, so thresholds of 0). Codes are computed in float32, whatever the weights are stored in.

    Parameters
    ----------
    folder : str or Path
    k : int, optional
        Latents a token has on average. Needed with thresholds where the folder does not say; not for topk.

    Returns
    -------
    SparseAutoencoder
        `metadata["saelens"]` is the whole `cfg.json`; of a folder that `write_saelens` made, metadata is as it was.

    Raises
    ------
    FileNotFoundError
        If the folder or one of its two files is missing.
    ValueError
        For files that are not JSON or safetensors, an SAE of before SAELens 6, an architecture or setting that has no
        exact counterpart here, tensors that are missing or unknown, and a k that is missing or out of place.
    """
    folder, config = _read_config(folder)
    saved = _entry(folder, config, "metadata")
    version = str(saved.get("sae_lens_version"))
    if not version.split(".")[0].isdecimal() or int(version.split(".")[0]) < 6:
        raise ValueError(
            f"{folder / CONFIG} was saved by SAELens {version}; its layout is read from version 6 on. Load it with "
            "SAELens 6 (SAE.load_from_disk) and save it again (save_model)."
        )
    architecture = check_choice(_entry(folder, config, "architecture"), _SAELENS_TENSORS, f"{folder}: architecture")
    _check_plain(folder, config, _SAELENS_PLAIN)
    tensors = _read_tensors(folder / SAELENS_WEIGHTS, _SAELENS_TENSORS[architecture])
    if architecture in ("topk", "batchtopk") and config.get("rescale_acts_by_decoder_norm", False):
        tensors = _fold_norms(tensors)
    weights = {"W_enc": tensors["W_enc"].T, "W_dec": tensors["W_dec"], "b_pre": tensors["b_dec"]}
    weights["b_enc"] = tensors["b_enc"]
    if not _entry(folder, config, "apply_b_dec_to_input"):
        weights["b_enc"] = tensors["b_enc"] + tensors["b_dec"] @ tensors["W_enc"]
    k = _k_of(folder, config, saved, architecture, k)
    with _naming(folder):
        activation = FinishedTopK(k) if architecture == "topk" else FinishedJumpReLU(k, _threshold(tensors))
        sae = SparseAutoencoder(
            **weights, activation=activation, metadata=saved.get("latent_terms", {"saelens": config})
        )
    sizes = (_entry(folder, config, "d_in"), _entry(folder, config, "d_sae"))
    _check_sizes(sizes, sae, f"{folder / CONFIG} says d_in and d_sae")
    return sae


def read_sparsify(folder: str | Path) -> SparseAutoencoder:
    """Read a folder that EleutherAI's sparsify saved for one hookpoint: `cfg.json` and `sae.safetensors`.

    Codes are computed in float32, whatever the weights are stored in.

    Parameters
    ----------
    folder : str or Path
        Such as `checkpoints/run/layers.5`, not the folder of the run.

    Returns
    -------
    SparseAutoencoder
        `metadata["sparsify"]` is the whole `cfg.json`.

    Raises
    ------
    FileNotFoundError
        If the folder or one of its two files is missing.
    ValueError
        For files that are not JSON or safetensors, groupmax, signed codes, transcoders and skip connections, tensors
        that are missing or unknown, and sizes that `cfg.json` contradicts.
    """
    folder, config = _read_config(folder)
    _check_plain(folder, config, _SPARSIFY_PLAIN, optional=True)
    tensors = _read_tensors(folder / SPARSIFY_WEIGHTS, {"encoder.weight", "encoder.bias", "W_dec", "b_dec"})
    weights = {"W_enc": tensors["encoder.weight"], "b_enc": tensors["encoder.bias"]}
    weights |= {"W_dec": tensors["W_dec"], "b_pre": tensors["b_dec"]}
    d, width = _entry(folder, config, "d_in"), config.get("num_latents")
    if not width:  # 0 is sparsify's way to say: see expansion_factor
        width = d * _entry(folder, config, "expansion_factor")
    k = _entry(folder, config, "k")
    with _naming(folder):
        sae = SparseAutoencoder(**weights, activation=FinishedTopK(k), metadata={"sparsify": config})
    _check_sizes((d, width), sae, f"{folder / CONFIG} says d_in and num_latents")
    return sae


def read_checkpoint(path: str | Path, *, k: int | None = None) -> SparseAutoencoder:
    """Read a token autoencoder in the layout of sentence-transformers' pull request 3796, which `lib.interop.modules`
    writes.

    That is one safetensors file with W_enc [d, width], b_enc, b_pre, W_dec [width, d] and, of jumprelu, theta; its
    configuration is JSON under the key "config" of the file's metadata, or a `config.json` beside it. Codes are
    computed in float32, whatever the weights are stored in. What scales each state by its own norm, as all do whose
    configuration lacks `normalize_input` (which is this package's), has the mean that is taken off, or zeros, as its
    `centre`; that scaling cancels an `rms_scale`.

    Parameters
    ----------
    path : str or Path
        The file, or a folder with `model.safetensors`.
    k : int, optional
        Latents a token has, on average with theta: there it is needed, as the k of such a file is a limit that
        `SparseAutoencoder` does not have. Without theta it is needed only where the file does not say.

    Returns
    -------
    SparseAutoencoder
        `metadata["checkpoint"]` is the whole configuration.

    Raises
    ------
    FileNotFoundError
        If the file is missing.
    ValueError
        For a file that is not safetensors, a configuration that is no JSON object or of a newer format, tensors that
        are missing or unknown, sizes that the configuration contradicts, an `rms_scale` that is not one number above
        0, and a k that is missing or out of place.
    """
    path, tensors, config = read_checkpoint_file(path)
    check_checkpoint_version(config.get("checkpoint_format_version", CHECKPOINT_VERSION), str(path))
    variant = config.get("variant", "jumprelu" if "theta" in tensors else "standard")
    check_choice(variant, ["standard", "jumprelu"], f"The configuration of {path}: variant")
    check_rms_scale(tensors.pop("rms_scale", config.get("rms_scale")), str(path))  # scaling to one norm cancels it
    named = {"W_enc", "b_enc", "b_pre", "W_dec"} | ({"theta"} if variant == "jumprelu" else set())
    mean = {"data_mean"} & tensors.keys()
    tensors = _only(path, tensors, named | mean)
    known = None if variant == "jumprelu" else config.get("k")
    if known is not None and k is not None:
        raise ValueError(f"k is {k}, but {path} has its own, {known}; read it, then use with_k.")
    if known is None and k is None:
        raise ValueError(f"{path} does not say how many latents a token has; look it up or measure it, and give k.")
    settings = {"normalize_input": config.get("normalize_input", True), "groups": config.get("groups", 1)}
    with _naming(path):
        weights = token_autoencoder(tensors, known if k is None else k, **settings)
        sae = SparseAutoencoder(**weights, metadata={"checkpoint": config})
    sizes = (config.get("input_dim", sae.d), config.get("hidden_dim", sae.width))
    _check_sizes(sizes, sae, f"The configuration of {path} says input_dim and hidden_dim")
    return sae


def read_checkpoint_file(path: str | Path) -> tuple[Path, dict[str, torch.Tensor], dict]:
    """Return the file, the tensors and the configuration of a token autoencoder, as `read_checkpoint` finds them."""
    path = Path(path) / CHECKPOINT_WEIGHTS if Path(path).is_dir() else Path(path)
    tensors, metadata = read_safetensors(path)
    beside = path.with_name("config.json")
    text = metadata.get("config") or (beside.read_text("utf-8") if beside.is_file() else "{}")
    return path, tensors, json_object(text, f"The configuration of {path}")


def check_checkpoint_version(version: object, source: str) -> int:
    """Return the version of a checkpoint's format; a ValueError for one that this package does not read."""
    if not isinstance(version, int) or isinstance(version, bool) or not 1 <= version <= CHECKPOINT_VERSION:
        read = f"this package reads {CHECKPOINT_VERSION}. Upgrade latent-terms, or save it anew."
        raise ValueError(f"{source} has checkpoint_format_version {version!r}; {read}")
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

    Raises
    ------
    TypeError, ValueError
        As `FinishedTopK` and `FinishedJumpReLU`, and for groups with thresholds.
    """
    tensors = {name: tensor.detach().to(torch.float32, copy=True) for name, tensor in tensors.items()}
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

    Parameters
    ----------
    sae : SparseAutoencoder
    folder : str or Path
        Made if it does not exist; without an SAE in it.
    metadata : mapping, optional
        What SAELens is to know of it, JSON-able, such as `model_name` and `hook_name`.

    Raises
    ------
    FileExistsError
        If there is an SAE in the folder.
    ValueError
        If it scales states or has groups.
    """
    top_k = isinstance(sae.activation, FinishedTopK)
    if sae.scales or (top_k and sae.activation.groups > 1):
        reason = "scales each state" if sae.scales else "chooses in groups of latents"
        raise ValueError(f"{sae!r} {reason}, which SAELens does not have; save it with `save`.")
    folder = Path(folder)
    for name in (CONFIG, SAELENS_WEIGHTS):
        if (folder / name).exists():
            raise FileExistsError(f"{folder / name} exists; give a new folder, or remove what is there.")
    config = {
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
    if top_k:
        config |= {"k": sae.k, "rescale_acts_by_decoder_norm": False}
    else:
        config["metadata"]["training_architecture_details"] = {"k": sae.k}
        tensors["threshold"] = sae.activation.threshold
    text = json.dumps(config, indent=2) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / SAELENS_WEIGHTS) as path:
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, path)
    with replacing(folder / CONFIG) as path:
        path.write_text(text, "utf-8")


def _read_config(folder: str | Path) -> tuple[Path, dict]:
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}; give one that holds {CONFIG} and the weights.")
    if not (folder / CONFIG).is_file():
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:10]) or "nothing"
        raise FileNotFoundError(f"{folder} has no {CONFIG} (it holds {found}); give the folder of one autoencoder.")
    return folder, json_object((folder / CONFIG).read_text("utf-8"), str(folder / CONFIG))


def json_object(text: str, source: str) -> dict:
    """Return a JSON object; a ValueError that names its source for other text."""
    try:
        config = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{source} is not JSON ({error}); copy or download it again.") from error
    if not isinstance(config, dict):
        raise ValueError(f"{source} holds a {type(config).__name__}, not an object; give one autoencoder's.")
    return config


def _entry(folder: Path, config: Mapping, key: str):
    if key not in config:
        raise ValueError(
            f"{folder / CONFIG} does not say {key} (it says {', '.join(config)}). Load it with the library that wrote "
            "it, in its newest version, and save it again."
        )
    return config[key]


def _check_plain(folder: Path, config: Mapping, plain: Mapping[str, tuple], optional: bool = False) -> None:
    """Raise a ValueError for a setting that changes the codes; with `optional`, a missing one is as it should be."""
    for key, (allowed, remedy) in plain.items():
        found = config.get(key, allowed) if optional else _entry(folder, config, key)
        if found != allowed:
            raise ValueError(f"{folder / CONFIG} has {key} {found!r}; only {allowed!r} can be read. {remedy}.")


def _read_tensors(path: Path, names: set[str]) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file in float32; a ValueError unless they are `names`."""
    return _only(path, read_safetensors(path)[0], names)


def read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return tensors and metadata of a safetensors file."""
    if not path.is_file():
        found = ", ".join(sorted(other.name for other in path.parent.glob("*"))[:10]) or "nothing"
        raise FileNotFoundError(f"{path.parent} has no {path.name} (it holds {found}); only safetensors are read.")
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({error}); a pickle is not read. Copy or download it again."
        ) from error


def _only(path: Path, tensors: dict, names: set[str]) -> dict[str, torch.Tensor]:
    """Return the tensors called `names` in float32; a ValueError unless they are all there are."""
    if set(tensors) != names:
        raise ValueError(
            f"{path} holds the tensors {', '.join(sorted(tensors))}; they must be {', '.join(sorted(names))}, as its "
            "configuration says. Save it again with the library that made it."
        )
    return {name: tensors[name].to(torch.float32) for name in sorted(names)}


def _fold_norms(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors of the SAE that gives the same codes and states without its decoder's norms."""
    norms = tensors["W_dec"].norm(dim=1)
    folded = {"W_enc": tensors["W_enc"] * norms, "b_enc": tensors["b_enc"] * norms}
    return tensors | folded | {"W_dec": tensors["W_dec"] / norms.clamp(min=1e-8)[:, None]}


def _threshold(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the threshold of each latent; where it is below 0, the ReLU decides, so 0 is the same."""
    threshold = tensors.get("threshold", tensors.get("topk_threshold", torch.tensor(0.0)))
    return threshold.clamp(min=0).expand_as(tensors["b_enc"])


def _k_of(folder: Path, config: Mapping, saved: Mapping, architecture: str, given: int | None) -> int:
    if architecture == "topk":
        if given is not None:
            raise ValueError(f"k is {given}, but {folder} is a topk SAE with its own; read it, then use with_k.")
        return _entry(folder, config, "k")
    details = saved.get("training_architecture_details") or {}
    known = given if given is not None else config.get("k", details.get("k"))
    if known is None:
        raise ValueError(
            f"{folder} is a {architecture} SAE and does not say how many latents a token has on average; measure it, "
            "or look it up where it was published, and give it as k."
        )
    return known if given is not None else max(1, round(known))


@contextmanager
def _naming(source: Path) -> Iterator[None]:
    """Turn an error of the block into a ValueError that names the source."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ValueError(f"{source} cannot be read: {error}") from error


def _check_sizes(sizes: tuple[int, int], sae: SparseAutoencoder, source: str) -> None:
    if sizes != (sae.d, sae.width):
        raise ValueError(f"{source} are {sizes}, the weights have {(sae.d, sae.width)}; take both from the same save.")
