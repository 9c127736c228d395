"""One Ray session around a run: started, announced, and always taken down.

A local session listens on the loopback interface only and starts no dashboard. SIGTERM and
SIGINT end the run through the same `finally`, so nothing is left running.
"""

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from mgsrl.cluster import signals
from mgsrl.cluster.watch import watched_ray
from mgsrl.config import ClusterConfig
from mgsrl.errors import ConfigError, RayDiedError, one_line

GIB = 1 << 30
SOCKET_PATH_BYTES = 107
"""Longest path of a Unix socket on Linux."""
LONGEST_SOCKET = "ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""Of those that Ray makes below its folder."""
ANSWER_LIMIT_S = 5.0


@contextmanager
def ray_session(
    config: ClusterConfig,
    on_death: Callable[[str], None] = lambda message: None,
    begin_again: Callable[[], None] = lambda: None,
) -> Iterator[Callable[[], str | None]]:
    """Start or join Ray and yield `RayWatch.death`; on leaving, take down what was started.

    A session that this process had before is joined where `config.address` does not ask for an own
    one, and then it is not taken down.

    Args:
        on_death: told when one of Ray's own processes died, before this process ends (`watch.py`).
        begin_again: may replace this process then, where the session is an own one.

    Raises:
        ConfigError: no cluster answers at `config.address`.
    """
    signals.forget()  # those of an earlier run of this process
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
            signals.on_signal(signal.SIGTERM, None)
        if in_main_thread:  # after ray.init, which installs a handler of its own
            signal.signal(signal.SIGTERM, signals.on_signal)
        ours = config.address == "local"
        watched = watched_ray(on_death, signals.stopping, begin_again, ours=ours)
        with watched as watch, signals.insisting():
            yield watch.death
    finally:
        if in_main_thread:
            # A second signal must not interrupt the clean-up half way.
            interrupt = signal.signal(signal.SIGINT, _pass_over)
            signal.signal(signal.SIGTERM, _pass_over)
        if not was_up:
            ray.shutdown()
        if in_main_thread:
            signal.signal(signal.SIGINT, interrupt)
            signal.signal(signal.SIGTERM, before)


def _pass_over(_signum: int, _frame: FrameType | None) -> None:
    """Unlike SIG_IGN it is not inherited by what takes this process's place (`again.py`)."""


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
        raise ConfigError(
            "cluster.address does not answer.",
            expected="a running Ray cluster",
            found=f"{address}: {error}",
            todo="start one with `ray start --head`, or set cluster.address=local",
        ) from error


def _init(config: ClusterConfig) -> None:
    import ray

    if ray.is_initialized():  # by the caller, who set an address to train there
        return
    # Says at every start that local sessions are guarded by a token; they are, and that is fine.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    if config.address == "local":
        try:
            ray.init(
                address="local",
                include_dashboard=False,
                log_to_driver=False,
                logging_level="warning",
                num_gpus=config.num_gpus,
                object_store_memory=int(config.object_store_gib * GIB),
            )
        except (TypeError, ValueError):  # of what it was given
            raise
        # One of its processes died while the others waited for it, for which Ray has no type.
        except Exception as error:
            raise RayDiedError(
                f"Ray did not start: {one_line(error)}. The same command goes on"
            ) from error
        return
    try:
        ray.init(address=config.address, log_to_driver=False, logging_level="warning")
    except (ConnectionError, ValueError, ray.exceptions.AuthenticationError) as error:
        raise ConfigError(
            "Ray could not connect to cluster.address.",
            expected="a running Ray cluster, and the token that it was started with",
            found=f"{config.address}: {one_line(error)}",
            todo="start one with `ray start --head`; for one that runs: RAY_AUTH_MODE=token and "
            "RAY_AUTH_TOKEN_PATH=FILE here as on its machines; or set cluster.address=local",
        ) from error
    except RuntimeError as error:
        if "ersion mismatch" not in str(error):
            raise
        raise ConfigError(
            "The cluster runs other versions than this process.",
            expected="the same Ray and Python on every machine",
            found=f"{config.address}: {one_line(error)}",
            todo="start cluster and run from the same environment (one image, or one lock file)",
        ) from error
