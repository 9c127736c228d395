"""Notices that Ray's own processes died, and ends the process with a word of ours.

Without its raylet a driver waits about 15 s for calls that nobody answers; without its gcs server
Ray ends the driver from C++ after 60 s, without a chance to write anything down. So a thread looks
at both every `LOOK_S` seconds and `NOTICE_S` later (a signal to all processes at once reaches
this one too: then the run ends as it does on that signal) says what happened, lets the caller
record it and leaves, or has the process begin again (`again.py`). Nothing is cleaned up: every
clean-up asks the dead process. The loss of an actor may be noticed before; then `death` tells the
true cause. One that was stopped (SIGSTOP) for half a minute counts as dead: to Ray it is by then,
but what waits for it would wait for ever.

Left out: Ray's processes of other nodes (their raylet notices within a minute that its head is
gone and dies, which is seen here).
"""

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import psutil

LOOK_S = 1.0
NOTICE_S = 2.0
"""Between seeing a death and leaving. In all a run ends within about `LOOK_S + NOTICE_S`."""
STOPPED_LOOKS = 30
"""In a row at which a process is seen stopped; this one's are not counted where it is stopped, too.
"""


@contextmanager
def watched_ray(
    on_death: Callable[[str], None],
    stopping: Callable[[], bool],
    begin_again: Callable[[], None] = lambda: None,
    *,
    ours: bool,
) -> Iterator["RayWatch"]:
    """Watch the Ray session that this process is connected to for as long as the block runs.

    Args:
        on_death: told what happened, before the process leaves with code 1.
        stopping: whether this process is ending already, so that a death is no news.
        begin_again: asked instead of leaving, once the session's other processes are killed; it
            does not return where it replaces this process.
        ours: the session was started by this process: its other processes are killed.
    """
    watch = RayWatch(_ray_processes(), on_death, stopping, begin_again, ours)
    thread = threading.Thread(target=watch.run, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        watch.stop()
        thread.join(timeout=LOOK_S)


class RayWatch:
    """See the module."""

    def __init__(
        self,
        processes: Sequence[psutil.Process],
        on_death: Callable[[str], None],
        stopping: Callable[[], bool],
        begin_again: Callable[[], None],
        ours: bool,
    ) -> None:
        self._processes = {process: process.name() for process in processes}
        self._on_death, self._stopping, self._ours = on_death, stopping, ours
        self._begin_again = begin_again
        self._stopped: dict[psutil.Process, int] = {}
        """Looks in a row."""
        self._end = threading.Event()
        self._at_the_end: str | None = None

    def stop(self) -> None:
        """From here on Ray may be taken down."""
        self._at_the_end = self.death()
        self._end.set()

    def death(self) -> str | None:
        """What died while it was watched, in a sentence; None if nothing did. An actor that seems
        to have died may have died of this."""
        if self._end.is_set():
            return self._at_the_end
        dead = [
            name
            for process, name in self._processes.items()
            if not _alive(process) or self._stopped.get(process, 0) >= STOPPED_LOOKS
        ]
        if not dead:
            return None
        return (
            f"Ray's {' and '.join(dead)} died (killed, stopped, out of memory or crashed): its "
            "workers are lost. The same command goes on from the last checkpoint"
        )

    def run(self) -> None:
        """Look until the end, or the first death."""
        while not self._end.wait(LOOK_S):
            self._stopped = {p: self._stopped.get(p, 0) + 1 for p in self._processes if _stopped(p)}
            message = self.death()
            if message is not None:
                if not self._end.wait(NOTICE_S) and not self._stopping():
                    self._leave(message)
                return

    def _leave(self, message: str) -> None:
        try:
            print(f"mgsrl: {message}", file=sys.stderr, flush=True)
            self._on_death(message)
        finally:
            if self._ours:
                for process in self._family():
                    with contextlib.suppress(psutil.Error):
                        process.kill()
                with contextlib.suppress(OSError):
                    self._begin_again()
            os._exit(1)  # an exception in this thread would reach nobody

    def _family(self) -> set[psutil.Process]:
        """The processes of the session. What a dead raylet leaves ends by itself; the agents of a
        living one would wait for a dead gcs server."""
        family = set(self._processes)
        for process in self._processes:
            with contextlib.suppress(psutil.Error):
                family |= set(process.children(recursive=True))
        return family


def _ray_processes() -> list[psutil.Process]:
    """The raylet of this node and (on the head) the gcs server of the session."""
    import ray

    context = ray.get_runtime_context()
    # A session may have several nodes on a machine; the raylet of another is another's.
    marks = {"raylet": f"--node_id={context.get_node_id()}", "gcs_server": ""}
    session = context.get_session_name()
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if (name := process.name()) not in marks:
                continue
            line = " ".join(process.cmdline())
            if session in line and marks[name] in line:
                found.append(process)
    return found


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _stopped(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_STOPPED)
    except psutil.Error:
        return False
