"""What vLLM computes with, as fingerprints (`sync.fingerprint`) under the published names.

Wherever a kernel keeps a copy of its own, the kernel is asked, not the parameter: on a CPU linear
layers and LM heads give columns back as products with unit vectors (exact in every type), and
experts are read through the layout that their kernel packs. All weights on a GPU are read where
their kernels read them.

Names are resolved by vLLM's own tables: its name mapper, and the list of what is packed together.
What is not found by them stays unseen, and the driver says so by name. Left out: tensors that
vLLM derives (absorbed projections of latent attention); rope tables and other buffers.
Imports vLLM: for rollout actors only.
"""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
from vllm._custom_ops import cpu_prepack_moe_weight
from vllm.model_executor.layers.fused_moe.routed_experts import RoutedExperts
from vllm.model_executor.layers.linear import (
    LinearBase,
    QKVParallelLinear,
    ReplicatedLinear,
    RowParallelLinear,
)
from vllm.model_executor.layers.vocab_parallel_embedding import (
    ParallelLMHead,
    VocabParallelEmbedding,
)

from mgsrl.sync.fingerprint import MODULUS, Seen, as_unsigned, sampled_columns, square_sum

PACKED = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}
"""What vLLM packs in models that do not say so (`packed_modules_mapping`)."""
EXPERT = re.compile(r"(.+\.experts)\.(\d+)\.([^.]+)\.(weight|bias)$")
"""Published name of one matrix of one expert."""
TRANSPOSED_EXPERTS = ("GptOssRoutedExperts",)
"""Layers whose checkpoints have all experts in one tensor, [experts, in, out]."""
SECOND_MATRIX = ("down_proj", "w2")
"""Names of an expert's output matrix; the others make up its input matrix."""


class Names:
    """From vLLM's names to the published ones."""

    def __init__(self, model: Any, published: Sequence[str]) -> None:
        mapper = getattr(model, "hf_to_vllm_mapper", None)
        rename = mapper.get_rename_mapper().map_name if mapper is not None else str
        self._published = {rename(name): name for name in published}
        self._packed: dict[str, list[str]] = {
            **PACKED,
            **(getattr(model, "packed_modules_mapping", None) or {}),
        }
        self.experts: dict[str, dict[int, dict[str, list[str]]]] = {}
        """Prefix -> expert -> `w13_weight`, `w2_weight`, ... -> published names."""
        for inner, name in self._published.items():
            if match := EXPERT.match(inner):
                prefix, index, leaf, kind = match.groups()
                slot = f"{'w2' if leaf in SECOND_MATRIX else 'w13'}_{kind}"
                expert = self.experts.setdefault(prefix, {}).setdefault(int(index), {})
                expert.setdefault(slot, []).append(name)

    def one(self, name: str) -> str | None:
        """The published name of an unpacked tensor."""
        return self._published.get(name)

    def parts(self, module: str, kind: str) -> list[str]:
        """Published names of what a linear layer holds, in its order; [] if not all are known."""
        own = self.one(f"{module}.{kind}")
        if own is not None:
            return [own]
        prefix, _, leaf = module.rpartition(".")
        names = [self.one(f"{prefix}.{part}.{kind}") for part in self._packed.get(leaf, [])]
        known = [name for name in names if name is not None]
        return known if len(known) == len(names) else []


@torch.inference_mode()
def probe_model(model: Any, version: int, published: Sequence[str]) -> list[Seen]:
    """What this rank computes with, of everything whose published name is known."""
    names = Names(model, published)
    seen: list[Seen] = []
    shared: dict[int, str] = {}  # a tied head has its embedding's parameter
    for name, module in model.named_modules():
        if isinstance(module, LinearBase):
            seen += _linear(name, module, names, version)
        elif isinstance(module, RoutedExperts):
            seen += _experts(name, module, names, version)
        elif isinstance(module, VocabParallelEmbedding):
            own = names.one(f"{name}.weight") or shared.get(id(module.weight))
            if own is not None:
                shared[id(module.weight)] = own
                seen += _vocabulary(name, module, own, names, version)
        else:
            for leaf, value in module.named_parameters(recurse=False):
                own = names.one(f"{name}.{leaf}")
                if own is not None:
                    seen.append(Seen(f"{name}.{leaf}", (own,), whole=_whole(value)))
    return seen


def _linear(name: str, module: Any, names: Names, version: int) -> Iterator[Seen]:
    for kind in ("weight", "bias"):
        if getattr(module, kind, None) is None:
            continue
        parts = names.parts(name, kind)
        sizes = list(module.output_partition_sizes) if len(parts) > 1 else [None] * len(parts)
        if len(sizes) != len(parts):
            continue
        value = getattr(module, kind)
        packed = (
            kind == "weight" and value.device.type == "cpu" and value.ndim < 3
        )  # 3: convolution
        if packed:
            value = _columns(module, module.input_size, module.params_dtype, version).T
        start = 0
        for part, size in zip(parts, sizes):
            rows = value if size is None else value[start : start + size]
            label = f"{name}.{kind}" if len(parts) == 1 else f"{name}.{kind} ({part})"
            if packed:
                yield Seen(label, (part,), columns=as_unsigned(square_sum(rows.T, rows=True)))
            else:
                yield _share(label, module, kind, part, rows, keys_or_values=start > 0)
            start += size or 0


def _share(
    label: str, module: Any, kind: str, part: str, rows: torch.Tensor, *, keys_or_values: bool
) -> Seen:
    """A linear layer's weights or bias as they lie in memory: this rank's share of them."""
    if (
        isinstance(module, QKVParallelLinear)
        and keys_or_values
        and module.tp_rank % module.num_kv_head_replicas
    ):
        return Seen(label, (part,), whole=0, sharded=True)  # another rank counts the same heads
    # A row-parallel layer holds its whole bias on every rank.
    repeated = isinstance(module, ReplicatedLinear) or (
        kind == "bias" and isinstance(module, RowParallelLinear)
    )
    return Seen(label, (part,), whole=_whole(rows), sharded=not repeated)


def _columns(module: Any, in_features: int, dtype: torch.dtype, version: int) -> torch.Tensor:
    """[columns, out]: the sampled columns of a layer's matrix, out of its kernel."""
    return module.quant_method.apply(module, _units(in_features, dtype, version), None)


@lru_cache(maxsize=8)
def _units(in_features: int, dtype: torch.dtype, version: int) -> torch.Tensor:
    """[columns, in]: the unit vectors of the sampled columns."""
    columns = sampled_columns(in_features, version)
    units = torch.zeros(len(columns), in_features, dtype=dtype)
    units[torch.arange(len(columns)), columns] = 1
    return units


def _vocabulary(name: str, module: Any, part: str, names: Names, version: int) -> Iterator[Seen]:
    rows = module.org_vocab_size  # vLLM pads vocabularies
    bias = names.one(f"{name}.bias")
    if bias is not None and getattr(module, "bias", None) is not None:
        whole = _whole(module.bias[:rows])
        yield Seen(f"{name}.bias", (bias,), whole=whole, sharded=module.tp_size > 1)
    if isinstance(module, ParallelLMHead) and module.weight.device.type == "cpu":
        outputs = _columns(module, module.embedding_dim, module.weight.dtype, version)[:, :rows]
        sums = as_unsigned(square_sum(outputs, rows=True))
        yield Seen(f"{name}.weight", (part,), columns=sums)
    else:  # sharded: the padding is zeros
        whole = _whole(module.weight[:rows])
        yield Seen(f"{name}.weight", (part,), whole=whole, sharded=module.tp_size > 1)


def _experts(name: str, module: Any, names: Names, version: int) -> Iterator[Seen]:
    """Of every expert its two matrices, and their biases."""
    prefix = name.removesuffix(".routed_experts")
    experts = names.experts.get(prefix, {})
    for slot, value in module.named_parameters(recurse=False):
        together = names.one(f"{prefix}.{slot}")
        if together is not None and type(module).__name__ in TRANSPOSED_EXPERTS:
            columns = _packed_columns(module, slot, value, version, transposed=True)
            sums = None if columns is None else as_unsigned(columns.sum(0))
            whole = _whole(value) if sums is None else None
            yield Seen(f"{name}.{slot}", (together,), whole, sums, sharded=True)
            continue
        if len(experts) != value.shape[0] or not all(slot in slots for slots in experts.values()):
            continue
        columns = _packed_columns(module, slot, value, version, transposed=False)
        for index, slots in experts.items():
            sums = None if columns is None else as_unsigned(columns[index])
            whole = _whole(value[index]) if sums is None else None
            label = f"{name}.{slot} (expert {index})"
            yield Seen(label, tuple(slots[slot]), whole, sums, sharded=True)


def _packed_columns(
    module: Any, slot: str, value: torch.Tensor, version: int, *, transposed: bool
) -> torch.Tensor | None:
    """int64 [experts, columns]: sums of the sampled columns of matrices that a CPU's kernel packed;
    None where nothing is packed. Read from the places where the kernel looks for them: plain
    weights left where packed ones belong are other columns."""
    kernel: Any = getattr(module.quant_method.moe_kernel, "fused_experts", None)
    isa = getattr(kernel, "isa", None)
    if value.ndim != 3 or value.device.type != "cpu" or isa is None or kernel._use_zentorch:
        return None
    positions = packed_positions(value.shape[1], value.shape[2], value.dtype, isa)
    if transposed:
        positions = positions.T
    inputs = positions.shape[1]
    if slot == "w2_weight" and not transposed:  # padded to what the kernel likes
        inputs = module.moe_config.intermediate_size_per_partition
    chosen = positions[:, sampled_columns(inputs, version)].T
    flat = value.reshape(len(value), -1)
    return torch.stack([square_sum(expert[chosen], rows=True) for expert in flat])


@lru_cache(maxsize=8)
def packed_positions(rows: int, columns: int, dtype: torch.dtype, isa: str) -> torch.Tensor:
    """int64 [rows, columns]: where the kernel's packing puts each element of a matrix.

    Found by packing the elements' numbers, a digit at a time: bfloat16 holds them up to 256.
    """
    numbers = torch.arange(rows * columns)
    packed = torch.zeros_like(numbers)
    for digit in range(4):
        digits = (numbers >> (8 * digit)) & 255
        moved = cpu_prepack_moe_weight(digits.to(dtype).reshape(1, rows, columns), isa)
        packed += moved.reshape(-1).to(torch.int64) << (8 * digit)
    positions = torch.empty_like(numbers)
    positions[packed] = numbers
    return positions.reshape(rows, columns)


def _whole(value: torch.Tensor) -> int:
    return int(square_sum(value)) % MODULUS
