"""CI has a time limit. On a slow machine the slow tests that have not begun by then are left out.

`.ci/run` says until when; elsewhere there is no such time. What is left out is reported as skipped.
"""

import os
import time

import pytest

VARIABLE = "MGSRL_SLOW_TESTS_UNTIL"
"""Seconds since the epoch."""


def skip_when_over(item: pytest.Item) -> None:
    until = float(os.environ.get(VARIABLE) or "inf")
    if item.get_closest_marker("slow") is not None and time.time() > until:
        pytest.skip(f"the time for slow tests ({VARIABLE}) is over; run it by itself")
