"""Notices that Ray's own processes died, and ends the process with a word of ours.

Without its raylet a driver waits about 15 s for calls that nobody answers; without its gcs server
Ray ends the driver from C++ after 60 s, without a chance to write anything down. So a thread looks
at both every `LOOK_S` seconds and `NOTICE_S` later (a signal to all processes at once reaches
this one too: then the run ends as it does on that signal) says what happened, lets the caller
record it and leaves. Nothing is cleaned up: every clean-up asks the dead process.

Left out: Ray's processes on other machines (their raylet notices within a minute that its head is
gone and dies, which is seen here).
"""

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil

LOOK_S = 1.0
NOTICE_S = 2.0
"""Between seeing a death and leaving. In all a run ends within about `LOOK_S + NOTICE_S`."""
NAMES = ("raylet", "gcs_server")


@contextmanager
def watched_ray(
    on_death: Callable[[str], None], stopping: Callable[[], bool], *, ours: bool
) -> Iterator[None]:
    """Watch the Ray session that this process is connected to for as long as the block runs.

    Args:
        on_death: told what happened, before the process leaves with code 1.
        stopping: whether this process is ending already, so that a death is no news.
        ours: the session was started by this process: its other processes are killed.
    """
    end = threading.Event()
    thread = threading.Thread(
        target=_watch, args=(_ray_processes(), on_death, stopping, ours, end), daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join(timeout=LOOK_S)


def _ray_processes() -> list[psutil.Process]:
    """The raylet and (on the head) the gcs server of the session, on this machine."""
    import ray

    session = ray.get_runtime_context().get_session_name()
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.name() in NAMES and any(session in part for part in process.cmdline()):
                found.append(process)
    return found


def _watch(
    processes: list[psutil.Process],
    on_death: Callable[[str], None],
    stopping: Callable[[], bool],
    ours: bool,
    end: threading.Event,
) -> None:
    names = {process.pid: process.name() for process in processes}
    while not end.wait(LOOK_S):
        dead = [process for process in processes if not _alive(process)]
        if not dead:
            continue
        if end.wait(NOTICE_S) or stopping():
            return
        _leave(" and ".join(names[process.pid] for process in dead), processes, on_death, ours)


def _leave(
    name: str, processes: list[psutil.Process], on_death: Callable[[str], None], ours: bool
) -> None:
    message = (
        f"Ray's {name} died (killed, out of memory or crashed): its workers are lost. The same "
        "command goes on from the last checkpoint"
    )
    try:
        print(f"mgsrl: {message}", file=sys.stderr, flush=True)
        on_death(message)
    finally:
        if ours:  # workers end when their raylet does
            for process in processes:
                with contextlib.suppress(psutil.Error):
                    process.kill()
        os._exit(1)  # an exception in this thread would reach nobody


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
