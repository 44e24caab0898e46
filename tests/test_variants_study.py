"""Study `53_variants`: that every way is measured as the rule says, and that the answer follows from the intervals."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from test_sweeps import DOCS, make_collection, tiny_setting
from test_trainer import sparse_states

from lib.bm25.index import BM25Index
from lib.evaluation.measures import evaluate
from lib.latent_terms import LatentTerms
from lib.report.variants import (
    described_table,
    prefixes_in_words,
    tokens_in_words,
    variants_figure,
    variants_in_words,
    variants_table,
)
from lib.sae.activations import ACTIVATIONS
from lib.sae.autoencoder import SparseAutoencoder
from lib.sae.boosting import boost
from lib.sae.codes import FinishedTopK
from lib.sae.trainer import train
from lib.sae.training import TrainingConfig
from lib.studies.described import attributes, density, distinct, word_classes
from lib.studies.profiles import PROFILES
from lib.studies.sweeps import Recipe, autoencoders, autoencoders_of
from lib.studies.variants import (
    GRID,
    LEFT_OUT,
    dead_share,
    is_near,
    pursuit_over,
    rank_correlation,
    training_collections,
    variants_study,
    ways_of,
)
from lib.support.store import Store

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]

PAPERS, TUNED, MEAN = "the paper's constants", "as tuned", "mean, limit left out"
CONFIG = TrainingConfig(32, 4, epochs=2, batch_tokens=128, buffer_batches=2, dead_tokens=200)


@pytest.fixture(scope="module")
def setting(tiny_encoder):
    return tiny_setting(tiny_encoder, width=32, n_seeds=2)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def study(setting, store):
    dev = [replace(make_collection("training"), split="train")]
    return variants_study(setting, dev, 1, (64, 96), store)


def test_every_way_is_in_the_table_or_left_out_with_a_reason(study, setting):
    table = study[0]["variants"].set_index("variant")
    assert set(ACTIVATIONS) | {"topk, budgets", "join", "boost"} < set(table.index)
    assert list(table.index[: len(ways_of(setting))]) == list(ways_of(setting)) and table.index[0] == "topk"
    assert set(table.index[table["mean"].isna()]) == set(LEFT_OUT) and table.loc[list(LEFT_OUT), "note"].all()
    measured = table[table["mean"].notna()]
    assert measured["p_holm"].isna().sum() == 1 and np.isnan(table.loc["topk", "difference"])
    near = measured["mean"] >= measured["mean"].max() - measured["reach"].min()
    assert (
        measured["seeds"].isin([1, 2]).all()
        and measured["seeds"][measured["mean"].idxmax()] == measured["seeds"]["topk"] == 2
    )
    assert (measured["agreement"].notna() == (measured["seeds"] == 2)).all()
    assert np.isnan(table.loc["itda", "dead"]) and 0 <= table.loc["topk", "dead"] <= 1
    near = [is_near(l0, table.loc["topk", "l0"]) for l0 in measured["l0"]]
    assert list(measured["matched"]) == near
    assert measured.loc[["topk", "kron", "join", "boost"], "l0"].tolist() == pytest.approx([4, 4, 4, 4], rel=0.05)
    assert set(map(tuple, measured[["k1", "b"]].to_numpy())) <= {(point.k1, point.b) for point in GRID}


def test_a_way_is_ranked_as_its_model_ranks(study, setting, store):
    runs = study[0]["variants_runs"]
    (collection, _) = setting.collections
    for way in ("jumprelu", "boost"):
        row = runs[(runs["variant"] == way) & (runs["collection"] == "little/test")].iloc[0]
        variant = ways_of(setting)[way].make(setting, int(row["k"]), 0)
        (sae,) = autoencoders_of({way: variant}, store).values()
        model = LatentTerms(setting.encoder, sae)
        docs, queries = model.encode_documents(DOCS), model.encode_queries(collection.query_texts)
        ranking = BM25Index.build(docs, collection.doc_ids).search(queries, collection.query_ids, 10)
        assert row[PAPERS] == pytest.approx(evaluate(ranking, collection.qrels, ["nDCG@10"])["nDCG@10"])
        assert row["doc_postings"] == docs.nnz / len(DOCS)
        codes = sae.encode(torch.cat([block.states for block in setting.encoder.stream(DOCS)]))
        assert row["l0"] == pytest.approx((codes.values > 0).sum().item() / len(codes.values))


def test_a_mean_is_that_of_the_collections(study):
    tables, by_query = study
    rows = tables["variants_collections"]
    for kind in (PAPERS, TUNED):
        wide = rows[rows["constants"] == kind].pivot(index="variant", columns="collection", values="difference")
        np.testing.assert_allclose(wide[MEAN], wide[["little/test", "other/test"]].mean(axis=1), atol=1e-12)
    means = by_query.groupby("collection")["boost"].mean()
    tuned = rows[(rows["constants"] == TUNED) & (rows["variant"] == "boost")].set_index("collection")["mean"]
    np.testing.assert_allclose(tuned[means.index], means)
    prefixes = tables["variants_prefixes"].set_index("variant")
    assert prefixes.loc["matryoshka", "latents"].tolist() == [2, 4, 8, 16, 32]
    whole = prefixes.loc["topk"].iloc[-1]
    assert np.isnan(whole["difference"]) and whole["mean"] == pytest.approx(tables["variants"]["mean"][0])
    assert tables["variants_correlation"]["value"].between(-1, 1).all()


def test_what_is_described(study, setting, store):
    tables, ways = study[0], list(ways_of(setting))
    shown = described_table(tables)
    assert list(shown.index) == ["words", *ways] and shown.loc["words", "families"] == ""
    probes = tables["variants_probes"]
    assert set(probes["attribute"]) == {"collection"} and (probes["classes"] == 2).all()
    assert probes["auc"].between(0, 1).all() and set(probes["terms"]) == {"words", *ways}
    times = tables["variants_times"].set_index("variant")
    assert list(times.index) == ways and times.loc["topk", "times_topk"] == 1 and (times["median_ms"] > 0).all()
    tokens = tables["variants_tokens"]
    assert tokens["tokens"].tolist() == [64, 96]
    assert tokens["agreement"].iloc[-1] == pytest.approx(tables["variants"]["agreement"][0], abs=0.05)  # the same runs
    assert tokens_in_words(tokens).endswith(f"96: {tokens['agreement'].iloc[-1]:.2f}, {tokens['shared'].iloc[-1]:.0%}.")


def test_density_and_distinct_by_hand():
    rows = np.array([[1.0, 0], [0.9, 0.1], [0, 1], [0, -1], [1, 0]], np.float32)
    sae = SparseAutoencoder(
        torch.from_numpy(rows), torch.zeros(5), torch.from_numpy(rows), torch.zeros(2), FinishedTopK(1)
    )
    firings = np.array([10, 20, 30, 40, 0])  # the last is like the first, but never fires
    assert distinct(sae, firings) == 0.5  # the first two are alike, opposite ones are not
    assert list(density(firings, 1_000).values()) == pytest.approx([0.0175, 0.025, 0.0325])


def test_labels_of_documents():
    squad = replace(make_collection("squad-20"), doc_texts=[f"{'AB'[i % 2]}\ntext" for i in range(len(DOCS))])
    ids = [f"{'ab'[i % 2]}.f{i}" for i in range(len(DOCS))]
    pydoc = replace(make_collection("pydoc-20"), doc_ids=ids, qrels={f"q{i}": {ids[i]: 1} for i in range(3)})
    found = attributes([squad, make_collection()], [pydoc])
    assert set(found) == {"collection", "article", "module"}
    assert found["article"][1][:3] == ["A", "B", "A"] and found["module"][1][:3] == ["a", "b", "a"]
    assert set(attributes([squad], [make_collection()])) == {"article"}  # one collection is no class


def test_words_are_read_where_they_first_stand(packaged_encoder):
    texts = ["Sparse retrieval; embeddings. Retrieval", "Retrieval reads sparse words"]
    words = {"sparse", "retrieval", "reads", "words"}  # not ";", ".", and "em", "##bed", "##ding", "##s"
    states, classes = word_classes(packaged_encoder, texts)
    read = {}
    for block in packaged_encoder.stream([texts[i] for i in np.random.default_rng(0).permutation(2)]):
        pieces = packaged_encoder.tokenizer.convert_ids_to_tokens(block.token_ids)
        for piece, state in zip(pieces, block.states, strict=True):
            if piece in words:
                read.setdefault(piece, state)
    np.testing.assert_array_equal(states, np.stack(list(read.values())))
    assert len(states) == 4 and not classes  # of LEAST words each


def test_pursuit_over_top_k_is_what_training_gives():
    trained, top_k = (train(sparse_states(512), replace(CONFIG, activation=name)) for name in ("pursuit", "topk"))
    assert pursuit_over([top_k]).identity == trained.identity


def test_a_recipe_after_another_is_trained_on_what_that_leaves(setting, tmp_path):
    config = TrainingConfig(16, 2, epochs=1, batch_tokens=16, buffer_batches=2, dead_tokens=32)
    first = Recipe(setting.encoder, setting.corpus, 96, config)
    second = replace(first, config=replace(config, seed=1), after=(first,))
    assert "after" not in first.key and second.key["after"] == [first.key]
    store = Store(tmp_path)
    parts = autoencoders([first, second], store)
    states = torch.cat([block.states for block in setting.encoder.stream(list(setting.corpus))])
    form = boost(parts)
    assert form.activation.name == "boosted" and (form.width, form.k) == (32, 4)
    assert parts[1].metadata["run"]["states"]["less"] == [parts[0].identity]
    assert parts[1].b_pre.norm() < 0.5 * states.mean(dim=0).norm()  # what is left has hardly a mean


def test_dead_latents_are_unknown_or_the_mean_of_the_parts(setting, store):
    (joined,) = autoencoders_of({"join": ways_of(setting)["join"].make(setting, 4, 0)}, store).values()
    shares = [part["final"]["dead"] for part in joined.metadata["parts"]]
    assert dead_share(joined) == pytest.approx(np.mean(shares))
    joined.metadata["parts"][0]["final"]["dead"] = None
    assert np.isnan(dead_share(joined))


def test_rank_correlation_by_hand():
    # means 3, 2, 1 in both collections against 1, 2, 3: opposite orders, and so in all resamples with two values
    groups = [np.array([[3.0, 2.0, 1.0]] * 4), np.array([[5.0, 3.0, 1.0]] * 2)]
    assert rank_correlation(np.array([1.0, 2.0, 3.0]), groups, 200) == pytest.approx((-1, -1, -1))
    # ranks 1 2 3 4 and 2 1 4 3: 1 - 6 * 4 / (4 * 15) = 0.6
    value, low, high = rank_correlation(np.arange(4.0), [np.array([[2.0, 1.0, 4.0, 3.0]] * 3)], 500)
    assert value == pytest.approx(0.6) and low < 0.6 < high


@pytest.mark.parametrize("profile", PROFILES)
def test_sizes_fit_every_way(profile):
    size = PROFILES[profile].variants
    for activation in ACTIVATIONS:
        TrainingConfig(size.sae.width, size.sae.k, activation=activation)
    assert size.sae.width % 2 == size.sae.k % 2 == 0  # join and boost have halves
    assert size.sae.n_seeds >= 2  # so that seeds have a spread


def test_constants_are_chosen_on_training_queries():
    with pytest.raises(ValueError, match="limit/46"):
        training_collections(replace(PROFILES["smoke"].variants, dev=("limit/46",)))


def summary(*rows) -> pd.DataFrame:
    columns = ["variant", "mean", "difference", "p_holm", "l0", "matched"]
    table = pd.DataFrame(rows, columns=columns).astype({"difference": float, "p_holm": float})
    ends = {f"{end}": table["mean"] + by for end, by in (("low", -0.05), ("high", 0.05))}
    ends |= {f"difference_{end}": table["difference"] + by for end, by in (("low", -0.01), ("high", 0.01))}
    facts = {
        "fvu": 1 - table["mean"],
        "doc_postings": 400.0,
        "query_postings": 5e4,
        "reach": 0.015,
        "dead": np.nan,
        "active_agreement": np.nan,
    }
    facts |= {
        "density_median": 0.002,
        "distinct": 0.95,
        "k": 16.0,
        "agreement": np.nan,
        "k1": 1.0,
        "b": 0.5,
        "scaled": table["variant"] == "scaled",
        "note": "",
    }
    left_out = pd.DataFrame({"variant": ["archetypal"], "note": ["left out: large"]})
    return pd.concat([table.assign(**ends, **facts), left_out], ignore_index=True)


TOPK = ("topk", 0.5, None, None, 16.0, True)
GOOD, BEST = ("good", 0.53, 0.03, 0.01, 16.2, True), ("denser", 0.56, 0.06, 0.001, 24.0, False)
BAD, SMALL = ("bad", 0.4, -0.1, 0.001, 16.0, True), ("small", 0.51, 0.01, 0.03, 16.0, True)
SCALED = ("scaled", 0.49, -0.01, 0.5, 16.0, True)


def correlation(value: float, low: float, high: float) -> pd.DataFrame:
    return pd.DataFrame({"ways": ["matched", "all"], "n": [9, 11], "value": value, "low": low, "high": high})


def test_the_answer_follows_from_the_intervals(tmp_path):
    summary(TOPK, GOOD, BEST, BAD, SMALL, SCALED).to_csv(tmp_path / "variants.csv", index=False)
    written = pd.read_csv(tmp_path / "variants.csv")  # what is written is enough
    words = variants_in_words(written, correlation(-0.6, -0.9, -0.1)).splitlines()
    assert "Of 5 ways beside topk" in words[0] and "0.500 (0.450 to 0.550)" in words[0]
    assert "2 rank better" in words[0] and "Use good," in words[0]  # the best one has more latents a token
    assert "small" not in words[0]  # significant, but within what seeds differ by
    assert "bad -0.100 (-0.110 to -0.090)" in words[1]
    assert "0.0150" in words[2] and "denser (24.0)" in words[3] and "good" not in words[3]
    assert "-0.60 (-0.90 to -0.10): what reconstructs better ranks better." in words[4]
    words = variants_in_words(summary(TOPK, SMALL, BAD), correlation(0.1, -0.4, 0.5))
    assert "none ranks better" in words and "use topk" in words and "is not shown" in words
    words = variants_in_words(summary(TOPK, BEST), correlation(0.5, 0.1, 0.9))
    assert "Use topk," in words and "ranks worse" in words


def test_the_table_and_the_figure_show_every_way():
    table = summary(TOPK, GOOD, BEST, SCALED)
    cells = [(kind, "a/test", way, 0.4 + i) for kind in (PAPERS, TUNED) for i, way in enumerate(table["variant"][:4])]
    by_collection = pd.DataFrame(cells, columns=["constants", "collection", "variant", "mean"])
    shown = variants_table(table, by_collection)
    assert shown.loc["topk", ["dead", "L0", "a/test"]].tolist() == ["unknown", "16.0", "0.400 / 0.400"]
    assert shown.loc["denser", "L0"] == "24.0 (not matched)" and shown.loc["scaled", "FVU"] == "0.510 (scaled)"
    assert shown.loc["archetypal", "note"] == "left out: large" and shown.loc["archetypal", "FVU"] == ""
    left, right = variants_figure(table).axes
    drawn = [axes.collections for axes in (left, right)]
    assert len(drawn[1]) - len(drawn[0]) == 2  # the FVU of scaled states is another: point and interval on the right
    assert [text.get_text() for text in left.figure.legends[0].texts] == ["topk", "good", "denser", "scaled"]


def test_prefixes_in_words():
    rows = [(way, n, 0.5, d, d, d) for way in ("topk", "matryoshka") for n, d in ((128, -0.1), (2_048, np.nan))]
    columns = ["variant", "latents", "mean", "difference", "difference_low", "difference_high"]
    words = prefixes_in_words(pd.DataFrame(rows, columns=columns)).splitlines()
    assert words[0].startswith("matryoshka") and words[0].endswith("128: -0.100 (-0.100 to -0.100).")
