"""What a retriever can read: folders whose parts do not fit are refused; what is cut off or unknown is logged."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import MAX_LENGTH, SHAPE, TEXTS, VOCABULARY, _save_tokenizer
from test_backbones import save_colbert
from test_encoder import joined
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2Model,
    MPNetConfig,
    MPNetModel,
    OPTConfig,
    OPTModel,
    Qwen2Config,
    Qwen2Model,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5EncoderModel,
    XLNetConfig,
    XLNetModel,
)

from lib.encode.encoder import TokenEncoder
from lib.latent_terms import LatentTerms

SIZE = {"vocab_size": len(VOCABULARY)}
LAYERS = {"n_layer": 2, "n_head": 4}
MODELS = {
    "bert": lambda: BertModel(BertConfig(**SHAPE)),
    "distilbert": lambda: DistilBertModel(
        DistilBertConfig(**SIZE, dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=80)
    ),
    "roberta": lambda: RobertaModel(RobertaConfig(**SHAPE, pad_token_id=1)),
    "mpnet": lambda: MPNetModel(MPNetConfig(**SHAPE, pad_token_id=1)),
    "gpt2": lambda: GPT2Model(GPT2Config(**SIZE, **LAYERS, n_positions=80, n_embd=32, bos_token_id=2, eos_token_id=3)),
    "opt": lambda: OPTModel(
        OPTConfig(**SHAPE | {"hidden_size": 32, "ffn_dim": 64}, word_embed_proj_dim=32, bos_token_id=2)
    ),
    "qwen2": lambda: Qwen2Model(Qwen2Config(**SHAPE, num_key_value_heads=2)),
    "t5": lambda: T5EncoderModel(T5Config(**SIZE, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)),
    "xlnet": lambda: XLNetModel(XLNetConfig(**SIZE, **LAYERS, d_model=32, d_inner=64)),
}
LOGGER = "lib.encode.limits"
LONG = "the cat sat on a mat . " * 40  # 280 words


def save(folder: Path, kind: str, limit: int | None = None) -> Path:
    """Save a tiny model with a tokenizer that states a limit, or none."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        MODELS[kind]().save_pretrained(folder)
    _save_tokenizer(folder)
    set_json(folder / "tokenizer_config.json", model_max_length=limit)
    return folder


def set_json(path: Path, **values) -> None:
    """Change fields of a JSON file; None removes one."""
    fields = json.loads(path.read_text()) | values
    path.write_text(json.dumps({name: value for name, value in fields.items() if value is not None}))


def refused(folder: Path, match: str, **settings) -> None:
    with pytest.raises(ValueError, match=match):
        TokenEncoder(folder, dtype="float32", **settings)


@pytest.mark.parametrize("kind", ["roberta", "mpnet"])
def test_positions_that_begin_after_the_padding_are_fewer_than_the_configuration_says(tmp_path, kind):
    folder = save(tmp_path, kind)
    refused(folder, "80 tokens.*78; pass max_length=78")
    refused(folder, "max_length=78", max_length=79)
    assert len(joined(TokenEncoder(folder, dtype="float32", max_length=78).stream([LONG])).states) == 78


@pytest.mark.parametrize("kind", ["bert", "distilbert", "gpt2", "opt"])
def test_all_positions_of_other_models_are_used(tmp_path, kind):
    encoder = TokenEncoder(save(tmp_path, kind), dtype="float32")
    assert encoder.max_length == len(joined(encoder.stream([LONG])).states) == 80


@pytest.mark.parametrize("file", ["sentence_bert_config.json", "document_length"])
def test_a_limit_above_the_positions_is_refused_when_the_model_is_loaded(sentence_folder, plain_folder, tmp_path, file):
    if file == "document_length":
        folder = save_colbert(plain_folder, tmp_path / "a", query_expansion={"strategy": "fixed", "length": 81})
        refused(folder, "81 tokens of a query.*80")
        return
    folder = shutil.copytree(sentence_folder, tmp_path / "a")
    set_json(folder / file, max_seq_length=200)
    refused(folder, "200 tokens.*80; pass max_length=80")
    assert len(joined(TokenEncoder(folder, dtype="float32", max_length=80).stream([LONG])).states) == 80


@pytest.mark.parametrize("kind", ["t5", "xlnet"])
def test_a_model_without_a_limit_needs_one(tmp_path, kind):
    folder = save(tmp_path, kind)
    refused(folder, "no limit.*max_length")
    encoder = TokenEncoder(folder, dtype="float32", max_length=100)
    assert len(joined(encoder.stream([LONG])).states) == encoder.max_length == 100
    assert encoder.identity == TokenEncoder(**encoder.config).identity


@pytest.mark.parametrize("kind", ["bert", "roberta", "t5", "qwen2"])
def test_a_folder_without_tokenizer_files_is_refused(tmp_path, kind):
    folder = save(tmp_path, kind, MAX_LENGTH)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    refused(folder, "tokenizer.json")


def test_a_tokenizer_that_does_not_read_its_own_words_is_refused(tmp_path):
    # Qwen2's class reads bytes; of a vocabulary of words it makes no token
    refused(save(tmp_path, "qwen2"), "53 entries.*tokenizer.json")


@pytest.mark.parametrize("tokens", [["mouse"], ["mouse", "owl"]])
def test_a_tokenizer_with_more_entries_than_embeddings_is_refused(plain_folder, tmp_path, tokens):
    tokenizer = AutoTokenizer.from_pretrained(shutil.copytree(plain_folder, tmp_path / "a"))
    tokenizer.add_tokens(tokens)
    tokenizer.save_pretrained(tmp_path / "a")
    refused(tmp_path / "a", f"{51 + len(tokens)} \\('{tokens[-1]}'\\).*51; .*resize")


def test_fewer_embeddings_than_entries_are_refused(tmp_path):
    BertModel(BertConfig(**SHAPE | {"vocab_size": 30})).save_pretrained(tmp_path)
    _save_tokenizer(tmp_path)
    refused(tmp_path, "51 .*29; .*resize")


def test_a_special_token_without_an_embedding_is_refused_where_it_is_read(plain_folder, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(shutil.copytree(plain_folder, tmp_path / "a"))
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    tokenizer.save_pretrained(tmp_path / "a")
    encoder = TokenEncoder(tmp_path / "a", dtype="float32")
    assert len(joined(encoder.stream(["the cat"])).states) == 4
    with pytest.raises(ValueError, match=r"'the <image>'.*'<image>'"):
        next(encoder.stream(["the cat", "the <image>"]))
    refused(tmp_path / "a", "'<image> '", query_prompt="<image> ")
    tokenizer.pad_token = "<image>"  # every batch has it
    tokenizer.save_pretrained(tmp_path / "a")
    refused(tmp_path / "a", "52 .*51; .*resize")


def test_a_tokenizer_for_less_than_half_of_the_embeddings_is_noticed(tmp_path):
    BertModel(BertConfig(**SHAPE | {"vocab_size": 200})).save_pretrained(tmp_path)
    _save_tokenizer(tmp_path)
    with pytest.warns(UserWarning, match="52 entries.*200") as noticed:
        TokenEncoder(tmp_path, dtype="float32")
    assert noticed[0].filename == __file__


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["query", "document"])
def test_a_prompt_that_leaves_no_token_to_a_text_is_refused(plain_folder, tmp_path, sentence_folder, kind):
    prompt = {f"{kind}_prompt": "the cat sat on a mat"}  # 6 words and 2 special tokens
    refused(plain_folder, "8 tokens.*the cat sat.*max_length", max_length=8, **prompt)
    assert TokenEncoder(plain_folder, dtype="float32", max_length=9, **prompt).max_length == 9
    folder = shutil.copytree(sentence_folder, tmp_path / "a")
    settings = {"prompts": {kind: "a dog " * 40}, "default_prompt_name": None}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    refused(folder, "a dog .*shorten")
    TokenEncoder(folder, dtype="float32", **{f"{kind}_prompt": ""})


def lines(caplog, level: int = logging.WARNING) -> list[str]:
    return [record.getMessage() for record in caplog.records if (record.name, record.levelno) == (LOGGER, level)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["document", "query"])
def test_what_is_cut_off_is_logged_once_a_pass(tiny_encoder, tiny_sae, caplog, kind):
    model, texts = LatentTerms(tiny_encoder, tiny_sae), [*TEXTS, LONG] * 40  # in several windows and groups
    passes = [
        lambda: list(tiny_encoder.stream(texts, kind)),
        lambda: list(tiny_encoder.count_tokens(texts, kind)),
        lambda: (model.encode_documents if kind == "document" else model.encode_queries)(iter(texts)),
    ]
    tiny_encoder.tokenizer.backend_tokenizer.no_truncation()
    n_tokens = np.array([len(tiny_encoder.tokenizer.backend_tokenizer.encode(text).ids) for text in texts])
    n_cut = int(np.maximum(n_tokens - MAX_LENGTH, 0).sum())
    for run in passes:
        caplog.clear()
        run()
        (line,) = lines(caplog)
        assert line.startswith(f"80 of 400 {'documents' if kind == 'document' else 'queries'} have more than 64 tokens")
        assert f"{n_cut:,} of {n_tokens.sum():,} tokens" in line
        assert "long_texts='chunk'" in line


def test_a_prompt_takes_tokens_from_the_text(plain_folder, caplog):
    encoder = TokenEncoder(plain_folder, dtype="float32", max_length=8, document_prompt="title : ")
    list(encoder.stream(["one two three x", "one two three x y z"]))
    assert "1 of 2 documents" in caplog.text
    assert "2 of 18 tokens" in caplog.text  # [CLS] title : and [SEP] are read of both


@pytest.mark.parametrize("texts", [["the cat", ""], [], [" ".join(["the"] * 62)]])
def test_nothing_is_logged_where_nothing_is_cut_off(tiny_encoder, caplog, texts):
    caplog.set_level(logging.INFO)
    list(tiny_encoder.stream(texts))
    assert lines(caplog) == lines(caplog, logging.INFO) == []


def test_chunks_are_logged_as_such(sentence_folder, caplog):
    caplog.set_level(logging.INFO)
    encoder = TokenEncoder(sentence_folder, dtype="float32").with_long_texts("chunk")
    assert len(joined(encoder.stream([LONG, "the cat"])).states) > 280
    assert lines(caplog) == []
    assert "1 of 2 documents have more than 64 tokens" in lines(caplog, logging.INFO)[0]


def test_another_way_to_read_long_texts_shares_the_model(tiny_encoder):
    chunking = tiny_encoder.at(1).with_long_texts("chunk")
    assert chunking._model is tiny_encoder._model
    assert chunking.config == tiny_encoder.config | {"layer": 1, "long_texts": "chunk"}
    assert tiny_encoder.long_texts == "cut"
    with pytest.raises(ValueError, match="window"):
        tiny_encoder.with_long_texts("window")


@pytest.mark.parametrize("text", ["ปลาตัวใหญ่ว่ายน้ำอยู่ในแม่น้ำ", "кошка сидела на коврике", "zebra zebra zebra"])
def test_tokens_that_the_tokenizer_does_not_know_are_logged(tiny_encoder, caplog, text):
    list(tiny_encoder.stream(["the old cat sat", text]))
    (line,) = lines(caplog)
    assert "2 documents are unknown" in line
    caplog.clear()
    list(tiny_encoder.stream(["the old cat sat on a red mat , and the dog ran ."] * 3 + ["zebra"]))
    assert lines(caplog) == []
    list(tiny_encoder.stream(["zebra " * 20 + LONG * 10]))  # 20 of the 64 tokens that are read
    assert "20 of 64 tokens" in lines(caplog)[1]
