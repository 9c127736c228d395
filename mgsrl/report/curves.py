"""Values over steps: the raw points, and one smoothed line that is the same for every run.

The line at step t is the mean of the last `WINDOW` steps up to t. It depends neither on the run's
length nor on later steps, so that two runs with equal values at equal steps are drawn equal there.
Left out: a window that grows with the run (it drew equal runs of different lengths differently)
and centred windows (which do so near the end).
"""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mgsrl.report.style import as_label

WINDOW = 10
"""Steps."""
MAX_MARKERS = 200
"""Longer series are drawn as a thin line: thousands of markers blur and make a large file."""

LEGEND_WIDTH = 140
"""Characters that a line of a legend holds, each name's line and gap counted as six."""


def smooth(steps: Sequence[int], values: Sequence[float], window: int = WINDOW) -> list[float]:
    """Per step the mean of the finite values of the last `window` steps; NaN where there is none.

    Args:
        steps: ascending; missing ones are gaps.
    """
    smoothed, begin = [], 0
    for i, step in enumerate(steps):
        while steps[begin] <= step - window:
            begin += 1
        near = [v for v in values[begin : i + 1] if math.isfinite(v)]
        smoothed.append(sum(near) / len(near) if near else math.nan)
    return smoothed


def raw(
    axis: Axes, steps: Sequence[int], values: Sequence[float], colour: str, *, joined: bool = True
) -> None:
    """The values as they are, faint; `joined` by a line, which many runs would tangle."""
    short = len(steps) <= MAX_MARKERS
    axis.plot(
        steps, values, color=colour, alpha=0.45 if short else 0.3, lw=0.8 if short else 0.6,
        marker="o" if short else "", ms=3.2, mew=0, ls="-" if joined or not short else "",
    )  # fmt: skip


def trend(
    axis: Axes, steps: Sequence[int], values: Sequence[float], colour: str, label: str | None
) -> None:
    """The values as they are, and smoothed; steps that lack one are left out."""
    known = [(step, value) for step, value in zip(steps, values) if math.isfinite(value)]
    steps, values = [step for step, _ in known], [value for _, value in known]
    raw(axis, steps, values, colour)
    if known:
        shown = None if label is None else as_label(label)
        axis.plot(steps, smooth(steps, values), color=colour, label=shown)


def one_legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """One legend above all panels: each name once, whichever panel draws it."""
    named: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels()):
            named.setdefault(label, handle)
    if named:
        columns = legend_columns(list(named))
        figure.legend(named.values(), named.keys(), loc="outside upper left", ncols=columns)


def legend_columns(names: Sequence[str]) -> int:
    """Names on a line of a legend of page width."""
    return max(1, min(5, LEGEND_WIDTH // (max(map(len, names)) + 6)))


def step_axis(axis: Axes) -> None:
    """Whole steps below the axis."""
    axis.set_xlabel("step")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
