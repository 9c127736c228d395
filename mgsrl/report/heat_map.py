"""Where the domains' gradients agree and conflict: layer x module kind, one panel per pair.

`surgery/heat_map.png` shows it over time: the steps of the run in up to four equal windows, a row
of panels each. The report shows the mean over all steps. Both are drawn here, from the Parquet
parts of the run folder. The time of a redraw is bounded: of a long window only some steps are read.
Left out: an animation, and more pairs than fit beside each other (those that conflict most stay).
"""

import io
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mgsrl.files.jsonl import replacing
from mgsrl.obs.surgery_log import FOLDER, read_parts, surgery_parts
from mgsrl.report.style import WIDTH, drawing, panels
from mgsrl.surgery.modules import OUTSIDE_LAYERS, module_place

FILE = "heat_map.png"
MAX_WINDOWS = 4
MAX_PAIRS = 10
MAX_STEPS_READ = 100
"""Of each window; more are read evenly spaced."""
MAX_LAYERS_BESIDE = 12
"""Deeper models get a row of the report for each pair."""
MIN_CELL_WRITTEN = 0.38
"""Inches; a cell as wide as this has room for its number."""
MAX_WIDTH = 20.0
"""Inches of all panels of a row together."""
NUMBER_WIDTH, MODEL_WIDTH = 0.25, 0.36
"""Inches from the middle of a layer's number to the next one, and to the word `model`."""
MISSING = "#d3d3d3"
DPI = 110

Place = tuple[str, str]
"""(kind of module, layer)."""
Cells = Mapping[tuple[int, str], Mapping[Place, float]]
"""(window, pair of domains) -> place -> mean cosine."""


def draw_heat_map(run_dir: Path) -> Path | None:
    """Write `surgery/heat_map.png` (whole or not at all) and return its path.

    None, and no file, when no step had gradients of two domains.

    Raises:
        OSError, ValueError: a part that cannot be read, or a folder that cannot be written.
    """
    parts = surgery_parts(run_dir)
    windows = equal_windows(list(parts), MAX_WINDOWS)
    chosen = [parts[step] for window in windows for step in evenly(window, MAX_STEPS_READ)]
    table = read_parts(chosen, ["step", "module", "domain_a", "domain_b", "cosine"])
    with drawing():
        figure = heat_map(table, windows)
        if figure is None:
            return None
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=DPI, facecolor="white")
    path = run_dir / FOLDER / FILE
    with replacing(path) as temporary:
        temporary.write_bytes(picture.getvalue())
    return path


def equal_windows(steps: Sequence[int], count: int) -> list[Sequence[int]]:
    """`steps` in at most `count` runs of equal length (up to one)."""
    count = min(count, len(steps))
    ends = [round(len(steps) * i / count) for i in range(count + 1)] if count else []
    return [steps[begin:end] for begin, end in pairwise(ends)]


def evenly(steps: Sequence[int], limit: int) -> list[int]:
    """At most `limit` of `steps`, evenly spaced."""
    if len(steps) <= limit:
        return list(steps)
    return [steps[i * len(steps) // limit] for i in range(limit)]


def heat_map(
    table: pa.Table, windows: Sequence[Sequence[int]], *, page: bool = False
) -> Figure | None:
    """The figure of the mean cosines in `table` (columns of `surgery_log.SCHEMA`).

    A row of panels per window of steps, as wide as it takes; with `page` the panels are wrapped
    to the report's width. None without a cosine of two domains. To be called inside `drawing`.
    """
    cells = mean_cosines(table, windows)
    if not cells:
        return None
    pairs = _most_conflicting(cells)
    num_pairs = len({pair for _, pair in cells})
    places = list(dict.fromkeys(place for values in cells.values() for place in values))
    layers, kinds = _layers(places), _kinds(places)
    limit = max(abs(c) for values in cells.values() for c in values.values()) or 1.0
    shown = [(window, pair) for window in range(len(windows)) for pair in pairs]

    columns = (1 if len(layers) > MAX_LAYERS_BESIDE else 3) if page else len(pairs)
    panel = (WIDTH - 2.0) / columns if page else _panel_width(len(layers), columns)
    width = WIDTH if page else 2.4 + columns * panel
    height = 0.55 + min(0.26 * len(kinds), 8.0)
    figure, axes = panels(len(shown), columns=columns, height=height, width=width)
    colours = mpl.colormaps["RdBu"].with_extremes(bad=MISSING)
    for i, (axis, key) in enumerate(zip(axes, shown)):
        values = cells.get(key, {})
        grid = [[values.get((kind, layer), math.nan) for layer in layers] for kind in kinds]
        image = axis.imshow(grid, cmap=colours, vmin=-limit, vmax=limit, aspect="auto")
        leftmost, lowest = i % columns == 0, i + columns >= len(shown)
        _label(axis, layers if lowest else [], kinds if leftmost else [], 0.9 * panel)
        if OUTSIDE_LAYERS in layers[1:]:
            axis.axvline(layers.index(OUTSIDE_LAYERS) - 0.5, color="white", lw=2.5)
        if i < columns or page:
            axis.set_title(_fitted(key[1], panel))
        if leftmost and len(windows) > 1:
            axis.set_ylabel(_span(windows[key[0]]), fontweight="bold", labelpad=8)
        if panel / len(layers) >= MIN_CELL_WRITTEN:
            _write_cells(axis, grid, limit)
    if num_pairs > len(pairs):
        figure.suptitle(
            f"The {len(pairs)} of {num_pairs} pairs whose gradients conflict most", fontsize=9
        )
    bar = figure.colorbar(image, ax=axes, shrink=0.9, pad=0.01, aspect=30, label="mean cosine")
    bar.outline.set_visible(False)
    return figure


def mean_cosines(table: pa.Table, windows: Sequence[Sequence[int]]) -> Cells:
    """Per window and pair the mean cosine of every place over the window's steps and modules."""
    table = table.filter(
        pc.and_(pc.not_equal(table["domain_a"], table["domain_b"]), pc.is_valid(table["cosine"]))
    )
    if not table.num_rows:
        return {}
    begins = [window[0] for window in windows]
    window = np.searchsorted(begins, table["step"].to_numpy(), side="right") - 1
    keys = ["window", "domain_a", "domain_b", "module"]
    # Arrow adds up hundreds of thousands of rows; only their sums become Python objects.
    found = (
        table.append_column("window", pa.array(window, pa.int32()))
        .group_by(keys, use_threads=False)  # one thread: in the order of the modules
        .aggregate([("cosine", "sum"), ("cosine", "count")])
        .select([*keys, "cosine_sum", "cosine_count"])
    )
    sums: dict[tuple[int, str], dict[Place, list[float]]] = defaultdict(
        lambda: defaultdict(lambda: [0.0, 0.0])
    )
    for index, a, b, module, total, count in zip(*found.to_pydict().values()):
        entry = sums[index, f"{a} – {b}"][module_place(module)]
        entry[0] += total
        entry[1] += count
    return {
        key: {place: total / count for place, (total, count) in places.items()}
        for key, places in sums.items()
    }


def _most_conflicting(cells: Cells) -> list[str]:
    """The pairs that are shown: all in the order of the log, or those with the lowest cosines."""
    pairs = list(dict.fromkeys(pair for _, pair in cells))
    if len(pairs) <= MAX_PAIRS:
        return pairs

    def mean(pair: str) -> float:
        values = [c for (_, other), v in cells.items() if other == pair for c in v.values()]
        return sum(values) / len(values)

    chosen = sorted(pairs, key=mean)[:MAX_PAIRS]
    return [pair for pair in pairs if pair in chosen]


def _kinds(places: Sequence[Place]) -> list[str]:
    """Those of the layers first, each group in the order of the modules."""
    inside = [kind for kind, layer in places if layer != OUTSIDE_LAYERS]
    return list(dict.fromkeys([*inside, *(kind for kind, _ in places)]))


def _layers(places: Sequence[Place]) -> list[str]:
    """The layers in order, then `model`, repeated in deep models so that its column is seen."""
    inside = sorted({layer for _, layer in places if layer != OUTSIDE_LAYERS}, key=int)
    has_model = any(layer == OUTSIDE_LAYERS for _, layer in places)
    return inside + [OUTSIDE_LAYERS] * (has_model * max(1, round(0.06 * len(inside))))


def _panel_width(num_layers: int, columns: int) -> float:
    """Inches: numbers in the cells of shallow models, about 0.1 for a layer of deep ones."""
    return min(max(0.5 * min(num_layers, 6), 0.11 * num_layers), 4.0, MAX_WIDTH / columns)


def _fitted(pair: str, inches: float) -> str:
    """In two lines where the panel is narrow (bold characters, about 12 an inch)."""
    return pair if len(pair) <= 12 * inches else pair.replace(" – ", " –\n")


def _label(axis: Axes, layers: Sequence[str], kinds: Sequence[str], inches: float) -> None:
    """Ticks that do not run into each other; none for an axis that has its labels elsewhere."""
    inside = [layer for layer in layers if layer != OUTSIDE_LAYERS]
    cell = inches / max(len(layers), 1)
    every = next(n for n in (1, 2, 4, 5, 10, 20, 50, 10**6) if n * cell >= NUMBER_WIDTH)
    ticks: list[float] = list(range(0, len(inside), every))
    names = inside[::every]
    if len(layers) > len(inside):
        middle = (len(inside) + len(layers) - 1) / 2
        while ticks and (middle - ticks[-1]) * cell < MODEL_WIDTH:
            ticks, names = ticks[:-1], names[:-1]
        ticks.append(middle)
        names.append(OUTSIDE_LAYERS)
    axis.set_xticks(ticks, names)
    if layers:
        axis.set_xlabel("layer")
    rows = range(0, len(kinds), math.ceil(len(kinds) / 40) or 1)
    axis.set_yticks(rows, [kinds[n] for n in rows])
    axis.grid(False)
    axis.tick_params(length=0, labelsize=8)
    for spine in axis.spines.values():
        spine.set_visible(False)


def _span(steps: Sequence[int]) -> str:
    return f"steps {steps[0]}–{steps[-1]}" if len(steps) > 1 else f"step {steps[0]}"


def _write_cells(axis: Axes, grid: Sequence[Sequence[float]], limit: float) -> None:
    for y, row in enumerate(grid):
        for x, value in enumerate(row):
            if math.isfinite(value):
                ink = "white" if abs(value) > 0.6 * limit else "#222222"
                text = f"{round(value, 2) + 0.0:+.2f}"  # + 0.0: no -0.00
                # inside the axes anyway: the layout need not measure hundreds of them
                axis.text(
                    x, y, text, ha="center", va="center", color=ink, fontsize=7.5,
                    in_layout=False,
                )  # fmt: skip
