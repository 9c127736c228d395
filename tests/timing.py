"""Whether something takes no longer than it may, on a machine that others use too."""

import functools
import gc
import time
from collections.abc import Callable


def takes_under(cpu_seconds: float, work: Callable[[], object], tries: int = 3) -> bool:
    """Whether this thread does `work` in that processor time, once in `tries`.

    A collection of all that the tests hold, or a moment in which the core was another's, may
    cost one try a second; what is too slow in itself is too slow every time, since what it
    remembers of the try before (`lru_cache`) is forgotten.
    """
    if _cpu_seconds(work) < cpu_seconds:
        return True
    if tries == 1:
        return False
    for each in gc.get_objects():
        # without a bound: what is loaded once, and depends on no text
        if type(each) is functools._lru_cache_wrapper and each.cache_parameters()["maxsize"]:
            each.cache_clear()
    return takes_under(cpu_seconds, work, tries - 1)


def _cpu_seconds(work: Callable[[], object]) -> float:
    gc.disable()
    begin = time.thread_time()
    try:
        work()
        return time.thread_time() - begin
    finally:
        gc.enable()
