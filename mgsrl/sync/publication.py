"""What is sent to the rollout workers: the learner's weights under the names of its checkpoint.

`transformers` may hold a model under other names and in other pieces than its checkpoints do (all
experts of a layer in one tensor, `mlp` for `block_sparse_moe`). vLLM loads checkpoints, so weights
are turned back into them, group by group, by the function with which `transformers` saves models.
The plain engine holds the model as the learner does and gets it as it is.

Each tensor is fingerprinted on its way out: what was really sent is what engines are held against.
The verbs are those of vLLM's `WeightSource`.
"""

from collections.abc import Collection, Iterator

import torch
from torch import nn

from mgsrl.sync.fingerprint import Fingerprint, fingerprint
from mgsrl.sync.source import ParamMeta, WeightSource


class Publication:
    """`WeightSource` verbs over the weights as an engine loads them.

    Iterating is a collective under ZeRO-3, as for the source.

    Args:
        source: the learner's weights.
        model: the model behind them; it knows how its checkpoint differs.
        as_checkpoint: under the checkpoint's names (vLLM), else as the learner holds them.
        engine_dtype: the type in which the engine keeps its weights.
        keep: fingerprint what is yielded (the sending rank).
    """

    def __init__(
        self,
        source: WeightSource,
        model: nn.Module,
        *,
        as_checkpoint: bool,
        engine_dtype: torch.dtype,
        keep: bool,
    ) -> None:
        self._source = source
        self._model = model
        self._as_checkpoint = as_checkpoint
        self._engine_dtype = engine_dtype
        self._keep = keep
        self._transposed = transposed_weights(model)
        self.version = 0
        """Decides which columns are fingerprinted."""
        self.fingerprints: dict[str, tuple[Fingerprint, ...]] = {}
        """Of the last pass, see `fingerprint.Published`."""

    def metadata(self) -> list[ParamMeta]:
        """What iterating yields, in order, without gathering anything."""
        return [
            ParamMeta(name, tensor.dtype, tuple(tensor.shape))
            for group in self._shapes()
            for name, tensor in group.items()
        ]

    def held_names(self) -> Collection[str] | None:
        """Every rank yields every parameter."""
        return None

    def groups(self) -> list[list[str]]:
        """Names by layer group, in the order of `metadata()`."""
        return [list(group) for group in self._shapes()]

    def iter_groups(self) -> Iterator[tuple[list[str], list[torch.Tensor]]]:
        """(names, whole detached tensors) of one layer group after the other."""
        self.fingerprints = {}
        for names, tensors in self._source.iter_groups():
            group = self._converted(dict(zip(names, tensors)))
            if self._keep:
                for name, tensor in group.items():
                    self.fingerprints[name] = self._fingerprints(name, tensor)
            if tensors[0].is_cuda:
                # vLLM's senders pack on streams of their own, which do not wait for this one.
                torch.cuda.current_stream().synchronize()
            yield list(group), list(group.values())

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        for names, tensors in self.iter_groups():
            yield from zip(names, tensors)

    def _shapes(self) -> list[dict[str, torch.Tensor]]:
        """The groups as tensors without data."""
        metas = {meta.name: meta for meta in self._source.metadata()}
        return [
            self._converted(
                {
                    name: torch.empty(metas[name].shape, dtype=metas[name].dtype, device="meta")
                    for name in names
                }
            )
            for names in self._source.groups()
        ]

    def _converted(self, group: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if not self._as_checkpoint:
            return group
        from transformers.core_model_loading import revert_weight_conversion

        return revert_weight_conversion(self._model, group)

    def _fingerprints(self, name: str, tensor: torch.Tensor) -> tuple[Fingerprint, ...]:
        versions = [tensor]
        if self._engine_dtype.itemsize < tensor.dtype.itemsize:
            versions.append(tensor.to(self._engine_dtype))
        transposed = name in self._transposed
        return tuple(fingerprint(each, self.version, transposed=transposed) for each in versions)


def transposed_weights(model: nn.Module) -> set[str]:
    """Names of weights that are stored as [in, out]: those of GPT-2's `Conv1D`."""
    from transformers.pytorch_utils import Conv1D

    return {
        f"{name}.weight" for name, module in model.named_modules() if isinstance(module, Conv1D)
    }
