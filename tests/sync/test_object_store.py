"""Weights from a module to rollout actors: wire format, group by group, both sides equal."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from mgsrl.cluster.session import ray_session
from mgsrl.config import ClusterConfig, RolloutConfig
from mgsrl.errors import ConfigError, InvariantError, StaleWeightsError
from mgsrl.rollout.actor import rollout_pools
from mgsrl.rollout.engine import EngineSpec
from mgsrl.sync import object_store
from mgsrl.sync.backend import choose_transfer
from mgsrl.sync.client import RolloutClient
from mgsrl.sync.fingerprint import Proof, compare, fingerprint
from mgsrl.sync.nccl import free_port
from mgsrl.sync.object_store import ObjectStoreSender
from mgsrl.sync.wire import pack_group, unpack_group
from mgsrl.types import GenerationRequest, Sampling
from tests.sync.sources import ModuleSource, perturbed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_every_dtype_survives_the_wire(dtype: torch.dtype) -> None:
    tensors = [
        torch.randn(3, 5).mul(9).to(dtype),
        torch.randn(7).to(dtype),
        torch.ones(()).to(dtype),
    ]
    pairs = unpack_group(**pack_group(["a", "b", "c"], tensors))
    assert [name for name, _ in pairs] == ["a", "b", "c"]
    for (_, received), sent in zip(pairs, tensors, strict=True):
        assert received.dtype == sent.dtype
        assert torch.equal(received, sent)


def test_a_parameter_that_was_not_gathered_is_a_defect() -> None:
    with pytest.raises(InvariantError, match=r"b.*not gathered"):
        pack_group(["a", "b"], [torch.ones(2), torch.empty(0)])


def test_non_contiguous_tensors_are_laid_out_first() -> None:
    transposed = torch.arange(6.0).reshape(2, 3).T
    (_, received), *_ = unpack_group(**pack_group(["t"], [transposed]))
    assert torch.equal(received, transposed)


def test_the_learner_does_not_import_vllm() -> None:
    """It would cost every learner rank 12 s and 1 GiB."""
    code = (
        "import sys, mgsrl.sync.object_store, mgsrl.sync.nccl, mgsrl.sync.canary, "
        "mgsrl.rollout.sampler, mgsrl.rollout.actor; assert 'vllm' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_free_port_on_loopback() -> None:
    assert 1024 <= free_port("127.0.0.1") < 65536


class RecordingClient:
    """Stands in for the actors, to see the order of the calls and what is alive."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.hold = threading.Event()

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self.calls.append("init")

    def start_weight_update(self) -> None:
        self.calls.append("start")

    def update_weights(self, update_info: dict[str, Any]) -> None:
        assert self.hold.wait(10)
        self.calls.append(update_info["names"])

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self.calls.append(("finish", weight_version))


def test_groups_go_out_in_order_and_at_most_two_are_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "MESSAGE_BYTES", 24)  # a layer's
    module = torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(5)))
    source, client = ModuleSource(module), RecordingClient()
    sender = ObjectStoreSender(source, client, True)
    thread = threading.Thread(target=sender.send_weights, args=(4,))
    thread.start()
    thread.join(0.3)
    assert source.groups == 2  # one in flight, one waiting: a third is not gathered
    client.hold.set()
    thread.join(10)
    assert client.calls == [
        "init",
        "start",
        *([f"{i}.weight", f"{i}.bias"] for i in range(5)),
        ("finish", "4"),
    ]


def test_small_groups_travel_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "MESSAGE_BYTES", 40)
    module = torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(5)))
    client = RecordingClient()
    client.hold.set()
    ObjectStoreSender(ModuleSource(module), client, True).send_weights(4)
    names = [[f"{i}.weight", f"{i}.bias"] for i in range(5)]
    together = [names[0] + names[1], names[2] + names[3], names[4]]
    assert client.calls == ["init", "start", *together, ("finish", "4")]


def test_other_ranks_gather_and_send_nothing() -> None:
    source, client = ModuleSource(torch.nn.Linear(2, 2)), RecordingClient()
    ObjectStoreSender(source, client, False).send_weights(4)
    assert source.groups == 2
    assert client.calls == []


def test_one_function_decides_how_weights_travel() -> None:
    assert choose_transfer("auto", "cpu") == "object_store"
    assert choose_transfer("auto", "cuda") == "nccl"
    assert choose_transfer("object_store", "cuda") == "object_store"
    with pytest.raises(ConfigError, match="NCCL"):
        choose_transfer("nccl", "cpu")


@pytest.fixture(scope="module")
def ray_local() -> Iterator[None]:
    with ray_session(ClusterConfig(object_store_gib=0.2)):
        yield


@pytest.fixture(scope="module")
def actors(ray_local: None, tiny_model: Path) -> list[Any]:
    config = RolloutConfig(engine="transformers", num_workers=2, start_limit_s=120)
    pool = rollout_pools(EngineSpec(config, str(tiny_model), 64), {"math": 1})["math"]
    pool.wait_ready()
    return pool.handles


@pytest.mark.ray_cluster
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_actor_has_the_published_weights(
    actors: list[Any], tiny_model: Path, dtype: torch.dtype
) -> None:
    import ray

    model = perturbed(tiny_model, seed=5).to(dtype)
    ObjectStoreSender(ModuleSource(model), RolloutClient(actors, 60), True).send_weights(12)
    request = GenerationRequest("r", (5, 9), 0, Sampling(1.0, 1))
    made = ray.get([h.generate.remote([request]) for h in actors], timeout=60)
    assert [rollouts[0].weight_version for rollouts in made] == [12, 12]
    published = {name: (fingerprint(value, 12),) for name, value in model.named_parameters()}
    for seen in ray.get([h.probe.remote(12, list(published)) for h in actors], timeout=60):
        assert compare(seen, published) == Proof((), (), len(published))


@pytest.mark.ray_cluster
def test_an_incomplete_publish_is_refused(actors: list[Any]) -> None:
    client = RolloutClient(actors, 60)
    client.start_weight_update()
    with pytest.raises(StaleWeightsError, match="incomplete"):
        client.finish_weight_update("13")


@pytest.mark.ray_cluster
def test_a_dead_actor_is_told_and_left_out(actors: list[Any]) -> None:
    import ray

    process = psutil.Process(ray.get(actors[1].ready.remote(), timeout=60)["pid"])
    ray.kill(actors[1])
    process.wait(30)  # a kill takes a moment
    client = RolloutClient(actors, 60)
    client.start_weight_update()
    assert client.lost == [1]
    assert client.handles == actors[:1]


class Worker:
    def __init__(self) -> None:
        self.calls: list[Any] = []

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self.calls.append(init_info)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self.calls.append(weight_version)

    def seen(self) -> list[Any]:
        return self.calls


@pytest.mark.ray_cluster
@pytest.mark.usefixtures("ray_local")
def test_nccl_ranks_are_dealt_and_the_version_is_kept() -> None:
    import ray

    handles = [ray.remote(Worker).options(num_cpus=0).remote() for _ in range(2)]
    client = RolloutClient(handles, 60, ranks_per_worker=2)
    client.init_weight_transfer_engine({"rank_offset": 1, "world_size": 5})
    client.next_version = 9
    client.finish_weight_update()  # as vLLM's NCCL engine calls it
    client.finish_weight_update("10")
    first, second = ray.get([handle.seen.remote() for handle in handles], timeout=60)
    assert [first[0]["rank_offset"], second[0]["rank_offset"]] == [1, 3]
    assert first[1:] == second[1:] == ["9", "10"]
