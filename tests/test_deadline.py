"""Slow tests that have not begun when their time is over are skipped; others are not."""

import time

import pytest

from tests.deadline import VARIABLE

pytest_plugins = ["pytester"]
TESTS = """
import pytest

@pytest.mark.slow
def test_slow():
    pass

def test_quick():
    pass
"""
CONFTEST = """
from tests import deadline

def pytest_runtest_setup(item):
    deadline.skip_when_over(item)
"""


@pytest.mark.parametrize(("left_s", "skipped"), [(-1, 1), (600, 0), (None, 0)])
def test_what_has_not_begun_in_time_is_skipped(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, left_s: int | None, skipped: int
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    if left_s is not None:
        monkeypatch.setenv(VARIABLE, str(time.time() + left_s))
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-W", "ignore")
    result.assert_outcomes(passed=2 - skipped, skipped=skipped)
