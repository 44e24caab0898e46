"""Scores of a stronger ranker for the candidates of each query, which a student is trained to reproduce."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from lib.encode.encoder import TokenEncoder
from lib.evaluation.late_interaction import StoredStates
from lib.learned.pairs import Pairs
from lib.support.checks import check_choice
from lib.support.folders import digest_arrays, digest_json
from lib.support.store import Store


@dataclass(frozen=True, eq=False)
class TeacherScores:
    """A teacher's scores of each query's positive and negatives, on a scale of its own; only differences matter.

    Parameters
    ----------
    values : array, float32 [n_pairs, 1 + n_negatives]
        The positive's first. Of each query, they are scaled so that over all queries the mean standard deviation
        within a query is 1, whatever the teacher.
    teacher : mapping
        What made them, JSON-able.
    pairs : str
        `Pairs.digest` of the pairs that they belong to.
    """

    values: np.ndarray
    teacher: Mapping
    pairs: str

    @property
    def digest(self) -> str:
        """The sha256 of the scores, of what made them and of the pairs."""
        return digest_json([self.teacher, self.pairs, digest_arrays({"values": self.values})])

    def check_belongs_to(self, pairs: Pairs) -> None:
        """Raise a ValueError if these are the scores of other pairs."""
        if self.pairs != pairs.digest:
            raise ValueError(
                f"The teacher scored the pairs {self.pairs[:12]}, not {pairs.digest[:12]} (sha256); score these pairs "
                "with the negatives that they have now."
            )


def _cosines(encoder: TokenEncoder, pairs: Pairs, candidates: list[list[str]]) -> Iterator[np.ndarray]:
    """Yield, for each query, the cosines of its embedding with its candidates', float32 [n_candidates]."""
    texts = list(dict.fromkeys(text for row in candidates for text in row))
    position = {text: number for number, text in enumerate(texts)}
    documents, queries = (
        np.concatenate([block.pooled for block in encoder.stream(side, kind)])
        for side, kind in ((texts, "document"), (pairs.queries, "query"))
    )
    documents, queries = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (documents, queries))
    return (documents[[position[text] for text in row]] @ query for query, row in zip(queries, candidates, strict=True))


def _late_interaction(encoder: TokenEncoder, pairs: Pairs, candidates: list[list[str]]) -> Iterator[np.ndarray]:
    """Yield, for each query, MaxSim with its candidates, over the number of its tokens, float32 [n_candidates]."""
    texts = list(dict.fromkeys(text for row in candidates for text in row))
    stored = StoredStates.build(encoder.stream(texts), texts)
    rows = iter(candidates)
    for block in encoder.stream(pairs.queries, "query"):
        for start, end in pairwise(block.offsets):
            yield stored.scores(block.states[start:end].cpu().numpy(), next(rows)) / max(1, end - start)


TEACHERS: dict[str, Callable[[TokenEncoder, Pairs, list[list[str]]], Iterator[np.ndarray]]] = {
    "dense": _cosines,
    "late-interaction": _late_interaction,
}


def _scaled(scores: np.ndarray, name: str) -> np.ndarray:
    spread = scores.std(axis=1).mean()
    if not spread > 0:
        raise ValueError(f"The teacher, {name}, scores all candidates alike; choose another.")
    return scores / spread


def teacher_scores(
    pairs: Pairs,
    teachers: Sequence[tuple[str, TokenEncoder]],
    weights: Sequence[float] | None = None,
    *,
    store: Store | None = None,
) -> TeacherScores:
    """Return the scores of a teacher, or the weighted sum of those of several, scaled; each one's are stored.

    ValueError for pairs without negatives, which leave nothing to rank, no teacher, an unknown one, weights of another
    number, and a teacher that gives all candidates of every query the same score.

    Parameters
    ----------
    pairs : Pairs
    teachers : sequence of (str, TokenEncoder)
        A name in `TEACHERS`, and the retriever: ("dense", TokenEncoder("all-mpnet-base-v2")).
    weights : sequence of float, optional
        None is equal ones that add up to 1.
    store : Store, optional
    """
    if not pairs.n_negatives:
        raise ValueError("The pairs have no negatives, so there is nothing to rank; add some with mine_negatives.")
    weights = [1 / len(teachers)] * len(teachers) if weights is None else list(weights)
    if not teachers or len(weights) != len(teachers):
        raise ValueError(f"There are {len(teachers)} teachers and {len(weights)} weights; give one weight for each.")
    store = store or Store()
    candidates = [[positive, *row] for positive, row in zip(pairs.positives, pairs.negatives, strict=True)]
    parts, identities = [], []
    for kind, encoder in teachers:
        score = TEACHERS[check_choice(kind, TEACHERS, "the teacher")]
        identity = {"teacher": kind, "encoder": encoder.identity}

        def make(score=score, encoder=encoder) -> dict[str, np.ndarray]:
            return {"scores": np.stack(list(score(encoder, pairs, candidates))).astype(np.float32)}

        raw = store.get("teacher", identity | {"pairs": pairs.digest}, make)["scores"]
        parts.append(_scaled(raw, f"{kind} of {encoder.name}"))
        identities.append(identity)
    values = _scaled(np.tensordot(weights, parts, axes=1), "the sum of all")
    return TeacherScores(values.astype(np.float32), {"teachers": identities, "weights": weights}, pairs.digest)
