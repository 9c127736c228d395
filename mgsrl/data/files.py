"""Reads the records of a local data file: JSON lines, a JSON array, Parquet or CSV.

A file that is not what its suffix says, is cut short or holds something else than records is the
user's to mend: one error with the file, the row, what was expected and what was found.

Left out: the `datasets` library for local files. It infers one schema for all rows (IFEval's
`kwargs` have a different one in each), writes a cache and reports a bad row without its number.
Compressed files are left out too: unpack them.
"""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from mgsrl.errors import DataError, MissingPathError, explain, nearest

Record = dict[str, Any]
NumberedRecord = tuple[str, Record]
"""(where, record); `where` is for people: "line 17" of a text file, "row 17" of a table."""

_MAGIC = (
    (b"PAR1", "a Parquet file"),
    (b"\x1f\x8b", "a gzip file"),
    (b"PK\x03\x04", "a zip file"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself (run `git lfs pull`)"),
    (b"<!DOCTYPE", "an HTML page"),
    (b"<html", "an HTML page"),
)


def describe_content(path: Path) -> str:
    """What the first bytes of a file say it is, for the `found` part of a message."""
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        return "an empty file"
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    return f"a file that starts with {head[:24]!r}"


def _broken(path: Path, where: str, expected: str, found: str, todo: str) -> DataError:
    place = f"{path}, {where}" if where else str(path)
    return DataError(
        explain(f"{place}: cannot be read.", expected=expected, found=found, todo=todo)
    )


def _as_record(path: Path, where: str, value: object) -> Record:
    if not isinstance(value, dict):
        raise _broken(
            path,
            where,
            "one JSON object per row",
            f"{type(value).__name__}: {str(value)[:60]}",
            "make every row an object with named columns",
        )
    return value


def _open_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise _broken(
            path,
            "",
            f"a UTF-8 {path.suffix} file",
            f"{describe_content(path)} (byte {error.start} is not UTF-8)",
            "give the file the suffix of its real format, or convert it",
        ) from error


def _read_jsonl(path: Path) -> Iterator[NumberedRecord]:
    for number, line in enumerate(_open_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"line {number}"
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            whole_file = number == 1 and line.lstrip().startswith("[")
            todo = (
                "a JSON array needs the suffix .json"
                if whole_file
                else "mend or remove the line (a file that was cut short ends in half a row)"
            )
            raise _broken(
                path,
                where,
                "one JSON object on the line",
                f"{line[:60]!r} ({error.msg} at column {error.colno}); {describe_content(path)}",
                todo,
            ) from error
        yield where, _as_record(path, where, value)


def _read_json(path: Path) -> Iterator[NumberedRecord]:
    text = _open_text(path)
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        todo = "mend the file"
        if error.msg == "Extra data":
            todo = "JSON lines (one object per line) need the suffix .jsonl"
        raise _broken(
            path,
            f"line {error.lineno}",
            "one JSON array of objects",
            f"{error.msg} at line {error.lineno}, column {error.colno}; {describe_content(path)}",
            todo,
        ) from error
    if not isinstance(values, list):
        raise _broken(
            path,
            "",
            "one JSON array of objects",
            f"a single JSON {type(values).__name__}",
            "put the rows into an array, or one per line in a .jsonl file",
        )
    for number, value in enumerate(values, start=1):
        where = f"row {number}"
        yield where, _as_record(path, where, value)


def _read_parquet(path: Path) -> Iterator[NumberedRecord]:
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=1024):
                for record in batch.to_pylist():
                    number += 1
                    yield f"row {number}", record
    except (pyarrow.ArrowException, OSError) as error:
        content = describe_content(path)
        cut = content == "a Parquet file"
        raise _broken(
            path,
            "",
            "a complete Parquet file",
            f"{content}{', cut short or damaged' if cut else ''} ({str(error).splitlines()[0]})",
            "fetch or write the file again" if cut else "give it the suffix of its real format",
        ) from error


def _read_csv(path: Path) -> Iterator[NumberedRecord]:
    text = _open_text(path)
    reader = csv.DictReader(text.splitlines(keepends=True), strict=True)
    try:
        for record in reader:
            where = f"line {reader.line_num}"
            extra = record.pop(None, None)
            missing = [name for name, value in record.items() if value is None]
            if extra or missing:
                raise _broken(
                    path,
                    where,
                    f"{len(record)} columns as in the header",
                    f"{len(extra)} more" if extra else f"nothing for {', '.join(missing)}",
                    "quote values that hold commas, and name every column in the header",
                )
            yield where, dict(record)
    except csv.Error as error:
        raise _broken(
            path,
            f"line {reader.line_num}",
            "comma-separated values with a header line",
            f"{error}; {describe_content(path)}",
            "mend the file, or give it the suffix of its real format",
        ) from error


_READERS: dict[str, Callable[[Path], Iterator[NumberedRecord]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".parquet": _read_parquet,
    ".csv": _read_csv,
}


def read_records(path: Path, *, key: str) -> Iterator[NumberedRecord]:
    """Yield the records of a local file in file order.

    Args:
        path: a .jsonl, .json (array), .parquet or .csv file.
        key: the configuration key that named the file, for messages.

    Raises:
        MissingPathError: there is no such file.
        DataError: an unknown suffix, or a file that is not what its suffix says.
    """
    if not path.is_file():
        raise MissingPathError(
            explain(
                f"{key}: there is no such data file.",
                expected=f"the file {path} (seen from {Path.cwd()})",
                found="a folder" if path.is_dir() else _nearby(path),
                todo=f"set {key} to a .jsonl, .json, .parquet or .csv file",
            )
        )
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            explain(
                f"{key}: {path} has a suffix that cannot be read.",
                expected=f"one of {', '.join(_READERS)}",
                found=f"{path.suffix or 'no suffix'}; {describe_content(path)}",
                todo="convert the file, or give it the suffix of its real format",
            )
        )
    return reader(path)


def _nearby(path: Path) -> str:
    """What is in the folder of a missing file, the most similar name first."""
    if not path.parent.is_dir():
        return f"not even the folder {path.parent}"
    names = [entry.name for entry in path.parent.iterdir() if entry.suffix in _READERS]
    return f"in its folder: {nearest(path.name, names[:20])}"
