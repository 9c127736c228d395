"""An interrupted run says so at once, and at the end how to go on."""

import json
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mgsrl.cluster import signals
from mgsrl.errors import NoUpdateError
from mgsrl.report.extra import can_draw
from mgsrl.training.checkpoint import checkpoint_steps
from mgsrl.training.interrupt import how_to_go_on, interruptible, last_step_saved
from tests.training import runs

NOT_SAVED = "the last whole step was not saved:"


def logged(folder: Path, steps: int) -> None:
    rows = (json.dumps({"step": step}) + "\n" for step in range(1, steps + 1))
    (folder / "metrics.jsonl").write_text("".join(rows))


@pytest.mark.parametrize(
    ("saved", "done", "where"),
    [
        ([], 2, "no checkpoint was written yet"),
        ([2, 4], 4, "it goes on from step 4 (checkpoints/step_4)"),
        ([4], 5, "from step 4 (checkpoints/step_4) and does step 5 again"),
        ([2], 5, "from step 2 (checkpoints/step_2) and does steps 3 to 5 again"),
    ],
)
def test_the_step_and_the_command_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: list[int], done: int, where: str
) -> None:
    monkeypatch.setattr("mgsrl.training.interrupt.checkpoint_steps", lambda folder: saved)
    logged(tmp_path, done)
    text = how_to_go_on(tmp_path, ["mgsrl", "train", "run.dir=/a b", "resume=never"])
    assert text.startswith(f"mgsrl: {done} steps are done. ")
    assert "To go on: mgsrl train 'run.dir=/a b'\n" in text  # resume=never would start anew
    assert where in text
    assert "To go on: mgsrl.train(config) with the same" in how_to_go_on(tmp_path, [])
    text = how_to_go_on(tmp_path, ["mgsrl", "train", "resume=/a/checkpoints/step_3"])
    assert "To go on: mgsrl train resume=/a/checkpoints/step_3\n" in text  # else from step 0


@pytest.mark.ray_cluster
@pytest.mark.timeout(600)
def test_ctrl_c_is_answered_and_what_it_says_is_true(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    log = folder.with_suffix(".log")
    process = runs.start(folder, "train.num_steps=50", "checkpoint.every=0")
    runs.wait_for(lambda: runs.steps_done(folder) >= 2, "two steps")
    process.send_signal(signal.SIGINT)
    runs.wait_for(lambda: "mgsrl: stopping (Ctrl-C)" in log.read_text(), "an answer", 30)
    assert process.wait(timeout=180) == 1
    text, done = log.read_text(), runs.steps_done(folder)
    assert f"the last whole step is saved: checkpoints/step_{done}\n" in text
    assert checkpoint_steps(folder / "checkpoints") == [done]
    assert f"mgsrl: {done} steps are done. To go on: mgsrl train" in text
    assert f"it goes on from step {done} (checkpoints/step_{done})" in text
    assert text.splitlines()[-1] == "mgsrl: stopped by Ctrl-C"
    assert "Traceback" not in text
    record = json.loads((folder / "run.json").read_text())
    (session,) = record["sessions"]
    seconds = [datetime.fromisoformat(session[key]) for key in ("started", "finished")]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    in_steps = sum(row["time/total"] for row in rows)
    assert (seconds[1] - seconds[0]).total_seconds() > in_steps + 3  # start-up is part of it


def test_a_signal_whose_exception_python_drops_comes_again(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A weak reference's callback cannot raise, and a signal may come inside one."""
    monkeypatch.setattr(signals, "_signals", [])

    def lose_one_and_work() -> None:
        thing = threading.Event()
        watcher = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGINT))
        del thing
        assert watcher() is None
        time.sleep(10)

    before, begin = signal.signal(signal.SIGINT, signals.on_signal), time.monotonic()
    try:
        with signals.insisting(), pytest.raises(KeyboardInterrupt):
            lose_one_and_work()
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - begin < 5
    assert signals._signals == [signal.SIGINT]
    told = capfd.readouterr().err
    assert told.count("mgsrl: stopping (Ctrl-C)") == 1
    assert "Traceback" not in told


def test_no_library_is_imported_by_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It would be broken for the rest of the process, in which the run may go on."""
    monkeypatch.setattr(signals, "_signals", [])
    (tmp_path / "matplotlib").mkdir()
    (tmp_path / "matplotlib" / "__init__.py").write_text(
        "import signal\nsignal.raise_signal(signal.SIGINT)\nwhole = True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)

    imported = list[bool]()

    def draw_and_work() -> None:
        can_draw()
        imported.append(sys.modules["matplotlib"].whole)
        time.sleep(10)

    before = signal.signal(signal.SIGINT, signals.on_signal)
    try:
        with pytest.raises(KeyboardInterrupt):
            draw_and_work()
    finally:
        signal.signal(signal.SIGINT, before)
        sys.modules.pop("matplotlib", None)
    assert imported == [True]
    assert signals._signals == [signal.SIGINT]
    assert capfd.readouterr().err.count("mgsrl: stopping (Ctrl-C)") == 1


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Signals arrive as in a run of this process."""
    before = signal.signal(signal.SIGTERM, signals.on_signal)
    signals.forget()
    yield
    signals.forget()
    signal.signal(signal.SIGTERM, before)


def leaving(save: Callable[[], str | None], grace_s: float, train: Callable[[], None]) -> list[str]:
    """What a run says that `train` is of and `save` saves."""
    notes: list[str] = []
    run: Any = SimpleNamespace(
        saver=SimpleNamespace(config=SimpleNamespace(grace_s=grace_s)),
        save_last_step=save,
        console=SimpleNamespace(note=notes.append),
    )
    with pytest.raises((KeyboardInterrupt, ValueError, NoUpdateError)), last_step_saved(run):
        train()
    assert not signals._held
    assert signals._timer is None
    return notes


def stopped() -> None:
    signal.raise_signal(signal.SIGTERM)


def fails(error: Exception) -> Callable[[], None]:
    def train() -> None:
        raise error

    return train


@pytest.mark.usefixtures("heard")
def test_the_next_run_of_a_process_answers_its_own_first_signal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), interruptible(tmp_path, []):
            stopped()
        assert not signals.insisted()
        assert "mgsrl: stopping (SIGTERM)" in capfd.readouterr().err


def whole_step(seconds: float, then: Callable[[], None] = lambda: None) -> Callable[[], None]:
    """A signal comes where the weights are those of no whole step, `seconds` before they are."""

    def train() -> None:
        signals.hold(limit_s=0.5)
        stopped()
        then()
        time.sleep(seconds)
        signals.release()

    return train


def never() -> str:
    time.sleep(30)
    return "step_7"


def again() -> str:
    stopped()
    return "step_7"


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize(
    ("train", "save", "grace_s", "notes"),
    [
        (stopped, lambda: "step_7", 5, ["the last whole step is saved: step_7"]),
        (fails(ValueError()), lambda: "step_7", 5, ["the last whole step is saved: step_7"]),
        (stopped, lambda: None, 5, []),
        (stopped, lambda: "step_7", 0, []),
        (fails(NoUpdateError("nan")), lambda: "step_7", 5, []),
        (whole_step(0.1), lambda: "step_7", 5, ["the last whole step is saved: step_7"]),
        (whole_step(0.1, then=stopped), lambda: "step_7", 5, []),  # left at once
        (whole_step(30), never, 0.5, [f"{NOT_SAVED} checkpoint.grace_s=0.5 is over"]),
        (stopped, never, 0.5, [f"{NOT_SAVED} checkpoint.grace_s=0.5 is over"]),
        (stopped, again, 5, [f"{NOT_SAVED} a second signal"]),
        (stopped, fails(OSError("disk\nfull")), 5, [f"{NOT_SAVED} disk full"]),
        (fails(ValueError()), again, 5, [f"{NOT_SAVED} a signal"]),
    ],
)  # fmt: skip
def test_what_is_saved_when_a_run_leaves(
    train: Callable[[], None], save: Callable[[], str | None], grace_s: float, notes: list[str]
) -> None:
    begin = time.monotonic()
    assert leaving(save, grace_s, train) == notes
    assert time.monotonic() - begin < 10
