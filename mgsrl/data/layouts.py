"""Where other projects keep a task's reference: verl's nesting, TRL's `solution`, worked solutions.

What every reader of rows needs (`RowProblem`, a missing value, values as JSON strings) is here too,
below `rows.py`.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from mgsrl.errors import DataError
from mgsrl.files.lines import show

ABSENT = object()
WORKED = re.compile(r"####[ \t]*(\S[^\n]*?)\s*\Z")
"""How GSM8K ends a worked solution: "... #### 18"."""


class RowProblem(DataError):
    """What is wrong with one record; `at` adds the place."""

    def __init__(self, expected: str, found: str, todo: str = "mend or remove the row") -> None:
        super().__init__("A row is not usable.", expected=expected, found=found, todo=todo)
        self.expected, self.found, self.todo = expected, found, todo

    def at(self, place: str) -> DataError:
        """The error for the user: `place` is the file and the row."""
        return DataError(
            f"{place}: the row is not usable.",
            expected=self.expected,
            found=self.found,
            todo=self.todo,
        )


def from_json(value: object) -> Any:
    """`value`, parsed when it is a JSON string (CSV columns, and tables that avoid nesting)."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise RowProblem("a value that is JSON", f"{value[:60]!r} ({error})") from error


def json_like(value: object) -> Any:
    """`value` if JSON can hold it, tuples as lists; else RowProblem (dates, bytes, decimals)."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [json_like(item) for item in value]
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {name: json_like(item) for name, item in value.items()}
    raise RowProblem("a value that JSON can hold", f"{show(value)} ({type(value).__name__})")


def columns_of(record: Mapping[str, Any]) -> str:
    """What a record has instead of what was looked for."""
    names = [str(name) for name in record]
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return f"the columns {', '.join(names[:20])}{more}" if names else "no columns"


def answer_elsewhere(record: Mapping[str, Any], *, worked: bool) -> Any:
    r"""The answer where verl and TRL keep it, or `ABSENT`.

    TRL's `solution` is a bare answer in some sets and a worked solution in others: of a `worked`
    one only what stands in its last `\boxed{}` is the answer (an `answer_pattern` sees it all).
    """
    if is_verl(record):
        truth = record["reward_model"].get("ground_truth", ABSENT)
        return truth[0] if isinstance(truth, list) and len(truth) == 1 else truth
    if "ground_truth" in record:
        return record["ground_truth"]
    solution = record.get("solution", ABSENT)
    if not isinstance(solution, str) or not worked:
        return solution
    boxed = last_boxed(solution)
    if boxed is None and len(solution.split()) > 12:
        raise RowProblem(
            "a `solution` that is an answer, or that holds one in \\boxed{}",
            show(solution),
            "map the column that holds the bare answer, or give an answer_pattern",
        )
    return solution if boxed is None else boxed


def last_boxed(text: str) -> str | None:
    r"""What stands in the last complete `\boxed{...}`; None without one."""
    start = text.rfind("\\boxed{")
    depth = 0
    for index in range(start + len("\\boxed"), len(text)) if start >= 0 else ():
        depth += (text[index] == "{") - (text[index] == "}")
        if depth == 0:
            return text[start + len("\\boxed{") : index]
    return None


def is_verl(record: Mapping[str, Any]) -> bool:
    model = record.get("reward_model")
    return isinstance(model, Mapping) and ("data_source" in record or "ground_truth" in model)


def verl_constraints(ground_truth: Any) -> tuple[Any, Any]:
    """Ids and kwargs in a verl `ground_truth`: an object (or a list of one), maybe as JSON."""
    value = from_json(ground_truth)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, Mapping):
        return ABSENT, ABSENT
    ids = value.get("instruction_id_list", value.get("instruction_id", ABSENT))
    return ids, value.get("kwargs", ABSENT)
