"""Retrievers trained through latents: every kind, on tiny models, for a few steps."""

import json
import random
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import WORDS
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.sparse_encoder.losses import CSRLoss
from torch.testing import assert_close

from lib.__main__ import main
from lib.data.collection import Collection
from lib.encode.encoder import TokenEncoder
from lib.evaluation.baselines import inner_product_search
from lib.interop.conversion import to_sparse_encoder
from lib.interop.engines.vectors import documents as vectors
from lib.interop.engines.vectors import query_vectors
from lib.latent_terms import LatentTerms
from lib.learned import train
from lib.learned.autoencoders import Bottleneck, Csr, CsrV2
from lib.learned.log import LOG, losses
from lib.learned.losses import TARGET, AnnealedK, ranking_loss
from lib.learned.models import KINDS, DenseControl, Splare, VocabularyHead
from lib.learned.pairs import Pairs
from lib.learned.retriever import LearnedRetriever
from lib.learned.teachers import TeacherScores
from lib.learned.train import CHECKPOINTS, RUN, FinetuneConfig, finetune, load_finetuned
from lib.report.trained import losses_figure
from lib.sae.autoencoder import SparseAutoencoder, join
from lib.sae.codes import FinishedTopK
from lib.support.locks import locked
from lib.support.store import Store

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]

SMALL = {"width": 64, "k": 4}
TINY = {
    "splare": Splare(top=(5, 10)),
    "vocabulary": VocabularyHead(k=4, top=(5, 10)),
    "dense": DenseControl(dims=(8, 32)),
    "bottleneck": Bottleneck(**SMALL),
    "bottleneck of tokens": Bottleneck(**SMALL, dead_tokens=300, pooling="max_log1p", rank=2, learning_rate=1e-3),
    "csr": Csr(**SMALL),
    "csrv2": CsrV2(**SMALL, annealed_from=16),
}
CONFIG = FinetuneConfig(steps=4, batch_size=8, every=2, flops_warmup=0.75)
TEXTS = ["the old cat sat on a red mat .", "dog", "a bird sang in the tree", "the big dog ran and ran ."]


def drawn(n: int) -> tuple[list[str], list[str]]:
    draw = random.Random(0)
    words = [word for word in WORDS.split() if word.isalpha()]
    queries = [" ".join(draw.sample(words, 3)) for _ in range(n)]
    return queries, [f"{query} {' '.join(draw.sample(words, 6))}" for query in queries]


QUERIES, POSITIVES = drawn(24)


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    return Pairs(QUERIES, POSITIVES)


@pytest.fixture(scope="module")
def triples() -> Pairs:
    return Pairs(QUERIES, POSITIVES, [[POSITIVES[i - 1], POSITIVES[i - 2]] for i in range(24)])


@pytest.fixture(scope="module")
def dev() -> Collection:
    ids = [str(number) for number in range(24)]
    return Collection("made", "dev", ids, POSITIVES, ids, QUERIES, {i: {i: 1} for i in ids}, "folder")


@pytest.fixture(scope="module")
def base(tiny_encoder, tiny_sae) -> LatentTerms:
    return LatentTerms(tiny_encoder, tiny_sae)


def dense(rows) -> torch.Tensor:
    return rows.to_dense() if isinstance(rows, torch.Tensor) else torch.from_numpy(rows)


def log_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(pairs, base, dev, tmp_path_factory):
    """Returns the folder of a kind by its name in TINY, trained once."""
    folders, store = {}, Store(tmp_path_factory.mktemp("store"))

    def folder_of(name: str):
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name) / "out"
            finetune(TINY[name], pairs, folders[name], base=base, config=CONFIG, dev=dev, store=store)
        return folders[name]

    return folder_of


@pytest.mark.parametrize("name", TINY)
def test_each_kind_is_trained_and_its_folder_stands_alone(name, trained, sentence_folder):
    out = trained(name)
    model = load_finetuned(out)
    stock = type(model)(str(out), trust_remote_code=True)
    for encode in ("encode_query", "encode_document"):
        assert_close(dense(getattr(stock, encode)(TEXTS)), dense(getattr(model, encode)(TEXTS)))
    assert model.max_seq_length == stock.max_seq_length == 64
    assert not (out / CHECKPOINTS).exists() and not list(out.rglob("adapter*"))
    for path in ("README.md", RUN, "config.json", LOG):
        assert str(out.parent.parent) not in (out / path).read_text()
    log = log_of(out)
    assert [row["step"] for row in log if "loss" in row] == [1, 2, 3, 4]
    scores = [value for row in log for key, value in row.items() if "ndcg" in key]
    assert len(scores) == 3 and all(0 < score < 1 for score in scores)  # before the first step and every two
    backbone = dict(SentenceTransformer(sentence_folder)[0].auto_model.named_parameters())
    changed = {
        key for key, weight in stock[0].auto_model.named_parameters() if not torch.equal(weight, backbone[key].data)
    }
    assert bool(changed) == (name != "csr")
    if name == "bottleneck of tokens":
        assert [row["auxk"] for row in log if "loss" in row][-1] > 0
    if TINY[name].rank and changed:  # LoRA, on projections alone
        assert all(re.fullmatch(r"encoder.layer.\d.*weight", key) for key in changed)


def test_auxk_trains_what_is_dead(pairs, base, tmp_path):
    weights, store = [], Store(tmp_path / "store")
    for dead_calls in (2, 1_000):  # 16 calls in four steps
        out = tmp_path / str(dead_calls)
        finetune(Csr(**SMALL, dead_calls=dead_calls, auxk=1.0), pairs, out, base=base, config=CONFIG, store=store)
        weights.append(dict(load_finetuned(out).named_parameters()))
    assert any(not torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())


def test_no_text_of_a_batch_answers_the_query_of_another_row():
    rows = [("a", "a1", "x"), ("a", "a2", "y"), ("b", "b1", "a2"), ("c", "a1", "z"), ("d", "d1", "w")]
    columns = dict(zip(("query", "positive", "negative_1"), map(list, zip(*rows, strict=True)), strict=True))
    sampler = train.NoFalseNegatives(
        Dataset.from_dict(columns), batch_size=2, drop_last=False, generator=torch.Generator()
    )
    batches = set()
    for epoch in range(50):
        sampler.set_epoch(epoch)
        batches |= {tuple(sorted(batch)) for batch in sampler if len(batch) == 2}
    assert batches == {(0, 4), (1, 4), (2, 4), (3, 4), (2, 3)}


def test_losses_are_read_by_part(trained, tmp_path):
    parts = {name: set(losses(trained(name))["part"]) for name in ("dense", "splare", "bottleneck")}
    flops = {"FLOPS of queries", "FLOPS of documents"}
    assert parts["dense"] == {"all"} and parts["splare"] == {"all", "ranking", *flops}
    assert parts["bottleneck"] == {"all", "ranking", *flops, "L(k)", "L(4k)", "AuxK"}
    table = losses(trained("bottleneck of tokens"))
    assert set(table["part"]) == parts["bottleneck"] and (table["step"].value_counts() == 7).all()
    assert np.isfinite(table["value"]).all()
    assert len(losses_figure(table).axes[0].lines) == 7
    with pytest.raises(ValueError, match="no loss"):
        losses_figure(table[:0])
    with pytest.raises(FileNotFoundError):
        losses(tmp_path)


@pytest.mark.parametrize("name", ["splare", "vocabulary"])
def test_splare_and_its_control_leave_what_they_read_as_it_was_and_prune(name, trained, tiny_sae):
    model = load_finetuned(trained(name))
    documents, queries = dense(model.encode_document(POSITIVES)), dense(model.encode_query(QUERIES))
    assert (documents > 0).sum(dim=1).max() <= 10 and (queries > 0).sum(dim=1).max() <= 5
    words = model[0].auto_model.get_input_embeddings().weight
    assert_close(model[1].W_enc.T, tiny_sae.W_enc if name == "splare" else words, check_stride=False)
    names = [label for label, _ in model.decode(documents[0])]
    assert all(re.fullmatch(r"latent \d+" + (": .+" if name == "vocabulary" else ""), label) for label in names)


def test_weights_of_flops_rise_as_the_square_and_k_falls_by_equal_factors(trained):
    weights = [row["document_regularizer_weight"] for row in log_of(trained("splare")) if "loss" in row]
    assert weights == pytest.approx([0.01 * min(1, step / 3) ** 2 for step in range(4)])
    annealed, args = AnnealedK(SimpleNamespace(k=4), 64, 4), (None, SimpleNamespace(global_step=1, max_steps=8), None)
    assert [annealed.k_at(share) for share in (0, 0.125, 0.25, 0.5, 0.9)] == [64, 32, 16, 4, 4]
    annealed.on_step_begin(*args)
    assert annealed.autoencoder.k == 32
    annealed.on_step_end(*args)  # after which the model may be evaluated and saved
    assert annealed.autoencoder.k == 4


def test_a_finetuned_retriever_is_used_as_latent_terms_are(trained, base):
    model = LearnedRetriever.load(trained("splare"))
    docs, queries = model.encode_documents(POSITIVES), model.encode_queries(QUERIES)
    ids, query_ids = [f"d{i}" for i in range(24)], [f"q{i}" for i in range(24)]
    index = model.index(docs, ids)
    ranking = index.search(queries, query_ids, k=5)
    expected = inner_product_search(docs, ids, queries, query_ids, k=5)
    assert ranking.doc_ids == expected.doc_ids
    contributions = index.explain(queries[[0]], ranking.doc_ids[0][0])
    assert sum(part.score for part in contributions) == pytest.approx(float(ranking.scores[0][0]), rel=1e-5)
    whole = model.latent_terms()
    rows = whole.encode_queries(QUERIES, progress=False)
    assert whole.bm25 == model.bm25 and rows.nnz > queries.nnz
    kept = queries.toarray() > 0
    np.testing.assert_allclose(rows.toarray()[kept], queries.toarray()[kept], rtol=1e-5)
    assert model.identity == LearnedRetriever.load(trained("splare")).identity
    with pytest.raises(TypeError, match="TokenEncoder"):
        LearnedRetriever(SentenceTransformer(str(base.encoder.folder)))


def test_a_finetuned_retriever_is_browsed_and_exported(trained, tmp_path, monkeypatch):
    (tmp_path / "texts.txt").write_text("\n".join(POSITIVES))
    page = ["browse", trained("splare"), "--texts", tmp_path / "texts.txt", "-o", tmp_path / "page"]
    monkeypatch.setattr(sys, "argv", ["lib", *map(str, page)])
    main()
    assert '"pooling":"max"' in (tmp_path / "page" / "data" / "about.js").read_text().replace(" ", "")
    model = LearnedRetriever.load(trained("splare"))
    docs, queries, ids = model.encode_documents(POSITIVES), model.encode_queries(QUERIES), [f"d{i}" for i in range(24)]
    index = model.index(docs, ids, impacts="uint8")
    query = query_vectors(index, queries)[[0]].toarray().ravel()
    products = [document.impacts @ query[document.latents] for document in vectors(index, "an engine")]
    np.testing.assert_allclose(products, index.scores(queries[[0]]), rtol=1e-4)


@pytest.mark.parametrize("name", ["splare", "csr", "csrv2", "bottleneck of tokens"])
def test_an_interrupted_run_ends_at_the_same_weights(name, trained, pairs, base, dev, tmp_path, monkeypatch):
    out, settings = tmp_path / "out", {"base": base, "dev": dev, "store": Store(tmp_path / "store")}
    on_step_end = train.Progress.on_step_end

    def interrupt(self, args, state, control, **kwargs):
        on_step_end(self, args, state, control, **kwargs)
        if state.global_step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train.Progress, "on_step_end", interrupt)
        with pytest.raises(KeyboardInterrupt):
            finetune(TINY[name], pairs, out, config=CONFIG, **settings)
    (out / CHECKPOINTS / "checkpoint-3").mkdir()  # killed while it was written
    with pytest.raises(ValueError, match=r"config\.batch_size"):
        finetune(TINY[name], pairs, out, config=FinetuneConfig(steps=4, batch_size=4, every=2), **settings)
    finetune(TINY[name], pairs, out, config=CONFIG, **settings)
    whole, parts = (load_finetuned(folder).state_dict() for folder in (trained(name), out))
    assert whole.keys() == parts.keys()
    for key, weight in whole.items():
        assert torch.equal(weight, parts[key]), key
    logs = [[(row["step"], row["loss"]) for row in log_of(folder) if "loss" in row] for folder in (trained(name), out)]
    assert logs[0] == logs[1]


def test_two_processes_do_not_train_into_one_folder(pairs, base, tmp_path):
    with locked(tmp_path), pytest.raises(TimeoutError, match=f"{tmp_path} is being written by process"):
        finetune(TINY["csr"], pairs, tmp_path, base=base, config=CONFIG)
    assert not list(tmp_path.iterdir())


def test_a_finished_run_is_not_trained_again(trained, pairs, base, dev, monkeypatch):
    folder = trained("csr")  # before there is no trainer: this test may be the first
    monkeypatch.setattr(train, "_trainer", None)
    run = {"kind": TINY["csr"], "pairs": pairs, "base": base, "config": CONFIG, "dev": dev}
    finetune(**run, out=folder)
    for changed, field in (
        ({"kind": Csr(**SMALL, gamma=2)}, r"settings\.gamma"),
        ({"pairs": pairs.sample(20)}, "pairs"),
    ):
        with pytest.raises(ValueError, match=field):
            finetune(**run | changed, out=folder)


def test_a_loss_that_is_not_finite_stops_and_leaves_the_last_state(pairs, base, tmp_path, monkeypatch):
    kind = TINY["splare"]
    make, steps = type(kind).loss, iter(range(9))

    def loss(self, model, teacher_temperature):
        whole = make(self, model, teacher_temperature)
        forward = whole.forward

        def broken(*args):
            factor = torch.nan if next(steps) == 3 else 1
            return {name: factor * value for name, value in forward(*args).items()}

        whole.forward = broken
        return whole

    monkeypatch.setattr(type(kind), "loss", loss)
    with pytest.raises(FloatingPointError, match=r"step 4 is nan.*checkpoint-2"):
        finetune(kind, pairs, tmp_path, base=base, config=CONFIG)
    checkpoint = SparseEncoder(str(tmp_path / CHECKPOINTS / "checkpoint-2"), trust_remote_code=True)
    assert torch.isfinite(dense(checkpoint.encode(TEXTS))).all()
    assert not (tmp_path / "modules.json").exists()


def test_weights_that_are_not_finite_are_never_a_checkpoint(pairs, base, tmp_path, monkeypatch):
    on_step_end = train._FiniteWeights.on_step_end

    def spoil(self, args, state, control, model=None, **kwargs):
        if state.global_step == 4:
            next(iter(model.parameters())).data.fill_(torch.nan)
        on_step_end(self, args, state, control, model=model, **kwargs)

    monkeypatch.setattr(train._FiniteWeights, "on_step_end", spoil)
    with pytest.raises(FloatingPointError, match=r"step 4.*NaN.*checkpoint-2"):
        finetune(TINY["bottleneck"], pairs, tmp_path, base=base, config=CONFIG)
    assert not (tmp_path / CHECKPOINTS / "checkpoint-4").exists()


@pytest.mark.parametrize("name", ["splare", "dense", "csrv2"])
def test_nothing_is_dropped_at_random_in_training(name, base):
    dropouts = [module for module in TINY[name].build(base).modules() if isinstance(module, torch.nn.Dropout)]
    assert dropouts and all(module.p == 0 for module in dropouts)


def test_bad_input_is_refused_before_any_work(pairs, triples, base, tmp_path, monkeypatch, tiny_sae):
    def refused(error, match, kind=TINY["splare"], of=pairs, **settings):
        with pytest.raises(error, match=match):
            finetune(kind, of, tmp_path / "out", **{"base": base, "config": CONFIG} | settings)
        assert not (tmp_path / "out" / "modules.json").exists()

    refused(ValueError, "24 pairs, fewer than a batch of 32", config=FinetuneConfig())
    refused(ValueError, "splare, vocabulary", kind="splade")
    scores = TeacherScores(np.zeros((24, 3), np.float32), {}, triples.digest)
    refused(ValueError, pairs.digest[:12], teacher=scores)
    refused(ValueError, "supervised", kind=TINY["csr"], teacher=scores, of=triples)
    refused(ValueError, "LatentTerms", base=base.encoder)
    metadata = {"run": {"states": {"encoder": base.encoder.identity}}}
    elsewhere = SparseAutoencoder(**tiny_sae.tensors(), activation=FinishedTopK(4), metadata=metadata)
    with pytest.warns(UserWarning, match="layer 3"):
        wrong = LatentTerms(base.encoder.at(1), elsewhere)
    refused(ValueError, "layer 3", base=wrong)
    refused(ValueError, "from 0 to 0", kind=Splare(part=1))
    refused(ValueError, "33", kind=DenseControl(dims=(33,)))
    monkeypatch.setitem(sys.modules, "peft", None)
    refused(ImportError, r"latent-terms\[learned\]")
    monkeypatch.setitem(sys.modules, "datasets", None)
    refused(ImportError, r"latent-terms\[trainer\]")


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: Csr(width=64, k=17), "k is 17.*64"),
        (lambda: Bottleneck(width=64, k=0), "k is 0"),
        (lambda: Bottleneck(pooling="mean"), "'mean'.*max_log1p"),
        (lambda: CsrV2(width=64, k=4, annealed_from=17), "annealed_from is 17.*16"),
        (lambda: Splare(top=(40,)), "top"),
        (lambda: Splare(flops=(-1, 0)), "flops"),
        (lambda: DenseControl(learning_rate=0), "learning_rate is 0"),
        (lambda: FinetuneConfig(warmup=1.5), "warmup is 1.5"),
        (lambda: FinetuneConfig(batch_size=0), "batch_size is 0"),
        (lambda: FinetuneConfig(epochs=0), "epochs is 0"),
    ],
)
def test_settings_are_checked(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_a_part_of_a_joined_autoencoder_is_read(pairs, tiny_encoder, tiny_sae):
    other = SparseAutoencoder(
        **{name: t.roll(1, 0) for name, t in tiny_sae.tensors().items()}, activation=FinishedTopK(4)
    )
    joined = LatentTerms(tiny_encoder, join([tiny_sae, other]))
    assert [Splare(part=part).build(joined)[1].hidden_dim for part in (0, 1, -1)] == [64, 64, 128]
    assert [Splare(part=part, k=k).build(joined)[1].k for part, k in ((0, 0), (0, 6), (-1, 0))] == [4, 6, 8]


def test_a_middle_layer_is_read_and_only_blocks_below_it_are_trained(pairs, tiny_encoder, tiny_sae, tmp_path):
    base = LatentTerms(tiny_encoder.at(2), tiny_sae)
    finetune(Splare(top=(50, 50)), pairs, tmp_path, base=base, config=CONFIG)
    model = LearnedRetriever.load(tmp_path)
    before, after = (module[0].auto_model.state_dict() for module in (to_sparse_encoder(base), model.model))
    changed = {int(key.split(".")[2]) for key, weight in before.items() if not torch.equal(weight, after[key])}
    assert changed == {0, 1}
    assert model.latent_terms().encoder.layer == 2


def test_prompts_are_those_of_the_retriever(pairs, sentence_folder, tiny_sae, tmp_path):
    encoder = TokenEncoder(sentence_folder, dtype="float32", query_prompt="query : ")
    kind = Csr(**SMALL, supervised=True)
    model = kind.build(encoder).eval()
    head = train._head(model, kind.columns(pairs), Store(tmp_path / "store"), encoder.identity)
    front = SentenceTransformer(modules=list(model)[:4])
    for texts, prompt in ((QUERIES[:3], "query : "), (POSITIVES[:3], None)):
        expected = front.encode(texts, prompt=prompt, convert_to_tensor=True)
        assert_close(head.preprocess(texts, prompt=prompt)["sentence_embedding"], expected)
    finetune(TINY["splare"], pairs, tmp_path / "out", base=LatentTerms(encoder, tiny_sae), config=CONFIG)
    assert load_finetuned(tmp_path / "out").prompts["query"] == "query : "


def test_the_ranking_losses_are_their_equations():
    rows = torch.rand(3, 2, 5, generator=torch.Generator().manual_seed(0))  # query, positive and negative of two
    scores = 0.5 * torch.stack([(rows[0] * rows[1]).sum(1), (rows[0] * rows[2]).sum(1)], dim=1)
    teacher = torch.tensor([[1.0, 0.0], [2.0, 1.5]])
    target = (teacher / 0.5).softmax(dim=1)
    divergence = (target * (target.log() - scores.log_softmax(dim=1))).sum(dim=1).mean()
    assert_close(ranking_loss(None, 0.5, 0.5).compute_loss_from_embeddings(list(rows), teacher), divergence)
    every = 0.5 * rows[0] @ torch.cat([rows[1], rows[2]]).T
    entropy = -every.log_softmax(dim=1)[[0, 1], [0, 1]].mean()
    assert_close(ranking_loss(None, 0.5, None).compute_loss_from_embeddings(list(rows), None), entropy)


@pytest.mark.parametrize("name", ["bottleneck", "bottleneck of tokens"])
def test_the_loss_of_the_bottleneck_is_its_equation(name, pairs, base):
    kind = TINY[name]
    model = kind.build(base).eval()
    loss = kind.loss(model, None)
    features = [model.preprocess(side[:8]) for side in (QUERIES, POSITIVES)]
    parts = loss([dict(column) for column in features])
    with torch.no_grad():
        queries, documents = (model(dict(column))["sentence_embedding"] for column in features)
    assert_close(queries.norm(dim=1), torch.ones(8))
    assert_close(parts["query_regularizer_loss"], 0.1 * queries.mean(dim=0).square().sum())
    assert_close(parts["document_regularizer_loss"], 0.1 * documents.mean(dim=0).square().sum())
    entropy = -(20 * queries @ documents.T).log_softmax(dim=1).diagonal().mean()
    assert_close(parts["base_loss"], entropy)
    alone = loss.reconstruction.compute_loss_from_embeddings([model(dict(column)) for column in features])
    assert_close(alone, {key: parts[key] for key in alone})


def test_a_run_says_what_it_did_not_do():
    def state(step: int, *values: float):
        rows = [{"eval_dev_dot_ndcg@10": value, "step": n} for n, value in enumerate(values)]
        return SimpleNamespace(global_step=step, max_steps=4, log_history=[{"loss": 1.0}, *rows])

    train._check_ended(state(4, 0.5, 0.6, 0.4), 8)
    train._check_ended(state(4), 8)
    with pytest.raises(ValueError, match=r"0 of 4 steps.*batches of 8"):
        train._check_ended(state(0), 8)
    with pytest.warns(UserWarning, match="3 of 4 steps"):
        train._check_ended(state(3, 0.5), 8)
    with pytest.warns(UserWarning, match=r"was 0\.500 before training and is 0\.400"):
        train._check_ended(state(4, 0.5, 0.3, 0.4), 8)


def test_pairs_that_fill_no_batch_are_not_a_finished_run(base, tmp_path):
    pairs = Pairs([f"query {n}" for n in range(8)], ["the old cat sat"] * 8)
    with pytest.raises(ValueError, match=r"0 of .* steps"):
        finetune(DenseControl(), pairs, tmp_path, base=base, config=FinetuneConfig(batch_size=4, every=2))
    assert not train.is_finished(tmp_path)


@pytest.mark.parametrize("split", ["test", None])
def test_states_are_not_chosen_by_test_queries(pairs, base, tmp_path, split):
    queries = ["q", "r"], ["cat", "dog"]
    dev = Collection("mine", split, ["d"], ["a cat"], *queries, {key: {"d": 1} for key in "qr"}, "folder")
    with pytest.raises(ValueError, match=r"mine.*train and dev"):
        finetune(TINY["dense"], pairs, tmp_path, base=base, config=CONFIG, dev=dev)


@pytest.mark.parametrize("name", ["dense", "bottleneck", "bottleneck of tokens", "csr"])
def test_every_kind_reads_as_its_base_does(name, base):
    encoder = TokenEncoder(
        base.encoder.folder, dtype="float32", query_prompt="the cat ", max_length=9, special_tokens=False
    )
    model = TINY[name].build(LatentTerms(encoder, base.sae))
    assert model.max_seq_length == 9 and model.prompts["query"] == "the cat "
    if name == "bottleneck of tokens":
        pooling = next(module for module in model if hasattr(module, "include_special"))
        assert not pooling.include_special and pooling.special_tokens == (1, 1)


def test_what_the_bottleneck_reconstructs_is_a_constant(pairs, base):
    model = TINY["bottleneck"].build(base)
    loss, outputs = TINY["bottleneck"].loss(model, None), []
    loss.reconstruction.compute_loss_from_embeddings = lambda columns: outputs.extend(columns) or {}
    loss([model.preprocess(side[:8]) for side in (QUERIES, POSITIVES)])
    assert len(outputs) == 2
    assert all(output["sentence_embedding"].requires_grad for output in outputs)
    assert not any(output[TARGET].requires_grad for output in outputs)


def test_csr_on_stored_embeddings_is_the_library_loss_of_the_whole_model(pairs, base, tmp_path):
    kind = Csr(**SMALL, supervised=True)
    model = kind.build(base).eval()
    store = Store(tmp_path)
    head = train._head(model, kind.columns(pairs), store, base.encoder.identity)
    losses = [kind.loss(each, None) for each in (model, head.eval())]
    assert all(type(loss) is CSRLoss for loss in losses)
    values = [
        loss([each.model.preprocess(side[:8]) for side in (QUERIES, POSITIVES)])
        for loss, each in zip(losses, losses, strict=True)
    ]
    for name, value in values[0].items():
        assert_close(values[1][name], value, atol=1e-6, rtol=1e-6)
    train._head(model, kind.columns(pairs), store, base.encoder.identity)
    assert len(list(tmp_path.glob("pooled-*"))) == 1


def test_joint_training_starts_from_what_was_trained(trained, pairs, base, tmp_path):
    csr = TokenEncoder(trained("csr"), dtype="float32")
    of_embeddings, of_tokens = (Bottleneck(**SMALL, started=True, pooling=name) for name in ("embedding", "max_log1p"))
    model, saved = of_embeddings.build(csr), load_finetuned(trained("csr"))
    assert_close(dense(model.encode_document(TEXTS)), dense(saved.encode_document(TEXTS)))
    assert [name for name, weight in model.named_parameters() if not weight.requires_grad] == ["3.linear.weight"]
    out = tmp_path / "out"
    finetune(of_embeddings, pairs, out, base=trained("csr"), config=CONFIG)
    again = load_finetuned(out)
    assert not torch.equal(again[-2].encoder.weight, saved[-2].encoder.weight)
    assert torch.equal(again[3].linear.weight, saved[3].linear.weight)
    starts = [of_embeddings.start(TokenEncoder(folder, dtype="float32")) for folder in (trained("csr"), out)]
    assert starts[0] != starts[1]
    with_prompts = load_finetuned(out)
    with_prompts.prompts = {"query": "the cat ", "document": ""}
    with_prompts.save_pretrained(str(tmp_path / "prompts"), create_model_card=False)
    reading = of_embeddings.build(TokenEncoder(tmp_path / "prompts", dtype="float32"))
    assert reading.prompts["query"] == "the cat "
    model = of_tokens.build(base)
    stock = to_sparse_encoder(LatentTerms(base.encoder, base.sae, "max", "log1p"))
    rows = dense(stock.encode_document(TEXTS))
    assert_close(dense(model.encode_document(TEXTS)), rows / rows.norm(dim=1, keepdim=True))


@pytest.mark.parametrize(
    ("kind", "of", "message"),
    [
        (Bottleneck(width=32, k=4, started=True), "csr", "has 64 latents"),
        (Csr(**SMALL, started=True), "dense", "no autoencoder of its embeddings"),
        (Bottleneck(**SMALL, started=True), "splare", "no autoencoder of its embeddings"),
        (Bottleneck(**SMALL, started=True, pooling="max_log1p"), "csr", "give a LatentTerms"),
    ],
)
def test_a_base_without_the_autoencoder_to_start_from_is_refused(kind, of, message, trained):
    with pytest.raises(ValueError, match=message):
        kind.build(TokenEncoder(trained(of), dtype="float32"))


def test_a_teacher_is_learned_from(triples, base, tmp_path):
    scores = np.tile(np.array([0, 0, 3], np.float32), (24, 1))
    teacher = TeacherScores(scores, {}, triples.digest)
    config = FinetuneConfig(steps=6, batch_size=8, every=6)
    finetune(Splare(flops=(0, 0), learning_rate=1e-2), triples, tmp_path, base=base, config=config, teacher=teacher)
    losses = [row["loss"] for row in log_of(tmp_path) if "loss" in row]
    assert losses[-1] < losses[0]
    assert json.loads((tmp_path / RUN).read_text())["run"]["teacher"] == teacher.digest


def test_the_command_line(tmp_path, monkeypatch, base, capsys):
    lines = [json.dumps({"query": q, "positive": p}) for q, p in zip(QUERIES, POSITIVES, strict=True)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    base.save(tmp_path / "base")
    monkeypatch.setenv("LATENT_TERMS_CACHE", str(tmp_path / "store"))
    command = [
        "finetune",
        "splare",
        tmp_path / "pairs.jsonl",
        tmp_path / "out",
        "--base",
        tmp_path / "base",
        "--dev",
        "",
    ]
    command += ["--top", 5, 10, "--steps", 2, "--batch-size", 8, "--negatives", 1, "--miners", "words", "--rank", 2]
    monkeypatch.setattr(sys, "argv", ["lib", *map(str, command), "--teacher", f"dense:{base.encoder.folder}"])
    main()
    assert str(tmp_path / "out") in capsys.readouterr().out
    run = json.loads((tmp_path / "out" / RUN).read_text())
    assert run["finished"] and run["run"]["settings"]["top"] == [5, 10] and run["run"]["pairs"]["n_negatives"] == 1
    assert load_finetuned(tmp_path / "out")[-1].top == (5, 10)
    monkeypatch.setattr("lib.__main__.mine_negatives", None)  # what is refused is refused before
    for changes, message in (
        (["--batch-size", "100"], "batch of 100"),
        (["--rank", "3"], "rank"),
        (["--top", "5", "9"], "top"),
        (["--teacher", "oracle:x"], "oracle"),
        (["--dev", "nothing/train"], "nothing"),
        (["--base", str(base.encoder.folder)], "LatentTerms"),
    ):
        monkeypatch.setattr(sys, "argv", ["lib", *map(str, command), *changes])
        with pytest.raises(SystemExit, match=message):
            main()


def test_csr_needs_no_negatives(tmp_path, monkeypatch, base):
    lines = [json.dumps({"query": q, "positive": p}) for q, p in zip(QUERIES, POSITIVES, strict=True)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    base.save(tmp_path / "base")
    monkeypatch.setenv("LATENT_TERMS_CACHE", str(tmp_path / "store"))
    monkeypatch.setattr("lib.__main__.mine_negatives", None)
    command = ["finetune", "csr", tmp_path / "pairs.jsonl", tmp_path / "out", "--base", tmp_path / "base", "--dev", ""]
    command += ["--width", 64, "--k", 4, "--steps", 2, "--batch-size", 8]
    monkeypatch.setattr(sys, "argv", ["lib", *map(str, command)])
    main()
    assert json.loads((tmp_path / "out" / RUN).read_text())["finished"]
    monkeypatch.setattr(sys, "argv", ["lib", *map(str, command), "--teacher", "dense:"])
    with pytest.raises(SystemExit, match="supervised"):
        main()


def test_every_kind_is_in_the_registry():
    assert {type(kind) for kind in TINY.values()} == set(KINDS.values())
    assert all(kind.about for kind in KINDS.values())


def test_the_base_may_be_a_retriever_alone(base, sentence_folder):
    encoder = TokenEncoder(sentence_folder, dtype="float32")
    for kind in ("vocabulary", "dense", "csr"):
        assert TINY[kind].build(encoder)[0].auto_model.config.hidden_size == 32
