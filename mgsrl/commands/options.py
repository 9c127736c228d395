"""Kinds of command-line values that several commands take."""

import argparse


def column(text: str) -> tuple[str, str]:
    """`OURS=THEIRS` of `--columns`."""
    ours, equals, theirs = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"should be OURS=THEIRS, found {text!r}")
    return ours, theirs
