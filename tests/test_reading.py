"""How a text is read: prompts, decoder-only retrievers and long texts, each against an independent reading."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import MAX_LENGTH, SHAPE, TEXTS, VOCABULARY
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from test_encoder import CLOSE, assert_same, ids, joined, rows
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModel,
    LlamaConfig,
    LlamaModel,
    Qwen2Config,
    Qwen2Model,
    Qwen2Tokenizer,
)

from lib.encode.encoder import TokenEncoder
from lib.latent_terms import LatentTerms

PROMPTS = {"query": "query : ", "document": "title : "}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prompts", "default", "expected"),
    [
        ({"query": "query : ", "document": "title : "}, None, ("query : ", "title : ")),
        ({"query": "query : ", "passage": "title : "}, None, ("query : ", "title : ")),
        ({"corpus": "title : "}, None, ("", "title : ")),
        ({"task": "two : "}, "task", ("two : ", "two : ")),
        ({"task": "two : ", "query": "query : "}, "task", ("query : ", "two : ")),
        ({"query": "query : "}, "query", ("query : ", "")),  # the other kind's is no default
        ({}, None, ("", "")),
    ],
)
def test_prompts_of_the_configuration(sentence_folder, tmp_path, prompts, default, expected):
    folder = tmp_path / "prompted"
    shutil.copytree(sentence_folder, folder)
    config = {"prompts": prompts, "default_prompt_name": default}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(config))
    for path in (folder, tmp_path / "saved-again"):
        assert TokenEncoder(path, dtype="float32").prompts == dict(zip(("query", "document"), expected, strict=True))
        SentenceTransformer(str(folder), device="cpu").save_pretrained(str(tmp_path / "saved-again"))
    overridden = TokenEncoder(folder, dtype="float32", query_prompt="", document_prompt="small ")
    assert overridden.prompts == {"query": "", "document": "small "}


@pytest.mark.slow
@pytest.mark.parametrize("special_tokens", [True, False])
def test_without_the_prompt_its_tokens_are_read_but_not_given_out(plain_folder, special_tokens):
    settings = {"dtype": "float32", "query_prompt": "query : ", "special_tokens": special_tokens}
    uncut = joined(TokenEncoder(plain_folder, **settings).stream(TEXTS, "query"))
    encoder = TokenEncoder(plain_folder, include_prompt=False, **settings)
    got = joined(encoder.stream(TEXTS, "query"))
    n_out = 3 if special_tokens else 2  # [CLS] query : as sentence-transformers counts a prompt
    for i, text in enumerate(TEXTS):
        torch.testing.assert_close(rows(got, i), rows(uncut, i)[n_out:], **CLOSE)
        assert (len(rows(got, i)) > 0) == bool(text.strip())
    assert list(encoder.count_tokens(TEXTS, "query")) == np.diff(got.offsets).tolist()
    np.testing.assert_allclose(got.pooled, uncut.pooled, **CLOSE)  # the model's own embedding stays its own
    assert_same(joined(encoder.stream(TEXTS)), joined(TokenEncoder(plain_folder, **settings).stream(TEXTS)))


@pytest.fixture(scope="module")
def promptless_folder(plain_folder, tmp_path_factory) -> str:
    """A model that leaves the prompt out of its own pooling, as INSTRUCTOR does."""
    folder = tmp_path_factory.mktemp("promptless")
    modules = [Transformer(plain_folder), Pooling(32, "mean", include_prompt=False)]
    SentenceTransformer(modules=modules, prompts=PROMPTS, device="cpu").save_pretrained(str(folder))
    return str(folder)


@pytest.mark.slow
@pytest.mark.parametrize("include_prompt", [True, False])
def test_a_pooling_that_leaves_the_prompt_out_is_followed(promptless_folder, include_prompt):
    texts = [text for text in TEXTS if text.strip()]
    model = SentenceTransformer(promptless_folder, device="cpu")
    encoder = TokenEncoder(promptless_folder, dtype="float32", include_prompt=include_prompt)
    for kind, encode in (("query", model.encode_query), ("document", model.encode_document)):
        got = joined(encoder.stream(texts, kind))
        np.testing.assert_allclose(got.pooled, encode(texts), **CLOSE)
        model.set_pooling_include_prompt(True)
        assert np.abs(got.pooled - encode(texts)).max() > 1e-2  # it does matter
        model.set_pooling_include_prompt(False)


def save_decoder(folder, kind: str, ending: bool) -> str:
    """A tiny decoder-only retriever that pools the last token; its tokenizer reads bytes, pads left, may end a text."""
    config, model = {"qwen2": (Qwen2Config, Qwen2Model), "llama": (LlamaConfig, LlamaModel)}[kind]
    merges = [("t", "h"), ("th", "e"), ("c", "a"), ("ca", "t")]
    words = ["<pad>", "<end>", *sorted(ByteLevel.alphabet()), *("".join(merge) for merge in merges)]
    with torch.random.fork_rng():
        torch.manual_seed(11)
        model(config(**SHAPE | {"vocab_size": len(words)}, num_key_value_heads=2)).save_pretrained(folder)
    names = {"pad_token": "<pad>", "eos_token": "<end>", "unk_token": None}
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = Qwen2Tokenizer(vocabulary, merges, padding_side="left", model_max_length=MAX_LENGTH, **names)
    if ending:
        template = TemplateProcessing(single="$A <end>", special_tokens=[("<end>", 1)])
        tokenizer.backend_tokenizer.post_processor = template
    tokenizer.save_pretrained(folder)
    modules = [Transformer(str(folder)), Pooling(32, "lasttoken"), Normalize()]
    SentenceTransformer(modules=modules, prompts={"query": "query: "}, device="cpu").save_pretrained(str(folder))
    return str(folder)


@pytest.fixture(scope="module", params=[("qwen2", True), ("llama", True), ("qwen2", False)], ids=str)
def decoder_folder(request, tmp_path_factory) -> str:
    return save_decoder(tmp_path_factory.mktemp("decoder"), *request.param)


@pytest.mark.slow
@pytest.mark.parametrize("layer", [-1, 0, 2])
def test_decoder_states_are_those_without_padding(decoder_folder, layer):
    encoder = TokenEncoder(decoder_folder, layer=layer, dtype="float32")
    model, tokenizer = AutoModel.from_pretrained(decoder_folder).eval(), encoder.tokenizer
    assert tokenizer.padding_side == "left"
    assert len(tokenizer("the cat, dog")["input_ids"]) == 8 + tokenizer.num_special_tokens_to_add()  # it does read text
    got = joined(encoder.stream(TEXTS))
    for i, text in enumerate(TEXTS):
        if not text.strip():
            continue
        tokens = torch.tensor([tokenizer(text, truncation=True, max_length=64)["input_ids"]])
        with torch.no_grad():
            out = model(input_ids=tokens, output_hidden_states=True)
        expected = out.last_hidden_state if layer == -1 else out.hidden_states[layer]
        torch.testing.assert_close(rows(got, i), expected[0], **CLOSE)
    for budget in (1, 100):
        assert_same(
            joined(TokenEncoder(decoder_folder, layer=layer, dtype="float32", batch_tokens=budget).stream(TEXTS)), got
        )


@pytest.mark.slow
def test_a_decoder_pools_its_last_token(decoder_folder):
    texts = [text for text in TEXTS if text.strip()]
    model, encoder = SentenceTransformer(decoder_folder, device="cpu"), TokenEncoder(decoder_folder, dtype="float32")
    for kind, encode in (("query", model.encode_query), ("document", model.encode_document)):
        got = joined(encoder.stream(texts, kind))
        np.testing.assert_allclose(got.pooled, encode(texts), **CLOSE)
        last = torch.nn.functional.normalize(got.states[got.offsets[1:] - 1], dim=1)
        np.testing.assert_allclose(got.pooled, last.numpy(), **CLOSE)


def test_a_decoder_reads_empty_texts(decoder_folder):
    got = joined(TokenEncoder(decoder_folder, dtype="float32").stream(["", "the cat", " "]))
    assert got.offsets[1] == 0
    assert got.offsets[2] == got.offsets[3] > 0
    assert np.isfinite(got.pooled).all()


LONG = "the old cat sat on a red mat . a bird sang in the tree and the river ran , " * 20  # 400 words
CHUNKED = {"dtype": "float32", "long_texts": "chunk"}


@pytest.fixture(scope="module")
def chunking(sentence_folder) -> TokenEncoder:
    return TokenEncoder(sentence_folder, **CHUNKED, max_length=20, document_prompt="title : ")


def chunks_by_hand(text: str, limit: int) -> list[str]:
    return [" ".join(words) for words in np.array_split(text.split(), -(-len(text.split()) // limit))]


@pytest.mark.slow
def test_a_long_text_is_read_whole_in_chunks(chunking, sentence_folder):
    cut = TokenEncoder(sentence_folder, dtype="float32", max_length=20, document_prompt="title : ")
    got = joined(chunking.stream(["the cat", LONG, "", "dog"]))
    parts = chunks_by_hand(LONG, 16)  # 20 without [CLS], title, : and [SEP]
    assert len(parts) == 25
    alone = joined(cut.stream(parts))
    assert ids(got, 1) == alone.token_ids.tolist()
    torch.testing.assert_close(rows(got, 1), alone.states, **CLOSE)
    assert list(chunking.count_tokens(["the cat", LONG, "", "dog"])) == np.diff(got.offsets).tolist()
    # texts that are not long stay as they are
    short = joined(cut.stream(["the cat", "", "dog"]))
    for i, j in ((0, 0), (2, 1), (3, 2)):
        torch.testing.assert_close(rows(got, i), rows(short, j), **CLOSE)
        np.testing.assert_allclose(got.pooled[i], short.pooled[j], **CLOSE)
    # and what a text is cut to without chunks is much less
    assert len(joined(cut.stream([LONG])).states) == 20


@pytest.mark.slow
def test_the_embedding_of_a_long_text_is_the_mean_of_its_chunks(chunking, sentence_folder, plain_folder):
    text = LONG + "dog"
    parts = chunks_by_hand(text, 16)
    weights = [len(part.split()) + 4 for part in parts]
    assert len(set(weights)) == 2  # 15 words or 16
    for folder, unit in ((sentence_folder, True), (plain_folder, False)):
        settings = {"max_length": 20, "document_prompt": "title : "}
        alone = joined(TokenEncoder(folder, dtype="float32", **settings).stream(parts))
        mean = np.average(alone.pooled, axis=0, weights=weights)
        got = joined(TokenEncoder(folder, **CHUNKED, **settings).stream([text]))
        np.testing.assert_allclose(got.pooled[0], mean / np.linalg.norm(mean) if unit else mean, **CLOSE)
        if not unit:  # mean pooling: it is the mean over all tokens of all chunks
            np.testing.assert_allclose(got.pooled[0], got.states.mean(dim=0).numpy(), **CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("batch_tokens", [1, 50, 2048])
def test_chunks_do_not_depend_on_batches(sentence_folder, chunking, batch_tokens):
    encoder = TokenEncoder(
        sentence_folder, **CHUNKED, max_length=20, document_prompt="title : ", batch_tokens=batch_tokens
    )
    texts = [*TEXTS, LONG, *TEXTS, LONG + "dog"]
    blocks = list(encoder.stream(texts))
    assert sum(len(block.offsets) - 1 for block in blocks) == len(texts)
    assert_same(joined(blocks), joined(chunking.stream(texts)))


def test_chunks_without_prompt_or_special_tokens_are_the_text_once(plain_folder):
    settings = {"max_length": 20, "document_prompt": "title : ", "special_tokens": False, "include_prompt": False}
    got = joined(TokenEncoder(plain_folder, **CHUNKED, **settings).stream([LONG]))
    assert got.token_ids.tolist() == [VOCABULARY[word] for word in LONG.split()]


def test_counts_of_chunks_add_up(chunking, tiny_sae):
    model = LatentTerms(chunking, tiny_sae, phi="identity")
    uncut = model.encode_documents([LONG]).toarray()[0]
    parts = model.encode_documents(chunks_by_hand(LONG, 16)).toarray()
    np.testing.assert_allclose(uncut, parts.sum(axis=0), rtol=1e-3, atol=1e-3)
    largest = LatentTerms(chunking, tiny_sae, "max", "identity").encode_documents([LONG]).toarray()[0]
    assert (largest <= uncut + 1e-6).all()


def test_a_decoder_reads_chunks(decoder_folder):
    encoder = TokenEncoder(decoder_folder, **CHUNKED, max_length=21)
    ending = [1] * encoder.tokenizer.num_special_tokens_to_add()
    content = encoder.tokenizer(LONG, add_special_tokens=False)["input_ids"]
    pieces = np.array_split(content, -(-len(content) // (21 - len(ending))))
    got = joined(encoder.stream(["the cat", LONG]))
    assert ids(got, 1) == [id_ for piece in pieces for id_ in [*piece.tolist(), *ending]]
    with torch.no_grad():
        last = encoder._backbone(torch.tensor([[*pieces[-1].tolist(), *ending]])).last_hidden_state[0]
    torch.testing.assert_close(got.states[-len(last) :], last, **CLOSE)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"long_texts": "window"}, "window.*chunk"),
        (
            {"long_texts": "chunk", "max_length": 4, "query_prompt": "query : "},
            "query : .*max_length",
        ),
    ],
)
def test_bad_settings(plain_folder, settings, message):
    with pytest.raises(ValueError, match=message):
        TokenEncoder(plain_folder, **settings)
