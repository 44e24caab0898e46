"""Texts to a saved searcher: what is read, what continues, what is refused; and the two commands."""

import gzip
import json
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from conftest import TEXTS

from lib import LatentTerms, Searcher, indexing
from lib.__main__ import main
from lib.bm25.weighting import BM25Constants, Weights
from lib.encode.encoder import TokenEncoder
from lib.indexing import index_texts, open_searcher, read_texts
from lib.learned import RUN
from lib.support.files import make_folder

DOCS = [*(text.strip() for text in TEXTS if text.strip()), "the cat and the dog", "a red house in the tree"]


@pytest.fixture(scope="module")
def model(tiny_encoder, tiny_sae):
    return LatentTerms(tiny_encoder, tiny_sae, bm25=BM25Constants(1.5, 0.5), weights=Weights(1, 0.5, 0.5))


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(DOCS) + "\n", "utf-8")
    return path


def write_lines(path, records) -> None:
    content = "".join(record if isinstance(record, str) else json.dumps(record) + "\n" for record in records).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.mark.parametrize(
    ("name", "records", "expected"),
    [
        ("a.txt", ["one\n", "\n", " two \n"], [("1", "one"), ("3", " two")]),
        ("a.txt.gz", ["one\n"], [("1", "one")]),
        ("a.jsonl", [{"text": "x"}, {"_id": "b", "title": "t", "text": "y"}], [("1", "x"), ("b", "t\ny")]),
        ("corpus.jsonl.gz", [{"_id": "b", "text": "y"}], [("b", "y")]),
    ],
)
def test_what_is_read(tmp_path, name, records, expected):
    write_lines(tmp_path / name, records)
    assert list(read_texts(tmp_path if name.startswith("corpus") else tmp_path / name)) == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"one\n\xfftwo\n", r"a\.txt, line 2 is not UTF-8"),
        ("a.jsonl", b'{"text": "x"}\n{"text": 7}\n', r"a\.jsonl, line 2 .*'text'"),
        ("a.jsonl", b'{"_id": "2", "text": "x"}\n{"text": "y"}\n', r"a\.jsonl repeats '2'"),
        ("corpus.jsonl", b'{"text": "x"}\n', r"line 1 .*'_id'"),
        ("a.txt", b"\n\n", r"a\.txt holds no text"),
        ("a.csv", b"one\n", r"a\.csv is another file; .*\.jsonl"),
        ("other", b"", "no corpus.jsonl; give"),
        ("a.txt", b"!\n?\n", "index word"),
    ],
)
def test_what_is_refused(tmp_path, model, name, content, message):
    (tmp_path / name).write_bytes(content)
    source = tmp_path if name in ("corpus.jsonl", "other") else tmp_path / name
    with pytest.raises(ValueError, match=message):
        index_texts(model, source, tmp_path / "index", progress=False)
    assert not (tmp_path / "index" / "searcher.json").exists()


def test_it_is_the_searcher_of_the_texts(tmp_path, source, model, monkeypatch):
    monkeypatch.setattr(indexing, "_PART", 3)
    index_texts(model, source, tmp_path / "index", progress=False)
    assert not (tmp_path / "index" / "parts").exists()
    ids = [str(number + 1) for number in range(len(DOCS))]
    opened = Searcher.load(tmp_path / "index", encoder=model.encoder)  # in the same dtype on every machine
    expected = Searcher.build(model, DOCS, ids, progress=False)
    assert opened.words.words == expected.words.words
    assert opened.index.doc_ids == ids
    np.testing.assert_allclose(opened.embeddings, expected.embeddings, atol=1e-5)
    found, wanted = (each.search(["old cat"], ["q"], 5) for each in (opened, expected))
    assert found.doc_ids == wanted.doc_ids
    np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-5)


def test_an_interrupted_index_continues(tmp_path, source, model, monkeypatch):
    monkeypatch.setattr(indexing, "_PART", 3)
    encoded, encode = [], indexing._encode

    def interrupted(model, texts, lengths):
        encoded.append(texts)
        if len(encoded) == 3:
            raise KeyboardInterrupt
        return encode(model, texts, lengths)

    monkeypatch.setattr(indexing, "_encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        index_texts(model, source, tmp_path / "index", progress=False)
    with pytest.raises(ValueError, match=r"half written.*same index command"):
        open_searcher(tmp_path / "index")
    index_texts(model, source, tmp_path / "index", progress=False)
    parts = [DOCS[first : first + 3] for first in range(0, len(DOCS), 3)]
    assert encoded == parts[:3] + parts[2:]
    source.write_text("something else\n", "utf-8")
    index_texts(model, source, tmp_path / "other", progress=False)
    assert len(open_searcher(tmp_path / "other")) == 1


def test_an_index_that_was_killed_while_it_was_saved(tmp_path, source, model):
    folder = tmp_path / "index"
    index_texts(model, source, folder, progress=False)
    (folder / "searcher.json").unlink()  # as if killed before the manifest was written
    for name in ("parts", ".embeddings.npy.0a1b2c3d.tmp"):
        (folder / name).mkdir()
    index_texts(model, source, folder, progress=False, impacts="uint8")
    assert open_searcher(folder).index.impacts == "uint8"
    names = {path.name for path in folder.iterdir()}
    index_texts(model, source, tmp_path / "other", progress=False, impacts="uint8")
    assert names == {path.name for path in (tmp_path / "other").iterdir()}
    (folder / "parts").mkdir()
    (folder / "searcher.json").unlink()
    (folder / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match=r"thesis\.tex"):
        index_texts(model, source, folder, progress=False)


def test_what_another_process_finished_meanwhile_stays(tmp_path, source, model, monkeypatch):
    folder, locked = tmp_path / "index", indexing.locked

    @contextmanager
    def after_another(place, limit):
        monkeypatch.setattr(indexing, "locked", locked)
        index_texts(model, source, folder, progress=False)
        with locked(make_folder(place), limit):
            yield

    monkeypatch.setattr(indexing, "locked", after_another)
    with pytest.raises(FileExistsError, match="holds a searcher"):
        index_texts(model, source, folder, progress=False)
    assert len(Searcher.load(folder, encoder=model.encoder)) == len(DOCS)
    assert not (folder / "parts").exists()


def test_parts_of_another_analyzer_are_not_taken(tmp_path, source, model, monkeypatch):
    encoded, encode = [], indexing._encode
    monkeypatch.setattr(indexing, "_encode", lambda *arguments: encoded.append(1) or encode(*arguments))
    for name in ("ANALYZER", "other"):
        monkeypatch.setattr(indexing, "ANALYZER", name)
        monkeypatch.setattr(Searcher, "save", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            index_texts(model, source, tmp_path / "index", progress=False)
    assert len(encoded) == 2


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the system does not list open files")
def test_open_files_do_not_grow_with_the_corpus(tmp_path, source, model, monkeypatch):
    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    monkeypatch.setattr(indexing, "_PART", 1)
    seen, block, before = [], indexing._block, open_files()
    monkeypatch.setattr(indexing, "_block", lambda *arguments: seen.append(open_files()) or block(*arguments))
    index_texts(model, source, tmp_path / "index", progress=False)
    assert len(seen) == len(DOCS) and max(seen) < before + 20  # a part has eight files


def test_a_model_that_stands_alone_gives_a_searcher_that_does(tmp_path, source, model, sentence_folder):
    shutil.copytree(sentence_folder, tmp_path / "retriever")
    encoder = TokenEncoder(tmp_path / "retriever", dtype="float32")
    LatentTerms(encoder, model.sae).save(tmp_path / "model", with_retriever=True)
    shutil.rmtree(tmp_path / "retriever")
    index_texts(LatentTerms.load(tmp_path / "model"), source, tmp_path / "index", progress=False)
    assert len(open_searcher(tmp_path / "index")) == len(DOCS)


def test_folders_that_are_not_written_to(tmp_path, source, model):
    index_texts(model, source, tmp_path / "index", progress=False)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    (tmp_path / "file").touch()
    for name, message in (("index", "holds a searcher"), ("mine", r"thesis\.tex; give"), ("file", "is a file")):
        with pytest.raises(FileExistsError, match=message):
            index_texts(model, source, tmp_path / name, progress=False)


def test_an_interrupted_command_says_how_to_continue(tmp_path, source, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(LatentTerms, "load", interrupted)
    monkeypatch.setattr(sys, "argv", ["lib", "index", str(source), str(tmp_path / "index")])
    with pytest.raises(SystemExit, match="same command continues"):
        main()


@pytest.mark.slow
def test_the_commands(tmp_path, source, model, monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["lib", *map(str, arguments)])
        main()
        return capsys.readouterr().out

    model.save(tmp_path / "model")
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / RUN).touch()
    folder = tmp_path / "index"
    assert f"{len(DOCS)} texts" in run("index", source, folder, "--model", tmp_path / "model")
    lines = [line.split("\t") for line in run("search", folder, "old cat", "--k", 3).splitlines()]
    expected = open_searcher(folder).search(["old cat"], ["q"], 3)["q"]
    assert lines == [[f"{score:.4f}", doc_id] for doc_id, score in expected]
    texts = dict(read_texts(source))
    shown = [line.split("\t") for line in run("search", folder, "old cat", "--k", 3, "--texts", source).splitlines()]
    assert shown == [[*line, " ".join(texts[line[1]].split())] for line in lines]
    (tmp_path / "other.txt").write_text("another text")
    for arguments, message in (
        (("search", folder, "  "), "ValueError: The query is empty"),
        (("search", tmp_path / "none", "cat"), "FileNotFoundError: There is no folder"),
        (("search", folder, "cat", "--k", 0), "ValueError: --k is 0"),
        (("search", folder, "cat", "--texts", tmp_path / "other.txt"), "ValueError: .*other.txt has no text '"),
        (("index", source, folder), "FileExistsError: .*holds a searcher"),
        (("index", tmp_path / "none.txt", tmp_path / "new"), "FileNotFoundError: There is no .*none.txt; give"),
        (("index", source, tmp_path / "new", "--model", tmp_path / "tuned"), "was finetuned.*LearnedRetriever"),
    ):
        with pytest.raises(SystemExit, match=message):
            run(*arguments)
