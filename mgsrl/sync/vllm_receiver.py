"""The rollout side of the `object_store` transfer, inside vLLM's worker.

Registers `ObjectStoreReceiver` with vLLM's `WeightTransferEngineFactory` under "object_store";
`WorkerExtension` makes every vLLM worker process import this file (and so register it) and adds
the probe that names a stale module. Imports vLLM: for rollout actors only.
"""

from dataclasses import dataclass
from typing import Any

import torch
from vllm.distributed.weight_transfer import WeightTransferEngine, WeightTransferEngineFactory
from vllm.distributed.weight_transfer.base import WeightTransferInitInfo, WeightTransferUpdateInfo
from vllm.model_executor.layers.linear import LinearBase
from vllm.model_executor.layers.vocab_parallel_embedding import (
    ParallelLMHead,
    VocabParallelEmbedding,
)
from vllm.model_executor.model_loader.reload import (
    finalize_layerwise_reload,
    initialize_layerwise_reload,
)

from mgsrl.sync.canary import probe_parameter, probe_vector
from mgsrl.sync.wire import unpack_group


@dataclass
class ObjectStoreInitInfo(WeightTransferInitInfo):
    """Nothing to agree on: payloads describe themselves."""


@dataclass
class ObjectStoreUpdateInfo(WeightTransferUpdateInfo):
    """One layer group, see `sync.wire.UpdateInfo`."""

    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]
    buffers: list[Any]


class ObjectStoreReceiver(WeightTransferEngine[ObjectStoreInitInfo, ObjectStoreUpdateInfo]):
    """Loads layer groups through vLLM's layerwise reload (packing and tensor parallelism in it)."""

    init_info_cls = ObjectStoreInitInfo
    update_info_cls = ObjectStoreUpdateInfo

    def init_transfer_engine(self, init_info: ObjectStoreInitInfo) -> None:
        """Nothing to open."""

    def start_weight_update(self) -> None:
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: ObjectStoreUpdateInfo) -> None:
        pairs = unpack_group(
            update_info.names, update_info.dtype_names, update_info.shapes, update_info.buffers
        )
        self.model.load_weights(pairs)

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        repack_lm_heads(self.model)

    def shutdown(self) -> None:
        """Nothing to close."""


def repack_lm_heads(model: torch.nn.Module) -> None:
    """Make the LM head compute with the weights that it now holds.

    On a CPU vLLM packs linear weights into a layout of its own. A head tied to the embedding
    owns no parameter, so the layerwise reload refreshes the embedding and leaves the head's
    packed copy of the OLD weights: log-probabilities are silently off by 0.5 nats and more.
    Packing it again is cheap, and does nothing on a GPU.
    """
    for module in model.modules():
        if isinstance(module, ParallelLMHead):
            module.quant_method.process_weights_after_loading(module)


class WorkerExtension:
    """Methods added to vLLM's worker (`worker_extension_cls`), called by `collective_rpc`."""

    model_runner: Any

    @torch.inference_mode()
    def probe_parameters(self, seed: int) -> dict[str, torch.Tensor]:
        """See `probe_model`."""
        return probe_model(self.model_runner.get_model(), seed)


def probe_model(model: torch.nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """Every parameter's effect on a seeded vector, by its Hugging Face name.

    Linear maps and the LM head go through `quant_method.apply`, the path they really compute
    with; packed ones (`qkv_proj`, `gate_up_proj`) are split into the checkpoint's names.
    Embeddings, norms and biases are read. Unsharded models only: under tensor parallelism a
    rank sees slices, which the learner cannot compare.
    """
    packed: dict[str, list[str]] = getattr(model, "packed_modules_mapping", {})
    found: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, LinearBase):
            found |= _probe_linear(name, module, packed, seed)
        elif isinstance(module, ParallelLMHead):
            vector = probe_vector(module.embedding_dim, seed).to(module.weight)
            output = module.quant_method.apply(module, vector[None])[0]
            found[f"{name}.weight"] = output[: module.org_vocab_size].float().cpu()
        elif isinstance(module, VocabParallelEmbedding):
            weight = module.weight[: module.org_vocab_size]
            found[f"{name}.weight"] = probe_parameter(weight, seed)
        else:
            for leaf, value in module.named_parameters(recurse=False):
                if value.ndim == 1:
                    found[f"{name}.{leaf}"] = probe_parameter(value, seed)
    return found


def _probe_linear(
    name: str, module: Any, packed: dict[str, list[str]], seed: int
) -> dict[str, torch.Tensor]:
    prefix, _, leaf = name.rpartition(".")
    parts = [f"{prefix}.{part}" for part in packed.get(leaf, [leaf])]
    sizes = list(module.output_partition_sizes) if len(parts) > 1 else None
    vector = probe_vector(module.input_size, seed).to(module.params_dtype)
    vector = vector.to(next(module.parameters()).device)
    output = module.quant_method.apply(module, vector[None], None)[0].float().cpu()
    rows = output.split(sizes) if sizes else [output]
    found = {f"{part}.weight": row.clone() for part, row in zip(parts, rows, strict=True)}
    if getattr(module, "bias", None) is not None:
        bias = module.bias.detach().float().cpu()
        rows = bias.split(sizes) if sizes else [bias]
        found |= {f"{part}.bias": row.clone() for part, row in zip(parts, rows, strict=True)}
    return found


if "object_store" not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine("object_store", ObjectStoreReceiver)
