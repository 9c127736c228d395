"""What a constraint is: an id, typed arguments, a meaning and a check.

    @constraint("punctuation:no_comma", "The response holds no comma.",
                statement="Do not use any commas.")
    def no_comma(text: str) -> bool:
        return "," not in text

The decorator files the constraint in `REGISTRY`; the function stays an ordinary function.
`statement` (the sentence that asks for it, with `{argument}` places) and `draw(rng)` (random
arguments) are what a generator of training prompts needs. Where arguments depend on the request,
as in "repeat the request", `draw_from_prompt(rng, request)` stands in for `draw`; a constraint
without arguments needs neither; one with arguments and neither of the two is never drawn. See
`sample.py` for how they are used and `conflicts.py` for what can be combined. Responses that follow
and break each one are in `tests/constraints/examples.py`; a constraint without them fails a test.
"""

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


class CannotDecideError(Exception):
    """A check that has no means to judge this response; the reward abstains with the reason."""


@dataclass(frozen=True, slots=True)
class Argument:
    """The type of an argument: `parse` returns the value the check gets or raises ValueError."""

    type: str
    """For messages: "an integer of at least 1"."""
    parse: Callable[[Any], Any]
    optional: bool = False
    """Absent, the check's own default holds."""


@dataclass(frozen=True, slots=True)
class Constraint:
    id: str
    meaning: str
    check: Callable[..., bool]
    """`check(text, **arguments)`; deterministic, no I/O."""
    arguments: Mapping[str, Argument]
    statement: str = ""
    draw: Callable[[random.Random], dict[str, Any]] | None = None
    consistent: Callable[..., str | None] | None = None
    """Rules across arguments: returns what is wrong, or None."""
    draw_from_prompt: Callable[[random.Random, str], dict[str, Any]] | None = None


REGISTRY: dict[str, Constraint] = {}


def constraint(
    id_: str,
    meaning: str,
    *,
    arguments: Mapping[str, Argument] | None = None,
    statement: str = "",
    draw: Callable[[random.Random], dict[str, Any]] | None = None,
    consistent: Callable[..., str | None] | None = None,
    draw_from_prompt: Callable[[random.Random, str], dict[str, Any]] | None = None,
) -> Callable[[Callable[..., bool]], Callable[..., bool]]:
    """File the decorated check in `REGISTRY`."""

    def register(check: Callable[..., bool]) -> Callable[..., bool]:
        assert id_ not in REGISTRY, f"{id_} is registered twice"
        REGISTRY[id_] = Constraint(
            id_, meaning, check, arguments or {}, statement, draw, consistent, draw_from_prompt
        )
        return check

    return register


# --- argument types -------------------------------------------------------------------------------


def _integer(value: Any) -> int:
    # Columnar files turn integers beside nulls into floats, so 3.0 is 3 and 3.5 is an error.
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise ValueError
    return int(value)


def _at_least(low: int) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        number = _integer(value)
        if number < low:
            raise ValueError
        return number

    return parse


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        raise ValueError
    return tuple(_text(item) for item in value)


def choice(*names: str) -> Argument:
    def parse(value: Any) -> str:
        if value not in names:
            raise ValueError
        return str(value)

    return Argument("one of " + ", ".join(map(repr, names)), parse)


def _word(value: Any) -> str:
    # Some data sets wrap the one word in a list.
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 1:
        value = value[0]
    return _text(value).strip()


def _letter(value: Any) -> str:
    letter = _text(value).strip().lower()
    if len(letter) != 1:
        raise ValueError
    return letter


COUNT = Argument("an integer of at least 0", _at_least(0))
POSITIVE = Argument("an integer of at least 1", _at_least(1))
TEXT = Argument("a non-empty string", _text)
TEXTS = Argument("a non-empty list of non-empty strings", _texts)
WORD = Argument("a non-empty string", _word)
OPTIONAL_TEXT = Argument("a non-empty string", _text, optional=True)
LETTER = Argument("one character", _letter)
RELATION = choice("less than", "at least", "at most", "more than", "exactly")


def compare(actual: int, relation: str, threshold: int) -> bool:
    """IFEval has `less than` and `at least`; the others are natural extensions."""
    return {
        "less than": actual < threshold,
        "at least": actual >= threshold,
        "at most": actual <= threshold,
        "more than": actual > threshold,
        "exactly": actual == threshold,
    }[relation]


def occurrences(phrase: str, text: str) -> int:
    """How often `phrase` occurs, ignoring case, inside longer words too; literal, not a pattern."""
    return len(re.findall(re.escape(phrase), text, flags=re.IGNORECASE))
