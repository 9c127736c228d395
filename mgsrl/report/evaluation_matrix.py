"""Held-out reward as a matrix, domain x time: for the report (HTML) and the end of a run (console).

A cell is coloured by its difference to the domain's first evaluation. The colours of a domain end
at its largest difference, or at twice the standard error of a difference where that is larger:
noise stays pale. Its best evaluation and the forgotten ones (`obs/forgetting.py`) are marked.
Left out: a drawn figure (a table can be read, copied and scrolled).
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from rich.table import Table
from rich.text import Text

from mgsrl.obs.evaluation_log import EvalResult
from mgsrl.obs.forgetting import forgetting

MAX_COLUMNS = 10
"""Of the report, as many as its page is wide; the columns of longer runs are chosen evenly."""
CONSOLE_COLUMNS = 6
RISE, FALL = "61, 133, 198", "201, 80, 59"
STRONGEST = 0.55
"""Opacity of the strongest colour: the text on it must stay legible in light and dark."""


@dataclass(frozen=True)
class Cell:
    """One evaluation of one domain."""

    result: EvalResult
    change: float
    """Mean minus the domain's first mean."""
    standard_error: float
    """Of the change, taking the two scores as independent; NaN for the first evaluation."""
    shade: float
    """The change on the domain's scale of colours, from -1 (fall) to 1 (rise)."""
    best: bool
    forgotten: bool

    @property
    def css(self) -> str:
        if self.shade == 0:
            return ""
        colour = RISE if self.shade > 0 else FALL
        return f"background: rgba({colour}, {STRONGEST * abs(self.shade):.2f})"


@dataclass(frozen=True)
class Matrix:
    """Rows are domains, columns are steps."""

    steps: list[int]
    rows: dict[str, list[Cell | None]]
    """None where a domain has no score at a step."""
    trained: dict[int, str]
    """Step -> domains trained since the column before; empty when all columns trained the same."""
    left_out: int
    """Evaluations without a column."""

    @property
    def phases(self) -> list[tuple[str, int]]:
        """(what was trained, number of neighbouring columns); empty like `trained`."""
        labels = [self.trained.get(step, "") for step in self.steps] if self.trained else []
        return [(label, len(list(run))) for label, run in groupby(labels)]


def evaluation_matrix(
    results: Sequence[EvalResult],
    domains: Sequence[str],
    threshold: float,
    trained: Mapping[int, Collection[str]],
    limit: int = MAX_COLUMNS,
) -> Matrix:
    """The matrix of `domains`, at most `limit` steps of it (always the first and the last).

    Args:
        threshold: `evaluate.forgetting_alarm`.
        trained: training step (from 1) -> the domains in its batch.
    """
    every = sorted({r.step for r in results if math.isfinite(r.mean)})
    steps = spread(every, limit)
    rows = {}
    for domain in domains:
        cells = _cells(results, domain, threshold)
        if cells:
            rows[domain] = [cells.get(step) for step in steps]
    return Matrix(steps, rows, _trained(steps, domains, trained), len(every) - len(steps))


def spread(steps: Sequence[int], limit: int) -> list[int]:
    """At most `limit` of some steps, chosen evenly, with the first and the last."""
    last, count = len(steps) - 1, min(limit, len(steps))
    return [steps[round(i * last / max(count - 1, 1))] for i in range(count)]


def console_table(matrix: Matrix) -> Table:
    """The matrix for a terminal or a plain log, where marks stand in for colours."""
    title = "held-out reward by step (* best of the domain, ! forgotten)"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("step", no_wrap=True)
    for step in matrix.steps:
        table.add_column(str(step), justify="right")
    if matrix.trained:
        labels = [matrix.trained.get(step, "–") for step in matrix.steps]
        table.add_row("trained before", *labels, style="dim")
    for domain, cells in matrix.rows.items():
        table.add_row(domain, *map(_cell_text, cells))
    return table


def _cell_text(cell: Cell | None) -> Text:
    if cell is None:
        return Text("–")
    sure = abs(cell.change) > 2 * cell.standard_error  # never for the first: NaN
    style = ("green" if cell.change > 0 else "red") if sure else ""
    mark = "!" if cell.forgotten else "*" if cell.best else ""
    error = cell.result.standard_error
    spread = f"\n±{error:.3f}" if math.isfinite(error) else ""
    return Text(f"{cell.result.mean:.3f}{mark}{spread}", style=style)


def _cells(results: Sequence[EvalResult], domain: str, threshold: float) -> dict[int, Cell]:
    history = forgetting(results, domain)
    if not history:
        return {}
    first, best = history[0].now, history[-1].best
    changes = [(item.now.mean - first.mean, _error(item.now, first)) for item in history]
    ends = [end for change, error in changes for end in (abs(change), 2 * error)]
    differs = any(item.now.mean != first.mean for item in history)
    scale = max((end for end in ends if math.isfinite(end)), default=0.0)
    return {
        item.now.step: Cell(
            result=item.now,
            change=change,
            standard_error=error,
            shade=change / scale if scale else 0.0,
            best=item.now is best and differs,
            forgotten=item.alarms(threshold),
        )
        for item, (change, error) in zip(history, changes)
    }


def _error(now: EvalResult, first: EvalResult) -> float:
    if now is first:
        return math.nan
    return math.hypot(now.standard_error, first.standard_error)


def _trained(
    steps: Sequence[int], domains: Sequence[str], trained: Mapping[int, Collection[str]]
) -> dict[int, str]:
    found: dict[int, tuple[str, ...]] = {}
    for before, step in pairwise(steps):
        names = {name for t in range(before + 1, step + 1) for name in trained.get(t, ())}
        found[step] = tuple(name for name in domains if name in names)
    if len(set(found.values())) < 2:
        return {}
    every = tuple(domains)
    labels = {step: "all" if names == every else ", ".join(names) for step, names in found.items()}
    return {step: label for step, label in labels.items() if label}
