r"""Whether an answer only repeats the question.

A computer algebra system evaluates `\sum_{k=1}^{100} k` and finds it equal to 5050, so a policy
that boxes the question earns the full reward. An answer is a restatement when it is unevaluated
(it holds an operation that could be carried out), stands in the prompt, and is not written like the
reference. "Stands" and "like" disregard spacing, brackets that change nothing and the ways of
writing a fraction or product; a leading `x =` and neutral parts such as `+ 0` are taken off first.

Left out: questions repeated in other words (terms in another order, a sum written out). They take
algebra to recognise, and then a right answer in an unusual form could not be told from them.
"""

import re

from mgsrl.rewards.math_forms import plain_signs, unwrapped

MAX_PROMPT = 20_000
_NAMES = {
    **dict.fromkeys([r"\dfrac", r"\tfrac", r"\cfrac"], r"\frac"),
    **dict.fromkeys([r"\dbinom", r"\tbinom"], r"\binom"),
    **dict.fromkeys([r"\cdot", r"\times", r"\ast"], "*"),
    r"\leq": r"\le",
    r"\geq": r"\ge",
    r"\neq": r"\ne",
    r"\div": "/",
    **dict.fromkeys([r"\lvert", r"\rvert", r"\vert"], "|"),
    r"\lbrace": r"\{",
    r"\rbrace": r"\}",
    **dict.fromkeys([r"\left", r"\right", r"\bigl", r"\bigr", r"\Bigl", r"\Bigr"], ""),
    **dict.fromkeys([r"\big", r"\Big", r"\bigg", r"\Bigg", r"\limits", r"\quad", r"\qquad"], ""),
}
_COMMAND = re.compile(r"\\[A-Za-z]+")
_NOISE = re.compile(r"\\[,;:!]|\\ |\{,\}|\\\(|\\\)|\\\[|\\\]|[\s$~&]|\\displaystyle")
_FUNCTION = re.compile(r"\\(gcd|lcm|sin|cos|tan|cot|sec|csc|log|ln|exp|min|max|det|bmod)")
_OPERATOR_NAME = re.compile(r"\\operatorname\*?\s*\{([A-Za-z]+)\}")
_SHORT_FRACTION = re.compile(r"\\frac([0-9A-Za-z])([0-9A-Za-z])")
_FRACTION = re.compile(r"\\frac\{([^{}]*)\}\{([^{}]*)\}")
_LONE = re.compile(r"(?<![A-Za-z])\((\d+|[A-Za-z]|\\[A-Za-z]+)\)")
_NEUTRAL = re.compile(r"\A(?:\+|0\+|1\*)|(?:[+-]0|\*1|/1|\^1)\Z")
_VARIABLE = re.compile(r"(?:\(?[A-Za-z](?:_?\w)?(?:\([A-Za-z,]{1,5}\))?(?:,[A-Za-z])*\)?)")
_PLAIN = re.compile(r"-?\w+")
_PRODUCT = re.compile(r"-?(?:\w|\\[A-Za-z]+|\*|\^|\([^()]*\))+")
"""What needs no brackets before a `/`."""
_LITERAL = re.compile(
    r"\\?[{}]|\\infty|\\pi|\\le|\\ge|\\in|\\cup|[A-Za-z]\b|[()\[\],<>=|%]"
    r"|(?<![\w)}])[-+]?\d+(?:\.\d+)?|\d+(?:\.\d+)?"
)


def canonical(text: str) -> str:
    """The text of a formula, or of a prompt, with one way of writing for what is written alike."""
    text = _OPERATOR_NAME.sub(r"\1", plain_signs(text))
    text = _COMMAND.sub(lambda match: _NAMES.get(match[0], match[0]), unwrapped(text))
    text = _FUNCTION.sub(r"\1", _NOISE.sub("", text).replace("**", "^"))
    text = _SHORT_FRACTION.sub(r"\\frac{\1}{\2}", text)
    for _ in range(3):
        text = _FRACTION.sub(_ratio, text)
    text = re.sub(r"(?<!\\)\{", "(", re.sub(r"(?<!\\)\}", ")", text))
    return _LONE.sub(r"\1", text)


def _ratio(match: re.Match[str]) -> str:
    above, below = match.groups()
    above = above if _PRODUCT.fullmatch(above) else f"({above})"
    return f"{above}/{below if _PLAIN.fullmatch(below) else f'({below})'}"


def _forms(text: str) -> set[str]:
    """A formula as a whole, and its last side where the first one is a variable or a chain is."""
    whole = canonical(text).rstrip(".,;?")
    sides = whole.split("=")
    forms = {whole}
    if len(sides) > 2 or (len(sides) == 2 and _VARIABLE.fullmatch(sides[0])):
        forms.add(sides[-1])
    return {_stripped(form) for form in forms}


def _stripped(form: str) -> str:
    """Without brackets around all of it and without parts that change nothing."""
    for _ in range(8):
        before = form
        if form.startswith("(") and form.endswith(")") and _is_one_group(form):
            form = form[1:-1]
        form = _NEUTRAL.sub("", form)
        if form == before:
            break
    return form


def _is_one_group(form: str) -> bool:
    depth = 0
    for position, char in enumerate(form):
        depth += (char == "(") - (char == ")")
        if depth == 0:
            return position == len(form) - 1 and "," not in form
    return False


def is_evaluated(form: str) -> bool:
    """Nothing is left to do: numbers, variables, intervals and lists of them. A fraction can be
    carried out (to a decimal, to lower terms)."""
    return _LITERAL.sub("", form) == ""


def is_restatement(answer: str, gold: str, prompt: str) -> bool:
    """Whether `answer`, which is equal to `gold`, only repeats a formula of `prompt`."""
    if not prompt or len(answer) > 1000:
        return False
    forms = _forms(answer)
    if forms & _forms(gold):
        return False
    unevaluated = [form for form in forms if len(form) > 2 and not is_evaluated(form)]
    if not unevaluated:
        return False
    asked = canonical(prompt[-MAX_PROMPT:])
    return any(_stands(form, asked) for form in unevaluated)


def _stands(form: str, text: str) -> bool:
    """Whether `form` occurs in `text` without cutting a number in two."""
    at = text.find(form)
    while at >= 0:
        end = at + len(form)
        cuts = (text[max(at - 1, 0) : at + 1], text[end - 1 : end + 1])
        if not any(len(cut) == 2 and cut.isdecimal() for cut in cuts):
            return True
        at = text.find(form, at + 1)
    return False
