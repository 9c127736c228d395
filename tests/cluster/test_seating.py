"""Who sits where on machines that are not there. The same groups on Ray: `test_placement.py`."""

import pytest

from mgsrl.cluster.placement import Placement, Wanted
from mgsrl.cluster.seating import seating
from mgsrl.errors import ConfigError

APART, SHARED = Placement(False, ""), Placement(True, "")


def test_ranks_stay_together_and_an_engine_on_one_machine() -> None:
    """As `test_placement.py` finds it of Ray, on two machines of four."""
    one, other = seating(APART, Wanted(4, 2, 2.0, 2, 0.0), {}, 2, 4)
    assert one == [["learner 0"], ["learner 1"], ["learner 2"], ["learner 3"]]
    assert other == [["engine 0"], ["engine 0"], ["engine 1"], ["engine 1"]]
    one, other = seating(SHARED, Wanted(8, 4, 2.0, 2, 0.0), {}, 2, 4)
    assert one[2:] == [["learner 2", "engine 1"], ["learner 3", "engine 1"]]
    assert other[0] == ["learner 4", "engine 2"]


def test_reward_models_are_guests_where_there_is_room() -> None:
    shared = Placement(True, "", 0.8)
    (only,) = seating(shared, Wanted(1, 1, 1.0, 1, 0.2), {"reward": 0.1, "other": 0.1}, 1, 1)
    assert only == [["learner 0", "engine 0", "reward", "other"]]
    (one,) = seating(APART, Wanted(1, 1, 1.0, 1, 1.0), {"reward": 1.0, "verifier": 0.0}, 1, 3)
    assert one == [["learner 0"], ["engine 0"], ["reward"]]


def test_what_finds_no_room_is_told() -> None:
    with pytest.raises(ConfigError, match="4 GPUs on one machine"):  # 8 are free, 2 on each
        seating(APART, Wanted(2, 1, 4.0, 4, 0.0), {}, 4, 2)
    with pytest.raises(ConfigError, match="engine 1 over 2 GPUs of one machine"):
        seating(SHARED, Wanted(6, 3, 2.0, 2, 0.0), {}, 2, 3)
