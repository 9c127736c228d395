"""Runs that fit a machine, and what is refused before anything is loaded."""

import pytest
import torch

from mgsrl.cluster.demand import check_demand
from mgsrl.config.compose import compose_config, list_choices
from mgsrl.errors import ConfigError
from mgsrl.training import machine
from mgsrl.training.machine import check_fits, demands


@pytest.fixture(autouse=True)
def laptop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: 2)
    monkeypatch.setattr(machine, "machine_memory_gib", lambda: 23.4)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["learner.device=auto"],
        ["rollout.assignment=dedicated", "domains.math.num_workers=2"],
        ["learner.world_size=4", "rollout.num_workers=3", "domains.math.reward.num_workers=4"],
        ["experiment=smollm2_mgs"],
        ["rollout.engine=transformers", "rollout.num_workers=8"],
        ["rollout.num_gpus=0"],
        ["cluster.num_gpus=0"],
    ],
)
def test_what_works_on_a_laptop_is_not_refused(overrides: list[str]) -> None:
    assert check_fits(compose_config(overrides)) == 0


@pytest.mark.parametrize("name", [n for n in list_choices("experiment") if n.startswith("qwen")])
def test_the_recipe_fits_its_node(name: str) -> None:
    config = compose_config([f"experiment={name}"])
    check_demand(demands(config, "cuda"), cores=16, memory_gib=128, other_gib=1)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("rollout.num_workers=1000", "lower rollout.num_workers"),
        ("rollout.num_workers=20", "lower rollout.num_workers"),
        ("learner.world_size=1000", "lower learner.world_size"),
        ("domains.math.reward.num_workers=1000", "lower domains.math.reward.num_workers"),
        ("domains.chat.reward.num_workers=31", "lower domains.chat.reward.num_workers"),
        ("learner.threads_per_rank=1000", "learner.threads_per_rank=0"),
        ("cluster.object_store_gib=1000", "lower cluster.object_store_gib"),
        ("cluster.num_gpus=1", "cluster.num_gpus=null"),
        ("rollout.num_gpus=1", "rollout.num_gpus=null"),
        ("rollout.kv_cache_gib=1000", "rollout.kv_cache_gib=1"),
        ("rollout.tensor_parallel_size=2", "rollout.tensor_parallel_size=1"),
        ("domains.math.reward.num_gpus=1", "learner.device=cpu"),
        ("learner.device=cuda", "learner.device=cpu"),
        ("cluster.address=127.0.0.1:9", "cluster.address=local"),
    ],
)
def test_what_the_machine_cannot_hold_is_one_message(override: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_fits(compose_config([override]))
    assert words in str(caught.value)


def test_dedicated_workers_are_counted_over_the_domains() -> None:
    config = compose_config(["rollout.assignment=dedicated", "domains.math.num_workers=50"])
    with pytest.raises(ConfigError, match=r"lower domains\.NAME\.num_workers"):
        check_fits(config)
