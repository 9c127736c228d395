"""The last lines that an actor's process wrote to its log, on whatever machine it was.

Ray sends the standard error of every worker to a file of its session's folder. An actor knows
which one that is while it lives (`own_log`); whoever asks after its death goes by that.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

LINES = 10
LONGEST_LINE = 300
"""Characters."""
TAIL = 1 << 16
"""Bytes that are read from the end of a log."""
RAYS = (":job_id:", ":actor_name:")
"""Beginnings of lines that Ray writes for itself."""
LIMIT_S = 10.0
"""For a worker on another machine to start and read."""


@dataclass(frozen=True)
class Log:
    """Where the standard error of a process goes."""

    node: str
    """Ray's id of the machine."""
    address: str
    pid: int
    path: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.address}"


def own_log() -> Log:
    """Of this process, a Ray worker."""
    import ray

    path = ""
    with suppress(OSError):  # no /proc
        path = os.readlink("/proc/self/fd/2")
    node = ray.get_runtime_context().get_node_id()
    return Log(node, ray.util.get_node_ip_address(), os.getpid(), path)


def last_lines(log: Log) -> list[str]:
    """At most `LINES` lines of the log; none when it has none or its machine is out of reach."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if log.node == ray.get_runtime_context().get_node_id():
        return tail(log.path)
    there = NodeAffinitySchedulingStrategy(log.node, soft=False)
    read: Callable[[str], list[str]] = tail
    with suppress(ray.exceptions.RayError):  # also GetTimeoutError: what it wrote is an extra
        ref = ray.remote(read).options(num_cpus=0, scheduling_strategy=there).remote(log.path)
        lines: list[str] = ray.get(ref, timeout=LIMIT_S)
        return lines
    return []


def tail(path: str) -> list[str]:
    """The last `LINES` lines of a file that say something, shortened."""
    with suppress(OSError), Path(path).open("rb") as file:
        file.seek(max(0, os.path.getsize(path) - TAIL))
        lines = file.read().decode("utf-8", "replace").splitlines()
        said = [line for line in lines if line.strip() and not line.startswith(RAYS)]
        return [line[:LONGEST_LINE] for line in said[-LINES:]]
    return []
