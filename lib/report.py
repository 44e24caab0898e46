"""Frames of results to figures and tables; it reads what the experiments wrote and computes nothing."""

import json
import sys
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
TEST_COLLECTIONS = ("beir/scifact/test", "cranfield/test", "vaswani/test", "cisi/test")
BEGIN, END = "<!-- results, written by `make figures` -->", "<!-- end of results -->"


def retrieval_figure(summary: pd.DataFrame, measure: str = "nDCG@10") -> Figure:
    """Draw the retrieval table as bars, a group a collection, with 95 % bootstrap intervals over its queries."""
    chosen = summary[summary["measure"] == measure]
    names = list(dict.fromkeys(chosen["collection"]))
    systems = [name for name in COLOURS if name in set(chosen["system"])]
    width = 0.8 / len(systems)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(max(4.5, 1.35 * len(names) + 1), 3.0))
        for number, system in enumerate(systems):
            rows = chosen[chosen["system"] == system].set_index("collection").loc[names]
            x = np.arange(len(names)) + (number - (len(systems) - 1) / 2) * width
            axes.bar(x, rows["mean"], 0.92 * width, color=COLOURS[system], label=system)
            axes.vlines(x, rows["low"], rows["high"], color="black", linewidth=0.8)
        counts = chosen.drop_duplicates("collection").set_index("collection")
        labels = [f"{name}\n{counts.n_docs[name]:,} docs\n{counts.n_queries[name]:,} queries" for name in names]
        axes.set_xticks(np.arange(len(names)), labels, fontsize=7.5)
        axes.tick_params(axis="x", length=0)
        axes.set_ylabel(f"{measure}, with 95 % interval")
        axes.set_ylim(0, min(1.0, 1.05 * chosen["high"].max()))
        figure.legend(loc="outside upper center", ncols=3 if len(names) < 4 else len(systems), fontsize=8)
    return figure


def rank_frequency_figure(curves: pd.DataFrame) -> Figure:
    """Draw rank against frequency, log-log, a line a vocabulary, labelled with its number of terms.

    Parameters
    ----------
    curves : DataFrame
        Columns vocabulary, rank and frequency.
    """
    colours = {"latents": COLOURS["latent terms"], "words": COLOURS["lexical BM25"]}
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(4.5, 3.2))
        for name, curve in curves.groupby("vocabulary", sort=False):
            axes.loglog(curve["rank"], curve["frequency"], color=colours[name], linewidth=1.6)
            n_terms = curve["rank"].iloc[-1]
            at = curve.iloc[np.searchsorted(curve["rank"], np.sqrt(n_terms))]
            side = (
                {"xytext": (6, 6), "va": "bottom"}
                if name == "latents"
                else {"xytext": (-6, -6), "va": "top", "ha": "right"}
            )
            axes.annotate(
                f"{name} ({n_terms:,})",
                (at["rank"], at["frequency"]),
                textcoords="offset points",
                color=colours[name],
                **side,
            )
        axes.set_xlabel("rank")
        axes.set_ylabel("occurrences in the documents")
    return figure


def plot_training(log: str | Path | list[dict]) -> Figure:
    """Draw a training run: FVU, dead latents, and at its end how many latents are active in which share of the tokens.

    Parameters
    ----------
    log : str, Path or list of dict
        A `training_log.jsonl`, or the rows that `trainer.train` gives to its `log`.

    Raises
    ------
    ValueError
        If there is no row.
    """
    if not isinstance(log, list):
        log = [json.loads(line) for line in Path(log).read_text("utf-8").splitlines()]
    if not log:
        raise ValueError("The log has no row; a run writes one every 50 steps and at its end.")
    frame = pd.DataFrame(log)
    millions = frame["tokens"] / 1e6
    density = log[-1]["density"]
    edges = np.linspace(-len(density) / 2, 0, len(density) + 1)  # half decades, as logarithms
    with plt.rc_context(STYLE):
        figure, (loss, dead, histogram) = plt.subplots(1, 3, figsize=(8.2, 2.5))
        loss.plot(millions, frame["fvu"], marker=".", color=COLOURS["latent terms"])
        loss.set(xlabel="million tokens", ylabel="variance unexplained (FVU)", ylim=(0, None))
        loss.set_title(f"FVU {frame['fvu'].iloc[-1]:.3f}, {frame['l0'].iloc[-1]:.1f} latents a token", fontsize=9)
        dead.plot(millions, 100 * frame["dead"], marker=".", color=COLOURS["dense"])
        dead.set(xlabel="million tokens", ylabel="dead latents, %", ylim=(0, max(1, 105 * frame["dead"].max())))
        dead.set_title(f"{frame['dead'].iloc[-1]:.1%} dead at the end", fontsize=9)
        histogram.stairs(density, edges, fill=True, color=COLOURS["lexical BM25"])
        histogram.set(xlabel="share of tokens with the latent", ylabel="latents")
        ticks = np.arange(edges[0], 1)
        labels = [f"$10^{{{tick:.0f}}}$" for tick in ticks]
        histogram.set_xticks(ticks, [f"≤{labels[0]}", *labels[1:]])
        histogram.set_title("the last steps", fontsize=9)
    return figure


def thin(frequencies: np.ndarray, vocabulary: str, n_points: int = 400) -> pd.DataFrame:
    """Return a rank-frequency curve at ranks evenly spaced in the logarithm, first and last among them.

    Parameters
    ----------
    frequencies : np.ndarray, integer [n_terms]
        Descending.
    """
    ranks = np.unique(np.geomspace(1, len(frequencies), n_points).round().astype(int))
    return pd.DataFrame({"vocabulary": vocabulary, "rank": ranks, "frequency": frequencies[ranks - 1]})


def wide_table(summary: pd.DataFrame, measure: str = "nDCG@10") -> pd.DataFrame:
    """Return one row a collection and one column a system, the means as text.

    "†" marks a system that differs from dense significantly (Holm-corrected p < 0.05).
    """
    chosen = summary[summary["measure"] == measure]
    cells = chosen.assign(
        cell=[
            f"{mean:.4f}" + ("†" if p < SIGNIFICANT else "")
            for mean, p in zip(chosen["mean"], chosen["p_holm"], strict=True)
        ]
    )
    order = list(dict.fromkeys(chosen["collection"]))
    wide = cells.pivot(index="collection", columns="system", values="cell").loc[order]
    wide = wide[[name for name in COLOURS if name in wide]]
    counts = chosen.drop_duplicates("collection").set_index("collection")
    wide.insert(0, "documents", counts["n_docs"].map("{:,}".format))
    wide.insert(1, "queries", counts["n_queries"].map("{:,}".format))
    return wide.rename_axis(None, axis="columns").reset_index()


def markdown_table(table: pd.DataFrame) -> str:
    """Return a frame as a Markdown table."""
    header = [list(table.columns), ["---"] * len(table.columns)]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in [*header, *table.to_numpy().tolist()])


def latex_table(table: pd.DataFrame) -> str:
    """Return a frame as a LaTeX tabular (booktabs)."""
    alignment = "l" + "r" * (len(table.columns) - 1)
    escape = str.maketrans({"_": r"\_", "%": r"\%", "&": r"\&", "†": r"$^\dagger$"})
    rows = [" & ".join(str(cell).translate(escape) for cell in row) + r" \\" for row in table.to_numpy().tolist()]
    header = " & ".join(column.translate(escape) for column in table.columns) + r" \\"
    lines = [rf"\begin{{tabular}}{{{alignment}}}", r"\toprule", header, r"\midrule", *rows, r"\bottomrule"]
    return "\n".join([*lines, r"\end{tabular}", ""])


def save_figure(figure: Figure, folder: Path, name: str) -> None:
    """Write NAME.png and NAME.pdf, atomically and without a date in them, so that equal figures are equal files."""
    folder.mkdir(parents=True, exist_ok=True)
    for ending, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None, "Producer": None})):
        with replacing(folder / f"{name}.{ending}") as path:
            figure.savefig(path, format=ending, metadata=metadata)


def save_results(frame: pd.DataFrame, folder: Path, name: str, provenance: Mapping) -> None:
    """Write NAME.csv and, with where it came from, NAME.json, atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / f"{name}.csv") as path:
        frame.to_csv(path, index=False, float_format="%.6g")
    with replacing(folder / f"{name}.json") as path:
        path.write_text(json.dumps(provenance, indent=2) + "\n", "utf-8")


def readme_results(folder: Path) -> str:
    """Return the README's results section, Markdown, out of the results in `folder`."""
    summary = pd.read_csv(folder / "retrieval.csv")
    origin = json.loads((folder / "retrieval.json").read_text("utf-8"))
    measures, dtype = summary["measure"].unique(), origin["config"]["model"]["encoder"]["dtype"]
    parts = [f"**{measure}**\n\n{markdown_table(wide_table(summary, measure))}" for measure in measures]
    note = (
        f"† differs from dense (two-sided paired randomisation test, Holm-corrected, p < {SIGNIFICANT}). "
        f"Profile `{origin['profile']}`, {origin['date']}, retriever in {dtype}, latent terms with k1 = 8, b = 0.7."
    )
    if tuned := origin["config"].get("tuned"):
        chosen = ", ".join(f"{name} = {value}" for name, value in tuned.items())
        note += f" Tuned on training queries, none of them among those above: {chosen}."
    return "\n\n".join(part for part in [*parts, note, results_in_words(summary)] if part)


def results_in_words(summary: pd.DataFrame) -> str:
    """Return what the README says of the four real test collections and of `limit`, as far as they are there."""
    means = summary.pivot(index=["measure", "collection"], columns="system", values="mean")
    sentences = []
    if set(TEST_COLLECTIONS) <= set(summary["collection"]):
        ndcg = means.loc["nDCG@10"].loc[list(TEST_COLLECTIONS)]
        mean = ndcg.mean()
        latent = [name for name in ("latent terms", "latent terms, tuned") if name in mean]
        least = [f"{name} are at {(ndcg[name] / ndcg['dense']).min():.2f} of dense or more on each" for name in latent]
        sentences.append(
            f"Mean nDCG@10 over the four real test collections: "
            f"{', '.join(f'{name} {mean[name]:.3f}' for name in [*latent, 'dense', 'lexical BM25'])}; "
            f"{'; '.join(least)}. Dense on SciFact is {ndcg['dense'].iloc[0]:.4f} here, and 0.6451 as published for "
            f"this retriever (MTEB)."
        )
    if ("R@10", "limit") in means.index:
        recall = means.loc[("R@10", "limit")]
        sentences.append(
            f"On `limit`, R@10 is {recall['latent terms']:.3f} with latent terms, {recall['dense']:.3f} with dense "
            f"search ({recall['latent terms'] / recall['dense']:.1f} times), {recall['lexical BM25']:.3f} with words."
        )
    return " ".join(sentences)


def update_readme(folder: Path, readme: Path) -> None:
    """Put `readme_results` between the README's two markers; the rest of it stays as it is."""
    before, rest = readme.read_text("utf-8").split(BEGIN)
    with replacing(readme) as path:
        path.write_text(f"{before}{BEGIN}\n{readme_results(folder)}\n{END}{rest.split(END)[1]}", "utf-8")


def main(folder: Path, readme: Path | None = None) -> None:
    """Print the results in `folder` and name their figures; bring `readme` up to date if one is given."""
    print(readme_results(folder))
    print("\nFigures:", *sorted(str(path) for path in folder.glob("*.png")), sep="\n  ")
    if readme:
        update_readme(folder, readme)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
