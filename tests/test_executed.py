"""Executed notebooks that are committed show what their sources compute, and nothing of the machine that ran them."""

import json
import re
from pathlib import Path

import pytest

from lib.report import executed
from lib.report.executed import clean

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
COPIES = sorted((NOTEBOOKS / "executed").glob("*.ipynb"))


def code_cell(*outputs: dict, **fields) -> dict:
    cell = {"cell_type": "code", "id": "a1b2", "metadata": {}, "source": ["f()"], "execution_count": 1}
    return cell | {"outputs": list(outputs)} | fields


def notebook(*cells: dict) -> dict:
    return {"cells": list(cells), "metadata": {"widgets": {"state": 1}}, "nbformat": 4, "nbformat_minor": 5}


def stream(name: str, *text: str) -> dict:
    return {"output_type": "stream", "name": name, "text": list(text)}


def shown(**data) -> dict:
    return {"output_type": "display_data", "metadata": {}, "data": {key.replace("_", "/"): data[key] for key in data}}


def test_results_stay_and_what_one_run_left_behind_goes():
    cell = code_cell(
        stream("stderr", "encode:  40%|████"),
        stream("stdout", "saved /srv/checkout/figures/a.csv\n", "read /tmp/x1/y.txt and https://a.org/tmp/z, 1/2\n"),
        shown(text_plain=["<lib.Thing at 0x7f3a5c0012d0>"], text_html=["<b>7</b>"], image_png="a/tmp/b"),
        {"output_type": "display_data", "metadata": {}, "data": {executed.BARS[0]: {"model_id": "77"}}},
        shown(text_html=["<progress value='3'></progress>"]),
        metadata={"execution": {"iopub.execute_input": "2026-01-01"}, "tags": ["parameters"]},
    )
    cleaned = clean(
        notebook({"cell_type": "markdown", "id": "z", "metadata": {}, "source": ["# A"]}, cell), Path("/srv/checkout")
    )
    assert cleaned["metadata"] == executed.METADATA
    title, code = cleaned["cells"]
    assert title == {"cell_type": "markdown", "id": "cell-00", "metadata": {}, "source": ["# A"]}
    assert (code["id"], code["metadata"], code["source"]) == ("cell-01", {"tags": ["parameters"]}, ["f()"])
    assert code["outputs"] == [
        stream("stdout", "saved figures/a.csv\n", "read …/y.txt and https://a.org/tmp/z, 1/2\n"),
        shown(text_plain=["<lib.Thing at 0x…>"], text_html=["<b>7</b>"], image_png="a/tmp/b"),
    ]


@pytest.mark.parametrize(
    "cell",
    [code_cell(execution_count=None), code_cell({"output_type": "error", "ename": "E", "evalue": "", "traceback": []})],
)
def test_a_notebook_that_did_not_run_to_its_end_is_refused(cell):
    with pytest.raises(ValueError, match="cell 1"):
        clean(notebook(code_cell(), cell), Path("/srv"))


def test_copies_come_from_the_laptop_profile_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "build/laptop/notebooks").mkdir(parents=True)
    (tmp_path / "build/laptop/notebooks/a.ipynb").write_text(json.dumps(notebook(code_cell(stream("stdout", "é\n")))))
    executed.main(["a"])
    assert json.loads((tmp_path / "notebooks/executed/a.ipynb").read_text("utf-8"))["cells"][0]["outputs"][0][
        "text"
    ] == ["é\n"]
    with pytest.raises(FileNotFoundError, match="build/laptop"):
        executed.main(["b"])  # a run of another profile left nothing in build/laptop


@pytest.mark.slow
@pytest.mark.parametrize("path", COPIES, ids=lambda path: path.stem)
def test_a_committed_copy_has_the_code_of_its_source(path):
    import jupytext  # takes two seconds

    def code(name: Path) -> list[str]:
        return [cell.source for cell in jupytext.read(name).cells if cell.cell_type == "code"]

    assert code(path) == code(NOTEBOOKS / f"{path.stem}.py"), "run it again: make figures LATENT_TERMS_PROFILE=laptop"
    document = json.loads(path.read_text("utf-8"))
    assert clean(document, NOTEBOOKS.parent) == document
    assert not re.search(r"[\s\"'(]/(home|root|work|tmp|Users)/", path.read_text("utf-8"))


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.py")), ids=lambda path: path.stem)
def test_a_notebook_names_the_dtype_of_what_it_loads(path):
    calls = re.findall(r"\b(?:TokenEncoder|LatentTerms\.(?:load|from_pretrained))\(.*", path.read_text("utf-8"))
    assert [call for call in calls if "dtype=" not in call] == []
