"""Kinds of retrievers whose autoencoder is trained, alone or with the retriever: the bottleneck, CSR and CSRv2."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from sentence_transformers import SparseEncoder
from sentence_transformers.base.modules import Dense
from sentence_transformers.sentence_transformer.modules import Normalize
from sentence_transformers.sparse_encoder.losses import CSRLoss
from sentence_transformers.sparse_encoder.losses.csr import CSRReconstructionLoss
from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder
from transformers import TrainerCallback

from lib.encode.encoder import TokenEncoder
from lib.interop.conversion import load_sparse_encoder, special_tokens, token_encoder
from lib.interop.losses import TokenReconstructionLoss
from lib.interop.modules import SparseAutoEncoderTokenEncoder, SparseTokenPooling
from lib.interop.modules.token_pooling import strategies
from lib.latent_terms import LatentTerms, other_origin
from lib.learned.kind import Kind, check_flops, retriever_model, trainable, without_dropout
from lib.learned.losses import AnnealedK, BottleneckLoss, ranking_loss
from lib.learned.pairs import Pairs
from lib.learned.retriever import LearnedRetriever
from lib.support.checks import check_choice, check_count, check_integer


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
        return LearnedRetriever(_saved(trainable(base))).identity if self.started else super().start(base)

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
        check_flops(self.flops)

    def build(self, base: LatentTerms | TokenEncoder) -> SparseEncoder:
        """See `Kind`."""
        encoder = trainable(base)
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
            modules = [retriever_model(encoder)[0], coder, pooling, Normalize()]
            model = _sparse_encoder(modules, encoder.prompts, str(encoder.device))
        self.adapt(model, model[0].auto_model.config.num_hidden_layers)
        return model

    def start(self, base: LatentTerms | TokenEncoder) -> dict | None:
        """See `Kind`."""
        return super().start(base) if self.pooling == "embedding" else Kind.start(self, base)

    def _of_tokens(self, base: LatentTerms | TokenEncoder) -> SparseAutoEncoderTokenEncoder:
        if not self.started:
            return SparseAutoEncoderTokenEncoder(trainable(base).d, self.width, self.k)
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
        model = self._of_embeddings(trainable(base))
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


def _embedding_modules(encoder: TokenEncoder) -> list[torch.nn.Module]:
    """Return the modules of the retriever's own embedding, scaled to norm sqrt(d): its squares are 1 on average."""
    modules = [module for module in retriever_model(encoder) if not isinstance(module, Normalize)]
    d = modules[-1].get_embedding_dimension()
    scale = Dense(d, d, bias=False, activation_function=None, init_weight=d**0.5 * torch.eye(d)).requires_grad_(False)
    return [*modules, Normalize(), scale]
