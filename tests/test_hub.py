"""The hub is a folder here: `huggingface_hub`'s own calls are replaced, so nothing is sent anywhere."""

import copy
import shutil
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from scipy.sparse import csr_array

from lib.bm25.index import BM25Index
from lib.latent_terms import LatentTerms
from lib.sae.autoencoder import SparseAutoencoder
from lib.support.hub import find_folder, upload

pytestmark = pytest.mark.usefixtures("one_thread")


def response(status: int = 404):
    """What an error of the hub is made of, without the hub's http client."""
    return SimpleNamespace(status_code=status, headers={}, request=SimpleNamespace(url="", method="GET"), text="")


def wrapped(status: int) -> LocalEntryNotFoundError:
    """What the library makes of an answer that it takes for a fault of the network, as it does of a 403."""
    error = LocalEntryNotFoundError("Got: HfHubHTTPError")
    error.__cause__ = HfHubHTTPError(str(status), response=response(status))
    return error


class FakeHub:
    """Repositories as folders `<root>/<id>/<revision>`, and a record of the calls."""

    def __init__(self, root: Path):
        self.root, self.calls = root, []

    def snapshot_download(self, repo_id, *, revision=None, token=None, allow_patterns, local_files_only):
        assert not local_files_only
        self.calls.append(("download", repo_id, revision, token))
        if not (self.root / repo_id).is_dir():
            raise RepositoryNotFoundError("404", response=response())
        there = self.root / repo_id / (revision or "main")
        if not there.is_dir():
            raise RevisionNotFoundError("404", response=response())
        cache = self.root / "cache" / repo_id / (revision or "main")
        shutil.rmtree(cache, ignore_errors=True)
        cache.mkdir(parents=True)
        for path in there.rglob("*.*"):
            name = path.relative_to(there)
            if any(fnmatch(str(name), pattern) for pattern in allow_patterns):
                (cache / name).parent.mkdir(exist_ok=True)
                (cache / name).symlink_to(path)  # as the real cache has it
        return str(cache)

    def create_repo(self, repo_id, *, token=None, private=None, exist_ok=False):
        assert exist_ok
        self.calls.append(("create", repo_id, private, token))
        (self.root / repo_id / "main").mkdir(parents=True, exist_ok=True)

    def create_branch(self, repo_id, *, branch, token=None, exist_ok=False):
        assert exist_ok
        (self.root / repo_id / branch).mkdir(exist_ok=True)

    def upload_folder(self, *, repo_id, folder_path, token, revision, commit_message, delete_patterns):
        self.calls.append(("upload", repo_id, revision, token))
        there = self.root / repo_id / (revision or "main")
        new = {path.name for path in Path(folder_path).iterdir()}
        for path in there.iterdir():
            if path.name not in new and any(fnmatch(path.name, pattern) for pattern in delete_patterns):
                path.unlink()
        shutil.copytree(folder_path, there, dirs_exist_ok=True)
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/{commit_message}")


@pytest.fixture
def hub(tmp_path, monkeypatch) -> FakeHub:
    fake = FakeHub(tmp_path / "hub")
    fake.root.mkdir()
    for name in ("snapshot_download", "create_repo", "create_branch", "upload_folder"):
        monkeypatch.setattr(huggingface_hub, name, getattr(fake, name))
    return fake


def index_of(*weights: float) -> BM25Index:
    return BM25Index.build(csr_array(np.array([[*weights], [0.5] * len(weights)], np.float32)), ["a", "b"])


@pytest.fixture
def public_encoder(tiny_encoder):
    """The tiny encoder as if it had come from the hub."""
    encoder = copy.copy(tiny_encoder)
    encoder.name = "me/retriever"
    return encoder


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_model_goes_to_the_hub_and_comes_back(hub, public_encoder, tiny_sae):
    model = LatentTerms(public_encoder, tiny_sae, "max", "log1p")
    address = model.push_to_hub("me/model", token="secret", private=True)
    assert address == "https://hub/me/model/commit/Save the model"
    assert hub.calls == [("create", "me/model", True, "secret"), ("upload", "me/model", None, "secret")]
    again = LatentTerms.load("me/model", encoder=public_encoder, token="secret")
    assert hub.calls[-1] == ("download", "me/model", None, "secret")
    assert again.config == model.config
    assert (again.encode_queries(["the old cat"]) != model.encode_queries(["the old cat"])).nnz == 0


def test_a_model_that_only_this_machine_can_load_is_not_uploaded(hub, tiny_encoder, tiny_sae, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=rf"{tiny_encoder.name}.*with_retriever.*upload"):
        LatentTerms(tiny_encoder, tiny_sae).push_to_hub("me/model")
    (tmp_path / "here/retriever").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    other = copy.copy(tiny_encoder)
    for name in ("/on/another/disk", "here/retriever"):
        other.name = name
        with pytest.raises(ValueError, match=name):
            LatentTerms(other, tiny_sae).push_to_hub("me/model")
    assert hub.calls == []


def test_an_index_of_a_branch_is_read_by_revision(hub):
    index_of(1, 2).push_to_hub("me/index")
    index_of(1, 2, 3).push_to_hub("me/index", revision="wide")
    assert BM25Index.load("me/index").width == 2
    assert BM25Index.load("me/index", revision="wide", verify=False).width == 3


def test_an_autoencoder_goes_to_the_hub_and_back(hub, tiny_sae):
    tiny_sae.push_to_hub("me/autoencoder", dtype="float16")
    assert SparseAutoencoder.load("me/autoencoder").config == tiny_sae.config


def test_an_upload_replaces_its_own_files_only(hub, public_encoder, tiny_sae):
    model, there = LatentTerms(public_encoder, tiny_sae), hub.root / "me/both" / "main"
    upload(model.save, "me/both", message="Model")
    (there / "README.md").write_text("mine")
    (there / "other-0123456789ab.json").write_text("{}")
    beside = names(there)
    upload(index_of(1, 2).save, "me/both", message="Index")
    first = names(there)
    upload(index_of(1, 7).save, "me/both", message="Another index")
    second = names(there)
    assert beside < first
    assert beside < second
    assert len(first) == len(second)
    assert first != second
    folder = find_folder("me/both", "index.json")
    assert BM25Index.load(folder).explain(csr_array(np.array([[0, 1]], np.float32)), "a")[0].impact > 0
    assert LatentTerms.load(folder, encoder=public_encoder).config == model.config
    assert "README.md" not in names(folder)  # only what is read is fetched


def test_code_in_a_repository_is_neither_fetched_nor_run(hub):
    upload(index_of(1, 2).save, "me/index", message="First")
    for name in ("modeling.py", "weights.pkl", "pytorch_model.bin"):
        (hub.root / "me/index/main" / name).write_text("raise SystemExit('run')")
    folder = find_folder("me/index", "index.json")
    assert not {"modeling.py", "weights.pkl", "pytorch_model.bin"} & names(folder)
    assert len(BM25Index.load(folder)) == 2


def test_a_tokenizer_without_a_tokenizer_json_is_fetched(hub):
    upload(index_of(1, 2).save, "me/index", message="First")
    files = {
        "tokenizer_config.json",
        "vocab.txt",
        "vocab.json",
        "merges.txt",
        "spiece.model",
        "sentencepiece.bpe.model",
    }
    (hub.root / "me/index/main/0_Transformer").mkdir()
    for name in files | {"modeling.py", "notes.txt"}:
        (hub.root / "me/index/main/0_Transformer" / name).touch()
    assert names(find_folder("me/index", "index.json") / "0_Transformer") == files


def test_a_file_altered_on_the_hub_is_noticed(hub):
    upload(index_of(1, 2).save, "me/index", message="First")
    impacts = next((hub.root / "me/index/main").glob("impacts-*.npy"))
    impacts.write_bytes(impacts.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(ValueError, match="truncated or altered"):
        BM25Index.load(find_folder("me/index", "index.json"))


def test_a_folder_counts_before_the_hub(hub, tmp_path, monkeypatch):
    index_of(1, 2).save(tmp_path / "me" / "index")
    monkeypatch.chdir(tmp_path)
    assert find_folder("me/index", "index.json") == Path("me/index")
    assert find_folder(tmp_path / "me" / "index", "index.json") == tmp_path / "me" / "index"
    assert hub.calls == []
    with pytest.raises(ValueError, match="revision is 'v1'"):
        find_folder("me/index", "index.json", revision="v1")


@pytest.mark.parametrize("place", ["missing", "./me/index", "/no/such/folder", "a/b/c", "me/in dex", Path("me/index")])
def test_what_cannot_be_an_id_is_never_asked_for(hub, place):
    with pytest.raises(FileNotFoundError, match="hub id"):
        find_folder(place, "index.json")
    with pytest.raises(ValueError, match="repo_id"):
        upload(index_of(1).save, place, message="New")
    assert hub.calls == []


def test_what_the_hub_does_not_have(hub):
    with pytest.raises(FileNotFoundError, match=r"me/index.*token"):
        find_folder("me/index", "index.json")
    upload(index_of(1, 2).save, "me/index", message="First")
    with pytest.raises(FileNotFoundError, match="revision 'v9'"):
        find_folder("me/index", "index.json", revision="v9")
    with pytest.raises(FileNotFoundError, match=r"latent_terms.json.*index.json"):
        find_folder("me/index", "latent_terms.json")


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (
            GatedRepoError("gated", response=response(403)),
            PermissionError,
            "me/index is gated",
        ),
        *(
            (error, PermissionError, "me/index with this token")
            for status in (401, 403)
            for error in (HfHubHTTPError(str(status), response=response(status)), wrapped(status))
        ),
        (wrapped(500), ConnectionError, "me/index"),
        (LocalEntryNotFoundError("offline"), ConnectionError, "HF_HUB_OFFLINE"),
        (OfflineModeIsEnabled("offline"), ConnectionError, "me/index"),
        (HfHubHTTPError("500", response=response(500)), ConnectionError, "me/index"),
        (ConnectionResetError("reset"), ConnectionError, "me/index"),
    ],
)
def test_a_download_that_fails_says_why(hub, monkeypatch, error, expected, message):
    def fail(*args, **settings):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(expected, match=message):
        find_folder("me/index", "index.json")


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (LocalTokenNotFoundError("no token"), PermissionError, "token that may"),
        (RepositoryNotFoundError("404", response=response()), PermissionError, "cannot be written"),
        (HfHubHTTPError("403", response=response(403)), PermissionError, "cannot be written"),
        (HfHubHTTPError("500", response=response(500)), ConnectionError, "me/index"),
        (OfflineModeIsEnabled("offline"), ConnectionError, "HF_HUB_OFFLINE"),
    ],
)
def test_an_upload_that_fails_says_why(hub, monkeypatch, error, expected, message):
    def fail(*args, **settings):
        raise error

    monkeypatch.setattr(huggingface_hub, "upload_folder", fail)
    with pytest.raises(expected, match=message):
        upload(index_of(1, 2).save, "me/index", message="First")


def test_without_a_network_the_real_calls_end_in_our_errors(tmp_path):
    # HF_HUB_OFFLINE is set for all tests, so the library itself refuses before it connects
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE"):
        find_folder("nobody-at-all/nothing-at-all", "index.json")
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE"):
        upload(index_of(1, 2).save, "nobody-at-all/nothing-at-all", token="none", message="First")
