"""A run with a tracker from outside the package, wandb offline, TensorBoard and no matplotlib."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mgsrl.obs.completions import COLUMNS
from tests.training import runs

TRACKER = """
import json
from mgsrl.obs.tracker import Tracker

class Mine(Tracker):
    def __init__(self, run):
        self.file = (run.folder / "mine.jsonl").open("a")
        self.say("run", run.name, run.config["seed"], run.next_step)

    def say(self, *what):
        print(json.dumps(what), file=self.file)

    def log(self, step, scalars):
        self.say("log", step, sorted(scalars))

    def evaluation(self, step, scalars):
        self.say("evaluation", step, sorted(scalars))

    def completions(self, step, rows):
        self.say("completions", step, rows)

    def close(self):
        self.say("close")
        self.file.close()
"""


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder on every process's path, with the user's module."""
    folder = tmp_path / "beside"
    (folder / "mylab").mkdir(parents=True)
    (folder / "mylab" / "trackers.py").write_text(TRACKER)
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=":")
    monkeypatch.setenv("WANDB_MODE", "offline")


@pytest.mark.usefixtures("beside")
@pytest.mark.slow
def test_a_run_with_all_trackers_and_without_matplotlib(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    folder = tmp_path / "run"
    output = runs.train(
        folder,
        "train.num_steps=2",
        "trackers.wandb=online",  # the environment is quieter
        "trackers.wandb_tags=[pocket,first]",
        "trackers.tensorboard=true",
        "trackers.also=[mylab.trackers:Mine]",
        "trackers.completions={every: 2, console_every: 1, per_domain: 1}",
    )
    assert output.splitlines()[-1].endswith('; report not written: pip install "mgsrl[report]"')
    assert output.count("mgsrl[report]") == 1
    assert not (folder / "report.html").exists()
    assert "wandb" not in output
    heads = [line for line in output.splitlines() if "... response" in line]
    assert [line.split()[:2] for line in heads] == [["step", "1"], ["step", "2"]]

    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["timestamp"] < rows[1]["timestamp"]
    for row in rows:
        for domain in ("math", "chat", "instruction_following"):
            assert row[f"reward_min/{domain}"] <= row[f"reward/{domain}"]
            assert row[f"reward/{domain}"] <= row[f"reward_max/{domain}"]
            same = row[f"reward_min/{domain}"] == row[f"reward_max/{domain}"]
            assert (row[f"reward_std/{domain}"] > 1e-9) is not same

    _mine_saw_it(folder, rows)
    _wandb_saw_it(folder, rows)
    command = [sys.executable, "-m", "mgsrl.cli", "report", str(folder)]
    page = subprocess.run(command, capture_output=True, text=True, env=runs.without_pictures())
    assert page.returncode == 2
    assert 'to do:    pip install "mgsrl[report]"' in page.stderr
    assert "Traceback" not in page.stderr


def _mine_saw_it(folder: Path, rows: list[dict[str, float]]) -> None:
    seen = [json.loads(line) for line in (folder / "mine.jsonl").read_text().splitlines()]
    kinds = [(kind, *rest[:1]) for kind, *rest in seen]
    assert kinds == [
        ("run", "run"),
        ("evaluation", 0),
        ("log", 1),
        ("completions", 1),
        ("log", 2),
        ("evaluation", 2),
        ("close",),
    ]
    assert seen[0] == ["run", "run", 0, 1]
    assert set(seen[2][2]) == rows[0].keys() - {"step", "timestamp"}
    shown = seen[3][2]
    assert [row["domain"] for row in shown] == ["math", "chat", "instruction_following"]
    assert all(set(row) == set(COLUMNS) for row in shown)
    stored = json.loads((folder / "rollouts" / "step_000001.jsonl").read_text().splitlines()[0])
    assert shown[0]["response"] == stored["response"]


def _wandb_saw_it(folder: Path, rows: list[dict[str, float]]) -> None:
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    (run,) = [record["run"] for record in records if record["type"] == "run"]
    assert run["tags"] == ["pocket", "first"]
    assert run["config"]["update"]["train"]["num_steps"] == 2
    history = [record["history"]["item"] for record in records if record["type"] == "history"]
    assert [row["_step"] for row in history] == [0, 1, 2]
    for row, logged in zip(history[1:], rows, strict=True):
        assert row["reward/math"] == pytest.approx(logged["reward/math"])
    assert ["completions.nrows" in row for row in history] == [False, True, False]
    assert any(record["type"] == "stats" for record in records)
