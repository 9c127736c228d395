"""After which deaths a run begins again by itself, and how often."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ray.exceptions import ObjectLostError, RayTaskError

from mgsrl.cluster import signals
from mgsrl.cluster.again import VARIABLE
from mgsrl.cluster.logs import LINES, tail
from mgsrl.cluster.machines import Machines
from mgsrl.config import ClusterConfig, LearnerConfig
from mgsrl.errors import (
    ConfigError,
    LearnerDiedError,
    NoUpdateError,
    RayDiedError,
    StaleWeightsError,
    WaitTimeoutError,
    WorkerDiedError,
)
from mgsrl.obs import run_record
from mgsrl.training.checkpoint import Checkpoint
from mgsrl.training.restart import Restarts
from mgsrl.training.session import GoOn, Session
from tests.checkpoints import save_checkpoint


def restarts(folder: Path, begun: Checkpoint | None = None, most: int = 2) -> Restarts:
    limits = LearnerConfig(max_restarts=most, restart_window=10)
    return Restarts(limits, ClusterConfig(), folder, begun, [], print)


@pytest.mark.parametrize(
    ("error", "heals"),
    [
        (LearnerDiedError("killed"), True),
        (WaitTimeoutError("a collective hung"), True),
        (ObjectLostError("00", None, ""), True),
        (WorkerDiedError("rollout worker 0 died 4 times; giving up"), False),
        (StaleWeightsError("other weights"), False),
        (NoUpdateError("nan"), False),
        (ConfigError("no such key"), False),
        (RayTaskError("score", "a defect", ValueError("x")), False),
        (ZeroDivisionError(), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_what_would_only_fail_again_is_not_tried_again(
    error: BaseException, heals: bool, tmp_path: Path
) -> None:
    assert restarts(tmp_path).may_heal(error, ran=True) is heals
    of_its_start = heals and not isinstance(error, WaitTimeoutError)
    assert restarts(tmp_path).may_heal(error, ran=False) is of_its_start


def test_restarts_are_counted_within_a_window(tmp_path: Path) -> None:
    counted = restarts(tmp_path)
    assert counted.count(3) == "restart 1 of at most 2 within 10 steps"
    assert counted.count(3) == "restart 2 of at most 2 within 10 steps"
    assert counted.count(12) is None
    assert "learner.max_restarts (now 2)" in counted.too_many
    assert counted.count(13) == "restart 1 of at most 2 within 10 steps"
    assert restarts(tmp_path, most=0).count(1) is None


def test_of_a_ray_that_is_gone_nothing_is_asked(tmp_path: Path) -> None:
    """Ctrl-C in the pause before a start is heard when Ray is down: asking it would fail."""
    counted = restarts(tmp_path)
    counted._machines = Machines(("10.0.0.1",), 0.0)
    for error in (KeyboardInterrupt(), ZeroDivisionError()):
        assert not counted.may_heal(error, ran=True)
    run_record.begin_run_record(tmp_path, first_step=0)
    session = Session(tmp_path, 0, 0.0, counted, print, resume="auto")
    with pytest.raises(ConfigError), session.recorded(last=True):
        raise ConfigError("the model is gone")
    (ended,) = json.loads((tmp_path / run_record.FILE).read_text())["sessions"]
    assert (ended["status"], ended["error"]) == ("failed", "ConfigError: the model is gone")


def test_a_ray_that_dies_while_it_starts_again_is_no_failure_of_the_run(tmp_path: Path) -> None:
    """At the first start it is: what never came up would not the next time."""
    for deaths, failed in (([], True), ([2], False)):
        run_record.begin_run_record(tmp_path, first_step=0)
        counted = restarts(tmp_path)
        counted.deaths += deaths
        session = Session(tmp_path, 0, 0.0, counted, print, resume="auto")
        with pytest.raises(RayDiedError), session.recorded(last=True):
            raise RayDiedError("Ray did not start")
        assert session.failed is failed


def test_only_checkpoints_of_this_process_are_gone_on_from(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"

    def saved(step: int) -> Checkpoint:
        path = save_checkpoint(
            folder, step, {}, lambda learner: (learner / "rank_0.safetensors").touch()
        )
        return Checkpoint(path, step, {"step": step})

    begun = saved(2)
    saved(5)  # of a branch that a run which begins at step 2 leaves
    run_record.begin_run_record(tmp_path, first_step=2)
    going = restarts(tmp_path, begun)
    assert (going.checkpoint(), going.first_step()) == (begun, 2)
    saved(6)
    run_record.record_checkpoint(tmp_path, 6)
    found = going.checkpoint()
    assert found is not None
    assert (found.step, going.first_step()) == (6, 6)
    run_record.record_restart(tmp_path, step=8, from_step=6, reason="a learner died")
    record = json.loads((tmp_path / run_record.FILE).read_text())
    (restart,) = record["sessions"][-1]["restarts"]
    assert (restart["step"], restart["from_step"]) == (8, 6)


def test_a_log_is_told_by_its_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "worker.err"
    lines = [":job_id:01", ":actor_name:LearnerWorker", *map(str, range(30)), "", "x" * 1000]
    log.write_text("\n".join(lines))
    assert tail(str(log)) == [*map(str, range(31 - LINES, 30)), "x" * 300]
    assert tail(str(tmp_path / "none")) == []
    assert tail("pipe:[123]") == []


PROGRAM = """
import os, sys
from mgsrl.cluster import again
left = again.left_behind()
assert again.VARIABLE not in os.environ
print(os.getpid(), os.getcwd(), sys.argv[1:], left, os.environ.get("SET_LATER"), flush=True)
if not left:
    again.remember_start()
    os.environ["SET_LATER"] = "1"
    os.chdir("/")
    again.run_again({"deaths": [3]})
"""


def test_a_process_is_replaced_by_its_own_command(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != VARIABLE}
    command = [sys.executable, "-c", PROGRAM, "a=1 b", "resume=never"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    first, second = done.stdout.splitlines()
    assert first.replace("{}", "{'deaths': [3]}") == second
    assert str(tmp_path) in first
    assert second.endswith("None")


UNHEARD = """
import pathlib, sys
from mgsrl.cluster import again
if again.left_behind():
    pathlib.Path(sys.argv[1]).touch()
else:
    again.remember_start()
    print("a line that its log has no room for")
    again.run_again({"deaths": [3]})
"""


def test_a_log_on_a_full_disk_does_not_end_it(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-c", UNHEARD, str(tmp_path / "again")]
        subprocess.run(command, stdout=full, env=environment, timeout=120)
    assert (tmp_path / "again").exists()


WATCHED = """
import os, subprocess, threading, time
import psutil
from mgsrl.cluster import again
from mgsrl.cluster.watch import RayWatch
left = again.left_behind()
print(os.getpid(), left, flush=True)
if not left:
    again.remember_start()
    victim, other = (subprocess.Popen(["sleep", "100"]) for _ in range(2))
    leave = lambda: again.run_again({"deaths": [1], "other": other.pid})
    watched = [psutil.Process(child.pid) for child in (victim, other)]
    watch = RayWatch(watched, print, lambda: False, leave, True)
    threading.Thread(target=watch.run, daemon=True).start()
    victim.kill()
    time.sleep(60)
else:
    assert psutil.Process(left["other"]).status() == psutil.STATUS_ZOMBIE
"""


def test_the_watch_replaces_the_process_from_its_thread() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WATCHED], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    first, _, second = done.stdout.splitlines()
    assert first.endswith(" {}")
    assert second.startswith(f"{first.removesuffix(' {}')} {{'deaths': [1]")
    assert "sleep died" in done.stderr


def test_a_session_goes_on_until_its_restarts_are_used_up(tmp_path: Path) -> None:
    run_record.begin_run_record(tmp_path, first_step=0)
    notes: list[str] = []
    session = Session(tmp_path, 0, 0.0, restarts(tmp_path, most=1), notes.append, resume="auto")
    with pytest.raises(GoOn), session.recorded(), session.recorded():
        raise LearnerDiedError("A learner died during save (killed)")
    assert notes == [
        "LearnerDiedError: A learner died during save (killed)\n"
        "  restart 1 of at most 1 within 10 steps: from step 0, 0 were done"
    ]
    with pytest.raises(LearnerDiedError), session.recorded(), session.recorded():
        raise LearnerDiedError("once more")
    assert "giving up" in notes[-1]
    record = json.loads((tmp_path / run_record.FILE).read_text())
    (ended,) = record["sessions"]
    assert len(ended["restarts"]) == 1
    assert (ended["status"], ended["error"]) == ("failed", "LearnerDiedError: once more")
    session.begin_again()  # no process of the command's own: it stays


def test_what_is_refused_for_want_of_a_machine_is_nobodys_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A launcher that hears of a mistake (exit code 2) would not try again."""
    run_record.begin_run_record(tmp_path, first_step=0)
    session = Session(tmp_path, 0, 0.0, restarts(tmp_path, most=0), [].append, resume="auto")
    monkeypatch.setattr(session.restarts, "may_heal", lambda *_, **__: True)
    with pytest.raises(WorkerDiedError, match="8 GPUs"), session.recorded(), session.recorded():
        raise ConfigError("It needs 8 GPUs.", expected="8", found="4", todo="fewer")


@pytest.mark.parametrize("death", [None, "Ray's raylet died"])
def test_a_run_that_was_told_to_stop_does_not_begin_again(
    death: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal waited for the end of the step, which never came: its learner got it, too."""
    again: list[object] = []
    monkeypatch.setattr("mgsrl.training.session.run_again", again.append)
    monkeypatch.setattr(signals, "_signals", [signal.SIGTERM])
    run_record.begin_run_record(tmp_path, first_step=0)
    notes: list[str] = []
    session = Session(tmp_path, 0, 0.0, restarts(tmp_path), notes.append, resume="auto")
    session.restarts.may_replace = True
    session.ray_death = lambda: death
    with pytest.raises(KeyboardInterrupt), session.recorded(last=True), session.recorded():
        raise LearnerDiedError("A learner died during optimizer_step")
    (ended,) = json.loads((tmp_path / run_record.FILE).read_text())["sessions"]
    assert (ended["status"], ended["error"]) == ("interrupted", "stopped by SIGTERM")
    assert notes == [
        "told to stop, it does not begin again after: A learner died during optimizer_step"
    ]
    session.begin_again("Ray's raylet died")
    assert again == []


def test_ray_s_death_after_a_run_failed_by_itself_hides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again: list[object] = []
    monkeypatch.setattr("mgsrl.training.session.run_again", again.append)
    run_record.begin_run_record(tmp_path, first_step=0)
    session = Session(tmp_path, 0, 0.0, restarts(tmp_path), print, resume="auto")
    session.restarts.may_replace = True
    with pytest.raises(ConfigError), session.recorded(last=True), session.recorded():
        raise ConfigError("no such key")
    session.begin_again("Ray's raylet died")
    assert again == []


OWN_RAY_DIED = """
import sys
from pathlib import Path
from mgsrl.cluster import again
left = again.left_behind()
print(left, flush=True)
if not left:
    again.remember_start()
    from mgsrl.config import ClusterConfig, LearnerConfig
    from mgsrl.obs import run_record
    from mgsrl.training.restart import Restarts
    from mgsrl.training.session import Session
    folder = Path(sys.argv[1])
    run_record.begin_run_record(folder, first_step=4)
    limits = LearnerConfig(max_restarts=2)
    for address in ("127.0.0.1:1", "local"):  # what others started is not ours to start again
        restarts = Restarts(limits, ClusterConfig(address=address), folder, None, [1], print)
        session = Session(folder, 4, 0.0, restarts, print, resume="elsewhere/step_4")
        session.begin_again("Ray's raylet died")
"""


def test_a_process_whose_own_ray_died_leaves_where_to_go_on(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OWN_RAY_DIED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == "{}"
    assert second == "{'deaths': [1, 4], 'resume': 'elsewhere/step_4'}"
    assert "mgsrl: Ray's raylet died\nmgsrl: it does so now (restart 2 of at most 2" in done.stderr
