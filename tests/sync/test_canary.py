"""The canary's arithmetic: errors, thresholds, and the name of the stale module."""

import math

import pytest
import torch

from mgsrl.errors import InvariantError, StaleWeightsError
from mgsrl.sync.canary import (
    CanaryError,
    check_canary,
    compare_logprobs,
    compare_probes,
    pick_sequences,
    probe_parameter,
    probe_vector,
)


def test_probe_vector_is_the_same_everywhere() -> None:
    assert torch.equal(probe_vector(64, 3), probe_vector(64, 3))
    assert not torch.equal(probe_vector(64, 3), probe_vector(64, 4))
    # Pinned: learner and engine may run different builds of torch.
    assert probe_vector(3, 0).tolist() == pytest.approx([1.540996, -0.293429, -2.178789], abs=1e-5)


def test_probe_of_matrices_and_vectors() -> None:
    matrix = torch.randn(5, 8)
    assert torch.allclose(probe_parameter(matrix, 1), matrix @ probe_vector(8, 1))
    vector = torch.randn(4, dtype=torch.bfloat16)
    assert torch.equal(probe_parameter(vector, 1), vector.float())


def test_sequences_are_spread_and_cut() -> None:
    candidates = [(index,) * 9 for index in range(10)]
    assert pick_sequences(candidates, 3, 4) == [(0,) * 4, (3,) * 4, (6,) * 4]
    assert pick_sequences([(1,), (2, 3)], 4) == [(2, 3)]
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


def probes(**changes: float) -> dict[str, torch.Tensor]:
    names = ["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "model.norm.weight"]
    return {name: torch.ones(4) * changes.get(name, 1.0) for name in names}


def test_below_the_threshold_nothing_is_probed() -> None:
    def never() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        raise AssertionError("probed")

    check_canary(
        CanaryError(0.01, 0.5, 9), threshold=0.02, weight_version=1, worker="w", probes=never
    )


def test_the_stale_module_is_named() -> None:
    engine = probes() | {"model.layers.0.mlp.up_proj.weight": torch.full((4,), 1.5)}
    with pytest.raises(StaleWeightsError, match=r"version 3.*mlp\.up_proj\.weight.*error 0\.5"):
        check_canary(
            CanaryError(0.4, 0.5, 9),
            threshold=0.02,
            weight_version=3,
            worker="rollout worker 0",
            probes=lambda: (engine, probes()),
        )


def test_a_stale_head_is_named_though_the_learner_ties_it() -> None:
    engine = probes() | {"lm_head.weight": torch.tensor([1.0, 1.0, 1.0, 2.0, 9.0])}  # padded
    worst = compare_probes(engine, probes())[0]
    assert (worst.name, worst.relative) == ("lm_head.weight", 0.5)


def test_when_all_modules_agree_the_message_says_so() -> None:
    with pytest.raises(StaleWeightsError, match="difference is elsewhere"):
        check_canary(
            CanaryError(math.inf, math.inf, 9),
            threshold=0.02,
            weight_version=3,
            worker="w",
            probes=lambda: (probes(), probes()),
        )
