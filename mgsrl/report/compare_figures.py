"""Figures of a comparison: one colour per arm, dots for seeds, bands for the interval over seeds.

A band of two seeds is wide; axes are those of the lines, so that it cannot flatten them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mgsrl.report.comparison import HARM, RATES, ArmSummary, Comparison, Curve
from mgsrl.report.curves import MAX_MARKERS, legend_columns, one_legend, raw, step_axis
from mgsrl.report.style import DOMAIN_COLOURS, INK, as_label, panels, svg
from mgsrl.report.verdicts import AVERAGE, WORST
from mgsrl.statistics.seeds import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DASHES = ("-", "--", ":", "-.")
"""Arms beyond the colours have them again, dashed."""
MOST_RAW = 6
"""Arms up to which single training batches are drawn (of more they hide everything), and bands are
more than a hint."""
GREY = "#888888"
SHARE_OF = {**dict.fromkeys(RATES, "share of (module, pair)"), HARM: "share of ordered pairs"}
LEGEND_LINE = 0.2
"""Inches."""
BAND_ROOM = 0.6
"""How far bands may widen an axis to either side, as a part of what its lines span."""


def all_figures(c: Comparison, colour: Mapping[str, str]) -> dict[str, str]:
    """Every figure by name; "" where there is nothing to draw."""
    return {
        "finals": finals(c, colour),
        "differences": differences(c, colour),
        "heldout": heldout_curves(c, colour),
        "training": training_curves(c, colour),
        "conflicts": conflict_curves(c, colour),
        "projected": projected_curves(c, colour),
    }


def finals(c: Comparison, colour: Mapping[str, str]) -> str:
    """Held-out reward at the step of comparison: a dot per seed, the mean with its interval."""
    columns: list[tuple[str, Callable[[ArmSummary], tuple[Mapping[int, float], Estimate]]]]
    columns = [("average", lambda each: (each.arm.average(c.domains), each.average))]
    columns += [(d, lambda each, d=d: (each.arm.heldout(d), each.after[d])) for d in c.domains]  # type: ignore[misc]
    drawn = [item for item in columns if any(item[1](each)[1].n for each in c.arms)]
    if not drawn:
        return ""
    figure, axes = panels(len(drawn), columns=_columns(drawn), height=1.1 + 0.3 * len(c.arms))
    for axis, (name, values) in zip(axes, drawn, strict=True):
        for y, each in enumerate(c.arms):
            seeds, mean = values(each)
            ink = colour[each.name]
            axis.plot(
                list(seeds.values()), [y] * len(seeds), "o", ms=5, color=ink, alpha=0.4, mew=0
            )
            _whisker(axis, mean, y, ink)
        axis.set(title=name, xlabel=f"held-out reward at step {c.common.last}")
    _name_rows(axes, [each.name for each in c.arms], _columns(drawn))
    return svg(figure, "Held-out reward after training per arm")


def differences(c: Comparison, colour: Mapping[str, str]) -> str:
    """Every arm minus the baseline, with the interval of the difference."""
    keys = [AVERAGE, *(f"domain/{d}" for d in c.domains), WORST]
    titles = ["average", *c.domains, "worst gain"]
    arms = [each for each in c.arms if each.contrasts and each.contrasts[AVERAGE].difference.n]
    if not arms:
        return ""
    figure, axes = panels(len(keys), columns=_columns(keys), height=1.1 + 0.3 * len(arms))
    for axis, key, title in zip(axes, keys, titles, strict=True):
        axis.axvline(0, color=GREY, lw=1)
        for y, each in enumerate(arms):
            contrast = each.contrasts[key]
            ink = colour[each.name]
            _whisker(axis, contrast.difference, y, ink, filled=contrast.stands_out)
        axis.set(title=title, xlabel=f"minus {c.baseline}")
    _name_rows(axes, [each.name for each in arms], _columns(keys))
    return svg(figure, f"Difference of every arm to {c.baseline}")


def heldout_curves(c: Comparison, colour: Mapping[str, str]) -> str:
    """Held-out reward at every evaluation."""
    if len(c.common.evaluated) < 3 or not c.domains:
        return ""
    figure, axes = panels(len(c.domains), height=_height(c, 2.7))
    for axis, domain in zip(axes, c.domains, strict=True):
        _bands(axis, c, lambda each, d=domain: each.heldout_curve(d), colour, marker="o")  # type: ignore[misc]
        axis.set_title(domain)
        step_axis(axis)
    axes[0].set_ylabel("held-out reward")
    one_legend(figure, axes)
    return svg(figure, "Held-out reward per arm and domain")


def training_curves(c: Comparison, colour: Mapping[str, str]) -> str:
    """Smoothed training reward per domain."""
    if not c.domains or not any(run.metrics for _, run in c.runs):
        return ""
    figure, axes = panels(len(c.domains), height=_height(c, 2.7))
    for axis, domain in zip(axes, c.domains, strict=True):
        _curves(axis, c, f"reward/{domain}", colour, dots=len(c.arms) <= MOST_RAW)
        axis.set_title(domain)
        step_axis(axis)
    axes[0].set_ylabel("mean training reward")
    one_legend(figure, axes)
    return svg(figure, "Training reward per arm and domain")


def conflict_curves(c: Comparison, colour: Mapping[str, str]) -> str:
    """Conflict rate, what of it stands out of the noise, how reliable the gradients are, and how
    often a step on one domain harms another."""
    names = [*RATES]
    names += [f"surgery/reliability/{domain}" for domain in c.domains] + [HARM]
    titles = ["Conflict rate", "Conflicts out of the noise"]
    titles += [f"Reliability, {domain}" for domain in c.domains] + ["Pairs with harm"]
    drawn = [pair for pair in zip(names, titles, strict=True) if _is_measured(c, pair[0])]
    if not drawn:
        return ""
    figure, axes = panels(len(drawn), columns=max(2, _columns(drawn)), height=_height(c, 2.4))
    for axis, (name, title) in zip(axes, drawn, strict=True):
        _curves(axis, c, name, colour)
        axis.set(title=title, ylabel=SHARE_OF.get(name, "share that is signal"))
        if name in SHARE_OF:
            axis.set_ylim(0, 1)
        step_axis(axis)
    one_legend(figure, axes)
    return svg(figure, "Conflict rate and reliability per arm")


def projected_curves(c: Comparison, colour: Mapping[str, str]) -> str:
    """Share of each domain's squared gradient norm that surgery took away."""
    drawn = [d for d in c.domains if _is_measured(c, f"surgery/projected_share/{d}", above=0.0)]
    if not drawn:
        return ""
    figure, axes = panels(len(drawn), columns=max(2, _columns(drawn)), height=_height(c, 2.4))
    for axis, domain in zip(axes, drawn, strict=True):
        _curves(axis, c, f"surgery/projected_share/{domain}", colour)
        axis.set_title(domain)
        axis.set_ylim(bottom=0)
        step_axis(axis)
    axes[0].set_ylabel("share of the squared norm")
    one_legend(figure, axes)
    return svg(figure, "Share of the gradients projected away per arm")


def _curves(
    axis: "Axes", c: Comparison, metric: str, colour: Mapping[str, str], *, dots: bool = False
) -> None:
    for each in c.arms if dots else ():
        for run in each.arm.runs:
            if len(run.steps) <= MAX_MARKERS:
                raw(axis, run.steps, run.series(metric), colour[each.name], joined=False)
    _bands(axis, c, lambda each: each.curve(metric), colour)


def _bands(
    axis: "Axes",
    c: Comparison,
    curve: Callable[[ArmSummary], Curve],
    colour: Mapping[str, str],
    marker: str = "",
) -> None:
    """Means of all arms with their intervals; the axis may grow by a part for the latter."""
    ends: list[float] = []
    alpha = 0.13 if len(c.arms) <= MOST_RAW else 0.05
    for i, each in enumerate(c.arms):
        known = {step: e for step, e in curve(each).items() if e.n}
        if not known:
            continue
        ink, style = colour[each.name], DASHES[i // len(DOMAIN_COLOURS) % len(DASHES)]
        label = as_label(f"{each.name} (n={len(each.arm.seeds)})")
        means = [e.mean for e in known.values()]
        axis.plot(list(known), means, color=ink, ls=style, marker=marker, ms=4, label=label)
        low, high = [e.low for e in known.values()], [e.high for e in known.values()]
        axis.fill_between(list(known), low, high, color=ink, alpha=alpha, lw=0)
        ends += [v for v in (*low, *high) if math.isfinite(v)]
    drawn = [
        v for line in axis.lines for v in np.asarray(line.get_ydata(), float) if math.isfinite(v)
    ]
    if drawn:
        bottom, top = min(drawn), max(drawn)
        room = BAND_ROOM * ((top - bottom) or abs(top) or 1.0)
        low_end, high_end = min([*ends, bottom]), max([*ends, top])
        pad = 0.04 * room
        axis.set_ylim(max(low_end, bottom - room) - pad, min(high_end, top + room) + pad)


def _whisker(axis: "Axes", e: Estimate, y: int, ink: str, *, filled: bool = True) -> None:
    if not e.n:
        return
    error = (e.high - e.low) / 2
    axis.errorbar(
        e.mean, y, xerr=error if math.isfinite(error) else None, fmt="D", ms=6, color=ink,
        capsize=4, mfc=ink if filled else "none",
    )  # fmt: skip


def _name_rows(axes: Sequence["Axes"], names: Sequence[str], columns: int) -> None:
    for i, axis in enumerate(axes):
        axis.set_ylim(len(names) - 0.4, -0.6)
        axis.set_yticks(range(len(names)), list(names) if i % columns == 0 else [""] * len(names))
        axis.margins(x=0.12)
        axis.locator_params(axis="x", nbins=4)  # numbers with four digits would touch
        axis.tick_params(axis="y", colors=INK)


def _height(c: Comparison, inches: float) -> float:
    """Of panels below a legend of all arms."""
    names = [f"{each.name} (n={len(each.arm.seeds)})" for each in c.arms]
    return inches + LEGEND_LINE * math.ceil(len(names) / legend_columns(names))


def _columns(items: Sequence[object]) -> int:
    """2 or 3 panels a row, such that the last row is not nearly empty."""
    return 2 if len(items) in (1, 2, 4) else 3


def _is_measured(c: Comparison, metric: str, above: float = -math.inf) -> bool:
    return any(value > above for _, run in c.runs for value in run.series(metric))
