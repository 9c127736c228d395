"""Whether what a message says to write is a key, and a value, that the configuration takes.

`conftest.py` puts `checked` around the one function that words messages, so every hint that any
test brings up (in its own process) is tried.
"""

import re
import shlex
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from mgsrl.errors import ConfigError

WORD = r"[A-Za-z_]\w*"
QUOTED = re.compile(rf"'({WORD}(?:\.\w+)*=(?:[^']|'\"'\"')*)'")
BARE = re.compile(rf"(?<![\w./'\"$-])({WORD}(?:\.\w+)*)=([^\s,;)'`]+)")
KEY = re.compile(rf"(?<![\w./-]){WORD}(?:\.\w+)+")
PLACEHOLDER = re.compile(r"[A-Z][A-Z_/:]*|PATH/TO/CHECKPOINT|OWNER/NAME|\.\.\.|FILE.*")
FILES = (".json", ".yaml", ".jsonl", ".py", ".txt", ".html")


def hints(text: str) -> Iterator[tuple[str, str]]:
    """(key, value) of every KEY=VALUE in `text`, as a shell would hand it over."""
    for match in QUOTED.finditer(text):
        key, _, value = shlex.split(match[0])[0].partition("=")
        yield key, value
    for match in BARE.finditer(QUOTED.sub("", text)):
        yield match[1], match[2].rstrip(".:")


def wrong_hint(text: str, *, strict: bool = False) -> str | None:
    """The first hint in `text` that the configuration would refuse, and why.

    Args:
        strict: hints whose first name is no group of the configuration are wrong too (messages
            about the arguments of a function, in tests, name other things).
    """
    from mgsrl.config.keys import type_at
    from mgsrl.config.overrides import read_overrides
    from mgsrl.config.own_files import GROUPS
    from mgsrl.config.root import Config
    from mgsrl.config.typed import read_config

    top = _top_names()
    for key, value in hints(text):
        if key == "KEY" or (key.split(".")[0] not in top and not strict) or key.isupper():
            continue
        try:
            _, changes = read_overrides(
                [f"{key}=null" if PLACEHOLDER.fullmatch(value) else f"{key}={value}"],
                {} if PLACEHOLDER.fullmatch(value) else {name: _choices(name) for name in GROUPS},
            )
            if not PLACEHOLDER.fullmatch(value):
                for change in changes:
                    if type_at(Config, change.key) is Any:
                        continue  # a key of a user's own kind, or below one of any shape
                    parts = change.key.split(".")
                    read_config(Config, _nested(parts, change.value, _kind_of(parts)))
        except ConfigError as error:
            return f"{key}={value}: {error}"
    for match in KEY.finditer(text):
        known = match[0].split(".")[0] not in top or match[0].endswith(FILES)
        if not known and type_at(Config, match[0]) is None:
            return f"{match[0]} is no key"
    return None


def checked(explain: Callable[..., str]) -> Callable[..., str]:
    """`explain` that fails on a hint that does not work."""

    def checking(problem: str, *, expected: str, found: str, todo: str) -> str:
        wrong = wrong_hint(todo)
        assert wrong is None, f"the hint of {problem!r} does not work: {todo}\n{wrong}"
        return explain(problem, expected=expected, found=found, todo=todo)

    return checking


@cache
def _top_names() -> frozenset[str]:
    from mgsrl.config.keys import field_types
    from mgsrl.config.own_files import GROUPS
    from mgsrl.config.root import Config

    return frozenset(field_types(Config)) | set(GROUPS)


@cache
def _choices(group: str) -> tuple[str, ...]:
    from mgsrl.config.compose import list_choices

    return tuple(list_choices(group))


def _kind_of(parts: list[str]) -> str:
    """The kind of a record that a hint for one of its own keys is about; empty for other keys."""
    from mgsrl.config.keys import is_record, members_keys, type_at
    from mgsrl.config.root import Config

    record = type_at(Config, ".".join(parts[:-1])) if len(parts) > 1 else None
    kinds = members_keys(record) if is_record(record) else {}
    return next((kind for kind, own in kinds.items() if parts[-1] in own), "")


def _nested(parts: list[str], value: Any, kind: str) -> dict[str, Any]:
    if len(parts) > 1:
        return {parts[0]: _nested(parts[1:], value, kind)}
    return {parts[0]: value} | ({"kind": kind} if kind else {})
