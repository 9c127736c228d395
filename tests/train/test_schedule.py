"""Strategies as phases: equal batch sizes, exact shares, clear errors."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mgsrl.config import PhaseConfig, StrategyConfig
from mgsrl.errors import ConfigError
from mgsrl.train.schedule import make_schedule

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
