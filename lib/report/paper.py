"""`python -m lib.report.paper [FIGURES [PAPER]]`: what the paper shows, out of the committed results and nothing else.

- Tables: PAPER/tables/NAME.tex.
- Numbers: PAPER/macros.tex, one for each `\\val{result/...}` in paper.tex; "--" where the result is not there yet.
- Figures: those in FIGURES are drawn again from their tables. FIGURES/drawn.json keeps, for each, the sha256 of its
  files and of the tables that it was drawn from, so that a figure that is not of its table is found on any machine,
  whatever its matplotlib.
"""

import contextlib
import json
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from lib.report import limit
from lib.report.ablations import ablations_figure, surface_figure
from lib.report.backbones import retrievers_table
from lib.report.beyond import beyond_figure
from lib.report.bottleneck import bottleneck_figure
from lib.report.claims import claims_figure
from lib.report.common import escaped, latex_table, save_figure, significant
from lib.report.corpora import corpora_figure
from lib.report.csr import csr_figure
from lib.report.features import contribution_figure
from lib.report.impacts import impacts_figure
from lib.report.latency import latency_figure
from lib.report.layers import layers_figure
from lib.report.pruning import pruning_figure
from lib.report.retrieval import retrieval_figure, wide_table, without_ranks
from lib.report.retrieval_training import retrieval_training_figure
from lib.report.seeds import seeds_figure
from lib.report.splare import latency_figure as splare_latency_figure
from lib.report.splare import splare_figure
from lib.report.steering import main_rows, steering_figure
from lib.report.trained import contrasts_figure, losses_figure, means_of
from lib.report.variants import clear, measured, variants_figure
from lib.report.width_k import width_k_figure
from lib.report.zipf import cost_figure, rank_frequency_figure, zipf_figure
from lib.studies import names
from lib.studies.published import PUBLISHED, PUBLISHED_DENSE
from lib.studies.results import Results, mean_of, without_limit
from lib.support.files import replacing
from lib.support.folders import digest_file

MISSING = "--"
CHANGE = "{difference:+.3f} [{difference_low:+.3f}, {difference_high:+.3f}]"
FINE_CHANGE = CHANGE.replace(".3f", ".4f")
DRAWN = "drawn.json"
VAL, CLAIM = (re.compile(rf"\\{name}\{{([^}}]+)\}}") for name in ("val", "claim"))


def _figure(draw: Callable[..., Figure], *tables: str) -> Callable[[Results], Figure]:
    return lambda results: draw(*(results[table] for table in tables))


def _of_first(draw: Callable[..., Figure], *tables: str) -> Callable[[Results], Figure]:
    """Return the figure of the first collection of the first table."""
    return _figure(lambda *frames: draw(*frames, frames[0]["collection"].iloc[0]), *tables)


# Every figure that a table is enough for. That of a training run needs the histogram in the run's log as well.
FIGURES: dict[str, Callable[[Results], Figure]] = {
    "retrieval": _figure(retrieval_figure, "retrieval"),
    "rank_frequency": _figure(rank_frequency_figure, "rank_frequency"),
    "limit": _figure(limit.limit_figure, "limit"),
    "zipf": _of_first(zipf_figure, "zipf", "zipf_curves"),
    "zipf_cost": _of_first(cost_figure, "zipf", "zipf_curves", "zipf_growth"),
    "family_contributions": _figure(contribution_figure, "family_contributions"),
    "layers": _figure(layers_figure, "layers"),
    "width_k": _figure(width_k_figure, "width_k"),
    "pruning": _of_first(pruning_figure, "pruning", "posting_lengths"),
    "impacts": _figure(impacts_figure, "impacts"),
    "latency": lambda results: latency_figure(results["latency"], results.origin("latency")["config"]["n_docs"]),
    "ablations": _figure(ablations_figure, "ablations"),
    "ablations_k1_b": _figure(surface_figure, "ablations_k1_b"),
    "retrieval_training": _figure(retrieval_training_figure, "retrieval_training"),
    "seeds": _figure(seeds_figure, "seeds", "seeds_recurrence", "seeds_agreement"),
    "variants": _figure(variants_figure, "variants"),
    "beyond": _figure(beyond_figure, "beyond"),
    "steering": _figure(steering_figure, "steering"),
    "splare": _figure(
        splare_figure, *(f"splare_{name}" for name in ("layers", "widths", "pairs", "pruning", "lengths"))
    ),
    "splare_contrasts": _figure(contrasts_figure, "splare_contrasts"),
    "splare_latency": _figure(splare_latency_figure, "splare_latency", "splare"),
    "bottleneck": _figure(bottleneck_figure, "bottleneck", "bottleneck_ablation"),
    "bottleneck_contrasts": _figure(contrasts_figure, "bottleneck_contrasts"),
    "bottleneck_losses": _figure(losses_figure, "bottleneck_losses"),
    "csr": _figure(csr_figure, "csr"),
    "helped_contrasts": _figure(contrasts_figure, "helped_contrasts"),
    "csr_contrasts": _figure(contrasts_figure, "csr_contrasts"),
    "corpora": _figure(corpora_figure, "corpora", "corpora_clusters"),
    "claims": _figure(claims_figure, "claims"),
}


def redraw(folder: Path) -> list[str]:
    """Draw the figures again, and return the names of those that are not as they were.

    One drawn by another matplotlib, which places text a little differently, is left unless it has `changed`.
    """
    path = folder / DRAWN
    record = json.loads(path.read_text("utf-8")) if path.exists() else {}
    drawn = []
    for name, draw in FIGURES.items():
        before = record.get(name)
        if before and before["matplotlib"] != matplotlib.__version__ and not changed(folder, name, before):
            continue
        results = Results(folder)
        try:
            figure = draw(results)
        except FileNotFoundError:
            continue
        stale = not before or changed(folder, name, before)
        save_figure(figure, folder, name)
        plt.close(figure)
        tables = {f"{table}.csv": digest_file(folder / f"{table}.csv") for table in sorted(results.used)}
        files = {file: digest_file(folder / file) for file in (f"{name}.png", f"{name}.pdf")}
        record[name] = {"matplotlib": matplotlib.__version__, "tables": tables, "files": files}
        if stale or record[name] != before:
            drawn.append(name)
    record = {name: record[name] for name in FIGURES if name in record}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    return drawn


def changed(folder: Path, name: str, entry: dict) -> list[str]:
    """Return the files, of a figure and of the tables behind it, that are not those that `drawn.json` names."""
    expected = entry["tables"] | entry["files"]
    return [file for file, sha in expected.items() if not (folder / file).exists() or digest_file(folder / file) != sha]


def _limit_table(results: Results) -> str:
    table = limit.limit_table(results["limit"]).rename(columns={"n_docs": "documents"})
    table["documents"] = table["documents"].map("{:,}".format)
    return latex_table(table[["documents", "system", "R@10", "R@100"]], "rlrr")


def _backbones_table(results: Results) -> str:
    table = retrievers_table(results["backbones"]).set_index("retriever").T
    return latex_table(table.rename_axis("system", axis="columns").reset_index(names="system"))


def _latency_table(results: Results) -> str:
    table = results["latency"]
    doc_top, query_top = (table[f"{side}_top"].map(lambda n: f"{n}" if n else "all") for side in ("doc", "query"))
    columns = {"search": table["kind"], "latents a document": doc_top, "a query": query_top}
    columns[f"{names.MEASURE} (mean)"] = table[names.MEASURE].map("{:.3f}".format)
    columns |= {"median ms": table["median_ms"].map("{:.2f}".format), "95th": table["p95_ms"].map("{:.2f}".format)}
    return latex_table(pd.DataFrame(columns))


def _interval(value: float, low: float, high: float) -> str:
    return f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"


def _beyond_table(results: Results) -> str:
    rows = results["beyond"].query("collection == @names.MEAN and difference.notna()")
    change = [_interval(*row) for row in rows[["difference", "difference_low", "difference_high"]].to_numpy()]
    return latex_table(pd.DataFrame({"changed": rows["system"], "mean change in nDCG@10": change}))


def _claims_table(results: Results) -> str:
    ragged = r">{\raggedright\arraybackslash}p"
    lines, table = [], results["claims"]
    for source, rows in table.groupby("source", sort=False):
        heading = rf"\textbf{{{escaped(source)}}}, tested with {escaped(rows['tested_with'].iloc[0])}"
        lines.append(rf"\multicolumn{{5}}{{p{{15cm}}}}{{{heading}}} \\*")
        for row in rows.itertuples():
            on = f" ({row.on})" if isinstance(row.on, str) else ""
            cells = (f"{row.claim}{on}", row.quantity, row.published, row.ours, _verdict(row))
            lines.append(" & ".join(map(escaped, cells)) + r" \\")
    columns = f"{ragged}{{4.8cm}}{ragged}{{2.5cm}}r{ragged}{{3.7cm}}{ragged}{{2.6cm}}"
    header = r"claim & measured & published & ours & verdict \\"
    parts = [rf"\begin{{longtable}}{{{columns}}}", r"\toprule", header, r"\midrule\endhead", *lines, r"\bottomrule"]
    return "\n".join([*parts, r"\end{longtable}", ""])


def _verdict(row) -> str:
    return f"{row.verdict}: {row.why}" if row.verdict == names.FAILS else row.verdict


TABLES: dict[str, Callable[[Results], str]] = {
    "retrieval": lambda results: latex_table(wide_table(without_ranks(results["retrieval"]), names.MEASURE)),
    "recall": lambda results: latex_table(wide_table(without_ranks(results["retrieval"]), "R@100")),
    "backbones": _backbones_table,
    "published": lambda _: latex_table(PUBLISHED.map(lambda x: x if isinstance(x, str) else f"{x:.3f}")),
    "limit": _limit_table,
    "latency": _latency_table,
    "beyond": _beyond_table,
    "claims": _claims_table,
}


def tables(folder: Path) -> dict[str, str]:
    """Return the text of each of the paper's tables; one whose results are not there says so."""
    return _of_each(TABLES, folder, "\\emph{This table is not there yet.}\n")


def _of_each(functions: dict[str, Callable], folder: Path, missing: str | None) -> dict:
    """Return what each function makes of the results, `missing` where they are not there."""
    values = dict.fromkeys(functions, missing)
    for name, function in functions.items():
        with contextlib.suppress(FileNotFoundError):
            values[name] = function(Results(folder))
    return values


def _verdicts(rows: pd.DataFrame) -> dict[str, str]:
    """Return on how many collections a system is significantly better and worse, and on how many it was measured."""
    differs, higher = significant(rows), rows["difference"] > 0
    counts = {"better": (differs & higher).sum(), "worse": (differs & ~higher).sum(), "collections": len(rows)}
    return {name: str(count) for name, count in counts.items()}


def _by_row(table: pd.DataFrame, name: str, value: str) -> dict[str, str]:
    """Return a number for each row; both templates may use its columns."""
    return {name.format(**row): value.format(**row) for row in table.to_dict("records")}


def _retrieval_numbers(results: Results) -> dict[str, str]:
    table, origin = results["retrieval"], results.origin("retrieval")
    short = table["collection"].str.removeprefix("beir/").str.removesuffix("/test")
    numbers = _by_row(table.assign(short=short), "{short}/{system}/{measure}", "{mean:.3f}")
    ndcg = without_limit(table[table["measure"] == names.MEASURE])
    for system, rows in ndcg.groupby("system"):
        numbers |= {f"{name}/{system}": count for name, count in _verdicts(rows).items()}
        numbers[f"mean/{system}"] = f"{rows['mean'].mean():.3f}"
    sae, encoder = (origin["config"]["model"][part] for part in ("sae", "encoder"))
    numbers |= {"width": f"{sae['width']:,}", "k": str(sae["k"]), "d": str(sae["d"]), "date": origin["date"]}
    numbers |= {"tokens": str(encoder["max_length"]), "layer": str(encoder["layer"]), "machine": origin["machine"]}
    return numbers | {f"tuned {name}": str(value) for name, value in origin["config"]["tuned"].items()}


def _backbone_numbers(results: Results) -> dict[str, str]:
    """Return the mean difference and the verdicts, of several retrievers one after the other, joined by "and"."""
    table = without_limit(results["backbones"].query("measure == @names.MEASURE"))
    rows = table[table["system"] == names.LATENT]
    parts = dict(list(rows.groupby("backbone", sort=False)))
    means = [_interval(*mean_of(part)) + f" with {name}" * (len(parts) > 1) for name, part in parts.items()]
    verdicts = pd.DataFrame([_verdicts(part) for part in parts.values()])
    numbers = {"mean": " and ".join(means), "collections": verdicts["collections"].iloc[0]}
    numbers |= {name: " and ".join(verdicts[name]) for name in ("better", "worse")}
    for (name, system), part in table.groupby(["backbone", "system"]):
        numbers |= {f"{name}/{system}": f"{part['mean'].mean():.3f}"}
        numbers |= {f"{name}/{system}/change": _interval(*mean_of(part))}
    short = table["collection"].str.removeprefix("beir/").str.removesuffix("/test")
    numbers |= _by_row(table.assign(short=short), "{backbone}/{system}/{short}", "{mean:.4f}")
    states = results["backbones_states"]
    final = states[states["layer"] == states.groupby("backbone")["layer"].transform("max")]
    numbers |= {f"{name}/between": f"{part['share'].median():.0%}" for name, part in final.groupby("backbone")}
    for name, published in PUBLISHED_DENSE.rename(columns=str.lower).iterrows():
        numbers |= {f"{name}/published/{short}": f"{value:.4f}" for short, value in published.items()}
    return numbers | {"seeds": f"{rows['seeds'].max():.0f}", "seed sd": f"{rows['seed_sd'].max():.3f}"}


def _limit_numbers(results: Results) -> dict[str, str]:
    table, numbers = results["limit"], {}
    for name, n in {"largest": table["n_docs"].max(), "smallest": table["n_docs"].min()}.items():
        rows, numbers[name] = table[table["n_docs"] == n], f"{n:,}"
        numbers |= _by_row(rows, f"{name}/{{system}}/{{measure}}", "{mean:.3f}")
        numbers |= _by_row(rows, f"{name}/{{system}}/{{measure}}/kept", "{kept:.0%}")
    return numbers


def _zipf_numbers(results: Results) -> dict[str, str]:
    numbers = {}
    for name, rows in without_limit(results["zipf"]).groupby("vocabulary"):
        shares = {"once": rows["n_once"] / rows["n_terms"], "tail": rows["n_tail"] / rows["n_terms"]}
        shares["read"] = rows["query_share"]
        numbers |= {f"{key}/{name}": f"{share.median():.1%}" for key, share in shares.items()}
        numbers |= {f"low/{name}": f"{rows['exponent'].min():.2f}", f"high/{name}": f"{rows['exponent'].max():.2f}"}
    return numbers


def _latency_numbers(results: Results) -> dict[str, str]:
    table, facts = results["latency"].set_index("kind"), results.origin("latency")["config"]
    singles = table[~table.index.duplicated(keep=False)].reset_index()
    numbers = _by_row(singles, "ms/{kind}", "{median_ms:.2f}")
    numbers |= _by_row(singles, f"{names.MEASURE}/{{kind}}", f"{{{names.MEASURE}:.3f}}")
    counts = {"documents": "n_docs", "a document": "postings_per_document", "a query": "postings_per_query"}
    return numbers | {name: f"{facts[count]:,.0f}" for name, count in counts.items()}


def _impacts_numbers(results: Results) -> dict[str, str]:
    """Return what eight bits change, and bytes by form of impacts, means over collections."""
    means = means_of(results["impacts"])
    numbers = _by_row(means.dropna(subset="difference"), "change", FINE_CHANGE)
    numbers |= _by_row(means, "same/{impacts}", "{same_best:.0%}")
    return numbers | _by_row(means, "posting/{impacts}", "{bytes_per_posting:.1f}")


def _pruning_numbers(results: Results) -> dict[str, str]:
    rows = without_limit(results["pruning"]).query("kind == @names.DOCUMENT_TOP and value == 100")
    return {"stored": f"{rows['postings_share'].mean():.0%}", "read": f"{rows['query_share'].mean():.0%}"}


def _sweep_numbers(results: Results) -> dict[str, str]:
    size, text = (results.origin("layers")["config"][part] for part in ("size", "training_text"))
    numbers = {name: f"{size[name]:,}" for name in ("width", "k", "tokens", "epochs", "n_seeds")}
    if "fraction" not in text:
        return numbers | {"text": text["what"]}
    files = ", ".join(name.split(".")[0] for name in text["files"])
    return numbers | {"text": f"a random {text['fraction']:.2%} of English text ({files})"}


def _ablation_numbers(results: Results) -> dict[str, str]:
    counted, numbers = results["ablations_latents"], {}
    counted["name"] = counted["variant"].str.removeprefix("activation: ")
    for column, form in (("median", ".0f"), ("high", ".0f"), ("correlation", ".2f")):
        numbers |= _by_row(counted, f"{column}/{{name}}", f"{{{column}:{form}}}")
    table = without_limit(results["ablations"])
    most = table[table["factor"] == "tokens"].iloc[-1]
    for name, variant in (("per-token", names.PER_TOKEN), ("most", most["variant"])):
        numbers[name] = _interval(*mean_of(table[table["variant"] == variant]))
    unexplained = table.groupby("variant")["fvu"].mean()
    numbers |= {"fvu/most": f"{unexplained[most['variant']]:.2f}", "fvu/baseline": f"{unexplained['baseline']:.2f}"}
    return numbers | {"most/tokens": most["level"].removesuffix(" (all)")}


def _seed_numbers(results: Results) -> dict[str, str]:
    recurring = results["seeds_recurrence"]
    shares = recurring[np.isclose(recurring["cosine"], names.SAME)].set_index("kind")["share"]
    overlaps = without_limit(results["seeds_agreement"]).groupby("pair")["mean"].mean()
    numbers = {f"recur/{kind}": f"{share:.1%}" for kind, share in shares.items()} | {"cosine": str(names.SAME)}
    return numbers | {f"overlap/{pair}": f"{overlap:.2f}" for pair, overlap in overlaps.items()}


def _variants_numbers(results: Results) -> dict[str, str]:
    rows, size = measured(results["variants"]), results.origin("variants")["config"]["size"]
    others = rows[rows["variant"] != names.TOPK].sort_values("difference", ascending=False)
    numbers = {name: f"{size[name]:,}" for name in ("width", "k", "tokens", "n_docs")}
    numbers |= {"ways": str(len(others)), "reach": f"{rows['reach'].max():.3f}"}
    differs, higher = clear(others), others["difference"] > 0
    for name, part in (("better", others[differs & higher]), ("worse", others[differs & ~higher])):
        listed = [f"{row.variant} {row.difference:+.3f}" for row in part.itertuples()]
        numbers |= {name: str(len(part)), f"{name} ways": ", ".join(listed) or "none"}
    numbers |= {"unmatched": ", ".join(others["variant"][~others["matched"]]) or "none"}
    numbers |= _by_row(rows, "{variant}/mean", "{mean:.3f}") | _by_row(rows, "{variant}/fvu", "{fvu:.2f}")
    numbers |= _by_row(others, "{variant}/change", CHANGE)
    runs = results["variants_runs"].groupby("variant")["distinct"].mean()
    numbers |= {"distinct": f"{runs[names.TOPK]:.0%}", "distinct/ortsae": f"{runs['ortsae']:.0%}"}
    absorbed = results["variants_absorption"]
    numbers["classes"] = str(absorbed.loc[absorbed["n"].notna(), "label"].nunique())
    tokens = results["variants_tokens"]
    for name, row in (("fewest", tokens.iloc[0]), ("most", tokens.iloc[-1])):
        numbers |= {f"{name}/tokens": f"{row['tokens']:,.0f}", f"{name}/agreement": f"{row['agreement']:.2f}"}
    return numbers


def _steering_numbers(results: Results) -> dict[str, str]:
    """Return the gap by vocabulary and system, and how each ranks queries as they are; means over collections."""
    rows = main_rows(results["steering"].query("collection == @names.MEAN"))
    numbers = {"pairs": f"{rows['n_pairs'].iloc[0]:,}", "latents": str(names.STEERED_MAIN)}
    numbers |= _by_row(rows, "gap/{vocabulary}/{system}", "{gap:+.2f} [{gap_low:+.2f}, {gap_high:+.2f}]")
    ranked = results["steering_rankings"].query("collection == @names.MEAN and system != @names.DENSE")
    return numbers | {
        f"rank/{row['system']}": _interval(*(row[f"difference{end}"] for end in ("", "_low", "_high")))
        for row in ranked.to_dict("records")
    }


def _trained_numbers(results: Results, table: str) -> dict[str, str]:
    """Return nDCG@10 and the dead share by system and the differences of named pairs, means over collections."""
    means, facts = means_of(results[table]), results.origin(table)["config"]
    numbers = _by_row(means, "mean/{system}", "{mean:.3f}")
    numbers |= _by_row(means.dropna(subset="dead"), "dead/{system}", "{dead:.0%}")
    numbers |= _by_row(means_of(results[f"{table}_contrasts"]), "change/{system} less {reference}", CHANGE)
    counts = {"pairs": facts["pairs"]["n"]} | {key: n for key, n in facts["size"].items() if isinstance(n, int)}
    return numbers | {name: f"{count:,}" for name, count in counts.items()}


def _helped_numbers(results: Results) -> dict[str, str]:
    """Return `_trained_numbers`, ms by system, and how much is pruned by idf among how many documents."""
    numbers, timed = _trained_numbers(results, "helped"), results["helped_latency"]
    query_top, doc_top = results.origin("helped")["config"]["size"]["top_by_idf"]
    counts = {"query top": query_top, "document top": doc_top, "documents": timed["n_docs"].max()}
    numbers |= {name: f"{count:,}" for name, count in counts.items()}
    return numbers | _by_row(timed, "ms/{system}", "{median_ms:.1f}")


def _splare_numbers(results: Results) -> dict[str, str]:
    times = results["splare_latency"]
    numbers = _by_row(times, "ms/{system}", "{median_ms:.2f}") | {"grown": f"{times['n_docs'].iloc[0]:,}"}
    counts, contrasts = results["splare_pairs"]["n_pairs"], means_of(results["splare_pairs_contrasts"])
    for name, count in (("more", counts.max()), ("fewer", counts.min())):
        numbers[f"{name} pairs"] = f"{count:,.0f}"
        for side in ("system", "reference"):
            named = contrasts[side].str.replace(names.trained_on("", int(count)), f", {name}", regex=False)
            contrasts = contrasts.assign(**{side: named})
    return _trained_numbers(results, "splare") | numbers | _by_row(contrasts, "pairs/{system} less {reference}", CHANGE)


def _corpora_numbers(results: Results) -> dict[str, str]:
    rows = results["corpora"].query("vocabulary == @names.LATENTS")
    columns = {"label": "label_auc", "random label": "label_control", "agree": "agree", "dealt anew": "control"}
    ends = {name: (f"{rows[column].min():.2f}", f"{rows[column].max():.2f}") for name, column in columns.items()}
    return {name: low if low == high else f"{low} to {high}" for name, (low, high) in ends.items()}


def _claim_numbers(results: Results) -> dict[str, str]:
    """Return our figure for each claim with its verdict; of one with several rows the second is KEY-2, else a dash.

    The counts are of the claims of Latent Terms and SPLARE; one with several rows counts by its first.
    """
    table = results["claims"]
    theirs = table[table["source"].isin([names.LATENT_TERMS, names.SPLARE])].drop_duplicates("key")
    numbers = {f"count/{verdict}": str((theirs["verdict"] == verdict).sum()) for verdict in names.VERDICTS}
    numbers |= {f"count/{why}": str((theirs["why"] == why).sum()) for why in (names.CONTRADICTED, names.UNDECIDED)}
    numbers["count"] = str(len(theirs))
    numbers |= {f"{key}-2": MISSING for key in table["key"]}
    for row, number in zip(table.itertuples(), table.groupby("key").cumcount() + 1, strict=True):
        published = f"published {row.published}; " if row.published != "–" and row.verdict != names.UNTESTED else ""
        numbers[row.key if number == 1 else f"{row.key}-{number}"] = f"{row.ours} ({published}{_verdict(row)})"
    return numbers


NUMBERS: dict[str, Callable[[Results], dict[str, str]]] = {
    "retrieval": _retrieval_numbers,
    "backbones": _backbone_numbers,
    "limit": _limit_numbers,
    "zipf": _zipf_numbers,
    "families": lambda results: {"kappa": "{min:.2f} to {max:.2f}".format(**results["families"]["kappa"].describe())},
    "latency": _latency_numbers,
    "impacts": _impacts_numbers,
    "pruning": _pruning_numbers,
    "sweeps": _sweep_numbers,
    "ablations": _ablation_numbers,
    "seeds": _seed_numbers,
    "variants": _variants_numbers,
    "steering": _steering_numbers,
    "splare": _splare_numbers,
    "bottleneck": partial(_trained_numbers, table="bottleneck"),
    "csr": partial(_trained_numbers, table="csr"),
    "helped": _helped_numbers,
    "corpora": _corpora_numbers,
    "claims": _claim_numbers,
}


def macros(text: str, folder: Path) -> str:
    r"""Return the macros that a LaTeX text uses: definitions for each `\val{result/name}` and `\claim{key}` in it.

    Raises ValueError for a result that no function here reads, and for a name that it does not give.
    """
    wanted = {" ".join(key.split()) for key in VAL.findall(text)}
    wanted |= {f"claims/{key}" for key in CLAIM.findall(text)}
    results, lines = _of_each(NUMBERS, folder, None), []
    for key in sorted(wanted):
        result, _, name = key.partition("/")
        if result not in NUMBERS:
            raise ValueError(f"\\val{{{key}}}: {result!r} is no result; use one of {', '.join(NUMBERS)}.")
        known = results[result]
        if known is not None and name not in known:
            raise ValueError(f"\\val{{{key}}}: {result!r} has no {name!r}; it has {', '.join(sorted(known))}.")
        value = MISSING if known is None else escaped(known[name])
        lines.append(rf"\expandafter\def\csname val@{key}\endcsname{{{value}}}")
    return "\n".join(["% Written by `python -m lib.report.paper` out of the tables in figures/.", *lines, ""])


def main(folder: Path = Path("figures"), paper: Path = Path("paper")) -> None:
    """Bring figures, tables and macros up to date."""
    for name in redraw(folder):
        print(f"drawn again: {folder / name}.png")
    files = {paper / "tables" / f"{name}.tex": text for name, text in tables(folder).items()}
    files[paper / "macros.tex"] = macros((paper / "paper.tex").read_text("utf-8"), folder)
    (paper / "tables").mkdir(parents=True, exist_ok=True)
    for path, text in files.items():
        with replacing(path) as temporary:
            temporary.write_text(text, "utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
