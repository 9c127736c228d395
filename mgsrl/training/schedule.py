"""Which domains are trained at which step, and how many prompts of each.

Every strategy sees the same number of prompts per step: a phase that trains only some domains
gives them the others' share, so that baselines are compared on equal terms. Weights and curricula
move prompts between the domains of a phase and leave their sum alone.

The quotas of a step follow from the configuration and the step alone, so a resumed run needs no
memory of them. Under a curriculum that adapts (`adaptive.py`) they do not: then the schedule has
the configured shares, and what may become of them.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from mgsrl.config import StrategyConfig
from mgsrl.data.apportion import Apportionment, largest_remainder
from mgsrl.errors import ConfigError

Quotas = Mapping[str, int]
Curve = Callable[[int], float]
"""A factor by step."""


@dataclass(frozen=True)
class Phase:
    """Steps `start <= step < end` that train the same domains."""

    start: int
    end: int
    quotas: Quotas
    """Domain -> prompts of one step; domains that it takes none of are left out."""
    reset_optimizer: bool = False
    move_reference: bool = False


@dataclass(frozen=True)
class Schedule:
    """The phases of a run, back to back from step 0 to its end."""

    phases: tuple[Phase, ...]
    """With the quotas of their first steps."""
    by_step: tuple[Quotas, ...]
    domains: tuple[str, ...]
    """Those with a weight above 0 in some step."""
    shares: tuple[Mapping[str, float], ...] = ()
    """The configured shares by step, of any scale, for a curriculum that adapts; empty without."""
    floor: float = 1.0
    """Part of its configured share that a domain keeps under that curriculum."""

    def phase(self, step: int) -> Phase:
        """Phase and quotas of a step; the last ones also answer for steps beyond the end."""
        phase = next((phase for phase in self.phases if step < phase.end), self.phases[-1])
        return replace(phase, quotas=self.by_step[min(step, len(self.by_step) - 1)])

    def largest(self) -> dict[str, int]:
        """The most prompts that any step takes of each domain; under a curriculum that adapts, the
        most that it may take."""
        most = dict.fromkeys(self.domains, 0)
        for quotas in self.by_step if not self.shares else self._bounds():
            for name, quota in quotas.items():
                most[name] = max(most[name], quota)
        return most

    def _bounds(self) -> Iterator[Quotas]:
        """What quotas stay below whatever a curriculum says, for each of the different shares."""
        total = sum(self.by_step[0].values())
        for shares in {id(shares): shares for shares in self.shares}.values():
            whole = math.fsum(shares.values())
            highest = {d: 1.0 - self.floor * (1.0 - s / whole) for d, s in shares.items() if s}
            # A domain is owed less than one prompt, and is given less than one more than its due.
            yield {d: min(total, math.floor(total * s + 1e-6) + 2) for d, s in highest.items()}


def check_staleness(schedule: Schedule, staleness: int) -> None:
    """ConfigError when no step of the run could have its rollouts made so far ahead: they stay
    within their phase."""
    longest = max(phase.end - phase.start for phase in schedule.phases)
    if staleness >= longest:
        several = len(schedule.phases) > 1
        raise ConfigError(
            "rollout.staleness is more than the run has steps ahead"
            + (" within a phase: rollouts do not cross from one to the next." if several else "."),
            expected=f"at most {longest - 1}: the "
            + (f"longest of {len(schedule.phases)} phases" if several else "run")
            + f" has {longest} step{'s'[: longest > 1]}",
            found=f"rollout.staleness={staleness}",
            todo="lower it, or raise train.num_steps",
        )


def make_schedule(
    strategy: StrategyConfig,
    quotas: Mapping[str, float],
    num_steps: int,
    *,
    total: int | None = None,
    curves: Mapping[str, Curve] | None = None,
    floor: float | None = None,
) -> Schedule:
    """Lay out the phases.

    Args:
        quotas: each domain's share when all are trained together: its prompts per step, or any
            other weight together with `total`.
        total: prompts per step; the default is the sum of `quotas`.
        curves: what a domain's share is multiplied by; 1 for domains not named.
        floor: part of its share that a domain keeps under a curriculum that adapts; None without.

    Raises:
        ConfigError: a phase would get no step, or a step no domain.
    """
    total = round(sum(quotas.values())) if total is None else total
    phases: list[Phase] = []
    by_step: list[Quotas] = []
    domains: dict[str, None] = {}
    configured: list[Mapping[str, float]] = []
    known: dict[tuple[float, ...], Mapping[str, float]] = {}

    def factor(name: str, step: int) -> float:
        return curves[name](step) if curves and name in curves else 1.0

    for phase, names in _phases(strategy, quotas, num_steps):
        shares: Iterable[Mapping[str, float]] = (
            {name: quotas[name] * factor(name, step) for name in names}
            for step in range(phase.start, phase.end)
        )
        if floor is not None:
            shares = [known.setdefault((*each.values(), phase.start), each) for each in shares]
            configured += shares
        steps = list(_quotas(shares, total, phase.start, domains))
        phases.append(replace(phase, quotas=steps[0]))
        by_step += steps
    kept = 1.0 if floor is None else floor
    return Schedule(tuple(phases), tuple(by_step), tuple(domains), tuple(configured), kept)


def curve(weight: float, points: Iterable[Iterable[float]], kind: str) -> Curve:
    """A domain's weight by step: `weight` times the curriculum through `points` (step, factor).

    Args:
        kind: `steps` keeps each factor until the next point, `linear` interpolates. Before the
            first point and after the last one their own factors hold.
    """
    pairs = [(step, factor) for step, factor in points]
    at = [step for step, _ in pairs]

    def value(step: int) -> float:
        if not pairs:
            return weight
        index = bisect_right(at, step)
        (left, low), (right, high) = pairs[max(index - 1, 0)], pairs[min(index, len(pairs) - 1)]
        if kind == "steps" or not left <= step < right:
            return weight * low
        return weight * (low + (high - low) * (step - left) / (right - left))

    return value


def _phases(
    strategy: StrategyConfig, quotas: Mapping[str, float], num_steps: int
) -> Iterator[tuple[Phase, list[str]]]:
    """The phases, still without quotas, and their domains."""
    if strategy.phases:
        plans = [
            (phase.domains, phase.steps, phase.reset_optimizer, phase.move_reference)
            for phase in strategy.phases
        ]
    else:
        plans = [
            (names, 0, strategy.reset_optimizer, strategy.move_reference)
            for names in strategy.together(quotas)
        ]
    left = num_steps - sum(plan[1] for plan in plans)
    open_phases = [index for index, plan in enumerate(plans) if plan[1] == 0]
    lengths = largest_remainder(left, dict.fromkeys(open_phases, 1.0)) if open_phases else {}
    start = 0
    for index, (names, steps, reset, move) in enumerate(plans):
        end = start + (steps or lengths[index])
        if end == start:
            raise ConfigError(
                f"The phase of {', '.join(names)} would get no step.",
                expected=f"at least {len(plans)} steps for {len(plans)} phases",
                found=f"train.num_steps={num_steps}",
                todo="raise train.num_steps",
            )
        yield Phase(start, end, {}, reset, move), names
        start = end


def _quotas(
    shares: Iterable[Mapping[str, float]], total: int, start: int, domains: dict[str, None]
) -> Iterator[Quotas]:
    """The quotas of a phase's steps; `domains` collects who has a share at all."""
    batches = Apportionment[str]()
    known: dict[tuple[tuple[str, int], ...], Quotas] = {}
    for step, weights in enumerate(shares, start=start):
        if not any(weights.values()):
            raise ConfigError(
                f"Step {step} would train on no domain.",
                expected=f"a weight above 0 for one of {', '.join(weights)}",
                found="0 for all of them",
                todo="change domains.NAME.weight or domains.NAME.schedule",
            )
        domains.update((name, None) for name, weight in weights.items() if weight)
        split = batches.split(total, weights)
        quotas = {name: count for name, count in split.items() if count}
        # Long runs repeat a few quotas: they share one object.
        yield known.setdefault(tuple(quotas.items()), quotas)
