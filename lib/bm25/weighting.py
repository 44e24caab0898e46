"""The formulas of BM25, on real-valued term weights; searching with them is `lib.bm25.index`.

score(q, d) = sum_j w_j(q) * idf_j * impact_j(d), over the latents j that both have.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Real

import numpy as np
from scipy.sparse import csr_array

from lib.bm25.pooling import check_weights
from lib.support.checks import check_choice, check_count

FLOAT32_MAX = float(np.finfo(np.float32).max)
LARGEST = 1e30


def idf_lucene(df: np.ndarray, n_docs: int) -> np.ndarray:
    """Return ln(1 + (N - df + 0.5) / (df + 0.5)), always above 0.

    Apache Lucene's BM25Similarity; Kamphuis et al., "Which BM25 do you mean?", ECIR 2020, table 1, "Lucene".
    """
    return np.log1p((n_docs - df + 0.5) / (df + 0.5))


def idf_robertson(df: np.ndarray, n_docs: int) -> np.ndarray:
    """Return ln((N - df + 0.5) / (df + 0.5)), below 0 for a latent in more than half of the documents.

    Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009, eq. 3.3 without relevance
    information.
    """
    return np.log((n_docs - df + 0.5) / (df + 0.5))


def idf_robertson_clipped(df: np.ndarray, n_docs: int) -> np.ndarray:
    """Return max(0, `idf_robertson`): a latent in more than half of the documents counts nothing.

    The floor that rank-bm25's BM25Okapi applies with epsilon = 0.
    """
    return np.maximum(idf_robertson(df, n_docs), 0.0)


def idf_none(df: np.ndarray, n_docs: int) -> np.ndarray:
    """Return 1 for every latent: trained weights need no idf."""
    return np.ones(len(df))


IDFS = {
    "lucene": idf_lucene,
    "robertson": idf_robertson,
    "robertson-clipped": idf_robertson_clipped,
    "none": idf_none,
}


@dataclass(frozen=True)
class BM25Constants:
    """The constants of BM25; the defaults are those of Latent Terms (arXiv 2605.29384), which did not tune them.

    Raises TypeError or ValueError if k1 or b is not a number or is out of range, and for an unknown idf.

    Parameters
    ----------
    k1 : float
        From 0 to 1e30: how slowly a weight saturates.
    b : float
        From 0 to 1: how much a document's length counts.
    idf : {"lucene", "robertson", "robertson-clipped", "none"}
        A name in `IDFS`, which has the equations.
    """

    k1: float = 8.0
    b: float = 0.7
    idf: str = "lucene"

    def __post_init__(self) -> None:
        """Check the constants, and make numbers of any kind floats, as JSON gives them back."""
        for name, value in (("k1", self.k1), ("b", self.b)):
            if not isinstance(value, Real):
                raise TypeError(f"{name} is {value!r} ({type(value).__name__}); it must be a number.")
            object.__setattr__(self, name, float(value))
        if not 0 <= self.k1 <= LARGEST:  # no impact is above k1 + 1
            raise ValueError(f"k1 is {self.k1!r}; it must be a number from 0 to {LARGEST:g}, such as 8.0 or 1.2.")
        if not 0 <= self.b <= 1:
            raise ValueError(f"b is {self.b!r}; it must be from 0 to 1, such as 0.7.")
        check_choice(self.idf, IDFS, "idf")


PAPER = BM25Constants()
INNER_PRODUCT = BM25Constants(k1=1e12, b=0, idf="none")  # the impact w (k1 + 1) / (w + k1) is w to float32's precision


def check_constants(constants: BM25Constants) -> BM25Constants:
    """Return `constants` if they are a `BM25Constants`, and raise a TypeError if not."""
    if not isinstance(constants, BM25Constants):
        raise TypeError(f"The constants are {constants!r}; pass BM25Constants(k1=8.0, b=0.7) or the like.")
    return constants


@dataclass(frozen=True)
class Vocabulary:
    """Consecutive columns of a term matrix that are weighted by themselves, such as words behind latents.

    The score of a document is the sum over vocabularies of `weight` times BM25 over their columns, with |d| and avgdl
    counted within each. Raises TypeError or ValueError for a width below 1, a weight that is not a number above 0 and
    at most 1e6, and constants that are none.

    Parameters
    ----------
    name : str
        What its terms are, for people: "latents", "words".
    width : int
        Number of columns.
    constants : BM25Constants
    weight : float
    """

    name: str
    width: int
    constants: BM25Constants = PAPER
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Check the fields, and make numbers of any kind those that JSON gives back."""
        object.__setattr__(self, "width", check_count(self.width, "width"))
        check_constants(self.constants)
        if not isinstance(self.weight, Real) or not 0 < self.weight <= 1e6:
            raise ValueError(f"weight is {self.weight!r}; it must be a number above 0, at most 1e6, such as 0.5.")
        object.__setattr__(self, "weight", float(self.weight))


@dataclass(frozen=True)
class Weights:
    """How much latent terms, words and the retriever's embedding count in a score, each scaled to at most 1.

    `lib.searcher.Searcher` has the equation. Raises TypeError or ValueError for a weight that is not a finite number of
    at least 0, and if all are 0.

    Parameters
    ----------
    latents, words, dense : float
        Only their ratios matter for the order of documents.
    """

    latents: float = 1.0
    words: float = 0.3
    dense: float = 0.4

    def __post_init__(self) -> None:
        """Check the weights, and make numbers of any kind floats, as JSON gives them back."""
        for name, value in vars(self).items():
            if not isinstance(value, Real):
                raise TypeError(f"{name} is {value!r} ({type(value).__name__}); it must be a number.")
            if not 0 <= float(value) <= 1e6:
                raise ValueError(f"{name} is {value!r}; it must be a number from 0 to 1e6, such as 0.5.")
            object.__setattr__(self, name, float(value))
        if not any(vars(self).values()):
            raise ValueError("All weights are 0, so every document would score 0; give one above 0, as latents=1.")


UNTUNED = Weights()


def check_weights_of(weights: Weights) -> Weights:
    """Return `weights` if they are `Weights`, and raise a TypeError if not."""
    if not isinstance(weights, Weights):
        raise TypeError(f"The weights are {weights!r}; pass Weights(latents=1, words=0.3, dense=0.4) or the like.")
    return weights


def columns_of(vocabularies: Sequence[Vocabulary]) -> list[slice]:
    """Return the columns of each vocabulary."""
    ends = np.cumsum([vocabulary.width for vocabulary in vocabularies]).tolist()
    return [slice(start, end) for start, end in pairwise([0, *ends])]


def check_query_weights(queries: csr_array, k1: float, what: str = "the query matrix") -> csr_array:
    """Return `check_weights` of a matrix of queries; a ValueError for weights so large that scores could overflow.

    No latent adds more to a score than w_j(q) * idf_j * (k1 + 1). Between `LARGEST` and what float32 holds, 3.4e38, is
    space for any idf.
    """
    queries = check_weights(queries, what)
    if float(queries.data.max(initial=0)) * (k1 + 1) * queries.nnz > LARGEST:
        raise ValueError(
            f"{what} holds the weight {queries.data.max():.3g}, and k1 is {k1:.3g}; scores could be too large for "
            "float32. Divide the matrix by a constant, which changes no ranking."
        )
    return queries


def document_lengths(matrix: csr_array, first: int = 0) -> np.ndarray:
    """Return |d|, the sum of each row of weights, float64; a ValueError names the document whose sum overflows.

    The documents are numbered from `first` on.
    """
    with np.errstate(over="ignore"):
        lengths = matrix.sum(axis=1, dtype=np.float64)
    if lengths.max(initial=0) > FLOAT32_MAX:
        document = f"document {first + lengths.argmax()}"
        raise ValueError(
            f"The weights of {document} add up to too large a number for float32; divide all by a constant."
        )
    return lengths


def saturation(lengths: np.ndarray, average: float, k1: float, b: float) -> np.ndarray:
    """Return k1 * (1 - b + b * |d| / avgdl) for each document, float64; with no words at all, as if |d| = avgdl."""
    relative = lengths.astype(np.float64) / average if average > 0 else np.ones(len(lengths))
    return k1 * (1 - b + b * relative)


def impact(weights: np.ndarray, saturations: np.ndarray, k1: float) -> np.ndarray:
    """Return w * (k1 + 1) / (w + saturation) for term weights w > 0 and their documents' saturations, float32.

    Robertson and Zaragoza 2009, eq. 3.15, with the (k1 + 1) of rank-bm25 and of Latent Terms (arXiv 2605.29384).
    """
    weights = weights.astype(np.float64)
    return (weights * (k1 + 1) / (weights + saturations)).astype(np.float32)


def largest_impact(lengths: np.ndarray, average: float, constants: BM25Constants) -> float:
    """Return what no impact is above: that of a document whose one weight is |d|; it is below k1 + 1.

    `lengths` are |d| of each document, `average` is avgdl. With the large k1 of `INNER_PRODUCT` it is the largest |d|.
    """
    lengths = lengths[lengths > 0]
    saturations = saturation(lengths, average, constants.k1, constants.b)
    return float(impact(lengths, saturations, constants.k1).max(initial=0))


def impact_elsewhere(impacts: np.ndarray, before: np.ndarray, after: np.ndarray, k1: float) -> np.ndarray:
    """Return the impacts of the same weights under the saturations `after`, given those they were made with, float32.

    From `impact`, w = I s / (k1 + 1 - I). Before, s, and after must be above 0. As I was rounded to float32, the result
    is about 1e-7 * max(1, after / before) off.
    """
    weighted = impacts.astype(np.float64) * before
    return ((k1 + 1) * weighted / (weighted + after * (k1 + 1 - impacts.astype(np.float64)))).astype(np.float32)
