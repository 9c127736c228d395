"""What a run does with its evaluations: forgetting said once, the best checkpoint kept."""

import io
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mgsrl.config import CheckpointConfig, EvaluateConfig, SurgeryConfig, TrackersConfig
from mgsrl.evaluate.pareto import best_step
from mgsrl.obs.console import Console
from mgsrl.obs.evaluation_log import EvalResult, append_evaluations, read_evaluations
from mgsrl.obs.rewind import rewind_logs
from mgsrl.obs.tracker import TrackedRun, Tracker, Trackers
from mgsrl.obs.trackers import TensorBoardTracker
from mgsrl.training.checkpoint import (
    checkpoint_steps,
    prune_checkpoints,
    set_others_aside,
)
from mgsrl.training.evaluation import Evaluation
from mgsrl.training.export import export_model
from mgsrl.training.journal import Journal
from tests.checkpoints import save_checkpoint
from tests.training import runs

REWARDS = {
    0: (0.4, 0.3),
    2: (0.5, 0.4),
    4: (0.9, 0.8),
    6: (0.5, 0.5),
    8: (0.1, 0.6),
    10: (0.6, 0.6),
}
"""Step -> held-out reward of math and chat."""


KEEP_ONE = CheckpointConfig(every=2, keep=1)


def part_in(
    folder: Path,
    checkpoints: CheckpointConfig = KEEP_ONE,
    every: int = 2,
    trackers: Sequence[Tracker] = (),
) -> tuple[Evaluation, io.StringIO]:
    """A run's evaluation without workers, and what its console shows."""
    shown = io.StringIO()
    console = Console(False, 9, file=shown)
    journal = Journal(folder, console, SurgeryConfig(), TrackersConfig(), lambda *_: Trackers([]))
    journal.trackers = Trackers(trackers)
    nobody: Any = None
    prompts: Any = {"math": ["a prompt"], "chat": ["a prompt"]}
    config = EvaluateConfig(every=every)
    return Evaluation(config, checkpoints, prompts, {}, nobody, nobody, journal), shown


def evaluate(part: Evaluation, step: int) -> None:
    results = [
        EvalResult(step, domain, mean, 0.02, 64, 64, 20.0, 1.0, 0.0)
        for domain, mean in zip(("math", "chat"), REWARDS[step])
    ]
    append_evaluations(part.journal.folder, results)
    part.watch_forgetting(step)


def save(part: Evaluation, step: int) -> None:
    """What the `Saver` of a run does, with a file instead of learners."""
    folder = part.journal.folder / "checkpoints"
    save_checkpoint(folder, step, {}, lambda path: (path / "shard").write_bytes(b"weights"))
    best = part.find_best()
    prune_checkpoints(folder, part.checkpoints.keep, best.step if best else None)


def named_best(folder: Path) -> int:
    return json.loads((folder / "checkpoints" / "best.json").read_text())["step"]


def test_the_best_outlives_newer_ones_also_across_a_resume(tmp_path: Path) -> None:
    part, _ = part_in(tmp_path)
    for step in (0, 2, 4, 6):
        evaluate(part, step)
        if step:
            save(part, step)
    assert checkpoint_steps(tmp_path / "checkpoints") == [4, 6]
    part, _ = part_in(tmp_path)  # another process: it knows what the folder knows
    for step in (8, 10):
        evaluate(part, step)
        save(part, step)
    assert checkpoint_steps(tmp_path / "checkpoints") == [4, 10]
    assert named_best(tmp_path) == 4


def test_going_on_from_before_the_best_forgets_it(tmp_path: Path) -> None:
    part, _ = part_in(tmp_path, checkpoints=CheckpointConfig(every=2, keep=0))
    for step in (0, 2, 4):
        evaluate(part, step)
        if step:
            save(part, step)
    assert named_best(tmp_path) == 4
    set_others_aside(tmp_path / "checkpoints", 2, print)
    rewind_logs(tmp_path, next_step=3, weight_version=2)
    part.find_best()
    assert named_best(tmp_path) == 2


def test_without_keep_best_the_newest_are_all(tmp_path: Path) -> None:
    part, _ = part_in(tmp_path, checkpoints=CheckpointConfig(every=2, keep=1, keep_best=False))
    for step in (0, 2, 4, 6):
        evaluate(part, step)
        if step:
            save(part, step)
    assert checkpoint_steps(tmp_path / "checkpoints") == [6]
    assert not (tmp_path / "checkpoints" / "best.json").exists()


def test_forgetting_is_said_when_entered_and_goes_to_the_trackers(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    lines = []
    for step in REWARDS:  # every step in a process of its own
        tracker = TensorBoardTracker(TrackedRun(tmp_path, next_step=step))
        part, shown = part_in(tmp_path, trackers=[tracker])
        evaluate(part, step)
        part.journal.trackers.close()
        lines += shown.getvalue().splitlines()
        time.sleep(1.1)  # event files are read in the order of their names, which hold seconds
    assert [line.split(" (")[0].split("at step")[-1] for line in lines] == [" 6", " 6"]
    assert lines[0].startswith("forgetting: held-out math fell by 0.400 ± 0.028, from 0.900")
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    rewards = {event.step: event.value for event in events.Scalars("evaluate/reward/math")}
    assert rewards == pytest.approx({step: pair[0] for step, pair in REWARDS.items()})
    drops = [event.value for event in events.Scalars("evaluate/forgetting/chat")]
    assert drops == pytest.approx([0, 0, 0, 0.3, 0.2, 0.2])


@pytest.mark.parametrize(
    ("evaluate_every", "save_every", "noted"),
    [(2, 2, False), (2, 4, False), (2, 3, False), (4, 3, True), (3, 7, True), (0, 3, False)],
)
def test_a_rhythm_that_keeps_no_best_is_said(
    evaluate_every: int, save_every: int, noted: bool, tmp_path: Path
) -> None:
    part, shown = part_in(tmp_path, CheckpointConfig(every=save_every), every=evaluate_every)
    part.note_rhythm(10)
    assert ("meet at the last step only" in shown.getvalue()) == noted


OVERRIDES = (
    "evaluate.every=2",
    "evaluate.prompts_per_domain=32",
    "checkpoint.every=2",
    "checkpoint.keep=1",
    "learner.optimizer.lr=0.01",
)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A learning rate that ruins the model: the first checkpoint is the best, and stays."""
    folder = tmp_path_factory.mktemp("runs") / "broken"
    runs.train(folder, "train.num_steps=4", *OVERRIDES, pictures=True)
    return folder


@pytest.mark.ray_cluster
@pytest.mark.timeout(600)
def test_a_policy_that_breaks_is_told_and_shown(broken: Path) -> None:
    output = broken.with_suffix(".log").read_text()
    assert [r.step for r in read_evaluations(broken) if r.domain == "chat"] == [0, 2, 4]
    assert "forgetting: held-out chat fell by" in output
    nearest = "no checkpoint is better than the policy before training; the nearest is step_2"
    assert f"{nearest} (since the first evaluation: math " in output
    table = output[output.index("held-out reward by step") :].splitlines()
    assert table[1].split() == ["step", "0", "2", "4"]
    assert table[2].split()[-1] == "0.000!"
    html = (broken / "report.html").read_text()
    assert "Held-out reward over time" in html
    assert "↓ 0.000" in html
    assert checkpoint_steps(broken / "checkpoints") == [2, 4]


@pytest.mark.ray_cluster
@pytest.mark.timeout(600)
def test_the_best_is_exported_with_its_weights(broken: Path, tmp_path: Path) -> None:
    path = export_model(broken, tmp_path / "best", best=True)
    exported = load_file(path / "model.safetensors")
    for step, same in ((2, True), (4, False)):
        shard = load_file(broken / f"checkpoints/step_{step}/learner/rank_0.safetensors")
        masters = {k.split("|")[0]: v for k, v in shard.items() if k.endswith("|master")}
        found = [torch.equal(value.flatten(), masters[k]) for k, value in exported.items()]
        assert all(found) == same


@pytest.mark.slow
@pytest.mark.ray_cluster
@pytest.mark.timeout(600)
def test_the_best_outlives_a_real_resume(broken: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(broken, tmp_path / "run"))
    runs.train(folder, "train.num_steps=6", *OVERRIDES)
    assert checkpoint_steps(folder / "checkpoints") == [2, 6]
    best = best_step(read_evaluations(folder), (2, 4, 6))
    assert best is not None
    assert best.step == named_best(folder) == 2
