"""Study `71_bottleneck`: whether training the retriever and the autoencoder together beats either alone.

The rule stands in `lib.studies.trained`.

Beside it, of 2026-11-29: six ways to a sparse vector are ranked, all of one retriever and one set of pairs: the dense
one, finetuned, without an autoencoder; the trained vocabulary; autoencoders afterwards, of the finetuned retriever's
embeddings and of the untrained one's tokens; CSR; SPLARE; and joint training, of embeddings and of tokens. The joint
one is compared with each of the others (`contrasts`).

Of 2026-11-30, when one seed of joint training of tokens, with the learning rate of the joint one of embeddings, had
ranked as the finetuned dense retriever does: it has a learning rate of its own, chosen as all others are, and as many
seeds; it is compared with the dense retrievers and with SPLARE, also with the largest weights only, as many as SPLARE
keeps. Later that day, before their results: lambda and k are changed, too, and CSR has the learning rate and gamma that
72 chooses, as have the autoencoders of embeddings that are trained afterwards, but for gamma. Still later, when it had
been seen that CSR's learning rate was tuned and that of the joint ones' autoencoders was not: two of these are tried
with each of the retriever's. What was trained without AuxK is trained again (`lib.studies.trained`, *Repeated*).

The joint autoencoder starts at random and sees each text of the pairs once, that of CSR and those trained afterwards
see it five times in larger batches: what is compared is what one budget of minutes for the retriever gives, not equal
training of the autoencoders.
"""

from dataclasses import replace

import pandas as pd

from lib.latent_terms import LatentTerms
from lib.learned.autoencoders import Bottleneck
from lib.learned.log import losses
from lib.learned.models import DenseControl
from lib.studies import names
from lib.studies.csr import chosen_csr, on_embeddings
from lib.studies.splare import lora_kinds
from lib.studies.trained import (
    Bench,
    codes_readout,
    dense_readout,
    finetuned_encoder,
    token_readout,
    trained,
    trained_readout,
    whole_and_pruned,
)
from lib.studies.trained_tables import (
    choose,
    contrasts_table,
    rates,
    results_of,
    seed_means,
    systems_table,
    with_fvu,
)

OTHERS = (
    *(names.TRAINED_DENSE, names.TRAINED_WORDS, names.AFTER_EMBEDDINGS, names.AFTER_TOKENS, names.CSR_FROZEN),
    *(names.TRAINED_SPLARE, names.JOINT_TOKENS),
)


def contrasts(bench: Bench) -> list[tuple[str, str]]:
    """Return the pairs of systems that are compared, named before any result but the one that the rule names."""
    joint = [(names.JOINT, other) for other in OTHERS] + [(names.TRAINED_DENSE, names.DENSE)]
    splare, tokens = (names.pruned(system, *bench.size.top) for system in (names.TRAINED_SPLARE, names.JOINT_TOKENS))
    others = (names.TRAINED_DENSE, names.DENSE, names.TRAINED_SPLARE, names.TRAINED_WORDS)
    return [*joint, *((names.JOINT_TOKENS, other) for other in others), (tokens, names.JOINT_TOKENS), (tokens, splare)]


def bottleneck_study(bench: Bench) -> tuple[dict[str, pd.DataFrame], dict]:
    """Return tables by name, and what their provenance states.

    `bottleneck` is `systems_table` against the finetuned dense retriever, with fvu, the share of the variance of the
    documents' embeddings that the autoencoder leaves unexplained; `bottleneck_contrasts` is `contrasts_table`;
    `bottleneck_tried` what was tried on training queries; `bottleneck_ablation` changes alpha, lambda and k one at a
    time, of seed 0, against none of these changes, with the columns field and value; `bottleneck_losses` are the logged
    `losses` of the three whose retriever is trained as a whole, of seed 0.
    """
    size, reader = bench.size, bench.reader
    dense, dense_tried = choose(
        bench,
        names.TRAINED_DENSE,
        rates(DenseControl(rank=0), size.whole_rates),
        bench.base,
    )
    dead = {"dead_calls": size.dead_calls, "dead_tokens": size.dead_tokens}
    of_embeddings = Bottleneck(width=size.width, k=size.k, **dead)
    joint, joint_tried = choose(bench, names.JOINT, joint_rates(bench, of_embeddings), bench.base)
    kinds, lora_tried = lora_kinds(bench, dense=False)
    of_tokens, tokens_tried = choose(
        bench,
        names.JOINT_TOKENS,
        joint_rates(bench, replace(of_embeddings, width=size.widths[0], k=size.sae.k, pooling="max_log1p")),
        bench.base,
    )
    csr, csr_tried = chosen_csr(bench)
    csr, config = replace(csr, k=size.k), on_embeddings(bench)
    readouts = [
        dense_readout(bench, names.DENSE, reader),
        token_readout(bench, names.AFTER_TOKENS, LatentTerms(reader, bench.model().sae, "max", "log1p")),
    ]
    for seed in range(size.n_seeds):
        run = bench.config(seed)
        finetuned = finetuned_encoder(bench, dense, bench.base, run)
        afterwards = replace(csr, gamma=0.0)
        readouts += [
            dense_readout(bench, names.TRAINED_DENSE, finetuned),
            codes_readout(bench, names.AFTER_EMBEDDINGS, afterwards, finetuned, bench.config(seed, **config)),
            codes_readout(bench, names.CSR_FROZEN, csr, bench.base, bench.config(seed, **config)),
            trained_readout(bench, names.JOINT, joint, bench.base, run),
        ]
        for system, kind, base in (
            (names.JOINT_TOKENS, of_tokens, bench.base),
            (names.TRAINED_SPLARE, *kinds[names.TRAINED_SPLARE]),
            (names.TRAINED_WORDS, *kinds[names.TRAINED_WORDS]),
        ):
            both = whole_and_pruned(bench, trained_readout(bench, system, kind, base, run))
            readouts += both[:1] if system == names.TRAINED_WORDS else both
    results = results_of(bench, readouts)
    whole = {names.TRAINED_DENSE: dense, names.JOINT: joint, names.JOINT_TOKENS: of_tokens}
    logged = [
        losses(trained(bench, kind, bench.base, bench.config())).assign(system=system) for system, kind in whole.items()
    ]
    tried = [dense_tried, joint_tried, tokens_tried, lora_tried, csr_tried]
    tables = {
        "bottleneck": with_fvu(bench, systems_table(bench, results, names.TRAINED_DENSE), readouts),
        "bottleneck_contrasts": contrasts_table(seed_means(results), contrasts(bench)),
        "bottleneck_tried": pd.concat(tried, ignore_index=True),
        "bottleneck_ablation": ablation(bench, joint),
        "bottleneck_losses": pd.concat(logged, ignore_index=True),
    }
    chosen: dict = whole | {names.CSR_FROZEN: csr} | {system: kind for system, (kind, _) in kinds.items()}
    return tables, bench.origin(csr=config, chosen={system: repr(kind) for system, kind in chosen.items()})


def joint_rates(bench: Bench, kind: Bottleneck) -> list[Bottleneck]:
    """Return a kind with each learning rate of the retriever and of the autoencoder."""
    kinds = [replace(kind, head_learning_rate=rate) for rate in bench.size.joint_head_rates]
    return [each for kind in kinds for each in rates(kind, bench.size.whole_rates)]


def ablation(bench: Bench, joint: Bottleneck) -> pd.DataFrame:
    """Change alpha, lambda (of both sides) and k of the joint training, one at a time."""
    changes: list[tuple[str, float, dict]] = [("none", 0, {})]
    changes += [("alpha", alpha, {"alpha": alpha}) for alpha in bench.size.alphas]
    changes += [("lambda", weight, {"flops": (weight, weight)}) for weight in bench.size.lambdas]
    changes += [("k", k, {"k": k}) for k in bench.size.ks_ablated]
    labels = {f"{field} {value:g}" if field != "none" else names.JOINT: (field, value) for field, value, _ in changes}
    readouts = [
        trained_readout(bench, name, replace(joint, **change), bench.base, bench.config())
        for name, (_, _, change) in zip(labels, changes, strict=True)
    ]
    table = systems_table(bench, results_of(bench, readouts), names.JOINT)
    fields, values = zip(*(labels[system] for system in table["system"]), strict=True)
    return with_fvu(bench, table.assign(field=fields, value=values), readouts)
