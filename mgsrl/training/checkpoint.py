"""Checkpoints that are complete or absent: written aside, hashed, renamed, verified on loading.

Layout of `checkpoints/step_N/`: `learner/` (safetensors shards), `state.json` (step, data
cursors), `rollouts.jsonl` (of later steps, see `in_flight.py`), `config.yaml` (of the run that
wrote it), `manifest.json` (see `manifest.py`). No pickle anywhere. `checkpoints/best.json` names
the best one (`evaluate/pareto.py`): for people and `mgsrl export`; a run finds it anew from its
evaluations. Nothing that may be of use is deleted: a damaged checkpoint, or one of a branch that
the run leaves, gets another name.
"""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mgsrl.errors import (
    CheckpointError,
    ConfigError,
    MgsrlError,
    MissingPathError,
    StorageError,
    disk_problem,
)
from mgsrl.evaluate.pareto import RULE, BestStep
from mgsrl.files.jsonl import write_atomic
from mgsrl.training.manifest import (
    LEARNER,
    STATE,
    check_files,
    damaged,
    holds,
    total_bytes,
    write_manifest,
)

BEST = "best.json"
CONFIG = "config.yaml"
GIB = 2**30
_NAME = re.compile("step_(0|[1-9][0-9]*)")


@dataclass(frozen=True)
class Checkpoint:
    """One complete checkpoint on disk."""

    path: Path
    step: int
    state: dict[str, Any]

    @property
    def config_file(self) -> Path:
        """The configuration of the run that wrote it."""
        own = self.path / CONFIG
        return own if own.is_file() else self.path.parent.parent / CONFIG  # older ones have none


def save_checkpoint(
    folder: Path,
    step: int,
    state: dict[str, Any],
    write_learner: Callable[[Path], None],
    *,
    write_more: Callable[[Path], None] = lambda _: None,
    config_yaml: str = "",
    num_bytes: int = 0,
) -> Path:
    """Write `folder/step_N` atomically.

    Args:
        folder: the run's `checkpoints/`.
        state: JSON-able; what the driver must remember.
        write_learner: fills the given empty folder with the learners' shards.
        write_more: adds other files to the checkpoint's folder.
        config_yaml: the run's configuration, kept with it.
        num_bytes: what it will take, as far as known; nothing is written when that does not fit.

    Raises:
        StorageError: the disk did not take it. What was there before is untouched.
    """
    final = folder / f"step_{step}"
    draft = folder / f".step_{step}.tmp"
    try:
        for leftover in (draft, *folder.glob(".step_*.tmp")):
            shutil.rmtree(leftover, ignore_errors=True)
        (draft / LEARNER).mkdir(parents=True)
        _check_room(folder, step, num_bytes)
        write_learner(draft / LEARNER)
        write_more(draft)
        _fill(draft, step, state, config_yaml)
        if final.exists():
            _rename_aside(final, "abandoned")
        os.replace(draft, final)
        _sync(folder)
    except BaseException as error:
        shutil.rmtree(draft, ignore_errors=True)
        problem = None if isinstance(error, MgsrlError) else disk_problem(error)
        if problem is None:
            raise
        raise StorageError(f"checkpoint {step} could not be written: {problem}") from error
    return final


def _check_room(folder: Path, step: int, num_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise StorageError(
            f"checkpoint {step} was not begun: it takes about {num_bytes / GIB:.3g} GiB, "
            f"{free / GIB:.3g} GiB are free in {folder}"
        )


def _fill(draft: Path, step: int, state: dict[str, Any], config_yaml: str) -> None:
    (draft / STATE).write_text(json.dumps({"step": step, **state}))
    if config_yaml:
        (draft / CONFIG).write_text(config_yaml)
    write_manifest(draft)
    for path in draft.rglob("*"):
        if path.is_file():
            _sync(path)


def load_checkpoint(path: Path) -> Checkpoint:
    """Verify every file of one checkpoint against its manifest.

    Raises:
        CheckpointError: a file is missing, cut short or changed.
    """
    check_files(path, content=True)
    try:
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
        step = int(state["step"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise damaged(path, f"{STATE} cannot be read ({error})") from error
    if _NAME.fullmatch(path.name) and _step_of(path) != step:
        raise damaged(path, f"{STATE} is of step {step}")
    return Checkpoint(path, step, state)


def newest_checkpoint(folder: Path, note: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that verifies, None if there never was one; damaged ones are announced
    and passed over.

    Raises:
        CheckpointError: there are checkpoints, and all are damaged.
    """
    found = []
    for path in sorted(_complete(folder), key=_step_of, reverse=True):
        try:
            checkpoint = load_checkpoint(path)
        except CheckpointError as error:
            found.append(f"{path.name}: {_why(error)}")
            continue
        for reason in found:
            note(f"passing over a damaged checkpoint, {reason}")
        return checkpoint
    if found:
        raise CheckpointError(
            f"No checkpoint in {folder} can be used.",
            expected="at least one whose files are those of its manifest",
            found="; ".join(found[:4]) + (" ..." if len(found) > 4 else ""),
            todo="restore the files from a copy, name another checkpoint (resume=PATH), or "
            "set the whole run aside and start anew (resume=never)",
        )
    return None


def set_others_aside(folder: Path, step: int, note: Callable[[str], None]) -> None:
    """Rename checkpoints beyond `step` (the run goes on from there, on another branch) and damaged
    ones.

    Left in place they would be taken for the newest, and outlive the new ones when pruning.
    """
    for path in sorted(_complete(folder), key=_step_of):
        if not holds(path):
            note(f"{path.name} is damaged; it is now {_rename_aside(path, 'damaged').name}")
        elif _step_of(path) > step:
            aside = _rename_aside(path, "abandoned")
            note(f"{path.name} is of a branch that this run leaves; it is now {aside.name}")


def prune_checkpoints(folder: Path, keep: int, best: int | None = None) -> None:
    """Remove all but the `keep` newest and the one of step `best`; `keep` 0 keeps all.

    What does not verify (by names and sizes) is neither counted nor removed.
    """
    if keep > 0:
        for step in checkpoint_steps(folder)[:-keep]:
            if step != best:
                shutil.rmtree(folder / f"step_{step}")


def checkpoint_steps(folder: Path) -> list[int]:
    """The steps that have a checkpoint, ascending; verified by names and sizes only."""
    return sorted(_step_of(path) for path in _complete(folder) if holds(path))


def checkpoint_bytes(folder: Path) -> int:
    """What the newest checkpoint takes; 0 when there is none."""
    steps = checkpoint_steps(folder)
    return total_bytes(folder / f"step_{steps[-1]}") if steps else 0


def check_disk(folder: Path, num_bytes: int, keep: int, note: Callable[[str], None]) -> None:
    """Before a run: is there room for its checkpoints in `folder` (which need not exist yet)?

    Args:
        num_bytes: what one takes; 0 when that is not known.
        keep: `checkpoint.keep`; a new one is complete before an old one goes.

    Raises:
        ConfigError: not even one fits. That not all fit is noted.
    """
    existing = next(path for path in (folder, *folder.parents) if path.is_dir())
    free, wanted = shutil.disk_usage(existing).free, keep + 1 - len(checkpoint_steps(folder))
    if free < num_bytes:
        raise ConfigError(
            "There is no room for a checkpoint.",
            expected=f"about {num_bytes / GIB:.3g} GiB free in {existing}",
            found=f"{free / GIB:.3g} GiB",
            todo="free some space, or choose another run.dir",
        )
    if free < wanted * num_bytes:
        note(
            f"{existing} has {free / GIB:.3g} GiB free; the run will want about "
            f"{wanted * num_bytes / GIB:.3g} GiB for its checkpoints (checkpoint.keep={keep})"
        )


def write_best(folder: Path, best: BestStep | None) -> None:
    """Name the best checkpoint in `best.json`; None removes the file."""
    if best is None:
        (folder / BEST).unlink(missing_ok=True)
        return
    record = {
        "step": best.step,
        "path": f"step_{best.step}",
        "scores": dict(best.rewards),
        "improvements": dict(best.improvements),
        "score": best.score,
        "rule": RULE,
    }
    write_atomic(folder / BEST, json.dumps(record, indent=1) + "\n")


def best_checkpoint(folder: Path) -> Path:
    """The checkpoint that `best.json` names, not verified.

    Raises:
        MissingPathError: no such file, or no such checkpoint.
    """
    path = folder / BEST
    if not path.is_file():
        raise _no_best(path, "no such file")
    try:
        best = folder / json.loads(path.read_text())["path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _no_best(path, f"{path} cannot be read ({error})") from error
    if not best.is_dir():
        raise _no_best(path, f"{best}, which it names, is not there")
    return best


def _no_best(path: Path, found: str) -> MissingPathError:
    return MissingPathError(
        "No checkpoint is known to be the best.",
        expected=f"{path}, written when a step is both evaluated and saved "
        "(evaluate.every, checkpoint.every, checkpoint.keep_best)",
        found=found,
        todo="leave --best out for the newest checkpoint, or name one",
    )


def _complete(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step_"))


def _rename_aside(path: Path, why: str) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.{why}-{number}")).exists():
        number += 1
    return path.rename(aside)


def _why(error: CheckpointError) -> str:
    """The line of an `explain` that says what was found."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next(
        (line.removeprefix("found:").strip() for line in lines if line.startswith("found:")),
        lines[0],
    )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
