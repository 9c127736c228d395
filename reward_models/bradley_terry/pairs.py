"""Preference pairs: read from files, checked row by row, split by group.

A row has `prompt` (a string or messages), `chosen` and `rejected` (strings: the assistant's
answer). Held-out pairs share no conversation with the training pairs: pairs with the same group
(e.g. a tree of conversations) or the same opening question, in whatever file, stay together. A
split by rows would test on prompts, often on very answers, that were trained on.
"""

import math
import random
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mgsrl.config import SourceConfig
from mgsrl.data.rows import RowProblem, RowReader
from mgsrl.errors import DataError, explain
from mgsrl.files.lines import LineProblem, show
from mgsrl.files.records import read_records
from mgsrl.types import Message


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one conversation."""

    messages: tuple[Message, ...]
    """The conversation, which ends with the user's turn."""
    chosen: str
    rejected: str
    margin: float
    """How much better `chosen` is, in logits; 0 where nothing is known."""
    tree: Hashable
    """The value of the group column; None without one."""
    source: str
    """Name of the file."""
    place: str
    """File and row, for messages."""


def read_pairs(
    paths: Sequence[Path], *, group_column: str, margin_columns: Sequence[str], skip_bad: bool
) -> tuple[list[Pair], Counter[str]]:
    """All pairs in file order, and how many rows of each file were left out as bad.

    Args:
        paths: .jsonl, .json, .parquet or .csv files.
        group_column: rows with the same value in it are held out together; may be absent.
        margin_columns: none, the column of the margin, or two whose difference is the margin.
        skip_bad: leave bad rows out instead of stopping at the first.

    Raises:
        DataError: a bad row, a file without pairs, or one that is not what its suffix says.
        MissingPathError: no such file.
    """
    reader = RowReader(SourceConfig(columns={"id": ""}), key="--pairs")
    pairs: list[Pair] = []
    skipped: Counter[str] = Counter()
    for path in paths:
        before = len(pairs)
        for where, record in read_records(path, key="--pairs"):
            place = f"{path}, {where}"
            try:
                pairs.append(_pair(record, reader, group_column, margin_columns, path.name, place))
            except RowProblem as problem:
                if not skip_bad:
                    raise problem.at(place) from problem
                skipped[path.name] += 1
        if len(pairs) == before:
            raise DataError(
                explain(
                    f"{path} has no usable pairs.",
                    expected="rows with prompt, chosen and rejected",
                    found=f"{skipped[path.name]} bad rows and no good one",
                    todo="name another file, or leave out --skip-bad to see what is wrong",
                )
            )
    return pairs, skipped


def _pair(
    record: Mapping[str, Any] | LineProblem,
    reader: RowReader,
    group_column: str,
    margin_columns: Sequence[str],
    source: str,
    place: str,
) -> Pair:
    if isinstance(record, LineProblem):
        raise RowProblem(record.expected, record.found, record.todo)
    missing = [name for name in ("prompt", "chosen", "rejected") if record.get(name) is None]
    if missing:
        raise RowProblem(
            "the columns prompt, chosen and rejected",
            f"no {', '.join(missing)}; the columns {', '.join(map(str, record))}",
        )
    messages = reader.read({"prompt": record["prompt"]}, default_id=place).messages
    chosen, rejected = (_text(record, name) for name in ("chosen", "rejected"))
    if chosen == rejected:
        raise RowProblem("two different answers", f"twice {chosen[:60]!r}")
    tree = record.get(group_column)
    if not isinstance(tree, str | int | None):
        raise RowProblem(f"a string or an integer in {group_column}", show(tree))
    return Pair(messages, chosen, rejected, _margin(record, margin_columns), tree, source, place)


def _text(record: Mapping[str, Any], name: str) -> str:
    text = record[name]
    if not isinstance(text, str) or not text.strip():
        raise RowProblem(f"the text of an answer in {name}", show(text))
    return text.strip()


def _margin(record: Mapping[str, Any], columns: Sequence[str]) -> float:
    values = []
    for name in columns:
        value = record.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise RowProblem(f"a number in {name} (--margin-column)", show(value))
        values.append(float(value))
    margin = values[0] - sum(values[1:]) if values else 0.0
    if not (math.isfinite(margin) and margin >= 0):
        raise RowProblem(
            "a margin of at least 0 (--margin-column)",
            f"{margin:g}",
            "swap chosen and rejected, or mend or remove the row",
        )
    return margin


def group_numbers(pairs: Sequence[Pair]) -> list[int]:
    """One number per pair; pairs with the same number have to be on the same side of a split.

    Two pairs belong together when their group or their first user message is the same, directly or
    through other pairs.
    """
    parent: dict[Hashable, Hashable] = {}

    def root(key: Hashable) -> Hashable:
        while parent.setdefault(key, key) != key:
            key = parent[key]
        return key

    for pair in pairs:
        question = root(("question", _question(pair)))
        if pair.tree is not None:
            parent[root(("tree", pair.tree))] = question
    numbers: dict[Hashable, int] = {}
    roots = [root(("question", _question(pair))) for pair in pairs]
    return [numbers.setdefault(key, len(numbers)) for key in roots]


def _question(pair: Pair) -> str:
    """The first user message, which every later turn of the conversation shares."""
    first = next(message for message in pair.messages if message["role"] == "user")
    return " ".join(first["content"].casefold().split())


def split_pairs(
    pairs: Sequence[Pair], share: float, seed: int
) -> tuple[list[Pair], list[Pair], list[int]]:
    """Training pairs, held-out pairs and the groups of the held-out pairs.

    Of every file whole groups are drawn until `share` of its pairs are held out, so that each
    file has its own held-out accuracy.

    Raises:
        DataError: a side would be empty.
    """
    groups = group_numbers(pairs)
    sizes = Counter(groups)
    home: dict[int, str] = {}
    for pair, group in zip(pairs, groups):
        home.setdefault(group, pair.source)
    held: set[int] = set()
    for source in dict.fromkeys(home.values()):
        own = [group for group in home if home[group] == source]
        wanted = share * sum(sizes[group] for group in own)
        random.Random(f"{seed}/held-out/{source}").shuffle(own)
        for group in own:
            if wanted <= 0:
                break
            held.add(group)
            wanted -= sizes[group]
    train = [pair for pair, group in zip(pairs, groups) if group not in held]
    if not train or not held:
        raise DataError(
            explain(
                "The pairs cannot be split.",
                expected="groups for training and others to hold out",
                found=f"{len(pairs)} pairs in {len(sizes)} groups (a group shares a question or "
                "the value of --group-column)",
                todo="give more pairs, or another --group-column",
            )
        )
    inside = [(pair, group) for pair, group in zip(pairs, groups) if group in held]
    return train, [pair for pair, _ in inside], [group for _, group in inside]
