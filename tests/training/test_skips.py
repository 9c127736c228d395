"""What is said of skipped updates, and when a run ends by them."""

import math

import pytest

from mgsrl.errors import NoUpdateError
from mgsrl.training.skips import SkipWatch
from mgsrl.types import StepStats

MADE = StepStats(0.5, 1e-6, skipped=False)
SKIPPED = StepStats(math.nan, 1e-6, skipped=True, reason="a gradient is not finite")


def watch(*steps: list[StepStats], limit: int = 0) -> list[str]:
    notes: list[str] = []
    skips = SkipWatch(notes.append, limit)
    for step, outcomes in enumerate(steps, start=1):
        skips.see(step, outcomes)
    return notes


def test_the_reason_is_told_once_in_a_row() -> None:
    assert watch([MADE], [SKIPPED], [SKIPPED], [MADE], [SKIPPED]) == [
        "step 2 skipped: a gradient is not finite",
        "step 5 skipped: a gradient is not finite",
    ]


def test_steps_that_are_skipped_in_part_are_told_once_in_a_row_too() -> None:
    partly = [MADE, SKIPPED]
    told = "1 of 2 updates of step 1 skipped: a gradient is not finite"
    assert watch(partly, partly, partly, limit=2) == [told]


def test_steps_that_are_skipped_whole_end_the_run() -> None:
    with pytest.raises(NoUpdateError, match=r"(?s)2 steps in a row.*train\.max_skipped_steps"):
        watch([SKIPPED], [MADE], [SKIPPED], [SKIPPED], limit=2)
