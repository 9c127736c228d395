"""Strategies as phases: equal batch sizes, exact shares, clear errors."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mgsrl.config import PhaseConfig, StrategyConfig
from mgsrl.errors import ConfigError
from mgsrl.training.schedule import curve, make_schedule

QUOTAS = {"math": 22, "chat": 21, "instruction_following": 21}


def test_together_is_one_phase_with_the_quotas() -> None:
    schedule = make_schedule(StrategyConfig(), QUOTAS, 30)
    assert len(schedule.phases) == 1
    assert schedule.phase(0).quotas == QUOTAS
    assert (schedule.phases[0].start, schedule.phases[0].end) == (0, 30)


def test_sequential_gives_each_domain_the_whole_batch_in_turn() -> None:
    schedule = make_schedule(StrategyConfig(sequential=True), QUOTAS, 31)
    assert [dict(phase.quotas) for phase in schedule.phases] == [
        {"math": 64},
        {"chat": 64},
        {"instruction_following": 64},
    ]
    assert [phase.end - phase.start for phase in schedule.phases] == [11, 10, 10]
    assert schedule.phase(10).quotas == {"math": 64}
    assert schedule.phase(11).quotas == {"chat": 64}
    assert schedule.phase(1000).quotas == {"instruction_following": 64}


def test_domain_order_picks_and_orders() -> None:
    strategy = StrategyConfig(sequential=True, domain_order=["chat", "math"])
    phases = make_schedule(strategy, QUOTAS, 10).phases
    assert [list(phase.quotas) for phase in phases] == [["chat"], ["math"]]


def test_explicit_phases_share_what_is_left() -> None:
    strategy = StrategyConfig(
        phases=[
            PhaseConfig(domains=["math"], steps=4),
            PhaseConfig(domains=["chat", "math"], move_reference=True),
            PhaseConfig(domains=["chat"], reset_optimizer=True),
        ]
    )
    phases = make_schedule(strategy, QUOTAS, 10).phases
    assert [(phase.start, phase.end) for phase in phases] == [(0, 4), (4, 7), (7, 10)]
    assert phases[1].move_reference
    assert phases[2].reset_optimizer


def test_a_phase_without_steps_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no step"):
        make_schedule(StrategyConfig(sequential=True), QUOTAS, 2)


@given(
    quotas=st.lists(st.integers(1, 50), min_size=1, max_size=8),
    steps=st.integers(8, 300),
    sequential=st.booleans(),
)
def test_phases_tile_the_run_and_keep_the_batch_size(
    quotas: list[int], steps: int, sequential: bool
) -> None:
    by_name = {f"d{index}": quota for index, quota in enumerate(quotas)}
    phases = make_schedule(StrategyConfig(sequential=sequential), by_name, steps).phases
    assert phases[0].start == 0
    assert phases[-1].end == steps
    assert all(a.end == b.start for a, b in itertools.pairwise(phases))
    assert all(sum(phase.quotas.values()) == sum(quotas) for phase in phases)


def test_weights_that_do_not_divide_a_step_are_right_over_time() -> None:
    shares = {"a": 1.0, "b": 1.0, "c": 1.0}
    schedule = make_schedule(StrategyConfig(), shares, 30, total=64)
    counts = [schedule.phase(step).quotas for step in range(30)]
    assert all(sum(quotas.values()) == 64 for quotas in counts)
    assert {name: sum(quotas[name] for quotas in counts) for name in shares} == dict.fromkeys(
        shares, 640
    )


def test_a_curriculum_moves_prompts_between_domains() -> None:
    curves = {"chat": curve(1.0, [[0, 0.0], [4, 0.5], [8, 1.0]], "steps")}
    schedule = make_schedule(StrategyConfig(), {"math": 8, "chat": 8}, 12, curves=curves)
    assert schedule.phase(3).quotas == {"math": 16}
    assert schedule.phase(8).quotas == {"math": 8, "chat": 8}
    assert sum(schedule.phase(step).quotas["chat"] for step in (4, 5, 6)) == 16  # a third
    assert schedule.domains == ("math", "chat")
    assert schedule.largest() == {"math": 16, "chat": 8}


@pytest.mark.parametrize(
    ("kind", "values"),
    [("steps", [2, 2, 2, 2, 4, 6, 6]), ("linear", [2, 2, 2, 3, 4, 6, 6])],
)
def test_curves(kind: str, values: list[float]) -> None:
    value = curve(2.0, [[2, 1.0], [4, 2.0], [5, 3.0]], kind)
    assert [value(step) for step in range(7)] == values
    assert curve(0.5, [], kind)(9) == 0.5


def test_a_domain_of_weight_0_takes_no_part() -> None:
    curves = {"chat": curve(0.0, [], "steps")}
    schedule = make_schedule(StrategyConfig(), QUOTAS, 5, curves=curves)
    assert schedule.domains == ("math", "instruction_following")
    assert sum(schedule.phase(0).quotas.values()) == 64
    with pytest.raises(ConfigError, match="Step 0 would train on no domain"):
        make_schedule(StrategyConfig(), {"chat": 3}, 5, curves=curves)


@given(step=st.integers(0, 59), more=st.integers(0, 50))
def test_quotas_follow_from_the_step_however_long_the_run(step: int, more: int) -> None:
    curves = {"a": curve(1.0, [[0, 1.0], [40, 0.2]], "linear")}
    runs = [
        make_schedule(StrategyConfig(), {"a": 3, "b": 2, "c": 2}, steps, curves=curves)
        for steps in (60, 60 + more)
    ]
    assert runs[0].phase(step).quotas == runs[1].phase(step).quotas
    assert sum(runs[0].phase(step).quotas.values()) == 7
