"""The learner's weights as a stream of whole tensors, one layer group at a time.

The verbs are those of `vllm.distributed.weight_transfer.base.WeightSource` (vLLM's trainer
engines take any object with them); restated here because importing vLLM costs the learner 12 s
and 1 GiB. Names, dtypes and shapes are those of the Hugging Face model; a tied weight appears
once. Under ZeRO-3 a group is gathered by all ranks together and released before the next one.

Low-rank adapters are merged on the way, into copies (merging in place and back would lose bits):
whoever receives the weights sees an ordinary model. All weights are sent, also those without
adapters: what the embeddings would save is not worth a second protocol.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

ADAPTER = re.compile(r"\.lora_[AB]\.")
"""In the names of the parameters of an adapter."""
ADAPTER_NAME = "default"
"""peft's name of the only adapter."""


@dataclass(frozen=True)
class ParamMeta:
    """Hugging Face name, wire dtype and whole shape of one parameter."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]


def layer_groups(names: list[str]) -> list[list[str]]:
    """Partition parameter names: what comes before the layers, each layer, what comes after.

    The layer is the outermost integer in a name, so a whole mixture-of-experts layer stays
    together. The same partition as vLLM's `layerwise_groups`, for models in layer order.
    """
    groups: OrderedDict[tuple[str, ...], list[str]] = OrderedDict()
    in_layers = False
    for name in names:
        parts = name.split(".")
        index = next((i for i, part in enumerate(parts) if part.isdigit()), None)
        if index is None:
            key: tuple[str, ...] = ("post",) if in_layers else ("pre",)
        else:
            in_layers = True
            key = tuple(parts[: index + 1])
        groups.setdefault(key, []).append(name)
    post = groups.pop(("post",), None)
    return [*groups.values(), *([post] if post else [])]


def lora_layers(model: nn.Module) -> dict[str, Any]:
    """Name -> peft's layer around a linear layer, for all layers with an adapter."""
    return {name: layer for name, layer in model.named_modules() if hasattr(layer, "lora_A")}


@torch.no_grad()
def merged_weight(layer: Any) -> torch.Tensor:
    """`W + scaling * B A` of one such layer as a new tensor, [out, in] in the type of W; added up
    in fp32. Under ZeRO-3 the three must be gathered."""
    weight = layer.base_layer.weight
    a, b = (factor.float() for factor in _factors(layer))
    return torch.addmm(weight.float(), b, a, alpha=layer.scaling[ADAPTER_NAME]).to(weight.dtype)


def _factors(layer: Any) -> list[nn.Parameter]:
    """A [rank, in] and B [out, rank]."""
    return [layer.lora_A[ADAPTER_NAME].weight, layer.lora_B[ADAPTER_NAME].weight]


class WeightSource:
    """The weights of a Hugging Face model, partitioned by ZeRO-3 or not, adapters merged.

    Iterating is a collective under ZeRO-3: every learner rank iterates, in the same order. The
    yielded tensors stay valid while referenced, but where no adapter is merged they alias the
    model's own memory if that is whole (ZeRO 0-2): use them before the next optimizer step.

    Args:
        gathered: parameters -> a block in which they are whole (`learner.layout` knows how).
        whole_shape: of a parameter that need not be whole now.
    """

    def __init__(
        self,
        model: nn.Module,
        gathered: Callable[[list[Any]], AbstractContextManager[None]] = lambda params: (
            nullcontext()
        ),
        whole_shape: Callable[[Any], tuple[int, ...]] = lambda param: tuple(param.shape),
    ) -> None:
        self._gathered, self._whole_shape = gathered, whole_shape
        self._adapted: dict[str, Any] = {
            f"{name}.weight": layer for name, layer in lora_layers(model).items()
        }
        params = {  # tied ones once
            name.replace(".base_layer.", "."): param
            for name, param in model.named_parameters()
            if not ADAPTER.search(name)
        }
        order = [name for group in layer_groups(list(params)) for name in group]
        self._params: dict[str, nn.Parameter] = {name: params[name] for name in order}

    def metadata(self) -> list[ParamMeta]:
        """What iterating yields, in order, without gathering anything."""
        return [
            ParamMeta(name, param.dtype, self._whole_shape(param))
            for name, param in self._params.items()
        ]

    def held_names(self) -> Collection[str] | None:
        """Every rank yields every parameter."""
        return None

    def groups(self) -> list[list[str]]:
        """Names by layer group, in the order of `metadata()`."""
        return layer_groups(list(self._params))

    def iter_groups(self) -> Iterator[tuple[list[str], list[torch.Tensor]]]:
        """(names, whole detached tensors) of one layer group after the other."""
        for names in self.groups():
            adapted = [self._adapted[name] for name in names if name in self._adapted]
            params = [self._params[name] for name in names]
            with self._gathered(params + [p for layer in adapted for p in _factors(layer)]):
                yield names, [self._whole(name) for name in names]

    def _whole(self, name: str) -> torch.Tensor:
        layer = self._adapted.get(name)
        return self._params[name].detach() if layer is None else merged_weight(layer)

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        for names, tensors in self.iter_groups():
            yield from zip(names, tensors)
