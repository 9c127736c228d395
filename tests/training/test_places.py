"""Sharing GPUs: what cannot be is one message before anything starts."""

from pathlib import Path

import pytest
import torch

from mgsrl.cluster.hardware import GPUS, Hardware
from mgsrl.config.compose import compose_config
from mgsrl.errors import ConfigError
from mgsrl.rollout.actor import transfer_of
from mgsrl.training import machine
from mgsrl.training.checkpoint import Checkpoint
from mgsrl.training.estimate import check_sharing
from mgsrl.training.forecast import Lengths
from mgsrl.training.machine import check_fits
from mgsrl.training.places import (
    choose_placement,
    placed_rollout,
    same_device,
    use_all,
    wanted_gpus,
)
from mgsrl.training.planned import plan_run

MINE = """
from mgsrl.rollout.engine import Engine
class Mine(Engine):
    def load(cls, spec, decoder): ...
    def generate(self, requests): ...
    def logprobs(self, sequences, temperature=1.0): ...
    def probe(self, version, published): ...
    def init_weight_transfer_engine(self, init_info): ...
    def start_weight_update(self): ...
    def update_weights(self, update_info): ...
    def finish_weight_update(self, weight_version=None): ...
    def close(self): ...
"""

REFUSED = {
    "rollout.staleness=1": "GPUs of their own: shared ones are used by turns",
    "rollout.num_workers=2": "more engines than learner ranks",
    "rollout.sync.transfer=nccl": "NCCL moves weights between GPUs",
}


@pytest.mark.parametrize("override", REFUSED)
@pytest.mark.parametrize("address", ["local", "auto"])
def test_what_contradicts_sharing_is_told_before_a_start(
    override: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "check_address", lambda address: None)
    overrides = ["placement=colocated", f"cluster.address={address}", override]
    if "staleness" in override:
        overrides.append("algo.importance_cap=2.0")
    with pytest.raises(ConfigError, match=REFUSED[override]) as told:
        check_fits(compose_config(overrides))
    assert "to do:" in str(told.value)


def test_an_engine_that_cannot_sleep_is_told_what_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    engine = f"rollout.engine={path}:Mine"
    with pytest.raises(ConfigError, match="without sleep and wake_up"):
        check_fits(compose_config([engine, "placement=colocated"]))
    path.write_text(MINE + "    def sleep(self, level): ...\n")
    config = compose_config([f"rollout.engine={tmp_path / 'mine.py'}:Mine", "learner.device=cuda"])
    with pytest.raises(ConfigError, match="cannot share them") as told:
        choose_placement(config, 1)
    assert "wake_up" in str(told.value)
    assert not choose_placement(config, 2).colocated


def test_an_unknown_placement_is_told_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="placement"):
        compose_config(["placement=colocate"])


def test_split_engines_share_as_many_gpus_as_there_are_ranks() -> None:
    split = ["placement=colocated", "rollout.tensor_parallel_size=2", "learner.device=cuda"]
    with pytest.raises(ConfigError, match="1 engines of 2 GPUs"):
        choose_placement(compose_config(split), 8)
    config = compose_config([*split, "learner.world_size=4", "rollout.num_workers=2"])
    assert choose_placement(config, 4).colocated
    with pytest.raises(ConfigError, match="even if engines share"):
        choose_placement(config, 3)
    config.placement = "auto"  # sharing would not help
    with pytest.raises(ConfigError, match="asks for more GPUs than there are"):
        choose_placement(config, 3)


def test_cuda_ipc_is_for_an_engine_on_every_learner_rank() -> None:
    """What a rank exports and nobody opens would stay in its GPU's memory."""
    shares = ["placement=colocated", "learner.device=cuda", "learner.world_size=4"]
    for workers, found in ((2, "object_store"), (4, "ipc")):
        config = compose_config([*shares, f"rollout.num_workers={workers}"])
        assert choose_placement(config, 4).colocated
        rollout = placed_rollout(config, "cuda", colocated=True)
        assert transfer_of(rollout, "cuda", colocated=True) == found
        assert config.rollout.sync.transfer == "auto"  # what is recorded of the run
        config.rollout.sync.transfer = "ipc"
        if found == "ipc":
            assert choose_placement(config, 4).colocated
            continue
        with pytest.raises(ConfigError, match="no engine opens stays") as told:
            choose_placement(config, 4)
        assert "rollout.sync.transfer=auto" in str(told.value)
    apart = compose_config([*shares[1:], "rollout.num_workers=2"])
    assert placed_rollout(apart, "cuda", colocated=False) is apart.rollout


def test_memory_is_asked_for_before_a_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with one GPU, as `mgsrl train` and `mgsrl doctor` look at it."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(machine, "machine_memory_gib", lambda: 64.0)
    recipe = compose_config(["+experiment=qwen3_0_6b"])
    for gib, fits in ((23.5, True), (15.5, False)):
        monkeypatch.setattr(machine, "gpu_memories", lambda gib=gib: [("GPU", gib)])
        if fits:
            assert check_fits(recipe) == 1
            continue
        with pytest.raises(ConfigError, match="do not fit on one GPU, even by turns") as told:
            check_fits(recipe)
        assert "the learner's turn takes" in str(told.value)
    full = compose_config(["+experiment=qwen3_0_6b", "rollout.gpu_memory_utilization=0.85"])
    with pytest.raises(ConfigError, match="the engine's turn takes") as told:
        check_sharing(full, 23.5)
    assert "rollout.gpu_memory_utilization=0.5" in str(told.value)
    check_sharing(compose_config(["policy.path=nobody/knows", "learner.device=cuda"]), 1.0)


RANKS, ENGINES = "learner.world_size", "rollout.num_workers"


@pytest.mark.parametrize("num_gpus", [4, 48])
@pytest.mark.parametrize(
    "given",
    [
        (),
        (f"{RANKS}=2",),
        (f"{ENGINES}=1",),
        ("rollout.tensor_parallel_size=2", "domains.chat.reward.num_workers=2"),
        ("placement=colocated",),
    ],
    ids=lambda given: " ".join(given) or "the recipe",
)
def test_all_gpus_are_used(num_gpus: int, given: tuple[str, ...]) -> None:
    recipe = ["+experiment=qwen_mgs", *given]
    added = use_all(compose_config(recipe), num_gpus, given)
    config = compose_config([*recipe, *added])
    wanted = wanted_gpus(config)
    if config.placement == "colocated":
        assert wanted.ranks + wanted.rewards == num_gpus
        assert wanted.engines == wanted.ranks
    elif added:
        assert wanted.disjoint == num_gpus
        assert choose_placement(config, num_gpus).name == "disjoint"
    else:
        assert num_gpus == 4, "too few to share out"
    assert not {text.partition("=")[0] for text in (*added,)} & {g.partition("=")[0] for g in given}


def test_nothing_is_shared_out_where_all_is_given_or_used() -> None:
    recipe = compose_config(["+experiment=qwen_mgs"])
    assert use_all(recipe, 8) == []
    assert use_all(recipe, 16, [f"{RANKS}=3", f"{ENGINES}=3"]) == []
    assert use_all(recipe, 1) == []
    assert use_all(compose_config(["learner.device=cpu"]), 8) == []
    assert use_all(recipe, 16) == [f"{RANKS}=8", f"{ENGINES}=7"]


def test_plan_says_how_idle_gpus_would_work() -> None:
    two_nodes = Hardware(2, 8, GPUS["H100-80GB"], 79.1, given=True)
    recipe = ["+experiment=qwen_mgs"]
    plan = plan_run(compose_config(recipe), two_nodes, Lengths(None, None)).record()
    assert plan["idle_gpus"] == 8
    plan = plan_run(compose_config(recipe + plan["use_all"]), two_nodes, Lengths(None, None))
    assert plan.record()["idle_gpus"] == 0


@pytest.mark.parametrize(
    ("wanted", "num_gpus", "before", "device"),
    [
        ("auto", 0, None, "cpu"),
        ("auto", 8, "cuda", "cuda"),
        ("auto", 0, "cuda", None),
        ("auto", 8, "cpu", None),
        ("cpu", 8, "cuda", "cpu"),  # said, and shown as a change of the configuration
        ("auto", 8, "of an older version", "cuda"),
    ],
)
def test_auto_does_not_change_the_device_under_way(
    wanted: str, num_gpus: int, before: str | None, device: str | None
) -> None:
    state = {} if before is None or before.startswith("of") else {"device": before}
    checkpoint = Checkpoint(Path("step_3"), 3, state)
    if device is None:
        with pytest.raises(ConfigError, match=f"computed on {before}(.|\n)*learner.device="):
            same_device(wanted, num_gpus, checkpoint)
    else:
        assert same_device(wanted, num_gpus, checkpoint) == device
    assert same_device("auto", 1, None) == "cuda"
