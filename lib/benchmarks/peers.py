"""The competitors of `lib.benchmarks.training`: this package, the same densely by autograd, and other packages.

All start from the same weights and end each step with the same AdamW. What a package does otherwise by design stays as
its trainer does it: this package and the dense reference scale their gradients to norm 1, SAELens clips its own.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import NamedTuple

import torch

from lib.encode.states import RUN
from lib.sae.autoencoder import SparseAutoencoder
from lib.sae.codes import FinishedTopK
from lib.sae.kernels import reference_loss
from lib.sae.training import TrainableAutoencoder, TrainingConfig

OURS, REFERENCE = "this package", "dense reference"


class Competitor(NamedTuple):
    """An autoencoder in training: a step given states [n, d] and which latents AuxK counts as dead, bool [width]."""

    step: Callable[[torch.Tensor, torch.Tensor], object]
    reconstruct: Callable[[torch.Tensor], torch.Tensor]
    optimizer: torch.optim.Optimizer


def _adamw(model: torch.nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=0.0, fused=True)


def _reconstruct(model: TrainableAutoencoder) -> Callable[[torch.Tensor], torch.Tensor]:
    def reconstruct(states: torch.Tensor) -> torch.Tensor:
        sae = SparseAutoencoder(model.W_enc, model.b_enc, model.W_dec, model.b_pre, FinishedTopK(model.config.k))
        return sae.decode(sae.encode(states))

    return reconstruct


def ours(first: torch.Tensor, config: TrainingConfig, clip: bool = False) -> Competitor:
    """Return this package's sparse step; b_pre starts at the mean of the states `first` [n, d].

    With `clip`, gradients are clipped as SAELens clips its own, instead of `config.unit_gradient`. They are those of
    the squared error of a token, which is the FVU times the variance of the states. Of an activation that reads whole
    texts, 64 neighbouring states count as one.
    """
    model = TrainableAutoencoder.initial(first, config)
    optimizer = _adamw(model, config)
    largest = 1 / first.var(dim=0, correction=0).sum().item() if clip else torch.inf
    silent = torch.zeros(config.width, dtype=torch.int64)

    def step(states: torch.Tensor, dead: torch.Tensor) -> None:
        model.activation = model.activation.at(0, torch.arange(len(states)) // RUN)
        result = model.backward(states, dead)
        if clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), largest)
        elif config.unit_gradient:
            model.scale_gradient()
        optimizer.step()
        model.normalise_decoder()
        silent.add_(len(states))
        silent[result.indices[result.values > 0]] = 0

    return Competitor(step, _reconstruct(model), optimizer)


def reference(first: torch.Tensor, config: TrainingConfig) -> Competitor:
    """Return the same training rule in float32 throughout, its gradients from autograd."""
    model = TrainableAutoencoder.initial(first, config)
    optimizer = _adamw(model, config)

    def step(states: torch.Tensor, dead: torch.Tensor) -> None:
        optimizer.zero_grad()
        reference_loss(states, model.weights(), model.activation, model.mean, dead, config.auxk).backward()
        if config.unit_gradient:
            model.scale_gradient()
        optimizer.step()
        model.normalise_decoder()

    return Competitor(step, _reconstruct(model), optimizer)


def sparsify(first: torch.Tensor, config: TrainingConfig) -> Competitor:
    """Return EleutherAI's sparsify, in the order of its trainer.

    It takes the part of the gradient along a decoder row off, scales the rows before a step and not after it, and
    measures AuxK against the variance of the states.
    """
    from sparsify import SparseCoder, SparseCoderConfig

    start = TrainableAutoencoder.initial(first, config)
    model = SparseCoder(first.shape[1], SparseCoderConfig(num_latents=config.width, k=config.k))
    model.encoder.weight.data, model.encoder.bias.data = start.W_enc.data, start.b_enc.data
    model.W_dec.data, model.b_dec.data = start.W_dec.data, start.b_pre.data
    optimizer = _adamw(model, config)

    def step(states: torch.Tensor, dead: torch.Tensor) -> None:
        model.set_decoder_norm_to_unit_norm()
        out = model(states, dead_mask=dead)
        (out.fvu + config.auxk * out.auxk_loss).backward()
        model.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()

    return Competitor(step, lambda states: model(states).sae_out, optimizer)


def sae_lens(first: torch.Tensor, config: TrainingConfig, sparse: bool = False) -> Competitor:
    """Return SAELens' TopK, as its trainer calls it: its defaults, or its sparse activations (then not rescaled).

    Its loss is the squared error of a token, its gradients are clipped to norm 1, and its decoder rows are free: by
    default, activations are rescaled by their norms.
    """
    from sae_lens.saes.sae import TrainStepInput
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig

    start = TrainableAutoencoder.initial(first, config)
    shape = {"d_in": first.shape[1], "d_sae": config.width, "k": config.k}
    kind = {"use_sparse_activations": sparse, "rescale_acts_by_decoder_norm": not sparse}
    model = TopKTrainingSAE(TopKTrainingSAEConfig(**shape, **kind, aux_loss_coefficient=config.auxk))
    model.W_enc.data, model.b_enc.data = start.W_enc.data.T.contiguous(), start.b_enc.data
    model.W_dec.data, model.b_dec.data = start.W_dec.data, start.b_pre.data
    model.train()
    optimizer = _adamw(model, config)

    def step(states: torch.Tensor, dead: torch.Tensor) -> None:
        inputs = TrainStepInput(states, {}, dead, n_training_steps=0, is_logging_step=False)
        model.training_forward_pass(inputs).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return Competitor(step, model, optimizer)


def competitors(first: torch.Tensor, config: TrainingConfig) -> dict[str, Competitor]:
    """Return each competitor that is installed by name; see `ours` for `first`."""
    installed = {OURS: ours(first, config), REFERENCE: reference(first, config)}
    if find_spec("sparsify"):
        installed["sparsify"] = sparsify(first, config)
    if find_spec("sae_lens"):
        installed["SAELens"] = sae_lens(first, config)
        installed["SAELens, sparse"] = sae_lens(first, config, sparse=True)
    return installed
