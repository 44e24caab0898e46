"""Losses of sentence-transformers, scaled, and one that it does not have."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SparseEncoder
from sentence_transformers.sparse_encoder.losses import (
    SparseDistillKLDivLoss,
    SparseMultipleNegativesRankingLoss,
    SpladeLoss,
)
from sentence_transformers.util import pairwise_dot_score
from transformers import TrainerCallback

from lib.support.checks import check_count
from lib.support.files import replacing

TARGET = "sentence_embedding_backbone"  # what CSR's loss reconstructs, of the features that a model makes


def scaled_score(a: torch.Tensor, b: torch.Tensor, similarity: Callable, scale: float) -> torch.Tensor:
    """Return scale * similarity(a, b)."""
    return scale * similarity(a, b)


def ranking_loss(model: SparseEncoder, scale: float, teacher_temperature: float | None) -> torch.nn.Module:
    """Return the loss of s(q, d) = scale * (w(q) . w(d)) over a batch.

    With a teacher, KL(softmax(teacher / teacher_temperature) | softmax(s)) over a query's positive and negatives; if
    `teacher_temperature` is None, there is none, and -log softmax(s) of the positive among all documents of a batch.
    """
    if teacher_temperature is None:
        return SparseMultipleNegativesRankingLoss(model, scale=scale)
    score = partial(scaled_score, similarity=pairwise_dot_score, scale=scale)
    temperatures = {"student_temperature": 1.0, "teacher_temperature": teacher_temperature}
    return SparseDistillKLDivLoss(model, similarity_fct=score, **temperatures)


class BottleneckLoss(SpladeLoss):
    """ranking(z) + alpha reconstruction + lambda_q FLOPS(z_q) + lambda_d FLOPS(z_d), of a model with an autoencoder.

    What is reconstructed is a constant in the loss, else it falls where all embeddings become alike; its gradient
    reaches the retriever through the codes.

    Parameters
    ----------
    model : SparseEncoder
    loss : torch.nn.Module
        The ranking loss.
    reconstruction : torch.nn.Module
        Whose `compute_loss_from_embeddings` takes the features that the model makes of each column: CSR's of
        sentence-transformers, or `lib.interop.losses.TokenReconstructionLoss`.
    alpha : float
    **regularizers
        Arguments of `SpladeLoss`.
    """

    def __init__(
        self, model: SparseEncoder, loss: torch.nn.Module, reconstruction: torch.nn.Module, alpha: float, **regularizers
    ):
        super().__init__(model, loss, **regularizers)
        self.reconstruction, self.alpha = reconstruction, alpha

    def forward(
        self, sentence_features: Iterable[dict[str, Any]], labels: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Return the terms by name, scalars to be added up."""
        outputs = [self.model(features) for features in sentence_features]
        queries, *documents = [output["sentence_embedding"] for output in outputs]
        for output in outputs:
            if TARGET in output:  # token states, `TokenReconstructionLoss` detaches
                output[TARGET] = output[TARGET].detach()
        parts = self.reconstruction.compute_loss_from_embeddings(outputs)
        losses = {name: self.alpha * part for name, part in parts.items()}
        losses["base_loss"] = self.loss.compute_loss_from_embeddings([queries, *documents], labels)
        for name, regularizer, weight, rows in (
            ("query_regularizer_loss", self.query_regularizer, self.query_regularizer_weight, queries),
            ("document_regularizer_loss", self.document_regularizer, self.document_regularizer_weight, documents),
        ):
            rows = rows if name.startswith("query") else torch.cat(rows)
            losses[name] = weight * regularizer.compute_loss_from_embeddings(rows)
        return losses

    def get_config_dict(self) -> dict[str, Any]:
        """Return the settings, for a model card."""
        return super().get_config_dict() | {"reconstruction": self.reconstruction, "alpha": self.alpha}


class LossState(TrainerCallback):
    """Keeps what a loss counts, such as for how long latents have been silent, in checkpoints.

    Its file is written after all others of a checkpoint, with nothing to count, too: a checkpoint with it is complete.
    """

    file_name = "loss.safetensors"

    def __init__(self, loss: torch.nn.Module):
        self.buffers = {name: buffer for name, buffer in loss.named_buffers() if not name.startswith("model.")}

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Go on from the checkpoint of the step, if there is one."""
        if state.global_step:
            for name, values in load_file(self._path(args, state)).items():
                self.buffers[name].copy_(values)

    def on_save(self, args, state, control, **kwargs) -> None:
        """Write the counts beside what the trainer has written."""
        with replacing(self._path(args, state)) as temporary:
            save_file({name: buffer.contiguous() for name, buffer in self.buffers.items()}, temporary)

    def _path(self, args, state) -> Path:
        return Path(args.output_dir) / f"checkpoint-{state.global_step}" / self.file_name


class AnnealedK(TrainerCallback):
    """Lowers the k of an autoencoder from `first` to `last` by equal factors over the first half of the steps."""

    def __init__(self, autoencoder: torch.nn.Module, first: int, last: int):
        self.autoencoder, self.first, self.last = autoencoder, check_count(first, "first"), check_count(last, "last")

    def k_at(self, progress: float) -> int:
        """Return k at a share of all steps: first * (last / first)^(2 progress), `last` from one half on."""
        return round(self.first * (self.last / self.first) ** min(1.0, 2 * progress))

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        """Set k for the step."""
        self.autoencoder.k = self.k_at(state.global_step / state.max_steps)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Set the last k, with which the model is evaluated and saved."""
        self.autoencoder.k = self.last
