"""Co-active families: what is linked, which latents are parents, and what levels and likeness leave out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from lib.inspect.coactivation import ALIKE, SMALLEST, Family, coactivation, coactive_families


def texts(*rows: tuple[int, ...], width: int) -> csr_array:
    dense = np.zeros((len(rows), width))
    for row, latents in enumerate(rows):
        dense[row, list(latents)] = 1
    return csr_array(dense)


def test_links_by_hand():
    counts, links = coactivation(texts((0, 1), (0, 1), (0, 2), (0,), (2,), width=4), least=0.6)
    assert counts.tolist() == [4, 2, 2, 0]
    assert links.toarray()[0].tolist() == [0, 1, 0, 0] and links.nnz == 1  # 0 and 2 share half of the texts of 2


def test_a_broad_latent_and_those_that_go_with_it():
    rows = [(0, 1), (0, 2), (0, 3), (4, 5), (4, 6), (4,), (7,)]
    families = coactive_families(texts(*rows, width=8))
    assert families == [Family(0, (0, 1, 2, 3), 0), Family(4, (4, 5, 6), 0)]


def test_without_the_parent_narrower_families_are_found():
    # 0 is in all texts, 1 and 4 are broad below it
    rows = [(0, 1, 2), (0, 1, 3), (0, 1), (0, 4, 5), (0, 4, 6), (0, 4)]
    first, *others = coactive_families(texts(*rows, width=7))
    assert first.parent == 0 and first.latents == tuple(range(7))
    assert others == [Family(1, (1, 2, 3), 1), Family(4, (4, 5, 6), 1)]
    assert coactive_families(texts(*rows, width=7), n_levels=1) == [first]


@pytest.mark.slow
@given(st.lists(st.sets(st.integers(0, 9), max_size=5), min_size=1, max_size=30))
def test_families_are_large_enough_unlike_and_led_by_their_most_frequent_latent(rows):
    active = texts(*(tuple(row) for row in rows), width=10)
    counts, families = active.sum(axis=0), coactive_families(active)
    for number, (parent, latents, _) in enumerate(families):
        assert len(latents) >= SMALLEST and counts[parent] == counts[list(latents)].max() > 0
        for other in families[:number]:
            both, either = set(latents) & set(other.latents), set(latents) | set(other.latents)
            assert len(both) / len(either) < ALIKE


@pytest.mark.parametrize("width", [0, 3])
def test_no_texts_have_no_families(width):
    assert coactive_families(csr_array((0, width))) == []
