"""A child process for work that may run for ever, eat all memory or crash: asked, killed, replaced.

    child = ChildProcess("mgsrl.rewards.math_process", time_limit_s=5, memory_limit_mib=1024)
    reply = child.ask({"gold": "4", "text": "2 + 2"})      # ProcessLostError: too slow, or it died

The child's module has a `main()` that calls `child_serve.serve`. The child says when it begins a
request, so the death of a process that was idle (the kernel's memory killer, an administrator)
costs nobody anything: the request was never tried, a new process gets it. Only the request that a
process was working on when it died, or that took too long, is lost.

Left out: asking several children at once (threads with a child each do that).
"""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

import mgsrl
from mgsrl.errors import WorkerDiedError

START_LIMIT_S = 60.0
"""Longest wait for a new process; it takes about one second on an idle machine."""
ATTEMPTS = 3
"""Processes that may die before they begin one request; then the request itself is suspected."""
_PACKAGE_FOLDER = str(Path(mgsrl.__file__).resolve().parents[1])
# -P keeps the working directory off the child's import path. The package's folder comes last, so
# that nothing beside it can stand in for the standard library.
_CODE = f"import sys; sys.path.append({_PACKAGE_FOLDER!r}); from {{module}} import main; main()"


class ProcessLostError(Exception):
    """The process gave no answer in time or ended; it has been killed."""


class _NotBegunError(ProcessLostError):
    """It was lost before it began the request."""


class ChildProcess:
    """One process: started when first needed, killed by `ask` when it is too slow.

    Args:
        module: dotted name of the child's module.
        time_limit_s: for one request.
        memory_limit_mib: address space of the process.
        name: what messages call it.
        may_write: the process may write files.
        arguments: what its `main` finds in `sys.argv[4:]`.
    """

    def __init__(
        self,
        module: str,
        *,
        time_limit_s: float,
        memory_limit_mib: int,
        name: str,
        may_write: bool = False,
        arguments: Sequence[str] = (),
    ) -> None:
        self.time_limit_s = time_limit_s
        self.starts = 0
        """Processes started so far."""
        self._name = name
        limits = [str(time_limit_s), str(memory_limit_mib), str(int(may_write))]
        code = _CODE.format(module=module)
        self._command = [sys.executable, "-P", "-c", code, *limits, *arguments]
        self._process: subprocess.Popen[bytes] | None = None
        self._unread = b""
        self._stopped = False
        self._asking = threading.Lock()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the process if there is none. Raises WorkerDiedError when it cannot start."""
        if self._process is not None:
            return
        # A fixed hash seed keeps the orderings of sets, and so verdicts, the same in every process.
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,  # only of its start: it closes it when it is ready
            env={**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"},
            start_new_session=True,  # a group of its own: what it starts is killed with it
        )
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        self.starts += 1
        try:
            self._read_line(START_LIMIT_S)
        except ProcessLostError as error:
            raise WorkerDiedError(f"The {self._name} process did not start: {error}") from None

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The process's reply.

        Raises:
            ProcessLostError: it took too long, died at work, or was stopped.
            WorkerDiedError: no process can be started.
        """
        line = (json.dumps(request) + "\n").encode()
        with self._asking:
            for attempt in range(ATTEMPTS):
                if self._stopped:
                    raise ProcessLostError(f"the {self._name} was stopped")
                try:
                    return self._ask(line)
                except _NotBegunError:
                    if attempt + 1 == ATTEMPTS:
                        raise
        raise AssertionError("every attempt returns or raises")

    def _ask(self, line: bytes) -> dict[str, Any]:
        self.start()
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._write(line)
            self._read_line(self.time_limit_s)
        except (OSError, ProcessLostError) as error:
            raise _NotBegunError(self._kill(str(error))) from None
        reply: dict[str, Any] = json.loads(self._read_line(self.time_limit_s))
        return reply

    def _write(self, line: bytes) -> None:
        """Send a request. A pipe takes 64 KiB; of a longer one the rest waits for a process that
        reads, and one that hangs never does."""
        assert self._process is not None
        assert self._process.stdin is not None
        deadline = time.monotonic() + self.time_limit_s
        stream = self._process.stdin.fileno()
        rest = memoryview(line)
        with selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_WRITE)
            while rest:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    raise ProcessLostError(f"it read no request within {self.time_limit_s:g} s")
                rest = rest[os.write(stream, rest) :]

    def _read_line(self, limit_s: float) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        deadline = time.monotonic() + limit_s
        stream = self._process.stdout.fileno()
        with selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    raise ProcessLostError(self._kill(f"no answer within {limit_s:g} s"))
                chunk = os.read(stream, 65536)
                if not chunk:
                    raise ProcessLostError(self._kill("the process ended"))
                self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _kill(self, why: str) -> str:
        """End the process, whatever it is doing; returns `why` with its exit status."""
        process, self._process = self._process, None
        self._unread = b""
        if process is None:
            return why
        status = process.poll()
        _kill_group(process)
        process.wait(timeout=START_LIMIT_S)
        assert process.stderr is not None
        last_words = _last_words(process.stderr.read().decode(errors="replace"))
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue  # unsent bytes of a request that nobody will read
        ended = why if status is None else f"{why} (exit status {status})"
        return f"{ended}, {last_words}" if last_words else ended

    def stop(self) -> None:
        """End the process for good, also while another thread waits for its answer."""
        self._stopped = True
        process = self._process
        if process is not None:
            _kill_group(process)
        with self._asking:
            self._kill("stopped")


def _last_words(text: str) -> str:
    """The message that ends a traceback, in one line: the house form has indented lines."""
    lines = text.strip().splitlines()
    starts = [number for number, line in enumerate(lines) if not line.startswith(" ")]
    return " ".join(" ".join(lines[starts[-1] :]).split()) if starts else ""


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    """Kill it and all that it started, also what has left its group for a session of its own."""
    descendants: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        descendants = psutil.Process(process.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError):  # all of it has ended
        os.killpg(process.pid, signal.SIGKILL)
    for each in descendants:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
