r"""Sentences as IFEval counts them: the English Punkt tokenizer (Kiss & Strunk 2006), no downloads.

The decision procedure is written from the paper and NLTK's published behaviour; the learned
parameters are in `punkt_english.txt`. A full stop ends a sentence unless its word is an
abbreviation, an initial, a number or an ellipsis that the next word continues. This is NLTK as of
IFEval's publication; versions from 2025 on also let a curly closing quote end a sentence. Left out:
training, and NLTK's spans (only the sentences' texts are needed).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

_NON_WORD = r"[?!)\";}\]\*:@'\({\[]"
_MULTI = r"(?:-{2,}|\.{2,}|(?:\.\s){2,}\.)"
_CANDIDATE = re.compile(rf"[.?!](?=(?P<after>{_NON_WORD}|\s+(?P<next>\S+)))")
_TOKEN = re.compile(
    rf"{_MULTI}|(?=[^\(\"`{{\[:;&#\*@\)}}\]\-,])\S+?"
    rf"(?=\s|$|{_NON_WORD}|{_MULTI}|,(?=$|\s|{_NON_WORD}|{_MULTI}))|\S"
)
_NUMBER = re.compile(r"^-?[.,]?\d[\d,.\-]*\.?$")
_INITIAL = re.compile(r"[^\W\d]\.$")
_CLOSING = re.compile(r"[\"')\]}]+?(?:\s+|(?=--)|$)")


@dataclass(frozen=True)
class _Punkt:
    abbreviations: frozenset[str]
    collocations: frozenset[str]
    starters: frozenset[str]
    lower: frozenset[str]
    """Seen in lower case and never capitalised in mid-sentence."""
    lower_and_upper: frozenset[str]


@cache
def _punkt() -> _Punkt:
    text = Path(__file__).with_name("punkt_english.txt").read_text(encoding="utf-8")
    sections = re.split(r"^\[(\w+)\]$", text, flags=re.MULTILINE)[1:]
    return _Punkt(
        **{
            name: frozenset(words.split())
            for name, words in zip(sections[::2], sections[1::2], strict=True)
        }
    )


def _type(token: str) -> str:
    return _NUMBER.sub("##number##", token.lower())


def _without_stop(type_: str) -> str:
    return type_[:-1] if len(type_) > 1 and type_.endswith(".") else type_


def _ends_sentence(token: str, following: str) -> bool:
    """Whether the sentence ends after `token`, the word with its final punctuation."""
    if token in (".", "?", "!"):
        return True
    if not token.endswith("."):
        return False
    punkt = _punkt()
    ellipsis = re.search(r"\.\.+$", token) is not None
    stem = token[:-1].lower()
    abbreviation = not ellipsis and (
        stem in punkt.abbreviations or stem.rsplit("-", 1)[-1] in punkt.abbreviations
    )
    type_ = _without_stop(_type(token))
    next_type = _type(following)
    next_ends = not following.endswith("..") and (
        following in (".", "?", "!")
        or (following.endswith(".") and not _is_abbreviation(following[:-1].lower()))
    )
    next_type = _without_stop(next_type) if next_ends else next_type
    capital = following[0].isupper()
    if f"{type_}|{next_type}" in punkt.collocations:
        return False
    starts = capital and next_type in punkt.lower
    initial = _INITIAL.match(token) is not None
    if (abbreviation or ellipsis) and not initial:
        return starts or (capital and next_type in punkt.starters)
    continues = following in tuple(";:,.!?") or following[0].islower()
    if initial or type_ == "##number##":
        if continues:
            return False
        if initial and capital and not starts and next_type not in punkt.lower_and_upper:
            return False
    return not (abbreviation or ellipsis)


def _is_abbreviation(stem: str) -> bool:
    abbreviations = _punkt().abbreviations
    return stem in abbreviations or stem.rsplit("-", 1)[-1] in abbreviations


def _candidates(text: str) -> Iterator[tuple[re.Match[str], str]]:
    """Possible ends with the word before, the mark and what follows; of overlapping ones the last.

    "Really?!" has two candidates in one word; only the second is judged, and only its word is cut
    out of the text: a megabyte of "?!?!" is one word.
    """
    previous: re.Match[str] | None = None
    word_start = word_end = 0
    for match in _CANDIDATE.finditer(text):
        space = _last_space(text[word_end : match.start()])
        start = word_end + space + 1 if space else word_start
        if previous is not None and word_end <= start:
            yield previous, text[word_start:word_end] + previous.group() + previous.group("after")
        previous, word_start, word_end = match, start, match.start()
    if previous is not None:
        yield previous, text[word_start:word_end] + previous.group() + previous.group("after")


def _last_space(text: str) -> int:
    """Where the last white space of `text` is; 0 without one."""
    word = "" if text[-1:].isspace() else "".join(text.rsplit(None, 1)[-1:])
    return max(len(text) - len(word) - 1, 0)


def _has_break(context: str) -> bool:
    tokens = [token for line in context.split("\n") for token in _TOKEN.findall(line)]
    return any(_ends_sentence(token, after) for token, after in pairwise(tokens))


def sentences(text: str) -> list[str]:
    """The sentences of `text`, stripped; closing quotes and brackets stay with their sentence."""
    pieces: list[str] = []
    start = 0
    for match, context in _candidates(text):
        if _has_break(context):
            pieces.append(text[start : match.end()])
            start = match.start("next") if match.group("next") else match.end()
    pieces.append(text[start:].rstrip())
    found: list[str] = []
    for piece in pieces:
        closing = _CLOSING.match(piece) if found else None
        if closing is not None:
            found[-1] += closing.group().rstrip()
            piece = piece[closing.end() :]
        if piece.strip():
            found.append(piece.strip())
    return found
