"""A disk that refuses a run's files for a while: nothing of them is lost, and one line says so."""

import importlib.util
import io
import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mgsrl.config import SurgeryConfig, TrackersConfig
from mgsrl.files.backlog import Backlog, append_whole
from mgsrl.obs.console import Console
from mgsrl.obs.metrics import FILE, read_metrics
from mgsrl.obs.rollout_log import stored_steps
from mgsrl.obs.surgery_log import read_surgery
from mgsrl.obs.tracker import TrackedRun, Trackers
from mgsrl.obs.trackers import JsonlTracker, make_trackers
from mgsrl.training.journal import Journal
from tests.obs.records import group, surgery_report


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file of this process can grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_metrics_wait_until_the_disk_takes_them(tmp_path: Path) -> None:
    notes: list[str] = []
    tracker = JsonlTracker(tmp_path, backlog=Backlog(notes.append))
    tracker.log(1, {"reward/math": 0.5})
    size = (tmp_path / FILE).stat().st_size
    with full_disk(size + 20):
        for step in (2, 3):
            tracker.log(step, {"reward/math": step / 2})
    assert (tmp_path / FILE).stat().st_size == size  # not half a line
    assert len(notes) == 1
    assert notes[0].startswith("metrics.jsonl could not be written: ")
    tracker.log(4, {"reward/math": 2.0})
    assert [(row["step"], row["reward/math"]) for row in read_metrics(tmp_path)] == [
        (1, 0.5), (2, 1.0), (3, 1.5), (4, 2.0),
    ]  # fmt: skip
    assert notes[1:] == ["the disk takes files again: all that was logged meanwhile is written"]


def test_so_do_all_files_of_a_step(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shown = io.StringIO()
    console, config = Console(True, 4, file=shown), TrackersConfig(wandb="disabled")
    config.tensorboard = bool(importlib.util.find_spec("tensorboard"))
    backlog = Backlog(console.note)

    def trackers(next_step: int, last_step: int) -> Trackers:
        run = TrackedRun(tmp_path, next_step=next_step, note=console.note, last_step=last_step)
        return make_trackers(config, run, console, backlog)

    journal = Journal(tmp_path, console, SurgeryConfig(), config, trackers, backlog)
    journal.open(1, -1)

    def step(number: int) -> None:
        journal.log_step(number, {"loss/math": 1.0}, {"math": [group()]}, surgery_report(), {})

    step(1)
    with full_disk(10):
        step(2)
        step(3)
    step(4)
    journal.close()
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3, 4]
    assert list(stored_steps(tmp_path)) == [1, 2, 3, 4]
    assert sorted(set(read_surgery(tmp_path)["step"].to_pylist())) == [1, 2, 3, 4]
    assert shown.getvalue().count("training goes on") == 1
    assert shown.getvalue().count("takes files again") == 1
    assert "Traceback" not in "".join(capfd.readouterr())


def test_what_the_disk_never_took_is_named(tmp_path: Path) -> None:
    notes: list[str] = []
    backlog = Backlog(notes.append)
    with full_disk(10):
        for name in ("a", "a", "b"):
            backlog.add(name, lambda: append_whole(tmp_path / "file", b"0" * 20))
        backlog.close()
    backlog.close()
    assert notes[1:] == ["not written, the disk did not take it: parts of a, b"]


def test_without_a_backlog_it_is_an_error(tmp_path: Path) -> None:
    tracker = JsonlTracker(tmp_path)
    with full_disk(10), pytest.raises(OSError, match=FILE):
        tracker.log(1, {"reward/math": 0.5})
    tracker.log(1, {"reward/math": 0.5})
    assert json.loads((tmp_path / FILE).read_text())["step"] == 1


def test_what_is_no_fault_of_the_disk_is_raised() -> None:
    with pytest.raises(ValueError, match="a defect"):
        Backlog(print).add("a", lambda: int("a defect"))
