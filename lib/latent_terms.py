"""A dense retriever read through a sparse autoencoder, as one object: texts in, a document-term matrix out."""

import copy
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array, vstack

from lib.bm25.index import BM25Index
from lib.bm25.pooling import PHIS, POOLINGS, apply_phi, pool
from lib.bm25.weighting import PAPER, BM25Constants, check_constants
from lib.encode.encoder import TokenEncoder, TokenStates
from lib.encode.packaged import MODEL_FOLDER, RETRIEVER_NAME
from lib.sae.autoencoder import FORMAT_VERSION, SparseAutoencoder, join
from lib.support.checks import check_choice
from lib.support.folders import load_folder, save_folder
from lib.support.hub import find_folder, upload


@dataclass(frozen=True)
class EncodedTexts:
    """A few consecutive texts, encoded.

    Attributes
    ----------
    terms : csr_array, float32 [n_texts, width]
        Latent term weights, phi applied.
    embeddings : np.ndarray, float32 [n_texts, d]
        The retriever's own embeddings, from the same forward pass.
    firings : np.ndarray, int64 [width]
        In how many tokens of these texts each latent is active.
    """

    terms: csr_array
    embeddings: np.ndarray
    firings: np.ndarray


class LatentTerms:
    """Latent Terms (arXiv 2605.29384): w(text) = phi(sum_t z_t), z_t the sparse code of the text's t-th token state.

    Parameters
    ----------
    encoder : TokenEncoder
    sae : SparseAutoencoder
        Trained on the states that `encoder` gives.
    pooling : {"sum", "max", "count"}
    phi : {"sqrt", "log1p", "identity"}
    bm25 : BM25Constants
        What `index` sets BM25 to, recommended for this model; the paper's unless others were tuned
        (`lib.evaluation.tuning`).

    Raises
    ------
    TypeError
        If `bm25` is not a `BM25Constants`.
    ValueError
        If the encoder's hidden size is not the autoencoder's d, and for an unknown pooling or phi.

    Warns
    -----
    UserWarning
        If the autoencoder was trained on another layer, or on a retriever of another name and other weights.
    """

    def __init__(
        self,
        encoder: TokenEncoder,
        sae: SparseAutoencoder,
        pooling: str = "sum",
        phi: str = "sqrt",
        bm25: BM25Constants = PAPER,
    ):
        if encoder.d != sae.d:
            raise ValueError(
                f"{encoder.name} has states of size {encoder.d}, the autoencoder reads size {sae.d}; "
                "pair it with the retriever that it was trained on."
            )
        self.encoder = encoder
        self.sae = sae.to(encoder.device)
        self.pooling = check_choice(pooling, POOLINGS, "pooling")
        self.phi = check_choice(phi, PHIS, "phi")
        self.bm25 = check_constants(bm25)
        if difference := other_origin(sae, encoder):
            warnings.warn(difference, stacklevel=_outside())

    def __repr__(self) -> str:
        return (
            f"LatentTerms({self.encoder.name}, layer {self.encoder.layer}, {self.sae}, {self.pooling}, {self.phi}, "
            f"{self.bm25})"
        )

    def encode_documents(self, texts: Iterable[str], *, progress: bool = True) -> csr_array:
        """Return the term weights of documents, float32 [n_texts, width]; an empty text is an empty row.

        A row depends on its own text only, but for rounding: among other texts, rows differ by 2e-7 of their norm in
        float32 and by 6 % in bfloat16, where rounding decides which of two nearly equal latents is active.

        Raises
        ------
        TypeError
            For a single `str` and for an element that is not one (its position is named).
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

    def index(self, doc_terms: csr_array | Iterable[csr_array], doc_ids: Iterable[str]) -> BM25Index:
        """Return `BM25Index.build(doc_terms, doc_ids)` with the constants recommended for this model, `bm25`.

        `doc_terms` is what `encode_documents` returns, or a stream of consecutive blocks of its rows:
        `model.index((block.terms for block in model.stream(texts)), doc_ids)`.

        Raises
        ------
        TypeError, ValueError
            As `BM25Index.build`.
        """
        return BM25Index.build(doc_terms, doc_ids, self.bm25)

    def with_bm25(self, bm25: BM25Constants) -> "LatentTerms":
        """Return the same model with other constants for `index`; what a text encodes to stays the same."""
        other = copy.copy(self)
        other.bm25 = check_constants(bm25)
        return other

    @property
    def config(self) -> dict:
        """Everything but the weights that makes this model what it is, JSON-able."""
        return {
            "encoder": self.encoder.config,
            "sae": self.sae.config,
            "pooling": self.pooling,
            "phi": self.phi,
            "bm25": asdict(self.bm25),
        }

    @cached_property
    def identity(self) -> dict:
        """Everything that decides what a text encodes to, the weights by their sha256, JSON-able; the store's key."""
        return {
            "encoder": self.encoder.identity,
            "sae": self.sae.identity,
            "pooling": self.pooling,
            "phi": self.phi,
        }

    def save(self, folder: str | Path, dtype: str = "float32") -> None:
        """Write `latent_terms.json` and the autoencoder's weights to `folder`, atomically.

        The retriever's own weights are named, not copied. `dtype` is what the weights are stored in, as in
        `SparseAutoencoder.save`, which says what it raises.
        """
        writers = {"sae.safetensors": self.sae.weight_writer(dtype)}
        save_folder(folder, "latent_terms.json", FORMAT_VERSION, self.config, writers)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        dtype: str = "float32",
        revision: str | None = None,
        token: str | None = None,
        private: bool | None = None,
    ) -> str:
        """Upload what `save` writes to a repository on the Hugging Face hub; see `hub.upload`."""
        message = "Save the model"
        return upload(
            lambda path: self.save(path, dtype),
            repo_id,
            revision=revision,
            token=token,
            private=private,
            message=message,
        )

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
        """Load what `save` wrote; None is the packaged model (all-MiniLM-L6-v2, 39,936 latents).

        A folder of a time before `bm25` was saved has the paper's constants.

        Parameters
        ----------
        folder : str or Path, optional
            Or the id of a repository on the hub, of which nothing is executed.
        encoder : TokenEncoder, optional
            Used instead of the one that the folder names; that one is found in its folder or on the hub.
        dtype, device : str, optional
            What the encoder computes in and where, as in `TokenEncoder`.
        revision, token : str, optional
            Of this repository on the hub; a private retriever that it names is found with the token saved on this
            machine, or given as `encoder`.

        Raises
        ------
        FileNotFoundError
            If there is no such folder or repository, or no such revision.
        PermissionError
            If the repository is private or gated and the token does not open it.
        ConnectionError
            If the hub cannot be reached.
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
        found = find_folder(
            MODEL_FOLDER if folder is None else folder, "latent_terms.json", revision=revision, token=token
        )
        manifest, files = load_folder(found, "latent_terms.json", FORMAT_VERSION)
        sae = SparseAutoencoder.from_weights(files["sae.safetensors"], manifest["sae"])
        if encoder is None:
            settings = dict(manifest["encoder"]) | {"dtype": dtype}
            name = settings.pop("model")
            encoder = TokenEncoder(None if name == RETRIEVER_NAME else name, **settings, device=device)
        bm25 = BM25Constants(**manifest["bm25"]) if "bm25" in manifest else PAPER
        return cls(encoder, sae, manifest["pooling"], manifest["phi"], bm25)

    from_pretrained = load


def join_models(models: Sequence[LatentTerms], k: int | None = None) -> LatentTerms:
    """Return one model with the latents of several: a text's terms are those of all, side by side (`sae.join`).

    Parameters
    ----------
    models : sequence of LatentTerms
        Of one retriever, pooling and phi, with autoencoders as `sae.join` takes them. The joined model has the paper's
        constants: those of a part were chosen for fewer terms.
    k : int, optional
        Latents of a token, a multiple of the number of models, which have equal shares; None is the sum of theirs.

    Raises
    ------
    ValueError
        As `sae.join` and `SparseAutoencoder.with_k`, and for models of different retrievers, pooling or phi.
    """
    sae = join([model.sae for model in models])
    kinds = [(model.encoder.identity, model.pooling, model.phi) for model in models]
    if any(kind != kinds[0] for kind in kinds):
        raise ValueError(f"The models differ in the retriever, pooling or phi: {list(models)}; join those that do not.")
    first = models[0]
    return LatentTerms(first.encoder, sae if k is None else sae.with_k(k), first.pooling, first.phi)


def other_origin(sae: SparseAutoencoder, encoder: TokenEncoder) -> str | None:
    """Return what to warn of if `encoder` does not give the states that `sae` says it was trained on, else None.

    In another dtype weights differ, so there the names of the retrievers are compared.
    """
    trained = sae.metadata.get("run", {}).get("states", {}).get("encoder")
    if trained is None:
        return None
    by_weights = trained["dtype"] == encoder.dtype
    kept = "weights" if by_weights else "model"
    if (trained["layer"], trained[kept]) == (encoder.layer, encoder.identity[kept] if by_weights else encoder.name):
        return None
    was, now = (
        f"layer {own['layer']} of {own['model']} (weights {own['weights'][:12]}, {own['dtype']})"
        for own in (trained, encoder.identity)
    )
    return (
        f"The autoencoder was trained on {was}; it is given {now}. Its latents mean something on the states that it "
        "was trained on only."
    )


def _outside() -> int:
    """Return the stack level, for the caller to warn with, of the first frame that is not in this package."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals["__name__"].split(".")[0] == "lib":
        level, frame = level + 1, frame.f_back
    return level
