"""`ray.get` with a time limit and errors that say what was waited for."""

from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from mgsrl.errors import MgsrlError, WaitTimeoutError, WorkerDiedError


def get(refs: Any, limit_s: float, what: str) -> Any:
    """The values of one reference or a sequence of references.

    Raises:
        WaitTimeoutError: not all values arrived within `limit_s` seconds.
        WorkerDiedError: an actor that owed a value died.
        Exception: whatever the remote call raised; an error of the `MgsrlError` family arrives
            as itself, so that the command line can print it as one.
    """
    try:
        return ray.get(list(refs) if isinstance(refs, Sequence) else refs, timeout=limit_s)
    except GetTimeoutError as error:
        raise WaitTimeoutError(f"waited {limit_s:.0f} s for {what}; it did not come") from error
    except RayTaskError as error:
        raise unwrapped(error) from error
    except RayError as error:  # died, killed for memory, node lost, could not be placed
        raise WorkerDiedError(f"an actor died while {what} was waited for: {error}") from error


def unwrapped(error: RayTaskError) -> Exception:
    """The exception that the remote code raised, when it is one of ours; else `error`."""
    cause = error.cause
    return cause if isinstance(cause, MgsrlError) else error
