"""`docs/keys.md`: every key of the configuration with its type, its default and what it means.

Read off the dataclasses: a field's annotation, its default, and the text that stands below it. Run
it after a change of them (`make reference`); a test compares the page. Left out: the checks of each
value, whose messages say what is allowed.
"""

import argparse
import ast
import inspect
import json
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin

from mgsrl.config import Config
from mgsrl.config.compose import list_choices
from mgsrl.config.keys import (
    MEMBERS,
    NAME,
    field_types,
    is_record,
    member_config,
    members_keys,
    optional,
)
from mgsrl.plugins import Registry

PAGE = Path(__file__).resolve().parents[1] / "docs" / "keys.md"
HEAD = """\
# Keys

Every key of the configuration: `mgsrl train KEY=VALUE`, or below the same names in a YAML file.
`NAME` is a name of yours (of a domain, a source, a score). `null` switches off or leaves the choice
to the program, as the text says. The files of an experiment override these defaults; what a run
takes is printed by `mgsrl train --print-config`. Written by `make reference` from the dataclasses
of `mgsrl/config/` and of the kinds of reward, and not by hand.
"""
LONGEST = 60
"""Characters of a default; the page shows the beginning of a longer one."""
GROUPS = {"experiment": "Experiments", "strategy": "Strategies", "domains": "Domain sets"}


@dataclass(frozen=True)
class Key:
    """One line of the page."""

    name: str
    type: str
    default: str
    """As YAML; empty for a record."""
    text: str


@cache
def described(kind: type) -> dict[str, tuple[str, str]]:
    """Field name -> (annotation as written, the text below it), of the class and its bases."""
    found: dict[str, tuple[str, str]] = {}
    for owner in reversed(kind.__mro__[:-1]):
        tree = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
        assert isinstance(tree, ast.ClassDef)
        for node, after in zip(tree.body, [*tree.body[1:], ast.Pass()], strict=True):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                text = ast.get_docstring(ast.Module([after], [])) or "" if _text(after) else ""
                found[node.target.id] = (ast.unparse(node.annotation), " ".join(text.split()))
    return found


def _text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def keys_of(kind: type, prefix: str = "", seen: dict[type, str] | None = None) -> Iterator[Key]:
    """Every key below `prefix`, in the order of the fields; the keys of a record once.

    Args:
        seen: record -> where its keys were listed already.
    """
    seen = {} if seen is None else seen
    for item in fields(kind):
        if registry := item.metadata.get(MEMBERS):
            yield from _keys_of_members(kind, prefix, registry)
            continue
        annotation, text = described(kind)[item.name]
        name, record = f"{prefix}{item.name}", _record(field_types(kind)[item.name])
        if record is None:
            yield Key(name, annotation, _default(item), text)
            continue
        inner, below = record
        place = f"{name}{below}"
        where = f" The keys of `{seen[inner]}`." if inner in seen else ""
        words = {"": "record", f".{NAME}": "records by name", "[N]": "list of records"}[below]
        default = "null" if item.default is None else ""
        if text or where:
            yield Key(name, words, default, text + where)
        if inner not in seen:
            seen |= {inner: place} | {base: place for base in inner.__mro__ if is_record(base)}
            yield from keys_of(inner, f"{place}.", seen)


def _keys_of_members(kind: type, prefix: str, registry: Registry) -> Iterator[Key]:
    """The keys that single members have, with their names in front of the text."""
    found: dict[str, Key] = {}
    owners: dict[str, dict[str, list[str]]] = {}  # key -> text -> members
    for member in members_keys(kind):
        for key in keys_of(member_config(registry, member, "kind"), prefix):
            found.setdefault(key.name, key)
            owners.setdefault(key.name, {}).setdefault(key.text, []).append(member)
    for name, key in found.items():
        texts = (
            f"{', '.join(f'`{each}`' for each in members)}: {text}"
            for text, members in owners[name].items()
        )
        yield replace(key, text=" ".join(texts))


def _record(kind: Any) -> tuple[type, str] | None:
    """(the dataclass, what stands behind the key) where a field holds records."""
    kind = optional(kind) or kind
    if is_record(kind):
        return kind, ""
    inner = get_args(kind)[-1] if get_origin(kind) in (dict, list) else None
    return (inner, f".{NAME}" if get_origin(kind) is dict else "[N]") if is_record(inner) else None


def _default(item: "Field[Any]") -> str:
    value = item.default if item.default_factory is MISSING else item.default_factory()
    if value is MISSING:
        return "(to be given)"
    text = f"{value:g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def table(keys: Iterator[Key] | list[Key]) -> list[str]:
    """The lines of a table; a bar inside a cell is no border."""
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key in keys:
        default = f"`{key.default}`" if key.default else ""
        cells = (f"`{key.name}`", f"`{key.type}`", default, key.text)
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return lines


def page() -> str:
    """The whole page."""
    sections = {"General": []} | {name: [] for name in field_types(Config)}
    for key in keys_of(Config):
        first = key.name.split(".")[0]
        sections[first if _record(field_types(Config)[first]) else "General"].append(key)
    parts = [HEAD]
    for group, title in GROUPS.items():
        parts.append(f"## {title}, chosen by `{group}`\n\n| name | what |\n|---|---|")
        rows = [f"| `{name}` | {text} |" for name, text in list_choices(group).items()]
        parts[-1] += "\n" + "\n".join(rows) + "\n"
    for name, keys in sections.items():
        if keys:
            title = name if name == "General" else f"`{name}`"
            parts.append("\n".join([f"## {title}", "", *table(keys), ""]))
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only say whether the page is current")
    text = page()
    if parser.parse_args().check:
        raise SystemExit(PAGE.read_text(encoding="utf-8") != text)
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
