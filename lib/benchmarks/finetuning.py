"""`python -m lib.benchmarks.finetuning`: what each kind of finetuned retriever costs, beside the dense one.

A row is a kind of `lib.learned.models.KINDS` with its defaults, trained for a few steps on the same pairs: milliseconds
of a step, as a multiple of the dense retriever's, seconds of all, with what comes before and after the steps (of `csr`
the embeddings of all texts, which it reads from then on), and the latents of an average document and query.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from sentence_transformers import SparseEncoder

from lib.encode.encoder import TokenEncoder
from lib.latent_terms import LatentTerms
from lib.learned.log import LOG
from lib.learned.models import KINDS
from lib.learned.pairs import Pairs, load_pairs
from lib.learned.retriever import LearnedRetriever
from lib.learned.train import FinetuneConfig, finetune, load_base
from lib.support.checks import check_count
from lib.support.progress import log_to_stderr

CONTROL = "dense"
_ROWS = 100  # pairs whose latents are counted, at most


def table(base: LatentTerms | TokenEncoder, pairs: Pairs, config: FinetuneConfig) -> Iterator[dict[str, float | str]]:
    """Yield a row a kind, the control first."""
    control = np.nan
    for name in sorted(KINDS, key=lambda name: name != CONTROL):
        with TemporaryDirectory() as folder:
            start = time.perf_counter()
            model = finetune(KINDS[name](), pairs, Path(folder) / name, base=base, config=config)
            seconds = time.perf_counter() - start
            log = [json.loads(line) for line in (Path(folder) / name / LOG).read_text("utf-8").splitlines()]
        step = 1e3 * log[-1]["train_runtime"] / log[-1]["step"]
        control = step if name == CONTROL else control
        row = {"kind": name, "step_ms": step, "times_dense": step / control, "all_s": seconds}
        if isinstance(model, SparseEncoder):
            retriever = LearnedRetriever(model)
            docs = retriever.encode_documents(pairs.positives[:_ROWS], progress=False)
            queries = retriever.encode_queries(pairs.queries[:_ROWS], progress=False)
            row |= {"doc_terms": docs.nnz / docs.shape[0], "query_terms": queries.nnz / queries.shape[0]}
        yield row


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m lib.benchmarks.finetuning", description=__doc__)
    add = parser.add_argument
    add("--base", help="Folder or name of a LatentTerms; by default the packaged model.")
    add("--pairs", default="pydoc/train", help="What load_pairs takes.")
    add("--steps", type=int, default=10, help="Steps of each kind.")
    add("--batch-size", type=int, default=32, help="Pairs of a step.")
    add("--max-length", type=int, default=128, help="Tokens of a text, at most.")
    add("--bf16", action="store_true", help="Compute products in bfloat16.")
    add("--out", type=Path, help="CSV file for the table.")
    args = parser.parse_args()
    log_to_stderr()
    steps = check_count(args.steps, "steps")
    config = FinetuneConfig(
        steps=steps, batch_size=args.batch_size, max_length=args.max_length, every=steps, bf16=args.bf16
    )
    load = os.getloadavg()[0]
    pairs = load_pairs(args.pairs).sample(2 * steps * config.batch_size)
    rows = pd.DataFrame(table(load_base(args.base), pairs, config))
    print(f"{pairs}, load average before {load:.1f}")
    print(rows.round(2).to_string(index=False, na_rep=""))
    if args.out:
        rows.to_csv(args.out, index=False)


if __name__ == "__main__":
    main()
