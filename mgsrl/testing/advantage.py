"""What holds for advantage estimators, tried on random groups."""

import math
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from mgsrl.algo.advantages import Estimator, estimator, says, with_advantages
from mgsrl.config.algo import AlgoConfig
from mgsrl.testing.demand import chosen, demand
from mgsrl.types import Component, Prompt, Reward, Rollout, RolloutGroup

ALWAYS = ("finite", "repeatable", "untouched", "permutation", "abstentions", "dead_groups")
USUAL = ("order",)
OPTIONAL = ("zero_sum", "shift", "scale")
TOLERANCE = 1e-9


def check_advantage(
    advantage: str | Estimator,
    config: AlgoConfig | None = None,
    *,
    without: Collection[str] = (),
    also: Collection[str] = (),
    seeds: int = 20,
) -> None:
    """Try an advantage estimator.

    Args:
        advantage: its name, as in `algo.advantage`, or the function.
        config: what it reads; the defaults without one.
        without: `order` (a higher reward has no lower advantage) if it does not claim that.
        also: what it promises besides, out of `zero_sum` (the advantages of a group add up to 0),
            `shift` and `scale` (adding a constant, or another unit of the reward, changes nothing).
        seeds: random groups per property.

    Always tried: `finite` numbers, one per reward; `repeatable`, and the input `untouched`; a
    `permutation` of the samples permutes the advantages; `abstentions` get 0 and count in nothing;
    `dead_groups`, where all rewards are alike, get exactly 0.

    A group is tried as a batch of its own, whitened where the estimator is `over_batch`, dead ones
    beside a live one too unless it compares `across_groups`. One that is `nonnegative` sees no
    negative rewards. Rewards have two components, which rise with them.

    Raises:
        ContractError: a property does not hold.
        ConfigError: the estimator cannot be found or called.
        ValueError: an unknown property, or other results than one finite number per reward.
    """
    part = estimator(advantage)
    subject = _Subject(advantage, f"The advantage estimator {part.name}", config or AlgoConfig())
    for name in chosen(ALWAYS, USUAL, OPTIONAL, without, also):
        for seed in range(seeds):
            _PROPERTIES[name](subject, random.Random(seed))


@dataclass(frozen=True)
class _Subject:
    advantage: str | Estimator
    name: str
    config: AlgoConfig

    def of(
        self,
        rewards_G: Sequence[float | None],
        *others: Sequence[float | None],
        responses_to: Sequence[float | None] | None = None,
    ) -> tuple[float, ...]:
        """The advantages of a group in a batch with `others`.

        Args:
            responses_to: other rewards that its responses were drawn for.
        """
        groups = [
            RolloutGroup(
                Prompt("", "any", (), (1,)),
                tuple(_rollout(each) for each in drawn_for),
                tuple(_reward(each) for each in values),
            )
            for values, drawn_for in [
                (rewards_G, responses_to or rewards_G),
                *zip(others, others, strict=True),
            ]
        ]
        config = replace(self.config, advantage=self.advantage)  # type: ignore[arg-type]
        return with_advantages({"any": groups}, config)["any"][0].advantages

    def says(self, what: str) -> bool:
        return says(estimator(self.advantage), what)

    @property
    def least(self) -> int:
        return 0 if self.says("nonnegative") else -5

    def draw(self, draw: random.Random) -> list[float]:
        """Two or more rewards that differ, in steps of 0.001."""
        steps = range(1000 * self.least, 5001)
        rewards = [draw.choice(steps) / 1000 for _ in range(draw.randint(2, 16))]
        return rewards if len(set(rewards)) > 1 else self.draw(draw)

    def demand(self, kept: bool, expected: str, found: object) -> None:
        demand(kept, self.name, expected, found)

    def demand_close(self, found: Sequence[float], wanted: Sequence[float], expected: str) -> None:
        close = all(
            math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
            for a, b in zip(found, wanted, strict=True)
        )
        self.demand(close, expected, f"{found} instead of {wanted}")


def _rollout(reward: float | None) -> Rollout:
    """Its length goes with its reward, so that a permutation takes both along."""
    length = 1 + int(10 * abs(reward or 0.0)) % 7
    return Rollout("", (1,) * length, (-1.0,) * length, "", "stop", 0)


def _reward(value: float | None) -> Reward:
    if value is None:
        return Reward(None)
    return Reward(value, components=(Component(0.5, value), Component(2.0, value / 4)))


def _finite(subject: _Subject, draw: random.Random) -> None:
    rewards = [draw.choice([0.0, 1.0]) for _ in range(draw.randint(1, 16))]
    for values in (subject.draw(draw), rewards, [1e6 * r for r in subject.draw(draw)]):
        found = subject.of(values)
        right = len(found) == len(values) and all(map(math.isfinite, found))
        subject.demand(right, "one finite number per reward", found)


def _repeatable(subject: _Subject, draw: random.Random) -> None:
    rewards = subject.draw(draw)
    found, again = subject.of(rewards), subject.of(rewards)
    subject.demand(found == again, "the same numbers on every call", f"{found}, then {again}")


def _untouched(subject: _Subject, draw: random.Random) -> None:
    rewards = subject.draw(draw)
    given = list(rewards)
    estimator(subject.advantage)(
        given,
        config=subject.config,
        rollouts_G=[_rollout(reward) for reward in given],
        components_G=[_reward(reward).components for reward in given],
    )
    subject.demand(given == rewards, "its input left alone", f"{rewards} became {given}")


def _permutation(subject: _Subject, draw: random.Random) -> None:
    rewards = subject.draw(draw)
    order = draw.sample(range(len(rewards)), len(rewards))
    found, plain = subject.of([rewards[i] for i in order]), subject.of(rewards)
    subject.demand_close(found, [plain[i] for i in order], "advantages that move with the samples")


def _abstentions(subject: _Subject, draw: random.Random) -> None:
    rewards = subject.draw(draw)
    gaps = list[float | None](rewards)
    for _ in range(draw.randint(1, 3)):
        gaps.insert(draw.randint(0, len(gaps)), None)
    found = subject.of(gaps)
    kept = [a for a, reward in zip(found, gaps, strict=True) if reward is not None]
    none = [a for a, reward in zip(found, gaps, strict=True) if reward is None]
    subject.demand(not any(none), "0 for abstentions", none)
    subject.demand_close(kept, subject.of(rewards), "the others' advantages as without abstentions")


def _dead_groups(subject: _Subject, draw: random.Random) -> None:
    alike = [draw.randint(subject.least, 5) / 7] * draw.randint(1, 16)
    others = [] if subject.says("across_groups") else [subject.draw(draw)]
    for rewards in (alike, [0.5, None], [None], []):
        for found in (subject.of(rewards), subject.of(rewards, *others)):
            subject.demand(found == (0.0,) * len(rewards), "exactly 0 without a difference", found)


def _order(subject: _Subject, draw: random.Random) -> None:
    rewards = sorted(subject.draw(draw))
    found = subject.of(rewards)
    rising = all(b >= a - TOLERANCE for a, b in pairwise(found))
    subject.demand(rising, "no lower advantage for a higher reward", f"{found} for {rewards}")


def _zero_sum(subject: _Subject, draw: random.Random) -> None:
    total = sum(subject.of(subject.draw(draw)))
    subject.demand(abs(total) < 1e-6, "advantages that add up to 0", total)


def _shift(subject: _Subject, draw: random.Random) -> None:
    rewards, by = subject.draw(draw), draw.randint(-10, 10)
    moved = subject.of([reward + by for reward in rewards], responses_to=rewards)
    subject.demand_close(moved, subject.of(rewards), f"the same advantages of rewards + {by}")


def _scale(subject: _Subject, draw: random.Random) -> None:
    rewards, by = subject.draw(draw), draw.choice([0.1, 10.0])
    found = subject.of([by * reward for reward in rewards], responses_to=rewards)
    wanted = subject.of(rewards)
    close = all(abs(a - b) < 1e-2 for a, b in zip(found, wanted, strict=True))  # eps beside a std
    subject.demand(close, f"the same advantages of rewards * {by}", f"{found}, {wanted}")


_PROPERTIES: dict[str, Callable[[_Subject, random.Random], None]] = {
    "finite": _finite,
    "repeatable": _repeatable,
    "untouched": _untouched,
    "permutation": _permutation,
    "abstentions": _abstentions,
    "dead_groups": _dead_groups,
    "order": _order,
    "zero_sum": _zero_sum,
    "shift": _shift,
    "scale": _scale,
}
