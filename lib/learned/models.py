"""The kinds of retrievers that `lib.learned.train.finetune` trains, each a frozen dataclass of its settings.

They are made of one retriever: its blocks are trained by LoRA, wholly or not at all, and what reads them decides the
kind. All but the dense one are `SparseEncoder`s of sentence-transformers. Those whose autoencoder is trained, too, are
in `lib.learned.autoencoders`; `KINDS` has all.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.sentence_transformer.losses import (
    DistillKLDivLoss,
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.sparse_encoder.losses import SpladeLoss
from sentence_transformers.util import pairwise_cos_sim

from lib.encode.encoder import TokenEncoder
from lib.interop.conversion import to_sparse_encoder
from lib.interop.modules import SparseTokenPooling
from lib.latent_terms import LatentTerms, other_origin
from lib.learned.autoencoders import Bottleneck, Csr, CsrV2
from lib.learned.kind import Kind, check_flops, retriever_model, trainable, without_dropout
from lib.learned.losses import ranking_loss, scaled_score
from lib.sae.autoencoder import SparseAutoencoder, part_of
from lib.sae.codes import FinishedTopK


@dataclass(frozen=True)
class _Tokens(Kind):
    """What SPLARE and its control share: w_j = max_t log(1 + z_tj), z_t what a frozen layer behind the retriever gives.

    Attributes
    ----------
    top : (int, int)
        How many weights of a query and of a document are left when texts are encoded, the largest.
    flops : (float, float)
        Largest weights of FLOPS = sum_j (mean_i w_ij)^2, of queries and of documents (Paria et al., arXiv 2004.05665).
    """

    scale: float = 0.15
    top: tuple[int, int] = (40, 400)
    flops: tuple[float, float] = (0.03, 0.01)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flops(self.flops)
        SparseTokenPooling(1, top=self.top)  # checks them

    def _model(self, encoder: TokenEncoder, sae: SparseAutoencoder, labels: list[str] | None = None) -> SparseEncoder:
        model = without_dropout(to_sparse_encoder(LatentTerms(encoder, sae, "max", "log1p"), labels=labels))
        model[-2].trained_on = None  # it is to read what the retriever becomes
        model[-1].top = tuple(self.top)
        self.adapt(model, encoder.layer)
        return model

    def loss(self, model: SparseEncoder, teacher_temperature: float | None) -> torch.nn.Module:
        """See `Kind`."""
        queries, documents = self.flops
        weights = {"query_regularizer_weight": queries, "document_regularizer_weight": documents}
        return SpladeLoss(model, ranking_loss(model, self.scale, teacher_temperature), **weights)


@dataclass(frozen=True)
class Splare(_Tokens):
    """SPLARE (arXiv 2603.13277): z_t are the codes of an autoencoder.

    Attributes
    ----------
    part : int
        Which of the autoencoders that were joined into one is used, from 0 on; -1 is all of them, which takes several
        times longer.
    k : int
        Latents that a token may have; 0 is the autoencoder's own number: 8 of a part of the packaged one, each of which
        was trained with 16.
    """

    part: int = 0
    k: int = 0
    about: ClassVar[str] = "latents of a frozen autoencoder, max log1p; the retriever learns by LoRA"

    def build(self, base: LatentTerms | TokenEncoder) -> SparseEncoder:
        """See `Kind`."""
        if not isinstance(base, LatentTerms):
            raise ValueError("SPLARE reads an autoencoder; give a LatentTerms, or its folder, not a retriever alone.")
        if difference := other_origin(base.sae, base.encoder):
            raise ValueError(difference)
        sae = base.sae if self.part == -1 else part_of(base.sae, self.part)
        return self._model(trainable(base), sae.with_k(self.k) if self.k else sae)


@dataclass(frozen=True)
class VocabularyHead(_Tokens):
    """SPLARE's control: z_t = ReLU(TopK(E h_t)), E the retriever's own word embeddings, in the autoencoder's place.

    With `k` the size of the vocabulary it is the form of SPLADE (arXiv 2109.10086), max_t log(1 + ReLU(E h_t)).

    Attributes
    ----------
    k : int
        Words that a token may have.
    """

    k: int = 16
    about: ClassVar[str] = "words of the tokenizer in the place of latents: SPLARE's control"

    def build(self, base: LatentTerms | TokenEncoder) -> SparseEncoder:
        """See `Kind`."""
        encoder = trainable(base)
        labels = encoder.tokenizer.convert_ids_to_tokens(list(range((head := self.head(encoder)).width)))
        return self._model(encoder, head, labels)

    def head(self, encoder: TokenEncoder) -> SparseAutoencoder:
        """Return the word embeddings in the form of an autoencoder; ValueError if they are of another size."""
        words = retriever_model(encoder)[0].auto_model.get_input_embeddings().weight.detach().float()
        if words.shape[1] != encoder.d:
            raise ValueError(f"{encoder.name} has words of size {words.shape[1]} and states of size {encoder.d}.")
        return SparseAutoencoder(
            words, words.new_zeros(len(words)), words, words.new_zeros(encoder.d), FinishedTopK(self.k)
        )


@dataclass(frozen=True)
class DenseControl(Kind):
    """The retriever itself, finetuned on the same pairs: the control of every other kind.

    Attributes
    ----------
    dims : tuple of int
        Sizes to which its embedding may be cut, each trained with equal weight: Matryoshka (arXiv 2205.13147).
    """

    dims: tuple[int, ...] = ()
    about: ClassVar[str] = "the retriever's own embedding: the control of every other kind"

    def build(self, base: LatentTerms | TokenEncoder) -> SentenceTransformer:
        """See `Kind`."""
        encoder = trainable(base)
        model = retriever_model(encoder)
        if wrong := [size for size in self.dims if not 0 < size <= model.get_embedding_dimension()]:
            raise ValueError(f"dims hold {wrong[0]}; they must be from 1 to {model.get_embedding_dimension()}.")
        self.adapt(model, model[0].auto_model.config.num_hidden_layers)
        return model

    def loss(self, model: SentenceTransformer, teacher_temperature: float | None) -> torch.nn.Module:
        """See `Kind`."""
        if teacher_temperature is None:
            loss = MultipleNegativesRankingLoss(model, scale=self.scale)
        else:
            score = partial(scaled_score, similarity=pairwise_cos_sim, scale=self.scale)
            loss = DistillKLDivLoss(model, score, student_temperature=1.0, teacher_temperature=teacher_temperature)
        return MatryoshkaLoss(model, loss, list(self.dims)) if self.dims else loss


KINDS: dict[str, type[Kind]] = {
    "splare": Splare,
    "vocabulary": VocabularyHead,
    "dense": DenseControl,
    "bottleneck": Bottleneck,
    "csr": Csr,
    "csrv2": CsrV2,
}
