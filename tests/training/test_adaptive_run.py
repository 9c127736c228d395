"""A whole run whose shares follow the training: moved, logged, and resumed to the bit."""

import json
from pathlib import Path

import pytest

from tests.capabilities import of_run
from tests.training import runs

pytestmark = [pytest.mark.ray_cluster, pytest.mark.timeout(900), pytest.mark.slow]

CHANGES = (
    "data.curriculum=transfer",
    "data.curriculum.memory=0.5",
    "data.prompts_per_step=7",
    "rollout.staleness=1",
    "evaluate.prompts_per_domain=0",
    "train.num_steps=4",
    "checkpoint.every=2",
)


@of_run("a mixture that follows the training, resumed to the bit")
def test_a_run_goes_on_with_the_shares_that_it_would_have_had(tmp_path: Path) -> None:
    whole, later = tmp_path / "whole", tmp_path / "later"
    runs.train(whole, *CHANGES, limit_s=600)
    rows = runs.metrics(whole)
    names = [name for name in rows[0] if name.startswith("mixture/share/")]
    assert len(names) == 3
    for row in rows:
        assert sum(row[name] for name in names) == pytest.approx(1.0)
        assert min(row[name] for name in names) >= 0.1 / 3 - 1e-9
    equal = [all(row[name] == pytest.approx(1 / 3) for name in names) for row in rows]
    assert equal == [True, True, False, False]  # one step ahead, which knows of nothing
    for step in (1, 2, 3, 4):
        path = whole / "rollouts" / f"step_{step:06d}.jsonl"
        prompts = {(r["domain"], r["prompt_id"]) for r in map(json.loads, path.open())}
        assert 0 < len(prompts) <= 7

    runs.train(later, *CHANGES, f"resume={whole}/checkpoints/step_2", limit_s=600)
    assert runs.metrics(later) == rows[2:]
    assert runs.trained(later, 4) == runs.trained(whole, 4)
