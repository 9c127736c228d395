"""Which domains are trained at which step, and how many prompts of each.

Every strategy sees the same number of prompts per step: a phase that trains only some domains
gives them the others' share, so that baselines are compared on equal terms.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from mgsrl.config import StrategyConfig
from mgsrl.errors import ConfigError, explain

K = TypeVar("K")


@dataclass(frozen=True)
class Phase:
    """Steps `start <= step < end` that train `quotas` (domain -> prompts per step)."""

    start: int
    end: int
    quotas: Mapping[str, int]
    reset_optimizer: bool = False
    move_reference: bool = False


@dataclass(frozen=True)
class Schedule:
    """The phases of a run, back to back from step 0 to its end."""

    phases: tuple[Phase, ...]

    def phase(self, step: int) -> Phase:
        """The phase of a step; the last one also answers for steps beyond the end."""
        return next((phase for phase in self.phases if step < phase.end), self.phases[-1])


def make_schedule(strategy: StrategyConfig, quotas: Mapping[str, int], num_steps: int) -> Schedule:
    """Lay out the phases.

    Args:
        quotas: prompts per step of every domain when all are trained together.

    Raises:
        ConfigError: a phase would get no step.
    """
    total = sum(quotas.values())
    domains = strategy.domain_order or list(quotas)
    if strategy.phases:
        plans = [
            (phase.domains, phase.steps, phase.reset_optimizer, phase.move_reference)
            for phase in strategy.phases
        ]
    else:
        groups = [[domain] for domain in domains] if strategy.sequential else [domains]
        plans = [(group, 0, strategy.reset_optimizer, strategy.move_reference) for group in groups]
    open_phases = sum(1 for plan in plans if plan[1] == 0)
    shares = _shares(
        num_steps - sum(plan[1] for plan in plans), dict.fromkeys(range(open_phases), 1)
    )
    lengths = iter(shares.values())
    phases, start = [], 0
    for names, steps, reset, move in plans:
        end = start + (steps or next(lengths))
        if end == start:
            raise ConfigError(
                explain(
                    f"The phase of {', '.join(names)} would get no step.",
                    expected=f"at least {len(plans)} steps for {len(plans)} phases",
                    found=f"train.num_steps={num_steps}",
                    todo="raise train.num_steps",
                )
            )
        phase_quotas = _shares(total, {name: quotas[name] for name in names})
        phases.append(Phase(start, end, phase_quotas, reset, move))
        start = end
    return Schedule(tuple(phases))


def _shares(total: int, weights: Mapping[K, int]) -> dict[K, int]:
    """Split `total` in proportion to `weights` by largest remainder; exact and stable."""
    whole = sum(weights.values())
    exact = {key: total * weight / whole for key, weight in weights.items()}
    floors = {key: int(value) for key, value in exact.items()}
    by_remainder: Sequence[K] = sorted(weights, key=lambda key: floors[key] - exact[key])
    for key in by_remainder[: total - sum(floors.values())]:
        floors[key] += 1
    return floors
