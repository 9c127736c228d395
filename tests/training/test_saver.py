"""When a checkpoint that is written in the background becomes one, and what becomes of failures."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mgsrl.config import CheckpointConfig
from mgsrl.errors import LearnerDiedError, StorageError
from mgsrl.files.hashed import facts_of
from mgsrl.training.checkpoint import checkpoint_steps, load_checkpoint
from mgsrl.training.saver import Boundary, Saver

LAST = 9


class Learners:
    """Write a shard when they are told to, `done`, or when they are waited for."""

    def __init__(self) -> None:
        self.handles: list[str] = ["rank 0"]
        self.done = False
        self.error: BaseException | None = None
        self.waits = 0

    def save(self, folder: Path, *, background: bool) -> None:
        self.path, self.done = folder / "rank_0.safetensors", not background

    def saved(self, *, wait: bool) -> Any:
        if self.error is not None:
            raise self.error
        self.waits += wait
        if not (self.done or wait):
            return None
        self.path.write_bytes(b"weights")
        return {self.path.name: facts_of(self.path)}


class Parts(SimpleNamespace):
    """A saver and what it talks to."""

    saver: Saver
    learners: Learners
    notes: list[str]
    folder: Path

    def save(self, step: int) -> None:
        self.saver.save(Boundary(step, {"skipped": step}, {}), lambda: None)

    @property
    def steps(self) -> list[int]:
        return checkpoint_steps(self.folder)


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    learners, notes = Learners(), list[str]()

    @contextmanager
    def stage(_: str) -> Iterator[None]:
        yield

    (tmp_path / "metrics.jsonl").touch()
    backlog = SimpleNamespace(add=lambda what, write: write())
    saver = Saver(
        folder=tmp_path,
        config=CheckpointConfig(every=1, keep=1, keep_every=4),
        num_steps=LAST,
        learners=learners,  # type: ignore[arg-type]
        turns=SimpleNamespace(learners_whole=nullcontext),  # type: ignore[arg-type]
        evaluation=SimpleNamespace(  # type: ignore[arg-type]
            find_best=lambda: None, journal=SimpleNamespace(backlog=backlog)
        ),
        console=SimpleNamespace(stage=stage, note=notes.append),  # type: ignore[arg-type]
        config_yaml="seed: 0\n",
    )
    return Parts(saver=saver, learners=learners, notes=notes, folder=tmp_path / "checkpoints")


def test_it_becomes_one_when_the_learners_are_done(parts: Parts) -> None:
    parts.save(1)
    parts.saver.poll()
    assert parts.steps == []
    parts.learners.done = True
    parts.saver.poll()
    assert load_checkpoint(parts.folder / "step_1").state["skipped"] == 1
    assert parts.learners.waits == 0
    parts.saver.poll()
    parts.saver.settle()
    assert parts.notes == []


def test_the_rows_of_its_steps_are_on_the_disk_before_it_is_one(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, synced = parts.saver.folder / "metrics.jsonl", list[Path]()
    monkeypatch.setattr("mgsrl.training.saver.sync", synced.append)
    monkeypatch.setattr("mgsrl.training.checkpoint.sync", synced.append)
    parts.save(1)
    assert synced == []
    parts.saver.settle()
    assert synced.index(log) < synced.index(parts.folder)


def test_the_next_save_the_last_step_and_whoever_must_know_wait_for_it(parts: Parts) -> None:
    parts.save(1)
    parts.save(2)
    assert parts.steps == [1]
    parts.saver.settle()
    assert parts.steps == [2]
    parts.save(LAST)
    assert parts.steps == [LAST]
    assert parts.learners.waits == 3


def test_every_nth_stays(parts: Parts) -> None:
    for step in range(1, LAST + 1):
        parts.save(step)
    assert parts.steps == [4, 8, LAST]


def test_without_a_background_training_waits(parts: Parts) -> None:
    parts.saver.config.background = False
    parts.save(1)
    assert parts.steps == [1]


def test_a_full_disk_costs_the_checkpoint_and_at_the_end_the_run(parts: Parts) -> None:
    parts.save(1)
    parts.saver.settle()
    parts.save(2)
    parts.learners.error = StorageError("the shards could not be written: No space left on device")
    parts.saver.poll()
    (note,) = parts.notes
    assert note.endswith(
        "No space left on device; training goes on, the newest checkpoint is step_1"
    )
    assert {path.name for path in parts.folder.iterdir()} == {"step_1"}
    parts.learners.error = None
    parts.save(3)
    parts.saver.settle()
    assert parts.steps == [3]
    parts.learners.error = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(StorageError, match="checkpoint 9 could not be written: No space left"):
        parts.save(LAST)
    assert {path.name for path in parts.folder.iterdir()} == {"step_3"}


@pytest.mark.parametrize("gone", [True, False])
def test_the_end_completes_what_the_learners_still_can(parts: Parts, gone: bool) -> None:
    parts.save(1)
    if gone:
        parts.learners.handles = []
    parts.saver.close()
    assert parts.steps == ([] if gone else [1])
    assert parts.notes == (
        ["checkpoint 1 was not completed: the learners are gone"] if gone else []
    )
    assert not list(parts.folder.glob(".step_*"))


def test_a_learner_s_death_is_told_and_leaves_the_one_before(parts: Parts) -> None:
    parts.save(1)
    parts.saver.settle()
    parts.save(2)
    parts.learners.error = LearnerDiedError("A learner died.")
    with pytest.raises(LearnerDiedError):
        parts.saver.poll()
    parts.saver.close()
    assert {path.name for path in parts.folder.iterdir()} == {"step_1"}


def test_ctrl_c_while_it_is_waited_for_loses_nothing(parts: Parts) -> None:
    parts.save(1)
    parts.learners.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        parts.saver.settle()
    parts.learners.error = None
    parts.saver.close()
    assert parts.steps == [1]
