"""Held-out scores: mean reward per domain with a standard error over prompts.

With several samples per prompt, responses to one prompt are not independent, so a prompt's mean
counts as one observation (clustered standard errors, arXiv 2411.00640, section 2.2). Abstained
responses are left out of the mean and counted. Left out: bootstrap intervals, pass@k.
"""

from collections.abc import Mapping, Sequence

from mgsrl.obs.evaluation_log import EvalResult
from mgsrl.obs.metrics import mean, standard_error
from mgsrl.types import RolloutGroup


def heldout_results(groups: Mapping[str, Sequence[RolloutGroup]], step: int) -> list[EvalResult]:
    """One `EvalResult` per domain from scored groups; `step` is the evaluated weight version."""
    return [_result(domain, domain_groups, step) for domain, domain_groups in groups.items()]


def _result(domain: str, groups: Sequence[RolloutGroup], step: int) -> EvalResult:
    prompt_means = [
        mean(scored)
        for group in groups
        if (scored := [r.value for r in group.rewards if r.value is not None])
    ]
    rewards = [reward for group in groups for reward in group.rewards]
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    return EvalResult(
        step=step,
        domain=domain,
        mean=mean(prompt_means),
        standard_error=standard_error(prompt_means),
        n=len(prompt_means),
        num_samples=len(rollouts),
        mean_length=mean(len(rollout.token_ids) for rollout in rollouts),
        format_ok=mean(float(reward.format_ok) for reward in rewards),
        abstained=mean(float(reward.abstained) for reward in rewards),
    )
