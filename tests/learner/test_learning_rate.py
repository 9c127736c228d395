"""The learning rate as a function of the step."""

import pytest

from mgsrl.config.learner import OptimizerConfig
from mgsrl.learner.learning_rate import learning_rate


def test_warm_up_then_constant() -> None:
    config = OptimizerConfig(lr=1.0, warmup_steps=4)
    assert [learning_rate(config, s, 10) for s in (0, 1, 3, 4, 9)] == [0.25, 0.5, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("schedule", "middle"), [("linear", 0.5), ("cosine", 0.5), ("constant", 1.0)]
)
def test_after_the_warm_up(schedule: str, middle: float) -> None:
    config = OptimizerConfig(lr=1.0, warmup_steps=2, schedule=schedule)
    assert learning_rate(config, 2, 12) == 1.0
    assert learning_rate(config, 7, 12) == pytest.approx(middle)
    if schedule != "constant":
        assert learning_rate(config, 12, 12) == pytest.approx(0.0)
        assert learning_rate(config, 99, 12) == pytest.approx(0.0)


def test_a_run_shorter_than_its_warm_up() -> None:
    config = OptimizerConfig(lr=1.0, warmup_steps=5, schedule="cosine")
    assert learning_rate(config, 2, 3) == pytest.approx(0.6)
