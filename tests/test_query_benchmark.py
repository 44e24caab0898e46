"""The benchmark from a typed query to a ranking, at a tiny size."""

import sys

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TEXTS

from lib.benchmarks import query
from lib.benchmarks.query import STAGES, rankers, table
from lib.data.collection import Collection
from lib.latent_terms import LatentTerms
from lib.searcher import Searcher

QUERIES = ["old cat", "the river", "red house", "zebra", "a dog"]


@pytest.fixture(scope="module")
def model(tiny_encoder, tiny_sae):
    return LatentTerms(tiny_encoder, tiny_sae)


@pytest.mark.slow
def test_every_case_has_every_stage(model, monkeypatch):
    (ranker,) = rankers(model, TEXTS, [40])
    asked, seconds_of = [], query.seconds_of
    monkeypatch.setattr(query, "seconds_of", lambda *given: asked.append(given[2:]) or seconds_of(*given))
    before = torch.get_num_threads()
    frame = table(model, ranker, QUERIES, together=[1, 2], threads=[1, 2], k=3, repeats=1)
    assert torch.get_num_threads() == before
    assert frame.stage.tolist() == [*STAGES] * 4
    assert frame.groupby(["threads", "queries"]).size().to_dict() == dict.fromkeys([(1, 1), (1, 2), (2, 1), (2, 2)], 6)
    assert (frame.least_ms >= 0).all()
    assert (frame.least_ms <= frame.median_ms).all()
    assert (frame.median_ms <= frame.p95_ms).all()
    assert asked[0] == (["old cat"], 3, 1)
    assert asked.count((["red house", "zebra"], 3, 2)) == 2  # a turn that is not counted, and one
    assert not any(QUERIES[-1] in texts for texts, *_ in asked if len(texts) == 2)  # whole batches only
    with pytest.raises(ValueError, match="5 queries, fewer than the 6"):
        table(model, ranker, QUERIES, together=[6], threads=[1], k=3, repeats=1)


@pytest.mark.slow
def test_a_searcher_ranks_by_all_that_a_pass_gives(model, monkeypatch):
    (ranker,) = rankers(model, TEXTS, [40], all_parts=True)
    rankings, rank = [], Searcher.search_encoded

    def noted(*given, **named):
        rankings.append(rank(*given, **named))
        return rankings[-1]

    monkeypatch.setattr(Searcher, "search_encoded", noted)
    query.seconds_of(model, ranker, QUERIES[:2], 5, 1)
    by_stages, whole = rankings
    assert ranker.n_docs == 40 and by_stages.doc_ids == whole.doc_ids
    np.testing.assert_allclose(by_stages.scores, whole.scores, rtol=1e-5)


@pytest.mark.slow
def test_the_command(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(query.LatentTerms, "load", lambda name: model)
    ids = [str(number) for number in range(len(QUERIES))]
    doc_ids = [str(number) for number in range(len(TEXTS))]
    collection = Collection("tiny", "test", doc_ids, TEXTS, ids, QUERIES, {id_: {"0": 1} for id_ in ids}, "folder")
    monkeypatch.setattr(query, "load_collection", lambda name: collection)
    settings = ["--sizes", "20", "30", "--queries", "3", "--together", "1", "--threads", "1", "--repeats", "1", "--out"]
    monkeypatch.setattr(sys, "argv", ["query", *settings, str(tmp_path / "out.csv")])
    query.main()
    assert "3 queries, median" in capsys.readouterr().out
    frame = pd.read_csv(tmp_path / "out.csv")
    assert frame.n_docs.tolist() == [20] * len(STAGES) + [30] * len(STAGES)
