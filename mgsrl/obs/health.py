"""Says when a run, or one of its domains, cannot learn, and why: once for each cause.

A step teaches nothing when no group's rewards differ, when it was skipped, or when its gradient or
learning rate is exactly 0. One such step is chance (few prompts, a warm-up); `PATIENCE` of them in
a row are not, and `DOMAIN_PATIENCE` for one domain among others. Everything is computed from the
scalars that are logged anyway, so a resumed run remembers and the report says the same.
Left out: stopping the run, and trends (a falling reward is not a run that cannot learn).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PATIENCE = 3
"""Steps in a row."""
DOMAIN_PATIENCE = 10
"""Longer: with few prompts of a hard domain some steps without a live group are to be expected."""
NEARLY_ALL = 0.99
TEACHES_NOTHING = frozenset({"skipped", "no_signal", "no_gradient", "no_learning_rate"})

ALIKE = "the rewards of a group are all equal (with best_of_group: its two best)"
"""What leaves a group without advantages; the scalars do not tell which estimator it is."""

Row = Mapping[str, float | None]
"""The scalars of a step; None or NaN stands for what is not finite."""


@dataclass
class Finding:
    """One cause and the steps in a row in which it held."""

    first: int
    last: int = 0
    steps: int = 0
    """Less than from `first` to `last` where a domain was not trained in between."""
    text: str = ""

    @property
    def line(self) -> str:
        span = f"steps {self.first}–{self.last}" if self.last > self.first else f"step {self.first}"
        return f"{span}: {self.text}"


@dataclass
class HealthWatch:
    """Fed with every step in order; `findings` holds what was found so far, by cause."""

    findings: dict[str, Finding] = field(default_factory=dict)
    learnt: bool = False
    """Whether any step taught anything."""
    _streaks: dict[str, Finding] = field(default_factory=dict)

    def step(self, step: int, row: Row) -> list[str]:
        """The lines to print after `step`: the causes that have now held long enough."""
        found, lines = symptoms(row), []
        self.learnt |= not TEACHES_NOTHING & found.keys()
        for key in list(self._streaks):
            domain = key.partition("/")[2]
            trained = not domain or f"live_groups/{domain}" in row
            if key not in found and trained:
                del self._streaks[key]
        for key, text in found.items():
            streak = self._streaks.setdefault(key, Finding(step))
            streak.last, streak.steps, streak.text = step, streak.steps + 1, text
            patience = DOMAIN_PATIENCE if "/" in key else PATIENCE
            if streak.steps >= patience and key not in self.findings:
                self.findings[key] = streak
                lines.append(streak.line)
        return lines

    def finish(self) -> list[str]:
        """The lines for the end: why nothing was learnt in a run too short for a streak."""
        if self.learnt or self.findings:
            return []
        self.findings = {k: v for k, v in self._streaks.items() if k in TEACHES_NOTHING}
        return [finding.line for finding in self.findings.values()]


def watched(rows: Iterable[Mapping[str, Any]]) -> HealthWatch:
    """A watch that has seen `rows` of metrics.jsonl, each with its `step`; what is no number in
    them is passed over."""
    watch = HealthWatch()
    for row in rows:
        watch.step(row["step"], {k: v for k, v in row.items() if isinstance(v, int | float)})
    return watch


def symptoms(row: Row) -> dict[str, str]:
    """What keeps this step from teaching: a key that names the cause -> what to say of it.

    Keys without a slash are of the whole run, `domain/<d>` of one domain.
    """
    found: dict[str, str] = {}
    live = _family(row, "live_groups")
    if any(key.startswith("teacher_kl/") for key in row):  # those teach without rewards
        live = {d: share for d, share in live.items() if f"teacher_kl/{d}" not in row}
    if row.get("skipped") == 1:
        found["skipped"] = (
            "every step was skipped, because there was no finite update to make: look at loss and "
            "grad_norm, lower learner.optimizer.lr, or try learner.dtype=float32"
        )
    elif live and not any(live.values()):
        found["no_signal"] = f"the run learns nothing from its rewards: {_why(row, list(live))}"
    elif row.get("grad_norm") == 0:
        found["no_gradient"] = (
            "the gradient is exactly 0 although rewards differ: is every parameter frozen, or is "
            "every token clipped (clip_fraction)?"
        )
    elif row.get("learning_rate") == 0:
        found["no_learning_rate"] = "the learning rate is 0: learner.optimizer.lr, schedule"
    elif _all_cut(row, list(live)):
        found["all_cut"] = (
            "nearly every response is cut at the token limit, so rewards judge unfinished answers: "
            "raise rollout.max_new_tokens"
        )
    if "no_signal" not in found and len(live) > 1:
        found |= {
            f"domain/{domain}": f"{domain} teaches nothing: {_why(row, [domain])}"
            for domain, share in live.items()
            if share == 0
        }
    return found


def _why(row: Row, domains: Sequence[str]) -> str:
    """Why no group of `domains` is live."""
    if all(row.get(f"abstained/{d}") == 1 for d in domains):
        return "every reward abstained (`error` in rollouts/ says why)"
    if _all_cut(row, domains):
        return (
            f"nearly every response is cut at the token limit, and {ALIKE}; raise "
            "rollout.max_new_tokens"
        )
    if all(row.get(f"format_ok/{d}") == 0 for d in domains):
        return (
            f"no response holds a complete <response> block, and {ALIKE}; see rollouts/ and "
            "policy.prompt_template"
        )
    rewards = [value for d in domains if math.isfinite(value := row.get(f"reward/{d}") or 0.0)]
    means = ", ".join(f"{reward:.3f}" for reward in rewards)
    return (
        f"{ALIKE}, mean {means}; see rollouts/: prompts that are too hard or too easy, or a reward "
        "that tells nothing apart; change them, or raise algo.samples_per_prompt or "
        "rollout.temperature"
    )


def _all_cut(row: Row, domains: Sequence[str]) -> bool:
    return bool(domains) and all((row.get(f"cut_at_limit/{d}") or 0) > NEARLY_ALL for d in domains)


def _family(row: Row, family: str) -> dict[str, float]:
    prefix = f"{family}/"
    return {
        key.removeprefix(prefix): value
        for key, value in row.items()
        if key.startswith(prefix) and value is not None and math.isfinite(value)
    }
