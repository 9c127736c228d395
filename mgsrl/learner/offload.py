"""The layouts under optimizer offload, and which layout an engine has.

Left out: offload of parameters; the reference rests on the host by itself (`reference.py`).
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from mgsrl.learner.layout import (
    ParameterShardLayout,
    PartitionedLayout,
    ReplicatedLayout,
    Shard,
    ShardLayout,
)


class _Offloaded(ShardLayout):
    """Optimizer offload: reduced gradients, masters and moments live in CPU memory.

    DeepSpeed copies each parameter's gradient into its master's `.grad` and keeps the norms for
    the clip aside; a combined gradient has to bring its own norms.
    """

    _zero: Any

    def gradients(self) -> Iterator[tuple[int, int, torch.Tensor | None]]:
        wait = getattr(self._zero, "_wait_for_offload_copies", None)
        if wait is not None:
            wait()
        for shard in self.shards:
            yield shard.column, shard.numel, self._gradient(shard)

    def clear_gradients(self) -> None:
        super().clear_gradients()  # type: ignore[safe-super]  # concrete in every subclass
        for master in self.masters:
            if master.grad is not None:
                master.grad.zero_()
        self._zero.reset_cpu_buffers()
        # Any other number makes the next backward add to what DeepSpeed keeps.
        self._zero.micro_step_id = self._first_micro_step

    def put_gradient(self, row_N: torch.Tensor) -> None:
        for shard in self.shards:
            piece = row_N[shard.column :][: shard.numel]
            self._gradient(shard).copy_(piece)
            norm = torch.linalg.vector_norm(piece, dtype=torch.float64)
            self._zero.norm_for_param_grads[self._keys[shard.name]] = norm

    def _gradient(self, shard: Shard) -> torch.Tensor:
        grad = self.masters[shard.group].grad
        assert grad is not None
        return grad.view(-1)[shard.offset :][: shard.numel]

    @property
    def _keys(self) -> dict[str, int]:
        groups = getattr(self._zero, "bit16_groups", None) or self._zero.fp16_groups
        params = [param for group in groups for param in group]
        return {self._names[id(param)]: self._zero.get_param_id(param) for param in params}

    _first_micro_step = 0


class OffloadedPartitionedLayout(_Offloaded, PartitionedLayout):
    """ZeRO 1 and 2 with optimizer offload."""

    _first_micro_step = -1


class OffloadedParameterShardLayout(_Offloaded, ParameterShardLayout):
    """ZeRO 3 with optimizer offload."""

    adds_up = False


def make_layout(
    engine: Any, names: Mapping[int, str], zero_stage: int, offload_optimizer: bool = False
) -> ShardLayout:
    """The layout of one rank's engine. `names`: id(parameter) -> Hugging Face name."""
    if zero_stage == 0:
        return ReplicatedLayout(engine, names)
    if zero_stage in (1, 2):
        partitioned = OffloadedPartitionedLayout if offload_optimizer else PartitionedLayout
        return partitioned(engine, names)
    sharded = OffloadedParameterShardLayout if offload_optimizer else ParameterShardLayout
    return sharded(engine, names)
