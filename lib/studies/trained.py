"""What 70 to 73 share: pairs with negatives and a teacher, retrievers that are finetuned once, and what they rank.

**The rule**, of 2026-11-29, before any result.

- *Pairs.* `laptop`: 500 each, drawn at random, of papers, medquad, squad-questions and python-functions. No text of
  theirs is in a ranked collection, but questions of the third are of the kind of `squad`, and functions of the kind of
  `pydoc`: these two collections are marked as near (`LearnedSize.near`), and a gain there is one in a domain that was
  trained for. A query is told from its batch, 31 other positives: mined negatives and a teacher for them would take
  the time of twice as many pairs and more; 73 has both, once. With them, and 128 tokens a text, it is the published
  form: `paper`.
- *Alike for all.* Every retriever that is finetuned, but for 70's on more pairs, has the same pairs, negatives,
  teacher, number of steps, batches, lengths (64 tokens) and order of pairs under a seed. CSR, which reads each text by
  itself, has the same texts; it reads stored embeddings, five times over, since that costs little, and has as many
  steps where its positives are supervised. In 73 what a teacher helps has negatives and that teacher beside.
- *Size.* What two cores without AMX hold in two hours: 62 steps. 70 says what four times as many pairs bring, once.
- *Constants* are chosen on training queries alone, with the largest weights only where that is how a kind is searched,
  of SciFact and pydoc (train), samples of at most 100 queries each, by the mean of nDCG@10, with seed 0. Tried are two
  learning rates of each finetuned kind; in 72, for 71 too, four learning rates, of which two were added on 2026-11-30
  since the larger had been the better, and two weights gamma of the contrastive loss, at k = 8; in 70 the grid of
  `tune_bm25` where BM25 ranks, and on its more pairs, added then since they had ranked worse, the lower rate and a
  quarter of it; in 71 two learning rates of the joint ones' autoencoders, also of that day, since those of CSR's had
  been tuned. Nothing else: FLOPS' weights (0.03 and 0.01; 0.1 of the bottleneck), the scales, alpha = 1 and AuxK's 0.1
  are the defaults of the kinds and were not tuned; 71 shows other alphas, lambdas and k one at a time, and what is best
  among them there is used nowhere.
- *Stop rule.* One epoch, and the last state is what is measured: there is no early stop. A loss that is not finite ends
  a run, which is then reported as failed.
- *Repeated*, of 2026-11-30, when all had been measured once: every autoencoder that 71 and 72 train. A latent had
  counted as dead after 1,000 calls of Top-K or a million tokens, more than any run had, so that AuxK never acted; now
  it is after 30 calls, which is sentence-transformers' own number, or 30,000 tokens. CSR with supervised positives had
  half the steps of CSR without, since it has half as many rows; now it has as many. Before 71 was run again, what the
  joint training of embeddings reconstructs became a constant in its loss, as it is over tokens.
- *Seeds.* Three of each system in the main tables of 70 and 71 and of each cell of 72's ablation, whose finetuned
  retriever is one, of seed 0; one for layers, widths, more pairs, the ablation of 71 and the other k, and in 73 but for
  CSR and CSRv2. A query's value is the mean over the seeds.
- *Ranked* are samples of 100 queries and 400 documents, or as many as are judged for these queries, of SciFact (test),
  cranfield, squad and pydoc (test), small enough to be read by every model. Retrievers compute in the machine's own
  dtype.
- *Compared* are the pairs of systems that a study names beforehand: by a two-sided paired randomisation test over
  queries, with Holm's correction over the pairs of a collection, and 95 % bootstrap intervals; means over collections
  have intervals of queries resampled within each. That one is "at least" another is held where the lower end of the
  interval is above -0.02.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from scipy.sparse import csr_array, vstack
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.sentence_transformer.modules import Normalize
from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder

from lib.bm25.pooling import with_data
from lib.bm25.pruning import keep_top
from lib.bm25.weighting import BM25Constants, idf_lucene
from lib.data.collection import Collection, load_collection
from lib.encode.encoder import TokenEncoder
from lib.evaluation.tuning import check_training
from lib.interop.conversion import from_sparse_encoder
from lib.latent_terms import LatentTerms
from lib.learned.kind import Kind
from lib.learned.models import DenseControl, VocabularyHead
from lib.learned.pairs import Pairs, join_pairs, load_pairs, mine_negatives
from lib.learned.teachers import TeacherScores, teacher_scores
from lib.learned.train import FinetuneConfig, finetune, is_finished, load_finetuned, run_identity
from lib.sae.autoencoder import SparseAutoencoder
from lib.studies import names
from lib.studies.comparison import check_collections, document_frequency
from lib.studies.encoded import Embeddings, encode_collection, load, pooled_terms, terms_of
from lib.studies.inputs import Setting, sample_collection, setting
from lib.studies.profiles import LearnedSize, Profile
from lib.studies.sweeps import autoencoders, study_recipe
from lib.support.devices import native_dtype
from lib.support.files import remove, temporary_beside
from lib.support.folders import digest_arrays
from lib.support.store import Store

Matrix: TypeAlias = csr_array | np.ndarray


class Readout(NamedTuple):
    """A retriever, and how it makes rows of a collection's documents and queries.

    `name` is of the system in tables; `identity` is JSON-able and decides the rows; `read` returns sparse rows
    [n_texts, width] or dense ones [n_texts, d]; `top` is how many weights of a query and of a document are left, of a
    query those with the largest products of weight and Lucene's idf if `by_idf`; `bm25` ranks instead of the inner
    product; `fvu` returns the share of the variance of the documents' embeddings, or token states, that an autoencoder
    of them leaves unexplained.
    """

    name: str
    identity: dict
    read: Callable[[Collection], tuple[Matrix, Matrix]]
    top: tuple[int, int] | None = None
    by_idf: bool = False
    bm25: BM25Constants | None = None
    fvu: Callable[[Collection], float] = lambda collection: np.nan
    model: LatentTerms | None = None  # where rows are of tokens

    def rows(self, collection: Collection) -> tuple[Matrix, Matrix]:
        """Return the rows of documents and queries, pruned."""
        return self.pruned(*self.read(collection))

    def pruned(self, docs: Matrix, queries: Matrix) -> tuple[Matrix, Matrix]:
        """Return rows with the weights that are left."""
        if self.top is None:
            return docs, queries
        docs = keep_top(docs, self.top[1])
        idf = idf_lucene(document_frequency(docs), docs.shape[0]) if self.by_idf else None
        return docs, keep_top(queries, self.top[0], idf)


class Data(NamedTuple):
    """Pairs with their negatives, and a teacher's scores of both; None where nothing is learned from a teacher."""

    pairs: Pairs
    teacher: TeacherScores | None


@dataclass(frozen=True)
class Bench:
    """What the studies of a profile start from."""

    size: LearnedSize
    setting: Setting
    store: Store
    collections: tuple[Collection, ...]  # that are ranked
    dev: tuple[Collection, ...]  # that constants are chosen on
    readers: dict[str, TokenEncoder] = field(default_factory=dict, repr=False)  # by folder

    @property
    def dtype(self) -> str:
        """The dtype that retrievers read collections in: the machine's own."""
        return native_dtype(self.setting.encoder.device)

    @cached_property
    def base(self) -> TokenEncoder:
        """The retriever as it is trained, in float32."""
        return self.setting.encoder.replace(dtype="float32")

    @property
    def reader(self) -> TokenEncoder:
        """The same, untrained, as it reads collections."""
        return self.reading(self.base)

    def reading(self, encoder: TokenEncoder) -> TokenEncoder:
        """Return an encoder as it reads collections, loaded once."""
        folder = str(encoder.folder)
        if folder not in self.readers:
            self.readers[folder] = encoder.replace(dtype=self.dtype)
        return self.readers[folder].at(encoder.layer)

    @cached_property
    def data(self) -> Data:
        """The pairs that everything is trained on."""
        size, store = self.size, self.store
        pairs = join_pairs(load_pairs(name).sample(size.n_pairs) for name in size.pairs)
        if size.n_negatives:
            pairs = mine_negatives(pairs, n=size.n_negatives, store=store)
        teachers = [("dense", TokenEncoder(teacher.model, max_length=size.max_length)) for teacher in size.teachers]
        return Data(pairs, teacher_scores(pairs, teachers, store=store) if teachers else None)

    @cached_property
    def seen(self) -> Collection:
        """The texts of the pairs as documents; its one query stands for none."""
        texts = list(dict.fromkeys([*self.data.pairs.queries, *self.data.pairs.positives]))
        ids = [str(number) for number in range(len(texts))]
        return Collection("pairs", None, ids, texts, ["0"], texts[:1], {"0": {"0": 1}}, "pairs")

    def config(self, seed: int = 0, **changes) -> FinetuneConfig:
        """Return how everything is trained, but for `changes`."""
        size = self.size
        settings = {name: getattr(size, name) for name in ("epochs", "batch_size", "max_length", "every")}
        return FinetuneConfig(**settings | {"bf16": self.dtype == "bfloat16", "seed": seed} | changes)

    def autoencoder(self, layer: int, width: int) -> SparseAutoencoder:
        """Return an autoencoder of the states of a layer of the untrained retriever."""
        return autoencoders([study_recipe(self.setting, self.base.at(layer), width=width)], self.store)[0]

    def model(self, layer: int = -1, width: int | None = None) -> LatentTerms:
        """Return the untrained retriever with an autoencoder; the width is the smallest of those of 70 by default."""
        encoder = self.base.at(layer)
        return LatentTerms(encoder, self.autoencoder(encoder.layer, width or self.size.widths[0]), "max", "log1p")

    def origin(self, **settings) -> dict:
        """Return what the provenance of results states, JSON-able."""
        data, identities = self.data, [collection.identity for collection in (*self.collections, *self.dev)]
        pairs = {"n": len(data.pairs), "n_negatives": data.pairs.n_negatives, "sha256": data.pairs.digest}
        origin = {"retriever": self.reader.identity, "size": asdict(self.size), "pairs": pairs}
        origin |= {"teacher": data.teacher and data.teacher.teacher, "config": asdict(self.config())}
        return origin | {"training_text": self.setting.text, "collections": identities, **settings}


def bench(profile: Profile, store: Store | None = None) -> Bench:
    """Return what the studies of a profile start from.

    ValueError for pairs or collections that are not known, and unless constants are chosen on training queries.
    """
    size, store = profile.learned, store or Store()
    ranked = check_collections([load_collection(name) for name in size.collections])
    if size.n_docs is not None:
        ranked = [sample_collection(collection, size.n_docs, size.n_queries) for collection in ranked]
    dev = [sample_collection(load_collection(name), size.dev_docs, size.dev_queries) for name in size.dev]
    check_training(dev)
    for name in size.pairs:
        load_pairs(name)  # unknown ones are to be named before anything is trained
    return Bench(size, setting(profile, store, size.sae), store, tuple(ranked), tuple(dev))


def trained(bench: Bench, kind: Kind, base: LatentTerms | TokenEncoder, config: FinetuneConfig) -> Path:
    """Return the folder of a retriever that was finetuned on the pairs, in the store; a killed run goes on."""
    teacher = _teacher(bench, kind)
    run = run_identity(kind, base, bench.data.pairs, config, teacher)

    def train(folder: Path) -> None:
        finetune(kind, bench.data.pairs, folder, base=base, config=config, teacher=teacher, store=bench.store)

    return bench.store.make("learned", run, is_finished, train)


def _teacher(bench: Bench, kind: Kind) -> TeacherScores | None:
    """Return the teacher for kinds that learn from pairs, not from each text alone."""
    return bench.data.teacher if kind.reads_pairs else None


def trained_readout(
    bench: Bench, name: str, kind: Kind, base: LatentTerms | TokenEncoder, config: FinetuneConfig
) -> Readout:
    """Train a retriever if that is still to be done, and return how it reads."""
    if kind.frozen:
        return codes_readout(bench, name, kind, base, config)
    if isinstance(kind, DenseControl):
        return dense_readout(bench, name, finetuned_encoder(bench, kind, base, config))
    folder = trained(bench, kind, base, config)
    model = load_finetuned(folder)
    if (place := _place(model)) is not None:

        def save(front: Path) -> None:
            with temporary_beside(front) as temporary:
                SentenceTransformer(modules=list(model)[:place]).save(str(temporary), create_model_card=False)
                temporary.rename(front)

        front = bench.store.make("front", folder.name, Path.is_dir, save)
        return _coded(bench, name, _named(TokenEncoder(front, dtype=bench.dtype), front), model[place])
    body = [module for module in model if not isinstance(module, Normalize)]
    body[-1].top = None  # rows are pruned later
    terms = from_sparse_encoder(SparseEncoder(modules=body, prompts=model.prompts, device=str(model.device)))
    sae = SparseAutoencoder(**terms.sae.tensors(), activation=terms.sae.activation)  # which names the folder no more
    terms = LatentTerms(_named(bench.reading(terms.encoder), folder), sae, terms.pooling, terms.phi)
    words = isinstance(kind, VocabularyHead)
    readout = token_readout(bench, name, terms, unit=len(body) < len(model), reconstructs=not words)
    return readout._replace(top=getattr(kind, "top", None))


def finetuned_encoder(
    bench: Bench, kind: Kind, base: LatentTerms | TokenEncoder, config: FinetuneConfig
) -> TokenEncoder:
    """Return a retriever that was finetuned on the pairs, in float32; its folder may hold an autoencoder, too."""
    folder = trained(bench, kind, base, config)
    return _named(TokenEncoder(folder, dtype="float32"), folder)


def _named(encoder: TokenEncoder, folder: Path) -> TokenEncoder:
    return encoder.named(folder.name)  # so that entries of the store do not depend on where it is


def _place(model) -> int | None:
    """Return which module is an autoencoder of embeddings, if there is one."""
    return next((number for number, module in enumerate(model) if isinstance(module, SparseAutoEncoder)), None)


def token_readout(
    bench: Bench, name: str, model: LatentTerms, unit: bool = False, reconstructs: bool = True
) -> Readout:
    """Return the pooled latents of tokens, whole rows; of norm 1 if `unit`, without FVU unless they reconstruct."""

    def read(collection: Collection) -> tuple[csr_array, csr_array]:
        encoded = encode_collection(model, collection, bench.store)
        sides = encoded.doc_terms, encoded.query_terms
        return (_of_norm_1(sides[0]), _of_norm_1(sides[1])) if unit else sides

    def fvu(collection: Collection) -> float:
        return pooled_terms([terms_of(model)], collection, "document", bench.store)[0].fvu if reconstructs else np.nan

    return Readout(name, model.identity | {"unit": unit}, read, fvu=fvu, model=model)


def whole_and_pruned(bench: Bench, readout: Readout) -> list[Readout]:
    """Return a readout of whole rows, and one of the largest weights only, as many as SPLARE keeps."""
    top = bench.size.top
    return [readout._replace(top=None), readout._replace(name=names.pruned(readout.name, *top), top=top)]


def _of_norm_1(rows: csr_array) -> csr_array:
    norms = np.sqrt(np.add.reduceat(np.append(rows.data, 0) ** 2, rows.indptr[:-1]))
    return with_data(rows, (rows.data / np.repeat(norms, np.diff(rows.indptr))).astype(np.float32))


def dense_readout(bench: Bench, name: str, encoder: TokenEncoder) -> Readout:
    """Return the embeddings of a retriever, of norm 1."""
    encoder = bench.reading(encoder)
    return Readout(name, {"dense": encoder.identity}, lambda collection: embeddings_of(bench, encoder, collection))


def embeddings_of(bench: Bench, encoder: TokenEncoder, collection: Collection) -> tuple[np.ndarray, np.ndarray]:
    """Return the embeddings of documents and queries, float32 [n_texts, d], of norm 1."""
    sides = []
    for kind in ("document", "query"):
        parts = load(Embeddings(encoder), collection, kind, bench.store)
        rows = np.concatenate([part["embeddings"] for part in parts])
        sides.append(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))
    return sides[0], sides[1]


def codes_readout(
    bench: Bench, name: str, kind: Kind, base: LatentTerms | TokenEncoder, config: FinetuneConfig
) -> Readout:
    """Train an autoencoder of the embeddings of a retriever that stays as it is, and return its codes.

    Of the run only the autoencoder is kept in the store: all else is the retriever's.
    """
    teacher, pairs = _teacher(bench, kind), bench.data.pairs
    run = run_identity(kind, base, pairs, config, teacher)

    def make() -> dict[str, np.ndarray]:
        folder = trained(bench, kind, base, config)
        model = load_finetuned(folder).cpu()
        arrays = {key: tensor.detach().numpy() for key, tensor in model[_place(model)].named_parameters()}
        remove(folder)
        return arrays

    arrays = bench.store.get("head", run, make)
    d, width = arrays["encoder.weight"].shape[::-1]
    head = SparseAutoEncoder(d, width, kind.k, k_aux=0)
    weights = {key: torch.from_numpy(np.array(array)) for key, array in arrays.items()}
    head.load_state_dict(weights, strict=False)  # the decoder is the encoder's transpose
    encoder = base.encoder if isinstance(base, LatentTerms) else base
    return _coded(bench, name, bench.reading(encoder), head)


def _coded(bench: Bench, name: str, encoder: TokenEncoder, head: SparseAutoEncoder) -> Readout:
    head = head.cpu()  # as the embeddings are
    weights = {key: tensor.detach().numpy() for key, tensor in head.named_parameters()}
    identity = {"encoder": encoder.identity, "head": digest_arrays(weights), "k": head.k}

    def read(collection: Collection) -> tuple[csr_array, csr_array]:
        docs, queries = embeddings_of(bench, encoder, collection)
        return codes(docs, head), codes(queries, head)

    def fvu(collection: Collection) -> float:
        x = torch.from_numpy(embeddings_of(bench, encoder, collection)[0]) * head.input_dim**0.5
        with torch.no_grad():
            parts = [head.eval()({"sentence_embedding": part})["decoded_embedding_k"] for part in x.split(1_024)]
        return float((x - torch.cat(parts)).square().sum() / (x - x.mean(dim=0)).square().sum())

    return Readout(name, identity, read, fvu=fvu)


def codes(embeddings: np.ndarray, head: SparseAutoEncoder, block: int = 1_024) -> csr_array:
    """Return an autoencoder's codes of embeddings of norm 1, of norm 1 themselves, float32 [n, width]."""
    parts = []
    with torch.inference_mode():
        for first in range(0, len(embeddings), block):
            x = torch.from_numpy(embeddings[first : first + block].astype(np.float32)) * head.input_dim**0.5
            features = Normalize()(head({"sentence_embedding": x}))
            parts.append(csr_array(features["sentence_embedding"].numpy()))
    return vstack(parts, format="csr")
