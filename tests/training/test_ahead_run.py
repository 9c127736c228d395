"""Whole runs whose rollouts are ahead of the learners: to the bit, faster, and safe from faults."""

import json
import shutil
import signal
from pathlib import Path
from statistics import median

import pytest

from mgsrl.training.in_flight import FILE
from tests.capabilities import of_run
from tests.training import runs

AHEAD = ("rollout.staleness=1", "train.num_steps=6", "checkpoint.keep=0")
DOMAINS = ("math", "chat", "instruction_following")

pytestmark = [pytest.mark.ray_cluster, pytest.mark.timeout(600)]


def staleness(folder: Path) -> list[set[float]]:
    return [{row[f"staleness/{name}"] for name in DOMAINS} for row in runs.metrics(folder)]


def go_on_from(step: int, whole: Path, folder: Path, *overrides: str) -> None:
    """Do the steps after `step` of the run `whole` again, in a copy of it."""
    shutil.copytree(whole, folder)
    checkpoint = folder / "checkpoints" / f"step_{step}"
    runs.train(folder, *AHEAD, *overrides, f"resume={checkpoint}")


@pytest.mark.slow
@of_run("rollouts ahead of the learners", "resumed run, to the bit")
def test_six_steps_ahead_equal_three_and_three_to_the_bit(tmp_path: Path) -> None:
    """The rollouts of step 4, of weights that the checkpoint of step 3 does not hold, are in it."""
    whole, again = tmp_path / "whole", tmp_path / "again"
    runs.train(whole, *AHEAD)
    kept = [json.loads(line) for line in (whole / "checkpoints/step_3" / FILE).open()]
    assert {(row["step"], len(row["rollouts"])) for row in kept} == {(3, 4)}
    assert {rollout["weight_version"] for row in kept for rollout in row["rollouts"]} == {2}
    assert not (whole / "checkpoints/step_6" / FILE).exists()
    go_on_from(3, whole, again)
    assert runs.metrics(again) == runs.metrics(whole)
    assert runs.trained(again) == runs.trained(whole)
    assert staleness(whole) == [{0.0}, *[{1.0}] * 5]


@pytest.mark.slow
@of_run("rollouts ahead of the learners", "resumed run, to the bit", engine="vllm")
def test_the_same_on_vllm_and_two_ahead(tmp_path: Path) -> None:
    vllm = ("rollout.engine=vllm", "rollout.staleness=2", "evaluate.prompts_per_domain=0")
    whole, again = tmp_path / "whole", tmp_path / "again"
    runs.train(whole, *AHEAD, *vllm)
    go_on_from(3, whole, again, *vllm)
    assert runs.metrics(again) == runs.metrics(whole)
    assert staleness(whole) == [{0.0}, {1.0}, *[{2.0}] * 4]


@pytest.mark.slow
def test_phases_begin_with_the_weights_that_the_last_one_ended_with(tmp_path: Path) -> None:
    folder = tmp_path / "sequential"
    runs.train(folder, *AHEAD, "strategy=sequential", "algo.updates_per_batch=2")
    found = [{k: v for k, v in r.items() if "staleness" in k} for r in runs.metrics(folder)]
    assert found == [{f"staleness/{name}": age} for name in DOMAINS for age in (0.0, 1.0)]


SLEEPING = """
import time
import torch
from mgsrl.rollout.transformers_engine import TransformersEngine

class Sleeping(TransformersEngine):
    def generate(self, requests):
        time.sleep({rollout_s} * len(requests) / {requests})
        return super().generate(requests)

def sleeping(log_ratio_BL, advantages_B1):
    if len(log_ratio_BL) > 2:  # not at the check before the start
        time.sleep({learn_s})
    return -advantages_B1 * log_ratio_BL.exp()
"""


@pytest.mark.slow
def test_a_step_takes_the_longer_of_rollouts_and_learning(tmp_path: Path) -> None:
    """Stand-ins sleep 4 s for the rollouts of a step and 4 s for its updates: one after the other
    that is 8 s, overlapped 4, and what is really computed on top."""
    (tmp_path / "mine.py").write_text(SLEEPING.format(rollout_s=4, requests=24, learn_s=4 / 3))
    seconds = {}
    for ahead in (0, 1):
        folder = tmp_path / f"ahead{ahead}"
        runs.train(
            folder,
            f"rollout.engine={tmp_path}/mine.py:Sleeping",
            f"algo.loss={tmp_path}/mine.py:sleeping",
            f"rollout.staleness={ahead}",
            "train.num_steps=4",
            "checkpoint.every=0",
            "evaluate.prompts_per_domain=0",
        )
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
        seconds[ahead] = median(row["time/total"] for row in rows[1:])
    assert seconds[0] > 8
    assert seconds[1] < seconds[0] - 2, seconds  # half of what is overlapped, on a busy machine


@pytest.mark.slow
def test_a_rollout_worker_that_dies_meanwhile_loses_nothing(tmp_path: Path) -> None:
    """Its requests are made again, by weights whose version they bear."""
    folder = tmp_path / "killed"
    process = runs.start(folder, *AHEAD[:1], "train.num_steps=8", *slow_engine(tmp_path))
    for step in (1, 3):
        runs.wait_for(lambda step=step: runs.steps_done(folder) >= step, f"step {step}")
        runs.actor(process, "RolloutWorker").kill()
    assert process.wait(timeout=300) == 0, folder.with_suffix(".log").read_text()
    rows = runs.metrics(folder)
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert sum(row["restarts/rollout"] for row in rows) == 2
    assert all(ages <= {0.0, 1.0} for ages in staleness(folder))
    assert staleness(folder)[-1] == {1.0}


@pytest.mark.slow
def test_a_run_is_stopped_with_rollouts_under_way(tmp_path: Path) -> None:
    folder = tmp_path / "stopped"
    more = (*AHEAD[:1], "train.num_steps=8", *slow_engine(tmp_path))
    process = runs.start(folder, *more)
    runs.wait_for(lambda: runs.steps_done(folder) >= 2, "step 2")
    family = runs.descendants(process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 1
    runs.none_left(family)
    runs.train(folder, *more)
    assert [row["step"] for row in runs.metrics(folder)] == list(range(1, 9))
    assert staleness(folder) == [{0.0}, *[{1.0}] * 7]


@pytest.mark.slow
def test_an_error_in_the_background_reaches_the_user(tmp_path: Path) -> None:
    folder = tmp_path / "failed"
    process = runs.start(folder, *AHEAD, *slow_engine(tmp_path, fails=True))
    assert process.wait(timeout=120) == 2
    output = folder.with_suffix(".log").read_text()
    assert "no more of this" in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_weights_may_change_while_responses_are_made(tmp_path: Path) -> None:
    """Publishing waits for nothing, an evaluation goes between, and a run that goes on makes what
    its checkpoint did not hold."""
    whole, again = tmp_path / "whole", tmp_path / "again"
    more = ("rollout.inflight_updates=true", "rollout.staleness=2", "evaluate.every=2")
    runs.train(whole, *AHEAD, *more, slow_engine(tmp_path)[0])
    go_on_from(3, whole, again, *more, slow_engine(tmp_path)[0])
    for folder in (whole, again):
        assert [row["step"] for row in runs.metrics(folder)] == list(range(1, 7))
        assert all(0 <= age <= 2 for ages in staleness(folder) for age in ages)
        evaluated = [json.loads(line) for line in (folder / "evaluations.jsonl").open()]
        assert [row["step"] for row in evaluated if row["domain"] == "math"] == [0, 2, 4, 6]
    drawn = [prompts_of(folder) for folder in (whole, again)]
    assert drawn[0] == drawn[1]


def prompts_of(folder: Path) -> list[set[str]]:
    """By step, those whose responses are stored."""
    return [
        {f"{row['domain']}/{row['prompt_id']}" for row in map(json.loads, path.open())}
        for path in sorted((folder / "rollouts").glob("step_*.jsonl"))
    ]


def slow_engine(folder: Path, *, fails: bool = False) -> tuple[str, ...]:
    """One that takes a second for a batch, and may fail at its third."""
    (folder / "slow.py").write_text(SLOW.format(fails=fails))
    return f"rollout.engine={folder}/slow.py:Slow", "evaluate.prompts_per_domain=0"


SLOW = """
import time
from mgsrl.errors import ConfigError
from mgsrl.rollout.transformers_engine import TransformersEngine

class Slow(TransformersEngine):
    calls = 0

    def generate(self, requests):
        time.sleep(1.0)
        Slow.calls += 1
        if {fails} and Slow.calls > 2:
            raise ConfigError("Stopped.", expected="a", found="b", todo="no more of this")
        return super().generate(requests)
"""
