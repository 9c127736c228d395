"""Random constraints for a request: which ones, with which arguments, and the sentences for them.

Ids are drawn uniformly, so that rare and common constraints are trained alike. A set is drawn anew
until it has the size asked for: constraints that stand alone therefore come up only where one is
asked for. All randomness is the caller's generator's.
"""

import random
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mgsrl.constraints.check import bind
from mgsrl.constraints.conflicts import compatible
from mgsrl.constraints.spec import REGISTRY, Constraint
from mgsrl.errors import UserError, nearest

FAMILIES = ("ifeval", "ifevalg", "ifbench")
DEFAULT_FAMILIES = ("ifeval", "ifevalg")
"""IFBench's constraints measure generalisation: training on them spoils the benchmark."""

_FAMILY_OF_MODULE = {
    "format": "ifeval",
    "keywords": "ifeval",
    "length": "ifeval",
    "style": "ifeval",
    "copying": "ifevalg",
    "wording": "ifevalg",
}
_LANGUAGE_NAMES = {
    "de": "German",
    "es": "Spanish",
    "fi": "Finnish",
    "fr": "French",
    "it": "Italian",
    "nl": "Dutch",
    "pl": "Polish",
    "pt": "Portuguese",
    "ru": "Russian",
    "sv": "Swedish",
}
_ONE_OF_MANY = re.compile(
    r"\b1 (word|sentence|paragraph|section|placeholder|letter|time|bullet point)s\b"
)
_TRIES = 200


@dataclass(frozen=True, slots=True)
class Drawn:
    """Constraints for one request; the three run in parallel."""

    instruction_id_list: tuple[str, ...]
    kwargs: tuple[dict[str, Any], ...]
    statements: tuple[str, ...]


def family(constraint: Constraint) -> str:
    """The collection that a constraint was published in, one of `FAMILIES`."""
    module = constraint.check.__module__.rsplit(".", 1)[-1]
    return _FAMILY_OF_MODULE.get(module, "ifbench")


def select_ids(families: Collection[str], only: Sequence[str] = ()) -> tuple[str, ...]:
    """The ids of the constraints of some families that can be drawn, in alphabetical order.

    Args:
        only: takes these alone.

    Raises:
        UserError: an unknown family; an id that does not exist, is of another family or cannot be
            drawn.
    """
    for name in families:
        if name not in FAMILIES:
            raise UserError(
                "--families names an unknown collection.",
                expected=nearest(name, FAMILIES),
                found=repr(name),
                todo="correct the name",
            )
    drawable = {
        id_: family(entry)
        for id_, entry in REGISTRY.items()
        if not entry.arguments or entry.draw or entry.draw_from_prompt
    }
    for id_ in only:
        if drawable.get(id_) in families:
            continue
        if id_ in drawable:
            expected, found = f"ids of {', '.join(families)}", f"one of {drawable[id_]}"
            todo = f"add it with --families {' '.join(families)} {drawable[id_]}"
        else:
            expected, found = nearest(id_, drawable), repr(id_)
            todo = "correct the id" if id_ not in REGISTRY else "leave it out: it has no draw"
        raise UserError(f"{id_!r} cannot be drawn.", expected=expected, found=found, todo=todo)
    return tuple(sorted(only or (id_ for id_, name in drawable.items() if name in families)))


def draw_arguments(constraint: Constraint, rng: random.Random, prompt: str) -> dict[str, Any]:
    """Random arguments of one constraint for a request; empty when it takes none."""
    if constraint.draw_from_prompt is not None:
        return constraint.draw_from_prompt(rng, prompt)
    return constraint.draw(rng) if constraint.draw is not None else {}


def statement_of(constraint: Constraint, arguments: Mapping[str, Any]) -> str:
    """The sentence that asks for a constraint with these arguments.

    >>> statement_of(REGISTRY["keywords:existence"], {"keywords": ["tea", "cup"]})
    'Include the keywords "tea" and "cup" in the response.'
    """
    text = constraint.statement.format(
        **{name: _shown(name, value) for name, value in arguments.items()}
    )
    text = _ONE_OF_MANY.sub(r"1 \1", text)
    return re.sub(r"\b(\d+)-th\b", lambda match: _ordinal(int(match[1])), text)


def _shown(name: str, value: Any) -> Any:
    if name == "language":
        return _LANGUAGE_NAMES.get(value, value)
    if isinstance(value, list | tuple):
        quoted = [f'"{item}"' for item in value]
        return " and ".join(filter(None, [", ".join(quoted[:-1]), quoted[-1]]))
    return value


def _ordinal(number: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{'th' if 10 < number % 100 < 14 else ending}"


def draw_constraints(rng: random.Random, prompt: str, count: int, ids: Sequence[str]) -> Drawn:
    """`count` constraints out of `ids` that one response can follow together.

    Raises:
        UserError: no `count` of them go together.
    """
    for _ in range(_TRIES):
        chosen: dict[str, dict[str, Any]] = {}
        for id_ in rng.sample(ids, len(ids)):
            if compatible(id_, chosen):
                arguments = draw_arguments(REGISTRY[id_], rng, prompt)
                if not _share_words(arguments, chosen.values()):
                    bind(id_, arguments)
                    chosen[id_] = arguments
            if len(chosen) == count:
                statements = (statement_of(REGISTRY[i], kwargs) for i, kwargs in chosen.items())
                return Drawn(tuple(chosen), tuple(chosen.values()), tuple(statements))
    raise UserError(
        f"No {count} of the constraints can be asked for together.",
        expected=f"among {len(ids)} constraints {count} that do not conflict",
        found=", ".join(ids[:8]) + (", ..." if len(ids) > 8 else ""),
        todo="allow more constraints, or ask for fewer per prompt",
    )


def _share_words(arguments: Mapping[str, Any], others: Collection[Mapping[str, Any]]) -> bool:
    """Whether a word is asked for twice, or once asked for and once forbidden."""
    ours = list(_texts(arguments))
    theirs = [text for other in others for text in _texts(other)]
    return any(a in b or b in a for a in ours for b in theirs)


def _texts(arguments: Mapping[str, Any]) -> Iterator[str]:
    """The words and phrases among arguments, in lower case; single letters are none."""
    for name, value in arguments.items():
        if "relation" in name or name in ("prompt_to_repeat", "language"):
            continue
        for item in value if isinstance(value, list | tuple) else [value]:
            if isinstance(item, str) and len(item) > 1:
                yield item.lower()
