"""What all kinds of retrievers share that `lib.learned.train.finetune` trains: LoRA on the blocks, and what is read.

LoRA is of Hu et al. (arXiv 2106.09685).
"""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import torch
from sentence_transformers import SentenceTransformer, SparseEncoder
from transformers import TrainerCallback

from lib.encode.encoder import TokenEncoder
from lib.interop import optional_module
from lib.latent_terms import LatentTerms
from lib.learned.pairs import Pairs
from lib.support.checks import check_integer

Model: TypeAlias = SparseEncoder | SentenceTransformer


@dataclass(frozen=True)
class Kind(ABC):
    """What all kinds share.

    Attributes
    ----------
    rank : int
        Rank of LoRA's matrices on all projections of the blocks that are read; 0 trains all weights of the retriever.
    learning_rate : float
        Largest learning rate of LoRA's matrices, or of the retriever's weights.
    scale : float
        What scores are multiplied by in the loss: the inverse of a temperature.
    """

    rank: int = 16
    learning_rate: float = 5e-5
    scale: float = 20.0

    about: ClassVar[str]

    def __post_init__(self) -> None:
        """Check the settings."""
        object.__setattr__(self, "rank", check_integer(self.rank, "rank"))
        for name in ("learning_rate", "scale"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0.")

    @abstractmethod
    def build(self, base: LatentTerms | TokenEncoder) -> Model:
        """Return the model to train; ValueError if `base` does not have what it is made of."""

    def start(self, base: LatentTerms | TokenEncoder) -> dict | None:
        """Return what decides an autoencoder that comes with the retriever, JSON-able; None if there is none."""
        return base.sae.identity if isinstance(base, LatentTerms) else None

    @abstractmethod
    def loss(self, model: Model, teacher_temperature: float | None) -> torch.nn.Module:
        """Return what is minimised; without a teacher, `teacher_temperature` is None."""

    def columns(self, pairs: Pairs) -> dict[str, list[str]]:
        """Return the columns of texts that the loss takes."""
        return pairs.columns()

    def callbacks(self, model: Model) -> list[TrainerCallback]:
        """Return what changes the model's settings between steps."""
        return []

    @property
    def reads_pairs(self) -> bool:
        """Whether it learns from a query and its texts, not from each text by itself."""
        return True

    @property
    def frozen(self) -> bool:
        """Whether the retriever is not trained, so that its embeddings can be kept."""
        return False

    @property
    def learning_rates(self) -> dict[str, Any]:
        """The arguments of a trainer that say how fast which weights learn."""
        return {"learning_rate": self.learning_rate}

    def adapt(self, model: Model, n_blocks: int) -> None:
        """Put LoRA on the first `n_blocks` blocks of the retriever, if it is used; ImportError without peft."""
        if self.rank and not self.frozen:
            if not n_blocks:
                raise ValueError("Layer 0 has no blocks below it that LoRA could train; read a later layer.")
            names = [
                name
                for name, module in model[0].auto_model.named_modules()
                if isinstance(module, torch.nn.Linear)
                and (block := re.search(r"\.(\d+)\.", name))
                and int(block[1]) < n_blocks
            ]
            settings = {"r": self.rank, "lora_alpha": 2 * self.rank, "target_modules": names}
            model.add_adapter(optional_module("peft", "learned").LoraConfig(**settings))


def trainable(base: LatentTerms | TokenEncoder) -> TokenEncoder:
    """Return the retriever, in float32 as it is trained."""
    encoder = base.encoder if isinstance(base, LatentTerms) else base
    return encoder if encoder.dtype == "float32" else encoder.replace(dtype="float32")


def retriever_model(encoder: TokenEncoder) -> SentenceTransformer:
    """Return the retriever as a model to train, which reads texts as `encoder` does."""
    model = SentenceTransformer(str(encoder.folder), device=str(encoder.device), local_files_only=True).float()
    model.max_seq_length, model.prompts = encoder.max_length, dict(encoder.prompts)
    return without_dropout(model)


def without_dropout(model: Model) -> Model:
    """Set every dropout of a model to 0: a few thousand steps do not overfit, and attention without it is fused."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0
    return model


def check_flops(flops: tuple[float, float]) -> None:
    """Raise ValueError unless these are two weights of at least 0."""
    if len(flops) != 2 or not all(weight >= 0 for weight in flops):
        raise ValueError(f"flops are {flops}; give two weights of at least 0, of queries and of documents.")
