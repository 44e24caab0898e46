"""Queries steered by hand: latents made stronger, weaker or silent, and more or less of what a text has."""

from collections.abc import Mapping
from numbers import Real

import numpy as np
from scipy.sparse import csr_array

from lib.bm25.pooling import check_weights, with_data
from lib.support.checks import check_integer, check_mapping

STEP = 0.5  # how far towards, or away from, texts


def steer(
    queries: csr_array,
    factors: Mapping[int, float] | None = None,
    *,
    more: csr_array | None = None,
    less: csr_array | None = None,
    step: float = STEP,
) -> csr_array:
    """Return queries steered towards some texts, away from others, and by factors, float32 [n_queries, width].

    q'_j = f_j max(0, q_j + s |q| (m_j - l_j)),  f_j = 1 where no factor is given

    m and l are the means of the rows of `more` and `less`, each scaled to a sum of 1, and |q| is the sum of q's
    weights: Rocchio's formula (1971) with texts that a person names. A factor of 0 silences a latent. The result is a
    query like any other, for `BM25Index`, engines and inner products alike; a query without a weight stays so.

    Raises TypeError or ValueError for weights that are NaN, infinite or negative, other widths, latents that are not
    among 0..width-1, factors that are negative or not finite, and a `step` below 0.

    Parameters
    ----------
    queries : csr_array, float32 [n_queries, width]
        Term weights.
    factors : dict of int to float, optional
        Latent → what its weight is multiplied by. One that a query does not have changes nothing there.
    more, less : csr_array, float32 [n_texts, width], optional
        Term weights of texts, such as `model.encode_documents(["about snakes"])`.
    step : float
        s: how much weight is added, and taken, as a share of the query's.
    """
    queries = check_weights(queries, "queries")
    if not isinstance(step, Real) or not 0 <= step < np.inf:
        raise ValueError(f"step is {step!r}; it must be a finite number of at least 0, such as {STEP}.")
    by_latent = np.ones(queries.shape[1], np.float32)
    for latent, factor in check_mapping({} if factors is None else factors, "factors", "{17: 0.0}").items():
        latent = check_integer(latent, "a latent of factors", 0, queries.shape[1] - 1)
        if not isinstance(factor, Real) or not 0 <= factor < np.inf:
            raise ValueError(f"factors[{latent}] is {factor!r}; it must be a finite number of at least 0; 0 silences.")
        by_latent[latent] = factor
    steered = queries
    for name, texts, sign in (("more", more, step), ("less", less, -step)):
        if texts is not None:
            mean = _mean(texts, name, queries.shape[1])
            sums = csr_array(queries.sum(axis=1, dtype=np.float64)[:, None])
            steered = csr_array(steered + sign * (sums @ mean))
    weights = np.maximum(steered.data, 0).astype(np.float32) * by_latent[steered.indices]
    return check_weights(with_data(steered, weights), "the steered queries")


def _mean(texts: csr_array, name: str, width: int) -> csr_array:
    """Return the mean of rows that are scaled to a sum of 1, float64 [1, width]; those without a weight count."""
    texts = check_weights(texts, name)
    if texts.shape[1] != width or not texts.shape[0]:
        raise ValueError(f"{name} has shape {texts.shape}; it must be [at least 1, {width}], as the queries are wide.")
    sums = np.repeat(texts.sum(axis=1, dtype=np.float64), np.diff(texts.indptr))
    shares = with_data(texts, np.divide(texts.data, sums, out=np.zeros(len(sums)), where=sums > 0))
    return csr_array(shares.sum(axis=0)[None] / texts.shape[0])
