"""What several commands take: kinds of values, and a configuration in files of the user's own."""

import argparse
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mgsrl.errors import UserError

if TYPE_CHECKING:
    from mgsrl.config import Config


def column(text: str) -> tuple[str, str]:
    """`OURS=THEIRS` of `--columns`."""
    ours, equals, theirs = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"should be OURS=THEIRS, found {text!r}")
    return ours, theirs


def add_overrides(
    parser: argparse.ArgumentParser, text: str, complete: Callable[..., list[str]] | None = None
) -> None:
    """The arguments that `composed` reads; `text` explains the overrides.

    Args:
        complete: what the shell offers for one of them; by default what the configuration has.
    """
    overrides = parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=text)
    overrides.completer = complete or complete_override  # type: ignore[attr-defined]  # argcomplete's
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


def complete_override(prefix: str, parsed_args: argparse.Namespace, **_: object) -> list[str]:
    """What the shell offers for a word that begins with `prefix`: keys, choices, true and false."""
    from mgsrl.config.compose import Config, config_dir
    from mgsrl.config.keys import NAME, all_keys, is_record, optional, type_at
    from mgsrl.config.own_files import all_names, own_folders

    with suppress(UserError), own_folders(config_dir(), None, parsed_args.config_dir) as own:
        choices = all_names([config_dir(), *own])
        key, equals = prefix.partition("=")[:2]
        if equals:
            switch = ["true", "false"] if type_at(Config, key) is bool else []
            return [f"{key}={value}" for value in choices.get(key.lstrip("+"), switch)]
        domains = composed(parsed_args, parsed_args.overrides or []).domains
        leaves = [k for k, kind in all_keys(Config) if not is_record(optional(kind) or kind)]
        keys = {k.replace(f"domains.{NAME}", f"domains.{d}") for k in leaves for d in domains}
        return [f"{k}=" for k in (*choices, "+experiment", *sorted(keys)) if NAME not in k]
    return []


def composed(options: argparse.Namespace, overrides: Sequence[str] | None = None) -> "Config":
    """The configuration that the command line describes; `overrides` instead of its own."""
    from mgsrl.config.compose import compose_config

    words = options.overrides if overrides is None else overrides
    return compose_config(words, options.config, options.config_dir)
