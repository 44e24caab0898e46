import json
import random
import runpy
import signal
import sys
import time
from glob import glob  # folders may vanish while it looks, unlike pathlib's
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TEXTS
from fresh import ROOT, Fork, Parent

import lib.__main__
import lib.studies.choice
from lib.__main__ import main
from lib.bm25.weighting import BM25Constants, Weights
from lib.data.training_text import LocalText
from lib.encode.encoder import TokenEncoder
from lib.latent_terms import LatentTerms
from lib.sae.boosting import boost
from lib.sae.checkpoints import Checkpoints
from lib.sae.training import TrainingConfig
from lib.studies.choice import Choice


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENT_TERMS_CACHE", str(tmp_path / "cache"))


def run(monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["lib", *map(str, arguments)])
    main()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "text.txt", "out", "--revision", "abc"), "--revision abc is for a text of the hub"),
        (("finetune", "dense", "pairs.jsonl", "out", "--negatives", 0, "--teacher", "dense:"), "--negatives 0"),
        (
            ("finetune", "dense", "pairs.jsonl", "out", "--dev", "pydoc/20/test"),
            "pydoc/20/test are of the split .test.",
        ),
    ],
)
def test_options_that_would_do_nothing_or_harm_are_refused(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("one\ntwo\n")
    Path("pairs.jsonl").write_text('{"query": "a cat", "positive": "the cat sat"}\n')
    with pytest.raises(SystemExit, match=message):
        run(monkeypatch, *arguments)


def test_the_train_command_end_to_end(tmp_path, sentence_folder, monkeypatch, capsys):
    text, out = tmp_path / "text.txt", tmp_path / "model"
    text.write_text("\n".join(TEXTS * 8))
    settings = ["--width", 40, "--k", 3, "--epochs", 2, "--batch-tokens", 64, "--seed", 7, "--layer", 2]
    run(monkeypatch, "train", text, out, "--model", sentence_folder, "--max-length", 20, "--tokens", 500, *settings)
    assert "500 token states of" in capsys.readouterr().out

    model = LatentTerms.load(out, dtype="float32")
    assert (model.sae.width, model.sae.k, model.sae.d) == (40, 3, 32)
    assert (model.encoder.layer, model.encoder.max_length, model.encoder.name) == (2, 20, sentence_folder)
    assert (model.pooling, model.phi) == ("sum", "sqrt")
    terms = model.encode_documents(TEXTS)
    assert terms.shape == (len(TEXTS), 40)
    assert terms.nnz > 0
    rows = [json.loads(line) for line in (out / "training_log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [14]  # 500 // 64 = 7 steps an epoch
    metadata = model.sae.metadata
    assert (metadata["distinct_tokens"], metadata["final"]) == (500, rows[-1])
    given = {"width": 40, "k": 3, "epochs": 2, "batch_tokens": 64, "seed": 7}
    assert given.items() <= metadata["run"]["config"].items()
    assert metadata["run"]["states"]["encoder"]["layer"] == 2
    assert list(metadata["run"]["states"]["corpus"]["files"]) == ["text.txt"]
    assert not (out / "checkpoints").exists()


@pytest.mark.slow
def test_the_train_command_stores_float16_and_is_reproducible(tmp_path, sentence_folder, monkeypatch):
    (tmp_path / "text.txt").write_text("\n".join(TEXTS * 8))
    settings = ["--width", 40, "--k", 3, "--epochs", 1, "--batch-tokens", 64, "--fraction", 0.5]
    for name, stored in (("a", "float32"), ("b", "float32"), ("c", "float16")):
        run(
            monkeypatch,
            "train",
            tmp_path / "text.txt",
            tmp_path / name,
            "--model",
            sentence_folder,
            "--stored",
            stored,
            *(["--device", "cpu"] if name == "b" else []),  # what is there else
            *settings,
        )
    a, b, c = (LatentTerms.load(tmp_path / name, dtype="float32").sae.tensors() for name in "abc")
    for name, tensor in a.items():
        assert torch.equal(tensor, b[name])
        assert torch.equal(tensor.half().float(), c[name])


SMALL = ["--width", 40, "--k", 3, "--epochs", 2, "--batch-tokens", 16]


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(TEXTS * 8))
    return tmp_path / "text.txt"


def bytes_of(folder) -> dict:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_several_from_one_pass_over_the_text(tmp_path, text, sentence_folder, monkeypatch):
    passes, stream = [], TokenEncoder.stream_layers
    monkeypatch.setattr(
        TokenEncoder, "stream_layers", lambda self, *args, **more: passes.append(args) or stream(self, *args, **more)
    )
    swept = ["--width", 40, 24, "--seed", 0, 1, "--layer", 1, -1]
    run(monkeypatch, "train", text, tmp_path / "many", "--model", sentence_folder, *SMALL, *swept)
    assert len(passes) == 1  # all of this text is one chunk
    folders = sorted(path.name for path in (tmp_path / "many").iterdir())
    assert folders == [
        f"layer{layer}-width{width}-k3-seed{seed}" for layer in (1, 3) for width in (24, 40) for seed in (0, 1)
    ]
    # each is what it would be alone
    alone = ["--width", 24, "--seed", 1, "--layer", 1]
    run(monkeypatch, "train", text, tmp_path / "one", "--model", sentence_folder, *SMALL, *alone)
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "many" / "layer1-width24-k3-seed1")


@pytest.mark.slow
def test_boosting_trains_the_second_on_what_the_first_leaves(tmp_path, text, sentence_folder, monkeypatch):
    train = ["train", text, "--model", sentence_folder, *SMALL]
    first, second, model = (tmp_path / name for name in ("first", "second", "model"))
    run(monkeypatch, *train[:2], first, *train[2:])
    run(monkeypatch, *train[:2], second, *train[2:], "--after", first)
    run(monkeypatch, "join", first, second, model, "--boosted")
    parts = [LatentTerms.load(folder).sae for folder in (first, second)]
    sae = LatentTerms.load(model).sae
    assert parts[1].metadata["run"]["states"]["less"] == [parts[0].identity]
    assert torch.equal(sae.W_dec, boost(parts).W_dec) and (sae.activation.name, sae.k) == ("boosted", 6)
    with pytest.raises(SystemExit, match="Part 1 was not trained"):
        run(monkeypatch, "join", second, first, tmp_path / "other", "--boosted")
    monkeypatch.setattr(TokenEncoder, "stream_layers", None)  # nothing is read before the models are looked at
    with pytest.raises(SystemExit, match=r"no model to train after\..*layer"):
        run(monkeypatch, *train[:2], tmp_path / "third", *train[2:], "--layer", 1, "--after", first)


@pytest.mark.slow
@pytest.mark.parametrize("states", ["cache", "encode"])
def test_told_to_stop_it_saves_and_goes_on_to_the_same_files(tmp_path, text, sentence_folder, monkeypatch, states):
    command = ["train", text, tmp_path / "a", "--model", sentence_folder, *SMALL, "--states", states]
    before = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        call = lib.__main__._Log.__call__
        patch.setattr(lib.__main__._Log, "__call__", lambda self, row: (call(self, row), signal.raise_signal(15)))
        with pytest.raises(SystemExit, match="Stopped after step 50"):
            run(monkeypatch, *command)
    assert signal.getsignal(signal.SIGTERM) is before
    assert (tmp_path / "a" / "checkpoints" / "checkpoint-0.json").exists()
    assert not (tmp_path / "a" / "latent_terms.json").exists()
    (tmp_path / "a" / ".sae.safetensors.01234567.tmp").write_bytes(b"half")  # of one that was killed
    run(monkeypatch, *command)
    command[2] = tmp_path / "b"
    run(monkeypatch, *command)
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")
    assert len((tmp_path / "a" / "training_log.jsonl").read_text().splitlines()) >= 2


@pytest.mark.slow
def test_what_is_trained_is_neither_trained_again_nor_written_over(tmp_path, text, plain_folder, monkeypatch, capsys):
    command = ["train", text, tmp_path / "a", "--model", plain_folder, *SMALL]
    run(monkeypatch, *command)
    before = bytes_of(tmp_path / "a")
    (tmp_path / "a" / ".lock").write_text("{}")  # of a process that was killed as it saved
    run(monkeypatch, *command)
    assert bytes_of(tmp_path / "a") == before
    assert "holds it already" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="seed is 5, was 0"):
        run(monkeypatch, *command, "--seed", 5)
    with pytest.raises(SystemExit, match="stored is 'float16'"):
        run(monkeypatch, *command, "--stored", "float16")
    run(monkeypatch, *command, "--stored", "float32")
    assert bytes_of(tmp_path / "a") == before
    in_bytes = [*command[:2], tmp_path / "b", *command[3:]]
    run(monkeypatch, *in_bytes, "--stored", "int8")
    with pytest.raises(SystemExit, match="stored is 'float32'"):
        run(monkeypatch, *in_bytes)
    # in a sweep, before any of it is trained; with a damaged model, too
    encoded = []
    monkeypatch.setattr(TokenEncoder, "stream_layers", lambda *_, **__: encoded.append(1))
    other = ["--width", 40, "--layer", 1, 2]
    (tmp_path / "many" / "layer2-width40-k3-seed0").mkdir(parents=True)
    (tmp_path / "many" / "layer2-width40-k3-seed0" / "latent_terms.json").write_text("{")
    with pytest.raises(SystemExit, match=r"latent_terms\.json"):
        run(monkeypatch, "train", text, tmp_path / "many", "--model", plain_folder, *SMALL, *other)
    assert not encoded
    assert bytes_of(tmp_path / "a") == before


@pytest.mark.slow
def test_nobody_else_trains_there_until_the_model_is_saved(tmp_path, text, plain_folder, monkeypatch):
    save, refused, removed = LatentTerms.save, [], []

    def saved(*arguments):
        with pytest.raises(ValueError, match="process"), Checkpoints(tmp_path / "a" / "checkpoints"):
            pass
        refused.append((tmp_path / "a" / "checkpoints" / "checkpoint-0.json").exists())
        save(*arguments)

    unlink = Path.unlink
    monkeypatch.setattr(Path, "unlink", lambda self, **more: (removed.append(self.name), unlink(self, **more)))
    monkeypatch.setattr(LatentTerms, "save", saved)
    command = ["train", text, tmp_path / "a", "--model", plain_folder, *SMALL]
    run(monkeypatch, *command)
    assert refused == [True]
    assert removed[-1] == "lock"
    run(monkeypatch, *command)  # and what is finished is not trained again by who waited for it
    assert refused == [True]
    assert not (tmp_path / "a" / "checkpoints").exists()


@pytest.mark.slow
def test_told_to_stop_at_the_end_of_one_it_does_not_begin_the_next(tmp_path, text, plain_folder, monkeypatch):
    save = LatentTerms.save
    monkeypatch.setattr(LatentTerms, "save", lambda *args: (save(*args), signal.raise_signal(15)))
    with pytest.raises(SystemExit, match="seed0 is trained"):
        run(monkeypatch, "train", text, tmp_path / "a", "--model", plain_folder, *SMALL, "--seed", 0, 1)
    assert not (tmp_path / "a" / "layer3-width40-k3-seed1" / "latent_terms.json").exists()


@pytest.mark.slow
def test_special_tokens_may_be_left_out(tmp_path, text, plain_folder, monkeypatch):
    run(monkeypatch, "train", text, tmp_path / "a", "--model", plain_folder, *SMALL, "--no-special-tokens")
    model = LatentTerms.load(tmp_path / "a")
    assert not model.encoder.special_tokens
    # two special tokens for each of the texts with words
    without = sum(TokenEncoder(plain_folder, special_tokens=False).count_tokens(TEXTS * 8))
    in_chunks = TokenEncoder(plain_folder, special_tokens=False, long_texts="chunk")
    assert model.sae.metadata["distinct_tokens"] == sum(in_chunks.count_tokens(TEXTS * 8)) > without
    assert sum(TokenEncoder(plain_folder).count_tokens(TEXTS * 8)) - without == 2 * 8 * sum(
        map(bool, map(str.strip, TEXTS))
    )


@pytest.mark.slow
def test_a_dataset_is_named_with_hf(tmp_path, text, plain_folder, monkeypatch):
    given = {}

    def streamed(*arguments, **settings):
        given.update(arguments=arguments, **settings)
        return LocalText(text)

    monkeypatch.setattr(lib.__main__, "StreamedText", streamed)
    hub = ["hf:some/data,part", tmp_path / "a", "--revision", "abc", "--fraction", 0.5]
    run(monkeypatch, "train", *hub, "--model", plain_folder, *SMALL)
    assert given == {"arguments": ("some/data", "part"), "revision": "abc", "fraction": 0.5}
    assert (tmp_path / "a" / "latent_terms.json").exists()


@pytest.mark.slow
def test_tuned_constants_are_written_into_the_models(tmp_path, text, plain_folder, monkeypatch, capsys):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        run(monkeypatch, "train", text, folder, "--model", plain_folder, *SMALL)
    weights = [next(folder.glob("*.safetensors")).read_bytes() for folder in folders]
    called = []

    def choose(models, names):
        called.append(([model.sae.width for model in models], names))
        grid = pd.DataFrame({"k1": [8.0, 1.5], "mean": [0.2, 0.3]})
        for b, mean in ((0.25, 0.3), (0.5, 0.4)):
            rows = {"system": ["dense", "tuned", "one pass"], "mean": [0.1, mean, mean + 0.1], "baseline_mean": 0.2}
            constants = BM25Constants(k1=1.5, b=b, idf="robertson-clipped")
            yield Choice(constants, grid, Weights(1, b, 2), grid, pd.DataFrame(rows))

    monkeypatch.setattr(lib.studies.choice, "choose", choose)
    run(monkeypatch, "tune", *folders)
    assert called == [([40, 40], ["pydoc/train", "beir/scifact/train", "beir/nfcorpus/dev"])]
    tuned = [LatentTerms.load(folder).bm25 for folder in folders]
    assert tuned == [BM25Constants(1.5, b, "robertson-clipped") for b in (0.25, 0.5)]
    assert [LatentTerms.load(folder).weights for folder in folders] == [Weights(1, 0.25, 2), Weights(1, 0.5, 2)]
    assert [next(folder.glob("*.safetensors")).read_bytes() for folder in folders] == weights
    out = capsys.readouterr().out
    assert "BM25Constants(k1=1.5, b=0.25, idf='robertson-clipped') and Weights(" in out
    best, other = out.splitlines()[-2:]
    assert best.split()[:4] == [str(folders[1]), "0.4", "0.2", "0.1"]
    assert other.split()[:4] == [str(folders[0]), "0.3", "0.2", "0.1"]
    (tmp_path / "mine.jsonl").write_text('{"query": "cat", "positive": "the cat"}\n')
    run(monkeypatch, "tune", *folders, "--collections", "--pairs", tmp_path / "mine.jsonl")
    ((mine,),) = [names for _, names in called[1:]]
    assert (mine.full_name, mine.doc_texts, mine.query_texts) == ("mine/train", ["the cat"], ["cat"])


@pytest.mark.slow
def test_constants_are_not_tuned_on_test_queries(tmp_path, text, sentence_folder, monkeypatch):
    run(monkeypatch, "train", text, tmp_path / "a", "--model", sentence_folder, *SMALL)
    before = bytes_of(tmp_path / "a")
    with pytest.raises(SystemExit, match="split 'test'"):
        run(monkeypatch, "tune", tmp_path / "a", "--collections", "pydoc/1000/test")
    assert bytes_of(tmp_path / "a") == before


def test_an_error_about_the_input_is_one_line_where_this_module_raises_it(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["lib", "search", "nowhere", " "])
    with pytest.raises(SystemExit, match=r"^ValueError: The query is empty"):
        runpy.run_module("lib", run_name="__main__")


def test_a_line_that_is_not_utf8_is_named(tmp_path, plain_folder, monkeypatch):
    (tmp_path / "text.txt").write_bytes(b"the cat\nthe \xff dog\n")
    with pytest.raises(SystemExit, match=r"text\.txt, line 2"):
        run(monkeypatch, "train", tmp_path / "text.txt", tmp_path / "out", "--model", plain_folder, *SMALL)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--k", 0], "k is 0"),
        (["--width", 8, "--k", 9], "k is 9, more than the width 8"),
        (["--layer", 9], "layer is 9"),
        (["--fraction", 0], "fraction is 0.0"),
        (["--tokens", 0], "tokens is 0"),
        (["--device", "cuda"], "device is 'cuda'; choose one of 'cpu'"),
    ],
)
def test_the_train_command_with_bad_settings(tmp_path, plain_folder, monkeypatch, arguments, message):
    (tmp_path / "text.txt").write_text("the cat")
    with pytest.raises(SystemExit, match=message):
        run(monkeypatch, "train", tmp_path / "text.txt", tmp_path / "out", "--model", plain_folder, *arguments)
    assert not (tmp_path / "out").exists()


def test_the_train_command_without_text(tmp_path, plain_folder, monkeypatch):
    with pytest.raises(SystemExit, match=r"^ValueError: .*none"):
        run(monkeypatch, "train", tmp_path / "none", tmp_path / "out", "--model", plain_folder)


def test_a_bug_shows_its_traceback_and_an_error_about_the_input_is_one_line(tmp_path, monkeypatch):
    command = ["join", tmp_path / "a", tmp_path / "b", tmp_path / "out"]
    with pytest.raises(SystemExit, match=r"^FileNotFoundError: "):
        run(monkeypatch, *command)
    for bug, error in ((lambda _: len(None), TypeError), (lambda _: np.ones(2) + np.ones(3), ValueError)):
        with monkeypatch.context() as patch, pytest.raises(error):
            patch.setattr(LatentTerms, "load", bug)
            run(patch, *command)


def test_every_option_is_documented_in_a_sentence(capsys, monkeypatch):
    for command in ("train", "join", "tune"):
        with pytest.raises(SystemExit):
            run(monkeypatch, command, "--help")
        words = " ".join(capsys.readouterr().out.split())
        assert "BM25's constants" in words or "Dtype of the weights in the saved file. (default: float32)" in words
    assert all(text[-1] == "." for text in lib.__main__._documentation(TrainingConfig).values())


IMPORTS = "import faulthandler, sentence_transformers, torch, transformers, lib.__main__, lib.encode.states"
COMMAND = """
faulthandler.dump_traceback_later(300, exit=True)  # should it ever hang, it says where
torch.set_num_threads(1)
lib.encode.states.CHUNK = 4
lib.__main__.main()
"""
# what is there when a kill is due: tokens counted, states cached, steps taken, the model written
MOMENTS = ["states", "states/*/*/*3.npy", "killed/checkpoints/*-1.json", "killed/*sae*"]


@pytest.mark.slow
def test_killed_at_any_moment_the_command_goes_on_to_the_same_files(tmp_path, text, sentence_folder, monkeypatch):
    # forks of a process that has imported all and computed nothing: one that has loaded a model has threads, for which
    # its forks may wait
    settings = ["--model", sentence_folder, *SMALL, "--epochs", 1, "--checkpoint-every", 0, "--cache"]
    parent, draw = Parent(IMPORTS, PYTHONPATH=str(ROOT)), random.Random(0)

    def started() -> Fork:
        command = ["train", text, tmp_path / "killed", *settings, tmp_path / "states"]
        return parent.start(COMMAND, *command, files=[0, 1, 2])

    for moment in MOMENTS:
        child = started()
        while not glob(moment, root_dir=tmp_path, include_hidden=True) and child.poll() is None:
            time.sleep(0.0005)
        time.sleep(draw.uniform(0, 0.03))
        child.kill()
        assert child.wait() in (-signal.SIGKILL, 0)
    assert started().wait() == 0
    parent.close()
    monkeypatch.setattr(lib.encode.states, "CHUNK", 4)
    run(monkeypatch, "train", text, tmp_path / "whole", *settings, tmp_path / "states of the whole")
    assert bytes_of(tmp_path / "killed") == bytes_of(tmp_path / "whole")


@pytest.mark.slow
def test_the_label_command_end_to_end(tmp_path, tiny_encoder, tiny_sae, monkeypatch, capsys):
    LatentTerms(tiny_encoder, tiny_sae).save(tmp_path / "model")
    (tmp_path / "texts.txt").write_text("\n".join(text for text in TEXTS * 6 if text.strip()))
    run(monkeypatch, "label", tmp_path / "model", tmp_path / "texts.txt", "--sample", 30)
    assert "labels.json" in capsys.readouterr().out
    first = (tmp_path / "model" / "labels.json").read_bytes()
    run(monkeypatch, "label", tmp_path / "model", tmp_path / "texts.txt", "--sample", 30)
    assert (tmp_path / "model" / "labels.json").read_bytes() == first
    assert any(LatentTerms.load(tmp_path / "model", encoder=tiny_encoder).labels.names)
    (tmp_path / "text").mkdir()  # as train reads it: the same passages, a line each
    (tmp_path / "texts.txt").rename(tmp_path / "text" / "texts.txt")
    run(monkeypatch, "label", tmp_path / "model", tmp_path / "text", "--sample", 30)
    assert (tmp_path / "model" / "labels.json").read_bytes() == first
    (tmp_path / "text" / "texts.txt").rename(tmp_path / "texts.txt")
    with pytest.raises(SystemExit, match="--sample is 0"):
        run(monkeypatch, "label", tmp_path / "model", tmp_path / "texts.txt", "--sample", 0)
