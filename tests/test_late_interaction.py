"""MaxSim: equal to a plain double loop, whatever the blocks, and clear about bad input."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.bm25.ranking import Ranking
from lib.encode.encoder import TokenStates
from lib.evaluation.late_interaction import MaxSim, StoredStates, in_bytes, late_interaction_search, rerank

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


@pytest.mark.slow
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


def test_bytes_worked_by_hand():
    # 127 / 2 * (1, -2) = (63.5, -127), halves to even; the length of a row changes nothing
    rows = torch.tensor([[1.0, -2.0], [1e-3, -2e-3], [0.0, 0.0], [3.0, 1.0]])
    assert in_bytes(rows).tolist() == [[64, -127], [64, -127], [0, 0], [127, 42]]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_stored_states_rank_as_a_plain_loop_over_their_bytes(seed):
    rng = np.random.default_rng(seed)
    counts, query_counts = rng.integers(0, 4, 6), rng.integers(0, 3, 3)
    docs, queries = (rng.normal(size=(n.sum(), 2)) for n in (counts, query_counts))
    offsets, query_offsets = (np.concatenate([[0], np.cumsum(n)]) for n in (counts, query_counts))
    ids = [f"d{i}" for i in range(6)]
    states = StoredStates.build([block(docs, offsets)], ids)
    assert len(states) == 6
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (states.values.astype(float), queries)]
    first = [rng.permutation(ids)[: rng.integers(0, 7)].tolist() for _ in query_counts]
    ranking = Ranking(list("xyz"), first, [np.zeros(len(row)) for row in first])
    reranked = rerank(ranking, states, [block(queries, query_offsets)])
    for row, query in enumerate("xyz"):
        scores = {}
        for doc in first[row]:
            i = ids.index(doc)
            rows = unit[0][offsets[i] : offsets[i + 1]]
            tokens = unit[1][query_offsets[row] : query_offsets[row + 1]]
            scores[doc] = sum(max(token @ other for other in rows) for token in tokens) if len(rows) else 0.0
        assert set(reranked.doc_ids[row]) == set(first[row])
        for doc, score in reranked[query]:
            assert score == pytest.approx(scores[doc], abs=1e-5)


def test_reranking_all_documents_is_the_search(tiny_encoder):
    ids, query_ids = list("abcde"), list("xyz")
    searched = late_interaction_search(tiny_encoder, DOCS, ids, QUERIES, query_ids)
    states = StoredStates.build(tiny_encoder.stream(DOCS), ids)
    assert states.values.nbytes == states.offsets[-1] * tiny_encoder.d
    backwards = Ranking(query_ids, [row[::-1] for row in searched.doc_ids], [np.zeros(5)] * 3)
    reranked = rerank(backwards, states, tiny_encoder.stream(QUERIES, "query"))
    for query, scores in zip(query_ids, searched.scores, strict=True):
        np.testing.assert_allclose(dict(reranked[query])["a"], dict(searched[query])["a"], rtol=0.02)
        np.testing.assert_allclose([score for _, score in reranked[query]], scores, atol=0.03)
    assert reranked.doc_ids[2] == backwards.doc_ids[2]  # the empty query: all score 0, so in the order of the ranking
    first = reranked.doc_ids[0]
    assert first.index("e") < first.index("a")  # the same text, and e comes first in the ranking
    # of the ranked documents only, encoded anew
    anew = StoredStates.build(tiny_encoder.stream(DOCS[3:]), ids[3:])
    few = Ranking(["x"], [["d", "e"]], [np.zeros(2)])
    again = rerank(few, anew, tiny_encoder.stream(QUERIES[:1], "query"))
    np.testing.assert_allclose(
        [score for _, score in again["x"]], [dict(reranked["x"])[d] for d in again.doc_ids[0]], atol=0.03
    )


def test_states_that_are_no_states():
    ok = block([(1, 2), (3, 4)], [0, 1, 2])
    states = StoredStates.build([ok], ["a", "b"])
    with pytest.raises(ValueError, match="3 ids for 2 rows"):
        StoredStates.build([ok], ["a", "b", "c"])
    with pytest.raises(ValueError, match="at least one document"):
        StoredStates.build([], [])
    with pytest.raises(ValueError, match="NaN"):
        StoredStates.build([block([(1, np.nan)], [0, 1])], ["a"])
    with pytest.raises(ValueError, match="float32"):
        StoredStates(np.zeros((2, 2), np.float32), states.offsets, ["a", "b"])
    with pytest.raises(ValueError, match="0 to 3"):
        StoredStates(states.values, np.array([0, 1, 3]), ["a", "b"])
    ranking = Ranking(["x"], [["a", "z"]], [np.zeros(2)])
    with pytest.raises(ValueError, match="'z'"):
        rerank(ranking, states, [block([(1, 2)], [0, 1])])
    with pytest.raises(ValueError, match="2 queries"):
        rerank(ranking, states, [ok])
    with pytest.raises(ValueError, match="of size 3"):
        states.scores(np.zeros((1, 3), np.float32), ["a"])
