"""The process in which untrusted mathematics is parsed and compared; see `math_verifier.py`.

A request is `{"gold": str, "text": str}`, its reply `{"value": 0 | 1, "extracted": str | null}` or
`{"error": str}`. Beside `child_serve.py`, which limits time and memory, it imports nothing of
mgsrl: it starts in half a second and stays small.

math-verify's own time-outs are off: they use the same signal as the process's timer and cannot
interrupt a long C call.
"""

import re
from typing import Any

from mgsrl.rewards.child_serve import serve

MAX_TEXT = 20_000
"""Characters of a response that are searched, from its end, where the answer is."""

_PLAIN = re.compile(r"[-+]?[$€£]?\s*[\d.,\s/]+%?")
_LETTER = re.compile(r"\(?([A-J])\)?")
_DELIMITED = re.compile(r"\\boxed|\\fbox|\$|\\\(|\\\[|\\begin\{(?:equation|align|gather|math)")
_STYLED_LETTER = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\{\s*\(?([A-J])\)?\s*\}")
_BRACKETED_LETTER = re.compile(r"\(([A-J])\)")
_PLUS = re.compile(r"(?<=[A-Za-z:=]\s)\+(?=\d)")
_LIST = re.compile(r"\d\s*,\s+[-+]?\d")
_EMPHASIS = re.compile(r"\s*(\*{1,3}|`)([^*`\n]+)\1\s*")
_LEAD = re.compile(r"\A\s*(?:A:\s+|(?i:(?:so|it|is)\b[\s,:]*)+)(?=[-+$\\\d(])")
"""What a short answer may begin with: "A: 18", "so it is 18"."""
_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\{([^{}]*)\}")
_BOXED_LETTER = re.compile(
    r"\\boxed\s*\{\s*(?:\\(?:text|textbf|mathrm|mathbf)\s*\{\s*)?\(?([A-J])(?=\s*[).:}~])[^\n]*"
)
_OPTION = re.compile(r"(?m)^([^\w\n]*)([A-J])\)")
_SMALL_OPTION = re.compile(r"\s*\(?([a-j])(?:[).:].*)?\s*", re.DOTALL)
_PRONOUN = re.compile(
    r"\bI(?=(?:'\w+)?\s+[a-z])|^A(?=\s+(?!(?:is|was|as|because|since)\b)[a-z])", re.M
)
"""Words that are no option: "I think", "A train leaves"."""
_BOXED_PERCENT = re.compile(r"\\boxed\s*\{\s*(-?\d[\d.,]*)\s*\\?%\s*\}")
_ROOT = re.compile(r"√\s*(\d+|[A-Za-z]|\([^()]*\))")
_SIGNS = str.maketrans({"°": r"^\circ ", "∞": r"\infty ", "π": r"\pi ", "−": "-", "∈": r"\in "})
_COMMAND = re.compile(r"\\(?:begin|end|text)\{[^{}]*\}|\\[A-Za-z]+")


def parse_gold(gold: str) -> list[Any]:
    """Every reading of the reference answer: LaTeX with or without its own delimiters, number."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    gold = gold.replace(r"\$", "").rstrip("\\")
    if _DELIMITED.search(gold):
        return list(parse(gold, parsing_timeout=None))
    readings = list(parse(rf"\boxed{{{gold}}}", [LatexExtractionConfig()], parsing_timeout=None))
    plain = gold.strip().replace(r"\%", "%")
    if _PLAIN.fullmatch(plain):
        readings += parse(plain, [ExprExtractionConfig()], parsing_timeout=None)
    return readings


def is_bare_mathematics(text: str) -> bool:
    r"""A response that is one formula without delimiters, such as `\frac{1}{2}` or `x^2 + 1`.

    The last number of such a text would be a part of the formula, so it is read as a whole.
    """
    text = text.strip()
    if not text or len(text) > 200 or "\n" in text or _DELIMITED.search(text):
        return False
    if _PLAIN.fullmatch(text) and not _LIST.search(text):
        return False  # math-verify reads numbers such as "1 000" better as text
    return re.search(r"[^\W\d_]{3}", _COMMAND.sub(" ", text)) is None


def without_decoration(text: str) -> str:
    """A short answer without emphasis around it and without what introduces it."""
    emphasis = _EMPHASIS.fullmatch(text)
    return _LEAD.sub("", emphasis[2] if emphasis else text, count=1)


def with_plain_options(text: str) -> str:
    """A multiple-choice answer as math-verify reads it: the options as letters of their own."""
    emphasis = _EMPHASIS.fullmatch(text)
    text = emphasis[2] if emphasis else text
    small = _SMALL_OPTION.fullmatch(text)
    if small:
        return small[1].upper()
    boxed = _BOXED_LETTER.findall(text)
    if boxed:
        return rf"\boxed{{{boxed[-1]}}}"
    text = _BRACKETED_LETTER.sub(r"\1", _STYLED_LETTER.sub(r"\1", text))
    return _PRONOUN.sub("", _OPTION.sub(r"\1\2.", text))


def last_boxed_percent(text: str) -> str | None:
    r"""`50%` when the last box is `\boxed{50\%}`, which math-verify reads as no number."""
    last = text.rfind(r"\boxed")
    match = _BOXED_PERCENT.match(text, last) if last >= 0 else None
    return match and f"{match[1]}%"


def is_same_text(gold: str, text: str) -> bool:
    """Whether the answer is the reference as it is written; words in any case."""
    one, other = (" ".join(_TEXT.sub(r"\1", each).split()).strip("$ .") for each in (gold, text))
    if one.isalpha() and len(one) > 1:
        one, other = one.casefold(), other.casefold()
    return one != "" and one == other


def judge(gold: str, text: str) -> dict[str, Any]:
    """Whether the final answer in `text` equals `gold`."""
    from math_verify import (
        ExprExtractionConfig,
        LatexExtractionConfig,
        StringExtractionConfig,
        parse,
        verify,
    )

    text = _PLUS.sub("", text[-MAX_TEXT:])
    letter = _LETTER.fullmatch(gold.strip())
    configs = [LatexExtractionConfig(), ExprExtractionConfig()]
    if letter:
        golds = [letter[1].lower(), letter[1], *parse_gold(letter[1])]
        configs = [StringExtractionConfig(strings=tuple("ABCDEFGHIJ")), LatexExtractionConfig()]
        text = with_plain_options(text)
    else:
        golds = parse_gold(gold)
        text = without_decoration(text)
    if not golds:
        return {"error": f"the reference answer {gold!r} cannot be parsed"}
    if not letter and is_same_text(gold, text):
        return {"value": 1, "extracted": text.strip()[:500].encode(errors="replace").decode()}
    if is_bare_mathematics(text) and not letter:
        text = _ROOT.sub(r"\\sqrt{\1}", text.strip().rstrip(chr(92))).translate(_SIGNS)
        text = rf"\boxed{{{text}}}"
    found = parse(text, configs, parsing_timeout=None)
    equal = bool(found) and verify(golds, found, timeout_seconds=None)
    if found and not equal and not letter and (percent := last_boxed_percent(text)):
        reading = parse(percent, [ExprExtractionConfig()], parsing_timeout=None)
        equal = bool(reading) and verify(golds, reading, timeout_seconds=None)
    # The last reading is the text as it stands in the response; str() of the parsed expression
    # could itself run for ever.
    texts = [reading for reading in found if isinstance(reading, str)]
    extracted = texts[-1][:500].encode(errors="replace").decode() if texts else None
    return {"value": int(equal), "extracted": extracted}


def main() -> None:
    """Serve; the first parse builds the grammar."""
    serve(lambda request: judge(request["gold"], request["text"]), lambda: judge("1", r"\boxed{1}"))
