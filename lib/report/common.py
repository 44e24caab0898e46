"""What every report uses: one style, Markdown and LaTeX tables, figures and results written whole."""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from lib.studies.names import (
    DENSE,
    DENSE_FUSED,
    DENSE_WORDS,
    LATE,
    LATENT,
    LATENT_FUSED,
    LATENT_WORDS,
    LEXICAL,
    ONE_PASS,
    SPLADE,
    TUNED,
    of_splade,
)
from lib.support.files import make_folder, replacing

# Okabe and Ito's colours, which colour-blind readers tell from each other, too.
COLOURS = {
    LEXICAL: "#999999",
    DENSE: "#0072B2",
    LATE: "#CC79A7",
    SPLADE: "#000000",
    LATENT: "#D55E00",
    TUNED: "#009E73",
    DENSE_FUSED: "#56B4E9",
    LATENT_FUSED: "#E69F00",
    DENSE_WORDS: "#6A3D9A",
    LATENT_WORDS: "#8B4513",
    ONE_PASS: "#B8B800",
}
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
PALETTE += ("#999999", "#000000", "#8B4513", "#6A3D9A", "#B8B800", "#00A0A0")
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
_ESCAPES = str.maketrans(
    {c: rf"\{c}" for c in "_%&#$"} | {"↑": r"$^\uparrow$", "↓": r"$^\downarrow$", "φ": r"$\varphi$", "–": "--"}
)


def colours_of(names: Iterable[str]) -> dict[str, str]:
    """Return a colour for each name: a system's own, else the next of `PALETTE`; ValueError if there are too few."""
    names = list(dict.fromkeys(names))
    used = {COLOURS[name] for name in names if name in COLOURS}
    others = [name for name in names if name not in COLOURS]
    free = [colour for colour in PALETTE if colour not in used]
    if len(others) > len(free):
        raise ValueError(f"There are {len(free)} colours for {others}; draw fewer at once, or extend PALETTE.")
    colours = COLOURS | dict(zip(others, free, strict=False))
    return {name: colours[name] for name in names}


def check_drawn(names: Iterable[str], known: Collection[str], where: str) -> None:
    """Raise a ValueError for a name that a figure would leave out in silence; `where` is what to extend."""
    if missing := [name for name in dict.fromkeys(names) if name not in known]:
        raise ValueError(f"The figure does not know how to draw {missing[0]!r}; extend {where}.")


def collections_of(table: pd.DataFrame) -> list[str]:
    """Return the collections of a table in their order."""
    return list(dict.fromkeys(table["collection"]))


def latents_and_splade(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows whose kind is of latents, and those whose kind is of SPLADE's terms, called as if of latents."""
    prefix = of_splade("")
    splade = table["kind"].str.startswith(prefix)
    return table[~splade], table[splade].assign(kind=table.loc[splade, "kind"].str.removeprefix(prefix))


def markdown_table(table: pd.DataFrame) -> str:
    """Return a frame as a Markdown table."""
    header = [list(table.columns), ["---"] * len(table.columns)]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in [*header, *table.to_numpy().tolist()])


def escaped(text: object) -> str:
    """Return text for LaTeX, with minus signs for the hyphens of numbers."""
    return re.sub(r"(?<![\w.-])-(?=\d)", "$-$", str(text).translate(_ESCAPES))


def latex_table(table: pd.DataFrame, columns: str | None = None) -> str:
    """Return a frame as a LaTeX tabular (booktabs), with headings of several words in two lines.

    `columns` are LaTeX's, such as "lrr"; without it the first is to the left, the others to the right.
    """
    columns = columns or "l" + "r" * (table.shape[1] - 1)
    header = " & ".join(map(_heading, table.columns, columns))
    rows = [" & ".join(map(escaped, row)) for row in table.to_numpy().tolist()]
    parts = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", rf"{header} \\", r"\midrule"]
    return "\n".join([*parts, *(rf"{row} \\" for row in rows), r"\bottomrule", r"\end{tabular}", ""])


def _heading(text: str, side: str) -> str:
    """Return a column's heading for LaTeX, broken where it becomes narrowest."""
    words = text.split(" ")
    halves = [(" ".join(words[:i]), " ".join(words[i:])) for i in range(1, len(words))]
    if not halves:
        return escaped(text)
    first, second = min(halves, key=lambda lines: max(map(len, lines)))
    return rf"\shortstack[{side}]{{{escaped(first)}\\{escaped(second)}}}"


def save_figure(figure: Figure, folder: Path, name: str) -> None:
    """Write NAME.png and NAME.pdf, atomically and without a date in them, so that equal figures are equal files."""
    folder = make_folder(folder)
    for ending, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None, "Producer": None})):
        with plt.rc_context(STYLE), replacing(folder / f"{name}.{ending}") as path:
            figure.savefig(path, format=ending, metadata=metadata)


def save_results(frame: pd.DataFrame, folder: Path, name: str, provenance: Mapping) -> None:
    """Write NAME.csv and, with where it came from, NAME.json, atomically."""
    folder = make_folder(folder)
    with replacing(folder / f"{name}.csv") as path:
        frame.to_csv(path, index=False, float_format="%.6g")
    with replacing(folder / f"{name}.json") as path:
        path.write_text(json.dumps(provenance, indent=2) + "\n", "utf-8")


def save_study(
    folder: Path,
    origin: Mapping,
    tables: Mapping[str, pd.DataFrame],
    figures: Mapping[str, Figure] | None = None,
    by_query: pd.DataFrame | None = None,
) -> None:
    """Write a study's tables and figures; the values of single queries beside the first table as NAME_per_query.csv."""
    for name, table in tables.items():
        save_results(table, folder, name, origin)
    if by_query is not None:
        with replacing(folder / f"{next(iter(tables))}_per_query.csv") as path:
            by_query.to_csv(path, index=False, float_format="%.5g")
    for name, figure in (figures or {}).items():
        save_figure(figure, folder, name)


def interval(row: pd.Series, mean: str = "mean", low: str = "low", high: str = "high", digits: int = 3) -> str:
    """Return a row's value and its interval, whose columns are named, as text: "0.500 (0.450 to 0.550)"."""
    return f"{row[mean]:.{digits}f} ({row[low]:.{digits}f} to {row[high]:.{digits}f})"


def change(row: pd.Series) -> str:
    """Return a row's difference from its baseline with the interval as text: "+0.010 (-0.005 to +0.025)"."""
    return f"{row['difference']:+.3f} ({row['difference_low']:+.3f} to {row['difference_high']:+.3f})"


def significant(rows: pd.DataFrame) -> pd.Series:
    """Return which rows differ significantly from their baseline, after Holm's correction."""
    return rows["p_holm"] < SIGNIFICANT
