"""Sweeps: one pass for all variants, nothing computed twice, and the same numbers as `LatentTerms` gives."""

import json
from dataclasses import replace
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_array

import lib.studies.inputs
import lib.studies.layers
import lib.studies.sweeps
from lib.bm25.index import BM25Index
from lib.bm25.pooling import apply_phi
from lib.bm25.ranking import Ranking
from lib.data.collection import Collection
from lib.data.training_text import GivenText
from lib.encode.encoder import TokenEncoder
from lib.evaluation.measures import evaluate
from lib.inspect.vocabulary import fit_zipf
from lib.latent_terms import LatentTerms
from lib.sae.autoencoder import SparseAutoencoder
from lib.sae.codes import FinishedTopK
from lib.sae.training import TrainingConfig
from lib.studies.ablations import _training_arms, ablations_study, bm25_surface, latents_a_token
from lib.studies.encoded import Terms, pooled_terms
from lib.studies.inputs import (
    Setting,
    plain_language_model,
    sample_collection,
    training_text,
    untrained,
)
from lib.studies.layers import layers_study
from lib.studies.profiles import PROFILES, SweepSize
from lib.studies.retrieval_training import retrieval_training_study
from lib.studies.seeds import (
    activation_agreement,
    best_cosines,
    matches,
    rank_biased_overlap,
    ranking_agreement,
    recurrence,
    seeds_study,
)
from lib.studies.sweeps import Recipe, Variant, autoencoders, sweep
from lib.studies.width_k import slope_a_doubling, width_k_study
from lib.support.store import Store

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]

NOUNS = ["cat", "dog", "cow", "mat", "house", "tree", "river", "stone", "bird", "fish"]
VERBS = ["sat", "ran", "saw", "ate", "swam", "sang"]
DOCS = [f"the {a} {VERBS[i % 6]} on a {b} ." for i, a in enumerate(NOUNS) for b in NOUNS[i + 1 : i + 3]]
CONFIG = TrainingConfig(width=24, k=3, epochs=1, batch_tokens=16, buffer_batches=2, dead_tokens=32)


def make_collection(name="little", queries=("cat on a dog", "the river", "a bird sang")) -> Collection:
    ids = [f"d{i}" for i in range(len(DOCS))]
    qrels = {f"q{i}": {f"d{3 * i}": 1} for i in range(len(queries))}
    return Collection(name, "test", ids, DOCS, list(qrels), list(queries), qrels, "folder")


@pytest.fixture
def recipe(tiny_encoder):
    return Recipe(tiny_encoder, GivenText(DOCS), 96, CONFIG)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def forbid(monkeypatch, owner, name):
    def refuse(*_, **__):
        raise AssertionError(f"{name} was called")

    monkeypatch.setattr(owner, name, refuse)


def test_a_sweep_gives_what_the_model_gives(recipe, tiny_encoder, store, monkeypatch):
    passes = []
    stream_layers = TokenEncoder.stream_layers
    monkeypatch.setattr(
        TokenEncoder,
        "stream_layers",
        lambda self, texts, *rest, **kw: passes.append(1) or stream_layers(self, texts, *rest, **kw),
    )
    first = replace(recipe, encoder=tiny_encoder.at(1))
    variants = {
        "final": Variant(recipe),
        "layer 1": Variant(first),
        "layer 1, count": Variant(first, pooling="count", phi="identity"),
        "final, inner product": Variant(recipe, pooling="max", phi="log1p", scoring=None),
    }
    collection = make_collection()
    swept = sweep(variants, "final", [collection], store)
    assert len(passes) == 3  # the training text, the documents, the queries: each once for both layers
    for name, variant in variants.items():
        model = LatentTerms(variant.recipe.encoder, swept.autoencoders[name], variant.pooling, variant.phi)
        docs, queries = model.encode_documents(DOCS), model.encode_queries(collection.query_texts)
        pooled = swept.documents["little/test", name].terms
        np.testing.assert_array_equal(apply_phi(pooled, variant.phi).toarray(), docs.toarray())
        if variant.scoring is not None:
            ranking = BM25Index.build(docs, collection.doc_ids).search(queries, collection.query_ids, 10)
            assert swept.rankings["little/test", name].doc_ids == ranking.doc_ids
            expected = evaluate(ranking, collection.qrels, ["nDCG@10"])["nDCG@10"]
            assert swept.summary.set_index("variant").loc[name, "mean"] == pytest.approx(expected)
    assert swept.autoencoders["final"] is swept.autoencoders["final, inner product"]
    assert swept.values.shape == (3, 2 + 4)


def test_nothing_is_computed_again(recipe, store, monkeypatch):
    variants = {"a": Variant(recipe), "b": Variant(replace(recipe, config=replace(CONFIG, seed=1)))}
    first = sweep(variants, "a", [make_collection()], store)
    forbid(monkeypatch, TokenEncoder, "stream_layers")
    forbid(monkeypatch, lib.studies.sweeps, "train")
    forbid(monkeypatch, lib.studies.sweeps, "cache_states")
    again = sweep(variants | {"c": Variant(recipe, phi="identity")}, "a", [make_collection()], store)
    pd.testing.assert_frame_equal(first.values, again.values.drop(columns="c"))


def test_only_what_is_missing_or_damaged_is_read_again(recipe, store, monkeypatch):
    (sae,) = autoencoders([recipe], store)
    readings = [Terms(recipe.encoder, sae, pooling) for pooling in ("sum", "max")]
    before = [pooled.terms.toarray() for pooled in pooled_terms(readings, make_collection(), "document", store)]
    damaged, *_ = store.folder.glob("terms-*/data-*.npy")
    damaged.write_bytes(damaged.read_bytes()[:-1])
    read = []
    read_texts = lib.studies.encoded.read_texts
    monkeypatch.setattr(lib.studies.encoded, "read_texts", lambda r, *rest: read.append(len(r)) or read_texts(r, *rest))
    with pytest.warns(UserWarning, match="truncated or altered"):
        after = [pooled.terms.toarray() for pooled in pooled_terms(readings, make_collection(), "document", store)]
    assert read == [1]
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)
    pooled_terms(readings, make_collection(), "query", store)
    assert read == [1, 3]  # both poolings, and what the autoencoder leaves unexplained


def test_a_killed_sweep_keeps_what_it_trained(recipe, store, monkeypatch):
    recipes = [replace(recipe, config=replace(CONFIG, seed=seed)) for seed in (0, 1)]
    calls, train = [], lib.studies.sweeps.train

    def killed(source, config, **kw):
        calls.append(config.seed)
        if config.seed == 1 and len(calls) == 2:
            raise KeyboardInterrupt
        return train(source, config, **kw)

    monkeypatch.setattr(lib.studies.sweeps, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        autoencoders(recipes, store)
    first, second = autoencoders(recipes, store)
    assert calls == [0, 1, 1]
    assert not torch.equal(first.W_enc, second.W_enc)
    assert not list(store.folder.glob("sae-*/checkpoints"))


def test_fewer_tokens_are_the_first_of_the_same_states(recipe, store):
    few, all_of_them = autoencoders([replace(recipe, tokens=32), recipe], store)
    assert few.metadata["distinct_tokens"] == 32
    assert all_of_them.metadata["distinct_tokens"] == 96
    assert len(list(store.folder.glob("states-*"))) == 1


def test_training_text_is_read_in_the_dtype_of_the_machine(recipe, store, monkeypatch):
    assert recipe.encoder.dtype == "float32"
    keys = []
    for dtype in ("float32", "bfloat16"):
        monkeypatch.setattr(lib.studies.sweeps, "native_dtype", lambda device, dtype=dtype: dtype)
        (sae,) = autoencoders([recipe], store)
        assert sae.metadata["run"]["states"]["encoder"]["dtype"] == dtype
        keys.append(recipe.key)
    assert keys[0] != keys[1]


def test_what_is_read_is_counted(recipe, store):
    (sae,) = autoencoders([recipe], store)
    (pooled,) = pooled_terms([Terms(recipe.encoder, sae, "sum")], make_collection(), "document", store)
    states = torch.cat([block.states for block in recipe.encoder.stream(DOCS)])
    codes = sae.encode(states)
    left = (states - sae.decode(codes)).square().sum() / (states - states.mean(dim=0)).square().sum()
    assert pooled.fvu == pytest.approx(left.item(), rel=1e-4)
    expected = np.bincount(codes.indices[codes.values > 0].numpy(), minlength=sae.width)
    np.testing.assert_array_equal(pooled.firings, expected)


def test_fvu_with_a_centre_is_that_of_the_scaled_states(recipe, store):
    (plain,) = autoencoders([recipe], store)
    states = torch.cat([block.states for block in recipe.encoder.stream(DOCS)])
    sae = SparseAutoencoder(**plain.tensors(), activation=FinishedTopK(plain.k), centre=states.mean(dim=0))
    (pooled,) = pooled_terms([Terms(recipe.encoder, sae, "sum")], make_collection(), "document", store)
    x = sae.normalize(states)
    left = (x - sae.decode(sae.encode(states))).square().sum() / (x - x.mean(dim=0)).square().sum()
    assert pooled.fvu == pytest.approx(left.item(), rel=1e-4)


def test_another_reader_shares_the_autoencoder(recipe, store):
    other = recipe.encoder.replace(special_tokens=False)
    variants = {"a": Variant(recipe), "b": Variant(recipe, reader=other)}
    swept = sweep(variants, "a", [make_collection()], store)
    assert swept.autoencoders["a"] is swept.autoencoders["b"]
    assert swept.documents["little/test", "b"].firings.sum() < swept.documents["little/test", "a"].firings.sum()


def test_sweep_refuses_before_it_computes(recipe, store, monkeypatch):
    forbid(monkeypatch, lib.studies.sweeps, "autoencoders")
    with pytest.raises(ValueError, match="baseline is 'b'"):
        sweep({"a": Variant(recipe)}, "b", [make_collection()], store)
    with pytest.raises(ValueError, match="little/test"):
        sweep(dict.fromkeys("ab", Variant(recipe)), "a", [make_collection(queries=("cat",))], store)


def test_splades_pooling_is_the_maximum_of_the_logarithms():
    indices, values = np.array([[0], [0], [1]]), np.array([[1.0], [3.0], [2.0]], np.float32)
    pooled = lib.studies.encoded.pool(indices, values, np.array([0, 3]), 2, "max")
    np.testing.assert_allclose(apply_phi(pooled, "log1p").toarray(), [[np.log1p(3), np.log1p(2)]], rtol=1e-6)


def test_slope_a_doubling():
    # 0.1 more with each doubling; flat; and by hand for 0, 0, 3 at log2 = 0, 1, 2: (-1 * 0 + 1 * 3) / 2
    values = np.array([[0.1, 0.2, 0.3], [0.5, 0.5, 0.5], [0.0, 0.0, 3.0]])
    np.testing.assert_allclose(slope_a_doubling(values, (1, 2, 4)), [0.1, 0, 1.5], atol=1e-12)


def test_a_sample_keeps_its_queries_answerable():
    collection = make_collection()
    sample = sample_collection(collection, 5, 2)
    assert sample.full_name == "little-5/test"
    assert len(sample.doc_ids) == 5 and len(sample.query_ids) == 2
    assert all(set(judged) <= set(sample.doc_ids) for judged in sample.qrels.values())
    assert sample.doc_texts == [DOCS[int(doc[1:])] for doc in sample.doc_ids]
    assert sample_collection(collection, 5, 2).doc_ids == sample.doc_ids
    assert len(sample_collection(collection, 1, 3).doc_ids) == 3  # judged documents stay


def test_the_text_is_the_folder_that_the_variable_names(tmp_path, store, monkeypatch):
    (tmp_path / "a.txt").write_text("one two three four\n" * 100)
    monkeypatch.setenv("LATENT_TERMS_TEXT", str(tmp_path))
    size = PROFILES["smoke"].sweeps
    for _ in range(2):  # counted, and then from the store
        corpus, what = training_text(size, 120, store)
    # 400 words, at least 1.2 tokens each: 120 / 480 of the passages
    assert corpus.fraction == pytest.approx(0.25)
    assert "25.00%" in what and str(tmp_path) not in json.dumps(corpus.identity)
    assert list(training_text(size, None, store)[0]) == ["one two three four"] * 100
    monkeypatch.delenv("LATENT_TERMS_TEXT")
    monkeypatch.setattr(lib.studies.inputs, "load_collection", lambda name: make_collection())
    assert "pydoc" in training_text(size, None, store)[1]
    assert training_text(PROFILES["paper"].sweeps, 120, store)[0].dataset == "HuggingFaceFW/fineweb-edu"


def test_untrained_is_the_same_but_for_the_weights(tiny_encoder, store, monkeypatch):
    other = untrained(tiny_encoder, store)
    ours, theirs = tiny_encoder.identity, other.identity
    assert {name for name in ours if ours[name] != theirs[name]} == {"model", "weights"}
    forbid(monkeypatch, torch.random, "fork_rng")
    assert untrained(tiny_encoder, store).identity == theirs
    assert not list(store.folder.glob(".*"))


def test_untrained_leaves_the_generator_alone(tiny_encoder, tmp_path):
    before = torch.random.get_rng_state()
    weights = [untrained(tiny_encoder, Store(tmp_path / name)).identity["weights"] for name in "ab"]
    assert torch.equal(before, torch.random.get_rng_state())
    assert weights[0] == weights[1]


def test_a_plain_language_model_that_is_not_known(tiny_encoder):
    with pytest.raises(ValueError, match="all-MiniLM"):
        plain_language_model(tiny_encoder)


def test_rank_biased_overlap_by_hand():
    assert rank_biased_overlap("abc", "abc") == pytest.approx(1)
    assert rank_biased_overlap("abc", "xyz") == 0
    # p = .5, agreement 0 and 1: 1 * .25 + 1 * (.5 * 0 + .25 * 1) = .5
    assert rank_biased_overlap("ab", "ba", 0.5) == pytest.approx(0.5)
    # agreement 1 and 1/2: .5 * .25 + (.5 * 1 + .25 * .5) = .75
    assert rank_biased_overlap("ab", "ac", 0.5) == pytest.approx(0.75)
    with pytest.raises(ValueError, match="2 and 1"):
        rank_biased_overlap("ab", "a")
    with pytest.raises(ValueError, match=r"1\.0"):
        rank_biased_overlap("ab", "ab", 1.0)


def test_ranking_agreement_is_a_mean_over_pairs_and_queries():
    def run(*rows):
        return Ranking([f"q{i}" for i in range(len(rows))], [list(row) for row in rows], [np.zeros(2)] * len(rows))

    runs = [run("ab", "ab"), run("ab", "xy"), run("ab", "ab")]
    # q0: 1, 1, 1; q1: 0, 1, 0
    assert ranking_agreement(runs)["mean"] == pytest.approx((1 + 1 / 3) / 2)
    with pytest.raises(ValueError, match="two runs"):
        ranking_agreement(runs[:1])


def test_best_cosines():
    cosines = best_cosines(np.array([[2, 0], [1, 1]], np.float32), np.array([[0, 5], [3, 0]], np.float32))
    np.testing.assert_allclose(cosines, [1, np.sqrt(0.5)], rtol=1e-6)
    with pytest.raises(ValueError, match="Row 1"):
        best_cosines(np.array([[1, 0], [0, 0]], np.float32), np.eye(2, dtype=np.float32))


def test_latents_are_matched_by_the_texts_that_they_are_active_in():
    rng = np.random.default_rng(0)
    terms = rng.random((40, 6)) * (rng.random((40, 6)) < 0.5)
    terms[:, 5] = 1  # the same in all texts: no correlation
    shuffled = 3 * terms[:, [4, 2, 0, 1, 3, 5]]
    assert activation_agreement(csr_array(terms), csr_array(shuffled), block=7) == pytest.approx(1)
    other = rng.random((40, 6))
    correlations = np.corrcoef(terms[:, :5].T, other.T)[:5, 5:]
    best = max(sum(correlations[i, j] for i, j in enumerate(order)) / 5 for order in permutations(range(6), 5))
    assert activation_agreement(csr_array(terms), csr_array(other)) == pytest.approx(best)
    assert np.isnan(activation_agreement(csr_array((3, 2)), csr_array((3, 2))))


def test_latents_are_matched_one_to_one():
    a = np.array([[1, 0, 0], [3, 4, 0], [0, 0, 1]], np.float32)  # the last never fires
    b = np.array([[2, 0, 0], [0, -1, 0], [0, 0, 5]], np.float32)
    # both of a are most like b's first: 1 and 0.6; [1, 0, 0] takes it, since 1 + 0 > 0.6 + 0, 0.8 is of the wrong sign
    table = matches([a, b], [np.array([2, 1, 0]), np.array([1, 1, 1])])
    assert table.columns.tolist() == ["first", "second", "width", "pairs", "mean", "share"]
    assert table.loc[0].tolist() == [0, 1, 2, 2, 0.5, 0.5]
    np.testing.assert_allclose(sorted(best_cosines(a[:2], b)), [0.6, 1], rtol=1e-6)  # which the maximum allows


def test_recurrence_of_latents():
    # of run a, latents 0 and 1 recur in b; latent 2 is opposite to one, which is another latent; 3 never fires
    a = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], np.float32)
    b = np.array([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0]], np.float32)
    table = recurrence([a, b], [np.array([6, 1, 1, 0]), np.array([1, 1, 2])])
    shares = table[np.isclose(table["cosine"], 0.7)].set_index("kind")
    # a: 2 of 3 (7 of 8 firings); b: 2 of 3 (2 of 4 firings)
    assert shares.loc["latents", "share"] == pytest.approx(2 / 3)
    assert shares.loc["firings", ["share", "lowest", "highest"]].tolist() == pytest.approx(
        [(7 / 8 + 1 / 2) / 2, 1 / 2, 7 / 8]
    )
    assert shares.loc["every run", "share"] == pytest.approx(2 / 3)
    assert (table[table["cosine"] == 0].groupby("kind")["share"].max() > 0.6).all()


def tiny_setting(encoder, **changes) -> Setting:
    size = SweepSize(None, "pydoc", (), 2, None, None, 96, (24, 48), 1, 16, 32, 24, 4, (12, 24), (2, 4), (0, 1, 3), 3)
    collections = (make_collection(), make_collection("other", ("dog", "a stone")))
    return Setting(replace(size, **changes), encoder, GivenText(DOCS), "test documents", collections)


def test_study_of_layers(tiny_encoder, store):
    summary = layers_study(tiny_setting(tiny_encoder), store).summary
    assert len(summary) == 2 * 3 * 2
    assert set(zip(summary["layer"], summary["readout"], strict=True)) == {
        (layer, readout) for layer in (0, 1, 3) for readout in ("latent terms", "SPLADE-style")
    }
    baseline = summary[summary["difference"].isna()]
    assert set(baseline["variant"]) == {"latent terms, layer 3"} and len(baseline) == 2
    same = summary.groupby(["collection", "layer"])["fvu"].nunique()
    assert (same == 1).all()  # both readouts of a layer read the same codes
    assert summary["exponent"].isna().all()  # 24 latents are too few for a fit


def test_layers_have_the_exponent_of_their_firings(tiny_encoder, store, monkeypatch):
    monkeypatch.setattr(lib.studies.layers, "N_REFITS", 3)
    swept = layers_study(tiny_setting(tiny_encoder, width=96, layers=(1, 3)), store)
    for _, row in swept.summary.iterrows():
        fit = fit_zipf(swept.documents[row["collection"], row["variant"]].firings, 3)
        assert (row["exponent"], row["exponent_low"], row["exponent_high"]) == fit[:3]


def test_study_of_widths_and_ks(tiny_encoder, store):
    swept, trend = width_k_study(tiny_setting(tiny_encoder), store)
    of_one = swept.summary[swept.summary["collection"] == "little/test"]
    assert set(zip(of_one["width"], of_one["k"], strict=True)) == {(24, 4), (12, 4), (24, 2)}
    means = of_one.set_index(["width", "k"])["mean"]
    rows = trend[trend["collection"] == "little/test"].set_index("field")
    # one doubling, so the slope is the difference
    assert rows.loc["width", "slope"] == pytest.approx(means[24, 4] - means[12, 4])
    assert rows.loc["k", "slope"] == pytest.approx(means[24, 4] - means[24, 2])


def test_study_of_ablations(tiny_encoder, store, monkeypatch):
    monkeypatch.delenv(lib.studies.inputs.TEXT, raising=False)
    setting = tiny_setting(tiny_encoder, n_ablated=1)
    swept = ablations_study(setting, store)
    summary = swept.summary
    assert set(summary["collection"]) == {"little/test"}
    assert {"pooling", "φ", "idf", "scoring", "dtype of search", "seed", "activation", "AuxK"} < set(summary["factor"])
    assert {"normalisation", "tokens", "text", "special tokens"} < set(summary["factor"])
    assert summary.groupby("collection")["p_holm"].count().eq(summary["variant"].nunique() - 1).all()
    counted = latents_a_token(setting, swept).set_index("variant")
    (collection,) = setting.ablated
    n_tokens = sum(tiny_encoder.count_tokens(collection.doc_texts))
    assert (counted["n_tokens"] == n_tokens).all() and (counted["collection"] == "little/test").all()
    firings = swept.documents["little/test", "activation: BatchTopK"].firings.sum()
    assert counted.loc["activation: BatchTopK", "mean"] == pytest.approx(firings / n_tokens)
    assert counted.loc["baseline", ["mean", "low", "median", "high"]].tolist() == [4, 4, 4, 4]
    assert np.isnan(counted.loc["baseline", "correlation"])
    assert counted.loc["activation: BatchTopK", "low"] < 4 < counted.loc["activation: BatchTopK", "high"]
    surface = bm25_surface(setting, swept)
    paper = surface[(surface["k1"] == 8) & (surface["b"] == 0.7)].set_index("collection")
    baseline = summary[summary["variant"] == "baseline"].set_index("collection")
    assert (paper["difference"] == 0).all()
    np.testing.assert_allclose(paper["mean"], baseline.loc[paper.index, "mean"], rtol=1e-6)
    assert (surface["low"] <= surface["difference"] + 1e-12).all()


def test_arms_of_fewer_and_more_tokens_read_all_files(tiny_encoder, store, monkeypatch, tmp_path):
    for name in ("first", "last"):
        (tmp_path / f"{name}.txt").write_text(f"the cat sat on the {name} mat\n" * 500, "utf-8")
    monkeypatch.setenv(lib.studies.inputs.TEXT, str(tmp_path))
    setting = tiny_setting(tiny_encoder, token_counts=(50, 200, 3_200, None))
    arms = _training_arms(setting, store)
    recipes = {level: arm.recipe for (factor, level), arm in arms.items() if factor == "tokens"}
    # seven words a line, each a token, and [CLS] and [SEP]
    assert {level: recipe.tokens for level, recipe in recipes.items()} == (
        {"50": 50, "200": 200, "3,200": 3_200, "9,000 (all)": 9_000}
    )
    for recipe in recipes.values():
        drawn = list(recipe.corpus)
        assert 0.5 < sum(map(len, map(str.split, drawn))) * 1.2 / recipe.tokens < 1.5
        assert {text.split()[5] for text in drawn} == {"first", "last"}


def test_study_of_retrieval_training(tiny_encoder, store):
    swept, note = retrieval_training_study(tiny_setting(tiny_encoder), store)
    variants = ["retriever", "its token embeddings", "the same, untrained", "lexical BM25"]
    assert list(dict.fromkeys(swept.summary["variant"])) == variants
    assert "plain language model" in note
    assert swept.summary.set_index("variant").loc["lexical BM25", "fvu"].isna().all()


def test_study_of_seeds(tiny_encoder, store):
    swept, recurring, matched, agreement = seeds_study(tiny_setting(tiny_encoder), store)
    assert swept.summary["seed"].dropna().nunique() == 3
    joined = swept.summary[swept.summary["joined"].notna()]
    assert list(joined["variant"]) == ["2 seeds joined"] * 2
    parts = [swept.autoencoders[f"seed {seed}"] for seed in (0, 1)]
    two = swept.autoencoders["2 seeds joined"]
    assert (two.activation.groups, two.k, two.width) == (2, parts[0].k, 2 * parts[0].width)
    assert torch.equal(two.W_enc, torch.cat([part.W_enc for part in parts]))
    assert set(recurring["kind"]) == {"latents", "firings", "every run", "chance"}
    assert matched[["first", "second"]].to_numpy().tolist() == [[0, 1], [0, 2], [1, 2]]
    assert (matched["pairs"] <= matched["width"]).all() and matched[["mean", "share"]].lt(1).all(axis=None)
    assert len(agreement) == 2 * 2 and agreement["mean"].between(0, 1).all()


def test_a_setting_says_where_results_come_from(tiny_encoder):
    origin = json.loads(json.dumps(tiny_setting(tiny_encoder).origin))
    assert origin["training_text"]["what"] == "test documents"
    assert [collection["name"] for collection in origin["collections"]] == ["little", "other"]


@pytest.mark.parametrize("profile", PROFILES)
def test_sizes_fit_together(profile):
    size = PROFILES[profile].sweeps
    assert size.width in size.widths and size.k in size.ks
    for width in size.widths:
        TrainingConfig(width, size.k)
    for k in size.ks:
        TrainingConfig(size.width, k)
    assert size.tokens // 16 >= size.batch_tokens or profile == "smoke"
    assert size.dead_tokens < size.tokens * size.epochs  # else no latent would ever be dead, and AuxK never used
    assert 1 <= size.n_ablated <= len(size.collections)
    assert max(size.layers) in (6, 12)  # the final layer is the baseline
