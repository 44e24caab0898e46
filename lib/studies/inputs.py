"""What the sweeps run on: sizes by profile, the text for training, collections or samples of them, and retrievers."""

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from lib.data.collection import Collection, load_collection
from lib.data.training_text import GivenText, LocalText, StreamedText
from lib.encode.backbones import load
from lib.encode.encoder import TokenEncoder
from lib.encode.packaged import RETRIEVER_NAME
from lib.encode.states import TrainingText
from lib.sae.training import TrainingConfig
from lib.studies.comparison import with_queries
from lib.studies.profiles import Profile, SweepSize
from lib.support.checks import check_count
from lib.support.devices import training_device
from lib.support.files import temporary_beside
from lib.support.store import Store

TEXT = "LATENT_TERMS_TEXT"  # the environment variable
LONG_TEXTS = "cut"  # of passages with more than 256 tokens, 5 % of the English ones, as the committed results were made
_TOKENS_A_WORD = 1.2  # at least, of English prose in WordPiece; about 1.3 as it was counted
PLAIN_MODELS = {  # what a retriever was before it learned to retrieve
    RETRIEVER_NAME: "nreimers/MiniLM-L6-H384-uncased",
    "nthakur/contriever-base-msmarco": "google-bert/bert-base-uncased",
}


@dataclass(frozen=True)
class Setting:
    """What every study of a profile starts from."""

    size: SweepSize
    encoder: TokenEncoder  # the retriever, at its final layer
    corpus: Iterable[str]  # what autoencoders are trained on: LocalText, StreamedText or GivenText
    text: str  # the same in words
    collections: tuple[Collection, ...]

    @property
    def ablated(self) -> tuple[Collection, ...]:
        """The collections of the ablations."""
        return self.collections[: self.size.n_ablated]

    @property
    def config(self) -> TrainingConfig:
        """How an autoencoder is trained where a study changes nothing."""
        fields = ("width", "k", "epochs", "batch_tokens", "dead_tokens")
        return TrainingConfig(**{field: getattr(self.size, field) for field in fields})

    @property
    def origin(self) -> dict:
        """What the provenance of results states, JSON-able."""
        origin = {"retriever": self.encoder.identity, "training_text": {"what": self.text, **self.corpus.identity}}
        origin |= {"size": asdict(self.size), "training": asdict(self.config.resolved(training_device()))}
        return origin | {"collections": [collection.identity for collection in self.collections]}


def setting(profile: Profile, store: Store | None = None, size: SweepSize | None = None) -> Setting:
    """Return what the studies of a profile start from; ValueError for an unknown collection or an empty text.

    `size` is that of the sweeps unless another is given.
    """
    size = size or profile.sweeps
    collections = tuple(load_collection(name) for name in size.collections)
    if size.n_docs is not None:
        collections = tuple(sample_collection(c, size.n_docs, size.n_queries) for c in collections)
    corpus, text = training_text(size, size.tokens, store or Store())
    encoder = TokenEncoder(size.model, max_length=256, dtype=profile.dtype)
    return Setting(size, encoder, corpus, text, collections)


def training_text(size: SweepSize, tokens: int | None, store: Store) -> tuple[Iterable[str], str]:
    """Return the text that autoencoders are trained on, and a description of it.

    Of the files that LATENT_TERMS_TEXT names, a random share is drawn that has a little more than `tokens` (None: all),
    so that the states are of all files; their words are counted once.
    """
    if source := os.environ.get(TEXT):
        text = LocalText(source)
        if tokens is None:
            return text, f"the files that {TEXT} names"
        count = store.get("words", text.identity, lambda: {"n": np.array([sum(len(part.split()) for part in text)])})
        share = min(1.0, tokens / (_TOKENS_A_WORD * int(count["n"][0])))
        return LocalText(source, fraction=share), f"a random {share:.2%} of the files that {TEXT} names"
    if size.text.startswith("hf:"):
        dataset, _, name = size.text.removeprefix("hf:").partition(",")
        return StreamedText(dataset, name or None), f"the first of {size.text.removeprefix('hf:')}"
    return shuffled(load_collection("pydoc/train").doc_texts), "pydoc's docstrings in random order, no queries"


def count_tokens(encoder: TokenEncoder, corpus: Iterable[str], store: Store) -> int:
    """Return how many tokens a retriever reads in a text that has an `identity`; they are counted once."""
    key = {"encoder": encoder.identity, "corpus": corpus.identity}
    count = store.get("tokens", key, lambda: {"n": np.array([TrainingText(encoder, corpus, long_texts=LONG_TEXTS).n])})
    return int(count["n"][0])


def shuffled(texts: Iterable[str], seed: int = 0) -> GivenText:
    """Return texts in a random order, so that the first tokens of them are of all."""
    texts = list(texts)
    return GivenText([texts[i] for i in np.random.default_rng(seed).permutation(len(texts))])


def sample_collection(collection: Collection, n_docs: int, n_queries: int, seed: int = 0) -> Collection:
    """Return a smaller collection: random queries, the documents judged for them, and others up to `n_docs`.

    Its name ends with the number of its documents. The smaller it is, the easier: compare no sample with the whole.
    """
    n_docs, n_queries = check_count(n_docs, "n_docs"), check_count(n_queries, "n_queries")
    rng = np.random.default_rng(seed)
    rows = sorted(rng.permutation(len(collection.query_ids))[:n_queries].tolist())
    sample = with_queries(collection, rows)
    chosen = {doc for judged in sample.qrels.values() for doc in judged}
    others = [doc for doc in collection.doc_ids if doc not in chosen]
    n_others = max(0, n_docs - len(chosen))
    chosen |= {others[i] for i in rng.permutation(len(others))[:n_others]}
    docs = [(d, t) for d, t in zip(collection.doc_ids, collection.doc_texts, strict=True) if d in chosen]
    ids, texts = [doc for doc, _ in docs], [text for _, text in docs]
    return replace(sample, name=f"{collection.name}-{len(docs)}", doc_ids=ids, doc_texts=texts)


def untrained(encoder: TokenEncoder, store: Store, seed: int = 0) -> TokenEncoder:
    """Return a retriever of the same architecture, tokenizer and settings with random weights, kept in the store."""

    def make(folder: Path) -> None:
        model = load(str(encoder.folder), "cpu", encoder.max_length)
        backbone = model[0].auto_model
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            fresh = type(backbone)(backbone.config)
            for part in (part for module in list(model)[1:] for part in module.modules()):
                if isinstance(part, torch.nn.Linear):
                    part.reset_parameters()
        backbone.load_state_dict(fresh.state_dict())
        with temporary_beside(folder) as temporary:
            model.save(str(temporary), create_model_card=False)
            temporary.rename(folder)

    return encoder.replace(model=str(store.make("untrained", [encoder.identity, seed], Path.is_dir, make)))


def plain_language_model(encoder: TokenEncoder) -> TokenEncoder:
    """Return the language model that a retriever was trained from, with the same settings; its text vectors are means.

    ValueError if it is unknown which that was, OSError if it is neither on disk nor can be downloaded.
    """
    if encoder.name not in PLAIN_MODELS:
        raise ValueError(f"What {encoder.name} was trained from is not known; known are {', '.join(PLAIN_MODELS)}.")
    name = PLAIN_MODELS[encoder.name]
    try:
        return encoder.replace(model=name)
    except OSError as error:  # so transformers reports a hub that it cannot reach
        raise OSError(
            f"{name}, which {encoder.name} was trained from, cannot be loaded ({str(error).splitlines()[0]}). "
            f"Run once where the Hugging Face hub can be reached: hf download {name}."
        ) from error
