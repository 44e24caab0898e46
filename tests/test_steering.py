"""Steered queries, worked by hand, and that what they silence no longer counts."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from lib.bm25.index import BM25Index
from lib.bm25.steering import steer
from lib.evaluation.baselines import inner_product_search
from lib.interop.engines.vectors import documents, query_vectors
from lib.latent_terms import LatentTerms

QUERIES = csr_array(np.array([[4, 2, 0, 0], [0, 0, 0, 0]], np.float32))


def test_factors_multiply_and_silence():
    steered = steer(QUERIES, {0: 0.5, 1: 0, 3: 7.0})
    assert steered.toarray().tolist() == [[2, 0, 0, 0], [0, 0, 0, 0]]
    assert (steered.nnz, steered.dtype) == (1, np.float32)
    assert QUERIES.toarray().tolist() == [[4, 2, 0, 0], [0, 0, 0, 0]]  # as it was
    assert steer(QUERIES).toarray().tolist() == QUERIES.toarray().tolist()


def test_more_and_less_by_hand():
    # |q| 6, step .5: 3 of weight. more: mean of (1, 0, 0, 0) and (0, 0, .5, .5); less: (0, 1, 0, 0)
    more = csr_array(np.array([[5, 0, 0, 0], [0, 0, 1, 1]], np.float32))
    less = csr_array(np.array([[0, 9, 0, 0]], np.float32))
    steered = steer(QUERIES, {2: 2.0}, more=more, less=less)
    assert steered.toarray().tolist() == [[4 + 3 * 0.5, 0, 2 * 3 * 0.25, 3 * 0.25], [0, 0, 0, 0]]
    assert steer(QUERIES, more=more, less=less, step=0).toarray().tolist() == QUERIES.toarray().tolist()
    np.testing.assert_allclose(steer(QUERIES, more=more, less=more).toarray(), QUERIES.toarray())
    empty = csr_array((1, 4), dtype=np.float32)
    assert steer(QUERIES, more=empty, less=empty).toarray().tolist() == QUERIES.toarray().tolist()


def test_a_silenced_latent_adds_nothing_to_any_score():
    docs = csr_array(np.array([[3, 0, 1, 0], [0, 3, 1, 0], [0, 0, 0, 2]], np.float32))
    index = BM25Index.build(docs, ["a", "b", "c"])
    query = csr_array(np.array([[3, 1, 0, 0]], np.float32))
    assert index.search_one(query, 1)[0][0] == "a"
    steered = steer(query, {0: 0})
    assert index.search_one(steered, 1)[0][0] == "b"
    assert {part.latent for doc_id in "abc" for part in index.explain(steered, doc_id)} == {1}
    assert index.search_one(steer(query, less=docs[[0]], step=2), 1)[0][0] == "b"


def test_engines_and_inner_products_are_steered_as_the_index_is():
    docs = csr_array(np.array([[3, 0, 1, 0], [0, 3, 1, 0], [0, 0, 0, 2]], np.float32))
    query, ids = csr_array(np.array([[3, 1, 0, 0]], np.float32)), ["a", "b", "c"]
    index, steered = BM25Index.build(docs, ids), steer(query, {0: 0})
    vector = query_vectors(index, steered).toarray()[0]  # what an engine is asked
    assert np.flatnonzero(vector).tolist() == [1]
    products = [float(vector[document.latents] @ document.impacts) for document in documents(index, "qdrant")]
    np.testing.assert_allclose(products, index.scores(steered), rtol=1e-6)
    first = [inner_product_search(docs, ids, rows, ["q"], 1)["q"][0][0] for rows in (query, steered)]  # as SPLARE ranks
    assert first == ["a", "b"]


def test_a_model_steers_by_texts(tiny_encoder, tiny_sae):
    model = LatentTerms(tiny_encoder, tiny_sae)
    queries = model.encode_queries(["the old cat"], progress=False)
    steered = model.steer(queries, more=["a red bird"], less=["the dog"])
    rows = [model.encode_documents([text], progress=False) for text in ("a red bird", "the dog")]
    np.testing.assert_array_equal(steered.toarray(), steer(queries, more=rows[0], less=rows[1]).toarray())
    with pytest.raises(TypeError, match="more"):
        model.steer(queries, more="a red bird")


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"factors": {4: 1}}, ValueError, "from 0 to 3"),
        ({"factors": {"0": 1}}, TypeError, "from 0 to 3"),
        ({"factors": {0: -1}}, ValueError, r"factors\[0\] is -1"),
        ({"factors": {0: np.nan}}, ValueError, "nan"),
        ({"factors": {0: 1e39}}, ValueError, "steered queries"),
        ({"factors": [0]}, TypeError, "factors"),
        ({"step": -0.1}, ValueError, "step is -0.1"),
        ({"more": csr_array((1, 3))}, ValueError, r"more has shape \(1, 3\)"),
        ({"less": csr_array((0, 4))}, ValueError, "at least 1"),
        ({"less": ["text"]}, TypeError, "less is a list"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_refuses(options, error, match):
    with pytest.raises(error, match=match):
        steer(QUERIES, **options)
