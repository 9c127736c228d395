"""Whether an English text starts with a verb: a list of verb forms and a look at the next word.

IFBench asks NLTK's tagger, which takes many capitalised imperatives ("Explore the") for names. Here
a word counts that is chiefly a verb; one that is chiefly a noun or an adjective ("design", "open",
"building") counts when an object or a question word follows ("Design a house"). Modal verbs do
not count, as in IFBench. Left out: the rest of the sentence; "Close friends are rare" is taken for
an order.
"""

import gzip
import re
from functools import cache
from pathlib import Path

from mgsrl.constraints.plain_words import trimmed, words_with_marks
from mgsrl.constraints.spec import CannotDecideError

_AFTER_VERBS = """a an the this these my your our his her its their it them me us him yourself
ourselves each every all how what why whether if into"""
_OBJECTS = frozenset(_AFTER_VERBS.split())
_CONTRACTED = re.compile(r"(?:n't|'[a-z]+)$")
_COINED = re.compile(r".{3}(?:iz(?:e|es|ed|ing)|if(?:y|ies|ied|ying))$")
_PREFIX = re.compile(r"^(?:re|un|de|over|under|mis|out|pre|co)-?")


@cache
def _forms() -> dict[str, frozenset[str]]:
    path = Path(__file__).with_name("verbs.txt.gz")
    found: dict[str, set[str]] = {"verbs": set(), "others": set()}
    for line in gzip.decompress(path.read_bytes()).decode().splitlines():
        if not line.startswith("#"):
            kind, *words = line.split()
            found[kind].update(words)
    return {kind: frozenset(words) for kind, words in found.items()}


def starts_with_verb(text: str) -> bool:
    """Raises CannotDecideError for a first word in another script."""
    first, *rest = [trimmed(word) for word in words_with_marks(text[:10_000])[:2]] or [""]
    if first.isalpha() and not re.search("[a-z]", first):
        raise CannotDecideError(f"no list of verbs knows {first!r}")
    word = _CONTRACTED.sub("", first)
    forms = _forms()
    for candidate in (word, _PREFIX.sub("", word)):
        if candidate in forms["verbs"]:
            return True
        if candidate in forms["others"]:
            return bool(rest) and rest[0] in _OBJECTS
    return _COINED.search(word) is not None
