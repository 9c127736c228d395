"""The payload of one layer group: tensors as raw bytes, which Ray shares without copying.

NumPy has no bfloat16, so every tensor travels as uint8 with its dtype's name and shape. The
receiver's tensors are views of shared memory: read them, do not write to them or keep them.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import torch

from mgsrl.errors import InvariantError

UpdateInfo = dict[str, Any]
"""`names`: list[str], `dtype_names`: list[str], `shapes`: list[list[int]],
`buffers`: list of uint8 arrays. The first three are those of vLLM's NCCL engine."""


def pack_group(names: Sequence[str], tensors: Sequence[torch.Tensor]) -> UpdateInfo:
    """Tensors (any dtype, any device) -> payload; CPU tensors are not copied.

    Raises:
        InvariantError: an empty tensor, which is what ZeRO-3 leaves of an ungathered parameter.
    """
    for name, tensor in zip(names, tensors, strict=True):
        if tensor.numel() == 0:
            raise InvariantError(f"{name} is empty: it was not gathered before it was published")
    on_cpu = [tensor.detach().cpu().contiguous() for tensor in tensors]
    return {
        "names": list(names),
        "dtype_names": [str(tensor.dtype).removeprefix("torch.") for tensor in on_cpu],
        "shapes": [list(tensor.shape) for tensor in on_cpu],
        "buffers": [tensor.reshape(-1).view(torch.uint8).numpy() for tensor in on_cpu],
    }


def unpack_group(
    names: Sequence[str],
    dtype_names: Sequence[str],
    shapes: Sequence[Sequence[int]],
    buffers: Sequence[Any],
) -> list[tuple[str, torch.Tensor]]:
    """Payload -> (name, tensor) pairs over the same memory (read-only: do not write)."""
    pairs = []
    for name, dtype_name, shape, buffer in zip(names, dtype_names, shapes, buffers, strict=True):
        with warnings.catch_warnings():  # shared memory is read-only, and we only read
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            flat = torch.from_numpy(buffer)
        pairs.append((name, flat.view(getattr(torch, dtype_name)).reshape(tuple(shape))))
    return pairs
