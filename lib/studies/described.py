"""What else `53_variants` measures of each way: density, probes, absorption, co-active families, times, more tokens.

Every measure is of the run of seed 0 on the documents of the ranked collections, but for those that say otherwise.

- *Probes.* `inspect.probing.sparse_probes` of terms after the square root: of which of the ranked collections a
  document is ("collection"), of which article a paragraph of SQuAD ("article", its title), of which module a docstring
  ("module", documents that constants are chosen on). Words of the same documents are probed alike. Intervals are of
  classes resampled.
- *Absorption* of forms of words ("-ing", "-ed", "-ly", "-ion", "-s") and of first letters: states of words of one
  token, each where it first stands in N_TEXTS of the ranked documents. Classes that no dense probe finds are not
  counted. (First each word was read as a text of its own. Latents that are active in nearly all such states, or in
  few, decided it, which compares no ways. This rule was set before words in documents were read.)
- *Families.* A document has its `ABOUT` latents of the largest weight times idf; `inside` is the mean link of two
  latents of a family, `outside` that of one of a family and one that is in none.
- *Times* of exact search of ten documents among all of the ranked collections, one thread, ways in turns.
- *More tokens.* Agreement of two seeds of Top-K by the number of distinct states that they were trained on.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from string import ascii_lowercase
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import csr_array, vstack

from lib.benchmarks.search import latencies
from lib.benchmarks.search_peers import Corpus, ours
from lib.bm25.index import BM25Index
from lib.bm25.pooling import apply_phi
from lib.bm25.pruning import keep_top
from lib.bm25.weighting import BM25Constants, idf_lucene
from lib.data.collection import Collection
from lib.encode.encoder import TokenEncoder
from lib.evaluation.baselines import analyze
from lib.evaluation.measures import bootstrap_interval, wilson_interval
from lib.inspect.coactivation import coactivation, coactive_families
from lib.inspect.probing import LEAST, absorption, class_probes, sparse_probes
from lib.inspect.vocabulary import word_terms
from lib.sae.autoencoder import SparseAutoencoder
from lib.studies import names
from lib.studies.comparison import columns_first, document_frequency
from lib.studies.encoded import Pooled
from lib.support.progress import progress

DENSITY = ("density_low", "density_median", "density_high")
ABOUT = 16  # latents that a document is about, for families
FORMS = ("ing", "ed", "ly", "ion", "s")
WORD = re.compile("[a-z]{4,}")
N_TEXTS = 1_000
TIMED = 60  # queries of each collection
TURNS = 20


def density(firings: np.ndarray, n_tokens: int) -> dict[str, float]:
    """Return the quartiles of the share of tokens in which a latent is active, of those that ever are."""
    return dict(zip(DENSITY, np.quantile(firings[firings > 0] / n_tokens, [0.25, 0.5, 0.75]), strict=True))


def distinct(sae: SparseAutoencoder, firings: np.ndarray) -> float:
    """Return the share of the living latents whose decoder row has a cosine below SAME with every other's."""
    rows = sae.W_dec.numpy()[firings > 0]
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -1)
    return float((cosines.max(axis=1) < names.SAME).mean())


class Described(NamedTuple):
    """What is read of the run of seed 0 of a way, and the constants it is ranked with."""

    sae: SparseAutoencoder
    documents: dict[str, Pooled]  # by the full name of a collection
    queries: dict[str, Pooled]
    constants: BM25Constants


def describe(
    ways: Mapping[str, Described], ranked: Sequence[Collection], dev: Sequence[Collection], encoder: TokenEncoder
) -> dict[str, pd.DataFrame]:
    """Return tables by name, a row a way and what else it says.

    - `variants_probes`: terms (a way, or words), attribute, k, classes, auc (mean over classes), low, high.
    - `variants_absorption`: variant and the columns of `absorption`; share (absorbed / n), low, high (Wilson's).
    - `variants_families`: variant, families, latents (share of the occurring ones that are in one), size (median),
      inside, outside.
    - `variants_times`: variant, median_ms, ms_low, ms_high, p95_ms, times_topk (median / that of Top-K).
    """
    texts = [text for collection in ranked for text in collection.doc_texts]
    states, classes = word_classes(encoder, texts)
    probes = class_probes(states, classes)
    absorbed = [absorption(states, probes, way.sae).assign(variant=name) for name, way in ways.items()]
    families = [{"variant": name, **_families(_documents(way, ranked))} for name, way in ways.items()]
    return {
        "variants_probes": _probes(ways, ranked, dev),
        "variants_absorption": _shares(pd.concat(absorbed, ignore_index=True)),
        "variants_families": pd.DataFrame(families),
        "variants_times": _times(ways, ranked),
    }


def _documents(way: Described, collections: Iterable[Collection]) -> csr_array:
    """Return the terms of all documents, one collection after the other, with sqrt."""
    parts = [way.documents[collection.full_name].terms for collection in collections]
    return apply_phi(csr_array(vstack(parts, format="csr")), "sqrt")


def attributes(
    ranked: Sequence[Collection], dev: Sequence[Collection]
) -> dict[str, tuple[Sequence[Collection], list[str]]]:
    """Return collections, and a label of each of their documents, by what the label is; what has none is left out."""
    articles = [collection for collection in ranked if collection.name.startswith("squad")]
    modules = [collection for collection in dev if collection.name.startswith("pydoc")]
    labels = {
        "collection": (ranked, [collection.full_name for collection in ranked for _ in collection.doc_ids]),
        "article": (articles, [text.split("\n")[0] for collection in articles for text in collection.doc_texts]),
        "module": (modules, [doc_id.split(".")[0] for collection in modules for doc_id in collection.doc_ids]),
    }
    return {name: both for name, both in labels.items() if len(set(both[1])) > 1}


def _probes(ways: Mapping[str, Described], ranked: Sequence[Collection], dev: Sequence[Collection]) -> pd.DataFrame:
    rows = []
    for attribute, (collections, labels) in attributes(ranked, dev).items():
        texts = [text for collection in collections for text in collection.doc_texts]
        words, _ = word_terms(analyze(texts), [])
        terms = {names.WORDS: apply_phi(words, "sqrt")}
        terms |= {name: _documents(way, collections) for name, way in ways.items()}
        for name, matrix in progress(terms.items(), what=f"probe {attribute}", unit="ways", total=len(terms)):
            for k, of_k in sparse_probes(matrix, labels).groupby("k")["auc"]:
                low, high = bootstrap_interval(of_k.to_numpy())
                rows.append((name, attribute, k, len(of_k), of_k.mean(), low, high))
    return pd.DataFrame(rows, columns=["terms", "attribute", "k", "classes", "auc", "low", "high"])


def word_classes(
    encoder: TokenEncoder, texts: Sequence[str], n: int = N_TEXTS, seed: int = 0
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return states of words of one token, float32 [n_words, d], and by class which are of it, bool [n_words].

    A word is read once, where it first stands in `n` of the texts, drawn at random. Pieces that a word goes on with are
    those of WordPiece ("##ing").
    """
    tokens = {number: token for token, number in encoder.tokenizer.get_vocab().items()}
    drawn = [texts[i] for i in np.random.default_rng(seed).permutation(len(texts))[:n]]
    states: dict[str, np.ndarray] = {}
    for block in encoder.stream(drawn):
        for start, end in pairwise(block.offsets.tolist()):
            pieces = [tokens[number] for number in block.token_ids[start:end].tolist()]
            for row, (piece, after) in enumerate(pairwise([*pieces, ""]), start):
                if piece not in states and WORD.fullmatch(piece) and not after.startswith("##"):
                    states[piece] = block.states[row].cpu().numpy()
    words = list(states)
    classes = {f"-{form}": [word.endswith(form) and not word.endswith("ss") for word in words] for form in FORMS}
    classes |= {f"{letter}-": [word.startswith(letter) for word in words] for letter in ascii_lowercase}
    masks = {label: np.array(members) for label, members in classes.items()}
    frequent = {label: members for label, members in masks.items() if members.sum() >= LEAST}
    return np.stack(list(states.values())), frequent


def _shares(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with the share of tokens that are absorbed, and its interval, where a class is found."""
    counts = table[["absorbed", "n"]].fillna(0).astype(int).to_numpy()
    ends = [(k / n, *wilson_interval(k, n)) if n else (np.nan,) * 3 for k, n in counts]
    table[["share", "low", "high"]] = np.reshape(ends, (-1, 3))
    return columns_first(table, "variant")


def _families(documents: csr_array) -> dict[str, float]:
    df = document_frequency(documents)
    active = keep_top(csr_array(documents * idf_lucene(df, documents.shape[0]).astype(np.float32)), ABOUT)
    families = coactive_families(active)
    counts, links = coactivation(active, least=0)
    both_ways = (links + links.T).toarray()
    occurs, member = counts > 0, np.zeros(len(counts), bool)
    member[[latent for family in families for latent in family.latents]] = True
    inside, outside = [], []
    for family in families:
        rows = both_ways[list(family.latents)]
        inside.append(rows[:, family.latents].sum() / (len(rows) * (len(rows) - 1)))
        outside.append(rows[:, occurs & ~member].mean())
    size = np.median([len(family.latents) for family in families]) if families else np.nan
    facts = {"families": len(families), "latents": member.sum() / occurs.sum(), "size": size}
    return facts | {"inside": np.mean(inside), "outside": np.mean(outside)} if families else facts


def _times(ways: Mapping[str, Described], ranked: Sequence[Collection]) -> pd.DataFrame:
    engines, none = {}, np.empty((0, 0), np.float32)
    for name, way in ways.items():
        documents = _documents(way, ranked)
        index = BM25Index.build(documents, [f"d{row}" for row in range(documents.shape[0])], way.constants)
        query_terms = [way.queries[collection.full_name].terms[:TIMED] for collection in ranked]
        queries = apply_phi(csr_array(vstack(query_terms, format="csr")), "sqrt")
        engines[name] = ours(Corpus(index, lambda: iter(()), none, queries, none), threads=1)
        n_queries = queries.shape[0]
    table = latencies(engines, n_queries, 10, TURNS).rename(columns={"engine": "variant"})
    topk = table.set_index("variant").loc[names.TOPK, "median_ms"]
    return table[["variant", "median_ms", "ms_low", "ms_high", "p95_ms"]].assign(times_topk=table["median_ms"] / topk)
