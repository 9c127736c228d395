"""`mgsrl export`: a run's model as a plain Hugging Face folder."""

import argparse
from pathlib import Path

from mgsrl.obs.outputs import FORCE_HELP

HELP = "turn a run or checkpoint into a plain Hugging Face folder"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="a run folder (its newest checkpoint) or a checkpoint")
    parser.add_argument("output", help="folder for config, tokenizer and safetensors")
    parser.add_argument(
        "--best",
        action="store_true",
        help="the run's best checkpoint (checkpoints/best.json) instead of its newest",
    )
    parser.add_argument("--force", action="store_true", help=FORCE_HELP)


def run(options: argparse.Namespace) -> None:
    from mgsrl.training.export import export_model

    print(
        export_model(
            Path(options.source), Path(options.output), best=options.best, force=options.force
        )
    )
