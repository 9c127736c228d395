"""Makes instruction-following prompts: plain requests with constraints stated behind them.

What is drawn and how it is stated is the caller's (`draw`), because rewards and data are rooms of
one layer. Prompts are taken in a seeded order, all of them once before any comes again; every row
has its own random generator, so a row does not depend on how many rows are made.

Left out: rewriting the sentences with a language model, and constraints spread over several turns.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from mgsrl.config import SourceConfig
from mgsrl.data.plain_prompts import PLAIN_PROMPTS
from mgsrl.data.rows import Row
from mgsrl.data.sources import load_rows
from mgsrl.errors import UserError
from mgsrl.files.jsonl import dump_line, write_atomic

_TRIES = 20


class DrawnConstraints(Protocol):
    """Constraints for one request; the three run in parallel."""

    @property
    def instruction_id_list(self) -> Sequence[str]: ...
    @property
    def kwargs(self) -> Sequence[Mapping[str, Any]]: ...
    @property
    def statements(self) -> Sequence[str]: ...


Draw = Callable[[random.Random, str, int], DrawnConstraints]
"""`draw(rng, request, count)`: `count` constraints that one response can follow together."""


def plain_prompts(where: str | None, columns: Mapping[str, str]) -> list[Row]:
    """The requests that constraints are added to.

    Args:
        where: a data file, `hub:OWNER/NAME` for a hub data set, or None for the built-in requests.
        columns: our column (`prompt`, `messages`, `id`) -> theirs.

    Raises:
        UserError: as of `sources.load_rows`.
    """
    if where is None:
        return [
            Row(f"plain-{number}", ({"role": "user", "content": text},))
            for number, text in enumerate(PLAIN_PROMPTS)
        ]
    kind, path = ("hub", where[4:]) if where.startswith("hub:") else ("file", where)
    source = SourceConfig(kind=kind, path=path, columns=dict(columns))
    return load_rows(source, "prompts", key="--prompts", option="--columns")


def synthesize(
    prompts: Sequence[Row], draw: Draw, *, num_rows: int, low: int, high: int, seed: int
) -> Iterator[dict[str, Any]]:
    """Rows with `id`, `prompt` or `messages`, `instruction_id_list` and `kwargs`.

    Args:
        low, high: the least and the most constraints of a row; every number is equally likely.

    Raises:
        UserError: there are not `num_rows` different rows, or `draw` finds no set.
    """
    order = random.Random(f"{seed} order").sample(range(len(prompts)), len(prompts))
    seen: set[str] = set()
    for number in range(num_rows):
        rng = random.Random(f"{seed} row {number}")
        prompt = prompts[order[number % len(order)]]
        for _ in range(_TRIES):
            drawn = draw(rng, prompt.messages[-1]["content"], rng.randint(low, high))
            row = _with_constraints(prompt, drawn)
            # Constraints with other names can read the same.
            conversation = repr(row.get("prompt", row.get("messages")))
            if conversation not in seen:
                break
        else:
            raise UserError(
                "These prompts and constraints do not make that many different rows.",
                expected=f"{num_rows} different rows",
                found=f"{number} from {len(prompts)} prompts",
                todo="make fewer rows, or give more prompts or constraints",
            )
        seen.add(conversation)
        yield {"id": f"synth-{seed}-{number}", **row}


def _with_constraints(prompt: Row, drawn: DrawnConstraints) -> dict[str, Any]:
    last = prompt.messages[-1]["content"] + "\n\n" + "\n".join(drawn.statements)
    if len(prompt.messages) == 1:
        conversation: dict[str, Any] = {"prompt": last}
    else:
        conversation = {"messages": [*prompt.messages[:-1], {"role": "user", "content": last}]}
    return {
        **conversation,
        "instruction_id_list": list(drawn.instruction_id_list),
        "kwargs": [dict(arguments) for arguments in drawn.kwargs],
    }


def check_suffix(path: Path) -> None:
    """Raise `UserError` unless `path` is called what is written to it."""
    if path.suffix != ".jsonl":
        raise UserError(
            f"--output {path} cannot be written.",
            expected="a file whose name ends in .jsonl",
            found=repr(path.suffix or path.name),
            todo="name a .jsonl file",
        )


def write_rows(path: Path, rows: Iterator[dict[str, Any]]) -> int:
    """Write rows as JSON lines, the whole file at once at the end. Returns their number."""
    lines = [dump_line(row) for row in rows]
    write_atomic(path, "".join(lines))
    return len(lines)
