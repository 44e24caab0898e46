"""`LatentTerms` and sentence-transformers' `SparseEncoder`, each made of the other: the same texts, the same matrix."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import csr_array
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Module, Transformer
from sentence_transformers.sentence_transformer.modules import WeightedLayerPooling
from sentence_transformers.util import import_from_string

from lib.bm25.weighting import PAPER, BM25Constants
from lib.encode.backbones import PROMPT_NAMES
from lib.encode.encoder import TokenEncoder
from lib.interop.modules import SparseAutoEncoderTokenEncoder, SparseTokenPooling
from lib.interop.modules.features import origin_of, public_name, warn_of_another_origin
from lib.interop.modules.token_pooling import strategies
from lib.latent_terms import LatentTerms, other_origin
from lib.sae.autoencoder import SparseAutoencoder
from lib.sae.codes import FinishedJumpReLU, FinishedTopK
from lib.sae.foreign import json_object, token_autoencoder
from lib.support.files import user_path
from lib.support.hub import find_folder

_MODULES = "modules.json"
_PROBE = ["Do both say the same of this text?", "Of this?", "", "one two three, a hundred and more"]
_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}  # Frobenius norm of the difference; other layers or weights give 1


def term_matrix(embeddings: torch.Tensor) -> csr_array:
    """Return what `SparseEncoder.encode` gives, a tensor [n_texts, width], as `BM25Index.build` takes it, float32.

    Raises TypeError if it is not a tensor, such as the list that `convert_to_tensor=False` gives.
    """
    if not isinstance(embeddings, torch.Tensor):
        raise TypeError(f"embeddings are a {type(embeddings).__name__}; encode with convert_to_tensor=True.")
    sparse = embeddings.detach().float().cpu().to_sparse().coalesce()
    matrix = csr_array((sparse.values().numpy(), sparse.indices().numpy()), shape=tuple(sparse.shape))
    matrix.eliminate_zeros()
    matrix.sort_indices()
    return matrix


def to_sparse_encoder(
    model: LatentTerms, *, k: int | None = None, sparse_rows: bool = False, labels: Sequence[str] | None = None
) -> SparseEncoder:
    """Return a `SparseEncoder` whose `encode_document` and `encode_query` give the rows of `model`.

    The retriever is loaded anew, on the same device, and computes in float32. `SparseEncoder` has no place for
    `model.bm25`. Its `max_active_dims` is None, so rows are whole; `encode(texts, max_active_dims=n)` keeps the n
    largest weights of a text, and n instead of the autoencoder's k. A text of blanks has an empty row here; there
    it has terms if the tokenizer makes tokens of blanks. The autoencoder's `trained_on` is this retriever unless its
    metadata name another layer or model. A few texts are encoded by both, to compare the rows.

    Raises ValueError for chunks of long texts, late-interaction models, a k with a Top-K autoencoder, and rows that
    would differ.

    Parameters
    ----------
    model : LatentTerms
    k : int, optional
        Latents a token may have at most, for an autoencoder with thresholds; None is 16 times its average, above
        which rows would differ. Of a Top-K autoencoder it is `model.sae.k`.
    sparse_rows : bool
    labels : sequence of str, optional
        As in `SparseTokenPooling`.
    """
    encoder, sae = model.encoder, model.sae
    if encoder.late_interaction:
        raise ValueError(f"{encoder.name} is a late-interaction model; SparseEncoder reads a Transformer's states.")
    if encoder.long_texts != "cut":
        raise ValueError(f"long_texts is {encoder.long_texts!r}, SparseEncoder cuts; load the model with 'cut'.")
    folder = str(encoder.folder)
    device = str(encoder.device)
    transformer = SentenceTransformer(folder, device=device, local_files_only=Path(folder).is_dir())[0].float()
    transformer.max_seq_length = encoder.max_length
    modules = [transformer]
    if encoder.layer != encoder.n_layers:
        transformer.config.output_hidden_states = True
        weights = torch.zeros(encoder.n_layers + 1 - encoder.layer)  # of the layers in an average: all on the first
        weights[0] = 1.0
        weights = torch.nn.Parameter(weights, requires_grad=False)
        modules.append(WeightedLayerPooling(encoder.d, encoder.n_layers, encoder.layer, weights))
    coder = token_encoder(sae, k)
    pooling = SparseTokenPooling(
        sae.width,
        next(name for name, pair in strategies().items() if pair == (model.pooling, model.phi)),
        encoder.include_prompt,
        sparse_rows=sparse_rows,
        special_tokens=special_tokens(encoder.tokenizer),
        include_special=encoder.special_tokens,
        labels=labels,
    )
    modules += [coder, pooling]
    converted = SparseEncoder(modules=modules, prompts=dict(encoder.prompts), similarity_fn_name="dot", device=device)
    if other_origin(sae, encoder) is None:
        coder.trained_on = origin_of(converted, coder) | {"name": public_name(encoder.name)}
    exact = LatentTerms(encoder.replace(dtype="float32"), sae, model.pooling, model.phi)  # as `converted` computes
    _check_equal(exact, converted.eval(), "Make it of a model whose encoder is a plain Transformer.")
    return converted


def token_encoder(sae: SparseAutoencoder, k: int | None = None, frozen: bool = True) -> SparseAutoEncoderTokenEncoder:
    """Return the module that gives the codes of `sae`, `k` as in `to_sparse_encoder`, which is trained if not frozen.

    ValueError for an autoencoder that is neither Top-K nor of thresholds, and a k of a Top-K one.
    """
    if sae.activation.name not in ("topk", "jumprelu"):
        raise ValueError(f"{sae!r} has no module of sentence-transformers; convert a topk or a jumprelu autoencoder.")
    thresholds = {"theta": sae.activation.threshold} if isinstance(sae.activation, FinishedJumpReLU) else {}
    if not thresholds:
        if k is not None:
            raise ValueError(f"k is {k}, the autoencoder is Top-K with k = {sae.k}; use its with_k instead.")
        k = sae.k
    elif k is None:
        k = min(sae.width, 16 * sae.k)
    groups = sae.activation.groups if isinstance(sae.activation, FinishedTopK) else 1
    variant = "jumprelu" if thresholds else "standard"
    module = SparseAutoEncoderTokenEncoder(
        sae.d, sae.width, k, variant, frozen=frozen, normalize_input=sae.scales, groups=groups
    )
    weights = {"W_enc": sae.W_enc.T, "b_enc": sae.b_enc, "b_pre": sae.b_pre, "W_dec": sae.W_dec}
    module.load_state_dict(weights | thresholds)
    if sae.centre is not None and sae.centre.any():
        module.data_mean = sae.centre.clone()
    return module


def special_tokens(tokenizer) -> tuple[int, int]:
    """Return how many special tokens a tokenizer puts before and after a text."""
    ordinary = np.flatnonzero(np.array(tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"]) == 0)
    n_tokens = len(tokenizer("a")["input_ids"])
    return (int(ordinary[0]), int(n_tokens - 1 - ordinary[-1])) if len(ordinary) else (0, 0)


def from_sparse_encoder(encoder: SparseEncoder, *, k: int | None = None, bm25: BM25Constants = PAPER) -> LatentTerms:
    """Return a `LatentTerms` that gives the rows of `encoder`, so that BM25 ranks with them.

    The retriever is loaded anew from the folder or hub id that `encoder` was loaded from. A blank text has an empty row
    here, and there if `SparseTokenPooling` has the numbers of special tokens. The weights are copied. What the
    autoencoder was trained on goes into its metadata; a UserWarning says if it is not what it reads. Raises ValueError
    for other modules and settings that `LatentTerms` does not have, a k that is missing or not allowed, and rows that
    would differ: save a Transformer that was trained first, and load the `SparseEncoder` from there.

    Parameters
    ----------
    encoder : SparseEncoder
        Of a Transformer, a `SparseAutoEncoderTokenEncoder` with a decoder and a `SparseTokenPooling`.
    k : int, optional
        Latents a token has on average, for an autoencoder with thresholds: there it is needed, as the k of the module
        is a limit that `SparseAutoencoder` does not have. Not for a Top-K autoencoder.
    bm25 : BM25Constants
        The constants with which the model builds an index.
    """
    transformer, layer, coder, pooling = _parts(encoder)
    if encoder.max_active_dims is not None:
        raise ValueError(f"max_active_dims is {encoder.max_active_dims}; set it to None, and use lib.bm25.pruning.")
    if pooling.top is not None:
        raise ValueError(f"top is {pooling.top}; set the pooling's to None, and use lib.bm25.pruning.keep_top.")
    if coder.W_dec is None:
        raise ValueError("The autoencoder has no decoder, which LatentTerms keeps; load it with has_decoder=True.")
    k = _average(coder, k)
    prompts: dict = {f"{kind}_prompt": _prompt(encoder, kind) for kind in PROMPT_NAMES}
    source = transformer.config.name_or_path
    retriever = TokenEncoder(
        source,
        layer=layer,
        special_tokens=pooling.include_special,
        **prompts,
        include_prompt=pooling.include_prompt,
        max_length=transformer.max_seq_length,
        dtype=str(encoder.dtype).removeprefix("torch."),
        device=str(encoder.device),
    )
    weights = token_autoencoder(coder.state_dict(), k, normalize_input=coder.normalize_input, groups=coder.groups)
    sae = SparseAutoencoder(**weights, metadata=_training(encoder, coder, retriever))
    model = LatentTerms(retriever, sae, *strategies()[pooling.pooling_strategy], bm25)
    remedy = f"It was loaded from {source}: if it was changed since, save it, load it from there, and convert that."
    _check_equal(model, encoder.eval(), remedy)
    return model


def _parts(encoder: SparseEncoder) -> tuple[Transformer, int, SparseAutoEncoderTokenEncoder, SparseTokenPooling]:
    """Return Transformer, layer, autoencoder and pooling; ValueError for other modules."""
    modules = list(encoder)
    reader = modules.pop(1) if len(modules) == 4 and isinstance(modules[1], WeightedLayerPooling) else None
    kinds = (Transformer, SparseAutoEncoderTokenEncoder, SparseTokenPooling)
    if len(modules) != 3 or not all(map(isinstance, modules, kinds)):
        names = ", ".join(type(module).__name__ for module in encoder)
        raise ValueError(f"The modules are {names}; they must be {', '.join(kind.__name__ for kind in kinds)}.")
    if reader is None:
        return modules[0], -1, *modules[1:]
    weights = reader.layer_weights.detach()
    if weights.count_nonzero() != 1:
        raise ValueError(f"WeightedLayerPooling averages layers {weights.tolist()}; LatentTerms reads one.")
    return modules[0], reader.layer_start + int(weights.argmax()), *modules[1:]


def _prompt(encoder: SparseEncoder, kind: str) -> str:
    """Return the prompt that `encode_query` or `encode_document` puts before a text."""
    name = next((name for name in PROMPT_NAMES[kind] if name in encoder.prompts), encoder.default_prompt_name)
    return encoder.prompts.get(name) or ""


def _average(coder: SparseAutoEncoderTokenEncoder, k: int | None) -> int:
    """Return how many latents a token has, on average if there are thresholds."""
    if coder.theta is None and k is not None:
        raise ValueError(f"k is {k}, the autoencoder is Top-K with k = {coder.k}; leave it out.")
    if coder.theta is not None and k is None:
        raise ValueError(f"The k of the thresholds, {coder.k}, is only a limit; give k, a token's latents on average.")
    return coder.k if k is None else k


def _training(encoder: SparseEncoder, coder: SparseAutoEncoderTokenEncoder, retriever: TokenEncoder) -> dict:
    """Return what is known of the training of `coder`, as metadata: `retriever`, if it was trained on that one."""
    if coder.trained_on is None:
        return {}
    origin = origin_of(encoder, coder)
    if coder.trained_on["fingerprint"] == origin["fingerprint"]:
        return {"trained_on": coder.trained_on, "run": {"states": {"encoder": retriever.identity}}}
    warn_of_another_origin(coder.trained_on, origin)
    return {"trained_on": coder.trained_on}


def _check_equal(model: LatentTerms, encoder: SparseEncoder, remedy: str) -> None:
    """Raise a ValueError if the two differ on a few texts."""
    for kind, encode, sparse_encode in (
        ("documents", model.encode_documents, encoder.encode_document),
        ("queries", model.encode_queries, encoder.encode_query),
    ):
        expected = encode(_PROBE, progress=False)
        rows = term_matrix(sparse_encode(_PROBE, show_progress_bar=False))
        blank = np.diff(expected.indptr) == 0
        error = np.linalg.norm((expected - rows).toarray()[~blank])
        if expected.nnz:
            error /= np.linalg.norm(expected.data)
        dtype = model.encoder.dtype
        if not error <= _TOLERANCE[dtype]:
            raise ValueError(f"The rows of {kind} would differ by {error:.1%} of their norm in {dtype}. {remedy}")


def load_sparse_encoder(
    folder: str | Path, device: str | None = None, *, revision: str | None = None, token: str | None = None
) -> SparseEncoder:
    """Load a `SparseEncoder` with these modules from a folder, running no code but this package's and the library's.

    `SparseEncoder(folder, trust_remote_code=True)` gives the same: the library requires that flag for any module that
    is not its own, but with it would run a module in the folder, too. Raises FileNotFoundError or ValueError if the
    folder or a file is missing, is not what `save_pretrained` writes, or names a module of neither package or a path
    outside; for a repository on the hub also as `LatentTerms.load`.

    Parameters
    ----------
    folder : str or Path
        Or the id of a repository on the hub, of which the files that `lib.support.hub` lists are fetched.
    device : str, optional
        A torch device; None is the GPU if there is one.
    revision, token : str, optional
        Branch, tag or commit of a repository on the hub, and an access token for it.
    """
    if user_path(folder).is_dir() and not (user_path(folder) / _MODULES).is_file():
        raise FileNotFoundError(f"{folder} has no {_MODULES}; give a folder that SparseEncoder.save_pretrained wrote.")
    folder = find_folder(folder, _MODULES, revision=revision, token=token)
    path = folder / "config_sentence_transformers.json"
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}; copy or download the folder again.")
    config = json_object(path.read_text("utf-8"), str(path))
    if (kind := config.get("model_type", SparseEncoder.__name__)) != SparseEncoder.__name__:
        raise ValueError(
            f"{folder} is a {kind}, not a SparseEncoder; read it by TokenEncoder or sentence-transformers."
        )
    modules = [_load_module(folder, entry) for entry in _entries(folder / _MODULES)]
    names = ("prompts", "default_prompt_name", "similarity_fn_name", "max_active_dims")
    return SparseEncoder(modules=modules, device=device, **{name: config.get(name) for name in names})


def _entries(path: Path) -> list[Mapping[str, str]]:
    """Return type and path of each module that a modules.json names; ValueError for other content."""
    entries = json_object(f'{{"modules": {path.read_text("utf-8")}}}', str(path))["modules"]
    for entry in entries if isinstance(entries, list) else [None]:
        if not (isinstance(entry, dict) and isinstance(entry.get("type"), str) and isinstance(entry.get("path"), str)):
            raise ValueError(f"{path} is not a list of modules with type and path; copy or download the folder again.")
    return entries


def _load_module(folder: Path, entry: Mapping[str, str]) -> Module:
    path, name, module_folder = folder / _MODULES, entry["type"], (folder / entry["path"]).absolute()
    ours = {f"{kind.__module__}.{kind.__name__}": kind for kind in (SparseAutoEncoderTokenEncoder, SparseTokenPooling)}
    if name not in ours and not name.startswith("sentence_transformers."):
        raise ValueError(f"{path} names the module {name}, which may run any code; it is not loaded.")
    if ".." in Path(entry["path"]).parts or not module_folder.is_relative_to(folder.absolute()):
        raise ValueError(f"{path} names the path {entry['path']!r}, which is outside of the folder; it is not read.")
    if not module_folder.is_dir():
        raise FileNotFoundError(f"There is no {module_folder}, which {path} names; copy or download the folder again.")
    try:
        kind = ours.get(name) or import_from_string(name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{path} names {name}, which this sentence-transformers lacks; upgrade it.") from error
    if not (isinstance(kind, type) and issubclass(kind, Module)):
        raise ValueError(f"{path} names {name}, which is not a module of sentence-transformers; it is not loaded.")
    module: type[Module] = kind
    return module.load(str(folder), subfolder=entry["path"], local_files_only=True)
