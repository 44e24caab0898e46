"""Study `33_corpora`: in which latents corpora differ, beside what words say, and clusters of documents by latents.

**The rule**, of 2026-11-29, before any result of the profile `laptop`.

- *Corpora.* The docstrings of pydoc by their module, the paragraphs of squad by their article, and SciFact against
  NFCorpus. Of the first two, the 40 largest groups with at least 20 documents; of each group equally many documents at
  most, drawn at random (seed 0). Their first line, the qualified name or the title of the article, is left out: it
  gives the group away, to words and to latents alike (as a trial on 500 docstrings showed).
- *Contrasts.* Each group is compared with all others (two corpora with each other once) by `log_odds.compare`, in every
  second document of each group, once over latents and once over words (`\\w+`, lower case, once a document). A term
  differs where p < 0.05 after correction. The other documents are held out.
- *How good are differences?* A difference recurs if its log-odds have the same sign in the held-out documents. AUC is
  that with which the terms that differ, each present one counted with its z, tell a held-out document of the group from
  one of the others; 0.5 where no term differs.
- *Agreement.* Latents have labels, made of the texts without a language model (`label_latents`). A latent that differs
  agrees with words if one of the words of its label differs, the same way. The control deals the labels of all latents
  out anew. Latents *agree with what words say* if the Wilson interval of the share that agrees lies above that of the
  control.
- *Beyond words* are the latents that differ while no word of their label does, in either direction. Latents *find what
  words do not* if the AUC of these alone lies above 0.5, by its interval over the contrasts.
- *Together.* In every second document the 50 pairs of latents of highest npmi that are not alike (`correlate`). A pair
  recurs if its npmi in the held-out documents is above 0; the control pairs the same latents anew, at random.
- *Clusters.* k-means (scikit-learn, k-means++, 10 seeds) on rows of norm 1, k the number of groups: of latents and of
  words as their indexes weigh them (impact times idf), of the embedding, and of the latents whose label has a held-out
  AUC of 0.8 or more. Adjusted Rand index and normalised mutual information with the known groups, means over the seeds.
  The 95 % intervals of the first, and of its difference from words, are those of random halves of the documents, whose
  variance is that of all (the delete-half jackknife): documents drawn twice would agree with themselves.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import csr_array, diags_array, vstack
from scipy.stats import rankdata
from sklearn.cluster import KMeans
from sklearn.preprocessing import normalize

from lib.bm25.index import BM25Index
from lib.data.collection import Collection, load_collection
from lib.evaluation.baselines import Words
from lib.evaluation.measures import bootstrap_interval, wilson_interval
from lib.inspect.correlations import Correlation, correlate, npmi
from lib.inspect.labelling import label_latents
from lib.inspect.labels import words_of
from lib.inspect.log_odds import compare
from lib.inspect.vocabulary import word_terms
from lib.latent_terms import LatentTerms
from lib.studies import names
from lib.studies.comparison import columns_first, document_frequency, origin_of
from lib.support.checks import check_choice, check_count
from lib.support.folders import digest_json
from lib.support.store import Store

LEAST_DOCS, MOST_GROUPS = 20, 40
SIGNIFICANT = 0.05
GOOD_LABEL = 0.8
SEEDS, HALVES = 10, 400
SHOWN = 12  # latents of a kind in the table of examples
TOGETHER = 50  # pairs of latents


class Corpora(NamedTuple):
    """Documents in known groups, as a model has them: texts, groups str [n], terms [n, width], embeddings [n, d]."""

    name: str
    texts: list[str]
    groups: np.ndarray
    terms: csr_array
    embeddings: np.ndarray

    @property
    def contrasts(self) -> list[str]:
        """The groups that are compared with the others: of two, the first."""
        groups = list(dict.fromkeys(self.groups.tolist()))
        return groups[:1] if len(groups) == 2 else groups


def module_of(collection: Collection) -> list[str]:
    """Return the module, or package, of each docstring of pydoc."""
    return [doc_id.partition(".")[0] for doc_id in collection.doc_ids]


def article_of(collection: Collection) -> list[str]:
    """Return the article of each paragraph of squad: the title, which is the first line."""
    return [text.partition("\n")[0] for text in collection.doc_texts]


GROUPS: dict[str, Callable[[Collection], list[str]]] = {"pydoc": module_of, "squad": article_of}


def corpora_study(
    model: LatentTerms, corpora: Iterable[Sequence[str]], n_docs: int, store: Store | None = None
) -> tuple[dict[str, pd.DataFrame], dict]:
    """Compare and cluster corpora by latents, words and embeddings; the module states the rule.

    `corpora` are names of one collection, whose groups are compared, or of several, which are compared. Return the
    tables, and what the provenance states:

    - "corpora": a row for each of them and vocabulary (BEYOND is a part of LATENTS): n_docs, n_contrasts, terms (that
      differ, mean of a contrast), and with intervals (_low, _high) recurs, auc, and of latents agree and control;
      label_auc and label_control, how well labels, and random ones, predict held-out firing (medians over latents),
      and label_gain, with the interval, the mean over latents of the first less the second;
    - "corpora_contrasts": the same of each contrast, with numbers of terms;
    - "corpora_latents": for each of the corpora the latents with the largest |z|, of any contrast and each once, that
      agree with words, and those beyond words: kind, contrast, latent, label, share_a, share_b, z, held_out_z;
    - "corpora_together": for each of the corpora the pairs of latents that occur together the most: the columns of
      `Correlation`, held_out_npmi, and control_npmi, that of the first with another's second;
    - "corpora_clusters": a row for each of them and system: n_docs, k, nmi, and with intervals ari and difference, that
      of ari from words.
    """
    store, n_docs = store or Store(), check_count(n_docs, "n_docs")
    stems = ("", "_contrasts", "_latents", "_together", "_clusters")
    tables: dict[str, list] = {f"corpora{stem}": [] for stem in stems}
    collections = {name: load_collection(name) for name in dict.fromkeys(name for part in corpora for name in part)}
    for part in corpora:
        data = corpora_of(model, [collections[name] for name in part], n_docs, store)
        labels, auc, control = stored_labels(model, data.texts, store)
        contrasts, latents = contrast_tables(data, labels)
        tables["corpora_contrasts"].append(contrasts)
        tables["corpora_latents"].append(latents)
        quality = {"label_auc": np.nanmedian(auc), "label_control": np.nanmedian(control)} | label_gain(auc, control)
        tables["corpora"].append(summary(contrasts, len(data.texts)).assign(**quality))
        tables["corpora_together"].append(together(model, data, labels))
        tables["corpora_clusters"].append(cluster_table(model, data, auc >= GOOD_LABEL))
    origin = origin_of(model, collections.values(), n_docs=n_docs, corpora=corpora, seeds=SEEDS, halves=HALVES)
    return {name: pd.concat(parts, ignore_index=True) for name, parts in tables.items()}, origin


def corpora_of(model: LatentTerms, collections: Sequence[Collection], n_docs: int, store: Store) -> Corpora:
    """Return the groups of one collection, or several collections as groups, at most `n_docs` documents in all.

    Documents of one collection lose their first line, and those of which nothing is left are left out.

    ValueError for a single collection whose groups are not known, and where there are fewer than two.
    """
    if len(collections) == 1:
        (collection,) = collections
        groups = GROUPS[check_choice(collection.name.partition("/")[0], GROUPS, "a collection in groups")](collection)
        pairs = [(text.partition("\n")[2], group) for text, group in zip(collection.doc_texts, groups, strict=True)]
    else:
        pairs = [(text, collection.name) for collection in collections for text in collection.doc_texts]
    pairs = [(text, group) for text, group in pairs if text.strip()]
    name, of_docs = " and ".join(collection.full_name for collection in collections), np.array([g for _, g in pairs])
    known, counts = np.unique(of_docs, return_counts=True)
    order = np.lexsort((known, -counts))
    chosen = [known[i] for i in order if counts[i] >= LEAST_DOCS][:MOST_GROUPS]
    if len(chosen) < 2:
        raise ValueError(f"{name} has {len(chosen)} groups of {LEAST_DOCS} documents; it takes two.")
    rng, rows = np.random.default_rng(0), []
    for group in chosen:
        rows.append(np.sort(rng.permutation(np.flatnonzero(of_docs == group))[: n_docs // len(chosen)]))
    rows = np.concatenate(rows)
    texts = [pairs[row][0] for row in rows]
    return Corpora(name, texts, of_docs[rows], *encoded_texts(model, texts, store))


def encoded_texts(model: LatentTerms, texts: list[str], store: Store) -> tuple[csr_array, np.ndarray]:
    """Return the term weights of texts, and the retriever's embeddings."""

    def make() -> dict[str, np.ndarray]:
        blocks = list(model.stream(texts))
        terms = vstack([block.terms for block in blocks], format="csr")
        arrays = {"data": terms.data, "indices": terms.indices, "indptr": terms.indptr}
        return arrays | {"embeddings": np.concatenate([block.embeddings for block in blocks])}

    part = store.get("encoded-texts", {"model": model.identity, "texts": digest_json(texts)}, make)
    terms = csr_array((part["data"], part["indices"], part["indptr"]), shape=(len(texts), model.sae.width))
    return terms, np.array(part["embeddings"])


def stored_labels(model: LatentTerms, texts: list[str], store: Store) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return the labels of a model's latents by these texts, their agreement on held-out ones, and its control's."""

    def make() -> dict[str, np.ndarray]:
        labels = label_latents(model, texts)
        return {"names": np.array(labels.names), "auc": labels.auc, "control": labels.control}

    entry = store.get("labels", {"model": model.identity, "texts": digest_json(texts)}, make)
    return entry["names"].tolist(), np.array(entry["auc"]), np.array(entry["control"])


def label_gain(auc: np.ndarray, control: np.ndarray) -> dict[str, float]:
    """Return the mean over latents of their label's AUC less a random label's, and its 95 % interval."""
    gain = (auc - control).astype(np.float64)
    gain = gain[np.isfinite(gain)]
    low, high = bootstrap_interval(gain) if len(gain) else (np.nan, np.nan)
    return {"label_gain": gain.mean() if len(gain) else np.nan, "label_gain_low": low, "label_gain_high": high}


class Compared(NamedTuple):
    """z and p of each term, float64 [width], p corrected; 0 and 1 of terms that none, or all, of the texts have."""

    z: np.ndarray
    p: np.ndarray

    @property
    def differs(self) -> np.ndarray:
        """Where the two sets of texts differ, bool [width]."""
        return self.p < SIGNIFICANT


def compared(terms: csr_array, inside: np.ndarray, texts: np.ndarray) -> Compared:
    """Compare the texts inside of a group with those outside; `inside` and `texts` are masks, bool [n_texts]."""
    differences = compare(terms[texts & inside], terms[texts & ~inside])
    z, p = np.zeros(terms.shape[1]), np.ones(terms.shape[1])
    latents = [difference.latent for difference in differences]
    z[latents], p[latents] = ([getattr(d, field) for d in differences] for field in ("z", "p"))
    return Compared(z, p)


def told_apart(terms: csr_array, z: np.ndarray, chosen: np.ndarray, inside: np.ndarray) -> float:
    """Return the AUC with which the z of the chosen terms that a text has tells texts inside from those outside."""
    present = csr_array((np.ones(terms.nnz), terms.indices, terms.indptr), terms.shape)
    ranks, n = rankdata(present @ np.where(chosen, z, 0)), np.count_nonzero(inside)
    return float((ranks[inside].sum() - n * (n + 1) / 2) / (n * (len(inside) - n)))


def contrast_tables(data: Corpora, labels: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the tables of contrasts and of latents of one of the corpora."""
    words, by_label = words_and_labels(data.texts, labels)
    dealt = deal(by_label)
    labelled = np.array([bool(numbers) for numbers in by_label])
    first_half = every_second(data.groups)
    of_terms = {names.LATENTS: data.terms, names.WORDS: words}
    rows, examples = [], []
    for group in data.contrasts:
        inside = data.groups == group
        here, held_out = (
            {kind: compared(terms, inside, texts) for kind, terms in of_terms.items()}
            for texts in (first_half, ~first_half)
        )
        latents, of_words = here[names.LATENTS], here[names.WORDS]
        candidates = np.flatnonzero(latents.differs & labelled)
        agree, control = (
            np.array([same_way(latents.z[j], of_label[j], of_words) for j in candidates], bool)
            for of_label in (by_label, dealt)
        )
        beyond = np.zeros(len(labels), bool)
        beyond[[j for j in candidates.tolist() if not of_words.differs[by_label[j]].any()]] = True
        for kind, source, chosen in (
            (names.LATENTS, names.LATENTS, latents.differs),
            (names.WORDS, names.WORDS, of_words.differs),
            (names.BEYOND, names.LATENTS, beyond),
        ):
            same = np.sign(here[source].z[chosen]) == np.sign(held_out[source].z[chosen])
            auc = told_apart(of_terms[source][~first_half], here[source].z, chosen, inside[~first_half])
            row = {"corpora": data.name, "contrast": group, "vocabulary": kind, "terms": chosen.sum()}
            rows.append(row | {"recurring": same.sum(), "auc": auc})
        rows[-3] |= {"labelled": len(candidates), "agreeing": agree.sum(), "control": control.sum()}
        shares = [
            document_frequency(data.terms[first_half & mask]) / np.sum(first_half & mask) for mask in (inside, ~inside)
        ]
        for kind, members in ((names.AGREEING, candidates[agree]), (names.BEYOND, np.flatnonzero(beyond))):
            for j in members[np.argsort(-np.abs(latents.z[members]), kind="stable")[:SHOWN]].tolist():
                values = (shares[0][j], shares[1][j], latents.z[j], held_out[names.LATENTS].z[j])
                examples.append((data.name, kind, group, j, labels[j], *values))
    columns = ["corpora", "kind", "contrast", "latent", "label", "share_a", "share_b", "z", "held_out_z"]
    return pd.DataFrame(rows), most_different(pd.DataFrame(examples, columns=columns))


def words_and_labels(texts: Sequence[str], labels: Sequence[str]) -> tuple[csr_array, list[list[int]]]:
    """Return the words of each text, float32 [n_texts, n_words], each once, and which of them each label has."""
    of_texts = [words_of(text) for text in texts]
    number_of = {word: number for number, word in enumerate(dict.fromkeys(chain.from_iterable(of_texts)))}
    words, _ = word_terms(of_texts, [])
    return words, [[number_of[word] for word in words_of(label) if word in number_of] for label in labels]


def deal(by_label: Sequence[list[int]], seed: int = 0) -> list[list[int]]:
    """Return the words of the labels, dealt out anew at random among the latents that have some."""
    labelled = [j for j, numbers in enumerate(by_label) if numbers]
    others = np.random.default_rng(seed).permutation(labelled).tolist()
    dealt = {j: by_label[other] for j, other in zip(labelled, others, strict=True)}
    return [dealt.get(j, []) for j in range(len(by_label))]


def every_second(groups: np.ndarray) -> np.ndarray:
    """Return a mask of every second document of each group, from its first on, bool [n_docs]."""
    mask = np.zeros(len(groups), bool)
    for group in np.unique(groups):
        mask[np.flatnonzero(groups == group)[::2]] = True
    return mask


def most_different(latents: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of largest |z| of each kind, each latent once."""
    order = latents["z"].abs().sort_values(ascending=False, kind="stable").index
    return latents.loc[order].drop_duplicates(["kind", "latent"]).groupby("kind", sort=True).head(SHOWN)


def same_way(z: float, words: Sequence[int], of_words: Compared) -> bool:
    """Whether one of the words differs in the direction of z."""
    return any(of_words.differs[word] and np.sign(of_words.z[word]) == np.sign(z) for word in words)


def together(model: LatentTerms, data: Corpora, labels: Sequence[str]) -> pd.DataFrame:
    """Return the table "corpora_together" of one of the corpora."""
    half = every_second(data.groups)
    pairs = pd.DataFrame(correlate(model, data.terms[half], labels, n=TOGETHER), columns=Correlation._fields)
    held_out = (data.terms[~half] > 0).astype(np.int64).tocsc()

    def of_held_out(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        first, second = held_out[:, a], held_out[:, b]
        sums = (np.asarray(columns.sum(axis=0)) for columns in (first * second, first, second))
        return npmi(*sums, held_out.shape[0])

    a, b = (pairs[column].to_numpy(np.int64) for column in "ab")
    others = np.random.default_rng(0).permutation(b)
    table = pairs.assign(held_out_npmi=of_held_out(a, b), control_npmi=of_held_out(a, others))
    return columns_first(table.assign(corpora=data.name), "corpora")


def summary(contrasts: pd.DataFrame, n_docs: int) -> pd.DataFrame:
    """Return the table "corpora" of one of the corpora: shares of all their differences, and AUC over the contrasts."""
    rows = []
    for vocabulary, part in contrasts.groupby("vocabulary", sort=False):
        row = {"corpora": part["corpora"].iloc[0], "vocabulary": vocabulary, "n_docs": n_docs}
        auc = part["auc"].to_numpy()
        low, high = bootstrap_interval(auc) if len(part) > 1 else (np.nan, np.nan)
        row |= {"n_contrasts": len(part), "terms": part["terms"].mean()}
        row |= {"auc": auc.mean(), "auc_low": low, "auc_high": high}
        shares = {
            "recurs": ("recurring", "terms"),
            "agree": ("agreeing", "labelled"),
            "control": ("control", "labelled"),
        }
        for column, (count, of) in shares.items():
            k, n = part[count].sum(), part[of].sum()
            low, high = wilson_interval(k, n) if n > 0 else (np.nan, np.nan)
            row |= {column: k / n if n > 0 else np.nan, f"{column}_low": low, f"{column}_high": high}
        rows.append(row)
    return pd.DataFrame(rows)


def cluster_table(model: LatentTerms, data: Corpora, well_labelled: np.ndarray) -> pd.DataFrame:
    """Return the table "corpora_clusters" of one of the corpora; `well_labelled` is a mask of latents, bool [width]."""
    ids = [str(number) for number in range(len(data.texts))]
    words = Words.of(data.texts)
    by_words = as_indexed(BM25Index.build(words.encode(data.texts), ids, k1=1.2, b=0.75))
    by_latents = as_indexed(model.index(data.terms, ids))
    rows_of = {
        names.LATENTS: by_latents,
        names.WELL_LABELLED: by_latents @ diags_array(well_labelled.astype(np.float32)),
        names.WORDS: by_words,
        names.DENSE: data.embeddings,
    }
    groups, rng = np.unique(data.groups, return_inverse=True)[1], np.random.default_rng(0)
    k, n = int(groups.max()) + 1, len(groups)
    samples = [np.arange(n), *(rng.permutation(n)[: n // 2] for _ in range(HALVES))]
    values = {}  # of each system, float64 [1 + HALVES, 2]
    for system, rows in rows_of.items():
        clusterings = [KMeans(k, random_state=seed).fit_predict(unit_rows(rows)) for seed in range(SEEDS)]
        agreements = [[agreement(groups[s], clusters[s]) for s in samples] for clusters in clusterings]
        values[system] = np.mean(agreements, axis=0)
    table = []
    for system, ((_, nmi), *_) in values.items():
        of_system, of_words = values[system][:, 0], values[names.WORDS][:, 0]
        row = {"corpora": data.name, "system": system, "n_docs": n, "k": k, "nmi": nmi}
        for column, (value, *halves) in (("ari", of_system), ("difference", of_system - of_words)):
            row[column] = value
            row[f"{column}_low"], row[f"{column}_high"] = np.quantile(halves, [0.025, 0.975])
        table.append(row)
    return pd.DataFrame(table)


def as_indexed(index: BM25Index) -> csr_array:
    """Return the documents of an index, impact times idf, float32 [n_docs, width]."""
    rows = vstack(list(index.impact_rows()), format="csr")
    return csr_array((rows.data * index.idf[rows.indices], rows.indices, rows.indptr), rows.shape)


def unit_rows(rows: csr_array | np.ndarray) -> csr_array | np.ndarray:
    """Return rows of norm 1; indices of sparse ones are int32, which scikit-learn demands."""
    if isinstance(rows, np.ndarray):
        return normalize(rows)
    indices, indptr = (part.astype(np.int32) for part in (rows.indices, rows.indptr))
    return normalize(csr_array((rows.data, indices, indptr), rows.shape))


def agreement(groups: np.ndarray, clusters: np.ndarray) -> tuple[float, float]:
    """Return the adjusted Rand index and the normalised mutual information of two partitions, integer [n].

    ARI = (sum_ij C(n_ij, 2) - E) / ((A + B) / 2 - E), A = sum_i C(n_i, 2), B = sum_j C(n_j, 2), E = A B / C(n, 2)
    (Hubert and Arabie, J. Classification 2, 1985); NMI = 2 I / (H_i + H_j). As scikit-learn's, without its checks,
    which take most of the time where documents are resampled. 1 of two partitions with one part each.
    """
    n, width = len(groups), clusters.max() + 1
    both = np.bincount(groups * width + clusters, minlength=(groups.max() + 1) * width).reshape(-1, width)
    of_groups, of_clusters = both.sum(axis=1), both.sum(axis=0)
    pairs, a, b = (np.sum(x * (x - 1.0)) / 2 for x in (both, of_groups, of_clusters))
    expected = a * b / (n * (n - 1) / 2)
    joint, h_groups, h_clusters = (-np.sum(x[x > 0] / n * np.log(x[x > 0] / n)) for x in (both, of_groups, of_clusters))
    if h_groups + h_clusters == 0:
        return 1.0, 1.0
    ari = (pairs - expected) / ((a + b) / 2 - expected)
    return float(ari), float(2 * (h_groups + h_clusters - joint) / (h_groups + h_clusters))
