"""Retrievers out of Python packages: pieces of a zip are joined, unpacked and checked once."""

import io
import zipfile
from dataclasses import replace
from hashlib import sha256
from importlib.metadata import PackageNotFoundError

import pytest

from lib import TokenEncoder
from lib.encode import packaged
from lib.encode.packaged import MINILM, MPNET, locate
from lib.support.store import Store

WEIGHTS = bytes(range(256)) * 40
SHORT, FULL = "all-mpnet-base-v2", "sentence-transformers/all-mpnet-base-v2"


class Distribution(dict):
    """Files of installed distributions by name, as `importlib.metadata.files` gives them."""

    def __call__(self, name):
        if name not in self:
            raise PackageNotFoundError(name)
        return [Located(self[name])]


class Located:
    def __init__(self, path):
        self.path, self.name = path, path.name

    def locate(self):
        return self.path


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Five pieces of a zip with small weights, the weights' digest, and an empty cache."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(f"{SHORT}/model.safetensors", WEIGHTS)
        file.writestr(f"{SHORT}/1_Pooling/config.json", "{}")
    pieces, whole = Distribution(), archive.getvalue()
    size = len(whole) // 5 + 1
    for number in range(5):
        path = tmp_path / f"{SHORT}.zip.{number + 1:03}"
        path.write_bytes(whole[number * size : (number + 1) * size])
        pieces[MPNET.pieces[number][0]] = path
    digests = [(name, sha256(path.read_bytes()).hexdigest()) for name, path in pieces.items()]
    retriever = replace(MPNET, sha256=sha256(WEIGHTS).hexdigest(), pieces=tuple(digests))
    monkeypatch.setattr(packaged, "files", pieces)
    monkeypatch.setattr(packaged, "PACKAGED", (MINILM, retriever))
    monkeypatch.setenv("LATENT_TERMS_CACHE", str(tmp_path / "cache"))
    packaged._files_of.cache_clear()
    yield pieces
    packaged._files_of.cache_clear()


@pytest.mark.parametrize("name", [SHORT, FULL])
def test_pieces_are_joined_once(installed, name):
    found, folder = locate(name)
    assert found == FULL
    path = Store().folder / folder
    assert (path / "model.safetensors").read_bytes() == WEIGHTS and (path / "1_Pooling/config.json").exists()
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # nothing else stays
    installed.clear()
    packaged._files_of.cache_clear()
    assert locate(name) == (FULL, folder)
    assert locate(path) == (FULL, folder)  # the folder is known by its name, too


def test_what_is_not_installed_is_left_to_the_hub(installed):
    del installed[MPNET.pieces[3][0]]
    assert locate(SHORT) == locate(FULL) == (FULL, FULL)
    assert not Store().folder.exists()
    with pytest.raises(ConnectionError, match=rf"{FULL}.*pip install 'latent-terms\[mpnet\]'"):
        TokenEncoder(SHORT)


def test_a_folder_of_ones_own_comes_first(installed, tmp_path, monkeypatch):
    (tmp_path / SHORT).mkdir()
    monkeypatch.chdir(tmp_path)
    assert locate(SHORT) == (str(tmp_path / SHORT),) * 2


@pytest.mark.parametrize("number", [0, 4])
@pytest.mark.parametrize("damage", ["cut", "altered", "missing"])
def test_a_damaged_piece_is_named_with_what_to_reinstall(installed, number, damage):
    name = MPNET.pieces[number][0]
    path = installed[name]
    content = path.read_bytes()
    path.write_bytes({"cut": content[:-7], "altered": b"x" + content[1:], "missing": b""}[damage])
    if damage == "missing":
        path.unlink()
    with pytest.raises(ValueError, match=rf"{path}.*force-reinstall {name}"):
        locate(SHORT)
    assert not Store().folder.exists()


def test_other_weights_are_refused_and_not_kept(installed, monkeypatch):
    (retriever,) = packaged.PACKAGED[1:]
    monkeypatch.setattr(packaged, "PACKAGED", (MINILM, replace(retriever, sha256=MPNET.sha256)))
    with pytest.raises(ValueError, match=rf"{sha256(WEIGHTS).hexdigest()}.*{MPNET.sha256}.*force-reinstall"):
        locate(SHORT)
    assert not list(Store().folder.iterdir())
