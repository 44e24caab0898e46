"""Places for compiled code that cannot be written, full, or with a damaged file, each in a fresh process."""

import json
import os
import resource
import shutil
import subprocess
import sys
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest

from lib.support.compiled import compiled

LIB = Path(__file__).parent.parent / "lib"

KERNELS = """
from lib.support.compiled import compiled

@compiled()
def plus(x, y):
    return x + y

@compiled(fastmath=True)
def twice(x):
    return plus(x, x)
"""

SCRIPT = """
import json
import warnings

warnings.simplefilter("always")
with warnings.catch_warnings(record=True) as caught:
    from lib.kernels import twice

    print(twice(2))
messages = [str(warning.message) for warning in caught]
print(json.dumps([message for message in messages if "NUMBA_CACHE_DIR" in message]))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Two functions, one in the other, and what compiles them; nobody can make `__pycache__` there: it is a file."""
    root = tmp_path_factory.mktemp("installed")
    shutil.copytree(LIB / "support", root / "lib/support", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(LIB / "__init__.py", root / "lib")
    (root / "lib/kernels.py").write_text(KERNELS)
    (root / "lib/__pycache__").touch()
    return root


def run(root: Path, limit: int | None = None, **environment) -> tuple[str, list[str]]:
    """Return what a fresh process computes, and its warnings about compiled code."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA", "XDG", "PYTHONPATH"))}
    before = None if limit is None else partial(resource.setrlimit, resource.RLIMIT_FSIZE, (limit, limit))
    command = [sys.executable, "-c", SCRIPT]
    environment = kept | {"PYTHONDONTWRITEBYTECODE": "1"} | environment
    process = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, preexec_fn=before)
    assert process.returncode == 0, process.stderr
    value, warnings = process.stdout.splitlines()
    return value, json.loads(warnings)


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment",
    [{"HOME": "/dev/null"}, {"HOME": "/dev/null", "NUMBA_CACHE_DIR": "/dev/null/cache"}],
)
def test_no_place_can_be_written(installed, environment):
    value, warnings = run(installed, **environment)
    assert (value, len(warnings)) == ("4", 1)


@pytest.mark.slow
def test_a_full_disk_and_a_damaged_file(installed, tmp_path):
    value, warnings = run(installed, limit=64, NUMBA_CACHE_DIR=str(tmp_path))  # no file of more bytes
    assert (value, len(warnings)) == ("4", 1)
    assert str(tmp_path) in warnings[0]
    assert run(installed, NUMBA_CACHE_DIR=str(tmp_path)) == ("4", [])
    kept = list(tmp_path.rglob("*.nbi"))
    assert kept
    for path in kept:
        path.write_bytes(b"")  # as a power cut may leave it
    value, warnings = run(installed, NUMBA_CACHE_DIR=str(tmp_path))
    assert (value, len(warnings)) == ("4", 1)


@pytest.mark.slow
def test_the_second_process_compiles_nothing(installed, tmp_path):
    for _ in range(2):
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nb?")}
        assert run(installed, HOME=str(tmp_path)) == ("4", [])
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nb?")}
    assert before


def test_code_is_kept_for_its_options_and_for_the_modules_beside_it(tmp_path, monkeypatch):
    """The same function, compiled with `fastmath` and without, is two; and a function may have others in it."""
    for name in ("module_to_compile", "beside"):
        (tmp_path / f"{name}.py").write_text("def plus(x, y):\n    return x + y\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = import_module("module_to_compile")

    def is_kept(**options) -> bool:
        function = compiled(**options)(module.plus)
        assert function(1.0, 2.0) == 3
        return bool(function.stats.cache_hits)

    assert [is_kept(fastmath=True), is_kept(), is_kept(fastmath=True), is_kept()] == [False, False, True, True]
    (tmp_path / "beside.py").write_text("def plus(x, y):\n    return x + y + 0\n")
    assert [is_kept(), is_kept()] == [False, True]
