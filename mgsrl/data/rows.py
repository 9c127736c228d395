"""Turns one record of any data source into a `Row`: conversation plus what its reward needs.

A record is read through the source's column mapping (our name -> theirs, dotted names reach into
nested records). Without a mapping four layouts are understood: our own column names, IFEval's,
verl's (`data_source`, `prompt`, `reward_model.ground_truth`) and TRL's (`answer`, `ground_truth`
or `solution` beside the prompt). Of an answer that ends as GSM8K's do ("... #### 18"), what stands
behind the mark is the answer.

What a row must hold is what the domain's rewards say (`RowNeeds`): `answer` and the constraints'
columns are read in these layouts, every other column as it stands. `reference.NAME` in a mapping
hands a column of theirs to the reward as `reference["NAME"]`, whatever JSON value it holds.

Left out: guesses at columns such as `question` or `problem`. A wrong guess trains on wrong data
in silence; a mapping takes one line of YAML. verl's `extra_info.index` is no id: published files
repeat it; `columns: {id: extra_info.index}` takes it where it is one.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mgsrl.config import SourceConfig
from mgsrl.data.layouts import (
    ABSENT,
    WORKED,
    RowProblem,
    answer_elsewhere,
    columns_of,
    from_json,
    is_verl,
    json_like,
    verl_constraints,
)
from mgsrl.errors import ConfigError, nearest
from mgsrl.files.lines import LineProblem, show
from mgsrl.types import Message, RowNeeds

ROLES = ("system", "user", "assistant")
CONSTRAINTS = ("instruction_id_list", "kwargs", "gates")
COLUMNS = ("prompt", "messages", "answer", *CONSTRAINTS, "id")
REFERENCE = "reference."
"""Before the name of a column that goes to the reward as it stands."""


@dataclass(frozen=True, slots=True)
class Row:
    """One task of a data source, not yet templated."""

    id: str
    """Unique within its source."""
    messages: tuple[Message, ...]
    reference: Mapping[str, Any] = field(default_factory=dict)
    """What the domain's rewards need, by column."""


class RowReader:
    """Reads records of one source for the rewards of one domain.

    Args:
        source: mapping and answer pattern.
        key: the configuration key of the source, for messages.
        needs: what the rewards want of a row's reference; nothing where there are none.
        needs_prompt: a row without a prompt cannot be used; else it has no messages.
        more_columns: names besides `COLUMNS` that may be mapped, for `value`.
        option: the command-line option that maps columns (`--columns`), for messages; without it
            they name configuration keys.

    Raises:
        ConfigError: a mapping or an answer pattern that cannot work.
    """

    def __init__(
        self,
        source: SourceConfig,
        *,
        key: str,
        needs: RowNeeds | None = None,
        needs_prompt: bool = True,
        more_columns: Sequence[str] = (),
        option: str = "",
    ) -> None:
        self._columns = dict(source.columns)
        self._needs = needs or RowNeeds()
        self._needs_prompt = needs_prompt
        self._option = option
        self._prompt_suffix = source.prompt_suffix
        self._key = key
        self._pattern = _compile(source.answer_pattern, key) if source.answer_pattern else None
        self._own = [n.removeprefix(REFERENCE) for n in self._columns if n.startswith(REFERENCE)]
        wanted = (*self._needs.requires, *self._needs.accepts)
        known = tuple(dict.fromkeys((*COLUMNS, *wanted, *more_columns, f"{REFERENCE}NAME")))
        for name in self._columns:
            if name not in known and not name.startswith(REFERENCE):
                raise ConfigError(
                    f"{option or f'{key}.columns'} maps an unknown column.",
                    expected=f"our names on the left: {', '.join(known)}",
                    found=repr(name),
                    todo=f"rename it ({nearest(name, known)})",
                )

    def read(self, record: Mapping[str, Any] | LineProblem, default_id: str) -> Row:
        """The row of one record; `default_id` serves where there is no id column, or where
        `columns.id` is the empty string.

        Raises:
            RowProblem: a row that could not be read, a value that is missing or of the wrong type;
                the caller adds file and row.
        """
        if isinstance(record, LineProblem):
            raise RowProblem(record.expected, record.found, record.todo)
        messages = self._messages(record)
        reference = self._reference(record)
        if self._needs.validate is not None:
            try:
                self._needs.validate(reference)
            except ValueError as error:
                found = "; ".join(line.strip() for line in str(error).splitlines())
                raise RowProblem("a reference that the reward accepts", found) from error
        id_ = self.id(record)
        return Row(default_id if id_ is None else str(id_), messages, reference)

    def id(self, record: Mapping[str, Any]) -> str | int | None:
        """The row's own id; None without one. Raises RowProblem for one of another type."""
        id_ = None if self._columns.get("id") == "" else self.value(record, "id")
        if isinstance(id_, bool) or not isinstance(id_, int | str | None):
            raise RowProblem("an id that is a string or an integer", show(id_))
        return id_

    def value(self, record: Mapping[str, Any], name: str) -> Any:
        """The value of our column `name`, None without one. Raises RowProblem as `read` does."""
        value = self._get(record, name)
        return None if value is ABSENT else value

    def mapping(self, name: str, theirs: str = "NAME") -> str:
        """How the user says which column `name` is."""
        if self._option:
            return f"{self._option} {name}={theirs}"
        return f"{self._key}.columns.{name}={theirs}"

    def _get(self, record: Mapping[str, Any], name: str) -> Any:
        """The value of our column `name`, or `ABSENT`; a mapped column must be there."""
        theirs = self._columns.get(name)
        if theirs is None:
            return record.get(name, ABSENT)
        value: Any = record
        for part in _path_in(record, theirs):
            if not isinstance(value, Mapping) or part not in value:
                raise RowProblem(
                    f"the column {theirs!r} ({self.mapping(name, theirs)})",
                    columns_of(record),
                    f"name the right one: {self.mapping(name)}",
                )
            value = value[part]
        return value

    # --- conversation -----------------------------------------------------------------------------

    def _messages(self, record: Mapping[str, Any]) -> tuple[Message, ...]:
        names = [name for name in ("messages", "prompt") if name in self._columns]
        value: Any = ABSENT
        for name in names or ["messages", "prompt"]:
            value = self._get(record, name)
            if value is not ABSENT and value is not None:
                break
        if value is ABSENT or value is None:
            if not self._needs_prompt:
                return ()
            raise RowProblem(
                "a prompt: the column `prompt` (a string or messages) or `messages`",
                columns_of(record),
                f"say which column it is: {self.mapping('prompt')}",
            )
        if isinstance(value, str):
            value = [{"role": "user", "content": value}]
        if not isinstance(value, list) or not value:
            raise RowProblem("a prompt that is a string or a list of messages", show(value))
        messages = tuple(_message(item) for item in value if not _says_nothing(item))
        if not messages or messages[-1]["role"] != "user":
            raise RowProblem(
                "a conversation that ends with the user's turn",
                f"a last message of the {messages[-1]['role']}" if messages else show(value),
                "remove the last answer: the policy is to write it",
            )
        if self._prompt_suffix:
            last = {**messages[-1], "content": messages[-1]["content"] + self._prompt_suffix}
            messages = (*messages[:-1], last)
        return messages

    # --- reference --------------------------------------------------------------------------------

    def _reference(self, record: Mapping[str, Any]) -> dict[str, Any]:
        found = {name: json_like(self._get(record, REFERENCE + name)) for name in self._own}
        for name in (*self._needs.requires, *self._needs.accepts):
            required = name in self._needs.requires
            if name in found or not (required or self._get(record, name) not in (ABSENT, None)):
                continue
            if name == "answer":
                found[name] = self._answer(record)
            elif name in CONSTRAINTS:
                found |= self._constraints(record)
            else:
                found[name] = self._column(record, name)
        return found

    def _column(self, record: Mapping[str, Any], name: str) -> Any:
        value = self._get(record, name)
        if value is ABSENT or value is None:
            raise RowProblem(
                f"the column `{name}`, which the reward reads",
                columns_of(record),
                f"say which column it is: {self.mapping(name)}",
            )
        return json_like(value)

    def _answer(self, record: Mapping[str, Any]) -> str:
        value = self._get(record, "answer")
        if value is ABSENT:
            value = answer_elsewhere(record, worked=self._pattern is None)
        if value is ABSENT or value is None:
            raise RowProblem(
                "the answer of a math task: the column `answer`",
                columns_of(record),
                f"say which column it is: {self.mapping('answer')}",
            )
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise RowProblem("an answer that is a string or a number", show(value))
        if isinstance(value, float) and not math.isfinite(value):
            raise RowProblem("an answer that is a finite number", show(value))
        text = str(value)
        if self._pattern is not None:
            match = self._pattern.search(text)
            if match is None:
                raise RowProblem(
                    f"an answer that matches {self._pattern.pattern!r}",
                    show(text[-80:]),
                    f"change {self._key}.answer_pattern or mend the row",
                )
            text = match.group(1)
        elif worked := WORKED.search(text):
            text = worked[1]
        if not text.strip():
            raise RowProblem("an answer that is not empty", show(value))
        return text.strip()

    def _constraints(self, record: Mapping[str, Any]) -> dict[str, Any]:
        ids = self._get(record, "instruction_id_list")
        kwargs = self._get(record, "kwargs")
        if ids is ABSENT and is_verl(record):
            ids, kwargs = verl_constraints(record["reward_model"].get("ground_truth"))
        if ids is ABSENT or kwargs is ABSENT or ids is None or kwargs is None:
            raise RowProblem(
                "the constraints: the columns `instruction_id_list` and `kwargs`",
                columns_of(record),
                f"say which columns they are: {self.mapping('instruction_id_list')} and "
                f"{self.mapping('kwargs')}",
            )
        ids, kwargs = from_json(ids), from_json(kwargs)
        if not isinstance(ids, list) or not ids or not all(isinstance(i, str) for i in ids):
            raise RowProblem("`instruction_id_list` that is a list of strings", show(ids))
        if not isinstance(kwargs, list) or len(kwargs) != len(ids):
            raise RowProblem(f"`kwargs` that is a list of {len(ids)} objects", show(kwargs))
        reference = {
            "instruction_id_list": list(ids),
            "kwargs": [_without_nones(item) for item in kwargs],
        }
        gates = self._get(record, "gates")
        if gates is not ABSENT and gates is not None:
            reference["gates"] = [_gate(gate) for gate in _as_list(from_json(gates))]
        return reference


def _compile(pattern: str, key: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
        problem = "" if compiled.groups else "a pattern without a group"
    except re.error as error:
        problem = str(error)
    if problem:
        raise ConfigError(
            f"{key}.answer_pattern cannot be used.",
            expected="a regular expression whose first group is the answer, as '#### (.+)'",
            found=f"{pattern!r}: {problem}",
            todo=f"mend {key}.answer_pattern",
        )
    return compiled


def _path_in(record: Mapping[str, Any], dotted: str) -> list[str]:
    """The keys to follow; a column whose own name holds dots wins over nesting."""
    return [dotted] if dotted in record else dotted.split(".")


def _says_nothing(item: object) -> bool:
    """Whether it is the system's and blank: data sets write it so where there is none."""
    if not isinstance(item, Mapping) or item.get("role") != "system":
        return False
    content = item.get("content")
    return content is None or (isinstance(content, str) and not content.strip())


def _message(item: object) -> Message:
    if not isinstance(item, Mapping):
        raise RowProblem("messages that are objects with `role` and `content`", show(item))
    role, content = item.get("role"), item.get("content")
    if role not in ROLES:
        raise RowProblem(f"messages whose role is one of {', '.join(ROLES)}", show(role))
    if not isinstance(content, str) or not content.strip():
        raise RowProblem(f"text in the {role}'s message", show(content))
    return {"role": role, "content": content}


def _without_nones(item: object) -> dict[str, Any]:
    """One constraint's arguments. Parquet gives every row the union of all arguments, the absent
    ones as None; a constraint without arguments may be None altogether."""
    item = from_json(item)
    if item is None:
        return {}
    if not isinstance(item, Mapping):
        raise RowProblem("`kwargs` whose items are objects", show(item))
    return {name: value for name, value in item.items() if value is not None}


def _gate(gate: object) -> dict[str, Any]:
    if not isinstance(gate, Mapping) or not isinstance(gate.get("instruction_id"), str):
        raise RowProblem("`gates` whose items have `instruction_id` and `kwargs`", show(gate))
    return {"instruction_id": gate["instruction_id"], "kwargs": _without_nones(gate.get("kwargs"))}


def _as_list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise RowProblem("`gates` that is a list", show(value))
    return value
