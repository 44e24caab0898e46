"""`python -m lib train`: autoencoders, on text. `join`: one of several. `tune`: choose BM25's constants for a model."""

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from itertools import product
from pathlib import Path

import pandas as pd
from safetensors import safe_open

from lib.data.training_text import LocalText, StreamedText
from lib.encode.encoder import TokenEncoder
from lib.encode.states import CACHE_DTYPES, EncodedStates, StateSource, TrainingText, cache_states
from lib.latent_terms import LatentTerms, join_models
from lib.sae.autoencoder import FORMAT_VERSION, STORED_DTYPES
from lib.sae.checkpoints import Checkpoints
from lib.sae.trainer import TrainingStopped, check_same, run_identity, train
from lib.sae.training import TrainingConfig
from lib.studies.choice import choose
from lib.support.checks import check_count
from lib.support.devices import training_device
from lib.support.folders import digest_json, load_folder, temporary_beside, update_manifest
from lib.support.progress import log_to_stderr

SWEPT = ("width", "k", "seed")  # several values may be given, as for --layer: one autoencoder for each combination
_WRITTEN = ("latent_terms.json", "sae.safetensors", "training_log.jsonl")  # beside the checkpoints


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lib")
    commands = parser.add_subparsers(required=True)
    shown = {"formatter_class": argparse.ArgumentDefaultsHelpFormatter}
    about = "Train autoencoders for a retriever and save each with it as a LatentTerms folder. Killed or stopped, the "
    about += "same command goes on where it was."
    _add_train(commands.add_parser("train", help="train autoencoders on text", description=about, **shown))
    about = "Make one model of several that differ in the seed: each token has latents of all of them, and a text the "
    about += "terms of all. Choose its constants with tune."
    joined = commands.add_parser("join", help="join the latents of several models", description=about, **shown)
    joined.add_argument("models", type=Path, nargs="+", help="folders of models of one retriever, trained alike")
    joined.add_argument("out", type=Path, help="folder for the joined model")
    joined.add_argument("--k", type=int, help="latents of a token, divided among the models; None: all that they have")
    about = "leave the states of special tokens out of texts from now on, whatever the models were trained on"
    joined.add_argument("--no-special-tokens", action="store_true", help=about)
    joined.add_argument("--stored", default="float32", choices=STORED_DTYPES, help="dtype of the saved file")
    joined.set_defaults(run=_join)
    about = "Choose k1, b and idf on training queries and write them into the model, where model.index reads them. "
    about += "Of several models, say which ranks these queries best."
    tune = commands.add_parser("tune", help="choose BM25's constants for a model", description=about, **shown)
    tune.add_argument("models", type=Path, nargs="+", help="folders of models of one retriever; they are changed")
    collections = ["pydoc/train", "beir/scifact/train"]
    tune.add_argument("--collections", nargs="+", default=collections, help="with training queries; each has one vote")
    tune.set_defaults(run=_tune)
    return parser


def _add_train(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=_train_all)
    add = command.add_argument
    add("text", help="a file or folder of .txt or .jsonl (also .gz), a passage a line; or hf:DATASET[,CONFIGURATION]")
    add("out", type=Path, help="folder for the trained model; of several, a folder each in it")
    add("--model", help="retriever: a folder or hub id; None: the packaged all-MiniLM-L6-v2")
    add("--layer", type=int, nargs="+", default=[-1], help="-1 final, 0 embeddings; several are cached in one pass")
    add("--max-length", type=int, default=256, help="tokens read of a passage")
    add("--no-special-tokens", action="store_true", help="leave the states of special tokens out, here and later")
    add("--tokens", type=int, help="distinct token states to train on, at most: the first of the text; None: all")
    add("--fraction", type=float, default=1.0, help="share of the passages to draw at random, from all files")
    add("--revision", help="of a hub dataset")
    add("--states", choices=["cache", "encode"], default="cache", help="keep them on disk, or encode in each epoch")
    add("--cache", type=Path, default=_default_cache(), help="folder for the states")
    add("--cache-dtype", choices=sorted(CACHE_DTYPES), default="bfloat16")
    add("--device", help="to encode and train on: cpu, cuda, cuda:1; None: the GPU if there is one")
    add("--checkpoint-every", type=float, default=300.0, metavar="SECONDS", help="between checkpoints")
    add("--stored", default="float32", choices=STORED_DTYPES, help="dtype of the saved file")
    for field in fields(TrainingConfig):
        several = field.name in SWEPT
        kind = int if field.name == "budgets" else field.type
        default = [field.default] if several else field.default
        option, text = f"--{field.name.replace('_', '-')}", field.name.replace("_", " ")
        if field.type is bool:
            add(option, action=argparse.BooleanOptionalAction, default=default, help=text)
        elif several or field.name == "budgets":
            add(option, type=kind, nargs="+" if several else "*", default=default, help=text)
        else:
            add(option, type=kind, default=default, help=text)


def _default_cache() -> Path:
    return Path(os.environ.get("LATENT_TERMS_CACHE") or "~/.cache/latent-terms").expanduser()


def main() -> None:
    """Do what the command line says; an error is one line on stderr."""
    args = _parser().parse_args()
    log_to_stderr()
    try:
        args.run(args)
    except (ValueError, TypeError, OSError, ImportError, FloatingPointError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


def _train_all(args: argparse.Namespace) -> None:
    given = {field.name: getattr(args, field.name) for field in fields(TrainingConfig)}
    given["budgets"] = tuple(given["budgets"])
    swept = product(*(given.pop(name) for name in SWEPT))
    device = training_device(args.device)
    configs = [TrainingConfig(**given, **dict(zip(SWEPT, values, strict=True))).resolved(device) for values in swept]
    if args.tokens is not None:
        check_count(args.tokens, "tokens")
    corpus = _corpus(args)
    special = not args.no_special_tokens
    settings = {"layer": args.layer[0], "max_length": args.max_length, "special_tokens": special}
    encoder = TokenEncoder(args.model, **settings, device=args.device)
    layers = [encoder.resolve_layer(layer) for layer in args.layer]
    pairs = list(product(layers, configs))
    folders = [args.out if len(pairs) == 1 else args.out / _name(*pair) for pair in pairs]
    for folder, (_, config) in zip(folders, pairs, strict=True):
        if was := _finished(folder):  # what stands in the way is said now, not after hours
            same = {"config": asdict(config), "stored": args.stored}
            check_same({name: was[name] for name in same}, same, folder)
        folder.mkdir(parents=True, exist_ok=True)
        _check_writable(folder)
    sources = _sources(args, encoder, corpus, layers)
    for folder, (layer, config) in zip(folders, pairs, strict=True):
        _train(folder, encoder.at(layer), sources[layer], config, args)


def _name(layer: int, config: TrainingConfig) -> str:
    return f"layer{layer}-width{config.width}-k{config.k}-seed{config.seed}"


def _corpus(args: argparse.Namespace) -> LocalText | StreamedText:
    if not args.text.startswith("hf:"):
        return LocalText(args.text, fraction=args.fraction)
    dataset, _, name = args.text.removeprefix("hf:").partition(",")
    return StreamedText(dataset, name or None, revision=args.revision, fraction=args.fraction)


def _sources(
    args: argparse.Namespace, encoder: TokenEncoder, corpus: LocalText | StreamedText, layers: list[int]
) -> dict[int, StateSource]:
    if args.states == "cache":
        return cache_states(args.cache, encoder, corpus, layers, max_tokens=args.tokens, dtype=args.cache_dtype)
    key = digest_json([encoder.identity | {"layer": None}, corpus.identity, args.tokens])
    text = TrainingText(encoder, corpus, args.tokens, args.cache / f"plan-{key[:16]}.json")
    return {layer: EncodedStates(text, layer) for layer in layers}


def _train(folder: Path, encoder: TokenEncoder, source: StateSource, config: TrainingConfig, args) -> None:
    """Train one autoencoder into `folder`, or go on with it; what is finished there is left as it is."""
    with Checkpoints(folder / "checkpoints") as kept, _told_to_stop() as told:
        if was := _finished(folder):
            check_same(was, run_identity(source, config) | {"stored": args.stored}, folder)
            print(f"{folder} holds it already, trained to the end.", flush=True)
            kept.remove()
            return
        for name in _WRITTEN:
            for left in folder.glob(f".{name}.????????.tmp"):  # by this command, killed while it saved
                left.unlink(missing_ok=True)
        print(f"{folder}: {source.n:,} token states of {encoder.name}, layer {encoder.layer}", flush=True)
        try:
            sae = train(
                source,
                config,
                device=args.device,
                log=_Log(folder / "training_log.jsonl"),
                checkpoints=kept,
                every=args.checkpoint_every,
                stopped=lambda: bool(told),
            )
        except TrainingStopped as stopped:
            sys.exit(f"{stopped} The same command goes on from there.")
        LatentTerms(encoder, sae).save(folder, args.stored)
        kept.remove()
        if told:
            sys.exit(f"Stopped; {folder} is trained to the end. The same command does what is left.")


@contextmanager
def _told_to_stop() -> Iterator[list[int]]:
    """Give a list that SIGTERM and SIGINT (Ctrl-C) are added to; a second one ends the process as it always does."""
    told: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]

    def note(number: int, _) -> None:
        told.append(number)
        for each, handler in zip(numbers, before, strict=True):
            signal.signal(each, handler)

    for number in numbers:
        signal.signal(number, note)
    try:
        yield told
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


class _Log:
    """Rows to a JSONL file, which the first row begins anew, and without the histogram to the screen."""

    def __init__(self, path: Path):
        self._path, self._mode = path, "w"

    def __call__(self, row: dict) -> None:
        with open(self._path, self._mode, encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self._mode = "a"
        print(json.dumps({name: value for name, value in row.items() if name != "density"}), flush=True)


def _finished(folder: Path) -> dict | None:
    """Return the identity of the run that `folder` holds the result of, and its `stored`; None if it holds none."""
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
    model = join_models([LatentTerms.load(folder) for folder in args.models], args.k)
    if args.no_special_tokens:
        model = LatentTerms(model.encoder.replace(special_tokens=False), model.sae, model.pooling, model.phi)
    model.save(args.out, args.stored)
    print(f"{model} is written to {args.out}.")


def _tune(args: argparse.Namespace) -> None:
    models = [LatentTerms.load(folder) for folder in args.models]
    for folder in args.models:
        _check_writable(folder)
    means = []
    for folder, (constants, grid, summary) in zip(args.models, choose(models, args.collections), strict=True):
        print(grid.sort_values("mean", ascending=False, kind="stable").head(10).to_string(index=False))
        print(summary.to_string(index=False))
        update_manifest(folder, "latent_terms.json", FORMAT_VERSION, {"bm25": asdict(constants)})
        print(f"{constants} is written to {folder / 'latent_terms.json'}.", flush=True)
        means.append({"model": folder, **_means(summary), **asdict(constants)})
    if len(means) > 1:
        print(pd.DataFrame(means).sort_values("tuned", ascending=False, kind="stable").to_string(index=False))


def _means(summary: pd.DataFrame) -> dict[str, float]:
    """Return the mean over collections of each system's nDCG@10 on the training queries."""
    means = summary.groupby("system")[["mean", "baseline_mean"]].mean()
    return {"tuned": means["mean"]["tuned"], "paper": means["baseline_mean"]["tuned"], "dense": means["mean"]["dense"]}


if __name__ == "__main__":
    main()
