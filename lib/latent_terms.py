"""A dense retriever read through a sparse autoencoder, as one object: texts in, a document-term matrix out."""

import copy
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_array, vstack

from lib.bm25.pooling import PHIS, POOLINGS, apply_phi, pool
from lib.bm25.steering import STEP, steer
from lib.bm25.weighting import PAPER, UNTUNED, BM25Constants, Weights, check_constants, check_weights_of
from lib.encode.encoder import TokenEncoder, TokenStates
from lib.encode.packaged import RETRIEVER_NAME
from lib.inspect.display import ShownText, stretches
from lib.inspect.labels import LABELS, Labels
from lib.inspect.reading import read
from lib.sae.autoencoder import FORMAT_VERSION, SparseAutoencoder, join
from lib.sae.boosting import boost
from lib.support.checks import check_choice, check_count, check_texts
from lib.support.files import user_path
from lib.support.folders import read_folder, save_folder
from lib.support.hub import find_folder, upload

if TYPE_CHECKING:
    from lib.bm25.index import BM25Index

MANIFEST = "latent_terms.json"
PACKAGED = Path(__file__).parent / "sae" / "packaged"  # a folder a model, called as its retriever


@dataclass(frozen=True)
class EncodedTexts:
    """A few consecutive texts, encoded.

    `terms`, float32 [n_texts, width], are latent term weights, phi applied; `embeddings`, float32 [n_texts, d], the
    retriever's, from the same forward pass; `firings`, int64 [width], in how many tokens each latent is active.
    """

    terms: csr_array
    embeddings: np.ndarray
    firings: np.ndarray


class LatentTerms:
    """Latent Terms (arXiv 2605.29384): w(text) = phi(sum_t z_t), z_t the sparse code of the text's t-th token state.

    Raises TypeError if `bm25` is not a `BM25Constants`; ValueError if the encoder's hidden size is not the
    autoencoder's d, and for an unknown pooling or phi.

    Parameters
    ----------
    encoder : TokenEncoder
        The retriever, read at one layer.
    sae : SparseAutoencoder
        Trained on the states of that layer.
    pooling : {"sum", "max", "count"}
        A name in `lib.bm25.pooling.POOLINGS`, which has the equations.
    phi : {"sqrt", "log1p", "identity"}
        A name in `lib.bm25.pooling.PHIS`.
    bm25 : BM25Constants
        The constants of `index`; the paper's unless others were tuned (`lib.evaluation.tuning`).
    weights : Weights
        The weights of a `lib.searcher.Searcher`.

    Warns
    -----
    UserWarning
        If the autoencoder was trained on another layer, or on a retriever of another name and other weights; of one
        that another package trained, if model or layer are known to be others.
    """

    def __init__(
        self,
        encoder: TokenEncoder,
        sae: SparseAutoencoder,
        pooling: str = "sum",
        phi: str = "sqrt",
        bm25: BM25Constants = PAPER,
        weights: Weights = UNTUNED,
    ):
        if encoder.d != sae.d:
            remedy = other_origin(sae, encoder) or "Pair it with the retriever that it was trained on."
            raise ValueError(
                f"{encoder.name} has states of size {encoder.d}, the autoencoder reads size {sae.d}. {remedy}"
            )
        self.encoder = encoder
        self.sae = sae.to(encoder.device)
        self.pooling = check_choice(pooling, POOLINGS, "pooling")
        self.phi = check_choice(phi, PHIS, "phi")
        self.bm25 = check_constants(bm25)
        self.weights = check_weights_of(weights)
        self._folder: Path | None = None  # where the model was loaded from
        if difference := other_origin(sae, encoder):
            warnings.warn(difference, stacklevel=_outside())

    def __repr__(self) -> str:
        reader = f"{self.encoder.name}, layer {self.encoder.layer}, {self.sae}"
        return f"LatentTerms({reader}, {self.pooling}, {self.phi}, {self.bm25})"

    def encode_documents(self, texts: Iterable[str], *, progress: bool = True) -> csr_array:
        """Return the term weights of documents, float32 [n_texts, width]; an empty text is an empty row.

        A row depends on its own text only, but for rounding: among other texts, rows differ by 2e-7 of their norm in
        float32 and by 6 % in bfloat16, where rounding decides which of two nearly equal latents is active.

        Raises TypeError for a single `str` and for an element that is not one (its position is named).
        """
        return self._encode(texts, "document", progress)

    def encode_queries(self, texts: Iterable[str], *, progress: bool = True) -> csr_array:
        """Return the term weights of queries, as `encode_documents` does, with the encoder's query prompt."""
        return self._encode(texts, "query", progress)

    def _encode(self, texts: Iterable[str], kind: str, progress: bool) -> csr_array:
        blocks = [block.terms for block in self.stream(texts, kind, progress=progress)]
        return vstack(blocks, format="csr") if blocks else csr_array((0, self.sae.width), dtype=np.float32)

    def stream(self, texts: Iterable[str], kind: str = "document", *, progress: bool = True) -> Iterator[EncodedTexts]:
        """Yield the encoded texts a few at a time, in order, so that a corpus need never be in memory."""
        blocks = self.encoder.stream(texts, kind, progress=progress)
        return (self.encode_states(block) for block in blocks)

    def encode_states(self, block: TokenStates) -> EncodedTexts:
        """Return what `stream` makes of a block of the encoder's token states."""
        indices, values = (tensor.cpu().numpy() for tensor in self.sae.encode(block.states))
        terms = apply_phi(pool(indices, values, block.offsets, self.sae.width, self.pooling), self.phi)
        firings = np.bincount(indices[values > 0], minlength=self.sae.width)
        return EncodedTexts(terms, block.pooled, firings)

    @cached_property
    def labels(self) -> Labels | None:
        """What the latents are called, if `python -m lib label` wrote it into the folder that the model is of.

        ValueError if the labels there are another model's, or damaged.
        """
        if self._folder is None or not (self._folder / LABELS).is_file():
            return None
        return Labels.load(self._folder, self.sae.identity["weights"])

    def show(self, text: str, kind: str = "document", *, n_latents: int = 8) -> ShownText:
        """Return a text as the model reads it, which a notebook shows: tokens shaded by their strongest latents.

        `kind` is "document" or "query", `n_latents` how many latents of a token are named when it is hovered.
        TypeError for a text that is no `str`; ValueError for another kind.
        """
        check_count(n_latents, "n_latents")
        if not isinstance(text, str):
            raise TypeError(f"text is a {type(text).__name__}; pass one str.")
        reading = read(self, [text], kind, progress=False)
        return ShownText(list(stretches(reading, 0, n_latents)), self.labels)

    def steer(
        self,
        queries: csr_array,
        factors: Mapping[int, float] | None = None,
        *,
        more: Iterable[str] = (),
        less: Iterable[str] = (),
        step: float = STEP,
    ) -> csr_array:
        """Return `lib.bm25.steering.steer` of encoded queries, where `more` and `less` are texts.

        For example, `model.steer(queries, {17: 0.0}, less=["snakes in the garden"])`; errors as there, and as
        `encode_documents`.
        """
        more, less = (list(check_texts(texts, what)) for texts, what in ((more, "more"), (less, "less")))
        rows = [self.encode_documents(texts, progress=False) if texts else None for texts in (more, less)]
        return steer(queries, factors, more=rows[0], less=rows[1], step=step)

    def index(
        self, doc_terms: csr_array | Iterable[csr_array], doc_ids: Iterable[str], *, impacts: str = "float32"
    ) -> "BM25Index":
        """Return `BM25Index.build(doc_terms, doc_ids, self.bm25, impacts=impacts)`, with the errors of that.

        `doc_terms` is what `encode_documents` returns, or a stream of consecutive blocks of its rows:
        `model.index((block.terms for block in model.stream(texts)), doc_ids)`.
        """
        from lib.bm25.index import BM25Index  # numba is slow to import, and not needed to encode

        return BM25Index.build(doc_terms, doc_ids, self.bm25, impacts=impacts)

    def with_bm25(self, bm25: BM25Constants) -> "LatentTerms":
        """Return the same model with other constants for `index`."""
        model = copy.copy(self)
        model.bm25 = check_constants(bm25)
        return model

    def with_weights(self, weights: Weights) -> "LatentTerms":
        """Return the same model with other weights for a `Searcher`."""
        model = copy.copy(self)
        model.weights = check_weights_of(weights)
        return model

    @property
    def config(self) -> dict:
        """Everything but the weights that makes this model what it is, JSON-able."""
        parts = {"encoder": self.encoder.config, "sae": self.sae.config}
        reading = {"pooling": self.pooling, "phi": self.phi}
        return parts | reading | {"bm25": asdict(self.bm25), "weights": asdict(self.weights)}

    @cached_property
    def identity(self) -> dict:
        """Everything that decides what a text encodes to, the weights by their sha256, JSON-able; the store's key."""
        parts = {"encoder": self.encoder.identity, "sae": self.sae.identity}
        return parts | {"pooling": self.pooling, "phi": self.phi}

    @property
    def lacks_retriever(self) -> bool:
        """Whether the retriever's own folder is missing here, so that `save` must copy it."""
        name = self.encoder.name
        return Path(name).is_absolute() and not Path(name).is_dir()

    def save(self, folder: str | Path, dtype: str = "float32", *, with_retriever: bool = False) -> None:
        """Write `latent_terms.json`, the autoencoder's weights and labels that it has to `folder`, atomically.

        `dtype`, and the errors, are those of `SparseAutoencoder.save`. The retriever is named; `with_retriever` copies
        its files, too, so that the folder stands alone: it is loaded without the hub, on any machine. ValueError if the
        retriever's weights are a pickle, and without the copy for a model that was loaded from such a folder, if the
        retriever's own is not on this machine.
        """
        if self.lacks_retriever and not with_retriever:
            raise ValueError(
                f"The retriever's folder {self.encoder.name} is not on this machine; save with_retriever=True."
            )
        labels, writers = self.labels, {"sae.safetensors": self.sae.weight_writer(dtype)}
        if with_retriever:
            writers["retriever"] = self.encoder.copy_files
        save_folder(folder, MANIFEST, FORMAT_VERSION, self.config, writers)
        if labels is not None:  # of the weights as they are read back, which `dtype` may have rounded
            stored = LatentTerms.load(folder, encoder=self.encoder).sae.identity["weights"]
            replace(labels, model=stored).save(folder)

    def push_to_hub(self, repo_id: str, *, dtype: str = "float32", with_retriever: bool = False, **settings) -> str:
        """Upload what `save` writes to the Hugging Face hub; `settings` and errors as `lib.support.hub.upload`."""

        def save(folder: Path) -> None:
            self.save(folder, dtype, with_retriever=with_retriever)

        return upload(save, repo_id, message="Save the model", **settings)

    @classmethod
    def load(
        cls,
        folder: str | Path | None = None,
        *,
        encoder: TokenEncoder | None = None,
        dtype: str | None = None,
        device: str | None = None,
        revision: str | None = None,
        token: str | None = None,
    ) -> "LatentTerms":
        """Load what `save` wrote; None is the packaged model of all-MiniLM-L6-v2 (39,936 latents).

        Parameters
        ----------
        folder : str or Path, optional
            Or the name of a retriever whose model is packaged (`packaged_models`), unless there is a folder of that
            name; or the id of a repository on the hub, of which nothing is executed.
        encoder : TokenEncoder, optional
            Used instead of the retriever that the folder holds or names.
        dtype, device : str, optional
            What that retriever computes in and where, as in `TokenEncoder`.
        revision, token : str, optional
            Branch, tag or commit of the repository on the hub, and an access token that may read it. A private
            retriever is read with the token saved on this machine.

        Raises
        ------
        FileNotFoundError, PermissionError, ConnectionError
            If there is no such folder or retriever, and for the hub as `lib.support.hub.find_folder`.
        ValueError
            If a file is missing, truncated, altered or of a newer format, or if the encoder's hidden size does not
            fit.

        Warns
        -----
        UserWarning
            As `LatentTerms`.
        """
        if encoder is not None and (dtype or device):
            raise ValueError("dtype and device belong to an encoder that is loaded here; give them or an encoder.")
        try:
            folder = find_folder(_place(folder), MANIFEST, revision=revision, token=token)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error} Packaged models are {', '.join(packaged_models())}.") from error

        def read(manifest: dict, files: dict[str, Path]) -> "LatentTerms":
            sae = SparseAutoencoder.from_weights(files["sae.safetensors"], manifest["sae"])
            reader = encoder or _retriever(folder, files, manifest["encoder"] | {"dtype": dtype, "device": device})
            constants, weights = BM25Constants(**manifest["bm25"]), Weights(**manifest["weights"])
            model = cls(reader, sae, manifest["pooling"], manifest["phi"], constants, weights)
            model._folder = folder
            return model

        return read_folder(folder, MANIFEST, FORMAT_VERSION, read)

    from_pretrained = load


def packaged_models() -> list[str]:
    """Return the names that `LatentTerms.load` knows without a folder or the hub, those of the models' retrievers."""
    return sorted(path.parent.name for path in PACKAGED.glob(f"*/{MANIFEST}"))


def _place(folder: str | Path | None) -> str | Path:
    """Return the folder of the model that is packaged under this name, else what was given."""
    if folder is None:
        return PACKAGED / RETRIEVER_NAME.split("/")[1]
    packaged = folder in packaged_models() and not user_path(folder).is_dir()
    return PACKAGED / folder if packaged else folder


def _retriever(folder: Path, files: Mapping[str, Path], settings: dict) -> TokenEncoder:
    """Return the retriever that a model's folder holds, or else names."""
    name = settings["model"]
    if "retriever" in files:
        return TokenEncoder(**settings | {"model": files["retriever"]}).named(name)
    try:
        return TokenEncoder(**settings)
    except (FileNotFoundError, PermissionError, ConnectionError) as error:
        remedy = "Pass encoder=TokenEncoder(FOLDER), or save the model with_retriever=True where the retriever is."
        raise type(error)(f"{folder} needs the retriever {name}. {error} {remedy}") from error


def join_models(models: Sequence[LatentTerms], k: int | None = None, boosted: bool = False) -> LatentTerms:
    """Return one model with the latents of several: a text's terms are those of all, side by side (`sae.join`).

    The models have one retriever, pooling and phi, and autoencoders as `sae.join` takes them (ValueError for others).
    With `boosted` they are as `sae.boosting.boost` takes them: each was trained on what those before it leave.
    The joined model has the paper's constants: those of a part were chosen for fewer terms. `k` is the number of
    latents of a token, of which each model has an equal share; None is the sum of theirs.
    """
    sae = (boost if boosted else join)([model.sae for model in models])
    kinds = [(model.encoder.identity, model.pooling, model.phi) for model in models]
    if kinds.count(kinds[0]) < len(kinds):
        raise ValueError(f"The models differ in the retriever, pooling or phi: {list(models)}; join those that do not.")
    first = models[0]
    return LatentTerms(first.encoder, sae if k is None else sae.with_k(k), first.pooling, first.phi)


def other_origin(sae: SparseAutoencoder, encoder: TokenEncoder) -> str | None:
    """Return what to warn of if `encoder` does not give the states that `sae` was trained on, by its metadata.

    Layers are compared, and the weights of the retrievers or, in another dtype, where weights differ, their names. Of
    an autoencoder that another package trained, what is known: the last part of the model's name, and the layer; a hook
    point that is no layer's is always another.
    """
    trained = sae.metadata.get("run", {}).get("states", {}).get("encoder")
    if trained is None:
        return None
    current, hook, layer = encoder.identity, trained.get("hook"), trained.get("layer")
    if "weights" in trained:
        compared = ("layer", "weights" if trained["dtype"] == encoder.dtype else "model")
        equal = all(trained[name] == current[name] for name in compared)
    else:
        model = trained.get("model", current["model"])
        equal = Path(model).name.lower() == Path(current["model"]).name.lower()
        equal = equal and (layer == current["layer"] or layer is hook is None)
    if equal:
        return None
    if layer is None and hook is not None:
        remedy = (
            "no layer of a TokenEncoder gives the states of this hook point; train an autoencoder on those of a layer"
        )
    else:
        settings = {name: trained[name] for name in ("model", "layer") if name in trained}
        remedy = f"pair it with TokenEncoder({', '.join(f'{name}={value!r}' for name, value in settings.items())})"
    return (
        f"The autoencoder was trained on {_described(trained)}; it is given {_described(current)}. Its latents mean "
        f"something on the states that it was trained on only: {remedy}."
    )


def _described(origin: Mapping) -> str:
    """Return in words which states an encoder gives, or an autoencoder was trained on."""
    place = [f"layer {origin['layer']}"] if "layer" in origin else []
    place += [f"hook point {origin['hook']}"] if "hook" in origin else []
    weights = f" (weights {origin['weights'][:12]}, {origin['dtype']})" if "weights" in origin else ""
    return f"{', '.join(place) or 'a layer'} of {origin.get('model', 'a model')}{weights}"


def _outside() -> int:
    """Return the stack level, for the caller to warn with, of the first frame that is not in this package."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals["__name__"].split(".")[0] == "lib":
        level, frame = level + 1, frame.f_back
    return level
