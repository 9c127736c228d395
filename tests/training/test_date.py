"""A chat template that reads the clock: the day is fixed when a run begins, and comes back."""

import datetime
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mgsrl.config import Config
from mgsrl.config.compose import compose_config, config_from_yaml, config_to_yaml
from mgsrl.config.resume import resume_changes
from mgsrl.errors import CheckpointError, ConfigError
from mgsrl.training import launch
from mgsrl.training.folder import write_config
from mgsrl.training.plan import plan
from tests.checkpoints import save_checkpoint
from tests.conftest import CHAT_TEMPLATE
from tests.training.test_fit import SMALL

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


class Reached(Exception):
    """Instead of training."""


@pytest.fixture
def begun(clock: type[Clock], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Config]:
    """`launch` up to where data are read; the configuration as it is then."""

    def stop(config: Config, *rest: Any) -> None:
        write_config(Path(config.run.dir), config_to_yaml(config))
        raise Reached

    monkeypatch.setattr(launch, "_train", stop)

    def begin(folder: Path, *overrides: str) -> Config:
        config = compose_config([*SMALL, f"run.dir={folder}", *overrides])
        with pytest.raises(Reached):
            launch.launch(config)
        assert config_from_yaml(folder / "config.yaml").policy.date == config.policy.date
        return config

    return begin


def checkpoint_of(folder: Path, step: int = 1) -> Path:
    """A checkpoint as far as its finding goes."""

    def write(learner: Path) -> None:
        (learner / "learner.json").write_text("{}")

    text = (folder / "config.yaml").read_text()
    return save_checkpoint(folder / "checkpoints", step, {}, write, config_yaml=text)


def test_a_run_goes_on_with_its_own_day(
    begun: Callable[..., Config], clock: type[Clock], tmp_path: Path
) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    assert begun(run).policy.date == FIRST
    checkpoint = checkpoint_of(run)
    clock.now = NEXT
    assert begun(run).policy.date == FIRST
    (run / "config.yaml").write_text("{")  # damaged: the checkpoint knows
    assert begun(run).policy.date == FIRST
    assert begun(other, f"resume={checkpoint}").policy.date == FIRST
    with pytest.raises(ConfigError, match=r"policy\.date"):
        begun(run, "policy.date=2025-01-01")
    assert begun(run, "resume=never").policy.date == NEXT
    assert begun(tmp_path / "new", "policy.date=2025-01-01").policy.date == "2025-01-01"


def test_prompts_do_not_change_over_night(
    begun: Callable[..., Config], clock: type[Clock], tiny_model: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    (model / "chat_template.jinja").write_text("{{ strftime_now('%d %b %Y') }}\n" + CHAT_TEMPLATE)
    own = f"policy.path={model}"
    ready = plan(begun(tmp_path / "run", own))
    checkpoint_of(tmp_path / "run")
    state = ready.mixture.state()
    clock.now = NEXT
    again = plan(begun(tmp_path / "run", own))
    again.mixture.restore(state)
    assert (again.prompts, again.heldout) == (ready.prompts, ready.heldout)
    with pytest.raises(CheckpointError, match="other data"):  # as it would be without
        plan(begun(tmp_path / "new", own)).mixture.restore(state)


def test_a_run_from_before_the_day_was_recorded_goes_on(tmp_path: Path) -> None:
    old, new = compose_config([]), compose_config(["policy.date=2024-07-26"])
    assert not any(change.refused for change in resume_changes(old, new))
    (change,) = resume_changes(new, compose_config(["policy.date=2024-07-27"]))
    assert change.key == "policy.date"
    assert change.refused
