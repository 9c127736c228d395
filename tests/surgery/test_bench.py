"""The benchmark script runs and reports what it promises, on a small problem."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bench_surgery.py"
SMALL = ["--layers", "2", "--vocab", "512", "--repeats", "1", "--loop-repeats", "1"]


def test_prints_a_table_and_writes_its_figures(tmp_path: Path) -> None:
    if not SCRIPT.is_file():
        pytest.skip("the scripts are not beside the tests")
    output = tmp_path / "figures.json"
    command = [sys.executable, str(SCRIPT), *SMALL, "--json", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert "speedup_over_loop" in done.stdout
    figures = json.loads(output.read_text())
    for key in ("speedup_over_loop", "ratio_to_memory_traffic", "seconds", "loop_seconds"):
        assert figures[key] > 0
    assert figures["extra_bytes"] < 2**30  # of the whole process, for a problem of a few MiB
    assert len(figures["processor"]) > 3
    assert {row["grows"] for row in figures["growth"]} == {"domains", "parameters", "modules"}
    assert [row["domains"] for row in figures["growth"]][:7] == [2, 3, 4, 5, 6, 7, 8]
