"""The packaged retriever without sentence-transformers: the same numbers, and what is not imported for it."""

import json

import numpy as np
import pytest
import torch

from lib import TokenEncoder
from lib.encode import plain

FILES = {
    "modules.json": [{"type": kind, "path": path} for kind, path in plain._MODULES],
    "config.json": {"model_type": "bert"},
    "sentence_bert_config.json": {"max_seq_length": 256, "do_lower_case": False},
    "config_sentence_transformers.json": {"__version__": {}},
    "1_Pooling/config.json": {
        "word_embedding_dimension": 4,
        "pooling_mode_mean_tokens": True,
        "pooling_mode_cls": False,
    },
}


@pytest.mark.slow
def test_it_is_what_sentence_transformers_gives(packaged_encoder, monkeypatch):
    assert isinstance(packaged_encoder._model, plain.PlainModel)
    monkeypatch.setattr(plain, "load", lambda *_: None)
    other = TokenEncoder(dtype=packaged_encoder.dtype)
    assert not isinstance(other._model, plain.PlainModel)
    assert packaged_encoder.identity == other.identity
    texts = ["how to open a file", "", "An [MASK] in naïve text. " * 60, "two"]
    streams = (encoder.stream(texts, progress=False) for encoder in (packaged_encoder, other))
    for block, expected in zip(*streams, strict=True):
        assert torch.equal(block.states, expected.states)
        for name in ("token_ids", "offsets", "pooled"):
            np.testing.assert_array_equal(getattr(block, name), getattr(expected, name))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (None, None),
        ("modules.json", FILES["modules.json"][:2]),
        ("modules.json", [{"type": plain._MODULES[0][0], "path": "0_Transformer"}, *FILES["modules.json"][1:]]),
        ("config.json", {"model_type": "qwen3"}),
        ("sentence_bert_config.json", {"max_seq_length": 256, "do_lower_case": True}),
        ("sentence_bert_config.json", {"max_seq_length": None, "do_lower_case": False}),
        ("sentence_bert_config.json", {"max_seq_length": 256, "do_lower_case": False, "query_length": 8}),
        ("config_sentence_transformers.json", {"__version__": {}, "prompts": {"query": "q: "}}),
        ("1_Pooling/config.json", {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}),
        ("1_Pooling/config.json", {"pooling_mode_mean_tokens": True, "include_prompt": False}),
        ("model.safetensors", None),
    ],
)
def test_other_layouts_are_left_to_sentence_transformers(tmp_path, name, change):
    (tmp_path / "1_Pooling").mkdir()
    for file, content in (FILES | {name: change} if change else FILES).items():
        (tmp_path / file).write_text(json.dumps(content), "utf-8")
    if name != "model.safetensors":
        (tmp_path / "model.safetensors").touch()
    assert plain._is_plain(tmp_path) is (name is None)


# The process that is forked may have imported them: they are forgotten, and imported again if anything asks for them.
COLD = """
SLOW = "sentence_transformers sklearn pandas pyarrow datasets scipy.stats matplotlib ir_datasets numba".split()

def slow():
    return [name for name in sys.modules if any(f"{name}.".startswith(f"{module}.") for module in SLOW)]

for name in slow():
    del sys.modules[name]
from lib import LatentTerms
model = LatentTerms.from_pretrained()
assert model.encode_queries(["a file"], progress=False).nnz
print(slow())
"""


@pytest.mark.slow
def test_what_loading_and_encoding_import(fresh):
    run = fresh.run(COLD)
    assert (run.stdout, run.returncode) == ("[]\n", 0), run.stderr
