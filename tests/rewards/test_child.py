"""The limited child process: real processes, killed while they are idle and while they work."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from mgsrl.rewards.child import ChildProcess, ProcessLostError
from mgsrl.rewards.child_serve import serve

LIMIT_S = 3.0


def main() -> None:
    """The child of these tests: sleeps, dies or echoes as it is told."""

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        if request.get("die"):
            os._exit(3)
        if "raise" in request:
            raise ValueError(request["raise"])
        if "start" in request:
            subprocess.Popen(["sleep", "60"])
        time.sleep(request.get("sleep", 0))
        print("what libraries print goes nowhere")
        return {"echo": request["text"]}

    serve(answer, lambda: None)


@pytest.fixture
def child() -> Iterator[ChildProcess]:
    child = ChildProcess(
        "tests.rewards.test_child", time_limit_s=LIMIT_S, memory_limit_mib=4096, name="test"
    )
    yield child
    child.stop()


def echo(child: ChildProcess, text: str = "hello", **how: Any) -> str:
    return str(child.ask({"text": text, **how})["echo"])


def test_it_answers_and_stays(child: ChildProcess) -> None:
    assert echo(child) == "hello"
    pid = child.pid
    long = "line one\nline two ü" * 20_000
    assert echo(child, long) == long
    assert (child.pid, child.starts) == (pid, 1)
    assert child.ask({"raise": "no"}) == {"error": "ValueError: no"}
    assert echo(child) == "hello"
    assert child.starts == 1


@pytest.mark.parametrize("wait_s", [0.0, 0.3])
@pytest.mark.parametrize("signal_", [signal.SIGKILL, signal.SIGTERM])
def test_death_while_idle_costs_nobody_anything(
    child: ChildProcess, signal_: signal.Signals, wait_s: float
) -> None:
    for number in range(4):
        assert echo(child, str(number)) == str(number)
        assert child.starts == number + 1
        assert child.pid is not None
        os.kill(child.pid, signal_)
        time.sleep(wait_s)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("text", ["hello", "longer than a pipe takes" * 20_000])
def test_a_process_that_hangs_before_it_begins_is_replaced(child: ChildProcess, text: str) -> None:
    assert echo(child) == "hello"
    assert child.pid is not None
    os.kill(child.pid, signal.SIGSTOP)
    assert echo(child, text) == text
    assert child.starts == 2


def test_death_at_work_loses_that_request_alone(child: ChildProcess) -> None:
    assert echo(child) == "hello"

    def kill() -> None:
        time.sleep(0.7)
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(ProcessLostError, match=r"the process ended"):
        child.ask({"text": "x", "sleep": 2.5})
    thread.join(timeout=10)
    assert child.starts == 1  # it was tried: not again
    with pytest.raises(ProcessLostError, match=r"the process ended"):
        child.ask({"die": True})
    assert child.starts == 2
    assert echo(child) == "hello"


def test_too_slow(child: ChildProcess) -> None:
    child.start()
    started = time.monotonic()
    with pytest.raises(ProcessLostError, match=r"no answer within 3 s"):
        child.ask({"text": "x", "sleep": 60})
    assert time.monotonic() - started < LIMIT_S + 1.5
    assert echo(child) == "hello"


def test_stopped_for_good(child: ChildProcess) -> None:
    assert echo(child) == "hello"
    pid = child.pid
    assert pid is not None
    waiting = threading.Timer(0.5, child.stop)
    waiting.start()
    with pytest.raises(ProcessLostError):
        child.ask({"text": "x", "sleep": 2})
    waiting.join(timeout=10)
    assert not psutil.pid_exists(pid)
    with pytest.raises(ProcessLostError, match="stopped"):
        echo(child)


def test_end_of_input_ends_what_it_started_too(child: ChildProcess) -> None:
    """As when the parent is killed, which then cannot see to it."""
    echo(child, start=True)
    processes = psutil.Process(child.pid).children(recursive=True)
    assert processes
    assert child._process is not None
    assert child._process.stdin is not None
    child._process.stdin.close()
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert not alive
