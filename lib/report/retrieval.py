"""The retrieval table (20_retrieval): as a figure, as text, and in the README."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.report.backbones import retrievers_in_words
from lib.report.common import COLOURS, SIGNIFICANT, STYLE, collections_of, colours_of, markdown_table, significant
from lib.studies.names import (
    DENSE,
    DENSE_FUSED,
    LATENT,
    LATENT_FUSED,
    LATENT_WORDS,
    LEXICAL,
    MEASURE,
    ONE_PASS,
    RECALL,
    is_limit,
)
from lib.studies.published import PUBLISHED_DENSE
from lib.studies.results import Results, mean_of
from lib.support.files import replacing

PUBLISHED = {"beir/scifact/test": "SciFact", "beir/nfcorpus/test": "NFCorpus"}  # columns of PUBLISHED_DENSE
COUNTS = dict(enumerate(("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"), 1))
BEGIN, END = "<!-- results, written by `make figures` -->", "<!-- end of results -->"


def systems_of(summary: pd.DataFrame) -> dict[str, str]:
    """Return the systems of a table with their colours; those of `COLOURS` first, in its order."""
    return colours_of(sorted(summary["system"].unique(), key=[*COLOURS, *summary["system"]].index))


def without_ranks(summary: pd.DataFrame) -> pd.DataFrame:
    """Return the table without the fusions by reciprocal ranks: where space is short, the weighted ones are shown."""
    return summary[~summary["system"].isin([DENSE_FUSED, LATENT_FUSED])]


def retrieval_figure(summary: pd.DataFrame, measure: str = MEASURE) -> Figure:
    """Draw the retrieval table as bars, a group a collection, with 95 % bootstrap intervals over its queries.

    Fusions by reciprocal ranks are left out.
    """
    table = without_ranks(summary[summary["measure"] == measure])
    names, systems = collections_of(table), systems_of(table)
    width = 0.8 / len(systems)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(max(4.5, 1.35 * len(names) + 1), 3.0))
        for number, (system, colour) in enumerate(systems.items()):
            rows = table[table["system"] == system].set_index("collection").loc[names]
            x = np.arange(len(names)) + (number - (len(systems) - 1) / 2) * width
            axes.bar(x, rows["mean"], 0.92 * width, color=colour, label=system)
            axes.vlines(x, rows["low"], rows["high"], color="black", linewidth=0.8)
        counts = table.drop_duplicates("collection").set_index("collection")
        labels = [f"{name}\n{counts.n_docs[name]:,} docs\n{counts.n_queries[name]:,} queries" for name in names]
        axes.set_xticks(np.arange(len(names)), labels, fontsize=7.5)
        axes.tick_params(axis="x", length=0)
        axes.set(ylabel=f"{measure}, with 95 % interval", ylim=(0, min(1.0, 1.05 * table["high"].max())))
        figure.legend(loc="outside upper center", ncols=3 if len(names) < 4 else 4, fontsize=8)
    return figure


def wide_table(summary: pd.DataFrame, measure: str = MEASURE) -> pd.DataFrame:
    """Return one row a collection and one column a system, the means as text.

    An arrow marks a system that is significantly better or worse than dense (Holm-corrected p < 0.05).
    """
    table = summary[summary["measure"] == measure]
    arrows = np.where(significant(table), np.where(table["difference"] > 0, "↑", "↓"), "")
    cells = table.assign(cell=table["mean"].map("{:.4f}".format) + arrows)
    wide = cells.pivot(index="collection", columns="system", values="cell")
    wide = wide.loc[collections_of(table), list(systems_of(table))]
    counts = table.drop_duplicates("collection").set_index("collection")
    wide.insert(0, "documents", counts["n_docs"].map("{:,}".format))
    wide.insert(1, "queries", counts["n_queries"].map("{:,}".format))
    return wide.rename_axis(None, axis="columns").reset_index()


def readme_results(folder: Path) -> str:
    """Return the README's results section, Markdown, out of the results in `folder`."""
    summary = pd.read_csv(folder / "retrieval.csv")
    origin = json.loads((folder / "retrieval.json").read_text("utf-8"))
    dtype = origin["config"]["model"]["encoder"]["dtype"]
    note = (
        f"{MEASURE}; ↑ better, ↓ worse than dense (two-sided paired randomisation test, Holm-corrected, p < "
        f"{SIGNIFICANT}). Profile `{origin['profile']}`, {origin['date']}, retriever in {dtype}, latent terms with "
        "k1 = 8, b = 0.7."
    )
    if tuned := origin["config"].get("tuned"):
        constants = ", ".join(f"{name} = {value}" for name, value in tuned.items())
        note += f" Tuned on the training queries of other splits: {constants}."
    if weights := origin["config"].get("weights"):
        of_parts = ", ".join(f"{name} {value}" for name, value in weights.items())
        note += f" Weights of *{ONE_PASS}*, chosen likewise: {of_parts}."
    parts = [markdown_table(wide_table(without_ranks(summary))), note, results_in_words(summary)]
    return "\n\n".join(filter(None, [*parts, retrievers_in_words(Results(folder))]))


def results_in_words(summary: pd.DataFrame) -> str:
    """Return what the README says of the real test collections and of `limit`, as far as the table has them."""
    means = summary.pivot(index=["measure", "collection"], columns="system", values="mean")
    real = [name for name in collections_of(summary) if not (is_limit(name) or name.startswith("pydoc"))]
    sentences = []
    if real:
        ndcg = means.loc[MEASURE].loc[real]
        rows = without_ranks(summary[(summary["measure"] == MEASURE) & summary["collection"].isin(real)])
        changes = []
        for system in [name for name in systems_of(rows) if name != DENSE]:
            difference, low, high = mean_of(rows[rows["system"] == system])
            changes.append(f"{system} {difference:+.3f} [{low:+.3f}, {high:+.3f}]")
        sentences.append(
            f"Mean over the {COUNTS.get(len(real), len(real))} real test collections: dense {ndcg[DENSE].mean():.3f}; "
            f"the others differ from it, with 95 % intervals, by: {', '.join(changes)}."
        )
        if names := [name for name in PUBLISHED if name in real]:
            here = " and ".join(f"{ndcg[DENSE][name]:.4f}" for name in names)
            published = [f"{PUBLISHED_DENSE[PUBLISHED[name]]['all-MiniLM-L6-v2']:.4f}" for name in names]
            of = " and ".join(PUBLISHED[name] for name in names)
            sentences.append(f"Dense on {of} is {here} here, {' and '.join(published)} as published (MTEB).")
    if (RECALL, "limit") in means.index:
        recall = means.loc[(RECALL, "limit")]
        sentences.append(
            f"On `limit`, {RECALL} is {recall[LATENT]:.3f} with latent terms, {recall[DENSE]:.3f} with dense search "
            f"({recall[LATENT] / recall[DENSE]:.0f} times), {recall[LEXICAL]:.3f} with words"
            + (f" and {recall[LATENT_WORDS]:.3f} with both in one index." if LATENT_WORDS in recall else ".")
        )
    return " ".join(sentences)


def update_readme(folder: Path, readme: Path) -> None:
    """Put `readme_results` between the README's two markers; the rest of it stays as it is."""
    before, rest = readme.read_text("utf-8").split(BEGIN)
    with replacing(readme) as path:
        path.write_text(f"{before}{BEGIN}\n{readme_results(folder)}\n{END}{rest.split(END)[1]}", "utf-8")
