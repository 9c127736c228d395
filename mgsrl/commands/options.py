"""What several commands take: kinds of values, and a configuration in files of the user's own."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mgsrl.config import Config


def column(text: str) -> tuple[str, str]:
    """`OURS=THEIRS` of `--columns`."""
    ours, equals, theirs = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"should be OURS=THEIRS, found {text!r}")
    return ours, theirs


def add_config_files(parser: argparse.ArgumentParser) -> None:
    """The options that `composed` reads."""
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="an experiment of your own, a YAML file"
    )
    parser.add_argument(
        "--config-dir",
        type=Path,
        metavar="DIR",
        help="a folder with experiment/NAME.yaml, domains/NAME.yaml, ... of your own, for "
        "+experiment=NAME (default: ./configs, if there is one)",
    )


def composed(options: argparse.Namespace, overrides: Sequence[str] | None = None) -> "Config":
    """The configuration that the command line describes; `overrides` instead of its own."""
    from mgsrl.config.compose import compose_config

    words = options.overrides if overrides is None else overrides
    return compose_config(words, options.config, options.config_dir)
