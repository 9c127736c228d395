"""What a limited child process does: read requests, answer them, end soon after its limits.

One JSON object a line comes in on standard input. The child says that it has begun (one empty
line), hands the object to its `answer` and writes what that returns as one line. Standard library
alone, so that a child starts as fast as what it needs; the parent's side is `child.py`.

Safety, each enforced by the kernel and therefore also while one long C call runs:
- a real-time timer with the default action ends the process soon after the limit, even when the
  parent is gone (the parent normally kills it first);
- the address space is limited; no file can be written, unless asked for; no core is dumped;
- end of input ends the process, and what is left of its group.
"""

import json
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any

GRACE_S = 1.0
"""The timer fires this much later than the parent's limit, so the parent's message wins."""
BEGUN = "\n"
"""What comes before every answer: from here on the request has been tried."""


def limit_process(memory_mib: int, may_write: bool) -> None:
    """Limit the address space; forbid core dumps, and written files unless `may_write`."""
    limits = {resource.RLIMIT_AS: memory_mib * 2**20, resource.RLIMIT_CORE: 0}
    if not may_write:
        limits[resource.RLIMIT_FSIZE] = 0
    for what, limit in limits.items():
        resource.setrlimit(what, (limit, limit))


def serve(
    answer: Callable[[dict[str, Any]], dict[str, Any]], warm_up: Callable[[], object]
) -> None:
    """Answer requests until the input ends. The arguments of the process begin with its limits.

    Args:
        answer: one request -> one JSON-able reply; what it raises becomes `{"error": reason}`.
        warm_up: called once under the limit of memory, before any clock runs (imports, grammars).
    """
    time_limit_s, memory_mib, may_write = float(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "1"
    # Requests and answers go through private copies of standard input and output: what a library
    # prints goes nowhere, and a program that it starts has nothing to read.
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    server = os.getpid()
    limit_process(memory_mib, may_write)
    logging.disable(logging.CRITICAL)
    warm_up()
    os.dup2(nowhere, 2)  # up to here the parent may want to know why there is no process
    answers.write('{"ready": true}\n')
    answers.flush()
    for line in requests:
        answers.write(BEGUN)
        answers.flush()
        signal.setitimer(signal.ITIMER_REAL, time_limit_s + GRACE_S)
        try:
            reply = answer(json.loads(line))
        except (
            Exception
        ) as error:  # anything the libraries raise; the parent makes it an abstention
            reply = {"error": f"{type(error).__name__}: {str(error)[:200]}"}
        if os.getpid() != server:  # a fork that came back: there is one answer to a request
            os._exit(0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        answers.write(json.dumps(reply) + "\n")
        answers.flush()
    if os.getpgrp() == server:  # what it started ends with it, though the parent cannot see to it
        os.killpg(server, signal.SIGKILL)
