"""The line to the rollout actors: NCCL rank offsets, versions, and vLLM's own protocol."""

import subprocess
import sys
from typing import Any

import pytest
import ray

from mgsrl.sync.client import RolloutClient
from mgsrl.sync.nccl import free_port


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
def test_nccl_ranks_are_dealt_and_the_version_is_kept() -> None:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        handles = [ray.remote(Worker).options(num_cpus=0).remote() for _ in range(3)]
        client = RolloutClient(handles, 60, ranks_per_worker=2)
        client.init_weight_transfer_engine({"rank_offset": 1, "world_size": 7})
        client.next_version = 9
        client.finish_weight_update()  # as vLLM's NCCL engine calls it
        client.finish_weight_update("10")
        seen = ray.get([handle.seen.remote() for handle in handles], timeout=60)
    finally:
        ray.shutdown()
    assert [calls[0]["rank_offset"] for calls in seen] == [1, 3, 5]
    assert all(calls[1:] == ["9", "10"] for calls in seen)


def test_the_learner_does_not_import_vllm() -> None:
    """It would cost every learner rank 12 s and 1 GiB."""
    code = (
        "import sys, mgsrl.sync.object_store, mgsrl.sync.nccl, mgsrl.sync.canary, "
        "mgsrl.rollout.sampler, mgsrl.rollout.worker; assert 'vllm' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_free_port_on_loopback() -> None:
    assert 1024 <= free_port("127.0.0.1") < 65536
