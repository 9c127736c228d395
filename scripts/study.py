"""The study on the testbed `pocket_conflict`: every arm at every position of the dial, with seeds.

    python scripts/study.py                     # what is missing; goes on where it stopped
    python scripts/study.py --arms mgs mixed --positions 1 --seeds 0 1    # some
    python scripts/study.py --docs              # writes tables and picture of docs/study.md

The arms are those of `study_arms.py`. A seed is run at all positions before the next one, so that a
study that is stopped early has fewer seeds everywhere. `FOLDER/conflict-POSITION/` has the runs,
and the page that compares them (`comparison.html`). `--docs` adds what every cell there came to to
`docs/study.jsonl`, from which it makes the tables, so that a study can be made in pieces and on
several machines; the predictions are held against it by `study_claims.py`.
"""

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import study_claims
from pages import write_between
from study_arms import ARMS, EXPERIMENT, POSITIONS, dial, seeds_of
from study_claims import MEAN, WORST

from mgsrl.compare.cells import Arm, Cell, plan_cells, standing
from mgsrl.compare.entries import compare_folder
from mgsrl.compare.runner import run_cells
from mgsrl.errors import UserError
from mgsrl.statistics.seeds import Difference, Estimate, difference, estimate, holm

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "study.md"
RESULTS = ROOT / "docs" / "study.jsonl"
PICTURE = ROOT / "docs" / "images" / "study.png"
MARKS = ("<!-- results -->\n", "<!-- end of results -->")
BASELINE = "mixed"


def plan(options: argparse.Namespace) -> dict[float, list[Cell]]:
    """The cells by position."""
    planned = {}
    for position in options.positions:
        arms = [
            Arm(name, ARMS[name], seeds)
            for name in options.arms
            if (seeds := tuple(s for s in seeds_of(name) if s in options.seeds))
        ]
        common = (EXPERIMENT, dial(position), *options.overrides)
        planned[position] = plan_cells(options.folder / f"conflict-{position:g}", arms, common)
    return planned


def run(planned: Mapping[float, Sequence[Cell]], seeds: Sequence[int], jobs: int) -> bool:
    """Run what is missing; whether all of it is there."""
    finished = True
    for seed in seeds:
        for cells in planned.values():
            if of_seed := [cell for cell in cells if cell.seed == seed]:
                outcomes = run_cells(of_seed, planned=cells, jobs=jobs)
                finished &= all(outcome.finished for outcome in outcomes)
    return finished


def compare(planned: Mapping[float, Sequence[Cell]]) -> None:
    """Write the page of every position; its gaps are named."""
    for cells in planned.values():
        if sum(standing(cell).state == "finished" for cell in cells) > 1:
            compare_folder(cells[0].dir.parent, baseline=BASELINE)


def known_rows(folder: Path) -> list[dict[str, Any]]:
    """One row per cell that ever ran: those of `RESULTS`, and what `folder` has of the study."""
    before = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    by_cell = {(row["conflict"], row["arm"], row["seed"]): row for row in before}
    for row in study_claims.rows_of(folder):
        cell = (row["conflict"], row["arm"], row["seed"])
        if by_cell.get(cell, row) != row:
            print(f"{cell}: other numbers than before, {row} for {by_cell[cell]}", file=sys.stderr)
        by_cell[cell] = row
    order = list(ARMS)
    return sorted(by_cell.values(), key=lambda r: (r["conflict"], order.index(r["arm"]), r["seed"]))


def tables(rows: study_claims.Rows) -> str:
    """The Markdown tables of the page, of every position."""
    parts = []
    for position in POSITIONS:
        of_arm = {row["arm"]: None for row in rows if row["conflict"] == position}
        if of_arm:
            parts.append(f"### Conflict {position:g}\n\n{_table(rows, position, list(of_arm))}")
    return "\n".join(parts)


def _table(rows: study_claims.Rows, position: float, arms: Sequence[str]) -> str:
    """A line for each arm; p values are corrected for the number of arms, in each measure."""
    measures, others = (MEAN, WORST), [arm for arm in arms if arm != BASELINE]
    ends = {(a, m): study_claims.by_seed(rows, position, a, m) for a in arms for m in measures}
    against = {}
    for m in measures:
        found = [difference(ends[arm, m], ends.get((BASELINE, m), {})) for arm in others]
        corrected = holm([each.p for each in found])
        cells = [_against(e, p) for e, p in zip(found, corrected, strict=True)]
        against |= {(arm, m): cell for arm, cell in zip(others, cells, strict=True)}
    lines = [
        f"| arm | seeds | mean of the domains | worst domain's gain | mean, against {BASELINE} "
        f"| worst, against {BASELINE} |",
        "|---|---|---|---|---|---|",
    ]
    for arm in arms:
        own = [_interval(estimate(list(ends[arm, m].values()))) for m in measures]
        differing = [against.get((arm, m), "–") for m in measures]
        lines.append(f"| {' | '.join([arm, str(len(ends[arm, MEAN])), *own, *differing])} |")
    return "\n".join(lines) + "\n"


def _interval(e: Estimate) -> str:
    if math.isnan(e.mean):
        return "–"
    return f"{e.mean:+.2f}" + ("" if math.isnan(e.low) else f" ({e.low:+.2f} to {e.high:+.2f})")


def _against(found: Difference, p: float) -> str:
    text = _interval(found)
    return f"**{text}**" if p < study_claims.SURE else text


def write_docs(folder: Path) -> None:
    """Tables, results by cell, and picture of the page, from all cells that are known."""
    rows = known_rows(folder)
    RESULTS.write_text("".join(json.dumps(row) + "\n" for row in rows))
    study_claims.draw(rows, PICTURE)
    text = f"{study_claims.tables(rows)}\n{tables(rows)}"
    write_between(PAGE, MARKS, text)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    every = sorted({seed for arm in ARMS for seed in seeds_of(arm)})
    parser.add_argument(
        "--arms",
        nargs="*",
        metavar="ARM",
        choices=list(ARMS),
        default=list(ARMS),
        help="of study_arms.py (all)",
    )
    parser.add_argument(
        "--positions",
        nargs="*",
        metavar="X",
        type=float,
        default=list(POSITIONS),
        help="of the dial (0 0.5 1)",
    )
    parser.add_argument("--seeds", nargs="*", type=int, default=every, help="(all of each arm)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (%(default)s)")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/study"), help="of the runs (%(default)s)"
    )
    parser.add_argument("--docs", action="store_true", help="only write the tables into the docs")
    parser.add_argument("overrides", nargs="*", help="further ones of `mgsrl train`, after --")
    options = parser.parse_args()
    if options.docs:
        write_docs(options.folder)
        return 0
    try:
        planned = plan(options)
        finished = run(planned, options.seeds, options.jobs)
        compare(planned)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(tables(options.folder))
    return 0 if finished else 1


if __name__ == "__main__":
    sys.exit(main())
