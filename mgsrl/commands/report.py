"""`mgsrl report`: the HTML page of one run."""

import argparse
import os
from pathlib import Path

from mgsrl.obs.outputs import output_file

HELP = "write the HTML report of a run folder"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", help="a run folder, e.g. runs/pocket-mgs-seed0")
    parser.add_argument(
        "--force", action="store_true", help="replace a report.html that mgsrl did not write"
    )


def run(options: argparse.Namespace) -> None:
    from mgsrl.report.page import FILE, build_report
    from mgsrl.report.render import is_own_page

    run_dir = Path(os.path.expanduser(options.run_dir))
    page = run_dir / FILE
    if page.exists():  # the run's own page is there to be written anew
        output_file(page, "The report", force=options.force or is_own_page(page))
    print(build_report(run_dir))
