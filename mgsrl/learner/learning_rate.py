"""Learning rate as a pure function of the step: linear warm-up, then constant, linear or cosine.

Left out: scheduler objects. A function of the step needs no state in checkpoints.
"""

import math

from mgsrl.config.learner import OptimizerConfig


def learning_rate(config: OptimizerConfig, step: int, num_steps: int) -> float:
    """The learning rate of step `step` (from 0) of a run of `num_steps`.

    The warm-up goes from `lr / warmup_steps` to `lr` in `warmup_steps` steps. After it,
    `linear` and `cosine` fall from `lr` and would reach 0 at step `num_steps`.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    span = max(1, num_steps - config.warmup_steps)
    progress = min(1.0, (step - config.warmup_steps) / span)
    if config.schedule == "linear":
        return config.lr * (1.0 - progress)
    if config.schedule == "cosine":
        return config.lr * 0.5 * (1.0 + math.cos(math.pi * progress))
    return config.lr
