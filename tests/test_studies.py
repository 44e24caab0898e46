"""The studies on a tiny model and collections of a few sentences: figures worked out by hand, and the store."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array

from lib.data.collection import Collection
from lib.evaluation.measures import evaluate
from lib.latent_terms import LatentTerms
from lib.report.impacts import impacts_figure, impacts_in_words
from lib.studies.beyond import Setting, beyond_study, change_terms, choose_settings, ideas
from lib.studies.comparison import query_postings, summary_of
from lib.studies.encoded import encode_collection
from lib.studies.features import contexts_of, family_agreement, family_study, place_counts, strongest_contexts
from lib.studies.impacts import impacts_study
from lib.studies.limit import LIMIT_SYSTEMS, limit_study
from lib.studies.names import AS_TUNED, FAMILIES, LIMIT_MEASURES, LOOKED_UP, TOGETHER, WITH_FEEDBACK, WITH_LATE
from lib.studies.pruning import UNPRUNED, Pruning, prune_terms, pruning_study
from lib.studies.zipf import zipf_study
from lib.support.store import Store

pytestmark = pytest.mark.usefixtures("one_thread")
WORDS = ["cat", "dog", "cow", "mat", "house", "tree", "river", "stone", "bird", "fish", "red", "green", "blue", "old"]
WORDS += ["new", "big", "small", "sat", "ran", "saw"]


def small_collection(name: str, split: str, n_docs: int = 60, seed: int = 0) -> Collection:
    """Documents of ten random words; a query is three words of the document that answers it."""
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(WORDS, 10)) for _ in range(n_docs)]
    answers = rng.choice(n_docs, 8, replace=False)
    queries = [" ".join(rng.choice(texts[answer].split(), 3)) for answer in answers]
    ids, query_ids = [f"d{i}" for i in range(n_docs)], [f"q{i}" for i in range(8)]
    qrels = {query: {ids[answer]: 1} for query, answer in zip(query_ids, answers, strict=True)}
    return Collection(name, split, ids, texts, query_ids, queries, qrels, "folder")


@pytest.fixture
def model(tiny_encoder, tiny_sae):
    return LatentTerms(tiny_encoder, tiny_sae)


@pytest.fixture
def collections(monkeypatch):
    """Two collections, "a" and "b", each with a train and a test split, in place of those that are loaded."""
    found = {
        f"{name}/{split}": small_collection(name, split, seed=seed)
        for seed, (name, split) in enumerate([("a", "train"), ("b", "train"), ("a", "test"), ("b", "test")])
    }
    for study in ("zipf", "pruning", "features", "beyond", "comparison"):
        monkeypatch.setattr(f"lib.studies.{study}.load_collection", found.__getitem__)
    return found


def test_summarise_is_against_the_baseline():
    table = summary_of({"a": np.array([0.0, 1, 0, 1] * 5), "b": np.array([1.0, 1, 0, 1] * 5)}, "a")
    assert table["mean"].tolist() == [0.5, 0.75]
    assert table["difference"].tolist()[1] == 0.25
    assert np.isnan(table["p_holm"][0])
    assert table["p_holm"][1] < 1
    assert (table["low"] < table["mean"]).all()


def test_query_postings_add_up_the_lists_of_a_querys_terms():
    queries = csr_array(np.array([[1, 0, 2], [0, 0, 0], [0, 1, 0]], np.float32))
    assert query_postings(np.array([5, 7, 11]), queries).tolist() == [16, 0, 7]


def test_pruning_touches_one_side_only():
    docs = csr_array(np.array([[3, 1, 0], [2, 2, 1]], np.float32))
    queries = csr_array(np.array([[1, 4, 0]], np.float32))
    both = prune_terms(docs, queries, Pruning("document top", 1))
    assert both[0].toarray().tolist() == [[3, 0, 0], [2, 0, 0]]
    assert both[1] is queries
    rare = csr_array(np.array([[2, 0, 1]], np.float32))  # the idf of latent 2 is 3.8 times that of 0
    both = prune_terms(docs, rare, Pruning("query top by idf", 1))
    assert both[0] is docs and both[1].toarray().tolist() == [[0, 0, 1]]
    both = prune_terms(docs, queries, Pruning("query mass", 0.8))
    assert both[0] is docs
    assert both[1].toarray().tolist() == [[0, 4, 0]]
    assert prune_terms(docs, queries, Pruning("document frequency", 0.5))[0].toarray().tolist() == [
        [0, 0, 0],
        [0, 0, 1],
    ]
    with pytest.raises(ValueError, match="'top'"):
        prune_terms(docs, queries, Pruning("top", 1))


@pytest.mark.slow
def test_the_pruning_study_takes_what_it_has_from_the_store(model, collections, tmp_path, monkeypatch):
    prunings = [UNPRUNED, Pruning("document top", 2), Pruning("query top", 1)]
    table, lengths, origin = pruning_study(model, ["a/test", "b/test"], prunings, Store(tmp_path))
    assert table["kind"].tolist() == ["none", "document top", "query top"] * 2
    own = table.iloc[:3]
    assert own["postings"].iloc[1] <= 2 * 60 < own["postings"].iloc[0]
    assert own["postings_share"].tolist()[::2] == [1, 1]
    assert own["query_share"].iloc[2] < 1
    assert own["difference"].isna().tolist() == [True, False, False]
    assert lengths["df"].max() <= 60
    assert set(origin) == {"model", "bm25", "collections", "prunings", "splade"} and origin["splade"] is None
    monkeypatch.setattr("lib.studies.pruning.prune_terms", None)
    pd.testing.assert_frame_equal(pruning_study(model, ["a/test", "b/test"], prunings, Store(tmp_path))[0], table)


def test_impacts_of_eight_bits_are_compared_with_exact_ones(model, collections, tmp_path):
    table, _ = impacts_study(model, ["a/test", "b/test"], Store(tmp_path))
    assert table["impacts"].tolist() == ["float32", "uint8"] * 3
    exact, rounded = (table[table["impacts"] == form].set_index("collection") for form in ("float32", "uint8"))
    assert (rounded["bytes_per_document"] < exact["bytes_per_document"]).all()
    assert (exact["off"] == 0).all() and (exact["same_best"] == 1).all()
    assert ((rounded["off"] > 0) & (rounded["off"] <= rounded["bound"])).all()
    encoded = encode_collection(model, collections["a/test"], Store(tmp_path))
    ids, queries = collections["a/test"].doc_ids, encoded.query_terms
    indexes = [model.index(encoded.doc_terms, ids, impacts=form) for form in ("float32", "uint8")]
    scores = np.array([[index.scores(queries[[row]]) for row in range(8)] for index in indexes])
    assert rounded.loc["a/test", "off"] <= (abs(scores[0] - scores[1]).max(axis=1) / scores[0].max(axis=1)).mean()
    assert "A posting takes" in impacts_in_words(table) and impacts_figure(table)


def test_the_zipf_study_counts_words_and_latents(model, collections, tmp_path, monkeypatch):
    from lib.inspect import vocabulary

    monkeypatch.setattr(vocabulary, "LEAST_TAIL", 5)  # the tiny vocabularies have fewer than 50 terms
    tables, _ = zipf_study(model, ["a/test"], n_resamples=3, store=Store(tmp_path))
    fits = tables["zipf"].set_index("vocabulary")
    counted = Counter(word for text in collections["a/test"].doc_texts for word in text.split())
    assert fits.loc["words", "n_terms"] == len(counted)
    assert fits.loc["words", "n_occurrences"] == 600
    df = Counter(word for text in collections["a/test"].doc_texts for word in set(text.split()))
    assert fits.loc["words", "postings"] == sum(df.values())
    read = np.mean([sum(df[word] for word in set(text.split())) for text in collections["a/test"].query_texts])
    assert fits.loc["words", "query_postings"] == read
    encoded = encode_collection(model, collections["a/test"], Store(tmp_path))
    assert fits.loc["latents", "n_occurrences"] == encoded.firings.sum()
    curve = tables["zipf_curves"]
    assert curve.loc[curve["vocabulary"] == "words", "frequency"].iloc[0] == max(counted.values())
    last = tables["zipf_growth"].groupby("vocabulary")["n_terms"].last()
    assert last["words"] == pytest.approx(len(counted))


@pytest.mark.slow
def test_limit_measures_each_system_at_each_size(model, tmp_path):
    table, _ = limit_study(model, ["limit/46/20", "limit/60/20"], Store(tmp_path))
    assert len(table) == 2 * len(LIMIT_MEASURES) * len(LIMIT_SYSTEMS)
    rows = table.set_index(["n_docs", "measure", "system"]).sort_index()
    # all 46 documents are among the first 100, so recall is 1 by counting
    assert (rows.loc[(46, "R@100"), "mean"] == 1).all()
    assert (rows.loc[46, "kept"] == 1).all()
    assert rows.loc[(60, "R@10", "dense"), "kept"] == pytest.approx(
        rows.loc[(60, "R@10", "dense"), "mean"] / rows.loc[(46, "R@10", "dense"), "mean"]
    )
    with pytest.raises(ValueError, match="limit"):
        limit_study(model, ["limit/46/20", "limit/60/21"], Store(tmp_path))


def test_the_strongest_contexts_are_those_of_the_codes(model, tmp_path):
    texts = ["the cat sat", "dog", "the big dog ran"]
    found = strongest_contexts(model, texts, n=2, store=Store(tmp_path))
    (block,) = model.encoder.stream(texts)
    assert found["token_ids"].tolist() == block.token_ids.tolist()
    dense = np.zeros((len(block.token_ids), model.sae.width), np.float32)
    indices, values = (tensor.cpu().numpy() for tensor in model.sae.encode(block.states))
    np.put_along_axis(dense, indices, np.maximum(values, 0), axis=1)
    by_text = np.array([dense[a:b].max(axis=0) for a, b in zip(block.offsets[:-1], block.offsets[1:], strict=True)])
    for latent in range(model.sae.width):
        best = np.sort(by_text[:, latent][by_text[:, latent] > 0])[::-1][:2]
        np.testing.assert_allclose(found["values"][found["latents"] == latent], best, rtol=1e-6)
    np.testing.assert_allclose(dense[found["positions"], found["latents"]], found["values"], rtol=1e-6)
    tokens = model.encoder.tokenizer.convert_ids_to_tokens(range(len(model.encoder.tokenizer)))
    latent = int(found["latents"][0])
    (shown,) = contexts_of(found, latent, tokens, 1, around=1)
    assert f"[{tokens[block.token_ids[found['positions'][0]]]}]" in shown
    counts = place_counts(found, model.sae.width, len(tokens))
    assert counts.sum() == len(found["latents"])


def test_family_agreement_leaves_out_what_is_rare():
    sure, even = [12] + [0] * 11, [1] * 12
    places = csr_array(np.array([sure, even, [1] + [0] * 11], np.float32))
    table, first, second = family_agreement(csr_array(np.array([sure, even, sure], np.float32)), places)
    assert first.tolist() == second.tolist() == ["lexical", "broad", "rare"]
    row = table[table["half"] == 0.5].iloc[0]
    assert (row["n_latents"], row["n_rare"], row["kappa"], row["lexical_first"]) == (2, 1, 1, 0.5)


@pytest.mark.slow
def test_families_are_ranked_with_and_without(model, collections, tmp_path):
    labels = np.array([*FAMILIES, "rare"] * 16)
    table, _ = family_study(model, ["a/test"], labels, Store(tmp_path))
    rows = table.set_index(["kind", "family"])
    assert len(rows) == 1 + 3 * 3
    assert rows.loc[("only", "broad"), "n_latents"] == 16
    assert rows.loc[("without as many", "broad"), "n_latents"] == rows.loc[("without", "broad"), "n_latents"] == 48
    for family in FAMILIES:  # what is in and what is not make up the whole
        assert rows.loc[[("only", family), ("without", family)], "postings_share"].sum() == pytest.approx(1)


def test_a_setting_changes_the_weights_as_it_says():
    docs = csr_array(np.array([[2, 0, 3], [1, 1, 0]], np.float32))
    queries = csr_array(np.array([[2, 0, 1]], np.float32))
    base = Setting(1.0, 0.5, "lucene")
    assert all(new is old for new, old in zip(change_terms(docs, queries, base, "sqrt"), (docs, queries), strict=True))
    changed, asked = change_terms(docs, queries, base._replace(phi="identity", query_power=0.5), "sqrt")
    assert changed.toarray().tolist() == [[4, 0, 9], [1, 1, 0]]  # the square root undone
    assert asked.toarray().tolist() == [[2, 0, 1]]  # 4 and 1, to the power 1/2
    assert change_terms(docs, queries, base._replace(max_share=0.5), "sqrt")[0].toarray().tolist() == [
        [0, 0, 3],
        [0, 1, 0],
    ]


def test_no_idea_repeats_the_base():
    base = Setting(3.0, 0.35, "lucene")
    for changes in ideas(base, {"sqrt": 1.0, "log1p": 0.8, "identity": 1.5}).values():
        assert base not in [base._replace(**change) for change in changes]


@pytest.mark.slow
def test_settings_are_chosen_on_training_queries_and_frozen(model, collections, tmp_path):
    store = Store(tmp_path)
    table, tried, origin = beyond_study(model, ["a/train"], ["a/test", "b/test"], n_queries=6, store=store)
    base = tried[tried["idea"] == AS_TUNED]
    assert len(base) == 1
    chosen = tried[tried["chosen"]]
    own = chosen["idea"].isin([WITH_FEEDBACK, WITH_LATE, LOOKED_UP])
    assert (chosen["mean"] >= base["mean"].item())[~own].all()
    assert own.sum() >= 3
    assert {WITH_FEEDBACK, WITH_LATE, LOOKED_UP} <= set(table["system"])  # measured even where they lose
    assert (table["query_ms"] > 0).all()
    assert (table["state_bytes"] > 0).sum() >= 3  # two collections and their mean
    assert origin["settings"][WITH_LATE]["late"] in chosen["late"].tolist()
    assert origin["n_queries"] == 6
    assert origin["training"][0]["name"] == "a"
    # what stands in the table for the base is BM25 with the model's constants
    own = collections["b/test"]
    encoded = encode_collection(model, own, store)
    index = model.index(encoded.doc_terms, own.doc_ids)
    expected = evaluate(index.search(encoded.query_terms, own.query_ids, 11), own.qrels, ["nDCG@10"])["nDCG@10"]
    found = table[(table["collection"] == "b/test") & (table["system"] == AS_TUNED)]["mean"].item()
    assert found == pytest.approx(expected)
    means = table[table["system"] == TOGETHER].set_index("collection")["mean"]
    assert means["mean, limit left out"] == pytest.approx((means["a/test"] + means["b/test"]) / 2)


def test_on_a_tie_the_setting_stays_as_it_was(model):
    bench = SimpleNamespace(
        model=model,
        collection=small_collection("a", "train"),
        encoded=SimpleNamespace(doc_terms=csr_array(np.ones((1, 1), np.float32))),
        values=lambda setting: np.array([0.5]),
    )
    base = Setting(3.0, 0.35, "lucene")
    chosen, tried = choose_settings([bench], base)
    assert chosen[AS_TUNED] == chosen[TOGETHER] == base
    assert set(chosen) == {AS_TUNED, TOGETHER, WITH_FEEDBACK, WITH_LATE, LOOKED_UP}  # systems of their own stay
    assert tried["chosen"].sum() == 4
    assert len(tried) > 20


def test_what_was_chosen_on_is_not_measured_on(model, collections, tmp_path):
    with pytest.raises(ValueError, match="a/test"):
        beyond_study(model, ["a/test"], ["b/test"], store=Store(tmp_path))
    with pytest.raises(ValueError, match="a/train"):
        beyond_study(model, ["a/train"], ["a/train"], store=Store(tmp_path))
