"""From a `RewardConfig` to its rewards: what they want of a row, their checks, loaded ones."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from mgsrl.config.reward import OWN, REWARDS, RewardConfig, ScoreConfig
from mgsrl.rewards.protocol import BaseReward
from mgsrl.types import RowNeeds

Config = TypeVar("Config", bound=ScoreConfig)


def make_reward(config: ScoreConfig, key: str = "reward") -> BaseReward:
    """One reward, not loaded.

    Args:
        key: where the configuration stands, for messages.

    Raises:
        ConfigError: there is no such kind.
    """
    reward: BaseReward = REWARDS.load(config.kind, f"{key}.kind")(config.options)
    reward.key = key
    return reward


def rewards_of(config: RewardConfig, key: str = "reward") -> list[BaseReward]:
    """The rewards of a domain, the extra ones included; each has its `key`."""
    return [
        make_reward(score, key if name == OWN else f"{key}.extra.{name}")
        for name, score in config.scores.items()
    ]


def row_needs(config: RewardConfig, key: str = "reward") -> RowNeeds:
    """What the rewards of a domain want of a row."""
    rewards = rewards_of(config, key)

    def validate(reference: Mapping[str, Any]) -> None:
        for reward in rewards:
            reward.validate_reference(reference)

    return RowNeeds(
        requires=tuple(dict.fromkeys(name for reward in rewards for name in reward.requires)),
        accepts=tuple(dict.fromkeys(name for reward in rewards for name in reward.accepts)),
        prompt=any(reward.needs_prompt for reward in rewards),
        validate=validate,
    )


def check_reward(config: Config, key: str) -> Config:
    """Raise the user's mistakes that can be seen without starting an actor.

    Args:
        key: where the configuration stands (`domains.chat.reward`), for messages.

    Returns:
        `config` as actors with another working directory need it: paths made absolute.
    """
    options = make_reward(config, key).check(key)
    config = replace(config, kind=REWARDS.located(config.kind), options=options)
    if not isinstance(config, RewardConfig):
        return config
    extra = {name: check_reward(s, f"{key}.extra.{name}") for name, s in config.extra.items()}
    return replace(config, extra=extra)
