"""One rank's part of a checkpoint on its way from the device to the disk.

The file is a safetensors file, byte for byte what `safetensors.torch.save_file` makes of the same
tensors; but its header is written first (all sizes are known) and the tensors follow in pieces of
`PIECE` bytes, hashed on the way. So no second copy of them is made as a whole:

    device --copy--> pieces in host memory (pinned for a GPU) --thread--> SHA-256, file, fsync

In the background the caller waits for the copy alone: the pieces wait in memory for their turn, at
most this rank's part of the checkpoint (12 bytes per trained parameter over the ranks), and each is
given back once it is written. Where the host's memory runs short the copy waits for the thread, and
in the foreground three pieces are all there is. Left out: direct I/O; the page cache takes what the
disk is too slow for, and the kernel makes the thread wait when that is too much.
"""

import json
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mgsrl.cluster.preflight import free_memory_gib, machine_memory_gib
from mgsrl.errors import file_problem
from mgsrl.files.hashed import FileFacts, hashed_file

PIECE = 1 << 26
"""Bytes; PyTorch rounds pinned memory up to a power of two."""
KEPT_FREE = 0.1
"""Share of the machine's (or container's) memory that pieces waiting for the disk leave free."""
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
}
"""In the order in which the library lays tensors out."""


@dataclass(frozen=True)
class Written:
    """How the writing of one rank's part ended."""

    files: Mapping[str, FileFacts]
    """By name."""
    problem: str | None = None
    """What the disk answered when it did not take them."""


class ShardFile:
    """See the module.

    Args:
        path: the file, in a folder that exists.
        tensors: flat tensors by key.
        beside: the content of small files in the same folder, by name.
    """

    def __init__(
        self, path: Path, tensors: Mapping[str, torch.Tensor], beside: Mapping[str, bytes]
    ) -> None:
        self._path, self._beside = path, beside
        order = list(DTYPES)
        self._tensors = dict(
            sorted(tensors.items(), key=lambda item: (order.index(item[1].dtype), item[0]))
        )
        self._waiting: deque[torch.Tensor | None] = deque()
        """Pieces that are not written yet; None after the last."""
        self._changed = threading.Condition()
        self._thread = threading.Thread(
            target=self._run, args=[_header(self._tensors)], daemon=True
        )
        self._files: dict[str, FileFacts] = {}
        self._error: BaseException | None = None

    def write(self, *, background: bool) -> None:
        """Copy the tensors as they are now; in the foreground, until all is on the disk."""

        def has_room() -> bool:
            few, ended = len(self._waiting) < 2, self._error is not None
            return few or ended or (background and free_memory_gib() > kept_free)

        kept_free = KEPT_FREE * machine_memory_gib()

        for piece in _pieces(list(self._tensors.values())):
            with self._changed:
                if not has_room():
                    self._begin()
                    self._changed.wait_for(has_room)
            if self._error is not None:
                break
            self._hand_over(piece)
        self._hand_over(None)
        self._tensors = {}
        self._begin()
        if not background:
            self._thread.join()

    def outcome(self, *, wait: bool) -> Written | None:
        """How it ended; None while it is under way.

        Raises:
            BaseException: what went wrong, when it is not the disk's answer.
        """
        self._thread.join(None if wait else 0.0)
        if self._thread.is_alive():
            return None
        if self._error is None:
            return Written(self._files)
        problem = file_problem(self._error)
        if problem is None:
            raise self._error
        return Written({}, problem)

    def _begin(self) -> None:
        if self._thread.ident is None:
            self._thread.start()

    def _hand_over(self, piece: torch.Tensor | None) -> None:
        with self._changed:
            self._waiting.append(piece)
            self._changed.notify_all()

    def _run(self, header: bytes) -> None:
        """The thread: no torch operation, no collective."""
        try:
            with hashed_file(self._path) as file:
                file.write(header)
                while (piece := self._next()) is not None:
                    file.write(piece.numpy().data)
                    with self._changed:
                        self._waiting.popleft()
                        self._changed.notify_all()
            self._files[self._path.name] = file.facts
            for name, content in self._beside.items():
                with hashed_file(self._path.with_name(name)) as file:
                    file.write(content)
                self._files[name] = file.facts
        except BaseException as error:  # told by `outcome`: a thread's own end is silent
            with self._changed:
                self._error = error
                self._waiting.clear()
                self._changed.notify_all()

    def _next(self) -> torch.Tensor | None:
        with self._changed:
            self._changed.wait_for(lambda: bool(self._waiting))
            return self._waiting[0]


def _header(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """Eight bytes of length, then JSON; the tensors follow without a gap."""
    facts, position = {}, 0
    for key, tensor in tensors.items():
        end = position + tensor.nbytes
        facts[key] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": [tensor.numel()],
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(facts, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _pieces(tensors: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
    """uint8 copies in host memory of all tensors laid end to end, each of `PIECE` bytes or what is
    left."""
    left, filled = sum(tensor.nbytes for tensor in tensors), 0
    pin = any(tensor.is_cuda for tensor in tensors)
    piece = torch.empty(min(PIECE, left), dtype=torch.uint8, pin_memory=pin)
    for tensor in tensors:
        source = tensor.detach().contiguous().view(torch.uint8)
        while source.numel():
            part = source[: piece.numel() - filled]
            piece[filled:][: part.numel()].copy_(part, non_blocking=True)
            filled, source = filled + part.numel(), source[part.numel() :]
            if filled == piece.numel():
                if pin:
                    torch.cuda.current_stream().synchronize()
                yield piece
                left, filled = left - filled, 0
                piece = torch.empty(min(PIECE, left), dtype=torch.uint8, pin_memory=pin)
