"""The retrieval table: as a figure, as text, and in the README."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.report.common import COLOURS, SIGNIFICANT, STYLE, markdown_table
from lib.studies.results import mean_of
from lib.support.folders import replacing

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
        figure.legend(loc="outside upper center", ncols=3 if len(names) < 4 else 4, fontsize=8)
    return figure


def wide_table(summary: pd.DataFrame, measure: str = "nDCG@10") -> pd.DataFrame:
    """Return one row a collection and one column a system, the means as text.

    An arrow marks a system that is significantly better or worse than dense (Holm-corrected p < 0.05).
    """
    chosen = summary[summary["measure"] == measure]
    cells = chosen.assign(
        cell=[
            f"{row.mean:.4f}" + ("" if not row.p_holm < SIGNIFICANT else "↑" if row.difference > 0 else "↓")
            for row in chosen[["mean", "p_holm", "difference"]].itertuples()
        ]
    )
    order = list(dict.fromkeys(chosen["collection"]))
    wide = cells.pivot(index="collection", columns="system", values="cell").loc[order]
    wide = wide[[name for name in COLOURS if name in wide]]
    counts = chosen.drop_duplicates("collection").set_index("collection")
    wide.insert(0, "documents", counts["n_docs"].map("{:,}".format))
    wide.insert(1, "queries", counts["n_queries"].map("{:,}".format))
    return wide.rename_axis(None, axis="columns").reset_index()


def readme_results(folder: Path) -> str:
    """Return the README's results section, Markdown, out of the results in `folder`."""
    summary = pd.read_csv(folder / "retrieval.csv")
    origin = json.loads((folder / "retrieval.json").read_text("utf-8"))
    measures, dtype = summary["measure"].unique(), origin["config"]["model"]["encoder"]["dtype"]
    parts = [f"**{measure}**\n\n{markdown_table(wide_table(summary, measure))}" for measure in measures]
    note = (
        f"↑ better, ↓ worse than dense (two-sided paired randomisation test, Holm-corrected, p < {SIGNIFICANT}). "
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
        others = [name for name in ("late interaction", "SPLADE", "dense", "lexical BM25") if name in mean]
        least = [f"{name} are at {(ndcg[name] / ndcg['dense']).min():.2f} of dense or more on each" for name in latent]
        sentences += [
            f"Mean nDCG@10 over the four real test collections: "
            f"{', '.join(f'{name} {mean[name]:.3f}' for name in [*latent, *others])}; {'; '.join(least)}.",
            _apart(summary, latent),
            f"Dense on SciFact is {ndcg['dense'].iloc[0]:.4f} here, and 0.6451 as published for this retriever (MTEB).",
        ]
    if ("R@10", "limit") in means.index:
        recall = means.loc[("R@10", "limit")]
        sentences.append(
            f"On `limit`, R@10 is {recall['latent terms']:.3f} with latent terms, {recall['dense']:.3f} with dense "
            f"search ({recall['latent terms'] / recall['dense']:.1f} times), {recall['lexical BM25']:.3f} with words."
        )
    return " ".join(sentences)


def _apart(summary: pd.DataFrame, systems: list[str]) -> str:
    """Say by how much systems differ from dense on average over the real test collections, with the intervals."""
    rows = summary[(summary["measure"] == "nDCG@10") & summary["collection"].isin(TEST_COLLECTIONS)]
    said = []
    for system in systems:
        mean, low, high = mean_of(rows[rows["system"] == system])
        said.append(f"{system} {mean:+.3f} [{low:+.3f}, {high:+.3f}]")
    return f"The mean difference to dense, with its 95 % interval: {', '.join(said)}."


def update_readme(folder: Path, readme: Path) -> None:
    """Put `readme_results` between the README's two markers; the rest of it stays as it is."""
    before, rest = readme.read_text("utf-8").split(BEGIN)
    with replacing(readme) as path:
        path.write_text(f"{before}{BEGIN}\n{readme_results(folder)}\n{END}{rest.split(END)[1]}", "utf-8")
