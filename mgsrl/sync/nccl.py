"""Publish weights GPU to GPU with vLLM's own NCCL transfer. NOT RUN on a GPU yet.

A thin wrapper with the verbs of `object_store`. vLLM's `NCCLTrainerWeightTransferEngine` opens
one NCCL group of learner rank 0 and all rollout ranks, and broadcasts packed buckets while the
other learner ranks join the gathering. The rollout side is vLLM's built-in "nccl" engine,
chosen at its start by `sync.backend.choose_transfer`.

NCCL waits for a dead rank for ever, on both sides. So the first rollout worker that is lost (Ray
says so within seconds), or that does not answer in time, breaks the group: the communicator is
aborted, which ends the learner's broadcast; the rest of the weights is gathered into nothing, so
that the other learner ranks are not left in a collective; and all rollout workers of the group
count as lost, since the living ones hang in it. They are replaced as after any death. Learner
rank 0 ends itself when even the abort does not free it.
"""

import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from mgsrl.errors import GroupBrokenError
from mgsrl.sync.client import RolloutClient

GRACE_S = 30.0
"""From an abort to the broadcast's end; NCCL's kernels look for it all the time."""


class NcclSender:
    """Trainer side of the `nccl` transfer.

    Args:
        source: this rank's view of the weights: vLLM's `WeightSource` verbs, tensors on the GPU.
        client: the line to the rollout actors; used on the sending rank only. Its
            `ranks_per_worker` must be `rollout.tensor_parallel_size`.
        rank: learner rank; 0 sends.
        master_address: address of learner rank 0 that the rollout workers can reach: loopback
            on one machine, the node's own on a cluster.
        master_port: 0 picks a free port.
        open_engine: (rank, address, port, world size, client, source) -> vLLM's trainer engine.
    """

    def __init__(
        self,
        source: Any,
        client: RolloutClient,
        rank: int,
        *,
        master_address: str = "127.0.0.1",
        master_port: int = 0,
        open_engine: Callable[..., Any] | None = None,
    ) -> None:
        self.client = client
        client.one_group = True
        self.is_sender = rank == 0
        self._supply = _Supply(source)
        port = master_port or (free_port(master_address) if rank == 0 else 0)
        world_size = 1 + len(client.handles) * client.ranks_per_worker
        self._engine: Any = self._opened(
            lambda: (open_engine or _vllm_engine)(
                rank, master_address, port, world_size, client, self._supply
            )
        )

    def send_weights(self, version: int) -> None:
        """Publish the current weights as `version`. Called on every learner rank.

        When the group breaks all rollout workers are in `client.lost` afterwards.
        """
        self.client.next_version = version  # vLLM's engine finishes without naming one
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # the optimizer's stream: the senders' do not wait for it
        try:
            if self._engine is not None:
                with self._watched():
                    self._engine.send_weights()
        except GroupBrokenError:
            self._engine = None  # aborted; its threads end by themselves
        finally:
            self._supply.drain()

    def shutdown(self) -> None:
        """Leave the NCCL group."""
        if self._engine is not None:
            self._engine.shutdown()

    def _opened(self, make: Callable[[], Any]) -> Any:
        """What `make` returns, or None when the group breaks before it stands.

        Nothing ends NCCL's own waiting for ranks that do not come: that thread is left alone.
        """
        if not self.is_sender:
            return make()
        results: list[Any] = []
        done = threading.Event()

        def work() -> None:
            try:
                results.append(make())
            except BaseException as error:  # raised where it was asked for
                results.append(error)
            done.set()

        self.client.on_break = done.set
        threading.Thread(target=work, name="open-nccl", daemon=True).start()
        done.wait()
        self.client.on_break = None
        if self.client.broken or (results and isinstance(results[0], GroupBrokenError)):
            return None
        if isinstance(results[0], BaseException):
            raise results[0]
        return results[0]

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """The broadcast inside ends when the group breaks."""
        ended = threading.Event()

        def end_it() -> None:
            abort(self._engine.model_update_group)
            if not ended.wait(GRACE_S):
                print("mgsrl: NCCL does not let go of a broken group", file=sys.stderr, flush=True)
                os._exit(1)  # the driver sees a dead learner, and how to go on is told there

        self.client.on_break = lambda: threading.Thread(target=end_it, daemon=True).start()
        try:
            yield
        finally:
            ended.set()
            self.client.on_break = None


class _Supply:
    """The source as vLLM's sender reads it: on the default stream, and to its end in any case.

    vLLM packs on streams of its own. Whole tensors are gathered, and their memory used again, on
    the default stream, after all that reads them is done.
    """

    def __init__(self, source: Any) -> None:
        self._source = source
        self._groups: Iterator[tuple[list[str], list[torch.Tensor]]] | None = None
        self._ready: list[tuple[str, torch.Tensor]] = []

    def metadata(self) -> Any:
        self.begin()
        return self._source.metadata()

    def held_names(self) -> Any:
        return self._source.held_names()

    def groups(self) -> Any:
        return self._source.groups()

    def begin(self) -> None:
        """A pass over the source that has not yielded anything; `drain` ends it."""
        self._groups, self._ready = self._source.iter_groups(), []

    def __iter__(self) -> "_Supply":
        return self

    def __next__(self) -> tuple[str, torch.Tensor]:
        while not self._ready:
            names, tensors = self._next_group()
            self._ready = list(zip(names, tensors))[::-1]
        return self._ready.pop()

    def drain(self) -> None:
        """Join what is left of the gathering."""
        if self._groups is None:
            self.begin()
        self._ready = []
        try:
            while True:
                self._next_group()
        except StopIteration:
            self._groups = None

    def _next_group(self) -> tuple[list[str], list[torch.Tensor]]:
        assert self._groups is not None
        if not torch.cuda.is_available():
            return next(self._groups)
        torch.cuda.synchronize()
        with torch.cuda.stream(torch.cuda.default_stream()):
            return next(self._groups)


def abort(group: Any) -> None:
    """End whatever vLLM's communicator waits in; its later broadcasts do nothing."""
    group.disabled = True
    with torch.cuda.device(group.device) if torch.cuda.is_available() else nullcontext():
        group.nccl.ncclCommAbort(group.comm)


def _vllm_engine(
    rank: int, address: str, port: int, world_size: int, client: RolloutClient, source: Any
) -> Any:
    # 12 s, paid once on GPU machines only.
    from vllm.distributed.weight_transfer.nccl_engine import (
        NCCLTrainerInitInfo,
        NCCLTrainerWeightTransferEngine,
    )

    return NCCLTrainerWeightTransferEngine.trainer_init(
        NCCLTrainerInitInfo(
            master_address=address, master_port=port, world_size=world_size, rank=rank
        ),
        client=client,
        source=source,
    )


def free_port(address: str) -> int:
    """A TCP port that is free on `address` now."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])
