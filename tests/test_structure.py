"""The package has the shape that the README gives it: one road, no way back, and no torch right of the term matrix."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

LIB = Path(__file__).parent.parent / "lib"

# Every room, in an order in which each imports only from rooms before it.
ROAD = [
    "checks",
    "storage",
    "store",
    "hub",
    "builtin",
    "builtin.limit_words",
    "builtin.limit",
    "builtin.pydoc",
    "builtin.minilm",
    "sources",
    "collection",
    "corpus",
    "backbones",
    "encoder",
    "selection",
    "sae",
    "sae_formats",
    "kernels",
    "activations",
    "states",
    "training",
    "checkpoints",
    "trainer",
    "terms",
    "pruning",
    "weighting",
    "postings",
    "frequent",
    "ranking",
    "late_interaction",
    "search",
    "index",
    "engines",
    "engines.vectors",
    "engines.local",
    "engines.files",
    "engines.integers",
    "retriever",
    "modules.features",
    "modules.token_encoder",
    "modules.token_pooling",
    "modules",
    "losses",
    "conversion",
    "evaluators",
    "distributed",
    "baselines",
    "splade",
    "measures",
    "tuning",
    "vocabulary",
    "benchmarks",
    "benchmarks.peers",
    "benchmarks.training",
    "benchmarks.encoding",
    "benchmarks.grown",
    "benchmarks.search_peers",
    "benchmarks.search",
    "experiments",
    "studies",
    "studies.choice",
    "studies.readings",
    "studies.agreement",
    "studies.families",
    "studies.sweeps",
    "studies.inputs",
    "studies.model",
    "studies.autoencoders",
    "studies.backbones",
    "studies.features",
    "studies.beyond",
    "studies.latency",
    "report",
    "report.common",
    "report.training",
    "report.vocabulary",
    "report.retrieval",
    "report.limit",
    "report.model",
    "report.autoencoders",
    "report.answers",
    "report.latency",
    "report.results",
    "report.claims",
    "report.paper",
    "report.__main__",
    "__main__",
    "__init__",
]
NEED_TORCH = {
    *("backbones", "encoder", "sae", "selection", "kernels", "activations", "states", "training", "checkpoints"),
    *("trainer", "retriever", "late_interaction", "experiments", "__main__", "losses", "conversion", "evaluators"),
    *("sae_formats", "distributed"),
    *(f"benchmarks.{name}" for name in ("peers", "training", "encoding", "grown", "search")),
    *(f"studies.{name}" for name in ("choice", "readings", "sweeps", "inputs", "autoencoders", "model")),
    *(f"studies.{name}" for name in ("backbones", "features", "beyond", "latency")),
    *("modules", "modules.features", "modules.token_encoder", "modules.token_pooling"),
}


def room_of(path: Path) -> str:
    parts = path.relative_to(LIB).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


ROOMS = {room_of(path): path for path in sorted(LIB.rglob("*.py"))}


def imports(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it; `from a import b` counts as a and, within lib, as a.b too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively; write lib.<room>"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names if node.module.startswith("lib")}
    return found


def rooms_imported(path: Path) -> set[str]:
    return {name.removeprefix("lib.") for name in imports(path)} & set(ROOMS)


def test_every_room_has_its_place_on_the_road():
    assert sorted(ROOMS) == sorted(ROAD)
    assert len(set(ROAD)) == len(ROAD)


@pytest.mark.parametrize("room", ROOMS)
def test_no_import_turns_back(room):
    for imported in rooms_imported(ROOMS[room]):
        assert ROAD.index(imported) < ROAD.index(room), f"{room} imports {imported}, which is further down the road"


def test_the_imports_are_read_at_all():
    # were `rooms_imported` blind, the test above could not fail
    assert {"encoder", "sae", "terms", "storage", "checks", "builtin.minilm"} <= rooms_imported(ROOMS["retriever"])
    assert {"builtin", "builtin.limit", "builtin.pydoc"} <= rooms_imported(ROOMS["collection"])


def offline_python(script: str) -> str:
    """Run `script` in a fresh interpreter and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=LIB.parent,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


TORCH_FREE = [room for room in ROAD if room not in NEED_TORCH | {"__init__"}]


def test_what_needs_no_torch_leaves_it_alone():
    modules = [f"lib.{room}" for room in TORCH_FREE]
    script = f"""
import sys
from importlib import import_module
import lib
assert "torch" not in sys.modules, "lib"
for name in {modules}:
    import_module(name)
    assert "torch" not in sys.modules, name
print("done")
"""
    assert offline_python(script) == "done"


def test_searching_and_measuring_need_no_torch():
    script = """
import sys
from lib import BM25Index, Collection, Ranking, evaluate, load_collection
print("torch" in sys.modules, BM25Index.__module__, evaluate.__module__, load_collection.__module__)
"""
    assert offline_python(script) == "False lib.index lib.measures lib.collection"


def test_the_public_names():
    import lib

    public = {"BM25Index", "Collection", "LatentTerms", "Ranking", "SparseAutoencoder", "TokenEncoder"}
    assert set(lib.__all__) == public | {"evaluate", "load_collection"}
    assert set(lib.__all__) <= set(dir(lib))
    assert [getattr(lib, name).__name__ for name in lib.__all__] == lib.__all__
    with pytest.raises(AttributeError, match="lib has no 'Nothing'; it has BM25Index"):
        lib.Nothing  # noqa: B018


@pytest.mark.parametrize("room", ROOMS)
def test_nothing_is_pickled_and_nothing_is_long(room):
    text = ROOMS[room].read_text("utf-8")
    forbidden = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    assert not {name.split(".")[0] for name in imports(ROOMS[room])} & forbidden
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant)
            assert node.value.value is False
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) not in {("torch", "save"), ("torch", "load")}  # they pickle
        if isinstance(node, ast.ExceptHandler):
            broad = node.type is None or (
                isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")
            )
            assert not broad, f"{room} catches everything in line {node.lineno}"
    assert len(text.splitlines()) <= 400, f"{room} is two rooms"
