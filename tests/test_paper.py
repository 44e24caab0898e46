"""The paper shows what the committed results say: tables, numbers, figures, and the README's results."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from lib.report.common import escaped, latex_table, save_figure
from lib.report.paper import DRAWN, FIGURES, TABLES, changed, macros, main, redraw, tables
from lib.report.retrieval import update_readme
from lib.studies.claims import claims_study
from lib.studies.helped import contrasts
from lib.studies.profiles import PROFILES
from lib.studies.published import PUBLISHED_DENSE
from lib.studies.results import Results
from lib.support.folders import digest_file

ROOT = Path(__file__).parent.parent
FOLDER, PAPER = ROOT / "figures", ROOT / "paper"
NEED_A_LOG = {"training"}  # its histogram is in the log of the run only
MEAN_CHANGE = "+0.005 [$-$0.016, +0.020]"  # of the collections below: 0.0206 down, 0.0152 up, in quadrature
AGAIN = "`python -m lib.report.paper` makes it again"


def test_the_papers_tables_are_those_of_the_committed_results():
    texts = tables(FOLDER)
    assert {path.stem for path in (PAPER / "tables").glob("*.tex")} == set(texts)
    for name, text in texts.items():
        assert (PAPER / "tables" / f"{name}.tex").read_text("utf-8") == text, f"tables/{name}.tex: {AGAIN}"


def test_the_papers_numbers_are_those_of_the_committed_results():
    text = (PAPER / "paper.tex").read_text("utf-8")
    assert (PAPER / "macros.tex").read_text("utf-8") == macros(text, FOLDER), f"macros.tex: {AGAIN}"


def test_the_paper_has_no_number_that_is_not_made():
    text = (PAPER / "paper.tex").read_text("utf-8").split(r"\maketitle")[1]
    text = re.sub(r"\\(val|claim|cite|label|ref|drawn(\[[^]]*\])?|input|texttt)\{[^}]*\}", "", text)
    text = re.sub(r"\\begin\{[^}]*\}(\[[^]]*\])?", "", text)
    known = ["nDCG@10", "R@100", "R@10", "BM25", "all-MiniLM-L6-v2", "all-mpnet-base-v2", r"95\,\%", r"SPLARE's 5\,ms"]
    known += ["CSRv2", r"\log(1 + z_t)", r"$k_1 = 8$ and $b = 0.7$", "$p < 0.05$"]
    for value in known:
        text = text.replace(value, "")
    assert "$k_1 = $, $b = $" in text  # what is made is gone, what is around it is not
    assert not re.findall(r"^.*(?<!k_)[0-9].*$", text, re.MULTILINE)


def test_all_that_the_paper_shows_is_made_here():
    text = (PAPER / "paper.tex").read_text("utf-8")
    assert set(re.findall(r"\\input\{tables/(\w+)\}", text)) == set(TABLES)
    assert set(re.findall(r"\\drawn(?:\[[^]]*\])?\{(\w+)\}", text)) <= set(FIGURES)
    cited = {key for keys in re.findall(r"\\cite\{([^}]*)\}", text) for key in keys.split(",")}
    assert cited == set(re.findall(r"@\w+\{(\w+),", (PAPER / "references.bib").read_text("utf-8")))


def test_the_readmes_results_are_the_committed_ones(tmp_path):
    copy = tmp_path / "README.md"
    copy.write_bytes((ROOT / "README.md").read_bytes())
    update_readme(FOLDER, copy)
    assert copy.read_bytes() == (ROOT / "README.md").read_bytes()


@pytest.mark.slow
def test_the_claims_are_judged_by_the_committed_results(tmp_path):
    for path in FOLDER.glob("claims.csv"):  # none before `90_claims` was run for the laptop profile
        table, origin = claims_study(FOLDER)
        table.to_csv(tmp_path / "claims.csv", index=False, float_format="%.6g")
        assert path.read_bytes() == (tmp_path / "claims.csv").read_bytes(), "run 90_claims again"
        assert json.loads(path.with_suffix(".json").read_text("utf-8"))["config"]["results"] == origin["results"]


def record() -> dict:
    return json.loads((FOLDER / DRAWN).read_text("utf-8"))


def test_every_committed_figure_was_drawn_from_the_committed_tables():
    assert {path.stem for path in FOLDER.glob("*.png")} - NEED_A_LOG == set(record())
    for name, entry in record().items():
        assert not changed(FOLDER, name, entry), f"{name}: {AGAIN}"


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_a_committed_figure_is_drawn_alike_again(name, tmp_path):
    """Pixel by pixel where matplotlib has the version that drew it; other versions place text a little differently."""
    if name not in record():  # its results are not committed; nor is it, as the test above says
        assert not (FOLDER / f"{name}.png").exists()
        return
    figure = FIGURES[name](Results(FOLDER))
    save_figure(figure, tmp_path, "again")
    plt.close(figure)
    if matplotlib.__version__ == record()[name]["matplotlib"]:
        ours, theirs = (plt.imread(path) for path in (tmp_path / "again.png", FOLDER / f"{name}.png"))
        assert ours.shape == theirs.shape
        differ = (np.abs(ours - theirs) > 0.05).any(axis=2).mean()
        assert differ < 1e-4, f"{differ:.2%} of the pixels of {name}.png differ; {AGAIN}"


def retrieval() -> pd.DataFrame:
    rows = [("one/test", s, m, p) for s, m, p in (("dense", 0.4, np.nan), ("latent terms", 0.5, 0.01))]
    table = pd.DataFrame(rows, columns=["collection", "system", "mean", "p_holm"])
    table = table.assign(measure="nDCG@10", n_docs=1200, n_queries=30, low=0.3, high=0.6, difference=0.1)
    return pd.concat([table, table.assign(measure="R@100")])


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "figures"
    folder.mkdir()
    retrieval().to_csv(folder / "retrieval.csv", index=False)
    sae, encoder = {"width": 16384, "k": 16, "d": 384}, {"max_length": 256, "layer": 6}
    config = {"model": {"sae": sae, "encoder": encoder}, "tuned": {"k1": 1.5}}
    (folder / "retrieval.json").write_text(json.dumps({"config": config, "date": "2026-01-01", "machine": "m"}))
    return folder


def test_macros_are_made_of_results_and_what_is_missing_is_said(folder):
    text = r"\val{retrieval/mean/latent" + "\n" + r"terms} \val{retrieval/width} \val{limit/largest} \claim{zipf} 12"
    lines = macros(text, folder).splitlines()[1:]
    assert lines == [
        r"\expandafter\def\csname val@claims/zipf\endcsname{--}",
        r"\expandafter\def\csname val@limit/largest\endcsname{--}",
        r"\expandafter\def\csname val@retrieval/mean/latent terms\endcsname{0.500}",
        r"\expandafter\def\csname val@retrieval/width\endcsname{16,384}",
    ]


@pytest.mark.parametrize(
    ("verdict", "published", "expected"),
    [("holds", "0.2", "0.1 [0, 1] (published 0.2; holds)"), ("holds", "–", "0.1 [0, 1] (holds)"),
     ("does not hold here", "0.2", "0.1 [0, 1] (published 0.2; does not hold here: undecided)"),
     ("not tested", "0.2", "0.1 [0, 1] (not tested)")],
)  # fmt: skip
def test_a_claim_is_said_with_its_verdict(folder, verdict, published, expected):
    row = {"key": "zipf", "source": "SPLARE", "published": published, "ours": "0.1 [0, 1]", "verdict": verdict}
    rows = [row | {"why": "undecided"}] * 2 + [row | {"key": "tuned", "source": "ours", "why": "undecided"}]
    pd.DataFrame(rows).to_csv(folder / "claims.csv", index=False)
    text = r"\claim{zipf} \claim{zipf-2} \val{claims/count} \val{claims/count/undecided}"
    lines = macros(text, folder).splitlines()[1:]
    assert lines == [
        r"\expandafter\def\csname val@claims/count\endcsname{1}",  # of others, each once; what is ours is not counted
        r"\expandafter\def\csname val@claims/count/undecided\endcsname{1}",
        rf"\expandafter\def\csname val@claims/zipf\endcsname{{{expected.replace('–', '--')}}}",
        rf"\expandafter\def\csname val@claims/zipf-2\endcsname{{{expected.replace('–', '--')}}}",
    ]


def write_the_others(folder) -> None:
    """Write tables with the columns and rows that the paper's numbers are read from, all but those of claims."""

    def write(name: str, table: pd.DataFrame, **config) -> None:
        table.to_csv(folder / f"{name}.csv", index=False)
        (folder / f"{name}.json").write_text(json.dumps({"config": config}))

    systems = ("lexical BM25", "dense", "latent terms", "latent terms, tuned")
    origin = json.loads((folder / "retrieval.json").read_text())
    origin["config"]["tuned"]["b"] = 0.35
    (folder / "retrieval.json").write_text(json.dumps(origin))
    ranked = (*systems, "dense + words, weighted", "latent terms + words", "all of one pass")
    pd.concat([retrieval().assign(system=system) for system in ranked]).to_csv(folder / "retrieval.csv", index=False)
    found = (*systems, "latent terms + words", "SPLADE")
    rows = [(n, m, s, 0.5, 0.25) for n in (46, 50_000) for m in ("R@10", "R@100") for s in found]
    write("limit", pd.DataFrame(rows, columns=["n_docs", "measure", "system", "mean", "kept"]))
    zipf = pd.DataFrame({"vocabulary": ["latents", "words"], "exponent": [1.0, 1.5], "n_once": [1, 50]})
    write("zipf", zipf.assign(collection="one/test", n_terms=100, n_tail=20, query_share=[0.1, 0.01]))
    write("families", pd.DataFrame({"half": [0.3, 0.5], "kappa": [0.36, 0.32]}))
    kinds = ["exact", "dense, every document", "lexical BM25", "SPLADE, exact", "queries pruned", "queries pruned"]
    latency = pd.DataFrame({"kind": kinds, "median_ms": [1.234, 2, 3, 4, 5, 6], "nDCG@10": 0.5})
    write("latency", latency, n_docs=100_000, postings_per_document=350.7, postings_per_query=84_652.9)
    pruning = pd.DataFrame({"kind": ["none", "document top"], "value": [1, 100], "query_share": [1, 0.49]})
    write("pruning", pruning.assign(collection="one/test", postings_share=[1, 0.31]))
    size = {"width": 2048, "k": 16, "tokens": 400_000, "epochs": 2, "n_seeds": 5}
    write("layers", pd.DataFrame({"layer": [0]}), size=size, training_text={"what": "a text"})
    recurring = [(kind, cosine, cosine / 2) for kind in ("latents", "chance") for cosine in np.linspace(0, 1, 101)]
    write("seeds_recurrence", pd.DataFrame(recurring, columns=["kind", "cosine", "share"]))
    pairs = pd.DataFrame({"pair": ["two seeds", "seed 0 and lexical BM25"], "mean": [0.75, 0.25]})
    write("seeds_agreement", pairs.assign(collection="one/test"))
    names = ["activation: BatchTopK", "activation: BatchTopK, per-token"]
    counted = pd.DataFrame({"variant": names, "median": [3, 17], "high": [126.4, 25]})
    write("ablations_latents", counted.assign(correlation=[0.912, 0.093]))
    rows = [("", "baseline", np.nan, 0.6), ("normalisation", "normalisation: per-token", -0.03, 0.5)]
    rows += [("tokens", "tokens: 25", -0.2, 0.7), ("tokens", "tokens: 9,000 (all)", 0.01, 0.41)]
    table = pd.DataFrame(rows, columns=["factor", "variant", "difference", "fvu"]).assign(collection="one/test")
    table["level"] = table["variant"].str.split(": ").str[-1]
    ends = {"difference_low": table["difference"] - 0.02, "difference_high": table["difference"] + 0.02}
    write("ablations", table.assign(**ends))
    rows = {"collection": ["one/test", "two/test"], "system": "latent terms", "measure": "nDCG@10", "seeds": [5.0, 5.0]}
    spread = {"difference": [0.02, -0.01], "difference_low": [0.01, -0.05], "difference_high": [0.05, -0.005]}
    means = pd.DataFrame(rows | spread | {"p_holm": [0.01, 0.02], "seed_sd": [0.004, 0.0061]})
    write("backbones", pd.concat([_of_retriever(means, name) for name in PUBLISHED_DENSE.index]))
    shares = [(name, layer, layer * 0.25) for name in PUBLISHED_DENSE.index for layer in (0, 1, 2)]
    write("backbones_states", pd.DataFrame(shares, columns=["backbone", "layer", "share"]))
    ways = ["topk", "gated", "kron", "itda", "topk, whole texts", "endtoend", "gradient"]
    ways = pd.DataFrame({"variant": ways, "mean": 0.5, "difference": [np.nan, 0.03, -0.1, -0.2, 0, 0, 0], "fvu": 0.25})
    ways = ways.assign(p_holm=[np.nan, 0.01, 0.01, 0.2, 1, 1, 1], reach=0.012, scaled=False, matched=True)
    ways.loc[2, "matched"] = False
    ways = ways.assign(difference_low=ways["difference"] - 0.01, difference_high=ways["difference"] + 0.01)
    size = {"width": 2048, "k": 16, "tokens": 400_000, "n_docs": 1_400}
    write("variants", ways, size=size)
    tokens = pd.DataFrame({"tokens": [100_000, 1_600_000], "agreement": [0.31, 0.522]})
    write("variants_tokens", tokens)
    write("variants_runs", pd.DataFrame({"variant": ["topk", "ortsae"], "distinct": [1.0, 0.98]}))
    write("variants_absorption", pd.DataFrame({"label": ["-s", "-s", "-ed", "-x"], "n": [5, 6, 7, np.nan]}))
    steered = pd.DataFrame({"vocabulary": ["latents", "latents of embeddings", "latents of embeddings, decoded"]})
    steered = steered.assign(collection="mean, limit left out", system="silenced", n=16, n_pairs=1234)
    for column, value in (("gap", 1.25), ("difference", -0.01)):
        steered = steered.assign(**{column: value, f"{column}_low": value - 0.1, f"{column}_high": value + 0.1})
    write("steering", steered)
    ranked = ["dense", "latents of embeddings", "latents of embeddings, decoded", "latent terms, tuned"]
    ranked = pd.DataFrame({"system": ranked, "collection": "mean, limit left out", "difference": -0.1})
    write("steering_rankings", ranked.assign(difference_low=-0.2, difference_high=0.1))
    trained = ["dense", "dense, finetuned", "latent terms, tuned", "SPLARE's readout, untrained", "SPLARE, trained"]
    facts = {"size": {"n_docs": 400, "n_seeds": 3, "batch_size": 32, "max_length": 64}, "pairs": {"n": 2_000}}
    write(
        "splare",
        pd.DataFrame({"system": trained, "collection": "mean, limit left out", "mean": 0.5, "dead": 0.1}),
        **facts,
    )
    pairs = [*zip(trained[1::3], (trained[0], trained[3]), strict=True), ("SPLARE, trained, by BM25", trained[2])]
    pairs.append((f"{trained[4]}, top 40 and 400", "vocabulary head, trained, top 40 and 400"))
    pairs = pd.DataFrame(pairs, columns=["system", "reference"]).assign(collection="mean, limit left out")
    write("splare_contrasts", pairs.assign(difference=0.03, difference_low=0.01, difference_high=0.05))
    by_pairs = [
        f"{kind}, {n} pairs"
        for kind in (trained[4], "vocabulary head, trained", trained[1])
        for n in ("8,000", "2,000")
    ]
    write("splare_pairs", pd.DataFrame({"n_pairs": [2_000.0, 8_000.0, np.nan]}))
    named = [*zip(by_pairs[::2], by_pairs[1::2], strict=True), (by_pairs[0], by_pairs[2])]
    named += [tuple(f"{kind}, top 40 and 400" for kind in named[-1]), (f"{by_pairs[0]}, top 40 and 400", trained[2])]
    more = pd.DataFrame(named, columns=["system", "reference"]).assign(collection="mean, limit left out")
    write("splare_pairs_contrasts", more.assign(difference=0.02, difference_low=0.01, difference_high=0.03))
    timed = pd.DataFrame({"system": [trained[2], pairs["system"].iloc[-1]], "median_ms": 1.234, "n_docs": 100_000})
    write("splare_latency", timed)
    few = ["CSR, 32", "dense, truncated, 64", "dense, Matryoshka, 64"]
    for name, systems in (("csr", few), ("bottleneck", ["joint", "joint, of tokens"])):
        means = pd.DataFrame({"system": systems, "collection": "mean, limit left out", "mean": 0.5, "dead": 0.25})
        write(name, means, size={"width": 4_096, "k": 32, "csr_epochs": 5}, pairs={"n": 2_000})
    joint = [("joint", other) for other in ("autoencoder afterwards, of embeddings", "SPLARE, trained")]
    joint += [("joint, of tokens", other) for other in ("dense, finetuned", "SPLARE, trained")]
    joint.append(tuple(f"{system}, top 40 and 400" for system in ("joint, of tokens", "SPLARE, trained")))
    others = pd.DataFrame(joint, columns=["system", "reference"]).assign(collection="mean, limit left out")
    others = others.assign(difference=-0.02)
    write("bottleneck_contrasts", others.assign(difference_low=-0.04, difference_high=0.01))
    helped = re.findall(r"helped/change/([^}]+?) less ([^}]+)}", (PAPER / "paper.tex").read_text("utf-8"))
    assert set(helped) <= set(contrasts(SimpleNamespace(size=PROFILES["laptop"].learned)))  # as the study names them
    helped = pd.DataFrame(helped, columns=["system", "reference"]).assign(collection="mean, limit left out")
    write("helped_contrasts", helped.assign(difference=0.01, difference_low=-0.02, difference_high=0.03))
    start = pd.DataFrame({"system": ["joint, from a trained start"], "collection": "mean, limit left out"})
    size = {"help_negatives": 4, "n_seeds": 3, "top_by_idf": [80, 400]}
    write("helped", start.assign(mean=0.6, dead=0.5), size=size, pairs={"n": 2_000})
    timed = re.findall(r"helped/ms/([^}]+)}", (PAPER / "paper.tex").read_text("utf-8"))
    write("helped_latency", pd.DataFrame({"system": timed, "median_ms": 2.59, "n_docs": 100_000}))
    forms = pd.DataFrame({"collection": "mean, limit left out", "impacts": ["float32", "uint8"], "same_best": [1, 0.9]})
    forms = forms.assign(off=[0, 0.001], bytes_per_posting=[9.0, 3.0], difference=[np.nan, 0.0001])
    write("impacts", forms.assign(difference_low=-0.0002, difference_high=0.0003))
    write("csr_contrasts", others[:0].assign(difference_low=0, difference_high=0))
    corpora = pd.DataFrame({"corpora": ["a", "b", "a"], "vocabulary": ["latents", "latents", "words"]})
    write(
        "corpora",
        corpora.assign(
            label_auc=[0.7, 0.8, np.nan], label_control=[0.5, 0.5, np.nan], agree=[0.6, 0.9, np.nan], control=0.1
        ),
    )
    claims_study(folder / "none")[0].to_csv(folder / "claims.csv", index=False)


def _of_retriever(means, name):
    """Return the rows of a retriever of which a packaged model has been read; R@100 is in no mean."""
    means = means.assign(mean=0.5)
    systems = [means.assign(system=system) for system in ("latent terms", "latent terms, tuned", "all of one pass")]
    own = pd.DataFrame({"collection": ["beir/scifact/test", "beir/nfcorpus/test"], "mean": [0.64, 0.32]})
    own = own.assign(system="dense", measure="nDCG@10")
    return pd.concat([*systems, own, means.assign(measure="R@100", difference=0.5)]).assign(backbone=name)


def test_every_number_of_the_paper_is_one_that_the_results_have(folder):
    write_the_others(folder)
    lines = macros((PAPER / "paper.tex").read_text("utf-8"), folder).splitlines()
    numbers = dict(
        re.fullmatch(r"\\expandafter\\def\\csname val@(.*)\\endcsname\{(.*)\}", line).groups() for line in lines[1:]
    )
    assert "--" not in [number for key, number in numbers.items() if not key.startswith("claims/")]
    expected = {
        "limit/largest": "50,000",
        "limit/largest/dense/R@10/kept": r"25\%",
        "backbones/mean": f"{MEAN_CHANGE} with all-MiniLM-L6-v2 and {MEAN_CHANGE} with all-mpnet-base-v2",
        "backbones/all-mpnet-base-v2/all of one pass/change": MEAN_CHANGE,
        "backbones/all-mpnet-base-v2/published/scifact": "0.6557",
        "backbones/all-mpnet-base-v2/between": r"50\%",
        "backbones/better": "1 and 1",
        "backbones/worse": "1 and 1",
        "backbones/collections": "2",
        "backbones/seed sd": "0.006",
        "zipf/once/words": r"50.0\%",
        "latency/ms/exact": "1.23",
        "latency/a query": "84,653",
        "impacts/change": "+0.0001 [$-$0.0002, +0.0003]",
        "impacts/posting/uint8": "3.0",
        "steering/gap/latents/silenced": "+1.25 [+1.15, +1.35]",
        "steering/rank/latents of embeddings": "$-$0.100 [$-$0.200, +0.100]",
        "splare/pairs": "2,000",
        "splare/mean/dense, finetuned": "0.500",
        "splare/change/dense, finetuned less dense": "+0.030 [+0.010, +0.050]",
        "bottleneck/width": "4,096",
        "bottleneck/dead/joint": r"25\%",
        "bottleneck/change/joint less SPLARE, trained": "$-$0.020 [$-$0.040, +0.010]",
        "csr/mean/dense, Matryoshka, 64": "0.500",
        "helped/ms/latent terms, tuned": "2.6",
        "helped/documents": "100,000",
        "helped/query top": "80",
        "helped/dead/joint, from a trained start": r"50\%",
        "corpora/label": "0.70 to 0.80",
        "corpora/random label": "0.50",
        "pruning/stored": r"31\%",
        "sweeps/tokens": "400,000",
        "variants/ways": "6",
        "variants/endtoend/change": "+0.000 [$-$0.010, +0.010]",
        "splare/more pairs": "8,000",
        "splare/pairs/SPLARE, trained, more less SPLARE, trained, fewer": "+0.020 [+0.010, +0.030]",
        "variants/better ways": "gated +0.030",
        "variants/worse ways": "kron $-$0.100",
        "variants/unmatched": "kron",
        "variants/most/agreement": "0.52",
        "variants/distinct/ortsae": r"98\%",
        "variants/classes": "2",
        "seeds/recur/latents": r"35.0\%",  # half of the cosine 0.7
        "ablations/high/BatchTopK": "126",
        "ablations/correlation/BatchTopK": "0.91",
        "ablations/per-token": "$-$0.030 [$-$0.050, $-$0.010]",
        "ablations/most": "+0.010 [$-$0.010, +0.030]",
        "ablations/most/tokens": "9,000",
        "ablations/fvu/most": "0.41",
        "claims/count/not tested": numbers["claims/count"],
    }
    assert {key: numbers[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [(r"\val{retrival/width}", r"'retrival'.*retrieval, backbones"),
     (r"\val{retrieval/widht}", r"'retrieval'.*'widht'.*better/dense, better/latent terms")],
)  # fmt: skip
def test_a_number_that_no_result_gives_is_an_error(folder, text, message):
    with pytest.raises(ValueError, match=message):
        macros(text, folder)


def test_latex_is_escaped():
    assert escaped("a_b 5% & ↑") == r"a\_b 5\% \& $^\uparrow$"
    assert escaped("-0.5 [-1, 2]; x-1 2026-11-21 up-to") == "$-$0.5 [$-$1, 2]; x-1 2026-11-21 up-to"
    table = latex_table(pd.DataFrame({"a_b": ["x"], "n": [-1]}), "rl")
    assert table.splitlines() == [
        *(r"\begin{tabular}{rl}", r"\toprule", r"a\_b & n \\", r"\midrule"),
        *(r"x & $-$1 \\", r"\bottomrule", r"\end{tabular}"),
    ]


def test_a_heading_of_several_words_stands_in_two_lines():
    table = latex_table(pd.DataFrame({"collection": ["x"], "latent terms + lexical": [1], "dense": [2]}))
    assert table.splitlines()[2] == r"collection & \shortstack[r]{latent terms\\+ lexical} & dense \\"


def test_a_table_without_results_says_so(folder):
    texts = tables(folder)
    assert "one/test & 1,200 & 30 & 0.4000 & 0.5000" in texts["retrieval"]
    assert texts["limit"] == texts["claims"] == "\\emph{This table is not there yet.}\n"
    assert "Contriever + latent terms & 0.713" in texts["published"]


@pytest.mark.slow
def test_figures_that_are_not_of_their_tables_are_found_and_drawn_again(folder, monkeypatch):
    def entry() -> dict:
        return json.loads((folder / DRAWN).read_text())["retrieval"]

    picture = folder / "retrieval.png"
    assert redraw(folder) == ["retrieval"]
    assert redraw(folder) == []
    assert entry()["tables"] == {"retrieval.csv": digest_file(folder / "retrieval.csv")}
    assert set(entry()["files"]) == {"retrieval.png", "retrieval.pdf"}
    before = picture.read_bytes()
    retrieval().assign(mean=0.1).to_csv(folder / "retrieval.csv", index=False)
    assert changed(folder, "retrieval", entry()) == ["retrieval.csv"]
    assert redraw(folder) == ["retrieval"] and picture.read_bytes() != before
    picture.write_bytes(before)  # a picture of other results
    assert changed(folder, "retrieval", entry()) == ["retrieval.png"]
    assert redraw(folder) == ["retrieval"] and picture.read_bytes() != before
    monkeypatch.setitem(FIGURES, "retrieval", lambda results: plot(results["retrieval"]))  # other code, the same table
    assert redraw(folder) == ["retrieval"] and not changed(folder, "retrieval", entry())


@pytest.mark.slow
def test_a_figure_of_another_matplotlib_is_left_alone_while_its_table_stays(folder, monkeypatch):
    redraw(folder)
    monkeypatch.setattr(matplotlib, "__version__", "99.0")
    assert redraw(folder) == []
    retrieval().assign(mean=0.1).to_csv(folder / "retrieval.csv", index=False)
    assert redraw(folder) == ["retrieval"]


def plot(table: pd.DataFrame) -> plt.Figure:
    figure, axes = plt.subplots()
    axes.plot(table["mean"])
    return figure


@pytest.mark.slow
def test_the_command_writes_everything(folder, tmp_path):
    paper = tmp_path / "paper"
    paper.mkdir()
    (paper / "paper.tex").write_text(r"\val{retrieval/k}")
    main(folder, paper)
    assert {path.name for path in (paper / "tables").iterdir()} == {f"{name}.tex" for name in TABLES}
    assert r"\csname val@retrieval/k\endcsname{16}" in (paper / "macros.tex").read_text()
