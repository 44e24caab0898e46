"""The benchmark of what finetuning costs, at a tiny size."""

import sys

import pandas as pd
import pytest

from lib.benchmarks import finetuning
from lib.latent_terms import LatentTerms
from lib.learned.autoencoders import Csr
from lib.learned.models import KINDS, DenseControl, Splare
from lib.learned.pairs import Pairs

TINY = {"splare": lambda: Splare(top=(3, 5)), "dense": DenseControl, "csr": lambda: Csr(width=32, k=2)}


@pytest.mark.slow
def test_each_kind_is_trained_beside_the_dense_retriever(tiny_encoder, tiny_sae, tmp_path, monkeypatch, capsys):
    assert finetuning.CONTROL in KINDS
    pairs = Pairs([f"query {i}" for i in range(120)], [f"the text number {i}" for i in range(120)])
    monkeypatch.setattr(finetuning, "load_pairs", lambda name: pairs)
    monkeypatch.setattr(finetuning, "load_base", lambda name: LatentTerms(tiny_encoder, tiny_sae))
    monkeypatch.setattr(finetuning, "KINDS", TINY)
    out = tmp_path / "finetuning.csv"
    monkeypatch.setattr(sys, "argv", ["finetuning", "--steps", "2", "--batch-size", "20", "--out", str(out)])
    finetuning.main()
    assert "times_dense" in capsys.readouterr().out
    rows = pd.read_csv(out).set_index("kind")
    assert rows.index.tolist() == ["dense", "splare", "csr"] and rows.loc["dense", "times_dense"] == 1
    assert (rows["all_s"] > 2 * rows["step_ms"] / 1e3).all()
    assert rows.loc["csr", "doc_terms"] <= 2 and rows.loc["splare", "query_terms"] <= 3
    assert pd.isna(rows.loc["dense", "doc_terms"])
