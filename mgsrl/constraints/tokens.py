"""Words as IFEval counts capital words: sentences, then the Penn Treebank conventions (NLTK's).

Contractions are two words ("DON'T" = DO + N'T), hyphenated words are one, a full stop leaves its
word only at the end of a sentence. The rules are those of the time IFEval was published; later NLTK
versions also part words at dashes.
"""

import re

from mgsrl.constraints.sentences import sentences

_OPENINGS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        ("([«“‘„]|[`]+)", r" \1 "),
        (r"^\"", r"``"),
        (r"(``)", r" \1 "),
        (r"([ \(\[{<])(\"|\'{2})", r"\1 `` "),
        (r"(?i)(\')(?!re|ve|ll|m|t|s|d|n)(\w)\b", r"\1 \2"),
    )
)
_MARKS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"([:,])([^\d])", r" \1 \2"),
        (r"([:,])$", r" \1 "),
        (r"\.{2,}", r" \g<0> "),
        (r"[;@#$%&]", r" \g<0> "),
        (r"[?!]", r" \g<0> "),
        (r"([^'])' ", r"\1 ' "),
        (r"[*]", r" \g<0> "),
        (r"[\]\[\(\)\{\}\<\>]", r" \g<0> "),
        (r"--", r" -- "),
    )
)
_ENDINGS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"([»”’])", r" \1 "),
        (r"''", " '' "),
        (r'"', " '' "),
        (r"\s+", " "),  # a contraction may stand at the end of a line
        (r"([^' ])('[sS]|'[mM]|'[dD]|') ", r"\1 \2 "),
        (r"([^' ])('ll|'LL|'re|'RE|'ve|'VE|n't|N'T) ", r"\1 \2 "),
        (r"(?i)\b(can)(not)\b", r" \1 \2 "),
        (r"(?i)\b(d)('ye)\b", r" \1 \2 "),
        (r"(?i)\b(gim|lem)(me)\b", r" \1 \2 "),
        (r"(?i)\b(gon)(na)\b", r" \1 \2 "),
        (r"(?i)\b(got)(ta)\b", r" \1 \2 "),
        (r"(?i)\b(more)('n)\b", r" \1 \2 "),
        (r"(?i)\b(wan)(na)(?=\s)", r" \1 \2 "),
        (r"(?i) ('t)(is|was)\b", r" \1 \2 "),
    )
)

_MARKED = re.compile(
    r"[«“‘„`\"'\[({<:,;@#$%&*\])}>»”’]|--|\.\.|(?i:\b(?:cannot|gimme|lemme|gonna|gotta|wanna)\b)"
)
"""What any of the patterns but those of a sentence's final mark could change."""


def word_tokens(text: str) -> list[str]:
    """The words and punctuation marks of `text`."""
    return [token for sentence in sentences(text) for token in _sentence_tokens(sentence)]


def _sentence_tokens(sentence: str) -> list[str]:
    if not _MARKED.search(sentence):
        sentence = _final_stop(sentence).replace("?", " ? ").replace("!", " ! ")
        return sentence.split()
    for pattern, replacement in _OPENINGS:
        sentence = pattern.sub(replacement, sentence)
    sentence = _final_stop(sentence)
    for pattern, replacement in _MARKS:
        sentence = pattern.sub(replacement, sentence)
    sentence = f" {sentence} "
    for pattern, replacement in _ENDINGS:
        sentence = pattern.sub(replacement, sentence)
    return sentence.split()


def _final_stop(sentence: str) -> str:
    """Part the full stop that ends the sentence, closing marks after it, from its word.

    The Treebank's pattern for it, `([^.])([.])([closing marks]*)\\s*$`, is quadratic in spaces.
    """
    stripped = sentence.rstrip()
    core = stripped.rstrip("])}>\"'»”’ ")
    if len(core) < 2 or not core.endswith(".") or core[-2] == ".":
        return sentence
    return f"{core[:-1]} . {stripped[len(core) :]} "
