"""The benchmark of the rewards runs and reports what it promises, on a few rows."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bench_rewards.py"


@pytest.mark.slow
def test_prints_a_table_and_writes_its_figures(tmp_path: Path) -> None:
    if not SCRIPT.is_file():
        pytest.skip("the scripts are not beside the tests")
    output = tmp_path / "figures.json"
    command = [sys.executable, str(SCRIPT), "--rows", "60", "--hostile-every", "50"]
    done = subprocess.run(
        [*command, "--json", str(output)], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "rows/s" in done.stdout
    figures = json.loads(output.read_text())
    assert set(figures) == {"math", "math + hostile", "constraints"}
    assert figures["math + hostile"]["max_ms"] >= 5000  # the time limit
    assert figures["math"]["max_ms"] < 5000
