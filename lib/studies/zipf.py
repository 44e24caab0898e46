"""Latents and words as vocabularies of the same collections (30_zipf)."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from lib.data.collection import load_collection
from lib.evaluation.baselines import ANALYZER, analyze
from lib.evaluation.measures import bootstrap_interval
from lib.evaluation.splade import Splade, splade_terms
from lib.inspect.vocabulary import ZipfFit, fit_zipf, growth, rank_frequency, spaced_ranks, word_terms
from lib.latent_terms import LatentTerms
from lib.studies.comparison import document_frequency, origin_of, query_postings
from lib.studies.encoded import encode_collection
from lib.studies.names import LATENTS, SPLADE, WORDS
from lib.support.folders import digest_arrays
from lib.support.store import Store

FREQUENT = 0.5  # a term is universal in a collection if more than this share of the documents has it


class Vocabulary(NamedTuple):
    """A collection in terms of one vocabulary: occurrences [n_terms] int64, and its term matrices."""

    occurrences: np.ndarray
    docs: csr_array
    queries: csr_array


def zipf_study(
    model: LatentTerms,
    names: Iterable[str],
    n_resamples: int = 250,
    store: Store | None = None,
    splade: Splade | None = None,
) -> tuple[dict[str, pd.DataFrame], dict]:
    """Compare the latents with the words of `baselines.analyze` as vocabularies of each collection.

    An occurrence of a latent is a document token in which it is active. With `splade` the words that it gives weights
    to are a third vocabulary; an occurrence is then a document.

    Return three tables by collection and vocabulary, and what their provenance states:

    - "zipf": n_terms, n_occurrences, `fit_zipf` of these with tail_share (of the occurrences), heaps (the exponent of
      growth at the end), n_frequent (terms in more than half of the documents), n_once (in one), postings, and means
      over queries: query_terms, query_postings, query_share (of all postings; interval share_low, share_high);
    - "zipf_curves": rank, frequency and df_share, each sorted on its own;
    - "zipf_growth": n_docs, n_terms.
    """
    store, tables = store or Store(), {"zipf": [], "zipf_curves": [], "zipf_growth": []}
    collections = [load_collection(name) for name in names]
    for collection in collections:
        words = word_terms(analyze(collection.doc_texts), analyze(collection.query_texts))
        latents = encode_collection(model, collection, store)
        compared = {
            LATENTS: Vocabulary(latents.firings, latents.doc_terms, latents.query_terms),
            WORDS: Vocabulary(words[0].sum(axis=0, dtype=np.float64).astype(np.int64), *words),
        }
        if splade is not None:
            docs, queries = splade_terms(splade, collection, store)
            compared[SPLADE] = Vocabulary(document_frequency(docs), docs, queries)
        for kind, vocabulary in compared.items():
            label = {"collection": collection.full_name, "vocabulary": kind}
            for table, frame in _vocabulary_tables(vocabulary, n_resamples, store).items():
                tables[table].append(frame.assign(**label)[[*label, *frame.columns]])
    stated = {"analyzer": ANALYZER, "splade": splade and splade.identity}
    origin = origin_of(model, collections, n_resamples=n_resamples, **stated)
    return {table: pd.concat(frames, ignore_index=True) for table, frames in tables.items()}, origin


def _vocabulary_tables(vocabulary: Vocabulary, n_resamples: int, store: Store) -> dict[str, pd.DataFrame]:
    docs, n_docs = vocabulary.docs, vocabulary.docs.shape[0]
    df = document_frequency(docs)
    occurrences = np.sort(vocabulary.occurrences[vocabulary.occurrences > 0])[::-1]
    fit = stored_fit(occurrences, n_resamples, store)
    postings = query_postings(df, vocabulary.queries)
    shares = postings / df.sum()
    row = {
        "n_terms": len(occurrences),
        "n_occurrences": occurrences.sum(),
        **fit._asdict(),
        "tail_share": occurrences[: fit.n_tail].sum() / occurrences.sum(),
        "heaps": (df == 1).sum() / (df > 0).sum(),
        "n_docs": n_docs,
        "n_frequent": (df > FREQUENT * n_docs).sum(),
        "n_once": (df == 1).sum(),
        "postings": df.sum(),
        "query_terms": np.diff(vocabulary.queries.indptr).mean(),
        "query_postings": postings.mean(),
        "query_share": shares.mean(),
    }
    row["share_low"], row["share_high"] = bootstrap_interval(shares)
    ranks, sizes = spaced_ranks(len(occurrences)), spaced_ranks(n_docs, 60)
    descending = np.sort(df)[::-1]
    curves = {"rank": ranks, "frequency": occurrences[ranks - 1], "df_share": descending[ranks - 1] / n_docs}
    return {
        "zipf": pd.DataFrame([row]),
        "zipf_curves": pd.DataFrame(curves),
        "zipf_growth": pd.DataFrame({"n_docs": sizes, "n_terms": growth(df, n_docs, sizes)}),
    }


def stored_fit(frequencies: np.ndarray, n_resamples: int, store: Store) -> ZipfFit:
    """Return `fit_zipf` of frequencies, int64 [n_terms], from the store if it is there."""

    def make() -> dict[str, np.ndarray]:
        return {"fit": np.array(fit_zipf(frequencies, n_resamples), np.float64)}

    key = {"frequencies": digest_arrays({"frequencies": frequencies}), "n_resamples": n_resamples, "seed": 0}
    exponent, low, high, xmin, n_tail, p = store.get("zipf-fit", key, make)["fit"].tolist()
    return ZipfFit(exponent, low, high, int(xmin), int(n_tail), p)


def rank_frequency_curves(occurrences: Mapping[str, Iterable[int]]) -> pd.DataFrame:
    """Return vocabulary, rank and frequency of each vocabulary's terms, at ranks evenly spaced in the logarithm."""
    curves = []
    for name, counts in occurrences.items():
        frequencies = rank_frequency(counts)
        ranks = spaced_ranks(len(frequencies))
        curves.append(pd.DataFrame({"vocabulary": name, "rank": ranks, "frequency": frequencies[ranks - 1]}))
    return pd.concat(curves)
