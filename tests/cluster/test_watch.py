"""Ray's own processes die under a real session: the process says so, records it and leaves."""

import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import ray

from mgsrl.cluster import session, watch
from mgsrl.cluster.watch import LOOK_S, NOTICE_S
from mgsrl.config import ClusterConfig
from mgsrl.errors import RayDiedError

PROGRAM = """
import sys, time
from pathlib import Path
import mgsrl
from mgsrl.cluster import watch
from mgsrl.cluster.session import ray_session
from mgsrl.config import ClusterConfig
from mgsrl.errors import RayDiedError
watch.STOPPED_LOOKS = 3
with ray_session(ClusterConfig(object_store_gib=0.2), Path(sys.argv[1]).write_text):
    print("up", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def _start(record: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, str(record), str(seconds)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    while "up" not in (line := process.stdout.readline()):
        assert line, "it never came up"
    return process


@pytest.mark.ray_cluster
@pytest.mark.parametrize(
    ("name", "end"), [("raylet", signal.SIGSTOP), ("gcs_server", signal.SIGKILL)]
)
def test_a_death_is_told_and_recorded_and_nothing_stays(
    name: str, end: signal.Signals, tmp_path: Path
) -> None:
    process = _start(tmp_path / "record", 100)
    family = psutil.Process(process.pid).children(recursive=True)
    (victim,) = [child for child in family if child.name() == name]
    victim.send_signal(end)
    begin = time.monotonic()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert time.monotonic() - begin < 4 * LOOK_S + NOTICE_S + 25, "on a busy machine; Ray takes 60"
    assert f"mgsrl: Ray's {name} died" in output
    assert f"Ray's {name} died" in (tmp_path / "record").read_text()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive


def test_only_the_raylet_of_this_node_is_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session may have two nodes on one machine, and a machine two sessions."""
    for name in ("raylet", "gcs_server"):
        (tmp_path / name).symlink_to(os.path.realpath(sys.executable))
    asked = [
        ("raylet", "session_1", "--node_id=a"),
        ("gcs_server", "session_1", ""),
        ("raylet", "session_1", "--node_id=b"),
        ("raylet", "session_2", "--node_id=a"),
    ]
    program = ["-S", "-c", "import time; time.sleep(100)"]
    processes = [subprocess.Popen([str(tmp_path / name), *program, *rest]) for name, *rest in asked]
    context = SimpleNamespace(get_node_id=lambda: "a", get_session_name=lambda: "session_1")
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    try:
        watched = {process.pid for process in watch._ray_processes()}
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert watched == {processes[0].pid, processes[1].pid}


def test_signals_are_passed_over_at_the_end_and_heard_by_what_comes_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process that takes this one's place inherits what is ignored, for good."""
    found = list[bool]()

    def shutdown() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.raise_signal(number)
            found.append(signal.getsignal(number) == signal.SIG_IGN)

    monkeypatch.setattr(ray, "shutdown", shutdown)
    monkeypatch.setattr(session, "_init", lambda _: None)
    monkeypatch.setattr(
        session, "watched_ray", lambda *_, **__: nullcontext(SimpleNamespace(death=None))
    )
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with session.ray_session(ClusterConfig()):
        pass
    assert found == [False, False]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.ray_cluster
def test_an_orderly_end_is_no_death(tmp_path: Path) -> None:
    process = _start(tmp_path / "record", 2 * LOOK_S)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert not (tmp_path / "record").exists()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (RuntimeError("a process died"), RayDiedError),
        (Exception("The current node timed out during startup."), RayDiedError),
        (ValueError("the object store is too small"), ValueError),
    ],
)
def test_a_local_ray_that_does_not_come_up_died(
    answer: Exception, expected: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever type the library raises; but what it was given is the caller's mistake."""

    def init(**_: object) -> None:
        raise answer

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(expected, match=str(answer)), session.ray_session(ClusterConfig()):
        pass
