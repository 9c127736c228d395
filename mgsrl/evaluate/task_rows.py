"""The rows of a task, read through its adapter and checked, before any model is loaded."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from mgsrl.config.data import SourceConfig
from mgsrl.config.reward import RewardConfig
from mgsrl.data.rows import Row, RowProblem, RowReader
from mgsrl.data.sources import open_records
from mgsrl.errors import DataError, MissingPathError, explain
from mgsrl.evaluate.tasks import Task, TaskChoice
from mgsrl.files.records import NumberedRecord, row_number
from mgsrl.rewards.build import validator

REWARD_KINDS = {"math": "math", "constraints": "constraints", "chat": "reward_model"}
"""Kind of task -> the kind of reward whose rules its rows must meet."""


def load_task(choice: TaskChoice, limit: int | None = None) -> list[Row]:
    """The rows of a task in the order of its data, every one checked; at most `limit`.

    Raises:
        MissingPathError: no such file or hub data set.
        DataError: a row that cannot be used, or none at all.
    """
    task, source = choice.task, choice.source
    key = f"--tasks {task.name}"
    reward_kind = REWARD_KINDS[task.kind]
    reader = RowReader(
        SourceConfig(prompt_suffix=task.suffix),
        key=key,
        reward_kind=reward_kind,
        validate=validator(RewardConfig(kind=reward_kind)),
    )
    rows: dict[str, Row] = {}
    prompts: set[str] = set()
    for where, record in _records(choice, key):
        try:
            row = _read(reader, task, record, default_id=str(row_number(where)))
            if row.id in rows:
                raise RowProblem("every id once", f"the id {row.id!r} again")
        except RowProblem as problem:
            raise problem.at(f"{source.path}, {where}") from problem
        if task.distinct:
            prompt = row.messages[-1]["content"]
            if prompt in prompts:
                continue
            prompts.add(prompt)
        rows[row.id] = row
        if limit is not None and len(rows) == limit:
            break
    if not rows:
        raise DataError(
            explain(
                f"{key}: there are no rows.",
                expected="at least one",
                found=f"none in {source.path}",
                todo=f"--tasks {task.name}=FILE.jsonl with another file",
            )
        )
    return list(rows.values())


def _read(reader: RowReader, task: Task, record: Any, default_id: str) -> Row:
    # What could not even be read is no mapping; the reader says why.
    adapted = task.adapt(record) if isinstance(record, Mapping) else record
    row = reader.read(adapted, default_id)
    if task.kind != "chat":
        return row
    extra = {}
    for name in ("baseline", "reference"):
        value = adapted.get(name)
        if value is not None and not isinstance(value, str):
            raise RowProblem(f"`{name}`, a text", f"{type(value).__name__} {str(value)[:60]!r}")
        if value:
            extra[name] = value
    return replace(row, reference=extra)


def _records(choice: TaskChoice, key: str) -> Iterator[NumberedRecord]:
    try:
        return open_records(choice.source, choice.task.name, key=key)
    except MissingPathError as error:
        if choice.source.kind == "file":
            raise
        cause = str(error.__cause__ or error).splitlines() or [""]
        raise MissingPathError(
            explain(
                f"The data of task {choice.task.name!r} could not be loaded from the hub.",
                expected=f"{choice.source.path} (split {choice.source.split}) within reach",
                found=f"{type(error.__cause__).__name__}: {cause[0][:200]}",
                todo=f"download it and name the file: --tasks {choice.task.name}=FILE.jsonl",
            )
        ) from error
