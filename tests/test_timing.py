"""A limit on time that forgives a bad moment and nothing else."""

import time
from functools import lru_cache, partial

from tests.timing import takes_under


def busy(seconds: float) -> None:
    begin = time.thread_time()
    while time.thread_time() - begin < seconds:
        pass


def test_one_bad_moment_is_forgiven() -> None:
    moments = iter([0.2, 0.0])
    assert takes_under(0.1, lambda: busy(next(moments)))


def test_what_is_slow_is_slow_though_it_remembers() -> None:
    remembered = lru_cache(maxsize=8)(busy)
    assert not takes_under(0.1, partial(remembered, 0.2))
