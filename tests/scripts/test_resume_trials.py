"""What `scripts/resume_trials.py` tries; a slice of it is in `training/test_end_to_end.py`."""

from mgsrl.config.compose import list_choices
from scripts.resume_trials import STRATEGIES


def test_every_strategy_is_killed_and_goes_on() -> None:
    assert sorted(STRATEGIES) == sorted(list_choices("strategy"))
