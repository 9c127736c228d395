"""Whether NLTK's tagger takes the first word of a text for a verb.

NLTK's averaged perceptron (M. Honnibal) adds up weights of what it sees of a word and the two after
it. For the first word of a text that is a fixed sum and five look-ups, so `first_tag.json.gz` holds
the weights of those alone, as thousandths: `[tag, weight, tag, weight, ...]` by what is seen. Words
with one tag in the training corpus are looked up by their exact spelling. Left out: the rest.
"""

import gzip
import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from mgsrl.constraints.tokens import word_tokens

_LOOKED_AT = 10_000
"""Characters of a text in which its first three words are."""


@cache
def _tables() -> dict[str, Any]:
    packed = Path(__file__).with_name("first_tag.json.gz").read_bytes()
    tables: dict[str, Any] = json.loads(gzip.decompress(packed))
    return tables


def _normal(word: str) -> str:
    if "-" in word and word[0] != "-":
        return "!HYPHEN"
    if word.isdigit() and len(word) == 4:
        return "!YEAR"
    return "!DIGITS" if word[0].isdigit() else word.lower()


def first_tag(text: str) -> str:
    """The Penn Treebank tag of the first word; empty for a text without words."""
    tokens = word_tokens(text[:_LOOKED_AT])[:3]
    if not tokens:
        return ""
    tables, word = _tables(), tokens[0]
    if word in tables["known"]:
        return str(tables["known"][word])
    normal = [*map(_normal, tokens), "-END-", "-END2-"]
    seen = (
        ("suffix", word[-3:]),
        ("first", word[0]),
        ("word", normal[0]),
        ("next", normal[1]),
        ("next_suffix", normal[1][-3:]),
        ("after", normal[2]),
    )
    scores: Counter[int] = Counter()
    for weights in (tables["start"], *(tables[table].get(key, ()) for table, key in seen)):
        for tag, weight in zip(weights[::2], weights[1::2], strict=True):
            scores[tag] += weight
    tags: list[str] = tables["tags"]
    return max(enumerate(tags), key=lambda entry: (scores[entry[0]], entry[1]))[1]
