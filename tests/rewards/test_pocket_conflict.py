"""The dial of the testbed: what it promises of the three rewards, and what they count."""

import math
import random
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from mgsrl.config import RewardConfig
from mgsrl.config.compose import compose_config, config_from_yaml, config_to_yaml
from mgsrl.config.model_path import POCKET_POLICY, POCKET_REWARD_MODEL, resolve_model_path
from mgsrl.errors import ConfigError, MissingPathError
from mgsrl.rewards.contract import check_contract
from mgsrl.rewards.pocket_conflict import (
    HABITS,
    MEAN,
    MOST_OPPOSED,
    SPREAD,
    Conflict,
    ConflictConfig,
    direction,
    habit_shares,
    wanted_cosine,
)
from mgsrl.rewards.protocol import RewardItem

KIND = "mgsrl.rewards.pocket_conflict:Conflict"
DIAL = [index / 20 for index in range(21)]


def directions(conflict: float) -> torch.Tensor:
    return torch.tensor([direction(habit, conflict) for habit in HABITS], dtype=torch.float64)


@pytest.mark.parametrize("conflict", DIAL)
def test_the_directions_of_the_domains_have_the_cosine_that_the_dial_says(conflict: float) -> None:
    u = directions(conflict)
    expected = torch.full((3, 3), wanted_cosine(conflict), dtype=torch.float64).fill_diagonal_(1)
    torch.testing.assert_close(u @ u.T, expected)
    assert (u.argmax(1) == torch.arange(3)).all() or conflict == 0


def test_the_dial_goes_from_one_reward_over_independent_to_opposed_ones() -> None:
    cosines = [wanted_cosine(conflict) for conflict in DIAL]
    assert [cosines[0], cosines[10], cosines[-1]] == [1, 0, MOST_OPPOSED]
    assert all(later < earlier for earlier, later in pairwise(cosines))


@pytest.mark.parametrize("conflict", DIAL)
def test_all_three_can_always_gain_together(conflict: float) -> None:
    """Else nothing could be learnt at the opposed end, by any strategy."""
    together = directions(conflict).sum(0)
    gains = directions(conflict) @ (together / together.norm())
    assert gains.min() > 0.25


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("Cats are small and soft.", (0, 0, 0)),
        ("They are small, soft and quiet!", (1, 1, 1)),
        ("Cats sleep! In warm houses, you can find them.", (0.5, 0.5, 0.5)),
        ("Yes, of course, cats hunt. Cats sleep. They hunt!", (1 / 3, 1 / 3, 1 / 3)),
        ("Cats sleep!!! They", (0, 0.5, 0.5)),
        ("Themes of theyme", (0, 0, 0)),
        ("", None),
        (" ,,, !!! ", None),
    ],
)
def test_what_a_habit_is(text: str, shares: tuple[float, ...] | None) -> None:
    assert habit_shares(text) == (None if shares is None else pytest.approx(shares))


@pytest.mark.parametrize("habit", HABITS)
@pytest.mark.parametrize("conflict", [0.0, 0.3, 0.5, 1.0])
def test_silence_gets_the_least_and_no_text_more_than_the_most(habit: str, conflict: float) -> None:
    reward = Conflict(ConflictConfig(habit, conflict))
    rng = random.Random(0)
    parts = ["Cats sleep.", "They sleep!", "Yes, cats sleep.", "Yes, they sleep!", "Cats sleep!"]
    texts = ["", *(" ".join(rng.choices(parts, k=rng.randint(1, 4))) for _ in range(200))]
    values = [r.value for r in reward.score([RewardItem((), text) for text in texts])]
    low, high = reward.bounds
    assert values[0] == low
    assert all(value is not None and low <= value <= high + 1e-9 for value in values)


def test_at_the_ends_and_in_the_middle_a_text_is_worth_what_the_page_says() -> None:
    both = RewardItem((), "They are small, soft and quiet. They sleep, and hunt.")  # no "!"

    def value(habit: str, conflict: float) -> float:
        (found,) = Conflict(ConflictConfig(habit, conflict)).score([both])
        assert found.value is not None
        return found.value

    up, down = ((end - MEAN) / SPREAD for end in (1.0, 0.0))
    assert {round(value(habit, 0.0), 9) for habit in HABITS} == {
        round((up + up + down) / math.sqrt(3), 9)
    }
    assert [value(habit, 0.5) for habit in HABITS] == pytest.approx([up, down, up])
    assert value("commas", 1.0) == pytest.approx(up / math.hypot(1, 0.26158, 0.26158), abs=1e-4)
    assert value("exclamations", 1.0) < value("exclamations", 0.5) < 0


def test_its_rewards_keep_the_contract() -> None:
    config = RewardConfig.of(KIND, missing_tag="whole_response", conflict=1)
    verdicts = check_contract(config)
    assert [verdict for verdict in verdicts if not verdict.kept] == []
    assert not any("prove nothing" in str(verdict) for verdict in verdicts)


def test_one_override_turns_the_dial_of_all_domains_and_the_run_records_it(
    tmp_path: Path,
) -> None:
    config = compose_config(["+experiment=pocket_conflict", "domains.commas.reward.conflict=0.8"])
    (tmp_path / "config.yaml").write_text(config_to_yaml(config))
    saved = config_from_yaml(tmp_path / "config.yaml")
    rewards = {name: domain.reward.options for name, domain in saved.domains.items()}
    assert rewards == {habit: ConflictConfig(habit, 0.8) for habit in HABITS}
    sources = [(d.source, d.heldout) for d in saved.domains.values()]
    assert sources == [sources[0]] * len(HABITS), "nothing but the reward tells the domains apart"


@pytest.mark.parametrize("wrong", ["conflict=1.2", "conflict=-0.1", "habit=capitals"])
def test_what_the_dial_cannot_be(wrong: str) -> None:
    with pytest.raises(ConfigError, match=r"domains.commas.reward\.(conflict|habit)"):
        compose_config(["+experiment=pocket_conflict", f"domains.commas.reward.{wrong}"])


def test_the_small_policy_is_no_reward_model() -> None:
    found = resolve_model_path("pocket_styles", "policy.path", POCKET_POLICY)
    assert found.endswith("pocket_styles")
    with pytest.raises(MissingPathError):
        resolve_model_path("pocket_styles", "reward.path", POCKET_REWARD_MODEL)
