"""Arms that are made of other arms' runs, such as those that are distilled from specialists.

`{ARM}` in an override stands for the folder of that arm's run of the same seed, in the same folder
of runs. Such cells are planned and run after the others; without the runs that they take they are
refused when they are planned, and left out when one of those failed. A run that was cut shorter
than what is made of it is taken for none.
"""

import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cell_rows import is_finished

from mgsrl.compare.cells import Arm, Cell, plan_cells
from mgsrl.config.quoting import spelled
from mgsrl.errors import MissingPathError
from mgsrl.obs.evaluation_log import read_evaluations

_INPUT = re.compile(r"{(\w+)}")


def inputs_of(overrides: Sequence[str]) -> tuple[str, ...]:
    """The arms that these overrides name."""
    return tuple(dict.fromkeys(_INPUT.findall(" ".join(overrides))))


def run_of(folder: Path, arm: str, seed: int) -> Path:
    return folder / f"{arm}-seed{seed}"


def plan(folder: Path, arms: Sequence[Arm], common: Sequence[str]) -> list[Cell]:
    """As `plan_cells`, with folders in the place of arms that are named; those cells come last.

    Raises:
        MissingPathError: runs that `arms` are made of are neither among them nor there.
    """
    free = [arm for arm in arms if not inputs_of(arm.overrides)]
    cells = plan_cells(folder, free, common) if free else []
    made = [arm for arm in arms if inputs_of(arm.overrides)]
    needed = {
        (name, seed) for arm in made for seed in arm.seeds for name in inputs_of(arm.overrides)
    }
    later = list[Cell]()
    for seed in dict.fromkeys(seed for arm in made for seed in arm.seeds):
        own = [_of_seed(arm, folder, seed) for arm in made if seed in arm.seeds]
        later += plan_cells(folder, own, common)
    steps = max((cell.config.train.num_steps for cell in later), default=0)
    check_there(folder, needed, cells, " and ".join(arm.name for arm in made), steps)
    return cells + later


def check_there(
    folder: Path,
    needed: set[tuple[str, int]],
    planned: Sequence[Cell],
    who: str,
    steps: int = 0,
) -> None:
    """Raise MissingPathError where a run (arm, seed) is neither planned nor `is_whole`."""
    names = {cell.name for cell in planned}
    runs = {run_of(folder, *each): each[0] for each in sorted(needed)}
    missing = {
        run: arm for run, arm in runs.items() if run.name not in names and not is_whole(run, steps)
    }
    if missing:
        raise MissingPathError(
            f"{who} is made of other runs, which are not there.",
            expected=f"finished runs{f' of {steps} steps or more' if steps else ''} in {folder}",
            found=f"no {', no '.join(run.name for run in missing)}",
            todo=f"add --arms {' '.join(dict.fromkeys(missing.values()))}: they are run first",
        )


def is_whole(run: Path, steps: int) -> bool:
    """Whether a run came to its end, evaluated after `steps` steps or more."""
    return is_finished(run) and max((r.step for r in read_evaluations(run)), default=0) >= steps


def ready(cell: Cell, folder: Path, inputs: Sequence[str], steps: int = 0) -> bool:
    """Whether the runs in `folder` that a cell is made of came to their ends, of the cell's own
    steps and of `steps` or more; those that did not are said."""
    steps = max(steps, cell.config.train.num_steps)
    runs = [run_of(folder, arm, cell.seed) for arm in inputs]
    missing = [run.name for run in runs if not is_whole(run, steps)]
    if missing:
        lacking = f"{', '.join(missing)} did not end after {steps} steps or more"
        print(f"{cell.name} is left out: {lacking}", file=sys.stderr)
    return not missing


def _of_seed(arm: Arm, folder: Path, seed: int) -> Arm:
    def path(found: re.Match[str]) -> str:
        return spelled(str(run_of(folder, found[1], seed)))

    words = tuple(_INPUT.sub(path, word) for word in arm.overrides)
    return replace(arm, overrides=words, seeds=(seed,))
