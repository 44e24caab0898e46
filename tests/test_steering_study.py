"""Two topics steered apart (32_steering): ranks, controls and intervals by hand, the study on a tiny model."""

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from scipy.sparse import csr_array

from lib.bm25.index import BM25Index
from lib.data.collection import Collection
from lib.latent_terms import LatentTerms
from lib.report.steering import main_rows, steering_figure, steering_in_words
from lib.studies import names, steering
from lib.studies.steering import FIELDS, MAIN, SYSTEMS, System


def collection(**changes) -> Collection:
    animals = ["cat", "dog", "bird", "fish"]
    fields = {
        "name": "pets",
        "split": "test",
        "doc_ids": [f"d{i}" for i in range(8)],
        "doc_texts": [f"the {animal} sat on a {thing}" for animal in animals for thing in ("mat", "red stone")],
        "query_ids": animals,
        "query_texts": [f"a {animal}" for animal in animals],
        "qrels": {animal: {f"d{2 * i}": 1, f"d{2 * i + 1}": 1} for i, animal in enumerate(animals)},
        "source": "folder",
    }
    return Collection(**fields | changes)


def test_ranks_share_ties_and_falls_are_doublings():
    scores = np.array([5, 1, 3, 3, 0], np.float32)
    assert steering.ranks(scores, [0, 2, 3, 1, 4]).tolist() == [1, 2.5, 2.5, 4, 5]
    # document 0 falls from rank 1 to 4 (two doublings), document 4 rises from 5 to 2.5 (one up): (2 - 1) / 2
    after = np.array([1, 2, 5, 0, 2], np.float32)
    assert steering.ranks(after, [0, 4]).tolist() == [4, 2.5]
    assert steering.fall(scores, after, [0, 4]) == pytest.approx(0.5)


def test_pairs_share_no_document_and_no_query():
    pairs = steering.paired(collection(), 10)
    assert sorted(row for pair in pairs for row in pair) == [0, 1, 2, 3]
    assert steering.paired(collection(), 10) == pairs
    both = steering.two_topics(collection(), pairs)
    a, b = pairs[0]
    assert both.query_texts[0] == f"{collection().query_texts[a]} {collection().query_texts[b]}"
    assert len(both.qrels[both.query_ids[0]]) == 4
    alike = {animal: {"d0": 1, "d1": 0} for animal in collection().query_ids}
    with pytest.raises(ValueError, match=r"0 pairs.*more queries"):
        steering.paired(collection(qrels=alike), 10)


def test_a_control_draws_as_many_of_like_value():
    values, chosen = np.arange(25.0)[::-1], np.array([0, 1, 2, 24])  # of the largest ten, and of the smallest
    drawn = [steering.alike(values, chosen, np.random.default_rng(seed)) for seed in range(20)]
    for positions in drawn:
        assert len(set(positions.tolist())) == 4
        # in rising order of the values, the groups are positions 24 to 15, 14 to 5, and 4 to 0
        assert [np.sum(positions >= 15), np.sum(positions < 5)] == [1, 3]
    assert len({tuple(sorted(positions.tolist())) for positions in drawn}) > 5


def test_the_latents_of_a_topic_are_its_own_from_the_heaviest_on():
    docs = csr_array(np.eye(6, dtype=np.float32) + 0.1)
    index = BM25Index.build(docs, [str(i) for i in range(6)])
    query, topic, kept = (
        csr_array(np.array([row], np.float32)) for row in ([1, 3, 2, 0, 1, 0.5], [1, 1, 1, 1, 0, 0], [1, 0, 0, 0, 1, 0])
    )
    made = list(steering.variants(query, topic, kept, index.df, index.idf, np.random.default_rng(0)))
    assert [system for system, _, _ in made[:3]] == SYSTEMS[:3]
    assert made[1][1] is kept
    silenced = {system.n: (row, query.indices[chosen]) for system, row, chosen in made if system.name == names.SILENCED}
    assert silenced[1][1].tolist() == [1]
    assert silenced[None][1].tolist() == [1, 2]  # 0 is the other topic's too, 3 not in the query, 5 in neither
    assert silenced[None][0].toarray().tolist() == [[1, 0, 0, 0, 1, 0.5]]
    counts = pd.Series([system for system, _, _ in made]).value_counts()
    assert counts[System(names.AS_HEAVY, 4)] == counts[System(names.AS_FREQUENT, None)] == steering.DRAWS
    assert set(counts.index) == set(SYSTEMS)


def test_a_summary_by_hand():
    values = np.zeros((2, len(SYSTEMS), len(FIELDS)))
    values[:, 0, FIELDS.index("ndcg")] = 0.4
    for system, fall, kept_fall, ndcg in ((MAIN, 2.0, -0.5, 0.5), (System(names.AS_HEAVY, MAIN.n), 0.5, 0.25, 0.4)):
        for field, value in (("fall", fall), ("kept_fall", kept_fall), ("ndcg", ndcg)):
            values[:, SYSTEMS.index(system), FIELDS.index(field)] = value
    table = pd.DataFrame(steering.summary("c/test", [values, values]))
    (row,) = table[(table["system"] == names.SILENCED) & (table["n"] == MAIN.n)].to_dict("records")
    assert row["n_pairs"] == 4
    assert row["gap"] == row["gap_low"] == row["gap_high"] == 2.5
    assert row["over_heavy"] == pytest.approx(2.25) and row["over_frequent_low"] == 2.5
    assert row["difference"] == pytest.approx(0.1)


@pytest.mark.slow
def test_the_study_and_its_report(tiny_encoder, tiny_sae, monkeypatch, tmp_path):
    from lib.support.store import Store

    of_name = {"a": collection(), "limit/1000": collection(name="limit/1000", split=None), "b": collection(name="b")}
    monkeypatch.setattr(steering, "load_collections", lambda given: [of_name[name] for name in given])
    model, store = LatentTerms(tiny_encoder, tiny_sae), Store(tmp_path)
    tables, by_pair, origin = steering.steering_study(model, tiny_sae, [*of_name], 5, store)
    again = steering.steering_study(model, tiny_sae, [*of_name], 5, store)
    pd.testing.assert_frame_equal(tables["steering"], again[0]["steering"])
    every, rankings = tables.values()
    assert every["vocabulary"].unique().tolist() == [names.LATENTS, names.OF_EMBEDDINGS, names.DECODED]
    table = every[every["vocabulary"] == names.LATENTS]
    assert table["collection"].unique().tolist() == ["pets/test", "limit/1000", "b/test", names.MEAN]
    assert len(table) == len(every) / 3 == 4 * len(SYSTEMS)
    assert len(rankings) == 4 * 4
    assert by_pair["collection"].tolist() == ["pets/test"] * 2 + ["limit/1000"] * 2 + ["b/test"] * 2
    assert origin["n_pairs"] == 5
    unchanged = every[every["system"] == names.TWO_TOPICS]
    assert (unchanged[["fall", "gap", "difference", "latents"]] == 0).all(axis=None)
    main = main_rows(table)
    assert len(main) == 4 * 6
    figure = steering_figure(every)
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["1", "4", "16", "64", "all"]
    assert [label.get_text() for label in figure.axes[1].get_yticklabels()] == main["collection"].unique().tolist()
    assert [label.get_text() for label in figure.axes[4].get_yticklabels()] == every["vocabulary"].unique().tolist()
    plt.close(figure)
    words = steering_in_words(every, rankings)
    assert words.count("16 latents") == 4 + 2 and "Latents of embeddings, decoded, mean, limit left out, " in words
    assert "Queries as they are, mean, limit left out: nDCG@10 of the embeddings is" in words
    one = table[table["collection"] == "pets/test"].copy()
    columns = ["over_frequent_low", "over_heavy_low", "difference_low"]
    of_main = (one["system"] == names.SILENCED) & (one["n"] == MAIN.n)
    for values, words in (
        ((0.1, 0.2, -0.01), ("steering works", "it survives")),
        ((0.1, -0.1, -0.03), ("is not shown to work", "is not shown to survive")),
    ):
        one.loc[of_main, columns] = values
        text = steering_in_words(one, rankings[rankings["collection"] == "pets/test"])
        assert text.startswith("pets/test, 2 pairs. With 16 latents") and all(part in text for part in words)
