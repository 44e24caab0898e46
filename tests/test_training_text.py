import gzip
import json
import sys
from itertools import count, islice, pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.data.training_text import GivenText, LocalText, StreamedText, read_passages, sample, split, text_files

WORD = st.text("abc.!?,", min_size=1, max_size=4)


@pytest.mark.slow
@given(st.lists(WORD, max_size=60), st.integers(1, 12))
def test_split_keeps_every_word_in_order_and_the_limit(words, max_words):
    passages = list(split(" ".join(words), max_words))
    assert [word for passage in passages for word in passage.split(" ") if word] == words
    assert all(1 <= len(passage.split(" ")) <= max_words for passage in passages)


@given(st.lists(st.integers(1, 6), max_size=12), st.integers(6, 12))
def test_split_cuts_at_ends_of_sentences_where_they_fit(lengths, max_words):
    line = " ".join(" ".join(["w"] * (n - 1) + ["end."]) for n in lengths)
    passages = list(split(line, max_words))
    assert all(passage.endswith("end.") for passage in passages)
    # Greedy: no passage could have taken the first sentence of the next one.
    for passage, following in pairwise(passages):
        first = following.split().index("end.") + 1
        assert len(passage.split()) + first > max_words


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", []),
        (" \t ", []),
        ("one two", ["one two"]),
        ("A b. C d! E f?", ["A b. C d!", "E f?"]),  # 2 + 2 words fit in 4, the next 2 do not
        ("a b c d e f", ["a b c d", "e f"]),  # one sentence of 6 words
        ("X. a b c d e. Y.", ["X.", "a b c d", "e. Y."]),
        ("v1.2 is out.Now", ["v1.2 is out.Now"]),  # no space after the full stop: no end of a sentence
    ],
)
def test_worked_splits(line, expected):
    assert list(split(line, 4)) == expected


@pytest.mark.parametrize("word", ["字", "ก", "x"])
def test_text_without_spaces_gives_passages_of_a_thousand_characters(word):
    line = f"One two. {word * 2500} three. Four."
    assert list(split(line, 180)) == ["One two.", word * 1000, word * 1000, word * 500 + " three.", "Four."]
    assert list(split(word * 1000, 180)) == [word * 1000]


def write_gz(path, text):
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write(text)


def test_every_kind_of_file_in_order_of_their_names(tmp_path):
    (tmp_path / "b.txt").write_text("second é\n\n  \nthird\n", "utf-8")
    write_gz(tmp_path / "a.txt.gz", "first\n")
    (tmp_path / "c.jsonl").write_text('{"text": "fourth\\nline", "id": 1}\n\n{"text": ""}\n{"text": "fifth"}', "utf-8")
    write_gz(tmp_path / "d.jsonl.gz", '{"text": "sixth"}\n')
    (tmp_path / "e.md").write_text("not read")
    (tmp_path / "f.txt").mkdir()  # a folder is not read, whatever its name
    expected = ["first", "second é", "third", "fourth line", "fifth", "sixth"]
    assert list(read_passages(tmp_path)) == expected
    assert list(read_passages(str(tmp_path / "b.txt"))) == ["second é", "third"]
    assert [path.name for path in text_files(tmp_path)] == ["a.txt.gz", "b.txt", "c.jsonl", "d.jsonl.gz"]


def test_a_txt_file_is_text_whatever_else_its_name_holds(tmp_path):
    (tmp_path / "about.jsonl.txt").write_text("words\n")
    assert list(read_passages(tmp_path)) == ["words"]


def test_hidden_files_and_those_of_editors_are_not_trained_on(tmp_path):
    (tmp_path / "a.txt").write_text("words\n")
    for name in ("._a.txt", ".#a.txt", ".a.jsonl", "~$a.txt"):
        (tmp_path / name).write_bytes(b"\0\x05\x16\x07 no text")
    before = LocalText(tmp_path).identity
    (tmp_path / "~$a.txt").unlink()
    assert list(read_passages(tmp_path)) == ["words"]
    assert LocalText(tmp_path).identity == before
    (tmp_path / "a.txt").unlink()
    with pytest.raises(ValueError, match="holds no text"):
        text_files(tmp_path)
    (tmp_path / ".b.txt").write_text("named\n")
    assert list(read_passages(tmp_path / ".b.txt")) == ["named"]  # a file that is named is read


def test_text_with_a_byte_order_mark_and_text_in_utf16(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\n\r\ntwo\r\n")
    (tmp_path / "b.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "three"}\r\n')
    assert list(read_passages(tmp_path)) == ["one", "two", "three"]
    (tmp_path / "c.txt").write_bytes("four".encode("utf-16"))
    with pytest.raises(ValueError, match=r"c\.txt, line 1 .*UTF-16"):
        list(read_passages(tmp_path))


def test_text_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.txt").write_text("words\n")
    assert list(LocalText("~")) == list(LocalText("~/a.txt")) == list(read_passages("~/a.txt")) == ["words"]
    assert StreamedText("~").dataset == str(tmp_path)


@pytest.mark.parametrize("kind", [LocalText, StreamedText])
def test_numpy_integers_are_settings_of_a_corpus(tmp_path, kind):
    (tmp_path / "a.txt").write_text("one two three\n")
    given, plain = (kind(str(tmp_path), max_words=make(3), seed=make(2)) for make in (np.int64, int))
    assert json.dumps(given.identity) == json.dumps(plain.identity)
    assert list(sample("abc", 0.5, seed=np.int64(3))) == list(sample("abc", 0.5, seed=3))
    with pytest.raises(ValueError, match="seed is -1"):
        kind(str(tmp_path), seed=-1)


def test_long_lines_are_cut(tmp_path):
    (tmp_path / "a.txt").write_text("w " * 400)
    assert [len(passage.split()) for passage in read_passages(tmp_path)] == [180, 180, 40]
    assert [len(passage.split()) for passage in read_passages(tmp_path, max_words=300)] == [300, 100]


@pytest.mark.parametrize("make", ["nothing", "empty", "other", "file"])
def test_no_text(tmp_path, make):
    source = tmp_path / "source"
    if make in ("empty", "other"):
        source.mkdir()
    if make == "other":
        (source / "a.csv").write_text("a")
    if make == "file":
        source = tmp_path / "a.csv"
        source.write_text("a")
    with pytest.raises(ValueError, match=source.name):
        read_passages(source)  # before the first passage is asked for


def test_a_line_that_is_not_utf8_is_named(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"fine\nna\xefve\n")
    passages = read_passages(tmp_path)
    assert next(passages) == "fine"
    with pytest.raises(ValueError, match=r"a\.txt, line 2 is not UTF-8"):
        next(passages)


@pytest.mark.parametrize(
    "line", ["not json", '{"text": "a"', '{"body": "a"}', '["text"]', '"text"', "3", '{"text": null}', '{"text": 7}']
)
@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz"])
def test_a_line_that_is_not_json_with_a_text_is_named(tmp_path, line, ending):
    write = write_gz if ending.endswith(".gz") else lambda path, text: path.write_text(text)
    write(tmp_path / f"a{ending}", json.dumps({"text": "fine"}) + "\n\n" + line)
    passages = read_passages(tmp_path)
    assert next(passages) == "fine"
    with pytest.raises(ValueError, match=rf"a{ending}, line 3"):
        next(passages)


@pytest.mark.parametrize(("max_words", "error"), [(0, ValueError), (-3, ValueError), (2.5, TypeError)])
def test_bad_max_words(tmp_path, max_words, error):
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(error, match="max_words is"):
        read_passages(tmp_path, max_words)


def test_sample_is_a_share_in_order_and_the_same_for_a_seed():
    passages = [str(i) for i in range(10_000)]
    drawn = list(sample(passages, 0.3, seed=7))
    assert drawn == list(sample(iter(passages), 0.3, seed=7))
    assert drawn != list(sample(passages, 0.3, seed=8))
    assert drawn == sorted(drawn, key=int)
    assert abs(len(drawn) - 3_000) < 4 * (10_000 * 0.3 * 0.7) ** 0.5  # four standard deviations of a binomial
    assert list(sample(passages, 1.0)) == passages


def test_sample_reads_lazily():
    assert len(list(islice(sample((str(i) for i in count()), 0.5), 10))) == 10


@pytest.mark.parametrize("fraction", [0, -0.1, 1.01, float("nan"), float("inf")])
def test_bad_fractions(fraction):
    with pytest.raises(ValueError, match="fraction is"):
        sample(["a"], fraction)


def test_local_text_is_read_anew_each_time_and_known_by_its_content(tmp_path):
    (tmp_path / "a.txt").write_text("one two three\nfour", "utf-8")
    write_gz(tmp_path / "b.txt.gz", "five\n")
    text = LocalText(tmp_path, max_words=2)
    assert list(text) == list(text) == ["one two", "three", "four", "five"]
    same = LocalText(str(tmp_path), max_words=2)
    assert json.loads(json.dumps(text.identity)) == same.identity
    assert str(tmp_path) not in json.dumps(text.identity)  # the same text elsewhere is the same
    for other in (LocalText(tmp_path), LocalText(tmp_path, 2, fraction=0.5), LocalText(tmp_path, 2, seed=1)):
        assert other.identity != text.identity
    (tmp_path / "a.txt").write_text("one two three\nfive", "utf-8")
    assert LocalText(tmp_path, 2).identity != text.identity


def test_a_share_of_local_text_is_the_same_each_time(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(map(str, range(1000))))
    text = LocalText(tmp_path, fraction=0.3)
    assert list(text) == list(text) == list(sample(map(str, range(1000)), 0.3))
    assert list(text) != list(LocalText(tmp_path, fraction=0.3, seed=1))


def test_given_text():
    text = GivenText(["one two three", "", "four\nfive"], max_words=2)
    assert list(text) == list(text) == ["one two", "three", "four five"]
    assert text.identity == GivenText(iter(["one two three", "", "four\nfive"]), 2).identity
    assert text.identity != GivenText(["one two three", "four five"], 2).identity
    with pytest.raises(TypeError, match="single str"):
        GivenText("one two")
    with pytest.raises(TypeError, match="texts"):
        GivenText(["one", 2])


@pytest.mark.parametrize("kind", [LocalText, StreamedText])
@pytest.mark.parametrize(
    ("setting", "message"), [({"fraction": 0}, "fraction is 0"), ({"max_words": 0}, "max_words is 0")]
)
def test_bad_settings_of_a_corpus(tmp_path, kind, setting, message):
    (tmp_path / "a.txt").write_text("one")
    with pytest.raises(ValueError, match=message):
        kind(tmp_path, **setting)


def test_a_dataset_is_streamed_through_the_library_that_hub_datasets_are(tmp_path, monkeypatch):
    # a local folder takes the way of a hub id through `datasets`, without a network
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    folder = tmp_path / "set"
    folder.mkdir()
    rows = [{"text": f"first line {i}\n\nsecond line of {i} words", "id": i} for i in range(20)]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    expected = [line for i in range(20) for line in (f"first line {i}", f"second line of {i}", "words")]
    text = StreamedText(str(folder), max_words=4)
    assert list(text) == list(text) == expected
    assert list(islice(text, 2)) == expected[:2]
    assert list(StreamedText(str(folder), max_words=4, fraction=0.5)) == list(sample(expected, 0.5))
    assert text.identity["dataset"] == str(folder)
    identity = text.identity
    (folder / "._train.jsonl").write_bytes(b"\0")
    (folder / ".#train.jsonl").write_text("me@here")
    assert StreamedText(str(folder), max_words=4).identity == identity
    assert list(text) == expected
    (folder / "~$train.jsonl").write_text("me")
    with pytest.raises(ValueError, match=r"~\$train\.jsonl is the lock file"):
        next(iter(text))
    (folder / "~$train.jsonl").unlink()
    (folder / "train.jsonl").write_text(json.dumps(rows[0]))
    assert StreamedText(str(folder), max_words=4).identity != text.identity
    with pytest.raises(ValueError, match=r"'body'.*text, id"):
        next(iter(StreamedText(str(folder), column="body")))


def test_a_dataset_without_the_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match="hub"):
        next(iter(StreamedText()))


def test_a_hub_dataset_is_known_by_its_commit(monkeypatch):
    import huggingface_hub

    class Info:
        sha = "abc123"

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, name: Info)
    assert StreamedText("some/data").identity["revision"] == "abc123"
    assert StreamedText("some/data", revision="v1").identity["revision"] == "v1"


def test_a_hub_dataset_is_read_at_the_commit_that_its_identity_states(monkeypatch):
    import datasets
    import huggingface_hub

    commits, read = iter(["first", "second"]), []  # main moves while we read
    info = lambda self, name: SimpleNamespace(sha=next(commits))  # noqa: E731
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", info)
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *_, revision, **__: read.append(revision) or iter([{"text": "a b"}])
    )
    text = StreamedText("some/data")
    assert [list(text), list(text)] == [["a b"]] * 2
    assert read == ["first", "first"]
    assert text.identity["revision"] == "first"
    list(StreamedText("some/data", revision="v1"))
    assert read[-1] == "v1"
