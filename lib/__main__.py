"""The command line, `python -m lib`: what is done to models (`train`, `join`, `label`, ...), `index` and `search`."""

import argparse
import inspect
import json
import os
import random
import re
import signal
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from functools import reduce
from itertools import product
from pathlib import Path
from typing import get_args, get_origin

import torch
from safetensors import safe_open

from lib.bm25.index import FORMS
from lib.data.collection import load_collection
from lib.data.sources import find_file
from lib.data.training_text import LocalText, StreamedText
from lib.encode.encoder import TokenEncoder
from lib.encode.states import CACHE_DTYPES, EncodedStates, StateSource, TrainingText, cache_states
from lib.evaluation.tuning import check_training
from lib.indexing import check_target, index_texts, open_searcher, read_texts
from lib.latent_terms import LatentTerms, join_models, other_origin
from lib.learned import RUN
from lib.learned.pairs import MINERS, join_pairs, load_pairs, mine_negatives
from lib.learned.teachers import TEACHERS, teacher_scores
from lib.sae.autoencoder import FORMAT_VERSION, STORED_DTYPES, SparseAutoencoder
from lib.sae.boosting import Residuals, check_leaves
from lib.sae.checkpoints import Checkpoints
from lib.sae.trainer import TrainingStopped, check_same, run_identity, train
from lib.sae.training import TrainingConfig
from lib.studies.profiles import LAPTOP
from lib.support.checks import check_choice, check_count
from lib.support.devices import training_device
from lib.support.files import temporary_beside, user_path
from lib.support.folders import digest_json, load_folder, update_manifest
from lib.support.locks import locked
from lib.support.processors import usable_processors
from lib.support.progress import log_to_stderr

SWEPT = ("width", "k", "seed")  # several values may be given, as for --layer: one autoencoder for each combination
_SAMPLE, _QUERIES = 2_000, 500  # of pairs that are tuned on
_WRITTEN = ("latent_terms.json", "sae.safetensors", "training_log.jsonl")  # beside the checkpoints


def _parser(arguments: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Return the parser; `arguments` are those that it will be given."""
    parser = argparse.ArgumentParser(prog="python -m lib")
    commands = parser.add_subparsers(required=True)

    def command(name: str, run: Callable[[argparse.Namespace], None], about: str):
        settings = {"formatter_class": argparse.ArgumentDefaultsHelpFormatter}
        parser = commands.add_parser(name, help=about.partition(".")[0] + ".", description=about, **settings)
        parser.set_defaults(run=run)
        return parser.add_argument

    about = "Train autoencoders for a retriever on text. Each is saved with it as a LatentTerms folder. After an "
    _add_training_arguments(command("train", _train_all, about + "interruption, the same command continues."))

    about = "Join the latents of several models that differ in the seed. Each token has latents of all of them, and a "
    add = command("join", _join, about + "text the terms of all. Choose the constants of the joined model with tune.")
    add("models", type=user_path, nargs="+", help="Folders of models of one retriever, trained alike.")
    add("out", type=user_path, help="Folder for the joined model.")
    add("--k", type=int, help="Latents of a token, divided among the models; by default the sum of theirs.")
    boosted = "The models, in their order, were each trained on what those before leave (train --after)."
    add("--boosted", action="store_true", help=boosted)
    add("--no-special-tokens", action="store_true", help="Do not pool the states of special tokens.")
    add("--max-length", type=int, help="Tokens of a text that are read, at most; by default as the first model does.")
    add("--stored", default="float32", choices=STORED_DTYPES, help="Dtype of the weights in the saved file.")

    about = "Choose BM25's constants and a searcher's weights for a model. They are chosen on training queries and "
    about += "written into the model, where model.index and Searcher read them. Of several models, print which ranks "
    about += "these queries best."
    add = command("tune", _tune, about)
    add("models", type=user_path, nargs="+", help="Folders of models of one retriever. They are changed.")
    about = "Collections with training queries; each has the same weight."
    add("--collections", nargs="*", default=list(LAPTOP.tuning_collections), help=about)
    about = "Pairs of a query and its answer, files or names in LATENT_TERMS_PAIRS; of each a sample is a collection, "
    add("--pairs", nargs="+", default=[], help=about + f"{_SAMPLE:,} pairs and {_QUERIES} of their queries.")

    _add_reading_commands(command)
    about = "Train a retriever through latents, or a control of such, on pairs of a query and a text that answers it. "
    kinds = commands.add_parser("finetune", help=about.partition(",")[0] + ".", description=about)
    if [*arguments][:1] == ["finetune"]:  # the trainers take seconds to import
        _add_finetune_arguments(kinds.add_subparsers(required=True, metavar="KIND"))
    return parser


def _add_reading_commands(command: Callable[..., Callable]) -> None:
    """Add the commands that read texts with a finished model: label, browse, index, search."""
    about = "Label the latents of a model by texts that they fire in. Labels are made of half of them and measured on "
    about += "the others: the median of how well they predict firing (AUC) is printed beside that of random labels. "
    about += (
        "They are written into the model's folder, where model.labels and model.show read them, and browse those of "
    )
    about += "latents of which its own texts say too little."
    add = command("label", _label, about)
    add("model", type=user_path, help="Folder of the model.")
    source = "A .txt file with a text a line, a .jsonl file of objects with a text (also .gz), or a BEIR folder."
    add("texts", help=f"{source[:-1]}, or a folder of text as train reads it, in passages.")
    add("--sample", type=int, default=10_000, help="Texts that are read at most, drawn at random.")
    add("--seed", type=int, default=0, help="Seed of the sample, and of the random labels.")

    about = "Write a page of a model and a collection, to click through in a browser. It has latents, documents, and "
    about += "queries with sliders; it opens from disk and fetches nothing."
    add = command("browse", _browse, about)
    about = "Folder, hub id or packaged name of a model, or a folder of finetune; by default that of all-MiniLM-L6-v2."
    add("model", nargs="?", help=about)
    about = (
        "Collection as load_collection takes it; of a large one take a sample, such as pydoc/2000. pydoc if neither "
    )
    add("--collection", help=about + "this nor --texts is given.")
    add("--texts", help=f"Texts of your own instead. {source}")
    add("-o", "--out", type=user_path, required=True, help="Folder for the page; it must be empty or not there yet.")
    add("--force", action="store_true", help="Replace the page that the folder holds; nothing else is ever replaced.")
    add("--postings", type=int, default=128, help="Latents of a document that the page's search knows.")

    about = "Index texts, so that search finds them. It ranks by latents, words and embeddings. Ids are the objects', "
    about += "else the numbers of the lines. After an interruption, the same command continues."
    add = command("index", _index, about)
    add("texts", help=source)
    add("folder", type=user_path, help="Folder for the index; it must be empty or not there yet.")
    add("--model", help="Folder, hub id or packaged name of a model; by default the packaged one of all-MiniLM-L6-v2.")
    about = "Form of the index: uint8 takes a third of the space and rounds scores."
    add("--impacts", choices=FORMS, default="float32", help=about)

    about = "Search what index has written. A line for each text that is found, best first: its score, a tab, its id."
    add = command("search", _search, about)
    add("folder", type=user_path, help="Folder that index has written.")
    add("query", help="The text to search for.")
    about = "What was indexed: the text follows, behind another tab. Texts are found by their ids."
    add("--texts", help=about)
    add("--k", type=int, default=10, help="Number of texts, at most.")


def _add_finetune_arguments(kinds) -> None:
    from lib.learned.models import KINDS
    from lib.learned.train import FinetuneConfig

    for name, kind in KINDS.items():
        settings = {"formatter_class": argparse.ArgumentDefaultsHelpFormatter}
        parser = kinds.add_parser(
            name, help=kind.about, description=inspect.getdoc(kind).partition("\n")[0], **settings
        )
        parser.set_defaults(run=_finetune, kind=kind)
        add = parser.add_argument
        add(
            "pairs", nargs="+", help="Files or folders of .jsonl, names of files in LATENT_TERMS_PAIRS, or collections."
        )
        add("out", type=user_path, help="Folder for the finetuned model. The same command continues one.")
        add("--base", help="Folder or name of a LatentTerms, or of a retriever; by default the packaged model.")
        add("--sample", type=int, help="Train on this many of the pairs, drawn at random; by default on all.")
        about = "Hard negatives of a query; 0 mines none: a query is told from the other texts of its batch."
        add("--negatives", type=int, default=0, help=about)
        add("--miners", nargs="+", choices=MINERS, default=list(MINERS), help="What ranks the texts that they are of.")
        teachers = "Learn the scores of this retriever, or the mean of several, such as dense:all-mpnet-base-v2."
        add("--teacher", nargs="+", default=[], metavar=f"{{{','.join(TEACHERS)}}}:RETRIEVER", help=teachers)
        about = "Collection without test queries that is ranked while training; the best state is saved. '' for none."
        add("--dev", default="pydoc/500/train", help=about)
        _add_settings(add, kind)
        _add_settings(add, FinetuneConfig)


def _finetune(args: argparse.Namespace) -> None:
    from lib.learned.train import FinetuneConfig, check_before, finetune, load_base

    kind, config = args.kind(**_settings(args, args.kind)), FinetuneConfig(**_settings(args, FinetuneConfig))
    teachers = [name.partition(":")[::2] for name in args.teacher]
    for name, _ in teachers:
        check_choice(name, TEACHERS, "--teacher")
    if teachers and kind.reads_pairs and not args.negatives:
        raise ValueError(f"--teacher {args.teacher[0]} scores negatives, of which --negatives 0 has none; give 4.")
    dev = load_collection(args.dev) if args.dev else None
    if dev is not None:
        check_training([dev])
    args.out.mkdir(parents=True, exist_ok=True)
    _check_writable(args.out)
    pairs = join_pairs(load_pairs(name) for name in args.pairs)
    pairs = pairs if args.sample is None else pairs.sample(args.sample, config.seed)
    base = load_base(args.base)
    check_before(kind, pairs, args.out, base, config, bool(teachers))
    encoders = [(name, TokenEncoder(retriever or None)) for name, retriever in teachers]
    if args.negatives and kind.reads_pairs:
        model = base if isinstance(base, LatentTerms) else None
        pairs = mine_negatives(pairs, args.miners, args.negatives, model=model, seed=config.seed)
    teacher = teacher_scores(pairs, encoders) if encoders else None
    finetune(kind, pairs, args.out, base=base, config=config, teacher=teacher, dev=dev)
    print(f"{args.out} holds the finetuned model, and what it was made of in {RUN}.")


def _add_training_arguments(add: Callable) -> None:
    text = "A file or folder of .txt or .jsonl files (also .gz) with a passage a line, or hf:DATASET[,CONFIGURATION]."
    add("text", help=text)
    add("out", type=user_path, help="Folder for the trained model; several models get a folder each in it.")
    add("--model", help="Folder or hub id of the retriever; by default the packaged all-MiniLM-L6-v2.")
    layers = "Layers whose states are read: -1 is the final one, 0 the embeddings. Several are read in one pass."
    add("--layer", type=int, nargs="+", default=[-1], help=layers)
    add("--max-length", type=int, default=256, help="Tokens of a passage that are read, at most.")
    long_texts = "Read a passage with more tokens in chunks, or cut it off."
    add("--long-texts", choices=["chunk", "cut"], default="chunk", help=long_texts)
    add("--no-special-tokens", action="store_true", help="Do not train on the states of special tokens, nor pool them.")
    after = "Folders of models: train on what they leave of the states, the first of these and then the next; see join."
    add("--after", type=user_path, nargs="+", default=[], help=after)
    add("--tokens", type=int, help="Train on the first token states of the text, this many; by default on all.")
    add("--fraction", type=float, default=1.0, help="Share of the passages that is drawn at random.")
    add("--revision", help="Branch, tag or commit of a hub dataset.")
    add("--states", choices=["cache", "encode"], default="cache", help="Keep states on disk, or encode in each epoch.")
    add("--cache", type=user_path, default=_default_cache(), help="Folder for the states.")
    add("--cache-dtype", choices=sorted(CACHE_DTYPES), default="bfloat16", help="Dtype of the states on disk.")
    add("--device", help="Device that encodes and trains: cpu, cuda, cuda:1; by default the GPU if there is one.")
    add("--checkpoint-every", type=float, default=300.0, metavar="SECONDS", help="Seconds between checkpoints.")
    add("--stored", default="float32", choices=STORED_DTYPES, help="Dtype of the weights in the saved file.")
    _add_settings(add, TrainingConfig, SWEPT)


def _add_settings(add: Callable, config: type, swept: Collection[str] = ()) -> None:
    """Add an option for each field of a dataclass; those that are tuples, and those swept, take several values."""
    documentation = _documentation(config)
    for field in fields(config):
        option = f"--{field.name.replace('_', '-')}"
        settings = {"type": field.type, "default": field.default, "help": documentation[field.name]}
        if field.type is bool:
            settings = settings | {"type": None, "action": argparse.BooleanOptionalAction}
        elif field.name in swept:
            settings |= {"nargs": "+", "default": [field.default]}
        elif get_origin(field.type) is tuple:
            settings |= {"type": get_args(field.type)[0], "nargs": "*"}
        add(option, **settings)


def _settings(args: argparse.Namespace, config: type) -> dict:
    """Return what was given for each field of a dataclass."""
    values = {field.name: getattr(args, field.name) for field in fields(config)}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _documentation(config: type) -> dict[str, str]:
    """Return what the docstrings of a class, and of those that it is made of, say of each attribute."""
    texts = {}
    for kind in reversed(config.__mro__):
        section = inspect.cleandoc(kind.__doc__ or "").partition("Attributes\n----------\n")[2].split("\n\n")[0]
        entries = re.findall(r"^(\S.*?) : .*\n((?:    .*\n?)+)", section, re.MULTILINE)
        texts |= {name: " ".join(text.split()) for names, text in entries for name in names.split(", ")}
    return texts


def _default_cache() -> Path:
    return user_path(os.environ.get("LATENT_TERMS_CACHE") or "~/.cache/latent-terms")


def main() -> None:
    """Run the command line; an error about the input or the machine is one line on stderr, a bug has its traceback."""
    args = _parser(sys.argv[1:]).parse_args()
    log_to_stderr()
    torch.set_num_threads(min(torch.get_num_threads(), usable_processors()))  # torch does not know of quotas
    try:
        args.run(args)
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        if isinstance(error, ValueError) and not _raised_by_this_package(error):
            raise
        sys.exit(f"{type(error).__name__}: {error}")


def _raised_by_this_package(error: Exception) -> bool:
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    package = frame.f_globals.get("__package__") or ""  # the name of this module is __main__ when it is run
    return package.split(".")[0] == "lib"


def _train_all(args: argparse.Namespace) -> None:
    settings = _settings(args, TrainingConfig)
    swept = product(*(settings.pop(name) for name in SWEPT))
    device = training_device(args.device)
    configs = [TrainingConfig(**settings, **dict(zip(SWEPT, values, strict=True))).resolved(device) for values in swept]
    if args.tokens is not None:
        check_count(args.tokens, "tokens")
    corpus = _corpus(args)
    reading = {"max_length": args.max_length, "special_tokens": not args.no_special_tokens, "device": args.device}
    encoder = TokenEncoder(args.model, layer=args.layer[0], **reading)
    layers = [encoder.resolve_layer(layer) for layer in args.layer]
    before = [_to_train_after(folder, [encoder.at(layer) for layer in layers]) for folder in args.after]
    pairs = list(product(layers, configs))
    folders = [args.out if len(pairs) == 1 else args.out / _name(*pair) for pair in pairs]
    for folder, (_, config) in zip(folders, pairs, strict=True):
        if trained := _finished(folder):  # an error now, not after hours
            wanted = {"config": asdict(config), "stored": args.stored}
            check_same({name: trained[name] for name in wanted}, wanted, folder)
        folder.mkdir(parents=True, exist_ok=True)
        _check_writable(folder)
    sources = _sources(args, encoder.with_long_texts(args.long_texts), corpus, layers)
    for folder, (layer, config) in zip(folders, pairs, strict=True):
        source = reduce(Residuals, before, sources[layer])
        _train(folder, encoder.at(layer), source, config, args)


def _to_train_after(folder: Path, encoders: Sequence[TokenEncoder]) -> SparseAutoencoder:
    """Return the autoencoder of a model; ValueError if it reads other states than these, or scales them."""
    sae = check_leaves(LatentTerms.load(folder).sae)
    for encoder in encoders:
        if message := other_origin(sae, encoder):
            raise ValueError(f"{folder} is no model to train after. {message}")
    return sae


def _name(layer: int, config: TrainingConfig) -> str:
    return f"layer{layer}-width{config.width}-k{config.k}-seed{config.seed}"


def _corpus(args: argparse.Namespace) -> LocalText | StreamedText:
    if not args.text.startswith("hf:"):
        if args.revision is not None:
            raise ValueError(
                f"--revision {args.revision} is for a text of the hub (hf:DATASET); {args.text} is a path."
            )
        return LocalText(args.text, fraction=args.fraction)
    dataset, _, name = args.text.removeprefix("hf:").partition(",")
    return StreamedText(dataset, name or None, revision=args.revision, fraction=args.fraction)


def _sources(
    args: argparse.Namespace, encoder: TokenEncoder, corpus: LocalText | StreamedText, layers: list[int]
) -> dict[int, StateSource]:
    if args.states == "cache":
        settings = {"max_tokens": args.tokens, "dtype": args.cache_dtype, "long_texts": args.long_texts}
        return cache_states(args.cache, encoder, corpus, layers, **settings)
    key = digest_json([encoder.identity | {"layer": None}, corpus.identity, args.tokens])
    text = TrainingText(encoder, corpus, args.tokens, args.cache / f"plan-{key[:16]}.json", args.long_texts)
    return {layer: EncodedStates(text, layer) for layer in layers}


def _train(folder: Path, encoder: TokenEncoder, source: StateSource, config: TrainingConfig, args) -> None:
    """Train one autoencoder into `folder`, or continue; one that is finished stays as it is."""
    with Checkpoints(folder / "checkpoints") as checkpoints, _stop_signals() as signals:
        if trained := _finished(folder):
            check_same(trained, run_identity(source, config) | {"stored": args.stored}, folder)
            print(f"{folder} holds it already, trained to the end.", flush=True)
            with locked(folder):  # and so remove the lock file of a process that was killed as it saved
                checkpoints.remove()
            return
        for name in _WRITTEN:
            for path in folder.glob(f".{name}.????????.tmp"):  # of this command, killed while it saved
                path.unlink(missing_ok=True)
        print(f"{folder}: {source.n:,} token states of {encoder.name}, layer {encoder.layer}", flush=True)
        try:
            sae = train(
                source,
                config,
                device=args.device,
                log=_Log(folder / "training_log.jsonl"),
                checkpoints=checkpoints,
                every=args.checkpoint_every,
                stopped=lambda: bool(signals),
            )
        except TrainingStopped as stopped:
            sys.exit(f"{stopped} The same command continues from there.")
        LatentTerms(encoder, sae).save(folder, args.stored)
        checkpoints.remove()
        if signals:
            sys.exit(f"Stopped; {folder} is trained to the end. The same command does what is left.")


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Yield a list to which the first SIGTERM or SIGINT (Ctrl-C) is added; the next ends the process as usual."""
    signals: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def note(number: int, _) -> None:
        signals.append(number)
        restore()

    for number in handlers:
        signal.signal(number, note)
    try:
        yield signals
    finally:
        restore()


class _Log:
    """Writes rows to a JSONL file, of which the first replaces an older one, and prints them without the histogram."""

    def __init__(self, path: Path):
        self._path, self._mode = path, "w"

    def __call__(self, row: dict) -> None:
        with open(self._path, self._mode, encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self._mode = "a"
        print(json.dumps({name: value for name, value in row.items() if name != "density"}), flush=True)


def _finished(folder: Path) -> dict | None:
    """Return the identity of the run whose model `folder` holds, and its `stored`; None if it holds none."""
    if not (folder / "latent_terms.json").exists():
        return None
    manifest, files = load_folder(folder, "latent_terms.json", FORMAT_VERSION)
    with safe_open(files["sae.safetensors"], "np") as weights:
        kind = weights.get_slice("W_enc").get_dtype()
    stored = {"F32": "float32", "F16": "float16", "I8": "int8"}.get(kind, kind)
    return {"config": {}, "states": {}, **manifest["sae"]["metadata"].get("run", {}), "stored": stored}


def _check_writable(folder: Path) -> None:
    with temporary_beside(folder / "training_log.jsonl") as probe:
        probe.touch()


def _join(args: argparse.Namespace) -> None:
    if (args.out / "latent_terms.json").exists():
        raise FileExistsError(f"{args.out} holds a model; give another folder, or remove what is there.")
    model = join_models([LatentTerms.load(folder) for folder in args.models], args.k, args.boosted)
    changes = {"special_tokens": False} if args.no_special_tokens else {}
    changes |= {} if args.max_length is None else {"max_length": args.max_length}
    if changes:
        model = LatentTerms(model.encoder.replace(**changes), model.sae, model.pooling, model.phi)
    model.save(args.out, args.stored)
    print(f"{model} is written to {args.out}.")


def _tune(args: argparse.Namespace) -> None:
    import pandas as pd  # slow to import, like the measures, and no other command needs them

    from lib.studies.choice import choose

    models = [LatentTerms.load(folder) for folder in args.models]
    for folder in args.models:
        _check_writable(folder)
    pairs = [load_pairs(name).sample(_SAMPLE).collection(Path(name).stem, _QUERIES) for name in args.pairs]
    means = []
    for folder, choice in zip(args.models, choose(models, [*args.collections, *pairs]), strict=True):
        for grid in (choice.grid, choice.weights_grid):
            print(grid.sort_values("mean", ascending=False, kind="stable").head(10).to_string(index=False))
        constants, summary = choice.bm25, choice.comparison
        print(summary.to_string(index=False))
        changes = {"bm25": asdict(constants), "weights": asdict(choice.weights)}
        update_manifest(folder, "latent_terms.json", FORMAT_VERSION, changes)
        print(f"{constants} and {choice.weights} are written to {folder / 'latent_terms.json'}.", flush=True)
        mean = summary.groupby("system")[["mean", "baseline_mean"]].mean()  # over collections
        row = {"tuned": mean["mean"]["tuned"], "paper": mean["baseline_mean"]["tuned"], "dense": mean["mean"]["dense"]}
        row["one pass"] = mean["mean"]["one pass"]
        means.append({"model": folder} | row | asdict(constants))
    if len(means) > 1:
        print(pd.DataFrame(means).sort_values("tuned", ascending=False, kind="stable").to_string(index=False))


def _label(args: argparse.Namespace) -> None:
    from lib.inspect.labelling import label_latents

    check_count(args.sample, "--sample")
    model = LatentTerms.load(args.model)
    _check_writable(args.model)
    source = user_path(args.texts)
    of_training = source.is_dir() and find_file(source, "corpus.jsonl") is None
    texts = list(LocalText(source)) if of_training else [text for _, text in read_texts(source)]
    if len(texts) > args.sample:
        texts = random.Random(args.seed).sample(texts, args.sample)
    labels = label_latents(model, texts, seed=args.seed)
    print(f"{labels} is written to {labels.save(args.model)}.")


def _browse(args: argparse.Namespace) -> None:
    from lib.browse.data import Page
    from lib.browse.write import check_target, write_page

    check_target(args.out, args.force)
    check_count(args.postings, "--postings")
    if args.texts is None:
        collection = load_collection(args.collection or "pydoc")
        name, doc_ids, doc_texts = collection.name, collection.doc_ids, collection.doc_texts
    elif args.collection is None:
        documents = list(read_texts(args.texts))
        name, doc_ids, doc_texts = Path(args.texts).name, [id_ for id_, _ in documents], [text for _, text in documents]
    else:
        raise ValueError(f"--collection {args.collection} and --texts {args.texts} are both given; give one of them.")
    page = Page(_model(args.model), name, doc_ids, doc_texts, args.postings)
    print(f"{write_page(page, args.out, replace=args.force)} is written; open it in a browser.")


def _model(place: str | None) -> LatentTerms:
    """Load a model, or what `finetune` has saved."""
    if not _is_finetuned(place):
        return LatentTerms.load(place)
    from lib.learned.retriever import LearnedRetriever

    return LearnedRetriever.load(place).latent_terms()


def _is_finetuned(place: str | None) -> bool:
    return place is not None and (user_path(place) / RUN).is_file()


def _index(args: argparse.Namespace) -> None:
    check_target(args.folder)
    read_texts(args.texts)  # before the model is loaded
    if _is_finetuned(args.model):
        raise ValueError(
            f"{args.model} was finetuned, and ranks without words; in Python LearnedRetriever.load indexes with it."
        )
    try:
        searcher = index_texts(LatentTerms.load(args.model), args.texts, args.folder, impacts=args.impacts)
    except KeyboardInterrupt:
        sys.exit("Stopped. The same command continues from there.")
    print(f"{len(searcher):,} texts are indexed in {args.folder}.")


def _search(args: argparse.Namespace) -> None:
    if not args.query.strip():
        raise ValueError("The query is empty; give the text to search for.")
    check_count(args.k, "--k")
    source = () if args.texts is None else read_texts(args.texts)  # which says what is wrong with it before the search
    results = open_searcher(args.folder).search([args.query], ["query"], args.k, progress=False)["query"]
    ids = {doc_id for doc_id, _ in results}
    texts = {doc_id: text for doc_id, text in source if doc_id in ids}
    if args.texts is not None and (missing := sorted(ids - texts.keys())):
        raise ValueError(f"{args.texts} has no text {missing[0]!r}, which was found; give the texts that were indexed.")
    for doc_id, score in results:
        columns = [] if args.texts is None else [" ".join(texts[doc_id].split())]
        print(f"{score:.4f}", doc_id, *columns, sep="\t")


if __name__ == "__main__":
    main()
