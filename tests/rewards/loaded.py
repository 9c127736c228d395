"""Loaded rewards, as an actor has them, without the actor."""

from typing import Any

from mgsrl.config import RewardConfig
from mgsrl.config.reward import OWN, ScoreConfig
from mgsrl.rewards.actor import RewardWorker
from mgsrl.rewards.child import ChildProcess
from mgsrl.rewards.factory import make_reward, row_needs
from mgsrl.rewards.in_child import ChildReward
from mgsrl.rewards.protocol import BaseReward, Surroundings
from mgsrl.types import RowNeeds


def loaded(config: ScoreConfig, surroundings: Surroundings | None = None) -> BaseReward:
    """The reward of `config`."""
    reward = make_reward(config)
    reward.load(surroundings or Surroundings())
    return reward


def worker(kind: str, **keys: Any) -> RewardWorker:
    """A worker of one kind of reward with these keys."""
    return RewardWorker(RewardConfig.of(kind, **keys))


def math_worker(**keys: Any) -> RewardWorker:
    return worker("math", **keys)


def process_of(of: RewardWorker) -> ChildProcess:
    """The child process in which a worker's own reward judges."""
    reward = of.rewards[OWN]
    assert isinstance(reward, ChildReward)
    return reward.process


def needs_of(kind: str) -> RowNeeds:
    """What a kind of reward wants of a row."""
    return row_needs(RewardConfig(kind=kind))
