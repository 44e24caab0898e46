"""Broader and narrower latents: by hand, as text and as HTML."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from lib.inspect.hierarchy import Hierarchy, companions, hierarchy
from lib.inspect.labels import Labels
from lib.inspect.reading import Reading
from lib.latent_terms import LatentTerms


def by_hand(latents: list[list[int]], width: int) -> Reading:
    """A reading of one text, in whose tokens these latents are active, with activations that fall."""
    k = max(map(len, latents))
    columns = np.array([row + [0] * (k - len(row)) for row in latents], np.int32)
    values = np.array([[k - i if i < len(row) else 0 for i in range(k)] for row in latents], np.float32)
    spans = np.array([[t, t + 1] for t in range(len(latents))], np.int32)
    terms = csr_array((1, width), dtype=np.float32)
    return Reading(
        ["x" * len(latents)],
        np.array([0, len(latents)]),
        np.zeros(len(latents), np.int64),
        spans,
        columns,
        values,
        terms,
    )


def test_a_broader_latent_is_strong_where_the_narrower_ones_are():
    # 0 is strong in six tokens, 1 in three and 2 in two of them; 3 stands alone, 4 is where 1 is, but as often
    tokens = [[0, 1, 4], [0, 1, 4], [0, 1], [0, 2], [0, 2], [0], [3], [4]]
    together, parents, strong = companions(by_hand(tokens, 6))
    assert parents == {1: 0, 2: 0, 4: 0}
    assert strong.tolist() == [6, 3, 2, 1, 3, 0]
    assert together[1] == [[0, 0.5], [4, 0.5]]  # three of six tokens, two of four
    assert 3 not in together


def test_only_the_strongest_latents_of_a_token_count():
    tokens = [list(range(9)), list(range(9))]
    _, _, strong = companions(by_hand(tokens, 9))
    assert strong.tolist() == [2] * 8 + [0]


@pytest.fixture
def tree() -> Hierarchy:
    strong = np.array([90, 40, 20, 8, 60, 30, 5, 1])
    names = ["animals", "cats", "old cats", "a <b>cat</b>", "colours", "red", "", "alone"]
    return Hierarchy({1: 0, 2: 1, 3: 2, 6: 0, 5: 4}, strong, names)


def test_the_largest_family_comes_first(tree):
    assert tree.roots == [0, 4]
    assert tree.children == {0: [1, 6], 1: [2], 2: [3], 4: [5]}
    assert repr(tree).splitlines() == [
        "0 animals (2 narrower)",
        "    1 cats (1 narrower)",
        "        2 old cats (1 narrower)",
        "            3 a <b>cat</b>",
        "    6 ",
        "4 colours (1 narrower)",
        "    5 red",
    ]


def test_html_is_nested_and_escaped(tree):
    html = tree._repr_html_()
    assert "<b>" not in html and "&lt;b&gt;" in html
    assert html.count("<ul>") == html.count("</ul>") == 5
    assert html.index("animals") < html.index("old cats") < html.index("colours")
    none = Hierarchy({}, np.zeros(2, np.int64), ["a", "b"])
    assert "no latent" in repr(none) and repr(none) in none._repr_html_()


def test_what_is_shown_is_limited():
    # one root with twenty children, and a chain of five
    parents = dict.fromkeys(range(1, 21), 0) | {21: 1, 22: 21, 23: 22, 24: 23}
    lines = repr(Hierarchy(parents, np.arange(25)[::-1], ["x"] * 25)).splitlines()
    assert lines == [
        "0 x (20 narrower)",
        "    1 x (1 narrower)",
        "        21 x (1 narrower)",
        "            22 x (1 narrower)",
    ] + [f"    {child} x" for child in range(2, 6)]


def test_of_a_model(tiny_encoder, tiny_sae):
    model = LatentTerms(tiny_encoder, tiny_sae)
    texts = ["the old cat sat", "a dog ran", "", "the cat, the cat!"] * 3
    tree = hierarchy(model, texts, progress=False)
    assert isinstance(tree.names, Labels)
    assert all(tree.strong[parent] >= 1.5 * tree.strong[child] for child, parent in tree.parents.items())
    names = [f"latent {j}" for j in range(tiny_sae.width)]
    assert hierarchy(model, texts, names, progress=False).parents == tree.parents
    with pytest.raises(ValueError, match="2 names"):
        hierarchy(model, texts, ["a", "b"])
    with pytest.raises(ValueError, match="no text"):
        hierarchy(model, [], names)
