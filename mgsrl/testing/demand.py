"""How the checks say that a contract is not kept."""

from collections.abc import Collection

from mgsrl.errors import ContractError


def demand(kept: bool, part: str, expected: str, found: object) -> None:
    """Raise ContractError unless `kept`.

    Args:
        part: what is checked: `The surgery method drop`.
    """
    if not kept:
        problem = f"{part} does not keep its contract."
        raise ContractError(
            problem, expected=expected, found=str(found), todo="mend it, or claim less"
        )


def chosen(
    always: Collection[str],
    usual: Collection[str],
    optional: Collection[str],
    without: Collection[str],
    also: Collection[str],
) -> list[str]:
    """The properties to try. Raises ValueError for a name in `without` or `also` that is none."""
    for names, known in ((without, usual), (also, optional)):
        if unknown := set(names) - set(known):
            raise ValueError(f"properties should be of {', '.join(known)}, found {unknown}")
    return [*always, *(n for n in usual if n not in without), *(n for n in optional if n in also)]
