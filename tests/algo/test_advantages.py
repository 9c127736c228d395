"""Group advantages: goldens of verl in float64, and what must hold for any rewards."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mgsrl.algo import advantages
from mgsrl.algo.advantages import estimator, with_advantages
from mgsrl.config.algo import AlgoConfig
from mgsrl.types import Prompt, Reward, Rollout, RolloutGroup, tell_apart
from tests.oracle import published_file

rewards = st.lists(
    st.floats(-100, 100, allow_subnormal=False).map(lambda x: round(x, 3)), min_size=2, max_size=16
)
maybe_rewards = st.lists(
    st.none() | st.floats(-100, 100).map(lambda x: round(x, 3)), min_size=1, max_size=16
)


def group_advantages(
    values: Sequence[float | None], *, normalize_std: bool = True
) -> tuple[float, ...]:
    config = AlgoConfig(normalize_std=normalize_std)
    group = make_group(list(values))
    return advantages.group_advantages(group.rewards, estimator("grpo"), config, group.rollouts)


def make_group(
    values: list[float | None], prompt_id: str = "p", domain: str = "math"
) -> RolloutGroup:
    rollouts = tuple(
        Rollout(f"{prompt_id}/{index}", (1, 2), (-0.1, -0.2), "text", "stop", 0)
        for index in range(len(values))
    )
    return RolloutGroup(
        Prompt(prompt_id, domain, (), (1,)), rollouts, tuple(Reward(value) for value in values)
    )


def golden_cases() -> list[Any]:
    cases = json.loads(published_file("oracle/grpo_numerics_verl.json").read_text())["advantage"]
    return [
        pytest.param(case, id=f"{case['case']}-std={case['norm_by_std']}")
        for case in cases
        if case["estimator"] == "grpo"
    ]


def both(case: dict[str, Any]) -> tuple[list[float], list[float]]:
    """Our advantages of a case and verl's."""
    groups: dict[str, list[int]] = {}
    for index, name in enumerate(case["group"]):
        groups.setdefault(name, []).append(index)
    ours, theirs = list[float](), list[float]()
    for members in groups.values():
        values = [case["rewards"][i] for i in members]
        ours += group_advantages(values, normalize_std=case["norm_by_std"])
        # A lone reward has nothing to be compared with: ours is 0, verl passes it through.
        alone = len(members) == 1
        theirs += [0.0] if alone else [case["advantages"][i][0] for i in members]
    return ours, theirs


@pytest.mark.parametrize("case", golden_cases())
def test_equals_verl_in_float64(case: dict[str, Any]) -> None:
    ours, theirs = both(case)
    assert ours == pytest.approx(theirs, abs=1e-12)


@given(values=rewards, shift=st.integers(-1000, 1000))
@settings(deadline=None)
def test_a_shift_changes_nothing(values: list[float], shift: int) -> None:
    assume(tell_apart(values) == tell_apart([v + shift for v in values]))
    for normalize_std in (True, False):
        plain = group_advantages(values, normalize_std=normalize_std)
        moved = group_advantages([v + shift for v in values], normalize_std=normalize_std)
        assert moved == pytest.approx(plain, abs=1e-6)


@given(values=rewards, scale=st.floats(0.01, 100))
@settings(deadline=None)
def test_the_scale_drops_out_with_std_and_stays_without(values: list[float], scale: float) -> None:
    assume(max(values) - min(values) > 0.1)
    scaled = [v * scale for v in values]
    # Not exactly: eps = 1e-6 stands beside the deviation.
    assert group_advantages(scaled) == pytest.approx(group_advantages(values), abs=1e-2)
    plain = group_advantages(values, normalize_std=False)
    expected = [a * scale for a in plain]
    assert group_advantages(scaled, normalize_std=False) == pytest.approx(expected, abs=1e-6)


@given(values=maybe_rewards)
@settings(deadline=None)
def test_abstentions_get_zero_and_leave_the_others_alone(values: list[float | None]) -> None:
    ours = group_advantages(values)
    scored = [v for v in values if v is not None]
    alone = iter(group_advantages(scored))
    assert ours == tuple(0.0 if v is None else next(alone) for v in values)
    assert sum(ours) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("values", [[0.1] * 3, [1.0] * 8, [0.7], [0.3, None], [None, None], []])
def test_groups_without_comparison_get_exactly_zero(values: list[float | None]) -> None:
    assert group_advantages(values) == (0.0,) * len(values)


@given(
    value=st.floats(-100, 100),
    noise=st.lists(st.floats(-4e-6, 4e-6), min_size=2, max_size=16),
    extra=st.floats(1e-2, 10),
)
@settings(deadline=None)
def test_rounding_is_no_signal(value: float, noise: list[float], extra: float) -> None:
    rounded = [value + each * max(1.0, abs(value)) for each in noise]
    for normalize_std in (True, False):
        assert group_advantages(rounded, normalize_std=normalize_std) == (0.0,) * len(noise)
    assert not make_group([*rounded, None]).is_live
    told_apart = make_group([*rounded, value + extra])
    assert told_apart.is_live
    assert group_advantages([*rounded, value + extra])[-1] > 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_rewards_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        group_advantages([0.0, bad])


def test_whitening_gives_every_domain_mean_zero_and_deviation_one() -> None:
    groups = {
        "math": [make_group([0, 1, 1, 0]), make_group([1, 1, 1, 1]), make_group([0, None, 0, 1])],
        "chat": [make_group([-30.0, 12.0, 4.0]), make_group([2.0, 2.5, 2.75])],
    }
    config = AlgoConfig(whiten_per_domain=True, normalize_std=False)
    for domain, whitened in with_advantages(groups, config).items():
        scored = torch.tensor(
            [
                a
                for group in whitened
                for a, r in zip(group.advantages, group.rewards)
                if not r.abstained
            ],
            dtype=torch.float64,
        )
        assert scored.mean().abs() < 1e-9, domain
        assert scored.std().item() == pytest.approx(1.0, abs=1e-5), domain
    math = with_advantages(groups, config)["math"]
    assert math[2].advantages[1] == 0.0
    assert math[1].advantages == (0.0,) * 4


def test_whitening_a_domain_without_signal_keeps_zeros() -> None:
    groups = {"math": [make_group([1, 1]), make_group([0, 0])]}
    result = with_advantages(groups, AlgoConfig(whiten_per_domain=True))
    assert [group.advantages for group in result["math"]] == [(0.0, 0.0), (0.0, 0.0)]


def test_input_is_left_alone_and_order_is_kept() -> None:
    groups = {"b": [make_group([0, 1], "x")], "a": [make_group([1, 0], "y")]}
    result = with_advantages(groups, AlgoConfig())
    assert list(result) == ["b", "a"]
    assert groups["b"][0].advantages == ()
    assert result["b"][0].advantages == pytest.approx((-0.70710578, 0.70710578))


def test_groups_that_were_not_scored_completely_are_refused() -> None:
    group = make_group([0, 1])
    unscored = RolloutGroup(group.prompt, group.rollouts)
    with pytest.raises(ValueError, match="one reward per rollout"):
        with_advantages({"math": [unscored]}, AlgoConfig())


@pytest.mark.parametrize(
    ("values", "live"), [([0, 1], True), ([1, 1], False), ([1, None], False), ([None], False)]
)
def test_live_groups_have_rewards_that_differ(values: list[float | None], live: bool) -> None:
    assert make_group(values).is_live is live


@given(batch=st.lists(maybe_rewards, min_size=1, max_size=5))
@settings(deadline=None)
def test_exactly_the_live_groups_have_advantages(batch: list[list[float | None]]) -> None:
    for whiten in (False, True):
        config = AlgoConfig(whiten_per_domain=whiten)
        groups = with_advantages({"math": [make_group(v) for v in batch]}, config)["math"]
        assert [group.is_live for group in groups] == [make_group(v).is_live for v in batch]
        for group in groups:
            assert any(group.advantages) is group.is_live


def test_rounding_does_not_give_whitened_dead_groups_a_say() -> None:
    """The mean of these live advantages is not 0 in floating point."""
    live = [make_group([0.1, 0.7, 0.3]), make_group([0.2, 0.9, 0.4])]
    result = with_advantages(
        {"math": [*live, make_group([1.0, 1.0])]}, AlgoConfig(whiten_per_domain=True)
    )
    assert result["math"][2].advantages == (0.0, 0.0)
    assert sum(a for group in result["math"] for a in group.advantages) != 0.0
