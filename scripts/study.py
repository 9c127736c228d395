"""The study on the testbed `pocket_conflict`: every arm at every position of the dial, with seeds.

    python scripts/study.py                     # what is missing; goes on where it stopped
    python scripts/study.py --arms mgs mixed --positions 1 --seeds 0 1    # some
    python scripts/study.py --docs              # writes tables and picture of docs/study.md
    python scripts/study.py --check            # whether cells came to the same numbers as there

The arms are those of `study_arms.py`. A seed is run at all positions before the next one, so that a
study that is stopped early has fewer seeds everywhere. `FOLDER/conflict-POSITION/` has the runs,
and the page that compares them (`comparison.html`). `--docs` adds what every cell there came to to
`docs/study.jsonl`, from which it makes the tables, so that a study can be made in pieces and on
several machines; the predictions are held against it by `study_claims.py`.
"""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import study_claims
import study_figures
import study_inputs
from cell_inputs import run_of
from cell_rows import Row, against, is_finished, joined, options_of, write_rows
from pages import write_between
from study_arms import ARMS, EVERY, LATER, MERGED, POSITIONS, place, seeds_of
from study_claims import MEAN, WORST

from mgsrl.compare.cells import Arm, Cell, differing_keys
from mgsrl.compare.entries import cell_entries
from mgsrl.compare.runner import run_cells
from mgsrl.errors import UserError
from mgsrl.report.compare import Entry, comparison, write_comparison
from mgsrl.statistics.seeds import Estimate, estimate

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "study.md"
RESULTS = ROOT / "docs" / "study.jsonl"
PICTURE = ROOT / "docs" / "images" / "study.png"
MARKS = ("<!-- results -->\n", "<!-- end of results -->")
LATER_MARKS = ("<!-- later -->\n", "<!-- end of later -->")
FIGURE_MARKS = ("<!-- figures -->\n", "<!-- end of figures -->")
BASELINE = "mixed"


def plan(options: argparse.Namespace) -> dict[float, list[Cell]]:
    """The cells by position."""
    arms = [
        Arm(name, (ARMS | LATER).get(name, ()), seeds)
        for name in options.arms
        if (seeds := tuple(s for s in seeds_of(name) if s in options.seeds))
    ]
    return {
        position: study_inputs.plan_position(options.folder, position, arms, options.overrides)
        for position in options.positions
    }


def run(
    planned: Mapping[float, Sequence[Cell]], folder: Path, seeds: Sequence[int], jobs: int
) -> bool:
    """Run what is missing; whether all of it is there."""
    finished = True
    for seed in seeds:
        for position, cells in planned.items():
            for batch in study_inputs.batches([cell for cell in cells if cell.seed == seed]):
                ready = study_inputs.prepared(folder, position, batch)
                finished &= len(ready) == len(batch)
                of_folder = [cell for cell in cells if cell.dir.parent == batch[0].dir.parent]
                outcomes = run_cells(ready, planned=of_folder, jobs=jobs) if ready else []
                finished &= all(outcome.finished for outcome in outcomes)
    return finished


def compare(options: argparse.Namespace) -> None:
    """Write the page of every position, of all its finished runs: earlier calls' arms and seeds,
    too. Gaps of what is planned now are named."""
    for position in options.positions:
        folder = place(options.folder, position, BASELINE)
        arms = {
            arm: tuple(s for s in seeds_of(arm) if is_finished(run_of(folder, arm, s)))
            for arm in EVERY
            if arm not in MERGED
        }
        there = [Arm(a, (ARMS | LATER)[a], seeds) for a, seeds in arms.items() if seeds]
        known = study_inputs.plan_position(options.folder, position, there, options.overrides)
        gaps = [entry for entry in cell_entries(folder)[0] if entry.absent]
        entries = [*(Entry(cell.dir, cell.arm) for cell in known), *gaps]
        if len(known) > 1:
            baseline = BASELINE if arms[BASELINE] else ""
            axes = differing_keys(known)
            write_comparison(comparison(entries, baseline=baseline, declared=axes), folder)


def known_rows(folder: Path) -> list[Row]:
    """One row per cell that ever ran: those of `RESULTS`, and what `folder` has of the study."""
    rows = joined(RESULTS, study_claims.rows_of(folder), ("conflict", "arm", "seed"))
    return sorted(rows, key=lambda r: (r["conflict"], EVERY.index(r["arm"]), r["seed"]))


def tables(rows: study_claims.Rows, *, later: bool = False) -> str:
    """The Markdown tables of the page, of every position: of the first arms, or of those that
    joined `later`, which have a correction of their own."""
    parts = []
    for position in POSITIONS:
        there = dict.fromkeys(row["arm"] for row in rows if row["conflict"] == position)
        if arms := [arm for arm in there if (arm not in ARMS) == later]:
            title = f"Conflict {position:g}{', methods added later' if later else ''}"
            shown = [BASELINE, *arms] if later else arms
            parts.append(f"### {title}\n\n{_table(rows, position, shown)}")
    return "\n".join(parts)


def _table(rows: study_claims.Rows, position: float, arms: Sequence[str]) -> str:
    """A line for each arm; p values are corrected for the number of arms, in each measure."""
    measures, others = (MEAN, WORST), [arm for arm in arms if arm != BASELINE]
    ends = {(a, m): study_claims.by_seed(rows, position, a, m) for a in arms for m in measures}
    compared = against(ends, others, BASELINE, measures, _interval)
    lines = [
        f"| arm | seeds | mean of the domains | worst domain's gain | mean, against {BASELINE} "
        f"| worst, against {BASELINE} |",
        "|---|---|---|---|---|---|",
    ]
    for arm in arms:
        own = [_interval(estimate(list(ends[arm, m].values()))) for m in measures]
        differing = [compared.get((arm, m), "–") for m in measures]
        lines.append(f"| {' | '.join([arm, str(len(ends[arm, MEAN])), *own, *differing])} |")
    return "\n".join(lines) + "\n"


def _interval(e: Estimate) -> str:
    if math.isnan(e.mean):
        return "–"
    return f"{e.mean:+.2f}" + ("" if math.isnan(e.low) else f" ({e.low:+.2f} to {e.high:+.2f})")


def check(folder: Path) -> tuple[str, int]:
    """How many cells of `folder` came to the numbers of `RESULTS`, in words and as a number; one
    that did not ends it (`joined`)."""
    names = ("conflict", "arm", "seed")
    found = study_claims.rows_of(folder)
    new = len(joined(RESULTS, found, names)) - len(joined(RESULTS, [], names))
    again = len(found) - new
    text = f"{again} cells came to the same numbers, to the bit; {new} are new"
    return (text if found else f"{folder} has no finished cell of the study"), again


def write_docs(folder: Path) -> None:
    """Tables, results by cell, and picture of the page, from all cells that are known."""
    rows = known_rows(folder)
    write_rows(RESULTS, rows)
    study_claims.draw(rows, PICTURE)
    text = f"{study_claims.tables(rows)}\n{tables(rows)}"
    write_between(PAGE, MARKS, text)
    write_between(PAGE, FIGURE_MARKS, study_figures.table(rows))
    claims = study_claims.tables(rows, study_claims.LATER_CLAIMS)
    known = any(row["arm"] not in ARMS for row in rows)
    text = f"{claims}\n{tables(rows, later=True)}" if known else "Not run yet.\n"
    write_between(PAGE, LATER_MARKS, text)


def main() -> int:
    every = sorted({seed for arm in ARMS for seed in seeds_of(arm)})
    parser = options_of(__doc__ or "", EVERY, every, Path("runs/study"))
    parser.add_argument(
        "--positions",
        nargs="*",
        metavar="X",
        type=float,
        choices=POSITIONS,
        default=list(POSITIONS),
        help="of the dial (0 0.5 1)",
    )
    parser.add_argument(
        "--check", action="store_true", help="only compare the folder's cells with the page's"
    )
    options = parser.parse_args()
    if options.docs:
        write_docs(options.folder)
        return 0
    if options.check:
        text, again = check(options.folder)
        print(text)
        return 0 if again else 1
    try:
        planned = plan(options)
        finished = run(planned, options.folder, options.seeds, options.jobs)
        compare(options)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    rows = known_rows(options.folder)
    print(tables(rows), tables(rows, later=True), sep="\n")
    return 0 if finished else 1


if __name__ == "__main__":
    sys.exit(main())
