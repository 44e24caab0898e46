"""What the READMEs tell people to run runs: Python as it stands, and every command by its targets and options."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

import lib
from lib import LatentTerms, load_collection
from lib.__main__ import _parser

ROOT = Path(__file__).parent.parent
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
READMES = sorted([*ROOT.glob("*.md"), *ROOT.glob("[a-z]*/README.md"), ROOT / "lib/benchmarks/README.md"])


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text("utf-8"), re.DOTALL | re.MULTILINE)


def commands(path: Path) -> list[str]:
    lines = "\n".join(blocks(path, "sh")).replace("\\\n", " ").splitlines()
    return [line for line in lines if shlex.split(line, comments=True)]


# test_recipes.py runs the recipes of CONTRIBUTING.md
WITH_PYTHON = [path for path in READMES if blocks(path, "python") and path.name != "CONTRIBUTING.md"]
COMMANDS = sorted({command for path in READMES for command in commands(path)})


@pytest.mark.slow  # reads all of pydoc
@pytest.mark.parametrize("path", WITH_PYTHON, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_python_of_a_readme_runs(path, tmp_path, monkeypatch, sentence_folder, tiny_encoder, tiny_sae):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(sentence_folder, "my-retriever")
    LatentTerms(tiny_encoder, tiny_sae).save("my-model")
    # the collection that a README names, with fewer documents
    monkeypatch.setattr(
        lib, "load_collection", lambda name: load_collection(re.sub("^pydoc/.*test$", "pydoc/50/test", name))
    )
    names = {}
    for number, block in enumerate(blocks(path, "python"), 1):
        exec(compile(block, f"{path.name}, Python block {number}", "exec"), names)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_a_readme_exists(command):
    program, *arguments = shlex.split(command, comments=True)
    if program == "make":
        for argument in arguments:
            variable, is_setting, _ = argument.partition("=")
            known = variable in MAKEFILE or any(variable in path.read_text("utf-8") for path in ROOT.glob("lib/*/*.py"))
            assert known if is_setting else f"\n{argument}:" in MAKEFILE, argument
    elif arguments[:2] == ["-m", "lib"]:
        _parser(arguments[2:]).parse_args(arguments[2:])
    elif arguments[:1] == ["-m"] and arguments[1].startswith("lib."):
        module = ROOT / arguments[1].replace(".", "/")
        source = next(path for path in (module.with_suffix(".py"), module / "__main__.py") if path.exists())
        options = [argument for argument in arguments if argument.startswith("--")]
        assert all(f'"{option}"' in source.read_text("utf-8") for option in options), options
    elif program == "pip":
        extras = re.search(r"\[([\w,]+)\]", arguments[-1])
        pyproject = (ROOT / "pyproject.toml").read_text("utf-8")
        assert extras is None or all(f"\n{extra} = [" in pyproject for extra in extras[1].split(","))
    else:
        assert program in {"cd", "conda", "export", "git"}, f"nothing here checks {command!r}"


def test_the_readmes_have_something_to_run():
    assert {"README.md", "lib/README.md"} <= {str(path.relative_to(ROOT)) for path in WITH_PYTHON}
    assert "make test" in {" ".join(shlex.split(command, comments=True)) for command in COMMANDS}
