import math

import pytest

from mgsrl.evaluate.heldout import heldout_results
from mgsrl.obs.metrics import standard_error
from tests.obs.records import group


def test_prompt_is_the_unit_of_the_standard_error():
    groups = {
        "math": [
            group(index=0, values=(1.0, 1.0), lengths=(2, 4)),
            group(index=1, values=(0.0, 1.0), lengths=(6, 8)),
            group(index=2, values=(0.0, 0.0), lengths=(5, 5)),
        ]
    }
    (result,) = heldout_results(groups, step=30)
    # prompt means 1, 0.5, 0: mean 0.5, sample standard deviation 0.5
    assert result.mean == pytest.approx(0.5)
    assert result.standard_error == pytest.approx(0.5 / math.sqrt(3))
    assert (result.step, result.domain, result.n, result.num_samples) == (30, "math", 3, 6)
    assert result.mean_length == pytest.approx(5.0)
    assert result.format_ok == pytest.approx(0.5)
    assert result.abstained == 0.0


def test_repeating_every_sample_does_not_shrink_the_error():
    once = {"if": [group("if", i, (float(i % 2),), (0.0,), (3,)) for i in range(10)]}
    often = {"if": [group("if", i, (float(i % 2),) * 8, (0.0,) * 8, (3,) * 8) for i in range(10)]}
    assert heldout_results(once, 0)[0].standard_error == pytest.approx(
        heldout_results(often, 0)[0].standard_error
    )


def test_abstentions_are_left_out_and_counted():
    groups = {
        "chat": [group("chat", 0, (None, 0.5)), group("chat", 1, (None, None)), group("chat", 2)]
    }
    (result,) = heldout_results(groups, 0)
    assert result.n == 2
    assert result.mean == pytest.approx(0.5)
    assert result.abstained == pytest.approx(0.5)


def test_nothing_to_average_is_nan_not_zero():
    (result,) = heldout_results({"chat": [group("chat", 0, (None, None))]}, 0)
    assert math.isnan(result.mean)
    assert math.isnan(result.standard_error)
    assert result.n == 0
    assert math.isnan(standard_error([0.5]))
