"""Small checks that name the key, what was expected, what was found and what to do."""

import re
from collections.abc import Iterable

from mgsrl.errors import ConfigError, nearest, shortened

COLDEST = 0.01
HOTTEST = 2.0
"""Sampling temperatures that every engine takes: vLLM moves smaller ones (but 0, which is greedy)
up to `COLDEST`, without a word, and refuses larger ones."""
LONGEST_S = 2_000_000.0
"""Three weeks: waits are counted in milliseconds, by some clients in 32 bits."""


def one_of(key: str, value: str, valid: Iterable[str]) -> None:
    """Raise `ConfigError` unless `value` is one of `valid`; the message names the nearest."""
    names = list(valid)
    if value not in names:
        raise ConfigError(
            f"{key} has an unknown value.",
            expected=f"one of {', '.join(names)}",
            found=shortened(repr(value)),
            todo=f"set {key} ({nearest(value, names)})",
        )


def at_least(key: str, value: float, bound: float, why: str = "") -> None:
    """Raise `ConfigError` unless `value >= bound`."""
    if not value >= bound:
        raise ConfigError(
            f"{key} is too small.{' ' + why if why else ''}",
            expected=f"a number >= {bound}",
            found=str(value),
            todo=f"set {key}={bound} or more",
        )


def more_than(key: str, value: float, bound: float, why: str = "") -> None:
    """Raise `ConfigError` unless `value > bound`."""
    if not value > bound:
        raise ConfigError(
            f"{key} is too small.{' ' + why if why else ''}",
            expected=f"a number > {bound}",
            found=str(value),
            todo=f"set {key} above {bound}",
        )


def less_than(key: str, value: float, bound: float) -> None:
    """Raise `ConfigError` unless `value < bound`."""
    if not value < bound:
        raise ConfigError(
            f"{key} is too large.",
            expected=f"a number < {bound}",
            found=str(value),
            todo=f"set {key} below {bound}",
        )


def seconds(key: str, value: float) -> None:
    """Raise `ConfigError` for a time limit that is none."""
    more_than(key, value, 0)
    within(key, value, 0, LONGEST_S)


def temperature(key: str, value: float, *, greedy: bool = False) -> None:
    """Raise `ConfigError` for a sampling temperature that an engine would not take as it is.

    Args:
        greedy: whether 0 (the likeliest token) is allowed; training needs sampled responses.
    """
    if COLDEST <= value <= HOTTEST or (greedy and value == 0):
        return
    raise ConfigError(
        f"{key} is out of range.",
        expected=f"a number from {COLDEST} to {HOTTEST}"
        + (", or 0 for the likeliest token" if greedy else ": GRPO needs sampled responses"),
        found=str(value),
        todo=f"set {key} inside that range",
    )


def full_distribution(key: str, top_p: float) -> None:
    """Raise `ConfigError` for a nucleus in training."""
    if top_p != 1.0:
        raise ConfigError(
            f"{key} must be 1 for training.",
            expected="1.0: the learner's log-probabilities are of the full distribution, "
            "so a nucleus would bias every importance weight (vLLM's return_sampling_mask, which "
            "could undo that, wants Model Runner V2, hence Triton, and a top-k; it is not used)",
            found=str(top_p),
            todo=f"set {key}=1.0 and steer with temperature (evaluate.top_p may differ)",
        )


def not_empty(key: str, value: str, expected: str) -> None:
    """Raise `ConfigError` for a blank string."""
    if not value.strip():
        raise ConfigError(
            f"{key} is empty.", expected=expected, found=repr(value), todo=f"set {key}"
        )


def plain_name(key: str, name: str) -> None:
    """Raise `ConfigError` for a name that cannot stand in keys, metrics and files' names."""
    if not re.fullmatch(r"[\w-]+", name):
        raise ConfigError(
            f"A name in {key} cannot be used.",
            expected="letters, digits, _ and -: names stand in keys, metrics and files' names",
            found=shortened(repr(name)),
            todo=f"choose another name in {key}",
        )


def within(key: str, value: float, low: float, high: float) -> None:
    """Raise `ConfigError` unless `low <= value <= high`."""
    if not low <= value <= high:
        raise ConfigError(
            f"{key} is out of range.",
            expected=f"a number from {low} to {high}",
            found=str(value),
            todo=f"set {key} inside that range",
        )
