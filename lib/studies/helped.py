"""Study `73_helped`: whether a teacher, an autoencoder that was trained before, or BM25 helps what is trained.

The rule stands in `lib.studies.trained`.

Beside it, of 2026-11-30, before any result. In 70 and 71 a query is told from its batch, and the joint autoencoder
starts at random. Here the same pairs are trained on with what the papers add, each help beside the same training
without it, all on one machine and with one seed, 0, but where it says so:

- *Teacher*: the cosines of all-mpnet-base-v2 with the positive and four mined negatives, of BM25 over words and over
  the packaged model's latents in turn, are learned by KL as in SPLARE. The batch's other texts are no candidates then.
  For SPLARE, its control and the dense retriever, by LoRA; learning rates are chosen as in 70, for each of the six by
  itself.
- *Start*: joint training starts from CSR's autoencoder, or, over tokens, from one of the untrained retriever's tokens,
  which like the unstarted one reads states of one norm (it takes off their mean, too). Learning rates of embeddings are
  chosen as in 71, with and without the start; over tokens the smaller rate of the autoencoder is taken, and the
  retriever's chosen. A started one has seen its texts before: CSR five times, that of tokens another text. What is
  compared is what is gained by the minute of training the retriever. The dense control is trained as a whole, as in 71.
  Over tokens, the root of the sum of a latent stands beside its maximum, without a start (added later that day).
- *CSRv2's retriever*: in 72 one was finetuned first and then read. Here three are, one a seed, and beside them
  stands the kind `csrv2`, whose retriever and autoencoder are trained at once, each text once; with learning rates of
  the retriever chosen at the smallest k. Three seeds of CSR and of both CSRv2.
- *BM25*, added later that day, before its results: SPLARE's rows are ranked by BM25 in the place of the inner product,
  whole, pruned as SPLARE prunes, and pruned to the 80 of a query's latents with the largest weight times (Lucene's) idf
  and the 400 largest of a document. Tuned latent terms, for which nothing is trained, are pruned so, too. BM25's
  constants are chosen for each by itself on training queries, by the grid of `tune_bm25`. There, before this rule,
  40, 60 and 80 had been looked at, by hand: the more the better, and with 80 an eighth is read of what latent terms
  read. `helped_latency` times all of these, and SPLARE by the inner product, among as many grown documents as in 70.

A help is said to help where the interval of its difference lies above 0.
"""

from dataclasses import asdict, replace
from typing import NamedTuple

import pandas as pd

from lib.latent_terms import LatentTerms
from lib.learned.autoencoders import Bottleneck, CsrV2
from lib.learned.kind import Kind
from lib.learned.models import DenseControl
from lib.studies import names
from lib.studies.bottleneck import joint_rates
from lib.studies.csr import chosen_csr, dimensions, on_embeddings, sized
from lib.studies.splare import latency, lora_kinds, tuned_bm25, untrained_readouts
from lib.studies.sweeps import autoencoders, study_recipe
from lib.studies.trained import (
    Bench,
    Readout,
    codes_readout,
    finetuned_encoder,
    trained_readout,
    whole_and_pruned,
)
from lib.studies.trained_tables import choose, contrasts_table, rates, results_of, seed_means, systems_table, with_fvu

TRAINED = (names.TRAINED_DENSE, names.TRAINED_WORDS, names.TRAINED_SPLARE)
STARTED = {system: names.helped(system, names.START) for system in (names.JOINT, names.JOINT_TOKENS)}


class Part(NamedTuple):
    """Systems of the study, what was tried for them on training queries, and what was chosen by system."""

    readouts: list[Readout]
    tried: list[pd.DataFrame]
    chosen: dict[str, Kind]


def contrasts(bench: Bench) -> list[tuple[str, str]]:
    """Return the pairs of systems that are compared, named before any result."""
    top, pairs = bench.size.top, []
    for system in TRAINED:
        pairs.append((names.helped(system, names.TEACHER), system))
    dense, words, splare = (names.helped(system, names.TEACHER) for system in TRAINED)
    pairs += [(splare, dense), (splare, words), (names.pruned(splare, *top), names.pruned(words, *top))]
    pairs += [(names.pruned(splare, *top), names.TUNED)]
    by_bm25 = names.pruned(names.BM25_OF_SPLARE, *top)
    by_idf = [names.pruned_by_idf(system, *bench.size.top_by_idf) for system in (names.BM25_OF_SPLARE, names.TUNED)]
    pairs += [(names.BM25_OF_SPLARE, names.TRAINED_SPLARE), (by_bm25, names.pruned(names.TRAINED_SPLARE, *top))]
    pairs += [(system, names.TUNED) for system in (names.BM25_OF_SPLARE, by_bm25, *by_idf)] + [(by_idf[0], by_idf[1])]
    for system, started in STARTED.items():
        pairs += [(started, system), (started, names.WHOLE_DENSE)]
    pairs += [(names.JOINT_SUMS, names.JOINT_TOKENS), (names.JOINT_SUMS, names.WHOLE_DENSE)]
    of_tokens = STARTED[names.JOINT_TOKENS]
    pairs += [(STARTED[names.JOINT], names.CSR_FROZEN), (of_tokens, names.TUNED)]
    pairs += [(names.pruned(of_tokens, *top), names.pruned(names.JOINT_TOKENS, *top))]
    for k in bench.size.ablated_ks:
        csr, second, at_once = (sized(system, k) for system in (names.CSR_FROZEN, names.CSRV2, names.CSRV2_AT_ONCE))
        pairs += [(second, csr), (at_once, csr), (at_once, second)]
    return pairs


def helped_study(bench: Bench) -> tuple[dict[str, pd.DataFrame], dict]:
    """Return tables by name, and what their provenance states.

    `helped` is `systems_table` against the dense retriever that LoRA finetuned, with fvu, `helped_contrasts` is
    `contrasts_table`, `helped_tried` what was tried on training queries, and `helped_latency` that of
    `splare.latency`.
    """
    size = bench.size
    plain = replace(bench, size=replace(size, n_negatives=0, teachers=()))
    taught = replace(bench, size=replace(size, n_negatives=size.help_negatives, teachers=size.help_teachers))
    parts = [_by_lora(plain, ""), _by_lora(taught, names.TEACHER), _joint(plain), _csr(plain)]
    readouts = untrained_readouts(plain) + [readout for part in parts for readout in part.readouts]
    by_name = {readout.name: readout for readout in readouts}
    splare = by_name[names.TRAINED_SPLARE], by_name[names.pruned(names.TRAINED_SPLARE, *size.top)]
    by_bm25 = _by_bm25(plain, by_name[names.TUNED], splare[0])
    readouts += by_bm25
    chosen: dict = {system: repr(kind) for part in parts for system, kind in part.chosen.items()}
    chosen |= {readout.name: asdict(readout.bm25) for readout in by_bm25}
    results = results_of(plain, readouts)
    tables = {
        "helped": with_fvu(plain, systems_table(plain, results, names.TRAINED_DENSE), readouts),
        "helped_contrasts": contrasts_table(seed_means(results), contrasts(plain)),
        "helped_latency": latency(plain, [by_name[names.TUNED], by_bm25[-1], *splare, *by_bm25[:-1]]),
        "helped_tried": pd.concat([table for part in parts for table in part.tried], ignore_index=True),
    }
    data = {"pairs_with_negatives": taught.data.pairs.digest, "teacher_of_helps": taught.data.teacher.teacher}
    return tables, plain.origin(chosen=chosen, **data)


def _by_lora(bench: Bench, by: str) -> Part:
    """Return what is trained by LoRA, named after what helps it."""
    kinds, tried = lora_kinds(bench)
    part = Part([], [tried.assign(system=[names.helped(system, by) for system in tried["system"]])], {})
    for system, (kind, base) in kinds.items():
        name = names.helped(system, by)
        part.chosen[name] = kind
        readout = trained_readout(bench, name, kind, base, bench.config())
        part.readouts.extend(whole_and_pruned(bench, readout) if readout.top else [readout])
    return part


def _by_bm25(bench: Bench, terms: Readout, splare: Readout) -> list[Readout]:
    """Return what is ranked by BM25 beside `terms`: SPLARE's rows without help, and pruned terms the last."""
    top = bench.size.top_by_idf
    splare = splare._replace(name=names.BM25_OF_SPLARE)
    readouts = whole_and_pruned(bench, splare)
    for readout in (splare, terms):
        readouts.append(readout._replace(name=names.pruned_by_idf(readout.name, *top), top=top, by_idf=True))
    return [readout._replace(bm25=tuned_bm25(bench, readout)) for readout in readouts]


def _joint(bench: Bench) -> Part:
    """Return joint training from random directions and from trained ones, its control, and CSR, where one starts."""
    size, config = bench.size, bench.config(**on_embeddings(bench))
    csr, csr_tried = chosen_csr(bench)
    csr = replace(csr, k=size.k)
    codes = codes_readout(bench, names.CSR_FROZEN, csr, bench.base, config)
    of_csr = finetuned_encoder(bench, csr, bench.base, config)  # trained again: of the other run its codes are left
    recipe = study_recipe(bench.setting, bench.base, width=size.widths[0], normalisation="per-token")
    of_states = LatentTerms(bench.base, autoencoders([recipe], bench.store)[0])
    kind = Bottleneck(width=size.width, k=size.k, dead_calls=size.dead_calls, dead_tokens=size.dead_tokens)
    head = {"head_learning_rate": size.joint_head_rates[0]}
    of_tokens = replace(kind, width=size.widths[0], k=size.sae.k, pooling="max_log1p", **head)
    part = Part([codes], [csr_tried], {names.CSR_FROZEN: csr})
    for system, candidates, base in (
        (names.WHOLE_DENSE, rates(DenseControl(rank=0), size.whole_rates), bench.base),
        (names.JOINT, joint_rates(bench, kind), bench.base),
        (STARTED[names.JOINT], joint_rates(bench, replace(kind, started=True)), of_csr),
        (names.JOINT_TOKENS, rates(of_tokens, size.whole_rates), bench.base),
        (names.JOINT_SUMS, rates(replace(of_tokens, pooling="sum_sqrt"), size.whole_rates), bench.base),
        (STARTED[names.JOINT_TOKENS], rates(replace(of_tokens, started=True), size.whole_rates), of_states),
    ):
        part.chosen[system], tried = choose(bench, system, candidates, base)
        part.tried.append(tried)
        readout = trained_readout(bench, system, part.chosen[system], base, bench.config())
        part.readouts.extend(whole_and_pruned(bench, readout) if readout.model else [readout])
    return part


def _csr(bench: Bench) -> Part:
    """Return CSR and both forms of CSRv2 at the smallest k, all seeds."""
    size = bench.size
    csr, _ = chosen_csr(bench)
    cut = DenseControl(dims=tuple(dimensions(bench)))
    dense, tried = choose(bench, names.MATRYOSHKA, rates(cut, size.lora_rates), bench.base)
    frozen = {field: getattr(csr, field) for field in ("width", "head_learning_rate", "dead_calls", "gamma")}
    at_once = CsrV2(k=size.ablated_ks[0], annealed_from=size.annealed_from, **frozen)
    at_once, tried_at_once = choose(bench, names.CSRV2_AT_ONCE, rates(at_once, size.whole_rates), bench.base)
    readouts = []
    for seed in range(size.n_seeds):
        run, on_stored = bench.config(seed), bench.config(seed, **on_embeddings(bench))
        finetuned = finetuned_encoder(bench, dense, bench.base, run)
        for k in size.ablated_ks:
            second = replace(csr, k=k, annealed_from=max(k, size.annealed_from), supervised=True)
            readouts += [
                codes_readout(bench, sized(names.CSR_FROZEN, k), replace(csr, k=k), bench.base, on_stored),
                codes_readout(bench, sized(names.CSRV2, k), second, finetuned, on_stored),
                trained_readout(bench, sized(names.CSRV2_AT_ONCE, k), replace(at_once, k=k), bench.base, run),
            ]
    chosen = {names.MATRYOSHKA: dense, names.CSRV2_AT_ONCE: at_once}
    return Part(readouts, [tried, tried_at_once], chosen)
