"""The package has the shape that `lib/README.md` gives it: packages import downwards only, and `bm25` needs no
torch."""

import ast
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

LIB = Path(__file__).parent.parent / "lib"

# What each package, and each of the MODULES at the top of lib, may import of the others; other such modules, all.
MODULES = {"latent_terms", "inference_free", "searcher", "indexing"}
LIBRARY = {"support", "data", "encode", "sae", "bm25", "evaluation", "inspect", "interop"} | MODULES
BELOW = {
    "support": set(),
    "data": {"support"},
    "encode": {"support", "data"},
    "sae": {"support", "encode"},
    "bm25": {"support"},
    "evaluation": {"support", "data", "encode", "bm25"},
    "inspect": {"support", "encode", "sae", "bm25", "evaluation", "latent_terms"},
    "browse": {"support", "bm25", "inspect", "latent_terms", "inference_free"},
    "interop": LIBRARY - {"interop", "searcher", "indexing"},
    "learned": {"support", "data", "encode", "sae", "bm25", "evaluation", "interop", "latent_terms"},
    "latent_terms": {  # those of inspect do not import it
        "support",
        "encode",
        "sae",
        "bm25",
        "inspect.display",
        "inspect.labels",
        "inspect.reading",
    },
    "inference_free": {"support", "encode", "bm25", "inspect", "latent_terms"},
    "searcher": {"support", "encode", "bm25", "evaluation", "latent_terms"},
    "indexing": {"support", "data", "encode", "bm25", "evaluation", "latent_terms", "searcher"},
    "studies": LIBRARY | {"learned", "benchmarks"},
    "benchmarks": LIBRARY - {"inspect"} | {"learned"},
    "report": {
        "support",
        "studies.names",
        "studies.published",
        "studies.results",
    },  # none of them computes or needs torch
}
TORCH_FREE = ("support", "data", "bm25", "report")
FILES = sorted(LIB.rglob("*.py"))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(LIB.parent).with_suffix("").parts).removesuffix(".__init__")


@cache
def nodes_of(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text("utf-8"))))


def imports(path: Path) -> set[str]:
    """Return every module that a file imports, anywhere in it; `from a import b` counts as a and as a.b."""
    names: set[str] = set()
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively; write lib.<package>.<module>"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_packages_import_downwards_only():
    packages = {name_of(path).split(".")[1] for path in FILES if path.name != "__main__.py" and path.parent != LIB}
    assert packages | MODULES == set(BELOW)
    wrong, arrows = [], 0
    for path in FILES:
        parts = name_of(path).split(".")
        if len(parts) == 1 or parts[1] == "__main__":
            continue
        for name in imports(path):
            _, package, module, *_ = [*name.split("."), "", ""]
            if name.startswith("lib.") and package in BELOW and module and package != parts[1]:
                arrows += 1
                if not {package, f"{package}.{module}"} & BELOW[parts[1]]:
                    wrong.append(f"{name_of(path)} imports {name}")
    assert arrows > 100  # were the imports not read, nothing could be wrong
    assert not wrong, "\n".join(sorted(wrong))


def offline_python(script: str) -> str:
    """Run `script` in a fresh interpreter and return what it printed."""
    run = subprocess.run(
        [sys.executable, "-c", script],
        cwd=LIB.parent,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


@pytest.mark.slow  # a new process imports everything
def test_what_needs_no_torch_leaves_it_alone():
    modules = [name_of(path) for path in FILES if name_of(path).startswith(tuple(f"lib.{p}" for p in TORCH_FREE))]
    modules = [name for name in modules if name not in ("lib.support.devices", "lib.support.packed")]
    script = f"""
import sys
from importlib import import_module
from lib import BM25Index, Collection, Ranking, evaluate, load_collection
for name in {modules}:
    import_module(name)
    assert "torch" not in sys.modules, name
print("done")
"""
    assert offline_python(script) == "done"


@pytest.mark.slow  # the parent of the process imports torch
def test_an_autoencoder_needs_no_text_encoder(fresh):
    script = "import sys, lib.sae.trainer, lib.sae.foreign; print('lib.encode.encoder' in sys.modules)"
    assert fresh.run(script).stdout == "False\n"


def test_the_public_names():
    import lib

    public = {"BM25Index", "Collection", "LatentTerms", "Ranking", "Searcher", "SparseAutoencoder", "TokenEncoder"}
    assert set(lib.__all__) == public | {"evaluate", "load_collection"}
    assert set(lib.__all__) <= set(dir(lib))
    # a package of such a name would take its place as soon as anything imports a module of it
    assert not {name_of(path).split(".")[1] for path in FILES if path != LIB / "__init__.py"} & set(lib.__all__)
    assert [getattr(lib, name).__name__ for name in lib.__all__] == lib.__all__
    with pytest.raises(AttributeError, match=r"Nothing.*BM25Index"):
        lib.Nothing  # noqa: B018


def test_nothing_is_pickled_and_nothing_is_caught_in_general():
    forbidden = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for path in FILES:
        assert not {name.split(".")[0] for name in imports(path)} & forbidden, path
        for node in nodes_of(path):
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert ast.unparse(node.value) == "False", path
            if isinstance(node, ast.Attribute) and node.attr in ("save", "load"):
                assert ast.unparse(node) not in {"torch.save", "torch.load"}, path  # they pickle
            if isinstance(node, ast.ExceptHandler):
                kind = ast.unparse(node.type) if node.type else "everything"
                assert kind not in {"everything", "Exception", "BaseException"}, f"{path}:{node.lineno}"
