r"""Whether the answer of a response equals the reference: math-verify, and what it lets pass.

The answer is found by `math_answer`, both sides are rewritten by `math_forms` and parsed and
compared by math-verify. On top of its verdict:

- a finite set and an ordered pair are different, and so are numbers in different bases;
- decimals agree to six places and in their first four digits, whichever is stricter;
- `5\%` is right for 5 and for 0.05, `500\%` for neither; 50 % is right for 50 and for 0.5;
- a chain of equations between constants must hold (`1=2=3=5` is no answer);
- an inequality is the interval that it describes.

Left out: units are taken off, never compared; a reference without a base takes any base.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

from mgsrl.rewards import math_answer as answers
from mgsrl.rewards import math_forms as forms
from mgsrl.rewards.math_restated import is_restatement

MAX_TEXT = 20_000
"""Characters of a response that are searched, from its end, where the answer is."""
MAX_SHOWN = 500
PLACES = 6
DIGITS = 4
"""Decimals agree in so many places after the point, and in so many digits that are not leading
zeros."""
MAX_PLACES = 400
CHAIN_TOLERANCE = 0.01
r"""Relative; sides of a chain with decimals may be rounded (`25\pi = 78.5`)."""
WORKING = 5
"""In a text the last side of a chain is the answer and the others are working, which may be rough
or wrong; a chain of more constants than this is a list of guesses."""
_SINGLE = re.compile(r"[-+]?[$€£]?\s*(?:\d{1,3}(?:[ ,]\d{3})+|\d+)?(?:\.\d+)?(?:\s*/\s*\d+)?\s*%?")
"""One number as people write it, which math-verify reads best as plain text."""
_EQUALS = re.compile(r"(?<![\\<>!:])=")
_OR = re.compile(r"(?<![A-Za-z])or(?![A-Za-z])")


def _parse(text: str, *configs: Any) -> list[Any]:
    from math_verify import parse

    return [_with_real_symbols(each) for each in parse(text, list(configs), parsing_timeout=None)]


def _with_real_symbols(reading: Any) -> Any:
    r"""math-verify makes the symbols of `3+4\cdot i` complex ones and those of `3+4i` real ones, by
    the spacing; two such symbols of one name are never equal."""
    from sympy import Symbol

    symbols = [] if isinstance(reading, str) else getattr(reading, "free_symbols", ())
    unreal = {each: Symbol(each.name, real=True) for each in symbols if each.is_real is False}
    return reading.xreplace(unreal) if unreal else reading


def read_formula(text: str) -> list[Any]:
    """Every reading of one formula without delimiters; a string where it is no mathematics."""
    from math_verify import LatexExtractionConfig

    # math-verify takes a last letter for a unit (`3ab` and `2x+3t` end in two); a group has none.
    text = f"{{{text}}}" if forms.ends_in_variables(text) else text
    return _parse(rf"\boxed{{{text}}}", LatexExtractionConfig())


@dataclass(frozen=True, slots=True)
class Gold:
    """A reference answer and all that is asked about it."""

    readings: tuple[Any, ...]
    """Expressions, and strings for what is no mathematics."""
    text: str
    is_number: bool
    is_list: bool
    percent: bool
    base: tuple[str, int] | None
    kind: str | None


@lru_cache(maxsize=512)
def read_gold(gold: str) -> Gold:
    """The reference answer: LaTeX with or without its own delimiters, or a number."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig

    plain = gold.replace(r"\$", "").rstrip("\\")
    if answers.DELIMITED.search(plain):
        box = answers.boxed(plain)
        plain = forms.undelimited(plain.strip()) if box is None else box
    if answers.DELIMITED.search(plain):
        readings = _parse(plain, LatexExtractionConfig(), ExprExtractionConfig())
        return Gold(tuple(readings), plain, False, False, False, None, None)
    tidy = forms.tidy(plain)
    number = forms.without_percent(tidy)
    text = tidy if number is None else number
    text = forms.without_unit(text, plain_words=False)
    return Gold(
        tuple(_readings(text)),
        tidy,
        is_number=forms.is_number(text),
        is_list="," in text and not _SINGLE.fullmatch(text),
        percent=number is not None,
        base=forms.in_base(tidy),
        kind=forms.bracket_kind(tidy),
    )


def _readings(text: str) -> list[Any]:
    """A formula's readings as LaTeX and, for a single number, as plain text."""
    from math_verify import ExprExtractionConfig

    readings = read_formula(text)
    if _SINGLE.fullmatch(text) and not any(_is_expression(each) for each in readings):
        readings += _parse(text, ExprExtractionConfig())
    return [*readings, *_regions(readings, text)]


def _is_expression(reading: Any) -> bool:
    return not isinstance(reading, str)


def _regions(readings: list[Any], text: str) -> list[Any]:
    """The union of inequalities joined by "or"."""
    from sympy import Union
    from sympy.core.relational import Equality, Relational
    from sympy.sets import FiniteSet

    if not _OR.search(text) or not readings or not isinstance(readings[0], FiniteSet):
        return []
    parts = readings[0].args
    if not all(isinstance(each, Relational) and not isinstance(each, Equality) for each in parts):
        return []
    return [Union(*(each.as_set() for each in parts))]


def is_equal(gold: Gold, answer: str, *, longest_chain: int = 1) -> bool:
    """Whether one formula, as it stands in a response, is the reference.

    Args:
        longest_chain: equations of constants that are taken for working, so may be false.
    """
    answer = forms.tidy(answer)
    if answer and answer == gold.text:
        return True
    base = forms.in_base(answer) if gold.base else None
    if base is not None:
        return base == gold.base
    if {gold.kind, forms.bracket_kind(answer)} == {"set", "tuple"}:
        return False
    number = forms.without_percent(answer)
    text = answer if number is None else number
    if gold.is_number:
        if not gold.is_list and forms.names_several(text):
            return False
        text = forms.without_unit(text, plain_words=True)
    found = _readings(text)
    if number is None and not all(_holds(each, text, longest_chain) for each in found):
        return False
    return _same(gold, found, percent=number is not None)


def _same(gold: Gold, found: list[Any], *, percent: bool) -> bool:
    """Whether one of the readings `found` is the reference."""
    from math_verify import verify

    golds = list(gold.readings)
    if percent != gold.percent:
        if percent and not _is_above_one(golds):
            found = [each / 100 for each in found if _is_number(each)]
        elif gold.percent:
            golds += [each / 100 for each in golds if _is_number(each)]
    if not found:
        return False
    places = _places([*golds, *found])
    return verify(
        golds,
        found,
        float_rounding=places,
        numeric_precision=15 + places - PLACES,
        allow_set_relation_comp=True,
        timeout_seconds=None,
    )


def _is_number(expression: Any) -> bool:
    return _is_expression(expression) and bool(getattr(expression, "is_number", False))


def _is_above_one(golds: list[Any]) -> bool:
    """A number that a percent sign was left off: a share is at most 1."""
    return any(bool(abs(each.evalf(6)) > 1) for each in golds if _is_number(each))


def _elements(expression: Any, depth: int = 3) -> Iterator[Any]:
    """The numbers that a set, tuple, interval, matrix or relation is made of."""
    from sympy import And, MatrixBase, Set, Tuple
    from sympy.core.relational import Relational

    if depth and isinstance(expression, Set | Tuple | Relational | And | MatrixBase):
        parts = expression.flat() if isinstance(expression, MatrixBase) else expression.args
        for part in parts:
            yield from _elements(part, depth - 1)
    elif _is_number(expression):
        yield expression


def _places(expressions: list[Any]) -> int:
    """Decimal places to compare: `PLACES`, more where a number is so small that these would hold
    fewer than `DIGITS` of its digits."""
    places = PLACES
    for expression in expressions:
        for number in _elements(expression) if _is_expression(expression) else ():
            if number.is_Rational and number.q < 10 ** (PLACES - DIGITS):
                continue
            size = abs(number.evalf(5))
            if size.is_Float and 0 < size < 1:
                places = max(places, DIGITS - math.frexp(float(size))[1] * 3 // 10)
    return min(places, MAX_PLACES)


def _constant_sides(reading: Any, text: str) -> list[Any]:
    """The constants of an equation or chain of equations; inner ones of a chain occur twice."""
    from sympy import And
    from sympy.core.relational import Equality

    parts = list(reading._unsorted_args) if isinstance(reading, And) else [reading]
    if all(isinstance(part, Equality) for part in parts):
        sides = [side for part in parts for side in part.args]
    elif _is_number(reading):  # math-verify reads the last side alone where it cannot read all
        sides = [each for side in _EQUALS.split(text) for each in read_formula(side)[:1]]
    else:
        return []
    return [side for side in sides if _is_number(side)]


def _holds(reading: Any, text: str, longest: int) -> bool:
    """False for more than `longest` sides of a chain of equations that are constants and differ."""
    from sympy import Float

    if "=" not in text or isinstance(reading, str):
        return True
    sides = _constant_sides(reading, text)
    if len(sides) <= longest:
        return True
    rough = CHAIN_TOLERANCE if any(side.has(Float) for side in sides) else 1e-12
    values = [side.evalf(20) for side in sides]
    # Twenty digits of an exact zero are a number below the smallest that is written out.
    return all(
        bool(abs(one - other) <= rough * abs(other) + Float("1e-60"))
        for one, other in pairwise(values)
    )


def is_same_text(gold: str, text: str) -> bool:
    """Whether the answer is the reference as it is written; words in any case."""
    one, other = (" ".join(forms.unwrapped(each).split()).strip("$ .") for each in (gold, text))
    if one.isalpha() and len(one) > 1:
        one, other = one.casefold(), other.casefold()
    return one != "" and one == other


def judge(gold: str, text: str, prompt: str = "") -> dict[str, Any]:
    """Whether the final answer in `text` equals `gold`.

    Args:
        prompt: the question; an answer that only repeats a formula of it is wrong. Empty: nothing
            is a repetition.

    Returns:
        `value` 0 or 1 with `extracted`, the answer as it stands in the text, and `restated` where
        that is the reason for a 0; or `error`.
    """
    text = text[-MAX_TEXT:]
    letter = answers.option_letter(gold)
    if letter is not None:
        equal, shown = _judge_option(letter, text)
        return {"value": int(equal), "extracted": _shown(shown)}
    read = read_gold(gold)
    if not read.readings:
        return {"error": f"the reference answer {gold!r} cannot be parsed"}
    answer = answers.boxed(text)
    if answer is None and is_same_text(gold, answers.without_decoration(text)):
        return {"value": 1, "extracted": _shown(text.strip())}
    if answer is None:
        answer = answers.formula(text)
    else:
        answer = answers.without_decoration(answer)
    if answer is None:
        equal, answer = _judge_prose(read, text)
    else:
        equal = is_same_text(gold, answer) or is_equal(read, answer)
    reply = {"value": int(equal), "extracted": _shown(answer)}
    if equal and answer is not None and is_restatement(_bare(read, answer), gold, prompt):
        reply |= {"value": 0, "restated": True}
    return reply


def _bare(gold: Gold, answer: str) -> str:
    """The answer without unit, percent sign and `=`, which make no repetition and hide none."""
    tidy = forms.tidy(answer)
    number = forms.without_percent(tidy) or tidy
    return forms.without_unit(number, plain_words=True) if gold.is_number else number


def _shown(answer: str | None) -> str | None:
    return answer[:MAX_SHOWN].encode(errors="replace").decode() if answer else None


def _judge_prose(gold: Gold, text: str) -> tuple[bool, str | None]:
    """The last formula or number of a text without a box."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig

    text = answers.prose(answers.without_decoration(text), gold_is_list=gold.is_list)
    found = _parse(text, LatexExtractionConfig(), ExprExtractionConfig())
    # The last reading is the text as it stands in the response; str() of the parsed expression
    # could itself run for ever.
    shown = next((each for each in reversed(found) if isinstance(each, str)), None)
    if not found:
        return False, shown
    number = _percentage(found[0])
    if number is not None and _same(gold, [number], percent=True):
        return True, shown
    formula = shown is not None and _SINGLE.fullmatch(shown) is None
    if number is None and (not formula or _is_number(found[0])):
        base = forms.in_base(shown or "") if gold.base else None
        if base is not None or _same(gold, found, percent=False):
            return base in (None, gold.base), shown
    # A formula that math-verify passed over for a number elsewhere in the text is read as a box is.
    return shown is not None and formula and is_equal(gold, shown, longest_chain=WORKING), shown


def _percentage(expression: Any) -> Any | None:
    """50 for math-verify's `50*(1/100)`, its reading of 50 %."""
    from sympy import Mul, Rational, UnevaluatedExpr

    if isinstance(expression, Mul) and len(expression.args) == 2:
        number, rest = expression.args
        return number if rest == UnevaluatedExpr(Rational(1, 100)) else None
    return None


def _judge_option(letter: str, text: str) -> tuple[bool, str | None]:
    """Whether a multiple-choice answer names this option."""
    from math_verify import LatexExtractionConfig, StringExtractionConfig, verify

    box = answers.boxed(text)
    if box is not None:
        option = answers.chosen_option(box)
        return option == letter, box
    options = StringExtractionConfig(strings=tuple("ABCDEFGHIJ"))
    found = _parse(answers.with_plain_options(text), options, LatexExtractionConfig())
    golds = [letter.lower(), letter, *read_formula(letter)]
    equal = bool(found) and verify(golds, found, timeout_seconds=None)
    return equal, next((each for each in reversed(found) if isinstance(each, str)), None)
