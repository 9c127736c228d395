"""What a plan says of its own error is that of the code (`scripts/plan_check.py` measures it)."""

import json
from typing import Any

import pytest

from mgsrl.cli import main
from mgsrl.cluster.hardware import USUAL, Hardware, gpu_named
from mgsrl.cluster.memory import Load, learner_memory
from mgsrl.config import LearnerConfig, SurgeryConfig
from mgsrl.config.compose import compose_config, list_choices
from mgsrl.config.model_path import POCKET_POLICY, resolve_model_path
from mgsrl.config.model_shape import model_shape
from mgsrl.training.forecast import Lengths
from mgsrl.training.planned import MEASURED, measured, plan_run

ROWS = json.loads(MEASURED.read_text())["memory"]["rows"]


@pytest.mark.parametrize(
    "row", ROWS, ids=lambda r: "{model}-{zero_stage}-{world_size}-{tokens}".format(**r)
)
def test_the_recorded_plans_are_those_of_the_code(row: dict[str, Any]) -> None:
    """Or the printed error would be that of an older memory model. MiB."""
    config = LearnerConfig(zero_stage=row["zero_stage"], world_size=row["world_size"])
    load = Load(num_domains=3, reference=True, tokens=row["tokens"], cuda=False)
    path = resolve_model_path(row["model"], "model", POCKET_POLICY)
    found = learner_memory(model_shape(path), config, SurgeryConfig(), load).peak[1] / 2**20
    assert found == pytest.approx(row["planned"], rel=0.01)
    assert found == pytest.approx(row["measured"], rel=0.15)


def test_a_plan_prints_its_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Of seconds, that of the device."""
    lines = {f"{what}, {text}": what for what, text in measured().items()}
    for words, others in {
        ("+experiment=qwen_mgs",): "seconds on a CPU",
        ("--gpu", "L40S-48GB"): "seconds",
    }.items():
        assert main(["plan", *words]) == 0
        said = capsys.readouterr().out.splitlines()
        assert [lines[line] for line in said if line in lines] == [
            what for what in measured() if what != others
        ]
    assert said[-1] == "the GPUs that were asked about are not used: learner.device=cpu"


@pytest.mark.parametrize("name", list_choices("experiment"))
def test_a_recipe_leaves_a_signal_the_time_of_its_checkpoints(name: str) -> None:
    config = compose_config([f"experiment={name}"])
    if config.policy.path.startswith("./"):  # a folder that the reader fills; of this shape
        config.policy.path = "HuggingFaceTB/SmolLM2-135M-Instruct"
    gpu = gpu_named(USUAL)
    time = plan_run(config, Hardware(0, 8, gpu, gpu.gib, given=False), Lengths()).time
    assert time is not None
    assert 2 * time.checkpoint_s < time.grace_s <= config.checkpoint.grace_s


def test_a_plan_says_whether_a_signal_leaves_time(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "+experiment=qwen_mgs"]
    assert main(words) == 0
    assert "of checkpoint.grace_s=240\n" in capsys.readouterr().out
    assert main([*words, "checkpoint.grace_s=20"]) == 0
    assert "too short: set checkpoint.grace_s=220\n" in capsys.readouterr().out
