r"""Ways of writing an answer, right and wrong, in a box and bare: the real verifier decides.

Each row is a reference, an answer and whether it is right. `ALIKE` must be judged alike as
`\boxed{answer}` and as the whole response; `RESPONSES` are whole responses.
"""

from collections.abc import Iterator

import pytest

from mgsrl.rewards.actor import RewardWorker
from mgsrl.rewards.protocol import Response
from tests.oracle import published_rows
from tests.rewards.loaded import math_worker

ALIKE = r"""
# Lists are no decimal commas.
3,5             | 3,5                 | 1
3,5             | 3, 5                | 1
3,5             | 5,3                 | 1
3,5             | 3.5                 | 0
3,5             | \frac72             | 0
3,5             | 5                   | 0
12,9            | 12.9                | 0
1,2,3           | 1.2                 | 0
1, 2            | 2                   | 0
-2,1            | -2.1                | 0
1,234           | 1234                | 1
1,234,567       | 1234567             | 1
# Grouped digits.
1234567         | 1\,234\,567         | 1
1234567         | 1{,}234{,}567       | 1
1234567         | 1,\!234,\!567       | 1
1234567         | 1 234 567           | 1
1234567         | 1\,234\,568         | 0
12              | 1\,2                | 0
# Fractions and mixed numbers.
\frac12         | ½                   | 1
0.5             | ½                   | 1
\frac{3}{2}     | 1½                  | 1
\frac{3}{2}     | 1 1/2               | 1
\frac{3}{2}     | 1\frac{1}{2}        | 1
\frac{11}{2}    | 1 1/2               | 0
\frac{3}{4}     | ¾                   | 1
\frac{3}{4}     | ¼                   | 0
-\frac{1}{3}    | –⅓                  | 1
# Powers of ten.
1000            | 1e3                 | 1
12000           | 1.2e4               | 1
0.00012         | 1.2e-4              | 1
12000           | 1.2e5               | 0
12000           | 1.2 x 10^4          | 1
12000           | 1.2×10⁴             | 1
1e-7            | 10^{-7}             | 1
3 \times 10^8   | 3e8                 | 1
3 \times 10^8   | 3e7                 | 0
# Units.
12              | 12 cm^2             | 1
12              | 12 cm²              | 1
12              | 12cm                | 1
12              | 12\text{ cm}^2      | 1
12 \text{ cm}   | 12                  | 1
12\text{ cm}^2  | 12 cm^2             | 1
60              | 60 km/h             | 1
9.8             | 9.8 m/s^2           | 1
\frac{1}{2}     | 1/2 kg              | 1
2\pi            | 2\pi cm             | 1
12              | 13 cm^2             | 0
2               | 2^3                 | 0
3ab             | 3                   | 0
3               | 3ab                 | 0
# Punctuation.
5               | 5.                  | 1
5               | 5,                  | 1
5               | \$5                 | 1
2.50            | \$2.50              | 1
# Signs of Unicode.
90^\circ        | 90°                 | 1
90              | 90°                 | 1
90              | 91°                 | 0
3\sqrt{2}       | 3√2                 | 1
3\sqrt{2}       | 2√3                 | 0
\sqrt{x+1}      | √(x+1)              | 1
\sqrt[3]{2}     | ∛2                  | 1
\infty          | ∞                   | 1
-\infty         | −∞                  | 1
\infty          | -∞                  | 0
-3              | –3                  | 1
-3              | −3                  | 1
3               | –3                  | 0
x^2+1           | x²+1                | 1
x^2+1           | x³+1                | 0
2\pi            | 2π                  | 1
6               | 2·3                 | 1
x \le 5         | x ≤ 5               | 1
x \le 5         | x ≥ 5               | 0
# The empty set.
\emptyset       | \varnothing         | 1
\emptyset       | ∅                   | 1
\emptyset       | \{\}                | 1
\emptyset       | \{0\}               | 0
# Intervals and inequalities.
[0,1)           | 0\le x<1            | 1
[0,1)           | 0\le x\le 1         | 0
(-\infty,2)     | x<2                 | 1
(-\infty,2)     | x\le 2              | 0
(-\infty,2)     | x>2                 | 0
x<2             | (-\infty,2)         | 1
(2,\infty)      | x>2                 | 1
(-\infty,-2)\cup(2,\infty) | x<-2 \text{ or } x>2       | 1
x<-2 \text{ or } x>2       | (-\infty,-2)\cup(2,\infty) | 1
(-\infty,2)\cup(2,\infty)  | x\ne 2                     | 1
[-2,1)          | \{x \mid -2\le x<1\} | 1
\{x|-2\le x<1\} | [-2,1)              | 1
[-2,1)          | \{x \mid -2\le x\le 1\} | 0
# Number words.
5               | five                | 1
5               | Five                | 1
12              | twelve              | 1
20              | twenty              | 1
21              | twenty-one          | 1
-3              | negative three      | 1
\frac12         | one half            | 1
5               | six                 | 0
\text{five}     | 5                   | 1
# Sets and ordered pairs.
\{1,2\}         | \{2,1\}             | 1
\{1,2\}         | 1,2                 | 1
\{1,2\}         | (1,2)               | 0
\{1,2\}         | (2,1)               | 0
\{1,2,3\}       | (1,2,3)             | 0
(1,2)           | \{1,2\}             | 0
(1,2)           | (2,1)               | 0
(1,2)           | (1,2)               | 1
(1,2)           | (x,y)=(1,2)         | 1
1,2             | \{1,2\}             | 1
\{(1,2),(3,4)\} | (1,2),(3,4)         | 1
\{(1,2),(3,4)\} | (2,1),(3,4)         | 0
# Bases.
1010_2          | 1010_2              | 1
1010_2          | 1010_{2}            | 1
1010_2          | 1010_{\text{two}}   | 1
1010_2          | 1010                | 1
1010_2          | 1010_3              | 0
1010_2          | 1010_{10}           | 0
1010_2          | 1011_2              | 0
\text{A5}_{11}  | A5_{11}             | 1
# Rounding.
0.0000001       | 0.0000002           | 0
0.0000001       | 10^{-7}             | 1
10^{-7}         | 0.0000002           | 0
0               | 0.0000001           | 0
1.6\times10^{-19} | 3\times10^{-19}   | 0
1.6\times10^{-19} | 0.16\times10^{-18} | 1
\{0.0000001,1\} | \{0.0000002,1\}     | 0
\frac13         | 0.333333            | 1
\frac13         | 0.3333              | 0
\frac1{60}      | 0.016667            | 1
# Percent signs.
5               | 5\%                 | 1
5               | 500\%               | 0
50              | 50\%                | 1
50              | 5000\%              | 0
12.5            | 12.5\%              | 1
0.125           | 12.5\%              | 1
0.5             | 50\%                | 1
0.5             | 0.5\%               | 0
5\%             | 5\%                 | 1
5\%             | 0.05                | 1
5\%             | 5                   | 1
5\%             | 500                 | 0
\frac{1}{4}     | 25\%                | 1
# Chains of equations.
5               | x=5                 | 1
5               | 2+3=5               | 1
5               | 1=2=3=5             | 0
5               | 4=5                 | 0
5               | x=4=5               | 0
25\pi           | A=25\pi=78.54       | 0
78.54           | A=25\pi=78.54       | 1
# The imaginary unit by any spacing.
3+4i            | 4i+3                | 1
3+4i            | 3+4\cdot i          | 1
3+4i            | 3 + 4 i             | 1
3+4i            | 3-4i                | 0
-\frac{1}{13} - \frac{5}{13}i | -\frac{1+5i}{13} | 1
-\frac{1}{13} - \frac{5}{13}i | -1/13 - 5i/13    | 1
-\frac{1}{13} - \frac{5}{13}i | \frac{-1+5i}{13} | 0
# References as the data sets write them.
2, 3, \text{ and } 4 | 4, 3, 2         | 1
2, 3, \text{ and } 4 | 2, 3, 5         | 0
7 + \frac\pi 2  | 7+\dfrac{\pi}{2}    | 1
7 + \frac\pi 2  | 7+\frac\pi3         | 0
# Marks around a short answer.
72              | #### 72             | 1
72              | = 72                | 1
72              | 72 ✓                | 1
72              | **72**              | 1
72              | \approx 72          | 1
72              | #### 73             | 0
72              | = 27                | 0
3\sqrt{2}       | 3*sqrt(2)           | 1
3\sqrt{2}       | 3*sqrt(3)           | 0
# The base of logarithms and the imaginary unit are no units of measure.
2               | 2\mathrm{i}         | 0
1-\frac1e       | 1-\frac{1}{\mathrm{e}} | 1
1-\frac1e       | 1+\frac{1}{\mathrm{e}} | 0
"""
BOXED = r"""
18              | 18 eggs             | 1
18              | 18 people           | 1
18              | 18 red marbles      | 1
18              | \text{18 eggs}      | 1
18              | 17 eggs             | 0
18              | eighteen eggs       | 1
18              | 18 or 19            | 0
18              | 18 \text{ or } 19   | 0
18              | 18 million          | 0
2               | 2 squared           | 0
5               | \text{five}         | 1
\text{(C)}      | \textbf{(C) } 12    | 1
\text{(C)}      | \text{(C)}          | 1
\text{(C)}      | C                   | 1
\text{C}        | (c)                 | 1
(C)             | \text{C. twelve}    | 1
\text{(C)}      | \textbf{(B) } C     | 0
\text{(C)}      | 12                  | 0
C               | A \cup C            | 0
B               | (B) or (C)          | 0
B               | (B), (C)            | 0
B               | (B) and C           | 0
B               | B) 3, C) 4          | 0
B               | \text{(B) or (C)}   | 0
B               | (B) or (B)          | 1
B               | \textbf{(B) } P(A) + P(C) | 1
B               | (B) the sets A and C meet | 1
5               | 5 \text{ apples or } 3 \text{ pears} | 0
5               | 5 \text{ apples and pears}           | 1
-2,1            | x=-2 \text{ or } x=1 | 1
"""
RESPONSES = [
    ("5", r"\boxed{???} 1 2 3 5", 0),
    ("5", r"5 \boxed{}", 0),
    ("5", r"\boxed{\text{unknown}} but 5", 0),
    ("5", r"\fbox{ } The answer is 5", 0),
    ("5", r"\boxed{5} or 7", 1),
    ("5", r"\boxed 5", 1),
    ("5", r"\boxed5", 1),
    ("5", r"$\boxed{\boxed{5}}$", 1),
    ("5", r"I tried \boxed{6}; correcting: \boxed{5}", 1),
    ("6", r"I tried \boxed{6}; correcting: \boxed{5}", 0),
    ("5", r"\boxed{6}, wait, no: \boxed{5}.", 1),
    ("5", "\\boxed{6}\n\nActually \\boxed{5}", 1),
    ("5", r"\boxed{5}, \boxed{6}", 0),
    ("5,6", r"\boxed{5}, \boxed{6}", 1),
    ("5,6", r"\boxed{5} and \boxed{6}", 1),
    ("5,6", r"$x_1=\boxed{5}$, $x_2=\boxed{6}$", 1),
    ("5", r"\boxed{6} The final answer is 5.", 1),
    (r"\{1,2\}", r"\boxed{\{1,2\}}", 1),
    (r"\text{(C)}", "So the final answer is C.", 1),
    (r"\text{(C)}", "So the final answer is (C) 12.", 1),
    (r"\text{(C)}", "So the final answer is B.", 0),
    ("5", "The answer is five.", 1),
    ("5", "The answer is six.", 0),
    ("12000", "The answer is 1.2e4.", 1),
    ("-3", "The answer is –3.", 1),
    (r"\frac{3}{2}", "The answer is 1 1/2.", 1),
    (r"3\sqrt{2}", "The answer is 3√2.", 1),
    (r"[0,1)", r"The answer is 0\le x<1.", 1),
    (r"[0,1)", r"The answer is $0\le x<1$.", 1),
    ("5", "The answer is 500%.", 0),
    ("5", "The answer is 5%.", 1),
    ("5", "So $1=2=3=5$.", 0),
    ("1010_2", "It is $1010_3$.", 0),
    ("3,5", "The answers are 3,5", 1),
    ("3,5", "The answer is 3.5", 0),
    ("18", "18 eggs", 1),
    ("3.5", "The answer is 3,5", 1),
]


def table(text: str) -> list[tuple[str, str, int]]:
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    cells = [[cell.strip() for cell in line.split(" | ")] for line in lines]
    return [(gold, answer, int(right)) for gold, answer, right in cells]


@pytest.fixture(scope="module")
def verifier() -> Iterator[RewardWorker]:
    verifier = math_worker(time_limit_s=20, missing_tag="whole_response")
    yield verifier
    verifier.close()


def value(verifier: RewardWorker, gold: str, response: str, prompt: str = "") -> float | None:
    messages = ({"role": "user", "content": prompt},) if prompt else ()
    reward = verifier.score([Response(messages, response, {"answer": gold})])[0]
    assert reward.error is None
    return reward.value


@pytest.mark.parametrize(("gold", "answer", "right"), table(ALIKE))
def test_boxed_and_bare_alike(verifier: RewardWorker, gold: str, answer: str, right: int) -> None:
    found = [value(verifier, gold, response) for response in (rf"\boxed{{{answer}}}", answer)]
    assert found == [right, right]


@pytest.mark.parametrize(("gold", "answer", "right"), table(BOXED))
def test_boxed(verifier: RewardWorker, gold: str, answer: str, right: int) -> None:
    assert value(verifier, gold, rf"So it is \boxed{{{answer}}}.") == right


@pytest.mark.parametrize(("gold", "response", "right"), RESPONSES)
def test_responses(verifier: RewardWorker, gold: str, response: str, right: int) -> None:
    assert value(verifier, gold, response) == right


ASKED = r"He runs $2^3$ km, 60 miles at 60 mph, 3+4 apples are 50% of them. Is it $n(n+1)/2$?"


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        ("60", "60 miles", 1),
        ("60", r"60 \text{ mph}", 1),
        ("0.5", r"50\%", 1),
        (r"\frac{n(n+1)}{2}", "n(n+1)/2", 1),
        (r"\frac{n(n+1)}{2}", r"\frac{n(n+1)}{2}", 1),
        ("8", "2^3", 0),
        ("8", r"2^3 \text{ km}", 0),
        ("8", "2^3 km", 0),
        ("8", r"\approx 2^3", 0),
        ("8", "= 2^3", 0),
        ("8", r"2^3\%", 0),
        ("7", "3+4 apples", 0),
    ],
)
def test_units_make_no_repetition_and_hide_none(
    verifier: RewardWorker, gold: str, answer: str, right: int
) -> None:
    assert value(verifier, gold, rf"\boxed{{{answer}}}") == 1
    assert value(verifier, gold, rf"\boxed{{{answer}}}", ASKED) == right


QUESTION = r"Let $x>0$. Compute $\sum_{k=1}^{100} k$ and $\gcd(12, 18)$, factor $x^2-5x+6$, "
QUESTION += r"simplify $\frac{6}{4}$ and $\sqrt{8}$, $19x + 1 - 4x - 81$, write "
QUESTION += r"$\frac{3}{20}$ as a decimal, compare $\frac{3}{7}$ with $47^2 - 33^2$."


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        ("5050", r"\sum_{k=1}^{100} k", 0),
        ("5050", r"\sum_{k = 1}^{100}k", 0),
        ("5050", r"S = \sum_{k=1}^{100} k", 0),
        ("5050", r"\left(\sum_{k=1}^{100} k\right)", 0),
        ("5050", r"\sum_{k=1}^{100} k + 0", 0),
        ("5050", r"\sum_{k=1}^{100} k = 5050", 1),
        ("5050", r"\frac{100\cdot 101}{2}", 1),
        ("5050", "5050", 1),
        ("6", r"\operatorname{gcd}(12,18)", 0),
        ("6", "6", 1),
        ("1120", "47^2-33^2", 0),
        ("1120", r"47^{2} - 33^{2}", 0),
        ("1120", r"80 \cdot 14", 1),
        ("(x-2)(x-3)", "x^2-5x+6", 0),
        ("(x-2)(x-3)", "(x-3)(x-2)", 1),
        ("x^2 - 5x + 6", "x^2-5x+6", 1),
        (r"\frac32", r"\frac{6}{4}", 0),
        (r"\frac32", r"\frac{3}{2}", 1),
        (r"2\sqrt2", r"\sqrt{8}", 0),
        (r"\frac{3}{7}", r"\dfrac37", 1),
        ("0.15", r"\frac{3}{20}", 0),
        ("0.15", "0.15", 1),
        ("15x - 80", "19x + 1 - 4x - 81", 0),
        ("15x - 80", "15x-80", 1),
        ("12", "12", 1),
    ],
)
def test_a_repeated_question_is_no_answer(
    verifier: RewardWorker, gold: str, answer: str, right: int
) -> None:
    responses = (rf"\boxed{{{answer}}}", answer, f"The answer is ${answer}$.")
    found = [value(verifier, gold, response, QUESTION) for response in responses]
    assert found == [right] * 3
    assert value(verifier, gold, rf"\boxed{{{answer}}}") == 1.0  # no question, nothing to repeat


def test_the_reason_is_reported_and_the_check_can_be_switched_off() -> None:
    item = Response(
        ({"role": "user", "content": "What is $2^{10}$?"},), r"\boxed{2^{10}}", {"answer": "1024"}
    )
    for refuse, expected in ((True, 0.0), (False, 1.0)):
        verifier = math_worker(missing_tag="whole_response", refuse_restated=refuse)
        reward = verifier.score([item])[0]
        verifier.close()
        assert reward.value == expected
        assert reward.details.get("restated", False) is refuse


def test_known_faults(verifier: RewardWorker) -> None:
    cases = [
        row for row in published_rows("oracle/reward_faults_cases.jsonl") if row["domain"] == "math"
    ]
    wrong = [
        (row["answer"], row["response"])
        for row in cases
        if value(verifier, row["answer"], row["response"], row["prompt"]) != row["expected_reward"]
    ]
    assert len(cases) >= 20
    assert wrong == []
