"""A rollout worker is lost while weights are sent in one group: nobody waits for it.

There is no NCCL here. A stand-in for vLLM's trainer engine makes the same calls in the same order,
and waits as NCCL does: for every rank, for ever, until its communicator is aborted. The rollout
workers are real processes that are really killed.
"""

import importlib.util
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from mgsrl.cluster.session import ray_session
from mgsrl.config import ClusterConfig
from mgsrl.sync.client import RolloutClient
from mgsrl.sync.nccl import NcclSender

LIMIT_S = 30.0
SHORT_S = 3.0
"""Where nothing but the limit ends the wait."""
pytestmark = [pytest.mark.ray_cluster, pytest.mark.timeout(120)]


class Receiver:
    """A rollout worker whose engine waits for its peers in the calls named in `hangs`, dies in
    `dies` and fails in `fails`."""

    def __init__(self, hangs: str = "", dies: str = "", fails: str = "") -> None:
        self.hangs, self.dies, self.fails = hangs, dies, fails
        self.version: str | None = None

    def _at(self, call: str) -> None:
        if call == self.dies:
            os.kill(os.getpid(), signal.SIGKILL)
        if call == self.fails:
            raise ValueError("no room for the weights")
        if call == self.hangs:
            time.sleep(600)

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self._at("init")

    def start_weight_update(self) -> None:
        self._at("start")

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self._at("update")

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._at("finish")
        self.version = weight_version

    def seen(self) -> str | None:
        return self.version


class Communicator:
    """What `abort` needs of vLLM's `PyNcclCommunicator`; its broadcast waits for an event."""

    def __init__(self, all_there: threading.Event) -> None:
        self.nccl, self.comm, self.device = self, self, torch.device("cpu")
        self.disabled = False
        self._end = all_there
        self.aborted = False

    def broadcast(self, tensor: torch.Tensor) -> None:
        if not self.disabled:
            self._end.wait()

    def ncclCommAbort(self, comm: Any) -> None:  # noqa: N802  NCCL's name
        self.aborted = True
        self._end.set()


class TrainerEngine:
    """As vLLM's: opens the group together with the workers, then broadcasts while they receive."""

    def __init__(self, client: RolloutClient, source: Any, complete: bool, opens: bool) -> None:
        self.client, self.source = client, source
        with ThreadPoolExecutor(1) as thread:
            future = thread.submit(client.init_weight_transfer_engine, {"rank_offset": 1})
            if not opens:
                threading.Event().wait()  # as ncclCommInitRank
            future.result()
        there = threading.Event()
        if complete:
            there.set()
        self.model_update_group = Communicator(there)

    def send_weights(self) -> None:
        self.source.metadata()
        self.client.start_weight_update()
        thread = ThreadPoolExecutor(1)
        try:
            future = thread.submit(self.client.update_weights, {"names": []})
            for _, tensor in self.source:
                self.model_update_group.broadcast(tensor)
            future.result()
        finally:
            thread.shutdown(wait=False)
        self.client.finish_weight_update()

    def shutdown(self) -> None:
        self.model_update_group.ncclCommAbort(None)


class Source:
    """Weights in three groups; how many were gathered, and whether all were at once."""

    def __init__(self) -> None:
        self.gathered = 0

    def metadata(self) -> list[str]:
        return ["a", "b", "c"]

    def iter_groups(self) -> Iterator[tuple[list[str], list[torch.Tensor]]]:
        for name in ("a", "b", "c"):
            self.gathered += 1
            yield [name], [torch.ones(2)]


@pytest.fixture(scope="module")
def ray_local() -> Iterator[None]:
    with ray_session(ClusterConfig(object_store_gib=0.2)):
        yield


def _sender(
    *workers: dict[str, str], complete: bool = False, opens: bool = True, limit_s: float = LIMIT_S
) -> tuple[NcclSender, Source]:
    import ray

    handles = [ray.remote(Receiver).options(num_cpus=0).remote(**each) for each in workers]
    ray.get([handle.seen.remote() for handle in handles], timeout=60)  # they are up
    source, client = Source(), RolloutClient(handles, limit_s)

    def open_engine(rank: int, host: str, port: int, size: int, client: Any, supply: Any) -> Any:
        assert (rank, size) == (0, 1 + len(workers))
        return TrainerEngine(client, supply, complete, opens)

    return NcclSender(source, client, 0, open_engine=open_engine), source


@pytest.mark.usefixtures("ray_local")
def test_a_healthy_group_gets_the_version() -> None:
    import ray

    sender, source = _sender({}, {}, complete=True)
    handles = list(sender.client.handles)
    for version in (1, 2):
        sender.send_weights(version)
        assert ray.get([h.seen.remote() for h in handles], timeout=60) == [str(version)] * 2
    assert (sender.client.lost, source.gathered) == ([], 6)


@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("call", ["start", "update"])
def test_a_death_breaks_the_group_at_once(call: str) -> None:
    sender, source = _sender({"hangs": "update"}, {"dies": call})
    engine = sender._engine
    before = time.monotonic()
    sender.send_weights(7)
    assert time.monotonic() - before < LIMIT_S  # the death, not the limit, has ended it
    assert engine.model_update_group.aborted
    assert sorted(sender.client.lost) == [0, 1]  # the living one hangs in the group
    assert source.gathered == 3  # the other learner ranks were not left alone
    sender.send_weights(7)  # nothing to send to, but the gathering is joined
    assert source.gathered == 6


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_a_silent_group_is_given_up_after_the_limit() -> None:
    sender, source = _sender({"hangs": "update"}, {"hangs": "update"}, limit_s=SHORT_S)
    before = time.monotonic()
    sender.send_weights(7)
    assert SHORT_S <= time.monotonic() - before < LIMIT_S
    assert (sorted(sender.client.lost), source.gathered) == ([0, 1], 3)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("how", ["dies", "hangs"])
def test_a_group_that_does_not_come_together_is_given_up(how: str) -> None:
    sender, source = _sender({"hangs": "init"}, {how: "init"}, opens=False, limit_s=SHORT_S)
    assert sorted(sender.client.lost) == [0, 1]
    sender.send_weights(7)
    assert source.gathered == 3
    sender.shutdown()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_what_an_engine_raises_is_raised() -> None:
    sender, source = _sender({"hangs": "update"}, {"fails": "update"})
    with pytest.raises(ValueError, match="no room for the weights"):
        sender.send_weights(7)
    assert source.gathered == 3


def test_vllm_has_what_an_abort_needs() -> None:
    """Read, not imported: vLLM takes 12 s."""
    found = importlib.util.find_spec("vllm")
    if found is None or found.origin is None:
        pytest.skip("vLLM is not installed")
    folder = Path(found.origin).parent / "distributed"
    group = (folder / "device_communicators" / "pynccl.py").read_text()
    assert re.search(
        r"def broadcast\(.*?\n        if self\.disabled:\n            return", group, re.S
    )
    for name in ("self.nccl = ", "self.comm: ncclComm_t = ", "self.device = ", "ncclCommAbort("):
        assert name in group
    engine = (folder / "weight_transfer" / "nccl_engine.py").read_text()
    assert "engine.model_update_group = " in engine
    assert re.search(r"for name, tensor in source:", engine)  # what `drain` goes on with
