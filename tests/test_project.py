"""The files that describe the project's environment agree with each other."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def test_every_requirement_has_a_pin_that_meets_it():
    lines = (ROOT / ".ci/constraints.txt").read_text("utf-8").splitlines()
    pins = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}
    extras = PROJECT["optional-dependencies"]
    texts = [*PROJECT["dependencies"], *(text for extra in extras if extra != "distributed" for text in extras[extra])]
    for requirement in map(Requirement, texts):
        if requirement.name != PROJECT["name"]:
            assert pins[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def test_the_conda_environment_is_what_make_sets_up():
    lines = [line.strip(" -") for line in (ROOT / "environment.yml").read_text("utf-8").splitlines()]
    assert f"python={PROJECT['requires-python'].removeprefix('>=')}" in lines
    assert lines[-3:] == ["constraint .ci/constraints.txt", "torch", "editable .[dev]"]
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert "-c .ci/constraints.txt torch\n" in makefile and "-c .ci/constraints.txt -e '.[dev]'\n" in makefile
