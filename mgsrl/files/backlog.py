"""Writes of a run's small files that a disk may refuse for a while: kept, and made in their order
when it takes them. A full or read-only disk then costs a training nothing, which needs none of
these files to go on. Left out: a bound (a step's writes are some ten kilobytes).
"""

import errno
import os
from collections import deque
from collections.abc import Callable

from mgsrl.errors import file_problem


class Backlog:
    """The writes of one run.

    Args:
        note: told in one line when the first write fails, and when all are made.
    """

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._writes: deque[tuple[str, Callable[[], object]]] = deque()
        self._told = False

    def add(self, what: str, write: Callable[[], object]) -> None:
        """Call `write`, after those that failed before; it may be called again after an OSError.

        Args:
            what: the file, for messages.
        """
        self._writes.append((what, write))
        self.flush()

    def flush(self) -> None:
        """Make all writes that the disk takes now."""
        while self._writes:
            what, write = self._writes[0]
            try:
                write()
            except OSError as error:
                if not self._told:
                    problem = file_problem(error)
                    self._note(
                        f"{what} could not be written: {problem}; training goes on, and what the "
                        "run logs is kept in memory until the disk takes it"
                    )
                    self._told = True
                return
            self._writes.popleft()
        if self._told:
            self._told = False
            self._note("the disk takes files again: all that was logged meanwhile is written")

    def close(self) -> None:
        """The last attempt; what cannot be written is named."""
        self.flush()
        lost = dict.fromkeys(what for what, _ in self._writes)
        if lost:
            self._note(f"not written, the disk did not take it: parts of {', '.join(lost)}")
            self._writes.clear()
            self._told = False


def append_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Append all of `data` to a file, or nothing of it.

    Raises:
        OSError: the disk did not take it.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        end = os.fstat(descriptor).st_size
        if os.write(descriptor, data) != len(data):  # the disk became full on the way
            os.ftruncate(descriptor, end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(path))
    finally:
        os.close(descriptor)
