"""The kinds of retrievers that `lib.learned.train.finetune` trains, each a frozen dataclass of its settings.

They are made of one retriever: its blocks are trained by LoRA (Hu et al., arXiv 2106.09685), wholly or not at all, and
what reads them decides the kind. All but the dense one are `SparseEncoder`s of sentence-transformers.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, TypeAlias

import torch
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Dense
from sentence_transformers.sentence_transformer.losses import (
    DistillKLDivLoss,
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.sentence_transformer.modules import Normalize
from sentence_transformers.sparse_encoder.losses import CSRLoss, SpladeLoss
from sentence_transformers.sparse_encoder.losses.csr import CSRReconstructionLoss
from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder
from sentence_transformers.util import pairwise_cos_sim
from transformers import TrainerCallback

from lib.encode.encoder import TokenEncoder
from lib.interop import optional_module
from lib.interop.conversion import load_sparse_encoder, special_tokens, to_sparse_encoder, token_encoder
from lib.interop.losses import TokenReconstructionLoss
from lib.interop.modules import SparseAutoEncoderTokenEncoder, SparseTokenPooling
from lib.interop.modules.token_pooling import strategies
from lib.latent_terms import LatentTerms, other_origin
from lib.learned.losses import AnnealedK, BottleneckLoss, ranking_loss, scaled_score
from lib.learned.pairs import Pairs
from lib.learned.retriever import LearnedRetriever
from lib.sae.autoencoder import SparseAutoencoder, part_of
from lib.sae.codes import FinishedTopK
from lib.support.checks import check_choice, check_count, check_integer

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
    learning_rate: float = 2e-4
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


def _encoder(base: LatentTerms | TokenEncoder) -> TokenEncoder:
    """Return the retriever, in float32 as it is trained."""
    encoder = base.encoder if isinstance(base, LatentTerms) else base
    return encoder if encoder.dtype == "float32" else encoder.replace(dtype="float32")


def _retriever(encoder: TokenEncoder) -> SentenceTransformer:
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


def _embedding_modules(encoder: TokenEncoder) -> list[torch.nn.Module]:
    """Return the modules of the retriever's own embedding, scaled to norm sqrt(d): its squares are 1 on average."""
    modules = [module for module in _retriever(encoder) if not isinstance(module, Normalize)]
    d = modules[-1].get_embedding_dimension()
    scale = Dense(d, d, bias=False, activation_function=None, init_weight=d**0.5 * torch.eye(d)).requires_grad_(False)
    return [*modules, Normalize(), scale]


def _check_flops(flops: tuple[float, float]) -> None:
    if len(flops) != 2 or not all(weight >= 0 for weight in flops):
        raise ValueError(f"flops are {flops}; give two weights of at least 0, of queries and of documents.")


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
        _check_flops(self.flops)
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
        return self._model(_encoder(base), sae.with_k(self.k) if self.k else sae)


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
        encoder = _encoder(base)
        labels = encoder.tokenizer.convert_ids_to_tokens(list(range((head := self.head(encoder)).width)))
        return self._model(encoder, head, labels)

    def head(self, encoder: TokenEncoder) -> SparseAutoencoder:
        """Return the word embeddings in the form of an autoencoder; ValueError if they are of another size."""
        words = _retriever(encoder)[0].auto_model.get_input_embeddings().weight.detach().float()
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
        encoder = _encoder(base)
        model = _retriever(encoder)
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


@dataclass(frozen=True)
class _Autoencoder(Kind):
    """What kinds whose autoencoder is trained share.

    Attributes
    ----------
    width, k : int
        Number of latents, and of those that an embedding, or a token, has.
    head_learning_rate : float
        Learning rate of the autoencoder.
    dead_calls : int
        Calls of Top-K in which a latent of the embedding was not active before AuxK takes it for dead. There are two
        for each column of a batch, negatives included, of k and of 4k; the default is sentence-transformers'.
    started : bool
        Whether it starts from the autoencoder of `base`, of the same width: of embeddings that of a folder which
        `finetune` has saved, whose retriever it starts from, too; of tokens that of a LatentTerms. Else it starts from
        random directions.
    """

    width: int = 8192
    k: int = 32
    head_learning_rate: float = 1e-3
    dead_calls: int = 30
    started: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if 4 * check_count(self.k, "k") > check_count(self.width, "width"):
            raise ValueError(f"k is {self.k}; 4k, which the loss takes, must be at most the width, {self.width}.")
        check_count(self.dead_calls, "dead_calls")

    @property
    def learning_rates(self) -> dict[str, Any]:
        """See `Kind`."""
        retriever = {} if self.frozen else {r"^model\.0\.": self.learning_rate}
        return {"learning_rate": self.head_learning_rate, "learning_rate_mapping": retriever}

    def _of_embeddings(self, encoder: TokenEncoder) -> SparseEncoder:
        """Return a model of the retriever's embedding, an autoencoder of it and codes of norm 1."""
        weights: dict[str, torch.Tensor] = {}
        prompts = dict(encoder.prompts)
        if self.started:
            saved = _saved(encoder)
            *front, before, _ = saved
            front[-1].requires_grad_(False)  # the scale, as in `_embedding_modules`
            self._check_width(before.hidden_dim)
            weights = dict(before.named_parameters())
            prompts = {kind: prompt or saved.prompts.get(kind, "") for kind, prompt in prompts.items()}
        else:
            front = _embedding_modules(encoder)
        k_aux = min(512, self.width // 2)
        d = front[-1].get_embedding_dimension()
        sae = SparseAutoEncoder(d, self.width, self.k, k_aux, dead_threshold=self.dead_calls)
        sae.load_state_dict(weights, strict=False)  # the decoder is the encoder's transpose; no latent is dead yet
        return _sparse_encoder([*front, sae, Normalize()], prompts, str(encoder.device))

    def start(self, base: LatentTerms | TokenEncoder) -> dict | None:
        """See `Kind`."""
        return LearnedRetriever(_saved(_encoder(base))).identity if self.started else super().start(base)

    def _check_width(self, width: int) -> None:
        if width != self.width:
            raise ValueError(f"The autoencoder of base has {width} latents; set width, {self.width}, to that.")


def _saved(encoder: TokenEncoder) -> SparseEncoder:
    """Return the model that `finetune` has saved in the encoder's folder, its last module but one an autoencoder.

    ValueError if it has not, or a kind without an autoencoder of embeddings.
    """
    remedy = "give a folder in which finetune has trained one, such as of kind csr."
    message = f"{encoder.name} has no autoencoder of its embeddings to start from; {remedy}"
    try:
        model = load_sparse_encoder(encoder.folder, str(encoder.device))
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(f"{message} ({error})") from error
    if not any(isinstance(module, SparseAutoEncoder) for module in list(model)[-2:-1]):
        raise ValueError(message)
    model.max_seq_length = encoder.max_length
    without_dropout(model.float())
    return model


def _sparse_encoder(modules: list[torch.nn.Module], prompts: Mapping[str, str], device: str) -> SparseEncoder:
    return SparseEncoder(modules=modules, prompts=dict(prompts), similarity_fn_name="dot", device=device)


@dataclass(frozen=True)
class Bottleneck(_Autoencoder):
    """The autoencoder as the bottleneck of the retriever, both trained together: ranking(z) + alpha L + FLOPS.

    z = TopK(W_enc (v - b)), v the retriever's embedding scaled to norm sqrt(d); L = L(k) + L(4k) / 8 + auxk AuxK. Or z
    is pooled from codes of all token states. Rows of z are scaled to norm 1.

    Attributes
    ----------
    pooling : str
        "embedding" reads v; another, a name in `lib.interop.modules.token_pooling.strategies()`, pools the tokens'
        codes: "max_log1p", "sum_sqrt".
    alpha : float
        Weight of the reconstruction.
    auxk : float
        Weight of AuxK in the reconstruction.
    dead_tokens : int
        Tokens for which a latent of tokens was not active before AuxK takes it for dead.
    flops : (float, float)
        Largest weights of FLOPS, of queries and of documents.
    """

    rank: int = 0
    learning_rate: float = 2e-5
    pooling: str = "embedding"
    dead_tokens: int = 30_000
    alpha: float = 1.0
    auxk: float = 0.1
    flops: tuple[float, float] = (0.1, 0.1)
    about: ClassVar[str] = "an autoencoder of the embedding or of token states, trained together with the retriever"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.pooling, ["embedding", *strategies()], "pooling")
        check_count(self.dead_tokens, "dead_tokens")
        _check_flops(self.flops)

    def build(self, base: LatentTerms | TokenEncoder) -> SparseEncoder:
        """See `Kind`."""
        encoder = _encoder(base)
        if self.pooling == "embedding":
            model = self._of_embeddings(encoder)
        else:
            coder = self._of_tokens(base)
            pooling = SparseTokenPooling(
                self.width,
                self.pooling,
                encoder.include_prompt,
                special_tokens=special_tokens(encoder.tokenizer),
                include_special=encoder.special_tokens,
            )
            modules = [_retriever(encoder)[0], coder, pooling, Normalize()]
            model = _sparse_encoder(modules, encoder.prompts, str(encoder.device))
        self.adapt(model, model[0].auto_model.config.num_hidden_layers)
        return model

    def start(self, base: LatentTerms | TokenEncoder) -> dict | None:
        """See `Kind`."""
        return super().start(base) if self.pooling == "embedding" else Kind.start(self, base)

    def _of_tokens(self, base: LatentTerms | TokenEncoder) -> SparseAutoEncoderTokenEncoder:
        if not self.started:
            return SparseAutoEncoderTokenEncoder(_encoder(base).d, self.width, self.k)
        if not isinstance(base, LatentTerms):
            raise ValueError("A retriever alone has no autoencoder of tokens to start from; give a LatentTerms.")
        if difference := other_origin(base.sae, base.encoder):
            raise ValueError(difference)
        if base.encoder.layer != base.encoder.n_layers:
            raise ValueError(
                f"The autoencoder reads layer {base.encoder.layer}, the bottleneck the final one; give that."
            )
        self._check_width(base.sae.width)
        return token_encoder(base.sae.with_k(self.k), frozen=False)

    def loss(self, model: SparseEncoder, teacher_temperature: float | None) -> torch.nn.Module:
        """See `Kind`."""
        if self.pooling == "embedding":
            reconstruction: torch.nn.Module = CSRReconstructionLoss(model, beta=self.auxk)
        else:
            settings: dict = {"auxk": self.auxk, "dead_tokens": self.dead_tokens, "larger": 1 / 8, "joint": True}
            reconstruction = TokenReconstructionLoss(model, **settings)
        queries, documents = self.flops
        weights = {"query_regularizer_weight": queries, "document_regularizer_weight": documents}
        ranking = ranking_loss(model, self.scale, teacher_temperature)
        return BottleneckLoss(model, ranking, reconstruction, self.alpha, **weights)


@dataclass(frozen=True)
class Csr(_Autoencoder):
    """CSR (arXiv 2503.01776): codes of the retriever's embedding, L(k) + L(4k) / 8 + auxk AuxK + gamma ranking(z).

    Attributes
    ----------
    auxk, gamma : float
        Weights of AuxK and of the ranking loss.
    supervised : bool
        Whether the positive of a query is its answer; else each text is its own, as in CSR.
    annealed_from : int
        k of the first step, which falls to `k` over half of the training; 0 is not to change it.
    finetuned : bool
        Whether the retriever is trained, too.
    """

    learning_rate: float = 2e-5
    head_learning_rate: float = 3e-3  # the best of four in 72
    rank: int = 0
    auxk: float = 0.1
    gamma: float = 1.0
    supervised: bool = False
    annealed_from: int = 0
    finetuned: bool = False
    about: ClassVar[str] = "codes of the retriever's embedding, which stays as it is; seconds to train"

    def __post_init__(self) -> None:
        super().__post_init__()
        first = check_integer(self.annealed_from, "annealed_from")
        if first and not self.k <= first <= self.width // 4:
            raise ValueError(f"annealed_from is {first}; it must be 0, or from k, {self.k}, to {self.width // 4}.")

    @property
    def frozen(self) -> bool:
        """See `Kind`."""
        return not self.finetuned

    def build(self, base: LatentTerms | TokenEncoder) -> SparseEncoder:
        """See `Kind`."""
        model = self._of_embeddings(_encoder(base))
        self.adapt(model, model[0].auto_model.config.num_hidden_layers)
        return model

    @property
    def reads_pairs(self) -> bool:
        """See `Kind`."""
        return self.supervised

    def columns(self, pairs: Pairs) -> dict[str, list[str]]:
        """See `Kind`."""
        if self.supervised:
            return super().columns(pairs)
        texts = list(dict.fromkeys([*pairs.queries, *pairs.positives]))
        return {"query": texts, "positive": texts}

    def callbacks(self, model: SparseEncoder) -> list[TrainerCallback]:
        """See `Kind`."""
        sae = next(module for module in model if isinstance(module, SparseAutoEncoder))
        return [AnnealedK(sae, self.annealed_from, self.k)] if self.annealed_from else []

    def loss(self, model: SparseEncoder, teacher_temperature: float | None) -> torch.nn.Module:
        """See `Kind`."""
        ranking = ranking_loss(model, self.scale, teacher_temperature if self.supervised else None)
        return CSRLoss(model, ranking, beta=self.auxk, gamma=self.gamma)


@dataclass(frozen=True)
class CsrV2(Csr):
    """CSRv2: CSR with k annealed, supervised pairs and the retriever finetuned."""

    supervised: bool = True
    annealed_from: int = 64
    finetuned: bool = True
    about: ClassVar[str] = "CSR with k annealed, supervised pairs and the retriever finetuned"


KINDS: dict[str, type[Kind]] = {
    "splare": Splare,
    "vocabulary": VocabularyHead,
    "dense": DenseControl,
    "bottleneck": Bottleneck,
    "csr": Csr,
    "csrv2": CsrV2,
}
