"""Dead groups in real runs: what is drawn in their places, and a step that has no others."""

from pathlib import Path

import pytest

from tests.capabilities import of_run
from tests.training.runs import metrics, train, trained

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
PAIRS = "algo.samples_per_prompt=2"
"""Two responses often get the same reward."""
REFILL = (PAIRS, "algo.refill=2", "domains.chat.algo.refill=0", "strategy=mixed", "algo.loss=cispo")


@of_run("dead groups replaced, resumed to the bit")
def test_dead_groups_are_replaced_and_a_stop_changes_nothing(tmp_path: Path) -> None:
    whole, later = tmp_path / "whole", tmp_path / "later"
    train(whole, *REFILL, "train.num_steps=3")
    rows = metrics(whole)
    for row in rows:
        assert row["drawn/chat"] == 1
        for domain in ("math", "instruction_following"):
            assert 1 <= row[f"drawn/{domain}"] <= 3
            # of all that were drawn, so a share of 1 needed no other draw
            assert (row[f"drawn/{domain}"] == 1) == (row[f"live_groups/{domain}"] == 1)
    assert any(row["drawn/math"] > 1 for row in rows), "none was dead: nothing is shown"
    train(later, *REFILL, "train.num_steps=3", f"resume={whole}/checkpoints/step_2")
    assert metrics(later) == rows[2:]
    assert trained(later, 3) == trained(whole, 3)


def test_the_same_beside_rollouts_of_the_next_step(tmp_path: Path) -> None:
    """What is drawn in a step is of its own weights, what it is drawn beside of those before."""
    whole, later = tmp_path / "whole", tmp_path / "later"
    ahead = (*REFILL, "rollout.staleness=1", "train.num_steps=4")
    train(whole, *ahead, "checkpoint.keep=0")
    rows = metrics(whole)
    assert [row["staleness/chat"] for row in rows] == [0.0, 1.0, 1.0, 1.0], "it is not refilled"
    refilled = [
        row[f"staleness/{domain}"]
        for row in rows[1:]
        for domain in ("math", "instruction_following")
        if row[f"drawn/{domain}"] > 1
    ]
    assert refilled, "none was dead: nothing is shown"
    assert any(age < 1 for age in refilled), "no place was given to what was drawn"
    train(later, *ahead, f"resume={whole}/checkpoints/step_2")
    assert metrics(later) == rows[2:]
    assert trained(later, 4) == trained(whole, 4)


def test_a_step_of_dead_groups_alone_does_not_end_the_run(tmp_path: Path) -> None:
    """All rewards are 0; that it is packed as with weight 1 is `tests/data/test_packing.py`'s."""
    alike = ("strategy=single", "strategy.domain_order=[math]", "domains.math.reward.weight=0")
    train(tmp_path / "run", *alike, "algo.dead_group_weight=0", "train.num_steps=2")
    rows = metrics(tmp_path / "run")
    assert [(row["live_groups/math"], row["skipped"]) for row in rows] == [(0, 0), (0, 0)]
    assert rows[1]["kl/math"] >= 0
