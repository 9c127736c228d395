"""Reads text files of users line by line: bounded memory, and every bad line by its number.

A line that cannot be used (too long, not UTF-8, not a JSON object) is handed out as a
`LineProblem`, so that the caller decides between stopping and leaving it out. A file that is
another format altogether is an error at once. Files whose name ends in .gz are unpacked as they are
read.

Left out: guessing an encoding. A wrong guess trains on garbled text in silence.
"""

import gzip
import json
import re
import reprlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mgsrl.errors import DataError

UNPACKING_ERRORS = (gzip.BadGzipFile, EOFError, zlib.error)
"""What reading a .gz file that is none, or not whole, raises."""
MAX_LINE_BYTES = 16 * 2**20
"""Longest line that is read, in bytes: far above any row, far below what hurts."""

_PAGE = "download the file itself: this is a page about it"
_ICONV = "convert it to UTF-8 (iconv -f UTF-16 -t UTF-8)"
_UNPACK = "unpack it"
_MAGIC = (
    (b"PAR1", "a Parquet file", "rename it to end in .parquet"),
    (b"\x1f\x8b", "a gzip file", "rename it to end in .gz behind the suffix of its content"),
    (b"PK\x03\x04", "a zip file", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file", _UNPACK),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "run `git lfs pull`"),
    (b"<!DOCTYPE", "an HTML page", _PAGE),
    (b"<html", "an HTML page", _PAGE),
    (b"\xff\xfe", "UTF-16 text", _ICONV),
    (b"\xfe\xff", "UTF-16 text", _ICONV),
)
"""First bytes, what they say, what to do with such a file where text was expected."""
_HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")


@dataclass(frozen=True, slots=True)
class LineProblem:
    """Why one line or row cannot be used; the caller knows the file and the number."""

    expected: str
    found: str
    todo: str = "mend or remove the row"


_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = 80


def show(value: object) -> str:
    """Type and value in one short line, however long or deep the value is."""
    text = _brief.repr(value)
    return f"{type(value).__name__} {text if len(text) <= 80 else text[:77] + '...'}"


def open_bytes(path: Path) -> IO[bytes]:
    """The content of a file, unpacked where its name ends in .gz. Raises what `gzip` raises."""
    return gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]


def describe_content(path: Path) -> str:
    """What the first bytes of a file say it is, for the `found` part of a message."""
    try:
        with open_bytes(path) as file:
            head = file.read(64)
    except UNPACKING_ERRORS:
        with path.open("rb") as file:
            head = file.read(64)
    if not head:
        return "an empty file"
    for magic, name, _ in _MAGIC:
        if head.startswith(magic):
            return name
    return f"a file that starts with {head[:24]!r}"


def remedy(content: str) -> str:
    """What to do with a file of another format, by what `describe_content` says; "" for none."""
    return next((todo for _, name, todo in _MAGIC if name == content), "")


def check_text(path: Path) -> None:
    """Raise DataError for a file that cannot be opened or whose first bytes are another format."""
    try:
        content = describe_content(path)
        with open_bytes(path) as file:
            file.read(1)
    except UNPACKING_ERRORS as error:
        raise unpacking_failed(path, error) from error
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read.",
            expected="a file that this user may read",
            found=str(error),
            todo="change its permissions, or choose another file",
        ) from error
    if todo := remedy(content):
        expected = f"a UTF-8 {path.suffix or 'text'} file"
        raise DataError(f"{path}: cannot be read.", expected=expected, found=content, todo=todo)


def unpacking_failed(path: Path, error: Exception, number: int = 0) -> DataError:
    """The error for a .gz file that is none or is damaged; `number` lines of it could be read."""
    place = f"{path}, after line {number}" if number else str(path)
    return DataError(
        f"{place}: cannot be unpacked.",
        expected="a complete gzip file",
        found=f"{describe_content(path)} ({error})",
        todo="fetch or pack the file again, or take .gz off its name if it is not packed",
    )


def text_lines(path: Path) -> Iterator[tuple[int, str | LineProblem]]:
    """The lines of a text file with their numbers from 1, line ends kept.

    A byte order mark of UTF-8 is dropped. Raises DataError as `check_text` does.
    """
    check_text(path)
    number = 0
    with open_bytes(path) as file:
        try:
            for number, line in _numbered(file):
                yield number, line
        except UNPACKING_ERRORS as error:
            raise unpacking_failed(path, error, number) from error


def _numbered(file: IO[bytes]) -> Iterator[tuple[int, str | LineProblem]]:
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
            limit = f"a line of at most {MAX_LINE_BYTES / 2**20:g} MiB"
            found = f"a longer one that starts with {line[:40]!r}"
            del line
            yield number, LineProblem(limit, found, "mend or remove the line")
            while (rest := file.readline(2**20)) and not rest.endswith(b"\n"):
                pass
            continue
        try:
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            yield number, _not_utf8(line, error)


def _not_utf8(line: bytes, error: UnicodeDecodeError) -> LineProblem:
    near = line[max(error.start - 12, 0) : error.start + 12]
    return LineProblem(
        "UTF-8 text",
        f"byte {error.start + 1} of the line is not UTF-8, near {near!r} (Latin-1?)",
        "convert the line to UTF-8 or remove it",
    )


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | LineProblem]]:
    """The objects of a JSON lines file with their line numbers; blank lines are passed over."""
    for number, line in text_lines(path):
        if isinstance(line, LineProblem):
            yield number, line
        elif line.strip():
            yield number, _parsed(line, number)


def _parsed(line: str, number: int) -> dict[str, Any] | LineProblem:
    expected = "one JSON object on the line"
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        whole_file = number == 1 and line.lstrip().startswith("[")
        return LineProblem(
            expected,
            f"{line[:60]!r} ({error.msg} at column {error.colno})",
            "a JSON array needs the suffix .json"
            if whole_file
            else "mend or remove the line (a file that was cut short ends in half a row)",
        )
    except (ValueError, RecursionError) as error:  # a number of 5000 digits, 5000 brackets
        return LineProblem(expected, f"{line[:60]!r} ({error})", "mend or remove the line")
    return as_object(value, may_hold_half_pairs=_HALF_PAIR.search(line) is not None)


def as_object(value: object, *, may_hold_half_pairs: bool) -> dict[str, Any] | LineProblem:
    """`value` if it is one row: a JSON object whose text can be written as UTF-8 again.

    JSON can spell half of a surrogate pair, which no tokenizer takes.
    """
    if not isinstance(value, dict):
        return LineProblem(
            "one JSON object per row", show(value), "make every row an object with named columns"
        )
    if may_hold_half_pairs:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = f"half of a surrogate pair, {error.object[error.start : error.end]!r}"
            return LineProblem("text that is valid Unicode", half)
    return value
