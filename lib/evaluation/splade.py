"""SPLADE: learned sparse vectors over words, to compare with latent terms."""

from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array, vstack

from lib.bm25.ranking import Ranking
from lib.data.collection import Collection
from lib.evaluation.baselines import inner_product_search
from lib.support.checks import check_texts
from lib.support.files import user_path
from lib.support.folders import digest_arrays
from lib.support.store import SHARD, Store


class Splade:
    """A SPLADE model: texts to weights of the words of its tokenizer, ranked by inner product.

    A word's weight is max_t log(1 + ReLU(logit_t)) over the tokens t of a text (Formal et al., arXiv 2109.10086), as
    `sentence_transformers.SparseEncoder` computes it.

    Raises OSError or ValueError if the model cannot be loaded (the hub is out of reach or asks for a licence), or is of
    another kind.

    Parameters
    ----------
    name : str or Path
        A folder with the model, or its hub id, such as "naver/splade-v3".
    """

    def __init__(self, name: str | Path):
        from sentence_transformers import SparseEncoder  # slow to import
        from sentence_transformers.sparse_encoder.modules import SpladePooling

        name = str(user_path(name) if user_path(name).is_dir() else name)
        try:
            self._model = SparseEncoder(name, local_files_only=Path(name).is_dir())
        except OSError as error:  # so transformers reports a hub that cannot be reached, or that asks for a licence
            raise OSError(
                f"SPLADE {name!r} cannot be loaded ({str(error).splitlines()[0]}) Give a folder, or a hub id "
                "where the hub is reached; for a model that asks for a licence, accept it and call `hf auth login`."
            ) from error
        if not any(isinstance(module, SpladePooling) for module in self._model.modules()):
            raise ValueError(f"{name!r} is no SPLADE model, which has a head for masked words; try 'naver/splade-v3'.")

    @cached_property
    def identity(self) -> dict:
        """Everything that decides the weights of a text, JSON-able; for keys of a store."""
        tensors = {name: tensor.cpu().numpy() for name, tensor in self._model.state_dict().items()}
        settings = {"prompts": self._model.prompts, "max_length": self._model.max_seq_length}
        return {"weights": digest_arrays(tensors), **settings}

    def encode_documents(self, texts: Iterable[str]) -> csr_array:
        """Return the weights of documents, float32 [n_texts, n_words]; a TypeError for what is no list of str."""
        return self._terms(self._model.encode_document, texts)

    def encode_queries(self, texts: Iterable[str]) -> csr_array:
        """Return the weights of queries, as `encode_documents` does for documents."""
        return self._terms(self._model.encode_query, texts)

    @staticmethod
    def _terms(encode: Callable, texts: Iterable[str]) -> csr_array:
        rows = encode(list(check_texts(texts)), convert_to_sparse_tensor=True, save_to_cpu=True).coalesce()
        return csr_array((rows.values().numpy(), tuple(rows.indices().numpy())), shape=tuple(rows.shape))


def splade_terms(model: Splade, collection: Collection, store: Store | None = None) -> tuple[csr_array, csr_array]:
    """Return the terms of a collection's documents and queries, from the store if they are there.

    Both are float32 [n_texts, n_words]; documents are stored `SHARD` at a time.
    """
    store, texts = store or Store(), collection.doc_texts

    def stored(encode: Callable[[list[str]], csr_array], side: str, part: list[str], first: int) -> csr_array:
        def make() -> dict[str, np.ndarray]:
            terms = encode(part)
            return {"data": terms.data, "indices": terms.indices, "indptr": terms.indptr, "shape": terms.shape}

        key = {"splade": model.identity, "side": side, "texts": collection.identity[f"{side}_sha256"], "first": first}
        arrays = store.get("splade", key, make)
        shape = tuple(arrays["shape"].tolist())
        return csr_array((arrays["data"], arrays["indices"], arrays["indptr"]), shape=shape)

    docs = [
        stored(model.encode_documents, "documents", texts[first : first + SHARD], first)
        for first in range(0, len(texts), SHARD)
    ]
    return vstack(docs, format="csr"), stored(model.encode_queries, "queries", collection.query_texts, 0)


def splade_ranking(model: Splade, collection: Collection, k: int, store: Store | None = None) -> Ranking:
    """Rank a collection by the inner product of `splade_terms`: the `k` best documents of each query."""
    docs, queries = splade_terms(model, collection, store)
    return inner_product_search(docs, collection.doc_ids, queries, collection.query_ids, k)
