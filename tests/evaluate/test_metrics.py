"""Every metric against brute force, and the intervals against what they promise."""

import math
import random
from collections import Counter
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgsrl.evaluate.metrics import (
    average,
    ks,
    length_controlled_win_rate,
    maj_at_k,
    normalise_answer,
    pass_at_k,
    proportion,
    ratio,
    win,
)

verdicts = st.lists(st.booleans(), min_size=1, max_size=8)


@given(verdicts, st.data())
def test_pass_at_k_is_the_mean_over_all_subsets(correct: list[bool], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(correct)))
    subsets = list(combinations(correct, k))
    expected = sum(any(subset) for subset in subsets) / len(subsets)
    assert pass_at_k(len(correct), sum(correct), k) == pytest.approx(expected)


def test_pass_at_k_of_many_samples_is_stable() -> None:
    # 1 - prod_{i=9999-c+1..} form, computed in logarithms
    logs = sum(math.log1p(-100 / i) for i in range(10_000 - 3 + 1, 10_001))
    assert pass_at_k(10_000, 3, 100) == pytest.approx(-math.expm1(logs))


@given(st.integers(1, 40), st.data())
def test_pass_at_k_grows_with_k_from_the_mean(n: int, data: st.DataObject) -> None:
    correct = data.draw(st.integers(0, n))
    values = [pass_at_k(n, correct, k) for k in range(1, n + 1)]
    assert values[0] == pytest.approx(correct / n)
    assert all(b >= a - 1e-12 for a, b in pairwise(values))
    assert values[-1] == float(correct > 0)


def brute_majority(answers: list[str | None], right: str, k: int) -> float:
    total = []
    for subset in combinations(answers, k):
        votes = Counter(answer for answer in subset if answer is not None)
        best = max(votes.values(), default=0)
        top = [answer for answer, count in votes.items() if count == best]
        total.append(1 / len(top) if right in top else 0.0)
    return sum(total) / len(total)


@given(st.lists(st.sampled_from(["4", "5", "6", None]), min_size=1, max_size=8), st.data())
@settings(max_examples=200)
def test_maj_at_k_is_the_mean_over_all_subsets(
    answers: list[str | None], data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, len(answers)))
    correct = [answer == "4" for answer in answers]
    assert maj_at_k(answers, correct, k) == pytest.approx(brute_majority(answers, "4", k))


def test_correct_answers_vote_together_however_written() -> None:
    answers = ["1/2", "0.5", "7", "7", "\\frac12"]
    assert maj_at_k(answers, [True, True, False, False, True], 5) == 1.0
    assert maj_at_k(["a", "b"], [True, False], 2) == 0.5  # a tie
    assert maj_at_k([None, None], [False, False], 2) == 0.0
    # a correct answer that the verifier accepts without extracting one has a vote
    assert maj_at_k([None], [True], 1) == 1.0


def test_maj_at_64_takes_no_time() -> None:
    random.seed(0)
    answers = [str(random.randrange(40)) for _ in range(64)]
    for right in sorted({*answers}):  # all 64 vote, and a tie is shared
        most = max(map(answers.count, answers))
        winners = {answer for answer in answers if answers.count(answer) == most}
        share = (right in winners) / len(winners)
        assert maj_at_k(answers, [a == right for a in answers], 64) == pytest.approx(share)


@pytest.mark.parametrize("k", [0, 3])
def test_k_must_fit(k: int) -> None:
    with pytest.raises(ValueError, match="between 1 and the 2"):
        pass_at_k(2, 1, k)


def test_ks() -> None:
    assert [ks(n) for n in (1, 2, 5, 8)] == [[1], [1, 2], [1, 2, 4, 5], [1, 2, 4, 8]]


@pytest.mark.parametrize(
    ("answer", "spelling"),
    [
        *[("7.0", "7"), (" 1,000 ", "1000"), ("$18$", "18"), ("X + 1", "x+1")],
        *[("", None), (None, None), ("0.00", "0"), ("1e3", "1000"), ("nan", "nan")],
        *[("1e999999", "1e999999"), ("1e9999999", "1e9999999"), ("inf", "inf"), ("sNaN", "snan")],
    ],
)
def test_normalise_answer(answer: str | None, spelling: str | None) -> None:
    assert normalise_answer(answer) == spelling


def test_all_wrong_still_has_an_interval() -> None:
    estimate = proportion([0.0] * 200)
    # Wilson: z^2 / (n + z^2)
    assert (estimate.value, estimate.low) == (0.0, 0.0)
    assert estimate.high == pytest.approx(3.8415 / 203.8415, rel=1e-3)
    assert proportion([1.0] * 200).low == pytest.approx(1 - estimate.high)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_intervals_hold_the_value_and_stay_in_range(values: list[float]) -> None:
    estimate = proportion(values)
    assert 0 <= estimate.low <= estimate.value + 1e-9
    assert estimate.value - 1e-9 <= estimate.high <= 1


def test_intervals_cover_in_95_of_100_samples() -> None:
    """A prompt's chance of being solved varies, each is sampled four times."""
    rng = random.Random(1)
    covered = {"proportion": 0, "ratio": 0, "average": 0}
    trials = 600
    for _ in range(trials):
        chances = [rng.betavariate(1, 3) for _ in range(80)]
        solved = [[float(rng.random() < p) for _ in range(4)] for p in chances]
        sizes = [float(rng.randint(1, 3)) for _ in chances]
        parts = [sum(rng.random() < p for _ in range(int(s))) for p, s in zip(chances, sizes)]
        estimates = {
            "proportion": proportion([sum(s) / 4 for s in solved]),
            "ratio": ratio(parts, sizes),
            "average": average([sum(s) / 4 for s in solved]),
        }
        for name, estimate in estimates.items():
            covered[name] += estimate.low <= 0.25 <= estimate.high
    for name, count in covered.items():
        assert 0.92 <= count / trials <= 0.975, (name, count / trials)


def test_ratio_of_equal_sizes_is_the_proportion() -> None:
    values = [0.0, 1.0, 0.5, 0.5, 1.0]
    same = ratio([2 * value for value in values], [2.0] * 5)
    expected = proportion(values)
    for field in ("value", "low", "high", "n"):
        assert getattr(same, field) == pytest.approx(getattr(expected, field))


def test_nothing_to_estimate_from_is_nan() -> None:
    for estimate in (
        proportion([]),
        ratio([], []),
        average([]),
        length_controlled_win_rate([], []),
    ):
        assert math.isnan(estimate.value)
        assert estimate.n == 0


def test_win() -> None:
    assert [win(1.0, 0.0), win(0.0, 1.0), win(2.0, 2.0)] == [1.0, 0.0, 0.5]


def test_length_control_recovers_the_quality() -> None:
    """Verdicts drawn from the model itself: wins at equal length 0.4, but long answers win."""
    rng = random.Random(0)
    differences = [rng.gauss(300, 400) for _ in range(4000)]
    deviation = 400
    wins = [
        float(
            rng.random() < 1 / (1 + math.exp(-(math.log(0.4 / 0.6) + 2 * math.tanh(d / deviation))))
        )
        for d in differences
    ]
    raw, controlled = proportion(wins), length_controlled_win_rate(wins, differences)
    assert raw.low > 0.55
    assert controlled.low < 0.4 < controlled.high
    assert controlled.high - controlled.low < 0.07


def test_length_control_without_length_differences_is_the_win_rate() -> None:
    wins = [1.0, 0.0, 0.5, 1.0, 1.0, 0.0, 1.0, 1.0]
    assert length_controlled_win_rate(wins, [5.0] * 8).value == pytest.approx(
        sum(wins) / 8, abs=2e-3
    )


def test_length_control_when_one_side_wins_all() -> None:
    estimate = length_controlled_win_rate([1.0] * 50, [float(i) for i in range(50)])
    assert 0.95 < estimate.value <= 1
    assert math.isfinite(estimate.low)


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.integers(-500, 500)), min_size=2))
def test_length_control_is_symmetric(pairs: list[tuple[float, int]]) -> None:
    wins, differences = [w for w, _ in pairs], [float(d) for _, d in pairs]
    here = length_controlled_win_rate(wins, differences)
    there = length_controlled_win_rate([1 - w for w in wins], [-d for d in differences])
    assert here.value == pytest.approx(1 - there.value, abs=1e-6)
    assert 0 <= here.low <= here.high <= 1
