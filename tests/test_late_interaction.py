"""MaxSim: equal to a plain double loop, whatever the blocks, and clear about bad input."""

import numpy as np
import pytest
import torch

from lib.encode.encoder import TokenStates
from lib.evaluation.late_interaction import MaxSim, late_interaction_search

DOCS = ["the cat sat", "a dog ran far", "", "the sun and the moon", "the cat sat"]
QUERIES = ["cat", "the moon ran", ""]


def block(rows, offsets):
    states = torch.tensor(rows, dtype=torch.float32).reshape(-1, 2)
    n_texts = len(offsets) - 1
    return TokenStates(states, np.zeros(len(states), np.int64), np.array(offsets), np.zeros((n_texts, 2), np.float32))


def test_worked_by_hand():
    # q0 = (1, 0), (0, 2); q1 = (3, 3)
    best = MaxSim([block([(1, 0), (0, 2), (3, 3)], [0, 2, 3])], k=3)
    # d0 = (5, 0): q0 scores 1 + 0, q1 cos 45 degrees. d1 = (1, 1): q0 2 cos 45, q1 1. d2 is empty: 0
    best.add(block([(5, 0)], [0, 1]))
    best.add(block([(1, 1)], [0, 1, 1]))
    half = np.sqrt(0.5)
    assert best.docs.tolist() == [[1, 0, 2], [1, 0, 2]]
    np.testing.assert_allclose(best.scores, [[2 * half, 1, 0], [1, half, 0]], rtol=1e-6)


@pytest.mark.parametrize("k", [1, 2, 5, 9])
def test_equals_a_plain_loop(tiny_encoder, k):
    ranking = late_interaction_search(tiny_encoder, DOCS, list("abcde"), QUERIES, list("xyz"), k=k)

    def states(texts, kind):
        alone = (next(iter(tiny_encoder.stream([text], kind))).states.double().numpy() for text in texts)
        return [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in alone]

    for query, rows in zip("xyz", states(QUERIES, "query"), strict=True):
        scores = [
            sum(max(row @ other for other in doc) for row in rows) if len(doc) and len(rows) else 0.0
            for doc in states(DOCS, "document")
        ]
        np.testing.assert_allclose([score for _, score in ranking[query]], sorted(scores, reverse=True)[:k], atol=1e-5)
    assert all(docs.index("a") < docs.index("e") for docs in ranking.doc_ids if "e" in docs)  # they are the same text
    assert ranking.doc_ids[2] == list("abcde")[:k]  # the empty query: all score 0, in their order


def test_bad_input(tiny_encoder):
    with pytest.raises(ValueError, match="k is 0"):
        late_interaction_search(tiny_encoder, DOCS, list("abcde"), QUERIES, list("xyz"), k=0)
    with pytest.raises(ValueError, match="0 documents"):
        late_interaction_search(tiny_encoder, [], [], QUERIES, list("xyz"))
    with pytest.raises(TypeError, match="doc_texts"):
        late_interaction_search(tiny_encoder, "cat", ["a"], QUERIES, list("xyz"))
