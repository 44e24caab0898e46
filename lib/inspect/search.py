"""A box for notebooks: type a query, see what ranks and why, and make the query's latents weaker or stronger."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from scipy.sparse import csr_array

from lib.bm25.index import BM25Index
from lib.bm25.steering import steer
from lib.inspect.display import stretches
from lib.inspect.reading import Reading, read
from lib.latent_terms import LatentTerms
from lib.support.checks import check_count
from lib.support.html import Token, shaded, table, visible

_KEPT = 256  # documents whose tokens are kept, so that a slider does not make the model read them again
_EXPLAINED = 10  # latents of a score
_MOST = 2.0  # what a slider multiplies by at most


class Texts(Protocol):
    """What is needed of a `Collection`."""

    @property
    def doc_ids(self) -> Sequence[str]: ...  # noqa: D102

    @property
    def doc_texts(self) -> Sequence[str]: ...  # noqa: D102


class Search:
    """A box to search in: `Search(model, index, collection)` as the last line of a notebook's cell shows it.

    The tokens of each document are shaded by what its latents add to the score, those of the query alone; hovering
    names them. A score opens into its latents. Sliders multiply the weights of the query's heaviest latents, by 0 to 2,
    and rank anew (`lib.bm25.steering.steer`).

    Raises ImportError without ipywidgets; ValueError for an index of another width than the model's, or of documents
    that the collection lacks.

    Parameters
    ----------
    model : LatentTerms
        Latents are called by its labels; where it has none, by the token of the query that they are strongest in.
    index : BM25Index
        Of documents that the model encoded.
    collection : Collection
        Or anything with `doc_ids` and `doc_texts`.
    k, n_sliders : int
        Numbers of documents and of sliders that are shown.

    Attributes
    ----------
    query : ipywidgets.Text
        Setting its `value` searches.
    sliders, results, box : ipywidgets.VBox, ipywidgets.HTML, ipywidgets.VBox
        The last holds all.
    ranking : list of (str, float)
        What is shown: ids and scores, best first.
    """

    def __init__(self, model: LatentTerms, index: BM25Index, collection: Texts, *, k: int = 5, n_sliders: int = 8):
        try:
            import ipywidgets
        except ImportError as error:
            raise ImportError(f"ipywidgets is not installed ({error}); pip install 'latent-terms[lab]'.") from error
        if index.width != model.sae.width:
            raise ValueError(
                f"The index has {index.width} latents, the model {model.sae.width}; index with this model."
            )
        texts = dict(zip(collection.doc_ids, collection.doc_texts, strict=True))
        if lacking := [doc_id for doc_id in index.doc_ids if doc_id not in texts]:
            raise ValueError(f"The collection lacks {len(lacking)} documents of the index, such as {lacking[0]!r}.")
        self._widgets, self._model, self._index, self._texts = ipywidgets, model, index, texts
        self._k, self._n_sliders = check_count(k, "k"), check_count(n_sliders, "n_sliders")
        self._tokens = lru_cache(_KEPT)(self._read_document)
        self._row = csr_array((1, index.width), dtype=np.float32)
        self._names: dict[int, str] = {}
        self.ranking: list[tuple[str, float]] = []
        wide = ipywidgets.Layout(width="100%")
        place = "type, then Enter"
        self.query = ipywidgets.Text(description="Query", placeholder=place, continuous_update=False, layout=wide)
        self.sliders, self.results = ipywidgets.VBox(), ipywidgets.HTML()
        self.box = ipywidgets.VBox([self.query, self.sliders, self.results])
        self.query.observe(lambda change: self._search(change["new"]), "value")

    def _repr_mimebundle_(self, **settings) -> Any:
        """Return the box for a notebook."""
        return self.box._repr_mimebundle_(**settings)

    def __repr__(self) -> str:
        """Return the ranking, a line a document."""
        lines = [f"{score:8.3f}  {doc_id}" for doc_id, score in self.ranking]
        return "\n".join([f"Search({self.query.value!r})", *lines])

    def _search(self, text: str) -> None:
        """Read a query, give it sliders, and rank; nothing is found by a blank one."""
        reading = read(self._model, [text], "query", progress=False)
        self._row = reading.terms if text.strip() else csr_array(reading.terms.shape, dtype=np.float32)
        worth = self._row.data * self._index.idf[self._row.indices]
        order = np.argsort(-worth, kind="stable")[: self._n_sliders]
        self._names = strongest_tokens(reading)
        self.sliders.children = [self._slider(latent) for latent in self._row.indices[order].tolist()]
        self._rank()

    def _slider(self, latent: int) -> Any:
        slider = self._widgets.FloatSlider(
            value=1.0,
            min=0.0,
            max=_MOST,
            step=0.1,
            description=self._name_of(latent),
            continuous_update=False,
            style={"description_width": "22em"},
            layout=self._widgets.Layout(width="100%"),
        )
        slider.latent = latent
        slider.observe(lambda _: self._rank(), "value")
        return slider

    def _name_of(self, latent: int) -> str:
        """Return a latent's label, or its token of the query, and its number."""
        label = self._names.get(latent, "") if self._model.labels is None else self._model.labels[latent]
        return f"{label} ({latent})".strip()

    def _rank(self) -> None:
        """Rank by the query as the sliders have it, and show what is found."""
        row = steer(self._row, {slider.latent: slider.value for slider in self.sliders.children})
        ranked = self._index.search_one(row, self._k) if row.nnz else []
        self.ranking = [(doc_id, score) for doc_id, score in ranked if score > 0]
        worth = dict(zip(row.indices.tolist(), (row.data * self._index.idf[row.indices]).tolist(), strict=True))
        parts = [self._result(row, worth, *pair) for pair in self.ranking]
        nothing = "<p>No document has a latent of the query.</p>" if self.query.value.strip() else ""
        self.results.value = "".join(parts) or nothing

    def _result(self, row: csr_array, worth: dict[int, float], doc_id: str, score: float) -> str:
        """Return a document's place in the results: id, score and its latents, and the shaded text."""
        parts = self._index.explain(row, doc_id)[:_EXPLAINED]
        rows = [(self._name_of(c.latent), c.query_weight, c.idf, c.impact, c.score) for c in parts]
        why = table(["latent", "weight", "idf", "impact", "score"], rows, f"the {len(rows)} latents that add most")
        tokens = [
            Token(
                text, sorted(((j, v * worth[j]) for j, v in latents if worth.get(j, 0) > 0), key=lambda pair: -pair[1])
            )
            for text, latents in self._tokens(doc_id)
        ]
        return (
            f"<details><summary><b>{visible(doc_id)}</b> {score:.3f}</summary>{why}</details>"
            f'<div style="max-height: 10em; overflow: auto; margin-bottom: 1em">{shaded(tokens, self._name_of)}</div>'
        )

    def _read_document(self, doc_id: str) -> list[Token]:
        reading = read(self._model, [self._texts[doc_id]], progress=False)
        return list(stretches(reading, 0, reading.latents.shape[1]))


def strongest_tokens(reading: Reading) -> dict[int, str]:
    """Return the token in which each active latent of the first text is strongest; special tokens are left out."""
    strongest: dict[int, tuple[float, str]] = {}
    for token in stretches(reading, 0, reading.latents.shape[1]):
        for latent, value in token.latents:
            strongest[latent] = max(strongest.get(latent, (0.0, "")), (value, token.text), key=lambda pair: pair[0])
    return {latent: text for latent, (_, text) in strongest.items()}
