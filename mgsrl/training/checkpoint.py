"""Checkpoints that are complete or absent: written aside, hashed, renamed, verified on loading.

Layout of `checkpoints/step_N/`: `learner/` (safetensors shards), `state.json` (step, data
cursors), `rollouts.jsonl` (of later steps, see `in_flight.py`), `config.yaml` (of the run that
wrote it), `manifest.json` (see `manifest.py`). No pickle anywhere. `checkpoints/best.json` names
the best one (`evaluate/pareto.py`): for people and `mgsrl export`; a run finds it anew from its
evaluations. A damaged checkpoint, or one of a branch that the run leaves, gets another name; the
last ones of these are kept until they are known to be of no use (`checkpoint.keep`).
"""

import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mgsrl.errors import (
    CheckpointError,
    ConfigError,
    MgsrlError,
    MissingPathError,
    NewerVersionError,
    StorageError,
    file_problem,
)
from mgsrl.evaluate.pareto import RULE, BestStep
from mgsrl.files.hashed import FileFacts, sync
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
DRAFT = ".tmp"
"""End of the names of what is being written or removed."""
KEPT_ASIDE = 2
"""Damaged and abandoned checkpoints that are kept."""
_NAME = re.compile("step_(0|[1-9][0-9]*)")
_ASIDE = re.compile(r"step_\d+\.(damaged|abandoned)-\d+")


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


class Draft:
    """A checkpoint that is being written, under a name that nobody takes for one.

    Args:
        folder: the run's `checkpoints/`. Drafts that other processes left there are removed.
        num_bytes: what it will take, as far as known; nothing is written when that does not fit.

    Raises:
        StorageError: the disk did not take it (every method). Then the draft is gone, and what was
            there before is untouched.
    """

    def __init__(self, folder: Path, step: int, *, num_bytes: int = 0) -> None:
        self._folder, self.step = folder, step
        # A name of its own: what a killed run's learners still write does not meet it.
        self.path = folder / f".step_{step}.{secrets.randbelow(10**9)}{DRAFT}"
        self.learner = self.path / LEARNER
        with self.writing():
            remove_drafts(folder)
            self.learner.mkdir(parents=True)
            _check_room(folder, step, num_bytes)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """An error inside ends the draft; what the disk did not take or keep is told as that."""
        try:
            yield
        except Exception as error:
            self.abandon()
            problem = error.reason if isinstance(error, CheckpointError) else None
            if not isinstance(error, MgsrlError):
                problem = file_problem(error)
            if problem is None:
                raise
            what = f"checkpoint {self.step} could not be written"
            raise StorageError(f"{what}: {problem}") from error

    def add(self, state: dict[str, Any], config_yaml: str = "") -> None:
        """What the driver must remember (JSON-able), and the run's configuration."""
        (self.path / STATE).write_text(json.dumps({"step": self.step, **state}))
        if config_yaml:
            (self.path / CONFIG).write_text(config_yaml)

    def complete(self, written: Mapping[str, FileFacts] = MappingProxyType({})) -> Path:
        """Make it the checkpoint `step_N`, at once and as a whole.

        Args:
            written: facts of the files below `learner/` that are on the disk already, by name.
        """
        final = self._folder / f"step_{self.step}"
        known = {f"{LEARNER}/{name}": facts for name, facts in written.items()}
        with self.writing():
            write_manifest(self.path, known)
            check_files(self.path, content=False)
            for path in (*self.path.rglob("*"), self.path):
                if path.relative_to(self.path).as_posix() not in known:
                    sync(path)
            if final.exists():
                _rename_aside(final, "abandoned")
            os.replace(self.path, final)
            sync(self._folder)
        return final

    def abandon(self) -> None:
        """Remove it."""
        shutil.rmtree(self.path, ignore_errors=True)


def remove_drafts(folder: Path) -> None:
    """Remove what killed processes left half-written or half-removed."""
    for leftover in folder.glob(f".step_*{DRAFT}"):
        shutil.rmtree(leftover, ignore_errors=True)


def _check_room(folder: Path, step: int, num_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise StorageError(
            f"checkpoint {step} was not begun: it takes about {num_bytes / GIB:.3g} GiB, "
            f"{free / GIB:.3g} GiB are free in {folder}"
        )


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
        CheckpointError: there are checkpoints, and all are damaged, or one is of a newer mgsrl.
    """
    found = []
    for path in sorted(_complete(folder), key=_step_of, reverse=True):
        try:
            checkpoint = load_checkpoint(path)
        except NewerVersionError:
            raise
        except CheckpointError as error:
            found.append(f"{path.name}: {error.reason}")
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
    ones; remove drafts.

    Left in place they would be taken for the newest, and outlive the new ones when pruning.
    """
    remove_drafts(folder)
    for path in sorted(_complete(folder), key=_step_of):
        if not holds(path):
            note(f"{path.name} is damaged; it is now {_rename_aside(path, 'damaged').name}")
        elif _step_of(path) > step:
            aside = _rename_aside(path, "abandoned")
            note(f"{path.name} is of a branch that this run leaves; it is now {aside.name}")


def prune_checkpoints(folder: Path, keep: int, best: int | None = None, every: int = 0) -> None:
    """Remove all but the `keep` newest, the one of step `best` and those of multiples of `every`;
    `keep` 0 keeps all.

    What does not verify (by names and sizes) is neither counted nor removed; of those that were
    set aside the last `KEPT_ASIDE` stay.
    """
    if keep <= 0:
        return
    for step in checkpoint_steps(folder)[:-keep]:
        if step != best and not (every and step % every == 0):
            _remove(folder / f"step_{step}")
    aside = [path for path in folder.iterdir() if _ASIDE.fullmatch(path.name)]
    for path in sorted(aside, key=lambda path: path.stat().st_ctime_ns)[:-KEPT_ASIDE]:
        _remove(path)


def _remove(path: Path) -> None:
    """Under a draft's name first: half of it would be taken for a damaged checkpoint. What somebody
    still reads (a network's file system keeps its name) goes with the next draft."""
    doomed = path.with_name(f".{path.name}.{secrets.randbelow(10**9)}{DRAFT}")
    with suppress(FileNotFoundError):  # somebody was faster
        shutil.rmtree(path.rename(doomed), ignore_errors=True)


def checkpoint_steps(folder: Path) -> list[int]:
    """The steps that have a checkpoint, ascending; verified by names and sizes only."""
    return sorted(_step_of(path) for path in _complete(folder) if holds(path))


def checkpoint_bytes(folder: Path) -> int:
    """What the newest checkpoint takes; 0 when there is none."""
    steps = checkpoint_steps(folder)
    return total_bytes(folder / f"step_{steps[-1]}") if steps else 0


def check_disk(folder: Path, num_bytes: int, kept: int, note: Callable[[str], None]) -> None:
    """Before a run: is there room for its checkpoints in `folder` (which need not exist yet)?

    Args:
        num_bytes: what one takes; 0 when that is not known.
        kept: how many will stay; a new one is complete before an old one goes.

    Raises:
        ConfigError: not even one fits. That not all fit is noted.
    """
    existing = next(path for path in (folder, *folder.parents) if path.is_dir())
    half = [file for draft in folder.glob(f".step_*{DRAFT}") for file in draft.rglob("*")]
    free = shutil.disk_usage(existing).free + sum(file.stat().st_size for file in half)
    wanted = kept + 1 - len(checkpoint_steps(folder))
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
            f"{wanted * num_bytes / GIB:.3g} GiB for its checkpoints (checkpoint.keep, .keep_every)"
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
