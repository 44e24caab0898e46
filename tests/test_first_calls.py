"""Public functions, each the first call of a fresh process, with a hub of our own that speaks the hub's protocol."""

import io
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from local_hub import LocalHub
from scipy.sparse import csr_array

from lib.bm25.index import BM25Index
from lib.latent_terms import LatentTerms

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow

PREPARE = """
import numpy as np
from scipy.sparse import csr_array
rows = csr_array(np.array([[1, 2], [0, 1]], np.float32))
"""

# Each is run in a process of its own, in a folder with `index`, `model`, `alone`, `sae` and `run.trec`.
CALLS = {
    "BM25Index.load": 'from lib import BM25Index as B; assert len(B.load("me/index")) == 2',
    "BM25Index.load, folder": 'from lib import BM25Index as B; assert len(B.load("index")) == 2',
    "BM25Index.build": 'from lib import BM25Index as B; B.build(rows, ["a", "b"]).search(rows, ["q", "r"], k=1)',
    "BM25Index.explain": 'from lib import BM25Index as B; B.build(rows, ["a", "b"]).explain(rows[[0]], "a")',
    "BM25Index.push_to_hub": 'from lib import BM25Index as B; B.build(rows, ["a", "b"]).push_to_hub("me/new")',
    "a branch": 'from lib import BM25Index as B; B.build(rows, ["a", "b"]).push_to_hub("me/new", revision="wide")',
    "Ranking": 'from lib import Ranking; Ranking.read_trec("run.trec").write_trec("again.trec")',
    "evaluate": 'from lib import Ranking as R, evaluate; evaluate(R(["q"], [["a"]], [[1]]), {"q": {"a": 1}}, ["R@1"])',
    "load_collection": 'from lib import load_collection; load_collection("limit/46")',
    "write": "from lib.interop.engines.files import write; from lib import BM25Index as B; "
    'write(B.load("index"), "export", "qdrant")',
    "Store": 'from lib.support.store import Store; Store("store").get("a", {}, lambda: {"x": np.ones(2)})',
    "keep_top": "from lib.bm25.pruning import keep_top; keep_top(rows, 1)",
    "fuse": 'from lib.evaluation.fusion import fuse; from lib import Ranking as R; fuse([R(["q"], [["a"]], [[1]])])',
    "LatentTerms.from_pretrained": 'from lib import LatentTerms as L; L.from_pretrained("me/terms")',
    "LatentTerms.load": 'from lib import LatentTerms as L; L.load("alone").encode_queries(["the cat"])',
    "LatentTerms.push_to_hub": 'from lib import LatentTerms as L; L.load("alone").push_to_hub("me/a")',
    "SparseAutoencoder.load": 'from lib import SparseAutoencoder as S; S.load("me/sae")',
    "SparseAutoencoder.push_to_hub": 'from lib import SparseAutoencoder as S; S.load("sae").push_to_hub("me/s")',
    "TokenEncoder": 'from lib import TokenEncoder; TokenEncoder("me/retriever")',
    "load_sparse_encoder": 'from lib.interop.conversion import load_sparse_encoder; load_sparse_encoder("me/sparse")',
    "command line": 'import sys; sys.argv = ["lib", "join", "alone", "alone", "out"]; '
    "from lib.__main__ import main; main()",
}


def index() -> BM25Index:
    return BM25Index.build(csr_array(np.array([[1, 2], [0, 1]], np.float32)), ["a", "b"])


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_encoder, tiny_sae, sentence_folder):
    """A folder with what the calls read, and a hub that has it, too."""
    from lib.interop.conversion import to_sparse_encoder

    folder, hub = tmp_path_factory.mktemp("place"), LocalHub()
    model = LatentTerms(tiny_encoder.named("me/retriever"), tiny_sae)
    index().save(folder / "index")
    model.save(folder / "model")
    model.save(folder / "alone", with_retriever=True)
    tiny_sae.save(folder / "sae")
    to_sparse_encoder(model).save_pretrained(str(folder / "sparse"))
    index().search(csr_array(np.eye(2, dtype=np.float32)), ["q", "r"]).write_trec(folder / "run.trec")
    for name, source in {"terms": "model", "index": "index", "sae": "sae", "sparse": "sparse"}.items():
        hub.add(f"me/{name}", folder / source)
    hub.add("me/retriever", sentence_folder)
    yield folder, hub
    hub.shutdown()
    hub.server_close()


def run(script: str, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    command = [sys.executable, "-c", script]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("name", CALLS)
def test_a_first_call(place, tmp_path, name):
    folder, hub = place
    process = run(PREPARE + CALLS[name], folder, **hub.environment(tmp_path))
    assert process.returncode == 0, process.stderr[-1500:]


def test_what_is_pushed_is_loaded(place, tmp_path, tiny_sae, tiny_encoder):
    folder, hub = place
    before = len(hub.requests)
    script = """
from lib import BM25Index, LatentTerms
model = LatentTerms.load("alone")
print(model.push_to_hub("me/both", with_retriever=True))
BM25Index.load("index").push_to_hub("me/both")
model.push_to_hub("me/both", with_retriever=True, dtype="float16")
again = LatentTerms.load("me/both")
assert again.identity["encoder"] == model.identity["encoder"]
assert again.encoder.name == "me/retriever"
assert len(BM25Index.load("me/both")) == 2
"""
    process = run(script, folder, **hub.environment(tmp_path))
    assert process.returncode == 0, process.stderr[-1500:]
    assert process.stdout.startswith(f"{hub.endpoint}/me/both/commit/")
    stored = hub.repositories["me/both"]["main"]
    assert len([name for name in stored if name.startswith("sae-")]) == 1
    assert len({name.split("/")[0] for name in stored if name.startswith("retriever-")}) == 1
    assert not [request for request in hub.requests[before:] if "me/retriever" in request]


OUT_OF_REACH = """
import time
from lib import BM25Index, LatentTerms, TokenEncoder
index = BM25Index.load("index")
for call in (
    lambda: BM25Index.load("me/index"),
    lambda: TokenEncoder("me/retriever"),
    lambda: LatentTerms.load("model"),
    lambda: index.push_to_hub("me/new"),
):
    try:
        call()
    except ConnectionError as error:
        print(error)
"""


@pytest.mark.parametrize("kind", ["closed", "silent"])
def test_a_hub_out_of_reach(place, tmp_path, kind):
    folder, _ = place
    with socket.create_server(("127.0.0.1", 0)) as listening:  # it accepts, and never answers
        port = 9 if kind == "closed" else listening.getsockname()[1]
        hub = {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HUB_OFFLINE": "0", "HF_HUB_ETAG_TIMEOUT": "1"}
        process = run(OUT_OF_REACH, folder, HF_HOME=str(tmp_path), **hub)
    assert "Retry" not in process.stderr
    lines = process.stdout.splitlines()
    assert len(lines) == 4, process.stderr[-1500:]
    names = ("me/index", "me/retriever", "model needs the retriever me/retriever", "me/new")
    for line, name in zip(lines, names, strict=True):
        assert name in line
        assert f"http://127.0.0.1:{port}" in line
        assert "HF_HUB_OFFLINE" in line
    assert "with_retriever=True" in lines[2]


def test_what_was_fetched_is_read_without_the_hub(place, tmp_path, sentence_folder):
    """With one repository whose weights are a pickle, and the hub in reach, closed, and not to be asked."""
    import torch
    from safetensors.torch import load_file

    folder, hub = place
    files = hub.repositories["me/pickled"]["main"]
    hub.add("me/pickled", sentence_folder)
    buffer = io.BytesIO()
    torch.save(load_file(f"{sentence_folder}/model.safetensors"), buffer)
    files["pytorch_model.bin"] = buffer.getvalue()
    del files["model.safetensors"]
    script = """
from lib import LatentTerms, TokenEncoder
model = LatentTerms.from_pretrained("me/terms", encoder=TokenEncoder("me/pickled"))
print(model.encode_queries(["the cat"]).sum())
try:
    model.save("copied", with_retriever=True)
except ValueError as error:
    print(error)
"""
    outputs = []
    for change in ({}, {"HF_ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": "1"}):
        process = run(script, folder, **hub.environment(tmp_path) | change)
        assert process.returncode == 0, process.stderr[-1500:]
        outputs.append(process.stdout)
    assert len(set(outputs)) == 1
    assert "pytorch_model.bin are a pickle" in outputs[0]
