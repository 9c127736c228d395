"""Seeds of steps."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from mgsrl.config.typed import LARGEST
from mgsrl.learner.spec import step_seed


@given(st.integers(0, LARGEST), st.integers(0, 10**6))
def test_every_seed_of_a_run_gives_a_generator_for_every_step(seed: int, step: int) -> None:
    torch.Generator().manual_seed(step_seed(seed, step))
    assert step_seed(seed, step) != step_seed(seed, step + 1)


def test_small_seeds_keep_their_numbers() -> None:
    assert step_seed(7, 12) == 7 * 1_000_003 + 12
