"""Binding a reference to its constraints, and IFEval's strict and loose verdicts.

`parse_reference` turns a data row's `instruction_id_list`, `kwargs` and `gates` into bound
constraints and raises `DataError` for anything that could only fail later, so call it (as
`validate_reference`) when data are loaded, where the row number is known.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mgsrl.config.reward import TRAINING
from mgsrl.constraints.official import reading_of
from mgsrl.constraints.spec import REGISTRY, Constraint
from mgsrl.errors import DataError, nearest


@dataclass(frozen=True, slots=True)
class BoundConstraint:
    constraint: Constraint
    arguments: Mapping[str, Any]

    def follows(self, text: str, reading: str = TRAINING) -> bool:
        """The verdict on one text; `reading` is one of `READINGS`."""
        return reading_of(self.constraint, reading)(text, **self.arguments)


@dataclass(frozen=True, slots=True)
class BoundReference:
    constraints: tuple[BoundConstraint, ...]
    gates: tuple[BoundConstraint, ...]
    """Conditions without which the reward is 0; they are not part of the fraction."""


def bind(instruction_id: Any, kwargs: Any) -> BoundConstraint:
    """Look up the constraint and parse its arguments; None values count as absent."""
    if not isinstance(instruction_id, str) or instruction_id not in REGISTRY:
        raise DataError(
            f"Unknown constraint {instruction_id!r}.",
            expected=nearest(str(instruction_id), REGISTRY),
            found=repr(instruction_id),
            todo="correct the id or leave the row out",
        )
    constraint = REGISTRY[instruction_id]
    if kwargs is None:
        kwargs = {}
    if not isinstance(kwargs, Mapping):
        raise _bad_arguments(constraint, "a mapping of arguments", repr(kwargs))
    given = {name: value for name, value in kwargs.items() if value is not None}
    for name in given:
        if name not in constraint.arguments:
            raise _bad_arguments(constraint, nearest(name, constraint.arguments), repr(name))
    arguments = {}
    for name, argument in constraint.arguments.items():
        if name not in given:
            if argument.optional:
                continue
            raise _bad_arguments(constraint, f"`{name}`, {argument.type}", f"only {given}")
        try:
            arguments[name] = argument.parse(given[name])
        except (ValueError, TypeError, OverflowError):
            raise _bad_arguments(
                constraint, f"`{name}`, {argument.type}", f"{name}={given[name]!r}"
            ) from None
    problem = constraint.consistent(**arguments) if constraint.consistent else None
    if problem:
        raise _bad_arguments(constraint, "arguments that fit together", problem)
    return BoundConstraint(constraint, arguments)


def _bad_arguments(constraint: Constraint, expected: str, found: str) -> DataError:
    return DataError(
        f"Bad arguments of constraint {constraint.id!r} ({constraint.meaning})",
        expected=expected,
        found=found,
        todo="correct the row's kwargs or leave the row out",
    )


def parse_reference(reference: Mapping[str, Any]) -> BoundReference:
    """Bind every constraint and gate of a row. Raises DataError."""
    ids = reference.get("instruction_id_list")
    kwargs = reference.get("kwargs")
    if not _is_list(ids) or not ids:
        raise _bad_reference("`instruction_id_list`, a non-empty list of ids", repr(ids))
    if kwargs is None:
        kwargs = [None] * len(ids)
    if not _is_list(kwargs) or len(kwargs) != len(ids):
        found = f"{len(kwargs)} entries" if _is_list(kwargs) else repr(kwargs)
        raise _bad_reference(f"`kwargs`, a list of {len(ids)} mappings, one per id", found)
    gates = reference.get("gates")
    gates = [] if gates is None else gates
    if not _is_list(gates) or not all(isinstance(gate, Mapping) for gate in gates):
        raise _bad_reference("`gates`, a list of {instruction_id, kwargs}", repr(gates))
    return BoundReference(
        tuple(bind(id_, arguments) for id_, arguments in zip(ids, kwargs, strict=True)),
        tuple(bind(gate.get("instruction_id"), gate.get("kwargs")) for gate in gates),
    )


def validate_reference(reference: Mapping[str, Any]) -> None:
    """Raise DataError unless the constraint checker can score this reference."""
    parse_reference(reference)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _bad_reference(expected: str, found: str) -> DataError:
    return DataError(
        "A row does not say which constraints its response must follow.",
        expected=expected,
        found=found,
        todo="correct the row or map its columns",
    )


def loose_variants(text: str) -> list[str]:
    """IFEval's eight: without asterisks, without the first line, the last, and combinations."""
    lines = text.split("\n")
    trimmed = [lines, lines[1:], lines[:-1], lines[1:-1]]
    plain = [text, *("\n".join(part).strip() for part in trimmed[1:])]
    return plain + [variant.replace("*", "") for variant in plain]


def follows(
    bound: BoundConstraint, text: str, *, strict: bool = True, reading: str = TRAINING
) -> bool:
    """IFEval's verdict; an empty response follows nothing."""
    variants = [text] if strict else loose_variants(text)
    return any(variant.strip() != "" and bound.follows(variant, reading) for variant in variants)
