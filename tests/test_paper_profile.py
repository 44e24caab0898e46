"""The profile `paper`, every way through it, on models of the same kinds that are tiny, random and saved to disk."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SHAPE, _save_tokenizer
from sentence_transformers import SentenceTransformer, SparseEncoder
from test_backbones import save_colbert

import lib.studies.backbones
import lib.studies.encoded
from lib.bm25.index import BM25Index
from lib.bm25.weighting import BM25Constants, Weights
from lib.data.sources import _find_ir_dataset
from lib.data.training_text import StreamedText
from lib.encode import packaged
from lib.encode.encoder import TokenEncoder, TokenStates
from lib.evaluation.baselines import LexicalBM25, dense_search
from lib.evaluation.late_interaction import late_interaction_search
from lib.evaluation.measures import evaluate
from lib.searcher import Searcher
from lib.studies.backbones import Between, backbone_table, encoder_of, models, states_table
from lib.studies.inputs import setting, training_text
from lib.studies.names import LATENT, LATENT_WORDS, LEXICAL, ONE_PASS, SPLADE, TUNED
from lib.studies.profiles import LAPTOP, PAPER, PROFILES, SMOKE
from lib.studies.retrieval_training import retrieval_training_study
from lib.studies.seeds import seeds_study
from lib.support.store import Store

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]

NOUNS = ["cat", "dog", "cow", "mat", "house", "tree", "river", "stone", "bird", "fish"]
VERBS = ["sat", "ran", "saw", "ate", "swam", "sang"]
DOCS = [f"the {a} {VERBS[i % 6]} on a {b} ." for i, a in enumerate(NOUNS) for b in NOUNS[i + 1 : i + 3]]
QUERIES = ["cat on a dog", "the river", "a bird sang"]
MEASURE = "nDCG@10"
KINDS = ("document", "query")


def write_collection(folder: Path) -> str:
    """Write 17 documents and three queries, each with one answer, in BEIR layout."""
    (folder / "qrels").mkdir(parents=True)
    for name, mark, texts in (("corpus", "d", DOCS), ("queries", "q", QUERIES)):
        lines = [json.dumps({"_id": f"{mark}{i}", "title": "", "text": text}) for i, text in enumerate(texts)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    judged = [f"q{i}\td{3 * i}\t1" for i in range(len(QUERIES))]
    (folder / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]) + "\n")
    return str(folder)


def save_with_mean_pooling(folder: str, to: Path) -> str:
    SentenceTransformer(folder, device="cpu").save(str(to), create_model_card=False)
    return str(to)


@pytest.fixture(scope="module")
def nomic_folder(tmp_path_factory) -> str:
    """A NomicBERT whose repository brings code of its own, as the original does; that code would raise."""
    from transformers import NomicBertConfig, NomicBertModel

    made, folder = (tmp_path_factory.mktemp(name) for name in ("nomic-bert", "nomic"))
    shape = {name: value for name, value in SHAPE.items() if name != "initializer_range"}
    with torch.random.fork_rng():
        torch.manual_seed(6)
        NomicBertModel(NomicBertConfig(**shape, initializer_range=0.2)).save_pretrained(made)
    _save_tokenizer(made)
    save_with_mean_pooling(str(made), folder)
    (folder / "own_code.py").write_text("raise SystemExit('the code of a repository was executed')\n")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "own_code.Config", "AutoModel": "own_code.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.fixture(scope="module")
def colbert_folder(modernbert_folder, tmp_path_factory) -> str:
    expansion = {"strategy": "fixed", "length": 12}
    return save_colbert(modernbert_folder, tmp_path_factory.mktemp("moderncolbert"), query_expansion=expansion)


@pytest.fixture
def profile(tmp_path, monkeypatch, sentence_folder, nomic_folder, colbert_folder, splade_folder) -> Store:
    """Make the profile's models, collections and text tiny, leave the rest of it as it is, and return a store."""
    collection = write_collection(tmp_path / "little")
    (tmp_path / "text.txt").write_text("\n".join(DOCS * 2))
    monkeypatch.setenv("LATENT_TERMS_TEXT", str(tmp_path / "text.txt"))
    tiny = {"tokens": 96, "epochs": 1, "batch_tokens": 16, "dead_tokens": 32, "width": 24, "k": 3, "n_seeds": 2}
    size = replace(PAPER.sweeps, model=sentence_folder, collections=(collection,), n_ablated=1, **tiny)
    folders = dict(zip(PAPER.backbones.backbones, (sentence_folder, nomic_folder, colbert_folder), strict=True))
    backbones = tuple(replace(backbone, model=folder) for backbone, folder in folders.items())
    table = replace(PAPER.backbones, backbones=backbones, size=size)
    monkeypatch.setenv("LATENT_TERMS_SPLADE", splade_folder)
    monkeypatch.setitem(PROFILES, "paper", replace(PAPER, sweeps=size, backbones=table))
    return Store(tmp_path / "store")


def forbid(monkeypatch, owner, name: str) -> None:
    def refuse(*_, **__):
        raise AssertionError(f"{name} was called")

    monkeypatch.setattr(owner, name, refuse)


def in_short(rows) -> dict:
    return rows[rows["measure"] == MEASURE].set_index(["backbone", "system"])["mean"].to_dict()


def test_the_share_between_texts_is_that_of_an_analysis_of_variance():
    rng = np.random.default_rng(0)
    lengths = [3, 0, 5, 2]
    states = rng.normal(size=(10, 4)).astype(np.float32) + np.repeat(3 * rng.normal(size=(4, 4)), lengths, axis=0)
    share = Between()
    for first, last in ((0, 2), (2, 4)):
        offsets = np.cumsum([0, *lengths])[first : last + 1]
        rows = torch.tensor(states[offsets[0] : offsets[-1]], dtype=torch.float32)
        share.add(TokenStates(rows, np.zeros(len(rows), np.int64), offsets - offsets[0], np.zeros((2, 0), np.float32)))
    groups = [part for part in np.split(states, np.cumsum(lengths)[:-1]) if len(part)]
    within = sum(((part - part.mean(axis=0)) ** 2).sum() for part in groups) / (10 - 3)
    total = ((states - states.mean(axis=0)) ** 2).sum()
    assert share.share() == pytest.approx((total - within * 7 - 2 * within) / (total + within), rel=1e-6)
    alone = Between()
    alone.add(TokenStates(rows[:2], np.zeros(2, np.int64), np.array([0, 1, 2]), np.zeros((2, 0), np.float32)))
    with pytest.raises(ValueError, match="2 texts have 2 tokens"):
        alone.share()


def test_states_of_every_layer_are_compared(profile):
    table = states_table(setting(PROFILES["paper"], profile), PROFILES["paper"].backbones, profile)
    assert (table["share"] < 1).all() and len(table) == len(table.drop_duplicates(["backbone", "collection", "layer"]))
    for backbone in PROFILES["paper"].backbones.backbones:
        assert (table["backbone"] == backbone.name).sum() == encoder_of(backbone).n_layers + 1


def test_the_table_is_what_the_plain_way_gives(profile, splade_folder):
    paper = setting(PROFILES["paper"], profile)
    rows, by_query, notes, origin = backbone_table(paper, PROFILES["paper"].backbones, profile)
    assert notes == []
    (collection,) = paper.collections
    sides = (collection.doc_texts, collection.doc_ids, collection.query_texts, collection.query_ids)
    ids = (sides[1], sides[3])

    def measured(ranking) -> float:
        return evaluate(ranking, collection.qrels, [MEASURE])[MEASURE]

    splade = SparseEncoder(splade_folder, device="cpu")
    docs, queries = (
        encode(texts).to_dense().numpy()
        for encode, texts in ((splade.encode_document, sides[0]), (splade.encode_query, sides[2]))
    )
    expected = {}
    for backbone in PROFILES["paper"].backbones.backbones:
        trained = models(paper, encoder_of(backbone), profile)
        encoder, by_seed = trained[0].encoder, []
        for model in trained:
            index = BM25Index.build(model.encode_documents(sides[0]), ids[0])
            by_seed.append(measured(index.search(model.encode_queries(sides[2]), ids[1], 17)))
        own = "late interaction" if encoder.late_interaction else "dense"
        texts = [np.concatenate([b.pooled for b in encoder.stream(sides[2 * i], kind)]) for i, kind in enumerate(KINDS)]
        rankings = {
            own: late_interaction_search(encoder, *sides, 17)
            if encoder.late_interaction
            else dense_search(texts[0], ids[0], texts[1], ids[1], 17),
            LEXICAL: LexicalBM25(*sides[:2]).search(*sides[2:], 17),
            SPLADE: dense_search(docs, ids[0], queries, ids[1], 17),
        }
        expected |= {(backbone.name, system): measured(ranking) for system, ranking in rankings.items()}
        expected[backbone.name, LATENT] = np.mean(by_seed)
        latent = rows[(rows["backbone"] == backbone.name) & (rows["system"] == LATENT)].iloc[0]
        assert (latent["seeds"], latent["seed_sd"]) == (2, pytest.approx(np.std(by_seed, ddof=1)))
        assert latent["difference"] == pytest.approx(latent["mean"] - expected[backbone.name, own])
    assert in_short(rows) == pytest.approx(expected)
    assert set(rows["n_docs"]) == {len(DOCS)} and set(rows["n_queries"]) == {len(QUERIES)}
    assert json.loads(json.dumps(origin))["left out"] == []
    of_seeds = by_query.groupby(["backbone"])[["dense", "late interaction", LATENT]].mean()
    for (backbone, system), mean in of_seeds.stack().dropna().items():
        assert mean == pytest.approx(expected[backbone, system])
    assert len(by_query) == 3 * len(QUERIES) and by_query["query_id"].tolist()[: len(QUERIES)] == ids[1]


def test_a_packaged_model_ranks_with_its_own_constants_and_weights(profile, monkeypatch):
    paper, table = setting(PROFILES["paper"], profile), PROFILES["paper"].backbones
    table, (collection,) = replace(table, backbones=table.backbones[:1]), paper.collections
    monkeypatch.setenv("LATENT_TERMS_SPLADE", "")
    plain, *_ = backbone_table(paper, table, profile)
    packaged = models(paper, encoder_of(table.backbones[0]), profile)[1]
    packaged = packaged.with_bm25(BM25Constants(1, 0.35)).with_weights(Weights(1, 0.5, 0.3))
    monkeypatch.setattr(lib.studies.backbones, "packaged_of", lambda encoder: packaged)
    rows, by_query, _, origin = backbone_table(paper, table, profile)
    assert origin["backbones"]["Contriever, packaged"]["weights"] == {"latents": 1, "words": 0.5, "dense": 0.3}
    docs, queries = packaged.encode_documents(collection.doc_texts), packaged.encode_queries(collection.query_texts)
    searcher = Searcher.build(packaged, collection.doc_texts, collection.doc_ids)
    rankings = {
        TUNED: packaged.index(docs, collection.doc_ids).search(queries, collection.query_ids, 17),
        LATENT_WORDS: searcher.search(collection.query_texts, collection.query_ids, 17, weights=Weights(1, 0.5, 0)),
        ONE_PASS: searcher.search(collection.query_texts, collection.query_ids, 17),
    }
    expected = {s: evaluate(ranking, collection.qrels, [MEASURE])[MEASURE] for s, ranking in rankings.items()}
    means = rows[rows["measure"] == MEASURE].set_index("system")["mean"]
    assert means[list(rankings)].to_dict() == pytest.approx(expected)
    assert by_query[list(rankings)].mean().to_dict() == pytest.approx(expected)
    assert means[plain["system"].unique()].to_dict() == pytest.approx(plain.set_index("system")["mean"].to_dict())


def test_shards_of_a_large_collection_make_the_same_table(profile, monkeypatch):
    paper, table = setting(PROFILES["paper"], profile), PROFILES["paper"].backbones
    table = replace(table, backbones=table.backbones[::2])
    whole, *_ = backbone_table(paper, table, profile)
    monkeypatch.setattr(lib.studies.encoded, "SHARD", 7)
    store, passes, stream = Store(profile.folder / "sharded"), [], TokenEncoder.stream_layers
    for backbone in table.backbones:
        models(paper, encoder_of(backbone), store)

    def watched(self, texts, layers, kind="document", **settings):
        passes.append((self.name, kind, len(list(texts))))
        return stream(self, texts, layers, kind, **settings)

    monkeypatch.setattr(TokenEncoder, "stream_layers", watched)
    sharded, *_ = backbone_table(paper, table, store)
    assert in_short(sharded) == pytest.approx(in_short(whole))
    for backbone in table.backbones:
        documents = [n for name, kind, n in passes if (name, kind) == (backbone.model, "document")]
        assert documents == [7, 7, 3]  # for its own ranking and for all seeds together
    assert not list(store.folder.glob("reading-*"))
    passes.clear()
    again, *_ = backbone_table(paper, table, store)
    assert not passes  # all rankings are kept
    assert in_short(again) == in_short(sharded)


def test_a_pass_that_was_killed_goes_on(profile, monkeypatch):
    paper, table = setting(PROFILES["paper"], profile), PROFILES["paper"].backbones
    table = replace(table, backbones=table.backbones[:1])
    monkeypatch.setattr(lib.studies.encoded, "SHARD", 7)
    read, calls = lib.studies.encoded.read_texts, []

    def killed(readings, texts, kind):
        calls.append(len(texts))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return read(readings, texts, kind)

    monkeypatch.setattr(lib.studies.encoded, "read_texts", killed)
    with pytest.raises(KeyboardInterrupt):
        backbone_table(paper, table, profile)
    backbone_table(paper, table, profile)
    assert calls == [7, 7, 3, 3, len(QUERIES)]


def test_splade_is_left_out_only_where_that_is_asked_for(profile, monkeypatch):
    paper, table = setting(PROFILES["paper"], profile), PROFILES["paper"].backbones
    table = replace(table, backbones=table.backbones[:1])
    monkeypatch.setenv("LATENT_TERMS_SPLADE", "nobody/has-this")
    with pytest.raises(OSError, match=r"'nobody/has-this'.*LATENT_TERMS_SPLADE"):
        backbone_table(paper, table, profile)
    monkeypatch.setenv("LATENT_TERMS_SPLADE", "")
    rows, _, notes, origin = backbone_table(paper, table, profile)
    (note,) = notes
    assert "SPLADE" in note and origin["left out"] == notes and origin["splade"] is None
    assert set(rows["system"]) == {LEXICAL, "dense", LATENT}


def test_what_is_refused(profile):
    paper, table = setting(PROFILES["paper"], profile), PROFILES["paper"].backbones
    with pytest.raises(ValueError, match="little/test"):
        backbone_table(replace(paper, collections=paper.collections * 2), table, profile)
    qrels = Path(table.size.collections[0]) / "qrels" / "test.tsv"
    qrels.write_text("query-id\tcorpus-id\tscore\nq0\td0\t1\n")
    with pytest.raises(ValueError, match="little/test has one"):
        backbone_table(setting(PROFILES["paper"], profile), table, profile)


def test_a_retriever_that_is_not_installed_is_named_before_anything_is_trained(profile, monkeypatch):
    monkeypatch.setenv("LATENT_TERMS_SPLADE", "")
    monkeypatch.setenv("LATENT_TERMS_CACHE", str(profile.folder))
    monkeypatch.setattr(packaged, "files", lambda name: [])
    packaged._files_of.cache_clear()
    forbid(monkeypatch, lib.studies.backbones, "autoencoders")
    paper, table = setting(PROFILES["paper"], profile), PROFILES["paper"].backbones
    table = replace(table, backbones=(table.backbones[0], LAPTOP.backbones.backbones[1]))
    with pytest.raises(ConnectionError, match=r"all-mpnet-base-v2.*pip install 'latent-terms\[mpnet\]'"):
        backbone_table(paper, table, profile)
    packaged._files_of.cache_clear()


def test_limit_is_measured_by_recall(profile, tmp_path, monkeypatch):
    table = PROFILES["paper"].backbones
    size = replace(table.size, collections=(write_collection(tmp_path / "limit-small"),))
    table = replace(table, backbones=table.backbones[2:])
    monkeypatch.setenv("LATENT_TERMS_SPLADE", "")
    rows, *_ = backbone_table(setting(PROFILES["paper"], profile, size), table, profile)
    assert list(dict.fromkeys(rows["measure"])) == ["R@10", "R@20", "R@100", "R@1000"]
    assert (rows.loc[rows["measure"] != "R@10", "mean"] == 1).all()  # of 17 documents all are found
    assert rows.loc[rows["measure"] == "R@10", "mean"].lt(1).any()


def test_prompts_are_read_with_the_texts(profile):
    nomic = PROFILES["paper"].backbones.backbones[1]
    encoder, bare = encoder_of(nomic), TokenEncoder(nomic.model)
    assert encoder.prompts == {"query": "search_query: ", "document": "search_document: "}
    for kind in KINDS:
        (block,), (plain,) = encoder.stream(["the cat"], kind), bare.stream([f"search_{kind}: the cat"], kind)
        torch.testing.assert_close(block.states, plain.states)


@pytest.mark.parametrize("folder", ["sentence_folder", "modernbert_folder", "nomic_folder", "colbert_folder"])
def test_the_studies_of_seeds_and_of_training_take_any_backbone(profile, request, folder):
    tiny = PROFILES["paper"]
    sweeps = replace(tiny.sweeps, model=request.getfixturevalue(folder))
    paper = setting(replace(tiny, sweeps=sweeps), profile)
    swept, recurring, matched, _ = seeds_study(paper, profile)
    assert set(swept.summary["variant"]) == {"seed 0", "seed 1", LEXICAL}
    assert len(recurring) and len(matched)
    swept, note = retrieval_training_study(paper, profile)
    assert note.startswith("Left out is the plain language model: What ")
    assert {"retriever", "its token embeddings", "the same, untrained"} < set(swept.summary["variant"])


def test_the_original_profile_names_what_exists():
    published = ["scifact", "nfcorpus", "fiqa", "trec-covid", "dbpedia-entity", "nq", "hotpotqa", "fever"]
    table, size = PAPER.backbones, PAPER.sweeps
    assert [name.split("/")[1] for name in table.size.collections[:-1]] == published
    for name in (*table.size.collections, *size.collections, *PAPER.collections):
        if not name.startswith("limit"):
            assert _find_ir_dataset(name, None)[2] == "test"
    assert (size.width, size.k, size.epochs, size.batch_tokens, size.n_seeds) == (32_768, 16, 3, 4_096, 5)
    assert table.backbones[0].model == size.model


def test_the_packaged_retriever_is_read_as_in_the_sweeps_so_that_autoencoders_are_shared():
    (backbone,) = SMOKE.backbones.backbones
    assert encoder_of(backbone).config == TokenEncoder(max_length=256).config
    assert SMOKE.backbones.size == SMOKE.sweeps


def test_the_text_is_fineweb_edu(tmp_path, monkeypatch):
    monkeypatch.delenv("LATENT_TERMS_TEXT", raising=False)
    text, what = training_text(PAPER.sweeps, 10_000_000, Store(tmp_path))
    assert text == StreamedText("HuggingFaceFW/fineweb-edu", "sample-10BT")
    assert what == "the first of HuggingFaceFW/fineweb-edu,sample-10BT"
