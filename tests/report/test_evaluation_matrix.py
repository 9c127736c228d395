"""The matrix domain x time: which cells, colours and marks, in the report and on the console."""

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from mgsrl.obs.console import Console
from mgsrl.obs.evaluation_log import EvalResult, append_evaluations
from mgsrl.report.evaluation_matrix import STRONGEST, Matrix, console_table, evaluation_matrix
from mgsrl.report.page import build_report
from tests.report.synthetic import make_run


def results(domain: str, *means: float, error: float = 0.02, every: int = 10) -> list[EvalResult]:
    return [
        EvalResult(every * i, domain, mean, error, 64, 64, 20.0, 1.0, 0.0)
        for i, mean in enumerate(means)
    ]


def matrix_of(*logs: list[EvalResult], trained: dict | None = None, limit: int = 24) -> Matrix:
    log = [result for one in logs for result in one]
    domains = list(dict.fromkeys(result.domain for result in log))
    return evaluation_matrix(log, domains, 0.05, trained or {}, limit)


def test_cells_are_measured_against_the_first_evaluation_of_their_domain() -> None:
    matrix = matrix_of(results("math", 0.4, 0.6, 0.5), results("chat", 3.0, 2.0, 3.5))
    assert matrix.steps == [0, 10, 20]
    math_row, chat_row = matrix.rows["math"], matrix.rows["chat"]
    assert [cell.change for cell in math_row if cell] == pytest.approx([0, 0.2, 0.1])
    assert [cell.shade for cell in math_row if cell] == pytest.approx([0, 1, 0.5])
    assert [cell.shade for cell in chat_row if cell] == pytest.approx([0, -1, 0.5])
    assert [cell.best for cell in math_row if cell] == [False, True, False]
    assert [cell.forgotten for cell in math_row if cell] == [False, False, True]
    assert [cell.forgotten for cell in chat_row if cell] == [False, True, False]
    assert math_row[0] is not None
    assert math_row[0].css == ""
    assert chat_row[1] is not None
    assert chat_row[1].css.endswith(f"{STRONGEST:.2f})")


def test_noise_stays_pale() -> None:
    row = matrix_of(results("math", 0.40, 0.42, error=0.05)).rows["math"]
    assert row[1] is not None
    assert row[1].shade == pytest.approx(0.02 / (2 * math.hypot(0.05, 0.05)))


def test_domains_without_a_score_at_a_step_leave_a_hole() -> None:
    matrix = matrix_of(results("math", 0.4, math.nan, 0.5), results("chat", 0.1, 0.2, 0.3))
    assert [cell is None for cell in matrix.rows["math"]] == [False, True, False]
    assert matrix_of(results("math", math.nan)).rows == {}
    assert matrix_of().steps == []


def test_long_runs_show_evenly_chosen_steps_with_both_ends() -> None:
    matrix = matrix_of(results("math", *[0.5] * 101), limit=6)
    assert matrix.steps == [0, 200, 400, 600, 800, 1000]
    assert matrix.left_out == 95
    assert len(matrix.rows["math"]) == 6


def test_columns_name_what_was_trained_where_that_differs() -> None:
    logs = results("math", 0.1, 0.2, 0.3, 0.4), results("chat", 0.1, 0.2, 0.3, 0.4)
    phases = {t: ["math"] if t <= 15 else ["chat"] for t in range(1, 31)}
    matrix = matrix_of(*logs, trained=phases)
    assert matrix.trained == {10: "math", 20: "all", 30: "chat"}
    assert matrix.phases == [("", 1), ("math", 1), ("all", 1), ("chat", 1)]
    assert matrix_of(*logs, trained={t: ["math", "chat"] for t in range(1, 31)}).phases == []
    assert matrix_of(*logs).trained == {}


def test_the_console_shows_the_matrix_as_a_table() -> None:
    phases = {t: ["math"] if t <= 10 else ["chat"] for t in range(1, 21)}
    matrix = matrix_of(
        results("math", 0.4, 0.6, 0.3), results("chat", 0.1, 0.1, math.nan), trained=phases
    )
    shown = io.StringIO()
    Console(True, 20, file=shown).show(console_table(matrix))
    assert [line.split() for line in shown.getvalue().splitlines()[1:]] == [
        ["step", "0", "10", "20"],
        ["trained", "before", "–", "math", "chat"],
        ["math", "0.400", "0.600*", "0.300!"],
        ["±0.020"] * 3,
        ["chat", "0.100", "0.100", "–"],
        ["±0.020"] * 2,
    ]
    Console(False, 20, file=shown).show(console_table(matrix))
    assert shown.getvalue().count("held-out") == 1


def test_the_report_shows_the_matrix_once_there_is_something_between(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=4)
    assert "Held-out reward over time" not in build_report(run).read_text()
    append_evaluations(run, [EvalResult(2, "chat", 0.9, 0.02, 64, 64, 20.0, 1.0, 0.0)])
    html = build_report(run).read_text()
    assert "Held-out reward over time" in html
    assert html.count('class="n forgotten"') == 1
    assert "↓ 0." in html
    assert "trained before" not in html


def test_the_report_names_the_best_checkpoint_and_survives_a_damaged_record(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=2)
    assert "best checkpoint" not in build_report(run).read_text()
    path = run / "checkpoints" / "best.json"
    path.parent.mkdir()
    record = {
        "path": "step_2",
        "scores": {"math": 0.5},
        "improvements": {"math": 0.1},
        "score": 0.3,
    }
    path.write_text(json.dumps(record))
    assert "step_2 (math 0.500, +0.100)" in build_report(run).read_text()
    path.write_text("{}")
    assert "checkpoints/best.json cannot be read" in build_report(run).read_text()


def test_scores_that_never_change_have_no_best() -> None:
    log = [EvalResult(step, "math", 0.0, 0.0, 8, 8, 20.0, 1.0, 0.0) for step in (0, 2, 4)]
    flat = evaluation_matrix(log, ["math"], 0.05, {})
    assert not any(cell.best for cell in flat.rows["math"] if cell)
    moved = evaluation_matrix([*log, replace(log[0], step=6, mean=0.1)], ["math"], 0.05, {})
    assert [cell.best for cell in moved.rows["math"] if cell] == [False, False, False, True]
