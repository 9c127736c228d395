"""One process per run folder: an advisory lock, which the kernel drops with its holder.

Who holds it is written into the file, and taken out at the end. Some network file systems keep
locks for one machine only: there the name of another machine, left in the file, is all that tells.
Left out: deciding whether a process of another machine still lives (after a lost node none does,
and the run must go on).
"""

import errno
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mgsrl.errors import ConfigError, MgsrlError

LOCK = ".lock"
NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})
"""What a file system answers that has none."""
LONGEST_HOLDER = 200


@contextmanager
def locked(
    folder: Path, note: Callable[[str], None] = lambda _: None, key: str = "run.dir"
) -> Iterator[None]:
    """Hold `folder`, which exists.

    Args:
        note: told where the lock may not be enough.
        key: what names the folder.

    Raises:
        ConfigError: another process holds it.
        OSError: the folder cannot be written.
    """
    file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _take(file, folder, note, key)
        _write_holder(file, f"{socket.gethostname()} process {os.getpid()}")
        try:
            yield
        finally:
            _write_holder(file, "")
    finally:
        os.close(file)


@contextmanager
def writable(key: str = "run.dir") -> Iterator[None]:
    """Raise ConfigError where the folder that `key` names cannot be made or written."""
    try:
        yield
    except MgsrlError:
        raise
    except OSError as error:
        raise ConfigError(
            f"{key} cannot be written.",
            expected="a folder, or a place where one can be made, on a disk with room",
            found=str(error),
            todo=f"choose another {key}, or mend this one",
        ) from error


def is_held(folder: Path) -> bool:
    """Whether another process holds the folder now; where nobody can know, it is not."""
    try:
        file = os.open(folder / LOCK, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return isinstance(error, BlockingIOError)
    finally:
        os.close(file)
    return False


def _take(file: int, folder: Path, note: Callable[[str], None], key: str) -> None:
    holder = os.pread(file, LONGEST_HOLDER, 0).decode(errors="replace").strip()
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(
            f"{folder} is in use.",
            expected=f"one process per {key}",
            found=f"another mgsrl process holds it{f' ({holder})' if holder else ''}",
            todo=f"wait for it, stop it, or choose another {key}",
        ) from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        note(
            f"{folder} is on a file system without locks: no other process may write it"
            f"{f' (the last was {holder})' if holder else ''}"
        )
        return
    host = holder.partition(" ")[0]
    if host and host != socket.gethostname():
        note(
            f"{folder} was left by a process that did not end by itself ({holder}). Should it "
            "still run, stop this one: file systems do not always share locks between machines"
        )


def _write_holder(file: int, holder: str) -> None:
    with suppress(OSError):  # a full or read-only disk: the lock itself holds
        os.ftruncate(file, 0)
        os.pwrite(file, holder.encode(), 0)
