"""`report.html` and the printed table of an `mgsrl eval` folder: scores with their intervals.

Left out: comparisons of several folders (intervals that do not overlap say enough for a first
look; for more, pair the stored samples by prompt).
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mgsrl.errors import MissingPathError
from mgsrl.files.jsonl import read_rows, write_atomic
from mgsrl.report.extra import can_draw
from mgsrl.report.load import dump
from mgsrl.report.render import number, percent, render
from mgsrl.report.samples import cut, show_tags

FILE = "report.html"
UNBOUNDED = ("rm_score", "judge_score")
"""Metrics that are no shares."""
SAMPLES_SHOWN = 4


def build_evaluation_report(folder: Path) -> Path:
    """Write `folder/report.html` from `results.json` and the samples; returns its path.

    Raises:
        MissingPathError: `folder` holds no results.
    """
    file = folder / "results.json"
    if not file.is_file():
        raise MissingPathError(
            f"{folder} holds no evaluation.",
            expected="the output folder of mgsrl eval",
            found="no results.json",
            todo="run mgsrl eval with --output there",
        )
    results = json.loads(file.read_text(encoding="utf-8"))
    tasks = {name: _task(folder, name, task) for name, task in results["tasks"].items()}
    context = {
        "title": f"Evaluation of {_model_name(Path(results['model']['path']))}",
        "results": results,
        "tasks": tasks,
        "figure": _scores(results["tasks"]),
        "versions": ", ".join(f"{name} {text}" for name, text in results["versions"].items()),
    }
    path = folder / FILE
    write_atomic(path, render("evaluation.html.j2", context))
    return path


def print_table(results: Mapping[str, Any]) -> None:
    """One line per metric, as it stands in results.json."""
    from rich.table import Table

    from mgsrl.obs.terminal import output

    table = Table(box=None, pad_edge=False)
    for name in ("task", "metric"):
        table.add_column(name)
    for name in (
        "score",
        "95 % interval",
        "prompts",
        "responses",
        "cut",
        "abstained",
        "tokens/s",
        "s",
    ):
        table.add_column(name, justify="right")
    for name, task in results["tasks"].items():
        facts = [
            str(task["responses"]),
            percent(task["truncated"]),
            str(task["abstained"] + task["unscored"]),
            number(task["tokens_per_second"], 0),
            number(task["seconds"], 0),
        ]
        for metric in task["metrics"]:
            row = metric_row(metric, task["metrics"][metric])
            table.add_row(name, metric, row["score"], row["interval"], str(row["n"]), *facts)
            name, facts = "", [""] * len(facts)
    output().print(table)


def metric_row(name: str, estimate: Mapping[str, Any]) -> dict[str, Any]:
    """How a metric reads: shares in percent, scores as they are."""
    shown = number if name in UNBOUNDED else percent
    interval = f"{shown(estimate['low'])} – {shown(estimate['high'])}"
    return {
        "name": name,
        "score": shown(estimate["value"]),
        "interval": interval,
        "n": estimate["n"],
    }


def _task(folder: Path, name: str, task: Mapping[str, Any]) -> dict[str, Any]:
    rows = read_rows(folder / "samples" / f"{name}.jsonl")
    # Spread over the file: the first rows of a benchmark are often of one sort.
    step = max(1, len(rows) // SAMPLES_SHOWN)
    return {
        "facts": task,
        "metrics": [metric_row(metric, value) for metric, value in task["metrics"].items()],
        "samples": [_sample(row) for row in rows[::step][:SAMPLES_SHOWN]],
    }


def _sample(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "prompt": [(m["role"], cut(m["content"])) for m in row["messages"]],
        "html": show_tags(cut(row["response"])),
        "tokens": row["num_tokens"],
        "truncated": row["finish_reason"] == "length",
        "score": dump(row.get("score", {})),
    }


def _scores(tasks: Mapping[str, Mapping[str, Any]]) -> str:
    """Every share with its interval, tasks side by side; "" without any, or without matplotlib."""
    shares = [
        (task, metric, estimate)
        for task, of_task in tasks.items()
        for metric, estimate in of_task["metrics"].items()
        if metric not in UNBOUNDED and estimate["value"] is not None
    ]
    if not shares or not can_draw():
        return ""
    from matplotlib.ticker import PercentFormatter

    from mgsrl.report.style import INK, colours, drawing, panels, svg

    with drawing():
        figure, (axis,) = panels(1, height=0.7 + 0.42 * len(shares))
        colour = colours(list(tasks))
        for place, (task, _, estimate) in enumerate(shares):
            value, low, high = (estimate[key] for key in ("value", "low", "high"))
            if low is not None and high is not None and math.isfinite(low + high):
                axis.plot([low, high], [place, place], "|-", color=INK, lw=1.2, ms=7)
            axis.plot(value, place, "o", color=colour[task], ms=8, mew=0)
            axis.annotate(
                percent(value), (value, place), (0, 5), textcoords="offset points",
                ha="center", va="bottom", fontsize=8.5,
            )  # fmt: skip
        axis.set_yticks(range(len(shares)), [f"{task}  {metric}" for task, metric, _ in shares])
        axis.set_ylim(len(shares) - 0.4, -0.7)
        axis.set_xlim(-0.03, 1.03)
        axis.xaxis.set_major_formatter(PercentFormatter(1.0))
        axis.grid(False, axis="y")
        return svg(figure, "Scores with 95 % intervals")


def _model_name(path: Path) -> str:
    """A checkpoint's own name, `step_30`, says too little: its run's comes before it."""
    run = path.parent.parent if path.parent.name == "checkpoints" else None
    return f"{run.name}, {path.name}" if run else path.name
