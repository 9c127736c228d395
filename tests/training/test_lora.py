"""A whole run with adapters: the rollout workers and the export hold the merged model."""

import json
from pathlib import Path

import pytest
import torch

from mgsrl.learner.policy import resolve_policy
from mgsrl.training.export import export_model
from tests.capabilities import of_run
from tests.training import runs


@of_run("whole run", zero=3, lora=True)
@pytest.mark.slow
@pytest.mark.ray_cluster
@pytest.mark.timeout(600)
def test_a_run_with_adapters(tmp_path: Path) -> None:
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "run"
    settings = ("policy.lora.rank=4", "learner.optimizer.lr=1e-3", "learner.zero_stage=3")
    runs.train(folder, *settings, "train.num_steps=1")
    runs.train(folder, *settings, "train.num_steps=3")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    for row in rows:
        assert row["sync/canary_error"] < 1e-3
        assert row["mismatch/math"] < 1e-3
    shards = load_file(folder / "checkpoints/step_3/learner/rank_0.safetensors")
    masters = {key.split("|")[0]: v for key, v in shards.items() if key.endswith("|master")}
    assert masters
    assert all("lora_" in name for name in masters)
    exported = AutoModelForCausalLM.from_pretrained(export_model(folder, tmp_path / "exported"))
    base = AutoModelForCausalLM.from_pretrained(resolve_policy("pocket"))
    for name, value in base.named_parameters():
        a, b = (masters.get(name.replace("weight", f"lora_{x}.default.weight")) for x in "AB")
        expected = value
        if a is not None and b is not None:
            expected = value + 32 / 4 * b.view(-1, 4) @ a.view(4, -1)
            assert not torch.equal(expected, value)
        torch.testing.assert_close(exported.get_parameter(name), expected, rtol=1e-6, atol=1e-7)
