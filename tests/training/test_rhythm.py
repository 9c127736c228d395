"""Every recipe saves often enough that a crash costs an hour, and saves what it evaluates."""

from functools import cache

import pytest

from mgsrl.cluster.hardware import GPUS, Cores, Hardware
from mgsrl.config import Config
from mgsrl.config.compose import compose_config, list_choices
from mgsrl.training.estimate import estimate
from mgsrl.training.forecast import Lengths, forecast

RECIPES = list_choices("experiment")
HOUR_S = 3600.0
CORES = Cores(8, 400.0, 20.0)
"""Fewer than beside any GPU of a data centre: rewards on the CPU take their time."""
SLOWER = 2.0
"""A run may be so much slower than its forecast."""


@cache
def _recipe(name: str) -> Config:
    # One that has to be fetched first is stood in for by a larger one.
    larger = ["policy.path=Qwen/Qwen3-0.6B"] if name.startswith("smollm2") else []
    return compose_config([f"experiment={name}", *larger])


@pytest.mark.parametrize("name", RECIPES)
def test_a_crash_costs_an_hour_at_most(name: str) -> None:
    config = _recipe(name)
    hardware = Hardware(1, 8, GPUS["H100-80GB"], GPUS["H100-80GB"].gib, given=True)
    found = estimate(config, hardware.num_gpus, hardware.gib)
    expected = forecast(config, found, hardware, CORES, Lengths())
    assert expected is not None
    every = config.checkpoint.every or config.train.num_steps
    lost_s = min(every, config.train.num_steps) * SLOWER * expected.step_s
    assert lost_s <= HOUR_S, f"{every} steps of {expected.step_s:.0f} s"


@pytest.mark.parametrize("name", RECIPES)
def test_every_evaluation_has_its_checkpoint(name: str) -> None:
    config = _recipe(name)
    evaluate, save = config.evaluate.every, config.checkpoint.every
    if evaluate and config.evaluate.prompts_per_domain:
        assert save
        assert evaluate % save == 0
        assert evaluate <= config.train.num_steps
