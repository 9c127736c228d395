"""Plain values -> the configuration's dataclasses: every key known, every value of its own type.

One walk over the fields decides for command lines, YAML files and saved runs alike. A value is
taken for what it says: a whole float (8.0, 1e2) for a whole number, a whole number for a float or a
text, and a text that spells a number or a truth value for one (environment variables are texts).
All else is refused, nan everywhere, and inf unless the field's metadata say `inf`.
"""

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, fields
from typing import Any, TypeVar, get_args, get_origin

from mgsrl.config.keys import (
    MEMBERS,
    field_types,
    foreign_key,
    is_record,
    member_config,
    members_of,
    optional,
    short_for,
    unknown_key,
)
from mgsrl.config.quoting import as_override
from mgsrl.errors import ConfigError, shortened
from mgsrl.plugins import Registry

LARGEST = 2**63 - 1
"""Of a whole number: libraries keep them in 64 bits."""
INFINITE = {"inf": True}
"""Metadata of a field that may be infinite."""
_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_NAMES = {
    bool: "true or false",
    int: "a whole number of at most 64 bits",
    float: "a finite number",
    str: "text",
}
Record = TypeVar("Record")


def read_config(kind: type[Record], values: Any, key: str = "") -> Record:
    """An instance of the dataclass `kind`; fields that `values` lacks take their defaults.

    Args:
        values: a mapping of plain values, as a YAML file holds them.
        key: where they stand, for messages.

    Raises:
        ConfigError: names the first key that is unknown or has a value of another type.
    """
    return _Reader(kind).record(kind, values, key)


def plain(value: Any) -> Any:
    """What `read_config` reads: dataclasses as mappings, the keys of members beside the others."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if not is_record(type(value)):
        return value
    found: dict[str, Any] = {}
    for item in fields(value):
        inner = plain(getattr(value, item.name))
        found |= inner if MEMBERS in item.metadata else {item.name: inner}
    return found


def flattened(values: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value of every leaf of nested mappings, and of lists of mappings."""
    if isinstance(values, list) and values and all(isinstance(each, dict) for each in values):
        values = dict(enumerate(values))
    if not isinstance(values, dict):
        return {prefix: values}
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flattened(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def chosen_member(kind: type, values: Mapping[Any, Any]) -> Any:
    """What `values` say the kind of a record with members is, unchecked; else its default."""
    found = members_of(kind)
    assert found is not None
    named = [name for name in values if name in found[1].members]
    default = next(item.default for item in fields(kind) if item.name == "kind")
    return values.get("kind", named[0] if named else default)


class _Reader:
    def __init__(self, root: type) -> None:
        self._root = root  # for messages about unknown keys

    def record(self, kind: Any, values: Any, key: str) -> Any:
        if not isinstance(values, Mapping) and (short := short_for(kind)):
            values = {short: values}
        if not isinstance(values, Mapping):
            raise _wrong(key or "The configuration", kind, values)
        members = members_of(kind)
        if members is not None:
            return self._with_member(*members, kind, values, key)
        given = {}
        for name, value in values.items():
            path = f"{key}.{name}" if key else str(name)
            if name not in field_types(kind):
                raise unknown_key(self._root, path)
            given[name] = self.field(kind, name, value, path)
        return kind(**given)

    def _with_member(
        self, field: str, registry: Registry, kind: Any, values: Mapping[Any, Any], key: str
    ) -> Any:
        """A record some of whose keys depend on its `kind`."""
        here = f"{key}." if key else ""
        default = chosen_member(kind, {})
        name = self.value(str, chosen_member(kind, values), f"{here}kind", default, False)
        config = member_config(registry, name, f"{here}kind")
        types, own = field_types(kind), field_types(config)
        if twice := types.keys() & own.keys():
            raise ConfigError(
                f"{here}kind cannot be used: its {config.__qualname__} has keys that every such "
                "record has.",
                expected="other names",
                found=", ".join(sorted(twice)),
                todo="rename them",
            )
        given: dict[str, Any] = {"kind": name}
        options: dict[str, Any] = {}
        for each, value in values.items():
            path = f"{here}{each}"
            if each in types:
                given[each] = self.field(kind, each, value, path)
            elif each in own:
                options[each] = self.field(config, each, value, path)
            else:
                raise foreign_key(self._root, kind, name, [*own, *types], path)
        for item in fields(config):
            if item.name not in options and item.default is item.default_factory is MISSING:
                key, wanted = f"{here}{item.name}", described(own[item.name])
                raise ConfigError(
                    f"{key} is missing.", expected=wanted, found="nothing", todo=f"set {key}"
                )
        return kind(**given, **{field: config(**options)})

    def field(self, kind: Any, name: str, value: Any, path: str) -> Any:
        """The value of the field `name` of the dataclass `kind`."""
        item = next(item for item in fields(kind) if item.name == name)
        default = item.default if item.default_factory is MISSING else item.default_factory()
        infinite = bool(item.metadata.get("inf"))
        return self.value(field_types(kind)[name], value, path, default, infinite)

    def value(self, kind: Any, value: Any, key: str, default: Any, infinite: bool) -> Any:
        if kind is Any:
            return value
        if inner := optional(kind):
            if value is None:
                return None
            return self.value(inner, value, key, default, infinite)
        if is_record(kind):
            return self.record(kind, value, key)
        if get_origin(kind) is list and isinstance(value, list | tuple):
            of = get_args(kind)[0]
            return [
                self.value(of, item, f"{key}[{index}]", MISSING, infinite)
                for index, item in enumerate(value)
            ]
        if get_origin(kind) is dict and isinstance(value, Mapping):
            of = get_args(kind)[1]
            return {
                _name(name, key): self.value(of, item, f"{key}.{name}", MISSING, infinite)
                for name, item in value.items()
            }
        plain = _plain(kind, value, infinite)
        if plain is None:
            raise _wrong(key, kind, value, default)
        return plain


def _name(name: Any, key: str) -> str:
    if not isinstance(name, str) or not name.strip():
        raise _wrong(f"A name in {key}", str, name)
    return name


def _plain(kind: Any, value: Any, infinite: bool) -> bool | int | float | str | None:
    """`value` as a bool, int, float or str; None when it is of another type."""
    if kind is bool:
        return value if isinstance(value, bool) else _WORDS.get(str(value).lower())
    if kind is str:
        return value if isinstance(value, str) else str(value) if _fits(value) else None
    if kind not in (int, float):
        return None
    if isinstance(value, str):
        value = _parsed(value)
    if kind is int:
        whole = int(value) if isinstance(value, float) and value.is_integer() else value
        return whole if _fits(whole) else None
    try:
        number = float(value) if type(value) in (int, float) else math.nan
    except OverflowError:
        return None
    return None if math.isnan(number) or (math.isinf(number) and not infinite) else number


def _fits(value: Any) -> bool:
    return type(value) is int and abs(value) <= LARGEST


def _parsed(text: str) -> int | float | None:
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return None


def described(kind: Any) -> str:
    """What a value of type `kind` is called in messages.

    >>> described(list[int] | None)
    'a list [...], or null'
    """
    if inner := optional(kind):
        return f"{described(inner)}, or null"
    if is_record(kind):
        names = list(field_types(kind))
        return f"a record of {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}"
    containers = {list: "a list [...]", dict: "a record {NAME: VALUE, ...}"}
    return containers.get(get_origin(kind)) or _NAMES.get(kind, "a value")


def _wrong(key: str, kind: Any, value: Any, default: Any = MISSING) -> ConfigError:
    todo = "mend the value"
    if default is None or is_record(type(default)):
        todo = f"give {key} such a value, or leave it out"
    elif default is not MISSING:
        todo = f"set {as_override(key, default)} (the default) or another value of that type"
    return ConfigError(
        f"{key} has a value of the wrong type.",
        expected=described(kind),
        found=_shown(value),
        todo=todo,
    )


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, int) and abs(value) > LARGEST:
        return f"a whole number of {value.bit_length()} bits"
    return f"{shortened(repr(value))} ({type(value).__name__})"
