"""Training of retrievers on pairs, by the trainers of sentence-transformers."""

import json
import warnings
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    SparseEncoder,
    SparseEncoderTrainer,
    SparseEncoderTrainingArguments,
)
from sentence_transformers.base.evaluation import BaseEvaluator
from sentence_transformers.base.sampler import BatchSamplers, NoDuplicatesBatchSampler
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from sentence_transformers.sparse_encoder.callbacks.splade_callbacks import SpladeRegularizerWeightSchedulerCallback
from sentence_transformers.sparse_encoder.evaluation import SparseInformationRetrievalEvaluator
from sentence_transformers.sparse_encoder.losses import SpladeLoss
from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder
from transformers import PrinterCallback, TrainerCallback, TrainerState

from lib.data.collection import Collection
from lib.encode.encoder import TokenEncoder
from lib.evaluation.tuning import check_training
from lib.interop import optional_module
from lib.interop.conversion import load_sparse_encoder
from lib.interop.modules import SparseAutoEncoderTokenEncoder, SparseTokenPooling
from lib.interop.modules.features import origin_of, public_name
from lib.latent_terms import MANIFEST, LatentTerms, packaged_models
from lib.learned import RUN
from lib.learned.kind import Kind, Model
from lib.learned.log import LOG, Progress
from lib.learned.losses import LossState
from lib.learned.models import KINDS
from lib.learned.pairs import Pairs
from lib.learned.teachers import TeacherScores
from lib.sae.trainer import check_same
from lib.support.checks import check_count, check_integer
from lib.support.files import make_folder, remove, replacing, user_path
from lib.support.folders import digest_json
from lib.support.locks import locked
from lib.support.progress import progress
from lib.support.store import Store

CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class FinetuneConfig:
    """How a retriever is trained, whatever its kind. Raises TypeError or ValueError for values that are not allowed.

    Attributes
    ----------
    epochs : float
        How often each pair is seen.
    steps : int
        Batches after which the training ends, instead of the epochs; 0 leaves that to them.
    batch_size : int
        Pairs of a batch. Unless there is a teacher, no two share a text, and none has a text that answers another's
        query in any pair. A last batch with fewer is left out.
    max_length : int
        Tokens of a text that are read in training, at most. The finished model reads as many as the retriever.
    warmup : float
        Share of the steps over which the learning rates rise; then they fall to 0 along a line.
    flops_warmup : float
        Share of the steps over which the weights of FLOPS rise, as the square of the step.
    teacher_temperature : float
        What a teacher's scores are divided by: with 0.5, a candidate that is one standard deviation better is e^2 times
        as likely.
    every : int
        Steps between two checkpoints, and between two evaluations.
    bf16 : bool
        Whether products are computed in bfloat16, which takes little more than half the time where the machine has it.
    seed : int
        Seed of new weights and of the order of the pairs.
    """

    epochs: float = 1.0
    steps: int = 0
    batch_size: int = 32
    max_length: int = 128
    warmup: float = 0.1
    flops_warmup: float = 1 / 3
    teacher_temperature: float = 0.5
    every: int = 100
    bf16: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        for name in ("batch_size", "max_length", "every"):
            object.__setattr__(self, name, check_count(getattr(self, name), name))
        for name in ("steps", "seed"):
            object.__setattr__(self, name, check_integer(getattr(self, name), name))
        for name in ("epochs", "teacher_temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0.")
        for name in ("warmup", "flops_warmup"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be a share of the steps, such as 0.1.")


def finetune(
    kind: Kind | str,
    pairs: Pairs,
    out: str | Path,
    *,
    base: LatentTerms | TokenEncoder | str | Path | None = None,
    config: FinetuneConfig | None = None,
    teacher: TeacherScores | None = None,
    dev: Collection | None = None,
    store: Store | None = None,
) -> Model:
    """Train a retriever of a kind on pairs and save it to the folder `out`; return it as it was saved.

    The folder stands on its own, with LoRA merged into the retriever's weights: `LearnedRetriever.load(out)` reads it,
    and `SparseEncoder(out, trust_remote_code=True)` of sentence-transformers; `TokenEncoder(out)` and
    `SentenceTransformer(out)` read a dense one. `finetuned.json` says by digests what it
    was made of; `training_log.jsonl` has losses. The same call continues after an interruption from the last
    checkpoint, and on one machine with equally many threads ends at the same weights. Checkpoints are the trainer's,
    with files of torch beside the weights; they are removed at the end.

    Raises TypeError or ValueError for settings that are not allowed, fewer pairs than a batch, or none that make one
    without a text in common, a base that the kind cannot be made of (such as an autoencoder of another layer), a
    teacher that scored other pairs, a `dev` of no split train or dev, and a folder that holds another run (the fields
    that differ are named); ImportError without the extra `learned`; FloatingPointError for a loss that is not finite,
    before which the last checkpoint stays; TimeoutError if another process trains into the folder.

    Parameters
    ----------
    kind : Kind or str
        Such as `Splare(top=(40, 400))`, or a name in `lib.learned.models.KINDS` for the defaults.
    pairs : Pairs
    out : str or Path
    base : LatentTerms, TokenEncoder, str or Path, optional
        The retriever, with its autoencoder where the kind reads one, or the folder or name of one of both; None is the
        packaged model.
    config : FinetuneConfig, optional
    teacher : TeacherScores, optional
        Scores of these pairs' candidates, which the model learns to reproduce (KL); without one, it learns to tell a
        query's positive from all other texts of a batch.
    dev : Collection, optional
        A small one, not of test queries, that is ranked every `config.every` steps; the best state is what is saved,
        and a warning says if the untrained one ranked better.
    store : Store, optional
        Where embeddings are kept for kinds that do not train the retriever.
    """
    kind = KINDS[kind]() if isinstance(kind, str) and kind in KINDS else kind
    if not isinstance(kind, Kind):
        raise ValueError(f"kind is {kind!r}; give a kind of lib.learned.models or one of {', '.join(KINDS)}.")
    config, out = config or FinetuneConfig(), user_path(out)
    if dev is not None:
        check_training([dev])
    columns = _columns(kind, pairs, teacher, config.batch_size)
    _check_trainer()
    base = load_base(base)
    run = run_identity(kind, base, pairs, config, teacher, dev)
    earlier = json.loads((out / RUN).read_text("utf-8")) if (out / RUN).is_file() else None
    if earlier is not None:
        check_same(earlier["run"], run, out)
        if earlier["finished"]:
            return load_finetuned(out)  # as it is
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = kind.build(base)
    with locked(make_folder(out), limit=0):
        _write_run(out, run, finished=False)
        limit = model.max_seq_length
        model.max_seq_length = min(limit, config.max_length)
        reader = {name: run[name] for name in ("retriever", "autoencoder")}  # a start brings modules of its own
        trained = _head(model, columns, store or Store(), reader) if kind.frozen else model
        trainer = _trainer(kind, model, trained, columns, out, config, teacher is not None, dev)
        trainer.train(resume_from_checkpoint=_last_checkpoint(out / CHECKPOINTS))
        _check_ended(trainer.state, config.batch_size)
        model.max_seq_length = limit
        _finish(model)
        model.save_pretrained(str(out))
        _write_run(out, run, finished=True)
        remove(out / CHECKPOINTS)
        return model


def check_before(
    kind: Kind, pairs: Pairs, out: str | Path, base: LatentTerms | TokenEncoder, config: FinetuneConfig, taught: bool
) -> None:
    """Raise what `finetune` would, before negatives are mined and a teacher, if there is one, scores them.

    Of a folder that holds another run, all but pairs, teacher and dev is compared.
    """
    _columns(kind, pairs, None, config.batch_size)
    if taught:
        _check_taught(kind)
    _check_trainer()
    kind.build(base)
    if (path := user_path(out) / RUN).is_file():
        runs = json.loads(path.read_text("utf-8"))["run"], run_identity(kind, base, pairs, config)
        old, new = ({key: run[key] for key in run if key not in ("pairs", "teacher", "dev")} for run in runs)
        check_same(old, new, user_path(out))


def _check_ended(state: TrainerState, batch_size: int) -> None:
    """Say what a run that ended did not do: all of its steps, or to rank better than before."""
    if state.global_step < state.max_steps:
        message = f"Training ended after {state.global_step} of {state.max_steps} steps: too few pairs have no text in "
        message += f"common to fill batches of {batch_size}; give a smaller batch_size, or fewer negatives."
        if not state.global_step:
            raise ValueError(message)
        warnings.warn(message, stacklevel=3)
    values = [row[name] for row in state.log_history for name in row if name.endswith("ndcg@10")]
    if values[1:] and values[0] > max(values[1:]):
        message = f"nDCG@10 of dev was {values[0]:.3f} before training and is {max(values[1:]):.3f} of the best state, "
        warnings.warn(f"{message}which is saved; lower the learning rate, or add pairs.", stacklevel=3)


def _check_trainer() -> None:
    for module in ("accelerate", "datasets"):
        optional_module(module, "trainer")


def is_finished(folder: str | Path) -> bool:
    """Whether `finetune` has finished in a folder."""
    path = user_path(folder) / RUN
    return path.is_file() and json.loads(path.read_text("utf-8"))["finished"]


def _columns(kind: Kind, pairs: Pairs, teacher: TeacherScores | None, batch_size: int) -> dict[str, list]:
    """Return the columns of the training data; ValueError for too few, and for a teacher that does not fit."""
    columns: dict[str, list] = {**kind.columns(pairs)}
    if (n := len(columns["query"])) < batch_size:
        raise ValueError(f"There are {n} pairs, fewer than a batch of {batch_size}; add some.")
    if teacher is None:
        return columns
    teacher.check_belongs_to(pairs)
    _check_taught(kind)
    return columns | {"label": teacher.values.tolist()}


def _check_taught(kind: Kind) -> None:
    if not kind.reads_pairs:
        raise ValueError(f"{kind} learns from each text alone and from no teacher; set supervised=True, or drop it.")


def load_finetuned(folder: str | Path) -> Model:
    """Return the model that `finetune` has saved, of the type that it returns; errors as `load_sparse_encoder`."""
    folder = user_path(folder)
    config = json.loads((folder / "config_sentence_transformers.json").read_text("utf-8"))
    if config["model_type"] == SentenceTransformer.__name__:
        return SentenceTransformer(str(folder), local_files_only=True)
    return load_sparse_encoder(folder)


def load_base(base: LatentTerms | TokenEncoder | str | Path | None) -> LatentTerms | TokenEncoder:
    """Return what `finetune` takes for `base`: a `LatentTerms` if its name or folder has one, else the retriever."""
    if isinstance(base, LatentTerms | TokenEncoder):
        return base
    is_model = base is None or base in packaged_models() or (user_path(base) / MANIFEST).is_file()
    return LatentTerms.load(base, dtype="float32") if is_model else TokenEncoder(base, dtype="float32")


def run_identity(
    kind: Kind,
    base: LatentTerms | TokenEncoder,
    pairs: Pairs,
    config: FinetuneConfig,
    teacher: TeacherScores | None = None,
    dev: Collection | None = None,
) -> dict[str, Any]:
    """Return everything that decides the trained weights, JSON-able."""
    encoder = base.encoder if isinstance(base, LatentTerms) else base
    run = {
        "kind": type(kind).__name__,
        "settings": asdict(kind),
        "config": asdict(config),
        "retriever": encoder.identity | {"model": public_name(encoder.name)},
        "autoencoder": kind.start(base),
        "pairs": {"n": len(pairs), "n_negatives": pairs.n_negatives, "sha256": pairs.digest},
        "teacher": None if teacher is None else teacher.digest,
        "dev": None if dev is None else dev.identity,
    }
    return json.loads(json.dumps(run))


def _write_run(folder: Path, run: dict[str, Any], finished: bool) -> None:
    with replacing(folder / RUN) as temporary:
        temporary.write_text(json.dumps({"run": run, "finished": finished}, indent=2) + "\n", "utf-8")


def _trainer(
    kind: Kind,
    model: Model,
    trained: Model,
    columns: dict[str, list],
    out: Path,
    config: FinetuneConfig,
    distilled: bool,
    dev: Collection | None,
) -> SentenceTransformerTrainer | SparseEncoderTrainer:
    """Return the trainer of `trained`, `model` or what is trained of it."""
    sparse = isinstance(model, SparseEncoder)
    evaluator = None if dev is None else _evaluator(dev, model)
    loss = kind.loss(trained, config.teacher_temperature if distilled else None)
    callbacks = [_FiniteWeights(), Progress(out / LOG), LossState(loss), *kind.callbacks(model)]
    if isinstance(loss, SpladeLoss):
        callbacks.append(SpladeRegularizerWeightSchedulerCallback(loss, warmup_ratio=config.flops_warmup))
    trainer = _finite(SparseEncoderTrainer if sparse else SentenceTransformerTrainer)(
        model=trained,
        args=_arguments(kind, model, columns, out, config, evaluator),
        train_dataset=optional_module("datasets", "trainer").Dataset.from_dict(columns),
        loss=loss,
        evaluator=evaluator,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _arguments(
    kind: Kind, model: Model, columns: dict[str, list], out: Path, config: FinetuneConfig, evaluator
) -> SentenceTransformerTrainingArguments:
    sparse = isinstance(model, SparseEncoder)
    settings: dict[str, Any] = {}
    if evaluator is not None:
        metric = f"eval_{evaluator.metric}"
        settings = {"eval_strategy": "steps", "eval_steps": config.every, "eval_on_start": True}
        settings |= {"load_best_model_at_end": True, "metric_for_best_model": metric, "greater_is_better": True}
    prompts = {name: prompt for name in columns if (prompt := _prompt(model, name))}
    return (SparseEncoderTrainingArguments if sparse else SentenceTransformerTrainingArguments)(
        output_dir=str(out / CHECKPOINTS),
        num_train_epochs=config.epochs,
        max_steps=config.steps or -1,
        per_device_train_batch_size=config.batch_size,
        warmup_steps=config.warmup,
        # without a teacher, all texts of a batch but a query's positive are its negatives
        batch_sampler=BatchSamplers.BATCH_SAMPLER if "label" in columns else NoFalseNegatives,
        dataloader_drop_last=True,
        prompts=prompts or None,
        save_strategy="steps",
        save_steps=config.every,
        save_total_limit=2,
        logging_steps=max(1, config.every // 10),
        seed=config.seed,
        bf16=config.bf16,
        use_cpu=model.device.type == "cpu",
        report_to="none",
        disable_tqdm=True,
        **kind.learning_rates,
        **settings,
    )


class NoFalseNegatives(NoDuplicatesBatchSampler):
    """Batches in which no row has a text of another, nor a text that answers another's query in any row."""

    def __init__(self, dataset, **settings):
        super().__init__(dataset, **settings)
        positives = defaultdict(set)
        for query, positive in zip(dataset["query"], dataset["positive"], strict=True):
            positives[query].add(positive)
        # the rows that are compared, with columns for all positives of their queries
        self.dataset = [
            {**row, **{f"positive_{i}": text for i, text in enumerate(sorted(positives[row["query"]]))}}
            for row in self.dataset
        ]


def _last_checkpoint(folder: Path) -> str | None:
    """Return the last checkpoint that is complete (`LossState`)."""
    complete = [path.parent for path in folder.glob(f"checkpoint-*/{LossState.file_name}")]
    return str(max(complete, key=lambda path: int(path.name.rpartition("-")[2]))) if complete else None


def _finite(kind: type) -> type:
    """Return a trainer that stops, before it takes a step, at a loss that is not finite."""

    class FiniteTrainer(kind):
        def compute_loss(self, *args, **kwargs):
            loss = super().compute_loss(*args, **kwargs)
            value = loss[0] if isinstance(loss, tuple) else loss
            if not torch.isfinite(value):
                raise _diverged(f"The loss of step {self.state.global_step + 1} is {value.item()}", self.args)
            return loss

    return FiniteTrainer


def _diverged(what: str, args) -> FloatingPointError:
    last = _last_checkpoint(Path(args.output_dir))
    state = "there is no checkpoint yet" if last is None else f"the last checkpoint is {last}"
    return FloatingPointError(f"{what}; {state}. Lower the learning rate, the scale or alpha, into another folder.")


class _FiniteWeights(TrainerCallback):
    """Has no checkpoint written of weights that are not finite, as gradients of a finite loss may leave them."""

    def on_step_end(self, args, state, control, model=None, **kwargs) -> None:
        if control.should_save:
            for name, weight in model.named_parameters():
                if not torch.isfinite(weight).all():
                    raise _diverged(f"After step {state.global_step}, {name} holds NaN or infinity", args)


class _Evaluator(BaseEvaluator):
    """Evaluates one model, whatever part of it a trainer trains; `metric` is nDCG@10."""

    def __init__(self, model: Model, evaluator: BaseEvaluator, metric: str):
        super().__init__()
        self.model, self.evaluator, self.metric = model, evaluator, metric

    def __call__(self, model=None, output_path=None, epoch: int = -1, steps: int = -1) -> dict[str, float]:
        values = self.evaluator(self.model, None, epoch, steps)
        return {name: value for name, value in values.items() if name == self.metric or "active_dims" in name}


def _evaluator(dev: Collection, model: Model) -> _Evaluator:
    relevant = {query: {doc for doc, grade in rows.items() if grade > 0} for query, rows in dev.qrels.items()}
    texts = [
        dict(zip(*sides, strict=True)) for sides in ((dev.query_ids, dev.query_texts), (dev.doc_ids, dev.doc_texts))
    ]
    settings = {"name": "dev", "write_csv": False, "ndcg_at_k": [10], "mrr_at_k": [10], "map_at_k": [10]}
    settings |= {"accuracy_at_k": [10], "precision_recall_at_k": [10]}
    kind = SparseInformationRetrievalEvaluator if isinstance(model, SparseEncoder) else InformationRetrievalEvaluator
    return _Evaluator(model, kind(*texts, relevant, **settings), f"dev_{model.similarity_fn_name}_ndcg@10")


def _head(model: SparseEncoder, columns: dict[str, list], store: Store, identity: dict) -> SparseEncoder:
    """Return the modules behind the retriever's embedding, as a model to which texts are their stored embeddings.

    `identity` is that of what reads them, for the store.
    """
    modules = list(model)
    first = next(number for number, module in enumerate(modules) if isinstance(module, SparseAutoEncoder))
    retriever = SentenceTransformer(modules=modules[:first], device=str(model.device))
    texts: dict[str, dict[str, None]] = {}  # by prompt, in order and each once
    for name in (name for name in columns if name != "label"):
        texts.setdefault(_prompt(model, name), {}).update(dict.fromkeys(columns[name]))
    reader = {**identity, "max_length": model.max_seq_length}
    tables = {}
    for prompt, unique in ((prompt, tuple(unique)) for prompt, unique in texts.items()):

        def embed(prompt: str = prompt, unique: tuple[str, ...] = unique) -> dict[str, Any]:
            blocks = progress(range(0, len(unique), 512), what="embed", unit="blocks", total=len(unique) // 512 + 1)
            settings = {"prompt": prompt, "show_progress_bar": False}
            return {
                "embeddings": np.concatenate([retriever.encode(list(unique[i : i + 512]), **settings) for i in blocks])
            }

        stored = store.get("pooled", reader | {"prompt": prompt, "texts": digest_json(unique)}, embed)
        tables[prompt] = dict(zip(unique, torch.from_numpy(np.array(stored["embeddings"])), strict=True))

    def look_up(texts: list[str], prompt: str | None = None, **_) -> dict[str, torch.Tensor]:
        if (prompt or "") not in tables:  # the model card's statistics read without a prompt
            return {}
        return {"sentence_embedding": torch.stack([tables[prompt or ""][text] for text in texts])}

    head = SparseEncoder(modules=modules[first:], device=str(model.device), similarity_fn_name="dot")
    head.preprocess = look_up
    return head


def _prompt(model: Model, column: str) -> str:
    return model.prompts.get("query" if column == "query" else "document") or ""


def _finish(model: Model) -> None:
    """Make a trained model what is saved: LoRA merged, sparse rows, latents of the retriever that it has now."""
    model.eval()
    backbone = model[0].auto_model
    if getattr(backbone, "_hf_peft_config_loaded", False):
        from peft.tuners.tuners_utils import BaseTunerLayer

        for name, module in list(backbone.named_modules()):
            if isinstance(module, BaseTunerLayer):
                module.merge(safe_merge=True)
                parent, _, child = name.rpartition(".")
                setattr(backbone.get_submodule(parent), child, module.get_base_layer())
        del backbone.peft_config
        backbone._hf_peft_config_loaded = False
    if not isinstance(model, SparseEncoder):
        return
    for module in model:
        if isinstance(module, SparseTokenPooling) and module is model[-1]:
            module.sparse_rows = True
        if isinstance(module, SparseAutoEncoderTokenEncoder):
            origin = origin_of(model, module)
            module.trained_on = origin | {"name": f"{origin['name']}, finetuned"}
