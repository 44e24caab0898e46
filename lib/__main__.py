"""`python -m lib train TEXT OUT`: train an autoencoder for a retriever and save both as a LatentTerms folder."""

import argparse
import json
from dataclasses import fields
from pathlib import Path

from lib.checks import check_count
from lib.corpus import read_passages, sample
from lib.encoder import TokenEncoder
from lib.retriever import LatentTerms
from lib.storage import replacing, temporary_beside
from lib.training import TrainingConfig, collect_states, train


def main() -> None:
    """Parse the command line, collect token states, train, save."""
    parser = argparse.ArgumentParser(prog="python -m lib", description=__doc__)
    command = parser.add_subparsers(required=True).add_parser(
        "train", help="train an autoencoder on text", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    command.add_argument("text", type=Path, help="a file or folder of .txt or .jsonl (also .gz), a passage a line")
    command.add_argument("out", type=Path, help="folder for the trained model")
    command.add_argument("--model", help="retriever: a folder or hub id; None: the packaged all-MiniLM-L6-v2")
    command.add_argument("--layer", type=int, default=-1, help="-1 final, 0 embeddings")
    command.add_argument("--max-length", type=int, default=256, help="tokens read of a passage")
    command.add_argument("--tokens", type=int, default=6_000_000, help="distinct token states to train on, at most")
    command.add_argument("--fraction", type=float, default=1.0, help="share of the passages to draw, at random")
    command.add_argument("--stored", default="float32", choices=["float32", "float16"], help="dtype of the saved file")
    for field in fields(TrainingConfig):
        command.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=field.type,
            default=field.default,
            help=field.name.replace("_", " "),
        )
    args = parser.parse_args()

    check_count(args.tokens, "max_tokens")
    config = TrainingConfig(**{field.name: getattr(args, field.name) for field in fields(TrainingConfig)})
    encoder = TokenEncoder(args.model, layer=args.layer, max_length=args.max_length)
    passages = sample(read_passages(args.text), args.fraction, config.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    with temporary_beside(args.out / "training_log.json") as probe:
        probe.touch()  # a place that cannot be written to fails now, not after training
    states = collect_states(encoder, passages, args.tokens)
    print(f"{len(states):,} token states of {encoder.name}, layer {encoder.layer}", flush=True)
    rows: list[dict] = []

    def log(row: dict) -> None:
        rows.append(row)
        print(json.dumps(row), flush=True)

    sae = train(states, config, log=log)
    LatentTerms(encoder, sae).save_pretrained(args.out, args.stored)
    with replacing(args.out / "training_log.json") as path:
        path.write_text(json.dumps(rows, indent=0) + "\n", "utf-8")


if __name__ == "__main__":
    main()
