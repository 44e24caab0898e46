"""The benchmark of what an index takes, at a tiny size."""

import sys

import pandas as pd
import pytest
from conftest import TEXTS

from lib.benchmarks import memory
from lib.latent_terms import LatentTerms


@pytest.mark.slow
def test_each_form_is_built_and_opened_by_a_process_of_its_own(tiny_encoder, tiny_sae, tmp_path, monkeypatch, capsys):
    model = LatentTerms(tiny_encoder, tiny_sae)
    monkeypatch.setattr(LatentTerms, "load", lambda name: model)
    monkeypatch.setattr(memory, "spread", lambda texts, n: TEXTS)
    out = tmp_path / "memory.csv"
    arguments = ["--collection", "limit/46", "--sizes", "300", "--queries", "2", "--k", "5", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["memory", *arguments])
    memory.main()
    assert "bytes_per_doc" in capsys.readouterr().out
    rows = pd.read_csv(out).set_index("impacts")
    assert rows.index.tolist() == ["float32", "uint8"] and (rows["n_docs"] == 300).all()
    assert rows.loc["uint8", "bytes_per_doc"] < rows.loc["float32", "bytes_per_doc"]
    assert (rows["build_gib"] >= rows["start_gib"]).all() and (rows["search_gib"] >= rows["open_gib"]).all()
    assert (rows[["build_s", "open_s", "verified_s"]] > 0).all(axis=None)
