"""A slice of the trials of faults; all of them are `scripts/fault_trials.py`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "fault_trials.py"


@pytest.mark.ray_cluster
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_kind_of_process_is_killed_and_the_run_is_the_same(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    command = [sys.executable, str(SCRIPT), "--kinds", "reward model", "--moments", "1"]
    command += ["--folder", str(tmp_path / "runs"), "--results", str(results)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=800, env=os.environ)
    assert done.returncode == 0, done.stdout + done.stderr
    (trial,) = map(json.loads, results.read_text().splitlines())
    assert trial["kills"] == 1
    assert trial["problems"] == []
    assert "| reward model | 1 in 6 |" in done.stdout
    again = subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ)
    assert again.returncode == 0
    assert len(results.read_text().splitlines()) == 1, "what is done is not done again"
