"""Publish weights GPU to GPU with vLLM's own NCCL transfer. NOT RUN on a GPU yet.

A thin wrapper with the verbs of `object_store`. vLLM's `NCCLTrainerWeightTransferEngine` opens
one NCCL group of learner rank 0 and all rollout ranks, and broadcasts packed buckets while the
other learner ranks join the gathering. The rollout side is vLLM's built-in "nccl" engine,
chosen at its start by `sync.backend.choose_transfer`.
"""

import socket
from typing import Any

from mgsrl.sync.client import RolloutClient


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
    """

    def __init__(
        self,
        source: Any,
        client: RolloutClient,
        rank: int,
        *,
        master_address: str = "127.0.0.1",
        master_port: int = 0,
    ) -> None:
        # 12 s, paid once on GPU machines only.
        from vllm.distributed.weight_transfer.nccl_engine import (
            NCCLTrainerInitInfo,
            NCCLTrainerWeightTransferEngine,
        )

        self.client = client
        self.is_sender = rank == 0
        self._engine = NCCLTrainerWeightTransferEngine.trainer_init(
            NCCLTrainerInitInfo(
                master_address=master_address,
                master_port=master_port or (free_port(master_address) if rank == 0 else 0),
                world_size=1 + len(client.handles) * client.ranks_per_worker,
                rank=rank,
            ),
            client=client,
            source=source,
        )

    def send_weights(self, version: int) -> None:
        """Publish the current weights as `version`. Called on every learner rank."""
        self.client.next_version = version  # vLLM's engine finishes without naming one
        self._engine.send_weights()

    def shutdown(self) -> None:
        """Leave the NCCL group."""
        self._engine.shutdown()


def free_port(address: str) -> int:
    """A TCP port that is free on `address` now."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])
