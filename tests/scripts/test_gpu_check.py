"""The check of a GPU, on the CPU: what it finds wrong, it says; what it cannot try, it skips."""

import argparse
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "gpu_check.py"
if not SCRIPT.is_file():
    pytest.skip("the scripts are not beside the tests", allow_module_level=True)
sys.path.insert(0, str(SCRIPT.parent))

from gpu_checks import record as records  # noqa: E402
from gpu_checks import report, speed, updates  # noqa: E402
from gpu_checks.record import GIB, Record, Setting, relative  # noqa: E402

FORBIDDEN = """
import importlib.abc, importlib.machinery, os, sys

class Forbidden(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("ray", "vllm"):
            return importlib.machinery.ModuleSpec(name, self)

    def exec_module(self, module):
        with open(os.environ["FORBIDDEN_IMPORTS"], "a") as file:
            file.write(module.__name__ + "\\n")
        raise ImportError(f"{module.__name__} is not for the learner's part")

sys.meta_path.insert(0, Forbidden())
"""


def test_a_failed_check_is_recorded_and_hides_no_other(tmp_path: Path) -> None:
    record = Record("kernels", tmp_path / "kernels.json")
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
    children = report.Children(SCRIPT, argparse.Namespace(quick=True), tmp_path)
    figures = children.finish("kernels", done, 0.1)
    assert [figure["name"] for figure in figures[:5]] == [figure["name"] for figure in found]
    assert figures[-1]["found"] == "killed after 0 s"
    assert not figures[-1]["passed"]


def test_errors_of_long_rows_are_summed_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    expected = torch.randn(5, 21)
    found = expected + 1e-3 * torch.randn(5, 21)
    whole = (found.double() - expected.double()).norm() / expected.double().norm()
    for piece in (1 << 26, 16, 1):
        monkeypatch.setattr(records, "PIECE", piece)
        assert relative(found, expected) == pytest.approx(whole.item(), rel=1e-12)
    assert math.isnan(relative(found * math.nan, expected))
    assert math.isnan(relative(found, torch.zeros(5, 21)))


def test_a_step_without_memory_is_tried_by_a_worker_that_did_not_break_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: set[object] = set()
    tries: list[int] = []

    def start(*_: object, **__: object) -> object:
        assert not alive
        worker = SimpleNamespace(name=f"worker {len(tries)}")
        worker._engine = SimpleNamespace(destroy=lambda: alive.remove(worker.name))
        alive.add(worker.name)
        return worker

    def step(_setting: object, _worker: object, size: int, _step: int) -> None:
        tries.append(size)
        if size > 2:
            raise torch.OutOfMemoryError

    monkeypatch.setattr(speed, "start_worker", start)
    monkeypatch.setattr(speed, "timed_step", step)
    monkeypatch.setattr(speed, "packed", lambda _load, _groups, size: size)
    setting = Setting(torch.device("cpu"), True, tmp_path)
    record = Record("speed", tmp_path / "speed.json")
    load = speed.Load("tiny", 8, prompts=1, samples=1, prompt_tokens=2, response_tokens=2)
    worker, batch, size = speed.warmed_up(setting, record, load, tmp_path, 300)
    assert (worker.name, batch, size) == ("worker 2", 2, 2)
    assert tries == [8, 4, 2]
    assert alive == {"worker 2"}


def test_a_plan_may_be_off_by_what_libraries_take() -> None:
    assert speed.room(20 * GIB) == GIB
    assert speed.room(GIB // 2) == 0.1 * GIB


def test_what_the_cpu_had_time_for_is_compared(tmp_path: Path) -> None:
    assert updates.kept(tmp_path) == {}
    for results in ({"stage 0": {"norms": [1.0]}}, {"stage 0": {"norms": [1.0]}, "stage 2": {}}):
        updates.keep(results, tmp_path)
        assert updates.kept(tmp_path) == results
    assert [path.name for path in tmp_path.iterdir()] == ["reference.pt"]


@pytest.mark.parametrize(
    ("device", "sees", "there", "said"),
    [
        (None, True, True, ""),
        (None, False, False, ""),
        (None, False, True, "THIS MACHINE HAS A GPU, AND TORCH"),
        ("cpu", False, True, ""),
        ("cuda", False, True, "torch sees no GPU here"),
        ("cuda", True, True, ""),
    ],
)
def test_a_gpu_that_torch_does_not_see_is_no_success(
    device: str | None, sees: bool, there: bool, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: sees)
    monkeypatch.setattr("mgsrl.cluster.preflight.has_gpu_device", lambda: there)
    found = report.obstacle(device)
    assert found.startswith(said) if said.isupper() else said in found
    assert bool(found) == bool(said)


def test_the_command_ends_with_2_where_torch_does_not_see_the_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("mgsrl.cluster.preflight.has_gpu_device", lambda: True)
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--quick"])
    with pytest.raises(SystemExit) as ended:
        report.main("", SCRIPT)
    assert ended.value.code == 2
    assert "nothing was checked" in capsys.readouterr().err


def test_packages_that_are_missing_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(report.LEARNER, "no_such_module", "its-package")
    assert report.obstacle("cpu").startswith("missing: its-package")


def test_what_is_skipped_says_why() -> None:
    section = report.Section("c", lambda *_: None, 1.0, ("json", "no_such_package"))
    assert section.reason_to_skip(False, 0.0) == "no_such_package not installed"
    quick = report.Section("d", lambda *_: None, 1.0, ("json",), in_quick=False)
    assert "--only" in quick.reason_to_skip(True, 0.0)
    assert quick.reason_to_skip(False, 0.0) == ""
    assert quick.reason_to_skip(False, 500.0) == "500 s are over"
    named = {name.split()[0] for name in report.sections("cuda", False)}
    assert named == set(report.NAMES)
    learner = [s for s in report.sections("cuda", False).values() if s.part == "a"]
    assert all(not section.needs for section in learner)


def test_it_ends_within_eight_minutes_whatever_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    over = 0.0

    class Hanging:
        start = staticmethod(lambda *_: SimpleNamespace(kill=lambda: None))

        def finish(self, section: str, process: object, limit_s: float) -> list[dict[str, Any]]:
            nonlocal over
            over += limit_s
            return []

    monkeypatch.setattr(report, "time", SimpleNamespace(perf_counter=lambda: over))
    options = argparse.Namespace(device="cuda", quick=False, only=None)
    report.run_sections(options, Hanging())  # type: ignore[arg-type]
    assert 440 < over < 480


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_quick_check_passes_on_the_cpu_without_ray_and_vllm(tmp_path: Path) -> None:
    output, forbidden = tmp_path / "check.json", tmp_path / "imports"
    (tmp_path / "sitecustomize.py").write_text(FORBIDDEN)
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--device", "cpu", "--quick", "--out", str(output)],
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
            "FORBIDDEN_IMPORTS": str(forbidden),
        },
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not forbidden.exists(), forbidden.read_text()
    found = json.loads(output.read_text())
    assert {"card", "torch", "transformers", "deepspeed"} <= set(found)
    checks = [figure for figure in found["figures"] if figure["expected"]]
    assert all(figure["passed"] for figure in checks)
    by_section = dict.fromkeys(report.NAMES, 0)
    for figure in checks:
        by_section[figure["section"].split()[0]] = by_section.get(figure["section"], 0) + 1
    assert by_section["kernels"] > 20
    assert by_section["updates"] > 25
    assert by_section["forward"] > 0
    assert by_section["engines"] > 3
    skipped = {f["section"]: f["found"] for f in found["figures"] if f["found"] == str(f["found"])}
    assert skipped["vllm"].startswith("skipped: ")
    assert skipped["run"].startswith("skipped: ")
