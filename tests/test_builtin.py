"""The built-in collections: `limit` by its properties, `pydoc` by a small library and by the running interpreter's."""

import json
import re
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.data import limit, pydoc
from lib.data.collection import Collection, load_collection
from lib.data.limit import FIRST_NAMES, SURNAMES, THINGS


def likes_of(text: str, name: str) -> list[str]:
    """Read "NAME likes A, B and C." back into [A, B, C]."""
    assert text.startswith(f"{name} likes ") and text.endswith(".")
    return re.split(r", | and ", text.removeprefix(f"{name} likes ").removesuffix("."))


# --------------------------------------------------------------------------------------------------------------- limit


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(n_documents=st.integers(46, 150), n_queries=st.integers(1, 1035), seed=st.integers(0, 2**40))
def test_limit_has_the_structure_of_the_official_set(n_documents, n_queries, seed):
    collection = Collection(**limit.build(n_documents, n_queries, seed))
    assert len(collection.doc_ids) == n_documents
    assert collection.query_ids == [f"query_{i}" for i in range(n_queries)]

    likes = dict(zip(collection.doc_ids, collection.doc_texts, strict=True))
    likes = {name: likes_of(text, name) for name, text in likes.items()}
    assert all(45 <= len(things) == len(set(things)) <= 50 for things in likes.values())

    pairs = {frozenset(judged) for judged in collection.qrels.values()}
    assert len(pairs) == n_queries  # all pairs different
    assert {len(pair) for pair in pairs} == {2}
    assert len(frozenset().union(*pairs)) <= 46

    # who likes what is asked for is who is judged relevant, nobody else
    for query, text in zip(collection.query_ids, collection.query_texts, strict=True):
        thing = text.removeprefix("Who likes ").removesuffix("?")
        assert {name for name, things in likes.items() if thing in things} == set(collection.qrels[query])


@pytest.mark.slow
def test_limit_is_decided_by_its_arguments_and_mixes_the_46_among_the_others():
    assert limit.build(300, 20, seed=3) == limit.build(300, 20, seed=3)
    one, other = limit.build(300, 1000, seed=3), limit.build(300, 1000, seed=4)
    for column in ("doc_ids", "doc_texts", "query_texts", "qrels"):
        assert one[column] != other[column]
    places = sorted({one["doc_ids"].index(doc) for judged in one["qrels"].values() for doc in judged})
    assert len(places) == 46
    # uniform places in 0..299 have mean 149.5 and standard deviation 86.6: the mean of 46 has 12.8
    assert abs(sum(places) / 46 - 149.5) < 4 * 12.8


@pytest.mark.slow
def test_limit_name_holds_every_argument_that_is_not_the_default():
    names = [limit.build(*arguments)["name"] for arguments in ((46,), (46, 1000, 0), (46, 1000, 1), (46, 9, 0))]
    assert names == ["limit/46", "limit/46", "limit/46/1000/1", "limit/46/9/0"]
    assert load_collection("limit/46/9/7") == Collection(**limit.build(46, 9, 7))
    assert load_collection("limit/5000").name == "limit"


@pytest.mark.slow
def test_limit_train_asks_for_what_the_other_does_not():
    test, train = (load_collection(name) for name in ("limit/60", "limit/60/train"))
    assert (train.full_name, train.split) == ("limit/60/train", "train")
    assert train == load_collection("limit/60", "train") and load_collection("limit", "train").name == "limit"
    assert len(train.query_texts) == len(THINGS) - 1000
    assert not set(train.query_texts) & set(test.query_texts)
    assert len(set(train.doc_ids) & set(test.doc_ids)) < 5
    pairs = {frozenset(judged) for judged in train.qrels.values()}
    assert len(pairs) == len(train.query_ids) and {len(pair) for pair in pairs} == {2}
    likes = {name: likes_of(text, name) for name, text in zip(train.doc_ids, train.doc_texts, strict=True)}
    for query, text in zip(train.query_ids, train.query_texts, strict=True):
        thing = text.removeprefix("Who likes ").removesuffix("?")
        assert {name for name, things in likes.items() if thing in things} == set(train.qrels[query])


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"n_documents": 45}, ValueError, "n_documents is 45.*50,?000"),
        ({"n_documents": 50_001}, ValueError, "n_documents is 50001"),
        ({"n_queries": 0}, ValueError, "n_queries is 0"),
        ({"n_queries": 1036}, ValueError, "n_queries is 1036.*1,?035"),
        ({"n_documents": 46.0}, TypeError, "n_documents is 46.0"),
        ({"seed": -1}, ValueError, "seed is -1"),
        ({"seed": None}, TypeError, "seed is None"),
    ],
)
def test_limit_refuses(arguments, error, match):
    with pytest.raises(error, match=match):
        limit.build(**arguments)


def test_the_words_of_limit_cannot_be_confused():
    assert len(set(FIRST_NAMES)) * len(set(SURNAMES)) >= 50_000
    assert len(set(FIRST_NAMES)) == len(FIRST_NAMES) and len(set(SURNAMES)) == len(SURNAMES)
    assert len(set(THINGS)) == len(THINGS) >= 1035 + 600
    words = {word for thing in THINGS if " " in thing for word in thing.split()}
    assert not words & set(THINGS)  # no thing is part of another
    assert not (words | set(THINGS)) & {*FIRST_NAMES, *SURNAMES}
    assert all(re.fullmatch(r"[A-Z][A-Za-z-]+( [A-Z][A-Za-z-]+)?", thing) for thing in THINGS)


def test_draw_takes_each_item_at_most_once():
    drawn = limit.draw(Random(0), "abcdef", 4)
    assert len(set(drawn)) == 4 and set(drawn) <= set("abcdef")
    assert sorted(limit.draw(Random(0), range(9), 9)) == list(range(9))


# --------------------------------------------------------------------------------------------------------------- pydoc

BODY = "It takes what is there and gives back something else, word after word, until there are fifteen."
SMALL_LIBRARY = {
    "alpha.py": f'''
class Box:
    """Hold one thing at a time.

    {BODY}
      Indented more.
    """
    if True:
        async def open(self):
            """Open the lid of the box.

            {BODY}"""
    def size(self):
        "The size."
    def size(self):
        "The other size."
''',
    "beta/__init__.py": f'"""Open the lid  of\nthe box.\n\n{BODY}\n"""\n',  # the summary of alpha.Box.open once more
    "beta/gamma.py": f'''
def repeats():
    """Say the words of the summary again.

    It will say the words of the summary again. {BODY}"""
def first():
    """Return what stands first here.

    {BODY}"""
def second():
    """Return what stands first here."""
''',
    "broken.py": '"""This file does not parse, so it is left out."""\ndef (',
    "test/test_alpha.py": '"""Tests are left out of the collection."""',
    "idlelib/idle_test/test_x.py": '"""Tests are left out of the collection."""',
    "site-packages/package.py": '"""Packages are left out of the collection."""',
    "_sysconfigdata__linux.py": '"""What the build wrote is left out."""',
    "config-3.11-x86/python-config.py": '"""What the build wrote is left out."""',
}


@pytest.fixture
def small_library(tmp_path, monkeypatch):
    for name, source in SMALL_LIBRARY.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    monkeypatch.setattr(pydoc.sysconfig, "get_path", lambda name: str(tmp_path))


def test_pydoc_of_a_small_library(small_library):
    collection = Collection(**pydoc.build())
    assert dict(zip(collection.doc_ids, collection.doc_texts, strict=True)) == {
        "alpha.Box": f"alpha.Box\n{BODY}\n  Indented more.",
        "alpha.Box.open": f"alpha.Box.open\n{BODY}",
        "alpha.Box.size": "alpha.Box.size\nThe size.",
        "alpha.Box.size#2": "alpha.Box.size\nThe other size.",
        "beta": f"beta\n{BODY}",
        # the body repeats the summary, so there is no query and the docstring is whole
        "beta.gamma.repeats": "beta.gamma.repeats\nSay the words of the summary again.\n\n"
        f"It will say the words of the summary again. {BODY}",
        # the same summary is all there is of `second`, which would be a perfect answer
        "beta.gamma.first": f"beta.gamma.first\nReturn what stands first here.\n\n{BODY}",
        "beta.gamma.second": "beta.gamma.second\nReturn what stands first here.",
    }
    assert dict(zip(collection.query_ids, collection.query_texts, strict=True)) == {
        "q/alpha.Box": "Hold one thing at a time.",
        "q/alpha.Box.open": "Open the lid of the box.",
    }
    assert collection.qrels == {"q/alpha.Box": {"alpha.Box": 1}, "q/alpha.Box.open": {"alpha.Box.open": 1, "beta": 1}}


@pytest.fixture(scope="session")
def full_pydoc():
    return load_collection("pydoc")


@pytest.mark.slow
def test_pydoc_size_and_ids(full_pydoc):
    assert 6000 < len(full_pydoc.doc_ids) < 10_000
    assert 1500 < len(full_pydoc.query_ids) < 3000
    assert "heapq.heappushpop" in full_pydoc.doc_ids
    assert not [id_ for id_ in full_pydoc.doc_ids if id_.startswith("test.") or "site-packages" in id_]
    assert not full_pydoc.self_matches


@pytest.mark.slow
def test_pydoc_documents_do_not_contain_their_queries(full_pydoc):
    texts = dict(zip(full_pydoc.doc_ids, full_pydoc.doc_texts, strict=True))
    for query_id, query in zip(full_pydoc.query_ids, full_pydoc.query_texts, strict=True):
        assert 4 <= len(re.findall(r"\w+", query)) <= 30
        for doc in full_pydoc.qrels[query_id]:
            title, _, body = texts[doc].partition("\n")
            assert title == doc.partition("#")[0]
            assert " ".join(query.lower().split()) not in " ".join(body.lower().split())
            assert len(re.findall(r"\w+", body)) >= 15


@pytest.mark.slow
def test_pydoc_splits_share_documents_and_divide_the_queries(full_pydoc):
    train, test = load_collection("pydoc/train"), load_collection("pydoc", "test")
    assert (train.split, test.split) == ("train", "test")
    assert train.identity["documents_sha256"] == test.identity["documents_sha256"]
    assert train.qrels | test.qrels == full_pydoc.qrels
    assert not set(train.query_texts) & set(test.query_texts)
    # a fair coin gives half of 2,000 give or take 22, a standard deviation of 1.1 points
    assert 0.45 < len(train.query_ids) / len(full_pydoc.query_ids) < 0.55


@pytest.mark.slow
def test_a_sample_of_pydoc_is_a_pydoc_of_its_documents(full_pydoc):
    sample, test = load_collection("pydoc/500"), load_collection("pydoc/500/test")
    assert sample.name == "pydoc/500" and test.full_name == "pydoc/500/test"
    assert len(sample.doc_ids) == 500 and sample.doc_ids == test.doc_ids
    assert set(sample.doc_ids) < set(full_pydoc.doc_ids)
    assert set(sample.doc_ids) < set(load_collection("pydoc/900").doc_ids)
    assert 50 < len(sample.query_ids) < 500 and set(test.query_ids) < set(sample.query_ids)
    whole = dict(zip(full_pydoc.query_texts, full_pydoc.query_ids, strict=True))
    for query, relevant in sample.qrels.items():
        assert set(relevant) <= set(sample.doc_ids)
        text = sample.query_texts[sample.query_ids.index(query)]
        assert text not in whole or set(relevant) <= set(full_pydoc.qrels[whole[text]])
    with pytest.raises(ValueError, match="n_docs is 9999999"):
        load_collection("pydoc/9999999")


def test_hidden_files_are_no_modules_of_the_library(tmp_path):
    (tmp_path / "module.py").write_text('"""Words of a module."""')
    for name in ("._module.py", ".#module.py", ".hidden/module.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('"""Words of no module."""')
    (tmp_path / ".#lock.py").symlink_to("me@here.1234")  # as Emacs makes it, a link to nothing
    assert [docstring.id for docstring in pydoc._read_library(tmp_path)] == ["module"]


def test_numpy_integers_are_arguments(monkeypatch, tmp_path):
    for name in ("first", "second", "third"):
        (tmp_path / f"{name}.py").write_text(f'"""Words of the {name} module."""')
    monkeypatch.setattr(pydoc.sysconfig, "get_path", lambda name: tmp_path)
    assert limit.build(np.int64(50), np.int32(9), np.uint8(7)) == limit.build(50, 9, 7)
    assert limit.build_train(np.int64(50)) == limit.build_train(50)
    assert pydoc.build("test", np.int64(2)) == pydoc.build("test", 2)


def test_pydoc_split_is_the_first_bit_of_the_sha256():
    # printf 'a' | sha256sum: ca978112...; 0xca = 0b11001010. printf 'b': 3e23e816...; 0x3e = 0b00111110
    assert pydoc.split_of("a") == "test"
    assert pydoc.split_of("b") == "train"


@pytest.mark.slow
def test_no_machine_path_in_what_is_stored(full_pydoc):
    assert pydoc.sysconfig.get_path("stdlib") not in json.dumps(full_pydoc.identity)
