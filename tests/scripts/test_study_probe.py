"""The table of tried steps on the testbed: what is taken off, what is told apart."""

import sys
from pathlib import Path

import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import study_probe


def probes() -> pd.DataFrame:
    """One step of two domains; momentum alone lowers every loss by 1, by 0.5 to first order."""
    rows = []
    trials = [("idle", ""), ("own", "a"), ("own", "b"), ("resolved", "")]
    for trial, of in trials:
        for on in "ab":
            own = trial == "own" and of == on
            first = -0.5 + (-2.0 if own else 0.25 if trial == "own" else 0.0)
            rows.append((6, trial, of, on, first - 0.5 + (0.125 if trial == "own" else 0), first))
    return pd.DataFrame(rows, columns=["step", "trial", "of", "on", "change", "predicted"])


def test_momentum_is_taken_off_and_what_is_beyond_first_order_is_told_apart() -> None:
    found = study_probe.kinds(probes())
    means = {
        kind: [rows[column].mean() for column in ("predicted", "curvature", "change")]
        for kind, rows in found.items()
    }
    assert means["own step, own loss"] == pytest.approx([-2.0, 0.125, -1.875])
    assert means["own step, others' losses"] == pytest.approx([0.25, 0.125, 0.375])
    assert means["resolved step"] == pytest.approx([0.0, 0.0, 0.0])
    assert means["resolved step with momentum"] == pytest.approx([-0.5, -0.5, -1.0])


def test_what_is_run_is_probed_at_every_position(tmp_path: Path) -> None:
    planned = study_probe.plan(tmp_path, seeds=[0])
    assert list(planned) == [0.0, 0.5, 1.0]
    for position, cells in planned.items():
        assert [cell.arm for cell in cells] == ["mixed", "mgs"]
        assert {c.config.surgery.step_probe.every for c in cells} == {study_probe.EVERY}
        assert {c.config.domains["commas"].reward.options.conflict for c in cells} == {position}
    assert study_probe.table(tmp_path).count("\n") == 2, "no run, no row"
