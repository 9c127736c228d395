"""`report.html` of a run folder: one file, no links to elsewhere, readable after a crash too.

Left out: anything interactive (the figures are inline SVG), and any verdict on the method: one
run cannot carry one.
"""

from pathlib import Path
from typing import Any

from mgsrl.config import EvaluateConfig
from mgsrl.files.jsonl import write_atomic
from mgsrl.report.evaluation_matrix import Matrix, evaluation_matrix
from mgsrl.report.extra import need_drawing
from mgsrl.report.load import RunData, read_run_data
from mgsrl.report.render import render
from mgsrl.report.samples import sample_sections
from mgsrl.report.tables import changes, facts, stage_rows

FILE = "report.html"


def build_report(run_dir: Path) -> Path:
    """Write `run_dir/report.html` (whole or not at all) and return its path.

    Raises:
        MissingPathError: `run_dir` is not a run folder.
        ConfigError: matplotlib is not installed.
    """
    need_drawing("The report")
    run = read_run_data(Path(run_dir))
    path = run.run_dir / FILE
    write_atomic(path, render("report.html.j2", _context(run)))
    return path


def _matrix(run: RunData) -> Matrix | None:
    """None when before and after say it all."""
    trained = {row["step"]: {d for d in run.domains if f"reward/{d}" in row} for row in run.metrics}
    threshold = run.setting("evaluate.forgetting_alarm")
    if not isinstance(threshold, int | float):  # a run of an older version, or no configuration
        threshold = EvaluateConfig().forgetting_alarm
    matrix = evaluation_matrix(run.evaluations, run.domains, threshold, trained)
    return matrix if len(matrix.steps) > 2 else None


def _context(run: RunData) -> dict[str, Any]:
    # matplotlib takes half a second to import: only when a report is really drawn
    from mgsrl.report import figures, interference
    from mgsrl.report.curves import WINDOW
    from mgsrl.report.style import STAGE_COLOURS, colours, drawing

    with drawing():
        drawn = {
            "before_after": figures.before_after(run),
            "rewards": figures.reward_curves(run),
            "signal": figures.learning_signal(run),
            "mixture": figures.mixture(run),
            "health": figures.training_health(run),
            "disagreement": figures.disagreement(run),
            "conflicts": figures.conflicts(run),
            "heat_map": figures.module_heat_map(run),
            "times": figures.stage_times(run),
            "throughput": figures.throughput(run),
            **interference.figures(run),
        }
    return {
        "title": run.run_dir.resolve().name,
        "run": run,
        "facts": facts(run),
        "changes": changes(run),
        "matrix": _matrix(run),
        "stages": stage_rows(run),
        "samples": sample_sections(run),
        "figures": drawn,
        "colours": colours(run.domains),
        "stage_colours": STAGE_COLOURS,
        "window": WINDOW,
        "strategy": run.setting("strategy.name", "unknown strategy"),
        "model": run.setting("policy.path", "unknown model"),
        "command": " ".join((run.record.get("sessions") or [{}])[0].get("command") or []),
    }
