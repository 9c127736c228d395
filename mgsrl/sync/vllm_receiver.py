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
from vllm.model_executor.layers.fused_moe.routed_experts import RoutedExperts
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import (
    finalize_layerwise_reload,
    initialize_layerwise_reload,
)
from vllm.model_executor.model_loader.reload.layerwise import (
    _place_kernel_tensors,
    get_layerwise_info,
)
from vllm.platforms import current_platform

from mgsrl.sync.fingerprint import Seen
from mgsrl.sync.vllm_probe import probe_model
from mgsrl.sync.wire import unpack_group

LOADED_IN_PLACE = ("GptOssRoutedExperts", "OAIAttention", "VocabParallelEmbedding")
"""Layers that are written where they are, see `load_in_place`: their loader copies by itself, or
(embeddings) they are large and nothing is packed: a second copy would cost as much as the rest."""

UNPUBLISHED = ("e_score_correction_bias",)
"""Last part of the names of parameters that are buffers in transformers (the routing bias of
DeepSeek-V3, GLM-4-MoE, ...): no publish has them, and no training moves them."""


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
        unpack_experts(self.model)
        initialize_layerwise_reload(self.model)
        load_in_place(self.model)

    def receive_weights(self, update_info: ObjectStoreUpdateInfo) -> None:
        pairs = unpack_group(
            update_info.names, update_info.dtype_names, update_info.shapes, update_info.buffers
        )
        self.model.load_weights(pairs)

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        repack_experts(self.model)
        repack_lm_heads(self.model)

    def shutdown(self) -> None:
        """Nothing to close."""


def load_in_place(model: torch.nn.Module) -> None:
    """Take some layers out of the layerwise reload: they are written into directly.

    The reload notices what goes through a parameter's own loader. GPT-OSS copies its experts and
    attention sinks straight into the parameters: during a reload those are empty shells, so the
    copy is lost, silently. These layers get their real tensors back.
    """
    for layer in model.modules():
        if type(layer).__name__ in LOADED_IN_PLACE:
            info = get_layerwise_info(layer)
            _place_kernel_tensors(layer, info)
            info.reset()


def unpack_experts(model: torch.nn.Module) -> None:
    """Give experts that the CPU's kernels packed room for plain weights again; see
    `repack_experts`. Packing may pad, and the reload copies into the tensors that it finds."""
    for layer in _packed_experts(model):
        shapes, _ = get_layerwise_info(layer).restore_metadata
        for name, shape in shapes.items():
            if name in layer._parameters:
                plain = torch.empty(shape.shape, dtype=shape.dtype)
                layer._parameters[name].data = plain


def repack_experts(model: torch.nn.Module) -> None:
    """Pack the experts' new weights on a CPU.

    vLLM packs experts when their kernel is made, at the first load; a reload leaves the plain
    weights where the kernel expects packed ones, or the old ones in its copy.
    """
    for layer in _packed_experts(model):
        layer.quant_method.moe_kernel.fused_experts.process_weights_after_loading(layer)


def _packed_experts(model: torch.nn.Module) -> list[Any]:
    if not current_platform.is_cpu():
        return []
    return [
        layer
        for layer in model.modules()
        if isinstance(layer, RoutedExperts)
        and getattr(layer.quant_method, "moe_kernel", None) is not None
    ]


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
    model_config: Any

    def probe_parameters(self, version: int, published: list[str]) -> list[Seen]:
        """See `probe_model`."""
        return probe_model(self.model_runner.get_model(), version, published)

    def keep_unpublished(self) -> None:
        """Have vLLM keep what no publish would bring back through a sleep of level 2: of itself it
        keeps buffers alone. Named here, since it refuses names that a model does not have."""
        names = [name for name, _ in self.model_runner.get_model().named_parameters()]
        self.model_config.sleep_preserve_parameter_names = [
            name for name in names if name.rpartition(".")[2] in UNPUBLISHED
        ]


if "object_store" not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine("object_store", ObjectStoreReceiver)
