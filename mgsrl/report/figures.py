"""The figures of one run; each function returns an inline SVG, or "" when there is no data."""

import math
from collections.abc import Sequence

import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from mgsrl.obs.timers import RARE_STAGES, STAGES
from mgsrl.report.curves import MAX_MARKERS, one_legend, step_axis, trend
from mgsrl.report.heat_map import heat_map
from mgsrl.report.load import RunData
from mgsrl.report.style import (
    INK,
    PAIR_COLOURS,
    STAGE_COLOURS,
    as_label,
    colours,
    log_axis,
    panels,
    svg,
)

MAX_BARS = 60
"""More steps are drawn as areas: hundreds of bars blur and make a large file."""
TOTAL = "#888888"


def before_after(run: RunData) -> str:
    """Held-out reward per domain, first against last evaluation, with standard errors."""
    domains = [d for d in run.domains if len(run.evaluations_of(d)) >= 2]
    if not domains:
        return ""
    figure, axes = panels(len(domains), columns=max(3, min(4, len(domains))), height=2.3)
    colour = colours(run.domains)
    ends = {d: (run.evaluations_of(d)[0], run.evaluations_of(d)[-1]) for d in domains}
    shared = all(0 <= e.mean <= 1 for pair in ends.values() for e in pair)
    for axis, domain in zip(axes, domains):
        means = [e.mean for e in ends[domain]]
        errors = [e.standard_error if math.isfinite(e.standard_error) else 0 for e in ends[domain]]
        bars = axis.bar(("before", "after"), means, width=0.55, color=colour[domain])
        bars[0].set_alpha(0.4)
        axis.errorbar((0, 1), means, errors, fmt="none", ecolor=INK, capsize=4, lw=1.4)
        for x, (mean, error) in enumerate(zip(means, errors)):
            up = mean + error if mean >= 0 else mean - error
            axis.annotate(
                f"{mean:.3f}",
                (x, up),
                (0, 4 if mean >= 0 else -4),
                textcoords="offset points",
                ha="center",
                va="bottom" if mean >= 0 else "top",
            )
        axis.set_title(domain, color=colour[domain])
        axis.grid(False, axis="x")
        axis.set_xlim(-0.6, 1.6)
        if shared:
            axis.set_ylim(0, 1.05)
        else:
            axis.margins(y=0.2)
    axes[0].set_ylabel("mean held-out reward")
    return svg(figure, "Held-out reward before and after training")


def reward_curves(run: RunData) -> str:
    """Training reward per domain (raw and smoothed) with the held-out evaluations."""
    domains = run.domains
    if not run.metrics or not domains:
        return ""
    figure, axes = panels(len(domains), height=2.6)
    colour = colours(domains)
    for axis, domain in zip(axes, domains):
        trend(axis, run.steps, run.series(f"reward/{domain}"), colour[domain], "training")
        results = run.evaluations_of(domain)
        if results:
            axis.errorbar(
                [r.step for r in results],
                [r.mean for r in results],
                [0 if math.isnan(r.standard_error) else r.standard_error for r in results],
                fmt="D",
                ms=5,
                color="#777777",
                mfc=colour[domain],
                capsize=3,
                label="held-out ± s.e.",
            )
        axis.set_title(domain, color=colour[domain])
        step_axis(axis)
    axes[0].set_ylabel("mean reward")
    return svg(figure, "Training reward per domain")


def training_health(run: RunData) -> str:
    """Response length, KL, entropy, and engine-learner mismatch with the canary's error."""
    if not run.metrics:
        return ""
    figure, axes = panels(4, columns=2, height=2.5)
    families = (
        ("response_length", "Response length", "tokens"),
        ("kl", "KL to the reference", "nats per token"),
        ("entropy", "Entropy of the policy", "nats per token"),
        ("mismatch", "Engine against learner", "mean |Δ log p|, nats"),
    )
    _draw_families(axes, run, families)
    canary = run.series("sync/canary_error")
    if any(value > 0 for value in canary):
        axes[3].plot(run.steps, canary, color="#888888", ls="--", lw=1.4, label="sync canary")
    gaps = [v for d in run.domains for v in run.series(f"mismatch/{d}")] + canary
    positive = [v for v in gaps if v > 0]
    if positive:
        log_axis(axes[3])
        axes[3].set_ylim(min(positive) / 3, max(positive) * 3)
    one_legend(figure, axes)
    return svg(figure, "Response length, KL, entropy and mismatch over steps")


def learning_signal(run: RunData) -> str:
    """What the update is made of: live groups, cut responses, loss, gradient, rate, clipping."""
    if not run.metrics:
        return ""
    figure, axes = panels(6, height=2.3)
    families = (
        ("live_groups", "Live groups", "share of groups"),
        ("cut_at_limit", "Cut at the token limit", "share of responses"),
        ("grad_norm", "Gradient norm", "before clipping"),
        ("loss", "Loss", "mean over tokens"),
        ("learning_rate", "Learning rate", ""),
        ("clip_fraction", "Clipped", "share of tokens"),
    )
    _draw_families(axes, run, families)
    for axis in axes[:2]:
        axis.set_ylim(-0.03, 1.03)
        axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    capped = run.series("importance_capped")
    if any(value > 0 for value in capped):
        axes[5].plot(run.steps, capped, color=TOTAL, ls="--", lw=1.4, label="importance capped")
    for axis in axes[4:]:
        axis.set_ylim(bottom=0)
    one_legend(figure, axes)
    return svg(figure, "Live groups, cut responses, gradient norm, loss, learning rate, clipping")


def disagreement(run: RunData) -> str:
    """Engine against learner: their divergence, and what weights and masks make of the batch."""
    families = [
        ("mismatch_kl", "Engine against learner", "KL, nats per token"),
        ("importance_ess", "Effective sample size", "share of tokens"),
        ("importance_masked", "Masked", "share of tokens"),
    ]
    if not run.family("importance_masked"):
        return ""
    figure, axes = panels(3, height=2.3)
    _draw_families(axes, run, families)
    for axis in axes[1:]:
        axis.set_ylim(-0.03, 1.03)
        axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    one_legend(figure, axes)
    return svg(figure, "Divergence of engine and learner, effective sample size, masked share")


def mixture(run: RunData) -> str:
    """The shares that an adaptive curriculum gave the domains."""
    if not run.family("mixture/share"):
        return ""
    figure, axes = panels(1, columns=1, height=2.2)
    _draw_families(axes, run, [("mixture/share", "Shares of a step", "share of prompts")])
    axes[0].set_ylim(bottom=0)
    axes[0].yaxis.set_major_formatter(PercentFormatter(1.0))
    one_legend(figure, axes)
    return svg(figure, "Share of each domain in the step's prompts")


def conflicts(run: RunData) -> str:
    """Conflict rate, and the cosine of every pair of domains, over steps; and where reliability
    was measured, how much of each domain's gradient is signal and which conflicts stand out."""
    pairs = run.family("surgery/cosine")
    rate = run.series("surgery/conflict_rate")
    if not pairs or all(math.isnan(v) for v in rate):
        return ""
    measured = any(math.isfinite(v) for v in run.series("surgery/reliable_conflict_rate"))
    columns = 3 if measured else 2
    figure, axes = panels(columns, columns=columns, height=2.7)
    trend(axes[0], run.steps, rate, "#888888", None)
    if measured:
        reliable = run.series("surgery/reliable_conflict_rate")
        trend(axes[0], run.steps, reliable, "#c0392b", "stands out of the noise")
        colour = colours(run.domains)
        for domain in run.domains:
            values = run.series(f"surgery/reliability/{domain}")
            trend(axes[2], run.steps, values, colour[domain], domain)
        axes[2].axhline(0, color="#888888", lw=1)
        axes[2].set(title="Reliability of the gradients", ylabel="share that is signal")
    axes[0].set(title="Conflict rate", ylabel="share of (module, pair)", ylim=(0, 1))
    axes[0].yaxis.set_major_formatter(PercentFormatter(1.0))
    for i, pair in enumerate(pairs):
        shade = PAIR_COLOURS[i % len(PAIR_COLOURS)]
        trend(axes[1], run.steps, run.series(f"surgery/cosine/{pair}"), shade, pair)
    axes[1].axhline(0, color="#888888", lw=1)
    axes[1].set(title="Cosine of the domains' gradients", ylabel="cosine, whole model")
    one_legend(figure, axes)
    for axis in axes:
        step_axis(axis)
    return svg(figure, "Conflict rate and cosines over steps")


def module_heat_map(run: RunData) -> str:
    """Mean cosine over all steps, module kind x layer, one panel per pair of domains."""
    figure = heat_map(run.surgery, [pc.unique(run.surgery["step"]).to_pylist()], page=True)
    return svg(figure, "Mean cosine per module kind and layer") if figure else ""


def stage_times(run: RunData) -> str:
    """Seconds per stage of every step, stacked."""
    if not any(value > 0 for value in run.series("time/total")):
        return ""
    figure, (axis,) = panels(1, height=2.9)
    layers = {
        stage: [0.0 if math.isnan(v) else v for v in run.series(f"time/{stage}")]
        for stage in (*STAGES, *RARE_STAGES, "other")
    }
    layers = {stage: values for stage, values in layers.items() if any(values)}
    if len(run.steps) > MAX_BARS:
        shades = [STAGE_COLOURS[stage] for stage in layers]
        axis.stackplot(run.steps, list(layers.values()), labels=list(layers), colors=shades)
    else:
        bottom = [0.0] * len(run.steps)
        for stage, values in layers.items():
            shade = STAGE_COLOURS[stage]
            axis.bar(run.steps, values, 0.85, bottom=bottom, color=shade, label=stage)
            bottom = [below + value for below, value in zip(bottom, values)]
    axis.set(title="Time per step", ylabel="seconds")
    axis.grid(False, axis="x")
    step_axis(axis)
    handles, labels = axis.get_legend_handles_labels()
    axis.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1.0, 0.5))
    return svg(figure, "Seconds per stage and step")


def throughput(run: RunData) -> str:
    """Response tokens per second of step time."""
    values = run.series("throughput/tokens_per_second")
    if not any(value > 0 for value in values):
        return ""
    figure, (axis,) = panels(1, height=2.0)
    axis.plot(run.steps, values, color="#4e79a7", marker=".", ms=4)
    axis.set(title="Throughput", ylabel="response tokens / s")
    axis.set_ylim(bottom=0)
    step_axis(axis)
    return svg(figure, "Response tokens per second")


def _draw_families(
    axes: Sequence[Axes], run: RunData, families: Sequence[tuple[str, str, str]]
) -> None:
    """One metric family (family, title, unit) a panel."""
    for axis, (family, title, unit) in zip(axes, families):
        _domain_lines(axis, run, family)
        axis.set_title(title)
        axis.set_ylabel(unit)
        step_axis(axis)


def _domain_lines(axis: Axes, run: RunData, family: str) -> None:
    """`family/<domain>` in the domains' colours, the metric `family` itself in grey."""
    colour = colours(run.domains)
    lines = {f"{family}/{domain}": (domain, colour[domain]) for domain in run.domains}
    # with many domains only the mean was logged
    lines |= {f"{family}/mean": ("mean of domains", TOTAL), family: ("whole model", TOTAL)}
    for name, (label, ink) in lines.items():
        values = run.series(name)
        if not any(math.isfinite(v) for v in values):
            continue
        if len(values) > MAX_MARKERS:  # raw lines of several domains would hide each other
            trend(axis, run.steps, values, ink, label)
        else:
            axis.plot(run.steps, values, color=ink, label=as_label(label), lw=1.4, marker=".", ms=4)
    if not axis.lines:  # the KL of a run without a reference
        axis.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axis.transAxes)
