"""Scalars of one training step, under the names that dashboards and the report rely on.

`docs/metrics.md` lists all of them with their units. Pure functions from the records of `types.py`
to `dict[str, float]`. With many domains (or kinds of modules) whole families are folded into means,
least telling first, so that a step never logs much more than `MAX_SCALARS`; what is folded away
stays in `surgery/` and `rollouts/`.
Left out: histograms and per-module values (`surgery_log`), moving averages (the report's).
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mgsrl.files.jsonl import read_rows
from mgsrl.types import ROUNDING, DomainStats, RolloutGroup, StepStats, SurgeryReport

FILE = "metrics.jsonl"
MAX_SCALARS = 89
"""Three domains log 85: 9 spreads of rewards, 6 of the importance weights, and 70 of all else with
five kinds of modules; and 3 more where rollouts may be ahead."""

BEYOND = ("surgery/probe/", "time/probe", "mixture/share/", "importance_masked/")
"""Beyond the limit: on few steps, or of few runs, whose other metrics shall not vanish for them."""

# Families in the order in which they are folded; `reward` never is.
FOLD_ORDER = (
    "reward_max",
    "reward_min",
    "reward_std",
    "importance_ess",
    "mismatch_kl",
    "surgery/conflict_rate",
    "surgery/cosine",
    "cut_at_limit",
    "abstained",
    "staleness",
    "loss",
    "surgery/projected_share",
    "format_ok",
    "entropy",
    "mismatch",
    "grad_norm",
    "live_groups",
    "kl",
    "response_length",
)

# Families whose mean is logged anyway, under the family's own name: folding just drops them.
WITH_TOTAL = ("surgery/conflict_rate",)

Scalars = dict[str, float]


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The steps of metrics.jsonl, ascending and each once; a line that is of no step is left out.

    Raises:
        DataError: a damaged line that is not the last.
    """
    rows = {row["step"]: row for row in read_rows(run_dir / FILE) if type(row.get("step")) is int}
    return [rows[step] for step in sorted(rows)]


def mean(values: Iterable[float]) -> float:
    """Arithmetic mean; NaN of nothing."""
    items = list(values)
    return sum(items) / len(items) if items else math.nan


def standard_error(values: Sequence[float]) -> float:
    """Of the mean of independent `values`: sample standard deviation / sqrt(n); NaN if n < 2."""
    n = len(values)
    if n < 2:
        return math.nan
    centre = mean(values)
    return math.sqrt(sum((v - centre) ** 2 for v in values) / (n - 1) / n)


def rollout_metrics(groups: Mapping[str, Sequence[RolloutGroup]]) -> Scalars:
    """What the policy wrote and earned, per domain, from scored groups with advantages.

    `reward` is the mean over responses that were scored (NaN if all abstained), `reward_std`
    (n - 1), `reward_min` and `reward_max` are over the same, all prompts together.
    `response_length` is in tokens, `live_groups` the share of groups with advantages other than 0,
    `abstained`, `format_ok` and `cut_at_limit` (of tokens) are shares of responses.
    """
    scalars: Scalars = {}
    for domain, domain_groups in groups.items():
        rollouts = [r for group in domain_groups for r in group.rollouts]
        rewards = [r for group in domain_groups for r in group.rewards]
        live = [any(abs(a) > ROUNDING for a in group.advantages) for group in domain_groups]
        scored = [r.value for r in rewards if r.value is not None]
        scalars |= {
            f"reward/{domain}": mean(scored),
            f"reward_std/{domain}": standard_error(scored) * math.sqrt(len(scored)),
            f"reward_min/{domain}": min(scored, default=math.nan),
            f"reward_max/{domain}": max(scored, default=math.nan),
            f"response_length/{domain}": mean(len(r.token_ids) for r in rollouts),
            f"live_groups/{domain}": mean(map(float, live)),
            f"abstained/{domain}": mean(float(r.abstained) for r in rewards),
            f"format_ok/{domain}": mean(float(r.format_ok) for r in rewards),
            f"cut_at_limit/{domain}": mean(float(r.finish_reason == "length") for r in rollouts),
        }
    return scalars


def staleness_metrics(groups: Mapping[str, Sequence[RolloutGroup]], version: int) -> Scalars:
    """`staleness/<domain>`: mean over response tokens of `version`, of the weights that they
    trained, minus the version that sampled them; in updates."""
    scalars: Scalars = {}
    for domain, domain_groups in groups.items():
        rollouts = [r for group in domain_groups for r in group.rollouts]
        tokens = sum(len(r.token_ids) for r in rollouts)
        behind = sum((version - v) * count for r in rollouts for v, count in r.weight_versions)
        scalars[f"staleness/{domain}"] = behind / tokens if tokens else math.nan
    return scalars


def oldest_version(groups: Mapping[str, Sequence[RolloutGroup]]) -> int:
    """Of the weights that sampled any token."""
    return min(r.weight_version for gs in groups.values() for g in gs for r in g.rollouts)


def learner_metrics(stats: Mapping[str, DomainStats]) -> Scalars:
    """`loss`, `kl`, `entropy`, `mismatch` and `mismatch_kl` (nats) per domain; shares over all
    trained tokens.

    `importance_ess` and `importance_masked` are there where the weight and its mask are, and
    `teacher_kl` where a teacher is. `kl` is NaN without a reference. `clip_fraction` is the share
    of tokens that the loss's clip cut off, `importance_capped` that of tokens whose importance
    weight the cap cut; both NaN when nothing was trained on. With several updates on a batch they
    are of the last one.
    """
    scalars: Scalars = {
        "clip_fraction": _token_mean(stats, lambda s: s.clip_fraction),
        "importance_capped": _token_mean(stats, lambda s: s.truncated_fraction),
    }
    for domain, s in stats.items():
        scalars |= {
            f"loss/{domain}": s.loss,
            f"kl/{domain}": s.kl,
            f"entropy/{domain}": s.entropy,
            f"mismatch/{domain}": s.mismatch,
        }
        sometimes = {
            "mismatch_kl": s.mismatch_kl,
            "importance_ess": s.importance_ess,
            "importance_masked": s.masked_fraction,
            "teacher_kl": s.teacher_kl,
        }
        scalars |= {f"{k}/{domain}": v for k, v in sometimes.items() if not math.isnan(v)}
    return scalars


def _token_mean(stats: Mapping[str, DomainStats], field: Callable[[DomainStats], float]) -> float:
    """Mean over domains weighted by tokens, hence the mean over all tokens."""
    num_tokens = sum(s.num_tokens for s in stats.values())
    total = sum(field(s) * s.num_tokens for s in stats.values())
    return total / num_tokens if num_tokens else math.nan


def step_metrics(stats: StepStats) -> Scalars:
    """`grad_norm` (before clipping), `learning_rate` and `skipped` (1 for a skipped update)."""
    return {
        "grad_norm": stats.grad_norm,
        "learning_rate": stats.learning_rate,
        "skipped": float(stats.skipped),
    }


def throughput(groups: Mapping[str, Sequence[RolloutGroup]], step_seconds: float) -> Scalars:
    """`throughput/tokens_per_second`: response tokens made and trained on per second of step."""
    tokens = sum(len(r.token_ids) for gs in groups.values() for g in gs for r in g.rollouts)
    rate = tokens / step_seconds if step_seconds > 0 else math.nan
    return {"throughput/tokens_per_second": rate}


def step_scalars(
    *,
    groups: Mapping[str, Sequence[RolloutGroup]],
    domain_stats: Mapping[str, DomainStats],
    surgery: SurgeryReport,
    step: StepStats,
    times: Mapping[str, float],
    weight_version: int,
    canary_error: float,
    engine_busy: float = math.nan,
    packing: Mapping[str, float] = MappingProxyType({}),
    restarts: Mapping[str, int] = MappingProxyType({}),
    staleness: Mapping[str, float] = MappingProxyType({}),
    drawn: Mapping[str, Sequence[RolloutGroup]] = MappingProxyType({}),
    mixture: Mapping[str, float] = MappingProxyType({}),
) -> Scalars:
    """Everything a step logs, folded to about `MAX_SCALARS`.

    Args:
        canary_error: in nats.
        engine_busy: share of the time since the step before in which the engines had work.
        packing: `PackedBatch.scalars`.
        restarts: workers replaced since the last step, by role.
        staleness: of `staleness_metrics`, where rollouts may be ahead.
        drawn: beside `groups`, those whose places these took; they count in rewards and lengths.
        mixture: the shares that a curriculum chose, `mixture/share/<domain>`.
    """
    scalars = {
        **rollout_metrics(drawn or groups),
        **{f"drawn/{d}": len(drawn[d]) / len(of) for d, of in groups.items() if d in drawn},
        **learner_metrics(domain_stats),
        **surgery.scalars,
        **staleness,
        **mixture,
        **step_metrics(step),
        **packing,
        **throughput(groups, times["time/total"]),
        **times,
        "weights/version": float(weight_version),
        "sync/canary_error": canary_error,
        "rollout/engine_busy": engine_busy,
        **{f"restarts/{role}": float(count) for role, count in restarts.items()},
    }
    return fold(scalars)


def fold(scalars: Mapping[str, float], limit: int = MAX_SCALARS) -> Scalars:
    """Replace whole families by `<family>/mean` until at most `limit` remain.

    Cosines keep their minimum as well, because a mean hides the one pair that conflicts; the
    conflict rates per kind of module go without a trace, because the overall rate stays.
    """
    folded = dict(scalars)
    limit += sum(name.startswith(BEYOND) for name in scalars)
    for family in FOLD_ORDER:
        if len(folded) <= limit:
            break
        keys = [key for key in folded if key.startswith(f"{family}/")]
        values = [folded.pop(key) for key in keys]
        finite = [v for v in values if math.isfinite(v)]
        if keys and family not in WITH_TOTAL:
            folded[f"{family}/mean"] = mean(finite)
        if keys and family == "surgery/cosine":
            folded[f"{family}/min"] = min(finite, default=math.nan)
    return folded
