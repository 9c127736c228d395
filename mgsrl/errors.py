"""Every error that `mgsrl` raises on purpose; each is also a standard exception type.

`UserError` and its children are the user's to mend: the command line prints their message
without a traceback and exits with 2. Everything else exits with 1.
"""

import difflib
import errno
import os
import re
from collections.abc import Iterable
from typing import overload

DISK_ERRORS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM}
    | {errno.ESTALE, errno.EREMOTEIO, errno.ENODEV}  # a network's, or one that was taken out
)
"""What a disk that is full, read-only or broken answers."""


class MgsrlError(Exception):
    """Base of all errors raised on purpose: a text, or a problem with the rest of `explain`."""

    @overload
    def __init__(self, problem: str) -> None: ...
    @overload
    def __init__(self, problem: str, *, expected: str, found: str, todo: str) -> None: ...
    def __init__(self, problem: str, **rest: str) -> None:
        super().__init__(explain(problem, **rest) if rest else problem)
        self.problem, self.found = problem, rest.get("found", "")

    @property
    def reason(self) -> str:
        """What was found, or else the problem; its first line."""
        return (self.found or self.problem).partition("\n")[0]


class UserError(MgsrlError, ValueError):
    """Something the user can mend: a configuration, a path, a data file."""


class ConfigError(UserError):
    """A configuration key, value or combination that cannot work."""


class DataError(UserError):
    """A data file or row that is not what it should be."""


class MissingPathError(UserError, FileNotFoundError):
    """A model, data set or checkpoint that is not where the configuration says."""


class CheckpointError(UserError):
    """A checkpoint that is incomplete, damaged or of another run."""


class NewerVersionError(CheckpointError):
    """A run folder or checkpoint that a newer mgsrl wrote: this one would understand half of it."""


class StorageError(MgsrlError, OSError):
    """A file of the run could not be written: the disk is full, read-only or broken."""


class WaitTimeoutError(MgsrlError, TimeoutError):
    """A bounded wait ran out; the message says what was waited for, how long, and which key sets
    the limit."""


class WorkerDiedError(MgsrlError, RuntimeError):
    """An actor died and could not be brought back."""


class GroupBrokenError(MgsrlError, RuntimeError):
    """A rank of a collective group was lost: the others of the group are lost to it too."""


class LearnerDiedError(MgsrlError, RuntimeError):
    """A learner rank died: unlike a pool's worker it cannot be replaced, the run resumes."""


class StaleWeightsError(MgsrlError, RuntimeError):
    """The rollout engine does not compute with the weights that were published to it."""


class EngineMismatchError(MgsrlError, RuntimeError):
    """The rollout engine computes other log-probabilities than the learner, of equal weights."""


class AbstentionError(MgsrlError, RuntimeError):
    """Too large a share of the rewards abstained to go on."""


class NoUpdateError(MgsrlError, ArithmeticError):
    """Step after step had no finite update to make."""


class RayDiedError(MgsrlError, RuntimeError):
    """One of Ray's own processes ended under a run: nothing can go on without it."""


class ContractError(MgsrlError, AssertionError):
    """A reward does not keep the contract that training relies on."""


class EndpointError(MgsrlError, ConnectionError):
    """A server gave no usable answer; the message is one line and holds no key."""


class NoWeightsError(MgsrlError, ArithmeticError):
    """A surgery method found no finite weights for a Gramian: the step should be skipped."""


class CellsFailedError(MgsrlError, RuntimeError):
    """Some runs of a comparison failed; those that did not are compared."""


class InvariantError(MgsrlError, AssertionError):
    """A run-time check of one of the design's invariants failed: a defect of mgsrl."""


def explain(problem: str, *, expected: str, found: str, todo: str) -> str:
    """One message in the house form: what is wrong, what was expected and found, what to do."""
    return f"{problem}\n  expected: {expected}\n  found:    {found}\n  to do:    {todo}"


def shortened(text: str, limit: int = 80) -> str:
    """`text`, its end left out where it is longer than `limit` characters."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def one_line(error: BaseException, limit: int = 200) -> str:
    """The text of `error` without its line breaks, shortened to `limit` characters."""
    try:
        text = str(error)
    except Exception as other:  # a user's class of errors may have a mistake of its own
        text = f"(no text: {type(other).__name__})"
    return shortened(" ".join(text.split()), limit)


def nearest(name: str, valid: Iterable[str]) -> str:
    """`"Did you mean 'x'? "` when one of `valid` is close to `name`, and the list of all."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}valid: {', '.join(names) or '(none)'}"


def disk_problem(error: BaseException) -> str | None:
    """One line when `error` says that the disk did not take (or give) a file, else None.

    Libraries written in Rust (safetensors) tell the number of the error in their text only.
    """
    told = re.search(r"\(os error (\d+)\)", str(error))
    number = error.errno if isinstance(error, OSError) else None
    if number is None and told is not None:
        number = int(told.group(1))
    if number not in DISK_ERRORS:
        return None
    name = getattr(error, "filename", None)
    return f"{os.strerror(number)}{f': {name}' if name else ''}"


def file_problem(error: BaseException) -> str | None:
    """As `disk_problem`, of what reads and writes files: any OSError is then the disk's answer (a
    file system on a network or in user space has many), but for what an actor raised: Ray's error
    is of its kind too, and may be of a socket."""
    of_actor = any(kind.__module__.split(".")[0] == "ray" for kind in type(error).__mro__)
    of_file = isinstance(error, OSError) and not of_actor
    return disk_problem(error) or (one_line(error) if of_file else None)
