"""Engines that run in this process: built from an index, asked with the same queries, answering with a `Ranking`.

They need the extra `engines`. Equal scores are in the order of the documents, but which of the documents that tie at
the k-th place are returned is the engine's choice.
"""

from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_array

from lib.bm25.index import BM25Index
from lib.bm25.ranking import Ranking
from lib.interop.engines.vectors import Document, batches, documents, each_query
from lib.support.checks import check_choice, check_count, check_ids

if TYPE_CHECKING:
    from pymilvus import MilvusClient
    from qdrant_client import QdrantClient

Find = Callable[[np.ndarray, np.ndarray, int], list[tuple[int, float]]]  # latents, weights, k to (position, score)

_SEISMIC_WIDTH = 2**16  # latents that fit the 16-bit numbers of Seismic's usual class
_FLOAT16 = (2.0**-24, 65504.0)


class ImpactIndexEngine:
    """`impact-index`: impacts in float32, exact search with MaxScore or WAND.

    https://impact-index.readthedocs.io

    Parameters
    ----------
    index : BM25Index
    folder : str or Path
        Where the engine keeps its files; made if it is not there. `impact_index.Index.load(folder, in_memory=True)`
        opens them again.
    bits : int, optional
        8 or 16: the impacts are rounded to so many bits and kept a second time, below `folder / "blocks"`, in
        compressed blocks of 128 postings, whose maxima a search skips by. Scores and ranking are then **approximate**.
    """

    def __init__(self, index: BM25Index, folder: str | Path, bits: int | None = None):
        engine = _module("impact_index", "impact-index")
        if bits is not None:
            check_choice(bits, (8, 16), "bits")
        Path(folder).mkdir(parents=True, exist_ok=True)
        builder = engine.IndexBuilder(str(folder))
        for document in documents(index, "impact-index"):
            builder.add(document.position, document.latents.astype(np.uintp), document.impacts)
        exact = builder.build(True)
        self._index = index
        self._engine = exact if bits is None else exact.compress(str(Path(folder) / "blocks"), nbits=bits)

    def search(
        self, queries: csr_array, query_ids: Iterable[str], k: int = 100, *, algorithm: str = "maxscore"
    ) -> Ranking:
        """Return the k best documents of each query; `algorithm` is "maxscore" or "wand". See `BM25Index.search`."""
        check_choice(algorithm, ("maxscore", "wand"), "algorithm")
        search = getattr(self._engine, f"search_{algorithm}")

        def find(latents: np.ndarray, weights: np.ndarray, k: int) -> list[tuple[int, float]]:
            hits = search(_by_latent(latents, weights), k)
            return [(hit.docid, hit.score) for hit in hits]

        return _search(self._index, queries, query_ids, k, "impact-index", find)


class SeismicEngine:
    """`pyseismic-lsr`: impacts in float16, **approximate** search (Bruch et al., SIGIR 2024, arXiv 2404.18812).

    A document that is found has its score, to 2**-11 of it; some of the k best are not found. An index of more than
    65,536 latents takes the engine's class for large vocabularies. Building prints to the standard output.

    Parameters
    ----------
    index : BM25Index
    build : keyword arguments
        For `SeismicIndex.build_from_dataset`, such as n_postings, summary_energy and num_threads.

    Raises
    ------
    ValueError
        For impacts outside of what float16 holds.
    """

    def __init__(self, index: BM25Index, **build: float | int):
        engine = _module("seismic", "pyseismic-lsr")
        suffix = "" if index.width <= _SEISMIC_WIDTH else "LV"
        dataset = getattr(engine, f"SeismicDataset{suffix}")(dim=index.width)
        for batch in batches(documents(index, "Seismic", _FLOAT16)):
            dataset.add_documents_by_id(
                [str(document.position) for document in batch],
                np.concatenate([document.latents for document in batch]),
                np.concatenate([document.impacts for document in batch]),
                np.cumsum([0, *(len(document.latents) for document in batch)]),
            )
        self._index = index
        self._engine = getattr(engine, f"SeismicIndex{suffix}").build_from_dataset(dataset, **build)
        self._tokens = engine.get_seismic_string()

    def search(
        self,
        queries: csr_array,
        query_ids: Iterable[str],
        k: int = 100,
        *,
        query_cut: int | None = None,
        heap_factor: float = 0.7,
    ) -> Ranking:
        """Return about the k best documents of each query; see `BM25Index.search`.

        `query_cut` is the number of a query's latents that choose the postings, those of the largest weights; None is
        all, since queries of latent terms have hundreds. The closer `heap_factor` to 1, the fewer blocks are read.
        """

        def find(latents: np.ndarray, weights: np.ndarray, k: int) -> list[tuple[int, float]]:
            cut = len(latents) if query_cut is None else query_cut
            tokens = latents.astype(self._tokens)
            hits = self._engine.search("", tokens, weights, k=k, query_cut=cut, heap_factor=heap_factor)
            return [(int(document), score) for _, score, document in hits]

        return _search(self._index, queries, query_ids, k, "Seismic", find)


class QdrantEngine:
    """Qdrant: sparse vectors in float32, exact search; no IDF modifier, since the query weights hold the idf.

    https://qdrant.tech/documentation/concepts/vectors

    Parameters
    ----------
    index : BM25Index
    client : qdrant_client.QdrantClient
        `QdrantClient(":memory:")` runs in this process, in Python: for trying out, up to some ten thousand documents.
        `QdrantClient(url)` is a server.
    collection : str
        A name that the client does not have yet.
    """

    def __init__(self, index: BM25Index, client: "QdrantClient", collection: str = "latent_terms"):
        self._models = models = _module("qdrant_client.models", "qdrant-client")
        self._index, self._client, self._collection = index, client, collection
        stored = models.SparseVectorParams(index=models.SparseIndexParams(datatype=models.Datatype.FLOAT32))
        client.create_collection(collection, vectors_config={}, sparse_vectors_config={"impacts": stored})
        for batch in batches(documents(index, "Qdrant")):
            client.upsert(collection, [self._point(document) for document in batch], wait=True)

    def _point(self, document: Document):
        vector = self._models.SparseVector(indices=document.latents.tolist(), values=document.impacts.tolist())
        payload = {"doc_id": document.doc_id}
        return self._models.PointStruct(id=document.position, vector={"impacts": vector}, payload=payload)

    def search(self, queries: csr_array, query_ids: Iterable[str], k: int = 100) -> Ranking:
        """Return the k best documents of each query; see `BM25Index.search`."""

        def find(latents: np.ndarray, weights: np.ndarray, k: int) -> list[tuple[int, float]]:
            query = self._models.SparseVector(indices=latents.tolist(), values=weights.tolist())
            hits = self._client.query_points(
                self._collection, query=query, using="impacts", limit=k, with_payload=False
            ).points
            return [(hit.id, hit.score) for hit in hits]

        return _search(self._index, queries, query_ids, k, "Qdrant", find)


class MilvusEngine:
    """Milvus: sparse vectors in float32, exact search by inner product; no BM25 function, since the weights have it.

    https://milvus.io/docs/sparse_vector.md. Milvus takes no empty vector, so documents without a latent are not
    inserted. Milvus Lite 3.2.2 is exact; 3.1 applied BM25 to the impacts once more.

    Parameters
    ----------
    index : BM25Index
    client : pymilvus.MilvusClient
        `MilvusClient("FILE.db")` is Milvus Lite, in this process; `MilvusClient(url)` is a server.
    collection : str
        A name that the client does not have yet: letters, digits and underscores.
    """

    def __init__(self, index: BM25Index, client: "MilvusClient", collection: str = "latent_terms"):
        types = _module("pymilvus", "pymilvus").DataType
        self._index, self._client, self._collection = index, client, collection
        schema = client.create_schema()
        schema.add_field("position", types.INT64, is_primary=True)
        schema.add_field("impacts", types.SPARSE_FLOAT_VECTOR)
        stored = client.prepare_index_params()
        stored.add_index("impacts", index_type="SPARSE_INVERTED_INDEX", metric_type="IP")
        client.create_collection(collection, schema=schema, index_params=stored, consistency_level="Strong")
        for batch in batches(document for document in documents(index, "Milvus") if len(document.latents)):
            client.insert(collection, [self._row(document) for document in batch])

    @staticmethod
    def _row(document: Document) -> dict:
        return {"position": document.position, "impacts": _by_latent(document.latents, document.impacts)}

    def search(self, queries: csr_array, query_ids: Iterable[str], k: int = 100) -> Ranking:
        """Return the k best documents of each query, k at most 16,384; see `BM25Index.search`."""

        def find(latents: np.ndarray, weights: np.ndarray, k: int) -> list[tuple[int, float]]:
            (hits,) = self._client.search(
                self._collection,
                [_by_latent(latents, weights)],
                anns_field="impacts",
                limit=k,
                search_params={"metric_type": "IP", "params": {"drop_ratio_search": 0.0}},
            )
            return [(hit["position"], hit["distance"]) for hit in hits]

        return _search(self._index, queries, query_ids, k, "Milvus", find)


def _module(name: str, package: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(f"{package} is not installed ({error}); pip install latent-terms[engines].") from error


def _by_latent(latents: np.ndarray, weights: np.ndarray) -> dict[int, float]:
    return dict(zip(latents.tolist(), weights.tolist(), strict=True))


def _search(index: BM25Index, queries: csr_array, query_ids: Iterable[str], k: int, target: str, find: Find) -> Ranking:
    """Ask `find` for each query that has a latent, and order what it returns by score and then by position."""
    k = min(check_count(k, "k"), len(index))
    vectors = list(each_query(index, queries, target))
    query_ids = check_ids(query_ids, len(vectors), "query_ids")
    found = [find(latents, weights, k) if len(latents) else [] for latents, weights in vectors]
    found = [sorted(hits, key=lambda hit: (-hit[1], hit[0])) for hits in found]
    doc_ids = [[index.doc_ids[position] for position, _ in hits] for hits in found]
    return Ranking(query_ids, doc_ids, [np.array([score for _, score in hits]) for hits in found])
