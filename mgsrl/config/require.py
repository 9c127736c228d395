"""Small checks that name the key, what was expected, what was found and what to do."""

from collections.abc import Iterable

from mgsrl.errors import ConfigError, explain, nearest


def one_of(key: str, value: str, valid: Iterable[str]) -> None:
    """Raise `ConfigError` unless `value` is one of `valid`; the message names the nearest."""
    names = list(valid)
    if value not in names:
        raise ConfigError(
            explain(
                f"{key} has an unknown value.",
                expected=f"one of {', '.join(names)}",
                found=repr(value),
                todo=f"set {key} ({nearest(value, names)})",
            )
        )


def at_least(key: str, value: float, bound: float, why: str = "") -> None:
    """Raise `ConfigError` unless `value >= bound`."""
    if not value >= bound:
        raise ConfigError(
            explain(
                f"{key} is too small.{' ' + why if why else ''}",
                expected=f"a number >= {bound}",
                found=str(value),
                todo=f"set {key}={bound} or more",
            )
        )


def within(key: str, value: float, low: float, high: float) -> None:
    """Raise `ConfigError` unless `low <= value <= high`."""
    if not low <= value <= high:
        raise ConfigError(
            explain(
                f"{key} is out of range.",
                expected=f"a number from {low} to {high}",
                found=str(value),
                todo=f"set {key} inside that range",
            )
        )
