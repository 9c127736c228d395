"""What a comparison's folder holds, for its page: runs that ended well, and why others are gaps.

A run that is not finished is not looked at, whatever it logged: its arm's curves and costs would be
those of other steps. (`report.compare` holds the same of runs that are given by their folders.)
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mgsrl.compare.cells import last_step, read_plan
from mgsrl.obs.run_record import read_run_record
from mgsrl.report.compare import Comparison, Entry, comparison, write_comparison
from mgsrl.report.load import not_finished
from mgsrl.report.strategies import some


def cell_entries(folder: Path) -> tuple[list[Entry], set[str]]:
    """A run of every cell in `cells.json`, and the keys in which the plan has them differ."""
    plan = read_plan(folder)
    axes, found = set(plan.get("differing") or ()), []
    for name, cell in (plan.get("cells") or {}).items():
        absent = _absent(folder / name, cell)
        found.append(Entry(folder / name, str(cell.get("arm", name)), absent, axes))
    return found, axes


def left_out(folder: Path, shown: Sequence[Entry]) -> list[str]:
    """A line on the runs in a comparison's folder that are not among those `shown`: of an earlier
    command, whose strategies, axes or seeds the last one did not name."""
    there = {entry.dir.resolve() for entry in shown}
    runs = sorted(path.parent for path in folder.glob("*/run.json"))
    others = [run.name for run in runs if run.resolve() not in there]
    if not others:
        return []
    name, number = folder.resolve().name, f"{len(others)} more run{'s' * (len(others) > 1)}"
    return [
        f"{name} has {number} of an earlier command, not compared here ({some(others)}): a command "
        "with their strategies, axes and seeds as well makes a page of all."
    ]


def compare_folder(folder: Path, *, baseline: str = "", allow: tuple[str, ...] = ()) -> Comparison:
    """Write the page of the cells in `folder` as they are now.

    Raises:
        ConfigError: as of `report.compare.comparison`.
    """
    entries, declared = cell_entries(folder)
    found = comparison(entries, baseline=baseline, allow=allow, declared=declared)
    found.remarks.extend(left_out(folder, entries))
    write_comparison(found, folder)
    return found


def _absent(run_dir: Path, cell: dict[str, Any]) -> str:
    """Why a cell's run is a gap; empty for one that is finished."""
    try:
        record = read_run_record(run_dir)
    except (OSError, ValueError):
        return "its run.json cannot be read"
    if record.get("status") == "finished":
        return ""
    step = last_step(run_dir)
    if cell.get("error"):
        return f"failed{f' after {step} steps' if step else ''}: {cell['error']}"
    return not_finished(record, step) if record else "not begun"
