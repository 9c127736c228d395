"""One Ray session around a run: started, announced, and always taken down.

A local session listens on the loopback interface only and starts no dashboard. SIGTERM and
SIGINT end the run through the same `finally`, so nothing is left running.
"""

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from mgsrl.cluster.watch import watched_ray
from mgsrl.config import ClusterConfig
from mgsrl.errors import ConfigError

GIB = 1 << 30
SOCKET_PATH_BYTES = 107
"""Longest path of a Unix socket on Linux."""
LONGEST_SOCKET = "ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""Of those that Ray makes below its folder."""
ANSWER_LIMIT_S = 5.0
AGAIN_S = 0.05
"""From a signal whose exception was dropped, or put off, to the next attempt."""
PACKAGE = str(Path(__file__).parents[1]) + os.sep
IMPORTER = "<frozen importlib._bootstrap>"
LONGEST_IMPORT_S = 20.0
"""After which a signal interrupts an import all the same."""


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived."""


_signals: list[str] = []
"""Signals that arrived. Ray's calls make a plain KeyboardInterrupt of whatever interrupts them."""
_first_at = 0.0
"""When the first of them came, by the monotonic clock."""
_again = threading.Event()
"""A signal that was heard comes again: the next one is not news."""


def on_sigterm(signum: int, frame: FrameType | None) -> None:
    """A signal handler: end through every `finally`, as Ctrl-C does."""
    _note_signal("SIGTERM")
    if not _put_off(signum, frame):
        raise Terminated("SIGTERM")


def on_sigint(signum: int, frame: FrameType | None) -> None:
    """A signal handler: as Python's own, but it says at once that it was heard."""
    _note_signal("Ctrl-C")
    if not _put_off(signum, frame):
        raise KeyboardInterrupt


def _note_signal(name: str) -> None:
    global _first_at
    if _again.is_set():
        _again.clear()
        return
    _signals.append(name)
    if len(_signals) > 1:
        return
    _first_at = time.monotonic()
    # Not print: a signal may come in the middle of one, and its lock is not for twice.
    with suppress(OSError):
        os.write(2, f"\nmgsrl: stopping ({name}); this takes some seconds\n".encode())


def _put_off(signum: int, frame: FrameType | None) -> bool:
    """Whether the signal comes again, because `frame` is inside an import: a library that was
    imported by half is broken for the rest of the process."""
    if not _in_import(frame) or time.monotonic() - _first_at > LONGEST_IMPORT_S:
        return False
    _send_again(signum)
    return True


def _in_import(frame: FrameType | None) -> bool:
    """Whether a function of ours waits for an import; who imported or called it does not matter."""
    importing = False
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith(PACKAGE) and code.co_name != "<module>":
            return importing
        importing = importing or code.co_filename == IMPORTER
        frame = frame.f_back
    return False


def _send_again(signum: int) -> None:
    _again.set()
    threading.Timer(AGAIN_S, os.kill, [os.getpid(), signum]).start()


def stopped_by() -> str:
    """Which signal a KeyboardInterrupt came from."""
    return _signals[0] if _signals else "Ctrl-C"


@contextmanager
def insisting() -> Iterator[None]:
    """Inside, a signal whose exception Python drops comes again, until it is heeded: what a handler
    raises in a weak reference's callback or in `__del__` goes to `sys.unraisablehook` alone."""
    before = sys.unraisablehook

    def come_again(dropped: "sys.UnraisableHookArgs") -> None:
        if not _signals or not issubclass(dropped.exc_type, KeyboardInterrupt):
            before(dropped)
            return
        _send_again(signal.SIGTERM if _signals[-1] == "SIGTERM" else signal.SIGINT)

    sys.unraisablehook = come_again
    try:
        yield
    finally:
        sys.unraisablehook = before


@contextmanager
def ray_session(
    config: ClusterConfig, on_death: Callable[[str], None] = lambda message: None
) -> Iterator[Callable[[], str | None]]:
    """Start or join Ray and yield `RayWatch.death`; on leaving, take down what was started.

    A session that this process had before is joined where `config.address` does not ask for an own
    one, and then it is not taken down.

    Args:
        on_death: told when one of Ray's own processes died, before this process ends (`watch.py`).

    Raises:
        ConfigError: no cluster answers at `config.address`.
    """
    _signals.clear()  # those of an earlier run of this process
    _again.clear()
    # Ray reads these when it is imported or started.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "1")
    # Two idle workers less: every actor has an environment and so a process of its own.
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    import ray

    in_main_thread = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    was_up = ray.is_initialized()
    try:
        try:
            _init(config)
        except SystemExit as error:  # what Ray's own handler makes of SIGTERM while it starts
            if error.code != signal.SIGTERM:
                raise
            on_sigterm(signal.SIGTERM, None)
        if in_main_thread:  # after ray.init, which installs a handler of its own
            signal.signal(signal.SIGTERM, on_sigterm)
        ours = config.address == "local"
        with watched_ray(on_death, lambda: bool(_signals), ours=ours) as watch, insisting():
            yield watch.death
    finally:
        if in_main_thread:
            # A second signal must not interrupt the clean-up half way.
            interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if not was_up:
            ray.shutdown()
        if in_main_thread:
            signal.signal(signal.SIGINT, interrupt)
            signal.signal(signal.SIGTERM, before)


def check_no_session() -> None:
    """Raise ConfigError when this process has a Ray session, beside which no other can start."""
    import ray

    if ray.is_initialized():
        raise ConfigError(
            "This process has a Ray session already.",
            expected="none, since cluster.address=local starts one for the run",
            found=f"the one at {ray.get_runtime_context().gcs_address}",
            todo="call ray.shutdown() first, or set cluster.address=auto to train in it",
        )


def check_temp_dir() -> None:
    """Whether a Ray on this machine has a place for its files.

    Raises:
        ConfigError: it cannot be written to, or the names of Ray's sockets would be too long.
    """
    names = [name for name in ("RAY_TMPDIR", "TMPDIR") if name in os.environ]
    folder = Path(os.environ[names[0]] if names else "/tmp")
    named = f"{names[0] if names else 'the folder for temporary files'} is {folder}"
    longest = len(os.fsencode(folder / LONGEST_SOCKET))
    if longest > SOCKET_PATH_BYTES:
        spare = SOCKET_PATH_BYTES - len(f"/{LONGEST_SOCKET}")
        raise ConfigError(
            "Ray's sockets do not fit into the folder for temporary files.",
            expected=f"a folder whose path has at most {spare} bytes",
            found=f"{named} ({longest - len(LONGEST_SOCKET) - 1} bytes)",
            todo="export RAY_TMPDIR=/tmp or another folder with a short path",
        )
    there = next(part for part in (folder, *folder.absolute().parents) if part.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(
            "The folder for temporary files cannot be written to.",
            expected="a folder for Ray's files",
            found=f"{named}, and {there} is {'not writable' if there.is_dir() else 'a file'}",
            todo="export RAY_TMPDIR=/tmp or another folder that can be written to",
        )


def check_address(address: str) -> None:
    """Whether something listens at HOST:PORT; what it is shows when it is joined.

    Raises:
        ConfigError: nothing does.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdecimal():  # `auto`: Ray looks for a cluster of this machine
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_LIMIT_S).close()
    except (OSError, OverflowError) as error:
        raise _no_answer(address, error) from error


def _no_answer(address: str, error: Exception) -> ConfigError:
    return ConfigError(
        "cluster.address does not answer.",
        expected="a running Ray cluster",
        found=f"{address}: {error}",
        todo="start one with `ray start --head`, or set cluster.address=local",
    )


def _init(config: ClusterConfig) -> None:
    import ray

    if ray.is_initialized():  # by the caller, who set an address to train there
        return
    # Says at every start that local sessions are guarded by a token; they are, and that is fine.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    if config.address == "local":
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level="warning",
            num_gpus=config.num_gpus,
            object_store_memory=int(config.object_store_gib * GIB),
        )
        return
    try:
        ray.init(address=config.address, log_to_driver=False, logging_level="warning")
    except (ConnectionError, ValueError) as error:
        raise _no_answer(config.address, error) from error
