"""Group-relative advantages: what all estimators share, and what an estimator is.

An estimator is a function of `rewards_G`, the rewards of one group that were scored, two or more
that differ, to as many advantages. By the names of its parameters it may ask for

    config      `AlgoConfig`
    rollouts_G  the responses that were scored so (`types.Rollout`), for their lengths

It stands in a file of its own here, by its name in `config.algo.ADVANTAGES`, or in yours:
`algo.advantage=mine.py:function`. Abstentions, groups that tell nothing and whitening are not its
business.

Plain Python floats in float64: a batch holds a few hundred rewards, and exactness is worth more
here than speed. Left out: critics, and dropping or refilling groups without signal (DAPO's dynamic
sampling, arXiv 2503.14476): they stay in the batch with advantages of 0, and
`RolloutGroup.is_live` counts them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from mgsrl.config.algo import ADVANTAGES, AlgoConfig
from mgsrl.plugins import Part, tried
from mgsrl.types import Rollout, RolloutGroup, tell_apart

KEY = "algo.advantage"
EPS = 1e-6
"""Added to a standard deviation before dividing by it, as in verl."""
Estimator = Callable[..., Sequence[float]]


def estimator(advantage: str | Estimator) -> Part:
    """The estimator of that name, or the function itself.

    Raises:
        ConfigError: there is none, or it asks for arguments that nobody has.
    """
    return Part.of(ADVANTAGES, advantage, ("config", "rollouts_G"), KEY)


def check_advantages(config: AlgoConfig) -> None:
    """Find the estimator and try it; for use at start-up. Raises ConfigError."""
    part = estimator(config.advantage)
    with tried(KEY, config.advantage, "one finite number for each of three rewards"):
        rollouts = [Rollout("", (1,), (-1.0,), "", "stop", 0)] * 3
        group_advantages((0.0, 0.5, 1.0), part, config, rollouts)


def group_advantages(
    rewards_G: Sequence[float | None], part: Part, config: AlgoConfig, rollouts_G: Sequence[Rollout]
) -> tuple[float, ...]:
    """The advantages of one group.

    Args:
        rewards_G: one reward per sample; None is an abstention.
        part: of `estimator`.

    Returns:
        [G] advantages. Abstentions count in nothing and get 0.
        A group whose scored rewards are all equal (`types.ROUNDING`: a division would blow
        rounding up to advantages of 0.3), or of which fewer than two were scored, gets exactly 0:
        there is nothing to compare (verl instead passes a lone reward through).

    Raises:
        ValueError: a reward is NaN or infinite (a worker that cannot score must abstain), or the
            estimator gave anything else than one finite number per reward.
    """
    scored = [float(r) for r in rewards_G if r is not None]
    if not all(math.isfinite(r) for r in scored):
        raise ValueError(f"rewards should be finite numbers or None, found {list(rewards_G)}")
    if not tell_apart(scored):
        return (0.0,) * len(rewards_G)
    theirs = [rollout for rollout, r in zip(rollouts_G, rewards_G, strict=True) if r is not None]
    found = [float(a) for a in part(list(scored), config=config, rollouts_G=theirs)]
    if len(found) != len(scored) or not all(math.isfinite(a) for a in found):
        raise ValueError(
            f"{part.name} should give a finite number for each of {scored}, found {found}"
        )
    each = iter(found)
    return tuple(0.0 if r is None else next(each) for r in rewards_G)


def with_advantages(
    groups_by_domain: Mapping[str, Sequence[RolloutGroup]], config: AlgoConfig
) -> dict[str, list[RolloutGroup]]:
    """The same groups with `.advantages` filled in.

    Args:
        groups_by_domain: scored groups; every group has one reward per rollout.
        config: names the estimator; reads `whiten_per_domain`.

    With `whiten_per_domain` the advantages of a domain's whole batch (abstentions excluded) are
    standardised once more, so that every domain has advantages of mean 0 and deviation 1
    whatever the scale of its reward: the "normalised advantage" baseline. Groups that are not
    live count in the deviation with their zeros, as in any standardised batch, and keep them
    exactly; so the fewer groups of a domain are live, the more each of them weighs.

    Raises:
        ValueError: a group was not scored completely, or a number is not finite.
    """
    part = estimator(config.advantage)
    result: dict[str, list[RolloutGroup]] = {}
    for domain, groups in groups_by_domain.items():
        filled = [_fill(group, part, config) for group in groups]
        result[domain] = _whiten(filled) if config.whiten_per_domain else filled
    return result


def _fill(group: RolloutGroup, part: Part, config: AlgoConfig) -> RolloutGroup:
    if len(group.rewards) != len(group.rollouts):
        raise ValueError(
            f"prompt {group.prompt.id!r} should have one reward per rollout "
            f"({len(group.rollouts)}), found {len(group.rewards)}"
        )
    values = [reward.value for reward in group.rewards]
    return replace(group, advantages=group_advantages(values, part, config, group.rollouts))


def _whiten(groups: list[RolloutGroup]) -> list[RolloutGroup]:
    if not any(group.is_live for group in groups):
        return groups
    scored = [
        advantage
        for group in groups
        for advantage, reward in zip(group.advantages, group.rewards, strict=True)
        if not reward.abstained
    ]
    # The advantages of every group add up to 0, so the batch's mean is 0 but for rounding.
    # Subtracting that rounding would give groups without signal advantages of 1e-17.
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
