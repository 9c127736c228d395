"""Reading the rows of `mgsrl score`: a stored response beside its task, checked before any score.

The task is read as training data are (`data/rows.py`: mapped columns, verl's and TRL's layouts,
values as JSON strings), from the same kinds of files. The response is text or messages, whose last
one it is; a conversation that ends with the assistant's turn brings its response along. Rows are
streamed, never held together. Every problem is one `DataError` with file and row: the first one
stops the call, or (`--bad-rows skip`) such rows are left out and counted.

Left out: several responses in one row. Without an id of its own a row is called by its number, and
two of one row could not be told apart in the output.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mgsrl.config import SourceConfig
from mgsrl.config.task import Task
from mgsrl.data.layouts import columns_of
from mgsrl.data.rows import RowProblem, RowReader
from mgsrl.data.task_rows import adapted
from mgsrl.errors import DataError
from mgsrl.files.lines import LineProblem, show
from mgsrl.files.records import read_records, row_number
from mgsrl.rewards.protocol import Response, RewardItem
from mgsrl.types import RowNeeds

RESPONSE = "response"
COLUMNS_OPTION = "--columns"


@dataclass(frozen=True, slots=True)
class ScoreRow:
    id: str | int
    """The row's `id`, else its number."""
    item: Response | RewardItem


@dataclass(frozen=True)
class Layout:
    """How the rows of an input are laid out; ours where nothing is said."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """Our column -> theirs, dotted names reach into nested records."""
    answer_pattern: str = ""
    """A regular expression whose first group is the answer."""
    task: Task | None = field(default=None, repr=False)
    """Whose columns they have, beside the response."""


def read_rows(
    path: Path,
    needs: RowNeeds,
    *,
    layout: Layout,
    on_bad: Callable[[DataError], None] | None = None,
) -> Iterator[ScoreRow]:
    """The rows of a data file in order.

    Args:
        needs: what the rewards want of a row.
        on_bad: receives the error of every bad row, which is then left out; without it the first
            one is raised.

    Raises:
        ConfigError: columns or a pattern that cannot be.
        MissingPathError: there is no such file.
        DataError: another kind of file; a row that cannot be read, lacks what is needed, or repeats
            an id.
    """
    task = layout.task
    pattern = layout.answer_pattern or (task.answer_pattern if task else "")
    reader = RowReader(
        SourceConfig(columns=dict(layout.columns), answer_pattern=pattern),
        key="INPUT",
        needs=needs,
        needs_prompt=needs.prompt,
        more_columns=(RESPONSE,),
        option=COLUMNS_OPTION,
    )
    seen: set[int] = set()  # 64-bit hashes: a tenth of the memory of the ids
    for where, record in read_records(path, key="INPUT"):
        try:
            if task is not None and isinstance(record, Mapping):
                record = {**record, **adapted(task, record, complete=False)}
            row = _row(reader, record, where)
            key = hash((type(row.id), row.id))
            if key in seen:
                raise RowProblem(
                    "ids that occur once",
                    f"a second row with id {row.id!r}",
                    f"mend it, or number the rows with {COLUMNS_OPTION} id=",
                )
        except RowProblem as problem:
            error = problem.at(f"{path}, {where}")
            if on_bad is None:
                raise error from problem
            on_bad(error)
        else:
            seen.add(key)
            yield row


def _row(reader: RowReader, record: Mapping[str, Any] | LineProblem, where: str) -> ScoreRow:
    number = row_number(where)
    if isinstance(record, LineProblem):
        reader.read(record, str(number))  # raises what is wrong with it
        raise AssertionError("a line that cannot be read is no row")
    response, record = _response(reader, record)
    ids = record.get("instruction_id_list")
    if isinstance(ids, list) and "kwargs" not in record:  # none of them may need arguments
        record = {**record, "kwargs": [None] * len(ids)}
    row = reader.read(record, str(number))
    id_ = reader.id(record)
    item = Response(row.messages, response, row.reference)
    return ScoreRow(number if id_ is None else id_, item)


def _response(reader: RowReader, record: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The response, and the record without it where it ends the conversation."""
    value = reader.value(record, RESPONSE)
    if value is None:
        name, messages = next(
            ((n, v) for n in ("messages", "prompt") if isinstance(v := record.get(n), list)),
            ("", []),
        )
        if messages and _role(messages[-1]) == "assistant":
            return _text(messages[-1]), {**record, name: messages[:-1]}
        raise RowProblem(
            "`response`, a string or messages",
            columns_of(record) if RESPONSE not in record else show(value),
            f"say which column it is: {reader.mapping(RESPONSE)}",
        )
    if isinstance(value, list) and value and _role(value[-1]) == "assistant":
        return _text(value[-1]), record
    if not isinstance(value, str):
        raise RowProblem(
            "`response`, a string or messages that end with the assistant's",
            show(value),
            "write one row per response" if _are_texts(value) else "mend or remove the row",
        )
    return value, record


def _role(message: object) -> object:
    return message.get("role") if isinstance(message, Mapping) else None


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if not isinstance(content, str):
        raise RowProblem("text in the assistant's message", show(content))
    return content


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(isinstance(v, str) for v in value)
