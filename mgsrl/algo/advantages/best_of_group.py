"""`best_of_group`: only the best response of a group has an advantage (arXiv 2503.19595).

    A_best = (r_best - r_second) / (std + 1e-6),    0 for the others

The gradient of the expected maximum of the n samples (pass@n with 0/1 rewards): what the best one
adds to the maximum of the others. Equally good best ones add nothing, so a group with two correct
responses is silent. verl calls it `grpo_passk`; `algo.normalize_std=false` leaves the division
out, as the paper does. Left out: the maximum of k < n samples.
"""

from collections.abc import Sequence

from mgsrl.algo.advantages import EPS, mean_std
from mgsrl.config.algo import AlgoConfig


def best_of_group(rewards_G: Sequence[float], config: AlgoConfig) -> list[float]:
    """[G] the leave-one-out gain in the maximum, in standard deviations if wanted."""
    second, best = sorted(rewards_G)[-2:]
    scale = 1.0 / (mean_std(rewards_G)[1] + EPS) if config.normalize_std else 1.0
    return [(best - second) * scale if reward == best else 0.0 for reward in rewards_G]
