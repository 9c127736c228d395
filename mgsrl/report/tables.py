"""The report's tables as plain records; no HTML here."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from mgsrl.obs.evaluation_log import EvalResult
from mgsrl.obs.run_record import session_seconds
from mgsrl.obs.timers import RARE_STAGES, STAGES
from mgsrl.report.load import RunData

WARM_UP_STEPS = 1
"""Left out of mean times: the first step compiles and warms caches."""


@dataclass(frozen=True)
class Change:
    """One domain's held-out score before and after."""

    domain: str
    before: EvalResult | None
    after: EvalResult | None

    @property
    def difference(self) -> float:
        return self.after.mean - self.before.mean if self.before and self.after else math.nan

    @property
    def standard_error(self) -> float:
        """Of the difference, taking the two scores as independent.

        They share their prompts, so this is on the large side: the verdict errs towards "noise".
        """
        if not (self.before and self.after):
            return math.nan
        return math.hypot(self.before.standard_error, self.after.standard_error)

    @property
    def verdict(self) -> str:
        if not math.isfinite(self.difference):
            return "unknown"
        if self.difference == 0:
            return "no change"
        if not math.isfinite(self.standard_error):
            return "no s.e."
        if abs(self.difference) <= self.standard_error:
            return "within 1 s.e."
        ratio = abs(self.difference) / self.standard_error if self.standard_error else math.inf
        size = f"{ratio:.1f} s.e." if math.isfinite(ratio) else "no error"
        return f"{'rise' if self.difference > 0 else 'fall'}, {size}"


def changes(run: RunData) -> list[Change]:
    """First against last evaluation of every domain."""
    found = []
    for domain in run.domains:
        results = run.evaluations_of(domain)
        after = results[-1] if len(results) > 1 else None
        found.append(Change(domain, results[0] if results else None, after))
    return [c for c in found if c.before is not None]


def stage_rows(run: RunData) -> list[tuple[str, float, float]]:
    """(stage, mean seconds a step, share of the step), the warm-up step left out; sums last."""
    rows = []
    total = finite_mean(_timed(run, "total"))
    for stage in (*STAGES, *RARE_STAGES, "other", "total"):
        seconds = finite_mean(_timed(run, stage))
        if math.isfinite(seconds) and total > 0:
            rows.append((stage, seconds, seconds / total))
    return rows


def facts(run: RunData) -> list[tuple[str, str]]:
    """What was run, as (label, text); unknown things are left out."""
    record, setting = run.record, run.setting
    surgery = " · ".join(
        str(setting(f"surgery.{key}"))
        for key in ("method", "granularity", "order")
        if setting(f"surgery.{key}") is not None
    )
    prompts, samples = setting("algo.prompts_per_domain"), setting("algo.samples_per_prompt")
    batch = f"{prompts} prompts × {samples} samples per domain" if prompts and samples else ""
    hardware, git = record.get("hardware", {}), record.get("git", {})
    items = [
        ("model", setting("policy.path")),
        ("strategy", setting("strategy.name")),
        ("surgery", surgery),
        ("domains", ", ".join(run.domains)),
        ("seed", setting("seed")),
        ("steps", f"{len(run.metrics)} of {setting('train.num_steps', '?')}"),
        ("batch", batch),
        ("best checkpoint", run.best),
        ("learning rate", setting("learner.optimizer.lr")),
        ("started", str(record.get("started", "")).replace("T", " ").replace("+00:00", " UTC")),
        ("duration", _duration(run)),
        ("hardware", _hardware(hardware)),
        ("engines", _pairs(record.get("engines", {}))),
        ("placement", _pairs(record.get("placement", {}))),
        ("versions", _pairs(record.get("versions", {}), " ")),
        (
            "code",
            git.get("commit", "")[:12] + (" (with local changes)" if git.get("dirty") else ""),
        ),
    ]
    return [(label, str(text)) for label, text in items if text not in (None, "")]


def finite_mean(values: Iterable[float]) -> float:
    """Of the finite values; NaN of none."""
    finite = [v for v in values if math.isfinite(v)]
    return sum(finite) / len(finite) if finite else math.nan


def seconds_text(seconds: float) -> str:
    """`4 min 20 s`, `1 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes} min {rest:02d} s"
        if minutes < 60
        else f"{minutes // 60} h {minutes % 60:02d} min"
    )


def _timed(run: RunData, stage: str) -> list[float]:
    values = run.series(f"time/{stage}")
    return values[WARM_UP_STEPS:] if len(values) > WARM_UP_STEPS else values


def _duration(run: RunData) -> str:
    total, sessions = session_seconds(run.record), run.record.get("sessions", [])
    training = sum(v for v in run.series("time/total") if math.isfinite(v))
    parts = [seconds_text(total) + " in all (start-up included)"] if total > 0 else []
    if training > 0:
        parts.append(f"{seconds_text(training)} in training steps")
    if len(sessions) > 1:
        parts.append(f"{len(sessions)} sessions (resumed)")
    return ", ".join(parts)


def _hardware(hardware: dict[str, object]) -> str:
    if not hardware:
        return ""
    gpus = hardware.get("gpus") or []
    accelerators = ", ".join(map(str, gpus)) if isinstance(gpus, list) and gpus else "no GPU"
    return (
        f"{hardware.get('cores', '?')} cores ({hardware.get('cpu', 'unknown CPU')}), "
        f"{hardware.get('memory_gib', '?')} GiB, {accelerators}"
    )


def _pairs(values: dict[str, object], separator: str = ": ") -> str:
    return ", ".join(f"{key}{separator}{_plain(value)}" for key, value in values.items())


def _plain(value: object) -> str:
    """Nested values as text; of a list of records (one per worker) the first and the number."""
    if isinstance(value, dict):
        return f"({_pairs(value, ' ')})"
    if isinstance(value, list):
        return f"{len(value)} × {_plain(value[0])}" if value else "none"
    return str(value)
