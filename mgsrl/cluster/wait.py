"""`ray.get` with a time limit and errors that say what was waited for, and what to do."""

import re
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from mgsrl.errors import MgsrlError, WaitTimeoutError, WorkerDiedError

LONGEST_REASON = 200
"""Characters of an error that fit in a line of the console."""


def get(refs: Any, limit_s: float, what: str, key: str) -> Any:
    """The values of one reference or a sequence of references.

    Args:
        key: the configuration key that sets `limit_s`, for the message.

    Raises:
        WaitTimeoutError: not all values arrived within `limit_s` seconds.
        WorkerDiedError: an actor that owed a value died.
        Exception: whatever the remote call raised; an error of the `MgsrlError` family arrives
            as itself, so that the command line can print it as one.
    """
    try:
        return ray.get(list(refs) if isinstance(refs, Sequence) else refs, timeout=limit_s)
    except GetTimeoutError as error:
        raise timed_out(f"waited {limit_s:.0f} s for {what}; it did not come", key) from error
    except RayTaskError as error:
        raise unwrapped(error) from error
    except RayError as error:  # died, killed for memory, node lost, could not be placed
        raise WorkerDiedError(f"an actor died while {what} was waited for: {error}") from error


def timed_out(problem: str, key: str) -> WaitTimeoutError:
    """The error of a wait that ran out: what was waited for, and the key that sets the limit."""
    return WaitTimeoutError(
        f"{problem}\n"
        f"  to do:    raise {key} if it is only slow here; else see what it was doing "
        "(Ray's logs: session_latest/logs in its temporary folder)"
    )


def unwrapped(error: RayTaskError) -> Exception:
    """The exception that the remote code raised, when it is one of ours; else `error`."""
    cause = error.cause
    return cause if isinstance(cause, MgsrlError) else error


def short_reason(error: BaseException) -> str:
    """Why a worker died, in one line: Ray tells it in a dozen."""
    text = str(error).strip()
    told = re.search(
        r"exit detail: ([^\n]*?)(?: There are some potential| Some common causes|\n|$)", text
    )
    lines = text.splitlines() or [type(error).__name__]
    of_remote_code = isinstance(error, RayTaskError)  # a traceback: its end says what happened
    line = told.group(1) if told else lines[-1 if of_remote_code else 0]
    return line if len(line) <= LONGEST_REASON else f"{line[:LONGEST_REASON]}..."
