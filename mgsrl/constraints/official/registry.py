"""Which verdicts there are of one response: those that train, and those of the released checkers.

    @official("words:prime_lengths", "A response without words passes; ...")
    def prime_lengths(text: str) -> bool: ...

The decorator files the released checker's definition where it differs from the one in
`spec.REGISTRY`; a constraint without an entry has one definition. For every entry
`tests/constraints/examples_official.py` has responses on which the two verdicts differ.
`difference_table` is the table of docs/rewards.md.
"""

from collections.abc import Callable
from dataclasses import dataclass

from mgsrl.config.reward import OFFICIAL, READINGS
from mgsrl.constraints.spec import Constraint


@dataclass(frozen=True, slots=True)
class OfficialCheck:
    """What the released checker decides where training decides better."""

    check: Callable[..., bool]
    """`check(text, **arguments)`, as in `Constraint`."""
    difference: str
    """What the released checker does that training does not; for the table."""


OFFICIAL_CHECKS: dict[str, OfficialCheck] = {}


def official(id_: str, difference: str) -> Callable[[Callable[..., bool]], Callable[..., bool]]:
    """File the decorated check in `OFFICIAL_CHECKS`."""

    def register(check: Callable[..., bool]) -> Callable[..., bool]:
        assert id_ not in OFFICIAL_CHECKS, f"{id_} is filed twice"
        OFFICIAL_CHECKS[id_] = OfficialCheck(check, difference)
        return check

    return register


def reading_of(constraint: Constraint, reading: str) -> Callable[..., bool]:
    """The check that decides under `reading`, one of `READINGS`."""
    assert reading in READINGS, reading
    entry = OFFICIAL_CHECKS.get(constraint.id) if reading == OFFICIAL else None
    return constraint.check if entry is None else entry.check


def difference_table() -> str:
    """Markdown: one row for each constraint whose two verdicts can differ."""
    head = "| constraint | the released checker, in contrast to training |\n|---|---|\n"
    rows = (f"| `{id_}` | {entry.difference} |\n" for id_, entry in sorted(OFFICIAL_CHECKS.items()))
    return head + "".join(rows)
