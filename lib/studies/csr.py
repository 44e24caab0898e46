"""Study `72_csr`: how few latents an embedding can have. The rule stands in `lib.studies.trained`.

Beside it, of 2026-11-29: CSRv2's three changes are an annealed k (from 64, over half of the steps), supervised
positives (pairs instead of each text by itself), and a finetuned retriever. What is known of CSRv2 is its abstract;
here the retriever is finetuned first, on the same pairs, as a dense one whose embedding may be cut (Matryoshka), and
the autoencoder then reads its embeddings: so all eight cells differ in seconds of training, and Matryoshka is that very
retriever, cut. The pairs of systems that are compared stand in `contrasts`. With k = 2 the ranked documents are too few
to tell which latents are dead: as such count, over all collections, those that no text of the pairs has either.

Of 2026-11-30, when the larger of two learning rates of the autoencoder had been the better: 0.003 and 0.01 are tried,
too. What is chosen for CSR at one k, all cells have, and the runs of 71. Later that day, when all had been trained
once: AuxK had never acted and supervised cells had half as many steps as the others (`lib.studies.trained`,
*Repeated*).
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
from scipy.sparse import csr_array, diags_array

from lib.data.collection import Collection
from lib.encode.encoder import TokenEncoder
from lib.learned.autoencoders import Csr
from lib.learned.models import DenseControl
from lib.studies.comparison import document_frequency
from lib.studies.latency import inner_product_index
from lib.studies.names import CSR_FROZEN, CSRV2, DENSE, MATRYOSHKA, MEAN, TRUNCATED
from lib.studies.trained import (
    Bench,
    Readout,
    codes_readout,
    dense_readout,
    finetuned_encoder,
)
from lib.studies.trained_tables import (
    choose,
    contrasts_table,
    dead_shares,
    rates,
    results_of,
    search_ms,
    seed_means,
    systems_table,
)

DENSE_KINDS = (DENSE, TRUNCATED, MATRYOSHKA)
FACTORS = ("annealed", "supervised", "finetuned")
CHOSEN_AT = 8  # the k at which learning rate and gamma are chosen
GAMMAS = (0.1, 1.0)
BYTES_OF_A_LATENT, BYTES_OF_A_DIMENSION = 8, 4  # a number of int32 and a weight of float32; a float32


def cell(annealed: bool, supervised: bool, finetuned: bool) -> str:
    """Return what a cell of the ablation is called, all three CSRv2 and none of them CSR."""
    changes = [name for name, on in zip(FACTORS, (annealed, supervised, finetuned), strict=True) if on]
    return {0: CSR_FROZEN, 3: CSRV2}.get(len(changes), f"{CSR_FROZEN}, {' and '.join(changes)}")


def sized(system: str, size: int) -> str:
    """Return what a system is called with so many latents, or dimensions."""
    return f"{system}, {size}"


def dimensions(bench: Bench) -> list[int]:
    """Return the sizes that embeddings are cut to: powers of two, then the whole."""
    d = bench.base.d
    return [size for size in (2**i for i in range(1, 13)) if size < d] + [d]


def contrasts(bench: Bench) -> list[tuple[str, str]]:
    """Return the pairs of systems that are compared, named before any result."""
    pairs = [(sized(CSRV2, k), sized(CSR_FROZEN, k)) for k in bench.size.ks]
    for k in bench.size.ablated_ks:
        singles = [cell(*(factor == name for name in FACTORS)) for factor in FACTORS]
        pairs += [(sized(single, k), sized(CSR_FROZEN, k)) for single in singles]
    smallest, sizes = bench.size.ks[0], dimensions(bench)
    others = [sized(CSR_FROZEN, k) for k in bench.size.ks if k == 4 * smallest]
    others += [sized(MATRYOSHKA, size) for size in sizes if size == 16 * smallest]
    return pairs + [(sized(CSRV2, smallest), other) for other in others]


def on_embeddings(bench: Bench) -> dict:
    """Return what a run on stored embeddings changes in the configuration of all."""
    size = bench.size
    steps = round(size.csr_epochs * (len(bench.seen.doc_ids) // size.csr_batch))
    return {"steps": steps, "batch_size": size.csr_batch, "bf16": False}


def chosen_csr(bench: Bench) -> tuple[Csr, pd.DataFrame]:
    """Return CSR with the learning rate and gamma that rank training queries best at one k; and what was tried."""
    k = min(bench.size.ks, key=lambda k: abs(k - CHOSEN_AT))
    candidates = [
        Csr(width=bench.size.width, k=k, head_learning_rate=rate, dead_calls=bench.size.dead_calls, gamma=gamma)
        for rate, gamma in product(bench.size.head_rates, GAMMAS)
    ]
    return choose(bench, CSR_FROZEN, candidates, bench.base, **on_embeddings(bench))


def csr_study(bench: Bench) -> tuple[dict[str, pd.DataFrame], dict]:
    """Return tables by name, and what their provenance states.

    `csr` is `systems_table` against the whole embedding, with the columns kind, k (latents or dimensions), bytes (of a
    document), and median_ms, ms_low, ms_high of a query (`search_ms` of the documents of `_times`); in its last
    rows `dead` is the share of the latents that no text of the pairs has either. `csr_contrasts` is `contrasts_table`;
    `csr_tried` what was tried on training queries.
    """
    size = bench.size
    config = on_embeddings(bench)
    dense, dense_tried = choose(
        bench, MATRYOSHKA, rates(DenseControl(dims=tuple(dimensions(bench))), size.lora_rates), bench.base
    )
    csr, csr_tried = chosen_csr(bench)
    finetuned = finetuned_encoder(bench, dense, bench.base, bench.config())
    readouts = [dense_readout(bench, DENSE, bench.reader)]
    sizes: dict[str, tuple[str, int]] = {DENSE: (DENSE, bench.base.d)}
    for system, encoder in ((TRUNCATED, bench.reader), (MATRYOSHKA, finetuned)):
        for dims in dimensions(bench):
            readouts.append(truncated(dense_readout(bench, sized(system, dims), encoder), dims))
            sizes[sized(system, dims)] = system, dims
    for changes, k, seed in _runs(bench):
        annealed, supervised, is_finetuned = changes
        kind = replace(csr, k=k, annealed_from=max(k, size.annealed_from) if annealed else 0, supervised=supervised)
        base: TokenEncoder = finetuned if is_finetuned else bench.base
        name = sized(cell(*changes), k)
        readouts.append(codes_readout(bench, name, kind, base, bench.config(seed, **config)))
        sizes[name] = cell(*changes), k
    results = results_of(bench, readouts)
    table = systems_table(bench, results, DENSE)
    table = table.assign(
        kind=[sizes[name][0] for name in table["system"]], k=[sizes[name][1] for name in table["system"]]
    )
    is_dense = table["kind"].isin(DENSE_KINDS)
    table["bytes"] = table["k"] * np.where(is_dense, BYTES_OF_A_DIMENSION, BYTES_OF_A_LATENT)
    table = table.join(_times(bench, readouts), on="system")
    seen: dict[str, list] = {}
    for readout in (readout for readout in readouts if sizes[readout.name][0] not in DENSE_KINDS):
        seen.setdefault(readout.name, []).append({"df": document_frequency(readout.read(bench.seen)[0])})
    of_all, dead = table["collection"] == MEAN, dead_shares({**results, bench.seen.full_name: seen})
    table.loc[of_all, "dead"] = table.loc[of_all, "system"].map(dead)
    tables = {"csr": table, "csr_contrasts": contrasts_table(seed_means(results), contrasts(bench))}
    tables["csr_tried"] = pd.concat([dense_tried, csr_tried], ignore_index=True)
    return tables, bench.origin(csr=config, chosen={MATRYOSHKA: repr(dense), CSR_FROZEN: repr(csr)})


def _runs(bench: Bench) -> Iterator[tuple[tuple[bool, ...], int, int]]:
    """Yield the changes, the k and the seed of each run: all seeds of the ablation, one of the others."""
    for k in bench.size.ks:
        cells = product((False, True), repeat=3) if k in bench.size.ablated_ks else [(False,) * 3, (True,) * 3]
        seeds = range(bench.size.n_seeds) if k in bench.size.ablated_ks else range(1)
        for changes, seed in product(cells, seeds):
            yield changes, k, seed


def truncated(readout: Readout, dims: int) -> Readout:
    """Return the first dimensions of embeddings, scaled to norm 1."""

    def read(collection: Collection) -> tuple[np.ndarray, np.ndarray]:
        sides = [rows[:, :dims] for rows in readout.read(collection)]
        docs, queries = (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12) for rows in sides)
        return docs, queries

    return readout._replace(identity=readout.identity | {"dims": dims}, read=read)


def _times(bench: Bench, readouts: list[Readout]) -> pd.DataFrame:
    """Return the times of sparse rows' search, a row a system, of the first seed.

    The documents are those of the largest collection, over and over, each copy times a number of its own from 0.9 to 1:
    equal documents would have equal scores, and a search for the best stops at none of them.
    """
    collection = max(bench.collections, key=lambda each: len(each.doc_ids))
    rows = {}
    for readout in readouts:
        docs, queries = readout.read(collection) if readout.name not in rows else (None, None)
        if isinstance(docs, csr_array):
            rng, n_docs = np.random.default_rng(0), bench.size.timed.n_docs
            starts = range(0, n_docs, docs.shape[0])
            factors = [rng.uniform(0.9, 1, docs.shape[0])[: n_docs - start] for start in starts]
            blocks = [diags_array(of_docs.astype(np.float32)) @ docs[: len(of_docs)] for of_docs in factors]
            rows[readout.name] = search_ms(bench, blocks, queries, inner_product_index)
    return pd.DataFrame.from_dict(rows, "index")
