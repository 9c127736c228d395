"""JSON lines with a `step` in each: append, read, and rewind to a step without a torn file.

Every log of a run folder that grows line by line goes through here, so that resuming cannot
leave two lines of the same step behind. Left out: file locks (one driver writes a run folder).
"""

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from mgsrl.config.typed import LARGEST
from mgsrl.errors import DataError


def jsonable(value: Any) -> Any:
    """`value` with non-finite floats as null (JSON has no NaN) and unknown objects as text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str | int | bool) or value is None:
        return value
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, Iterable):
        return [jsonable(item) for item in value]
    return str(value)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value of a file is a number that a float can hold (true and false are none)."""
    return isinstance(value, float) or (type(value) is int and abs(value) <= LARGEST)


def dump_line(row: Mapping[str, Any]) -> str:
    return json.dumps(jsonable(row), ensure_ascii=False, allow_nan=False) + "\n"


def write_atomic(path: Path, text: str) -> None:
    """Write `text` to `path` so that a reader sees the old file or the new one, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` that takes its place at the end of the block; gone if that fails. Two
    processes that write one file (a comparison's page) each have their own."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:  # Ctrl-C too: nothing half-written stays
        temporary.unlink(missing_ok=True)
        raise


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of `path`, in order; none if the file is missing.

    A last line that a killed process left unfinished is not a row: it is left out.

    Raises:
        DataError: a damaged line that is not the last.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    rows = [_row(path, number, line) for number, line in enumerate(lines[:-1], 1) if line.strip()]
    if lines[-1].strip():
        with contextlib.suppress(ValueError, RecursionError):
            rows.append(json.loads(lines[-1]))
    return [row for row in rows if isinstance(row, dict)]


def torn_bytes(path: Path) -> int:
    """Bytes of a last line that `read_rows` leaves out: its writer died on the way; 0 for none."""
    if not path.exists():
        return 0
    last = path.read_bytes().rpartition(b"\n")[2]
    try:
        return len(last) if last.strip() and not isinstance(json.loads(last), dict) else 0
    except (ValueError, RecursionError):
        return len(last)


def _row(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path} is damaged.",
            expected="a JSON object in every line",
            found=f"line {number}: {error}",
            todo="restore the file from a copy, or remove that line",
        ) from error


def rewrite(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Keep the rows for which `keep` is true, atomically; a missing file stays missing."""
    if path.exists():
        write_atomic(path, "".join(dump_line(row) for row in read_rows(path) if keep(row)))
