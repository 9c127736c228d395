"""Advantages: what all estimators share, and what an estimator is.

An estimator is a function of `rewards_G`, the rewards of one group that were scored, two or more
that differ, to as many advantages. By the names of its parameters it may ask for

    config        `AlgoConfig`
    rollouts_G    the responses that were scored so (`types.Rollout`), for their lengths
    components_G  what each reward is made of (`types.Component`, [G] of tuples that are alike in
                  length and weights); its domains then need composite rewards

It stands in a file of its own here, by its name in `config.algo.ADVANTAGES`, or in yours:
`algo.advantage=mine.py:function`. Abstentions, groups that tell nothing and whitening are not its
business. What it needs of them it declares: `over_batch`, `across_groups`, `nonnegative`.

Plain Python floats in float64: a batch holds a few hundred rewards, and exactness is worth more
here than speed. Left out: critics, and doing anything about groups without signal: they have
advantages of 0, and `training/refill.py` gives their places to others where that is wanted.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from mgsrl.config.algo import ADVANTAGES, AlgoConfig
from mgsrl.config.reward import RewardConfig
from mgsrl.errors import ConfigError
from mgsrl.plugins import Part, tried
from mgsrl.types import Component, Reward, Rollout, RolloutGroup, tell_apart

KEY = "algo.advantage"
EPS = 1e-6
"""Added to a standard deviation before dividing by it, as in verl."""
VARIANCE_EPS = 1e-8
"""Added to the variance of a batch that is whitened, as in verl."""
Estimator = Callable[..., Sequence[float]]


def over_batch(estimator: Estimator) -> Estimator:
    """Say of an estimator that what it gives is whitened over the domain's batch."""
    estimator.over_batch = True  # type: ignore[attr-defined]
    return estimator


def across_groups(estimator: Estimator) -> Estimator:
    """Say of an estimator that it compares with the whole batch and not within the group: it is
    `over_batch`, and a group whose rewards are alike, or that has one, is like any other."""
    estimator.across_groups = True  # type: ignore[attr-defined]
    return over_batch(estimator)


def nonnegative(estimator: Estimator) -> Estimator:
    """Say of an estimator that it makes sense of rewards of 0 or more alone."""
    estimator.nonnegative = True  # type: ignore[attr-defined]
    return estimator


def says(part: Part, what: str) -> bool:
    """Whether the estimator declares itself `over_batch`, `across_groups` or `nonnegative`."""
    return getattr(part.function, what, False) is True


def by_components(part: Part) -> bool:
    """Whether the estimator asks for the components of rewards."""
    return "components_G" in part.named


def estimator(advantage: str | Estimator) -> Part:
    """The estimator of that name, or the function itself.

    Raises:
        ConfigError: there is none, or it asks for arguments that nobody has.
    """
    return Part.of(ADVANTAGES, advantage, ("config", "rollouts_G", "components_G"), KEY)


def check_advantages(
    config: AlgoConfig, rewards: Mapping[str, RewardConfig] = MappingProxyType({})
) -> None:
    """Find the estimator, try it, and look whether it can do with the rewards; for use at start-up.

    Args:
        rewards: by domain.

    Raises:
        ConfigError: it does not work, or not with these rewards.
    """
    part = estimator(config.advantage)
    rollouts = [Rollout("", (1,), (-1.0,), "", "stop", 0)] * 3
    of = [Reward(r, components=(Component(1.0, r / 2), Component(0.5, r))) for r in (0.0, 0.5, 1.0)]
    with tried(KEY, config.advantage, "one finite number for each of three rewards"):
        group_advantages(of, part, config, rollouts)
    if not config.normalize_std and "config" not in part.takes:
        raise ConfigError(
            f"{KEY}={part.name} does not read algo.normalize_std.",
            expected="algo.normalize_std=true beside it",
            found="algo.normalize_std=false",
            todo="leave it out: there is no division by a group's standard deviation",
        )
    if says(part, "over_batch") and config.whiten_per_domain:
        raise ConfigError(
            f"{KEY}={part.name} whitens the advantages of a domain itself.",
            expected="algo.whiten_per_domain=false beside it",
            found="algo.whiten_per_domain=true",
            todo="leave it out (the strategy normalized_advantage sets it; strategy=mixed is the "
            "same without)",
        )
    for domain, reward in rewards.items():
        if by_components(part) and not reward.is_composite:
            raise _no_components(part, domain)
        for name, score in reward.scores.items():
            if says(part, "nonnegative") and score.standardise and score.weight != 0:
                raise _negative(part, domain, f"standardise=true of its score {name!r}")
        if says(part, "nonnegative") and reward.least < 0:
            found = f"{reward.least:g} for some scores from 0 to 1, or within `clip`"
            raise _negative(part, domain, found)


def _no_components(part: Part, domain: str) -> ConfigError:
    return ConfigError(
        f"{KEY}={part.name} compares the components of rewards, of which domain {domain!r} has no "
        "two.",
        expected=f"further scores in domains.{domain}.reward.extra, format_bonus or "
        "overlong_buffer beside the own score",
        found="one score",
        todo=f"add a component, such as domains.{domain}.reward.format_bonus=0.1, or set "
        f"{KEY}=grpo",
    )


def _negative(part: Part, domain: str, found: str) -> ConfigError:
    return ConfigError(
        f"{KEY}={part.name} needs rewards of 0 or more, and domain {domain!r} has negative ones.",
        expected="0 or more, after clip, standardise and the length penalty",
        found=found,
        todo=f"clip it ('domains.{domain}.reward.clip=[0,1]'), leave standardise, overlong_buffer "
        f"and negative weights out, or set {KEY}=grpo",
    )


def group_advantages(
    rewards_G: Sequence[Reward], part: Part, config: AlgoConfig, rollouts_G: Sequence[Rollout]
) -> tuple[float, ...]:
    """What the estimator says of one group, before the batch is whitened.

    Args:
        rewards_G: one reward per sample.
        part: of `estimator`.

    Returns:
        [G] advantages. Abstentions count in nothing and get 0, and so does a group that is not
        `compared`: there is nothing to compare (verl instead passes a lone reward through).

    Raises:
        ValueError: a reward is NaN or infinite (a worker that cannot score must abstain), or the
            estimator gave anything else than one finite number per reward.
    """
    values = [reward.value for reward in rewards_G]
    scored = [float(value) for value in values if value is not None]
    if not all(math.isfinite(value) for value in scored):
        raise ValueError(f"rewards should be finite numbers or None, found {values}")
    if not compared(rewards_G, part):
        return (0.0,) * len(rewards_G)
    theirs = [
        (rollout, reward.components)
        for rollout, reward in zip(rollouts_G, rewards_G, strict=True)
        if not reward.abstained
    ]
    rollouts, components = ([*each] for each in zip(*theirs, strict=True))
    given = part(list(scored), config=config, rollouts_G=rollouts, components_G=components)
    found = [float(a) for a in given]
    if len(found) != len(scored) or not all(math.isfinite(a) for a in found):
        raise ValueError(
            f"{part.name} should give a finite number for each of {scored}, found {found}"
        )
    each = iter(found)
    return tuple(0.0 if value is None else next(each) for value in values)


def compared(rewards_G: Sequence[Reward], part: Part) -> bool:
    """Whether a group tells the estimator anything.

    The rewards of two or more scored responses differ by more than rounding (`types.ROUNDING`: a
    division would blow it up to advantages of 0.3), or, for an estimator that asks for components,
    those of one component do. `across_groups` one scored response is enough.
    """
    values = [reward.value for reward in rewards_G if reward.value is not None]
    if says(part, "across_groups"):
        return bool(values)
    if not by_components(part):
        return tell_apart(values)
    scored = [reward.components for reward in rewards_G if not reward.abstained]
    components = zip(*scored, strict=True)
    return any(tell_apart([each.score for each in component_G]) for component_G in components)


def tells(group: RolloutGroup, part: Part, config: AlgoConfig) -> bool:
    """Whether a scored group teaches anything: one of its advantages will be other than 0.

    An estimator may be silent about a group that is `compared` (`best_of_group`, of equally good
    best responses). Of one that is `over_batch` the batch's mean decides, which is not known yet:
    then what is compared tells.
    """
    if says(part, "over_batch"):
        return compared(group.rewards, part)
    return any(group_advantages(group.rewards, part, config, group.rollouts))


def with_advantages(
    groups_by_domain: Mapping[str, Sequence[RolloutGroup]],
    algos: AlgoConfig | Mapping[str, AlgoConfig],
) -> dict[str, list[RolloutGroup]]:
    """The same groups with `.advantages` filled in.

    Args:
        groups_by_domain: scored groups; every group has one reward per rollout.
        algos: name the estimator, and say `whiten_per_domain`; by domain where they differ.

    An estimator that is `over_batch` has its advantages whitened over a domain's batch,
    `(A - mean) / sqrt(variance + 1e-8)`, mean and sample variance over all response tokens, each
    with the advantage of its response, abstentions left out (verl's `masked_whiten`). Groups that
    are not `compared` count with their zeros and keep them; verl gives them what the subtracted
    mean leaves, which is not 0 where responses differ in length.

    With `whiten_per_domain` the advantages of a domain's whole batch (abstentions excluded) are
    standardised once more, so that every domain has advantages of mean 0 and deviation 1
    whatever the scale of its reward: the "normalised advantage" baseline. Groups that are not
    live count in the deviation with their zeros, as in any standardised batch, and keep them
    exactly; so the fewer groups of a domain are live, the more each of them weighs.

    Raises:
        ConfigError: the estimator cannot do with a domain's rewards.
        ValueError: a group was not scored completely, or a number is not finite.
    """
    result: dict[str, list[RolloutGroup]] = {}
    for domain, groups in groups_by_domain.items():
        config = algos if isinstance(algos, AlgoConfig) else algos[domain]
        part = estimator(config.advantage)
        _check_rewards(domain, groups, part)
        filled = [_fill(group, part, config) for group in groups]
        if says(part, "over_batch"):
            filled = _over_batch(filled, part)
        elif config.whiten_per_domain:
            filled = _whiten(filled)
        result[domain] = filled
    return result


def _check_rewards(domain: str, groups: Sequence[RolloutGroup], part: Part) -> None:
    rewards = [each for group in groups for each in group.rewards if not each.abstained]
    if by_components(part) and not all(reward.components for reward in rewards):
        raise _no_components(part, domain)
    least = min((each.value for each in rewards if each.value is not None), default=0.0)
    if says(part, "nonnegative") and least < 0:
        raise _negative(part, domain, f"{least:g}")


def _fill(group: RolloutGroup, part: Part, config: AlgoConfig) -> RolloutGroup:
    if len(group.rewards) != len(group.rollouts):
        raise ValueError(
            f"prompt {group.prompt.id!r} should have one reward per rollout "
            f"({len(group.rollouts)}), found {len(group.rewards)}"
        )
    return replace(group, advantages=group_advantages(group.rewards, part, config, group.rollouts))


def _over_batch(groups: list[RolloutGroup], part: Part) -> list[RolloutGroup]:
    """See `with_advantages`."""
    scored = [
        (advantage, len(rollout.token_ids), reward.value)
        for group in groups
        for advantage, rollout, reward in zip(
            group.advantages, group.rollouts, group.rewards, strict=True
        )
        if reward.value is not None
    ]
    tokens = sum(length for _, length, _ in scored)
    alike = says(part, "across_groups") and not tell_apart([value for _, _, value in scored])
    if tokens < 2 or alike:
        return [replace(group, advantages=(0.0,) * len(group.rewards)) for group in groups]
    mean = math.fsum(length * a for a, length, _ in scored) / tokens
    variance = math.fsum(length * (a - mean) ** 2 for a, length, _ in scored) / (tokens - 1)
    deviation = math.sqrt(variance + VARIANCE_EPS)

    def whitened(group: RolloutGroup) -> RolloutGroup:
        pairs = zip(group.advantages, group.rewards, strict=True)
        each = (0.0 if reward.abstained else (a - mean) / deviation for a, reward in pairs)
        return replace(group, advantages=tuple(each))

    return [whitened(group) if compared(group.rewards, part) else group for group in groups]


def _whiten(groups: list[RolloutGroup]) -> list[RolloutGroup]:
    if not any(group.is_live for group in groups):
        return groups
    scored = [
        advantage
        for group in groups
        for advantage, reward in zip(group.advantages, group.rewards, strict=True)
        if not reward.abstained
    ]
    # The advantages of a group usually add up to 0, so the batch's mean is 0 but for rounding.
    # Subtracting that rounding would give groups without signal advantages of 1e-17; and where they
    # do not (`best_of_group`), the estimator does not want others to be pushed down.
    _, std = mean_std(scored)
    return [
        replace(group, advantages=tuple(a / (std + EPS) for a in group.advantages))
        for group in groups
    ]


def mean_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample (n - 1) standard deviation of two or more numbers."""
    mean = math.fsum(values) / len(values)
    variance = math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)
    return mean, math.sqrt(variance)
