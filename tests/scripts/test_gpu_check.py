"""The check of the learner on a GPU, on the CPU: what it finds wrong, it says."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "gpu_check.py"
if not SCRIPT.is_file():
    pytest.skip("the scripts are not beside the tests", allow_module_level=True)

TWO_UPDATES = f"""
import json, sys
from pathlib import Path
sys.path.insert(0, {str(SCRIPT.parent)!r})
import gpu_check, torch
chosen = ("stage 2", "adapters, stage 2")
every = gpu_check.trials(True)
gpu_check.trials = lambda quick: {{name: every[name] for name in chosen}}
setting = gpu_check.Setting(torch.device("cpu"), True, Path(sys.argv[1]))
for section in ("reference", "updates"):
    gpu_check.SECTIONS[section](setting, gpu_check.Record(section, setting.scratch / "found.json"))
"""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=280, check=False
    )


def test_a_failed_check_is_recorded_and_hides_no_other(tmp_path: Path) -> None:
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        import gpu_check
    finally:
        sys.path.pop(0)
    record = gpu_check.Record("kernels", tmp_path / "kernels.json")
    record.at_most("small", 0.1, 0.2)
    record.at_most("nan", math.nan, 0.2)
    with record.caught("broken"):
        raise ValueError("no such kernel")
    record.equal("same", [1], [1])
    record.measure("speed", 3.0, "s")
    found = json.loads((tmp_path / "kernels.json").read_text())
    assert [figure["passed"] for figure in found] == [True, False, False, True, True]
    assert found[2]["found"] == "ValueError: no such kernel"
    assert found[1]["expected"] == "at most 0.2"
    done = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    (tmp_path / "kernels.log").write_text("began\n")
    figures = gpu_check.finish("kernels", done, 0.1, tmp_path)
    assert [figure["name"] for figure in figures[:5]] == [figure["name"] for figure in found]
    assert figures[-1]["found"] == "killed after 0 s"
    assert not figures[-1]["passed"]


@pytest.mark.slow
def test_kernels_pass_on_the_cpu(tmp_path: Path) -> None:
    output = tmp_path / "check.json"
    options = ("--device", "cpu", "--quick", "--only", "kernels", "--out", str(output))
    done = run(str(SCRIPT), *options)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(output.read_text())
    assert {"card", "torch", "transformers", "deepspeed"} <= set(found)
    checks = [figure for figure in found["figures"] if figure["expected"]]
    assert len(checks) > 20
    assert all(figure["passed"] for figure in checks)


@pytest.mark.slow
def test_updates_pass_on_the_cpu(tmp_path: Path) -> None:
    done = run("-c", TWO_UPDATES, str(tmp_path))
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert all(figure["passed"] for figure in found), found
    assert sum("textbook" in figure["name"] for figure in found) == 2
