"""The table over retrievers (22_backbones), for the README and the paper."""

import pandas as pd

from lib.report.common import markdown_table, significant
from lib.studies.names import DENSE, LATENT, LATENT_WORDS, MEASURE, ONE_PASS, TUNED
from lib.studies.results import Results, mean_of, without_limit

SYSTEMS = (LATENT, TUNED, LATENT_WORDS, ONE_PASS)  # that are compared with a retriever's own ranking


def retrievers_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row a retriever of one vector a text: its mean nDCG@10, and what each system changes, as text.

    A change is the mean over the collections but `limit` with its interval, then on how many of them the system is
    significantly better and worse than the retriever's own ranking ("+6 -1"). "--" is a system without a packaged
    model.
    """
    rows = without_limit(table[table["measure"] == MEASURE])
    lines = []
    for retriever, part in rows.groupby("backbone", sort=False):
        by_system = dict(list(part.groupby("system")))
        if DENSE in by_system:
            changes = {system: _change(by_system.get(system)) for system in SYSTEMS}
            lines.append({"retriever": retriever, DENSE: f"{by_system[DENSE]['mean'].mean():.3f}"} | changes)
    return pd.DataFrame(lines)


def retrievers_in_words(results: Results) -> str:
    """Return what the README says of several retrievers, "" where there are not two in the results."""
    try:
        table = retrievers_table(results["backbones"])
    except FileNotFoundError:
        return ""
    n = without_limit(results["backbones"])["collection"].nunique()
    note = (
        f"Means over the {n} collections but `limit`; by how much each system differs, on how many it is significantly "
        f"better and worse. *{LATENT}*: untuned, of small autoencoders; the others: of the packaged models. Retrievers "
        "in the machine's own dtype."
    )
    return f"{markdown_table(table)}\n\n{note}" if len(table) > 1 else ""


def _change(rows: pd.DataFrame | None) -> str:
    if rows is None:
        return "--"
    mean, low, high = mean_of(rows)
    differs, higher = significant(rows), rows["difference"] > 0
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}], +{(differs & higher).sum()} -{(differs & ~higher).sum()}"
