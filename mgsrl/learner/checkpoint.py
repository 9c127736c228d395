"""Learner state on disk: safetensors shards that fit any number of ranks and any ZeRO stage.

Every rank writes `rank_<r>.safetensors` with the pieces it owns, under keys
`name|start|end|kind` (elements `[start, end)` of the flattened parameter; kind `master`,
`exp_avg`, `exp_avg_sq` or `reference`), and rank 0 writes `learner.json`. Loading collects, for
each piece a rank owns now, the overlapping pieces of whatever files there are. What a surgery
method remembers is the same on every rank: rank 0 writes it (`surgery.safetensors`, if there is
anything), all read it. No pickle.

Left out: DeepSpeed's own checkpoints (pickle, bound to stage and world size). Frozen parameters
are not written: they are those of `policy.path` (of a policy with adapters, all but these).
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from mgsrl.errors import CheckpointError
from mgsrl.learner.layout import STATES, ShardLayout, held_part
from mgsrl.learner.reference import Reference
from mgsrl.learner.shard_file import ShardFile
from mgsrl.surgery import SurgeryMemory

FORMAT = 1
BYTES_PER_PARAMETER = 4 * (1 + len(STATES))
"""Of a trained parameter on disk: master weights and AdamW's moments, all float32."""
MASTER = "master"
REFERENCE = "reference"
SURGERY = "surgery.safetensors"


def state_file(
    folder: Path, layout: ShardLayout, reference: Reference | None, memory: SurgeryMemory
) -> ShardFile:
    """This rank's part of a checkpoint in `folder` (which exists), not yet written; of the state
    as it is while `ShardFile.write` copies it."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    tensors = {
        f"{name}|{start}|{start + tensor.numel()}|{kind}": tensor
        for name, start, kind, tensor in _owned(layout, reference, rank, world_size)
    }
    state = {
        "format": FORMAT,
        "world_size": world_size,
        "num_updates": layout.num_updates(),
        "reference_moved": reference is not None and reference.moved,
    }
    beside = {}
    if rank == 0:
        beside["learner.json"] = json.dumps(state, indent=1).encode()
        remembered = memory.state_dict()
        if values := remembered.pop("values"):
            beside[SURGERY] = save(values, {"about": json.dumps(remembered)})
    return ShardFile(folder / f"rank_{rank}.safetensors", tensors, beside)


def load_state(
    folder: Path, layout: ShardLayout, reference: Reference | None, memory: SurgeryMemory
) -> None:
    """Read this rank's pieces from `folder`; every rank calls it.

    Raises:
        CheckpointError: a file is missing or damaged, or does not cover the model.
    """
    state = _read_state(folder)
    layout.reset_optimizer(state["num_updates"])
    memory.load_state_dict(_remembered(folder))
    with ExitStack() as stack:
        pieces = _Pieces(folder, state["world_size"], stack)
        for shard in layout.shards:
            end = shard.start + shard.numel
            pieces.read(shard.name, shard.start, end, MASTER, layout.master(shard))
            for kind in STATES if state["num_updates"] else ():  # else zero, and maybe not there
                target = layout.state(shard, kind)
                if target is not None:
                    pieces.read(shard.name, shard.start, end, kind, target)
        if reference is not None and state["reference_moved"]:
            for name, param in reference.model.named_parameters():
                start, target = held_part(param)
                pieces.read(name, start, start + target.numel(), REFERENCE, target)
            reference.moved = True
            reference.refresh()
    layout.refresh_weights()
    dist.barrier()


def read_weights(folder: Path, model: torch.nn.Module) -> None:
    """Copy the checkpoint's fp32 master weights into `model`, on one process without ranks.

    Frozen parameters are not in a checkpoint and keep their values.

    Raises:
        CheckpointError: a file is missing or damaged, or covers a parameter in part.
    """
    with ExitStack() as stack:
        pieces = _Pieces(folder, _read_state(folder)["world_size"], stack)
        for name, param in model.named_parameters():
            if pieces.holds(name):
                pieces.read(name, 0, param.numel(), MASTER, param.data.view(-1))


def _owned(
    layout: ShardLayout, reference: Reference | None, rank: int, world_size: int
) -> Iterator[tuple[str, int, str, torch.Tensor]]:
    """(name, start, kind, flat tensor) of what this rank writes."""
    for index, shard in enumerate(layout.shards):
        if layout.replicated and index % world_size != rank:
            continue  # every rank holds it: one writes it
        yield shard.name, shard.start, MASTER, layout.master(shard)
        for kind in STATES:
            state = layout.state(shard, kind)
            if state is not None:
                yield shard.name, shard.start, kind, state
    if reference is not None and reference.moved:
        for name, (start, tensor) in reference.shards(rank, world_size).items():
            if tensor.numel():
                yield name, start, REFERENCE, tensor


class _Pieces:
    """All pieces of a checkpoint, read on demand."""

    def __init__(self, folder: Path, world_size: int, stack: ExitStack) -> None:
        self._folder = folder
        self._index: dict[tuple[str, str], list[tuple[int, int, Any, str]]] = {}
        for rank in range(world_size):
            path = folder / f"rank_{rank}.safetensors"
            if not path.is_file():
                raise _damaged(folder, f"{world_size} files rank_*.safetensors", f"no {path.name}")
            try:
                file = stack.enter_context(safe_open(path, framework="pt"))
            except SafetensorError as error:
                raise _damaged(folder, "safetensors files", f"{path.name}: {error}") from error
            for key in file.keys():  # noqa: SIM118 - not a dict
                name, start, end, kind = key.split("|")
                self._index.setdefault((name, kind), []).append((int(start), int(end), file, key))

    def holds(self, name: str) -> bool:
        """Whether anything of the parameter's master weights is in the checkpoint."""
        return (name, MASTER) in self._index

    def read(self, name: str, start: int, end: int, kind: str, target: torch.Tensor) -> None:
        """Fill `target` with elements `[start, end)`."""
        covered = 0
        for piece_start, piece_end, file, key in self._index.get((name, kind), []):
            low, high = max(start, piece_start), min(end, piece_end)
            if low < high:
                piece = file.get_slice(key)[low - piece_start : high - piece_start]
                target[low - start : high - start].copy_(piece)
                covered += high - low
        if covered != end - start:
            raise _damaged(
                self._folder,
                f"{end - start} elements of {name} ({kind})",
                f"{covered}; another model's checkpoint, or an incomplete one",
            )


def _read_state(folder: Path) -> dict[str, Any]:
    try:
        state = json.loads((folder / "learner.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(folder, "a readable learner.json", str(error)) from error
    version = state.get("format") if isinstance(state, dict) else None
    if version != FORMAT:
        raise _damaged(folder, f"format {FORMAT}", f"format {version}")
    return state


def _remembered(folder: Path) -> dict[str, Any]:
    """`SurgeryMemory.state_dict`; empty where nothing was remembered."""
    path = folder / SURGERY
    if not path.is_file():
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            values = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return {**json.loads(file.metadata()["about"]), "values": values}
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        raise _damaged(folder, f"a readable {SURGERY}", str(error)) from error


def _damaged(folder: Path, expected: str, found: str) -> CheckpointError:
    return CheckpointError(
        f"The learner state in {folder} cannot be loaded.",
        expected=expected,
        found=found,
        todo="resume from another checkpoint, or start anew with resume=never",
    )
