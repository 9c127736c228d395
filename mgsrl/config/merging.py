"""How several trained models become one: what `mgsrl merge` takes, and its defaults.

Not a part of a run's configuration: merging happens on what runs left behind.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mgsrl.config.require import one_of
from mgsrl.errors import ConfigError

METHODS: Mapping[str, Mapping[str, float]] = {
    "linear": {},
    "task_arithmetic": {},
    "ties": {"density": 0.2},
    "dare": {"density": 0.1, "seed": 0},
    "ram": {"threshold": 1e-5},
}
"""Method -> its options with their defaults, those of the papers (`algo/merging.py`)."""


@dataclass(frozen=True)
class MergeSettings:
    """A method with all that it is told; made by `merge_settings`."""

    method: str
    weights: tuple[float, ...]
    """One for each model, in their order."""
    options: Mapping[str, float] = field(default_factory=dict)
    """What the method takes beside weights."""

    @property
    def needs_base(self) -> bool:
        """Whether it works on task vectors, which are what a model differs from its base by."""
        return self.method != "linear"


def merge_settings(
    method: str,
    num_models: int,
    weights: Sequence[float] | None = None,
    **given: float | None,
) -> MergeSettings:
    """Settings with defaults in place of None: of `weights`, 1 for each model.

    Raises:
        ConfigError: an unknown method, an option that the method does not take or that is out of
            range, or weights that do not fit the models.
    """
    one_of("--method", method, METHODS)
    known = METHODS[method]
    options = dict(known)
    for name, value in given.items():
        if value is None:
            continue
        if name not in known:
            takers = [each for each, names in METHODS.items() if name in names]
            raise ConfigError(
                f"--method {method} does not take --{name}.",
                expected=f"--{name} with --method {' or '.join(takers)}",
                found=f"--{name} {value:g}",
                todo=f"leave --{name} out, or choose another method",
            )
        options[name] = value
    _check_options(options)
    return MergeSettings(method, _weights(method, num_models, weights), options)


def _check_options(options: Mapping[str, float]) -> None:
    bounds = {"density": (0.0, 1.0), "threshold": (0.0, math.inf), "seed": (0, 2**63 - 1)}
    for name, value in options.items():
        low, high = bounds[name]
        empty = name == "density" and value == 0  # nothing would be left
        if not low <= value <= high or empty or not math.isfinite(value):
            expected = "a share above 0, at most 1" if name == "density" else f"at least {low:g}"
            raise ConfigError(
                f"--{name} is out of range.",
                expected=expected,
                found=f"{value:g}",
                todo=f"change --{name}",
            )


def _weights(method: str, num_models: int, weights: Sequence[float] | None) -> tuple[float, ...]:
    if weights is None:
        return (1.0,) * num_models
    shown = " ".join(f"{weight:g}" for weight in weights)
    if len(weights) != num_models:
        raise ConfigError(
            "--weights does not fit the models.",
            expected=f"{num_models} numbers, one for each RUN in their order",
            found=f"{len(weights)}: {shown}",
            todo="give as many weights as models, or leave --weights out (1 for each)",
        )
    # A sum of 0 has no mean, and one that is lost in rounding is none either.
    empty = method == "linear" and abs(sum(weights)) <= 1e-6 * sum(map(abs, weights))
    if empty or not all(map(math.isfinite, weights)):
        raise ConfigError(
            "--weights cannot be used.",
            expected="finite numbers" + (", a sum that is not 0" if method == "linear" else ""),
            found=shown,
            todo="change --weights",
        )
    return tuple(weights)
