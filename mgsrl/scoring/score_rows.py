"""Reading the rows of `mgsrl score`: one JSON object a line, checked before anything is scored.

Lines are streamed, never held together. Every problem is one `DataError` with file and line: the
first one stops the call, or (`--bad-rows skip`) such rows are left out and counted.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mgsrl.errors import DataError, MissingPathError, explain
from mgsrl.obs.lines import LineProblem, json_lines, show
from mgsrl.rewards.build import CheckReference
from mgsrl.rewards.protocol import RewardItem

REFERENCE_COLUMNS = ("answer", "instruction_id_list", "kwargs", "gates")


@dataclass(frozen=True, slots=True)
class ScoreRow:
    id: str | int
    """The row's `id`, else its line number."""
    line: int
    item: RewardItem


def bad_row(path: Path, line: int, expected: str, found: str) -> DataError:
    return DataError(
        explain(
            f"{path}, line {line}: this row cannot be scored.",
            expected=expected,
            found=found,
            todo="correct the row or leave it out",
        )
    )


def read_rows(
    path: Path,
    check: CheckReference,
    *,
    needs_prompt: bool,
    on_bad: Callable[[DataError], None] | None = None,
) -> Iterator[ScoreRow]:
    """The rows of a JSONL file in order; blank lines are passed over.

    Args:
        check: raises DataError for a reference that the reward cannot use.
        needs_prompt: whether the reward reads the conversation.
        on_bad: receives the error of every bad row, which is then left out; without it the first
            one is raised.

    Raises:
        MissingPathError: there is no such file.
        DataError: another kind of file; a line that is too long, not UTF-8, no JSON object, lacks
            what is needed, or repeats an id.
    """
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise MissingPathError(
            explain(
                f"There is no input file {path}.",
                expected="a JSON lines file with `prompt`, `response` and the reference",
                found=found,
                todo="correct the path",
            )
        )
    seen: set[int] = set()  # 64-bit hashes: a tenth of the memory of the ids
    for number, record in json_lines(path):
        try:
            row = _row(record, number, check, needs_prompt)
            key = hash((type(row.id), row.id))
            if key in seen:
                raise _RowError("ids that occur once", f"a second row with id {row.id!r}")
        except _RowError as error:
            _report(bad_row(path, number, error.expected, error.found), on_bad)
        except DataError as error:
            _report(DataError(f"{path}, line {number}: {error}"), on_bad)
        else:
            seen.add(key)
            yield row


def _report(error: DataError, on_bad: Callable[[DataError], None] | None) -> None:
    if on_bad is None:
        raise error from None
    on_bad(error)


class _RowError(Exception):
    def __init__(self, expected: str, found: Any) -> None:
        super().__init__(expected)
        self.expected = expected
        self.found = found if isinstance(found, str) else show(found)


def _row(
    record: Mapping[str, Any] | LineProblem, number: int, check: CheckReference, needs_prompt: bool
) -> ScoreRow:
    if isinstance(record, LineProblem):
        raise _RowError(record.expected, record.found)
    response = record.get("response")
    if not isinstance(response, str):
        raise _RowError("`response`, a string", _shown(record, "response"))
    id_ = record.get("id")
    if id_ is None:
        id_ = number
    if isinstance(id_, bool) or not isinstance(id_, str | int):
        raise _RowError("`id`, a string or an integer", id_)
    messages = _messages(record)
    if needs_prompt and not messages:
        raise _RowError("`prompt`, a string or a list of messages", _shown(record, "prompt"))
    reference = {name: record[name] for name in REFERENCE_COLUMNS if name in record}
    answer = reference.get("answer")
    if isinstance(answer, float) and not math.isfinite(answer):  # JSON as Python writes it
        raise _RowError("`answer`, a finite number or a string", answer)
    check(reference)
    return ScoreRow(id_, number, RewardItem(messages, response, reference))


def _shown(record: Mapping[str, Any], name: str) -> str:
    return show(record[name]) if name in record else f"no {name!r} among {sorted(record)[:20]}"


def _messages(record: Mapping[str, Any]) -> tuple[Mapping[str, str], ...]:
    prompt = record.get("prompt", record.get("messages"))
    if prompt is None:
        return ()
    if isinstance(prompt, str):
        return ({"role": "user", "content": prompt},)
    if not isinstance(prompt, list) or not all(
        isinstance(message, Mapping)
        and isinstance(message.get("role"), str)
        and isinstance(message.get("content"), str)
        for message in prompt
    ):
        raise _RowError("`prompt`, a string or a list of {role, content}", prompt)
    return tuple({"role": m["role"], "content": m["content"]} for m in prompt)
