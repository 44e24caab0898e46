"""`python -m lib.report.executed NAME ...`: keep executed notebooks of the laptop profile, to be read without running.

They are copied from `build/laptop/notebooks` to `notebooks/executed`, without what differs from run to run or from
machine to machine: paths, timings of cells, progress bars and other standard error, random identifiers.
"""

import json
import re
import sys
from pathlib import Path

from lib.support.files import replacing

SOURCE, TARGET = Path("build/laptop/notebooks"), Path("notebooks/executed")
BARS = ("application/vnd.jupyter.widget-view+json", "<progress")  # of tqdm and of transformers' trainer
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"file_extension": ".py", "name": "python", "pygments_lexer": "ipython3"},
}


def clean(notebook: dict, root: Path) -> dict:
    """Return an executed notebook (nbformat 4, as parsed JSON) without what holds for one run or one machine only.

    ValueError if a code cell was not executed or ended with an error.
    """
    cells = []
    for number, cell in enumerate(notebook["cells"]):
        tags = {"tags": cell["metadata"]["tags"]} if cell["metadata"].get("tags") else {}
        copy = {"cell_type": cell["cell_type"], "id": f"cell-{number:02}", "metadata": tags, "source": cell["source"]}
        if cell["cell_type"] == "code":
            if cell["execution_count"] is None or any(output["output_type"] == "error" for output in cell["outputs"]):
                raise ValueError(f"cell {number} was not executed to its end; run the notebook again.")
            outputs = [output for output in cell["outputs"] if output.get("name") != "stderr"]
            outputs = [o for o in outputs if not any(bar in json.dumps(o.get("data", {})) for bar in BARS)]
            outputs = [_without_places(output, root) for output in outputs]
            copy |= {"execution_count": cell["execution_count"], "outputs": outputs}
        cells.append(copy)
    return {"cells": cells, "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}


def _without_places(value, root: Path):
    """Shorten the repository's folder, other absolute folders, and addresses in memory; images stay as they are."""
    if isinstance(value, dict):
        return {key: part if key.startswith("image/") else _without_places(part, root) for key, part in value.items()}
    if isinstance(value, list):
        return [_without_places(part, root) for part in value]
    if not isinstance(value, str):
        return value
    value = value.replace(f"{root}/", "").replace(str(root), ".")
    value = re.sub(r"(?<![\w.:/])/(?:home|root|Users|tmp|var|work)(?:/[\w.+-]+)*/", "…/", value)
    return re.sub(r"\b0x[0-9a-f]{6,}\b", "0x…", value)


def main(names: list[str]) -> None:
    """Write the executed copies of the notebooks with these names."""
    TARGET.mkdir(exist_ok=True)
    for name in names:
        notebook = clean(json.loads((SOURCE / f"{name}.ipynb").read_text("utf-8")), Path.cwd())
        with replacing(TARGET / f"{name}.ipynb") as path:
            path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
