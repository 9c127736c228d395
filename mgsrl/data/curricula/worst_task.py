"""`worst_task`: to the domains whose rewards are low and do not rise (MT-GRPO, arXiv 2602.05547).

Subroutine 1 of the paper, improvement-aware weight update: with the mean rewards J_k of the tasks
and their improvements I_k, logits xi and weights z = softmax(xi),

    s_k = I_k + reward_weight * J_k
    g_k = z_k (s_k - sum_j z_j s_j)
    xi  = xi - step_size * g

where g passes through Adam with weight decay, as in the authors' code (the paper says AdamW).
A large `reward_weight` lifts the worst task alone, a small one asks for even progress.

The authors': the update, Adam, its constants, improvements clipped to +-`clip`, rewards smoothed by
`memory`. Ours: the improvement. The paper takes the difference of the task's GRPO objective on one
batch after and before its update, which needs another forward pass in every step; here it is the
change of the smoothed reward. The weights multiply the configured shares, every domain keeps its
floor, and quotas are exact.

The paper's ratio-preserving sampler, which draws prompts until each task has its part of the groups
whose rewards differ, is `algo.refill` (`training/refill.py`). Left out: scales of rewards. Those of
different domains are compared as they are (`domains.NAME.reward.standardise` would make all 0).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mgsrl.config.require import at_least, more_than, within
from mgsrl.data.curricula.protocol import Curriculum, Signals
from mgsrl.data.curricula.softmax import softmax

BETAS = (0.9, 0.999)
EPS = 1e-8


@dataclass
class WorstTaskConfig:
    reward_weight: float = 0.2
    """lambda: weight of a domain's mean reward beside its improvement."""
    step_size: float = 0.025
    """Of the logits' update, about what a logit moves in a step."""
    decay: float = 1e-5
    """L2 weight decay of the logits, towards the configured shares."""
    memory: float = 0.5
    """Of the running mean of rewards: the weight of what was before the newest step."""
    clip: float = 0.2
    """Largest improvement, and largest loss, that counts."""

    def validate(self, key: str) -> None:
        at_least(f"{key}.reward_weight", self.reward_weight, 0.0)
        more_than(f"{key}.step_size", self.step_size, 0.0)
        at_least(f"{key}.decay", self.decay, 0.0)
        within(f"{key}.memory", self.memory, 0.0, 0.999)
        more_than(f"{key}.clip", self.clip, 0.0)


@dataclass
class _Task:
    """One domain's logit and what its update needs."""

    reward: float = 0.0
    """Running mean, from the first observation on."""
    known: bool = False
    logit: float = 0.0
    moments: list[float] = field(default_factory=lambda: [0.0, 0.0])
    """Adam's running means of the gradient and of its square."""
    updates: int = 0


class WorstTask(Curriculum):
    Config = WorstTaskConfig

    def __init__(self, config: WorstTaskConfig, domains: Sequence[str]) -> None:
        super().__init__(config, domains)
        self._tasks = {domain: _Task() for domain in domains}

    def observe(self, signals: Mapping[str, Signals]) -> None:
        improvements = dict.fromkeys(self._tasks, 0.0)
        for domain, seen in signals.items():
            task, before = self._tasks[domain], self._tasks[domain].reward
            if not math.isfinite(seen.reward):
                continue
            memory = self.config.memory if task.known else 0.0
            task.reward = memory * before + (1.0 - memory) * seen.reward
            if task.known:
                improvements[domain] = task.reward - before
            task.known = True
        known = {domain: task.reward for domain, task in self._tasks.items() if task.known}
        if known:
            self.update(known, improvements)

    def update(self, rewards: Mapping[str, float], improvements: Mapping[str, float]) -> None:
        """One step of the logits of the domains in `rewards`."""
        clip = self.config.clip
        share = softmax({domain: self._tasks[domain].logit for domain in rewards})
        signal = {
            domain: max(-clip, min(clip, improvements[domain])) + self.config.reward_weight * reward
            for domain, reward in rewards.items()
        }
        mean = math.fsum(share[domain] * signal[domain] for domain in rewards)
        for domain in rewards:
            self._step(self._tasks[domain], share[domain] * (signal[domain] - mean))

    def _step(self, task: _Task, gradient: float) -> None:
        gradient += self.config.decay * task.logit
        task.updates += 1
        first, second = (
            beta * moment + (1.0 - beta) * value
            for beta, moment, value in zip(
                BETAS, task.moments, (gradient, gradient**2), strict=True
            )
        )
        task.moments = [first, second]
        scale = math.sqrt(second / (1.0 - BETAS[1] ** task.updates)) + EPS
        task.logit -= self.config.step_size * first / (1.0 - BETAS[0] ** task.updates) / scale

    def weights(self) -> dict[str, float]:
        return softmax({domain: task.logit for domain, task in self._tasks.items()})

    def state(self) -> dict[str, Any]:
        return {
            domain: {
                "reward": task.reward,
                "known": task.known,
                "logit": task.logit,
                "moments": list(task.moments),
                "updates": task.updates,
            }
            for domain, task in self._tasks.items()
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        for domain in self.domains:
            if domain in state:
                self._tasks[domain] = _Task(**state[domain])
