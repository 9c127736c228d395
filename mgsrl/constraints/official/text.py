r"""Words and sentences as the released checker of IFBench parts them.

The verdicts that its authors published (`eval/` in their repository, October 2025) come from a
splitter of sentences that knows a few abbreviations and is otherwise a list of substitutions, and
from words that end at white space. It has quirks: a line break is a space, a closing quote moves
before its full stop, a single letter before a full stop is an initial. Package 0.2.0 asks NLTK.
"""

import re
import string
from functools import cache

SPLIT = "Sentences end at every mark (two at `?!`) but in a few abbreviations"
"""For the table of differences."""
PUNCTUATION = string.punctuation
"""ASCII's, which is all that the checker knows."""
_WITHOUT = str.maketrans("", "", PUNCTUATION)

# A stop that ends no sentence, and the end of one.
_DOT, _END = "<prd>", "<stop>"
_STARTS = (
    r"(Mr|Mrs|Ms|Dr|Prof|Capt|Cpt|Lt|He\s|She\s|It\s|They\s|Their\s|Our\s|We\s|But\s|However\s"
    r"|That\s|This\s|Wherever)"
)
_RULES: tuple[tuple[str, str], ...] = (
    (r"(Mr|St|Mrs|Ms|Dr)[.]", rf"\1{_DOT}"),
    (r"[.](com|net|org|io|gov|edu|me)", rf"{_DOT}\1"),
    (r"([0-9])[.]([0-9])", rf"\1{_DOT}\2"),
    (r"[.]{2,}", ""),  # replaced by `_ellipsis`
    (r"Ph[.]D[.]", f"Ph{_DOT}D{_DOT}"),
    (r"\s([A-Za-z])[.] ", rf" \1{_DOT} "),
    (rf"([A-Z][.][A-Z][.](?:[A-Z][.])?) {_STARTS}", rf"\1{_END} \2"),
    (r"([A-Za-z])[.]([A-Za-z])[.]([A-Za-z])[.]", rf"\1{_DOT}\2{_DOT}\3{_DOT}"),
    (r"([A-Za-z])[.]([A-Za-z])[.]", rf"\1{_DOT}\2{_DOT}"),
    (rf" (Inc|Ltd|Jr|Sr|Co)[.] {_STARTS}", rf" \1{_END} \2"),
    (r" (Inc|Ltd|Jr|Sr|Co)[.]", rf" \1{_DOT}"),
    (r" ([A-Za-z])[.]", rf" \1{_DOT}"),
)
_MOVES = ((".”", "”."), ('."', '".'), ('!"', '"!'), ('?"', '"?'))


@cache
def _rules() -> tuple[tuple[re.Pattern[str], str], ...]:
    return tuple((re.compile(pattern), replacement) for pattern, replacement in _RULES)


def split_sentences(text: str) -> list[str]:
    """The sentences, stripped; those inside the text can be empty."""
    text = f" {text}  ".replace("\n", " ")
    for pattern, replacement in _rules():
        text = pattern.sub(replacement or _ellipsis, text)
    for quoted, moved in _MOVES:
        text = text.replace(quoted, moved)
    for mark in ".?!":
        text = text.replace(mark, mark + _END)
    found = [sentence.strip() for sentence in text.replace(_DOT, ".").split(_END)]
    return found if found[-1] else found[:-1]


def _ellipsis(match: re.Match[str]) -> str:
    return _DOT * len(match.group()) + _END


def bare(text: str) -> str:
    """`text` without ASCII punctuation."""
    return text.translate(_WITHOUT)


def trim(text: str) -> str:
    """`text` without ASCII punctuation and spaces around it."""
    return text.strip(PUNCTUATION + " ")
