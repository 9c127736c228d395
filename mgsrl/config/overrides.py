"""Command-line overrides: which choose a file, which set a key, and what cannot be read.

The grammar is Hydra's. What is done with an override is decided here, from the configuration's own
types: a key must exist, whatever stands before it (`+` and `++` mean no more than `KEY=VALUE`, but
for a new domain), and names below a mapping are the user's. Left out: sweeps (one command is one
run) and `KEY@PACKAGE`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mgsrl.config.keys import (
    field_types,
    is_record,
    members_of,
    optional,
    short_for,
    type_at,
    unknown_key,
)
from mgsrl.config.quoting import as_override, spelled
from mgsrl.config.root import Config
from mgsrl.config.typed import chosen_member, described
from mgsrl.errors import ConfigError, nearest

_SHAPE = re.compile(r"(?P<sign>~|\+{0,2})(?P<key>[^=]*)(?:=(?P<value>.*))?", re.DOTALL)
DEFAULTED = ("domains", "strategy")
"""Groups of which one file is always chosen."""


@dataclass(frozen=True)
class Change:
    """One override of a key."""

    key: str
    value: Any
    remove: bool = False
    """`~KEY`."""
    add: bool = False
    """Written with `+`: the names in `key` may be new ones."""


def read_overrides(
    texts: Sequence[str], choices: Mapping[str, Sequence[str]]
) -> tuple[list[str], list[Change]]:
    """(overrides that choose files, as Hydra wants them; changes of keys, in order).

    Args:
        choices: group of `configs/` -> the names in it.

    Raises:
        ConfigError: no KEY=VALUE, a value that cannot be read, several values, an unknown key or
            choice.
    """
    chosen, changes = dict[str, str](), []
    for text in texts:
        override = _parsed(text, choices)
        key = override.key_or_group
        if override.package is not None:
            raise unknown_key(Config, f"{key}@{override.package}")
        if key in choices and not isinstance(override.value(), dict):
            if key in chosen:
                raise ConfigError(
                    f"{key} is chosen twice.",
                    expected=f"one {key}",
                    found=f"{chosen[key]} and {text}",
                    todo="leave one of them out",
                )
            chosen[key] = _choice(override, choices[key])
            continue
        kind = type_at(Config, key)
        if kind is None:
            raise unknown_key(Config, key)
        short = None if override.is_delete() else short_for(kind)
        if short and not isinstance(override.value(), dict):
            key = f"{key}.{short}"
        if override.is_delete() and override.value() is not None:
            raise _no_override(text, f"~{key} alone", f"write ~{key}")
        changes.append(
            Change(
                key,
                override.value(),
                remove=override.is_delete(),
                add=override.is_add() or override.is_force_add(),
            )
        )
    return list(chosen.values()), changes


def apply_changes(composed: DictConfig, changes: Sequence[Change]) -> None:
    """Change the composed files in place.

    Raises:
        ConfigError: a domain, source or score that is not there, or what cannot be removed.
    """
    OmegaConf.set_struct(composed, False)
    _spell_out(composed, Config)
    _forget_other_kinds(composed, changes)
    unknown = list[tuple[str, list[str]]]()  # records that came without a `+`; names beside them
    for change in changes:
        if change.remove:
            _remove(composed, change.key)
            continue
        if not change.add:
            unknown += _new_records(composed, change)
        try:
            OmegaConf.update(composed, change.key, change.value, merge=True, force_add=True)
        except (OmegaConfBaseException, ValueError, TypeError, IndexError) as error:
            raise ConfigError(
                f"{change.key} cannot be set.",
                expected=described(type_at(Config, change.key)),
                found=f"{spelled(change.value)[:80]} ({str(error).strip().splitlines()[0]})",
                todo=f"correct the value of {change.key}",
            ) from error
    for key, beside in unknown:
        record = OmegaConf.select(composed, key)
        if not (isinstance(record, DictConfig) and "kind" in record):
            raise _no_record(key, beside)


def _spell_out(node: DictConfig, kind: type) -> None:
    """Plain values that stand for records, as a file may have them, become these records."""
    for name, inner in field_types(kind).items():
        if not is_record(inner) or name not in node:
            continue
        short, value = short_for(inner), node.get(name)
        if isinstance(value, DictConfig):
            _spell_out(value, inner)
        elif short:
            node[name] = {short: value}


def _parsed(text: str, choices: Mapping[str, Sequence[str]]) -> Override:
    shape = _SHAPE.fullmatch(text)
    assert shape is not None  # it matches any text
    sign, key, value = shape["sign"], shape["key"], shape["value"]
    if value is None and sign != "~":
        named = [group for group, names in choices.items() if text in names]
        todo = f"write {named[0]}={text}" if named else "put a value behind the key"
        raise _no_override(text, "KEY=VALUE", f"{todo} (see `mgsrl train --help`)")
    if value is not None and value.startswith("~"):  # a home folder; `~` is not in the grammar
        text = f"{sign}{key}={spelled(value)}"
    try:
        override = OverridesParser.create().parse_override(text)
        if not override.is_sweep_override():
            override.value()  # interpolations and casts are read here
            return override
    except (HydraException, ValueError, RecursionError, OverflowError) as error:
        raise _unreadable(sign, key, value or "", choices) from error
    raise _sweep(key, value or "", choices)


def _choice(override: Override, names: Sequence[str]) -> str:
    """A checked choice of a file, as Hydra takes it."""
    group, name = override.key_or_group, override.value()
    if override.is_delete() and name is None:
        return f"~{group}"
    if not isinstance(name, str) or name not in names:
        raise ConfigError(
            f"{group}={spelled(name)} is no choice.",
            expected=f"the name of a file in configs/{group}/",
            found=spelled(name),
            todo=f"choose another name ({nearest(str(name), names)})",
        )
    sign = "~" if override.is_delete() else "" if group in DEFAULTED else "+"
    return f"{sign}{group}={name}"


def _no_override(text: str, expected: str, todo: str) -> ConfigError:
    return ConfigError(
        "An override cannot be read.", expected=expected, found=repr(text), todo=todo
    )


def _unreadable(sign: str, key: str, value: str, choices: Mapping[str, Any]) -> ConfigError:
    """The grammar does not take the value: how to write it."""
    kind = str if key in choices else _plain_type(key)
    if kind is None:
        return unknown_key(Config, key)
    if (optional(kind) or kind) is str:
        todo = f"put it in double quotes, and the whole in single ones: {_quoted(sign, key, value)}"
    else:
        todo = (
            f"correct it; texts with other characters than letters, digits and /.-_ stand in double"
            f" quotes, as in {as_override('run.dir', 'runs/a=b, c')}"
        )
    return ConfigError(
        f"The value of {key} cannot be read.",
        expected=described(kind),
        found=f"{key}={value if len(value) <= 200 else value[:200] + '...'}",
        todo=todo,
    )


def _plain_type(key: str) -> Any:
    """The type of a plain value at `key`; None where there is no such key."""
    kind = type_at(Config, key)
    short = short_for(kind)
    return field_types(kind)[short] if short else kind


def _quoted(sign: str, key: str, value: str) -> str:
    text = as_override(f"{sign}{key}", value)
    return text if text.startswith("'") else f"'{text}'"


def _sweep(key: str, value: str, choices: Mapping[str, Any]) -> ConfigError:
    """Several values: of a list, of a text with a comma, or meant as several runs."""
    kind = _plain_type(key)
    if kind is None and key not in choices:
        return unknown_key(Config, key)
    inner = optional(kind) or kind
    runs = "start one run per value: `mgsrl compare` takes strategies=[A,B] and axes.KEY=[A,B]"
    if get_origin(inner) is list:
        todo = f"write a list, '{key}=[{value}]'"
    elif inner is str and key not in choices:
        todo = f"quote a comma that is part of the value, {_quoted('', key, value)}; or {runs}"
    else:
        todo = runs
    return ConfigError(
        f"{key} has several values.",
        expected=f"{'one name' if key in choices else described(kind)}: a command is one run",
        found=f"{key}={value}",
        todo=todo,
    )


def _remove(composed: DictConfig, key: str) -> None:
    parent, _, name = key.rpartition(".")
    kind = type_at(Config, parent) if parent else Config
    if get_origin(optional(kind) or kind) is not dict:
        raise ConfigError(
            f"{key} cannot be removed.",
            expected="a name of yours, such as ~domains.NAME",
            found=f"~{key}",
            todo=f"set {key}=null" if optional(type_at(Config, key)) else "give it a value",
        )
    node = OmegaConf.select(composed, parent)
    if not isinstance(node, DictConfig) or name not in node:
        raise _no_record(key, [str(known) for known in node or ()])
    del node[name]


def _forget_other_kinds(composed: DictConfig, changes: Sequence[Change]) -> None:
    """Where a change says another kind than the files, their keys for that kind have no meaning."""
    for change in changes:
        for parts, value in _leaves(change.key.split("."), change.value):
            *above, name = parts
            key = ".".join(above)
            record = type_at(Config, key) if above else Config
            members = members_of(record) if is_record(record) else None
            if members is None or (name != "kind" and name not in members[1].members):
                continue
            node = OmegaConf.select(composed, key)
            kind = chosen_member(record, {name: value})
            if isinstance(node, DictConfig) and chosen_member(record, dict(node)) != kind:
                kept = field_types(record).keys() - {"kind"}
                for each in [each for each in node if each not in kept]:
                    del node[each]


def _new_records(composed: DictConfig, change: Change) -> Iterator[tuple[str, list[str]]]:
    """Records below mappings that `change` would make: key, and the names that are there."""
    for parts, _ in _leaves(change.key.split("."), change.value):
        for depth in range(1, len(parts)):
            mapping = ".".join(parts[:depth])
            kind = type_at(Config, mapping)
            kind = optional(kind) or kind
            if get_origin(kind) is not dict or not is_record(get_args(kind)[1]):
                continue
            node = OmegaConf.select(composed, mapping)
            names = list(map(str, node)) if isinstance(node, DictConfig) else []
            if parts[depth] not in names:
                yield f"{mapping}.{parts[depth]}", names
                break


def _leaves(parts: list[str], value: Any) -> Iterator[tuple[list[str], Any]]:
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from _leaves([*parts, str(name)], item)
    else:
        yield parts, value


def _no_record(key: str, beside: Sequence[str]) -> ConfigError:
    parent, _, name = key.rpartition(".")
    kind = type_at(Config, key)
    new = f"; a new one is added with +{key}...=VALUE"
    if is_record(kind) and "kind" in field_types(kind):
        new = f"; a new one says its kind, as in {key}.kind=VALUE"
    return ConfigError(
        f"There is no {key}.",
        expected=f"a name in {parent}",
        found=repr(name),
        todo=f"correct the name ({nearest(name, beside)}){new}",
    )
