"""Which terms two sets of texts differ in: log-odds with an informative prior, for words and for latents."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import csc_array, csr_array
from scipy.stats import false_discovery_control, norm

from lib.bm25.pooling import check_weights
from lib.support.html import Results

_LEAST = 1e-9  # for a term that all texts have, on which the two sets do not differ
PRIOR = 100.0  # texts that the prior is worth


def log_odds(
    a: np.ndarray, b: np.ndarray, n_a: np.ndarray | float, n_b: np.ndarray | float, share: np.ndarray, prior: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return how much more a term belongs to a than to b: the log-odds ratio, and its z score, float64.

    delta_w = ln (a_w + p_w) / (n_a + p - a_w - p_w)  -  ln (b_w + p_w) / (n_b + p - b_w - p_w),  p_w = p share_w
    z_w = delta_w / sqrt(1 / (a_w + p_w) + 1 / (b_w + p_w) + the same of n_a + p - a_w - p_w and n_b + p - b_w - p_w)

    Monroe, Colaresi and Quinn, "Fightin' Words", Political Analysis 16, 2008, eqs. 15, 19 and 22: a Dirichlet prior
    that knows how frequent each term is, so that a rare one is not called typical by chance. The last two parts of the
    variance, which they leave out since no word makes up much of a corpus, are there so that a term that nearly every
    text has is not called typical by chance, either. Arrays are broadcast.

    Parameters
    ----------
    a, b : np.ndarray
        How often each term occurs in a, and in b.
    n_a, n_b : np.ndarray or float
        How often it could have: the number of all words, or of texts.
    share : np.ndarray
        The share that each term has where both are put together, above 0 and below 1.
    prior : float
        p.
    """
    a, b = a + prior * share, b + prior * share
    rest_a, rest_b = (np.maximum(n + prior - x, _LEAST) for n, x in ((n_a, a), (n_b, b)))
    delta = np.log(a) - np.log(rest_a) - np.log(b) + np.log(rest_b)
    return delta, delta / np.sqrt(1 / a + 1 / b + 1 / rest_a + 1 / rest_b)


class Difference(NamedTuple):
    """How much more often one latent occurs in a than in b.

    `share_a` and `share_b` are the shares of the texts that have it, `log_odds` and `z` those of `log_odds`, and `p` is
    corrected for the number of latents: at most that share of those with a p this small is a chance find. `examples`
    are the rows of the texts in which it weighs most, of a if z is above 0, else of b.
    """

    latent: int
    label: str
    share_a: float
    share_b: float
    log_odds: float
    z: float
    p: float
    examples: list[int]


def compare(
    terms_a: csr_array, terms_b: csr_array, labels: Sequence[str] | None = None, *, prior: float = PRIOR
) -> Results:
    """Return the latents in which two sets of texts differ, those most typical of a first and of b last.

    A latent counts once a text, since the tokens of a text are no independent witnesses. p is that of the normal
    approximation to z, two-sided, by Benjamini and Hochberg's false discovery rate over all latents that occur.

    Raises TypeError or ValueError for matrices that are no term weights or have no row, of two widths, and for labels
    that are not one for each latent.

    Parameters
    ----------
    terms_a, terms_b : csr_array, float32 [n_texts, width]
        Term weights of the texts, such as `model.encode_documents` gives.
    labels : sequence of str, optional
        `model.labels`, or other names of the latents.
    prior : float
        How many texts the prior is worth: the larger, the more evidence a rare latent needs. Above 0.
    """
    terms_a, terms_b = check_weights(terms_a, "terms_a"), check_weights(terms_b, "terms_b")
    (n_a, width), (n_b, width_b) = terms_a.shape, terms_b.shape
    if width != width_b or not n_a or not n_b:
        raise ValueError(f"terms_a is {terms_a.shape}, terms_b {terms_b.shape}; give texts of one model, one at least.")
    if labels is not None and len(labels) != width:
        raise ValueError(f"There are {len(labels)} labels of {width} latents; give one for each.")
    if not prior > 0:
        raise ValueError(f"prior is {prior!r}; it must be a number above 0, such as {PRIOR:g}.")
    a, b = (np.bincount(terms.indices[terms.data > 0], minlength=width) for terms in (terms_a, terms_b))
    latents = np.flatnonzero((a + b > 0) & (a + b < n_a + n_b))  # no difference in what none or all have
    a, b = a[latents], b[latents]
    delta, z = log_odds(a, b, n_a, n_b, (a + b) / (n_a + n_b), prior)
    p = false_discovery_control(2 * norm.sf(np.abs(z))) if len(z) else z
    columns = terms_a.tocsc(), terms_b.tocsc()
    examples = [_heaviest(columns[int(score <= 0)], latent) for latent, score in zip(latents.tolist(), z, strict=True)]
    rows = zip(latents.tolist(), *(x.tolist() for x in (a / n_a, b / n_b, delta, z, p)), examples, strict=True)
    differences = [Difference(j, "" if labels is None else labels[j], *numbers) for j, *numbers in rows]
    return Results(sorted(differences, key=lambda difference: -difference.z))


def _heaviest(terms: csc_array, latent: int, n: int = 3) -> list[int]:
    """Return the rows in which a latent weighs most, `n` at most."""
    part = slice(terms.indptr[latent], terms.indptr[latent + 1])
    weights, rows = terms.data[part], terms.indices[part]
    order = np.argsort(-weights, kind="stable")[:n]
    return rows[order[weights[order] > 0]].tolist()
