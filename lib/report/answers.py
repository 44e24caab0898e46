"""What the tables of the studies that train autoencoders say, in sentences with their intervals and tests.

Every difference is to the table's baseline. One that Holm's correction leaves at p >= 0.05 is called "not told apart".
"""

import numpy as np
import pandas as pd

from lib.report.autoencoders import SAME
from lib.report.common import SIGNIFICANT


def layers_in_words(summary: pd.DataFrame) -> str:
    """Say, of each collection, which layer is best in either readout and which are told apart from the final one."""
    lines = []
    for name, rows in summary.groupby("collection", sort=False):
        final = rows[rows["difference"].isna()].iloc[0]
        by_readout = {readout: own.set_index("layer") for readout, own in rows.groupby("readout")}
        latent, splade = by_readout["latent terms"], by_readout["SPLADE-style"]
        best, best_splade = latent["mean"].idxmax(), splade["mean"].idxmax()
        lines.append(
            f"{name}: latent terms of the final layer ({final['layer']}) have nDCG@10 {_interval(final)}. The best "
            f"layer is {best} with {_interval(latent.loc[best])}. {_told_apart(latent, 'Layers')} "
            f"Read as SPLARE does, the best layer is {best_splade} with {_interval(splade.loc[best_splade])}, and the "
            f"final layer is {_difference(splade.loc[final['layer']])}. The lowest FVU has layer "
            f"{latent['fvu'].idxmin()}. Zipf's exponent is {latent['exponent'].min():.2f} to "
            f"{latent['exponent'].max():.2f} over the layers, {final['exponent']:.2f} "
            f"[{final['exponent_low']:.2f}, {final['exponent_high']:.2f}] at the final one."
        )
    return "\n".join(lines)


def width_k_in_words(summary: pd.DataFrame, trend: pd.DataFrame) -> str:
    """Say by how much nDCG@10 changes with each doubling of the width and of k, and which sizes are told apart."""
    lines, nouns = [], {"width": "the width", "k": "k"}
    for name, rows in summary.groupby("collection", sort=False):
        baseline = rows[rows["difference"].isna()].iloc[0]
        parts = [f"{name}: nDCG@10 is {_interval(baseline)} at width {baseline['width']:,}, k {baseline['k']}."]
        for field, other in (("width", "k"), ("k", "width")):
            slope = trend[(trend["collection"] == name) & (trend["field"] == field)].iloc[0]
            verdict = "no trend is told" if slope["low"] <= 0 <= slope["high"] else "a trend"
            parts.append(
                f"Each doubling of {nouns[field]}, from {slope['smallest']:,} to {slope['largest']:,}, changes it by "
                f"{slope['slope']:+.4f} [{slope['low']:+.4f}, {slope['high']:+.4f}]: {verdict}."
            )
            own = rows[rows[other] == baseline[other]].set_index(field)
            parts.append(_told_apart(own, {"width": "Widths", "k": "Values of k"}[field]))
        lines.append(" ".join(parts))
    return "\n".join(lines)


def ablations_in_words(summary: pd.DataFrame, surface: pd.DataFrame) -> str:
    """Say which changes are told apart from the baseline, next to what another seed does, and what k1 and b move."""
    lines = []
    for name, rows in summary.groupby("collection", sort=False):
        changed = rows[rows["difference"].notna()].set_index("variant")
        told = changed[changed["p_holm"] < SIGNIFICANT].sort_values("difference")
        worse = [f"{variant} {_signed(row)}" for variant, row in told[told["difference"] < 0].iterrows()]
        better = [f"{variant} {_signed(row)}" for variant, row in told[told["difference"] > 0].iloc[::-1].iterrows()]
        idle = changed[(changed["difference_low"] == 0) & (changed["difference_high"] == 0)].index
        without = f"Without any effect on a query: {', '.join(idle)}. " if len(idle) else ""
        grid = surface[surface["collection"] == name].sort_values("mean")
        best = grid.iloc[-1]
        gain = f"{best['difference']:+.3f} [{best['low']:+.3f}, {best['high']:+.3f}]"
        lines.append(
            f"{name}: of {len(changed)} changes, {len(changed) - len(told)} are not told apart from the baseline "
            f"({_interval(rows[rows['difference'].isna()].iloc[0])}). Worse: {', '.join(worse) or 'none'}. Better: "
            f"{', '.join(better) or 'none'}. {without}Another seed alone: {_signed(changed.loc['seed: 1'])}. Over k1 "
            f"and b nDCG@10 is {grid['mean'].iloc[0]:.3f} to {best['mean']:.3f}; the best of the {len(grid)} points, "
            f"k1 = {best['k1']:g}, b = {best['b']:g}, is {gain} from the paper's, but it was chosen on these queries."
        )
    return "\n".join(lines)


def tokens_in_words(summary: pd.DataFrame) -> str:
    """Say what the fewest and the most tokens to train on give: the variance left unexplained, and nDCG@10."""
    lines = []
    for name, rows in summary.groupby("collection", sort=False):
        counts, baseline = rows[rows["factor"] == "tokens"], rows[rows["difference"].isna()].iloc[0]
        fewest, most = counts.iloc[0], counts.iloc[-1]
        lines.append(
            f"{name}: autoencoders trained on {fewest['level']} to {most['level']} tokens leave {fewest['fvu']:.3f} to "
            f"{most['fvu']:.3f} of the variance unexplained, the baseline {baseline['fvu']:.3f}. In nDCG@10 the one of "
            f"the fewest is {_difference(fewest)}, the one of the most {_difference(most)}."
        )
    return "\n".join(lines)


def latents_a_token_in_words(counted: pd.DataFrame) -> str:
    """Say how unevenly the latents of each activation are spread over tokens, and whether long states have more."""
    lines = [
        f"Of the {counted['n_tokens'].iloc[0]:,} tokens of the first documents of {counted['collection'].iloc[0]}:"
    ]
    for row in counted.itertuples():
        if np.isnan(row.correlation):
            lines.append(f"{row.variant}: {row.mean:.1f} latents each.")
            continue
        lines.append(
            f"{row.variant}: {row.mean:.1f} latents on average, {row.median:.0f} in the median, nine tenths of the "
            f"tokens have {row.low:.0f} to {row.high:.0f}; the correlation with a state's distance from the mean is "
            f"{row.correlation:.2f}."
        )
    return "\n".join(lines)


def retrieval_training_in_words(summary: pd.DataFrame) -> str:
    """Say how far the models that never learned to retrieve, and words, are from the retriever."""
    lines = []
    for name, rows in summary.groupby("collection", sort=False):
        rows = rows.set_index("variant")
        others = [
            f"{variant} {_interval(row)}, {_difference(row)}"
            for variant, row in rows.drop(index="retriever").iterrows()
        ]
        lines.append(f"{name}: the retriever has nDCG@10 {_interval(rows.loc['retriever'])}; {'; '.join(others)}.")
    return "\n".join(lines)


def seeds_in_words(summary: pd.DataFrame, recurring: pd.DataFrame, agreement: pd.DataFrame) -> str:
    """Say how far runs that differ in the seed only agree in quality, latents and rankings, and what joining gives."""
    shares = recurring[np.isclose(recurring["cosine"], SAME)].set_index("kind")
    lines = [
        f"At a cosine of {SAME} or more, {_share(shares.loc['latents'])} of the latents of a run recur in another "
        f"(pairs of runs: lowest and highest), {_share(shares.loc['every run'])} in every other run, and "
        f"{_share(shares.loc['firings'])} of the firings are of latents that recur; with random directions in the "
        f"place of the other run it would be {shares.loc['chance', 'share']:.1%}."
    ]
    pairs = agreement.set_index(["collection", "pair"])
    for name, rows in summary.groupby("collection", sort=False):
        runs = rows[rows["seed"].notna()]
        told = int((runs["p_holm"] < SIGNIFICANT).sum())
        half = (runs["high"] - runs["low"]).mean() / 2
        both = [pairs.loc[(name, pair)] for pair in ("two seeds", "seed 0 and lexical BM25")]
        lines.append(
            f"{name}: nDCG@10 over {len(runs)} seeds is {runs['mean'].mean():.3f}, standard deviation "
            f"{runs['mean'].std():.4f}, from {runs['mean'].min():.3f} to {runs['mean'].max():.3f} (the choice of "
            f"queries alone leaves ±{half:.3f}); {told} of {len(runs) - 1} seeds are told apart from seed 0. The "
            f"top tens of two seeds have a rank-biased overlap of {_interval(both[0])}, those of a seed and lexical "
            f"BM25 of {_interval(both[1])}."
        )
        for _, row in rows[rows["joined"].notna()].iterrows():
            lines.append(f"{name}, {row['variant']}: nDCG@10 {_interval(row)}, beside seed 0 {_difference(row)}.")
    return "\n".join(lines)


def _told_apart(rows: pd.DataFrame, what: str) -> str:
    """Say which rows, named by their index, differ from the baseline in which direction."""
    others = rows[rows["difference"].notna()].sort_index()
    told = others["p_holm"] < SIGNIFICANT
    kinds = {
        "worse than the baseline": others[told & (others["difference"] < 0)],
        "better than the baseline": others[told & (others["difference"] > 0)],
        "not told apart from the baseline": others[~told],
    }
    parts = [f"{kind}: {', '.join(f'{at:,}' for at in own.index)}" for kind, own in kinds.items() if len(own)]
    return f"{what} {'; '.join(parts)}."


def _interval(row: pd.Series) -> str:
    return f"{row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def _signed(row: pd.Series) -> str:
    return f"{row['difference']:+.3f} [{row['difference_low']:+.3f}, {row['difference_high']:+.3f}]"


def _difference(row: pd.Series) -> str:
    """Say what the test against the baseline says of a row."""
    if not row["p_holm"] < SIGNIFICANT:
        return f"not told apart from it ({_signed(row)})"
    return f"{'better' if row['difference'] > 0 else 'worse'} ({_signed(row)})"


def _share(row: pd.Series) -> str:
    return f"{row['share']:.1%} ({row['lowest']:.1%} to {row['highest']:.1%})"
