"""What notebooks show: all of a text, nothing of it executed, and the same as plain text."""

from html.parser import HTMLParser

import numpy as np
import pytest
from scipy.sparse import csr_array

from lib.bm25.index import BM25Index
from lib.bm25.ranking import Ranking
from lib.data.collection import Collection
from lib.inspect.labels import Labels
from lib.latent_terms import LatentTerms
from lib.support.html import Results, cell, table

HOSTILE = "<script>alert(1)</script> \"quotes\" 'and' &amp; \u202e\u05d0\u05d1 \U0001f600 <img src=x onerror=alert(2)>"
VOID = {"img", "br", "input", "meta", "link"}


class Reader(HTMLParser):
    """Collects the text and the tags of HTML, and checks that tags are closed."""

    def __init__(self, html: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += attributes
        self.open += [tag] * (tag not in VOID)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def check(html: str) -> Reader:
    reader = Reader(html)
    allowed = {"div", "p", "span", "bdi", "table", "caption", "thead", "tbody", "tr", "th", "td"}
    assert reader.tags <= allowed
    assert {name for name, _ in reader.attributes} <= {"title", "style", "scope", "dir"}
    assert "url(" not in html
    return reader


@pytest.fixture(scope="module")
def model(tiny_encoder, tiny_sae):
    return LatentTerms(tiny_encoder, tiny_sae)


@pytest.mark.parametrize(
    "text", ["the old cat sat", HOSTILE, "", "   ", "the dog " * 1250, "\ud800 cat", "a\n\nbird\tsang  ", "cat\0dog"]
)
def test_a_shown_text_is_whole(model, text):
    shown = model.show(text)
    assert "".join(token.text for token in shown.tokens) == text
    reader = check(shown._repr_html_())
    assert reader.text == text.encode("utf-8", "replace").decode()
    assert isinstance(repr(shown), str)


def test_a_shown_text_names_the_latents_of_a_token(model, monkeypatch):
    (block,) = model.encoder.stream(["the cat"], progress=False)
    indices, values = (tensor.numpy() for tensor in model.sae.encode(block.states))
    strongest = int(indices[2][values[2].argmax()])  # [CLS] the cat [SEP]
    numbers = np.full(64, np.nan, np.float32)
    labels = Labels([f"label <{j}>" for j in range(64)], numbers, numbers, "m")
    monkeypatch.setattr(model, "labels", labels, raising=False)
    shown = model.show("the cat", n_latents=2)
    (cat,) = (token for token in shown.tokens if token.text == "cat")
    assert cat.latents[0] == (strongest, pytest.approx(values[2].max()))
    assert len(cat.latents) == 2
    titles = [value for name, value in check(shown._repr_html_()).attributes if name == "title"]
    assert any(title.startswith(f"{strongest} label <{strongest}>: ") for title in titles)
    assert f"{strongest} label <{strongest}>" in repr(shown)
    with pytest.raises(TypeError, match="list"):
        model.show(["the cat"])
    with pytest.raises(ValueError, match="n_latents is 0"):
        model.show("the cat", n_latents=0)


def test_results_as_tables(tiny_sae):
    docs = csr_array(np.array([[3, 0, 1], [0, 2, 1]], np.float32))
    index = BM25Index.build(docs, [HOSTILE, "b"])
    parts = index.explain(csr_array(np.array([[1, 0, 2]], np.float32)), HOSTILE)
    reader = check(parts._repr_html_())
    assert {"latent", "query_weight", "idf", "impact", "score"} <= set(reader.text.replace(".", "").split()) or (
        "query_weight" in reader.text
    )
    assert parts == sorted(parts, key=lambda part: -part.score)
    numbers = np.full(3, np.nan, np.float32)
    labelled = Labels([HOSTILE, "b", "c"], numbers, numbers, "m").explain(parts)
    assert HOSTILE in check(labelled._repr_html_()).text
    assert [row.score for row in labelled] == [part.score for part in parts]

    ranking = Ranking([HOSTILE, "q"], [[HOSTILE, "b"], []], [np.array([2.0, 1.0]), np.array([])])
    assert check(ranking._repr_html_()).text.count(HOSTILE) == 2
    collection = Collection("a/b", None, [HOSTILE, ""], [HOSTILE, ""], ["q"], [HOSTILE], {"q": {"": 1}}, "folder")
    assert check(collection._repr_html_()).text.count(HOSTILE) == 3
    assert "2" in check(index._repr_html_()).text
    assert "topk" in check(tiny_sae._repr_html_()).text


def test_long_lists_say_how_long():
    rows = Results([BM25Row(i) for i in range(50)])
    assert "50 rows" in check(rows._repr_html_()).text
    assert check(Results()._repr_html_()).text == "nothing"
    assert "0.3333" in cell(1 / 3)
    assert check(table(["a <b>"], [(HOSTILE,)], HOSTILE)).text.count(HOSTILE) == 2


class BM25Row(tuple):
    """A named tuple of one field."""

    _fields = ("i",)

    def __new__(cls, i):
        return super().__new__(cls, (i,))
