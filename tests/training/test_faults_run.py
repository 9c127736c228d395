"""Whole runs whose disk fills, whose checkpoints or weights go, or whose Ray dies under them."""

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from mgsrl.config.model_path import ASSETS, POCKET_POLICY
from mgsrl.training.checkpoint import checkpoint_steps
from tests.training import runs

pytestmark = [pytest.mark.ray_cluster, pytest.mark.slow, pytest.mark.timeout(900)]
ENDS_WITHIN_S = 30.0
"""What `cluster/watch.py` promises (3 s), on a machine with other things to do; Ray takes 60 s."""


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two steps on a copy of the pocket policy, `policy` beside it."""
    folder = tmp_path_factory.mktemp("runs")
    shutil.copytree(ASSETS / POCKET_POLICY, folder / "policy")
    runs.train(folder / "run", "train.num_steps=2", f"policy.path={folder / 'policy'}")
    return folder / "run"


def _refused(folder: Path, policy: Path, *overrides: str) -> str:
    """The message with which the run is refused; nothing in its folder may change."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    folder.with_suffix(".log").unlink(missing_ok=True)
    process = runs.start(folder, f"policy.path={policy}", *overrides)
    assert process.wait(timeout=120) == 2
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert {k: v for k, v in after.items() if k.name != "config.yaml"} == {
        k: v for k, v in before.items() if k.name != "config.yaml"
    }
    output = folder.with_suffix(".log").read_text()
    assert "Traceback" not in output
    return output


def _record(folder: Path) -> dict[str, object]:
    record: dict[str, object] = json.loads((folder / "run.json").read_text())
    return record


def test_a_run_that_lost_its_checkpoints_is_not_begun_again(
    two_steps: Path, tmp_path: Path
) -> None:
    folder, policy = tmp_path / "run", two_steps.parent / "policy"
    shutil.copytree(two_steps, folder)
    for shard in folder.glob("checkpoints/*/learner/*.safetensors"):
        shard.write_bytes(shard.read_bytes()[:-100])
    message = _refused(folder, policy, "train.num_steps=4")
    assert "No checkpoint in" in message
    shutil.rmtree(folder / "checkpoints")
    message = _refused(folder, policy, "train.num_steps=2")
    for way in ("2 steps are logged", "step_2", "resume=PATH", "resume=never"):
        assert way in message


def test_a_run_is_not_resumed_on_other_weights(two_steps: Path, tmp_path: Path) -> None:
    policy = two_steps.parent / "policy"
    tensors = load_file(policy / "model.safetensors")
    kept = (policy / "model.safetensors").read_bytes()
    name = sorted(tensors)[3]
    save_file(tensors | {name: tensors[name] * 1.01}, policy / "model.safetensors")
    assert "other weights" in _refused(two_steps, policy, "train.num_steps=3")
    (policy / "model.safetensors").write_bytes(kept)


def test_a_full_disk_costs_checkpoints_and_not_the_training(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o"]
    if subprocess.run([*mount, "size=20m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        folder = disk / "run"
        process = runs.start(folder, "train.num_steps=4")
        assert process.wait(timeout=300) == 1
        output = folder.with_suffix(".log").read_text()
        assert "Traceback" not in output
        for step in (2, 3):
            assert f"checkpoint {step} was not begun" in output
        assert output.count("training goes on, the newest checkpoint is step_1") == 2
        assert output.splitlines()[-1].startswith("mgsrl: StorageError: checkpoint 4 was not begun")
        assert _record(folder)["status"] == "failed"
        assert runs.steps_done(folder) == 4
        subprocess.run([*mount, "remount,size=90m", "tmpfs", str(disk)], check=True)
        runs.train(folder, "train.num_steps=4")
        assert _record(folder)["status"] == "finished"
        assert runs.steps_done(folder) == 4
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def _killed(folder: Path, name: str, *overrides: str) -> subprocess.Popen[str]:
    """A run one of whose Ray's own processes is killed after its first step."""
    process = runs.start(folder, *overrides)
    runs.wait_for(lambda: runs.steps_done(folder) >= 1, "step 1")
    (victim,) = [child for child in psutil.Process(process.pid).children() if child.name() == name]
    victim.kill()
    return process


def test_a_run_that_is_stopped_within_a_step_ends_as_one_that_was_not(tmp_path: Path) -> None:
    options = ("train.num_steps=12", "checkpoint.every=0", "rollout.staleness=1")
    runs.train(tmp_path / "whole", *options)
    folder = tmp_path / "stopped"
    process = runs.start(folder, *options)
    runs.wait_for(lambda: runs.steps_done(folder) >= 2, "two steps")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=180) == 1
    (saved,) = checkpoint_steps(folder / "checkpoints")
    assert saved == runs.steps_done(folder) < 12
    assert f"the last whole step is saved: checkpoints/step_{saved}\n" in _said(folder)
    runs.train(folder, *options)
    assert runs.metrics(folder) == runs.metrics(tmp_path / "whole")
    assert runs.trained(folder, 12) == runs.trained(tmp_path / "whole", 12)


def _said(folder: Path) -> str:
    return folder.with_suffix(".log").read_text()


def test_the_death_of_ray_is_told_and_recorded_within_seconds(tmp_path: Path) -> None:
    folder, name = tmp_path / "run", "gcs_server"
    process = _killed(folder, name, "train.num_steps=50", "learner.max_restarts=0")
    begin = time.monotonic()
    assert process.wait(timeout=180) == 1
    assert time.monotonic() - begin < ENDS_WITHIN_S
    output = folder.with_suffix(".log").read_text()
    assert f"Ray's {name} died" in output
    assert "learner.max_restarts (now 0)" in output
    record = _record(folder)
    assert record["status"] == "failed"
    sessions = record["sessions"]
    assert isinstance(sessions, list)
    assert f"Ray's {name} died" in sessions[-1]["error"]


def test_a_run_whose_ray_dies_begins_again_in_its_place(two_steps: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    policy = f"policy.path={two_steps.parent / 'policy'}"
    process = _killed(folder, "raylet", "train.num_steps=2", "resume=never", policy)
    family = runs.descendants(process)
    assert process.wait(timeout=300) == 0
    runs.none_left(family)
    output = folder.with_suffix(".log").read_text()
    assert "Ray's raylet died" in output
    assert "mgsrl: it does so now (restart 1 of at most 3 within 100 steps)" in output
    statuses = [session["status"] for session in _record(folder)["sessions"]]  # type: ignore[attr-defined]
    assert statuses == ["failed", "finished"]
    assert runs.metrics(folder) == runs.metrics(two_steps)


def test_sigterm_is_called_sigterm_also_while_actors_start(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    log = folder.with_suffix(".log")
    process = runs.start(folder, "train.num_steps=50")
    runs.wait_for(lambda: log.exists() and "starting learners" in log.read_text(), "the learners")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=180) == 1
    assert log.read_text().splitlines()[-1] == "mgsrl: stopped by SIGTERM"
    record = _record(folder)
    assert record["status"] == "interrupted"
    assert record["sessions"][-1]["error"] == "stopped by SIGTERM"  # type: ignore[index]


def test_a_run_that_skips_every_step_says_why_and_stops(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = runs.start(
        folder, "train.num_steps=9", "train.max_skipped_steps=2", "algo.kl_coef=1e39"
    )
    assert process.wait(timeout=240) == 1
    output = folder.with_suffix(".log").read_text()
    assert "step 1 skipped: a gradient is not finite" in output
    assert "NoUpdateError: 2 steps in a row had no finite update to make" in output
    assert "train.max_skipped_steps" in output
    assert [row["skipped"] for row in runs.metrics(folder)] == [1, 1]
    assert torch.isfinite(
        torch.tensor([row["sync/canary_error"] for row in runs.metrics(folder)])
    ).all()
