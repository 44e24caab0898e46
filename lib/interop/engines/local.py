"""Engines that run in this process: built from an index, searched with the same queries, answering with a `Ranking`.

They need the extra `engines`. Equal scores are in the order of the documents, but which of the documents that tie at
the k-th place are returned is the engine's choice.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_array

from lib.bm25.index import BM25Index
from lib.bm25.ranking import Ranking
from lib.interop import optional_module
from lib.interop.engines.vectors import Document, batches, documents, each_query
from lib.support.checks import check_choice, check_count, check_ids
from lib.support.files import make_folder

if TYPE_CHECKING:
    from pymilvus import MilvusClient
    from qdrant_client import QdrantClient

Hits = list[tuple[int, float]]  # positions of documents in the index, and their scores

_SEISMIC_WIDTH = 2**16  # latents that fit the 16-bit numbers of Seismic's usual class
_FLOAT16 = (2.0**-24, 65504.0)


class Engine(ABC):
    """An engine that its constructor builds from an index; a subclass has a `name` and `find`, and is in `ENGINES`."""

    name: str

    def __init__(self, index: BM25Index):
        self.index = index

    @abstractmethod
    def find(self, latents: np.ndarray, weights: np.ndarray, k: int, **settings) -> Hits:
        """Return the k best documents of one query, for its latents, int64 [m >= 1], and w(q) * idf of each."""

    def search(self, queries: csr_array, query_ids: Iterable[str], k: int = 100, **settings) -> Ranking:
        """Return the k best documents of each query, as `BM25Index.search`; `settings` are those of `find`."""
        k = min(check_count(k, "k"), len(self.index))
        vectors = list(each_query(self.index, queries, self.name))
        query_ids = check_ids(query_ids, len(vectors), "query_ids")
        doc_ids, scores = [], []
        for latents, weights in vectors:
            hits = self.find(latents, weights, k, **settings) if len(latents) else []
            hits = sorted(hits, key=lambda hit: (-hit[1], hit[0]))
            doc_ids.append([self.index.doc_ids[position] for position, _ in hits])
            scores.append(np.array([score for _, score in hits]))
        return Ranking(query_ids, doc_ids, scores)


class ImpactIndexEngine(Engine):
    """`impact-index`: impacts in float32, exact search with MaxScore or WAND.

    https://impact-index.readthedocs.io

    Parameters
    ----------
    index : BM25Index
    folder : str or Path
        Where the engine keeps its files, made if it does not exist; `impact_index.Index.load` opens them again.
    bits : int, optional
        8 or 16: the impacts are rounded to so many bits and kept a second time, below `folder / "blocks"`, in
        compressed blocks of 128 postings, whose maxima a search skips by. Scores and ranking are then **approximate**.
    """

    name = "impact-index"

    def __init__(self, index: BM25Index, folder: str | Path, bits: int | None = None):
        super().__init__(index)
        if bits is not None:
            check_choice(bits, (8, 16), "bits")
        engine = optional_module("impact_index", "engines")
        folder = make_folder(folder)
        builder = engine.IndexBuilder(str(folder))
        for document in documents(index, self.name):
            builder.add(document.position, document.latents.astype(np.uintp), document.impacts)
        exact = builder.build(True)
        self._engine = exact if bits is None else exact.compress(str(folder / "blocks"), nbits=bits)

    def find(self, latents: np.ndarray, weights: np.ndarray, k: int, algorithm: str = "maxscore") -> Hits:
        """Answer one query; `algorithm` is "maxscore" or "wand"."""
        check_choice(algorithm, ("maxscore", "wand"), "algorithm")
        hits = getattr(self._engine, f"search_{algorithm}")(_by_latent(latents, weights), k)
        return [(hit.docid, hit.score) for hit in hits]


class SeismicEngine(Engine):
    """`pyseismic-lsr`: impacts in float16, **approximate** search (Bruch et al., SIGIR 2024, arXiv 2404.18812).

    A document that is found has its score, to 2**-11 of it; some of the k best are not found. An index of more than
    65,536 latents takes the engine's class for large vocabularies. Impacts that float16 does not hold are a ValueError.
    Building prints to the standard output.

    Parameters
    ----------
    index : BM25Index
    **build
        Arguments of `SeismicIndex.build_from_dataset`, such as n_postings, summary_energy and num_threads.
    """

    name = "Seismic"

    def __init__(self, index: BM25Index, **build: float | int):
        super().__init__(index)
        engine = optional_module("seismic", "engines")
        suffix = "" if index.width <= _SEISMIC_WIDTH else "LV"
        dataset = getattr(engine, f"SeismicDataset{suffix}")(dim=index.width)
        for batch in batches(documents(index, self.name, _FLOAT16)):
            dataset.add_documents_by_id(
                [str(document.position) for document in batch],
                np.concatenate([document.latents for document in batch]),
                np.concatenate([document.impacts for document in batch]),
                np.cumsum([0, *(len(document.latents) for document in batch)]),
            )
        self._engine = getattr(engine, f"SeismicIndex{suffix}").build_from_dataset(dataset, **build)
        self._tokens = engine.get_seismic_string()

    def find(
        self, latents: np.ndarray, weights: np.ndarray, k: int, query_cut: int | None = None, heap_factor: float = 0.7
    ) -> Hits:
        """Answer one query by its `query_cut` heaviest latents, None for all; `heap_factor` near 1 reads few blocks."""
        cut = len(latents) if query_cut is None else query_cut
        tokens = latents.astype(self._tokens)
        hits = self._engine.search("", tokens, weights, k=k, query_cut=cut, heap_factor=heap_factor)
        return [(int(position), score) for _, score, position in hits]


class QdrantEngine(Engine):
    """Qdrant: sparse vectors in float32, exact search; no IDF modifier, since the query weights hold the idf.

    Parameters
    ----------
    index : BM25Index
    client : qdrant_client.QdrantClient
        `QdrantClient(":memory:")` runs in this process, in Python: for trying out, up to some ten thousand documents
        (`QdrantEdgeEngine` for more).
        `QdrantClient(url)` is a server.
    collection : str
        A name that the client does not have yet.
    """

    name = "Qdrant"

    def __init__(self, index: BM25Index, client: "QdrantClient", collection: str = "latent_terms"):
        super().__init__(index)
        self._models = models = optional_module("qdrant_client.models", "engines")
        self._client, self._collection = client, collection
        stored = models.SparseVectorParams(index=models.SparseIndexParams(datatype=models.Datatype.FLOAT32))
        client.create_collection(collection, vectors_config={}, sparse_vectors_config={"impacts": stored})
        for batch in batches(documents(index, self.name)):
            client.upsert(collection, [self._point(document) for document in batch], wait=True)

    def _vector(self, latents: np.ndarray, values: np.ndarray):
        return self._models.SparseVector(indices=latents.tolist(), values=values.tolist())

    def _point(self, document: Document):
        vector = {"impacts": self._vector(document.latents, document.impacts)}
        return self._models.PointStruct(id=document.position, vector=vector, payload={"doc_id": document.doc_id})

    def find(self, latents: np.ndarray, weights: np.ndarray, k: int) -> Hits:
        """Answer one query."""
        query = self._vector(latents, weights)
        answer = self._client.query_points(self._collection, query=query, using="impacts", limit=k, with_payload=False)
        return [(int(hit.id), hit.score) for hit in answer.points]


class QdrantEdgeEngine(Engine):
    """`qdrant-edge-py`: Qdrant's own engine in this process, sparse vectors in float32, exact search.

    Parameters
    ----------
    index : BM25Index
    folder : str or Path
        Where the engine keeps its files, new or empty; `qdrant_edge.EdgeShard.load` opens them again. Its ids are
        positions in `index.doc_ids`.
    threads : int, optional
        Number of threads that search; by default the engine chooses.
    """

    name = "Qdrant Edge"

    def __init__(self, index: BM25Index, folder: str | Path, threads: int | None = None):
        super().__init__(index)
        self._module = engine = optional_module("qdrant_edge", "engines")
        threads = None if threads is None else check_count(threads, "threads")
        folder = make_folder(folder)
        if any(folder.iterdir()):
            raise ValueError(f"{folder} holds files already; {self.name} makes a new index, so give a new folder.")
        stored = engine.EdgeSparseVectorParams(datatype=engine.VectorStorageDatatype.Float32)
        config = engine.EdgeConfig(sparse_vectors={"impacts": stored}, max_search_threads=threads, wal_enabled=False)
        self._shard = engine.EdgeShard.create(str(folder), config)
        for batch in batches(documents(index, self.name)):
            points = [engine.Point(d.position, {"impacts": self._vector(d.latents, d.impacts)}) for d in batch]
            self._shard.update(engine.UpdateOperation.upsert_points(points))
        self._shard.optimize()
        self._shard.flush()

    def _vector(self, latents: np.ndarray, values: np.ndarray):
        return self._module.SparseVector(indices=latents.tolist(), values=values.tolist())

    def find(self, latents: np.ndarray, weights: np.ndarray, k: int) -> Hits:
        """Answer one query."""
        query = self._module.Query.Nearest(self._vector(latents, weights), using="impacts")
        return [(hit.id, hit.score) for hit in self._shard.query(self._module.QueryRequest(limit=k, query=query))]


class MilvusEngine(Engine):
    """Milvus: sparse vectors in float32, exact search by inner product; no BM25 function, since the weights have it.

    Milvus takes no empty vector, so documents without a latent are not inserted. Milvus Lite must be 3.2.2 or newer:
    3.1 applied BM25 to the impacts once more.

    Parameters
    ----------
    index : BM25Index
    client : pymilvus.MilvusClient
        `MilvusClient("FILE.db")` is Milvus Lite, in this process; `MilvusClient(url)` is a server.
    collection : str
        A name that the client does not have yet: letters, digits and underscores.
    """

    name = "Milvus"

    def __init__(self, index: BM25Index, client: "MilvusClient", collection: str = "latent_terms"):
        super().__init__(index)
        types = optional_module("pymilvus", "engines").DataType
        self._client, self._collection = client, collection
        schema = client.create_schema()
        schema.add_field("position", types.INT64, is_primary=True)
        schema.add_field("impacts", types.SPARSE_FLOAT_VECTOR)
        stored = client.prepare_index_params()
        stored.add_index("impacts", index_type="SPARSE_INVERTED_INDEX", metric_type="IP")
        client.create_collection(collection, schema=schema, index_params=stored, consistency_level="Strong")
        for batch in batches(document for document in documents(index, self.name) if len(document.latents)):
            rows = [{"position": d.position, "impacts": _by_latent(d.latents, d.impacts)} for d in batch]
            client.insert(collection, rows)

    def find(self, latents: np.ndarray, weights: np.ndarray, k: int) -> Hits:
        """Answer one query; k is at most 16,384."""
        query = _by_latent(latents, weights)
        exact = {"metric_type": "IP", "params": {"drop_ratio_search": 0.0}}
        (hits,) = self._client.search(self._collection, [query], anns_field="impacts", limit=k, search_params=exact)
        return [(hit["position"], hit["distance"]) for hit in hits]


def _by_latent(latents: np.ndarray, weights: np.ndarray) -> dict[int, float]:
    return dict(zip(latents.tolist(), weights.tolist(), strict=True))


ENGINES: dict[str, type[Engine]] = {
    "impact-index": ImpactIndexEngine,
    "seismic": SeismicEngine,
    "qdrant": QdrantEngine,
    "qdrant-edge": QdrantEdgeEngine,
    "milvus": MilvusEngine,
}
