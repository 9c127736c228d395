"""`mgsrl compare`: several runs in one HTML page."""

import argparse
import os
from pathlib import Path

from mgsrl.obs.outputs import FORCE_HELP, output_file

HELP = "overlay several runs (strategies, seeds) in one HTML page"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dirs", nargs="+", help="two or more run folders")
    parser.add_argument(
        "-o", "--output", default="compare.html", help="page to write (default: compare.html)"
    )
    parser.add_argument("--force", action="store_true", help=FORCE_HELP)


def run(options: argparse.Namespace) -> None:
    runs = [Path(os.path.expanduser(folder)) for folder in options.run_dirs]
    output = output_file(options.output, "--output", inputs=runs, force=options.force)
    from mgsrl.report.compare import compare_runs

    print(compare_runs(runs, output))
