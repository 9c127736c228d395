"""`mgsrl compare`: runs what is missing of a comparison, and puts all of it on one page."""

import argparse
import os
from collections.abc import Sequence
from functools import partial
from glob import escape as escape_glob
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from mgsrl.commands.options import add_overrides, complete_override
from mgsrl.errors import CellsFailedError, ConfigError
from mgsrl.obs.outputs import shared_folder

if TYPE_CHECKING:
    from mgsrl.compare.cells import Cell
    from mgsrl.compare.runner import Outcome
    from mgsrl.compare.words import Words
    from mgsrl.config import Config
    from mgsrl.report.compare import Entry

HELP = "compare strategies over seeds: run what is missing, then one page"
EPILOG = """\
Words are run folders that exist (or folders of comparisons), or say what to run:
  strategies=[A,B]     names as of `mgsrl train strategy=NAME`
  seeds=[0,1,2]        of each of them (default: [0,1,2])
  axes.KEY=[X,Y]       any key of the configuration; all combinations are run
  KEY=VALUE            overrides that all runs share, as of `mgsrl train`
  compare.dir=DIR      where runs and pages go (default: runs/compare-NAME)
  compare.baseline=A   the arm that others are tested against (default: mixed, or the first)
  allow=[KEY]          compare runs although they differ in KEY (or below it), marked
The same command again goes on where it was stopped, and tries again what failed.

examples:
  mgsrl compare 'strategies=[mgs,mixed,sequential]' 'seeds=[0,1,2]'
  mgsrl compare +experiment=pocket_mgs 'axes.surgery.granularity=[module,layer,global]' --jobs 2
  mgsrl compare runs/pocket-mgs-seed0 runs/pocket-mixed-seed0
  mgsrl compare runs/compare-pocket             the page of a comparison again
  mgsrl compare +experiment=qwen_mgs 'strategies=[mgs,mixed]' --slurm
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    add_overrides(parser, "what to run, or run folders (below)", _complete)
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="runs at a time (default: 1)"
    )
    parser.add_argument(
        "--slurm",
        action="store_true",
        help="run nothing, but write a script that submits what is missing as Slurm arrays",
    )
    parser.add_argument(
        "--force", action="store_true", help="replace a comparison.html that mgsrl did not write"
    )


def _complete(prefix: str, parsed_args: argparse.Namespace, **_: object) -> list[str]:
    """What the shell offers for a word: keys (behind `axes.` too), our own words, and folders."""
    from mgsrl.compare.words import AXES, LISTS, OPTIONS

    own = [f"{name}=" for name in OPTIONS] + [f"{name}=[" for name in LISTS] + [AXES]
    axis = AXES if prefix.startswith(AXES) else ""
    keys = [f"{axis}{key}" for key in complete_override(prefix.removeprefix(axis), parsed_args)]
    folders = [f"{path}/" for path in glob(f"{escape_glob(prefix)}*") if os.path.isdir(path)]
    return [word for word in own if word.startswith(prefix)] + keys + folders


def run(options: argparse.Namespace) -> None:
    from mgsrl.compare.entries import left_out
    from mgsrl.compare.words import is_comparison, read_words
    from mgsrl.report.compare import comparison, default_folder, write_comparison
    from mgsrl.report.compare_text import sentences
    from mgsrl.report.extra import need_drawing
    from mgsrl.training.lock import writable

    words = read_words(options.overrides)
    if options.jobs < 1 or (options.slurm and not words.makes_runs):
        raise ConfigError(
            "There is nothing to run.",
            expected="--jobs of at least 1, and with --slurm something to run",
            found=f"--jobs {options.jobs}, {' '.join(options.overrides) or 'no words'}",
            todo="give strategies=[...], axes.KEY=[...] or seeds=[...]",
        )
    need_drawing("The comparison")
    folder = shared_folder(words.dir, "compare.dir") if words.dir else None
    folders, outcomes = list(words.folders), list["Outcome"]()
    if words.makes_runs:
        cells, folder = _planned(words, options, folder)
        if options.slurm:
            _to_submit(cells, folder)
            return
        outcomes = _run(cells, options.jobs)
        folders.insert(0, folder)
    entries, declared = _entries(folders)
    found = comparison(entries, baseline=words.baseline, allow=words.allow, declared=declared)
    for each in filter(is_comparison, folders):
        found.remarks.extend(left_out(each, entries))
    folder = folder or default_folder(found, folders)
    with writable("compare.dir"):
        page = write_comparison(found, folder, force=options.force)
    print(sentences(found))
    print(f"comparison: {page.resolve()}")
    if failed := [outcome.cell.name for outcome in outcomes if not outcome.finished]:
        raise CellsFailedError(
            f"{len(failed)} of {len(outcomes)} runs failed ({', '.join(failed)}): "
            f"{page.parent / 'logs'} says why. The same command tries them again"
        )


def _entries(folders: Sequence[Path]) -> tuple[list["Entry"], set[str]]:
    """The runs in folders of runs and of comparisons, and the keys in which their plans differ."""
    from mgsrl.compare.entries import cell_entries
    from mgsrl.compare.words import is_comparison
    from mgsrl.report.compare import Entry
    from mgsrl.report.load import check_run_folder

    entries, declared = list[Entry](), set[str]()
    for folder in folders:
        if is_comparison(folder):
            cells, keys = cell_entries(folder)
            entries += cells
            declared |= keys
        else:
            check_run_folder(folder)
            entries.append(Entry(folder, axes=()))
    return entries, declared


def _planned(
    words: "Words", options: argparse.Namespace, folder: Path | None
) -> tuple[list["Cell"], Path]:
    """The cells, checked, and their folder; a mistake is told before anything runs."""
    from mgsrl.compare.cells import differing_keys, plan_cells
    from mgsrl.config.compose import compose_config
    from mgsrl.config.typed import plain
    from mgsrl.report.comparable import check_axes, check_comparable
    from mgsrl.report.compare import Entry, axes_of, check_baseline, check_entries, check_page
    from mgsrl.report.load import RunData, read_run_data

    def compose(overrides: Sequence[str]) -> "Config":
        return compose_config(overrides, options.config, options.config_dir)

    arms = words.arms(compose)
    if folder is None:
        folder = shared_folder(f"runs/compare-{compose(words.common).run.name}", "compare.dir")
    if not words.folders:
        check_baseline(words.baseline, [arm.name for arm in arms])
    check_page(folder, options.force)
    files = {"file": options.config, "config_folder": options.config_dir}
    cells = plan_cells(folder, arms, words.common, **files)
    entries, declared = _entries(words.folders)
    declared |= (differing := differing_keys(cells))
    check_axes(differing, words.allow)
    check_entries([*(Entry(cell.dir) for cell in cells), *entries])
    first = {cell.arm: cell for cell in reversed(cells)}.values()
    planned = [RunData(cell.dir, plain(cell.config)) for cell in first]
    there = [read_run_data(entry.dir) for entry in entries if not entry.absent]
    axes = {**{str(run.run_dir): differing for run in planned}, **axes_of(entries)}
    check_comparable([*there, *planned], words.allow, declared, axes)
    if there:
        called = [str(run.setting("strategy.name", run.name)) for run in there]
        names = [*(arm.name for arm in arms), *(entry.arm for entry in entries), *called]
        if not any(f"{words.baseline} ".startswith(f"{name} ") for name in names):
            check_baseline(words.baseline, names)
    print(f"{len(cells)} runs ({len(arms)} arm{'s' * (len(arms) > 1)}) in {folder}")
    return cells, folder


def _run(cells: Sequence["Cell"], jobs: int) -> list["Outcome"]:
    from mgsrl.compare.runner import run_cells
    from mgsrl.obs.terminal import output

    console = output()
    if not console.is_terminal:
        return run_cells(cells, jobs=jobs, note=partial(print, flush=True))
    with console.status("") as status:
        note = partial(console.print, markup=False)
        return run_cells(cells, jobs=jobs, note=note, show=lambda line: status.update(escape(line)))


def _to_submit(cells: Sequence["Cell"], folder: Path) -> None:
    from mgsrl.compare.slurm import write_submit_script
    from mgsrl.training.lock import writable

    with writable("compare.dir"):
        script, count = write_submit_script(cells, folder)
    if count:
        print(f"{count} runs are not finished. To submit them (options are those of sbatch):")
        print(f"  bash {script} --gpus-per-node=8 --time=24:00:00")
        print("The same command without --slurm then makes the page, and runs what failed here.")
    else:
        print("All runs are finished: the same command without --slurm makes the page.")
