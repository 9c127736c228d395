import contextlib
import time

import pytest

from mgsrl.errors import InvariantError
from mgsrl.obs.timers import STAGES, StageTimers


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_stages_and_other_sum_to_the_step():
    clock = Clock()
    timers = StageTimers(clock)
    clock.now += 1.0
    for _ in range(3):
        with timers.stage("backward"):
            clock.now += 2.0
    with timers.stage("sync"):
        clock.now += 0.5
    with timers.stage("step"):
        clock.now += 0.25
    times = timers.finish_step()
    assert times["time/backward"] == 6.0
    assert times["time/sync"] == 0.5
    assert times["time/rollout"] == 0.0
    assert times["time/step"] == 0.25
    assert times["time/other"] == 1.0
    assert times["time/total"] == 7.75
    assert set(times) == {f"time/{name}" for name in (*STAGES, "other", "total")}
    assert timers.finish_step()["time/total"] == 0.0
    with timers.stage("probe"):
        clock.now += 3.0
    times = timers.finish_step()
    assert (times["time/probe"], times["time/other"], times["time/total"]) == (3.0, 0.0, 3.0)
    assert "time/probe" not in timers.finish_step()


def test_start_step_leaves_out_what_came_before():
    clock = Clock()
    timers = StageTimers(clock)
    clock.now += 100.0
    timers.start_step()
    clock.now += 1.0
    assert timers.finish_step()["time/total"] == 1.0


def test_nested_and_unknown_stages_are_errors():
    timers = StageTimers()
    inside = "inside stage 'rollout'"
    with (
        pytest.raises(InvariantError, match=inside),
        timers.stage("rollout"),
        timers.stage("reward"),
    ):
        pass
    with pytest.raises(InvariantError, match="unknown stage"), timers.stage("lunch"):
        pass
    with pytest.raises(InvariantError, match="do not nest"), timers.stage("rollout"):
        timers.finish_step()


def test_a_stage_that_raises_is_timed_and_closed():
    timers = StageTimers()
    with contextlib.suppress(KeyError), timers.stage("reward"):
        time.sleep(0.01)
        raise KeyError
    assert timers.finish_step()["time/reward"] >= 0.01
