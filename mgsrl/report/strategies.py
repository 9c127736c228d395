"""Runs of one strategy and what they show over their seeds, for tables and figures alike.

Runs are compared at the same steps: held-out scores at the last evaluation that all of them have,
conflict rates and times over the steps that all of them did. So a long run is not set against a
short one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from mgsrl.obs.metrics import standard_error
from mgsrl.report.load import RunData
from mgsrl.report.tables import finite_mean

MAX_NAMED = 4
"""Runs of one length that a remark names; of more it says how many."""


@dataclass
class Summary:
    """Mean over seeds of one number, with its standard error (NaN with one seed)."""

    values: list[float]

    @property
    def n(self) -> int:
        """How many seeds have the number at all."""
        return sum(map(math.isfinite, self.values))

    @property
    def mean(self) -> float:
        return finite_mean(self.values)

    @property
    def standard_error(self) -> float:
        return standard_error([v for v in self.values if math.isfinite(v)])


@dataclass(frozen=True)
class CommonSteps:
    """Where runs can be compared: the steps that all those have that came to their end.

    A killed run narrows nothing (its last evaluation may be that of step 0); it counts where it
    has what is compared.
    """

    training: int
    """The last step that all of them logged."""
    first: int | None
    """The first held-out evaluation that all have; None without one."""
    last: int | None
    """The last one; None when they share none after `first`."""
    lengths: tuple[tuple[str, int], ...]
    """(folder, last step) of every run."""
    unequal: bool

    @property
    def remarks(self) -> list[str]:
        """What a reader should know before comparing; empty when all runs go equally far."""
        found = []
        if self.unequal:
            found.append(
                f"The runs are of different lengths ({self._groups()}). Conflict rates and times "
                f"are those of the steps up to {self.training}, which all of them have; curves "
                "show everything."
            )
        if self.unequal and self.last is not None:
            found.append(
                f"Held-out scores are those at step {self.last}, the last evaluation that all of "
                "them have, not those at each run's end."
            )
        if self.last is None and self.first is not None:
            found.append(
                f"After step {self.first} no step was evaluated in all runs, so held-out scores "
                "are not compared: leave the shorter runs out, train all of them equally far, or "
                "choose an evaluate.every that meets."
            )
        return found

    def _groups(self) -> str:
        by_length: dict[int, list[str]] = {}
        for name, steps in self.lengths:
            by_length.setdefault(steps, []).append(name)
        found = []
        for steps, names in sorted(by_length.items(), reverse=True):
            few = len(names) <= MAX_NAMED
            found.append(f"{steps} steps: {', '.join(names) if few else f'{len(names)} runs'}")
        return "; ".join(found)


@dataclass
class StrategyRuns:
    """All runs of one strategy, seen at the steps that the compared runs have in common."""

    name: str
    common: CommonSteps
    runs: list[RunData] = field(default_factory=list)

    @property
    def seeds(self) -> set[str]:
        """The different ones: a run without a known seed counts as one of its own."""
        return {str(run.setting("seed", run.run_dir)) for run in self.runs}

    def after(self, domain: str) -> Summary:
        """Held-out reward at the last common evaluation."""
        return Summary([_heldout(run, domain, self.common.last) for run in self.runs])

    def gain(self, domain: str) -> Summary:
        """Last minus first common held-out reward."""
        return Summary([self._gain(run, domain) for run in self.runs])

    def average_gain(self, domains: Sequence[str]) -> Summary:
        """Per run the mean gain over `domains`; NaN for a run that lacks one of them."""
        found = []
        for run in self.runs:
            gains = [self._gain(run, domain) for domain in domains]
            whole = bool(gains) and all(map(math.isfinite, gains))
            found.append(finite_mean(gains) if whole else math.nan)
        return Summary(found)

    def conflict_rate(self) -> Summary:
        return self._over_steps("surgery/conflict_rate", 1)

    def step_seconds(self) -> Summary:
        """The first step of a run warms up and is left out."""
        return self._over_steps("time/total", 2)

    def _gain(self, run: RunData, domain: str) -> float:
        before = _heldout(run, domain, self.common.first)
        return _heldout(run, domain, self.common.last) - before

    def _over_steps(self, metric: str, begin: int) -> Summary:
        means = []
        for run in self.runs:
            pairs = list(zip(run.steps, run.series(metric)))[begin - 1 :]
            means.append(finite_mean(v for step, v in pairs if step <= self.common.training))
        return Summary(means)


def by_strategy(runs: Sequence[RunData]) -> list[StrategyRuns]:
    """Runs grouped by `strategy.name` (the folder's name where the configuration is missing)."""
    common = common_steps(runs)
    groups: dict[str, StrategyRuns] = {}
    for run in runs:
        name = str(run.setting("strategy.name", run.run_dir.name))
        groups.setdefault(name, StrategyRuns(name, common)).runs.append(run)
    return list(groups.values())


def common_steps(runs: Sequence[RunData]) -> CommonSteps:
    """The steps at which `runs` are compared; at least one run."""
    ended = [run for run in runs if run.record.get("status", "finished") == "finished"]
    lasts = [max(run.steps, default=0) for run in ended or runs]
    evaluated = [{r.step for r in run.evaluations} for run in ended or runs]
    shared = sorted(set.intersection(*evaluated))
    return CommonSteps(
        training=min(lasts),
        first=shared[0] if shared else None,
        last=shared[-1] if len(shared) > 1 else None,
        lengths=tuple((run.run_dir.name, max(run.steps, default=0)) for run in runs),
        unequal=len(set(lasts)) > 1,
    )


def _heldout(run: RunData, domain: str, step: int | None) -> float:
    found = [r.mean for r in run.evaluations_of(domain) if r.step == step]
    return found[0] if found else math.nan
