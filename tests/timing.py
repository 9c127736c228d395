"""Whether something takes no longer than it may, on a machine that others use too."""

import gc
import time
from collections.abc import Callable


def takes_under(cpu_seconds: float, work: Callable[[], object], tries: int = 3) -> bool:
    """Whether this thread does `work` in that processor time, once in `tries`.

    A collection of all that the tests hold, or a moment in which the core was another's, may
    cost one try a second; what is too slow in itself is too slow every time.
    """
    return any(_cpu_seconds(work) < cpu_seconds for _ in range(tries))


def _cpu_seconds(work: Callable[[], object]) -> float:
    gc.disable()
    begin = time.thread_time()
    try:
        work()
        return time.thread_time() - begin
    finally:
        gc.enable()
