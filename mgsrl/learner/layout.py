"""Which pieces of which parameters this rank owns, for every ZeRO stage.

One list of shards serves four things: adding reduced gradients to a domain's row, the pieces of
each module for surgery, handing the combined gradient back to DeepSpeed, and checkpoints.
This file and `offload.py` are the only ones that know DeepSpeed's internals (deepspeed 0.19).

    stage 0     every rank owns everything; gradients in `param.grad`
    stage 1, 2  one flat partition of all parameters laid end to end
    stage 3     an equal share of every parameter (the last one padded)

Left out: optimizer state on NVMe, mixtures of experts, several parameter groups.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

STATES = ("exp_avg", "exp_avg_sq")
"""AdamW's moments."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Elements `[start, start + numel)` of one flattened parameter."""

    name: str
    """Hugging Face parameter name."""
    start: int
    numel: int
    column: int
    """First column in the `[D, N]` gradient buffer."""
    group: int
    """Index into `ShardLayout.masters`."""
    offset: int
    """First element inside that master tensor."""


class ShardLayout(ABC):
    """This rank's shards, in the order of the model's parameters.

    Attributes:
        shards: the pieces; together, over all ranks, they cover every trained parameter once
            (stage 0: once per rank).
        num_columns: N, the length of a gradient row, padding included. Padding stays zero.
        masters: fp32 weights that the optimizer steps, flat per group.
    """

    replicated = False
    """Whether all ranks own the same elements."""
    adds_up = False
    """Whether DeepSpeed can add gradients up by itself, in a row of ours (`add_in`)."""
    keeps_row = False
    """Whether it otherwise keeps a row of its own, also between steps."""

    def __init__(self, engine: Any, names: Mapping[int, str]) -> None:
        """`names`: id(parameter) -> Hugging Face name."""
        self._engine = engine
        self._names = names
        self.shards: list[Shard] = []
        self.masters: list[torch.Tensor] = []
        self.num_columns = 0

    @abstractmethod
    def gradients(self) -> Iterator[tuple[int, int, torch.Tensor | None]]:
        """(column, length, flat gradient or None) of the backward that just ran; the triples
        cover every shard."""

    @abstractmethod
    def clear_gradients(self) -> None:
        """Make DeepSpeed forget its gradients, so that the next backward starts from zero."""

    @abstractmethod
    def put_gradient(self, row_N: torch.Tensor) -> None:
        """Give DeepSpeed `row_N` as the gradient of the coming `engine.step()`, which spends it."""

    def add_in(self, row_N: torch.Tensor) -> None:
        """Let DeepSpeed add the next gradients to `row_N`, fp32 with zeros for padding."""
        raise NotImplementedError

    @abstractmethod
    def refresh_weights(self) -> None:
        """Make the compute weights of all ranks those of the masters (a collective)."""

    def check_present(self) -> None:
        """RuntimeError while the optimizer's memory is lent: a fused step would crash on it."""
        check_not_lent(self.optimizer_tensors(), "optimizer")

    def master(self, shard: Shard) -> torch.Tensor:
        """fp32 [shard.numel], a view."""
        return self.masters[shard.group].detach().view(-1)[shard.offset :][: shard.numel]

    def state(self, shard: Shard, kind: str) -> torch.Tensor | None:
        """fp32 [shard.numel] view of one AdamW moment; None before the first step."""
        state = self._optimizer_state(shard.group)
        if kind not in state:
            return None
        flat: torch.Tensor = state[kind].view(-1)
        return flat[shard.offset :][: shard.numel]

    def optimizer_tensors(self) -> list[torch.Tensor]:
        """All that only the optimizer's step needs: masters and AdamW's state."""
        states = (self._optimizer_state(group) for group in range(len(self.masters)))
        return [*self.masters, *(value for state in states for value in state.values())]

    def num_updates(self) -> int:
        """AdamW's step count."""
        state = self._optimizer_state(0) if self.masters else {}
        return int(state["step"].item()) if "step" in state else 0

    def reset_optimizer(self, num_updates: int = 0) -> None:
        """Zero moments at AdamW step `num_updates` (0: as before the first step).

        Existing moments are zeroed in place: DeepSpeed's ZeRO 1 and 2 keep views of them, so
        replaced ones would stay in memory for the rest of the run.
        """
        optimizer = self._engine.basic_optimizer
        for group, master in enumerate(self.masters):
            state = self._optimizer_state(group)
            if state:
                state["step"].fill_(num_updates)
                for kind in STATES:
                    state[kind].zero_()
            elif num_updates:
                optimizer.state[master] = {
                    "step": torch.tensor(float(num_updates), device=master.device),
                    **{kind: torch.zeros_like(master.detach()) for kind in STATES},
                }

    def _optimizer_state(self, group: int) -> dict[str, torch.Tensor]:
        state: dict[str, torch.Tensor] = self._engine.basic_optimizer.state.get(
            self.masters[group], {}
        )
        return state


class ReplicatedLayout(ShardLayout):
    """ZeRO 0: plain data parallelism."""

    replicated = True

    def __init__(self, engine: Any, names: Mapping[int, str]) -> None:
        super().__init__(engine, names)
        self.masters = [p for group in engine.optimizer.param_groups for p in group["params"]]
        for index, param in enumerate(self.masters):
            name = names[id(param)]
            self.shards.append(Shard(name, 0, param.numel(), self.num_columns, index, 0))
            self.num_columns += param.numel()

    def gradients(self) -> Iterator[tuple[int, int, torch.Tensor | None]]:
        for shard in self.shards:
            grad = self.masters[shard.group].grad
            yield shard.column, shard.numel, None if grad is None else grad.reshape(-1)

    def clear_gradients(self) -> None:
        for param in self.masters:
            param.grad = None

    def put_gradient(self, row_N: torch.Tensor) -> None:
        for shard in self.shards:
            param = self.masters[shard.group]
            param.grad = row_N[shard.column :][: shard.numel].view_as(param)

    def refresh_weights(self) -> None:
        """The masters are the weights."""


class _FlatGradient(list[torch.Tensor]):
    """A partition's gradient in the form that lets ZeRO step without copying it."""

    def __init__(self, views: list[torch.Tensor], flat_partition: torch.Tensor) -> None:
        super().__init__(views)
        self.flat_partition = flat_partition


class PartitionedLayout(ShardLayout):
    """ZeRO 1 and 2: rank r owns the r-th part of all parameters laid end to end.

    Of bfloat16 weights ZeRO 2 adds gradients up in fp32, in a buffer that is laid out as a row, so
    it can be one. A single rank does so with fp32 weights, too: it has nothing to reduce.
    """

    def __init__(self, engine: Any, names: Mapping[int, str]) -> None:
        super().__init__(engine, names)
        zero = engine.optimizer
        self._zero = zero
        self.masters = list(zero.single_partition_of_fp32_groups)
        self._columns: list[int] = []
        rank = torch.distributed.get_rank()
        if zero.partition_gradients and not zero.cpu_offload:
            if dist.get_world_size() == 1:
                zero._use_compact_grad_partition_buffer = lambda group: True
            groups = range(len(self.masters))
            self.adds_up = all(map(zero._use_compact_grad_partition_buffer, groups))
        for group, params in enumerate(zero.params_in_partition):
            size = int(zero.partition_size[group])
            self._columns.append(self.num_columns)
            for param in params:
                key = zero.get_param_id(param)
                start = int(zero.grad_start_offset[group][rank][key])
                offset = int(zero.grad_partition_insertion_offset[group][rank][key])
                numel = min(param.numel() - start, size - offset)
                column = self.num_columns + offset
                self.shards.append(Shard(names[id(param)], start, numel, column, group, offset))
            self.num_columns += size

    def gradients(self) -> Iterator[tuple[int, int, torch.Tensor | None]]:
        for group, column in enumerate(self._columns):
            for tensor in self._zero.averaged_gradients[group]:
                yield column, tensor.numel(), tensor.reshape(-1)
                column += tensor.numel()

    def clear_gradients(self) -> None:
        for group in range(len(self.masters)):
            self._zero.averaged_gradients[group] = None
            self._zero.all_grad_tensors[group] = None
        self._zero.zero_grad(set_to_none=True)

    def add_in(self, row_N: torch.Tensor) -> None:
        self.put_gradient(row_N)

    def put_gradient(self, row_N: torch.Tensor) -> None:
        for group, column in enumerate(self._columns):
            views = [
                row_N[shard.column :][: shard.numel]
                for shard in self.shards
                if shard.group == group
            ]
            flat = row_N[column:][: self.masters[group].numel()]
            self._zero.averaged_gradients[group] = _FlatGradient(views, flat)

    def refresh_weights(self) -> None:
        self._zero.update_lp_params()


def _flattened(tensors: list[torch.Tensor]) -> torch.Tensor:
    """Laid end to end, which a `_FlatGradient` is."""
    if isinstance(tensors, _FlatGradient):
        return tensors.flat_partition
    return torch._utils._flatten_dense_tensors(tensors)


class ParameterShardLayout(ShardLayout):
    """ZeRO 3: rank r owns the r-th equal share of every parameter.

    DeepSpeed adds gradients up in a buffer that is laid out as a row, so it can be one.
    """

    adds_up = keeps_row = True

    def __init__(self, engine: Any, names: Mapping[int, str]) -> None:
        super().__init__(engine, names)
        zero = engine.optimizer
        self._zero = zero
        zero.flatten = _flattened
        self.masters = list(zero.fp32_partitioned_groups_flat)
        self._pieces: list[list[tuple[int, int]]] = []  # (column, padded length) per parameter
        rank = torch.distributed.get_rank()
        for group, params in enumerate(zero.fp16_groups):
            base = self.num_columns
            pieces: list[tuple[int, int]] = []
            for param in params:
                share = int(param.partition_numel())
                start = rank * share
                numel = max(0, min(share, int(param.ds_numel) - start))
                column = self.num_columns
                if numel:
                    offset = column - base
                    self.shards.append(Shard(names[id(param)], start, numel, column, group, offset))
                pieces.append((column, share))
                self.num_columns += share
            self._pieces.append(pieces)
        self._real = {shard.column: shard.numel for shard in self.shards}

    def add_in(self, row_N: torch.Tensor) -> None:
        self._zero.grad_partitions_flat_buffer = row_N
        slices = self._zero._DeepSpeedZeroOptimizer_Stage3__param_id_to_grad_partition
        for params, pieces in zip(self._zero.fp16_groups, self._pieces):
            for param, (column, share) in zip(params, pieces):
                slices[param.ds_id] = row_N[column:][:share]
        self._zero.averaged_gradients = {}
        self._zero.micro_step_id = 1  # at 0 it would copy, and leave what has no gradient as it is

    def gradients(self) -> Iterator[tuple[int, int, torch.Tensor | None]]:
        for group, pieces in enumerate(self._pieces):
            for (column, _), tensor in zip(pieces, self._zero.averaged_gradients[group]):
                numel = self._real.get(column, 0)
                if numel:  # the rest is padding, whose content is undefined
                    yield column, numel, tensor.view(-1)[:numel]

    def clear_gradients(self) -> None:
        self._zero.averaged_gradients = {}
        self._zero.zero_grad(set_to_none=True)  # also restarts its micro-step counter

    def put_gradient(self, row_N: torch.Tensor) -> None:
        for group, pieces in enumerate(self._pieces):
            views = [row_N[column:][:share] for column, share in pieces]
            flat = row_N[pieces[0][0] :][: self.masters[group].numel()]
            self._zero.averaged_gradients[group] = _FlatGradient(views, flat)

    def refresh_weights(self) -> None:
        for group in range(len(self.masters)):
            self._zero._reassign_or_swap_out_partitioned_parameters(group)
        regather_persistent(self._zero.persistent_parameters)


def regather_persistent(params: Iterable[Any]) -> None:
    """Renew the whole copies of small parameters, which ZeRO-3 keeps gathered between uses."""
    small = [param for param in params if getattr(param, "ds_persist", False)]
    if small:
        small[0].partition(param_list=list(small), has_been_updated=False)
        small[0].all_gather(list(small))


def gathered(params: list[Any]) -> AbstractContextManager[None]:
    """Whole parameters inside the block; a collective under ZeRO-3, else nothing."""
    if not any(hasattr(param, "ds_id") for param in params):
        return nullcontext()
    import deepspeed

    inside: AbstractContextManager[None] = deepspeed.zero.GatheredParameters(params)
    return inside


def whole_shape(param: Any) -> tuple[int, ...]:
    """Of a parameter, without gathering it."""
    return tuple(getattr(param, "ds_shape", param.shape))


def check_not_lent(tensors: Iterable[torch.Tensor], what: str) -> None:
    """RuntimeError when the storage of any is away (`parking.py`): C++ would crash on it."""
    if any(each.numel() and not each.untyped_storage().nbytes() for each in tensors):
        raise RuntimeError(f"the {what}'s memory is lent: resume() first")


def holder(param: Any) -> torch.Tensor:
    """The tensor whose data is what this rank holds of a parameter."""
    inside: torch.Tensor = getattr(param, "ds_tensor", param)
    return inside


def held_part(param: Any) -> tuple[int, torch.Tensor]:
    """(start, flat view) of what this rank holds of a parameter: its ZeRO-3 share, or all."""
    if hasattr(param, "ds_tensor"):
        share = param.ds_tensor.numel()
        start = min(dist.get_rank() * share, int(param.ds_numel))
        return start, param.ds_tensor.view(-1)[: min(share, int(param.ds_numel) - start)]
    return 0, param.data.view(-1)


def own_share(param: Any, rank: int, world_size: int) -> tuple[int, torch.Tensor]:
    """(start, flat view) of the share of one parameter that this rank writes to a checkpoint."""
    numel = int(getattr(param, "ds_numel", param.numel()))
    share = -(-numel // world_size)
    start = min(rank * share, numel)
    length = min(share, numel - start)
    if hasattr(param, "ds_tensor"):
        return start, param.ds_tensor.view(-1)[:length]
    return start, param.data.view(-1)[start:][:length]
