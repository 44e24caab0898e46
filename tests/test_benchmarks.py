import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import TEXTS
from scipy.sparse import csr_array

from lib.benchmarks import encoding, measure, peers, training
from lib.benchmarks.peers import OURS, REFERENCE, competitors
from lib.benchmarks.training import PRODUCT, fvu_table, fvus, speed_table, steps_to_time
from lib.data.collection import Collection
from lib.encode.encoder import TokenEncoder
from lib.encode.states import StoredStates
from lib.latent_terms import LatentTerms
from lib.sae.autoencoder import SparseAutoencoder
from lib.sae.codes import FinishedJumpReLU
from lib.sae.trainer import Run
from lib.sae.training import Normalisation, TrainableAutoencoder, TrainingConfig, learning_rate_factor
from lib.support.packed import pack_layers

CONFIG = TrainingConfig(width=48, k=3, batch_tokens=64, learning_rate=1e-2, select_dtype="float32")
WORDS = [text for text in TEXTS if text.strip()]


@pytest.fixture
def nobody_else(monkeypatch):
    for module in (peers, training):
        monkeypatch.setattr(module, "find_spec", lambda name: None)


def normal_states(n: int, d: int = 12) -> torch.Tensor:
    draw = torch.Generator().manual_seed(5)
    return torch.randn(n, 4, generator=draw) @ torch.randn(4, d, generator=draw) + torch.randn(d, generator=draw)


def test_measure_takes_turns_and_the_first_does_not_count():
    order = []
    seconds = measure({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=3)
    assert order == ["a", "b"] * 4
    assert set(seconds) == {"a", "b"}
    assert all(0 <= value < 0.1 for value in seconds.values())


@pytest.mark.slow
def test_every_competitor_takes_whole_steps():
    activations = ["kron", "ortsae:chunk=16"]
    steps = steps_to_time(12, CONFIG, 0.25, activations)
    assert {f"{OURS}, {name}" for name in activations} <= set(steps)
    assert {
        PRODUCT,
        "bare product, fresh memory",
        OURS,
        f"{OURS}, none dead",
        f"{OURS}, latents found in int8",
        REFERENCE,
    } <= set(steps)
    assert steps[PRODUCT]().shape == (64, 48)
    for step in steps.values():
        step()


@pytest.mark.slow
def test_every_competitor_starts_from_the_same_weights_and_learns():
    states, none_dead = normal_states(64), torch.zeros(48, dtype=torch.bool)
    everyone = competitors(states, CONFIG)
    with torch.no_grad():
        start = {name: competitor.reconstruct(states) for name, competitor in everyone.items()}
        for name, reconstruction in start.items():
            torch.testing.assert_close(reconstruction, start[OURS], msg=lambda text, name=name: f"{name}: {text}")
    for name, competitor in everyone.items():
        for _ in range(20):
            competitor.step(states, none_dead)
        with torch.no_grad():
            error = (competitor.reconstruct(states) - states).norm() / (start[name] - states).norm()
        assert error < 0.9, name


def test_ours_and_the_dense_reference_do_the_same_work(monkeypatch, nobody_else):
    # the same weights at first, and the same weights after five steps, but for rounding
    models, initialise = [], TrainableAutoencoder.__init__
    monkeypatch.setattr(
        TrainableAutoencoder, "__init__", lambda self, *arguments: models.append(self) or initialise(self, *arguments)
    )
    steps = steps_to_time(12, CONFIG, share_dead=0.25)
    ours, reference, _none_dead, _in_int8 = models
    before = {name: parameter.detach().clone() for name, parameter in ours.named_parameters()}
    for _ in range(5):
        steps[OURS]()
        steps[REFERENCE]()
    for name, parameter in ours.named_parameters():
        assert not torch.equal(parameter, before[name])
        torch.testing.assert_close(parameter, getattr(reference, name), rtol=0, atol=1e-5)


def test_clipped_gradients_have_norm_1_for_the_error_of_a_token(monkeypatch):
    states, models, initialise = normal_states(64), [], TrainableAutoencoder.__init__
    monkeypatch.setattr(
        TrainableAutoencoder, "__init__", lambda self, *arguments: models.append(self) or initialise(self, *arguments)
    )
    for clip in (False, True):
        peers.ours(states, replace(CONFIG, unit_gradient=clip), clip=clip).step(states, torch.zeros(48) > 0)
    free, clipped = (torch.cat([parameter.grad.flatten() for parameter in model.parameters()]) for model in models)
    variance = (states - states.mean(dim=0)).square().sum(dim=1).mean()  # FVU = squared error of a token / variance
    assert free.norm() * variance > 1.1
    assert clipped.norm() * variance == pytest.approx(1, rel=1e-4)
    torch.testing.assert_close(clipped / clipped.norm(), free / free.norm())


@pytest.mark.parametrize("unit_gradient", [True, False])
def test_the_timed_step_is_the_trainers(unit_gradient, nobody_else):
    # three steps at the rates of the trainer leave its weights: to the bit ours, but for rounding the reference's
    config, states = replace(CONFIG, unit_gradient=unit_gradient, epochs=3), normal_states(64)
    normalise = Normalisation(torch.zeros(states.shape[1]), 1.0)
    run = Run(TrainableAutoencoder.initial(states, config), normalise, StoredStates([states]))
    assert run.n_steps == 3
    everyone = competitors(states, config)
    for number in range(3):
        dead = run._dead()
        run.advance(states)
        for who in everyone.values():
            rate = config.learning_rate * learning_rate_factor(number, 3, config.warmup)
            who.optimizer.param_groups[0]["lr"] = rate
            who.step(states, dead)
    wanted = list(run.model.parameters())
    for name, who in everyone.items():
        for parameter, own in zip(who.optimizer.param_groups[0]["params"], wanted, strict=True):
            torch.testing.assert_close(parameter, own, rtol=0, atol=0 if name == OURS else 1e-5)


def test_the_columns_of_the_speed_table(monkeypatch):
    monkeypatch.setattr(training, "steps_to_time", lambda *arguments: {PRODUCT: None, OURS: None})
    monkeypatch.setattr(training, "measure", lambda steps, repeats: {PRODUCT: 0.2, OURS: 0.3})
    config = TrainingConfig(batch_tokens=600, k=2)
    rows = speed_table(d=8, widths=[16, 32], config=config, share_dead=0.1, repeats=1).to_dict("records")
    assert [(row["width"], row["step"]) for row in rows] == [(16, PRODUCT), (16, OURS), (32, PRODUCT), (32, OURS)]
    # 0.3 s for 600 tokens: 2,000 tokens a second, 1.5 times the product's 0.2 s
    assert rows[1]["ms a step"] == pytest.approx(300)
    assert rows[1]["tokens/s"] == pytest.approx(2_000)
    assert rows[1]["times the product"] == pytest.approx(1.5)
    assert rows[0]["times ours"] == pytest.approx(2 / 3)


@pytest.mark.slow
def test_after_the_same_tokens_all_leave_about_the_same_unexplained(nobody_else):
    states = normal_states(64 * 40 + 500)
    found = fvus(states[:-500], states[-500:], CONFIG)
    in_each = [f"{OURS}, {dtype} product" for dtype in ("float32", "bfloat16", "int8")]
    assert set(found) == {*in_each, f"{OURS}, clipped", REFERENCE}
    assert 0.001 < found[REFERENCE] < 0.2  # it has learned, and there is something left to compare
    assert found[f"{OURS}, float32 product"] == pytest.approx(found[REFERENCE], rel=1e-2)
    assert found[f"{OURS}, bfloat16 product"] == pytest.approx(found[REFERENCE], rel=0.1)
    assert found[f"{OURS}, int8 product"] == pytest.approx(found[REFERENCE], rel=0.1)
    # a tenth of the steps leaves more: the figure is that of the training, not of the start
    assert fvus(states[:256], states[-500:], CONFIG)[REFERENCE] > 1.5 * found[REFERENCE]
    with pytest.raises(ValueError, match=r"63.* 64"):
        fvus(states[:63], states[-500:], CONFIG)


def test_the_columns_of_the_fvu_table(monkeypatch):
    shapes = []
    monkeypatch.setattr(training, "HELD_OUT", 5)
    monkeypatch.setattr(
        training,
        "fvus",
        lambda states, held_out, config: (
            shapes.append((len(states), len(held_out), config.width)) or {REFERENCE: 0.2, "x": 0.21}
        ),
    )
    rows = fvu_table(torch.zeros(20, 3), [16, 32], TrainingConfig()).to_dict("records")
    assert shapes == [(15, 5, 16), (15, 5, 32)]
    assert [(row["width"], row["who"], row["FVU"]) for row in rows[:2]] == [(16, REFERENCE, 0.2), (16, "x", 0.21)]
    assert rows[1]["beside the reference"] == pytest.approx(0.05)


SHARED = {"--widths": 32, "--k": 2, "--batch-tokens": 16}


def run_command(monkeypatch, module, settings: dict) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark", *(str(part) for pair in settings.items() for part in pair)])
    module.main()


def test_the_command_for_speed(monkeypatch, capsys, nobody_else):
    run_command(monkeypatch, training, SHARED | {"--d": 8, "--repeats": 1})
    printed = capsys.readouterr().out
    assert "sparsify is not installed; pip install -e '.[bench]' for it." in printed
    assert f"torch {torch.__version__}" in printed
    assert "times the product" in printed
    assert REFERENCE in printed


def pydoc(monkeypatch, module) -> None:
    doc_ids = [str(i) for i in range(len(TEXTS))]
    collection = Collection("pydoc", None, doc_ids, TEXTS, ["q"], ["the cat"], {"q": {"0": 1}}, "built-in")
    monkeypatch.setattr(module, "load_collection", lambda name: {"pydoc": collection}[name])


def test_the_command_for_fvu(monkeypatch, capsys, nobody_else, tiny_encoder):
    pydoc(monkeypatch, training)
    monkeypatch.setattr(training, "HELD_OUT", 10)
    monkeypatch.setattr(training, "TokenEncoder", lambda model, **settings: {"my-retriever": tiny_encoder}[model])
    fvu = SHARED | {"--model": "my-retriever"}
    run_command(monkeypatch, training, fvu | {"--fvu-tokens": 48})
    printed = capsys.readouterr().out
    assert "beside the reference" in printed
    assert f"{OURS}, bfloat16 product" in printed
    assert "+0.00%" in printed  # the reference beside itself
    n = sum(tiny_encoder.count_tokens(TEXTS))
    with pytest.raises(ValueError, match=f"{n} .*{n + 1}"):
        run_command(monkeypatch, training, fvu | {"--fvu-tokens": n - 9})


@pytest.mark.parametrize("settings", [{"--model": "my-retriever"}, {"--fvu-tokens": 48, "--d": 8}])
def test_an_option_of_the_other_measurement_is_refused(monkeypatch, capsys, settings):
    with pytest.raises(SystemExit):
        run_command(monkeypatch, training, SHARED | settings)
    assert "--d is for times and --model for FVU" in capsys.readouterr().err


@pytest.fixture(scope="module")
def model(tiny_encoder, tiny_sae):
    return LatentTerms(tiny_encoder, tiny_sae)


def test_the_usual_parts_give_the_same_matrix(model, sentence_folder):
    prompted = TokenEncoder(sentence_folder, dtype="float32", document_prompt="title : ", max_length=20)
    for ours in (model, LatentTerms(prompted, model.sae)):
        usual = encoding.UsualParts(ours)
        want, got = ours.encode_documents(WORDS * 10), usual.encode(WORDS * 10)
        assert got.shape == want.shape
        assert encoding.difference(want, got) < 1e-6
    # they differ between the two models, and so does the measure
    assert encoding.difference(want, model.encode_documents(WORDS * 10)) > 0.1
    # the states are those of all tokens
    assert [len(part) for part in usual.states(WORDS)] == list(prompted.count_tokens(WORDS))


def test_dense_codes_are_the_sparse_ones(tiny_sae):
    states = torch.randn(50, 32, generator=torch.Generator().manual_seed(6))
    indices, values = tiny_sae.encode(states)
    want = torch.zeros(50, 64).scatter(1, indices, values)
    torch.testing.assert_close(encoding.dense_codes(states, tiny_sae), want)


def test_the_difference_is_relative():
    a, b = csr_array(np.array([[3.0, 0.0]])), csr_array(np.array([[0.0, 4.0]]))
    assert encoding.difference(a, b) == pytest.approx(5 / 4)
    assert encoding.difference(a, a) == 0


def test_models_that_the_usual_parts_cannot_match_are_refused(model, sentence_folder):
    sae = model.sae
    thresholds = SparseAutoencoder(**sae.tensors(), activation=FinishedJumpReLU(4, torch.ones(64)))
    for other, message in (
        (LatentTerms(TokenEncoder(sentence_folder, layer=1, dtype="float32"), sae), "layer is 1; the peer gives 3"),
        (LatentTerms(TokenEncoder(sentence_folder, special_tokens=False), sae), "special_tokens is False"),
        (LatentTerms(model.encoder, thresholds), "activation is 'jumprelu'"),
        (LatentTerms(model.encoder, sae, pooling="max"), "pooling is 'max'"),
        (LatentTerms(model.encoder, sae, phi="log1p"), "phi is 'log1p'"),
    ):
        with pytest.raises(ValueError, match=message):
            encoding.UsualParts(other)


def test_what_is_no_matrix_product():
    a = torch.ones(300, 300)
    assert encoding.outside_products(lambda: [a @ a for _ in range(50)]) < 0.5
    packed, rows = pack_layers(torch.nn.Sequential(torch.nn.Linear(300, 300)).bfloat16()), a.bfloat16()
    with torch.no_grad():
        assert encoding.outside_products(lambda: [packed(rows) for _ in range(50)]) < 0.5
    assert encoding.outside_products(lambda: [a.sin() for _ in range(50)]) == 1


def test_texts_are_evenly_spaced_and_not_blank():
    texts = ["a", " ", "b", "c", "", "d"]
    assert encoding.spread(texts, 2) == ["a", "c"]
    assert encoding.spread(texts, 9) == ["a", "b", "c", "d"]
    with pytest.raises(ValueError, match="texts is 0"):
        encoding.spread(texts, 0)


@pytest.mark.slow
def test_the_encoding_command(monkeypatch, capsys, model, sentence_folder):
    pydoc(monkeypatch, encoding)
    monkeypatch.setattr(model.encoder, "batch_tokens", model.encoder.batch_tokens)  # put back after the test
    rough = LatentTerms(TokenEncoder(sentence_folder, dtype="bfloat16"), model.sae)
    without = LatentTerms(TokenEncoder(sentence_folder, dtype="float32", special_tokens=False), model.sae)
    assert encoding._with_special_tokens(without).identity == model.identity
    monkeypatch.setattr(LatentTerms, "load", lambda folder, dtype=None: model if dtype else rough)
    seconds = {"states": 2.0, "matrix": 4.0}
    monkeypatch.setattr(
        encoding,
        "measure",
        lambda steps, repeats: {
            name: (1.0 if name[2] == "bfloat16" else seconds[name[0]] / (1 + (name[1] == OURS)))
            for name, step in steps.items()
            if step() is not None
        },
    )
    run_command(monkeypatch, encoding, {"--texts": 6, "--repeats": 1, "--batch-tokens": 30})
    assert rough.encoder.batch_tokens == model.encoder.batch_tokens == 30
    *_, head, m1, m2, m3, s1, s2, s3, of_rough, of_exact = capsys.readouterr().out.splitlines()
    assert of_rough.startswith("bfloat16: ") and of_exact.startswith("float32: ")
    n_tokens = sum(model.encoder.count_tokens(encoding.spread(TEXTS, 6)))
    assert head.split() == ["what", "who", "dtype", "tokens/s", "times", "the", "peer", "difference"]
    assert m1.split()[:6] == ["matrix", "this", "package", "bfloat16", str(n_tokens), "4.00"]
    assert 1e-4 < float(m1.split()[6]) < 0.5
    assert m2.split()[3:6] == ["float32", str(round(n_tokens / 2)), "2.00"]
    assert float(m2.split()[6]) < 1e-6
    assert m3.split()[-3:] == ["float32", str(round(n_tokens / 4)), "1.00"]
    assert [line.split()[0] for line in (s1, s2, s3)] == ["states"] * 3
    assert s2.split()[-1] == "2.00"
