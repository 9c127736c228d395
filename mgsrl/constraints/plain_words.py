"""Words, sentence ends and arguments as IFBench's constraints share them.

IFBench deletes the ASCII punctuation and splits at white space: "don't" and "well-known" are one
word each. Here curly quotes and the like go too, and long dashes, ellipses and marks that stand
alone part words, as a reader would have it.
"""

import re

from mgsrl.constraints.spec import Argument

_PARTING = re.compile(r"[–—―…]|-{2,}|\.{2,}")
_MARKS = re.compile(r"[^\w\s]|_")
_CORE = re.compile(r"[^\W_](?:.*[^\W_])?", re.DOTALL)
_CLOSING = "\"'”’»)]}*_ \t\n"


def plain_words(text: str) -> list[str]:
    """The words of `text` in lower case without punctuation."""
    return _MARKS.sub("", _PARTING.sub(" ", text.lower())).split()


def words_with_marks(text: str) -> list[str]:
    """The words of `text` as written; marks that stand alone are none."""
    return [word for word in text.split() if _MARKS.sub("", word)]


def trimmed(word: str) -> str:
    """`word` in lower case without the marks around it: `"Don't!"` is `don't`."""
    core = _CORE.search(word)
    return core.group().lower().replace("’", "'") if core else ""


def final_mark(sentence: str) -> str:
    """The last character of a sentence, closing quotes, brackets and asterisks aside."""
    return sentence.rstrip(_CLOSING)[-1:]


def whole_word(word: str) -> re.Pattern[str]:
    """Matches `word` where it is no part of a longer one, in any case."""
    return re.compile(rf"(?<!\w){re.escape(word.strip())}(?!\w)", re.IGNORECASE)


def _percentage(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise ValueError
    if not 0 <= value <= 100:
        raise ValueError
    return int(value)


PERCENTAGE = Argument("an integer from 0 to 100", _percentage)
