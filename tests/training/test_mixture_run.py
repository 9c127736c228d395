"""Whole runs with several sources and a curriculum: resumed to the bit, and re-mixed on the way."""

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.training import runs

pytestmark = [pytest.mark.ray_cluster, pytest.mark.timeout(600), pytest.mark.slow]

MIXED = (
    "~domains.chat",
    "+domains.math.extra_sources={more: {path: math, size: 50, weight: 2}}",
    "domains.instruction_following.schedule=[[0, 0], [1, 1]]",
    "data.prompts_per_step=3",
    "trackers.samples_per_domain=9",
)


def drawn(folder: Path, step: int) -> Counter[str]:
    """Prompts of a step by source: what the rollout log has of them."""
    path = folder / "rollouts" / f"step_{step:06d}.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    ids = {(row["domain"], row["prompt_id"]) for row in rows}
    return Counter(f"{domain}/more" if "more/" in id_ else domain for domain, id_ in ids)


def test_sources_and_curricula_resume_and_domains_are_added(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    runs.train(whole, *MIXED, "train.num_steps=4")
    runs.train(parts, *MIXED, "train.num_steps=2")
    runs.train(parts, *MIXED, "train.num_steps=4")
    assert runs.metrics(whole) == runs.metrics(parts)
    counts = [drawn(whole, step) for step in (1, 2, 3, 4)]
    assert all(count.total() == 3 for count in counts)
    assert counts[0] == {"math": 1, "math/more": 2}
    total = sum(counts[1:], Counter[str]())
    assert total["instruction_following"] in (4, 5)  # half of three steps

    output = runs.train(
        whole, *MIXED[1:-2], "domains.math.weight=2", "data.prompts_per_step=8",
        MIXED[-1], "train.num_steps=5",
    )  # fmt: skip
    assert "domains.chat: added" in output
    assert "domains.math.weight: 1.0 -> 2.0" in output
    last = drawn(whole, 5)
    assert last.total() == 8
    assert last["chat"] == last["instruction_following"] == 2
    record = json.loads((whole / "run.json").read_text())
    assert record["data"]["math/more"]["kept"] == 50
