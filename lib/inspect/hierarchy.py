"""Latents that are active in the same tokens, and broader ones that contain narrower ones, as trees."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array, csr_array

from lib.inspect.labelling import labels_for
from lib.inspect.labels import Labels
from lib.inspect.reading import Reading, read
from lib.latent_terms import LatentTerms
from lib.support.html import visible

_CHUNK = 2048
_STRONG = 8  # latents of a token that count as active together
_PARENT_SHARE, _PARENT_SIZE = 0.5, 1.5


class Companions(NamedTuple):
    """What the tokens of some texts say of pairs of latents.

    `together` maps a latent to those that are strong in the same tokens, [[latent, Jaccard index], ...], the best
    first; `parents` maps it to the broader one that contains it; `strong` counts the tokens, int64 [width].
    """

    together: dict[int, list]
    parents: dict[int, int]
    strong: np.ndarray


def companions(reading: Reading, n: int = 6) -> Companions:
    """Return which latents are strong in the same tokens, `n` of each, and the broader one that contains each, if any.

    The broader one is the latent j with the largest P(j | i) of at least one half that is strong half as often again
    or more, as Sanderson and Croft derive hierarchies of terms ("Deriving concept hierarchies from text", SIGIR 1999).
    """
    strong = reading.values[:, :_STRONG] > 0
    token, column = np.nonzero(strong)
    latents, width = reading.latents[:, :_STRONG][token, column], reading.terms.shape[1]
    ones = np.ones(len(token), np.int32)
    active = coo_array((ones, (token, latents)), shape=(len(reading.token_ids), width)).tocsr()
    counts = np.bincount(latents, minlength=width)
    by_latent = active.T.tocsr()
    together: dict[int, list] = {}
    parents: dict[int, int] = {}
    for first in range(0, width, _CHUNK):
        both = csr_array(by_latent[first : first + _CHUNK] @ active)
        for latent, (start, end) in enumerate(pairwise(both.indptr), first):
            others, shared = both.indices[start:end], both.data[start:end]
            usual = (others != latent) & (shared >= 2)
            others, shared = others[usual], shared[usual]
            jaccard = shared / (counts[latent] + counts[others] - shared)
            best = np.lexsort((others, -jaccard))[:n]
            if len(best):
                together[latent] = [[int(others[b]), round(float(jaccard[b]), 2)] for b in best]
            broader = np.flatnonzero(
                (shared >= _PARENT_SHARE * counts[latent]) & (counts[others] >= _PARENT_SIZE * counts[latent])
            )
            if len(broader):
                parents[latent] = int(others[broader[np.lexsort((counts[others[broader]], -shared[broader]))[0]]])
    return Companions(together, parents, counts)


@dataclass(frozen=True, eq=False, repr=False)
class Hierarchy:
    """Broader latents, and below each the narrower ones: nested lists in a notebook, indented lines elsewhere.

    Attributes
    ----------
    parents : dict of int to int
        The broader latent of each that has one; it is strong in at least half of the tokens in which the other is, and
        in half as many again or more.
    strong : np.ndarray, int64 [width]
        In how many tokens each latent is among the strongest.
    names : Labels or list of str
        What the latents are called.
    """

    parents: dict[int, int]
    strong: np.ndarray
    names: Sequence[str] | Labels

    ROOTS, CHILDREN, DEPTH = 8, 5, 3  # that are shown
    _NONE = "(no latent has a broader one)"

    @cached_property
    def children(self) -> dict[int, list[int]]:
        """The narrower latents of each that has any, most frequent first."""
        children: dict[int, list[int]] = {}
        for child in sorted(self.parents, key=lambda child: (-self.strong[child], child)):
            children.setdefault(self.parents[child], []).append(child)
        return children

    @property
    def roots(self) -> list[int]:
        """The latents that have narrower ones and none broader, those of the largest families first."""
        below: Counter[int] = Counter()
        for latent in self.parents:
            while latent in self.parents:  # each is strong more often than the one before
                latent = self.parents[latent]
                below[latent] += 1
        return sorted((latent for latent in below if latent not in self.parents), key=lambda root: (-below[root], root))

    def _title(self, latent: int) -> str:
        n = len(self.children.get(latent, []))
        return f"{latent} {self.names[latent]}" + (f" ({n} narrower)" if n else "")

    def _below(self, latent: int, depth: int) -> list[int]:
        return self.children.get(latent, [])[: self.CHILDREN] if depth < self.DEPTH else []

    def _lines(self, latents: list[int], depth: int = 0) -> Iterator[str]:
        for latent in latents:
            yield "    " * depth + self._title(latent)
            yield from self._lines(self._below(latent, depth), depth + 1)

    def _list(self, latents: list[int], depth: int = 0) -> str:
        below = ((latent, self._list(self._below(latent, depth), depth + 1)) for latent in latents)
        items = "".join(f"<li>{visible(self._title(latent))}{narrower}</li>" for latent, narrower in below)
        return f"<ul>{items}</ul>" if items else ""

    def __repr__(self) -> str:
        """Return a line for each latent that is shown, indented by its depth."""
        return "\n".join(self._lines(self.roots[: self.ROOTS])) or self._NONE

    def _repr_html_(self) -> str:
        """Return nested lists."""
        return self._list(self.roots[: self.ROOTS]) or f"<p>{self._NONE}</p>"


def hierarchy(
    model: LatentTerms, texts: Iterable[str], names: Sequence[str] | Labels | None = None, *, progress: bool = True
) -> Hierarchy:
    """Return which latents contain which others, by the tokens of some texts in which they are strong.

    Raises ValueError for no text, and for one alone without names.

    Parameters
    ----------
    model : LatentTerms
    texts : iterable of str
        Some thousand texts of the kind that the model will read; all are held in memory.
    names : Labels or list of str, optional
        What the latents are called; None is `labels_for` of the texts.
    progress : bool
        Whether progress is shown.
    """
    if names is not None and len(names) != model.sae.width:
        raise ValueError(f"There are {len(names):,} names; give one for each of the {model.sae.width:,} latents.")
    reading = read(model, texts, progress=progress)
    _, parents, strong = companions(reading)
    return Hierarchy(parents, strong, labels_for(model, reading) if names is None else names)
