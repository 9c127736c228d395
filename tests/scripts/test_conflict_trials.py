"""A slice of the proof of the testbed; all of it is `scripts/conflict_trials.py`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "conflict_trials.py"
sys.path.insert(0, str(SCRIPT.parent))

import conflict_trials  # noqa: E402

SMALL = (
    "algo.prompts_per_domain=4",
    "algo.samples_per_prompt=4",
    "evaluate.every=0",
    "evaluate.prompts_per_domain=32",
    "cluster.object_store_gib=0.2",
)


def test_the_page_has_what_the_trials_said() -> None:
    trials = conflict_trials.known()
    assert len(trials) == 12
    assert conflict_trials.tables(trials.values()) in conflict_trials.PAGE.read_text()
    for trial in trials.values():
        others = [
            trial.after[domain] - trial.before[domain]
            for domain in conflict_trials.HABITS
            if domain != trial.trained
        ]
        if trial.trained != conflict_trials.MIXED and trial.conflict != 0.5:
            assert all((change < 0) == (trial.conflict == 1) for change in others)


@pytest.mark.ray_cluster
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_position_of_the_dial_is_tried_and_not_tried_again(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    command = [sys.executable, str(SCRIPT), "--conflicts", "1", "--trained", "all three"]
    command += ["--steps", "4", "--folder", str(tmp_path / "runs"), "--results", str(results)]
    command += ["--", *SMALL]
    done = subprocess.run(command, capture_output=True, text=True, timeout=540, env=os.environ)
    assert done.returncode == 0, done.stdout + done.stderr
    (trial,) = map(json.loads, results.read_text().splitlines())
    assert trial["before"].keys() == {"commas", "exclamations", "pronouns"}
    assert all(abs(value) < 1 for value in trial["before"].values()), "the start is the zero"
    assert trial["cosines"]["whole model"][0] < 0, "the gradients oppose each other"
    assert "| 1 | all three |" in done.stdout
    again = subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ)
    assert again.returncode == 0
    assert len(results.read_text().splitlines()) == 1, "what is done is not done again"
