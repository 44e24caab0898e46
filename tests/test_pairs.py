import gzip
import json

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from lib import load_collection
from lib.encode.encoder import TokenEncoder
from lib.evaluation.late_interaction import in_bytes
from lib.latent_terms import LatentTerms
from lib.learned.pairs import Pairs, collection_pairs, load_pairs, mine_negatives, read_pairs
from lib.learned.teachers import TEACHERS, teacher_scores
from lib.support.store import Store

pytestmark = pytest.mark.usefixtures("one_thread")

QUERIES = ["old cat", "red bird", "big dog", "stone house", "green tree", "new boat"]
POSITIVES = [
    "the old cat sat on a mat",
    "a red bird sang in the tree",
    "the big dog ran and ran",
    "a small house of stone",
    "a green tree in the river",
    "the cat saw a fish",
]


@pytest.fixture
def pairs() -> Pairs:
    return Pairs(QUERIES, POSITIVES)


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "store")


def write(path, *rows) -> None:
    text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def test_files_are_read_once_each_and_equal_pairs_once(tmp_path, monkeypatch):
    one, two = {"query": "q", "positive": "p", "source": 7}, {"query": "r", "positive": "p"}
    write(tmp_path / "a.jsonl", one, two, one)
    write(tmp_path / "b.jsonl.gz", two, {"query": "s", "positive": "t"})
    read = read_pairs(tmp_path)
    assert (read.queries, read.positives) == (["q", "r", "s"], ["p", "p", "t"])
    assert read_pairs(tmp_path / "a.jsonl").passages == ["p"]
    monkeypatch.setenv("LATENT_TERMS_PAIRS", str(tmp_path))
    assert load_pairs("b").queries == load_pairs("b.jsonl.gz").queries == ["r", "s"]
    assert load_pairs(tmp_path / "a.jsonl").digest == Pairs(["q", "r"], ["p", "p"]).digest


def test_pairs_are_a_collection_to_tune_on():
    pairs = Pairs(["a", "b", "a", "c"], ["one", "two", "three", "one"])
    collection = pairs.collection("mine", 2)
    assert (collection.full_name, collection.doc_texts) == ("mine/train", ["one", "two", "three"])
    assert collection.query_texts == ["a", "b"]
    assert collection.qrels == {"q0": {"d0": 1, "d2": 1}, "q1": {"d1": 1}}
    assert pairs.collection("mine").qrels["q2"] == {"d0": 1}


@pytest.mark.parametrize(
    "row, words",
    [
        ({"query": "q"}, ["positive"]),
        ({"query": "q", "positive": 3}, ["positive"]),
        ({"query": " ", "positive": "p"}, ["blank", "query"]),
        ({"query": "q", "positive": ""}, ["blank", "positive"]),
        (["q", "p"], ["query"]),
        ("{query", ["JSON"]),
    ],
)
def test_a_bad_line_is_named(tmp_path, row, words):
    write(tmp_path / "pairs.jsonl", {"query": "q", "positive": "p"}, "", row)
    with pytest.raises(ValueError, match=r"pairs\.jsonl, line 3") as error:
        load_pairs(tmp_path / "pairs.jsonl")
    assert all(word in str(error.value) for word in words)


def test_what_is_no_pairs_is_refused(tmp_path, monkeypatch):
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(ValueError, match=r"empty\.jsonl"):
        read_pairs(tmp_path / "empty.jsonl")
    monkeypatch.delenv("LATENT_TERMS_PAIRS", raising=False)
    with pytest.raises(ValueError, match="LATENT_TERMS_PAIRS"):
        load_pairs("no/such/pairs")
    with pytest.raises(ValueError, match=r"positives\[1\]"):
        Pairs(["q", "r"], ["p", ""])
    with pytest.raises(ValueError, match="2 queries, 1 positives"):
        Pairs(["q", "r"], ["p"])
    with pytest.raises(ValueError, match="equally many"):
        Pairs(["q", "r"], ["p", "p"], [["n"], []])
    with pytest.raises(TypeError, match=r"queries\[1\]"):
        Pairs(["q", 2], ["p", "p"])


def test_pairs_of_a_collection_are_its_training_qrels(tmp_path):
    write(tmp_path / "corpus.jsonl", *({"_id": f"d{i}", "title": "", "text": text} for i, text in enumerate("ab ")))
    write(tmp_path / "queries.jsonl", *({"_id": f"q{i}", "text": text} for i, text in enumerate("xyz")))
    (tmp_path / "qrels").mkdir()
    header = "query-id\tcorpus-id\tscore\n"
    (tmp_path / "qrels/train.tsv").write_text(header + "q0\td0\t1\nq0\td1\t2\nq1\td1\t0\nq1\td2\t1\n")
    (tmp_path / "qrels/test.tsv").write_text(header + "q2\td0\t1\n")
    pairs = collection_pairs(load_collection(tmp_path, "train"))
    assert (pairs.queries, pairs.positives) == (["x", "x"], ["a", "b"])  # neither grade 0 nor a blank text
    with pytest.raises(ValueError, match="'test'"):
        collection_pairs(load_collection(tmp_path, "test"))


def test_negatives_are_no_positives_and_are_stored(pairs, store, tiny_encoder, tiny_sae):
    pairs = Pairs([*pairs.queries, "old cat"], [*pairs.positives, "a red bird sang in the tree"])
    model = LatentTerms(tiny_encoder, tiny_sae)
    mined = mine_negatives(pairs, n=3, ranks=(1, 4), model=model, seed=5, store=store)
    for query, positive, negatives in zip(mined.queries, mined.positives, mined.negatives, strict=True):
        known = {other for same, other in zip(pairs.queries, pairs.positives, strict=True) if same == query}
        assert positive in known
        assert len(set(negatives)) == 3 and not known & set(negatives)
    # of "old cat", what else has the word "cat" is the first rank by words behind its own positive
    words = mine_negatives(pairs, ["words"], n=1, ranks=(1, 2), store=store)
    assert words.negatives[0] == ["the cat saw a fish"]
    again = mine_negatives(mined, n=3, ranks=(1, 4), model=model, seed=5, store=store)
    assert again.digest == mined.digest != pairs.digest
    assert len(list(store.folder.glob("negatives-*"))) == 2
    assert list(mined.columns()) == ["query", "positive", "negative_1", "negative_2", "negative_3"]


def test_negatives_that_cannot_be_had_are_refused(pairs, store):
    with pytest.raises(ValueError, match="lower n"):
        mine_negatives(pairs, ["words"], n=6, store=store)
    with pytest.raises(ValueError, match="'sense'"):
        mine_negatives(pairs, ["sense"], store=store)
    with pytest.raises(ValueError, match=r"\(9, 3\)"):
        mine_negatives(pairs, ["words"], n=1, ranks=(9, 3), store=store)


def test_a_teacher_scores_as_its_equation_says_and_its_scores_belong_to_the_pairs(pairs, store, tiny_encoder):
    mined = mine_negatives(pairs, ["words"], n=2, ranks=(1, 4), store=store)
    scores = {name: teacher_scores(mined, [(name, tiny_encoder)], store=store) for name in TEACHERS}

    def states(text, kind):
        (block,) = tiny_encoder.stream([text], kind)
        return block

    candidates = [mined.positives[0], *mined.negatives[0]]
    query, documents = states(mined.queries[0], "query"), [states(text, "document") for text in candidates]
    cosines = np.array([(query.pooled[0] @ document.pooled[0]).item() for document in documents])
    q = normalize(query.states)
    unit = [normalize(torch.from_numpy(in_bytes(document.states)).float()) for document in documents]
    maxsim = np.array([(q @ d.T).amax(dim=1).mean().item() for d in unit])
    for name, expected in (("dense", cosines), ("late-interaction", maxsim)):
        values = scores[name].values
        assert values.shape == (6, 3) and values.dtype == np.float32
        assert values.std(axis=1).mean() == pytest.approx(1, abs=1e-5)
        ratio = np.diff(expected) / np.diff(values[0])  # one scale for all
        assert np.allclose(ratio, ratio[0], rtol=1e-3)
    fused = teacher_scores(mined, [(name, tiny_encoder) for name in TEACHERS], [0.25, 0.75], store=store)
    mean = teacher_scores(mined, [(name, tiny_encoder) for name in TEACHERS], store=store)
    for values, weights in ((fused.values, (0.25, 0.75)), (mean.values, (0.5, 0.5))):
        expected = sum(weight * scores[name].values for weight, name in zip(weights, TEACHERS, strict=True))
        assert np.allclose(values, expected / expected.std(axis=1).mean(), atol=1e-5)
    assert len({each.digest for each in (*scores.values(), fused)}) == 3
    fused.check_belongs_to(mined)
    with pytest.raises(ValueError, match=pairs.digest[:12]):
        fused.check_belongs_to(pairs)
    with pytest.raises(ValueError, match="mine_negatives"):
        teacher_scores(pairs, [("dense", tiny_encoder)], store=store)
    with pytest.raises(ValueError, match="one weight"):
        teacher_scores(mined, [("dense", tiny_encoder)], [1, 2], store=store)


def test_another_retriever_is_another_teacher(pairs, store, sentence_folder, tiny_encoder):
    mined = mine_negatives(pairs, ["words"], n=2, store=store)
    shorter = TokenEncoder(sentence_folder, dtype="float32", max_length=8)
    scores = [teacher_scores(mined, [("dense", encoder)], store=store) for encoder in (tiny_encoder, shorter)]
    assert scores[0].digest != scores[1].digest
