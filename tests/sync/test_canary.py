"""The canary's arithmetic and judgement: errors, limits on both sides, names of stale weights."""

import math

import pytest

from mgsrl.errors import EngineMismatchError, InvariantError, StaleWeightsError
from mgsrl.sync.canary import (
    CanaryError,
    check_canary,
    compare_logprobs,
    error_limit,
    pick_sequences,
)
from mgsrl.sync.fingerprint import Proof

PROVEN = Proof((), (), 21)
PARTLY = Proof((), ("model.layers.0.mixer.conv1d.weight",), 20)


def test_sequences_are_spread_and_cut() -> None:
    candidates = [(index,) * 9 for index in range(10)]
    assert pick_sequences(candidates, 3, 12) == [(0,) * 4, (3,) * 4, (6,) * 4]
    assert pick_sequences(candidates, 2, 100) == [(0,) * 9, (5,) * 9]
    assert pick_sequences(candidates, 4, 3) == [(0,) * 2, (2,) * 2, (5,) * 2, (7,) * 2]
    assert pick_sequences([(1,), (2, 3)], 4) == [(2, 3)]
    assert pick_sequences([range(9), range(1, 9)], 2, 6) == [(6, 7, 8), (6, 7, 8)]
    assert pick_sequences([], 4) == []


def test_mean_and_max_leave_out_the_first_token() -> None:
    error = compare_logprobs([[9.0, -1.0, -2.0], [0.0, -3.0]], [[0.0, -1.5, -2.0], [0.0, -3.25]])
    assert error == CanaryError(mean=0.25, max=0.5, num_tokens=3)


def test_a_value_that_is_not_finite_is_an_infinite_error() -> None:
    assert compare_logprobs([[0.0, math.nan]], [[0.0, -1.0]]).mean == math.inf


def test_unequal_lengths_are_a_defect() -> None:
    with pytest.raises(InvariantError):
        compare_logprobs([[0.0, -1.0]], [[0.0]])
    with pytest.raises(InvariantError):
        compare_logprobs([[0.0]], [[0.0]])


def judge(
    mean: float,
    proof: Proof = PROVEN,
    *,
    rounds: bool = True,
    baseline: float | None = 0.035,
    threshold: float = 0.05,
) -> str | None:
    return check_canary(
        CanaryError(mean, 2 * mean, 99),
        proof,
        threshold=threshold,
        rounds=rounds,
        baseline=baseline,
        weight_version=3,
        worker="rollout worker 0",
    )


@pytest.mark.parametrize("baseline", [None, 1e-6, 0.01])
def test_float32_has_one_limit(baseline: float | None) -> None:
    assert judge(0.05, rounds=False, baseline=baseline) is None
    with pytest.raises(EngineMismatchError, match="different functions of the same weights"):
        judge(math.nextafter(0.05, 1), rounds=False, baseline=baseline)


def test_the_first_publish_in_bfloat16_sets_what_is_normal() -> None:
    assert judge(0.056, baseline=None) is None  # SmolLM2-135M, with every weight right
    assert judge(10 * 0.05, baseline=None) is None
    with pytest.raises(EngineMismatchError):
        judge(math.nextafter(10 * 0.05, 1), baseline=None)


def test_a_jump_in_bfloat16_is_an_alarm_and_rounding_if_all_weights_are_equal() -> None:
    limit = 3 * 0.035
    assert judge(limit) is None
    assert judge(limit, PARTLY) is None
    note = judge(math.nextafter(limit, 1))
    assert note is not None
    assert "all 21 parameters are equal bit for bit" in note
    with pytest.raises(EngineMismatchError, match=r"may be stale: .*conv1d\.weight"):
        judge(math.nextafter(limit, 1), PARTLY)
    assert judge(10 * 0.05) is not None
    with pytest.raises(EngineMismatchError):
        judge(math.nextafter(10 * 0.05, 1))


def test_below_the_threshold_nothing_is_a_jump() -> None:
    assert judge(0.05, PARTLY, baseline=1e-4) is None
    assert error_limit(0.05, rounds=True, baseline=1e-4) == 0.05


@pytest.mark.parametrize("mean", [0.0, 1e-9, 0.4, math.inf])
@pytest.mark.parametrize("rounds", [False, True])
def test_stale_weights_stop_the_run_however_small_the_error(mean: float, rounds: bool) -> None:
    proof = Proof(tuple(f"model.layers.{i}.mlp.down_proj.weight" for i in range(7)), (), 21)
    with pytest.raises(
        StaleWeightsError, match=r"version 3.*layers\.0\.mlp.*layers\.4\.mlp.* and 2 more"
    ):
        judge(mean, proof, rounds=rounds)


def test_a_value_that_is_not_finite_stops_the_run() -> None:
    for rounds in (False, True):
        for baseline in (None, 0.03):
            with pytest.raises(EngineMismatchError):
                judge(math.inf, rounds=rounds, baseline=baseline)
