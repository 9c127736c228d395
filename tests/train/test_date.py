"""A chat template that reads the clock: the day is fixed when a run begins, and comes back."""

import datetime
import shutil
from pathlib import Path
from typing import Any

import pytest

from mgsrl.config import Config
from mgsrl.config.compose import compose_config, config_to_yaml
from mgsrl.config.resume import resume_obstacles
from mgsrl.errors import CheckpointError
from mgsrl.train import launch
from mgsrl.train.plan import plan
from tests.conftest import CHAT_TEMPLATE
from tests.train.test_fit import SMALL

FIRST, NEXT = "2024-07-26", "2024-07-27"


class Clock(datetime.date):
    """`date` whose today can be set."""

    now = FIRST

    @classmethod
    def today(cls) -> Any:
        return datetime.date.fromisoformat(cls.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> type[Clock]:
    monkeypatch.setattr(launch, "date", Clock)
    monkeypatch.setattr(Clock, "now", FIRST)
    return Clock


def configured(folder: Path, *overrides: str) -> Config:
    """As `launch` has it before anything is read."""
    config = compose_config([*SMALL, f"run.dir={folder}", *overrides])
    config.policy.date = config.policy.date or launch.first_day(config)
    return config


def begin(folder: Path, *overrides: str) -> Config:
    config = configured(folder, *overrides)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(config_to_yaml(config))
    return config


def test_a_run_goes_on_with_its_own_day(clock: type[Clock], tmp_path: Path) -> None:
    begin(tmp_path / "run")
    clock.now = NEXT
    checkpoint = tmp_path / "run" / "checkpoints" / "step_1"
    assert configured(tmp_path / "run").policy.date == FIRST
    assert configured(tmp_path / "other", f"resume={checkpoint}").policy.date == FIRST
    assert configured(tmp_path / "run", "resume=never").policy.date == NEXT
    assert configured(tmp_path / "run", "policy.date=2025-01-01").policy.date == "2025-01-01"


def test_prompts_do_not_change_over_night(
    clock: type[Clock], tiny_model: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    (model / "chat_template.jinja").write_text("{{ strftime_now('%d %b %Y') }}\n" + CHAT_TEMPLATE)
    own = f"policy.path={model}"
    ready = plan(begin(tmp_path / "run", own))
    state = ready.mixture.state()
    clock.now = NEXT
    again = plan(configured(tmp_path / "run", own))
    again.mixture.restore(state)
    assert (again.prompts, again.heldout) == (ready.prompts, ready.heldout)
    with pytest.raises(CheckpointError, match="other data"):  # as it would be without
        plan(configured(tmp_path / "new", own)).mixture.restore(state)


def test_a_run_from_before_the_day_was_recorded_goes_on(tmp_path: Path) -> None:
    old, new = compose_config([]), compose_config(["policy.date=2024-07-26"])
    assert resume_obstacles(old, new, print) == []
    (line,) = resume_obstacles(new, compose_config(["policy.date=2024-07-27"]), print)
    assert line.startswith("policy.date")
