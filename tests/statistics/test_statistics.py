"""Against tables of textbooks, worked examples, counting and simulation; and what always holds."""

import doctest
import math
from importlib import import_module
from itertools import combinations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mgsrl.statistics.power import MOST_SEEDS, detectable, paired_power, seeds_needed
from mgsrl.statistics.seeds import difference, estimate, holm, sign_flip_p

SLEEP = (
    (0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0),
    (*(1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4),),
)
"""Student (1908): hours of sleep gained by ten patients under two drugs."""
values = st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=8)


@pytest.mark.parametrize("name", ["seeds", "power"])
def test_examples_of_the_pages_hold(name: str) -> None:
    found = doctest.testmod(import_module(f"mgsrl.statistics.{name}"))
    assert found.attempted
    assert not found.failed


def test_students_own_example() -> None:
    """The paired test of his sleep data: t = -4.0621, 9 df, p = 0.00283, and the 95 % interval that
    R's documentation of `t.test` prints."""
    one, two = (dict(enumerate(each)) for each in SLEEP)
    found = difference(one, two)
    assert found.mean / (found.sd / math.sqrt(found.n)) == pytest.approx(-4.0621, abs=1e-4)
    assert found.p == pytest.approx(0.002833, abs=1e-6)
    assert (found.low, found.high) == pytest.approx((-2.4598858, -0.7001142), abs=1e-6)


def test_flips_are_counted() -> None:
    """Fisher's example (1935, Design of Experiments, 21): Darwin's 15 pairs of maize; of the 32,768
    ways 1,726 give a total at least as far from 0 as the 314 that was found."""
    maize = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
    assert sum(maize) == 314
    assert sign_flip_p(maize) == pytest.approx(1726 / 32768, abs=1e-9)
    assert sign_flip_p([1.0, 2.0, 3.0]) == 2 / 8
    assert sign_flip_p([0.0, 0.0]) == 1.0


@given(st.lists(st.integers(-10, 10), min_size=2, max_size=7))
@settings(max_examples=60, deadline=None)
def test_flips_agree_with_choosing_subsets(found: list[int]) -> None:
    total, n = sum(found), len(found)
    sums = [
        total - 2 * sum(found[i] for i in chosen)
        for size in range(n + 1)
        for chosen in combinations(range(n), size)
    ]
    expected = sum(abs(s) >= abs(total) for s in sums) / 2**n
    assert sign_flip_p(found) == pytest.approx(expected)


@given(values)
@settings(max_examples=60, deadline=None)
def test_intervals_move_and_scale_with_the_values(found: list[float]) -> None:
    e = estimate(found)
    moved = estimate([2 * v + 3 for v in found])
    assert e.low <= e.mean <= e.high
    for name in ("mean", "low", "high"):
        assert getattr(moved, name) == pytest.approx(2 * getattr(e, name) + 3, abs=1e-6)
    assert estimate([*found, math.nan]) == e


def test_one_value_has_no_interval_and_none_no_mean() -> None:
    assert estimate([0.5]).mean == 0.5
    assert math.isnan(estimate([0.5]).low)
    assert estimate([]).n == 0
    assert math.isnan(estimate([math.nan]).mean)


@given(values, st.randoms())
@settings(max_examples=60, deadline=None)
def test_differences_are_paired_by_seed(found: list[float], random) -> None:
    mine = dict(enumerate(found))
    order = list(mine)
    random.shuffle(order)
    others = {seed: mine[seed] - 1.5 - 0.1 * seed for seed in order} | {99: 7.0}
    there, back = difference(mine, others), difference(others, mine)
    assert there.n == len(found)
    assert there.mean == pytest.approx(1.5 + 0.05 * (len(found) - 1), abs=1e-4)
    assert back.mean == pytest.approx(-there.mean)
    assert back.p == pytest.approx(there.p)


def test_equal_differences() -> None:
    same = {0: 0.25, 1: 0.5}
    assert difference(same, same).p == 1.0
    shifted = difference(same, {0: 0.0, 1: 0.25})
    assert (shifted.mean, shifted.sd, shifted.p_flip) == (0.25, 0.0, 0.5)
    assert math.isnan(shifted.p)  # nothing varies: as little as one pair
    assert math.isnan(shifted.low)
    assert math.isnan(difference(same, {0: 0.0}).p)
    assert difference(same, {}).n == 0


def test_rounding_is_no_difference() -> None:
    sums = dict.fromkeys(range(3), 0.1 + 0.2)
    found = difference(sums, dict.fromkeys(range(3), 0.3))
    assert (found.mean, found.p) == (0.0, 1.0)
    steps = {0: 0.5, 1: 0.6, 2: 0.7}
    found = difference(steps, {seed: value - 0.1 for seed, value in steps.items()})
    assert found.sd == 0
    assert math.isnan(found.p)


def test_intervals_cover_what_they_should() -> None:
    rng = np.random.default_rng(7)
    draws = rng.normal(0.3, 2.0, (4000, 4))
    inside = [e.low <= 0.3 <= e.high for e in map(estimate, draws.tolist())]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.012)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@settings(max_examples=100, deadline=None)
def test_holm_rejects_as_the_steps_say(found: list[float]) -> None:
    """Step down: the smallest at 0.05 / m, the next at 0.05 / (m - 1), ... until one is kept."""
    assume(all(abs(p * k - 0.05) > 1e-9 for p in found for k in range(1, 13)))
    corrected = holm(found)
    order = sorted(range(len(found)), key=lambda i: found[i])
    rejected = set()
    for rank, i in enumerate(order):
        if found[i] > 0.05 / (len(found) - rank):
            break
        rejected.add(i)
    assert {i for i, p in enumerate(corrected) if p <= 0.05} == rejected
    assert all(c >= p for c, p in zip(corrected, found, strict=True))


def test_holm_leaves_out_what_is_unknown() -> None:
    assert holm([0.01, math.nan, 0.04])[::2] == [0.02, 0.04]
    assert math.isnan(holm([math.nan])[0])
    assert holm([]) == []


def test_seeds_are_those_of_the_tables_of_power() -> None:
    """Cohen (1988), and G*Power for a difference of two dependent means (two-sided 0.05, 0.8)."""
    assert [seeds_needed(d, 1.0) for d in (0.2, 0.5, 0.8, 1.0)] == [199, 34, 15, 10]
    assert seeds_needed(0.3, 0.6) == 34
    assert seeds_needed(0.0, 1.0) is None
    assert seeds_needed(1e-6, 1.0) is None
    assert seeds_needed(0.1, math.nan) is None
    assert seeds_needed(0.1, 0.0) is None
    assert math.isnan(detectable(3, 0.0))


def test_power_is_how_often_the_test_finds_it() -> None:
    rng = np.random.default_rng(3)
    draws = rng.normal(1.2, 1.0, (4000, 5))
    t = draws.mean(1) / (draws.std(1, ddof=1) / math.sqrt(5))
    assert np.mean(np.abs(t) > 2.7764) == pytest.approx(paired_power(5, 1.2), abs=0.025)
    assert paired_power(5, 0.0) == pytest.approx(0.05, abs=1e-6)


@pytest.mark.parametrize("n", [2, 3, 8, 40])
def test_what_is_detectable_needs_so_many_seeds(n: int) -> None:
    assert paired_power(n, detectable(n, 1.0)) == pytest.approx(0.8, abs=1e-3)
    assert seeds_needed(detectable(n, 0.3) * 1.001, 0.3) == n
    assert math.isnan(detectable(1, 1.0))
    assert MOST_SEEDS > 40
