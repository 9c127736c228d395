"""Publish weights through Ray's shared memory: any machine, no GPU, no process group.

The learner's ranks walk the source together, one layer group at a time (under ZeRO-3 each group
is gathered by all ranks). Rank 0 hands the groups to the rollout actors, small ones together, while
the next ones are being gathered: at most two such messages are alive, never the whole model.
Does not import vLLM, which would cost the learner 12 s and 1 GiB.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import torch

from mgsrl.sync.wire import pack_group

MESSAGE_BYTES = 64 << 20
"""Layer groups travel together until they are this large: a call costs milliseconds."""


class LayerGroups(Protocol):
    """The part of `sync.source.WeightSource` that is needed here."""

    def iter_groups(self) -> Iterator[tuple[list[str], list[torch.Tensor]]]:
        """(names, whole tensors) of one layer group after the other, on every rank."""
        ...


class WeightClient(Protocol):
    """vLLM's `VLLMWeightSyncClient`, restated so that vLLM need not be imported."""

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None: ...

    def start_weight_update(self) -> None: ...

    def update_weights(self, update_info: dict[str, Any]) -> None: ...

    def finish_weight_update(self, weight_version: str | None = None) -> None: ...


class ObjectStoreSender:
    """Trainer side of the `object_store` transfer.

    Args:
        source: this rank's view of the weights.
        client: the line to the rollout actors; used on the sending rank only.
        is_sender: true on learner rank 0.
    """

    def __init__(self, source: LayerGroups, client: WeightClient, is_sender: bool) -> None:
        self.source = source
        self.client = client
        self.is_sender = is_sender
        if is_sender:
            client.init_weight_transfer_engine({})

    def send_weights(self, version: int) -> None:
        """Publish the current weights as `version`. Called on every learner rank.

        Raises:
            WaitTimeoutError, WorkerDiedError: from the rollout actors, on the sending rank.
        """
        if not self.is_sender:
            for _ in self.source.iter_groups():  # join the gathering, keep nothing
                pass
            return
        self.client.start_weight_update()
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="publish") as thread:
            in_flight: Future[None] | None = None
            for names, tensors in messages(self.source.iter_groups()):
                payload = pack_group(names, tensors)
                if in_flight is not None:
                    in_flight.result()
                in_flight = thread.submit(self.client.update_weights, payload)
                del tensors, payload  # while the next group is gathered, only the thread holds it
            if in_flight is not None:
                in_flight.result()
        self.client.finish_weight_update(str(version))

    def shutdown(self) -> None:
        """Nothing to close: the object store belongs to Ray."""


def messages(
    groups: Iterable[tuple[list[str], list[torch.Tensor]]],
) -> Iterator[tuple[list[str], list[torch.Tensor]]]:
    """Neighbouring groups joined until each but the last has `MESSAGE_BYTES`."""
    names, tensors, size = list[str](), list[torch.Tensor](), 0
    for group_names, group in groups:
        names, tensors = names + group_names, tensors + group
        size += sum(tensor.nbytes for tensor in group)
        del group
        if size >= MESSAGE_BYTES:
            yield names, tensors
            names, tensors, size = [], [], 0
    if names:
        yield names, tensors
