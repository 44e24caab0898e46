"""Co-active families: latents that occur in the same texts, a broad one and those that go with it.

They are not the families of `31_features` (lexical, narrow, broad), which tell what kind a single latent is.
"""

from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree

LEAST = 0.1  # of the texts of the rarer latent, for two latents to be linked
SMALLEST = 3  # latents of a family
ALIKE = 0.6  # share in common (Jaccard) from which two families count as one


class Family(NamedTuple):
    """A co-active family: its broadest latent, all of its latents (sorted), and the level at which it was found."""

    parent: int
    latents: tuple[int, ...]
    level: int


def coactive_families(active: csr_array, n_levels: int = 3) -> list[Family]:
    """Return families of latents that occur together, after O'Neill et al. (arXiv 2408.00657).

    Two latents are linked by the share of the rarer one's texts that the other is in, if it is at least LEAST. Of all
    links the maximum spanning tree is kept, directed from the more frequent latent to the rarer (of equal ones, from
    the smaller number). A latent that no link leads to is a parent, and all that can be reached from it is its family.
    Then the parents are left out, and the families of the next level are those of what remains. A family that has at
    least ALIKE in common with an earlier one is left out, as are those of fewer than SMALLEST latents.

    Parameters
    ----------
    active : csr_array [n_texts, width]
        Which latents a text is about; what is stored and not 0 counts. Keep few of each text (`keep_top`): with all
        latents of long texts, nearly all pairs occur together.
    n_levels : int
    """
    counts, links = coactivation(active)
    rank = np.argsort(np.argsort(-counts, kind="stable"))  # the most frequent latent is 0
    families: list[Family] = []
    left = counts > 0
    for level in range(n_levels):
        linked = left[links.row] & left[links.col]
        lengths = coo_array((2 - links.data[linked], (links.row[linked], links.col[linked])), shape=links.shape)
        tree = minimum_spanning_tree(csr_array(lengths)).tocoo()
        ends = np.stack([tree.row, tree.col])
        first = rank[ends].argmin(axis=0)
        sources, targets = ends[first, np.arange(tree.nnz)], ends[1 - first, np.arange(tree.nnz)]
        directed = csr_array((np.ones(tree.nnz), (sources, targets)), shape=links.shape)
        parents = np.setdiff1d(sources, targets)
        for parent in parents[np.argsort(rank[parents])].tolist():
            reached = breadth_first_order(directed, parent, return_predecessors=False)
            family = Family(parent, tuple(sorted(reached.tolist())), level)
            if len(reached) >= SMALLEST and not any(_overlap(family, other) >= ALIKE for other in families):
                families.append(family)
        left[parents] = False
    return families


def coactivation(active: csr_array, least: float = LEAST) -> tuple[np.ndarray, coo_array]:
    """Return how many texts each latent is in, int64 [width], and the links of pairs i < j, float64 [width, width].

    A link is the share of the rarer one's texts that the other is in; those below `least` are left out.
    """
    ones = csr_array(active != 0).astype(np.int64)
    counts, both = ones.sum(axis=0), coo_array(ones.T @ ones)
    share = both.data / np.minimum(counts[both.row], counts[both.col])
    linked = (both.row < both.col) & (share >= least)
    return counts, coo_array((share[linked], (both.row[linked], both.col[linked])), shape=both.shape)


def _overlap(family: Family, other: Family) -> float:
    a, b = set(family.latents), set(other.latents)
    return len(a & b) / len(a | b)
