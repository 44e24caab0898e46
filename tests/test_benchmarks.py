import sys

import pytest
import torch

from lib.benchmarks import training
from lib.benchmarks.training import OURS, PRODUCT, competitors, main, measure, table
from lib.training import TrainableAutoencoder


def test_every_competitor_takes_whole_steps():
    steps = competitors(n=64, d=12, width=48, k=3, share_dead=0.25)
    assert {PRODUCT, "bare product, fresh memory", OURS, f"{OURS}, none dead", "dense reference"} <= set(steps)
    assert steps[PRODUCT]().shape == (64, 48)
    for step in steps.values():
        step()


def test_ours_and_the_dense_reference_do_the_same_work(monkeypatch):
    # the same weights at first, and the same weights after five steps, but for rounding
    models, initialise = [], TrainableAutoencoder.__init__
    monkeypatch.setattr(
        TrainableAutoencoder, "__init__", lambda self, *arguments: models.append(self) or initialise(self, *arguments)
    )
    monkeypatch.setattr(training, "find_spec", lambda name: None)
    monkeypatch.setattr("lib.training.native_dtype", lambda device: "float32")
    steps = competitors(n=64, d=12, width=48, k=3, share_dead=0.25)
    ours, _, reference = models
    before = {name: parameter.detach().clone() for name, parameter in ours.named_parameters()}
    for _ in range(5):
        steps[OURS]()
        steps["dense reference"]()
    for name, parameter in ours.named_parameters():
        assert not torch.equal(parameter, before[name])
        torch.testing.assert_close(parameter, getattr(reference, name), rtol=0, atol=1e-5)


def test_measure_takes_turns_and_the_first_does_not_count():
    order = []
    seconds = measure({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=3)
    assert order == ["a", "b"] * 4
    assert set(seconds) == {"a", "b"}
    assert all(0 <= value < 0.1 for value in seconds.values())


def test_the_columns_of_the_table(monkeypatch):
    monkeypatch.setattr(training, "competitors", lambda *arguments: {PRODUCT: None, OURS: None})
    monkeypatch.setattr(training, "measure", lambda steps, repeats: {PRODUCT: 0.2, OURS: 0.3})
    rows = table(n=600, d=8, widths=[16, 32], k=2, share_dead=0.1, repeats=1).to_dict("records")
    assert [(row["width"], row["step"]) for row in rows] == [(16, PRODUCT), (16, OURS), (32, PRODUCT), (32, OURS)]
    # 0.3 s for 600 tokens: 2,000 tokens a second, 1.5 times the product's 0.2 s
    assert rows[1]["ms a step"] == pytest.approx(300)
    assert rows[1]["tokens/s"] == pytest.approx(2_000)
    assert rows[1]["times the product"] == pytest.approx(1.5)
    assert rows[0]["times ours"] == pytest.approx(2 / 3)


def test_the_command(monkeypatch, capsys):
    monkeypatch.setattr(training, "find_spec", lambda name: None)
    settings = {"--widths": 32, "--d": 8, "--k": 2, "--batch-tokens": 16, "--repeats": 1}
    monkeypatch.setattr(sys, "argv", ["benchmark", *(str(part) for pair in settings.items() for part in pair)])
    main()
    printed = capsys.readouterr().out
    assert "sparsify is not installed; pip install -e '.[bench]' for it." in printed
    assert f"torch {torch.__version__}" in printed
    assert "times the product" in printed
    assert "dense reference" in printed
