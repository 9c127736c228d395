"""What the scripts that run many cells share: their options, and one row for every cell.

Rows are kept with the docs (`docs/*.jsonl`), and tables are made of all that are known, so that
cells can be run in pieces and on several machines.
"""

import argparse
import json
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mgsrl.obs.evaluation_log import read_evaluations
from mgsrl.obs.run_record import read_run_record
from mgsrl.statistics.seeds import Difference, difference, holm

Row = dict[str, Any]
SURE = 0.05
"""A corrected p below it is told from luck."""
TIMED = {"minutes", "step_seconds", "machine"}
"""Of a row: what running a cell again may change."""


def options_of(
    doc: str, arms: Sequence[str], seeds: Sequence[int], folder: Path
) -> argparse.ArgumentParser:
    """The options of a script that runs `arms`, which `--help` names below its module's text."""
    plain = argparse.RawDescriptionHelpFormatter
    known = textwrap.fill(", ".join(arms), 95, initial_indent="arms: ", subsequent_indent="  ")
    parser = argparse.ArgumentParser(description=doc, epilog=known, formatter_class=plain)
    parser.add_argument(
        "--arms", nargs="*", metavar="ARM", choices=arms, default=list(arms), help="(all)"
    )
    parser.add_argument(
        "--seeds",
        nargs="*",
        metavar="N",
        type=int,
        choices=seeds,
        default=list(seeds),
        help="(all of each arm)",
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (%(default)s)")
    parser.add_argument("--folder", type=Path, default=folder, help="of the runs (%(default)s)")
    parser.add_argument("--docs", action="store_true", help="only write the tables into the docs")
    parser.add_argument("overrides", nargs="*", help="further ones of `mgsrl train`, after --")
    return parser


def is_finished(run_dir: Path) -> bool:
    """Whether a run came to its end."""
    try:
        return read_run_record(run_dir).get("status") == "finished"
    except (OSError, ValueError):
        return False


def heldout(run_dir: Path, step: int) -> dict[str, float]:
    """The held-out reward after `step` steps by domain; empty where one of them is not known."""
    found = {r.domain: r.mean for r in read_evaluations(run_dir) if r.step == step}
    return {} if any(map(math.isnan, found.values())) else found


def joined(path: Path, new: Iterable[Row], keys: Sequence[str]) -> list[Row]:
    """The rows of `path`, and `new` ones in the place of those of the same cell.

    Args:
        keys: of a row, which say what cell it is of.

    Raises:
        SystemExit: a cell that was run again came to other numbers (its times may differ).
    """
    lines = path.read_text().splitlines() if path.is_file() else []
    by_cell = {tuple(row[key] for key in keys): row for row in map(json.loads, lines)}
    for row in new:
        cell = tuple(row[key] for key in keys)
        old = by_cell.get(cell, row)
        keys_of_both = (old.keys() & row.keys()) - TIMED
        if other := [key for key in keys_of_both if not _same(old[key], row[key])]:
            raise SystemExit(
                f"{', '.join(map(str, cell))} was run again and came to other numbers than "
                f"{path.name} has ({', '.join(sorted(other))}): {row} instead of {old}. Equal "
                "machines and versions give equal numbers; to take the new ones, remove its row."
            )
        by_cell[cell] = old | row
    return list(by_cell.values())


def _same(a: Any, b: Any) -> bool:
    """Equal as they are written: what is not known (NaN) is the same as itself."""
    return json.dumps(a) == json.dumps(b)


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def against(
    ends: Mapping[tuple[str, str], Mapping[int, float]],
    arms: Sequence[str],
    baseline: str,
    measures: Sequence[str],
    shown: Callable[[Difference], str],
) -> dict[tuple[str, str], str]:
    """The cells of a table by (arm, measure): differences to the baseline, paired by seed, bold
    where the p that is corrected for the number of arms, in each measure, is below `SURE`.

    Args:
        ends: of (arm, measure), what each seed came to.
    """
    cells = {}
    for measure in measures:
        found = [difference(ends[arm, measure], ends.get((baseline, measure), {})) for arm in arms]
        for arm, each, p in zip(arms, found, holm([each.p for each in found]), strict=True):
            cells[arm, measure] = f"**{shown(each)}**" if p < SURE else shown(each)
    return cells
