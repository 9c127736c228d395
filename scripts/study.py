"""The study on the testbed `pocket_conflict`: every arm at every position of the dial, with seeds.

    python scripts/study.py                     # what is missing; goes on where it stopped
    python scripts/study.py --arms mgs mixed --positions 1 --seeds 0 1    # some
    python scripts/study.py --docs              # writes tables and picture of docs/study.md

The arms are those of `study_arms.py`. A seed is run at all positions before the next one, so that a
study that is stopped early has fewer seeds everywhere. `FOLDER/conflict-POSITION/` has the runs,
and the page that compares them (`comparison.html`). `--docs` also keeps what every cell came to, in
`docs/study.jsonl`; the predictions are held against it by `study_claims.py`.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import study_claims
from pages import write_between
from study_arms import ARMS, EXPERIMENT, POSITIONS, dial, seeds_of

from mgsrl.compare.cells import Arm, Cell, plan_cells, standing
from mgsrl.compare.entries import compare_folder
from mgsrl.compare.runner import run_cells
from mgsrl.errors import UserError
from mgsrl.report.compare import JSON

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


def tables(folder: Path) -> str:
    """The Markdown tables of the page, of every position that was compared."""
    parts = []
    for position in POSITIONS:
        path = folder / f"conflict-{position:g}" / JSON
        if path.is_file():
            parts.append(f"### Conflict {position:g}\n\n{_table(json.loads(path.read_text()))}")
    return "\n".join(parts)


def _table(found: Mapping[str, Any]) -> str:
    lines = [
        f"| arm | seeds | mean of the domains | worst domain's gain | mean, against {BASELINE} "
        f"| worst, against {BASELINE} |",
        "|---|---|---|---|---|---|",
    ]
    for name, arm in found["arms"].items():
        against = [_against(arm["against_baseline"].get(key)) for key in ("average", "worst")]
        cells = [
            name,
            str(len(arm["seeds"])),
            _interval(arm["average"]),
            _interval(arm["worst_gain"]),
        ]
        lines.append(f"| {' | '.join([*cells, *against])} |")
    return "\n".join(lines) + "\n"


def _interval(e: Mapping[str, Any]) -> str:
    if e["mean"] is None:
        return "–"
    rest = "" if e["low"] is None else f" ({e['low']:+.2f} to {e['high']:+.2f})"
    return f"{e['mean']:+.2f}{rest}"


def _against(contrast: Mapping[str, Any] | None) -> str:
    if contrast is None:
        return "–"
    text, p = _interval(contrast), contrast["p_corrected"]
    return f"**{text}**" if p is not None and p < study_claims.SURE else text


def write_docs(folder: Path) -> None:
    """Tables, results by cell, and picture of the page, from the comparisons in `folder`."""
    rows = study_claims.rows_of(folder)
    RESULTS.write_text("".join(json.dumps(row) + "\n" for row in rows))
    study_claims.draw(rows, PICTURE)
    text = f"{study_claims.tables(rows)}\n{tables(folder)}"
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
