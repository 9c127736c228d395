"""Records of a task -> our own columns, as its file says.

Left out: a schema of what a data set may hold. A row that lacks a column says which it has.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from mgsrl.config.task import OPTIONAL, Task
from mgsrl.data.layouts import RowProblem, columns_of
from mgsrl.errors import one_line
from mgsrl.files.lines import LineProblem
from mgsrl.files.records import NumberedRecord, Record


def task_records(
    task: Task, records: Iterator[NumberedRecord], *, distinct: bool
) -> Iterator[NumberedRecord]:
    """The records in our own columns; what cannot be converted becomes a `LineProblem`.

    Args:
        distinct: records with the prompt of an earlier one are left out.
    """
    prompts = set[str]()
    for where, record in records:
        converted: Record | LineProblem = record
        if isinstance(record, Mapping):
            try:
                converted = adapted(task, record)
            except RowProblem as problem:
                converted = LineProblem(problem.expected, problem.found, problem.todo)
        if distinct and isinstance(converted, Mapping):
            prompt = str(converted.get("prompt"))
            if prompt in prompts:
                continue
            prompts.add(prompt)
        yield where, converted


def adapted(task: Task, record: Mapping[str, Any], *, complete: bool = True) -> Record:
    """One record: converted, and its columns called by our names. Raises RowProblem.

    Args:
        complete: a column that it lacks is a problem; else its reader decides.
    """
    if task.convert is not None:
        try:
            converted = task.convert(dict(record))
        except RowProblem:
            raise
        except Exception as error:  # of a user's function
            said = f"{type(error).__name__}: {one_line(error)}"
            raise RowProblem("a row that the task's `convert` takes", said) from error
        if not isinstance(converted, Mapping):
            raise RowProblem("a mapping of the task's `convert`", repr(converted)[:80])
        record = converted
    found = {
        ours: column(record, theirs, optional=not complete or ours in OPTIONAL)
        for ours, theirs in task.columns.items()
        if theirs
    }
    record = {**record, **{ours: value for ours, value in found.items() if value is not None}}
    return {k: v for k, v in record.items() if k not in OPTIONAL or v not in (None, "")}


def column(
    record: Mapping[str, Any], names: str | tuple[str, ...], *, optional: bool = False
) -> Any:
    """The first of the columns `names` (dots reach into nested ones) that the record has.

    Raises:
        RowProblem: it has none of them, unless that is `optional` (None).
    """
    names = (names,) if isinstance(names, str) else names
    for name in names:
        value: Any = record
        for part in [name] if name in record else name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            return value
    if optional:
        return None
    raise RowProblem(f"one of the columns {', '.join(names)}", columns_of(record))
