"""Tensors' memory lent away: copied to the host, freed on the device, and taken again later.

What is freed is the storage under the tensors, not the tensors: every view of it (DeepSpeed keeps
several of the optimizer's state) stays what it is and is filled again with it, to the bit. In
between nobody may touch one: PyTorch does not always tell, and a fused kernel on memory that is
not there crashes the process; `ShardLayout.check_present` tells by name before that. Left out:
overlapping the copies with anything; they run at the speed of the bus (12 bytes per parameter:
0.7 s for 1.5B).
"""

import time
from collections.abc import Iterable

import torch
from torch import nn

from mgsrl.learner.layout import ShardLayout, held_part
from mgsrl.learner.reference import Reference

PIECE = 1 << 28
"""Bytes of one host buffer; PyTorch rounds pinned ones up to a power of two."""
ROOM_WITHIN_S, LOOK_AGAIN_S = 30.0, 0.5
"""How long there may be too little memory to take back: that of an engine that was killed is free
only when its process has ended."""


class Parking:
    """Storages that are given back together. Host buffers are kept from one time to the next."""

    def __init__(self) -> None:
        self._host: dict[int, list[torch.Tensor]] = {}
        self._away: list[tuple[torch.UntypedStorage, int]] = []

    def park(self, tensors: Iterable[torch.Tensor], keep: Iterable[torch.Tensor] = ()) -> None:
        """Copy the storages of `tensors` to the host and free them.

        Args:
            keep: tensors whose storages stay, whoever else is in them.
        """
        staying = {tensor.untyped_storage()._cdata for tensor in keep}
        for tensor in tensors:
            storage = tensor.untyped_storage()
            size = storage.nbytes()
            if size == 0 or storage._cdata in staying or not storage.resizable():
                continue  # what is not resizable is a file's memory, never a GPU's
            host = self._host.get(storage._cdata, [])
            if sum(piece.numel() for piece in host) != size:
                pin = tensor.is_cuda
                whole = [PIECE] * (size // PIECE) + [size % PIECE] * (size % PIECE > 0)
                host = [torch.empty(n, dtype=torch.uint8, pin_memory=pin) for n in whole]
                self._host[storage._cdata] = host
            for piece, part in zip(host, _bytes(storage).split(PIECE), strict=True):
                piece.copy_(part)
            storage.resize_(0)
            self._away.append((storage, size))

    def park_learner(
        self, layout: ShardLayout, policy: nn.Module, references: Iterable[Reference]
    ) -> None:
        """The optimizer's state and the frozen models, as far as they are on the device; the
        policy's own weights stay."""
        frozen = [param for each in references for param in each.model.parameters()]
        weights = [held_part(param)[1] for param in policy.parameters()]
        state = [*layout.optimizer_tensors(), *(held_part(param)[1] for param in frozen)]
        self.park([each for each in state if each.device == weights[0].device], keep=weights)

    def bring_back(self) -> None:
        """Take memory again for what was parked, and fill it.

        Raises:
            torch.OutOfMemoryError: for `ROOM_WITHIN_S` there was too little. What is left is
                brought back by the next call.
        """
        end = time.monotonic() + ROOM_WITHIN_S
        while self._away:
            storage, size = self._away[-1]
            try:
                storage.resize_(size)
            except torch.OutOfMemoryError:
                if time.monotonic() > end:
                    raise
                time.sleep(LOOK_AGAIN_S)
                continue
            for piece, part in zip(self._host[storage._cdata], _bytes(storage).split(PIECE)):
                part.copy_(piece)
            self._away.pop()


def _bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    """uint8 [nbytes] over a storage."""
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
