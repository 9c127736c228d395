"""The same command line again in place of this process, for when Ray's own processes died.

A process cannot be sure of a second Ray session after it lost the first: threads of the old one
live on, and without its gcs server Ray ends the process from C++ within a minute. `exec` ends them
all: the process id, the terminal and the outputs stay, Python's files and locks are closed.

Left out: processes that are not the command's own (a notebook, a script that calls
`mgsrl.train`): what else they were doing would begin again, too.
"""

import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

VARIABLE = "MGSRL_AGAIN"
"""Holds, as JSON, what a process leaves to the one in its place."""


@dataclass(frozen=True)
class _Start:
    command: list[str]
    folder: str
    environment: dict[str, str]


_starts: list[_Start] = []
"""How this process was started, where that is the command's own business."""


def remember_start() -> None:
    """This process is `mgsrl` itself. To be called before anything changes the environment."""
    _starts[:] = [_Start([sys.executable, *sys.orig_argv[1:]], os.getcwd(), dict(os.environ))]


def can_run_again() -> bool:
    """Whether `run_again` is possible here."""
    return bool(_starts)


def run_again(left: Mapping[str, Any]) -> NoReturn:
    """Replace this process by the same command; `left_behind` gives it `left`."""
    start = _starts[0]
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # a log on a full disk, or closed
            stream.flush()
    os.chdir(start.folder)
    environment = start.environment | {VARIABLE: json.dumps(left)}
    os.execve(start.command[0], start.command, environment)


def left_behind() -> dict[str, Any]:
    """What the process whose place this one took left for it, once; empty without one."""
    found = json.loads(os.environ.pop(VARIABLE, "{}"))
    return found if isinstance(found, dict) else {}
