"""Which training prompts share text with evaluation prompts.

The n-gram practice of GPT-3 (arXiv 2005.14165, appendix C): lower-case words without punctuation;
13 words in a row in common are contamination. An evaluation prompt of 8 to 12 words counts as a
whole wherever it stands in a training prompt; a shorter one only when it is the training prompt.
Phrases that more than 10 different training prompts share with the evaluation are boilerplate
("your answer should contain at least ..."), not contamination, and are counted apart.

Left out: paraphrases and translations (no n-gram finds them), and languages written without
spaces, where only whole prompts match.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mgsrl.errors import DataError
from mgsrl.files.lines import LineProblem, show
from mgsrl.files.records import read_records
from mgsrl.types import Message

GRAM = 13
SHORTEST = 8
BOILERPLATE = 10
"""A phrase in more training prompts than this says nothing about any of them."""
TEXT_COLUMNS = ("prompt", "messages", "question", "problem", "instruction", "turns", "input")

Gram = tuple[str, ...]


def normalised(text: str) -> str:
    """What makes two prompts the same: all but case, white space and Unicode's variants."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def conversation_text(messages: Sequence[Message]) -> str:
    """What a model reads, without the roles."""
    return "\n".join(message["content"] for message in messages)


@dataclass(frozen=True, slots=True)
class Contact:
    """A training row and the evaluation row that it shares text with."""

    row: str
    evaluation_row: str
    text: str
    """What they share."""


@dataclass(slots=True)
class EvaluationIndex:
    """Evaluation prompts by their n-grams. `add` them all before the first `Overlap`."""

    num_rows: int = 0
    whole: dict[str, str] = field(default_factory=dict)
    """Prompts under `SHORTEST` words, normalised -> place."""
    grams: dict[Gram, dict[Gram, str]] = field(default_factory=dict)
    """The first `SHORTEST` words of an n-gram -> the n-grams that begin so -> place."""

    def add(self, place: str, text: str) -> None:
        """Index one evaluation prompt; the first place of a phrase is the one that is named."""
        self.num_rows += 1
        words = _words(text)
        if len(words) < SHORTEST:
            self.whole.setdefault(normalised(text), place)
        for gram in _grams(words, min(GRAM, len(words))):
            self.grams.setdefault(gram[:SHORTEST], {}).setdefault(gram, place)

    def add_file(self, path: Path, column: str = "") -> None:
        """Index the prompts of a .jsonl, .json, .parquet or .csv file.

        Args:
            column: holds the prompt; by default the first of `TEXT_COLUMNS` that a row has.

        Raises:
            MissingPathError, DataError: no such file, or a row without a prompt.
        """
        for where, record in read_records(path, key="--against"):
            place = f"{path.name}, {where}"
            if isinstance(record, LineProblem):
                raise _no_prompt(f"{path}, {where}", record.expected, record.found)
            names = (column,) if column else TEXT_COLUMNS
            name = next((name for name in names if record.get(name)), None)
            text = None if name is None else _text(record[name])
            if text is None:
                expected = f"a prompt in the column {' or '.join(names)}"
                raise _no_prompt(f"{path}, {where}", expected, show(record))
            self.add(place, text)


class Overlap:
    """Collects what the rows of one training source share with an `EvaluationIndex`."""

    def __init__(self, index: EvaluationIndex) -> None:
        self._index = index
        self._rows: list[tuple[str, dict[Gram, str]]] = []
        self._prompts_with: dict[Gram, set[str]] = {}
        self._same: list[Contact] = []

    def add(self, place: str, text: str) -> None:
        """Look up one training prompt."""
        same = normalised(text)
        if same in self._index.whole:
            self._same.append(Contact(place, self._index.whole[same], text))
            return
        words = _words(text)
        found: dict[Gram, str] = {}
        for start in range(len(words) - SHORTEST + 1):
            for gram, where in self._index.grams.get(
                tuple(words[start : start + SHORTEST]), {}
            ).items():
                if gram == tuple(words[start : start + len(gram)]):
                    found[gram] = where
        for gram in found:
            self._prompts_with.setdefault(gram, set()).add(same)  # copies count once
        if found:
            self._rows.append((place, found))

    def contacts(self) -> list[Contact]:
        """The contaminated rows, each with the first evaluation row that it meets."""
        telling = (
            (place, next((gram for gram in found if not self._is_boilerplate(gram)), None), found)
            for place, found in self._rows
        )
        shared = [
            Contact(place, found[gram], " ".join(gram))
            for place, gram, found in telling
            if gram is not None
        ]
        return [*self._same, *shared]

    def num_boilerplate(self) -> int:
        """Phrases that were found and passed over."""
        return sum(map(self._is_boilerplate, self._prompts_with))

    def _is_boilerplate(self, gram: Gram) -> bool:
        return len(self._prompts_with[gram]) > BOILERPLATE


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", normalised(text))


def _grams(words: list[str], size: int) -> Iterator[Gram]:
    """All n-grams of `size`; none below `SHORTEST`."""
    if size >= SHORTEST:
        for start in range(len(words) - size + 1):
            yield tuple(words[start : start + size])


def _text(value: Any) -> str | None:
    """The text of a prompt: a string, messages (without the assistant's), or a list of turns."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        return None
    parts = [
        item.get("content") if isinstance(item, dict) else item
        for item in value
        if not isinstance(item, dict) or item.get("role") != "assistant"
    ]
    text = [part for part in parts if isinstance(part, str)]
    return "\n".join(text) if text and len(text) == len(parts) else None


def _no_prompt(place: str, expected: str, found: str) -> DataError:
    return DataError(
        f"{place}: --against needs an evaluation prompt.",
        expected=expected,
        found=found,
        todo="name the column that holds the prompt (FILE:COLUMN), or mend the row",
    )
