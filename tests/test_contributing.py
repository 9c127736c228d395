"""The worked examples of CONTRIBUTING.md: their tests pass, and a run trains with all of them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documented import ROOT
from tests.training import runs

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"(?ms)^```python\n# (\w+\.py)\n(.*?)^```", PAGE))
TESTS = sorted(name for name in FILES if name.startswith("test_"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_every_example_has_its_test() -> None:
    parts = {name for name in FILES if not name.startswith("test_")}
    assert {f"test_{name}" for name in parts} == set(TESTS)
    assert len(parts) >= 3


@pytest.mark.parametrize("name", TESTS)
def test_an_example_does_what_it_says(name: str, folder: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", "--rootdir", ".", name]
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


@pytest.mark.slow
@pytest.mark.ray_cluster
@pytest.mark.timeout(400)
def test_a_run_trains_with_all_of_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    rows = "".join(f'{{"question": "What is {n} + 1?", "result": {n + 1}}}\n' for n in range(8))
    (folder / "sums.jsonl").write_text(rows)
    domain = (
        "+domains.sums={source: {kind: task, path: sums.py:TASK}, "
        "reward: {kind: brevity.py:Brevity, longest: 40}}"
    )
    runs.train(folder / "run", domain, "surgery.method=drop.py:drop", "train.num_steps=1")
    (row,) = runs.metrics(folder / "run")
    assert {"reward/sums", "reward/math"} <= set(row)
