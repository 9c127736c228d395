"""What the domains have of an update, where and when they conflict, and what their steps do to each
other: figures of a run from the tables of `obs/surgery_log.py`. Each function returns an inline
SVG, or "" when there is no data.

Left out: pairs by themselves over time and depth (`heat_map.py` has them, without the time within
a quarter of the run), probes of single steps (`surgery/probe_*.parquet`).
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from mgsrl.obs.metrics import mean, standard_error
from mgsrl.report.curves import one_legend, step_axis, trend
from mgsrl.report.heat_map import MISSING, equal_windows
from mgsrl.report.load import RunData
from mgsrl.report.style import WIDTH, colours, panels, svg
from mgsrl.surgery.modules import OUTSIDE_LAYERS, module_place

MAX_WINDOWS = 30
"""Columns of a panel over time; of longer runs each is the mean of neighbouring steps."""
MAX_KINDS = 4
MAX_LABELS = 12
MAX_DOMAINS_WRITTEN = 6
"""More have no room for their numbers in the cells."""
MEASURED, PREDICTED = "measured", "first order"


def shares(run: RunData) -> str:
    """Each domain's share of the gradients' norms and of the tokens; the effective dimension."""
    rows: list[dict[str, Any]] = run.shares.to_pylist()
    if len({row["domain"] for row in rows}) < 2:
        return ""
    figure, axes = panels(3, columns=3, height=2.6)
    colour = colours(_domains(run))
    for axis, column in zip(axes, ("norm_share", "token_share")):
        for domain in dict.fromkeys(row["domain"] for row in rows):
            own = [row for row in rows if row["domain"] == domain]
            values = [_value(row[column]) for row in own]
            if any(map(math.isfinite, values)):
                trend(axis, [row["step"] for row in own], values, colour[domain], domain)
        axis.set_ylim(0, 1)
        axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes[0].set(title="Share of the gradients' norms", ylabel="of the sum over domains")
    axes[1].set(title="Share of the tokens", ylabel="of those trained on")
    trend(axes[2], run.steps, run.series("surgery/effective_dimension"), "#7a6ff0", None)
    most = max(Counter(row["step"] for row in rows).values())
    axes[2].axhline(most, color="#888888", lw=1, ls=":")
    axes[2].set(title="Effective dimension", ylabel="directions", ylim=(0.9, most + 0.15))
    one_legend(figure, axes)
    for axis in axes:
        step_axis(axis)
    return svg(figure, "Shares of norms and tokens, effective dimension over steps")


@dataclass(frozen=True)
class _Measure:
    """One row of panels over depth and time."""

    column: str
    title: str
    same_domain: bool
    colours: str
    limits: tuple[float, float] | None
    """None: symmetric around 0, as far as the values go."""


MEASURES = (
    _Measure("cosine", "mean cosine", False, "RdBu", None),
    _Measure("reliability", "reliability", True, "YlGn", (0.0, 1.0)),
    _Measure("stands_out", "stands out", False, "OrRd", (0.0, 1.0)),
)


def depth_over_time(run: RunData) -> str:
    """Cosines by depth and time, a panel per kind of module; below each, where that was measured,
    the gradients' reliability and the share of pairs whose conflict stands out of the noise."""
    cells = {m.column: cells_over_time(run.surgery, m.column, m.same_domain) for m in MEASURES}
    if not cells["cosine"]:
        return ""
    found = [m for m in MEASURES if cells[m.column]]
    columns = _panel_places(list(dict.fromkeys(module for module, _ in cells["cosine"])))
    deepest = max(len(places) for _, places in columns)
    height = 0.75 + min(max(0.16 * deepest, 0.55), 2.6)
    figure, axes = panels(
        len(found) * len(columns), columns=len(columns), height=height, width=WIDTH
    )
    for row, measure in enumerate(found):
        own = axes[row * len(columns) :][: len(columns)]
        image = _depth_row(own, columns, cells[measure.column], measure, last=row + 1 == len(found))
        if row == 0:
            for axis, (title, _) in zip(own, columns):
                axis.set_title(title)
        bar = figure.colorbar(image, ax=own, shrink=0.9, pad=0.01, aspect=14, label=measure.title)
        bar.outline.set_visible(False)
    return svg(figure, "Cosines and reliability by depth, kind of module and time")


Cells = Mapping[tuple[str, int], tuple[float, int]]
"""(module, step) -> (sum, number) of values."""


def cells_over_time(table: pa.Table, column: str, same_domain: bool) -> Cells:
    """Sums over pairs of domains (or over domains) of a column of the per-module table."""
    same = pc.equal(table["domain_a"], table["domain_b"])
    wanted = same if same_domain else pc.invert(same)
    table = table.filter(pc.and_(wanted, pc.is_valid(table[column])))
    if not table.num_rows:
        return {}
    values = pc.cast(table[column], pa.float64())
    grouped = (
        table.select(["module", "step"])
        .append_column("value", values)
        .group_by(["module", "step"], use_threads=False)
        .aggregate([("value", "sum"), ("value", "count")])
    )
    columns = ("module", "step", "value_sum", "value_count")
    return {
        (module, step): (total, count)
        for module, step, total, count in zip(*(grouped[name].to_pylist() for name in columns))
    }


def _panel_places(modules: Sequence[str]) -> list[tuple[str, list[tuple[str, list[str]]]]]:
    """A panel's title and its lines from the top: (label, modules). One for each kind of module in
    layers, layer 0 lowest, and one for what is outside them."""
    inside: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    outside: dict[str, list[str]] = defaultdict(list)
    for module in modules:
        kind, layer = module_place(module)
        if layer == OUTSIDE_LAYERS:
            outside[kind].append(module)
        else:
            inside[kind][int(layer)].append(module)
    found = [
        (kind, [(str(layer), layers[layer]) for layer in sorted(layers, reverse=True)])
        for kind, layers in list(inside.items())[:MAX_KINDS]
    ]
    return found + ([("outside the layers", list(outside.items()))] if outside else [])


def _depth_row(
    axes: Sequence[Axes],
    columns: Sequence[tuple[str, list[tuple[str, list[str]]]]],
    cells: Cells,
    measure: _Measure,
    *,
    last: bool,
) -> mpl.image.AxesImage:
    steps = sorted({step for _, step in cells})
    windows = equal_windows(steps, MAX_WINDOWS)
    grids = [
        np.array([[_cell(cells, modules, window) for window in windows] for _, modules in places])
        for _, places in columns
    ]
    most = max((np.nanmax(np.abs(g)) for g in grids if np.isfinite(g).any()), default=1.0) or 1.0
    low, high = measure.limits or (-most, most)
    shades = mpl.colormaps[measure.colours].with_extremes(bad=MISSING)
    for i, (axis, grid, (_, places)) in enumerate(zip(axes, grids, columns)):
        image = axis.imshow(
            grid, cmap=shades, vmin=low, vmax=high, aspect="auto", interpolation="nearest"
        )
        labels = [label for label, _ in places]
        every = math.ceil(len(labels) / MAX_LABELS)
        ticks = [n for n in range(len(labels)) if (len(labels) - 1 - n) % every == 0]
        axis.set_yticks(ticks, [labels[n] for n in ticks])
        if i == 0:
            axis.set_ylabel("layer")
        shown = sorted({0, len(windows) // 2, len(windows) - 1})
        axis.set_xticks(shown, [str(windows[n][0]) for n in shown])
        if last:
            axis.set_xlabel("step")
        _bare(axis)
    return image


def _cell(cells: Cells, modules: Sequence[str], window: Sequence[int]) -> float:
    pairs = [cells[m, s] for m in modules for s in window if (m, s) in cells]
    count = sum(n for _, n in pairs)
    return sum(total for total, _ in pairs) / count if count else math.nan


# ---- steps that were tried -----------------------------------------------------------------------


@dataclass(frozen=True)
class Effect:
    """What the gradient of a tried step did to one domain's loss: the change less the idle
    step's, measured and to first order."""

    step: int
    trial: str
    """`resolved`, or the domain whose own step it was."""
    on: str
    measured: float
    predicted: float


def effects_of(table: pa.Table) -> list[Effect]:
    """Of all probes (columns of `surgery_log.PROBE_SCHEMA`), without the idle steps."""
    rows = table.to_pylist()
    idle = {(row["step"], row["on"]): row for row in rows if row["trial"] == "idle"}
    return [
        Effect(
            row["step"],
            row["of"] or row["trial"],
            row["on"],
            _value(row["change"]) - _value(idle[row["step"], row["on"]]["change"]),
            _value(row["predicted"]) - _value(idle[row["step"], row["on"]]["predicted"]),
        )
        for row in rows
        if row["trial"] != "idle" and (row["step"], row["on"]) in idle
    ]


def step_matrices(run: RunData) -> str:
    """Mean effect of every tried step on every domain's loss: measured, to first order, and the
    difference."""
    effects = [e for e in effects_of(run.probes) if math.isfinite(e.measured)]
    if not effects:
        return ""
    on = [d for d in _domains(run) if d in {e.on for e in effects}]
    trials = list(dict.fromkeys(["resolved", *(e.trial for e in effects)]))
    parts: dict[str, Callable[[Effect], float]] = {
        f"Change of the loss, {MEASURED}": lambda e: e.measured,
        "Predicted to first order": lambda e: e.predicted,
        "Beyond it: curvature": lambda e: e.measured - e.predicted,
    }
    values = {
        (title, trial, domain): [get(e) for e in effects if e.trial == trial and e.on == domain]
        for title, get in parts.items()
        for trial in trials
        for domain in on
    }
    means = {key: mean(own) for key, own in values.items()}
    limit = max((abs(v) for v in means.values() if math.isfinite(v)), default=1.0) or 1.0
    power = math.floor(math.log10(limit))
    figure, axes = panels(3, columns=3, height=1.1 + 0.42 * len(trials))
    shades = mpl.colormaps["RdBu_r"].with_extremes(bad=MISSING)
    for index, (axis, title) in enumerate(zip(axes, parts)):
        grid = [[means[title, trial, domain] for domain in on] for trial in trials]
        image = axis.imshow(grid, cmap=shades, vmin=-limit, vmax=limit, aspect="auto")
        axis.set_title(title)
        axis.set_xticks(range(len(on)), [_short(domain) for domain in on])
        names = ["resolved" if t == "resolved" else f"{_short(t)} alone" for t in trials]
        axis.set_yticks(range(len(trials)), names if index == 0 else [""] * len(trials))
        axis.axhline(0.5, color="white", lw=2.5)
        _bare(axis)
        if len(on) <= MAX_DOMAINS_WRITTEN:
            for y, trial in enumerate(trials):
                for x, domain in enumerate(on):
                    own = values[title, trial, domain]
                    _write(axis, x, y, own, limit, 10.0**-power)
    axes[0].set_ylabel("step on")
    axes[1].set_xlabel("loss of")
    bar = figure.colorbar(image, ax=axes, shrink=0.9, pad=0.01, aspect=14, label="change of loss")
    bar.ax.ticklabel_format(style="sci", scilimits=(0, 0))
    bar.outline.set_visible(False)
    figure.suptitle(f"numbers in units of 1e{power}", fontsize=8.5, x=0.995, ha="right")
    return svg(figure, "Change of every domain's loss after every step that was tried")


def steps_over_time(run: RunData) -> str:
    """Measured against predicted effects on other domains; the resolved step and the share of
    harmful pairs over time."""
    effects = [e for e in effects_of(run.probes) if math.isfinite(e.measured)]
    if not effects:
        return ""
    figure, axes = panels(3, columns=3, height=2.7)
    _scatter(axes[0], [e for e in effects if e.trial not in ("resolved", e.on)], run)
    for axis, names, title in (
        (axes[1], ("surgery/probe/change", "surgery/probe/predicted"), "The resolved step"),
        (axes[2], ("surgery/probe/harm", "surgery/probe/predicted_harm"), "Pairs with harm"),
    ):
        for name, label, shade in zip(names, (MEASURED, PREDICTED), ("#c0392b", "#888888")):
            trend(axis, run.steps, run.series(name), shade, label)
        axis.set_title(title)
        step_axis(axis)
    axes[1].axhline(0, color="#888888", lw=1)
    axes[1].ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    axes[1].set_ylabel("change of the batch's loss")
    axes[2].set(ylabel="of ordered pairs", ylim=(-0.03, 1.03))
    axes[2].yaxis.set_major_formatter(PercentFormatter(1.0))
    one_legend(figure, axes)
    return svg(figure, "Effects of steps, measured and predicted")


def _scatter(axis: Axes, effects: Sequence[Effect], run: RunData) -> None:
    colour = colours(_domains(run))
    for domain in [d for d in _domains(run) if any(e.on == d for e in effects)]:
        own = [e for e in effects if e.on == domain]
        axis.scatter(
            [e.predicted for e in own],
            [e.measured for e in own],
            s=14,
            lw=0,
            alpha=0.75,
            color=colour[domain],
            label=f"on {domain}",
        )
    if effects:
        axis.axline((0, 0), slope=1, color="#888888", lw=1, ls=":")
    axis.axhline(0, color="#888888", lw=0.8)
    axis.axvline(0, color="#888888", lw=0.8)
    axis.ticklabel_format(axis="both", style="sci", scilimits=(0, 0))
    axis.set(title="Steps on other domains", xlabel=PREDICTED, ylabel=f"{MEASURED} change of loss")


def _write(axis: Axes, x: int, y: int, values: Sequence[float], limit: float, scale: float) -> None:
    """The mean, and under it its standard error."""
    centre, error = mean(values), standard_error(values)
    if not math.isfinite(centre):
        return
    ink = "white" if abs(centre) > 0.6 * limit else "#222222"
    text = f"{round(centre * scale, 2) + 0.0:+.2f}"
    if math.isfinite(error):
        text += f"\n± {error * scale:.2f}"
    axis.text(x, y, text, ha="center", va="center", color=ink, fontsize=7.5, in_layout=False)


def _domains(run: RunData) -> list[str]:
    """Those of the page, then any others of the tables (of a trainer that logs no rewards)."""
    return list(dict.fromkeys([*run.domains, *run.shares["domain"].to_pylist()]))


def _bare(axis: Axes) -> None:
    axis.grid(False)
    axis.tick_params(length=0, labelsize=8)
    for spine in axis.spines.values():
        spine.set_visible(False)


def _short(domain: str) -> str:
    """In two lines at most, which labels of narrow panels have room for."""
    return domain.replace("_", "\n", 1) if len(domain) > 10 else domain


def _value(value: float | None) -> float:
    return value if value is not None else math.nan


def figures(run: RunData) -> dict[str, str]:
    """By their names in the page's template."""
    drawn: dict[str, Callable[[RunData], str]] = {
        "shares": shares,
        "depth_over_time": depth_over_time,
        "step_matrices": step_matrices,
        "steps_over_time": steps_over_time,
    }
    return {name: draw(run) for name, draw in drawn.items()}
