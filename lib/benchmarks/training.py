"""`python -m lib.benchmarks.training`: what a training step costs, beside the one product that it cannot do without.

Every competitor makes whole steps on the same batch, as its trainer does: loss with AuxK, gradients, their scaling or
clipping, the same fused AdamW, unit norm of the decoder rows. They take turns within one run, so that whatever else the
machine does slows all of them.

With `--fvu-tokens N`, what the steps are worth instead: from the same weights, all are trained on N token states of the
standard library's docstrings, in the same order and at the same learning rates, and the fraction of variance that each
leaves unexplained (FVU) of states it was not trained on is printed. No latent is given to AuxK as dead.
"""

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pandas as pd
import torch

from lib.benchmarks import measure
from lib.benchmarks.peers import OURS, REFERENCE, competitors, ours
from lib.data.collection import load_collection
from lib.encode.encoder import TokenEncoder
from lib.sae.activations import ACTIVATIONS
from lib.sae.kernels import unexplained
from lib.sae.training import SELECT_DTYPES, TrainingConfig, learning_rate_factor
from lib.support.devices import DTYPES
from lib.support.progress import log_to_stderr, progress

PRODUCT = "bare product"
HELD_OUT = 16_384  # token states that FVU is measured on
Step = Callable[[], object]


def _products(states: torch.Tensor, config: TrainingConfig) -> dict[str, Step]:
    """The product of states and encoder, in the dtype that we select in: into memory at hand, and into fresh memory."""
    dtype = DTYPES[config.select_dtype]
    inputs = states.to(dtype)
    columns = torch.randn(config.width, states.shape[1], generator=torch.Generator().manual_seed(1)).to(dtype).T
    out = inputs.new_empty(len(inputs), config.width)
    return {
        PRODUCT: lambda: torch.mm(inputs, columns, out=out),
        "bare product, fresh memory": lambda: inputs @ columns,
    }


def steps_to_time(
    d: int, config: TrainingConfig, share_dead: float, activations: Sequence[str] = ()
) -> dict[str, Step]:
    """Return, by name, the product alone and a step of each competitor on the same batch of random states [n, d].

    AuxK is given the share `share_dead` of the latents as dead. `activations` are further ones of ours.
    """
    config = config.resolved()
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(config.batch_tokens, d, generator=generator) + torch.randn(d, generator=generator)
    dead = torch.arange(config.width) < share_dead * config.width
    everyone = competitors(states, config)
    steps: dict[str, Step] = {
        name: lambda competitor=competitor: competitor.step(states, dead) for name, competitor in everyone.items()
    }
    none_dead = ours(states, config)
    steps[f"{OURS}, none dead"] = lambda: none_dead.step(states, torch.zeros_like(dead))
    in_int8 = ours(states, replace(config, select_dtype="int8"))
    steps[f"{OURS}, latents found in int8"] = lambda: in_int8.step(states, dead)
    for name in activations:
        other = ours(states, replace(config, activation=name))
        steps[f"{OURS}, {name}"] = lambda other=other: other.step(states, dead)
    return _products(states, config) | steps


def speed_table(
    d: int,
    widths: list[int],
    config: TrainingConfig,
    share_dead: float,
    repeats: int,
    activations: Sequence[str] = (),
) -> pd.DataFrame:
    """Return a row for each width and competitor: seconds and tokens a second, and both beside the product and us."""
    frames = []
    for width in widths:
        seconds = pd.Series(measure(steps_to_time(d, replace(config, width=width), share_dead, activations), repeats))
        columns = {
            "width": width,
            "ms a step": 1e3 * seconds,
            "tokens/s": config.batch_tokens / seconds,
            "times the product": seconds / seconds[PRODUCT],
            "times ours": seconds / seconds[OURS],
        }
        frames.append(pd.DataFrame(columns).rename_axis("step").reset_index())
    return pd.concat(frames, ignore_index=True)


def pydoc_states(encoder: TokenEncoder, n: int, seed: int) -> torch.Tensor:
    """Return the first `n` token states of the standard library's docstrings in random order, float32 [n, d]."""
    texts = load_collection("pydoc").doc_texts
    texts = [texts[i] for i in np.random.default_rng(seed).permutation(len(texts))]
    available = sum(encoder.count_tokens(texts))
    if n > available:
        raise ValueError(f"The docstrings have {available} tokens, {n} are needed, {HELD_OUT} of them to measure FVU.")
    states, n_read = [], 0
    for block in encoder.stream(texts):
        states.append(block.states.cpu())
        n_read += len(block.states)
        if n_read >= n:
            break
    return torch.cat(states)[:n]


def fvus(states: torch.Tensor, held_out: torch.Tensor, config: TrainingConfig) -> dict[str, float]:
    """Train every competitor on states [n, d], once through, and return its FVU of the states held out [m, d].

    Ours takes part with the product that selects the latents in each dtype, and with gradients clipped as SAELens' are,
    which is where that trainer differs from the others.
    """
    if len(states) < config.batch_tokens:
        raise ValueError(
            f"{len(states)} tokens are less than one batch of {config.batch_tokens}; train on more, or in smaller ones."
        )
    everyone = competitors(states, config)
    del everyone[OURS]
    for dtype in SELECT_DTYPES:
        everyone[f"{OURS}, {dtype} product"] = ours(states, replace(config, select_dtype=dtype))
    everyone[f"{OURS}, clipped"] = ours(states, replace(config, select_dtype="float32"), clip=True)
    none_dead = torch.zeros(config.width, dtype=torch.bool)
    n_steps = len(states) // config.batch_tokens
    order = torch.randperm(len(states), generator=torch.Generator().manual_seed(config.seed))
    batches = order[: n_steps * config.batch_tokens].split(config.batch_tokens)
    shown = progress(batches, what=f"width {config.width}", unit="steps", total=n_steps)
    for number, rows in enumerate(shown):
        for competitor in everyone.values():
            rate = config.learning_rate * learning_rate_factor(number, n_steps, config.warmup)
            competitor.optimizer.param_groups[0]["lr"] = rate
            competitor.step(states[rows], none_dead)
    mean = states.mean(dim=0)
    with torch.no_grad():
        return {name: unexplained(held_out, who.reconstruct(held_out), mean).item() for name, who in everyone.items()}


def fvu_table(states: torch.Tensor, widths: list[int], config: TrainingConfig) -> pd.DataFrame:
    """Return a row for each width and competitor: its FVU, and by how much the reference's differs.

    Of the states, float32 [n, d], the last `HELD_OUT` are not trained on, but measured.
    """
    rows = []
    for width in widths:
        values = fvus(states[:-HELD_OUT], states[-HELD_OUT:], replace(config, width=width))
        for name, fvu in values.items():
            rows.append({"width": width, "who": name, "FVU": fvu, "beside the reference": fvu / values[REFERENCE] - 1})
    return pd.DataFrame(rows)


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m lib.benchmarks.training", description=__doc__)
    add = parser.add_argument
    add("--widths", type=int, nargs="+", default=[8_192, 32_768], help="Numbers of latents.")
    add("--k", type=int, default=16, help="Latents of a token.")
    add("--batch-tokens", type=int, default=4_096, help="Token states of a step.")
    add("--d", type=int, help="Size of the random states that time is measured on; by default 384.")
    add("--model", help="Retriever whose states FVU is measured on; by default the packaged all-MiniLM-L6-v2.")
    add("--share-dead", type=float, default=0.01, help="Share of latents given to AuxK as dead.")
    add("--repeats", type=int, default=7, help="Turns of each competitor that are measured.")
    about = "Time steps with these activations, too, or with all; each has weights and an optimiser in memory."
    add("--activations", nargs="*", default=[], metavar="NAME", help=about)
    add("--fvu-tokens", type=int, default=0, help="Train on this many tokens and compare FVU instead of time.")
    args = parser.parse_args()
    if (args.d if args.fvu_tokens else args.model) is not None:
        parser.error("--d is for times and --model for FVU (with --fvu-tokens); give one of the two.")
    if args.activations == ["all"]:
        args.activations = [name for name in ACTIVATIONS if name != "topk"]
    log_to_stderr()
    for module in ("sparsify", "sae_lens"):
        if not find_spec(module):
            print(f"{module} is not installed; pip install -e '.[bench]' for it.")
    config = TrainingConfig(width=max(args.widths), k=args.k, batch_tokens=args.batch_tokens)
    load = f"load average before {os.getloadavg()[0]:.1f}"
    if args.fvu_tokens:
        states = pydoc_states(TokenEncoder(args.model, dtype="float32"), args.fvu_tokens + HELD_OUT, config.seed)
        result = fvu_table(states, args.widths, config)
    else:
        result = speed_table(args.d or 384, args.widths, config, args.share_dead, args.repeats, args.activations)
    dtype = config.resolved().select_dtype
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, products in {dtype}, {load}")
    formats = {
        "ms a step": "{:.0f}",
        "tokens/s": "{:.0f}",
        "times the product": "{:.2f}",
        "times ours": "{:.2f}",
        "FVU": "{:.4f}",
        "beside the reference": "{:+.2%}",
    }
    print(result.to_string(index=False, formatters={name: form.format for name, form in formats.items()}))


if __name__ == "__main__":
    main()
