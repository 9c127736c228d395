"""Figures of several runs: one colour per strategy, points as they are, a strong mean of seeds."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mgsrl.report.curves import one_legend, raw, smooth, step_axis
from mgsrl.report.strategies import StrategyRuns
from mgsrl.report.style import panels, svg
from mgsrl.report.tables import finite_mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def finals(
    strategies: Sequence[StrategyRuns], domains: Sequence[str], colour: Mapping[str, str]
) -> str:
    """Held-out reward at the step of comparison: a dot per seed, the mean with its error."""
    shown = [d for d in domains if any(math.isfinite(s.after(d).mean) for s in strategies)]
    if not shown:
        return ""
    figure, axes = panels(len(shown), height=1.2 + 0.38 * len(strategies))
    for i, (axis, domain) in enumerate(zip(axes, shown)):
        for y, strategy in enumerate(strategies):
            after = strategy.after(domain)
            ink = colour[strategy.name]
            axis.plot(after.values, [y] * len(after.values), "o", ms=5, color=ink, alpha=0.4, mew=0)
            error = after.standard_error
            axis.errorbar(
                after.mean, y, xerr=error if math.isfinite(error) else None,
                fmt="D", ms=6, color=ink, capsize=4,
            )  # fmt: skip
        axis.set_title(domain)
        axis.set_xlabel(f"held-out reward at step {strategies[0].common.last}")
        axis.set_ylim(len(strategies) - 0.4, -0.6)
        names = [s.name for s in strategies]
        axis.set_yticks(range(len(names)), names if i % 3 == 0 else [""] * len(names))
        axis.margins(x=0.12)
    return svg(figure, "Held-out reward after training per strategy")


def curves(
    strategies: Sequence[StrategyRuns], domains: Sequence[str], colour: Mapping[str, str]
) -> str:
    """Smoothed training reward per domain."""
    if not any(run.metrics for strategy in strategies for run in strategy.runs):
        return ""
    figure, axes = panels(len(domains), height=2.7)
    for axis, domain in zip(axes, domains):
        for strategy in strategies:
            _seeds_and_mean(axis, strategy, f"reward/{domain}", colour[strategy.name])
        axis.set_title(domain)
        step_axis(axis)
    axes[0].set_ylabel("mean training reward")
    one_legend(figure, axes)
    return svg(figure, "Training reward per strategy and domain")


def conflict_curves(strategies: Sequence[StrategyRuns], colour: Mapping[str, str]) -> str:
    """Smoothed conflict rate."""
    if not any(math.isfinite(strategy.conflict_rate().mean) for strategy in strategies):
        return ""
    figure, (axis,) = panels(1, height=2.4)
    for strategy in strategies:
        _seeds_and_mean(axis, strategy, "surgery/conflict_rate", colour[strategy.name])
    axis.set(ylabel="share of (module, pair)", ylim=(0, 1))
    step_axis(axis)
    one_legend(figure, [axis])
    return svg(figure, "Conflict rate per strategy")


def _seeds_and_mean(axis: "Axes", strategy: StrategyRuns, metric: str, ink: str) -> None:
    by_step: dict[int, list[float]] = {}
    for run in strategy.runs:
        values = run.series(metric)
        raw(axis, run.steps, values, ink, joined=False)
        smoothed = smooth(run.steps, values)
        if len(strategy.runs) > 1:
            axis.plot(run.steps, smoothed, color=ink, alpha=0.3, lw=1)
        for step, value in zip(run.steps, smoothed):
            by_step.setdefault(step, []).append(value)
    # where a shorter run drops out the mean would jump: it ends there
    steps = sorted(step for step, values in by_step.items() if len(values) == len(strategy.runs))
    means = [finite_mean(by_step[step]) for step in steps]
    if any(map(math.isfinite, means)):
        axis.plot(steps, means, color=ink, label=f"{strategy.name} (n={len(strategy.runs)})")
