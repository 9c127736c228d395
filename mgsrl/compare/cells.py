"""The cells of a comparison: an arm (a strategy, with whatever else it sets) times a seed.

A cell is one run folder inside the comparison's folder, `ARM-seedN`, and one `mgsrl train` command
that makes it. What is there already is read off the folder itself, so that a comparison that was
stopped anywhere, or whose runs were made elsewhere (a Slurm array), goes on by the same plan.

    arms = [Arm("mgs", ("strategy=mgs",)), Arm("mixed", ("strategy=mixed",), seeds=(0, 1))]
    cells = plan_cells(Path("runs/compare-mine"), arms, ["train.num_steps=30"])
    run_cells(cells, jobs=2)  # of runner.py

`cells.json` of the folder remembers the arms, the day that prompts are rendered for, and what
became of every attempt. `entries.compare_folder` makes the page.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any
from zlib import crc32

from mgsrl.config import Config
from mgsrl.config.compose import compose_config, config_from_yaml
from mgsrl.config.quoting import spelled
from mgsrl.config.resume import FREE, LAYOUT, resume_changes
from mgsrl.config.typed import LARGEST, flattened, plain
from mgsrl.errors import ConfigError, DataError, NewerVersionError, one_line
from mgsrl.files.jsonl import jsonable, write_atomic
from mgsrl.obs.metrics import FILE as METRICS
from mgsrl.obs.run_record import read_run_record, session_seconds

FILE = "cells.json"
FORMAT = 1
OWN_KEYS = ("seed", "run.dir", "resume")
"""What the plan decides for every cell."""
ATTEMPT_KEYS = ("attempts", "exit", "error")
"""What `cells.json` says of a cell's attempts: how many, and how the last one ended."""
LONGEST_NAME = 80
"""Of an arm's folder; of longer names it is the beginning and a checksum."""
MEASURED_BY = ("evaluate.every",)
"""Keys that a run may change when it goes on, but that decide what is compared."""
LAST_BYTES = 1 << 16
"""Of `metrics.jsonl`; more than any of its lines."""


@dataclass(frozen=True)
class Arm:
    """One of the things that are compared."""

    name: str
    overrides: tuple[str, ...] = ()
    """Of `mgsrl train`, on top of what all arms share."""
    seeds: tuple[int, ...] = (0, 1, 2)

    @property
    def folder(self) -> str:
        """The name as the beginning of a folder's."""
        return self._plain if len(self._plain) <= LONGEST_NAME else self.marked

    @property
    def marked(self) -> str:
        """`folder` with a checksum of the name."""
        return f"{self._plain[: LONGEST_NAME - 9]}-{crc32(self.name.encode()):08x}"

    @property
    def _plain(self) -> str:
        return re.sub(r"[^A-Za-z0-9._-]+", "-", self.name).strip("-.")


@dataclass(frozen=True)
class Cell:
    """One run of one arm."""

    arm: str
    seed: int
    dir: Path
    overrides: tuple[str, ...]
    """All those of its `mgsrl train`, seed and folder included."""
    config: Config = field(repr=False, compare=False)
    """What they make, with the seed and folder of the cell."""
    files: tuple[str, ...] = ()
    """`--config FILE`, `--config-dir DIR`."""

    @property
    def name(self) -> str:
        return self.dir.name

    @property
    def command(self) -> list[str]:
        """What makes this cell alone, whole."""
        return ["mgsrl", "train", *self.overrides, *self.files]


@dataclass(frozen=True)
class Standing:
    """How far a cell is, as its folder says."""

    state: str
    """`new`, `begun` (stopped, failed or running) or `finished`."""
    steps: int = 0
    seconds: float = 0.0
    """In sessions that ended."""
    error: str = ""


def plan_cells(
    folder: Path,
    arms: Sequence[Arm],
    common: Sequence[str] = (),
    *,
    file: Path | str | None = None,
    config_folder: Path | str | None = None,
) -> list[Cell]:
    """The cells of `arms` in `folder`: all arms of a seed before the next seed. Writes nothing.

    Args:
        common: overrides that all arms share, `+experiment=NAME` among them.
        file, config_folder: `--config` and `--config-dir`.

    Raises:
        ConfigError: an override cannot work, sets what the plan decides (seed, run.dir, resume), or
            two arms have the same name or do the same, or no step is evaluated in all of them; or
            `folder` holds cells of another plan.
    """
    _check_arms(arms, common)
    alike = Counter(arm.folder for arm in arms)
    names = {arm.name: arm.folder if alike[arm.folder] == 1 else arm.marked for arm in arms}
    files = [("--config", file), ("--config-dir", config_folder)]
    words = tuple(str(word) for pair in files if pair[1] is not None for word in pair)
    day = read_plan(folder).get("date") or date.today().isoformat()
    made: dict[tuple[str, int], Cell] = {}
    for arm in arms:
        overrides = (*common, *arm.overrides)
        base = compose_config(overrides, file, config_folder)
        if base.policy.date is None:
            overrides = (*overrides, f"policy.date={spelled(day)}")
            base.policy.date = day
        for seed in arm.seeds:
            place = folder / f"{names[arm.name]}-seed{seed}"
            own = (f"seed={seed}", f"run.dir={spelled(str(place))}")
            config = replace(base, seed=seed, run=replace(base.run, dir=str(place)))
            cell = Cell(arm.name, seed, place, (*overrides, *own), config, words)
            made[arm.name, seed] = cell
    _check_different(arms, made)
    seeds = dict.fromkeys(seed for arm in arms for seed in arm.seeds)
    cells = [made[a.name, s] for s in seeds for a in arms if (a.name, s) in made]
    _check_evaluated(cells)
    check_cells(cells)
    return cells


def check_cells(cells: Iterable[Cell]) -> None:
    """Raise ConfigError when a folder holds a run that is not the cell that it should be."""
    for cell in cells:
        saved = cell.dir / "config.yaml"
        if not saved.is_file():
            continue
        old, new = config_from_yaml(saved), cell.config
        changes = resume_changes(old, new)
        wrong = [
            change
            for change in changes
            if change.effect not in (FREE, LAYOUT) or change.key in MEASURED_BY
        ]
        shorter = new.train.num_steps < standing(cell).steps
        wrong += [c for c in changes if c.key == "train.num_steps" and shorter and c not in wrong]
        if wrong:
            raise ConfigError(
                f"{cell.dir} is of another comparison.",
                expected="runs of these settings, or none yet",
                found="\n            ".join(map(str, wrong)),
                todo="choose another compare.dir, or remove that folder",
            )


def standing(cell: Cell) -> Standing:
    """Read off the cell's folder; a damaged record makes it `begun`."""
    if not (cell.dir / "run.json").is_file():
        return Standing("begun" if (cell.dir / METRICS).is_file() else "new")
    try:
        record = read_run_record(cell.dir)
    except (OSError, ValueError):
        return Standing("begun", last_step(cell.dir))
    sessions: list[dict[str, Any]] = record.get("sessions") or [{}]
    steps = last_step(cell.dir)
    done = record.get("status") == "finished" and steps >= cell.config.train.num_steps
    error = "" if done else str(sessions[-1].get("error", ""))
    return Standing("finished" if done else "begun", steps, session_seconds(record), error)


def last_step(run_dir: Path) -> int:
    """The last step that `metrics.jsonl` has a whole line of; only its end is read."""
    try:
        with (run_dir / METRICS).open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - LAST_BYTES))
            lines = file.read().split(b"\n")[:-1]
    except OSError:
        return 0
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):
            continue
    return 0


def read_plan(folder: Path) -> dict[str, Any]:
    """`cells.json` of a comparison's folder; empty without one.

    Raises:
        DataError: it is damaged.
        NewerVersionError: a newer mgsrl wrote it.
    """
    path = folder / FILE
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        why = "" if _is_plan(found) else "something that is no plan"
    except (ValueError, RecursionError) as error:
        why = one_line(error)
    if why:
        raise DataError(
            f"{path} cannot be read.",
            expected="the plan of a comparison, as mgsrl writes it",
            found=why,
            todo="restore it from a copy, or remove it and give the command that made it again",
        )
    if isinstance(written := found.get("format"), int) and written > FORMAT:
        raise NewerVersionError(
            f"{path} was written by a newer version of mgsrl.",
            expected=f"format {FORMAT}",
            found=f"format {written}",
            todo="use that version, or choose another compare.dir",
        )
    return dict(found)


def _is_plan(found: Any) -> bool:
    if not isinstance(found, dict):
        return False
    cells, differing = found.get("cells", {}), found.get("differing", [])
    return (
        isinstance(differing, list)
        and all(isinstance(key, str) for key in differing)
        and isinstance(cells, dict)
        and all(isinstance(cell, dict) for cell in cells.values())
        and not any("\0" in name for name in cells)
    )


def write_plan(folder: Path, cells: Sequence[Cell], attempts: Mapping[str, Any]) -> None:
    """Write `cells.json`: the day, and of every cell its command and what its attempts came to."""
    dates = {cell.config.policy.date for cell in cells}
    text = {
        "format": FORMAT,
        "date": min(filter(None, dates), default=None),
        "differing": sorted(differing_keys(cells)),
        "arms": {cell.arm: sorted({c.seed for c in cells if c.arm == cell.arm}) for cell in cells},
        "cells": {
            cell.name: {
                "arm": cell.arm,
                "seed": cell.seed,
                "command": cell.command,
                **{k: v for k, v in attempts.get(cell.name, {}).items() if k in ATTEMPT_KEYS},
            }
            for cell in cells
        },
    }
    write_atomic(folder / FILE, json.dumps(jsonable(text), indent=2, ensure_ascii=False) + "\n")


def differing_keys(cells: Iterable[Cell]) -> set[str]:
    """Keys in which the plan itself has the arms differ; not the seed, nor where the run is."""
    flat = [flattened(plain(cell.config)) for cell in cells]
    keys = {key for config in flat for key in config}
    own = {"seed", "run.dir"}
    return {key for key in keys - own if len({repr(config.get(key)) for config in flat}) > 1}


def _check_arms(arms: Sequence[Arm], common: Sequence[str]) -> None:
    for word in [*common, *(word for arm in arms for word in arm.overrides)]:
        key = word.lstrip("+~").partition("=")[0]
        if key in OWN_KEYS or key.startswith("resume."):
            raise ConfigError(
                f"A comparison sets {key} itself.",
                expected="keys that its cells share, or axes",
                found=word,
                todo="give seeds=[...] and compare.dir=DIR instead; what was stopped goes on",
            )
    names = [arm.name for arm in arms]
    for arm in arms:
        twice = names.count(arm.name) > 1 or len(set(arm.seeds)) < len(arm.seeds)
        if not all(type(seed) is int and 0 <= seed <= LARGEST for seed in arm.seeds):
            raise ConfigError(
                "A seed cannot be used.",
                expected=f"whole numbers from 0 to {LARGEST}",
                found=f"seeds {list(arm.seeds)}",
                todo="write seeds=[0,1,2]",
            )
        if twice or not arm.seeds or not arm.folder:
            raise ConfigError(
                f"The arm {arm.name!r} cannot be told from others by its folder.",
                expected="a name of its own with letters or digits, and each seed once",
                found=f"{arm.name}, seeds {list(arm.seeds)}, among {', '.join(names)}",
                todo="rename it, or leave one of them out",
            )


def _check_different(arms: Sequence[Arm], cells: Mapping[tuple[str, int], Cell]) -> None:
    seen: dict[str, str] = {}
    for arm in arms:
        config = plain(cells[arm.name, arm.seeds[0]].config) | {"seed": None, "run": None}
        same = seen.setdefault(repr(config), arm.name)
        if same != arm.name:
            raise ConfigError(
                "Two arms are the same.",
                expected="arms that differ in some setting",
                found=f"{same} and {arm.name}",
                todo="leave one of them out",
            )


def _check_evaluated(cells: Sequence[Cell]) -> None:
    """Runs of different lengths need an evaluation, after the start, that all of them have."""
    configs = [cell.config for cell in cells]
    shortest = min(config.train.num_steps for config in configs)
    for step in range(1, shortest + 1):
        if all(config.evaluate.is_due(step, config.train.num_steps) for config in configs):
            return
    lengths = sorted({config.train.num_steps for config in configs})
    raise ConfigError(
        "No step would be evaluated in all runs.",
        expected=f"an evaluation within the first {shortest} steps that all of them have",
        found=f"train.num_steps of {', '.join(map(str, lengths))}, "
        f"evaluate.every={configs[0].evaluate.every}",
        todo=f"evaluate.every={shortest}",
    )
