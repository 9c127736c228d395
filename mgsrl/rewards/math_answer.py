r"""Which part of a response is its answer.

A box, once there, is the answer: the last one, or the last ones where nothing but a separator
stands between them (`\boxed{2} and \boxed{3}`). Without a box the answer is the whole text when
that is one formula, else what follows "the answer is" when that is one, else what math-verify finds
in prose. Pure functions from text to text; every one takes linear time.
"""

import re

from mgsrl.rewards.math_forms import number_word, plain_signs, unwrapped

MAX_BOXES = 20
"""Boxes that are read as one list."""
MAX_SHORT = 300
"""Characters of a text that may be an answer alone."""
_BETWEEN = re.compile(
    r"(?:[^\w→⇒]|\\text\s*\{\s*(?:and|or)\s*\}|\\q?quad|(?<!\w)(?:and|or)(?!\w)){0,12}"
    r"(?:[A-Za-z](?:_\{?\w\}?)?\s*=\s*\$?)?"
)
"""What may stand between two boxes of one answer."""
_FINAL = re.compile(r"(?i:final answer is)[\s:$]*[-+\d\\(]")
DELIMITED = re.compile(
    r"\\boxed|\\fbox|(?<!\\)\$|\\\(|\\\[|\\begin\{(?:equation|align|gather|math)"
)
PLAIN = re.compile(r"[-+]?[$€£]?\s*[\d.,\s/]+%?")
_LIST = re.compile(r"\d\s*,\s+[-+]?\d")
_EMPHASIS = re.compile(r"\s*(\*{1,3}|`)([^*`\n]+)\1\s*")
_LEAD = re.compile(r"\A\s*(?:A:\s+|(?i:(?:so|it|is)\b[\s,:]*)+)(?=[-+$\\\d(√½⅓¼–−])")
"""What a short answer may begin with: "A: 18", "so it is 18"."""
_MARKS = re.compile(r"\A\s*(?:#+\s*(?=[-+$\\\d.(])|(?:[=≈:>✓✔✅☑→⇒]\s*)+)|(?<=\d)\s*[✓✔✅☑]+\s*\Z")
"""What a short answer may stand between: "#### 18", "= 18", "18 ✓"."""
_COMMAND = re.compile(r"\\(?:begin|end|text)\{[^{}]*\}|\\[A-Za-z]+|(?<![A-Za-z])sqrt(?=\s*[({])")
_ANCHOR = re.compile(r"(?i:\banswer(?:\s+is|\s*:|\s*=)[\s:]*)([^\n]{1,200})\Z")
_PLUS = re.compile(r"(?<=[A-Za-z:=]\s)\+(?=\d)")
_DASH = re.compile(r"(?<![\w)\]])[−–](?=[\d.\\√½¼¾∞])")
_COMMA_LIST = re.compile(r"(?<![\w.,-])-?\d+(?:\.\d+)?(?:,-?\d+(?:\.\d+)?)+(?!\w)")


def boxed(text: str) -> str | None:
    r"""The content of the last box or boxes; None without one.

    A box that is not closed holds the rest of the text, one without braces the next word. A box is
    outranked by a later "the final answer is", which corrects it.
    """
    start = _last_box(text, len(text))
    if start < 0:
        return None
    content, end = _content(text, start, len(text))
    if end is not None and _FINAL.search(text, end):
        return None
    contents = [content]
    while len(contents) < MAX_BOXES:
        previous = _last_box(text, start)
        if previous < 0:
            break
        content, end = _content(text, previous, start)
        if end is None or not _BETWEEN.fullmatch(text, end, start):
            break
        contents.append(content)
        start = previous
    return ",".join(dict.fromkeys(reversed(contents)))


def _last_box(text: str, end: int) -> int:
    return max(text.rfind(r"\boxed", 0, end), text.rfind(r"\fbox", 0, end))


def _content(text: str, start: int, limit: int) -> tuple[str, int | None]:
    """What the box at `start` holds, and where it ends (None: it is not closed)."""
    match = re.compile(r"\\(?:boxed|fbox)\s*").match(text, start, limit)
    at = match.end() if match else limit
    if at >= limit or text[at] != "{":
        word = re.compile(r"[^\s{}$]*").match(text, at, limit)
        return (word[0], word.end()) if word else ("", limit)
    depth = 0
    for brace in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, at, limit):
        depth += (brace[0] == "{") - (brace[0] == "}")
        if depth == 0:
            return text[at + 1 : brace.start()].strip(), brace.end()
    return text[at + 1 : limit].strip().rstrip("$").strip(), None


def is_bare_mathematics(text: str) -> bool:
    r"""A response that is one formula without delimiters, such as `\frac{1}{2}` or `x^2 + 1`.

    The last number of such a text would be a part of the formula, so it is read as a whole.
    """
    text = text.strip()
    if not text or len(text) > 200 or "\n" in text or DELIMITED.search(text):
        return False
    if PLAIN.fullmatch(text) and not _LIST.search(text) and not re.search(r"\d\s+\d+\s*/", text):
        return False  # math-verify reads numbers such as "1 000" better as text
    return (
        re.search(r"[^\W\d_]{3}", _COMMAND.sub(" ", text)) is None or number_word(text) is not None
    )


def without_decoration(text: str) -> str:
    """A short answer without emphasis around it and without what introduces or ticks it."""
    if len(text) > MAX_SHORT:
        return text
    text = _MARKS.sub("", text)
    emphasis = _EMPHASIS.fullmatch(text)
    return _LEAD.sub("", emphasis[2] if emphasis else text, count=1)


def formula(text: str) -> str | None:
    """A response without a box that is one formula, or ends with "the answer is" and one."""
    text = without_decoration(text)
    if is_bare_mathematics(text):
        return text.strip()
    anchor = _ANCHOR.search(text.rstrip()[-300:])
    if anchor is None:
        return None
    tail = without_decoration(anchor[1].strip())
    return tail if is_bare_mathematics(tail.rstrip(".")) else None


def prose(text: str, *, gold_is_list: bool) -> str:
    """A text in words as math-verify's patterns read it best.

    Args:
        gold_is_list: `3,5` is a list rather than a decimal comma.
    """
    text = _PLUS.sub("", _DASH.sub("-", text))
    if not text.isascii():
        text = plain_signs(text) if DELIMITED.search(text) else text.replace("\u00a0", " ")
    if not gold_is_list or DELIMITED.search(text):
        return text
    return _COMMA_LIST.sub(r"$\g<0>$", text)


_LETTER = re.compile(r"\(?([A-J])\)?[.,]?")
_NEXT_OPTION = re.compile(
    r"(?:[,;/&|+]|(?<!\w)(?:and|or)(?!\w)|\))[\s,;]*(?:and\b|or\b)?\s*(?:\(([A-J])\)|([A-J])(?:[).:]|\s*\Z))"
)
"""A further option behind the first one: `(B) or (C)`, `B) 3, C) 4`."""
_OPTION_WITH_TEXT = re.compile(r"\(([A-J])\).*|([A-J])\s*[).:~].*", re.DOTALL)
_BRACKETED_LETTER = re.compile(r"\(([A-J])\)")
_LINE_OPTION = re.compile(r"(?m)^([^\w\n]*)([A-J])\)")
_SMALL_OPTION = re.compile(r"\s*\(?([a-j])(?:[).:].*)?\s*", re.DOTALL)
_PRONOUN = re.compile(
    r"\bI(?=(?:'\w+)?\s+[a-z])|^A(?=\s+(?!(?:is|was|as|because|since)\b)[a-z])", re.MULTILINE
)
"""Words that are no option: "I think", "A train leaves"."""


def option_letter(reference: str) -> str | None:
    r"""The letter of a multiple-choice reference: `C`, `(C)`, `\text{(C)}`, `\textbf{C}`."""
    match = _LETTER.fullmatch(unwrapped(reference.strip().strip("$")).strip())
    return match[1] if match else None


def chosen_option(answer: str) -> str | None:
    r"""The option that a box names: `C`, `(c)`, `\textbf{(C) } 12`, `\text{C. 12}`."""
    plain = re.sub(r"\\[,;:! ]|[${}]", " ", unwrapped(answer)).strip()
    plain = re.sub(r"\A(?i:option|choice|answer)\s*:?\s*", "", plain)
    match = _LETTER.fullmatch(plain) or _OPTION_WITH_TEXT.fullmatch(plain)
    if match:
        letter = next(group for group in match.groups() if group)
        others = {one or other for one, other in _NEXT_OPTION.findall(plain)}
        return letter if others <= {letter} else None
    small = _SMALL_OPTION.fullmatch(plain)
    return small[1].upper() if small else None


def with_plain_options(text: str) -> str:
    """Prose with a multiple-choice answer as math-verify reads it: options as lone letters."""
    emphasis = _EMPHASIS.fullmatch(text)
    text = emphasis[2] if emphasis else text
    small = _SMALL_OPTION.fullmatch(text)
    if small:
        return small[1].upper()
    text = _BRACKETED_LETTER.sub(r"\1", unwrapped(text).replace("$", " "))
    return _PRONOUN.sub("", _LINE_OPTION.sub(r"\1\2.", text))
