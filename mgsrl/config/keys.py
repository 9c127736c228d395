"""The keys of the configuration, read off its dataclasses: which there are, and the nearest one.

A key is written with dots (`domains.math.source.path`); below a mapping any name is a key. A
record whose field has the metadata `MEMBERS` (a registry) holds, beside its own keys, those of the
member that its `kind` names: they are the fields of that member's `Config`, and stand at one level
with the record's in YAML and on the command line. A key that is called as a member
(`function: my.py:score`) says the kind by itself.
"""

import difflib
import types
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from itertools import takewhile
from typing import Any, Union, cast, get_args, get_origin, get_type_hints

from mgsrl.errors import ConfigError, nearest
from mgsrl.plugins import Registry

MEMBERS = "members"
NAME = "NAME"
"""Stands for a name of the user's in `all_keys`."""
UNKNOWN = "Unknown configuration key"


@cache
def field_types(kind: type) -> dict[str, Any]:
    """Key -> type of a configuration dataclass; without the keys of members."""
    hints = get_type_hints(kind)
    return {item.name: hints[item.name] for item in fields(kind) if MEMBERS not in item.metadata}


@cache
def members_of(kind: type) -> tuple[str, Registry] | None:
    """The field that holds the keys of a member, and the members; None for a plain record."""
    found = [(f.name, f.metadata[MEMBERS]) for f in fields(kind) if MEMBERS in f.metadata]
    return found[0] if found else None


def member_config(registry: Registry, name: str, key: str) -> type:
    """The dataclass of the keys that the member `name` alone has.

    Raises:
        ConfigError: a member that cannot be loaded, or whose `Config` is no dataclass.
    """
    config = getattr(registry.load(name, key), "Config", None)
    if is_record(config):
        return cast(type, config)
    raise ConfigError(
        f"{key} cannot be used.",
        expected=f"a {registry.kind} whose attribute `Config` is a dataclass",
        found=repr(config),
        todo="put @dataclass above it",
    )


@cache
def members_keys(kind: type) -> dict[str, dict[str, Any]]:
    """Of a record with members, the keys of each of ours by its name; empty for a plain record."""
    found = members_of(kind)
    registry = found[1] if found else None
    return {
        name: field_types(member_config(registry, name, "kind"))
        for name in (registry.members if registry else ())
        if registry
    }


def _all_types(kind: type) -> dict[str, Any]:
    """Key -> type, the keys of all our members included."""
    types = dict(field_types(kind))
    for own in members_keys(kind).values():
        types |= own
    return types


def optional(kind: Any) -> Any:
    """`X` of the type `X | None`; None for every other type."""
    if get_origin(kind) not in (Union, types.UnionType):
        return None
    inner = [part for part in get_args(kind) if part is not type(None)]
    return inner[0] if len(inner) == 1 else None


def is_record(kind: Any) -> bool:
    """Whether a type is one of the configuration's dataclasses."""
    return isinstance(kind, type) and is_dataclass(kind)


def short_for(kind: Any) -> str | None:
    """The key of a record that a plain value in its place is for: `resume=never` is short for
    `resume.checkpoint=never`. None where a plain value cannot stand."""
    return getattr(kind, "SHORT", None) if is_record(kind) else None


def type_at(root: type, key: str) -> Any:
    """The type of the value at `key`; None where there is no such key."""
    kind: Any = root
    for part in key.split("."):
        kind = optional(kind) or kind
        if kind is Any:
            return Any  # whatever is below it is the user's
        if is_record(kind):
            # A member of the user's may have any key; `typed.py` knows once the kind is known.
            other = Any if members_of(kind) and part else None
            kind = field_types(kind).get(part) or _all_types(kind).get(part, other)
        elif get_origin(kind) is dict and part:
            kind = get_args(kind)[1]
        elif get_origin(kind) is list and part.isdecimal():
            kind = get_args(kind)[0]
        else:
            return None
        if kind is None:
            return None
    return kind


def all_keys(root: type) -> Iterator[tuple[str, Any]]:
    """Every key and its type, records and mappings included; names of the user's are `NAME`."""

    def walk(kind: Any, prefix: str) -> Iterator[tuple[str, Any]]:
        kind = optional(kind) or kind
        if is_record(kind):
            for name, inner in _all_types(kind).items():
                yield f"{prefix}{name}", inner
                yield from walk(inner, f"{prefix}{name}.")
        elif get_origin(kind) is dict:
            yield f"{prefix}{NAME}", get_args(kind)[1]
            yield from walk(get_args(kind)[1], f"{prefix}{NAME}.")

    yield from walk(root, "")


def unknown_key(root: type, key: str, problem: str = UNKNOWN) -> ConfigError:
    """The message for a key that is none: the names at that place, and the nearest of all keys."""
    parts, depth = key.split("."), 0
    while type_at(root, ".".join(parts[: depth + 1])) is not None:
        depth += 1
    parent, leaf = ".".join(parts[:depth]), parts[depth]
    found = type_at(root, parent) if parent else root
    kind = optional(found) or found
    names = list(field_types(kind)) if is_record(kind) else []
    valid = [*names, "experiment"] if not parent else names
    same = _elsewhere(root, parts, leaf)
    hint = f"did you mean {' or '.join(map(repr, same))}? " if same else ""
    listed = nearest(leaf, valid) if not same else f"valid: {', '.join(sorted(valid)) or '(none)'}"
    where = f"a key of {parent or 'the configuration'}"
    return _no_key(key, where, leaf, hint, listed, problem)


def foreign_key(root: type, kind: type, member: str, names: Iterable[str], key: str) -> ConfigError:
    """The message for a key that the record's member does not have.

    Args:
        root: the whole configuration, which may have it elsewhere.
        names: the keys that it has.
    """
    parent, _, leaf = key.rpartition(".")
    others = [name for name, own in members_keys(kind).items() if leaf in own]
    hint = f"{leaf} is for {' and '.join(others)}; " if others else ""
    if not others and (same := _same_name(root, key.split("."))):
        hint = f"did you mean {' or '.join(map(repr, same))}? "
    listed = f"valid: {', '.join(sorted(names))}" if hint else nearest(leaf, names)
    return _no_key(
        key, f"a key of {parent or 'the record'}, which is of the kind {member}", leaf, hint, listed
    )


def _no_key(
    key: str, expected: str, leaf: str, hint: str, listed: str, problem: str = UNKNOWN
) -> ConfigError:
    return ConfigError(
        f"{problem} {key!r}.",
        expected=expected,
        found=repr(leaf),
        todo=f"correct the name ({hint}{listed})",
    )


def _elsewhere(root: type, parts: list[str], unknown: str) -> list[str]:
    """Keys elsewhere with the name `unknown`, or else the one that reads almost like `parts`."""
    keys = [_as_here(known, parts) for known, _ in all_keys(root) if not known.endswith(NAME)]
    spelled = [key for key in keys if _no_dots(key) == _no_dots(".".join(parts))]  # run_dir
    if spelled:
        return spelled
    if same := _same_name(root, [*parts[:-1], unknown]):
        return same
    keys = [key for key in keys if key.split(".")[:-1] != parts[:-1]]
    alike = [key for key in keys if key.count(".") == len(parts) - 1]
    return difflib.get_close_matches(".".join(parts), alike, n=1, cutoff=0.8)


def _same_name(root: type, parts: list[str]) -> list[str]:
    """Keys elsewhere whose last part is that of `parts`, the nearest ones first."""
    keys = [_as_here(known, parts) for known, _ in all_keys(root) if not known.endswith(NAME)]
    keys = [key for key in keys if key.split(".")[:-1] != parts[:-1]]
    same = [key for key in keys if key.split(".")[-1] == parts[-1]]
    near = {key: _shared_parts(key.split("."), parts) for key in same}
    return sorted(same, key=lambda key: (-near[key], key.count("."), key))[:3]


def _no_dots(key: str) -> str:
    return key.replace(".", "_").replace("-", "_")


def _shared_parts(one: list[str], other: list[str]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other)))


def _as_here(known: str, parts: list[str]) -> str:
    """`known` with the user's own names from the same places of `parts`."""
    names = known.split(".")
    return ".".join(
        parts[i] if name == NAME and parts[:i] == names[:i] and i < len(parts) else name
        for i, name in enumerate(names)
    )
