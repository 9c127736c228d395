"""From what the reward workers said to the reward that is trained on.

    score_p = standardise(clip(raw_p))                    for the domain's own score and each extra
    sum     = 0 if a gate is not met else sum_p weight_p * score_p
    reward  = sum + format_bonus * format_ok + overlong_penalty * soft_overlong(length)

It happens on the driver, in the order of the batch, so that running statistics depend neither on
the number of workers nor on who finishes first, and are part of the checkpoint. Held-out scores are
the raw own ones: comparable between runs and over time. Left out: an extra score on part of the
responses only.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mgsrl.config.reward import OWN, RewardConfig
from mgsrl.rewards.extract import NO_BLOCK
from mgsrl.types import Component, Reward, RolloutGroup


def soft_overlong(num_tokens: int, max_tokens: int, buffer: int) -> float:
    """DAPO's soft overlong punishment (arXiv 2503.14476, equation 13), in -1..0.

        0                                      num_tokens <= max_tokens - buffer
        (max_tokens - buffer - num_tokens) / buffer    up to max_tokens
        -1                                     above

    Args:
        num_tokens: of the response.
        max_tokens: the longest response.
        buffer: tokens before it in which the punishment grows; 0 punishes nobody.
    """
    if buffer == 0:
        return 0.0
    return max(-1.0, min(0.0, (max_tokens - buffer - num_tokens) / buffer))


@dataclass
class RunningMoments:
    """Mean and variance of the numbers so far, older ones fading; exact on resuming.

    Welford's sums (1962), exact for the first `memory` numbers. From then on every number lowers
    the weight of the earlier ones by a factor of `1 - 1 / memory`, so that all weights add up to
    `memory` and what is `memory` numbers old still counts 1 / e of a new one.
    """

    memory: int
    count: int = 0
    """The sum of the weights: the numbers so far, at most `memory`."""
    mean: float = 0.0
    sum_of_squares: float = 0.0
    """Of the differences from the mean, weighted."""

    def __post_init__(self) -> None:
        if self.count > self.memory:  # of a checkpoint that remembered more
            self.sum_of_squares *= self.memory / self.count
            self.count = self.memory

    def add(self, values: Iterable[float]) -> None:
        """In the order given; another order changes the last bits."""
        for value in values:
            if self.count < self.memory:
                self.count += 1
            else:
                self.sum_of_squares *= 1.0 - 1.0 / self.memory
            delta = value - self.mean
            self.mean += delta / self.count
            self.sum_of_squares += delta * (value - self.mean)

    def standardise(self, value: float) -> float:
        """`(value - mean) / standard deviation`; only centred while all numbers were alike."""
        spread = math.sqrt(self.sum_of_squares / (self.count - 1)) if self.count > 1 else 0.0
        return (value - self.mean) / (spread or 1.0)


class Shaper:
    """One domain's shaping and its running statistics.

    Args:
        max_tokens: the domain's longest response.
    """

    def __init__(self, config: RewardConfig, max_tokens: int) -> None:
        self.config = config
        self.max_tokens = max_tokens
        self.scores = config.scores
        self.moments = {
            name: RunningMoments(score.standardise_memory)
            for name, score in self.scores.items()
            if score.standardise
        }
        self._identity = Shaper._settings(config) == Shaper._settings(RewardConfig())

    @staticmethod
    def _settings(config: RewardConfig) -> tuple[Any, ...]:
        score = (config.clip, config.standardise, config.weight, config.gate, config.extra)
        return (*score, config.require_format, config.format_bonus, config.overlong_buffer)

    def state(self) -> dict[str, list[float]]:
        """JSON-able; floats survive JSON to the bit."""
        return {
            name: [each.count, each.mean, each.sum_of_squares]
            for name, each in self.moments.items()
        }

    def restore(self, state: Mapping[str, Sequence[float]]) -> None:
        for name, (count, mean, sum_of_squares) in state.items():
            if name not in self.moments:
                continue
            memory = self.scores[name].standardise_memory
            self.moments[name] = RunningMoments(memory, int(count), mean, sum_of_squares)

    def shape(self, groups: Sequence[RolloutGroup]) -> list[RolloutGroup]:
        """The same groups with the rewards to train on; the statistics take them in first."""
        if self._identity:
            return list(groups)
        for name, moments in self.moments.items():
            clip = self.scores[name].clip
            moments.add(
                clipped(raw_scores(reward)[name], clip)
                for group in groups
                for reward in group.rewards
                if not reward.abstained and not _lacks_block(reward, name)
            )
        return [
            replace(
                group,
                rewards=tuple(
                    self.reward(reward, len(rollout.token_ids))
                    for reward, rollout in zip(group.rewards, group.rollouts, strict=True)
                ),
            )
            for group in groups
        ]

    def reward(self, raw: Reward, num_tokens: int) -> Reward:
        """The reward to train on, with its parts in `details["shaping"]`; abstentions stay."""
        if raw.abstained:
            return raw
        config, raw_by_name = self.config, raw_scores(raw)
        scores = {name: self._score(name, value) for name, value in raw_by_name.items()}
        weighted = {name: self.scores[name].weight * score for name, score in scores.items()}
        closed = [
            name
            for name, value in raw_by_name.items()
            if (gate := self.scores[name].gate) is not None and value < gate
        ]
        if config.require_format and not raw.format_ok:
            closed.append("format")
        bonus = config.format_bonus * raw.format_ok
        too_long = soft_overlong(num_tokens, self.max_tokens, config.overlong_buffer)
        overlong = config.overlong_penalty * too_long
        value = (0.0 if closed else sum(weighted.values())) + bonus + overlong
        shown = {"raw": raw.value, "weighted": weighted, "closed_gates": closed}
        shown |= {"format_bonus": bonus, "overlong": overlong}
        components = [
            *(Component(self.scores[n].weight, 0.0 if closed else s) for n, s in scores.items()),
            Component(config.format_bonus, float(raw.format_ok)),
            Component(config.overlong_penalty, too_long),
        ]
        return replace(
            raw,
            value=value,
            details={**raw.details, "shaping": shown},
            components=tuple(each for each in components if each.weight != 0),
        )

    def _score(self, name: str, raw: float) -> float:
        """What is weighted."""
        value = clipped(raw, self.scores[name].clip)
        if self.scores[name].standardise:
            value = self.moments[name].standardise(value)
        return value


def raw_scores(reward: Reward) -> dict[str, float]:
    """The own score and the extra ones by name; of a reward that did not abstain."""
    parts = reward.details.get("parts", {})
    return {OWN: reward.value, **{name: part["value"] for name, part in parts.items()}}


def _lacks_block(reward: Reward, name: str) -> bool:
    """Whether the score `name` is a missing block's 0: a verdict, no score."""
    details = reward.details if name == OWN else reward.details["parts"][name]
    return details.get("reason") == NO_BLOCK


def clipped(value: float, bounds: Sequence[float] | None) -> float:
    """`value` moved into `bounds`."""
    return value if bounds is None else max(bounds[0], min(bounds[1], value))
