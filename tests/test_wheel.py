"""The wheel works from another folder: configurations and bundled models are inside."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.documented import files_of

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built wheel, unpacked as pip would into site-packages."""
    folder = tmp_path_factory.mktemp("wheel")
    build = f"import hatchling.build; hatchling.build.build_wheel({str(folder)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    assert wheel.stat().st_size < 10 * 2**20
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_everything_is_packaged(unpacked: Path) -> None:
    for name in (
        "py.typed",
        "configs/config.yaml",
        "configs/experiment/pocket_mgs.yaml",
        "assets/pocket_policy/model.safetensors",
        "assets/pocket_reward_model/model.safetensors",
        "report/templates/report.html.j2",
        "constraints/punkt_english.txt",
    ):
        assert (unpacked / "mgsrl" / name).is_file(), name
    assert not list(unpacked.rglob("tests"))


def test_it_runs_from_another_folder(unpacked: Path, tmp_path: Path) -> None:
    """Up to the actors: configuration, model, tokenizer, reward model and data are found."""
    code = (
        "import mgsrl, sys; assert mgsrl.__file__.startswith(sys.argv[1]), mgsrl.__file__\n"
        "from mgsrl.config.compose import compose_config\n"
        "from mgsrl.training.plan import plan\n"
        "ready = plan(compose_config([]))\n"
        "print(ready.model_path, {k: len(v) for k, v in ready.prompts.items()})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(unpacked)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert str(unpacked) in done.stdout


METHODS = """
import torch

def drop(gram_MDD):
    return (gram_MDD.sum(-1) >= 0).double()

def of_sequences(log_ratio_BL, advantages_B1, mask_BL):
    lengths_B1 = mask_BL.sum(-1, keepdim=True).clamp(min=1)
    ratio_B1 = (log_ratio_BL.sum(-1, keepdim=True) / lengths_B1).clamp(-20, 20).exp()
    return (-advantages_B1 * ratio_B1).expand_as(log_ratio_BL)

def leave_one_out(rewards_G, config):
    total, others = sum(rewards_G), len(rewards_G) - 1
    return [r - (total - r) / others for r in rewards_G]
"""


@pytest.mark.slow
def test_a_method_a_loss_and_an_estimator_from_outside_train(
    unpacked: Path, tmp_path: Path
) -> None:
    """Two ranks load the same file; what a resumed run finds changed is told."""

    def train(*more: str) -> str:
        command = (
            *("mgsrl.cli", "train", "rollout.engine=transformers", "learner.world_size=2"),
            *("run.dir=run", "trackers.wandb=disabled", "algo.updates_per_batch=2"),
            *("surgery.method=lab/mine.py:drop", "algo.loss=lab/mine.py:of_sequences"),
            "algo.advantage=lab.mine:leave_one_out",
        )
        done = subprocess.run(
            [sys.executable, "-m", *command, *more],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(unpacked)},
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    file = tmp_path / "lab" / "mine.py"
    file.parent.mkdir()
    file.write_text(METHODS)
    train("train.num_steps=1")
    run = tmp_path / "run"
    plugins = json.loads((run / "run.json").read_text())["plugins"]
    assert set(plugins) == {
        "lab/mine.py:drop",
        "lab/mine.py:of_sequences",
        "lab.mine:leave_one_out",
    }
    assert {plugin["file"] for plugin in plugins.values()} == {str(file)}
    file.write_text(METHODS + "\n# another opinion\n")
    text = train("train.num_steps=2")
    assert text.count("is not the code that the run had") == 3
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in metrics] == [1, 2]
    assert not any(row["skipped"] for row in metrics)


def in_folder(wheel: Path, folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """`mgsrl WORDS` of the unpacked wheel, in a folder of a user's."""
    return subprocess.run(
        [sys.executable, "-m", "mgsrl.cli", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(wheel), "WANDB_MODE": "disabled"},
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.fixture
def stories(tmp_path: Path) -> Path:
    """An empty folder with the three files of docs/own_domain.md."""
    files = files_of(ROOT / "docs" / "own_domain.md")
    assert list(files) == ["stories.jsonl", "stories.py", "stories.yaml"]
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_a_domain_of_ones_own_is_looked_at(unpacked: Path, stories: Path) -> None:
    seen = in_folder(unpacked, stories, "data", "inspect", "--config", "stories.yaml")
    assert seen.returncode == 0, seen.stderr
    assert "stories" in seen.stdout
    tried = in_folder(unpacked, stories, "doctor", "rewards", "--config", "stories.yaml")
    assert "checks pass" in tried.stdout, tried.stdout + tried.stderr
    row = {"prompt": "Write.", "response": "A big cat.", "words": ["big", "old"], "longest": 90}
    (stories / "in.jsonl").write_text(json.dumps(row))
    as_run = ("--as", "stories.yaml", "--whole-response")
    scored = in_folder(unpacked, stories, "score", "stories", "in.jsonl", "out.jsonl", *as_run)
    assert scored.returncode == 0, scored.stderr
    assert json.loads((stories / "out.jsonl").read_text())["reward"] == 0.5


@pytest.mark.slow
def test_a_domain_of_ones_own_is_trained(unpacked: Path, stories: Path) -> None:
    done = in_folder(unpacked, stories, "train", "--config", "stories.yaml", "run.dir=run")
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = [json.loads(line) for line in (stories / "run" / "metrics.jsonl").open()]
    assert len(metrics) == 3
    assert all(row["abstained/stories"] == 0 for row in metrics)
    assert any(row["reward/stories"] > 0 for row in metrics)
    record = json.loads((stories / "run" / "run.json").read_text())
    assert str(stories / "stories.py") in json.dumps(record), "the plug-in is not written down"
