"""Reading the rows of `mgsrl score`: one JSON object a line, checked before anything is scored.

Lines are streamed, never held together. Every problem is one `DataError` with file and line.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mgsrl.errors import DataError, MissingPathError, explain
from mgsrl.rewards.build import CheckReference
from mgsrl.rewards.protocol import RewardItem

MAX_LINE_BYTES = 64 * 2**20
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


def read_rows(path: Path, check: CheckReference, *, needs_prompt: bool) -> Iterator[ScoreRow]:
    """The rows of a JSONL file in order; blank lines are passed over.

    Args:
        check: raises DataError for a reference that the reward cannot use.
        needs_prompt: whether the reward reads the conversation.

    Raises:
        MissingPathError: there is no such file.
        DataError: a line that is too long, not UTF-8, no JSON object, or lacks what is needed.
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
    for number, line in _lines(path):
        record = _record(path, number, line)
        try:
            yield _row(record, number, check, needs_prompt)
        except _RowError as error:
            raise bad_row(path, number, error.expected, error.found) from None
        except DataError as error:
            raise DataError(f"{path}, line {number}: {error}") from None


class _RowError(Exception):
    def __init__(self, expected: str, found: Any) -> None:
        super().__init__(expected)
        self.expected = expected
        self.found = found if isinstance(found, str) else repr(found)[:200]


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                limit = f"a line of at most {MAX_LINE_BYTES // 2**20} MiB"
                raise bad_row(path, number, limit, "a longer one")
            if line.strip():
                yield number, line


def _record(path: Path, number: int, line: bytes) -> Mapping[str, Any]:
    try:
        record = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        found = f"{error.reason} at byte {error.start} of the line"
        raise bad_row(path, number, "UTF-8 text", found) from None
    except (ValueError, RecursionError) as error:
        raise bad_row(path, number, "one JSON object", str(error)) from None
    if not isinstance(record, Mapping):
        raise bad_row(path, number, "one JSON object", type(record).__name__)
    return record


def _row(
    record: Mapping[str, Any], number: int, check: CheckReference, needs_prompt: bool
) -> ScoreRow:
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
    check(reference)
    return ScoreRow(id_, number, RewardItem(messages, response, reference))


def _shown(record: Mapping[str, Any], name: str) -> str:
    return repr(record[name])[:200] if name in record else f"no {name!r} among {sorted(record)}"


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
