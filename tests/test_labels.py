"""Labels of latents and their agreement; log-odds; what of them is worked by hand."""

import json

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.stats import rankdata

from lib.inspect.labelling import agreement, evidence_of, label_latents, labels_for, labels_of, plain_label
from lib.inspect.labels import Labels, words_of
from lib.inspect.log_odds import compare, log_odds
from lib.inspect.reading import Reading, read
from lib.latent_terms import LatentTerms

TEXTS = ["the old cat sat", "a dog ran", "", "the cat, the cat!", "a bird sang", "<script> & dog\u202e \U0001f600"] * 4


@pytest.fixture(scope="module")
def model(tiny_encoder, tiny_sae):
    return LatentTerms(tiny_encoder, tiny_sae)


@pytest.fixture(scope="module")
def reading(model):
    return read(model, TEXTS, progress=False)


def by_hand(words: list[list[str]], latents: list[list[int]], width: int) -> Reading:
    """A reading in which token t of a text is word t and has the latent that is given for it, with activation 1."""
    texts = [" ".join(row) for row in words]
    starts = [[len(" ".join(row[:t])) + bool(t) for t in range(len(row))] for row in words]
    spans = [(s, s + len(word)) for row, of in zip(words, starts, strict=True) for word, s in zip(row, of, strict=True)]
    columns = np.array([latent for row in latents for latent in row], np.int32)[:, None]
    offsets = np.cumsum([0, *map(len, words)])
    rows = np.repeat(np.arange(len(texts)), np.diff(offsets))
    terms = csr_array((np.ones(len(rows), np.float32), (rows, columns[:, 0])), shape=(len(texts), width))
    values = np.ones(columns.shape, np.float32)
    return Reading(texts, offsets, np.zeros(len(rows), np.int64), np.array(spans, np.int32), columns, values, terms)


def test_a_reading_is_what_the_model_encodes_and_where(model, reading):
    np.testing.assert_array_equal(reading.terms.toarray(), model.encode_documents(TEXTS, progress=False).toarray())
    tokens = reading.offsets[3], reading.offsets[4]
    shown = [TEXTS[3][start:end] for start, end in reading.spans[slice(*tokens)].tolist()]
    assert [token for token in shown if token] == ["the", "cat", ",", "the", "cat", "!"]
    assert shown[0] == shown[-1] == ""  # special tokens
    words, word_of, counts = reading.words()
    assert [words[word] for word in word_of[slice(*tokens)] if word >= 0] == ["the", "cat", ",", "the", "cat", "!"]
    assert {words[j]: n for j, n in enumerate(counts[[3]].toarray()[0]) if n} == {"the": 2, "cat": 2}
    assert (np.diff(reading.values, axis=1) <= 0).all()
    part = reading.part(slice(3, None, 2))
    assert part.texts == TEXTS[3::2]
    np.testing.assert_array_equal(part.firings.toarray(), reading.firings.toarray()[3::2])


def test_spans_with_prompts_chunks_and_halves_of_surrogates(tiny_encoder, tiny_sae):
    text = "the old cat sat on a red mat " * 12 + "\ud800 dog"
    encoder = tiny_encoder.replace(document_prompt="document : ", max_length=20, long_texts="chunk")
    reading = read(LatentTerms(encoder, tiny_sae), [text], progress=False)
    words = [text[start:end] for start, end in reading.spans.tolist() if start < end]
    assert words == [*text.split()[:-2], "\ud800", "dog"]


def test_log_odds_by_hand():
    # prior 10 of share .5: 5 each; a 8 + 5 of 10 + 10, b 2 + 5 of 10 + 10: ln (13 / 7) - ln (7 / 13)
    delta, z = log_odds(np.array([8.0]), np.array([2.0]), 10, 10, np.array([0.5]), 10)
    assert delta[0] == pytest.approx(2 * np.log(13 / 7))
    assert z[0] == pytest.approx(delta[0] / np.sqrt(1 / 13 + 1 / 7 + 1 / 7 + 1 / 13))


def test_a_term_that_nearly_all_texts_have_is_as_typical_as_that_few_lack_it():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 51, 200), rng.integers(1, 100, 200)
    share = (a + b) / 150
    of_having, of_lacking = (
        log_odds(x, y, 50, 100, s, 20) for x, y, s in ((a, b, share), (50 - a, 100 - b, 1 - share))
    )
    np.testing.assert_allclose(of_having, -np.array(of_lacking), atol=1e-12)
    chance = rng.random((2, 400, 500)) < np.linspace(0.01, 0.99, 500)
    _, z = log_odds(*chance.sum(axis=1), 400, 400, chance.mean(axis=(0, 1)), 1)
    assert 0.02 < np.mean(np.abs(z) > 1.96) < 0.08  # of terms of every frequency, where the texts do not differ


def test_compare_finds_what_differs_and_corrects():
    rng = np.random.default_rng(0)
    a, b = (rng.random((300, 40)) < 0.2 for _ in "ab")
    a[:, 7], b[:, 7] = rng.random(300) < 0.6, rng.random(300) < 0.1
    a[:, 8], b[:, 8] = False, False
    weights = [x * rng.random(x.shape, np.float32) for x in (a, b)]
    rows = [csr_array(x) for x in weights]
    found = compare(*rows, [f"latent {j}" for j in range(40)], prior=20)
    assert (found[0].latent, found[0].label) == (7, "latent 7")
    assert (found[0].share_a, found[0].share_b) == (a[:, 7].mean(), b[:, 7].mean())
    assert found[0].p < 1e-9 < 0.05 < sorted(row.p for row in found)[1]
    assert 8 not in {row.latent for row in found}
    for row in found:
        assert row.examples == np.argsort(-weights[row.z <= 0][:, row.latent], kind="stable")[:3].tolist()
    swapped = compare(*rows[::-1], prior=20)
    assert swapped[-1].z == pytest.approx(-found[0].z)
    assert "latent 7" in found._repr_html_()


@pytest.mark.parametrize(
    ("a", "b", "options", "match"),
    [
        (csr_array((2, 3)), csr_array((2, 4)), {}, r"\(2, 4\).*one model"),
        (csr_array((0, 3)), csr_array((2, 3)), {}, "one at least"),
        (csr_array((2, 3)), csr_array((2, 3)), {"labels": ["x"]}, "1 labels of 3"),
        (csr_array((2, 3)), csr_array((2, 3)), {"prior": 0}, "prior is 0"),
    ],
)
def test_compare_refuses(a, b, options, match):
    with pytest.raises(ValueError, match=match):
        compare(a, b, **options)


def test_evidence_and_labels_by_hand():
    words = [["cat", "purr"], ["cat", "milk"], ["dog", "bark"], ["dog", "bone"]] * 30
    latents = [[0, 1], [0, 1], [2, 1], [2, 1]] * 30
    evidence = {e.latent: e for e in evidence_of(by_hand(words, latents, 4), np.array([True, True, True, False]))}
    assert evidence.keys() == {0, 1, 2}
    assert evidence[0].words == [("cat", 1.0)]
    assert {word for word, z in evidence[0].company if z > 0} == {"cat", "purr", "milk"}
    assert evidence[0].contexts[0] == "[cat] purr"
    assert plain_label(evidence[0]) == "cat (milk, purr)"
    assert plain_label(evidence[0]._replace(company=[("cat", 9.0), ("purr", 4.0), ("milk", 2.0)])) == "cat (purr)"
    assert [share for _, share in evidence[1].words] == [0.25] * 4
    assert plain_label(evidence[0]._replace(words=[(",", 0.6), ("cat", 0.4)], company=[])) == "cat"
    assert plain_label(evidence[0]._replace(words=[(",", 1.0)], company=[])) == ","
    only = evidence_of(by_hand(words, latents, 4), np.array([False, True, False, True]))
    assert [e.latent for e in only] == [1]


def test_agreement_is_the_area_under_the_curve():
    rng = np.random.default_rng(1)
    words = [[*["cat", "dog"][: int(rng.integers(3))], "x"] for _ in range(60)]
    latents = [[int(rng.random() < 0.3 + 0.2 * len(row))] * len(row) for row in words]
    reading = by_hand(words, latents, 3)
    auc = agreement(["cat, dog", "", "cat"], reading)
    scores = np.array([len(row) - 1 for row in words])
    fires = np.array([row[0] == 0 for row in latents])
    ranks = rankdata(scores)
    n = fires.sum()
    assert auc[0] == pytest.approx((ranks[fires].sum() - n * (n + 1) / 2) / (n * (60 - n)))
    assert np.isnan(auc[1:]).all()  # one without a label, one that never fires


def test_labels_beat_those_drawn_at_random():
    rng = np.random.default_rng(0)
    topics = rng.integers(8, size=400)
    words = [[f"topic{t}", f"word{rng.integers(50)}"] for t in topics]
    latents = [[t, 8] for t in topics]
    labels = labels_of(_Named(9), by_hand(words, latents, 9))
    assert np.nanmedian(labels.auc[:8]) == 1
    assert np.nanmedian(labels.control[:8]) < 0.7
    assert "median AUC" in repr(labels)
    words[1], latents[1] = ["rare", "word"], [9, 9]  # in a held-out text alone
    labels = labels_of(_Named(10), by_hand(words, latents, 10))
    assert (labels[9], np.isnan(labels.auc[9])) == ("rare, word", True)


class _Named:
    """As much of a model as the labels of a reading need."""

    def __init__(self, width):
        self.sae = self
        self.width, self.identity = width, {"weights": "f" * 64}


def test_a_label_of_ones_own(model):
    labels = label_latents(model, TEXTS, lambda evidence: f"latent {evidence.latent}", progress=False)
    assert {name for j, name in enumerate(labels.names) if name != f"latent {j}"} == {""}
    assert len(set(labels.names)) > 5
    with pytest.raises(TypeError, match=r"latent .* is 7"):
        label_latents(model, TEXTS, lambda evidence: 7, progress=False)
    with pytest.raises(ValueError, match="two"):
        label_latents(model, TEXTS[:1], progress=False)


def test_labels_are_kept_beside_the_model_and_refused_for_another(model, tmp_path):
    labels = label_latents(model, TEXTS, progress=False)
    model.save(tmp_path)
    loaded = LatentTerms.load(tmp_path, encoder=model.encoder)
    assert loaded.labels is None
    path = labels.save(tmp_path)
    first = path.read_bytes()
    labels.save(tmp_path)
    assert path.read_bytes() == first
    loaded = LatentTerms.load(tmp_path, encoder=model.encoder)
    assert loaded.labels.names == labels.names
    np.testing.assert_allclose(loaded.labels.auc, labels.auc, atol=5e-4)
    with pytest.raises(ValueError, match=r"f{12}.*lib label"):
        Labels.load(tmp_path, "f" * 64)
    content = json.loads(path.read_text())
    for change, match in (({"format_version": 9}, "9"), ({"labels": 3}, "damaged"), ({"auc": []}, "damaged")):
        path.write_text(json.dumps(content | change))
        with pytest.raises(ValueError, match=match):
            Labels.load(tmp_path, labels.model)
    path.write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        Labels.load(tmp_path, labels.model)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="lib label"):
        Labels.load(tmp_path, labels.model)


def test_labels_of_the_texts_at_hand_come_before_those_of_the_model(model, tmp_path):
    width, reading = model.sae.width, read(model, TEXTS * 2, progress=False)
    here = labels_of(model, reading)
    assert labels_for(model, reading).names == here.names  # of a model that has none
    auc = np.full(width, 0.75, np.float32)
    auc[np.flatnonzero(~np.isfinite(here.auc))[:1]] = np.nan
    model.save(tmp_path)
    Labels([f"known {j}" for j in range(width)], auc, auc - 0.25, model.sae.identity["weights"]).save(tmp_path)
    both = labels_for(LatentTerms.load(tmp_path, encoder=model.encoder), reading)
    measured, of_model = np.isfinite(here.auc), ~np.isfinite(here.auc) & np.isfinite(auc)
    assert measured.any() and of_model.any()
    for j in range(width):
        assert both[j] == (f"known {j}" if of_model[j] else here[j])
    np.testing.assert_array_equal(both.auc, np.where(measured, here.auc, auc))
    np.testing.assert_array_equal(both.control, np.where(measured, here.control, auc - 0.25))


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_copy_of_a_model_has_its_labels(model, tmp_path, dtype):
    model.save(tmp_path / "first")
    label_latents(model, TEXTS, progress=False).save(tmp_path / "first")
    LatentTerms.load(tmp_path / "first", encoder=model.encoder).save(tmp_path / "copy", dtype)
    first, copy = (LatentTerms.load(tmp_path / name, encoder=model.encoder) for name in ("first", "copy"))
    assert copy.labels.names == first.labels.names
    assert (copy.labels.model == first.labels.model) == (dtype == "float32")


def test_labels_are_found_by_the_beginning_of_a_word():
    numbers = np.array([0.5, 0.9, np.nan], np.float32)
    labels = Labels(["open (file)", "opened", "close"], numbers, numbers, "m")
    assert labels.find("Open") == [1, 0]
    assert labels.find("zebra") == []
    assert labels[2] == "close"
    assert words_of("Open, opened (the file, open)") == ["open", "opened", "the", "file"]
    for wrong, error in ((3, ValueError), ("x", TypeError)):
        with pytest.raises(error, match="latent"):
            labels[wrong]
    with pytest.raises(ValueError, match="word is ''"):
        labels.find("")
    with pytest.raises(ValueError, match=r"auc has shape \(2,\)"):
        Labels(["a"], numbers[:2], numbers[:1], "m")
