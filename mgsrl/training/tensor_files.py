"""The weights of a Hugging Face folder, tensor by tensor: read where they are, written one after
the other. At no time is more than one tensor in memory, however large the files.

Left out: pickled weights (`pytorch_model.bin`), and folders whose files are not called as
transformers calls them.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from mgsrl.errors import DataError, MissingPathError, one_line
from mgsrl.files.hashed import FileFacts, hashed_file
from mgsrl.learner.shard_file import DTYPES

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
TORCH_TYPES = {name: dtype for dtype, name in DTYPES.items()}


@dataclass(frozen=True)
class TensorFacts:
    """What a file says of a tensor before it is read."""

    dtype: str
    """As safetensors spells it: `F32`, `BF16`, `F16`, ..."""
    shape: tuple[int, ...]


class TensorFiles:
    """The tensors of a folder by name.

    Args:
        folder: with `model.safetensors`, or the files of an index.
        shown: what messages call it.

    Raises:
        MissingPathError: there are no such weights, or a file of the index is not there.
        DataError: a file is damaged.
    """

    def __init__(self, folder: Path, shown: str) -> None:
        from safetensors import SafetensorError, safe_open

        self._shown, self._stack = shown, ExitStack()
        self._opened: dict[str, Any] = {}
        self.file_of: dict[str, str] = {}
        """Name of a tensor -> of its file."""
        self.facts: dict[str, TensorFacts] = {}
        for name in self._files(folder):
            try:
                file = self._stack.enter_context(safe_open(folder / name, framework="pt"))
                for key in file.keys():  # noqa: SIM118 - not a dict
                    part = file.get_slice(key)
                    self.facts[key] = TensorFacts(part.get_dtype(), tuple(part.get_shape()))
                    self.file_of[key] = name
                self._opened[name] = file
            except SafetensorError as error:
                raise DataError(
                    f"The weights of {shown} cannot be read.",
                    expected="safetensors files",
                    found=f"{name}: {one_line(error)}",
                    todo="restore the file from a copy, or download it again",
                ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def read(self, name: str) -> Tensor:
        tensor: Tensor = self._opened[self.file_of[name]].get_tensor(name)
        return tensor

    def forget(self, names: Sequence[str]) -> None:
        """Take no notice of these tensors."""
        for name in names:
            self.facts.pop(name, None)
            self.file_of.pop(name, None)

    def _files(self, folder: Path) -> list[str]:
        index = folder / INDEX
        names = [SINGLE]
        if index.is_file():
            try:
                names = sorted(
                    set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
                )
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise DataError(
                    f"The weights of {self._shown} cannot be read.",
                    expected=f"{INDEX} with a weight_map",
                    found=one_line(error) or repr(error),
                    todo="restore the file from a copy, or download it again",
                ) from error
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise MissingPathError(
                f"{self._shown} has no weights to merge.",
                expected=f"{SINGLE}, or the files of {INDEX}",
                found=f"no {', '.join(missing[:3])} in {folder}",
                todo="complete the folder; older formats: load and save it with transformers",
            )
        return names


def write_tensors(
    file: Path, facts: Mapping[str, TensorFacts], tensor_of: Callable[[str], Tensor]
) -> FileFacts:
    """Write a safetensors file: its header first, then each tensor as it comes.

    Args:
        facts: type and shape of every tensor.
        tensor_of: asked once for each name; of that type and shape.
    """
    order = list(DTYPES.values())  # wide types first, as the library lays them out: aligned
    names = sorted(facts, key=lambda name: (order.index(facts[name].dtype), name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name in names:
        end = position + num_bytes(facts[name])
        header[name] = {
            "dtype": facts[name].dtype,
            "shape": list(facts[name].shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with hashed_file(file) as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            tensor = tensor_of(name)
            assert tuple(tensor.shape) == facts[name].shape
            assert DTYPES[tensor.dtype] == facts[name].dtype
            out.write(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return out.facts


def num_bytes(facts: TensorFacts) -> int:
    """Of a tensor."""
    return prod(facts.shape) * TORCH_TYPES[facts.dtype].itemsize
