"""Values as text for the command line: what Hydra reads back as the same value.

An override passes two readers, the shell and Hydra's grammar, in which `= , [ ] { } ( ) : ~ # '`
and more mean something unless the value stands in double quotes.
"""

import re
import shlex
from collections.abc import Mapping
from typing import Any

_PLAIN = re.compile(r"[A-Za-z_./][\w./-]*", re.ASCII)
_WORDS = ("null", "true", "false", "inf", "nan")
"""Texts that Hydra reads as other things when they stand without quotes."""


def as_override(key: str, value: Any) -> str:
    """`KEY=VALUE` as one word for a shell.

    >>> as_override("train.num_steps", 5)
    'train.num_steps=5'
    >>> print(as_override("run.dir", "runs/lr=1e-4, b"))
    'run.dir="runs/lr=1e-4, b"'
    """
    return shlex.quote(f"{key}={spelled(value)}")


def spelled(value: Any) -> str:
    """A plain value in Hydra's grammar.

    >>> spelled({"answer": "a=b", "limits": [1, None, True]})
    '{answer: "a=b", limits: [1, null, true]}'
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {spelled(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(spelled, value)) + "]"
    text = str(value)
    if not isinstance(value, str) or (_PLAIN.fullmatch(text) and text.lower() not in _WORDS):
        return text
    # A backslash stands for itself but before a quotation mark, the last one included.
    inside = re.sub(r'(\\*)"', r'\1\1\\"', text)
    return '"' + re.sub(r"(\\+)$", r"\1\1", inside) + '"'
