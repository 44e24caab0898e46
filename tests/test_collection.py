"""`Collection` and `load_collection`: validation, identity, the mirror, folders, and ir_datasets without a network."""

import gzip
import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import ir_datasets
import numpy as np
import pytest

import lib.data.collection
from lib.data.collection import Collection, load_collection
from lib.data.sources import canonical_text
from lib.studies.names import is_limit
from lib.studies.profiles import LAPTOP

DOCS = {"d1": ("Title", "one text"), "d2": ("", "two"), "d3": ("", "")}
QUERIES = {"q0": "nobody judged this", "q2": "second", "q1": "first"}
QRELS = [("q1", "d1", 2), ("q2", "d2", 1), ("q1", "d3", 0)]
HEADER = "query-id\tcorpus-id\tscore\n"


def write(folder, docs=DOCS, queries=QUERIES, **splits):
    """Write a folder in BEIR layout; a split is a list of (query, document, grade)."""
    (folder / "qrels").mkdir(parents=True)
    rows = [json.dumps({"_id": d, "title": title, "text": text}) for d, (title, text) in docs.items()]
    (folder / "corpus.jsonl").write_text("\n".join(rows), encoding="utf-8")
    rows = [json.dumps({"_id": q, "text": text}) for q, text in queries.items()]
    (folder / "queries.jsonl").write_text("\n".join(rows) + "\n\n", encoding="utf-8")
    for split, qrels in splits.items():
        lines = "".join(f"{q}\t{d}\t{grade}\n" for q, d, grade in qrels)
        (folder / "qrels" / f"{split}.tsv").write_text(HEADER + lines, encoding="utf-8")
    return folder


def make(**changes):
    fields = {
        "name": "x",
        "split": "test",
        "doc_ids": ["d1", "d2"],
        "doc_texts": ["one", "two"],
        "query_ids": ["q1"],
        "query_texts": ["first"],
        "qrels": {"q1": {"d1": 1}},
        "source": "folder",
    }
    return Collection(**(fields | changes))


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    folder = tmp_path / "mirror"
    folder.mkdir()
    monkeypatch.setenv("LATENT_TERMS_DATA", str(folder))
    return folder


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.delenv("LATENT_TERMS_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


# ---------------------------------------------------------------------------------------------------------- Collection


@pytest.mark.parametrize(
    ("title", "text", "expected"),
    [("T", "x", "T\nx"), ("", "x", "x"), (None, "x", "x"), ("T", "", "T"), (" ", "x", "x"), ("", "", "")],
)
def test_canonical_text(title, text, expected):
    assert canonical_text(title, text) == expected


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"doc_texts": "one"}, TypeError, "doc_texts"),
        ({"doc_texts": ["one", None]}, TypeError, r"doc_texts\[1\] is None"),
        ({"query_texts": [3]}, TypeError, r"query_texts\[0\] is 3"),
        ({"doc_ids": ["d1"]}, ValueError, "doc_ids holds 1"),
        ({"doc_ids": ["d1", "d1"]}, ValueError, "doc_ids repeats 'd1'"),
        ({"doc_ids": [], "doc_texts": []}, ValueError, "x/test holds 0 documents"),
        ({"query_ids": [], "query_texts": [], "qrels": {}}, ValueError, "x/test.*0 judged queries"),
        ({"qrels": None}, TypeError, "qrels is a NoneType"),
        ({"qrels": {"q1": {"d1": 1}, "q9": {"d1": 1}}}, ValueError, r"\['q9'\]"),
        ({"qrels": {"q1": {}}}, ValueError, r"\['q1'\]"),
        ({"qrels": {"q1": {"d9": 1}}}, ValueError, "1 of the 1 qrels .*'q1' → 'd9'.* Use"),
        ({"qrels": {"q1": {"d1": 0.5}}}, TypeError, r"qrels\['q1'\]\['d1'\] is 0.5"),
        ({"qrels": {"q1": {"d1": True}}}, TypeError, r"qrels\['q1'\]\['d1'\] is True"),
        ({"qrels": {"q1": {"d1": 10**29}}}, ValueError, r"qrels\['q1'\]\['d1'\] is 10+; .*10,?000"),
        ({"qrels": {"q1": ["d1"]}}, TypeError, "not of dicts"),
        ({"qrels": {1: {"d1": 1}, "q1": {"d1": 1}, "q2": {"d1": 1}}}, ValueError, r"\[1, 'q2'\]"),
        ({"source": "/data"}, ValueError, "source is '/data'"),
    ],
)
def test_collection_refuses(changes, error, match):
    with pytest.raises(error, match=match):
        make(**changes)


def test_judged_documents_that_a_download_lacks_are_kept_and_counted():
    with pytest.warns(UserWarning, match="1 of the 2 qrels"):
        collection = make(qrels={"q1": {"d1": 1, "gone": 1}}, source="ir_datasets")
    assert collection.qrels == {"q1": {"d1": 1, "gone": 1}}
    assert collection.missing == collection.identity["missing"] == 1
    assert "2 qrels (1 of documents it does not hold)" in repr(collection)


@pytest.mark.parametrize("grade", [np.int64(2), np.uint8(2), 2.0, np.float32(2)])
def test_grades_of_numpy_and_whole_floats_are_stored_as_int(grade):
    collection = make(qrels={"q1": {"d1": grade}})
    assert type(collection.qrels["q1"]["d1"]) is int
    assert collection.identity == make(qrels={"q1": {"d1": 2}}).identity


def test_identity_is_json_and_shown_by_repr():
    collection = make()
    identity = json.loads(json.dumps(collection.identity))
    assert identity == collection.identity
    counts = {key: identity[key] for key in ("documents", "queries", "qrels", "first_document", "last_document")}
    assert counts == {"documents": 2, "queries": 1, "qrels": 1, "first_document": "d1", "last_document": "d2"}
    # printf '2:d13:one2:d23:two' | sha256sum: the lengths in bytes of id and text, each before its string
    assert identity["documents_sha256"].startswith("ab22d4ca")
    assert len(repr(collection).splitlines()) == 2
    assert "x/test (folder): 2 documents, 1 queries, 1 qrels" in repr(collection)
    assert identity["documents_sha256"][:12] in repr(collection)


@pytest.mark.parametrize(
    ("changes", "differing"),
    [
        ({"doc_ids": ["d1o", "d2"], "doc_texts": ["ne", "two"], "qrels": {"q1": {"d2": 1}}}, "documents_sha256"),
        ({"doc_texts": ["one", "two "]}, "documents_sha256"),
        ({"query_texts": ["First"]}, "queries_sha256"),
        ({"qrels": {"q1": {"d1": 2}}}, "qrels_sha256"),
    ],
)
def test_identity_differs_with_the_content(changes, differing):
    assert make().identity[differing] != make(**changes).identity[differing]


def test_identity_does_not_depend_on_the_order_of_judgements():
    one, other = ({"q1": {"d1": 1, "d2": 0}}, {"q1": {"d2": 0, "d1": 1}})
    assert make(qrels=one).identity == make(qrels=other).identity


def test_self_matches_need_the_same_id_and_the_same_words():
    collection = make(
        doc_ids=["argument", "7", "blank"],
        doc_texts=["A title\nFor  the\nmotion, since", "Cells divide.", "nothing"],
        query_ids=["argument", "7", "blank", "other"],
        query_texts=["For the motion,", "Proteins fold.", "", "Cells divide."],
        qrels={q: {"7": 1} for q in ("argument", "7", "blank", "other")},
    )
    assert collection.self_matches == {"argument": "argument"}


def test_self_matches_of_arguana_need_the_same_id_only_and_a_folder_of_that_name_is_not_arguana():
    fields = {"query_ids": ["d1", "q2"], "query_texts": ["One!", "x"], "qrels": {"d1": {"d2": 1}, "q2": {"d2": 1}}}
    for source in ("mirror", "ir_datasets"):
        assert make(**fields, name="beir/arguana", source=source).self_matches == {"d1": "d1"}
        assert make(**fields, name="own/arguana", source=source).self_matches == {}
    assert make(**fields, name="arguana").self_matches == make(**fields, name="beir/arguana").self_matches == {}


# -------------------------------------------------------------------------------------------------- mirror and folders


def test_folder_keeps_judged_queries_in_file_order_and_no_path(tmp_path):
    folder = write(tmp_path / "mine", test=QRELS)
    collection = load_collection(folder)
    assert (collection.name, collection.split, collection.source) == ("mine", "test", "folder")
    assert collection.doc_texts == ["Title\none text", "two", ""]
    assert collection.query_ids == ["q2", "q1"]
    assert collection.qrels == {"q2": {"d2": 1}, "q1": {"d1": 2, "d3": 0}}
    assert str(tmp_path) not in json.dumps(collection.identity) + repr(collection)
    assert load_collection("mine") == load_collection("./mine/") == load_collection("mine/test") == collection


def test_gzipped_files(tmp_path):
    plain = load_collection(write(tmp_path / "mine", test=QRELS))
    for name in ("corpus.jsonl", "queries.jsonl"):
        path = tmp_path / "mine" / name
        (tmp_path / "mine" / f"{name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert load_collection("mine") == plain


def test_mirror_comes_before_a_folder_of_the_same_name_and_says_so(mirror, tmp_path, monkeypatch):
    write(mirror / "group" / "own", test=QRELS)
    write(tmp_path / "group" / "own", docs=DOCS | {"d4": ("", "more")}, test=QRELS)
    with pytest.warns(UserWarning, match=r"mirror.*not of the folder group/own; give '\./group/own'"):
        collection = load_collection("group/own")
    assert (collection.name, collection.source, len(collection.doc_ids)) == ("group/own", "mirror", 3)
    assert load_collection("./group/own").source == load_collection(Path("group/own")).source == "folder"
    monkeypatch.chdir(mirror)  # here it is the same folder
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_collection("group/own").source == "mirror"


@pytest.mark.parametrize("name", ["limit", "pydoc", "cranfield", "vaswani", "arguana", "scifact", "beir/scifact"])
@pytest.mark.parametrize("with_mirror", [False, True])
def test_a_folder_inherits_no_rule_of_a_collection_of_its_name(mirror, tmp_path, monkeypatch, name, with_mirror):
    if with_mirror:
        write(mirror / name, queries={"q1": "official"}, test=[("q1", "d1", 1)])
    else:
        monkeypatch.delenv("LATENT_TERMS_DATA")
    qrels = [("q1", "d1", 3), ("q1", "d2", -1), ("q2", "d2", -1)]
    folder = write(tmp_path / name, test=qrels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for given in (folder, str(folder), Path(name), Path(f"./{name}"), f"./{name}", f"{folder}/", f"./{name}/test"):
            collection = load_collection(given)
            assert (collection.name, collection.split, collection.source) == (Path(name).name, "test", "folder")
            assert collection.qrels == {"q2": {"d2": -1}, "q1": {"d1": 3, "d2": -1}}
            assert not is_limit(collection.full_name)


def test_a_built_in_collection_says_that_a_folder_of_its_name_was_not_read(tmp_path):
    write(tmp_path / "limit", test=QRELS)
    with pytest.warns(UserWarning, match=r"built-in.*not of the folder limit; give '\./limit/46'"):
        assert load_collection("limit/46").source == "built-in"


@pytest.mark.parametrize("name", ["~/mine", "~/mine/test", Path("~/mine")])
def test_a_folder_at_home(tmp_path, monkeypatch, name):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write(tmp_path / "home" / "mine", test=QRELS)
    assert load_collection(name).full_name == "mine/test"
    monkeypatch.setenv("LATENT_TERMS_DATA", "~")
    assert load_collection("mine").source == "mirror"
    assert load_collection(name).source == "folder"


def test_queries_that_are_documents_are_a_notice_with_the_remedy(tmp_path):
    docs = {"a1": ("Zoos", "Animals  suffer."), "a2": ("Zoos", "They do not."), "7": ("", "Cells divide.")}
    queries = {"a1": "Animals suffer.", "a2": "They do not.", "7": "Proteins fold."}
    folder = write(tmp_path / "mine", docs, queries, test=[("a1", "a2", 1), ("a2", "a1", 1), ("7", "7", 1)])
    match = r"2 of the 3 queries of mine/test .*'a1'.*exclude=collection\.self_matches"
    with pytest.warns(UserWarning, match=match) as notices:
        collection = load_collection(folder)
    assert notices[0].filename == __file__
    assert collection.self_matches == {"a1": "a1", "a2": "a2"}


@pytest.mark.parametrize(
    "name", ["._train.tsv", ".#train.tsv", "~$train.tsv", "train.tsv~", "#train.tsv#", "train.tsv.bak"]
)
def test_a_hidden_or_backup_file_makes_no_split(tmp_path, name):
    folder = write(tmp_path / "mine", train=QRELS)
    (folder / "qrels" / name).write_bytes(b"\0\x05\x16\x07")
    assert load_collection(folder).split == "train"
    with pytest.raises(ValueError, match="there are: 'train'"):
        load_collection(folder, "._train")


def test_gzipped_qrels_are_found(tmp_path):
    plain = load_collection(write(tmp_path / "mine", train=QRELS, test=QRELS))
    path = tmp_path / "mine" / "qrels" / "test.tsv"
    (tmp_path / "mine" / "qrels" / "test.tsv.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert load_collection("mine") == plain  # beside the plain one
    path.unlink()
    assert load_collection("mine") == load_collection("mine/test") == plain


@pytest.mark.parametrize("grade", ["1.0", "1.", "+1", "1e0", "1.000000000000000000e+00", " 1", "1 "])
def test_whole_numbers_are_grades(tmp_path, grade):
    folder = write(tmp_path / "mine", test=[("q1", "d1", grade)])
    assert load_collection(folder).qrels == {"q1": {"d1": 1}}


def test_files_of_windows(tmp_path):
    folder = write(tmp_path / "mine", test=QRELS)
    plain = load_collection(folder)
    for path in (folder / "corpus.jsonl", folder / "queries.jsonl", folder / "qrels" / "test.tsv"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n\r\n")
    assert load_collection(folder) == plain


def test_ids_keep_spaces_of_unicode_and_percent_signs(tmp_path):
    ids = ["\u00a0q 1\u3000", "p%2F1", "a\u2028b"]
    folder = write(
        tmp_path / "mine", dict.fromkeys(ids, ("", "x")), dict.fromkeys(ids, "y"), test=[(i, i, 1) for i in ids]
    )
    collection = load_collection(folder)
    assert collection.doc_ids == collection.query_ids == ids
    assert collection.qrels == {i: {i: 1} for i in ids}


@pytest.mark.parametrize(
    ("splits", "name", "split", "expected"),
    [
        (["dev", "test", "train"], "own", None, "test"),
        (["dev"], "own", None, "dev"),
        (["dev", "test"], "own/dev", None, "dev"),
        (["dev", "test"], "own", "dev", "dev"),
        (["dev", "test"], "own/dev", "dev", "dev"),
    ],
)
def test_split(mirror, splits, name, split, expected):
    write(mirror / "own", **dict.fromkeys(splits, QRELS))
    collection = load_collection(name, split)
    assert (collection.name, collection.split, collection.full_name) == ("own", expected, f"own/{expected}")


@pytest.mark.parametrize(
    ("name", "split", "match"),
    [
        ("own", None, "None; there are: 'dev', 'train'"),
        ("own", "test", "'test'; there are: 'dev', 'train'"),
        ("own/test", None, "has no split 'test'"),
        ("own/dev", "train", "'own/dev'.*'train'"),
        ("pydoc/train", "test", "'train', and split is 'test'"),
        ("pydoc/dev", None, "split is 'dev'"),
        ("limit", "test", "split is 'test'"),
        ("limit/train", "dev", "'train', and split is 'dev'"),
        ("limit/46/9/train", None, "'limit/46/9/train'"),
        ("limit/few", None, "'limit/few'"),
        ("limit/45", None, "n_documents is 45"),
    ],
)
def test_split_errors(mirror, name, split, match):
    write(mirror / "own", dev=QRELS, train=QRELS)
    with pytest.raises(ValueError, match=match):
        load_collection(name, split)


def test_cranfield_is_binary_and_a_folder_of_that_name_keeps_its_grades(mirror, tmp_path, monkeypatch):
    qrels = [("q1", "d1", 3), ("q1", "d2", -1), ("q2", "d2", -1)]
    assert load_collection(write(tmp_path / "cranfield", test=qrels)).qrels == {
        "q2": {"d2": -1},
        "q1": {"d1": 3, "d2": -1},
    }
    write(mirror / "cranfield", test=qrels)
    monkeypatch.setattr(lib.data.collection, "_check_size", lambda collection: None)  # the real one has 1,400 documents
    with pytest.warns(UserWarning, match="cranfield"):
        assert load_collection("cranfield").qrels == {"q1": {"d1": 1}}


@pytest.mark.parametrize(
    ("file", "content", "match"),
    [
        ("corpus.jsonl", '{"_id": "d1", "text": "x"}\n{"_id": ', "corpus.jsonl, line 2"),
        ("corpus.jsonl", '["d1", "x"]', "line 1 is .*'_id'"),
        ("corpus.jsonl", '{"_id": 1, "text": "x"}', "line 1 is .*'_id'"),
        ("corpus.jsonl", '{"_id": "d1", "text": "x", "title": 3}', "line 1 is .*strings"),
        ("corpus.jsonl", '{"_id": "d1", "text": "x"}\n' * 2, "doc_ids repeats 'd1'"),
        ("corpus.jsonl", "", "0 documents"),
        ("corpus.jsonl", b'{"_id": "d1", "text": "\xff"}', "corpus.jsonl, line 1.*UTF-8"),
        ("queries.jsonl", '\n{"_id": "q1"}', "queries.jsonl, line 2"),
        ("qrels/test.tsv", "q1\td1\t1\n", "test.tsv, line 1 is .*query-id"),
        ("qrels/test.tsv", f"{HEADER}q1 d1 1\n", "test.tsv, line 2 is 'q1 d1 1'"),
        ("qrels/test.tsv", f"{HEADER}q1\td1\t0.5\n", "line 2 is .* whole number"),
        ("qrels/test.tsv", f"{HEADER}q1\td1\tnan\n", "line 2 is .* whole number"),
        ("qrels/test.tsv", f"{HEADER}q1\td1\t1_0\n", "line 2 is .* whole number"),
        ("qrels/test.tsv", f"{HEADER}q1\td1\t1\nq1\td2\t{'9' * 30}\n", "test.tsv, line 3 is .*10,?000"),
        ("qrels/test.tsv", f"{HEADER}q1\td1\t-2000000\n", "test.tsv, line 2 is .*10,?000"),
        ("qrels/test.tsv", "q1 0 d1 1\n", "test.tsv, line 1 is .*TREC's four columns.*qrels/test.tsv"),
        ("qrels/test.tsv", "q1\t0\td1\t1\n", "test.tsv, line 1 is .*TREC's four columns"),
        ("qrels/test.tsv", f"{HEADER}q1\tQ0\td1\t2\n", "test.tsv, line 2 is .*TREC's four columns"),
        ("qrels/test.tsv", HEADER.encode("utf-16"), "test.tsv, line 1 .*UTF-16"),
        ("queries.jsonl", '{"_id": "q1", "text": "x"}\n'.encode("utf-16-le"), "queries.jsonl, line 1 .*UTF-16"),
        ("qrels/test.tsv", f"{HEADER}q1\td1\t1\nq1\td1\t0\n", "line 3 .*grade 1"),
        ("qrels/test.tsv", f"{HEADER}q7\td1\t1\n", r"\['q7'\]"),
        ("qrels/test.tsv", HEADER, "0 judged queries"),
    ],
)
def test_malformed_files_are_named_with_their_line(tmp_path, file, content, match):
    folder = write(tmp_path / "mine", test=QRELS)
    (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=match):
        load_collection(folder)


def test_a_truncated_gzip_file_is_named(tmp_path):
    folder = write(tmp_path / "mine", test=QRELS)
    whole = gzip.compress((folder / "corpus.jsonl").read_bytes())
    (folder / "corpus.jsonl").unlink()
    (folder / "corpus.jsonl.gz").write_bytes(whole[:-12])
    with pytest.raises(ValueError, match=r"corpus\.jsonl\.gz"):
        load_collection(folder)


def test_incomplete_folders(mirror, tmp_path):
    write(mirror / "bare")
    with pytest.raises(ValueError, match=r"'bare'.*none"):
        load_collection("bare")
    write(mirror / "mute", test=QRELS)
    (mirror / "mute" / "queries.jsonl").unlink()
    with pytest.raises(ValueError, match=r"mute.*queries\.jsonl"):
        load_collection("mute")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"'empty'.*corpus\.jsonl"):
        load_collection("empty")


def test_qrels_of_another_name_are_listed(tmp_path):
    folder = write(tmp_path / "mine", test=QRELS)
    (folder / "qrels" / "test.tsv").rename(folder / "qrels" / "qrels.test.txt")
    with pytest.raises(ValueError, match=r"no split None.*qrels\.test\.txt.*qrels/test\.tsv"):
        load_collection(folder)


def test_unknown_name_lists_what_there_is(mirror, monkeypatch):
    write(mirror / "group" / "own", test=QRELS)
    for hidden in (".trash", "group/._own"):
        (mirror / hidden).mkdir()
        (mirror / hidden / "corpus.jsonl").write_text("{}")
    with pytest.raises(ValueError, match="'beir/scifat'") as error:
        load_collection("beir/scifat")
    for part in ("pydoc/train", "limit/46", "group/own", "beir/scifact", "To add one, make a folder with corpus.jsonl"):
        assert part in str(error.value)
    assert "trash" not in str(error.value) and "._own" not in str(error.value)
    monkeypatch.setenv("LATENT_TERMS_DATA", str(mirror / "nowhere"))
    with pytest.raises(ValueError, match=r"LATENT_TERMS_DATA is .*nowhere"):
        load_collection("group/own")


# --------------------------------------------------------------------------------------------------------- ir_datasets


class Doc(NamedTuple):
    doc_id: str
    title: str
    text: str


class Abstract(NamedTuple):
    doc_id: str
    abstract: str

    def default_text(self):
        return self.abstract


class Query(NamedTuple):
    query_id: str
    text: str


class Judgement(NamedTuple):
    query_id: str
    doc_id: str
    relevance: int


class Dataset:
    """What ir_datasets would give, from memory."""

    def __init__(self, qrels=None, documents=3, error=None):
        self.qrels, self.documents, self.error = qrels, documents, error

    def has_docs(self):
        return self.documents > 0

    def has_qrels(self):
        return self.qrels is not None

    def metadata(self):
        return {"docs": {"count": self.documents}}

    def docs_iter(self):
        if self.error:
            raise self.error
        yield from (Doc("d1", "Title", "one text"), Doc("d2", None, "two"), Abstract("d3", "an abstract"))

    def queries_iter(self):
        yield from (Query(q, text) for q, text in QUERIES.items())

    def qrels_iter(self):
        yield from (Judgement(*row) for row in self.qrels)


@pytest.fixture
def registered(monkeypatch):
    def register(**datasets):
        for name, dataset in datasets.items():
            monkeypatch.setitem(ir_datasets.registry._registered, name.replace("_", "/"), dataset)

    return register


@pytest.mark.parametrize(
    ("name", "split", "expected"),
    [
        ("fake/test", None, ("fake", "test")),
        ("fake", None, ("fake", "test")),
        ("fake", "train", ("fake", "train")),
        ("fake/train", "train", ("fake", "train")),
        ("family/plain", None, ("family/plain", "test")),
        ("family/plain", "test", ("family/plain", "test")),
        ("family/plain/test", None, ("family/plain", "test")),
    ],
)
def test_ir_datasets(registered, name, split, expected):
    parts = {"family": Dataset(documents=0), "family_plain": Dataset(QRELS)}
    registered(fake=Dataset(), fake_test=Dataset(QRELS), fake_train=Dataset(QRELS), **parts)
    collection = load_collection(name, split)
    assert (collection.name, collection.split) == expected
    assert collection.source == "ir_datasets"
    assert collection.doc_texts == ["Title\none text", "two", "an abstract"]
    assert collection.query_ids == ["q2", "q1"]
    assert collection.qrels == {"q2": {"d2": 1}, "q1": {"d1": 2, "d3": 0}}


@pytest.mark.parametrize(
    ("name", "split", "match"),
    [
        ("fake", "dev", "'fake'.*'dev'.*'test'"),
        ("fake/dev", None, "'fake'.*'dev'.*'test'"),
        ("fake/test", "dev", "'fake/test'.*'dev'"),
        ("fake/dev", "test", "'dev', and split is 'test'"),
    ],
)
def test_ir_datasets_split_errors(registered, name, split, match):
    registered(fake=Dataset(), fake_test=Dataset(QRELS))
    with pytest.raises(ValueError, match=match):
        load_collection(name, split)


@pytest.mark.parametrize("error", [ConnectionError("no network"), RuntimeError("All download sources failed")])
def test_failed_download_says_which_file_to_put_where(registered, mirror, error):
    registered(fake=Dataset(), fake_test=Dataset(QRELS, error=error))
    with pytest.raises(OSError, match="'fake/test'") as raised:
        load_collection("fake/test")
    for part in (str(error), str(mirror / "fake"), "corpus.jsonl", "queries.jsonl", "qrels/test.tsv", "corpus-id"):
        assert part in str(raised.value)


def test_number_of_documents_must_be_the_stated_one(registered, mirror):
    registered(fake=Dataset(documents=4), fake_test=Dataset(QRELS))
    match = r"fake \(ir_datasets\) holds 3 .*4"
    with pytest.raises(ValueError, match=match):
        load_collection("fake/test")
    write(mirror / "vaswani", test=QRELS)
    with pytest.raises(ValueError, match=r"vaswani \(mirror\) holds 3 .*11,429"):
        load_collection("vaswani")


# ----------------------------------------------------------------------------------------------------- known identities


def test_another_edition_is_a_warning_that_names_what_differs(mirror, tmp_path, monkeypatch):
    write(mirror / "own", test=QRELS)
    known = {"own/test": lib.data.collection._comparable(load_collection("own").identity)}
    (tmp_path / "identities.json").write_text(json.dumps(known))
    monkeypatch.setattr(lib.data.collection, "_IDENTITIES", tmp_path / "identities.json")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_collection("own")
    (mirror / "own" / "corpus.jsonl").write_text('{"_id": "d1", "text": "x"}\n{"_id": "d2", "text": "y"}')
    (mirror / "own" / "qrels" / "test.tsv").write_text(f"{HEADER}q1\td1\t2\nq2\td2\t1\n")
    with pytest.warns(UserWarning, match="documents, qrels, last_document, documents_sha256, qrels_sha256"):
        load_collection("own")


def test_the_default_limit_is_the_one_of_the_results():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        collection = load_collection("limit")
    known = json.loads(lib.data.collection._IDENTITIES.read_text())
    assert known["limit"] == lib.data.collection._comparable(collection.identity)
    names = {f"beir/{name}" for name in ("scifact/test", "scifact/train", "nfcorpus/test", "nfcorpus/train")}
    names |= {f"{name}/test" for name in ("cranfield", "vaswani", "cisi", "squad", "limit-small")}
    assert set(known) == names | {"beir/nfcorpus/dev", "limit"}


@pytest.mark.parametrize("name", sorted({*LAPTOP.collections, *LAPTOP.tuning_collections}))
def test_what_results_are_measured_on_is_built_in_or_known(name):
    known = json.loads(lib.data.collection._IDENTITIES.read_text())
    assert name.startswith(("pydoc", "limit")) or {name, f"{name}/test"} & set(known)


def test_the_command_prints_identities():
    root = lib.data.collection._IDENTITIES.parents[2]
    command = [sys.executable, "-m", "lib.data.collection", "limit/46"]
    printed = json.loads(subprocess.run(command, cwd=root, capture_output=True, check=True, text=True).stdout)
    assert printed == {"limit/46": lib.data.collection._comparable(load_collection("limit/46").identity)}


def test_a_document_may_have_a_title_only(beir_folder_of_titles):
    assert load_collection(beir_folder_of_titles).doc_texts == ["only a title"]


@pytest.fixture
def beir_folder_of_titles(tmp_path):
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text('{"_id": "d1", "title": "only a title"}\n')
    (tmp_path / "queries.jsonl").write_text('{"_id": "q1", "text": "title"}\n')
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\n")
    return tmp_path
