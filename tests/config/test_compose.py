"""Every experiment composes; every mistake is one clear message within seconds."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mgsrl.config.compose import (
    compose_config,
    config_from_yaml,
    config_to_yaml,
    list_choices,
)
from mgsrl.config.resume import resume_changes
from mgsrl.errors import ConfigError, MissingPathError


@pytest.mark.parametrize("name", list_choices("experiment"))
def test_every_experiment_composes(name: str) -> None:
    with_plus = compose_config([f"+experiment={name}"])
    without = compose_config([f"experiment={name}"])
    assert with_plus == without
    testbed = {"commas", "exclamations", "pronouns"}
    usual = {"math", "chat", "instruction_following"}
    assert set(with_plus.domains) == (testbed if name == "pocket_conflict" else usual)


@pytest.mark.parametrize("name", list_choices("strategy"))
def test_every_strategy_composes_and_names_itself(name: str) -> None:
    config = compose_config([f"strategy={name}"])
    assert config.strategy.name == name
    assert name in config.run.dir


def test_the_default_is_the_bundled_pocket() -> None:
    config = compose_config([])
    assert config.policy.path == "pocket"
    assert config.surgery.method == "pcgrad"
    assert config.run.dir == "runs/pocket-mgs-seed0"


def test_strategies_differ_only_in_schedule_and_surgery() -> None:
    mgs = compose_config(["+experiment=qwen_mgs"])
    mixed = compose_config(["+experiment=qwen_mixed"])
    keys = {change.key for change in resume_changes(mgs, mixed)}
    assert keys == {"strategy.name", "surgery.method", "run.dir"}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["+experiment=qwen_msg"], ["qwen_mgs", "found"]),
        (["strategy=mixd"], ["mixed"]),
        (["algo.samples_per_promt=4"], ["samples_per_prompt"]),
        (["algoo.clip_low=1"], ["algo"]),
        (["domains.maths.prompts_per_step=2"], ["math"]),
        (["domains.math.sorce.path=x"], ["source"]),
        (["strategy=single", "strategy.domain_order=[mth]"], ["math"]),
        (["algo.samples_per_prompt=1"], [">= 2"]),
        (["algo.samples_per_prompt=many"], ["samples_per_prompt", "many"]),
        (["rollout.top_p=0.9"], ["1.0", "return_sampling_mask"]),
        (["rollout.engine=vlm"], ["vllm"]),
        (["surgery.method=pcgrd"], ["pcgrad"]),
        (["surgery.granularity=modul"], ["module"]),
        (["learner.zero_stage=4"], ["0", "3"]),
        (["domains.math.top_p=0.9"], ["domains.math.top_p", "full distribution"]),
        (["resume=latest"], ["auto"]),
        (["rubbish"], ["KEY=VALUE"]),
    ],
)
def test_mistakes_name_the_nearest(overrides: list[str], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        compose_config(overrides)
    message = str(caught.value)
    assert "Traceback" not in message
    for word in [*words, "expected", "found", "to do"]:
        assert word in message, message


@pytest.mark.parametrize(
    "override",
    [
        "seed=-1",
        "max_abstained_share=1.5",
        "max_abstained_share=-0.1",
        "surgery.alarm_dominance=1.1",
        "surgery.alarm_projected=nan",
        "run.dir=''",
        "run.name=' '",
        "evaluate.top_p=3",
        "evaluate.top_p=0",
        "cluster.num_gpus=-1",
        "algo.dual_clip=1",
        "algo.clip_low=1.5",
        "learner.optimizer.weight_decay=-1",
        "learner.optimizer.eps=-1",
        "learner.optimizer.eps=0",
        "learner.optimizer.beta2=1",
        "learner.optimizer.lr=nan",
        "learner.threads_per_rank=-1",
        "learner.time_limit_s=0",
        "rollout.max_new_tokens=0",
        "rollout.max_prompts_in_flight=0",
        "rollout.gpu_memory_utilization=7",
        "rollout.num_gpus=-1",
        "rollout.max_restarts=-1",
        "rollout.time_limit_s=0",
        "rollout.sync.time_limit_s=0",
        "learner.offload_reference=true",  # the default run computes on the CPU
        "rollout.start_limit_s=-5",
        "domains.math.max_new_tokens=0",
        "domains.math.temperature=0",
        "domains.math.weight=-1",
        "domains.math.schedule=[3]",
        "domains.math.schedule=[[0,1],[0,2]]",
        "domains.math.schedule=[[0.5,1]]",
        "domains.math.schedule=[[0,-1]]",
        "domains.math.schedule=[[0,true]]",
        "domains.math.source.weight=0",
        "data.prompts_per_step=0",
        "data.mixing_temperature=0",
        "data.curriculum.kind=cosine",
        "data.curriculum.floor=2",
        "domains.math.source.start=-5",
        "domains.math.source.limit=0",
        "domains.math.source.size=0",
        "domains.math.heldout.size=0",
        "domains.math.reward.time_limit_s=0",
        "domains.math.reward.start_limit_s=0",
        "domains.math.reward.max_restarts=-1",
        "domains.math.reward.num_gpus=-0.5",
        "domains.chat.reward.max_length=0",
    ],
)
def test_impossible_values_are_refused(override: str) -> None:
    key = override.split("=")[0]
    with pytest.raises(ConfigError, match=rf"(?s)^{re.escape(key)} .*expected:.*found:.*to do:"):
        compose_config([override])


def test_yaml_round_trip(tmp_path: Path) -> None:
    config = compose_config(["seed=3", "strategy=sequential"])
    (tmp_path / "config.yaml").write_text(config_to_yaml(config))
    assert config_from_yaml(tmp_path / "config.yaml") == config
    with pytest.raises(MissingPathError):
        config_from_yaml(tmp_path / "absent.yaml")


def test_a_mistake_exits_with_2_at_once() -> None:
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "mgsrl.cli", "train", "+experiment=nope"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "pocket_mgs" in done.stderr
    assert "Traceback" not in done.stderr
    assert time.monotonic() - begin < 10
