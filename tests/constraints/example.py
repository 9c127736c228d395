"""A response to a constraint and the verdict that is right."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Example:
    response: str
    kwargs: Mapping[str, Any]
    expected: bool


def follows(response: str, **kwargs: Any) -> Example:
    return Example(response, kwargs, True)


def breaks(response: str, **kwargs: Any) -> Example:
    return Example(response, kwargs, False)
