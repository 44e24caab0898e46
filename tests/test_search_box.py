"""The box to search in, without a browser: what it shows, and what typing and sliding change."""

import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from scipy.sparse import csr_array

from lib.data.collection import Collection
from lib.inspect.labels import Labels
from lib.inspect.search import Search
from lib.latent_terms import LatentTerms

HOSTILE = "the cat <script>alert(1)</script> & \"two\" <img src=x onerror='alert(2)'>"
TEXTS = [
    "the old cat sat on a red mat .",
    HOSTILE,
    "a dog ran",
    "a bird sang in the tree",
    "\u05e9\u05dc\u05d5\u05dd cat \U0001f600",
]
IDS = ["plain", "<b>id</b>", "dog", "bird", "rtl"]


class Reader(HTMLParser):
    def __init__(self, html: str):
        super().__init__()
        self.tags, self.text = set(), ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def model(tiny_encoder, tiny_sae):
    return LatentTerms(tiny_encoder, tiny_sae)


@pytest.fixture(scope="module")
def collection():
    return Collection("pets", "test", IDS, TEXTS, ["q"], ["a cat"], {"q": {"plain": 1}}, "folder")


@pytest.fixture(scope="module")
def index(model, collection):
    return model.index(model.encode_documents(collection.doc_texts), collection.doc_ids)


@pytest.mark.slow
def test_typing_ranks_as_the_index_does_and_all_text_is_shown(model, index, collection):
    search = Search(model, index, collection, k=5, n_sliders=3)
    assert search.ranking == [] and search.results.value == ""
    search.query.value = "the cat"
    row = model.encode_queries(["the cat"])
    assert search.ranking == [pair for pair in index.search_one(row, 5) if pair[1] > 0]
    reader = Reader(search.results.value)
    assert not reader.tags & {"script", "img"}
    for doc_id, _ in search.ranking:
        assert doc_id in reader.text and TEXTS[IDS.index(doc_id)] in reader.text
    heaviest = row.indices[np.argsort(-row.data * index.idf[row.indices], kind="stable")[:3]]
    assert [slider.latent for slider in search.sliders.children] == heaviest.tolist()
    assert all(f"({slider.latent})" in slider.description for slider in search.sliders.children)
    assert repr(search).splitlines()[1].endswith(search.ranking[0][0])
    assert "application/vnd.jupyter.widget-view+json" in search._repr_mimebundle_()


@pytest.mark.slow
def test_sliders_steer_and_the_model_reads_no_document_again(model, index, collection, monkeypatch):
    search = Search(model, index, collection, k=5)
    search.query.value = "the cat"
    before, reads = search.ranking, []
    monkeypatch.setattr("lib.inspect.search.read", lambda *arguments, **_: reads.append(arguments))
    first, second, *_ = search.sliders.children
    first.value, second.value = 0.0, 2.0
    assert reads == []
    steered = model.steer(model.encode_queries(["the cat"]), {first.latent: 0.0, second.latent: 2.0})
    assert search.ranking == [pair for pair in index.search_one(steered, 5) if pair[1] > 0] != before
    first.value = second.value = 1.0
    assert search.ranking == before


def test_what_a_query_finds_nothing_by(model, index, collection):
    search = Search(model, index, collection, n_sliders=64)
    search.query.value = "a dog"
    for slider in search.sliders.children:
        slider.value = 0.0
    assert search.ranking == [] and "No document" in search.results.value
    search.query.value = ""
    assert search.ranking == [] and search.results.value == "" and not search.sliders.children


def test_latents_are_called_by_their_labels_or_by_tokens_of_the_query(model, index, collection, monkeypatch):
    search = Search(model, index, collection)
    search.query.value = "cat"
    assert any(slider.description.startswith("cat (") for slider in search.sliders.children)
    unmeasured = np.full(model.sae.width, np.nan)
    labels = Labels([f"<i>{j}" for j in range(model.sae.width)], unmeasured, unmeasured, "m")
    monkeypatch.setitem(model.__dict__, "labels", labels)
    search.query.value = "the cat"
    assert all(slider.description == f"<i>{slider.latent} ({slider.latent})" for slider in search.sliders.children)
    assert "i" not in Reader(search.results.value).tags


def test_refuses(model, index, collection, monkeypatch):
    few = Collection("pets", "test", IDS[:2], TEXTS[:2], ["q"], ["a cat"], {"q": {"plain": 1}}, "folder")
    with pytest.raises(ValueError, match=r"lacks 3 documents.*'dog'"):
        Search(model, index, few)
    narrow = type(index).build(csr_array(np.ones((5, 3), np.float32)), IDS)
    with pytest.raises(ValueError, match="3 latents, the model 64"):
        Search(model, narrow, collection)
    with pytest.raises(ValueError, match="n_sliders"):
        Search(model, index, collection, n_sliders=0)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(ImportError, match="lab"):
        Search(model, index, collection)
