"""DeepSpeed's one compiled op, built by one process at a time.

DeepSpeed compiles its shared-memory communication op at first use (about ten seconds). Torch guards
the build with a file that exists while it lasts (`torch.utils.file_baton`): a process killed
meanwhile leaves the file, and every later run waits for it for ever. Here the builders queue at a
lock that the kernel releases when its holder dies, and whoever holds it removes a file left behind.
"""

import fcntl
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from mgsrl.errors import WaitTimeoutError

BATON = "lock"
"""Torch's file in the build folder."""
LOCK = "mgsrl.lock"
"""Ours beside it; stays there, and means nothing unless a process holds it."""
POLL_S = 0.1
SAY_AFTER_S = 5.0

log = logging.getLogger(__name__)


def load_comm_op(limit_s: float) -> None:
    """Build (the first time) and load the op, so that DeepSpeed finds it loaded.

    To be called before the ranks wait for each other: a rank in the queue keeps no other waiting.

    Args:
        limit_s: longest wait for other processes that build it.

    Raises:
        WaitTimeoutError: another process has been building it for longer.
    """
    import deepspeed
    from deepspeed.accelerator import get_accelerator
    from torch.utils.cpp_extension import _get_build_directory

    builder = get_accelerator().create_op_builder("ShareMemCommBuilder")
    # As in deepspeed.comm.torch.build_shm_op, which goes without the op in the same cases.
    if builder is None or not deepspeed.ops.__compatible_ops__.get(builder.NAME, False):
        return
    with only_builder(Path(_get_build_directory(builder.name, verbose=False)), limit_s):
        builder.load(verbose=False)


@contextmanager
def only_builder(folder: Path, limit_s: float) -> Iterator[None]:
    """Hold our lock on a build folder, torch's file from a killed build removed."""
    deadline = time.monotonic() + limit_s
    with (folder / LOCK).open("w") as file:
        _wait(lambda: _locked(file.fileno()), folder / LOCK, deadline)
        # Programs other than mgsrl build here too, without our lock.
        _wait(lambda: _free(folder / BATON), folder / BATON, deadline)
        yield  # closing the file releases the lock


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _free(baton: Path) -> bool:
    """No process builds; a file without a process that has it open is stale and removed."""
    if not baton.exists():
        return True
    if _is_open(baton):
        return False
    log.warning("removed %s, left by a build of DeepSpeed's op that was killed", baton)
    baton.unlink(missing_ok=True)
    return True


def _is_open(path: Path) -> bool:
    """Whether a process of this machine has `path` open, as a builder has its baton."""
    name = str(path.resolve())
    for process in psutil.process_iter():
        try:
            if any(file.path == name for file in process.open_files()):
                return True
        except psutil.Error:  # ended meanwhile, or another user's
            continue
    return False


def _wait(done: Callable[[], bool], path: Path, deadline: float) -> None:
    begin, said = time.monotonic(), False
    while not done():
        waited = time.monotonic() - begin
        what = f"another process that builds DeepSpeed's communication op ({path})"
        if time.monotonic() > deadline:
            raise WaitTimeoutError(
                f"waited {waited:.0f} s for {what}\n"
                "  to do:    delete that file if none does, else raise learner.time_limit_s"
            )
        if waited > SAY_AFTER_S and not said:
            log.warning("waiting for %s", what)
            said = True
        time.sleep(POLL_S)
