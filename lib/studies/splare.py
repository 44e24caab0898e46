"""Study `70_splare`: SPLARE beside the frozen latents and the trained vocabulary. The rule stands in
`lib.studies.trained`.

Beside it, of 2026-11-29: every system is ranked with whole rows, SPLARE and its control also with the 40 largest
weights of a query and the 400 largest of a document, as SPLARE does. BM25 ranks SPLARE's whole rows with constants
chosen on the training queries. The pairs of systems that are compared are `contrasts`; SPLARE's claims are that latents
beat the vocabulary, that layers peak near two thirds, that quality rises with the logarithm of the width, and that 100
latents of a document cost 2 %.

Added on 2026-11-30, before their results: layer 5, twice the width, and four times as many pairs. On these SPLARE, its
control and the dense retriever are trained once, with the learning rates that were chosen on the fewer pairs and seed
0, and stand beside the same seed on the fewer (`contrasts_by_pairs`). Later that day, when more pairs had ranked worse
at these rates, all of which were the lower of two: a rate a quarter as large is tried on the many pairs, too, and the
better on training queries is taken.
"""

from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import partial
from itertools import groupby

import numpy as np
import pandas as pd
from scipy.sparse import csr_array, vstack

from lib.benchmarks.encoding import spread
from lib.benchmarks.grown import encode_sentences, grow, largest_of, sentences_of
from lib.bm25.index import BM25Index
from lib.bm25.weighting import INNER_PRODUCT, PAPER, BM25Constants
from lib.data.collection import Collection
from lib.encode.encoder import TokenEncoder
from lib.evaluation.tuning import tune_bm25
from lib.inspect.vocabulary import spaced_ranks
from lib.latent_terms import LatentTerms
from lib.learned.kind import Kind
from lib.learned.models import DenseControl, Splare, VocabularyHead
from lib.studies import names
from lib.studies.comparison import document_frequency, lexical_ranking, query_postings, values_of
from lib.studies.trained import (
    Bench,
    Readout,
    dense_readout,
    token_readout,
    trained_readout,
    whole_and_pruned,
)
from lib.studies.trained_tables import (
    DEPTH,
    Results,
    choose,
    contrasts_table,
    measured,
    rates,
    results_of,
    search_ms,
    seed_means,
    systems_table,
)
from lib.support.checks import check_choice

READ_BY_MAXIMUM = (
    names.UNTRAINED_SPLARE,
    names.TRAINED_WORDS,
    names.TRAINED_SPLARE,
)  # what prunings, lengths, times are of


def contrasts(bench: Bench) -> list[tuple[str, str]]:
    """Return the pairs of systems that are compared, named before any result."""
    splare, words = (names.pruned(system, *bench.size.top) for system in (names.TRAINED_SPLARE, names.TRAINED_WORDS))
    return [
        (names.TRAINED_SPLARE, names.UNTRAINED_SPLARE),
        (names.TRAINED_SPLARE, names.TRAINED_WORDS),
        (splare, words),
        (names.TRAINED_SPLARE, names.TRAINED_DENSE),
        (names.TRAINED_DENSE, names.DENSE),
        (names.BM25_OF_SPLARE, names.TUNED),
        (splare, names.TUNED),
    ]


def lora_kinds(
    bench: Bench, dense: bool = True
) -> tuple[dict[str, tuple[Kind, LatentTerms | TokenEncoder]], pd.DataFrame]:
    """Return what is trained by LoRA, by system, with the learning rate chosen; and what was tried (`choose`).

    71 leaves out the dense retriever, whose weights it trains all.
    """
    size = bench.size
    kinds: dict[str, Kind] = {names.TRAINED_DENSE: DenseControl()} if dense else {}
    kinds[names.TRAINED_WORDS] = VocabularyHead(k=size.sae.k, top=size.top)
    bases: dict[str, LatentTerms | TokenEncoder] = dict.fromkeys(kinds, bench.base)
    kinds[names.TRAINED_SPLARE], bases[names.TRAINED_SPLARE] = Splare(top=size.top), bench.model()
    chosen, tried = {}, []
    for system, kind in kinds.items():
        best, table = choose(bench, system, rates(kind, size.lora_rates), bases[system])
        chosen[system] = best, bases[system]
        tried.append(table)
    return chosen, pd.concat(tried, ignore_index=True)


def untrained_readouts(bench: Bench) -> list[Readout]:
    """Return what nothing was trained for: dense, latent terms, SPLARE's readout and its control."""
    model, reader = bench.model(), bench.reader
    head = VocabularyHead(k=bench.size.sae.k).head(bench.base)
    terms = token_readout(bench, names.LATENT, LatentTerms(reader, model.sae))
    return [
        dense_readout(bench, names.DENSE, reader),
        terms._replace(bm25=PAPER),
        terms._replace(name=names.TUNED, bm25=tuned_bm25(bench, terms)),
        token_readout(bench, names.UNTRAINED_SPLARE, LatentTerms(reader, model.sae, "max", "log1p")),
        token_readout(bench, names.UNTRAINED_WORDS, LatentTerms(reader, head, "max", "log1p"), reconstructs=False),
    ]


def tuned_bm25(bench: Bench, readout: Readout) -> BM25Constants:
    """Return BM25's constants for a readout's rows, chosen on the training queries."""
    return tune_bm25([(collection, *readout.rows(collection)) for collection in bench.dev])[0]


def splare_study(bench: Bench) -> tuple[dict[str, pd.DataFrame], pd.DataFrame, dict]:
    """Return tables by name, nDCG@10 of each query of the layers and widths, and what the provenance states.

    `splare` is `systems_table` against SPLARE's untrained readout; `splare_contrasts` is `contrasts_table`;
    `splare_tried` what was tried on training queries; `splare_layers` and `splare_widths` are `systems_table` with the
    columns layer and width; `splare_pairs` and what begins so is of `by_pairs`; `splare_pruning` with kind and doc_top,
    against no pruning of the same rows; `splare_lengths` the lengths of posting lists (df by rank); `splare_latency`
    system, postings of a document, reads and the times of `search_ms` on a grown corpus.
    """
    kinds, tried = lora_kinds(bench)
    readouts = untrained_readouts(bench)
    for system, (kind, base) in kinds.items():
        for seed in range(bench.size.n_seeds):
            readout = trained_readout(bench, system, kind, base, bench.config(seed))
            readouts += whole_and_pruned(bench, readout) if readout.top else [readout]
    splare = [readout for readout in readouts if readout.name == names.TRAINED_SPLARE]
    constants = tuned_bm25(bench, splare[0])
    readouts += [readout._replace(name=names.BM25_OF_SPLARE, bm25=constants) for readout in splare]
    results = results_of(bench, readouts)
    for collection in bench.collections:
        results[collection.full_name][names.LEXICAL] = [_words(collection)]
    first = {readout.name: readout for readout in reversed(readouts)}
    layers, of_layers = by_autoencoder(bench, kinds[names.TRAINED_SPLARE][0], "layer")
    widths, of_widths = by_autoencoder(bench, kinds[names.TRAINED_SPLARE][0], "width")
    pairs, of_pairs, origin = by_pairs(bench, kinds, first[names.TUNED])
    tables = {
        "splare": systems_table(bench, results, names.UNTRAINED_SPLARE),
        "splare_contrasts": contrasts_table(seed_means(results), contrasts(bench)),
        "splare_tried": tried,
        "splare_layers": layers,
        "splare_widths": widths,
        **pairs,
        "splare_pruning": pruning(bench, first),
        "splare_lengths": lengths(bench, first),
        "splare_latency": latency(bench, timed(bench, first)),
    }
    chosen: dict = {system: repr(kind) for system, (kind, _) in kinds.items()}
    chosen |= {name: asdict(first[name].bm25) for name in (names.TUNED, names.BM25_OF_SPLARE)}
    by_query = [of_layers, *(table.drop(columns=["collection", "query_id"]) for table in (of_widths, of_pairs))]
    return tables, pd.concat(by_query, axis=1), bench.origin(chosen=chosen, **origin)


def _words(collection: Collection) -> dict[str, np.ndarray]:
    ranking = lexical_ranking(collection, DEPTH)
    values = values_of(ranking, collection, (names.MEASURE, names.DEEP_RECALL))
    return {"values": values[0], "recall": values[1], "df": np.zeros(0, np.int64)}


def by_autoencoder(bench: Bench, kind: Kind, field: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Train SPLARE once through each layer with the smallest width, or each width at the final layer.

    Return `systems_table` against the first, untrained ones among them, and nDCG@10 of each query (collection,
    query_id and a column a system).
    """
    size, final = bench.size, bench.base.n_layers
    settings = [(layer, size.widths[0]) for layer in size.layers]
    if field == "width":
        settings = [(final, width) for width in size.widths]
    readouts, labels = [], {}
    for layer, width in settings:
        model, number = bench.model(layer, width), layer if field == "layer" else width
        frozen = LatentTerms(bench.reader.at(layer), model.sae, "max", "log1p")
        both = (
            token_readout(bench, f"{names.UNTRAINED_SPLARE}, {field} {number}", frozen),
            trained_readout(bench, f"{names.TRAINED_SPLARE}, {field} {number}", kind, model, bench.config()),
        )
        for system, readout in zip((names.UNTRAINED_SPLARE, names.TRAINED_SPLARE), both, strict=True):
            readouts.append(readout._replace(top=None))
            labels[readout.name] = {"kind": system, "layer": layer, "width": width}
    results = results_of(bench, readouts)
    table = systems_table(bench, results, readouts[1].name).join(pd.DataFrame.from_dict(labels, "index"), on="system")
    return table, _by_query(bench, results)


def _by_query(bench: Bench, results: Results) -> pd.DataFrame:
    values = [
        pd.DataFrame({"collection": collection.full_name, "query_id": collection.query_ids} | values)
        for collection, values in zip(bench.collections, seed_means(results).values(), strict=True)
    ]
    return pd.concat(values, ignore_index=True)


def by_pairs(
    bench: Bench, kinds: dict[str, tuple[Kind, LatentTerms | TokenEncoder]], terms: Readout
) -> tuple[dict[str, pd.DataFrame], pd.DataFrame, dict]:
    """Train each kind on more and more pairs of each source, with seed 0 and the learning rate chosen there.

    Return tables by name, nDCG@10 of each query, and what the provenance states. `splare_pairs` is `systems_table` with
    the columns kind and n_pairs against the finetuned dense retriever of the fewest pairs, `splare_pairs_contrasts` is
    `contrasts_table`, `splare_pairs_tried` what was tried on training queries, with the column n_pairs. `terms` are
    latent terms, for which nothing was trained.
    """
    size, readouts, labels = bench.size, [terms], {}
    digests, chosen, tried = {}, {}, []
    larger = [replace(bench, size=replace(size, n_pairs=count)) for count in size.pair_counts]
    for with_pairs in (bench, *larger):
        pairs = with_pairs.data.pairs
        digests[len(pairs)] = pairs.digest
        for system, (kind, base) in kinds.items():
            name = names.trained_on(system, len(pairs))
            if with_pairs is not bench:
                kind, table = choose(with_pairs, system, rates(kind, size.rates_of_more), base)
                chosen[name] = repr(kind)
                tried.append(table.assign(n_pairs=len(pairs)))
            readout = trained_readout(with_pairs, name, kind, base, with_pairs.config())
            labels[name] = {"kind": system, "n_pairs": len(pairs)}
            readouts.append(readout._replace(top=None))
            if readout.top is not None:
                pruned = names.pruned(name, *readout.top)
                labels[pruned] = {"kind": names.pruned(system, *readout.top), "n_pairs": len(pairs)}
                readouts.append(readout._replace(name=pruned))
    results = results_of(bench, readouts)
    table = systems_table(bench, results, names.trained_on(names.TRAINED_DENSE, min(digests)))
    table = table.join(pd.DataFrame.from_dict(labels, "index"), on="system")
    named = contrasts_by_pairs(min(digests), max(digests), size.top)
    tables = {"splare_pairs": table, "splare_pairs_contrasts": contrasts_table(seed_means(results), named)}
    if tried:
        tables["splare_pairs_tried"] = pd.concat(tried, ignore_index=True)
    return tables, _by_query(bench, results), {"pairs_by_number": digests, "chosen_by_number": chosen}


def contrasts_by_pairs(fewest: int, most: int, top: tuple[int, int]) -> list[tuple[str, str]]:
    """Return the pairs of systems that are compared, named before any result."""
    systems = (names.TRAINED_DENSE, names.TRAINED_WORDS, names.TRAINED_SPLARE)
    dense, words, splare = (names.trained_on(system, most) for system in systems)
    more = [(names.trained_on(system, most), names.trained_on(system, fewest)) for system in systems]
    pruned_splare, pruned_words = (names.pruned(system, *top) for system in (splare, words))
    others = [(splare, words), (pruned_splare, pruned_words), (splare, dense), (pruned_splare, names.TUNED)]
    return [*(more if most > fewest else []), *others]


def pruning(bench: Bench, readouts: dict[str, Readout]) -> pd.DataFrame:
    """Keep fewer and fewer weights of documents, 40 of queries; against whole documents of the same system."""
    tables, query_top = [], bench.size.top[0]
    for system in READ_BY_MAXIMUM:
        tops = {"all": readouts[system].read(bench.collections[0])[0].shape[1]}  # as many as there are
        tops |= {str(top): top for top in bench.size.doc_tops}
        pruned = [readouts[system]._replace(name=name, top=(query_top, top)) for name, top in tops.items()]
        table = systems_table(bench, results_of(bench, pruned), "all")
        doc_top = pd.to_numeric(table.pop("system"), errors="coerce")
        tables.append(table.assign(kind=system, doc_top=doc_top))
    return pd.concat(tables, ignore_index=True)


def lengths(bench: Bench, readouts: dict[str, Readout]) -> pd.DataFrame:
    """Return collection, system, rank and df: how long posting lists are, longest first, pruned as SPLARE prunes."""
    rows = []
    for collection in bench.collections:
        for system in READ_BY_MAXIMUM:
            df = np.sort(measured(bench, readouts[system]._replace(top=bench.size.top), collection)["df"])[::-1]
            ranks = spaced_ranks(np.count_nonzero(df), 200)
            rows.append(
                pd.DataFrame({"collection": collection.full_name, "system": system, "rank": ranks, "df": df[ranks - 1]})
            )
    return pd.concat(rows, ignore_index=True)


def timed(bench: Bench, readouts: dict[str, Readout]) -> list[Readout]:
    """Return what is timed: tuned latent terms, and what is read by the maximum, whole and pruned."""
    whole = [readouts[system]._replace(top=None) for system in READ_BY_MAXIMUM]
    return [readouts[names.TUNED], *(readout for each in whole for readout in whole_and_pruned(bench, each))]


def latency(bench: Bench, readouts: Iterable[Readout]) -> pd.DataFrame:
    """Time exact search of a corpus that is grown of sentences (`lib.benchmarks.grown`), all in the same run.

    A grown document's weight is phi of the sum of its sentences', as latent terms are pooled, or the largest of them.
    Readouts of one model stand together.
    """
    size, rows = bench.size.timed, []
    collection = max(bench.collections, key=lambda each: len(each.doc_ids))
    texts, queries = spread(collection.doc_texts, size.texts), collection.query_texts[: size.n_queries]
    for model, alike in groupby(readouts, key=lambda readout: readout.model):
        grown = _grown(model, texts, size.n_docs), model.encode_queries(queries, progress=False)
        for readout in alike:
            docs, query_rows = readout.pruned(*grown)
            df = document_frequency(docs)
            facts = {"system": readout.name, "n_docs": size.n_docs, "doc_terms": df.sum() / size.n_docs}
            facts["reads"] = query_postings(df, query_rows).mean()
            build = partial(BM25Index.build, constants=readout.bm25 or INNER_PRODUCT)
            rows.append(facts | search_ms(bench, [docs], query_rows, build))
    return pd.DataFrame(rows)


def _grown(model: LatentTerms, texts: list[str], n_docs: int) -> csr_array:
    if model.pooling == "sum":
        return vstack([block for block, _ in grow(encode_sentences(model, texts), n_docs)], format="csr")
    split = [parts for parts in map(sentences_of, texts) if parts]
    check_choice(model.pooling, ["max"], "pooling")
    rows = model.encode_documents([sentence for parts in split for sentence in parts], progress=False)
    return vstack(list(largest_of(rows, np.cumsum([0, *map(len, split)]), n_docs)), format="csr")
