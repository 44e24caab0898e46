"""A finetuned retriever in use: texts to sparse rows, an index of them, and what made a score."""

import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array, vstack
from sentence_transformers import SparseEncoder
from sentence_transformers.sentence_transformer.modules import Normalize

from lib.bm25.index import BM25Index
from lib.bm25.weighting import INNER_PRODUCT, BM25Constants
from lib.encode.encoder import tokenizer_identity
from lib.interop.conversion import from_sparse_encoder, load_sparse_encoder, term_matrix
from lib.latent_terms import LatentTerms
from lib.support.checks import check_texts
from lib.support.files import user_path
from lib.support.folders import digest_arrays, digest_json
from lib.support.progress import progress as show_progress

_WINDOW = 512  # texts whose rows are made at a time
_NOT_READING = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")  # of a Transformer's configuration


class LearnedRetriever:
    """A retriever with sparse rows that `lib.learned.train.finetune` has saved, used as a `LatentTerms`.

        model = LearnedRetriever.load("my-splare")
        index = model.index(model.encode_documents(texts), ids)
        index.search(model.encode_queries(["pets at home"]), ["q1"])

    Parameters
    ----------
    model : SparseEncoder
    bm25 : BM25Constants
        Those of `index`: by default ones that rank by inner product, as these retrievers are trained.
    """

    def __init__(self, model: SparseEncoder, bm25: BM25Constants = INNER_PRODUCT):
        if not isinstance(model, SparseEncoder):
            raise TypeError(
                f"model is a {type(model).__name__}; pass a SparseEncoder. Read a dense one by TokenEncoder."
            )
        self.model, self.bm25 = model, bm25

    @classmethod
    def load(cls, folder: str | Path, device: str | None = None) -> "LearnedRetriever":
        """Load what `finetune` saved, running no code but this package's and sentence-transformers'.

        Raises as `lib.interop.conversion.load_sparse_encoder`, and ValueError for a dense retriever.
        """
        return cls(load_sparse_encoder(folder, device))

    def __repr__(self) -> str:
        modules = ", ".join(type(module).__name__ for module in self.model)
        return f"LearnedRetriever({modules}, width={self.width})"

    @property
    def width(self) -> int:
        """Number of latents, or of words."""
        return self.model.get_embedding_dimension()

    @cached_property
    def identity(self) -> dict:
        """Everything that decides a text's row, JSON-able; for keys of a store."""
        transformer = self.model[0].auto_model.config.to_dict()
        reading: dict = {"transformer": {name: transformer[name] for name in transformer if name not in _NOT_READING}}
        reading["tokenizer"] = digest_json(tokenizer_identity(self.model.tokenizer))
        reading |= {"prompt": self.model.default_prompt_name, "max_active_dims": self.model.max_active_dims}
        weights = digest_arrays({name: tensor.cpu().numpy() for name, tensor in self.model.state_dict().items()})
        modules = [[type(module).__name__, _config(module)] for module in self.model]
        reading |= {"prompts": self.model.prompts, "max_length": self.model.max_seq_length}
        return json.loads(json.dumps({"weights": weights, "modules": modules, **reading}))

    def encode_documents(self, texts: Iterable[str], *, progress: bool = True) -> csr_array:
        """Return the rows of documents, float32 [n_texts, width]; TypeError for what is no list of `str`."""
        return self._encode(self.model.encode_document, texts, progress)

    def encode_queries(self, texts: Iterable[str], *, progress: bool = True) -> csr_array:
        """Return the rows of queries, as `encode_documents` does."""
        return self._encode(self.model.encode_query, texts, progress)

    def _encode(self, encode, texts: Iterable[str], progress: bool) -> csr_array:
        texts = list(check_texts(texts))
        windows = [texts[first : first + _WINDOW] for first in range(0, len(texts), _WINDOW)]
        shown = show_progress(windows, what="encode", unit="texts", total=len(texts), count=len, show=progress)
        rows = [term_matrix(encode(window, save_to_cpu=True, show_progress_bar=False)) for window in shown]
        return vstack(rows, format="csr") if rows else csr_array((0, self.width), dtype=np.float32)

    def index(
        self, doc_terms: csr_array | Iterable[csr_array], doc_ids: Iterable[str], *, impacts: str = "float32"
    ) -> BM25Index:
        """Return `BM25Index.build(doc_terms, doc_ids, self.bm25, impacts=impacts)`, with the errors of that."""
        return BM25Index.build(doc_terms, doc_ids, self.bm25, impacts=impacts)

    def latent_terms(self) -> LatentTerms:
        """Return a `LatentTerms` with the same latents, whole rows and this ranking; it must have been loaded.

        ValueError for a model whose autoencoder reads embeddings of texts or whose rows have norm 1 (kinds csr, csrv2
        and bottleneck), and as `from_sparse_encoder`.
        """
        if isinstance(self.model[-1], Normalize):
            raise ValueError(f"{self} has rows of norm 1, as no LatentTerms; use its own encode_documents and index.")
        folder = user_path(self.model[0].config.name_or_path)
        whole = load_sparse_encoder(folder, str(self.model.device))
        if hasattr(whole[-1], "top"):
            whole[-1].top = None
        return from_sparse_encoder(whole, bm25=self.bm25)


def _config(module) -> dict:
    return module.get_config_dict() if hasattr(module, "get_config_dict") else {}
