"""Which latents occur in the same texts without being alike: what goes together in a corpus."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array
from scipy.stats import hypergeom
from sklearn.preprocessing import normalize

from lib.bm25.pooling import check_weights
from lib.inspect.labels import words_of
from lib.latent_terms import LatentTerms
from lib.support.checks import check_count
from lib.support.html import Results

_CHUNK = 256  # latents whose companions are counted together


class Correlation(NamedTuple):
    """Two latents that occur in the same texts.

    `texts` is how many have both, `npmi` their normalised pointwise mutual information, from -1 (never together) over 0
    (as by chance) to 1 (never alone), and `p` the chance of as many texts, or more, times the number of all pairs.
    """

    a: int
    label_a: str
    b: int
    label_b: str
    texts: int
    npmi: float
    p: float


def correlate(
    model: LatentTerms,
    terms: csr_array,
    labels: Sequence[str] | None = None,
    *,
    n: int = 100,
    least: int = 5,
    most_alike: float = 0.2,
) -> Results:
    """Return the `n` pairs of latents that occur together the most, those of highest npmi first.

    npmi(a, b) = ln(p_ab / (p_a p_b)) / -ln p_ab, with the shares of texts that have a, b and both (Bouma, GSCL 2009).
    That latents which write the same, or fire on the same word, occur together is no news: pairs are left out whose
    decoder rows have a cosine of `most_alike` or more, or whose labels have a word in common. p is Fisher's exact test,
    one-sided, with Bonferroni's correction.

    Raises TypeError or ValueError for `terms` that are no term weights of the model, fewer than two texts, labels that
    are not one for each latent, numbers that are not integers above 0, and `most_alike` outside -1 to 1.

    Parameters
    ----------
    model : LatentTerms
        The model that made the terms.
    terms : csr_array, float32 [n_texts, width]
        Term weights of the texts.
    labels : sequence of str, optional
        `model.labels`, or other names of the latents.
    n, least : int
        Number of pairs, and of texts that a pair must have in common.
    most_alike : float
        Cosine of decoder rows.
    """
    terms, n, least = check_weights(terms, "terms"), check_count(n, "n"), check_count(least, "least")
    n_texts, width = terms.shape
    if width != model.sae.width or n_texts < 2:
        raise ValueError(f"terms are {terms.shape}; give two texts at least, of the model's {model.sae.width} latents.")
    if labels is not None and len(labels) != width:
        raise ValueError(f"There are {len(labels)} labels of {width} latents; give one for each.")
    if not -1 <= most_alike <= 1:
        raise ValueError(f"most_alike is {most_alike!r}; it must be a cosine, from -1 to 1.")
    df = np.bincount(terms.indices[terms.data > 0], minlength=width)
    latents = np.flatnonzero((df >= least) & (df < n_texts))  # what all texts have goes with everything
    df = df[latents].astype(np.float64)
    present = csr_array(((terms.data > 0).astype(np.int32), terms.indices, terms.indptr), terms.shape).tocsc()
    present = present[:, latents]
    directions = normalize(model.sae.W_dec.cpu().numpy())[latents]
    named = _words(["" if labels is None else labels[j] for j in latents.tolist()])
    best = np.empty((0, 4))  # npmi, texts, and the numbers of both in `latents`
    for first in range(0, len(latents), _CHUNK):
        chunk = slice(first, first + _CHUNK)
        texts = (present[:, chunk].T @ present).toarray()
        alike = (directions[chunk] @ directions.T >= most_alike) | ((named[chunk] @ named.T).toarray() > 0)
        later = np.arange(len(latents)) > np.arange(first, first + len(texts))[:, None]  # each pair once
        a, b = np.nonzero((texts >= least) & ~alike & later)
        texts, a = texts[a, b], a + first
        best = np.concatenate([best, np.stack([npmi(texts, df[a], df[b], n_texts), texts, a, b], axis=1)])
        best = best[np.argsort(-best[:, 0], kind="stable")][:n]
    texts, a, b = best[:, 1:].T.astype(np.int64)
    p = hypergeom.sf(texts - 1, n_texts, df[a], df[b]) * (len(latents) * (len(latents) - 1) / 2)
    columns = latents[a], latents[b], texts, best[:, 0], np.minimum(p, 1)
    pairs = zip(*(column.tolist() for column in columns), strict=True)
    names = [""] * width if labels is None else labels
    return Results(Correlation(a, names[a], b, names[b], *numbers) for a, b, *numbers in pairs)


def npmi(both: np.ndarray, n_a: np.ndarray, n_b: np.ndarray, n: int) -> np.ndarray:
    """Return the normalised pointwise mutual information of two latents, float64, as `correlate` defines it.

    Of `n` texts `n_a` have the one, `n_b` the other and `both` both; -1 if none has both.
    """
    share = np.maximum(both, 1) / n
    return np.where(both > 0, np.log(share * n**2 / (n_a * n_b)) / -np.log(share), -1.0)


def _words(names: Sequence[str]) -> csr_array:
    """Return which words each name has, int32 [n_names, n_words]."""
    number: dict[str, int] = {}
    rows = [[number.setdefault(word, len(number)) for word in words_of(name)] for name in names]
    columns = np.array([column for row in rows for column in row], np.int32)
    ends = np.cumsum([0, *map(len, rows)])
    return csr_array((np.ones(len(columns), np.int32), columns, ends), shape=(len(rows), max(1, len(number))))
