r"""The ways people write mathematics, rewritten as the LaTeX that the parser reads.

Pure functions from text to text: signs of Unicode, grouped digits, powers of ten by `e`, mixed
numbers, number words, percent signs, units, bases, the kind of a bracket. Each changes only what
it recognises; whatever it does not know stays, and is then no mathematics to the parser.

Left out: units are taken off, never converted or compared (5 hours are as good as 5 minutes);
a decimal comma inside LaTeX (`3,5` is a list there, as everywhere in the data sets of this field).
"""

import re
import unicodedata
from typing import Literal

MAX_FORMULA = 2_000
"""Characters; longer formulas are left as they are, so that no pattern takes quadratic time."""
SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n", strict=True))
SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))
_SIGNS = {
    **dict.fromkeys("−–—‒﹣－‐‑", "-"),
    **dict.fromkeys("\u00a0\u2002\u2003\u2007\u2008\u2009\u200a\u202f", " "),
    **dict.fromkeys("\u200b\u2060\ufeff", ""),
    **dict.fromkeys("×✕⨯", r"\times "),
    **dict.fromkeys("·⋅∙", r"\cdot "),
    **dict.fromkeys("≤⩽", r"\le "),
    **dict.fromkeys("≥⩾", r"\ge "),
    **dict.fromkeys("∅⌀", r"\emptyset "),
    "°": r"^\circ ",
    "∞": r"\infty ",
    "π": r"\pi ",
    "∈": r"\in ",
    "≠": r"\ne ",
    "÷": "/",
    "∪": r"\cup ",
    "∩": r"\cap ",
    "±": r"\pm ",
    "⁄": "/",
    "∕": "/",
    "≈": r"\approx ",
    "ℝ": r"\mathbb{R}",
    "ℤ": r"\mathbb{Z}",
    "ℚ": r"\mathbb{Q}",
    "ℕ": r"\mathbb{N}",
    "＋": "+",
    "＝": "=",
    "％": r"\%",
    "θ": r"\theta ",
    "α": r"\alpha ",
    "β": r"\beta ",
}
SIGNS = str.maketrans(_SIGNS)
VULGAR = {
    chr(code): unicodedata.normalize("NFKC", chr(code)).partition("⁄")[::2]
    for code in (*range(0xBC, 0xBF), *range(0x2150, 0x215F), 0x2189)
}
"""`½` and its like -> numerator and denominator."""
_VULGAR = re.compile(f"[{''.join(VULGAR)}]")
_SUPER = re.compile(f"[{''.join(SUPERSCRIPTS)}]+")
_SUB = re.compile(f"[{''.join(SUBSCRIPTS)}]+")
_ROOT = re.compile(r"([√∛])\s*(\d+(?:\.\d+)?|[A-Za-z]|\\[a-z]+|\([^()]*\)|\{[^{}]*\})")
_GROUPED = re.compile(
    r"(?<![\d.,])(\d{1,3}(?:(?:\\[,;: ]\s?|\{,\}|[~' ])\d{3})+)(?!\d|\s*/|\s*\\[dtc]?frac)"
)
_NEGATIVE_SPACE = re.compile(r"\\!\s*")
_UPRIGHT = re.compile(r"\\math(?:rm|bf|it)\s*\{\s*([ei])\s*\}")
"""Euler's number and the imaginary unit, which math-verify takes for a unit of measure."""
_AND = re.compile(r"(?:,\s*)?\\text\s*\{\s*(?:,\s*(?:and)?|and)\s*,?\s*\}")
_RELATION = re.compile(r"\A(?:=|\\approx(?![A-Za-z])|#+(?=\s*[-+$\\\d.(]))\s*")
"""What stands between a quantity and its value, the quantity left out: `= 5`, `\\approx 5`."""
_PI_FRACTION = re.compile(r"\\([dtc]?frac)\s*\\pi\s*(\w|\{[^{}]*\})")
"""`\\frac\\pi 2`, which math-verify cannot read."""
_TEX_SPACE = re.compile(r"\\[,;:!]|\\(?:quad|qquad|displaystyle)(?![A-Za-z])|~")
_E = re.compile(r"(?<![\w.\\])(\d+(?:\.\d+)?|\.\d+)[eE]([+-]?\d{1,3})(?![\w.])")
_X_TEN = re.compile(r"(?<=\d)\s*(?:[xX*]|\\ast)\s*(?=10\s*(?:\^|\*\*))")
_MIXED = re.compile(r"(?<![\d.,^_/\\}])(\d+)\s+(\d+)\s*/\s*(\d+)(?![\d.^/])")
_WRAPPED = re.compile(
    r"\\(?:text\w*|math(?:rm|bf|it|sf|tt)|mbox|hbox|boldsymbol|bm)\s*\{([^{}]*)\}"
)
_END = re.compile(r"(?:[\s,;]|(?<!\.)\.|\\\\|\\$)+\Z")
_DOLLARS = re.compile(r"\A(?:\$+|\\\(|\\\[)(.*?)(?:\$+|\\\)|\\\])\Z", re.DOTALL)
_EMPTY = re.compile(r"\\varnothing(?![A-Za-z])")
_BUILDER = re.compile(
    r"\A\\?\{\s*([A-Za-z])\s*(?:\\in\s*\\(?:mathbb|mathbf)\s*\{?R\}?\s*)?(?:\\mid|\\vert|\||:)"
    r"(?![A-Za-z])(.*?)\\?\}\Z",
    re.DOTALL,
)
_LEFT_RIGHT = re.compile(r"\\(?:left|right|big|Big|bigg|Bigg)[lrm]?(?![A-Za-z])\s*\.?")


def tidy(text: str) -> str:
    """One formula with everything rewritten that needs no knowledge of the reference."""
    if len(text) > MAX_FORMULA:
        return text
    text = plain_signs(text.strip())
    text = undelimited(_END.sub("", text))
    text = _END.sub("", _EMPTY.sub(r"\\emptyset ", text))
    text = _NEGATIVE_SPACE.sub("", _UPRIGHT.sub(r"\1", text))
    text = _TEX_SPACE.sub(" ", joined_digits(_AND.sub(", ", text))).strip()
    text = _PI_FRACTION.sub(r"\\\1{\\pi}{\2}", _RELATION.sub("", text))
    text = _X_TEN.sub(r"\\times ", powers_of_ten(text))
    text = _MIXED.sub(r"\1\\frac{\2}{\3}", text)
    builder = _BUILDER.match(_LEFT_RIGHT.sub("", text))
    if builder and builder[1] in builder[2]:
        text = builder[2].strip()
    return number_word(text) or text


def plain_signs(text: str) -> str:
    """Signs of Unicode as LaTeX: `3√2`, `½`, `x²`, `∞`, `–3`, `90°`."""
    if text.isascii():
        return text
    text = _VULGAR.sub(lambda m: r"\frac{{{}}}{{{}}}".format(*VULGAR[m[0]]), text)
    text = _SUPER.sub(lambda m: f"^{{{''.join(SUPERSCRIPTS[c] for c in m[0])}}}", text)
    text = _SUB.sub(lambda m: f"_{{{''.join(SUBSCRIPTS[c] for c in m[0])}}}", text)
    return _ROOT.sub(_root, text).translate(SIGNS)


def _root(match: re.Match[str]) -> str:
    inside = match[2][1:-1] if match[2][0] in "({" else match[2]
    return (r"\sqrt" if match[1] == "√" else r"\sqrt[3]") + f"{{{inside}}}"


def undelimited(text: str) -> str:
    r"""Without one pair of `$`, `\(`, `\[` around all of it."""
    match = _DOLLARS.match(text)
    return match[1].strip() if match and "$" not in match[1] else text


def joined_digits(text: str) -> str:
    r"""`1\,234\,567`, `1{,}234`, `1 234 567` as digits; a comma alone is left to the parser."""
    return _GROUPED.sub(lambda m: re.sub(r"\D", "", m[1]), text)


def powers_of_ten(text: str) -> str:
    r"""`1.2e4` as `1.2\cdot 10^{4}`; an exponent of more than three digits stays unread."""
    return _E.sub(lambda m: rf"{m[1]}\cdot 10^{{{int(m[2])}}}", text)


def unwrapped(text: str) -> str:
    r"""Without `\text{...}` and its like, two deep."""
    return _WRAPPED.sub(r"\1", _WRAPPED.sub(r"\1", text))


_ONES = re.findall(
    r"\w+",
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen",
)
_TENS = re.findall(r"\w+", "twenty thirty forty fifty sixty seventy eighty ninety")
NUMBER_WORDS = {
    **{word: str(number) for number, word in enumerate(_ONES)},
    **{ten: str(20 + 10 * index) for index, ten in enumerate(_TENS)},
    **{
        f"{ten}-{one}": str(20 + 10 * index + number)
        for index, ten in enumerate(_TENS)
        for number, one in enumerate(_ONES[1:10], 1)
    },
    **dict.fromkeys(["half", "one-half", "one half", "a half"], r"\frac{1}{2}"),
}
_WORDS = "|".join(sorted(NUMBER_WORDS, key=len, reverse=True))
_NUMBER_WORD = re.compile(
    rf"\s*((?:minus|negative)\s+)?({_WORDS})(?![\w-])(\s+[A-Za-z ]+)?\Z", re.IGNORECASE
)


def number_word(text: str) -> str | None:
    r"""`five`, `Five apples`, `minus five`, `\text{five}` with digits; None for anything else."""
    match = _NUMBER_WORD.match(unwrapped(text)) if len(text) < 100 else None
    if match is None:
        return None
    sign = "-" if match[1] else ""
    return sign + NUMBER_WORDS[match[2].lower()] + (match[3] or "").rstrip()


_TAIL = re.compile(
    r"(?P<number>.*?[\d})])(?P<space>[\s~]*)(?P<unit>[A-Za-zµμΩ][A-Za-zµμΩ\s.,'/^{}()\d-]*)",
    re.DOTALL,
)
_NUMBER_COMMANDS = re.compile(r"\\(?:[dtc]?frac|sqrt|pi|cdot|times|circ|[$,;:!])|[$€£¥₹]")
_WORD = re.compile(r"[A-Za-zµμΩ]+")
_VARIABLES = re.compile(r"(?<=[\d}])([A-Za-z]{1,12})\Z")
_UNIT_DIGITS = re.compile(r"\^\s*\{?-?\d\}?")
_SHORT_UNITS = frozenset(
    re.findall(
        r"\w+",
        "mm cm dm km kg mg ml mL kL hr hrs min sec ft in yd mi mph kph kmh lb lbs oz Hz kHz MHz kW "
        "kJ MJ cc sq cu deg rad",
    )
)
"""Two or three letters that are a unit even where no space parts them from the number."""
_LETTER_UNITS = frozenset("msghlLNJWVK")
_NO_UNITS = frozenset(
    re.findall(
        r"\w+",
        "or and nor not but to than minus plus times by over choose mod modulo base percent pct "
        "percentage squared cubed factorial sin cos tan cot csc log ln exp sqrt pi infinity infty "
        "inf if when where for divided is equals hundred thousand million billion trillion dozen",
    )
)
"""Words that change the number before them."""
MAX_UNIT_WORDS = 6


def without_unit(text: str, *, plain_words: bool) -> str:
    r"""The number alone of a number with a unit: `18 eggs`, `12 cm^2`, `60 km/h`, `5 \text{ m}`.

    Args:
        plain_words: any word counts; else only what stands in `\text{}` or is a known short unit,
            since `3 abc` may be a product.
    """
    if len(text) > 200:
        return text
    match = _TAIL.fullmatch(unwrapped(text))
    if match is None or not is_number(match["number"]):
        return text
    words = _WORD.findall(match["unit"])
    if re.search(r"\d", _UNIT_DIGITS.sub("", match["unit"])) or len(words) > MAX_UNIT_WORDS:
        return text
    if not _NO_UNITS.isdisjoint(word.lower() for word in words):
        return text
    known = words[0] in _SHORT_UNITS or _WRAPPED.search(text) is not None
    if plain_words and not known:
        known = words[0] in _LETTER_UNITS or (len(words[0]) > 1 and match["space"] != "")
    return match["number"].strip() if known else text


def ends_in_variables(text: str) -> bool:
    """Whether letters that are no known unit follow a digit or brace at the end: `2x+3t`."""
    match = _VARIABLES.search(text)
    return match is not None and match[1] not in _SHORT_UNITS


def is_number(text: str) -> bool:
    r"""Digits with signs, fractions, roots and \pi, and no other letter."""
    bare = _NUMBER_COMMANDS.sub("", text)
    return re.search(r"\d|\\pi", text) is not None and re.search(r"[^\W\d_]|[\\=<>]", bare) is None


_PERCENT = re.compile(
    r"(.*?)[\s\\]*(?:%|\b(?:percent|percentage|pct))\s*\Z", re.DOTALL | re.IGNORECASE
)


_FURTHER = re.compile(r"(?<![A-Za-z])(?:and|or)(?![A-Za-z]).*\d", re.DOTALL)


def names_several(text: str) -> bool:
    r"""Whether "and" or "or" joins a further number: `5 \text{ apples or } 3 \text{ pears}`."""
    return len(text) <= MAX_FORMULA and _FURTHER.search(unwrapped(text)) is not None


def without_percent(text: str) -> str | None:
    r"""`50` for `50\%`, `50 percent`, `50\text{ percent}`; None where no percent sign ends it."""
    if len(text) > MAX_FORMULA or ("%" not in text and "p" not in text.lower()):
        return None
    match = _PERCENT.match(unwrapped(text))
    return match[1].strip() if match and match[1].strip() and "%" not in match[1] else None


_BASED = re.compile(
    r"\(?(-?[0-9A-Za-z.]*[0-9][0-9A-Za-z.]*)\)?(?:_\{?\(?(?:base)?|\(?base)([0-9]+|[a-z]+)\)?\}?\)?",
    re.IGNORECASE,
)


def in_base(text: str) -> tuple[str, int] | None:
    r"""Digits and base of `1010_2`, `1010_{\text{two}}`, `1010 \text{ (base 2)}`; else None."""
    if len(text) > 200 or ("_" not in text and "base" not in text):
        return None
    last = re.sub(r"[\s,$]|\\[,;:! ]", "", unwrapped(text.rpartition("=")[2]))
    match = _BASED.fullmatch(last.replace(r"\_", "_"))
    if match is None:
        return None
    name = NUMBER_WORDS.get(match[2].lower(), match[2])
    base = int(name) if name.isdecimal() and len(name) < 3 else 0
    return (match[1].lstrip("0").upper() or "0", base) if 2 <= base <= 36 else None


def bracket_kind(text: str) -> Literal["set", "tuple"] | None:
    r"""Whether `\{...\}` or `(...)` with a comma stands around all of the formula's last side."""
    last = re.sub(r"\s", "", _LEFT_RIGHT.sub("", re.split(r"=|\\in(?![a-z])", text)[-1]))
    if (
        last.startswith(r"\{")
        and last.endswith(r"\}")
        and last.count(r"\{") - last.count(r"\}") == 0
    ):
        return "set" if _closes_at_end(last.replace(r"\{", "(").replace(r"\}", ")")) else None
    if last.startswith("(") and last.endswith(")") and "," in last:
        return "tuple" if _closes_at_end(last) else None
    return None


def _closes_at_end(text: str) -> bool:
    """Whether the bracket that `text` begins with is closed by its last character."""
    depth = 0
    for position, char in enumerate(text):
        depth += (char in "([") - (char in ")]")
        if depth == 0:
            return position == len(text) - 1
    return False
