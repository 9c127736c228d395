"""The parity of syllables as IFBench's counter (syllapy) has it.

syllapy has a list of words and, for others, a rule of spelling. `syllables.txt.gz` holds the listed
words for which the rule's parity is the wrong one.
"""

import gzip
import re
from functools import cache
from pathlib import Path

_VOWELS = re.compile("[aeiouy]+")


@cache
def _exceptions() -> frozenset[str]:
    path = Path(__file__).with_name("syllables.txt.gz")
    return frozenset(gzip.decompress(path.read_bytes()).decode().split())


def _by_spelling(word: str) -> int:
    count = len(_VOWELS.findall(word)) - word.endswith("e")
    if word.endswith("le") and len(word) > 2 and word[-3] not in "aeiouy":
        count += 1
    return count or 1


def parity(word: str) -> int:
    """1 for an odd number of syllables; words with digits have none. `word` is in lower case."""
    if any(char.isdecimal() for char in word):
        return 0
    return (_by_spelling(word) + (word in _exceptions())) % 2
