"""What a merge may be told."""

from typing import Any

import pytest

from mgsrl.config.merging import merge_settings
from mgsrl.errors import ConfigError


def test_defaults() -> None:
    assert merge_settings("ties", 3).weights == (1.0, 1.0, 1.0)
    assert merge_settings("ties", 3).options == {"density": 0.2}
    assert merge_settings("dare", 2, density=0.5).options == {"density": 0.5, "seed": 0}
    assert not merge_settings("linear", 1).needs_base
    assert merge_settings("ram", 1).needs_base


def test_weights_below_zero_forget() -> None:
    assert merge_settings("task_arithmetic", 2, [1, -1]).weights == (1.0, -1.0)


@pytest.mark.parametrize(
    ("method", "weights", "options", "words"),
    [
        ("tie", None, {}, "ties"),
        ("linear", [1.0], {}, "2 numbers"),
        ("linear", [1.0, -1.0], {}, "not 0"),
        ("linear", [0.1, 0.2, -0.3], {}, "2 numbers"),
        ("ties", [1.0, float("nan")], {}, "finite"),
        ("ties", None, {"density": 0.0}, "--density"),
        ("ties", None, {"density": 1.5}, "--density"),
        ("ties", None, {"density": float("nan")}, "--density"),
        ("ram", None, {"threshold": -1.0}, "--threshold"),
        ("ram", None, {"density": 0.5}, "ties or dare"),
        ("ties", None, {"seed": 1}, "leave --seed out"),
        ("dare", None, {"seed": -1}, "--seed"),
    ],
)
def test_what_cannot_be_is_refused(
    method: str, weights: list[float] | None, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        merge_settings(method, 2, weights, **options)
