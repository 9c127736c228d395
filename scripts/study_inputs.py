"""The study's cells that are made of other cells: distilled from the single runs, or merged.

A merged model is not trained: a run of one step with a learning rate of 0 begins with it, and its
evaluation is that of all runs, on the same prompts and with the same seeds.
`merged-POSITION/models/` has what `mgsrl merge` wrote.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import cell_inputs
from study_arms import ARMS, EXPERIMENT, LATER, MERGED, SINGLES, dial, place

from mgsrl.compare.cells import Arm, Cell, plan_cells
from mgsrl.config.quoting import spelled
from mgsrl.training.merge import merge_models

EVALUATED = ("strategy=mixed", "train.num_steps=1", "learner.optimizer.lr=0")


def inputs_of(arm: str) -> tuple[str, ...]:
    """The arms whose runs of the same seed and position this one is made of."""
    return SINGLES if arm in MERGED else cell_inputs.inputs_of((ARMS | LATER)[arm])


def plan_position(
    folder: Path, conflict: float, arms: Sequence[Arm], overrides: Sequence[str]
) -> list[Cell]:
    """The cells of one position; what is made of other runs comes last.

    Raises:
        MissingPathError: runs that `arms` are made of are neither among them nor there.
    """
    common = (EXPERIMENT, dial(conflict), *overrides)
    trained = [arm for arm in arms if arm.name not in MERGED]
    merged = [arm for arm in arms if arm.name in MERGED]
    there = place(folder, conflict, SINGLES[0])
    cells = cell_inputs.plan(there, trained, common)
    needed = {(single, seed) for arm in merged for seed in arm.seeds for single in SINGLES}
    cell_inputs.check_there(there, needed, cells, " and ".join(arm.name for arm in merged))
    for seed in dict.fromkeys(seed for arm in merged for seed in arm.seeds):
        models = {arm.name: _model(folder, conflict, arm.name, seed) for arm in merged}
        own = [
            Arm(arm.name, (*EVALUATED, f"policy.path={spelled(str(models[arm.name]))}"), (seed,))
            for arm in merged
            if seed in arm.seeds
        ]
        cells += plan_cells(models[own[0].name].parents[1], own, common)
    return cells


def batches(cells: Sequence[Cell]) -> Iterator[list[Cell]]:
    """What can be run at once, in this order: cells that others are made of, those that are
    distilled from them, those that are merged."""
    for folder in dict.fromkeys(cell.dir.parent for cell in cells):
        here = [cell for cell in cells if cell.dir.parent == folder]
        for made in (False, True):
            if batch := [cell for cell in here if bool(inputs_of(cell.arm)) == made]:
                yield batch


def prepared(folder: Path, conflict: float, cells: Sequence[Cell]) -> list[Cell]:
    """Those of `cells` that can be run; models are merged here."""
    there = place(folder, conflict, SINGLES[0])
    found = [cell for cell in cells if cell_inputs.ready(cell, there, inputs_of(cell.arm))]
    for cell in found:
        if (
            cell.arm in MERGED
            and not (model := _model(folder, conflict, cell.arm, cell.seed)).is_dir()
        ):
            model.parent.mkdir(parents=True, exist_ok=True)
            runs = [cell_inputs.run_of(there, single, cell.seed) for single in SINGLES]
            merge_models(runs, model, method=MERGED[cell.arm], dtype="float32")  # as it trained
    return found


def _model(folder: Path, conflict: float, arm: str, seed: int) -> Path:
    return cell_inputs.run_of(place(folder, conflict, arm) / "models", arm, seed)
