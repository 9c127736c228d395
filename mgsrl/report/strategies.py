"""The runs of each arm (a strategy, with whatever else was set) and what they show by seed.

Runs are compared at the same steps: held-out scores at the last evaluation that all of them have,
conflict rates and times over the steps that all of them did. So a long run is not set against a
short one. Runs of one arm and one seed are no repetitions of each other: they count as one, by
their mean.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from zlib import crc32

from mgsrl.obs.forgetting import forgetting
from mgsrl.report.load import RunData
from mgsrl.report.tables import finite_mean

MAX_NAMED = 4
"""Runs of one length that a remark names; of more it says how many."""
BySeed = dict[int, float]
"""Seed -> one number of its run (the mean of several); NaN where it has none."""


@dataclass(frozen=True)
class CommonSteps:
    """Where runs can be compared: the steps that all of them have.

    One whose evaluations are lost narrows nothing: it counts where it has what is compared.
    """

    training: int
    """The last step that all of them logged."""
    evaluated: tuple[int, ...]
    """Held-out evaluations that all have which have any."""
    lengths: tuple[tuple[str, int], ...]
    """(folder, last step) of every run."""
    unequal: bool
    early: tuple[str, ...] = ()
    """Those with none after `first`."""

    lacking: tuple[str, ...] = ()
    """Those without the last evaluation, where all are equally long."""
    without_steps: tuple[str, ...] = ()
    """Those that logged none that can be read: they narrow nothing."""

    @property
    def first(self) -> int | None:
        """None when they share none but the last."""
        alone = len(self.evaluated) == 1 and self.last is not None
        return self.evaluated[0] if self.evaluated and not alone else None

    @property
    def last(self) -> int | None:
        """None when they share none after training began."""
        return self.evaluated[-1] if self.evaluated and self.evaluated[-1] > 0 else None

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
        if self.lacking and self.last is not None:
            found.append(
                f"Held-out scores are those at step {self.last}: {some(self.lacking)} "
                f"{'has' if len(self.lacking) == 1 else 'have'} no later evaluation."
            )
        if self.without_steps:
            found.append(f"Without any training step ({some(self.without_steps)}).")
        if self.last is not None and self.first is None:
            found.append("Gains are not known: the start was not evaluated in all runs.")
        if self.last is None and self.first is not None:
            found.append(
                f"After step {self.first} no step was evaluated in all runs"
                f"{f' (not in {some(self.early)})' if self.early else ''}, so held-out scores "
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
            found.append(f"{steps} steps: {some(names)}")
        return "; ".join(found)


@dataclass
class ArmRuns:
    """All runs of one arm, seen at the steps that the compared runs have in common."""

    name: str
    common: CommonSteps
    runs: list[RunData] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    """Runs that the comparison should have and has not, by folder: why."""

    @property
    def seeds(self) -> list[int]:
        return sorted(self.by_seed(lambda run: 0.0))

    @property
    def repeated(self) -> bool:
        """Whether several runs have the same seed."""
        return len(self.seeds) < len(self.runs)

    def by_seed(self, value: Callable[[RunData], float]) -> BySeed:
        """`value` of every run; a run without a known seed counts as one of its own (below 0)."""
        found: dict[int, list[float]] = {}
        for run in self.runs:
            seed = run.setting("seed")
            if type(seed) is not int:  # of no other run, of this arm or another
                seed = -1 - crc32(str(run.run_dir).encode())
            found.setdefault(seed, []).append(value(run))
        return {seed: finite_mean(values) for seed, values in found.items()}

    def heldout(self, domain: str, step: int | None = None) -> BySeed:
        """Held-out reward at `step`, by default the last common evaluation."""
        at = self.common.last if step is None else step
        return self.by_seed(lambda run: _heldout(run, domain, at))

    def gain(self, domain: str) -> BySeed:
        """Last minus first common held-out reward."""
        return self.by_seed(lambda run: self._gain(run, domain))

    def average(self, domains: Sequence[str]) -> BySeed:
        """Mean over `domains` of the held-out reward; NaN for a run that lacks one of them."""
        return self.by_seed(
            lambda run: _whole_mean([_heldout(run, d, self.common.last) for d in domains])
        )

    def worst(self, domains: Sequence[str]) -> BySeed:
        """The smallest gain of `domains`: rewards of domains have no common scale, but what
        training did to the domain that it served least has a sign."""
        return self.by_seed(lambda run: _whole_min([self._gain(run, d) for d in domains]))

    def worst_domains(self, domains: Sequence[str]) -> dict[str, int]:
        """Domain -> in how many seeds it gained least, most first; of equal gains each counts."""
        gains = {domain: self.gain(domain) for domain in domains}
        found = Counter[str]()
        for seed in self.seeds:
            least = _whole_min([gains[domain][seed] for domain in domains])
            found.update(domain for domain in domains if gains[domain][seed] == least)
        return dict(found.most_common())

    def forgotten(self, domain: str) -> BySeed:
        """How far the last common evaluation is below the best of the common ones."""
        return self.by_seed(lambda run: self._forgotten(run, domain))

    def over_steps(self, metric: str, begin: int = 1) -> BySeed:
        """Mean of a logged metric over the common steps from `begin` on."""

        def mean(run: RunData) -> float:
            pairs = list(zip(run.steps, run.series(metric), strict=True))[begin - 1 :]
            return finite_mean(v for step, v in pairs if step <= self.common.training)

        return self.by_seed(mean)

    def _gain(self, run: RunData, domain: str) -> float:
        before = _heldout(run, domain, self.common.first)
        return _heldout(run, domain, self.common.last) - before

    def _forgotten(self, run: RunData, domain: str) -> float:
        shared = [r for r in run.evaluations if r.step in self.common.evaluated]
        history = forgetting(shared, domain)
        if not history or self.common.last is None or history[-1].now.step != self.common.last:
            return math.nan
        return history[-1].drop


def by_arm(runs: Sequence[tuple[str, RunData]]) -> list[ArmRuns]:
    """(arm, run) grouped, in the order of first appearance."""
    common = common_steps([run for _, run in runs])
    groups: dict[str, ArmRuns] = {}
    for name, run in runs:
        groups.setdefault(name, ArmRuns(name, common)).runs.append(run)
    return list(groups.values())


def common_steps(runs: Sequence[RunData]) -> CommonSteps:
    """The steps at which `runs` are compared."""
    logged = [run for run in runs if run.steps]
    lasts = [max(run.steps) for run in logged]
    scored = {run.name: {r.step for r in run.evaluations} for run in runs}
    evaluated = [steps for steps in scored.values() if steps]
    shared = sorted(set.intersection(*evaluated)) if evaluated else []
    unequal = len(set(lasts)) > 1
    latest = max((max(steps) for steps in evaluated), default=0)
    late = {name: latest in steps for name, steps in scored.items() if steps}
    return CommonSteps(
        training=min(lasts, default=0),
        evaluated=tuple(shared),
        lengths=tuple((run.name, max(run.steps)) for run in logged),
        unequal=unequal,
        early=tuple(name for name, steps in scored.items() if steps and max(steps) in shared[:1]),
        lacking=() if unequal else tuple(name for name, there in late.items() if not there),
        without_steps=tuple(run.name for run in runs if logged and not run.steps),
    )


def some(names: Sequence[str]) -> str:
    """Names as a remark has them."""
    return ", ".join(names) if len(names) <= MAX_NAMED else f"{len(names)} runs"


def _heldout(run: RunData, domain: str, step: int | None) -> float:
    found = [r.mean for r in run.evaluations_of(domain) if r.step == step]
    return found[0] if found else math.nan


def _whole_mean(values: Sequence[float]) -> float:
    return finite_mean(values) if values and all(map(math.isfinite, values)) else math.nan


def _whole_min(values: Sequence[float]) -> float:
    return min(values) if values and all(map(math.isfinite, values)) else math.nan
