"""How many syllables an English word has, odd or even: rules of spelling and a list of exceptions.

`syllables.txt.gz` holds the words of the CMU Pronouncing Dictionary for which `_by_spelling` is
wrong (one word in twelve) or for which pronunciations differ ("every"); after a change of the rules
it has to be made anew from the dictionary. Left out: numbers in digits, which have no syllables as
in syllapy (IFBench's counter), and other languages.
"""

import gzip
import re
from functools import cache
from pathlib import Path

_VOWELS = re.compile("[aeiouy]+")
_SILENT = tuple(
    re.compile(pattern)
    for pattern in (
        r"[^aeiouy](?<![^aeiouyrlw]l)e$",
        r"(?<![tdaeiouy])ed$",
        r"(?<![scxzgaeiouyh])es$|(?<![cs])hes$",
        r"[^aeiou]e(?:ly|ment|ness|less|ful|fully|lessly|some)s?$",
    )
)
_PARTED = re.compile(r"i[ao](?!u)|(?<!g)eo(?!u)|iu|uou|[^gq]ua|ism|sms?$|[yeao]ing")
_JOINED = re.compile(r"[tcsg]i(?:on|al|an|a)")


def _by_spelling(word: str) -> int:
    count = len(_VOWELS.findall(word)) + len(_PARTED.findall(word)) - len(_JOINED.findall(word))
    return max(count - sum(bool(pattern.search(word)) for pattern in _SILENT), 1)


@cache
def _exceptions() -> dict[str, frozenset[int]]:
    path = Path(__file__).with_name("syllables.txt.gz")
    found: dict[str, frozenset[int]] = {}
    for line in gzip.decompress(path.read_bytes()).decode().splitlines():
        if not line.startswith("#"):
            parities, *words = line.split()
            found |= dict.fromkeys(words, frozenset(map(int, parities)))
    return found


def is_latin(word: str) -> bool:
    """Whether `parities` can tell: the word has Latin letters or digits."""
    return re.search("[a-z0-9]", word) is not None


def parities(word: str) -> frozenset[int]:
    """{1} for an odd number of syllables, {0} for an even one, both where usage differs.

    `word` is in lower case without punctuation and accents. Other scripts count as both.
    """
    if any(char.isdigit() for char in word):
        return frozenset({0})
    if not is_latin(word):
        return frozenset({0, 1})
    return _exceptions().get(word) or frozenset({_by_spelling(word) % 2})
