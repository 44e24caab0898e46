"""Files and requests for engines that run elsewhere: schema, documents to load, and the body of a search.

Numbers are written with as many digits as float32 needs, so each engine gets exactly ours, and stores them so:

| target | stored as | scores |
|---|---|---|
| elasticsearch, opensearch | 9 significant bits, the rest cut off | at most 2**-8 of them below ours |
| qdrant, milvus, vespa | float32 | ours |
| anserini | integers, impacts times a scale | ours times the scale, less what rounding costs (`rounding_loss`) |

The formats are those of these pages:

- elasticsearch: https://www.elastic.co/docs/reference/elasticsearch/mapping-reference/sparse-vector,
  https://www.elastic.co/guide/en/elasticsearch/reference/8.16/query-dsl-sparse-vector-query.html and
  https://www.elastic.co/guide/en/elasticsearch/reference/8.16/docs-bulk.html
- opensearch: https://docs.opensearch.org/latest/query-dsl/specialized/neural-sparse and
  https://docs.opensearch.org/docs/vector-search/ai-search/neural-sparse-with-raw-vectors
- qdrant: https://qdrant.tech/documentation/concepts/vectors
- milvus: https://milvus.io/docs/sparse_vector.md, https://milvus.io/docs/create-collection.md and
  https://milvus.io/docs/prepare-source-data.md
- vespa: https://docs.vespa.ai/en/reference/document-json-format.html and
  https://docs.vespa.ai/en/tensor-user-guide.html

Elasticsearch and OpenSearch keep these values in Lucene's `FeatureField`, which has the precision and the limits:
https://lucene.apache.org/core/10_0_0/core/org/apache/lucene/document/FeatureField.html
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from scipy.sparse import csr_array

from lib.bm25.index import BM25Index
from lib.interop.engines.anserini import impact_query, json_vectors
from lib.interop.engines.vectors import FLOAT32, Document, batches, documents, each_query
from lib.support.checks import check_choice, check_count
from lib.support.files import make_folder, replacing

Weights = dict[str, float]

_MAX_ID = 512  # bytes of an Elasticsearch id

_VESPA_SCHEMA = """\
schema latent_terms {
    document latent_terms {
        field doc_id type string {
            indexing: summary
        }
        field impacts type tensor<float>(latent{}) {
            indexing: attribute
        }
    }
    rank-profile bm25 {
        inputs {
            query(weights) tensor<float>(latent{})
        }
        first-phase {
            expression: sum(query(weights) * attribute(impacts))
        }
    }
}
"""


class Target(NamedTuple):
    """How the files and requests of one engine are written; an entry of `TARGETS`."""

    documents: str  # name of the file of documents
    pieces: Callable[..., Iterator[str]]  # its text, from a stream of `Document` and the settings of this target
    request: Callable[[Weights, int], dict]  # the body of a search, from a query's weights by latent, and k
    schema: tuple[str, str] | None = None  # name and content of the file that defines what the engine stores
    max_weight: float = FLOAT32[1]  # that a query may hold


def write(index: BM25Index, folder: str | Path, target: str, **settings) -> None:
    """Write the files that load an index into an engine; each is replaced in one step, and streamed to disk.

    - elasticsearch, opensearch: `index.json`, the body of `PUT /NAME`; `bulk.ndjson`, for `POST /NAME/_bulk`. Two
      lines a document; send some thousands of lines at a time, a server takes 100 MB. Elasticsearch before 8.19 has no
      `index_options`, and prunes nothing: delete them.
    - qdrant: `collection.json`, the body of `PUT /collections/NAME`; `points.ndjson`, each line the body of one
      `PUT /collections/NAME/points`.
    - milvus: `collection.json`, for `POST /v2/vectordb/collections/create` with `collectionName` added; `rows.json`, a
      file for its import. Documents without a latent are left out, since Milvus takes no empty vector.
    - vespa: `latent_terms.sd`, the schema; `feed.jsonl`, for `vespa feed`.
    - anserini: `impacts.jsonl`. Index the folder with `-collection JsonVectorCollection -impact -pretokenized`.

    Raises TypeError or ValueError for an unknown target or setting, and an impact or id that the target cannot hold;
    the old files stay.

    Parameters
    ----------
    index : BM25Index
    folder : str or Path
        Made if it does not exist; other files in it stay.
    target : str
        A key of `TARGETS`.
    **settings
        Of anserini, `scale`: the count that an impact of 1 becomes, 100 by default (`rounding_loss`). Others have none.
    """
    entry = TARGETS[check_choice(target, TARGETS, "target")]
    pieces = entry.pieces(documents(index, target), **settings)
    folder = make_folder(folder)
    with replacing(folder / entry.documents) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(pieces)
    if entry.schema is not None:
        name, content = entry.schema
        with replacing(folder / name) as temporary:
            temporary.write_text(content, "utf-8")


def request(index: BM25Index, query: csr_array, target: str, k: int = 100) -> dict:
    """Return the body of a search for the k best documents of one query, to be sent as JSON.

    - elasticsearch, opensearch: `POST /NAME/_search`; `_id` is the document's. k is at most 10,000 unless the index
      setting `max_result_window` allows more.
    - qdrant: `POST /collections/NAME/points/query`; `payload.doc_id` is the document's.
    - milvus: `POST /v2/vectordb/entities/search` with `collectionName` added. k is at most 16,384.
    - vespa: `POST /search/`; `fields.doc_id` is the document's. It scores every document; k is at most 400 unless the
      query profile sets `maxHits`.
    - anserini: `query`, the weights by term for a query encoder of Pyserini's `LuceneImpactSearcher`, and `k`.

    Raises TypeError or ValueError for an unknown target, more than one row, weights that the engine does not take or
    none, and k below 1.

    Parameters
    ----------
    index : BM25Index
        The one that was written, or a copy: its idf is part of the weights.
    query : csr_array, float32 [1, width] or [width]
    target : str
        A key of `TARGETS`.
    k : int
    """
    entry = TARGETS[check_choice(target, TARGETS, "target")]
    rows = list(each_query(index, query, target, (FLOAT32[0], entry.max_weight)))
    if len(rows) != 1:
        raise ValueError(f"the query matrix has {len(rows)} rows; give one, such as queries[[0]].")
    latents, weights = rows[0]
    if not len(latents):
        raise ValueError(f"the query has no latent of weight above 0; {target} takes no empty query.")
    shortest = map(float, weights.astype(str))  # the floats of fewest digits that are these float32
    by_latent = dict(zip(latents.astype(str).tolist(), shortest, strict=True))
    return entry.request(by_latent, check_count(k, "k"))


def _cells(document: Document) -> str:
    cells = zip(document.latents.tolist(), document.impacts.astype(str).tolist(), strict=True)
    return "{" + ",".join(f'"{latent}":{impact}' for latent, impact in cells) + "}"


def _bulk(stream: Iterator[Document]) -> Iterator[str]:
    for document in stream:
        if not 1 <= (size := len(document.doc_id.encode())) <= _MAX_ID:
            name = f"document id {document.doc_id[:50]!r} has {size} bytes"
            raise ValueError(f"{name}; Elasticsearch and OpenSearch take 1 to {_MAX_ID}. Index under other ids.")
        yield f'{{"index":{{"_id":{json.dumps(document.doc_id)}}}}}\n{{"impacts":{_cells(document)}}}\n'


def _elasticsearch(weights: Weights, k: int) -> dict:
    vector = {"field": "impacts", "query_vector": weights, "prune": False}
    return {"size": k, "_source": False, "query": {"sparse_vector": vector}}


def _opensearch(weights: Weights, k: int) -> dict:
    return {"size": k, "_source": False, "query": {"neural_sparse": {"impacts": {"query_tokens": weights}}}}


def _points(stream: Iterator[Document]) -> Iterator[str]:
    for batch in batches(stream):
        yield f'{{"points":[{",".join(map(_point, batch))}]}}\n'


def _point(document: Document) -> str:
    latents, impacts = (",".join(numbers.astype(str).tolist()) for numbers in (document.latents, document.impacts))
    vector = f'{{"impacts":{{"indices":[{latents}],"values":[{impacts}]}}}}'
    return f'{{"id":{document.position},"vector":{vector},"payload":{{"doc_id":{json.dumps(document.doc_id)}}}}}'


def _qdrant(weights: Weights, k: int) -> dict:
    query = {"indices": list(map(int, weights)), "values": list(weights.values())}
    return {"query": query, "using": "impacts", "limit": k, "with_payload": True}


def _rows(stream: Iterator[Document]) -> Iterator[str]:
    yield '{"rows":['
    separator = "\n"
    for document in stream:
        if len(document.latents):
            fields = f'"position":{document.position},"doc_id":{json.dumps(document.doc_id)}'
            yield f'{separator}{{{fields},"impacts":{_cells(document)}}}'
            separator = ",\n"
    yield "\n]}\n"


def _milvus(weights: Weights, k: int) -> dict:
    search = {"metricType": "IP", "params": {"drop_ratio_search": 0.0}}
    return {"data": [weights], "limit": k, "annsField": "impacts", "outputFields": ["doc_id"], "searchParams": search}


def _feed(stream: Iterator[Document]) -> Iterator[str]:
    for document in stream:
        fields = f'{{"doc_id":{json.dumps(document.doc_id)},"impacts":{{"cells":{_cells(document)}}}}}'
        yield f'{{"put":"id:latent_terms:latent_terms::{document.position}","fields":{fields}}}\n'


def _vespa(weights: Weights, k: int) -> dict:
    yql = "select doc_id from latent_terms where true"
    return {"yql": yql, "ranking": "bm25", "hits": k, "input.query(weights)": weights}


def _mapping(field: dict) -> tuple[str, str]:
    return "index.json", json.dumps({"mappings": {"properties": {"impacts": field}}})


_QDRANT_COLLECTION = {"sparse_vectors": {"impacts": {"index": {"datatype": "float32"}}}}
_MILVUS_FIELDS = [
    {"fieldName": "position", "dataType": "Int64", "isPrimary": True},
    {"fieldName": "doc_id", "dataType": "VarChar", "elementTypeParams": {"max_length": 65535}},
    {"fieldName": "impacts", "dataType": "SparseFloatVector"},
]
_MILVUS_INDEXES = [
    {"fieldName": "impacts", "indexName": "impacts", "indexType": "SPARSE_INVERTED_INDEX", "metricType": "IP"}
]
_MILVUS_COLLECTION = {"schema": {"autoId": False, "fields": _MILVUS_FIELDS}, "indexParams": _MILVUS_INDEXES}
TARGETS = {
    "elasticsearch": Target(
        "bulk.ndjson", _bulk, _elasticsearch, _mapping({"type": "sparse_vector", "index_options": {"prune": False}})
    ),
    "opensearch": Target("bulk.ndjson", _bulk, _opensearch, _mapping({"type": "rank_features"}), max_weight=64.0),
    "qdrant": Target("points.ndjson", _points, _qdrant, ("collection.json", json.dumps(_QDRANT_COLLECTION))),
    "milvus": Target("rows.json", _rows, _milvus, ("collection.json", json.dumps(_MILVUS_COLLECTION))),
    "vespa": Target("feed.jsonl", _feed, _vespa, ("latent_terms.sd", _VESPA_SCHEMA)),
    "anserini": Target("impacts.jsonl", json_vectors, impact_query),
}
