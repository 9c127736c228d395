"""A run of every method that is shipped: the bundled model, 30 steps, 2 seeds, one table.

    python scripts/method_runs.py                     # what is missing; goes on where it stopped
    python scripts/method_runs.py --arms mgs gradvac  # some
    python scripts/method_runs.py --docs              # writes the tables of docs/methods.md

The methods are those of `method_list.py`. The runs are in `FOLDER/METHOD-seedN`. `--docs` adds what
they came to to `docs/methods.jsonl`, from which it makes the tables. A time is compared with the
baseline's on the same machine only; how many runs went on at once (`--jobs`) shows in both.
"""

import math
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import cell_inputs
from cell_rows import Row, heldout, is_finished, joined, options_of, write_rows
from method_list import DOMAINS, EXPERIMENT, FAMILIES, METHODS, SEEDS, STEPS, Family
from pages import write_between

from mgsrl.compare.cells import Arm, Cell
from mgsrl.compare.runner import run_cells
from mgsrl.errors import UserError
from mgsrl.obs.metrics import read_metrics
from mgsrl.obs.run_record import read_run_record

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "methods.md"
RESULTS = ROOT / "docs" / "methods.jsonl"
MARKS = ("<!-- results -->\n", "<!-- end of results -->")
FIRST_STEPS = 3
"""Which compile and warm up, and have no part in a run's time per step."""
NONE = "–"


def plan(
    folder: Path, methods: Sequence[str], seeds: Sequence[int], overrides: Sequence[str]
) -> list[Cell]:
    arms = [Arm(name, METHODS[name], tuple(seeds)) for name in methods]
    return cell_inputs.plan(folder, arms, (EXPERIMENT, *overrides))


def run(cells: Sequence[Cell], folder: Path, jobs: int) -> bool:
    """Run what is missing, what others are made of before those; whether all of it is there."""
    finished = True
    inputs = {name: cell_inputs.inputs_of(words) for name, words in METHODS.items()}
    for made in (False, True):
        batch = [cell for cell in cells if bool(inputs[cell.arm]) == made]
        ready = [cell for cell in batch if cell_inputs.ready(cell, folder, inputs[cell.arm])]
        outcomes = run_cells(ready, planned=cells, jobs=jobs) if ready else []
        finished &= len(ready) == len(batch) and all(outcome.finished for outcome in outcomes)
    return finished


def row_of(method: str, seed: int, run_dir: Path) -> Row | None:
    """What a finished run came to; None for another one."""
    if not is_finished(run_dir) or not (after := heldout(run_dir, STEPS)):
        return None
    hardware = read_run_record(run_dir).get("hardware") or {}
    cores = hardware.get("cores")
    seconds = [
        row["time/total"]
        for row in read_metrics(run_dir)
        if row["step"] > FIRST_STEPS and row.get("time/total") is not None
    ]
    return {
        "method": method,
        "seed": seed,
        "after": after,
        "step_seconds": round(median(seconds), 3),
        "machine": f"{hardware.get('cpu')}, {cores} core{'s' * (cores != 1)}",
    }


def known_rows(folder: Path) -> list[Row]:
    """One row per run that was ever made: those of `RESULTS`, and what `folder` has."""
    found = [
        row
        for method in METHODS
        for seed in SEEDS
        if (row := row_of(method, seed, cell_inputs.run_of(folder, method, seed))) is not None
    ]
    rows = [row for row in joined(RESULTS, found, ("method", "seed")) if row["method"] in METHODS]
    order = list(METHODS)
    return sorted(rows, key=lambda row: (order.index(row["method"]), row["seed"]))


def tables(rows: Sequence[Row]) -> str:
    """A Markdown table for each family, and what is missing."""
    by_cell = {(row["method"], row["seed"]): row for row in rows}
    lacks = {m: [s for s in SEEDS if (m, s) not in by_cell] for m in METHODS}
    missing = [
        m if len(seeds) == len(SEEDS) else f"{m} (seed {', '.join(map(str, seeds))})"
        for m, seeds in lacks.items()
        if seeds
    ]
    machines = sorted({row["machine"] for row in rows})
    lines = [f"{len(rows)} of {len(METHODS) * len(SEEDS)} runs."]
    if machines:
        lines.append(f"Machines: {'; '.join(machines)}.")
    if missing:
        lines.append(f"Not run: {', '.join(missing)}.")
    return "\n".join([*lines, "", *filter(None, (_table(family, by_cell) for family in FAMILIES))])


def _table(family: Family, by_cell: Mapping[tuple[str, int], Row]) -> str:
    ran = {method for method, _ in by_cell}
    methods = [method for method in family.methods if method in ran]
    if not methods:
        return ""
    if family.baseline not in methods:
        methods.insert(0, family.baseline)
    lines = [
        f"### {family.title}",
        "",
        f"| method | sets | {' | '.join(DOMAINS)} | mean, against {family.baseline} "
        "| seconds per step | times the baseline's |",
        f"|{'---|' * (len(DOMAINS) + 5)}",
    ]
    for method in methods:
        # a run by its line's name; words as a shell takes them
        sets = shlex.join(re.sub(r"{(\w+)}", r"\1", word) for word in METHODS[method])
        own = [by_cell.get((method, seed)) for seed in SEEDS]
        base = [by_cell.get((family.baseline, seed)) for seed in SEEDS]
        pairs = [None if a is None or b is None else (a, b) for a, b in zip(own, base, strict=True)]
        cells = [
            *(method, f"`{sets}`" if sets else ""),
            *(_values([_of(row, "after", d) for row in own], ".2f") for d in DOMAINS),
            _values([pair and _mean(pair[0]) - _mean(pair[1]) for pair in pairs], "+.2f"),
            _values([_of(row, "step_seconds") for row in own], ".2f"),
            _values([pair and _ratio(*pair) for pair in pairs], ".2f"),
        ]
        if method == family.baseline:
            cells[-3] = cells[-1] = NONE
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _of(row: Row | None, *keys: str) -> float | None:
    """A number of a row; None of one that is not there."""
    found: Any = row
    for key in keys:
        found = None if found is None else found.get(key)
    return None if found is None else float(found)


def _mean(row: Row) -> float:
    return float(sum(row["after"].values()) / len(row["after"]))


def _ratio(row: Row, base: Row) -> float | None:
    """Of the seconds per step, on the same machine."""
    if row["machine"] != base["machine"]:
        return None
    return float(row["step_seconds"] / base["step_seconds"])


def _values(of_seeds: Sequence[float | None], form: str) -> str:
    """The mean over the seeds that are there, and each seed's value; a gap is a dash."""
    there = [value for value in of_seeds if value is not None]
    if not there:
        return NONE
    each = ", ".join(NONE if value is None else format(value, form) for value in of_seeds)
    return f"{format(math.fsum(there) / len(there), form)} ({each})"


def write_docs(folder: Path) -> None:
    """Tables of the page and results by run, from all runs that are known."""
    rows = known_rows(folder)
    write_rows(RESULTS, rows)
    write_between(PAGE, MARKS, tables(rows))


def main() -> int:
    parser = options_of(__doc__ or "", list(METHODS), SEEDS, Path("runs/methods"))
    options = parser.parse_args()
    if options.docs:
        write_docs(options.folder)
        return 0
    try:
        cells = plan(options.folder, options.arms, options.seeds, options.overrides)
        finished = run(cells, options.folder, options.jobs)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(tables(known_rows(options.folder)))
    return 0 if finished else 1


if __name__ == "__main__":
    sys.exit(main())
