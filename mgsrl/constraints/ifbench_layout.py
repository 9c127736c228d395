"""IFBench's `format:` family: lines, bullets, indentation and sections.

The published checks of bullets count characters anywhere in the text; here a bullet starts a line.
"""

import re
from itertools import pairwise

from mgsrl.constraints.plain_words import final_mark, plain_words
from mgsrl.constraints.sentences import sentences
from mgsrl.constraints.spec import TEXT, constraint

_STAR = re.compile(r"^[ \t]*\*(?:[ \t]+(?=\S)|(?=[^\s*][^*\n]*$))", re.MULTILINE)
"""A bullet; without a space after the star only when no other star makes it emphasis."""


def _lines(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.strip()]


@constraint(
    "format:newline",
    "One word on every line that is not empty, marks aside.",
    statement="Write each word on a new line.",
)
def newline(text: str) -> bool:
    counts = [len(plain_words(line)) for line in text.split("\n")]
    return max(counts) == 1


@constraint(
    "format:line_indent",
    "Two or more lines, each indented more than the one before; empty lines aside.",
    statement="Create stairs by incrementally indenting each new line.",
)
def line_indent(text: str) -> bool:
    lines = [line.expandtabs(4) for line in _lines(text)]
    depths = [len(line) - len(line.lstrip(" ")) for line in lines]
    return len(depths) > 1 and all(a < b for a, b in pairwise(depths))


@constraint(
    "format:list",
    "Two or more items follow the marker at the start of a line or, if it is longer than one"
    " character, of a word.",
    arguments={"sep": TEXT},
    statement="Answer with a list of items, instead of bullet points use {sep}.",
    draw=lambda rng: {"sep": rng.choice(("...", "SEPARATOR", "!?!?", "-", "->", "##", "ITEM:"))},
)
def list_(text: str, sep: str) -> bool:
    marker = sep.strip()
    before = r"^[ \t]*" if len(marker) == 1 else r"(?<!\S)"
    _, *items = re.split(before + re.escape(marker), text, flags=re.MULTILINE)
    return sum(bool(plain_words(item)) for item in items) >= 2


@constraint(
    "format:sub-bullets",
    "There are lines that start with *, and at least one that starts with - follows each.",
    statement=(
        "Your response must include bullet points denoted by * and at least one sub-bullet point "
        "denoted by - for each bullet point."
    ),
)
def sub_bullets(text: str) -> bool:
    parts = _STAR.split(text)
    return len(parts) > 1 and all(
        re.search(r"^[ \t]*-(?!-)[ \t]*\S", part, re.MULTILINE) for part in parts[1:]
    )


@constraint(
    "format:no_bullets_bullets",
    "Two or more sentences that end in a full stop, then two or more bullets that start with *.",
    statement=(
        "Your answer must contain at least two sentences ending in a period followed by at least "
        "two bullet points denoted by *."
    ),
)
def no_bullets_bullets(text: str) -> bool:
    before, *bullets = _STAR.split(text)
    return len(bullets) >= 2 and [final_mark(part) for part in sentences(before)].count(".") >= 2


_HEADING = re.compile(r"^[ \t]*(?:#{1,6}[ \t].*|<h[1-6]\b.*</h[1-6]>[ \t]*)$", re.MULTILINE)
_ITALICS = re.compile(r"\s*(?:<p>\s*)?<(i|em)>(?P<thesis>.*?)</\1>(?P<rest>.*)", re.DOTALL)


@constraint(
    "format:thesis",
    "<i> or <em> wraps the first words of every section; other words follow.",
    statement=(
        "Each section must begin with a thesis statement in italics, use HTML to indicate the "
        "italics."
    ),
)
def thesis(text: str) -> bool:
    before, *sections = _HEADING.split(text)
    if not sections:  # sections can be marked in any way: one of them must be there
        return any(map(_starts_with_thesis, _from_tags(before)))
    found = [section for section in sections if plain_words(section)]
    return bool(found) and all(map(_starts_with_thesis, found))


def _from_tags(text: str) -> list[str]:
    """The rest of the text from the first italics on, if there are any."""
    start = re.search("<(?:i|em)>", text)
    return [text[start.start() :]] if start else []


def _starts_with_thesis(section: str) -> bool:
    match = _ITALICS.match(section)
    return match is not None and all(plain_words(match[name]) for name in ("thesis", "rest"))
