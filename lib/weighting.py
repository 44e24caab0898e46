"""The formulas of BM25, on real-valued term weights; searching with them is `lib.index`.

score(q, d) = sum_j w_j(q) * idf_j * impact_j(d), over the latents j that both have.
"""

import numpy as np


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


IDFS = {"lucene": idf_lucene, "robertson": idf_robertson, "robertson-clipped": idf_robertson_clipped}


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
