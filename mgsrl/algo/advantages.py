"""Group-relative advantages (GRPO, arXiv 2402.03300; Dr. GRPO, arXiv 2503.20783).

Plain Python floats in float64: a batch holds a few hundred rewards, and exactness is worth more
here than speed. Left out: critics and leave-one-out baselines (GRPO's group mean is the baseline),
and dropping or refilling groups without signal (DAPO's dynamic sampling, arXiv 2503.14476): they
stay in the batch with advantages of 0, and `RolloutGroup.is_live` counts them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from mgsrl.config.algo import AlgoConfig
from mgsrl.types import RolloutGroup, tell_apart

EPS = 1e-6
"""Added to a standard deviation before dividing by it, as in verl."""


def group_advantages(
    rewards_G: Sequence[float | None], *, normalize_std: bool = True
) -> tuple[float, ...]:
    """`(r - mean) / (std + 1e-6)` within one group.

    Args:
        rewards_G: one reward per sample; None is an abstention.
        normalize_std: divide by the sample (n - 1) standard deviation; False is Dr. GRPO.

    Returns:
        [G] advantages. Abstentions count neither in the mean nor in the deviation and get 0.
        A group whose scored rewards are all equal (`types.ROUNDING`: the division would blow
        rounding up to advantages of 0.3), or of which fewer than two were scored, gets exactly 0:
        there is nothing to compare (verl instead passes a lone reward through).

    Raises:
        ValueError: a reward is NaN or infinite (a worker that cannot score must abstain).
    """
    scored = [float(r) for r in rewards_G if r is not None]
    if not all(math.isfinite(r) for r in scored):
        raise ValueError(f"rewards should be finite numbers or None, found {list(rewards_G)}")
    if not tell_apart(scored):
        return (0.0,) * len(rewards_G)
    mean, std = _mean_std(scored)
    scale = 1.0 / (std + EPS) if normalize_std else 1.0
    return tuple(0.0 if r is None else (float(r) - mean) * scale for r in rewards_G)


def with_advantages(
    groups_by_domain: Mapping[str, Sequence[RolloutGroup]], config: AlgoConfig
) -> dict[str, list[RolloutGroup]]:
    """The same groups with `.advantages` filled in.

    Args:
        groups_by_domain: scored groups; every group has one reward per rollout.
        config: reads `normalize_std` and `whiten_per_domain`.

    With `whiten_per_domain` the advantages of a domain's whole batch (abstentions excluded) are
    standardised once more, so that every domain has advantages of mean 0 and deviation 1
    whatever the scale of its reward: the "normalised advantage" baseline. Groups that are not
    live count in the deviation with their zeros, as in any standardised batch, and keep them
    exactly; so the fewer groups of a domain are live, the more each of them weighs.

    Raises:
        ValueError: a group was not scored completely, or a reward is not finite.
    """
    result: dict[str, list[RolloutGroup]] = {}
    for domain, groups in groups_by_domain.items():
        filled = [_fill(group, config.normalize_std) for group in groups]
        result[domain] = _whiten(filled) if config.whiten_per_domain else filled
    return result


def _fill(group: RolloutGroup, normalize_std: bool) -> RolloutGroup:
    if len(group.rewards) != len(group.rollouts):
        raise ValueError(
            f"prompt {group.prompt.id!r} should have one reward per rollout "
            f"({len(group.rollouts)}), found {len(group.rewards)}"
        )
    values = [reward.value for reward in group.rewards]
    return replace(group, advantages=group_advantages(values, normalize_std=normalize_std))


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
    _, std = _mean_std(scored)
    return [
        replace(group, advantages=tuple(a / (std + EPS) for a in group.advantages))
        for group in groups
    ]


def _mean_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample (n - 1) standard deviation of two or more numbers."""
    mean = math.fsum(values) / len(values)
    variance = math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)
    return mean, math.sqrt(variance)
