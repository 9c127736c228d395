"""Is second-order interference visible? Steps that are tried on the testbed `pocket_conflict`.

    python scripts/study_probe.py             # runs that are missing; goes on where it stopped
    python scripts/study_probe.py --docs      # writes the table of docs/study.md

Runs of `mixed` and `mgs` that try the domains' own steps on every third step
(`surgery.step_probe.every`). A row of the table has means over the steps of a run, the pairs of
domains and the seeds, with the interval over seeds; momentum's share (`idle`) is taken off.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from cell_rows import options_of
from pages import write_between
from study import PAGE
from study_arms import EXPERIMENT, POSITIONS, dial

from mgsrl import load_run
from mgsrl.compare.cells import Arm, Cell, plan_cells, standing
from mgsrl.compare.runner import run_cells
from mgsrl.errors import UserError
from mgsrl.statistics.seeds import Estimate, estimate

MARKS = ("<!-- probes -->\n", "<!-- end of probes -->")
ARMS = ("mixed", "mgs")
EVERY = 3
SEEDS = (0, 1, 2)
UNIT = 1e-3
"""Of a loss; the table is in thousandths."""


def plan(
    folder: Path,
    arms: Sequence[str] = ARMS,
    seeds: Sequence[int] = SEEDS,
    overrides: Sequence[str] = (),
) -> dict[float, list[Cell]]:
    """The cells by position."""
    probed_arms = [Arm(name, (f"strategy={name}",), tuple(seeds)) for name in arms]
    probed = f"surgery.step_probe.every={EVERY}"
    return {
        position: plan_cells(
            folder / f"probe-{position:g}",
            probed_arms,
            (EXPERIMENT, dial(position), probed, *overrides),
        )
        for position in POSITIONS
    }


def effects(probes: pd.DataFrame) -> pd.DataFrame:
    """What each trial's gradient added to what momentum does by itself: a row for each step, trial
    and domain, with `predicted`, `change` and `curvature` (their difference)."""
    idle = probes[probes.trial == "idle"].set_index(["step", "on"])[["predicted", "change"]]
    found = probes[probes.trial != "idle"].join(idle.add_suffix("_idle"), on=["step", "on"])
    found = found.assign(
        predicted=found.predicted - found.predicted_idle, change=found.change - found.change_idle
    )
    return found.assign(curvature=found.change - found.predicted)


def kinds(probes: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each kind of effect; the last is that of a whole step."""
    found, whole = effects(probes), probes[probes.trial == "resolved"]
    own = found[found.trial == "own"]
    return {
        "own step, own loss": own[own.of == own.on],
        "own step, others' losses": own[own.of != own.on],
        "resolved step": found[found.trial == "resolved"],
        "resolved step with momentum": whole.assign(curvature=whole.change - whole.predicted),
    }


def table(folder: Path) -> str:
    """The Markdown table, of the runs that are finished."""
    lines = [
        "| conflict | arm | seeds | effect | to first order | beyond it | measured |",
        "|---|---|---|---|---|---|---|",
    ]
    for position, cells in plan(folder).items():
        for arm in ARMS:
            done = [c for c in cells if c.arm == arm and standing(c).state == "finished"]
            runs = [kinds(load_run(cell.dir).step_probes) for cell in done]
            for kind in runs[0] if runs else ():
                columns = [
                    estimate([float(run[kind][column].mean()) / UNIT for run in runs])
                    for column in ("predicted", "curvature", "change")
                ]
                cells_text = " | ".join(map(_interval, columns))
                lines.append(f"| {position:g} | {arm} | {len(runs)} | {kind} | {cells_text} |")
    return "\n".join(lines) + "\n"


def _interval(e: Estimate) -> str:
    return f"{e.mean:+.2f}" + (f" ({e.low:+.2f} to {e.high:+.2f})" if e.n > 1 else "")


def main() -> int:
    parser = options_of(__doc__ or "", ARMS, SEEDS, Path("runs/study"))
    options = parser.parse_args()
    if options.docs:
        write_between(PAGE, MARKS, table(options.folder))
        return 0
    try:
        outcomes = [
            outcome
            for cells in plan(
                options.folder, options.arms, options.seeds, options.overrides
            ).values()
            for outcome in run_cells(cells, jobs=options.jobs)
        ]
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(table(options.folder))
    return 0 if all(outcome.finished for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
