r"""The pure readings under the math reward: text in, text out, and the numbers they must keep."""

from fractions import Fraction
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgsrl.rewards import math_answer as answers
from mgsrl.rewards import math_forms as forms
from mgsrl.rewards.math_judge import judge
from mgsrl.rewards.math_restated import canonical, is_evaluated, is_restatement
from tests.timing import takes_under

few = settings(max_examples=20, deadline=None)
NOISE = st.text(st.characters(blacklist_characters="\\{}", codec="utf-8"), max_size=40)
WORDS = st.sampled_from(["eggs", "people", "red marbles", "km per hour", "cm^2", "sq. ft.", "m/s"])
ODD = st.text(st.sampled_from(r"\boxed{}$()[]0123456789.,%^_=<>|ab √½–°²"))


@given(st.integers(1000, 10**12), st.sampled_from([r"\,", r"\;", "{,}", " ", "~", "'", r"\,\!"]))
def test_grouped_digits_are_one_number(number: int, separator: str) -> None:
    text = f"{number:,}".replace(",", separator)
    assert forms.tidy(text) == str(number)


@given(st.integers(0, 999), st.integers(0, 99), st.sampled_from([r"\,", " "]))
def test_digits_in_other_groups_stay_apart(a: int, b: int, separator: str) -> None:
    assert forms.joined_digits(f"{a}{separator}{b}") == f"{a}{separator}{b}"


@given(st.integers(1, 9999), st.integers(0, 3), st.integers(-30, 30))
def test_powers_of_ten_keep_their_value(digits: int, places: int, exponent: int) -> None:
    number = f"{digits / 10**places:.{places}f}"
    written = forms.powers_of_ten(f"{number}e{exponent}")
    mantissa, power = written.removesuffix("}").split(r"\cdot 10^{")
    assert Fraction(mantissa) * Fraction(10) ** int(power) == Fraction(f"{number}e{exponent}")


@pytest.mark.parametrize("text", ["1e99999", "2e3x", "a1e3", r"\frac1e3"])
def test_other_uses_of_e_stay(text: str) -> None:
    assert forms.powers_of_ten(text) == text


def test_number_words_up_to_ninety_nine() -> None:
    assert [forms.number_word(word) for word in ("zero", "Twelve", "twenty", "ninety-nine")] == [
        *("0", "12", "20", "99")
    ]
    assert len({value for value in forms.NUMBER_WORDS.values() if value.isdecimal()}) == 100
    for word in ("", "none", "fivefold", "one-to-one", "twenty one-ish", "often"):
        assert forms.number_word(word) is None


@given(st.integers(0, 10**6), WORDS)
def test_units_are_taken_off(number: int, unit: str) -> None:
    assert forms.without_unit(f"{number} {unit}", plain_words=True) == str(number)
    for other in (f"x = {number} {unit}", f"{number} or {unit}", f"{number} {unit} 7"):
        assert forms.without_unit(other, plain_words=True) == other


@given(st.from_regex(r"[1-9][0-9]{0,8}", fullmatch=True), st.integers(2, 36), st.integers(2, 36))
def test_bases(digits: str, base: int, other: int) -> None:
    assert forms.in_base(f"{digits}_{{{base}}}") == (digits, base)
    assert forms.in_base(rf"{digits}_{{\text{{base }}{other}}}") == (digits, other)
    assert forms.in_base(rf"{digits} \text{{ (base {base})}}") == (digits, base)


@pytest.mark.parametrize("text", ["12", "x_1", "A_2", "12_1", "12_{99}", "a_1 + 2_3", "12_n"])
def test_no_base(text: str) -> None:
    assert forms.in_base(text) is None


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (r"\{1,2\}", "set"),
        (r"\left\{1, 2\right\}", "set"),
        (r"A = \{1\}", "set"),
        (r"x \in \{1,2\}", "set"),
        (r"\{1\} \cup \{2\}", None),
        ("(1,2)", "tuple"),
        (r"\left( 1, 2 \right)", "tuple"),
        ("(1+2)", None),
        ("(1,2),(3,4)", None),
        ("1,2", None),
        ("[1,2)", None),
    ],
)
def test_kinds_of_brackets(text: str, kind: str | None) -> None:
    assert forms.bracket_kind(text) == kind


@given(
    NOISE, st.from_regex(r"[a-z0-9+*^ ]{1,20}", fullmatch=True), st.sampled_from(["boxed", "fbox"])
)
def test_the_last_box_is_the_answer(noise: str, content: str, command: str) -> None:
    text = rf"{noise} \boxed{{0}} and so on we corrected \{command}{{{content}}} {noise[:9]}"
    assert answers.boxed(text) == content.strip()


@given(st.lists(st.integers(0, 99), min_size=1, max_size=6, unique=True))
def test_neighbouring_boxes_are_a_list(numbers: list[int]) -> None:
    text = " and ".join(rf"$\boxed{{{number}}}$" for number in numbers)
    assert answers.boxed(text) == ",".join(map(str, numbers))


@given(ODD)
def test_no_text_breaks_a_reading(text: str) -> None:
    answers.boxed(text)
    answers.formula(text)
    answers.chosen_option(text)
    answers.prose(text, gold_is_list=True)
    forms.in_base(text)
    forms.bracket_kind(text)
    forms.without_percent(text)
    forms.without_unit(forms.tidy(text), plain_words=True)
    assert isinstance(is_restatement(text, "1", text), bool)


HOSTILE = [
    "{",
    "}",
    "\\boxed{",
    "\\boxed{}",
    "(",
    "1,",
    "1 ",
    " ",
    "\\text{",
    "^",
    "√(",
    "%",
    "\\{",
    "=",
]


@pytest.mark.parametrize(
    "piece", [*HOSTILE, r"\{", "\\boxed{1} and ", r"\frac{", "1/", "one ", "$", "-0"]
)
def test_long_texts_take_linear_time(piece: str) -> None:
    text = piece * (20_000 // len(piece))
    read = test_no_text_breaks_a_reading.hypothesis.inner_test  # type: ignore[attr-defined]
    assert takes_under(2, partial(read, text))


def right(gold: str, answer: str) -> bool:
    reply = judge(gold, rf"\boxed{{{answer}}}")
    return reply["value"] == 1


@few
@given(st.integers(1, 998), st.integers(0, 14))
def test_small_numbers_are_compared_by_their_digits(digits: int, zeros: int) -> None:
    one, other = (f"0.{'0' * zeros}{number:03d}" for number in (digits, digits + 1))
    assert right(one, one)
    assert right(one, rf"{digits} \cdot 10^{{{-zeros - 3}}}")
    assert not right(one, other)
    assert not right(other, one)


@few
@given(st.integers(2, 99))
def test_one_percent_sign_is_right(number: int) -> None:
    assert right(str(number), rf"{number}\%")
    assert not right(str(number), rf"{100 * number}\%")
    assert right(f"0.{number:02d}", rf"{number}\%")
    assert not right(f"0.{number:02d}", rf"0.{number:02d}\%")
    assert [right(rf"{number}\%", str(n)) for n in (number, 100 * number)] == [True, False]


@few
@given(st.lists(st.integers(-9, 9), min_size=2, max_size=4, unique=True))
def test_lists_sets_and_tuples(numbers: list[int]) -> None:
    inside, turned = (",".join(map(str, order)) for order in (numbers, numbers[::-1]))
    assert right(inside, turned)
    assert right(rf"\{{{inside}\}}", rf"\{{{turned}\}}")
    assert right(f"({inside})", f"({inside})")
    assert not right(f"({inside})", f"({turned})")
    assert not right(f"({inside})", rf"\{{{inside}\}}")
    assert not right(rf"\{{{inside}\}}", f"({inside})")
    assert not right(inside, inside.replace(",", ".", 1))


@few
@given(st.integers(0, 500), st.lists(st.integers(501, 999), min_size=1, max_size=5))
def test_a_chain_of_guesses_is_no_answer(gold: int, guesses: list[int]) -> None:
    assert not right(str(gold), "=".join(map(str, [*guesses, gold])))
    assert right(str(gold), f"{gold + 1} - 1 = {gold}")


@given(st.integers(-99, 99), st.integers(2, 99))
def test_numbers_are_no_restatements(number: int, other: int) -> None:
    prompt = (
        rf"Take {number}, ${number}.5$, $({number}, {other})$ and $\frac{{{number}}}{{{other}}}$."
    )
    for answer in (f"{number}", f"{number}.5", f"({number},{other})", f"x = {number}"):
        assert is_evaluated(canonical(answer))
        assert not is_restatement(answer, "0", prompt)
    for answer in (rf"\dfrac{{{number}}}{{{other}}}", f"{number}/{other}"):
        assert is_restatement(answer, "0", prompt)
        assert not is_restatement(answer, rf"\frac{{{number}}}{{{other}}}", prompt)


@given(st.integers(2, 99), st.integers(2, 99), st.sampled_from(["+", "-", "^", r"\cdot "]))
def test_a_repeated_expression_is_a_restatement(a: int, b: int, sign: str) -> None:
    prompt = rf"What is ${a} {sign} {b}$?"
    for answer in (
        f"{a}{sign}{b}",
        f"({a} {sign} {b})",
        rf"x = {{{a}}}{sign}{b}",
        f"{a}{sign}{b} + 0",
    ):
        assert is_restatement(answer, "0", prompt)
        assert not is_restatement(answer, answer, prompt)
        assert not is_restatement(answer, "0", "What is it?")
    assert not is_restatement(f"{a}{sign}{b}", "0", rf"What is $1{a}{sign}{b}$?")
