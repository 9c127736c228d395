"""What a comparison found, as records for its page and as `comparison.json`.

Every number is over seeds: a mean with its 95 % interval. Left out: anything pooled over arms.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mgsrl.obs.evaluation_log import EvalResult
from mgsrl.obs.run_record import session_seconds, was_killed
from mgsrl.report.comparable import Differing
from mgsrl.report.curves import smooth
from mgsrl.report.evaluation_matrix import Matrix, evaluation_matrix, spread
from mgsrl.report.load import RunData, rounded
from mgsrl.report.strategies import ArmRuns, CommonSteps
from mgsrl.report.tables import WARM_UP_STEPS, finite_mean
from mgsrl.report.verdicts import Contrast
from mgsrl.statistics.seeds import Estimate, estimate

FORMAT = 1
HOUR = 3600.0
RATES = ("surgery/conflict_rate", "surgery/reliable_conflict_rate")
HARM = "surgery/probe/harm"
BY_DOMAIN = ("reward", "surgery/reliability", "surgery/projected_share")
MOST_POINTS = 100
"""Of a curve in `comparison.json`: what is left out lies between, and was smoothed."""
Curve = dict[int, Estimate]
"""Step -> estimate over seeds."""


@dataclass(frozen=True)
class Cost:
    """Of one run, as means over seeds."""

    seconds: Estimate
    """Of all sessions, start-up and evaluations included; of runs none of which was killed."""
    step_seconds: Estimate
    """Of a training step, the first one left out."""
    tokens: Estimate
    """Response tokens that were trained on."""
    gpu_hours: Estimate
    """GPUs that the run occupied, times its seconds."""
    surgery_share: Estimate
    """Of the time of training steps, what surgery took."""


@dataclass
class ArmSummary:
    """One arm's numbers."""

    arm: ArmRuns
    domains: list[str]
    """Of the whole comparison."""
    contrasts: dict[str, Contrast] = field(default_factory=dict)
    """Endpoint -> against the baseline; empty for the baseline itself."""
    sentence: str = ""

    @property
    def name(self) -> str:
        return self.arm.name

    @cached_property
    def after(self) -> dict[str, Estimate]:
        return {d: _over(self.arm.heldout(d)) for d in self.domains}

    @cached_property
    def gain(self) -> dict[str, Estimate]:
        return {d: _over(self.arm.gain(d)) for d in self.domains}

    @cached_property
    def forgotten(self) -> dict[str, Estimate]:
        return {d: _over(self.arm.forgotten(d)) for d in self.domains}

    @cached_property
    def average(self) -> Estimate:
        return _over(self.arm.average(self.domains))

    @cached_property
    def worst(self) -> Estimate:
        return _over(self.arm.worst(self.domains))

    @cached_property
    def worst_domains(self) -> dict[str, int]:
        """Which gained least: domain -> in how many seeds."""
        return self.arm.worst_domains(self.domains)

    @cached_property
    def conflict_rate(self) -> Estimate:
        return _over(self.arm.over_steps("surgery/conflict_rate"))

    @cached_property
    def reliable_conflict_rate(self) -> Estimate:
        return _over(self.arm.over_steps("surgery/reliable_conflict_rate"))

    @cached_property
    def reliability(self) -> dict[str, Estimate]:
        return self._family("surgery/reliability")

    @cached_property
    def projected(self) -> dict[str, Estimate]:
        return self._family("surgery/projected_share")

    @cached_property
    def cost(self) -> Cost:
        by_seed = self.arm.by_seed
        return Cost(
            _over(by_seed(_seconds)),
            _over(self.arm.over_steps("time/total", WARM_UP_STEPS + 1)),
            _over(by_seed(_tokens)),
            _over(by_seed(_gpu_hours)),
            _over(by_seed(_surgery_share)),
        )

    def heldout_curve(self, domain: str) -> Curve:
        """At every evaluation of any of its runs."""
        steps = sorted({r.step for run in self.arm.runs for r in run.evaluations_of(domain)})
        return {step: _over(self.arm.heldout(domain, step)) for step in steps}

    def curve(self, metric: str) -> Curve:
        """A logged metric, smoothed per run, at the steps at which all of its runs have it."""
        smoothed: dict[Path, dict[int, float]] = {}
        for run in self.arm.runs:
            pairs = zip(run.steps, run.series(metric), strict=True)
            known = {step: value for step, value in pairs if math.isfinite(value)}
            means = smooth(list(known), list(known.values()))
            smoothed[run.run_dir] = dict(zip(known, means, strict=True))
        # where a shorter run drops out the mean would jump: it ends there
        shared = set.intersection(*map(set, smoothed.values())) if smoothed else set()
        return {
            step: _over(self.arm.by_seed(lambda run, step=step: smoothed[run.run_dir][step]))  # type: ignore[misc]
            for step in sorted(shared)
        }

    @property
    def curves(self) -> dict[str, Curve]:
        """By metric, of all that the page draws over steps (but held-out rewards)."""
        names = [*RATES, HARM, *(f"{family}/{d}" for family in BY_DOMAIN for d in self.domains)]
        drawn = {name: self.curve(name) for name in names}
        return {name: curve for name, curve in drawn.items() if curve}

    @cached_property
    def matrix(self) -> Matrix:
        """Held-out reward, domain x time, of an arm with runs."""
        trained: dict[int, set[str]] = {}
        for run in self.arm.runs:
            for row in run.metrics:
                here = {d for d in self.domains if f"reward/{d}" in row}
                trained.setdefault(row["step"], set()).update(here)
        threshold = math.inf  # an alarm is one run's; these are means
        return evaluation_matrix(self.matrix_results(), self.domains, threshold, trained)

    def matrix_results(self) -> list[EvalResult]:
        """Means over seeds at the common evaluations, the error being over seeds."""
        found = []
        for domain in self.domains:
            for step in self.arm.common.evaluated:
                e = _over(self.arm.heldout(domain, step))
                error = e.sd / math.sqrt(e.n) if e.n > 1 else math.nan
                rest = (e.n, e.n, math.nan, math.nan, math.nan)
                found.append(EvalResult(step, domain, e.mean, error, *rest))
        return found

    def _family(self, prefix: str) -> dict[str, Estimate]:
        return {d: _over(self.arm.over_steps(f"{prefix}/{d}")) for d in self.domains}


@dataclass
class Comparison:
    """All of it."""

    baseline: str
    domains: list[str]
    common: CommonSteps
    arms: list[ArmSummary]
    allowed: list[Differing]
    """Settings in which runs differ that no strategy is made of, but that were allowed."""
    declared: list[Differing]
    """Settings that are an axis of the comparison."""
    remarks: list[str]

    @property
    def runs(self) -> list[tuple[str, RunData]]:
        return [(each.name, run) for each in self.arms for run in each.arm.runs]

    @property
    def matrices(self) -> dict[str, Matrix]:
        """Arm -> held-out reward, domain x time; nothing without a second common evaluation."""
        several = len(self.common.evaluated) > 1
        return {each.name: each.matrix for each in self.arms if several and each.arm.runs}

    def as_json(self) -> dict[str, Any]:
        """What `comparison.json` holds; NaN stands for what is not known (null in the file)."""
        return {
            "format": FORMAT,
            "baseline": self.baseline,
            "domains": self.domains,
            "steps": {"compared": self.common.last, "training": self.common.training},
            "evaluated": list(self.common.evaluated),
            "remarks": self.remarks,
            "allowed": [asdict(each) for each in self.allowed],
            "axes": [asdict(each) for each in self.declared],
            "arms": {each.name: _arm_json(each) for each in self.arms},
        }


def _arm_json(each: ArmSummary) -> dict[str, Any]:
    arm = each.arm
    return {
        "sentence": each.sentence,
        "seeds": arm.seeds,
        "absent": arm.absent,
        "runs": {str(run.run_dir): _run_json(run) for run in arm.runs},
        "domains": {
            d: {
                "after": _numbers(each.after[d]),
                "gain": _numbers(each.gain[d]),
                "forgetting": _numbers(each.forgotten[d]),
                "by_seed": arm.heldout(d),
                "reliability": _numbers(each.reliability[d]),
                "projected_share": _numbers(each.projected[d]),
                "over_time": {step: _numbers(e) for step, e in each.heldout_curve(d).items()},
            }
            for d in each.domains
        },
        "average": {**_numbers(each.average), "by_seed": arm.average(each.domains)},
        "worst_gain": {
            **_numbers(each.worst),
            "by_seed": arm.worst(each.domains),
            "domains": each.worst_domains,
        },
        "conflict_rate": _numbers(each.conflict_rate),
        "reliable_conflict_rate": _numbers(each.reliable_conflict_rate),
        "cost": {name: _numbers(getattr(each.cost, name)) for name in Cost.__dataclass_fields__},
        "against_baseline": {key: _contrast_json(c) for key, c in each.contrasts.items()},
        "curves": {name: _curve_json(curve) for name, curve in each.curves.items()},
    }


def _curve_json(curve: Curve) -> dict[str, Any]:
    """In columns; all of its points are over the same seeds."""
    steps = spread(list(curve), MOST_POINTS)
    points = [curve[step] for step in steps]
    ends = {name: [getattr(e, name) for e in points] for name in ("mean", "low", "high")}
    return {"n": points[0].n, "steps": steps, **rounded(ends)}


def _run_json(run: RunData) -> dict[str, Any]:
    sessions = run.record.get("sessions") or [{}]
    status = run.record.get("status", "unknown")
    return {
        "seed": run.setting("seed"),
        "status": status,
        "steps": len(run.metrics),
        "command": sessions[0].get("command", []),
    }


def _contrast_json(contrast: Contrast) -> dict[str, Any]:
    found = contrast.difference
    return {
        **_numbers(found),
        "p": found.p,
        "p_sign_flip": found.p_flip,
        "p_corrected": contrast.corrected_p,
        "tests": contrast.tests,
        "detectable": contrast.detectable,
        "seeds_needed": contrast.seeds_needed,
    }


def _numbers(e: Estimate) -> dict[str, float]:
    return {"n": e.n, "mean": e.mean, "low": e.low, "high": e.high, "sd": e.sd}


def _over(by_seed: Mapping[int, float]) -> Estimate:
    return estimate(list(by_seed.values()))


def _seconds(run: RunData) -> float:
    """Of all sessions; NaN where one of them was killed, for nobody knows how long it took."""
    return math.nan if was_killed(run.record) else session_seconds(run.record) or math.nan


def _gpu_hours(run: RunData) -> float:
    """0 without GPUs, however long it took."""
    gpus = _gpus(run)
    return gpus * _seconds(run) / HOUR if gpus else 0.0


def _tokens(run: RunData) -> float:
    rates, seconds = run.series("throughput/tokens_per_second"), run.series("time/total")
    return _sum([rate * s for rate, s in zip(rates, seconds, strict=True)])


def _surgery_share(run: RunData) -> float:
    total = finite_mean(run.series("time/total")[WARM_UP_STEPS:])
    return finite_mean(run.series("time/surgery")[WARM_UP_STEPS:]) / total if total else math.nan


def _gpus(run: RunData) -> float:
    """GPUs that a run's learners, engines and reward models took; NaN where its record does not
    say. (That of an older version says it of learners and engines alone.)"""
    placement, engines = run.record.get("placement") or {}, run.record.get("engines") or {}
    if type(placement.get("gpus")) in (int, float):
        return float(placement["gpus"])
    ranks, workers = placement.get("learner_ranks"), placement.get("rollout_workers") or []
    rewards = [value for key, value in run.settings.items() if key.endswith(".reward.num_gpus")]
    known = isinstance(workers, list) and all(isinstance(each, dict) for each in workers)
    if type(ranks) is not int or not known or any(rewards):
        return math.nan
    learners = ranks if "cuda" in str(engines.get("learner")) else 0
    width = run.setting("rollout.tensor_parallel_size", 1)
    rollouts = width * sum(str(w.get("device", "cpu")) != "cpu" for w in workers)
    colocated = placement.get("placement") == "colocated"
    return float(max(learners, rollouts) if colocated else learners + rollouts)


def _sum(values: Sequence[float]) -> float:
    finite = [v for v in values if math.isfinite(v)]
    return sum(finite) if finite else math.nan
