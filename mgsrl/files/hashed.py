"""Size and SHA-256 of files: found while a file is written, or by reading it."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO


@dataclass(frozen=True)
class FileFacts:
    """What a manifest says of a file."""

    size: int
    """Bytes."""
    sha256: str


class HashedFile:
    """A file that is hashed while it is written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._size = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append `data` (bytes, or a view of bytes)."""
        self._digest.update(data)
        self._file.write(data)
        self._size += len(data)

    @property
    def facts(self) -> FileFacts:
        """Of what was written so far."""
        return FileFacts(self._size, self._digest.hexdigest())


@contextmanager
def hashed_file(path: Path) -> Iterator[HashedFile]:
    """Write a new file; at the end of the block it is on the disk."""
    with path.open("wb") as file:
        yield HashedFile(file)
        file.flush()
        os.fsync(file.fileno())


def facts_of(path: Path) -> FileFacts:
    """Read a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileFacts(file.tell(), digest)


def sync(path: Path) -> None:
    """Have a file's content, or the names in a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
