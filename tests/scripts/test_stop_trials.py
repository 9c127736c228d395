"""A slice of the trials of what stops a run or fills its disk: `scripts/stop_trials.py`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "stop_trials.py"
sys.path.insert(0, str(SCRIPT.parent))


def test_the_table_shows_all_that_a_run_said() -> None:
    """The command to go on with is a long line, and the last but one."""
    stop_trials = pytest.importorskip("stop_trials", reason="the scripts are not beside the tests")
    said = [f"{number}: mgsrl train {'key=value ' * 40}end" for number in range(20)]
    table = stop_trials.table([stop_trials.Trial("Ctrl-C", said)])
    assert all(line in table for line in said)


@pytest.mark.ray_cluster
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_disk_that_is_full_for_a_while_costs_nothing(tmp_path: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk")
    subprocess.run(["umount", str(tmp_path)], check=True)
    case, results = "the disk is full for a while", tmp_path / "results.jsonl"
    command = [sys.executable, str(SCRIPT), "--cases", case, "--results", str(results)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stdout + done.stderr
    (trial,) = map(json.loads, results.read_text().splitlines())
    assert trial["problems"] == []
    said = "\n".join(trial["said"])
    assert "could not be written: No space left on device; training goes on" in said
    assert "the disk takes files again: all that was logged meanwhile is written" in said
    assert f"checkpoints/step_{trial['steps']}" in said
