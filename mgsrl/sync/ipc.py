"""Publish weights inside one GPU with vLLM's own CUDA IPC transfer. NOT RUN on a GPU yet.

A thin wrapper with the verbs of `object_store`, for engines that share the learners' GPUs. vLLM's
`IPCTrainerWeightTransferEngine` packs the weights into one buffer on each learner rank's GPU, a
bucket at a time, and sends its CUDA handle; the engine on that GPU copies from the same memory.
Every learner rank packs all weights, so an engine split over several GPUs finds them on each.
PyTorch frees what a rank exported once an engine has opened it: every rank has to have one on its
GPU, and all get every publication (`training/places.py`, `training/publisher.py`).

The handles go to the engines as arguments of Ray calls between the run's own actors. vLLM's route
for HTTP, a pickle in a text field behind VLLM_ALLOW_INSECURE_SERIALIZATION=1, is not used, and the
variable is never set: a pickle in that field is refused by the engine.
"""

import math
from typing import Any

from mgsrl.sync.client import RolloutClient

BUFFER_BYTES = 1 << 28
"""Of the packed bucket, or the largest tensor's: it lies beside the learner and the new weights."""


class IpcSender:
    """Trainer side of the `ipc` transfer.

    Args:
        source: this rank's view of the weights: vLLM's `WeightSource` verbs, tensors on the GPU.
        client: the line to the rollout actors; used on the sending rank only.
        rank: learner rank; 0 sends the handles of all.
    """

    def __init__(self, source: Any, client: RolloutClient, rank: int) -> None:
        # 12 s, paid once on GPU machines only.
        from vllm.distributed.weight_transfer.ipc_engine import (
            IPCTrainerInitInfo,
            IPCTrainerWeightTransferEngine,
        )

        self.client = client
        largest = max(math.prod(m.shape) * m.dtype.itemsize for m in source.metadata())
        self._engine = IPCTrainerWeightTransferEngine.trainer_init(
            IPCTrainerInitInfo(
                rank=rank, packed=True, packed_buffer_size_bytes=max(BUFFER_BYTES, largest)
            ),
            client=client,
            source=source,
        )

    def send_weights(self, version: int) -> None:
        """Publish the current weights as `version`. Called on every learner rank."""
        self.client.next_version = version  # vLLM's engine finishes without naming one
        self._engine.send_weights()

    def shutdown(self) -> None:
        """Nothing to close: the buffer lives during a publication."""
