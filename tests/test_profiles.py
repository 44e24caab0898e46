"""The profiles, where a notebook begins, and what a results file says of its origin."""

import json

import pytest

from lib.studies.profiles import PROFILES, current_profile, repository_root, start
from lib.studies.provenance import provenance


def test_profiles(monkeypatch, tmp_path):
    monkeypatch.delenv("LATENT_TERMS_PROFILE", raising=False)
    assert current_profile().name == "smoke"
    monkeypatch.setenv("LATENT_TERMS_PROFILE", "laptop")
    assert "beir/scifact/test" in current_profile().collections
    monkeypatch.setenv("LATENT_TERMS_PROFILE", "lapdog")
    with pytest.raises(ValueError, match="lapdog"):
        current_profile()


def test_a_notebook_begins_in_the_root_with_the_profile_that_is_named(monkeypatch):
    root = repository_root()
    monkeypatch.chdir(root / "notebooks")
    monkeypatch.setenv("LATENT_TERMS_PROFILE", "smoke")
    assert start() is PROFILES["smoke"] and start("laptop") is PROFILES["laptop"]
    assert current_profile() is PROFILES["laptop"]  # what reads it later, such as `given_splade`, agrees
    assert repository_root().samefile(".")
    with pytest.raises(ValueError, match="lapdog"):
        start("lapdog")


def test_smoke_results_never_land_among_the_committed_ones():
    assert PROFILES["smoke"].figures_folder.parts[-3:] == ("build", "smoke", "figures")
    assert PROFILES["laptop"].figures_folder.name == "figures"


def test_the_repository_is_found_from_below_or_not_at_all(monkeypatch, tmp_path):
    root = repository_root()
    monkeypatch.chdir(root / "tests")
    assert repository_root() == root
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="checkout"):
        repository_root()


def test_provenance_is_json_and_names_what_made_the_numbers():
    origin = json.loads(json.dumps(provenance(PROFILES["smoke"], seed=3)))
    assert origin["config"] == {"seed": 3}
    assert {"python", "torch", "numpy"} <= set(origin["versions"])
    assert {"profile", "commit", "machine", "date"} <= set(origin)
