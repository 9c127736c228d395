"""The words of `mgsrl compare`: run folders, what is compared, and overrides that all runs share.

`strategies=[mgs,mixed]` and every `axes.KEY=[...]` make the arms, all combinations; `seeds=[...]`
the seeds of each. `axes.surgery.*` do nothing to a strategy without surgery, which stays one arm.
Left out: seeds of an arm's own, and arms of several overrides, which Python has (`cells.Arm`).
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from mgsrl.compare.cells import FILE, Arm
from mgsrl.config.compose import compose_config
from mgsrl.config.quoting import spelled
from mgsrl.errors import ConfigError, nearest

LISTS = ("strategies", "seeds", "allow")
OPTIONS = ("compare.dir", "compare.baseline")
AXES = "axes."
SEEDS = (0, 1, 2)
Compose = Callable[[Sequence[str]], Any]


@dataclass
class Words:
    """What a command line asks for."""

    folders: list[Path] = field(default_factory=list)
    """Of runs, or of comparisons, that are there."""
    common: list[str] = field(default_factory=list)
    strategies: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    axes: dict[str, list[Any]] = field(default_factory=dict)
    allow: list[str] = field(default_factory=list)
    dir: str = ""
    baseline: str = ""

    @property
    def makes_runs(self) -> bool:
        """Whether runs are planned, and not only those looked at that there are."""
        return bool(self.strategies or self.seeds or self.axes or self.common)

    def arms(self, compose: Compose = compose_config) -> list[Arm]:
        """Strategies times axes.

        Args:
            compose: overrides -> configuration.
        """
        seeds = tuple(self.seeds or SEEDS)
        found = []
        for name in self.strategies or [""]:
            chosen = (f"strategy={name}",) if name else ()
            base = compose([*self.common, *chosen])
            off = base.surgery.method == "none"
            keys = [k for k in self.axes if not (off and _of_surgery_alone(k))]
            for values in product(*(self.axes[key] for key in keys)):
                settings = dict(zip(keys, values, strict=True))
                parts = [f"{_short(key, keys)}={_label(v)}" for key, v in settings.items()]
                own = [f"{key}={spelled(value)}" for key, value in settings.items()]
                label = " ".join([*([name] if name else []), *parts]) or base.strategy.name
                found.append(Arm(label, (*chosen, *own), seeds))
        return found


def read_words(texts: Sequence[str]) -> Words:
    """Sort the words of a command line.

    Raises:
        ConfigError: a list that is none, an axis without values, an unknown `compare.` key, or one
            of our own twice.
    """
    words, own = Words(), set[str]()
    for text in texts:
        key, equals, rest = text.partition("=")
        if key == f"{AXES}strategy":
            key, text = "strategies", f"strategies={rest}"
        folder = os.path.expanduser(text)
        removes = text.startswith("~") and folder == text  # a key, and nobody's home
        if (not equals and not removes) or os.path.isdir(folder):  # `Path` fails for long ones
            words.folders.append(Path(folder))
            continue
        if key in own:
            raise _not_so(text, f"{key} once", "put all of its values into one list")
        if key in (*LISTS, *OPTIONS) or key.startswith(AXES):
            own.add(key)
        if key in LISTS:
            _check_list(text, value := _value(text))
            if key == "seeds" and not all(type(item) is int and item >= 0 for item in value):
                raise _not_so(text, "whole numbers from 0", "write seeds=[0,1,2]")
            setattr(words, key, [item if key == "seeds" else str(item) for item in value])
        elif key.startswith(AXES):
            _check_list(text, value := _value(text))
            words.axes[key.removeprefix(AXES)] = value
        elif key in OPTIONS:
            # as it is, for arms are called `mgs lr=0.001`
            value = str(_value(text)) if rest[:1] in ("'", '"') else os.path.expanduser(rest)
            setattr(words, key.removeprefix("compare."), value)
        elif key == "compare" or key.startswith("compare."):
            todo = f"correct the name ({nearest(key, OPTIONS)})"
            raise _not_so(text, "a key of the comparison", todo)
        else:
            words.common.append(text)
    return words


def is_comparison(folder: Path) -> bool:
    """Whether a folder is one of cells rather than of a run."""
    return (folder / FILE).is_file()


def _value(text: str) -> Any:
    key, _, value = text.partition("=")
    try:
        override = OverridesParser.create().parse_override(text)
        if not override.is_sweep_override():
            return override.value()
    except (HydraException, ValueError, RecursionError) as error:
        todo = f"""write '{key}=[A,B]'; what is no plain word stands in "double quotes\""""
        raise _not_so(text, "a value", todo) from error
    raise _not_so(text, "one value or one list", f"write '{key}=[{value}]'")


def _check_list(text: str, value: Any) -> None:
    if not isinstance(value, list) or not value:
        key, _, found = text.partition("=")
        todo = f"write '{key}=[{found}]'" if value else f"write '{key}=[A,B]', or leave it out"
        raise _not_so(text, "a list of at least one value", todo)


def _not_so(text: str, expected: str, todo: str) -> ConfigError:
    key = text.partition("=")[0]
    problem = f"{key} of a comparison cannot be read."
    return ConfigError(problem, expected=expected, found=text, todo=todo)


def _of_surgery_alone(key: str) -> bool:
    return key.startswith("surgery.") and key != "surgery.method"


def _short(key: str, keys: Sequence[str]) -> str:
    """The last part of a key, or all of it where another ends the same."""
    last = key.rpartition(".")[2]
    return last if [k.rpartition(".")[2] for k in keys].count(last) == 1 else key


def _label(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(_label, value))
    return value if isinstance(value, str) else spelled(value)
