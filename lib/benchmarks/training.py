"""`python -m lib.benchmarks.training`: what a training step costs, beside the one product that it cannot do without.

Every competitor makes whole steps on the same batch: loss with AuxK, gradients, the same fused AdamW, unit norm of the
decoder rows. They take turns within one run, so that whatever else the machine does slows all of them.
"""

import argparse
import os
import time
from collections.abc import Callable
from importlib.util import find_spec

import pandas as pd
import torch
from tqdm import tqdm

from lib.encoder import DTYPES
from lib.kernels import Weights, reference_loss
from lib.training import TrainableAutoencoder, TrainingConfig

PRODUCT, OURS = "bare product", "this package"
AUXK = 1 / 32
Step = Callable[[], object]


def _optimiser(parameters) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0, fused=True)


def _products(states: torch.Tensor, width: int, config: TrainingConfig) -> dict[str, Step]:
    """The product of states and encoder, in the dtype that we select in: into memory at hand, and into fresh memory."""
    dtype = DTYPES[config.select_dtype]
    inputs = states.to(dtype)
    columns = torch.randn(width, states.shape[1], generator=torch.Generator().manual_seed(1)).to(dtype).T
    out = inputs.new_empty(len(inputs), width)
    return {
        PRODUCT: lambda: torch.mm(inputs, columns, out=out),
        "bare product, fresh memory": lambda: inputs @ columns,
    }


def _ours(states: torch.Tensor, dead: torch.Tensor, config: TrainingConfig) -> Step:
    mean = states.mean(dim=0)
    model = TrainableAutoencoder(mean, len(dead), torch.Generator().manual_seed(0))
    optimiser = _optimiser(model.parameters())
    silent = torch.zeros(len(dead), dtype=torch.int64)

    def step() -> None:
        result = model.backward(states, mean, dead, config)
        optimiser.step()
        model.normalise_decoder()
        silent.add_(len(states))
        silent[result.indices[result.values > 0]] = 0

    return step


def _reference(states: torch.Tensor, dead: torch.Tensor, config: TrainingConfig) -> Step:
    mean = states.mean(dim=0)
    model = TrainableAutoencoder(mean, len(dead), torch.Generator().manual_seed(0))
    optimiser = _optimiser(model.parameters())

    def step() -> None:
        weights = Weights(model.W_enc, model.b_enc, model.W_dec, model.b_pre)
        optimiser.zero_grad()
        reference_loss(states, weights, config.k, mean, dead, config.auxk).backward()
        optimiser.step()
        model.normalise_decoder()

    return step


def _sparsify(states: torch.Tensor, dead: torch.Tensor, config: TrainingConfig) -> Step:
    """EleutherAI's sparsify, in the order of its trainer."""
    from sparsify import SparseCoder, SparseCoderConfig

    model = SparseCoder(states.shape[1], SparseCoderConfig(num_latents=len(dead), k=config.k))
    model.b_dec.data = states.mean(dim=0)
    optimiser = _optimiser(model.parameters())

    def step() -> None:
        model.set_decoder_norm_to_unit_norm()
        out = model(states, dead_mask=dead)
        (out.fvu + config.auxk * out.auxk_loss).backward()
        model.remove_gradient_parallel_to_decoder_directions()
        optimiser.step()
        optimiser.zero_grad()

    return step


def _sae_lens(states: torch.Tensor, dead: torch.Tensor, config: TrainingConfig, sparse: bool) -> Step:
    """SAELens' TopK, as its trainer calls it: its defaults, or its sparse activations (which cannot be rescaled)."""
    from sae_lens.saes.sae import TrainStepInput
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig

    shape = {"d_in": states.shape[1], "d_sae": len(dead), "k": config.k}
    kind = {"use_sparse_activations": sparse, "rescale_acts_by_decoder_norm": not sparse}
    model = TopKTrainingSAE(TopKTrainingSAEConfig(**shape, **kind, aux_loss_coefficient=config.auxk))
    model.train()
    optimiser = _optimiser(model.parameters())

    def step() -> None:
        optimiser.zero_grad()
        inputs = TrainStepInput(states, {}, dead, n_training_steps=0, is_logging_step=False)
        model.training_forward_pass(inputs).loss.backward()
        optimiser.step()

    return step


def competitors(n: int, d: int, width: int, k: int, share_dead: float) -> dict[str, Step]:
    """Return a step of each competitor that is installed, by name.

    Parameters
    ----------
    n : int
        Tokens a batch.
    d, width, k : int
        Of the autoencoder.
    share_dead : float
        Share of latents that AuxK is given as dead.
    """
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(n, d, generator=generator) + torch.randn(d, generator=generator)
    dead = torch.arange(width) < share_dead * width
    config = TrainingConfig(width=width, k=k, batch_tokens=n, auxk=AUXK).resolved()
    steps = _products(states, width, config)
    steps |= {
        OURS: _ours(states, dead, config),
        f"{OURS}, none dead": _ours(states, torch.zeros_like(dead), config),
        "dense reference": _reference(states, dead, config),
    }
    if find_spec("sparsify"):
        steps["sparsify"] = _sparsify(states, dead, config)
    if find_spec("sae_lens"):
        steps["SAELens"] = _sae_lens(states, dead, config, sparse=False)
        steps["SAELens, sparse"] = _sae_lens(states, dead, config, sparse=True)
    return steps


def measure(steps: dict[str, Step], repeats: int) -> dict[str, float]:
    """Return the median seconds of each step, over `repeats` turns after one that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in tqdm(range(repeats + 1), disable=None, desc="turns"):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: pd.Series(times).median() for name, times in seconds.items()}


def table(n: int, d: int, widths: list[int], k: int, share_dead: float, repeats: int) -> pd.DataFrame:
    """Return a row for each width and competitor: seconds and tokens a second, and both beside the product and us."""
    frames = []
    for width in widths:
        seconds = pd.Series(measure(competitors(n, d, width, k, share_dead), repeats))
        columns = {
            "width": width,
            "ms a step": 1e3 * seconds,
            "tokens/s": n / seconds,
            "times the product": seconds / seconds[PRODUCT],
            "times ours": seconds / seconds[OURS],
        }
        frames.append(pd.DataFrame(columns).rename_axis("step").reset_index())
    return pd.concat(frames, ignore_index=True)


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m lib.benchmarks.training", description=__doc__)
    parser.add_argument("--widths", type=int, nargs="+", default=[8_192, 32_768])
    parser.add_argument("--d", type=int, default=384)
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--batch-tokens", type=int, default=4_096)
    parser.add_argument("--share-dead", type=float, default=0.01, help="share of latents given to AuxK as dead")
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    for name, module in (("sparsify", "sparsify"), ("SAELens", "sae_lens")):
        if not find_spec(module):
            print(f"{name} is not installed; pip install -e '.[bench]' for it.")
    load = f"load average before {os.getloadavg()[0]:.1f}"
    result = table(args.batch_tokens, args.d, args.widths, args.k, args.share_dead, args.repeats)
    dtype = TrainingConfig().resolved().select_dtype
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, products in {dtype}, {load}")
    formats = {"ms a step": "{:.0f}", "tokens/s": "{:.0f}", "times the product": "{:.2f}", "times ours": "{:.2f}"}
    print(result.to_string(index=False, formatters={name: form.format for name, form in formats.items()}))


if __name__ == "__main__":
    main()
