"""What every report uses: one style, Markdown and LaTeX tables, figures and results written whole."""

import json
from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.storage import replacing

# Okabe and Ito's colours, told apart by colour-blind readers too.
COLOURS = {
    "lexical BM25": "#999999",
    "dense": "#0072B2",
    "late interaction": "#CC79A7",
    "latent terms": "#D55E00",
    "latent terms, tuned": "#009E73",
    "dense + lexical": "#56B4E9",
    "latent terms + lexical": "#E69F00",
}
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True,
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "savefig.dpi": 200,
}
SIGNIFICANT = 0.05


def markdown_table(table: pd.DataFrame) -> str:
    """Return a frame as a Markdown table."""
    header = [list(table.columns), ["---"] * len(table.columns)]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in [*header, *table.to_numpy().tolist()])


def latex_table(table: pd.DataFrame) -> str:
    """Return a frame as a LaTeX tabular (booktabs)."""
    alignment = "l" + "r" * (len(table.columns) - 1)
    escape = str.maketrans({"_": r"\_", "%": r"\%", "&": r"\&", "↑": r"$^\uparrow$", "↓": r"$^\downarrow$"})
    rows = [" & ".join(str(cell).translate(escape) for cell in row) + r" \\" for row in table.to_numpy().tolist()]
    header = " & ".join(column.translate(escape) for column in table.columns) + r" \\"
    lines = [rf"\begin{{tabular}}{{{alignment}}}", r"\toprule", header, r"\midrule", *rows, r"\bottomrule"]
    return "\n".join([*lines, r"\end{tabular}", ""])


def save_figure(figure: Figure, folder: Path, name: str) -> None:
    """Write NAME.png and NAME.pdf, atomically and without a date in them, so that equal figures are equal files."""
    folder.mkdir(parents=True, exist_ok=True)
    for ending, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None, "Producer": None})):
        with plt.rc_context(STYLE), replacing(folder / f"{name}.{ending}") as path:
            figure.savefig(path, format=ending, metadata=metadata)


def save_results(frame: pd.DataFrame, folder: Path, name: str, provenance: Mapping) -> None:
    """Write NAME.csv and, with where it came from, NAME.json, atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / f"{name}.csv") as path:
        frame.to_csv(path, index=False, float_format="%.6g")
    with replacing(folder / f"{name}.json") as path:
        path.write_text(json.dumps(provenance, indent=2) + "\n", "utf-8")


def mean_of(
    rows: pd.DataFrame, value: str = "difference", low: str = "difference_low", high: str = "difference_high"
) -> tuple[float, float, float]:
    """Return the mean of a column over collections, and its interval (low, high).

    The queries of collections are independent samples, so the half-widths of their intervals add up in quadrature.
    """
    centre = rows[value].to_numpy()
    below, above = (np.hypot.reduce(rows[end].to_numpy() - centre) / len(rows) for end in (low, high))
    return float(centre.mean()), float(centre.mean() - below), float(centre.mean() + above)


def interval(row: pd.Series, mean: str, low: str, high: str, digits: int = 3) -> str:
    """Return a row's value and its interval, whose columns are named, as text: "0.500 (0.450 to 0.550)"."""
    return f"{row[mean]:.{digits}f} ({row[low]:.{digits}f} to {row[high]:.{digits}f})"
