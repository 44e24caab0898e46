"""Corpora compared and clustered (33_corpora): its rules by hand, the study on a tiny model, its report."""

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from scipy.sparse import csr_array
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from lib.data.collection import Collection
from lib.latent_terms import LatentTerms
from lib.report.corpora import corpora_figure, corpora_in_words
from lib.studies import corpora, names
from lib.support.store import Store


def collection(name: str, n: int = 24) -> Collection:
    animals, colours = ("cat", "dog", "bird"), ("red", "blue", "old")
    texts = [f"{a}\nthe {c} {a} sat on stone {i}" for a in animals for i, c in zip(range(n), colours * n, strict=False)]
    ids = [f"{text.split()[0]}.{i}" for i, text in enumerate(texts)]
    return Collection(name, "test", ids, texts, ["q"], ["a cat"], {"q": {ids[0]: 1}}, "folder")


def test_agreement_of_partitions_is_scikit_learns():
    rng = np.random.default_rng(0)
    first = rng.integers(0, 5, 200)
    for second in (first, rng.integers(0, 7, 200), np.where(rng.random(200) < 0.5, first, 0)):
        ari, nmi = corpora.agreement(first, second)
        assert ari == pytest.approx(adjusted_rand_score(first, second))
        assert nmi == pytest.approx(normalized_mutual_info_score(first, second))
    assert corpora.agreement(np.zeros(3, int), np.zeros(3, int)) == (1, 1)


def test_auc_of_what_differs_by_hand():
    terms = csr_array(np.array([[1, 0, 0], [2, 5, 0], [0, 1, 0], [0, 0, 9]], np.float32))
    z, inside = np.array([2.0, -1.0, 4.0]), np.array([True, True, False, False])
    # without the last term the scores are 2, 1, -1, 0: both inside are higher. With it 2, 1, -1, 4: 2 of 4 pairs
    assert corpora.told_apart(terms, z, np.array([True, True, False]), inside) == 1
    assert corpora.told_apart(terms, z, np.ones(3, bool), inside) == 0.5
    assert corpora.told_apart(terms, z, np.zeros(3, bool), inside) == 0.5


def test_the_gain_of_labels_is_over_latents_that_were_measured():
    nan = np.float32("nan")
    gain = corpora.label_gain(np.array([0.9, 0.7, nan, 0.6]), np.array([0.5, 0.5, 0.5, nan]))
    assert gain["label_gain"] == pytest.approx(0.3)
    assert 0.19 < gain["label_gain_low"] < 0.3 < gain["label_gain_high"] < 0.41
    assert np.isnan(list(corpora.label_gain(np.array([nan]), np.array([nan])).values())).all()


def test_labels_are_words_of_the_texts_and_are_dealt_out_anew():
    words, by_label = corpora.words_and_labels(["A cat, a cat.", "the dog"], ["cat (dog)", "", "fish", "the", "dog"])
    assert words.toarray().tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]
    assert by_label == [[1, 3], [], [], [2], [3]]
    dealt = corpora.deal(by_label)
    assert [bool(numbers) for numbers in dealt] == [True, False, False, True, True]
    assert sorted(map(tuple, dealt)) == sorted(map(tuple, by_label))
    of_words = corpora.Compared(np.array([3.0, -3, 1, 0]), np.array([0.01, 0.01, 0.5, 1]))
    assert corpora.same_way(2.0, [0, 2], of_words) and corpora.same_way(-1.0, [1], of_words)
    assert not corpora.same_way(2.0, [1, 2], of_words)


def test_a_contrast_agrees_with_words_or_is_beyond_them():
    rng = np.random.default_rng(0)
    inside = np.arange(120) < 60
    # latent 0 goes with the group as its word does; latent 1 too, but its label is of a word that all texts have
    texts = [f"{'alpha' if of_group else 'beta'} common {rng.integers(9)}" for of_group in inside]
    terms = csr_array(np.stack([inside, inside, rng.random(120) < 0.5], axis=1).astype(np.float32))
    groups = np.where(inside, "a", "b")
    data = corpora.Corpora("made", texts, groups, terms, np.empty((120, 0)))
    assert data.contrasts == ["a"]
    contrasts, latents = corpora.contrast_tables(data, ["alpha", "common", "common"])
    rows = contrasts.set_index("vocabulary")
    assert rows.loc[names.LATENTS, ["terms", "recurring", "labelled", "agreeing", "auc"]].tolist() == [2, 2, 2, 1, 1]
    assert rows.loc[names.BEYOND, ["terms", "auc"]].tolist() == [1, 1]
    assert rows.loc[names.WORDS, "terms"] == 2
    assert latents[["kind", "latent", "share_a", "share_b"]].to_numpy().tolist() == [
        [names.AGREEING, 0, 1.0, 0.0],
        [names.BEYOND, 1, 1.0, 0.0],
    ]
    row = corpora.summary(contrasts, 120).set_index("vocabulary").loc[names.LATENTS]
    assert (row["agree"], row["recurs"], row["n_contrasts"]) == (0.5, 1, 1)
    assert row["agree_low"] < 0.5 < row["agree_high"] and np.isnan(row["auc_low"])


def test_pairs_that_go_together_are_looked_for_in_the_other_half(tiny_encoder, tiny_sae):
    rng = np.random.default_rng(0)
    has = rng.random((80, tiny_sae.width)) < 0.2
    has[:, 3] = has[:, 7] = rng.random(80) < 0.3
    data = corpora.Corpora(
        "made", ["x"] * 80, np.array(["a"] * 80), csr_array(has.astype(np.float32)), np.empty((80, 0))
    )
    table = corpora.together(LatentTerms(tiny_encoder, tiny_sae), data, [f"w{j}" for j in range(tiny_sae.width)])
    first = table.iloc[0]
    assert (first["a"], first["b"], first["npmi"]) == (3, 7, pytest.approx(1)) and first[
        "held_out_npmi"
    ] == pytest.approx(1)
    row = table.iloc[1]
    odd, (n_a, n_b) = has[1::2], (has[1::2, int(row[column])].sum() for column in "ab")
    both = (odd[:, int(row["a"])] & odd[:, int(row["b"])]).sum()
    expected = np.log(both * 40 / (n_a * n_b)) / -np.log(both / 40) if both else -1
    assert row["held_out_npmi"] == pytest.approx(expected)
    assert first["control_npmi"] < 0.9


def test_groups_are_of_one_size_and_those_of_others_are_refused(tiny_encoder, tiny_sae, tmp_path):
    model, store = LatentTerms(tiny_encoder, tiny_sae), Store(tmp_path)
    data = corpora.corpora_of(model, [collection("pydoc")], 30, store)
    assert {group: np.sum(data.groups == group) for group in data.contrasts} == {"bird": 10, "cat": 10, "dog": 10}
    assert all(group in text and text.startswith("the ") for text, group in zip(data.texts, data.groups, strict=True))
    assert data.terms.shape[0] == len(data.embeddings) == 30
    with pytest.raises(ValueError, match=r"'other'.*pydoc.*squad"):
        corpora.corpora_of(model, [collection("other")], 30, store)
    with pytest.raises(ValueError, match="0 groups of 20"):
        corpora.corpora_of(model, [collection("squad", 5)], 30, store)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Number of distinct clusters")  # where no label is good
def test_the_study_and_its_report(tiny_encoder, tiny_sae, monkeypatch, tmp_path):
    of_name = {name: collection(name) for name in ("squad", "first", "second")}
    monkeypatch.setattr(corpora, "load_collection", of_name.__getitem__)
    monkeypatch.setattr(corpora, "SEEDS", 2)
    model, store = LatentTerms(tiny_encoder, tiny_sae), Store(tmp_path)
    tables, origin = corpora.corpora_study(model, (("squad",), ("first", "second")), 60, store)
    both = "first/test and second/test"
    assert tables["corpora"]["corpora"].unique().tolist() == ["squad/test", both]
    assert tables["corpora"]["n_contrasts"].tolist() == [3] * 3 + [1] * 3
    clusters = tables["corpora_clusters"].set_index(["corpora", "system"])
    assert clusters.loc[("squad/test", names.WORDS), ["k", "difference"]].tolist() == [3, 0]
    assert clusters["ari"].between(-0.5, 1).all()
    assert len(origin["collections"]) == 3
    table = tables["corpora"].assign(agree=0.8, agree_low=0.7, agree_high=0.9, control=0.1, control_high=0.2)
    table = table.assign(terms=5, recurs=0.9, auc=0.9, auc_low=[0.6] * 3 + [np.nan] * 3, auc_high=0.95, control_low=0)
    figure = corpora_figure(table, tables["corpora_clusters"])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["squad/test", both.replace(" a", "\na")]
    plt.close(figure)
    first, second = corpora_in_words(table, tables["corpora_together"], tables["corpora_clusters"]).splitlines()
    assert "0.80 (0.70 to 0.90) of the latents" in first and "latents agree with words" in first
    assert "their AUC is 0.90 (0.60 to 0.95): latents find what words do not" in first
    assert "AUC of 0.90 and 0.90. " in second and "are not shown to find" in second
    assert "Labels predict where their latents fire with an AUC of 0." in first
    plain = corpora_in_words(
        tables["corpora"].assign(terms=0, agree=np.nan), tables["corpora_together"], tables["corpora_clusters"]
    )
    assert "confirms" not in plain and "beyond" not in plain
    assert isinstance(tables["corpora_latents"], pd.DataFrame)
