"""What a few latents tell: sparse probes of classes of texts, and what the latents of a class leave to others."""

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_array
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_selection import f_classif
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, roc_auc_score

from lib.sae.autoencoder import SparseAutoencoder
from lib.support.checks import check_count, check_iterable

LEAST = 10  # texts of a class that is probed
RELIABLE = 0.5  # least F1 of a dense probe whose direction stands for a class
SPLIT = 0.03  # least gain in F1 for which a class counts as split over one latent more (arXiv 2409.14507)
MAIN = 5  # latents of a class, at most
ABSORBING = 0.4  # least share of a state's projection that an absorbing latent accounts for (arXiv 2503.09532)


def sparse_probes(
    terms: csr_array, labels: Sequence[str], ks: Sequence[int] = (1, 5, 20), seed: int = 0
) -> pd.DataFrame:
    """Return how well the k most telling terms predict each class of texts (sparse probing, arXiv 2305.01610).

    A class of at least LEAST texts is told from all others by logistic regression on the k terms of the largest F
    statistic. Both are fitted on one half of its texts and of the others, drawn at random; AUC is that of the other
    half. The table has label, k, auc; it is empty where there are not two such classes.

    Parameters
    ----------
    terms : csr_array, float32 [n_texts, width]
        Term weights; each is divided by its standard deviation.
    labels : list of str
        The class of each text. ValueError unless there are as many as texts.
    ks : list of int
        Numbers of terms. TypeError or ValueError unless all are integers of at least 1.
    seed : int
        Of the halves.
    """
    ks = [check_count(k, "ks") for k in check_iterable(ks, "ks")]
    if len(labels) != terms.shape[0]:
        raise ValueError(f"There are {len(labels)} labels of {terms.shape[0]} texts; give one of each text.")
    classes = [label for label, n in sorted(Counter(labels).items()) if n >= LEAST]
    rows = []
    for label in classes if len(classes) > 1 else []:
        target = np.array([other == label for other in labels])
        train, test = _halves(target, seed)
        best = _telling(terms[train], target[train], max(ks))
        chosen = _scaled(terms[:, best].toarray(), train)
        for k in ks:
            probe = _probe(chosen[:, :k], target, train)
            auc = roc_auc_score(target[test], probe.decision_function(chosen[test, :k]))
            rows.append((label, k, auc))
    return pd.DataFrame(rows, columns=["label", "k", "auc"])


class ClassProbe(NamedTuple):
    """A dense probe of states for a class of tokens."""

    label: str
    target: np.ndarray  # bool [n], whether a token is of the class
    fitted: np.ndarray  # int64, the tokens that the probe was fitted on
    hits: np.ndarray  # int64, those of the class that it finds among the others
    f1: float  # of the others
    direction: np.ndarray  # float64 [d], along which states are more of the class


def class_probes(states: np.ndarray, classes: Mapping[str, np.ndarray], seed: int = 0) -> list[ClassProbe]:
    """Fit a dense probe (logistic regression on states / their standard deviation) for each class of tokens.

    Each is fitted on half of the class and half of the others, by `seed`. `states` are float32 [n, d], `classes` tell
    by label which of them are of a class, bool [n].
    """
    probes = []
    for label, target in classes.items():
        fitted, others = _halves(target, seed)
        scaled = _scaled(states, fitted)
        probe = _probe(scaled, target, fitted)
        predicted = probe.predict(scaled[others]) == 1
        hits = others[target[others] & predicted]
        direction = probe.coef_[0] / np.maximum(states[fitted].std(axis=0), 1e-12)
        probes.append(ClassProbe(label, target, fitted, hits, f1_score(target[others], predicted), direction))
    return probes


def absorption(states: np.ndarray, probes: Iterable[ClassProbe], sae: SparseAutoencoder) -> pd.DataFrame:
    """Return how often the latents of a class of tokens are silent and another one stands in for them.

    The latents of a class are the most telling one of those that are stronger in it than elsewhere, and up to MAIN in
    all as long as each raises the F1 of their probe by SPLIT (Chanin et al., arXiv 2409.14507). A token that the dense
    probe finds is *absorbed* where none of these latents is active, and one other accounts for at least ABSORBING of
    the state's projection on the probe's direction (full absorption in SAEBench, arXiv 2503.09532).

    Parameters
    ----------
    states : float32 [n, d]
        States of tokens, those that the probes were fitted on.
    probes : list of ClassProbe
    sae : SparseAutoencoder

    Returns
    -------
    pd.DataFrame
        label, probe_f1, latents (that stand for the class), n (tokens that the probe finds), absorbed (of these); a
        class whose probe has an F1 below RELIABLE has the first two only.
    """
    given, sae = torch.from_numpy(states), sae.to("cpu")
    x, codes = (sae.normalize(given) - sae.b_pre).numpy(), sae.encode(given)
    indices, values = codes.indices.numpy(), codes.values.numpy()
    active = values > 0
    owners = np.broadcast_to(np.arange(len(x))[:, None], indices.shape)[active]
    matrix = csr_array((values[active], (owners, indices[active])), shape=(len(x), sae.width))
    rows = []
    for label, target, fitted, hits, f1, direction in probes:
        row = {"label": label, "probe_f1": f1}
        if f1 >= RELIABLE:
            chosen = _latents_of(matrix, target, fitted)
            silent = ~(active[hits] & np.isin(indices[hits], chosen)).any(axis=1)
            parts = values[hits] * (sae.W_dec.numpy() @ direction)[indices[hits]]  # of each latent in the projection
            whole = x[hits] @ direction
            replaced = (whole > 0) & (parts.max(axis=1) >= ABSORBING * whole)
            row |= {"latents": len(chosen), "n": len(hits), "absorbed": (silent & replaced).sum()}
        rows.append(row)
    return pd.DataFrame(rows).reindex(columns=["label", "probe_f1", "latents", "n", "absorbed"])


def _latents_of(matrix: csr_array, target: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Return the latents that stand for a class; none where no latent is typical of it."""
    means = [matrix[train[target[train] == side]].mean(axis=0) for side in (True, False)]
    typical = np.flatnonzero(means[0] > means[1])
    if not len(typical):
        return typical
    telling = typical[_telling(matrix[train][:, typical], target[train], MAIN)]
    dense = _scaled(matrix[:, telling].toarray(), train)
    scores: list[float] = []
    for n in range(1, len(telling) + 1):
        scores.append(f1_score(target[train], _probe(dense[:, :n], target, train).predict(dense[train, :n])))
        if n > 1 and scores[-1] < scores[-2] + SPLIT:
            return telling[: n - 1]
    return telling


def _probe(x: np.ndarray, target: np.ndarray, train: np.ndarray) -> LogisticRegression:
    """Return logistic regression in which both sides weigh the same, after at most 300 iterations."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(class_weight="balanced", max_iter=300).fit(x[train], target[train])


def _halves(target: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of the texts to fit and to test on, half of a class and half of the others each."""
    rng = np.random.default_rng(seed)
    parts = [rng.permutation(np.flatnonzero(target == side)) for side in (True, False)]
    train, test = (np.sort(np.concatenate([part[start::2] for part in parts])) for start in (0, 1))
    return train, test


def _telling(terms: csr_array, target: np.ndarray, n: int) -> np.ndarray:
    """Return the `n` terms of the largest F statistic, the best first; those that never vary are the last."""
    with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s)Features .* are constant", UserWarning)
        scores, _ = f_classif(terms, target)
    return np.argsort(-np.nan_to_num(scores, nan=-1, posinf=np.finfo(float).max), kind="stable")[:n]


def _scaled(x: np.ndarray, train: np.ndarray) -> np.ndarray:
    return x / np.maximum(x[train].std(axis=0), 1e-12)
