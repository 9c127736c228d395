"""Reads the records of a local data file: JSON lines, a JSON array, Parquet or CSV.

A file that is not what its suffix says or is cut short is the user's to mend: one error with the
file, the row, what was expected and what was found. A single bad row is handed out as a
`LineProblem`, for the caller to stop at or to leave out. Text is read line by line.

Left out: the `datasets` library for local files. It infers one schema for all rows (IFEval's
`kwargs` have a different one in each), writes a cache and reports a bad row without its number.
Text may be packed by gzip (.jsonl.gz); other packers are left out: unpack their files.
"""

import csv
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from mgsrl.errors import DataError, MissingPathError, nearest
from mgsrl.files.lines import (
    MAX_LINE_BYTES,
    UNPACKING_ERRORS,
    LineProblem,
    as_object,
    check_text,
    describe_content,
    json_lines,
    open_bytes,
    remedy,
    text_lines,
    unpacking_failed,
)

Record = dict[str, Any]
NumberedRecord = tuple[str, Record | LineProblem]
"""(where, record, or why there is none); `where` is for people: "line 17" of JSON lines, "row 17"
of a table, "row 17 (line 19)" of a CSV file, whose rows may take several lines."""

MAX_JSON_BYTES = 512 * 2**20
"""Largest JSON array: unlike lines it is parsed as a whole, in several times its size."""
DATA_VARIABLE, DATA_FOLDER = "MGSRL_DATA", "data"
"""Names the folder that configs/domains/ read files from, and what it is without that."""


def _broken(path: Path, where: str, expected: str, found: str, todo: str) -> DataError:
    place = f"{path}, {where}" if where else str(path)
    return DataError(f"{place}: cannot be read.", expected=expected, found=found, todo=todo)


def _read_jsonl(path: Path) -> Iterator[NumberedRecord]:
    return ((f"line {number}", record) for number, record in json_lines(path))


def _read_json(path: Path) -> Iterator[NumberedRecord]:
    text = _whole_text(path)
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
    except (ValueError, RecursionError) as error:
        raise _broken(path, "", "one JSON array of objects", str(error), "mend the file") from error
    if not isinstance(values, list):
        raise _broken(
            path,
            "",
            "one JSON array of objects",
            f"a single JSON {type(values).__name__}",
            "put the rows into an array, or one per line in a .jsonl file",
        )
    escapes = "\\ud" in text.lower()
    for number, value in enumerate(values, start=1):
        yield f"row {number}", as_object(value, may_hold_half_pairs=escapes)


def _whole_text(path: Path) -> str:
    check_text(path)
    try:
        with open_bytes(path) as file:
            content = file.read(MAX_JSON_BYTES + 1)
    except UNPACKING_ERRORS as error:
        raise unpacking_failed(path, error) from error
    if len(content) > MAX_JSON_BYTES:
        raise _broken(
            path,
            "",
            f"a JSON array of at most {MAX_JSON_BYTES // 2**20} MiB",
            "a larger one",
            "write it as .jsonl (jq -c '.[]' FILE) or .parquet, which are read bit by bit",
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        near = content[max(error.start - 12, 0) : error.start + 12]
        raise _broken(
            path,
            f"line {line}",
            "UTF-8 text",
            f"a byte that is not UTF-8, near {near!r}; {describe_content(path)}",
            "convert the file to UTF-8, or give it the suffix of its real format",
        ) from error


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
            "fetch or write the file again"
            if cut
            else remedy(content) or "give it the suffix of its real format",
        ) from error


def _read_csv(path: Path) -> Iterator[NumberedRecord]:
    csv.field_size_limit(MAX_LINE_BYTES)  # of the whole process; its default is 128 KiB
    reader = csv.DictReader(_csv_lines(path), strict=True)
    try:
        for number, record in enumerate(reader, start=1):
            where = f"row {number} (line {reader.line_num})"
            extra = record.pop(None, None)
            missing = [name for name, value in record.items() if value is None]
            if extra or missing:
                yield (
                    where,
                    LineProblem(
                        f"{len(record)} columns as in the header",
                        f"{len(extra)} more" if extra else f"nothing for {', '.join(missing)}",
                        "quote values that hold commas, and name every column in the header",
                    ),
                )
            else:
                yield where, dict(record)
    except csv.Error as error:
        raise _broken(
            path,
            f"line {reader.line_num}",
            "comma-separated values with a header line",
            f"{error}; {describe_content(path)}",
            "mend the file, or give it the suffix of its real format",
        ) from error


def _csv_lines(path: Path) -> Iterator[str]:
    """Lines for the csv module. A bad one may be the middle of a row, so none can be left out."""
    for number, line in text_lines(path):
        if isinstance(line, LineProblem):
            raise _broken(path, f"line {number}", line.expected, line.found, line.todo)
        yield line


_READERS: dict[str, Callable[[Path], Iterator[NumberedRecord]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".parquet": _read_parquet,
    ".csv": _read_csv,
}
PACKED = ".gz"
SUFFIXES = ", ".join(_READERS)


def row_number(where: str) -> int:
    """17 of "line 17", "row 17" and "row 17 (line 19)": a row without an id is called by it."""
    return int(where.split()[1])


def data_stem(path: str | Path) -> str:
    """The name of a data file without its suffixes: `rows` of `rows.jsonl.gz`."""
    return Path(str(path).removesuffix(PACKED)).stem


def read_records(path: Path, *, key: str) -> Iterator[NumberedRecord]:
    """Yield the records of a local file in file order, bad rows as a `LineProblem`.

    Args:
        path: a .jsonl, .json (array), .parquet or .csv file; text may be packed (.jsonl.gz).
        key: the configuration key or the argument that named the file, for messages.

    Raises:
        MissingPathError: there is no such file.
        DataError: an unknown suffix, or a file that is not what its suffix says.
    """
    if not path.is_file():
        raise MissingPathError(
            f"{key}: there is no such data file.",
            expected=f"the file {path} (seen from {Path.cwd()})",
            found="a folder" if path.is_dir() else _nearby(path),
            todo=f"correct {key} ({SUFFIXES}){_data_folder(path)}",
        )
    packed = path.suffix.lower() == PACKED
    suffix = Path(path.stem).suffix if packed else path.suffix
    reader = _READERS.get(suffix.lower())
    if reader is None or (packed and reader is _read_parquet):
        raise DataError(
            f"{key}: {path} has a suffix that cannot be read.",
            expected=f"one of {SUFFIXES}; text may be packed (.jsonl{PACKED})",
            found=f"{''.join(path.suffixes[-2:]) or 'no suffix'}; {describe_content(path)}",
            todo="unpack it (Parquet is compressed inside)"
            if reader is not None
            else "convert the file, or give it the suffix of its real format",
        )
    return reader(path)


def _nearby(path: Path) -> str:
    """What is in the folder of a missing file, the most similar name first."""
    if not path.parent.is_dir():
        return f"not even the folder {path.parent}"
    names = [entry.name for entry in path.parent.iterdir() if entry.suffix in _READERS]
    if not names:
        return f"no data file in the folder {path.parent}"
    return f"in its folder: {nearest(path.name, names[:20])}"


def _data_folder(path: Path) -> str:
    """What else to do where `path` is below the folder that sets of domains read from."""
    folder = Path(os.environ.get(DATA_VARIABLE, DATA_FOLDER))
    if not path.is_relative_to(folder):
        return ""
    return f", or let ${DATA_VARIABLE} name the folder of your data (now: {folder})"
